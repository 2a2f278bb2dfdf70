"""The static curve: how much gain a level asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def static_gain_db(level_db: Tensor, threshold_db: Tensor, ratio: Tensor, knee_db: Tensor) -> Tensor:
    """Gain in dB that a compressor with a quadratic knee gives a steady level.

    With d = level − threshold, slope s = 1 − 1/ratio and knee width w::

        0                         d ≤ −w/2
        −s (d + w/2)² / (2 w)     −w/2 < d < w/2
        −s d                      d ≥ w/2

    Args:
        level_db: level in dBFS.
        threshold_db: centre of the knee in dBFS.
        ratio: input dB per output dB far above the threshold, ≥ 1; 1 does nothing.
        knee_db: width of the knee in dB, ≥ 0; 0 is the hard knee, whose gradients are finite.

    Shape:
        All broadcast against each other; the result has the common shape.

    Returns:
        The gain in dB, ≤ 0.

    References:
        Giannoulis, Massberg & Reiss 2012, "Digital Dynamic Range Compressor Design", J. Audio Eng. Soc. 60(6), eq. 4.
    """
    return sloped_gain_db(level_db, threshold_db, slope_of(ratio, feedback=False), knee_db)


def slope_of(ratio: Any, feedback: bool) -> Any:
    """dB of gain reduction per dB over the threshold that lead to a ratio: 1 − 1/ratio, or ratio − 1 where the curve
    hears the output (Giannoulis, Massberg & Reiss 2012, sec. 2.1)."""
    return ratio - 1.0 if feedback else 1.0 - 1.0 / ratio


def sloped_gain_db(level_db: Tensor, threshold_db: Tensor, slope: Tensor, knee_db: Tensor) -> Tensor:
    """:func:`static_gain_db` with its slope s given."""
    excess = level_db - threshold_db
    # Outside the knee its branch is fed harmless numbers: what `where` discards still has a gradient, and dividing by a
    # width of nothing would make that NaN.
    inside = excess.abs() < 0.5 * knee_db
    width = torch.where(inside, knee_db, 1.0)
    position = torch.where(inside, excess, 0.0) / width + 0.5
    return -slope * torch.where(inside, 0.5 * width * position.square(), torch.relu(excess))
