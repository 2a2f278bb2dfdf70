"""Two recordings as metrics take them: checked, mono, in float64; and what counts as silence in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from ddsp_la2a.units import LEVEL_FLOOR

Array = NDArray[np.float64]

DC_FILTER = ((1.0, -1.0), (1.0, -0.995))
"""Numerator and denominator of (1 − z⁻¹)/(1 − 0.995 z⁻¹), which removes the offset before an error is measured."""


class TooShortError(ValueError):
    """The recording is sound, but too short for this metric."""


def pair(estimate: NDArray[Any], target: NDArray[Any], start: int) -> tuple[Array, Array]:
    """Both in float64, once they fit together.

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


def mono(name: str, audio: NDArray[Any]) -> Array:
    """Audio in float64, once it is mono, finite and not empty.

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
    audio = audio.astype(np.float64, copy=False)
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


def is_silent(audio: Array) -> bool:
    """Whether the RMS is no more than 1e-8 (−160 dBFS)."""
    return bool(audio @ audio <= len(audio) * LEVEL_FLOOR**2)


def without_dc(audio: Array, start: int) -> Array:
    """DC-filtered scored frames; zeros where only the filter's memory of what came before would be left."""
    filtered = lfilter(*DC_FILTER, audio)[start:]
    return np.zeros_like(filtered) if is_silent(audio[start:]) or is_silent(filtered) else filtered
