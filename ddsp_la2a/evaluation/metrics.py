"""How far an estimate is from its target: every error column of ``scores.csv``, one function each.

All take two mono recordings of the same length, compute in float64 and score the frames from ``start`` on. What comes
before ``start`` is not scored, but it does run through the filters and averages, which are warm when scoring begins.
:func:`scores` computes all of them.

A number that isn't defined is NaN, never a huge one: each docstring says when. *Silent* means an RMS of no more than
1e-8 (−160 dBFS) on the scored frames, *constant* the same of what the DC filter leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import get_window

from ddsp_la2a.evaluation.levels import gain_error_db, ldr_difference_db, lufs_difference
from ddsp_la2a.evaluation.scored_audio import (
    Array,
    TooShortError,
    is_silent,
    pair,
    require_length,
    without_dc,
)

STFT_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""FFT size, hop and window length of :func:`mr_stft`, in frames: auraloss' defaults."""

STFT_POWER_FLOOR = 1e-8
"""Least squared magnitude of an STFT bin, as in auraloss."""

_STFT_CHUNK_FRAMES = 128
"""STFT frames transformed at once: a few megabytes, which stay in the cache."""


def esr(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Error-to-signal ratio.

        Σ (ŷ − y)² / Σ y²

    Args:
        estimate: Audio ŷ, full scale 1.
        target: Audio y, full scale 1.
        start: First scored frame.

    Shape: both (time,).

    Returns:
        Ratio of energies, at least 0 (0.01 is 1 %, −20 dB); NaN for a silent target.

    Raises:
        ValueError: audio that isn't floating-point, one-dimensional, finite and of one length, or ``start`` outside it.

    References:
        A. Wright, V. Välimäki, "Perceptual loss function for neural modelling of audio systems", ICASSP 2020.
    """
    estimate, target = pair(estimate, target, start)
    return _energy_ratio((estimate - target)[start:], target[start:])


def esr_dc_filtered(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Error-to-signal ratio without the offset: the headline error, as in the published tables.

        Σ (h∗(ŷ − y))² / Σ (h∗y)²,   H(z) = (1 − z⁻¹) / (1 − 0.995 z⁻¹)

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        Ratio of energies, at least 0; NaN for a target that is silent or constant on the scored frames.

    References:
        C.-Y. Yu, G. Fazekas, "Sound matching an analogue levelling amplifier using the Newton-Raphson method",
        AES AIMLA 2025, arXiv 2509.10706.
    """
    return _energy_ratio(*dc_filtered_frames(estimate, target, start=start))


def dc_filtered_frames(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> tuple[Array, Array]:
    """Error and target of the scored frames as :func:`esr_dc_filtered` takes them.

    Args, Raises: as :func:`esr`.

    Shape: (time,) → (time − start,) each.

    Returns:
        h∗(ŷ − y) and h∗y in float64; zeros for a target that is silent or constant on the scored frames.
    """
    estimate, target = pair(estimate, target, start)
    return without_dc(estimate - target, start), without_dc(target, start)


def esr_best_gain(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """DC-filtered error-to-signal ratio after the one gain, taken from the scored frames, that makes it smallest.

        min_g Σ (h∗(g ŷ − y))² / Σ (h∗y)²,   g = ⟨h∗ŷ, h∗y⟩ / ⟨h∗ŷ, h∗ŷ⟩

    The gain may be negative: an inverted estimate scores like an upright one here and shows in :func:`polarity`.

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        Ratio of energies, 0 to 1 (1 for a silent estimate); NaN for a target that is silent or constant on the scored
        frames.

    References:
        as :func:`esr_dc_filtered`; the gain is the least-squares solution in one unknown.
    """
    estimate, target = pair(estimate, target, start)
    y_hat, y = without_dc(estimate, start), without_dc(target, start)
    return _energy_ratio(_best_gain(y_hat, y) * y_hat - y, y)


def gain_offset_db(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """The gain of :func:`esr_best_gain` in dB: what the estimate would have to be turned up by.

        20 log10 |g|

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        dB, positive for an estimate that is too soft; NaN if either is silent or constant, or the two are orthogonal.
        The sign of g is in :func:`polarity`.

    References:
        as :func:`esr_best_gain`.
    """
    estimate, target = pair(estimate, target, start)
    gain = _best_gain(without_dc(estimate, start), without_dc(target, start))
    return 20.0 * math.log10(abs(gain)) if gain else math.nan


def mae(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Mean absolute error.

        mean |ŷ − y|

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        Amplitude, full scale 1; defined for silence too.
    """
    estimate, target = pair(estimate, target, start)
    return float(np.mean(np.abs(estimate - target)[start:]))


def mr_stft(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Multi-resolution STFT distance, as auraloss defines it by default.

        mean over resolutions of ‖|Y| − |Ŷ|‖_F / ‖|Y|‖_F + mean |ln |Y| − ln |Ŷ||

    The value is that of ``auraloss.freq.MultiResolutionSTFTLoss()(estimate, target)`` on the whole recording, summed in
    float64 over pieces, so that ten minutes take seconds and no gigabytes of spectra. The target divides: the order of
    the arguments matters.

    Args:
        estimate, target, start: as :func:`esr`.

    Shape: both (time,).

    Returns:
        At least 0, no unit; NaN for a silent target.

    Raises:
        ValueError: as :func:`esr`, or no more scored frames than half the largest FFT (1024).

    References:
        R. Yamamoto, E. Song, J.-M. Kim, "Parallel WaveGAN", ICASSP 2020.
        C. J. Steinmetz, J. D. Reiss, "auraloss: audio-focused loss functions in PyTorch", DMRN+15, 2020.
    """
    estimate, target = pair(estimate, target, start)
    # Half an FFT is mirrored at both ends.
    require_length("mr_stft", len(target) - start, max(size for size, _, _ in STFT_RESOLUTIONS) // 2 + 1)
    if is_silent(target[start:]):
        return math.nan
    distances = [_stft_distance(estimate[start:], target[start:], *resolution) for resolution in STFT_RESOLUTIONS]
    return sum(distances) / len(distances)


def polarity(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Sign of the correlation, without the offset: −1 for a device or a wire that inverts.

        sign Σ (h∗ŷ) (h∗y)

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        1.0 or −1.0; 0.0 if either is silent or they are orthogonal.
    """
    estimate, target = pair(estimate, target, start)
    return float(np.sign(without_dc(estimate, start) @ without_dc(target, start)))


def scores(estimate: NDArray[Any], target: NDArray[Any], sample_rate: float, *, start: int = 0) -> dict[str, float]:
    """Every metric of this module, under its name in ``scores.csv``.

    Args:
        estimate, target, start: as :func:`esr`.
        sample_rate: Sampling rate in Hz.

    Shape: both (time,).

    Returns:
        Column name to value. A metric that needs a longer recording is NaN here, where its own function raises, so
        that a short recording still has a row.

    Raises:
        ValueError: as :func:`esr`.
    """
    estimate, target = pair(estimate, target, start)
    plain = (esr, esr_dc_filtered, esr_best_gain, gain_offset_db, mae, polarity)
    values = {metric.__name__: metric(estimate, target, start=start) for metric in plain}
    values["ldr_difference_db"] = ldr_difference_db(estimate, target, sample_rate, start=start)
    values["mr_stft"] = _nan_if_too_short(lambda: mr_stft(estimate, target, start=start))
    values["gain_error_db"] = _nan_if_too_short(lambda: gain_error_db(estimate, target, sample_rate, start=start))
    values["lufs_difference"] = _nan_if_too_short(lambda: lufs_difference(estimate, target, sample_rate, start=start))
    return {name: values[name] for name in SCORE_COLUMNS}


SCORE_COLUMNS = (
    "esr",
    "esr_dc_filtered",
    "esr_best_gain",
    "gain_offset_db",
    "gain_error_db",
    "mae",
    "mr_stft",
    "lufs_difference",
    "ldr_difference_db",
    "polarity",
)
"""What :func:`scores` returns, in the order of ``scores.csv``."""


def _nan_if_too_short(metric: Callable[[], float]) -> float:
    try:
        return metric()
    except TooShortError:
        return math.nan


def _energy_ratio(error: Array, reference: Array) -> float:
    return math.nan if is_silent(reference) else float(error @ error / (reference @ reference))


def _best_gain(y_hat: Array, y: Array) -> float:
    """Least-squares gain from ŷ to y; 0 where ŷ is silent and any gain is as good."""
    return 0.0 if is_silent(y_hat) else float(y_hat @ y / (y_hat @ y_hat))


def _stft_distance(estimate: Array, target: Array, fft_size: int, hop: int, window_length: int) -> float:
    """Spectral convergence plus log-magnitude distance at one resolution; frame k is centred on sample k · hop."""
    margin = (fft_size - window_length) // 2
    window = np.pad(get_window("hann", window_length), (margin, fft_size - window_length - margin))
    frames_hat, frames = (
        np.lib.stride_tricks.sliding_window_view(np.pad(audio, fft_size // 2, mode="reflect"), fft_size)[::hop]
        for audio in (estimate, target)
    )
    error = energy = log_distance = 0.0
    for first in range(0, len(frames), _STFT_CHUNK_FRAMES):
        chunk = slice(first, first + _STFT_CHUNK_FRAMES)
        spectra = (fft.rfft(window * part[chunk]) for part in (frames_hat, frames))
        power_hat, power = (np.maximum(s.real**2 + s.imag**2, STFT_POWER_FLOOR) for s in spectra)
        error += float(np.sum((np.sqrt(power_hat) - np.sqrt(power)) ** 2))
        energy += float(np.sum(power))
        log_distance += 0.5 * float(np.sum(np.abs(np.log(power / power_hat))))
    return math.sqrt(error / energy) + log_distance / (len(frames) * (fft_size // 2 + 1))
