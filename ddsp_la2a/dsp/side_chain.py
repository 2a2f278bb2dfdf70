"""What the detector hears: a shelf before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddsp_la2a.units import DB_PER_NEPER

REFERENCE_HZ = 1000.0
"""Where shelf and output filter have unit gain, so that thresholds and make-up mean what a 1 kHz tone shows."""


def shelf_coefficients(shelf_db: Tensor, shelf_hz: Tensor, sample_rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients b0, b1, a1 of a first-order shelf with unit gain at 1 kHz.

    The bilinear transform, exact at ``shelf_hz``, of ::

        H(s) = (1 + √G s) / (1 + s / √G),   s = j f / shelf_hz,   G = 10^(shelf_db / 20)

    which rises by ``shelf_db`` from the lowest to the highest frequencies, half of it (in dB) below ``shelf_hz``;
    then divided by its magnitude at 1 kHz. The LA-2A's R37 (75 µs) is a shelf that rises from about 2 kHz on; a
    side-chain high-pass is one that rises at low frequencies.

    Args:
        shelf_db: highs over lows in dB; negative for a side-chain that hears lows better.
        shelf_hz: centre in Hz, below half the sample rate.
        sample_rate: in Hz.

    Shape:
        both ``()`` or ``(batch,)``; so are the results.

    References:
        Zölzer 2011, "DAFX", 2nd ed., ch. 2.3, for first-order shelving filters.
    """
    root = torch.exp(shelf_db / (2.0 * DB_PER_NEPER))
    warped = torch.tan(torch.pi * shelf_hz / sample_rate)
    b0, b1 = warped + root, warped - root
    a0, a1 = warped + 1.0 / root, warped - 1.0 / root
    gain = _magnitude(b0, b1, sample_rate) / _magnitude(a0, a1, sample_rate)
    return b0 / (a0 * gain), b1 / (a0 * gain), a1 / a0


def _magnitude(first: Tensor, second: Tensor, sample_rate: float) -> Tensor:
    """|first + second z⁻¹| at 1 kHz."""
    cosine = math.cos(2.0 * math.pi * REFERENCE_HZ / sample_rate)
    return (first.square() + second.square() + 2.0 * cosine * first * second).sqrt()
