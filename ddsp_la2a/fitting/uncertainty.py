"""How sure a least-squares fit is of what it found, when its residuals are anything but white noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Array = NDArray[np.float64]

NOISE_FLOOR = 1e-8
"""No recording is known better than to −80 dB of its own power."""

_ROUNDING = 1e-13


def block_seconds(seconds: float) -> float:
    """How near two errors count as dependent: 0.55 T^⅓ s of a recording of T seconds.

    A compressor's residuals are alike for as long as its gain is off. The power is the one that suits Bartlett weights
    (Andrews 1991, Econometrica 59(3)). The factor was chosen by how many intervals held the truth: see
    ``benchmarks/README.md``.
    """
    return float(0.55 * seconds ** (1.0 / 3.0))


def score_covariance(scores: Array, hessian: Array, sums_per_s: float, sample_rate: float) -> Array:
    """Covariance of a recording's gradient, from how it is spread over time.

    ::

        M = Σ_|k|<K (1 − |k|/K) Σ_i s_i s_{i+k}^T  +  floor · H

    s are gradients of short stretches, K of them a block. The Bartlett weights keep M positive.

    Args:
        scores: ``(sums, n)`` gradients of consecutive stretches, in seconds · energy share.
        hessian: ``(n, n)`` Gauss–Newton matrix of the recording.
        sums_per_s: stretches a second.
        sample_rate: in Hz.

    References:
        Newey & West 1987, Econometrica 55(3); White 1982, Econometrica 50(1), for a model that isn't true.
    """
    lags = max(1, round(block_seconds(len(scores) / sums_per_s) * sums_per_s))
    meat = scores.T @ scores
    for lag in range(1, min(lags, len(scores))):
        between = scores[:-lag].T @ scores[lag:]
        meat = meat + (1.0 - lag / lags) * (between + between.T)
    return np.asarray(meat + NOISE_FLOOR / sample_rate * hessian)


def covariance(hessian: Array, meat: Array, precision: Array, variance: Array, blocks: float) -> Array:
    """Covariance of fitted values, scaled so that ± 1.96 standard errors are a 95 % interval.

    ::

        C = A⁻¹ (M + P V P) A⁻¹,   A = H + P

    the sandwich of a misspecified model, in which the prior counts as an observation of its own: where the recordings
    say nothing, its variance is left. Few seconds of audio are allowed for by Student's t with as many degrees of
    freedom as there are blocks more than values they determine.

    Args:
        hessian: H ``(n, n)``, without the prior.
        meat: M ``(n, n)``, covariance of the gradient.
        precision: P ``(n,)`` of the Gaussian prior, in the units of H; more than 0 wherever H has no say.
        variance: V ``(n,)`` of the prior.
        blocks: of audio that count as independent.

    References:
        Huber 1967; White 1982; MacKinnon & White 1985, J. Econometrics 29(3), for the correction.
    """
    # Unit diagonal: what hardly matters must not be lost to rounding.
    scale = 1.0 / np.sqrt(np.diag(hessian) + precision)
    values, vectors = np.linalg.eigh((hessian + np.diag(precision)) * scale[:, None] * scale)
    inverse = vectors / values.clip(_ROUNDING) @ vectors.T
    determined = float(np.trace(inverse @ (hessian * scale[:, None] * scale)))
    freedom = max(blocks - determined, 1.0)
    few = blocks / freedom * (student.ppf(0.975, freedom) / 1.96) ** 2
    spread, directions = np.linalg.eigh((few * meat + np.diag(precision**2 * variance)) * scale[:, None] * scale)
    root = scale[:, None] * (inverse @ directions * np.sqrt(spread.clip(0.0)))  # no variance is negative
    return np.asarray(root @ root.T)
