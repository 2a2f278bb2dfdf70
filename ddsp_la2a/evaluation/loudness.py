"""Loudness of recordings, and how far an estimate's strays from its target's.

Conventions as in :mod:`~ddsp_la2a.evaluation.metrics`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddsp_la2a.evaluation.scored_audio import Array, Filter, PieceEnergies, difference, feed, mono, pair, require_length

LOUDNESS_BLOCK_SECONDS, LOUDNESS_STEPS = 0.4, 4
"""Gating block of BS.1770 and how many steps it is long, one of which lies between blocks."""

ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
"""Blocks that are softer don't count; the second is relative to the mean of the blocks above the first."""

_K_WEIGHTING = (
    (3.99984385397, 0.7071752369554193, 1681.9744509555319, "high_shelf_DeMan"),
    (0.0, 0.5003270373253953, 38.13547087613982, "high_pass_DeMan"),
)
"""Gain, Q, frequency and kind of the standard's filters; pyloudnorm's default ones read 0.04 LU low at 997 Hz."""


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
    (loudness,) = feed(Loudness(sample_rate, 1), [mono("audio", audio)], 0).lufs
    return loudness


class Loudness:
    """Sums :func:`loudness_lufs` up over blocks, from the first scored frame on.

    Args:
        sample_rate: Sampling rate in Hz.
        signals: how many recordings, each on its own.
    """

    def __init__(self, sample_rate: float, signals: int) -> None:
        from pyloudnorm import IIRfilter

        designs = [IIRfilter(gain, q, frequency, sample_rate, kind) for gain, q, frequency, kind in _K_WEIGHTING]
        self._weighting = [Filter(design.b, design.a, signals) for design in designs]
        self._sample_rate = sample_rate
        step = 1.0 / LOUDNESS_STEPS
        self._steps = PieceEnergies(lambda n: int(LOUDNESS_BLOCK_SECONDS * (n * step) * sample_rate), signals)

    def add(self, audio: Array, skip: int) -> None:
        """Take the next frames of all recordings."""
        weighted = audio[:, skip:]
        for stage in self._weighting:
            weighted = stage(weighted)
        self._steps.add(weighted)

    @property
    def lufs(self) -> list[float]:
        """Of every recording.

        Raises:
            TooShortError: fewer scored frames than a gating block.
        """
        block = LOUDNESS_BLOCK_SECONDS * self._sample_rate
        require_length("loudness", self._steps.frames, math.ceil(block))
        # An incomplete last block is left out.
        blocks = 1 + math.floor((self._steps.frames / block - 1.0) * LOUDNESS_STEPS + 1e-8)
        steps = np.lib.stride_tricks.sliding_window_view(self._steps.whole, LOUDNESS_STEPS, axis=1)
        return [_gated(power) for power in steps[:, :blocks].sum(axis=2) / block]


def _gated(power: Array) -> float:
    """LUFS of the mean of the blocks that are loud enough."""
    loud = power[_lufs(power) > ABSOLUTE_GATE_LUFS]
    if not len(loud):
        return -math.inf
    return float(_lufs(loud[_lufs(loud) > _lufs(loud.mean()) + RELATIVE_GATE_LU].mean()))


def _lufs(power: Any) -> Any:
    """Loudness of K-weighted power; of none it is −∞."""
    with np.errstate(divide="ignore"):
        return -0.691 + 10.0 * np.log10(power)


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
    return difference(feed(Loudness(sample_rate, 2), pair(estimate, target, start), start).lufs)
