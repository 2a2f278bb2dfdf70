"""Levels and loudness of recordings over time, and how far an estimate's stray from its target's.

Conventions as in :mod:`~ddsp_la2a.evaluation.metrics`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from ddsp_la2a.evaluation.scored_audio import DC_FILTER, Array, is_silent, mono, pair, require_length, require_start
from ddsp_la2a.units import LEVEL_FLOOR, amplitude_to_db, seconds_to_frames

LEVEL_FRAME_SECONDS = 0.05
"""Frame of :func:`gain_error_db`."""

LEVEL_GATE_DB = -60.0
"""Frames whose target has less RMS level than this (dBFS) don't count in :func:`gain_error_db`."""

LDR_SHORT_SECONDS, LDR_LONG_SECONDS = 0.05, 3.0
"""Time constants of the two averages of :func:`ldr_db`."""

LOUDNESS_BLOCK_SECONDS, LOUDNESS_STEP_SECONDS = 0.4, 0.1
"""Gating block of BS.1770 and the step between blocks."""


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
    estimate, target = pair(estimate, target, start)
    frame = max(1, seconds_to_frames(LEVEL_FRAME_SECONDS, sample_rate))
    require_length("gain_error_db", len(target) - start, frame)
    level_hat, level = (frame_levels_db(audio[start:], frame) for audio in (estimate, target))
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


def loudness_lufs(audio: NDArray[Any], sample_rate: float) -> float:
    """Integrated loudness of a mono recording: K-weighting, blocks of 0.4 s, gates at −70 LUFS and −10 LU.

    Args:
        audio: Audio, full scale 1.
        sample_rate: Sampling rate in Hz.

    Shape: (time,).

    Returns:
        LUFS (−3.01 for a full-scale sine of 997 Hz); −∞ if no block is louder than −70 LUFS.

    Raises:
        ValueError: as :func:`~ddsp_la2a.evaluation.metrics.esr`, or a recording shorter than 0.4 s.

    References:
        ITU-R BS.1770-4, 2015, Annex 1.
        C. J. Steinmetz, J. D. Reiss, "pyloudnorm: a simple yet flexible loudness meter in Python", AES 150, 2021.
    """
    from pyloudnorm import Meter

    audio = mono("audio", audio)
    block = math.ceil(LOUDNESS_BLOCK_SECONDS * sample_rate)
    require_length("loudness", len(audio), block)
    # BS.1770 leaves an incomplete last block out, pyloudnorm would count it as a full one.
    steps = math.floor((len(audio) / sample_rate - LOUDNESS_BLOCK_SECONDS) / LOUDNESS_STEP_SECONDS + 1e-9)
    whole_blocks = block + math.ceil(steps * LOUDNESS_STEP_SECONDS * sample_rate)
    # pyloudnorm's default filters read 0.04 LU low at 997 Hz; these are the standard's.
    return float(Meter(sample_rate, filter_class="DeMan").integrated_loudness(audio[:whole_blocks]))


def lufs_difference(estimate: NDArray[Any], target: NDArray[Any], sample_rate: float, *, start: int = 0) -> float:
    """Difference of integrated loudness.

        LUFS(ŷ) − LUFS(y)

    The recordings are cut at ``start`` first: the weighting filters settle in a few hundredths of a second.

    Args:
        estimate, target, start: as :func:`~ddsp_la2a.evaluation.metrics.esr`.
        sample_rate: Sampling rate in Hz.

    Shape: both (time,).

    Returns:
        LU, positive for an estimate that is too loud; NaN if either has no block louder than −70 LUFS.

    Raises:
        ValueError: as :func:`~ddsp_la2a.evaluation.metrics.esr`, or less than 0.4 s to score.

    References:
        as :func:`loudness_lufs`.
    """
    estimate, target = pair(estimate, target, start)
    loudness_hat, loudness = (loudness_lufs(audio[start:], sample_rate) for audio in (estimate, target))
    return loudness_hat - loudness if math.isfinite(loudness_hat) and math.isfinite(loudness) else math.nan


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
    if is_silent(audio[start:]):
        return math.nan
    power = np.maximum(lfilter(*DC_FILTER, audio) ** 2, LEVEL_FLOOR**2)
    short, long = (_average(power, tau * sample_rate)[start:] for tau in (LDR_SHORT_SECONDS, LDR_LONG_SECONDS))
    return math.sqrt(np.mean((10.0 * np.log10(short / long)) ** 2))


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
    estimate, target = pair(estimate, target, start)
    return ldr_db(estimate, sample_rate, start=start) - ldr_db(target, sample_rate, start=start)


def _average(power: Array, frames: float) -> Array:
    coefficient = -math.expm1(-1.0 / frames)
    return lfilter([coefficient], [1.0, coefficient - 1.0], power)
