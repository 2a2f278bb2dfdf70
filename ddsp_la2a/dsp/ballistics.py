"""Attack and release: the gain that is asked for becomes the gain that is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ddsp_la2a.dsp import kernels


def rows_of(value: Tensor | float, rows: int, like: Tensor) -> Tensor:
    """One float64 number a row, contiguous, on the device of ``like``; keeps the graph."""
    return torch.as_tensor(value, dtype=torch.float64, device=like.device).expand(rows).contiguous()


class _Smooth(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: Tensor, attack: Tensor, release: Tensor, state: Tensor) -> Tensor:
        kept = [t.detach().cpu().contiguous() for t in (target, attack, release, state)]
        rows, samples = target.shape
        smoothed = torch.empty((rows, samples), dtype=torch.float64)
        kernels.over_rows(kernels.smooth_forward, rows, samples, *(t.numpy() for t in kept), smoothed.numpy())
        ctx.save_for_backward(*kept, smoothed)
        ctx.device = target.device
        # A copy even for float64 input: what is saved for the backward pass must not be the caller's to change.
        return smoothed.to(device=target.device, dtype=target.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *kept, smoothed = ctx.saved_tensors
        rows, samples = smoothed.shape
        grad_target = torch.empty_like(kept[0])
        grad_params = torch.empty((rows, 3), dtype=torch.float64)
        arrays = [t.numpy() for t in (*kept, smoothed, grad.cpu().contiguous(), grad_target, grad_params)]
        kernels.over_rows(kernels.smooth_backward, rows, samples, *arrays)
        attack, release, state = grad_params.to(ctx.device).unbind(1)
        return grad_target.to(ctx.device), attack, release, state


def smooth(
    target: Tensor, attack: Tensor | float, release: Tensor | float, state: Tensor | float
) -> tuple[Tensor, Tensor]:
    """One-pole smoothing that falls at one speed and rises at another, computed sample by sample.

    ::

        g[n] = g[n−1] + α (target[n] − g[n−1]),   α = attack where target[n] < g[n−1], else release

    Exact and sequential, differentiable once in every argument (the adjoint runs backwards through the same loop; a
    second derivative is refused by torch). With ``attack == release`` it is a linear first-order low-pass.

    Args:
        target: what the output follows (a linear gain, for a compressor), float32 or float64.
        attack: coefficient 0 < α ≤ 1 where the target lies below the output; see ``units.rise_time_to_coefficient``.
        release: the same where it does not. Any order of the two is legal.
        state: g[−1], the output before the first sample: 1 for a unit at rest, or what an earlier call returned.

    Shape:
        target ``(batch, time)``; the others ``(batch,)`` or a number.

    Returns:
        The smoothed signal ``(batch, time)`` in the target's dtype, and its last value ``(batch,)`` in float64, to be
        handed to the next call.

    References:
        Giannoulis, Massberg & Reiss 2012, J. Audio Eng. Soc. 60(6), eq. 16, on the linear gain as in Yu & Fazekas 2025
        (arXiv 2509.10706).
    """
    if target.ndim != 2:
        raise ValueError(f"target: expected shape (batch, time), got {tuple(target.shape)}")
    rows = target.shape[0]
    first = rows_of(state, rows, target)
    if target.shape[1] == 0:
        return target, first
    smoothed = _Smooth.apply(target, rows_of(attack, rows, target), rows_of(release, rows, target), first)
    return smoothed, smoothed[:, -1].to(torch.float64)
