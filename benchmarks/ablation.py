"""What is each stage worth, and each family? On every source, beside the rows that every table holds.

    python -m benchmarks.ablation [inner excerpts clips cl1b lv2 demo] [--out FOLDER]

Without names all are run, about an hour. Real recordings are looked for in ``../shared/audio``, the plug-in needs
``lv2apply`` (see ``benchmarks.lv2_device``); what isn't there is left out, and said so. FOLDER receives
``ablation.csv``, which grows by every trial that is done; rows of data that aren't run this time stay. It holds the
columns of ``scores.csv`` and, for every row, the data, the stages, what they were fitted to and the share of the
parameters that the fit calls identifiable at the settings it saw.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import ddsp_la2a as la
from baselines.identity import Identity
from baselines.output_filter import Filtered
from baselines.published import Published
from baselines.registry import FILTER_TAPS
from benchmarks import lv2_device, recordings
from benchmarks.recordings import Trial
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.data.frame import positions_of
from ddsp_la2a.model.stages import PLAIN, CellStages, Stages

STAGES = {
    "none": PLAIN,
    "filter": Stages(True, False, False, False),
    "slow": Stages(False, True, False, False),
    "filter + slow": Stages(True, True, False, False),
    "filter + slow + shelf": Stages(True, True, True, False),
    "filter + slow + feedback": Stages(True, True, False, True),
    "filter + slow + shelf + feedback": Stages(True, True, True, True),
    "optical cell": CellStages(),
    "optical cell without traps": CellStages(traps=False),
}

MEASURES = ("none", "filter + slow")
"""Stages of what a guess at an unseen setting is measured against."""


class AtOneSetting:
    """A model of the LA-2A at one setting, whatever the controls of the unit say."""

    def __init__(self, model: Any, **setting: float) -> None:
        self._model, self._setting = model, setting
        self.info: dict[str, Any] = {}

    def process(self, audio: Any, sample_rate: float, **_: Any) -> Any:
        """The model's output at that setting."""
        return self._model.process(audio, sample_rate, **self._setting)


class BestPublished:
    """For each setting of the training rows, the one of the 26 published settings that fits it best, with a filter."""

    def __init__(self, trial: Trial, taps: int) -> None:
        train, names = trial.frame[trial.frame["split"] == "train"], [c.name for c in trial.controls]
        published = la.load("published")
        self._chosen: dict[tuple[float, ...], Any] = {}
        for setting, rows in train.groupby(names):
            candidates = {
                f"{switch:g}, {knob:g}": Filtered(
                    AtOneSetting(Published(), compress_or_limit=int(switch), peak_reduction=float(knob)),
                    rows,
                    taps,
                    trial.controls,
                )
                for switch, knob in published.card.settings.tolist()
            }
            scored = la.evaluate(candidates, rows, split="train", controls=trial.controls)
            self._chosen[setting] = candidates[scored.groupby("model")["esr_dc_filtered"].mean().idxmin()]
        self.info: dict[str, Any] = {"parameters": (6 + taps) * len(self._chosen)}

    def process(self, audio: Any, sample_rate: float, **positions: Any) -> Any:
        """Output at the chosen setting, through its filter."""
        return self._chosen[tuple(positions.values())].process(audio, sample_rate, **positions)


def references(trial: Trial) -> dict[str, Any]:
    """The rows that every table holds."""
    train, controls = trial.frame[trial.frame["split"] == "train"], trial.controls
    models: dict[str, Any] = {
        "identity": Identity(),
        "identity + filter": Filtered(Identity(), train, FILTER_TAPS, controls),
    }
    if controls == LA2A_CONTROLS:
        models["published + gain"] = Filtered(Published(), train, 1)
        models["published + filter"] = Filtered(Published(), train, FILTER_TAPS)
    elif trial.data == "clips":
        models["published + gain"] = BestPublished(trial, 1)
        models["published + filter"] = BestPublished(trial, FILTER_TAPS)
    return models


def identifiable_share(model: la.GreyBox, trial: Trial) -> float:
    """Share of the parameters that the fit calls identifiable at the settings it was fitted to."""
    shares = []
    for row in trial.frame[trial.frame["split"] == "train"].to_dict("records"):
        curves = model.curves(**positions_of(row, trial.controls))
        shares.append(curves.filter(like="_identifiable").to_numpy(dtype=float).mean())
    return float(np.mean(shares))


def run(trial: Trial) -> pd.DataFrame:
    """Scores of all rows on one trial."""
    split = "train" if trial.protocol == "in-sample" else "test"
    rows = [la.evaluate(references(trial), trial.frame, split=split, protocol=trial.protocol, controls=trial.controls)]

    def add(name: str, frame: pd.DataFrame, stages: str, per_setting: bool) -> None:
        family = STAGES[stages].family
        fitted = la.fit(frame, family=family, controls=trial.controls, per_setting=per_setting, stages=STAGES[stages])
        scored = la.evaluate(
            {f"{stages}, {name}": fitted.model},
            trial.frame,
            split=split,
            protocol=trial.protocol,
            controls=trial.controls,
        )
        shown = replace(trial, frame=frame)
        rows.append(scored.assign(stages=stages, fitted=name, identifiable=identifiable_share(fitted.model, shown)))
        print(f"  {stages}, {name}: {100 * scored['esr_dc_filtered'].mean():.4f} %", flush=True)

    guessed = trial.protocol == "unseen-knob"
    knobs = [control for control in trial.controls if control.kind == "continuous"]
    for stages, which in STAGES.items():
        if not guessed:
            add("per setting", trial.frame, stages, per_setting=True)
        if trial.joint and (len(knobs) == 1 or isinstance(which, Stages)):
            add("joint", trial.frame, stages, per_setting=False)
    for stages in MEASURES if guessed else ():
        add("nearest setting", trial.frame, stages, per_setting=True)
        if trial.there is not None:
            add("fitted there", trial.there, stages, per_setting=True)
        scored_itself = trial.frame[trial.frame["split"] == "test"].assign(split="train")
        add("fitted to the scored audio", scored_itself, stages, per_setting=True)
    return pd.concat(rows, ignore_index=True).assign(data=trial.data)


def summarised(scored: pd.DataFrame) -> pd.DataFrame:
    """A line a data set, protocol and model: per cent, numbers fitted, seconds, share identifiable."""
    table = scored.groupby(["source", "data", "protocol", "model"], sort=False).agg(
        recordings=("esr_dc_filtered", "size"),
        mean=("esr_dc_filtered", "mean"),
        worst=("esr_dc_filtered", "max"),
        best_gain=("esr_best_gain", "mean"),
        numbers=("parameters", "max"),
        seconds=("train_seconds", "mean"),
        identifiable=("identifiable", "mean"),
    )
    table[["mean", "worst", "best_gain"]] *= 100.0
    return table.round({"mean": 3, "worst": 3, "best_gain": 3, "seconds": 0, "identifiable": 2})


def _trials(name: str, folder: Path) -> list[Trial]:
    makers: Mapping[str, Callable[[], list[Trial]]] = {
        "inner": recordings.inner_excerpts,
        "excerpts": recordings.excerpts,
        "clips": lambda: recordings.clips(folder),
        "cl1b": lambda: recordings.cl1b(folder),
        "lv2": lambda: recordings.lv2(folder),
        "demo": lambda: recordings.demo(folder),
    }
    reason = None
    if name == "lv2":
        reason = lv2_device.missing()
    elif name != "demo" and not recordings.AUDIO.is_dir():
        reason = f"no recordings at {recordings.AUDIO}"
    if reason is not None:
        print(f"{name}: left out: {reason}")
        return []
    return makers[name]()


def _write(scored: pd.DataFrame, path: Path) -> None:
    """Write these rows, and keep what the file has of other data."""
    if path.is_file():
        before = pd.read_csv(path)
        scored = pd.concat([before[~before["data"].isin(scored["data"])], scored], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    scored.to_csv(path, index=False)


def main() -> None:
    """Print the tables."""
    names = ("inner", "excerpts", "clips", "cl1b", "lv2", "demo")
    parser = argparse.ArgumentParser(description="What is each stage worth?")
    parser.add_argument("data", nargs="*", choices=[[], *names], help="all unless named")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found: list[pd.DataFrame] = []
    for name in arguments.data or names:
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # settings that a table has to hold are marked in the scores
            for trial in _trials(name, Path(scratch)):
                print(f"{trial.data}, {trial.protocol}", flush=True)
                found.append(run(trial))
                if arguments.out is not None:
                    _write(pd.concat(found, ignore_index=True), arguments.out / "ablation.csv")
    if not found:
        return
    scored = pd.concat(found, ignore_index=True)
    with pd.option_context("display.width", 250, "display.max_rows", None):
        print(summarised(scored))


if __name__ == "__main__":
    main()
