"""The explicit compressor: level → static curve → attack and release → gain → make-up."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddsp_la2a.dsp import kernels
from ddsp_la2a.dsp.ballistics import FirstDerivative, RowFunction, Tangent, as_array, or_zeros, per_row, smooth
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.curve import static_gain_db
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude, rise_time_to_coefficient

_LOWEST = {"ratio": 1.0, "knee_db": 0.0}
_ABOVE = {"attack_ms": 0.0, "release_ms": 0.0}


@dataclass(frozen=True)
class CompressorParams:
    """The physical parameters of a compressor, each a number or a tensor of shape ``()`` or ``(batch,)``.

    Args:
        threshold_db: centre of the knee, dBFS of the absolute sample.
        ratio: input dB per output dB far above the threshold, ≥ 1.
        knee_db: width of the quadratic knee in dB, ≥ 0; 0 is the hard knee.
        attack_ms: 10–90 % time in milliseconds in which the gain falls, > 0.
        release_ms: 10–90 % time in milliseconds in which it rises, > 0; may be shorter than the attack.
        makeup_db: gain after compression in dB.

    Raises:
        ValueError: a value is not finite or out of range; the message names the parameter. Under ``torch.func.vmap``
            only the shape is checked.
    """

    threshold_db: Tensor | float
    ratio: Tensor | float
    knee_db: Tensor | float
    attack_ms: Tensor | float
    release_ms: Tensor | float
    makeup_db: Tensor | float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            try:
                value = torch.as_tensor(given, dtype=torch.float64).detach()
            except (TypeError, ValueError, RuntimeError):
                raise ValueError(f"{field.name}: expected a number or shape (batch,), got {given!r}") from None
            if value.ndim > 1:
                raise ValueError(f"{field.name}: expected a number or shape (batch,), got shape {tuple(value.shape)}")
            bad = ~torch.isfinite(value)
            expected = "a finite number"
            if field.name in _LOWEST:
                expected, bad = f"at least {_LOWEST[field.name]:g}", bad | (value < _LOWEST[field.name])
            elif field.name in _ABOVE:
                expected, bad = f"more than {_ABOVE[field.name]:g}", bad | (value <= _ABOVE[field.name])
            if _any(bad):
                got = value if value.ndim == 0 else value[bad][0]
                raise ValueError(f"{field.name}: expected {expected}, got {got.item():g}")


class CompressorTrace(NamedTuple):
    """Every signal of :func:`compressor`, ``(batch, time)`` but for the state."""

    output: Tensor
    level_db: Tensor
    static_gain_db: Tensor
    gain: Tensor
    state: Tensor


def _any(condition: Tensor) -> bool:
    """Whether a condition is known to hold anywhere."""
    try:
        return bool(condition.any())
    except RuntimeError:  # under vmap a tensor has a shape to check, but no one value that a branch could hang on
        return False


class _Compress(RowFunction):
    """Output, last state, and the gain in float64 for the backward pass, empty unless ``keep_gain``."""

    @staticmethod
    def forward(keep_gain: bool, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        audio, *params, before = inputs
        rows, samples = audio.shape
        output = torch.empty((rows, samples), dtype=audio.dtype)
        gain = torch.empty((rows, samples if keep_gain else 0), dtype=torch.float64)
        state = before.to(device="cpu", copy=True)
        arrays = map(as_array, (audio, audio, *params, state, output, gain))
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


def check_audio(audio: Tensor) -> None:
    """Refuse what the compressor can't process: wrong type or shape."""
    if not isinstance(audio, Tensor) or audio.dtype not in (torch.float32, torch.float64):
        got = audio.dtype if isinstance(audio, Tensor) else type(audio).__name__
        raise ValueError(f"audio: expected a tensor of float32 or float64, got {got}")
    if audio.ndim != 2:
        raise ValueError(f"audio: expected shape (batch, time), got {tuple(audio.shape)}; use audio[None] for one item")


def check_sample_rate(sample_rate: float) -> None:
    """Refuse a sampling rate that is no positive, finite number of Hz."""
    if not isinstance(sample_rate, Real) or not 0 < sample_rate < math.inf:
        raise ValueError(f"sample_rate: expected a positive number of Hz, got {sample_rate!r}")


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

    Differentiable once with respect to the audio, every parameter and the state, in reverse mode and in forward mode
    (``torch.func.jvp``, ``jacfwd``, ``torch.autograd.forward_ad``), under ``torch.func.vmap`` too. A second derivative
    is refused, whichever modes are mixed.

    Args:
        audio: full scale ±1, float32 or float64.
        params: the physical parameters.
        sample_rate: in Hz.
        state: g[−1], the gain before the first sample: 1 for a unit at rest, or what an earlier call returned.
        return_state: also return the gain after the last sample, to be carried into the next block.
        trace: return every signal between instead, unfused and so several times slower.

    Shape:
        audio ``(batch, time)``; parameters and state ``(batch,)`` or a number; output as the audio.

    Returns:
        The output; with ``return_state`` the pair (output, state ``(batch,)`` in float64); with ``trace`` a
        :class:`CompressorTrace`.

    Raises:
        ValueError: wrong type, shape or range, with what was expected and what came.
        RuntimeError: a second derivative, when it is computed.

    References:
        Giannoulis, Massberg & Reiss 2012, J. Audio Eng. Soc. 60(6), eqs. 4 and 16; signal flow as in Yu & Fazekas 2025
        (arXiv 2509.10706), with a knee added. Times are 10–90 % rise times, as there.
    """
    check_audio(audio)
    check_sample_rate(sample_rate)
    threshold, ratio, knee, attack_ms, release_ms, makeup_db = (
        per_row(getattr(params, field.name), field.name, audio) for field in fields(params)
    )
    attack = rise_time_to_coefficient(attack_ms, sample_rate)
    release = rise_time_to_coefficient(release_ms, sample_rate)
    makeup = db_to_amplitude(makeup_db)
    before = per_row(state, "state", audio)
    if _any(~torch.isfinite(before)):
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
