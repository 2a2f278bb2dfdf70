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
from scipy.signal import get_window, lfilter

from ddsp_la2a.units import LEVEL_FLOOR, amplitude_to_db, seconds_to_frames

Array = NDArray[np.float64]

DC_FILTER = ((1.0, -1.0), (1.0, -0.995))
"""Numerator and denominator of (1 − z⁻¹)/(1 − 0.995 z⁻¹), which removes the offset before an error is measured."""

LEVEL_FRAME_SECONDS = 0.05
"""Frame of :func:`gain_error_db`."""

LEVEL_GATE_DB = -60.0
"""Frames whose target has less RMS level than this (dBFS) don't count in :func:`gain_error_db`."""

LDR_SHORT_SECONDS, LDR_LONG_SECONDS = 0.05, 3.0
"""Time constants of the two averages of :func:`ldr_db`."""

LOUDNESS_BLOCK_SECONDS, LOUDNESS_STEP_SECONDS = 0.4, 0.1
"""Gating block of BS.1770 and the step between blocks."""

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
    estimate, target = _pair(estimate, target, start)
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
    estimate, target = _pair(estimate, target, start)
    return _without_dc(estimate - target, start), _without_dc(target, start)


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
    estimate, target = _pair(estimate, target, start)
    y_hat, y = _without_dc(estimate, start), _without_dc(target, start)
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
    estimate, target = _pair(estimate, target, start)
    gain = _best_gain(_without_dc(estimate, start), _without_dc(target, start))
    return 20.0 * math.log10(abs(gain)) if gain else math.nan


def gain_error_db(estimate: NDArray[Any], target: NDArray[Any], sample_rate: float, *, start: int = 0) -> float:
    """How far the level of the estimate strays from that of the target, offset included.

        √ mean_k (L_k(ŷ) − L_k(y))²,   L_k = 20 log10 of the RMS of frame k

    over consecutive frames of 50 ms whose target lies above −60 dBFS; an incomplete last frame is left out. With a
    common input this is the error of the gain curve, seen at the resolution of a level meter.

    Args:
        estimate, target, start: as :func:`esr`.
        sample_rate: Sampling rate in Hz.

    Shape: both (time,).

    Returns:
        dB, at least 0; NaN if no frame of the target lies above −60 dBFS. A silent frame of the estimate counts as
        −160 dBFS.

    Raises:
        ValueError: as :func:`esr`, or fewer scored frames than 50 ms.
    """
    estimate, target = _pair(estimate, target, start)
    frame = max(1, seconds_to_frames(LEVEL_FRAME_SECONDS, sample_rate))
    _require_length("gain_error_db", len(target) - start, frame)
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


def mae(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Mean absolute error.

        mean |ŷ − y|

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        Amplitude, full scale 1; defined for silence too.
    """
    estimate, target = _pair(estimate, target, start)
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
    estimate, target = _pair(estimate, target, start)
    # Half an FFT is mirrored at both ends.
    _require_length("mr_stft", len(target) - start, max(size for size, _, _ in STFT_RESOLUTIONS) // 2 + 1)
    if _is_silent(target[start:]):
        return math.nan
    distances = [_stft_distance(estimate[start:], target[start:], *resolution) for resolution in STFT_RESOLUTIONS]
    return sum(distances) / len(distances)


def loudness_lufs(audio: NDArray[Any], sample_rate: float) -> float:
    """Integrated loudness of a mono recording: K-weighting, blocks of 0.4 s, gates at −70 LUFS and −10 LU.

    Args:
        audio: Audio, full scale 1.
        sample_rate: Sampling rate in Hz.

    Shape: (time,).

    Returns:
        LUFS (−3.01 for a full-scale sine of 997 Hz); −∞ if no block is louder than −70 LUFS.

    Raises:
        ValueError: as :func:`esr`, or a recording shorter than 0.4 s.

    References:
        ITU-R BS.1770-4, 2015, Annex 1.
        C. J. Steinmetz, J. D. Reiss, "pyloudnorm: a simple yet flexible loudness meter in Python", AES 150, 2021.
    """
    from pyloudnorm import Meter

    audio = _mono("audio", audio)
    block = math.ceil(LOUDNESS_BLOCK_SECONDS * sample_rate)
    _require_length("loudness", len(audio), block)
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
        estimate, target, start: as :func:`esr`.
        sample_rate: Sampling rate in Hz.

    Shape: both (time,).

    Returns:
        LU, positive for an estimate that is too loud; NaN if either has no block louder than −70 LUFS.

    Raises:
        ValueError: as :func:`esr`, or less than 0.4 s to score.

    References:
        as :func:`loudness_lufs`.
    """
    estimate, target = _pair(estimate, target, start)
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
        ValueError: as :func:`esr`.

    References:
        C.-Y. Yu, G. Fazekas, "Sound matching an analogue levelling amplifier using the Newton-Raphson method",
        AES AIMLA 2025, arXiv 2509.10706.
    """
    audio = _mono("audio", audio)
    _require_start(start, len(audio))
    if _is_silent(audio[start:]):
        return math.nan
    power = np.maximum(lfilter(*DC_FILTER, audio) ** 2, LEVEL_FLOOR**2)
    short, long = (_average(power, tau * sample_rate)[start:] for tau in (LDR_SHORT_SECONDS, LDR_LONG_SECONDS))
    return math.sqrt(np.mean((10.0 * np.log10(short / long)) ** 2))


def ldr_difference_db(estimate: NDArray[Any], target: NDArray[Any], sample_rate: float, *, start: int = 0) -> float:
    """Difference of loudness dynamic range: negative where the estimate compresses more than the target.

        LDR(ŷ) − LDR(y)

    Args:
        estimate, target, start: as :func:`esr`.
        sample_rate: Sampling rate in Hz.

    Shape: both (time,).

    Returns:
        dB; NaN if either is silent.

    Raises:
        ValueError: as :func:`esr`.

    References:
        as :func:`ldr_db`.
    """
    estimate, target = _pair(estimate, target, start)
    return ldr_db(estimate, sample_rate, start=start) - ldr_db(target, sample_rate, start=start)


def polarity(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Sign of the correlation, without the offset: −1 for a device or a wire that inverts.

        sign Σ (h∗ŷ) (h∗y)

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        1.0 or −1.0; 0.0 if either is silent or they are orthogonal.
    """
    estimate, target = _pair(estimate, target, start)
    return float(np.sign(_without_dc(estimate, start) @ _without_dc(target, start)))


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
    estimate, target = _pair(estimate, target, start)
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


class _TooShortError(ValueError):
    """The recording is sound, but too short for this metric."""


def _nan_if_too_short(metric: Callable[[], float]) -> float:
    try:
        return metric()
    except _TooShortError:
        return math.nan


def _without_dc(audio: Array, start: int) -> Array:
    """DC-filtered scored frames; zeros where only the filter's memory of what came before would be left."""
    filtered = lfilter(*DC_FILTER, audio)[start:]
    return np.zeros_like(filtered) if _is_silent(audio[start:]) or _is_silent(filtered) else filtered


def _average(power: Array, frames: float) -> Array:
    coefficient = -math.expm1(-1.0 / frames)
    return lfilter([coefficient], [1.0, coefficient - 1.0], power)


def _is_silent(audio: Array) -> bool:
    return bool(audio @ audio <= len(audio) * LEVEL_FLOOR**2)


def _energy_ratio(error: Array, reference: Array) -> float:
    return math.nan if _is_silent(reference) else float(error @ error / (reference @ reference))


def _best_gain(y_hat: Array, y: Array) -> float:
    """Least-squares gain from ŷ to y; 0 where ŷ is silent and any gain is as good."""
    return 0.0 if _is_silent(y_hat) else float(y_hat @ y / (y_hat @ y_hat))


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


def _pair(estimate: NDArray[Any], target: NDArray[Any], start: int) -> tuple[Array, Array]:
    estimate, target = _mono("estimate", estimate), _mono("target", target)
    if len(estimate) != len(target):
        raise ValueError(
            f"expected estimate and target of the same length, got {len(estimate)} and {len(target)} frames: "
            "cut both to the part they share"
        )
    _require_start(start, len(target))
    return estimate, target


def _mono(name: str, audio: NDArray[Any]) -> Array:
    audio = np.asarray(audio)
    if not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(
            f"{name}: expected floating-point audio with full scale 1, got {audio.dtype}: convert it first"
        )
    if audio.ndim != 1:
        raise ValueError(f"{name}: expected mono audio of shape (time,), got shape {audio.shape}")
    if not len(audio):
        raise ValueError(f"{name}: expected at least one frame, got none")
    audio = audio.astype(np.float64, copy=False)
    if not np.isfinite(audio).all():
        raise ValueError(
            f"{name}: expected finite samples, got {np.count_nonzero(~np.isfinite(audio))} NaN or infinite"
        )
    return audio


def _require_start(start: int, frames: int) -> None:
    if not 0 <= start < frames:
        raise ValueError(f"start: expected a frame from 0 to {frames - 1} (the recording's last), got {start}")


def _require_length(metric: str, frames: int, least: int) -> None:
    if frames < least:
        raise _TooShortError(f"{metric}: expected at least {least} frames to score, got {frames}: give more audio")
