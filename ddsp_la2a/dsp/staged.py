"""The compiled loops with stages as differentiable functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddsp_la2a.dsp import staged_kernels as kernels
from ddsp_la2a.dsp.ballistics import FirstDerivative, RowFunction, as_array, or_zeros
from ddsp_la2a.dsp.compiling import over_rows

_KEPT = 3


def compress(audio: Tensor, coefficients: Tensor, feedback: bool, state: Tensor) -> tuple[Tensor, Tensor]:
    """Output and last state; differentiable once in audio, coefficients and state, in both modes, under ``vmap``.

    Args:
        audio: float32 or float64.
        coefficients, state: float64, columns as in :mod:`~ddsp_la2a.dsp.staged_kernels`.
        feedback: whether the detector hears the last compressed sample.

    Shape:
        audio ``(batch, time)``, coefficients ``(batch, 12)``, state ``(batch, 4)``.
    """
    if audio.shape[1] == 0:
        return audio, state
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (audio, coefficients, state))
    output, after, _ = _Staged.apply(keep, feedback, audio, coefficients, state)
    return output, after


def signals(audio: Tensor, coefficients: Tensor, feedback: bool, state: Tensor) -> Tensor:
    """Gain of both cells and what the curve hears, ``(batch, 3, time)`` float64; arguments as of :func:`compress`."""
    return _run(True, feedback, audio, coefficients, state)[2]


def _run(
    keep: bool, feedback: bool, audio: Tensor, coefficients: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rows, samples = audio.shape
    output = torch.empty((rows, samples), dtype=audio.dtype)
    kept = torch.empty((rows, _KEPT, samples if keep else 0), dtype=torch.float64)
    after = state.to(device="cpu", copy=True).contiguous()
    inputs = as_array(audio), as_array(coefficients), feedback
    over_rows(kernels.staged_forward, rows, samples, *inputs, *map(as_array, (after, output, kept)))
    return output.to(audio.device), after.to(audio.device), kept


class _Staged(RowFunction):
    """Output, last state, and the signals for the backward pass in float64, empty unless ``keep``."""

    @staticmethod
    def forward(keep: bool, feedback: bool, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _run(keep, feedback, *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.feedback = inputs[1]
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[2:], output[-1])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, grad_state: Tensor | None, _: None) -> Any:
        *inputs, kept = ctx.saved_tensors
        grads = or_zeros(grad_output, inputs[0]), or_zeros(grad_state, inputs[-1])
        return None, None, *_StagedAdjoint.apply(ctx.feedback, kept, *grads, *inputs)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor | None) -> Any:
        audio, coefficients, state = ctx.saved_tensors
        d_audio, d_coefficients, d_state = tangents
        moving = audio.new_empty((len(audio), 0)) if d_audio is None else d_audio
        others = or_zeros(d_coefficients, coefficients), or_zeros(d_state, state)
        return *_StagedTangent.apply(ctx.feedback, audio, coefficients, state, moving, *others), None


class _StagedAdjoint(FirstDerivative):
    operator = "compressor"

    @staticmethod
    def forward(
        feedback: bool,
        kept: Tensor,
        grad_output: Tensor,
        grad_state: Tensor,
        audio: Tensor,
        coefficients: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, ...]:
        rows, samples = audio.shape
        if kept.shape[2] == 0:  # under vmap it doesn't show beforehand that there is a backward pass to keep it for
            kept = _run(True, feedback, audio, coefficients, state)[2]
        grad_audio = torch.empty((rows, samples), dtype=audio.dtype)
        grad_coefficients = torch.empty(coefficients.shape, dtype=torch.float64)
        adjoint = grad_state.to(device="cpu", dtype=torch.float64, copy=True).contiguous()
        inputs = as_array(audio), as_array(coefficients), feedback
        others = map(as_array, (state, kept, grad_output, grad_audio, grad_coefficients, adjoint))
        over_rows(kernels.staged_backward, rows, samples, *inputs, *others)
        return tuple(part.to(audio.device) for part in (grad_audio, grad_coefficients, adjoint))


class _StagedTangent(FirstDerivative):
    operator = "compressor"

    @staticmethod
    def forward(
        feedback: bool,
        audio: Tensor,
        coefficients: Tensor,
        state: Tensor,
        d_audio: Tensor,
        d_coefficients: Tensor,
        d_state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        rows, samples = audio.shape
        output = torch.empty((rows, samples), dtype=torch.float64)
        tangents = torch.empty((rows, 1, samples), dtype=torch.float64)
        after = d_state.to(device="cpu", copy=True)[:, :, None].contiguous()
        inputs = map(as_array, (audio, d_audio[:, None], coefficients, d_coefficients[:, :, None]))
        others = map(as_array, (state.to(device="cpu", copy=True), after, output, tangents))
        over_rows(kernels.staged_tangents, rows, samples, *inputs, feedback, *others)
        return tangents[:, 0].to(audio.device, audio.dtype), after[:, :, 0].to(audio.device)
