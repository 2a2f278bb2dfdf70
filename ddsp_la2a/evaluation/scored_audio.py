"""Recordings as metrics take them: checked, mono, in float64, block by block; and what counts as silence in them.

A metric is summed up by an :class:`Accumulator`, which is fed blocks of any length and remembers what it needs of those
before: hours take no more memory than seconds. The frames ahead of the first scored one are fed too, because filters
and averages run through them.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from ddsp_la2a.units import LEVEL_FLOOR

Array = NDArray[np.float64]

DC_FILTER = ((1.0, -1.0), (1.0, -0.995))
"""Numerator and denominator of (1 − z⁻¹)/(1 − 0.995 z⁻¹), which removes the offset before an error is measured."""

_BLOCK_FRAMES = 1 << 16
"""Frames that are computed with at once: half a megabyte a signal, which stays in the cache."""


class TooShortError(ValueError):
    """The recording is sound, but too short for this metric."""


class Accumulator(Protocol):
    """What sums up a metric over blocks; how a recording is cut into them makes no difference."""

    def add(self, audio: Array, skip: int) -> None:
        """Take the next frames of all signals ``(signals, time)``; the first ``skip`` of them aren't scored."""
        ...


Fed = TypeVar("Fed", bound=Accumulator)


def feed(accumulator: Fed, signals: Sequence[NDArray[Any]], skip: int) -> Fed:
    """An accumulator that took the next frames of its signals.

    Args:
        accumulator: is changed.
        signals: ``(time,)`` each, checked, of any floating-point type.
        skip: how many of the frames, from the first on, aren't scored.
    """
    for first in range(0, len(signals[0]), _BLOCK_FRAMES):
        block = np.array([signal[first : first + _BLOCK_FRAMES] for signal in signals], dtype=np.float64)
        accumulator.add(block, min(max(skip - first, 0), block.shape[1]))
    return accumulator


def pair(estimate: NDArray[Any], target: NDArray[Any], start: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both, once they fit together.

    Raises:
        ValueError: no mono audio of finite floating-point numbers, other lengths, or ``start`` beyond the end.
    """
    estimate, target = mono("estimate", estimate), mono("target", target)
    if len(estimate) != len(target):
        raise ValueError(
            f"expected estimate and target of the same length, got {len(estimate)} and {len(target)} frames: "
            "cut both to the part they share"
        )
    require_start(start, len(target))
    return estimate, target


def mono(name: str, audio: NDArray[Any]) -> NDArray[Any]:
    """Audio as an array, once it is mono, finite and not empty.

    Args:
        name: for messages.
        audio: ``(time,)``.
    """
    audio = np.asarray(audio)
    if not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(
            f"{name}: expected floating-point audio with full scale 1, got {audio.dtype}: convert it first"
        )
    if audio.ndim != 1:
        raise ValueError(f"{name}: expected mono audio of shape (time,), got shape {audio.shape}")
    if not len(audio):
        raise ValueError(f"{name}: expected at least one frame, got none")
    if not np.isfinite(audio).all():
        raise ValueError(
            f"{name}: expected finite samples, got {np.count_nonzero(~np.isfinite(audio))} NaN or infinite"
        )
    return audio


def require_start(start: int, frames: int) -> None:
    """Refuse a first frame that isn't in the recording."""
    if not 0 <= start < frames:
        raise ValueError(f"start: expected a frame from 0 to {frames - 1} (the recording's last), got {start}")


def require_length(metric: str, frames: int, least: int) -> None:
    """Refuse fewer frames than a metric needs."""
    if frames < least:
        raise TooShortError(f"{metric}: expected at least {least} frames to score, got {frames}: give more audio")


def difference(values: Sequence[float]) -> float:
    """Estimate's minus target's; NaN where either isn't finite."""
    estimate, target = values
    return estimate - target if math.isfinite(estimate) and math.isfinite(target) else math.nan


class Filter:
    """A recursive filter that remembers.

    Args:
        numerator, denominator: coefficients.
        signals: how many it filters, each on its own.
    """

    def __init__(self, numerator: Sequence[float], denominator: Sequence[float], signals: int) -> None:
        self._coefficients = numerator, denominator
        self._state = np.zeros((signals, max(len(numerator), len(denominator)) - 1))

    def __call__(self, audio: NDArray[np.floating]) -> Array:
        """The next frames, filtered ``(signals, time)``."""
        if not audio.shape[1]:
            return np.asarray(audio)  # lfilter makes no state of no frames
        filtered, self._state = lfilter(*self._coefficients, audio, zi=self._state)
        return np.asarray(filtered)


class Energies:
    """Energy of every signal on the scored frames.

    Attributes:
        frames: how many were scored.
        sums: ``(signals,)``.
    """

    def __init__(self, signals: int) -> None:
        self.frames, self.sums = 0, np.zeros(signals)

    def add(self, scored: Array) -> None:
        """Take the next scored frames ``(signals, time)``."""
        self.frames += scored.shape[1]
        self.sums += [signal @ signal for signal in scored]

    @property
    def silent(self) -> NDArray[np.bool_]:
        """Which signals have an RMS of no more than 1e-8 (−160 dBFS) ``(signals,)``."""
        return np.asarray(self.sums <= self.frames * LEVEL_FLOOR**2)


class PieceEnergies:
    """Energy of every signal on consecutive pieces of the scored frames.

    Args:
        edge: gives the frame where piece 0, 1, 2, … starts, counted from the first scored one.
        signals: how many.

    Attributes:
        frames: how many were scored.
    """

    def __init__(self, edge: Callable[[int], int], signals: int) -> None:
        self.frames = 0
        self._edge = edge
        self._whole = array("d")  # piece after piece
        self._open = np.zeros(signals)

    def add(self, scored: Array) -> None:
        """Take the next scored frames ``(signals, time)``."""
        squares, start = np.square(scored), 0
        while (stop := self._edge(self._pieces + 1) - self.frames) <= squares.shape[1]:
            self._whole.extend(self._open + squares[:, start:stop].sum(axis=1))
            self._open, start = np.zeros(len(squares)), stop
        self._open += squares[:, start:].sum(axis=1)
        self.frames += squares.shape[1]

    @property
    def _pieces(self) -> int:
        return len(self._whole) // len(self._open)

    @property
    def whole(self) -> Array:
        """Of all pieces but an incomplete last one ``(signals, pieces)``."""
        return np.array(self._whole).reshape(self._pieces, len(self._open)).T

    @property
    def all(self) -> Array:
        """Of all pieces ``(signals, pieces)``; the last one may be shorter."""
        rest = self.frames > self._edge(self._pieces)
        return np.column_stack([self.whole, self._open]) if rest else self.whole


class WithoutDc:
    """Signals through the DC filter, and their energy behind it on the scored frames.

    Args:
        signals: how many.
    """

    def __init__(self, signals: int) -> None:
        self._filter = Filter(*DC_FILTER, signals)
        self._before, self._behind = Energies(signals), Energies(signals)

    def add(self, audio: Array, skip: int) -> Array:
        """The next scored frames, filtered; arguments as of :class:`Accumulator`."""
        filtered = self._filter(audio)[:, skip:]
        self._before.add(audio[:, skip:])
        self._behind.add(filtered)
        return filtered

    @property
    def silent(self) -> NDArray[np.bool_]:
        """Which signals are silent or constant: of those only the filter's memory of what came before would be left."""
        return self._before.silent | self._behind.silent

    @property
    def energies(self) -> Array:
        """``(signals,)``; zero where silent."""
        return np.where(self.silent, 0.0, self._behind.sums)
