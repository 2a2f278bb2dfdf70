"""What the samples of pairs show: measured by several threads, and remembered by the contents of the files.

numpy and libsndfile let other threads run while they work. Each pair is measured on its own and in blocks, so neither
the number of threads nor their order has a say in what is found, and memory doesn't grow with the files.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ddsp_la2a.data import cache
from ddsp_la2a.data.alignment import STRETCH_FRAMES, Alignment, alignment
from ddsp_la2a.data.audio import read_audio
from ddsp_la2a.data.contents import content_hash, known_hash, stamp
from ddsp_la2a.data.levels import Levels, compared
from ddsp_la2a.data.scan import LEVELS_PER_SECOND, Sound, scan

MEASURING_VERSION = 1
"""To be raised with every change of this module, of scan, alignment or levels that gives other numbers."""

_KIND = "pairs"
_STRETCHES = 48
_MOST_THREADS = 8  # beyond, disks are the slower part, and each thread needs 15 MB


@dataclass(frozen=True)
class Recording:
    """A stretch of two mono files of one sample rate.

    Args:
        raw_path: of the input.
        processed_path: of the target.
        start: first frame.
        stop: frame after the last.
        sample_rate: in Hz.
    """

    raw_path: str
    processed_path: str
    start: int
    stop: int
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return (self.stop - self.start) / self.sample_rate


@dataclass(frozen=True)
class Measurement:
    """What the samples of a recording have shown.

    Args:
        raw: of the input.
        processed: of the target.
        alignment: of both; None where too little sounds.
        levels: over time; None with the alignment.
    """

    raw: Sound
    processed: Sound
    alignment: Alignment | None
    levels: Levels | None


def measured(
    recordings: Sequence[Recording], progress: Callable[[int, int], object] | None = None
) -> list[Measurement | ValueError]:
    """Measure recordings, those that aren't known yet; what was measured is kept even if the rest is interrupted.

    Args:
        recordings: to be measured; where several share an input, it is read once.
        progress: called with whole seconds of audio that are done and their total: first with those that are known,
            then after each recording.

    Returns:
        a measurement each, or why there is none.

    Raises:
        OSError: a file is gone.
    """
    found: list[Measurement | ValueError | None] = [_known(recording) for recording in recordings]
    todo = [number for number, measurement in enumerate(found) if measurement is None]
    total = sum(recording.seconds for recording in recordings)
    left = set(todo)

    def tell() -> None:
        if progress is not None:
            progress(round(total - sum(recordings[number].seconds for number in left)), round(total))

    tell()
    shared = _Shared(recordings[number] for number in todo)
    pool = ThreadPoolExecutor(_threads())
    try:
        waiting = {pool.submit(_measured, recordings[number], shared): number for number in todo}
        for future in _as_done(waiting):
            found[waiting[future]] = future.result()
            left.remove(waiting[future])
            tell()
    finally:  # with all done there is nothing to stop
        shared.stop()
        pool.shutdown(cancel_futures=True)
    return [measurement for measurement in found if measurement is not None]


def _threads() -> int:
    """One for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def _as_done(futures: Iterable[Future[Any]]) -> Iterator[Future[Any]]:
    """Futures as they end. Short waits, since not every system wakes a waiting thread for Ctrl-C."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        yield from done


class _Stopped(Exception):
    """Ends the work of a thread whose result nobody waits for."""


class _Shared:
    """What threads have in common: hashes and scans of inputs, each made once and dropped after its last use."""

    def __init__(self, recordings: Iterable[Recording]) -> None:
        self._uses = Counter(_input_of(recording) for recording in recordings)
        self._locks = {key: threading.Lock() for key in self._uses}
        self._hashes: dict[Any, str] = {}
        self._scans: dict[Any, tuple[Sound, np.ndarray]] = {}
        self._stopped = threading.Event()

    def hash(self, recording: Recording) -> str:
        """Of a recording's input."""
        key = _input_of(recording)
        with self._locks[key]:
            if key not in self._hashes:
                self._hashes[key] = content_hash(recording.raw_path, self.between)
            return self._hashes[key]

    def scan(self, recording: Recording) -> tuple[Sound, np.ndarray]:
        """Of a recording's input."""
        key = _input_of(recording)
        with self._locks[key]:
            if key not in self._scans:
                self._scans[key] = scan(*key, recording.sample_rate, self.between)
            return self._scans[key]

    def release(self, recording: Recording) -> None:
        """A recording is done with its input."""
        key = _input_of(recording)
        with self._locks[key]:
            self._uses[key] -= 1
            if not self._uses[key]:
                self._scans.pop(key, None)

    def stop(self) -> None:
        """All threads end with their next block."""
        self._stopped.set()

    def between(self) -> None:
        """Called by threads between blocks."""
        if self._stopped.is_set():
            raise _Stopped


def _input_of(recording: Recording) -> tuple[str, int, int]:
    return recording.raw_path, recording.start, recording.stop


def _measured(recording: Recording, shared: _Shared) -> Measurement | ValueError:
    """In a thread."""
    paths = recording.raw_path, recording.processed_path
    try:
        before = [stamp(path) for path in paths]
        key = _key(recording, shared.hash(recording), content_hash(recording.processed_path, shared.between))
        found = _recalled(key)
        if found is None:
            found = _measure(recording, shared)
            if before == [stamp(path) for path in paths]:  # the hashes are of what was measured
                cache.keep(_KIND, key, asdict(found))
        return found
    except FileNotFoundError:
        raise
    except ValueError as error:
        return error
    except OSError as error:  # a disk that fails
        return ValueError(f"{error.filename or recording.processed_path}: {error.strerror}; copy it again")
    finally:
        shared.release(recording)


def _measure(recording: Recording, shared: _Shared) -> Measurement:
    processed, processed_db = scan(
        recording.processed_path, recording.start, recording.stop, recording.sample_rate, shared.between
    )
    raw, raw_db = shared.scan(recording)
    aligned = alignment(_stretches(recording, shared.between))
    if aligned is None:
        return Measurement(raw, processed, None, None)
    late = round(aligned.lag_samples * LEVELS_PER_SECOND / recording.sample_rate)
    return Measurement(raw, processed, aligned, compared(raw_db, processed_db, late))


def _stretches(recording: Recording, between: Callable[[], object]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    start, stop = recording.start, recording.stop
    length = min(STRETCH_FRAMES, stop - start)
    count = min(_STRETCHES, 2 * (stop - start) // length)
    for first in np.unique(np.linspace(start, stop - length, count).astype(int)):
        between()
        begin, end = int(first), int(first) + length
        yield read_audio(recording.raw_path, begin, end)[0], read_audio(recording.processed_path, begin, end)[0]


def _known(recording: Recording) -> Measurement | None:
    """What was measured before, if neither file has to be read to know that it is the same."""
    raw, processed = known_hash(recording.raw_path), known_hash(recording.processed_path)
    return None if raw is None or processed is None else _recalled(_key(recording, raw, processed))


def _key(recording: Recording, raw_hash: str, processed_hash: str) -> str:
    stretch = recording.start, recording.stop, recording.sample_rate
    return " ".join(map(str, (MEASURING_VERSION, raw_hash, processed_hash, *stretch)))


def _recalled(key: str) -> Measurement | None:
    kept = cache.recall(_KIND, key)
    try:
        return (
            None
            if kept is None
            else Measurement(
                Sound(**kept["raw"]),
                Sound(**kept["processed"]),
                kept["alignment"] and Alignment(**kept["alignment"]),
                kept["levels"] and Levels(**kept["levels"]),
            )
        )
    except (TypeError, LookupError):  # not what this version writes
        return None
