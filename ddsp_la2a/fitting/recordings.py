"""Recordings as a least-squares fit sees them: sums of products, read from disk in blocks."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.data.audio import read_blocks
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.data.segments import pair_infos, warmup_seconds
from ddsp_la2a.dsp.normal_equations import error_products
from ddsp_la2a.dsp.params import Params
from ddsp_la2a.units import seconds_to_frames

_BLOCK_FRAMES = 1 << 16
_LANES = 8
_SHORTEST_LANE_S = 60.0
_THIN_STRETCH_S = 10.0
_LONGEST_WARMUP_S = 30.0

SUMS_PER_S = 4
"""Sums of products a second."""


@dataclass(frozen=True)
class _Stretch:
    """Frames [first, stop) of a recording, which count, and where reading may begin."""

    start: int
    first: int
    stop: int


class Recordings:
    """The rows of a frame and, on request, their normal equations.

    Long recordings of a frame with few rows are cut into lanes, so that all threads have work. A lane starts from rest
    ahead of what it counts, by :func:`~ddsp_la2a.data.segments.warmup_seconds` of the slowest time: of the state that
    it can't know less than 9^−4 is missing at its first sample, and less from then on. But never by more than 30 s.

    Args:
        frame: see :func:`~ddsp_la2a.data.index.read_frame`.
        skip_s: seconds at the beginning of each row that don't count: the state of the unit isn't known there.
        exact: one lane a row.
        controls: see the attribute.

    Attributes:
        frame: the rows, numbered from 0.
        controls: of the unit.
        sample_rate: in Hz.
        seconds: ``(rows,)`` of audio that counts.

    Raises:
        ValueError: a pair that doesn't fit together, different rates, or a row no longer than ``skip_s``.
    """

    def __init__(
        self,
        frame: pd.DataFrame | str | Path,
        skip_s: float = 1.0,
        *,
        exact: bool = False,
        controls: Sequence[Control] = LA2A_CONTROLS,
    ) -> None:
        if not 0.0 <= skip_s < np.inf:
            raise ValueError(f"skip_s: expected 0 s or more, got {skip_s!r}")
        self.frame = read_frame(frame, controls)
        self.controls = controls
        infos = pair_infos(self.frame)
        self.sample_rate = infos[0].sample_rate
        self._skip = seconds_to_frames(skip_s, self.sample_rate)
        self._exact = exact
        self._longest_warmup_s = _LONGEST_WARMUP_S
        self._stretches: list[list[_Stretch]] = []
        for row, info in zip(self.frame.itertuples(index=False), infos, strict=True):
            start, stop = int(getattr(row, "start_frame", 0)), int(getattr(row, "stop_frame", info.frames))
            first = start + self._skip
            if first >= stop:
                seconds = (stop - start) / self.sample_rate
                raise ValueError(f"{info.path}: expected more than skip_s = {skip_s:g} s to fit, got {seconds:g} s")
            longest = (stop - first) // seconds_to_frames(_SHORTEST_LANE_S, self.sample_rate)
            lanes = 1 if exact else max(1, min(-(-_LANES // len(infos)), longest))
            edges = np.linspace(first, stop, lanes + 1).astype(int).tolist()
            self._stretches.append([_Stretch(start, a, b) for a, b in itertools.pairwise(edges)])

    @property
    def seconds(self) -> NDArray[np.float64]:
        frames = [sum(s.stop - s.first for s in stretches) for stretches in self._stretches]
        return np.array(frames) / self.sample_rate

    def described(self, row: int) -> tuple[str, str, list[tuple[int, int, int]], float]:
        """What is read of a row: names of both files, (begin, first that counts, stop) of stretches, longest warm-up.

        Without folders: a data set that was moved is the same.
        """
        raw, processed = (Path(self.frame[f"{name}_audio_path"].iloc[row]).name for name in ("raw", "processed"))
        stretches = [(stretch.start, stretch.first, stretch.stop) for stretch in self._stretches[row]]
        return raw, processed, stretches, self._longest_warmup_s

    def thinned(self, seconds: float, longest_warmup_s: float = _LONGEST_WARMUP_S) -> Recordings:
        """The same with at most so many seconds a row, in stretches of 10 s spread over it: for first, rough steps.

        With a warm-up of at most ``longest_warmup_s`` ahead of each, however long the unit remembers.
        """
        thin = copy.copy(self)
        thin._longest_warmup_s = longest_warmup_s
        thin._stretches = []
        pieces = max(1, round(seconds / _THIN_STRETCH_S))
        length = seconds_to_frames(seconds / pieces, self.sample_rate)
        for stretches in self._stretches:
            start, first, stop = stretches[0].start, stretches[0].first, stretches[-1].stop
            if stop - first <= pieces * length:
                thin._stretches.append([_Stretch(start, first, stop)])
                continue
            centres = first + (np.arange(pieces) + 0.5) / pieces * (stop - first)
            firsts = (centres - length / 2).astype(int).tolist()
            thin._stretches.append([_Stretch(start, at, at + length) for at in firsts])
        return thin

    def chosen(self, rows: Sequence[int]) -> Recordings:
        """Some of the rows, in this order."""
        some = copy.copy(self)
        some.frame = self.frame.iloc[list(rows)].reset_index(drop=True)
        some._stretches = [self._stretches[row] for row in rows]
        return some

    def products(
        self,
        requests: Sequence[tuple[int, Params]],
        error_filter: str = "dc",
        progress: Callable[[float], object] | None = None,
    ) -> Generator[NDArray[np.float64], None, None]:
        """Products of error, target and derivatives, for rows with parameters.

        The result does not depend on the number of threads. They are given one by one, because those of 20 min are
        10 MB a row; left before the end, as by Ctrl-C, it stops within a block.

        Args:
            requests: row numbers and parameters; a row may occur several times.
            error_filter: see :func:`~ddsp_la2a.dsp.normal_equations.error_products`.
            progress: called with the seconds of audio just done.

        Returns:
            for each request sums over a quarter of a second each, in the order of time, ``(sums, n, n)``.
        """
        left = threading.Event()

        def run(row: int, params: Params, stretch: _Stretch) -> NDArray[np.float64]:
            found = self._stretch_products(row, params, stretch, error_filter, left)
            if progress is not None:
                progress((stretch.stop - stretch.first) / self.sample_rate)
            return found

        tasks = [(row, params, stretch) for row, params in requests for stretch in self._stretches[row]]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            try:
                done = pool.map(run, *zip(*tasks, strict=True)) if tasks else iter(())
                for row, _ in requests:
                    yield np.concatenate([next(done) for _ in self._stretches[row]])
            except BaseException:
                left.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _stretch_products(
        self, row: int, params: Params, stretch: _Stretch, error_filter: str, left: threading.Event
    ) -> NDArray[np.float64]:
        memory = warmup_seconds(params.slowest_ms())
        memory = memory if self._exact else min(memory, self._longest_warmup_s)
        begin = max(stretch.start, stretch.first - max(self._skip, seconds_to_frames(memory, self.sample_rate)))
        return error_products(
            itertools.takewhile(lambda _: not left.is_set(), self._blocks(row, begin, stretch.stop)),
            params,
            self.sample_rate,
            error_filter=error_filter,
            warmup_frames=stretch.first - begin,
            sum_frames=round(self.sample_rate / SUMS_PER_S),
        )

    def _blocks(self, row: int, begin: int, stop: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        paths = (self.frame["raw_audio_path"].iloc[row], self.frame["processed_audio_path"].iloc[row])
        return zip(*(read_blocks(path, begin, stop, _BLOCK_FRAMES) for path in paths), strict=True)
