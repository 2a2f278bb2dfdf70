"""What every part of the signal path refuses."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor


def check_audio(audio: Tensor) -> None:
    """Refuse audio of the wrong type or shape."""
    if not isinstance(audio, Tensor) or audio.dtype not in (torch.float32, torch.float64):
        got = audio.dtype if isinstance(audio, Tensor) else type(audio).__name__
        raise ValueError(f"audio: expected a tensor of float32 or float64, got {got}")
    if audio.ndim != 2:
        raise ValueError(f"audio: expected shape (batch, time), got {tuple(audio.shape)}; use audio[None] for one item")


def check_finite(audio: Tensor) -> None:
    """Refuse samples that are no finite numbers, where they are known (not under ``torch.func.vmap``)."""
    unfit = ~torch.isfinite(audio.detach())
    if known_any(unfit):
        bad = unfit.nonzero()
        row, frame = bad[0].tolist()
        which = f"{audio[row, frame].item()} in row {row}, frame {frame} ({len(bad)} in all)"
        raise ValueError(f"audio: expected finite samples, got {which}; find out where they come from")


def check_sample_rate(sample_rate: float) -> None:
    """Refuse a sampling rate that is no positive, finite number of Hz."""
    if not isinstance(sample_rate, Real) or not 0 < sample_rate < math.inf:
        raise ValueError(f"sample_rate: expected a positive number of Hz, got {sample_rate!r}")


def known_any(condition: Tensor) -> bool:
    """Whether a condition is known to hold anywhere."""
    try:
        return bool(condition.any())
    except RuntimeError:  # under vmap a tensor has a shape to check, but no one value that a branch could hang on
        return False


def known_values(tensor: Tensor) -> list[float]:
    """The numbers in a tensor of at most one dimension, none where they aren't known."""
    try:
        return [tensor.item()] if tensor.ndim == 0 else tensor.tolist()
    except RuntimeError:  # under vmap, as above
        return []
