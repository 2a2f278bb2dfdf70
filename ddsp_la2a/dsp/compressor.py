"""The explicit compressor: level → static curve → attack and release → gain → make-up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddsp_la2a.dsp import kernels, output_stage, staged
from ddsp_la2a.dsp.ballistics import FirstDerivative, RowFunction, Tangent, as_array, or_zeros, per_row, smooth
from ddsp_la2a.dsp.checks import check_audio, check_sample_rate, known_any
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.curve import slope_of, sloped_gain_db, static_gain_db
from ddsp_la2a.dsp.params import CompressorParams
from ddsp_la2a.dsp.side_chain import REFERENCE_HZ, shelf_coefficients
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude, rise_time_to_coefficient


class CompressorTrace(NamedTuple):
    """Every signal of :func:`compressor`, ``(batch, time)`` but for the state.

    ``level_db`` is what the curve is given: of the input, or of what side-chain shelf and feedback make of it.
    """

    output: Tensor
    level_db: Tensor
    static_gain_db: Tensor
    gain: Tensor
    state: Tensor


class _Compress(RowFunction):
    """Output, last state, and the gain in float64 for the backward pass, empty unless ``keep_gain``."""

    @staticmethod
    def forward(keep_gain: bool, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        audio, *params, before = inputs
        rows, samples = audio.shape
        output = torch.empty((rows, samples), dtype=audio.dtype)
        gain = torch.empty((rows, samples if keep_gain else 0), dtype=torch.float64)
        state = before.to(device="cpu", copy=True)
        arrays = map(as_array, (audio, *params, state, output, gain))
        over_rows(kernels.compress_forward, rows, samples, *arrays)
        return output.to(audio.device), state.to(audio.device), gain

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:], output[-1])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, grad_state: Tensor | None, _: None) -> Any:
        *inputs, gain = ctx.saved_tensors
        grads = or_zeros(grad_output, inputs[0]), or_zeros(grad_state, inputs[-1])
        return None, *_CompressAdjoint.apply(gain, *grads, *inputs)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        return *_CompressTangent.apply(*ctx.saved_tensors, *tangents), None


class _CompressAdjoint(FirstDerivative):
    operator = "compressor"

    @staticmethod
    def forward(gain: Tensor, grad_output: Tensor, grad_state: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        device = inputs[0].device
        rows, samples = inputs[0].shape
        if gain.shape[1] == 0:  # under vmap it doesn't show beforehand that there is a backward pass to keep it for
            gain = _Compress.forward(True, *inputs)[-1]
        grad_audio = torch.empty((rows, samples), dtype=inputs[0].dtype)
        grad_params = torch.empty((rows, 6), dtype=torch.float64)
        adjoint = grad_state.to(device="cpu", dtype=torch.float64, copy=True).contiguous()
        arrays = map(as_array, (*inputs, gain, grad_output, grad_audio, grad_params, adjoint))
        over_rows(kernels.compress_backward, rows, samples, *arrays)
        return grad_audio.to(device), *(part.clone() for part in grad_params.to(device).unbind(1)), adjoint.to(device)


class _CompressTangent(Tangent):
    operator = "compressor"
    kernel = kernels.compress_jvp


def compressor(
    audio: Tensor,
    params: CompressorParams,
    sample_rate: float,
    *,
    state: Tensor | float = 1.0,
    return_state: bool = False,
    trace: bool = False,
) -> Any:
    """Compress audio with explicit parameters; exact, sequential, differentiable.

    ::

        level[n]  = 20 log10 max(|x[n]|, 1e−8)
        target[n] = 10^(static_gain_db(level[n]) / 20)
        g[n]      = g[n−1] + α (target[n] − g[n−1]),  α attack where target[n] < g[n−1], else release
        y[n]      = x[n] · g[n] · 10^(makeup / 20)

    and with the stages that the parameters switch on: a shelf before the level; x[n−1] g[n−1] instead of x[n] there
    (feedback); a second g with slower times, the two mixed; a filter after all that.

    Differentiable once with respect to the audio, every parameter and the state, in reverse mode and in forward mode
    (``torch.func.jvp``, ``jacfwd``, ``torch.autograd.forward_ad``), under ``torch.func.vmap`` too. A second derivative
    is refused, whichever modes are mixed.

    Args:
        audio: full scale ±1, float32 or float64.
        params: the physical parameters.
        sample_rate: in Hz.
        state: the gain before the first sample: 1 for a unit at rest; or what an earlier call returned.
        return_state: also return the state after the last sample, to be carried into the next block.
        trace: return every signal between instead: unfused and so several times slower, or, where a stage is on,
            without derivatives.

    Shape:
        audio ``(batch, time)``; parameters ``(batch,)`` or a number; output as the audio. The state is the gain,
        ``(batch,)`` or a number; where a stage is on, what is returned is ``(batch, 4)``
        (:data:`~ddsp_la2a.dsp.staged_kernels.STATES`), and more with an output filter (its ``states``).

    Returns:
        The output, late by ``latency`` samples if there is an output filter; with ``return_state`` the pair (output,
        state in float64); with ``trace`` a :class:`CompressorTrace`.

    Raises:
        ValueError: wrong type, shape or range, with what was expected and what came.
        RuntimeError: a second derivative, when it is computed.

    References:
        Giannoulis, Massberg & Reiss 2012, J. Audio Eng. Soc. 60(6), eqs. 4 and 16, and sec. 2.1 for feedback; signal
        flow as in Yu & Fazekas 2025 (arXiv 2509.10706), with a knee added. Times are 10–90 % rise times, as there.
    """
    check_audio(audio)
    check_sample_rate(sample_rate)
    if not params.is_plain:
        return _staged(audio, params, sample_rate, state, return_state, trace)
    threshold, ratio, knee, attack_ms, release_ms, makeup_db = (
        per_row(value, name, audio) for name, value in params.numbers().items()
    )
    attack = rise_time_to_coefficient(attack_ms, sample_rate)
    release = rise_time_to_coefficient(release_ms, sample_rate)
    makeup = db_to_amplitude(makeup_db)
    before = per_row(state, "state", audio)
    if known_any(~torch.isfinite(before)):
        raise ValueError(f"state: expected a finite gain, got {state}")
    if trace:
        level_db = amplitude_to_db(audio.to(torch.float64).abs())
        target_db = static_gain_db(level_db, threshold[:, None], ratio[:, None], knee[:, None])
        gain, after = smooth(db_to_amplitude(target_db), attack, release, before)
        return CompressorTrace((audio * gain * makeup[:, None]).to(audio.dtype), level_db, target_db, gain, after)
    if audio.shape[1] == 0:
        output, after = audio, before
    else:
        inputs = (audio, threshold, 1.0 - 1.0 / ratio, knee, attack, release, makeup, before)
        keep_gain = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
        output, after, _ = _Compress.apply(keep_gain, *inputs)
    return (output, after) if return_state else output


def stage_coefficients(params: CompressorParams, sample_rate: float) -> Tensor:
    """The kernels' numbers (:data:`~ddsp_la2a.dsp.staged_kernels.COEFFICIENTS`) of some parameters.

    A stage that is off gets those that leave every bit as it is.

    Shape:
        ``(12,)`` for parameters of shape ``()``, ``(12, batch)`` for ``(batch,)``; differentiable.
    """
    given = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in params.numbers().items()}
    like = sum(given.values(), torch.zeros((), dtype=torch.float64))
    zero, one = torch.zeros_like(like), torch.ones_like(like)
    ratio, attack_ms, release_ms = given["ratio"], given["attack_ms"], given["release_ms"]
    factor = given.get("slow_factor", one)
    slope = slope_of(ratio, params.feedback)
    times = (attack_ms, release_ms, factor * attack_ms, factor * release_ms)
    attack, release, slow_attack, slow_release = (rise_time_to_coefficient(t, sample_rate) for t in times)
    shelf = (one, zero, zero)
    if params.shelf_db is not None:
        if known_any(given["shelf_hz"].detach() >= 0.5 * sample_rate):
            got = float(given["shelf_hz"].detach().max())
            raise ValueError(f"shelf_hz: expected less than half the sample rate of {sample_rate:g} Hz, got {got:g}")
        shelf = shelf_coefficients(given["shelf_db"], given["shelf_hz"], sample_rate)
    makeup = db_to_amplitude(given["makeup_db"])
    card = (given["threshold_db"], slope, given["knee_db"], attack, release)
    columns = (*card, slow_attack, slow_release, given.get("slow_mix", zero), *shelf, makeup)
    return torch.stack([column.expand(like.shape) for column in columns])


def check_reference(params: CompressorParams, sample_rate: float) -> None:
    """Refuse shelf and output filter at a rate that doesn't hold the 1 kHz where they have unit gain."""
    if (params.shelf_db is not None or params.output_filter is not None) and sample_rate <= 2.0 * REFERENCE_HZ:
        expected = f"more than {2.0 * REFERENCE_HZ:g} Hz for a shelf or output filter"
        raise ValueError(f"sample_rate: expected {expected}, got {sample_rate:g}")


def rest_state(params: CompressorParams) -> list[float]:
    """State of a unit at rest with a stage on: columns of what :func:`compressor` returns."""
    return [1.0, 1.0, 0.0, 0.0] + [0.0] * (params.output_filter.states if params.output_filter is not None else 0)


def _staged(
    audio: Tensor,
    params: CompressorParams,
    sample_rate: float,
    state: Tensor | float,
    return_state: bool,
    trace: bool,
) -> Any:
    check_reference(params, sample_rate)
    if params.output_filter is not None:
        shape = tuple(params.output_filter.coefficients.shape)
        if shape[:-1] not in ((), (1,), (len(audio),)):
            expected = f"one filter or {len(audio)} as the audio's batch"
            raise ValueError(f"output_filter: expected {expected}, got coefficients of shape {shape}")
        params = replace(params, output_filter=params.output_filter.at(sample_rate))
    rows: dict[str, Any] = {name: per_row(value, name, audio) for name, value in params.numbers().items()}
    coefficients = stage_coefficients(replace(params, **rows, output_filter=None), sample_rate).T
    rest = rest_state(params)
    before = torch.as_tensor(state, dtype=torch.float64, device=audio.device)
    if before.ndim < 2:
        gain = per_row(before, "state", audio)[:, None]
        others = torch.tensor(rest[2:], dtype=torch.float64, device=audio.device).expand(len(audio), -1)
        before = torch.cat([gain, gain, others], dim=1)
    if before.shape != (len(audio), len(rest)):
        raise ValueError(f"state: expected a number or shape ({len(audio)}, {len(rest)}), got {tuple(before.shape)}")
    if known_any(~torch.isfinite(before)):
        raise ValueError(f"state: expected finite numbers, got {state}")
    core, filtered = before[:, :4], before[:, 4:]
    signals = None
    if trace:
        with torch.no_grad():
            signals = staged.signals(audio, coefficients, params.feedback, core)
    output, after = staged.compress(audio, coefficients, params.feedback, core)
    if params.output_filter is not None:
        taps = params.output_filter.taps.to(audio.device)
        output, filtered = output_stage.output_filter(output, taps, sample_rate, filtered)
    after = torch.cat([after, filtered], dim=1)
    if signals is not None:
        fast, slow, heard = signals.unbind(1)
        mix = coefficients.detach()[:, 7, None]
        level_db = amplitude_to_db(heard.abs())
        threshold, slope, knee = coefficients.detach()[:, :3, None].unbind(1)
        target_db = sloped_gain_db(level_db, threshold, slope, knee)
        return CompressorTrace(output.detach(), level_db, target_db, fast + mix * (slow - fast), after.detach())
    return (output, after) if return_state else output
