"""One pass over a file in blocks: level over time, clipping, samples that aren't finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddsp_la2a.data.audio import read_blocks
from ddsp_la2a.units import FULL_SCALE_16_BIT

LEVELS_PER_SECOND = 50
"""Levels are taken over 20 ms: no shorter than a period of bass, and short enough to see a compressor's gain move."""

_FULL_SCALE = (FULL_SCALE_16_BIT - 1) / FULL_SCALE_16_BIT
_SILENT_POWER = 1e-20


@dataclass(frozen=True)
class Sound:
    """What the samples of a stretch are like.

    Args:
        frames: samples read.
        not_finite: how many of them are NaN or infinite.
        clipped: how many stand at full scale together with the two before them.
        peak: largest finite magnitude, 1 is full scale.
    """

    frames: int
    not_finite: int
    clipped: int
    peak: float


def scan(
    path: str | Path, start: int, stop: int, sample_rate: int, between: Callable[[], object] = lambda: None
) -> tuple[Sound, np.ndarray]:
    """Read a stretch of a mono file once, in blocks of ten seconds.

    Args:
        path: a mono audio file.
        start: first frame.
        stop: frame after the last.
        sample_rate: in Hz.
        between: called between blocks; what it raises ends the reading.

    Returns:
        :class:`Sound`, and the RMS level in dB of full scale, one every 20 ms, floored at −200 dB. Memory doesn't
        depend on the length of the file but for the levels.

    Raises:
        ValueError: the file can't be read.
    """
    hop = max(sample_rate // LEVELS_PER_SECOND, 1)
    frames = not_finite = clipped = 0
    peak = 0.0
    powers = [np.zeros(0)]
    carried = np.zeros(2, dtype=bool)
    for samples in read_blocks(path, start, stop, hop * LEVELS_PER_SECOND * 10):
        between()
        frames += len(samples)
        magnitude = np.abs(samples)
        block_peak = float(magnitude.max())
        if not np.isfinite(block_peak):
            finite = np.isfinite(samples)
            not_finite += len(samples) - int(finite.sum())
            samples = np.where(finite, samples, np.float32(0.0))
            magnitude = np.abs(samples)
            block_peak = float(magnitude.max())
        peak = max(peak, block_peak)
        if block_peak >= _FULL_SCALE or carried.any():
            # Runs of three and more: a lone sample at full scale is a peak, not clipping. Runs may cross blocks.
            full = np.concatenate([carried, magnitude >= _FULL_SCALE])
            clipped += int((full[2:] & full[1:-1] & full[:-2]).sum())
            carried = full[-2:]
        whole = samples[: len(samples) // hop * hop].reshape(-1, hop)
        # float32 sums of a thousand samples are good to 0.001 dB; huge float samples may overflow, and are reported.
        with np.errstate(over="ignore"):
            powers.append(np.einsum("ij,ij->i", whole, whole).astype(np.float64) / hop)
    levels_db = 10.0 * np.log10(np.concatenate(powers) + _SILENT_POWER)
    return Sound(frames, not_finite, clipped, peak), levels_db
