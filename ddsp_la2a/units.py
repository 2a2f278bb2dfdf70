"""Conversions between decibels, amplitudes, integer full scale and time constants.

The only module in which these constants live. All functions take Python numbers, numpy arrays or torch tensors and
return the same kind, so that one formula serves the signal path, the fit and the tests. Tensors are known by a method:
who only looks through recordings needn't wait for torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LEVEL_FLOOR = 1e-8
"""Smallest amplitude that the level detector tells from silence (−160 dBFS)."""

FULL_SCALE_16_BIT = 32768
"""Steps from zero to full scale of a 16-bit sample."""

DB_PER_NEPER = 20.0 / math.log(10.0)
"""Decibels in one neper (natural logarithm of an amplitude ratio)."""

DB_PER_OCTAVE = 20.0 * math.log10(2.0)
"""Decibels in a doubling of an amplitude."""

RISE_TIME_TO_TIME_CONSTANT = math.log(9.0)
"""A one-pole's 10–90 % rise time is ln 9 ≈ 2.197 of its time constants."""


def _by_numpy(value: Any) -> bool:
    # The first question is for torch.compile, to which an array has what a tensor has.
    return isinstance(value, np.ndarray) or not hasattr(value, "clamp_min")


def _exp(value: Any) -> Any:
    return np.exp(value) if _by_numpy(value) else value.exp()


def _log(value: Any) -> Any:
    return np.log(value) if _by_numpy(value) else value.log()


def db_to_amplitude(db: Any) -> Any:
    """Amplitude ratio of a level in dB: 10^(db / 20)."""
    return _exp(db / DB_PER_NEPER)


def amplitude_to_db(amplitude: Any) -> Any:
    """Level in dB of an amplitude, floored at :data:`LEVEL_FLOOR`: 20 log10(max(amplitude, 1e-8))."""
    if _by_numpy(amplitude):
        return DB_PER_NEPER * np.log(np.maximum(amplitude, LEVEL_FLOOR))
    return DB_PER_NEPER * amplitude.clamp_min(LEVEL_FLOOR).log()


def rise_time_to_coefficient(time_ms: Any, sample_rate: float) -> Any:
    """One-pole coefficient α = 1 − exp(−ln 9 / (t · fs)) of a 10–90 % rise time t in milliseconds.

    The pole is 1 − α. Computed with expm1, so that long times keep all their digits.
    """
    exponent = _decay_of_a_sample(time_ms, sample_rate)
    return -np.expm1(exponent) if _by_numpy(exponent) else -exponent.expm1()


def rise_time_derivative(time_ms: Any, sample_rate: float) -> Any:
    """Derivative of :func:`rise_time_to_coefficient` for the time, per millisecond."""
    exponent = _decay_of_a_sample(time_ms, sample_rate)
    return _exp(exponent) * exponent / time_ms


def _decay_of_a_sample(time_ms: Any, sample_rate: float) -> Any:
    return (-RISE_TIME_TO_TIME_CONSTANT * 1000.0 / sample_rate) / time_ms


def coefficient_to_rise_time(coefficient: Any, sample_rate: float) -> Any:
    """10–90 % rise time in milliseconds of a one-pole coefficient α; inverse of :func:`rise_time_to_coefficient`."""
    decay = np.log1p(-coefficient) if _by_numpy(coefficient) else (-coefficient).log1p()
    return -RISE_TIME_TO_TIME_CONSTANT * 1000.0 / (decay * sample_rate)


def seconds_to_frames(seconds: float, sample_rate: float) -> int:
    """Whole number of frames nearest to a duration in seconds."""
    return round(seconds * sample_rate)
