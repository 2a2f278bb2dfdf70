"""Levels of recordings over time, and how far an estimate's stray from its target's.

Conventions as in :mod:`~ddsp_la2a.evaluation.metrics`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddsp_la2a.evaluation.scored_audio import (
    DC_FILTER,
    Array,
    Energies,
    Filter,
    PieceEnergies,
    difference,
    feed,
    mono,
    pair,
    require_length,
    require_start,
)
from ddsp_la2a.units import LEVEL_FLOOR, amplitude_to_db, seconds_to_frames

LEVEL_FRAME_SECONDS = 0.05
"""Frame of :func:`gain_error_db`."""

LEVEL_GATE_DB = -60.0
"""Frames whose target has less RMS level than this (dBFS) don't count in :func:`gain_error_db`."""

LDR_SHORT_SECONDS, LDR_LONG_SECONDS = 0.05, 3.0
"""Time constants of the two averages of :func:`ldr_db`."""


def gain_error_db(estimate: NDArray[Any], target: NDArray[Any], sample_rate: float, *, start: int = 0) -> float:
    """How far the level of the estimate strays from that of the target, offset included.

        √ mean_k (L_k(ŷ) − L_k(y))²,   L_k = 20 log10 of the RMS of frame k

    over consecutive frames of 50 ms whose target lies above −60 dBFS; an incomplete last frame is left out. With a
    common input this is the error of the gain curve, seen at the resolution of a level meter.

    Args:
        estimate, target, start: as :func:`~ddsp_la2a.evaluation.metrics.esr`.
        sample_rate: Sampling rate in Hz.

    Shape: both (time,).

    Returns:
        dB, at least 0; NaN if no frame of the target lies above −60 dBFS. A silent frame of the estimate counts as
        −160 dBFS.

    Raises:
        ValueError: as :func:`~ddsp_la2a.evaluation.metrics.esr`, or fewer scored frames than 50 ms.
    """
    return feed(GainError(sample_rate), pair(estimate, target, start), start).value


class GainError:
    """Sums :func:`gain_error_db` up over blocks.

    Args:
        sample_rate: Sampling rate in Hz.
    """

    def __init__(self, sample_rate: float) -> None:
        self._frame = max(1, seconds_to_frames(LEVEL_FRAME_SECONDS, sample_rate))
        self._energies = PieceEnergies(lambda number: number * self._frame, 2)

    def add(self, audio: Array, skip: int) -> None:
        """Take the next frames of estimate and target."""
        self._energies.add(audio[:, skip:])

    @property
    def value(self) -> float:
        """In dB.

        Raises:
            TooShortError: fewer scored frames than 50 ms.
        """
        require_length("gain_error_db", self._energies.frames, self._frame)
        level_hat, level = amplitude_to_db(np.sqrt(self._energies.whole / self._frame))
        active = level > LEVEL_GATE_DB
        return math.sqrt(np.mean((level_hat - level)[active] ** 2)) if active.any() else math.nan


def frame_levels_db(audio: NDArray[Any], frame: int) -> Array:
    """RMS level of consecutive frames, as a level meter reads it; an incomplete last frame is left out.

    Args:
        audio: Audio, full scale 1.
        frame: Samples of a frame.

    Shape: (time,) → (time // frame,).

    Returns:
        dBFS; −160 for silence.
    """
    frames = np.asarray(audio[: len(audio) // frame * frame], dtype=np.float64).reshape(-1, frame)
    return np.asarray(amplitude_to_db(np.sqrt(np.mean(frames**2, axis=1))))


def ldr_db(audio: NDArray[Any], sample_rate: float, *, start: int = 0) -> float:
    """Loudness dynamic range: how far the level over 50 ms strays from the level over 3 s.

        √ mean_n (10 log10(p_short[n] / p_long[n]))²
        p[n] = p[n−1] + a (max((h∗x)²[n], 1e−16) − p[n−1]),   a = 1 − exp(−1 / (τ fs)),   p[−1] = 0

    As in the program behind the published figures: the DC filter of :func:`esr_dc_filtered` comes first, 50 ms and 3 s
    are time constants τ (not rise times), and both averages start at zero, so that the first seconds of a recording
    count as dynamics unless ``start`` leaves them out.

    Args:
        audio: Audio, full scale 1.
        sample_rate: Sampling rate in Hz.
        start: First scored frame.

    Shape: (time,).

    Returns:
        dB, at least 0; NaN for silence.

    Raises:
        ValueError: as :func:`~ddsp_la2a.evaluation.metrics.esr`.

    References:
        C.-Y. Yu, G. Fazekas, "Sound matching an analogue levelling amplifier using the Newton-Raphson method",
        AES AIMLA 2025, arXiv 2509.10706.
    """
    audio = mono("audio", audio)
    require_start(start, len(audio))
    (found,) = feed(DynamicRange(sample_rate, 1), [audio], start).ldr_db
    return found


class DynamicRange:
    """Sums :func:`ldr_db` up over blocks.

    Args:
        sample_rate: Sampling rate in Hz.
        signals: how many recordings, each on its own.
    """

    def __init__(self, sample_rate: float, signals: int) -> None:
        coefficients = [-math.expm1(-1.0 / (tau * sample_rate)) for tau in (LDR_SHORT_SECONDS, LDR_LONG_SECONDS)]
        self._filter = Filter(*DC_FILTER, signals)
        self._short, self._long = (Filter([a], [1.0, a - 1.0], signals) for a in coefficients)
        self._audio, self._strays = Energies(signals), Energies(signals)

    def add(self, audio: Array, skip: int) -> None:
        """Take the next frames of all recordings."""
        power = np.maximum(self._filter(audio) ** 2, LEVEL_FLOOR**2)
        short, long = self._short(power)[:, skip:], self._long(power)[:, skip:]
        self._audio.add(audio[:, skip:])
        self._strays.add(10.0 * np.log10(short / long))

    @property
    def ldr_db(self) -> list[float]:
        """Of every recording; NaN where silent."""
        means = np.where(self._audio.silent, math.nan, self._strays.sums / self._strays.frames)
        return [math.sqrt(mean) for mean in means]


def ldr_difference_db(estimate: NDArray[Any], target: NDArray[Any], sample_rate: float, *, start: int = 0) -> float:
    """Difference of loudness dynamic range: negative where the estimate compresses more than the target.

        LDR(ŷ) − LDR(y)

    Args:
        estimate, target, start: as :func:`~ddsp_la2a.evaluation.metrics.esr`.
        sample_rate: Sampling rate in Hz.

    Shape: both (time,).

    Returns:
        dB; NaN if either is silent.

    Raises:
        ValueError: as :func:`~ddsp_la2a.evaluation.metrics.esr`.

    References:
        as :func:`ldr_db`.
    """
    return difference(feed(DynamicRange(sample_rate, 2), pair(estimate, target, start), start).ldr_db)
