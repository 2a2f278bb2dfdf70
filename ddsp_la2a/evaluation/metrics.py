"""How far an estimate is from its target: every error column of ``scores.csv``, one function each.

All take two mono recordings of the same length, compute in float64 and score the frames from ``start`` on. What comes
before ``start`` is not scored, but it does run through the filters and averages, which are warm when scoring begins.
:func:`scores` computes all of them. Everything is summed up over blocks, so that no recording is too long; how is in
:mod:`~ddsp_la2a.evaluation.errors`, :mod:`~ddsp_la2a.evaluation.spectra`, :mod:`~ddsp_la2a.evaluation.levels` and
:mod:`~ddsp_la2a.evaluation.loudness`.

A number that isn't defined is NaN, never a huge one: each docstring says when. *Silent* means an RMS of no more than
1e-8 (−160 dBFS) on the scored frames, *constant* the same of what the DC filter leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ddsp_la2a.evaluation.errors import Errors
from ddsp_la2a.evaluation.levels import DynamicRange, GainError
from ddsp_la2a.evaluation.loudness import Loudness
from ddsp_la2a.evaluation.scored_audio import Array, TooShortError, difference, feed, pair
from ddsp_la2a.evaluation.spectra import MultiResolution


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
    return _errors(estimate, target, start).esr


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
    return _errors(estimate, target, start).esr_dc_filtered


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
    return _errors(estimate, target, start).esr_best_gain


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
    return _errors(estimate, target, start).gain_offset_db


def mae(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Mean absolute error.

        mean |ŷ − y|

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        Amplitude, full scale 1; defined for silence too.
    """
    return _errors(estimate, target, start).mae


def mr_stft(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Multi-resolution STFT distance, as auraloss defines it by default.

        mean over resolutions of ‖|Y| − |Ŷ|‖_F / ‖|Y|‖_F + mean |ln |Y| − ln |Ŷ||

    The value is that of ``auraloss.freq.MultiResolutionSTFTLoss()(estimate, target)`` on the whole recording, summed in
    float64, without gigabytes of spectra. The target divides: the order of the arguments matters.

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
    return feed(MultiResolution(), pair(estimate, target, start), start).distance


def polarity(estimate: NDArray[Any], target: NDArray[Any], *, start: int = 0) -> float:
    """Sign of the correlation, without the offset: −1 for a device or a wire that inverts.

        sign Σ (h∗ŷ) (h∗y)

    Args, Shape, Raises: as :func:`esr`.

    Returns:
        1.0 or −1.0; 0.0 if either is silent or they are orthogonal.
    """
    return _errors(estimate, target, start).polarity


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
    return feed(Scores(sample_rate), pair(estimate, target, start), start).by_name


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


class Scores:
    """Sums every metric of this module up over blocks.

    Args:
        sample_rate: Sampling rate in Hz.
    """

    def __init__(self, sample_rate: float) -> None:
        self._errors, self._spectra, self._gain = Errors(), MultiResolution(), GainError(sample_rate)
        self._loudness, self._range = Loudness(sample_rate, 2), DynamicRange(sample_rate, 2)

    def add(self, audio: Array, skip: int) -> None:
        """Take the next frames of estimate and target."""
        for each in (self._errors, self._spectra, self._gain, self._loudness, self._range):
            each.add(audio, skip)

    @property
    def by_name(self) -> dict[str, float]:
        """What :func:`scores` returns."""
        errors = self._errors
        return {
            "esr": errors.esr,
            "esr_dc_filtered": errors.esr_dc_filtered,
            "esr_best_gain": errors.esr_best_gain,
            "gain_offset_db": errors.gain_offset_db,
            "gain_error_db": _nan_if_too_short(lambda: self._gain.value),
            "mae": errors.mae,
            "mr_stft": _nan_if_too_short(lambda: self._spectra.distance),
            "lufs_difference": _nan_if_too_short(lambda: difference(self._loudness.lufs)),
            "ldr_difference_db": difference(self._range.ldr_db),
            "polarity": errors.polarity,
        }


def _nan_if_too_short(metric: Callable[[], float]) -> float:
    try:
        return metric()
    except TooShortError:
        return math.nan


def _errors(estimate: NDArray[Any], target: NDArray[Any], start: int) -> Errors:
    return feed(Errors(), pair(estimate, target, start), start)
