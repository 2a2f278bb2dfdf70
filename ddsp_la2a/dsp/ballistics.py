"""Attack and release: the gain that is asked for becomes the gain that is given."""

from __future__ import annotations

import torch
from torch import Tensor

from ddsp_la2a.dsp import smoothing_kernels as kernels
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.row_functions import FirstDerivative, LoopFunction, as_array


def number_or_row(value: Tensor | float, name: str, like: Tensor) -> Tensor:
    """A number, or one a row of ``like``, on its device; keeps the graph."""
    dtype = None if isinstance(value, Tensor) else torch.float64
    tensor = torch.as_tensor(value, dtype=dtype, device=like.device)
    rows = like.shape[0]
    if tensor.shape not in ((), (1,), (rows,)):
        got = tuple(tensor.shape)
        raise ValueError(f"{name}: expected a number or shape ({rows},) as the audio's batch, got {got}")
    return tensor


def per_row(value: Tensor | float, name: str, like: Tensor) -> Tensor:
    """The same in float64 for every row, contiguous."""
    return number_or_row(value, name, like).double().expand(like.shape[0]).contiguous()


def _smoothed(keep: bool, target: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, samples = target.shape
    attack, release, state = others
    output, after = torch.empty((rows, samples), dtype=target.dtype), state.to(device="cpu", copy=True).contiguous()
    passed = torch.empty((rows, kernels.pieces(samples) if keep else 0), dtype=torch.float64)
    arrays = map(as_array, (target, attack, release, after, output, passed))
    over_rows(kernels.smooth_forward, rows, samples, *arrays)
    return output.to(target.device), after.to(target.device), passed


class _SmoothAdjoint(FirstDerivative):
    operator = "smooth"

    @staticmethod
    def forward(passed: Tensor, grad: Tensor, grad_state: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        target, attack, release, _ = inputs
        rows, samples = target.shape
        if passed.numel() == 0:  # under vmap it doesn't show beforehand that there is a backward pass to keep it for
            passed = _smoothed(True, *inputs)[2]
        grad_target = torch.empty((rows, samples), dtype=target.dtype)
        grad_params = torch.zeros((rows, 3), dtype=torch.float64)
        grad_params[:, 2] = grad_state.cpu()
        arrays = map(as_array, (target, attack, release, passed, grad, grad_target, grad_params))
        over_rows(kernels.smooth_backward, rows, samples, *arrays)
        return grad_target.to(target.device), *(part.clone() for part in grad_params.to(target.device).unbind(1))


class _SmoothTangent(FirstDerivative):
    operator = "smooth"

    @staticmethod
    def forward(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        inputs, (d_target, *tangents) = arguments[:4], arguments[4:]
        target = inputs[0]
        others = torch.stack(tangents, 1).cpu()
        output = torch.empty(target.shape, dtype=target.dtype)
        over_rows(kernels.smooth_jvp, *target.shape, *map(as_array, (*inputs, d_target, others, output)))
        return output.to(target.device), others[:, -1].to(target.device, copy=True)


class _Smooth(LoopFunction):
    adjoint, tangent = _SmoothAdjoint, _SmoothTangent

    @staticmethod
    def forward(keep: bool, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _smoothed(keep, *inputs)


def smooth(
    target: Tensor, attack: Tensor | float, release: Tensor | float, state: Tensor | float
) -> tuple[Tensor, Tensor]:
    """One-pole smoothing that falls at one speed and rises at another, computed sample by sample.

    ::

        g[n] = g[n−1] + α (target[n] − g[n−1]),   α = attack where target[n] < g[n−1], else release

    Exact and sequential, differentiable once in every argument: in reverse mode (the adjoint runs backwards through the
    same loop) and in forward mode (the tangents run along with it), under ``torch.func.vmap`` too. A second derivative
    is refused, whichever modes are mixed. With ``attack == release`` it is a linear first-order low-pass.

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

    Raises:
        ValueError: a target or parameter of the wrong type or shape.
        RuntimeError: a second derivative, when it is computed.

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
    inputs = target, per_row(attack, "attack", target), per_row(release, "release", target), first
    keep = torch.is_grad_enabled() and any(given.requires_grad for given in inputs)
    smoothed, last, _ = _Smooth.apply(keep, *inputs)
    return smoothed, last
