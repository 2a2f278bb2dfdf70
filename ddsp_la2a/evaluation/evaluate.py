"""Scoring anything with ``process`` on recordings; one row per recording and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd
from tqdm import tqdm

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.data.audio import read_audio
from ddsp_la2a.data.frame import positions_of, stretch
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.evaluation.bootstrap import BLOCK_COLUMNS, BlockEnergies
from ddsp_la2a.evaluation.metrics import SCORE_COLUMNS, Scores
from ddsp_la2a.evaluation.playback import Model, Passage, Stopwatch, played
from ddsp_la2a.evaluation.scored_audio import Accumulator, feed, pair
from ddsp_la2a.units import seconds_to_frames

SKIP_S = 1.0
"""Never scored at the beginning of a recording: the state of the unit isn't known there."""

LEAD_IN_S = 30.0
"""Most audio that is processed before a stretch that starts within a recording, so that the state is warm."""


def columns(controls: Sequence[Control] = LA2A_CONTROLS) -> tuple[str, ...]:
    """Columns of ``scores.csv``."""
    identity = ("model", "source", "protocol", "track_id", "split", *(control.name for control in controls))
    about_the_fit = ("parameters", "real_time_factor", "train_seconds", "converged", "seed")
    return *identity, "setting_seen", "scored_from_s", *SCORE_COLUMNS, *about_the_fit


Models = Mapping[str, Model | Sequence[Model]]
"""By name; several of one name were trained from different seeds, which their ``info`` says."""


@overload
def evaluate(
    models: Models,
    frame: pd.DataFrame | str | Path,
    *,
    controls: Sequence[Control] = ...,
    split: str = ...,
    protocol: str = ...,
    return_blocks: Literal[False] = ...,
    progress: bool = ...,
) -> pd.DataFrame: ...


@overload
def evaluate(
    models: Models,
    frame: pd.DataFrame | str | Path,
    *,
    controls: Sequence[Control] = ...,
    split: str = ...,
    protocol: str = ...,
    return_blocks: Literal[True],
    progress: bool = ...,
) -> tuple[pd.DataFrame, pd.DataFrame]: ...


def evaluate(
    models: Models,
    frame: pd.DataFrame | str | Path,
    *,
    controls: Sequence[Control] = LA2A_CONTROLS,
    split: str = "test",
    protocol: str = "shipped",
    return_blocks: bool = False,
    progress: bool = False,
) -> Any:
    """Score models on the rows of one split; nothing is adapted to what is scored.

    A row that starts at a recording's beginning is processed from rest and scored from 1 s on. A row that starts within
    a recording is processed with up to 30 s of what comes before, and scored from its start on. Recordings are read,
    processed and scored in blocks, however long they are; a model without ``stream`` gets them in one piece.

    Args:
        models: name → anything with ``process``, see :class:`~ddsp_la2a.evaluation.playback.Model`; or several, trained
            from different seeds.
        frame: a folder, a saved ``frame.csv`` or a DataFrame.
        controls: of the unit.
        split: which rows.
        protocol: goes into the column of that name.
        return_blocks: give the energies of every second too, which :func:`~ddsp_la2a.evaluation.bootstrap
            .paired_intervals` draws from.
        progress: show a bar.

    Returns:
        one row a recording and model with the :func:`columns`; the metrics are defined in
        :mod:`ddsp_la2a.evaluation.metrics`. ``real_time_factor`` is seconds of audio per second of processing, without
        reading and scoring; in one piece a model takes longer than block by block.
        Where asked for, also the blocks, with :data:`~ddsp_la2a.evaluation.bootstrap.BLOCK_COLUMNS`.

    Raises:
        ValueError: no models, no rows of that split, a model's output of another length than its input, or samples that
            aren't finite.
    """
    if not models:
        raise ValueError("models: expected at least one, got none")
    controls = unique(controls)
    rows = read_frame(frame, controls)
    chosen = rows[rows["split"] == split].reset_index(drop=True)
    if chosen.empty:
        raise ValueError(f"frame: expected rows whose split is {split!r}, got {', '.join(sorted(set(rows['split'])))}")
    each = [
        (name, one) for name, given in models.items() for one in (given if isinstance(given, Sequence) else [given])
    ]
    scored, blocks = [], []
    with tqdm(total=len(chosen) * len(each), desc="evaluate", unit="score", disable=not progress) as bar:
        for row in ({str(k): v for k, v in record.items()} for record in chosen.to_dict("records")):
            raw, start = _passage(row)
            sample_rate = raw.sample_rate
            setting = positions_of(row, controls)
            for name, model in each:
                watch, scores, energies = Stopwatch(), Scores(sample_rate), BlockEnergies(sample_rate)
                accumulators: list[Accumulator] = [scores, energies] if return_blocks else [scores]
                at = raw.first
                for output in played(name, model, setting, raw, watch):
                    target, _ = read_audio(row["processed_audio_path"], at, at + len(output))
                    both = pair(output, target)
                    for accumulator in accumulators:
                        feed(accumulator, both, start - at)
                    at += len(output)
                described = {
                    "model": name,
                    "protocol": protocol,
                    "scored_from_s": round(start / sample_rate, 3),
                    "real_time_factor": round((raw.stop - raw.first) / sample_rate / watch.seconds, 1),
                    **_described(model, tuple(setting.values())),
                }
                scored.append({**row, **described, **scores.by_name})
                if return_blocks:
                    blocks.append(energies.table.assign(**scored[-1], recording=_recording(scored[-1], controls)))
                bar.update()
    table = pd.DataFrame(scored)[list(columns(controls))]
    return (table, pd.concat(blocks, ignore_index=True)[list(BLOCK_COLUMNS)]) if return_blocks else table


def _recording(scored: Mapping[str, Any], controls: Sequence[Control]) -> str:
    """What tells a scored stretch from all others."""
    setting = ", ".join(f"{control.name} {scored[control.name]:g}" for control in controls)
    take = f" take {scored['take']}" if scored["take"] else ""
    return f"track {scored['track_id']}{take}, {setting}, from {scored['scored_from_s']:g} s"


def _passage(row: Mapping[str, Any]) -> tuple[Passage, int]:
    """The input of a row from the lead-in on, and the first scored frame of its file."""
    row_start, stop, sample_rate = stretch(row)
    first = max(row_start - seconds_to_frames(LEAD_IN_S, sample_rate), 0)
    start = max(row_start, seconds_to_frames(SKIP_S, sample_rate))
    if start >= stop:
        path, seconds = row["processed_audio_path"], stop / sample_rate
        raise ValueError(f"{path}: expected more than {SKIP_S:g} s to score, got {seconds:.2f} s")
    return Passage(row["raw_audio_path"], first, stop, sample_rate), start


def _described(model: Model, setting: tuple[float, ...]) -> dict[str, Any]:
    info: Mapping[str, Any] = getattr(model, "info", {})
    found = {name: info.get(name) for name in ("parameters", "train_seconds", "converged", "seed")}
    seen = info.get("settings_seen")
    found["setting_seen"] = None if seen is None else setting in {tuple(positions) for positions in seen}
    return found


PROTOCOL_ROWS = ("identity", "identity-filter", "published-gain", "published-filter")
"""Models that no table on real recordings of an LA-2A may leave out; what they leave is no compressor's merit."""


def missing_rows(scored: pd.DataFrame) -> list[str]:
    """Those of the :data:`PROTOCOL_ROWS` that a source and protocol of these scores of an LA-2A lack."""
    groups = scored.groupby(["source", "protocol"])["model"].agg(set)
    return [name for name in PROTOCOL_ROWS if any(name not in there for there in groups)]


def mean_error(scored: pd.DataFrame, metric: str = "esr_dc_filtered") -> float:
    """Arithmetic mean of one model's errors over recordings and seeds.

    Args:
        scored: rows of one model, source and protocol.
        metric: column.

    Raises:
        ValueError: rows of several sources, protocols or models: their mean would mean nothing.
    """
    for name in ("source", "protocol", "model"):
        several = set(scored[name])
        if len(several) != 1:
            raise ValueError(
                f"scored: expected rows of one {name}, got {', '.join(sorted(several))}; no mean runs across them"
            )
    return float(scored[metric].mean())


def summary(scored: pd.DataFrame) -> pd.DataFrame:
    """Arithmetic mean and worst case of the DC-filtered error per source, protocol and model, best first.

    Returns:
        indexed by (source, protocol, model): ``recordings``, ``seeds``, ``esr_dc_filtered`` and ``worst`` (of any
        recording and seed), ``best_seed`` and ``worst_seed`` (means over recordings), ``esr_best_gain`` (one free gain
        on the scored seconds, for everybody), ``gain_offset_db``, ``mr_stft``, ``lufs_difference``,
        ``ldr_difference_db``, ``parameters``, ``real_time_factor``, ``train_seconds`` (of one seed), ``converged`` (all
        of them). No mean runs across sources.
    """
    rows = []
    for group, part in scored.groupby(["source", "protocol", "model"], sort=False):
        by_seed = part["esr_dc_filtered"].groupby(part["seed"].astype("Float64"), dropna=False).mean()
        averaged = ("gain_offset_db", "mr_stft", "lufs_difference", "ldr_difference_db")
        known = part["converged"].dropna()
        rows.append(
            {
                **dict(zip(("source", "protocol", "model"), group, strict=True)),
                "recordings": len(part) // len(by_seed),
                "seeds": len(by_seed),
                "esr_dc_filtered": mean_error(part),
                "worst": part["esr_dc_filtered"].max(),
                "best_seed": by_seed.min(),
                "worst_seed": by_seed.max(),
                "esr_best_gain": mean_error(part, "esr_best_gain"),
                **{name: part[name].mean() for name in averaged},
                "parameters": part["parameters"].max(),
                "real_time_factor": part["real_time_factor"].median(),
                "train_seconds": part["train_seconds"].mean(),
                "converged": bool(known.all()) if len(known) else None,
            }
        )
    table = pd.DataFrame(rows).set_index(["source", "protocol", "model"])
    return table.sort_values(["source", "protocol", "esr_dc_filtered"])
