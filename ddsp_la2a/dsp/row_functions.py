"""Compiled loops as functions that torch can differentiate once, in both modes, and run over under ``vmap``."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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


class LoopFunction(RowFunction):
    """What loops make of a signal: output, last state, and maybe what their adjoint needs to be kept.

    ``forward`` takes constants, then tensors, the signal first and the state last. A constant that is a bool says
    whether to keep what the adjoint needs. ``adjoint`` takes the other constants, what was kept, the derivatives for
    output and last state, and the tensors; ``tangent`` the other constants, the tensors, and how each of them moves,
    which is empty for a signal that stands still.
    """

    adjoint: type[FirstDerivative]
    tangent: type[FirstDerivative]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tensors = [given for given in inputs if isinstance(given, Tensor)]
        ctx.constants = [given for given in inputs if not isinstance(given, (Tensor, bool))]
        ctx.before_tensors = [None] * (len(inputs) - len(tensors))
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[2:], *tensors)
        ctx.kept = len(output) - 2
        ctx.save_for_forward(*tensors)

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor | None, grad_state: Tensor | None, *_: None) -> Any:
        kept, inputs = ctx.saved_tensors[: ctx.kept], ctx.saved_tensors[ctx.kept :]
        grads = or_zeros(grad, inputs[0]), or_zeros(grad_state, inputs[-1])
        return *ctx.before_tensors, *cls.adjoint.apply(*ctx.constants, *kept, *grads, *inputs)

    @classmethod
    def jvp(cls, ctx: Any, *tangents: Tensor | None) -> Any:
        inputs, (moving, *moved) = ctx.saved_tensors, tangents[len(ctx.before_tensors) :]
        if moving is None:  # a signal that stands still costs no buffer of zeros
            moving = inputs[0].new_empty((len(inputs[0]), 0))
        found = cls.tangent.apply(*ctx.constants, *inputs, moving, *map(or_zeros, moved, inputs[1:]))
        return *found, *[None] * ctx.kept
