"""Recordings cut into segments of one length, each with a warm-up in front whose error doesn't count.

A compressor remembers: the gain at the start of a buffer depends on what came before it. So each segment is read with
``warmup_s`` seconds before it, in which the model's state settles, and a mask leaves them out of the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.data.audio import AudioInfo, audio_info, read_audio
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.units import seconds_to_frames

SHORTEST_SECONDS, LONGEST_SECONDS = 3.0, 10.0
"""Range of segment lengths."""

_RELEASES = 4.0


def warmup_seconds(release_ms: float | Sequence[float]) -> float:
    """Warm-up after which a compressor has forgotten the state it started from: four times the slowest release.

    A state decays as exp(−ln 9 · t / release), release being the 10–90 % time, so after four of them 9^−4 = 0.00015
    of it is left. The slowest release published for the LA-2A's 26 settings, 470 ms, asks for 1.9 s: the default of 2 s
    stands for it. (One second leaves 11 % of a state whose release is 1 s.)

    Args:
        release_ms: 10–90 % release time or times in ms, above 0.

    Returns:
        seconds.

    Raises:
        ValueError: no release, or one that isn't above 0.
    """
    releases = np.atleast_1d(np.asarray(release_ms, dtype=float))
    if not releases.size or not (releases > 0).all() or not np.isfinite(releases).all():
        raise ValueError(f"release_ms: expected times above 0 ms, got {release_ms!r}")
    return float(_RELEASES * releases.max() / 1000.0)


def segments(
    frame: pd.DataFrame | str | Path,
    length_s: float = 5.0,
    warmup_s: float = 2.0,
    controls: Sequence[Control] = LA2A_CONTROLS,
) -> pd.DataFrame:
    """Cut every row of a frame into segments; 1,200 s at 3 s are 400.

    The last segment of a row holds what is left, and is padded when read. A segment has its row's split: no second of
    a recording is in two splits.

    Args:
        frame: see :func:`~ddsp_la2a.data.index.read_frame`.
        length_s: 3 to 10 s.
        warmup_s: 0 s or more before each segment, see :func:`warmup_seconds`.
        controls: of the unit.

    Returns:
        one row a segment: ``recording`` (row number in the frame), ``split``, ``start_frame`` and ``stop_frame`` of
        what is scored (the stop is exclusive), ``warmup_frames`` before it, ``padding_frames`` after it.

    Raises:
        ValueError: a length or warm-up out of range; or a pair whose files don't have the same rate and length, or
            aren't mono.
    """
    frame = read_frame(frame, controls)
    return _cut(frame, [_pair_info(row) for row in frame.itertuples(index=False)], length_s, warmup_s)


def _pair_info(row: Any) -> AudioInfo:
    """Header of a row's input, once it is known that both files can be read side by side."""
    raw, processed = audio_info(row.raw_audio_path), audio_info(row.processed_audio_path)
    for info in (raw, processed):
        if info.channels != 1:
            raise ValueError(f"{info.path}: expected one channel, got {info.channels}; export it as mono")
        stop = getattr(row, "stop_frame", info.frames)
        if stop > info.frames:
            raise ValueError(f"{info.path}: expected at least stop_frame = {stop} frames, got {info.frames}; lower it")
    if raw.sample_rate != processed.sample_rate:
        raise ValueError(
            f"{processed.path}: expected {raw.sample_rate} Hz as {raw.path}, got {processed.sample_rate} Hz; "
            "resample it"
        )
    if raw.frames != processed.frames and not hasattr(row, "stop_frame"):
        # Which end is missing isn't known here, so nothing is cut in silence.
        raise ValueError(
            f"{processed.path}: expected {raw.frames} frames as {raw.path}, got {processed.frames}; "
            "run check and apply_findings first, or give start_frame and stop_frame"
        )
    return raw


def pair_infos(frame: pd.DataFrame) -> list[AudioInfo]:
    """Headers of the inputs of a frame's rows, once it is known that all can be read side by side, at one rate.

    Raises:
        ValueError: a pair whose files don't have the same rate and length, or aren't mono; or pairs of different rates.
    """
    infos = [_pair_info(row) for row in frame.itertuples(index=False)]
    for info in infos:
        if info.sample_rate != infos[0].sample_rate:
            raise ValueError(
                f"frame: expected one sample rate, got {infos[0].sample_rate} Hz in {infos[0].path} and "
                f"{info.sample_rate} Hz in {info.path}; resample or leave out one of them"
            )
    return infos


def _cut(frame: pd.DataFrame, infos: list[AudioInfo], length_s: float, warmup_s: float) -> pd.DataFrame:
    if not SHORTEST_SECONDS <= length_s <= LONGEST_SECONDS:
        raise ValueError(f"length_s: expected {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} s, got {length_s!r}")
    if not 0.0 <= warmup_s < np.inf:
        raise ValueError(f"warmup_s: expected 0 s or more, got {warmup_s!r}")
    tables = []
    for recording, (row, info) in enumerate(zip(frame.itertuples(index=False), infos, strict=True)):
        length = seconds_to_frames(length_s, info.sample_rate)
        end = getattr(row, "stop_frame", info.frames)
        starts = np.arange(getattr(row, "start_frame", 0), end, length, dtype=np.int64)
        stops = np.minimum(starts + length, end)
        table = pd.DataFrame({"recording": recording, "split": row.split, "start_frame": starts, "stop_frame": stops})
        table["warmup_frames"] = seconds_to_frames(warmup_s, info.sample_rate)
        table["padding_frames"] = length - (stops - starts)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


class SegmentDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Segments as tensors, read from the files when asked for.

    Only ``[start − warm-up, stop)`` is read, by seeking, and no file stays open, so workers of a ``DataLoader`` may be
    forked or spawned. Before the start of a row there is silence: the unit is at rest.

    With W warm-up and L segment frames an item is a dictionary of

    - ``raw``, ``processed``: float32 ``(W + L,)``;
    - ``mask``: float32 ``(W + L,)``, 1 where the error counts, 0 in the warm-up, in the first ``skip_s`` of a row and
      in the padding;
    - every control by its name, such as ``compress_or_limit`` and ``peak_reduction``: int64 or float64 scalars, as in
      ``frame``;
    - ``recording`` (row number in ``frame``): int64 scalar.

    Segments in which nothing counts are left out.

    Args:
        frame: see :func:`~ddsp_la2a.data.index.read_frame`.
        length_s: 3 to 10 s.
        warmup_s: 0 s or more.
        skip_s: 0 s or more at the beginning of each row, where the state of the unit isn't known; or one for each row,
            where more of its beginning is there to warm up alone.
        controls: of the unit.

    Attributes:
        frame: the frame, rows numbered from 0.
        controls: of the unit.
        segments: what :func:`segments` gives, but for those left out.
        skip_frames: of each row.
        sample_rate: in Hz, of all files.

    Raises:
        ValueError: as :func:`segments`; or files of different rates; or nothing that counts.
    """

    def __init__(
        self,
        frame: pd.DataFrame | str | Path,
        length_s: float = 5.0,
        warmup_s: float = 2.0,
        skip_s: float | Sequence[float] = 1.0,
        controls: Sequence[Control] = LA2A_CONTROLS,
    ) -> None:
        self.controls = unique(controls)
        self.frame = read_frame(frame, controls)
        infos = pair_infos(self.frame)
        skips = [skip_s] * len(infos) if isinstance(skip_s, (int, float)) else list(skip_s)
        if len(skips) != len(infos) or not all(skip >= 0.0 for skip in skips):
            raise ValueError(f"skip_s: expected 0 s or more, one for all rows or for each, got {skip_s!r}")
        self.sample_rate = infos[0].sample_rate
        starts = self.frame.get("start_frame", pd.Series(0, index=self.frame.index))
        self._row_start = starts.to_numpy(dtype=np.int64)
        self.skip_frames = np.array([seconds_to_frames(skip, self.sample_rate) for skip in skips], dtype=np.int64)
        table = _cut(self.frame, infos, length_s, warmup_s)
        counted_from = (self._row_start + self.skip_frames)[table["recording"]]
        self.segments = table[table["stop_frame"] > counted_from].reset_index(drop=True)
        if self.segments.empty:
            raise ValueError(f"frame: expected recordings longer than skip_s = {skip_s} s, got none; shorten skip_s")

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        segment = self.segments.iloc[item]
        recording, start, stop = int(segment["recording"]), int(segment["start_frame"]), int(segment["stop_frame"])
        warmup, padding = int(segment["warmup_frames"]), int(segment["padding_frames"])
        row, row_start = self.frame.iloc[recording], int(self._row_start[recording])
        first = max(start - warmup, row_start)
        before = warmup - (start - first)
        total = before + stop - first + padding
        result = {}
        for name in ("raw", "processed"):
            audio, _ = read_audio(row[f"{name}_audio_path"], first, stop)
            padded = torch.zeros(total)
            padded[before : total - padding] = torch.from_numpy(audio)
            result[name] = padded
        mask = torch.zeros(total)
        counted_from = max(start, row_start + int(self.skip_frames[recording]))
        mask[warmup + counted_from - start : total - padding] = 1.0
        result["mask"] = mask
        for control in self.controls:
            result[control.name] = torch.tensor(self.frame[control.name].to_numpy()[recording])
        result["recording"] = torch.tensor(recording, dtype=torch.int64)
        return result
