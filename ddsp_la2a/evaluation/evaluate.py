"""Scoring anything with ``process`` on recordings; one row per recording and model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.data.audio import read_audio
from ddsp_la2a.data.frame import positions_of, stretch
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.evaluation.metrics import SCORE_COLUMNS, scores
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


class Model(Protocol):
    """What can be scored: anything with this method.

    An optional attribute ``info`` (a mapping) may say ``settings_seen`` (tuples of positions in the order of the
    controls), ``parameters`` (how many were fitted), ``train_seconds``, ``converged`` and ``seed``; what it doesn't say
    is left empty.
    """

    def process(self, audio: NDArray[np.float32], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """Processed audio ``(time,)`` for audio ``(time,)`` and positions of the controls by name."""
        ...


def evaluate(
    models: Mapping[str, Model],
    frame: pd.DataFrame | str | Path,
    *,
    controls: Sequence[Control] = LA2A_CONTROLS,
    split: str = "test",
    protocol: str = "shipped",
    progress: bool = False,
) -> pd.DataFrame:
    """Score models on the rows of one split; nothing is adapted to what is scored.

    A row that starts at a recording's beginning is processed from rest and scored from 1 s on. A row that starts within
    a recording is processed with up to 30 s of what comes before, and scored from its start on.

    Args:
        models: name → anything with ``process``; see :class:`Model`.
        frame: a folder, a saved ``frame.csv`` or a DataFrame.
        controls: of the unit.
        split: which rows.
        protocol: goes into the column of that name.
        progress: show a bar.

    Returns:
        one row a recording and model with the :func:`columns`; the metrics are defined in
        :mod:`ddsp_la2a.evaluation.metrics`. ``real_time_factor`` is seconds of audio per second of ``process``.

    Raises:
        ValueError: no models, no rows of that split, or a model's output of another length than its input.
    """
    if not models:
        raise ValueError("models: expected at least one, got none")
    controls = unique(controls)
    rows = read_frame(frame, controls)
    chosen = rows[rows["split"] == split].reset_index(drop=True)
    if chosen.empty:
        raise ValueError(f"frame: expected rows whose split is {split!r}, got {', '.join(sorted(set(rows['split'])))}")
    scored = []
    with tqdm(total=len(chosen) * len(models), desc="evaluate", unit="score", disable=not progress) as bar:
        for row in ({str(k): v for k, v in record.items()} for record in chosen.to_dict("records")):
            raw, target, sample_rate, start, offset = _read(row)
            for name, model in models.items():
                began = time.perf_counter()
                output = np.asarray(model.process(raw, sample_rate, **positions_of(row, controls)))
                seconds = time.perf_counter() - began
                if output.shape != raw.shape:
                    raise ValueError(f"{name}: expected output of shape {raw.shape}, got {output.shape}")
                described = {
                    "model": name,
                    "protocol": protocol,
                    "scored_from_s": round((start + offset) / sample_rate, 3),
                    "real_time_factor": round(len(raw) / sample_rate / seconds, 1),
                    **_described(model, tuple(positions_of(row, controls).values())),
                }
                scored.append({**row, **described, **scores(output, target, sample_rate, start=start)})
                bar.update()
    return pd.DataFrame(scored)[list(columns(controls))]


def _read(row: Mapping[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32], int, int, int]:
    """Input and target from the lead-in on, rate, first scored frame of them, and where in the file they start."""
    row_start, stop, sample_rate = stretch(row)
    first = max(row_start - seconds_to_frames(LEAD_IN_S, sample_rate), 0)
    raw, _ = read_audio(row["raw_audio_path"], first, stop)
    target, _ = read_audio(row["processed_audio_path"], first, stop)
    scored_from = max(row_start, seconds_to_frames(SKIP_S, sample_rate))
    if scored_from >= stop:
        path, seconds = row["processed_audio_path"], stop / sample_rate
        raise ValueError(f"{path}: expected more than {SKIP_S:g} s to score, got {seconds:.2f} s")
    return raw, target, sample_rate, scored_from - first, first


def _described(model: Model, setting: tuple[float, ...]) -> dict[str, Any]:
    info: Mapping[str, Any] = getattr(model, "info", {})
    found = {name: info.get(name) for name in ("parameters", "train_seconds", "converged", "seed")}
    seen = info.get("settings_seen")
    found["setting_seen"] = None if seen is None else setting in {tuple(positions) for positions in seen}
    return found


def summary(scored: pd.DataFrame) -> pd.DataFrame:
    """Arithmetic mean and worst case of the DC-filtered error per source, protocol and model, best first.

    Returns:
        indexed by (source, protocol, model): ``recordings``, ``esr_dc_filtered`` and ``worst``,
        ``esr_best_gain`` (one free gain on the scored seconds, for everybody), ``gain_offset_db``, ``mr_stft``,
        ``lufs_difference``, ``ldr_difference_db``, ``parameters``, ``real_time_factor``, ``train_seconds``,
        ``converged``. No mean runs across sources.
    """
    groups = scored.groupby(["source", "protocol", "model"], sort=False)
    table = groups.agg(
        recordings=("track_id", "size"),
        esr_dc_filtered=("esr_dc_filtered", "mean"),
        worst=("esr_dc_filtered", "max"),
        esr_best_gain=("esr_best_gain", "mean"),
        gain_offset_db=("gain_offset_db", "mean"),
        mr_stft=("mr_stft", "mean"),
        lufs_difference=("lufs_difference", "mean"),
        ldr_difference_db=("ldr_difference_db", "mean"),
        parameters=("parameters", "first"),
        real_time_factor=("real_time_factor", "median"),
        train_seconds=("train_seconds", "first"),
        converged=("converged", "first"),
    )
    return table.sort_values(["source", "protocol", "esr_dc_filtered"])
