"""Attack and release: the gain that is asked for becomes the gain that is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddsp_la2a.dsp import kernels


def per_row(value: Tensor | float, name: str, like: Tensor) -> Tensor:
    """One float64 number a row of ``like``, contiguous, on its device; keeps the graph."""
    rows = like.shape[0]
    tensor = torch.as_tensor(value, dtype=torch.float64, device=like.device)
    if tensor.shape not in ((), (1,), (rows,)):
        got = tuple(tensor.shape)
        raise ValueError(f"{name}: expected a number or shape ({rows},) as the audio's batch, got {got}")
    return tensor.expand(rows).contiguous()


class _Smooth(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: Tensor, attack: Tensor, release: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        kept = [t.detach().cpu().contiguous() for t in (target, attack, release, state)]
        rows, samples = target.shape
        smoothed = torch.empty((rows, samples), dtype=torch.float64)
        kernels.over_rows(kernels.smooth_forward, rows, samples, *(t.numpy() for t in kept), smoothed.numpy())
        ctx.save_for_backward(target, attack, release, state, smoothed)
        # Copies even for float64 input: what is saved for the backward pass must not be the caller's to change.
        output = smoothed.to(device=target.device, dtype=target.dtype, copy=True)
        return output, smoothed[:, -1].to(device=target.device, copy=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_state: Tensor) -> Any:
        *inputs, smoothed = ctx.saved_tensors
        return _SmoothAdjoint.apply(smoothed, grad, grad_state, *inputs)


class _SmoothAdjoint(torch.autograd.Function):
    """The first derivative as a function of its own, so that torch knows that it depends on the inputs."""

    @staticmethod
    def forward(ctx: Any, smoothed: Tensor, grad: Tensor, grad_state: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        kept = [t.detach().cpu().contiguous() for t in inputs]
        device = inputs[0].device
        rows, samples = smoothed.shape
        total = grad.to(device="cpu", dtype=torch.float64, copy=True).contiguous()
        total[:, -1] += grad_state.cpu()
        grad_target = torch.empty_like(kept[0])
        grad_params = torch.empty((rows, 3), dtype=torch.float64)
        arrays = [t.numpy() for t in (*kept, smoothed, total, grad_target, grad_params)]
        kernels.over_rows(kernels.smooth_backward, rows, samples, *arrays)
        return grad_target.to(device), *(part.clone() for part in grad_params.to(device).unbind(1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("smooth: differentiable once, got a request for its second derivative")


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
    if target.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"target: expected float32 or float64, got {target.dtype}")
    first = per_row(state, "state", target)
    if target.shape[1] == 0:
        return target, first
    return _Smooth.apply(target, per_row(attack, "attack", target), per_row(release, "release", target), first)
