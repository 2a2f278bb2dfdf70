"""Attack and release: the gain that is asked for becomes the gain that is given."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsp_la2a.dsp import smoothing_kernels as kernels
from ddsp_la2a.dsp.compiling import over_rows


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


def or_zeros(derivative: Tensor | None, like: Tensor) -> Tensor:
    """The derivative, for which torch says None where it is zero."""
    return torch.zeros_like(like) if derivative is None else derivative


def as_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's values as the kernels read them: on the CPU, C-contiguous; shared where they are so already."""
    return np.ascontiguousarray(tensor.numpy(force=True))


class RowFunction(torch.autograd.Function):
    """A function whose rows know nothing of each other: to it, what vmap runs over is just more rows."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # torch asks for it in every call, and finding out takes longer than a short block.
        own = cls.__dict__.get("forward")
        if isinstance(own, staticmethod):
            own.__func__.__signature__ = inspect.signature(own.__func__)  # type: ignore[attr-defined]

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        def into_rows(value: Any, dim: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            batch = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return batch.flatten(0, 1)

        outputs = cls.apply(*map(into_rows, arguments, in_dims))
        return tuple(output.unflatten(0, (info.batch_size, -1)) for output in outputs), 0


class FirstDerivative(RowFunction):
    """A first derivative as a function of its own, so that torch knows that it depends on the inputs."""

    operator: str

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @classmethod
    def backward(cls, ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{cls.operator}: differentiable once, got a request for its second derivative")

    jvp = backward


class _Smooth(RowFunction):
    """Smoothed signal, its last value, and what the backward pass needs in float64, empty unless ``keep``."""

    @staticmethod
    def forward(keep: bool, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _smoothed(keep, *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:], output[-1])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_state: Tensor | None, _: None) -> Any:
        *inputs, passed = ctx.saved_tensors
        grads = or_zeros(grad, inputs[0]), or_zeros(grad_state, inputs[-1])
        return None, *_SmoothAdjoint.apply(passed, *grads, *inputs)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        return *_SmoothTangent.apply(*ctx.saved_tensors, *tangents), None


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
    """Tangents of the output and the last state; takes target, parameters and state, then the tangents of these."""

    operator = "smooth"

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        inputs, tangents = arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]
        target = inputs[0]
        rows, samples = target.shape
        # A constant target costs no buffer of zeros.
        target_tangent = target.new_empty((rows, 0)) if tangents[0] is None else tangents[0]
        others = torch.stack([or_zeros(t, like) for t, like in zip(tangents[1:], inputs[1:], strict=True)], 1).cpu()
        output = torch.empty((rows, samples), dtype=target.dtype)
        arrays = map(as_array, (*inputs, target_tangent, others, output))
        over_rows(kernels.smooth_jvp, rows, samples, *arrays)
        return output.to(target.device), others[:, -1].to(target.device, copy=True)


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
