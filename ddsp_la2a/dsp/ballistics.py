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
    """A float64 number, or one a row of ``like``, on its device; keeps the graph."""
    tensor = torch.as_tensor(value, dtype=torch.float64, device=like.device)
    rows = like.shape[0]
    if tensor.shape not in ((), (1,), (rows,)):
        got = tuple(tensor.shape)
        raise ValueError(f"{name}: expected a number or shape ({rows},) as the audio's batch, got {got}")
    return tensor


def per_row(value: Tensor | float, name: str, like: Tensor) -> Tensor:
    """The same for every row, contiguous."""
    return number_or_row(value, name, like).expand(like.shape[0]).contiguous()


def or_zeros(derivative: Tensor | None, like: Tensor) -> Tensor:
    """The derivative, for which torch says None where it is zero."""
    return torch.zeros_like(like) if derivative is None else derivative


def as_array(tensor: Tensor) -> NDArray[np.floating]:
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
    """Smoothed signal, its last value, and the signal once more, in float64 for the backward pass."""

    @staticmethod
    def forward(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        target = inputs[0]
        rows, samples = target.shape
        smoothed = torch.empty((rows, samples), dtype=torch.float64)
        over_rows(kernels.smooth_forward, rows, samples, *map(as_array, (*inputs, smoothed)))
        # Copies even for float64 input: what is saved for the backward pass must not be the caller's to change.
        output = smoothed.to(device=target.device, dtype=target.dtype, copy=True)
        return output, smoothed[:, -1].to(device=target.device, copy=True), smoothed

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, output[-1])
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_state: Tensor | None, _: None) -> Any:
        *inputs, smoothed = ctx.saved_tensors
        return _SmoothAdjoint.apply(smoothed, or_zeros(grad, inputs[0]), or_zeros(grad_state, inputs[-1]), *inputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        return *_SmoothTangent.apply(*ctx.saved_tensors, *tangents), None


class _SmoothAdjoint(FirstDerivative):
    operator = "smooth"

    @staticmethod
    def forward(smoothed: Tensor, grad: Tensor, grad_state: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        device = inputs[0].device
        rows, samples = smoothed.shape
        total = grad.to(device="cpu", dtype=torch.float64, copy=True)
        total[:, -1] += grad_state.cpu()
        grad_target = torch.empty((rows, samples), dtype=inputs[0].dtype)
        grad_params = torch.empty((rows, 3), dtype=torch.float64)
        arrays = map(as_array, (*inputs, smoothed, total, grad_target, grad_params))
        over_rows(kernels.smooth_backward, rows, samples, *arrays)
        return grad_target.to(device), *(part.clone() for part in grad_params.to(device).unbind(1))


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
    smoothed, last, _ = _Smooth.apply(
        target, per_row(attack, "attack", target), per_row(release, "release", target), first
    )
    return smoothed, last
