"""The compressor's compiled loops as one differentiable function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddsp_la2a.dsp import feedback_kernels, kernels
from ddsp_la2a.dsp.ballistics import FirstDerivative, RowFunction, as_array, or_zeros
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.smoothing_kernels import pieces


@dataclass(frozen=True)
class Form:
    """Which loops a compressor needs.

    Args:
        feedback: the detector hears the last compressed sample; two cells and a shelf are always there then.
        two_cells: there is a slow cell beside the fast one; without, its state is left alone.
        shelf: there is a side-chain shelf; without, its memory is left alone.
    """

    feedback: bool = False
    two_cells: bool = False
    shelf: bool = False


def compress(audio: Tensor, coefficients: Tensor, form: Form, state: Tensor) -> tuple[Tensor, Tensor]:
    """Output and last state; differentiable once in audio, coefficients and state, in both modes, under ``vmap``.

    Args:
        audio: float32 or float64.
        coefficients, state: float64, columns as in :mod:`~ddsp_la2a.dsp.kernels`.
        form: what is on.

    Shape:
        audio ``(batch, time)``, coefficients ``(batch, 12)``, state ``(batch, 4)``.
    """
    if audio.shape[1] == 0:
        return audio.clone(), state.clone()
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (audio, coefficients, state))
    output, after, _ = _Compress.apply(keep, form, audio, coefficients, state)
    return output, after


def signals(audio: Tensor, coefficients: Tensor, form: Form, state: Tensor) -> Tensor:
    """Gain of both cells and what the curve hears, ``(batch, 3, time)`` float64; arguments as of :func:`compress`."""
    return _run(False, True, form, audio, coefficients, state)[3]


def _run(
    keep: bool, show: bool, form: Form, audio: Tensor, coefficients: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, last state, and in float64 what the backward pass needs and the signals; empty unless asked for."""
    rows, samples = audio.shape
    output = torch.empty((rows, samples), dtype=audio.dtype)
    after = state.to(device="cpu", copy=True).contiguous()
    inputs = tuple(map(as_array, (audio, coefficients)))
    shown = torch.empty((rows, 3, samples if show or (keep and form.feedback) else 0), dtype=torch.float64)
    if form.feedback:
        over_rows(feedback_kernels.feedback_forward, rows, samples, *inputs, *map(as_array, (after, output, shown)))
        return output.to(audio.device), after.to(audio.device), shown, shown
    passed = torch.empty((rows, pieces(samples) if keep else 0, len(kernels.STATES)), dtype=torch.float64)
    results = map(as_array, (after, output, passed, shown))
    over_rows(kernels.compress_forward, rows, samples, *inputs, form.two_cells, form.shelf, *results)
    return output.to(audio.device), after.to(audio.device), passed, shown


class _Compress(RowFunction):
    """Output, last state, and what the backward pass needs in float64, empty unless ``keep``."""

    @staticmethod
    def forward(keep: bool, form: Form, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _run(keep, False, form, *inputs)[:3]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.form = inputs[1]
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[2:], output[-1])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, grad_state: Tensor | None, _: None) -> Any:
        *inputs, kept = ctx.saved_tensors
        grads = or_zeros(grad_output, inputs[0]), or_zeros(grad_state, inputs[-1])
        return None, None, *_CompressAdjoint.apply(ctx.form, kept, *grads, *inputs)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor | None) -> Any:
        audio, coefficients, state = ctx.saved_tensors
        d_audio, d_coefficients, d_state = tangents
        moving = audio.new_empty((len(audio), 0)) if d_audio is None else d_audio
        others = or_zeros(d_coefficients, coefficients), or_zeros(d_state, state)
        return *_CompressTangent.apply(ctx.form, audio, coefficients, state, moving, *others), None


class _CompressAdjoint(FirstDerivative):
    operator = "compressor"

    @staticmethod
    def forward(
        form: Form,
        kept: Tensor,
        grad_output: Tensor,
        grad_state: Tensor,
        audio: Tensor,
        coefficients: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, ...]:
        rows, samples = audio.shape
        if kept.numel() == 0:  # under vmap it doesn't show beforehand that there is a backward pass to keep it for
            kept = _run(True, False, form, audio, coefficients, state)[2]
        grad_audio = torch.empty((rows, samples), dtype=audio.dtype)
        grad_coefficients = torch.empty(coefficients.shape, dtype=torch.float64)
        adjoint = grad_state.to(device="cpu", dtype=torch.float64, copy=True).contiguous()
        inputs = map(as_array, (audio, coefficients))
        others = map(as_array, (kept, grad_output, grad_audio, grad_coefficients, adjoint))
        if form.feedback:
            over_rows(feedback_kernels.feedback_backward, rows, samples, *inputs, as_array(state), *others)
        else:
            over_rows(kernels.compress_backward, rows, samples, *inputs, form.two_cells, form.shelf, *others)
        return tuple(part.to(audio.device) for part in (grad_audio, grad_coefficients, adjoint))


class _CompressTangent(FirstDerivative):
    operator = "compressor"

    @staticmethod
    def forward(
        form: Form,
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
        wired = form.feedback, form.two_cells or form.feedback, form.shelf or form.feedback
        over_rows(feedback_kernels.tangents_forward, rows, samples, *inputs, *wired, *others)
        return tangents[:, 0].to(audio.device, audio.dtype), after[:, :, 0].to(audio.device)
