"""The compressor's compiled loops as one differentiable function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddsp_la2a.dsp import feedback_kernels, kernels
from ddsp_la2a.dsp.checks import check_finite
from ddsp_la2a.dsp.coefficients import Array, coefficients_adjoint, coefficients_tangent, to_coefficients
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.row_functions import FirstDerivative, LoopFunction, as_array
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


def compress(
    audio: Tensor, card: Tensor, stages: Tensor, form: Form, sample_rate: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Output and last state; differentiable once in audio, card, stages and state, in both modes, under ``vmap``.

    Args:
        audio: float32 or float64.
        card: physical parameters in float64, columns as in :data:`~ddsp_la2a.dsp.coefficients.CARD`.
        stages: coefficients of slow cell and shelf in float64, or none.
        form: what is on.
        sample_rate: in Hz.
        state: float64, columns as in :mod:`~ddsp_la2a.dsp.kernels`.

    Shape:
        audio ``(batch, time)``, card ``(batch, 6)``, stages ``(batch, 6)`` or ``(batch, 0)``, state ``(batch, 4)``.
    """
    if audio.shape[1] == 0:
        return audio.clone(), state.clone()
    given = audio, card, stages, state
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    output, after, _ = _Compress.apply(keep, form, sample_rate, *given)
    return output, after


def signals(audio: Tensor, coefficients: Array, form: Form, state: Tensor) -> Tensor:
    """Gain of both cells and what the curve hears, ``(batch, 3, time)`` float64; without derivatives."""
    return _run(False, True, form, audio, coefficients, state)[3]


def _run(
    keep: bool, show: bool, form: Form, audio: Tensor, coefficients: Array, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, last state, and in float64 what the backward pass needs and the signals; empty unless asked for."""
    rows, samples = audio.shape
    output = torch.empty((rows, samples), dtype=audio.dtype)
    after = state.to(device="cpu", copy=True).contiguous()
    inputs = as_array(audio), coefficients
    shown = torch.empty((rows, 3, samples if show or (keep and form.feedback) else 0), dtype=torch.float64)
    if form.feedback:
        results = map(as_array, (after, output, shown))
        if any(over_rows(feedback_kernels.feedback_forward, rows, samples, *inputs, *results)):
            check_finite(audio)
        return output.to(audio.device), after.to(audio.device), shown, shown
    passed = torch.empty((rows, pieces(samples) if keep else 0, len(kernels.STATES)), dtype=torch.float64)
    results = map(as_array, (after, output, passed, shown))
    if any(over_rows(kernels.compress_forward, rows, samples, *inputs, form.two_cells, form.shelf, *results)):
        check_finite(audio)
    return output.to(audio.device), after.to(audio.device), passed, shown


class _CompressAdjoint(FirstDerivative):
    operator = "compressor"

    @staticmethod
    def forward(
        form: Form,
        sample_rate: float,
        kept: Tensor,
        grad_output: Tensor,
        grad_state: Tensor,
        audio: Tensor,
        card: Tensor,
        stages: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, ...]:
        rows, samples = audio.shape
        at = as_array(card), as_array(stages), form.feedback, sample_rate
        numbers = to_coefficients(*at)
        if kept.numel() == 0:  # under vmap it doesn't show beforehand that there is a backward pass to keep it for
            kept = _run(True, False, form, audio, numbers, state)[2]
        grad_audio, found = torch.empty((rows, samples), dtype=audio.dtype), np.empty_like(numbers)
        adjoint = grad_state.to(device="cpu", dtype=torch.float64, copy=True).contiguous()
        others = *map(as_array, (kept, grad_output, grad_audio)), found, as_array(adjoint)
        if form.feedback:
            inputs: Any = as_array(audio), numbers, as_array(state)
            over_rows(feedback_kernels.feedback_backward, rows, samples, *inputs, *others)
        else:
            inputs = as_array(audio), numbers, form.two_cells, form.shelf
            over_rows(kernels.compress_backward, rows, samples, *inputs, *others)
        parts = map(torch.from_numpy, coefficients_adjoint(found, *at))
        return tuple(part.to(audio.device) for part in (grad_audio, *parts, adjoint))


class _CompressTangent(FirstDerivative):
    operator = "compressor"

    @staticmethod
    def forward(
        form: Form,
        sample_rate: float,
        audio: Tensor,
        card: Tensor,
        stages: Tensor,
        state: Tensor,
        d_audio: Tensor,
        d_card: Tensor,
        d_stages: Tensor,
        d_state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        rows, samples = audio.shape
        at = as_array(card), as_array(stages), form.feedback, sample_rate
        directions = coefficients_tangent(as_array(d_card), as_array(d_stages), *at)[:, :, None]
        output = torch.empty((rows, samples), dtype=torch.float64)
        tangents = torch.empty((rows, 1, samples), dtype=torch.float64)
        after = d_state.to(device="cpu", copy=True)[:, :, None].contiguous()
        inputs = *map(as_array, (audio, d_audio[:, None])), to_coefficients(*at), directions
        others = map(as_array, (state.to(device="cpu", copy=True), after, output, tangents))
        wired = form.feedback, form.two_cells or form.feedback, form.shelf or form.feedback
        over_rows(feedback_kernels.tangents_forward, rows, samples, *inputs, *wired, *others)
        return tangents[:, 0].to(audio.device, audio.dtype), after[:, :, 0].to(audio.device)


class _Compress(LoopFunction):
    adjoint, tangent = _CompressAdjoint, _CompressTangent

    @staticmethod
    def forward(
        keep: bool,
        form: Form,
        sample_rate: float,
        audio: Tensor,
        card: Tensor,
        stages: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        numbers = to_coefficients(as_array(card), as_array(stages), form.feedback, sample_rate)
        return _run(keep, False, form, audio, numbers, state)[:3]
