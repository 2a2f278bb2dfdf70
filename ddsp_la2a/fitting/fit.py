"""Fitting a grey box to a frame of recordings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.data.audio import audio_info
from ddsp_la2a.data.frame import data_hash, linked_takes, refuse_several_devices, settings_of
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.dsp.compiling import source_stamp
from ddsp_la2a.files import replacing
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings, fit_gauss_newton
from ddsp_la2a.fitting.gradient import AdamSettings, Training, train
from ddsp_la2a.fitting.journal import Journal
from ddsp_la2a.fitting.passes import Ask
from ddsp_la2a.fitting.sharing import led
from ddsp_la2a.interrupts import postponed
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import control_columns
from ddsp_la2a.model.stages import FAMILIES, AnyStages, CellStages, Stages
from ddsp_la2a.model.taper import Taper
from ddsp_la2a.units import db_to_amplitude


@dataclass(frozen=True)
class FitResult:
    """A fitted model and how it came about.

    Args:
        model: the fitted grey box.
        history: of Gauss–Newton a row a pass with ``stage``, ``seconds`` and ``error`` (error-to-signal ratio); of Adam
            see :class:`~ddsp_la2a.fitting.gradient.Training`.
        config: plain data that repeats the fit.
        converged: the watched error stopped falling.
        interrupted: Ctrl-C ended it; the model is the best one until then.
    """

    model: GreyBox
    history: pd.DataFrame
    config: dict[str, Any]
    converged: bool
    interrupted: bool = False

    def curves(self) -> pd.DataFrame:
        """The learned card; see :meth:`GreyBox.curves`."""
        return self.model.curves()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors``, ``curves.csv``, ``history.csv`` and ``config.json`` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with postponed():
            self.model.save(folder / "model.safetensors")  # before the curves, which take their time
            texts = {
                "curves.csv": self.curves().to_csv(index=False, lineterminator="\n"),
                "history.csv": self.history.to_csv(index=False, lineterminator="\n"),
                "config.json": json.dumps(self.config, indent=2, ensure_ascii=False) + "\n",
            }
            for name, text in texts.items():
                with replacing(folder / name) as temporary:
                    temporary.write_text(text, encoding="utf-8", newline="\n")


class _AtTakeGains(nn.Module):
    """A grey box heard through a gain per take: a nuisance of the recordings, with zero mean in dB over takes."""

    _take: Tensor

    def __init__(self, model: GreyBox, frame: pd.DataFrame, sample_rate: float) -> None:
        super().__init__()
        self.model = model
        self.latency = model.latency
        self._sample_rate = sample_rate
        takes = linked_takes(frame, model.controls)
        self._gain_db = None
        if takes is not None:
            self.register_buffer("_take", torch.from_numpy(takes), persistent=False)
            self._gain_db = nn.Parameter(torch.zeros(int(takes.max()) + 1, dtype=torch.float64))

    def forward(self, batch: dict[str, Tensor], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, state = self.model(
            batch["raw"],
            torch.stack([batch[control.name].double() for control in self.model.controls], dim=-1),
            self._sample_rate,
            state=state,
            return_state=True,
        )
        if self._gain_db is not None and self.training:  # on a recording that isn't fitted it is 0 dB
            gain = db_to_amplitude(self._gain_db - self._gain_db.mean())[self._take[batch["recording"]]]
            output = output * gain[:, None].to(output.dtype)
        return output, state

    def prior_energy(self) -> Tensor:
        """Half the squared weights (not the biases) of the network: controls that do nothing cost nothing."""
        weights = [w for name, w in self.model.card.named_parameters() if name.endswith("weight")]
        return 0.5 * sum((w.square().sum() for w in weights), torch.zeros((), dtype=torch.float64))


def generic_start(frame: pd.DataFrame, controls: Sequence[Control], stages: AnyStages) -> ParameterTable:
    """A table with a row for every setting of a frame, each at the generic start."""
    settings = pd.DataFrame(settings_of(frame, controls), columns=control_columns(controls))
    starts = {p.name: p.start for p in (*stages.card_parameters, *stages.parameters)}
    return ParameterTable(settings.assign(**starts), controls, nearest=True)


METHODS = ("gauss-newton", "adam")


def fit(
    frame: pd.DataFrame | str | Path,
    method: str = "gauss-newton",
    per_setting: bool = False,
    *,
    family: str = Stages.family,
    controls: Sequence[Control] = LA2A_CONTROLS,
    stages: AnyStages | None = None,
    gauss_newton: GaussNewtonSettings | None = None,
    adam: AdamSettings | None = None,
    segment_s: float = 5.0,
    warmup_s: float = 2.0,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> FitResult:
    """Fit a grey box to recordings of one unit.

    Trains on the rows whose ``split`` is ``train`` and never looks at ``test``. Rows of several takes get a gain per
    take (zero mean) where takes share settings. ``gauss-newton`` needs a few dozen passes over the audio, reads it from
    disk in blocks, and knows how sure it is of every parameter; see :meth:`GreyBox.curves`. ``adam`` follows the
    gradient of segments, for losses that are no sum of squares, and watches the rows of ``val`` to know when to stop.

    Args:
        frame: a folder, a saved ``frame.csv`` or a DataFrame; see :func:`ddsp_la2a.read_frame`.
        method: ``gauss-newton`` or ``adam``.
        per_setting: fit every setting on its own, make-up included, without the network: what a joint model has to
            be compared with. Other settings then get the parameters of the nearest one.
        family: ``compressor``, whose card the network learns over the controls; or ``optical-cell``: one set of
            constants for all settings, whose side-chain gain one knob turns.
        controls: what the unit lets its user set; each is a column of the frame. Fewer settings than would determine
            curves over them all are no obstacle: what the recordings leave open the network's prior decides.
        stages: what the model has beside what makes it one of its family; None for what hardware is fitted with.
        gauss_newton: how, for that method; None for what suits the grey box.
        adam: how, for that method.
        segment_s: length of Adam's segments in seconds, 3 to 10.
        warmup_s: audio before each of them whose error doesn't count, seconds. 2 s leave less than 0.01 % of a state
            whose release (10–90 %) is 0.47 s, the slowest published one; see
            :func:`ddsp_la2a.data.segments.warmup_seconds`.
        seed: of starts, first weights and order of segments.
        progress: show a progress bar.
        checkpoint: file that an interrupted fit goes on from if it is there, to the same model to the last bit, and
            that is brought up to date every half minute and at the end; the one before stays beside it. None: nothing
            is written.

    Returns:
        The model with history and configuration; the model's ``info`` names data hash and scores.

    Raises:
        ValueError: no ``train`` rows, several devices, an unknown method or family, the other method's settings, stages
            of the other family, not one knob for an optical cell, recordings that can't be read, or a checkpoint that
            is damaged or of other recordings or settings.
        OSError: Adam's checkpoint can't be written; of Gauss–Newton's only the log says so.
        KeyboardInterrupt: Ctrl-C before there was anything worth keeping; later it ends the fit with the best so far:
            where the settings had no model of all yet, with one of each on its own, without intervals.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    for name, given in (("gauss-newton", gauss_newton), ("adam", adam)):
        if given is not None and name != method:
            raise ValueError(
                f"{name.replace('-', '_')}: expected no settings for method {method!r}, got some; leave them out"
            )
    if family not in FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {family!r}")
    stages = FAMILIES[family]() if stages is None else stages
    if stages.family != family:
        raise ValueError(f"stages: expected those of family {family!r}, got {stages}; name the family as well")
    controls = unique(controls)
    rows = read_frame(frame, controls)
    by_split = {str(split): part.reset_index(drop=True) for split, part in rows.groupby("split")}
    if "train" not in by_split:
        raise ValueError(
            f"frame: expected rows whose split is 'train', got {', '.join(sorted(by_split))}; set the split column, "
            "or hold time out (--split later-in-time)"
        )
    fitted = rows[rows["split"] != "test"]
    refuse_several_devices(fitted)
    config: dict[str, Any] = {"method": method, "per_setting": per_setting, "seed": seed}
    config |= {"family": family, "stages": asdict(stages)}
    kept = None if checkpoint is None else Path(checkpoint)
    training = by_split["train"]

    def described(
        model: GreyBox, ran: Training, training_loss: float | None, validation_esr: float | None
    ) -> FitResult:
        model.info = {
            "device": str(training["device"].iloc[0]),
            "controls": ",".join(map(str, controls)),
            "source": sorted(training["source"].unique().tolist()),
            "sample_rate": audio_info(training["raw_audio_path"].iloc[0]).sample_rate,
            "data_sha256": data_hash(fitted, controls),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "settings_seen": settings_of(training, controls),
            "training_loss": training_loss,
            "validation_esr": validation_esr,
            "converged": ran.converged,
            "train_seconds": round(ran.seconds, 2),
            "seed": seed,
            "fit": config,
        }
        model.device.requires_grad_(True)
        return FitResult(model.eval(), ran.history, dict(model.info), ran.converged, ran.interrupted)

    if method == "adam":
        config |= {"segment_s": segment_s, "warmup_s": warmup_s, "adam": asdict(adam or AdamSettings())}
        config["adam"]["seed"] = seed
        settings, cut = AdamSettings(**config["adam"]), (segment_s, warmup_s)
        model, ran = _fit_adam(by_split, controls, stages, per_setting, cut, settings, seed, progress, kept)
        return described(model, ran, _least(ran.history, "loss"), _least(ran.history, "validation_esr"))
    how = gauss_newton or GaussNewtonSettings()
    config["gauss_newton"] = asdict(how)

    def lead(ask: Ask) -> FitResult:
        journal = Journal(kept, "" if kept is None else _fingerprint(training, controls, config))
        try:
            model, ran = fit_gauss_newton(training, controls, stages, per_setting, how, seed, progress, journal, ask)
        finally:
            journal.write()
        last = ran.history[ran.history["stage"] == ran.history["stage"].iloc[-1]]
        with postponed() as came:
            result = described(model, ran, _least(last, "error"), None)
            if ran.interrupted:
                came.clear()  # it is ending already
        return result

    return led(lead)


def _fit_adam(
    by_split: dict[str, pd.DataFrame],
    controls: Sequence[Control],
    stages: AnyStages,
    per_setting: bool,
    cut: tuple[float, float],
    settings: AdamSettings,
    seed: int,
    progress: bool,
    checkpoint: Path | None,
) -> tuple[GreyBox, Training]:
    training = SegmentDataset(by_split["train"], *cut, controls=controls)
    watched = by_split.get("val")
    validation = None if watched is None else SegmentDataset(watched, *cut, controls=controls)
    card: ControlNet | ParameterTable | Taper
    if per_setting:
        card = generic_start(training.frame, controls, stages)
    elif isinstance(stages, CellStages):
        card = Taper(controls)
        if LA2A_CONTROLS[1] not in controls:
            names = ", ".join(control.name for control in controls)
            raise ValueError(
                f"method: expected gauss-newton, which finds out whether a knob turns the side-chain gain up or down, "
                f"got adam with the controls {names}"
            )
    else:
        card = ControlNet(seed=seed, controls=controls)
    model = GreyBox(card, stages=stages, sample_rate=training.sample_rate)
    # One gain is enough: a table has its own, one a setting.
    model.device.requires_grad_(not per_setting)
    ran = train(
        _AtTakeGains(model, training.frame, training.sample_rate),
        training,
        # A setting that wasn't trained says nothing about those that were fitted on their own.
        None if per_setting else validation,
        settings,
        "fit every setting" if per_setting else "fit",
        progress,
        checkpoint,
    )
    return model, ran


def _fingerprint(frame: pd.DataFrame, controls: Sequence[Control], config: dict[str, Any]) -> str:
    """Hash of what the answers of a least-squares fit's passes follow from."""
    described = json.dumps([data_hash(frame, controls), [str(control) for control in controls], config, source_stamp()])
    return hashlib.sha256(described.encode("utf-8")).hexdigest()


def _least(history: pd.DataFrame, column: str) -> float | None:
    least = history[column].min() if column in history else np.nan
    return None if np.isnan(least) else float(least)
