"""The explicit compressor: level → static curve → attack and release → gain → make-up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddsp_la2a.dsp import fused, output_stage
from ddsp_la2a.dsp.ballistics import number_or_row, per_row, smooth
from ddsp_la2a.dsp.checks import check_audio, check_sample_rate, known_any
from ddsp_la2a.dsp.curve import slope_of, sloped_gain_db, static_gain_db
from ddsp_la2a.dsp.kernels import COEFFICIENTS, STATES
from ddsp_la2a.dsp.params import CompressorParams, check_reference, checked_filter
from ddsp_la2a.dsp.side_chain import shelf_coefficients
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude, rise_time_to_coefficient

_PLAIN = ("threshold_db", "ratio", "knee_db", "attack_ms", "release_ms", "makeup_db")


class CompressorTrace(NamedTuple):
    """Every signal of :func:`compressor`, ``(batch, time)`` but for the state.

    ``level_db`` is what the curve is given: of the input, or of what side-chain shelf and feedback make of it.
    """

    output: Tensor
    level_db: Tensor
    static_gain_db: Tensor
    gain: Tensor
    state: Tensor


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
        (:data:`~ddsp_la2a.dsp.kernels.STATES`), and more with an output filter (its ``states``).

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
    check_reference(params, sample_rate)
    params = replace(params, output_filter=checked_filter(params, sample_rate, len(audio)))
    given = {name: number_or_row(value, name, audio) for name, value in params.numbers().items()}
    before = _all_states(state, params, audio)
    if trace and params.is_plain:
        return _plain_trace(audio, given, sample_rate, before[:, 0])
    coefficients = _coefficients(given, params.feedback, sample_rate).expand(len(audio), -1)
    form, core, filtered = form_of(params), before[:, : len(STATES)], before[:, len(STATES) :]
    signals = None
    if trace:
        with torch.no_grad():
            signals = fused.signals(audio, coefficients, form, core)
    output, after = fused.compress(audio, coefficients, form, core)
    if params.is_plain:
        after = after[:, 0]
    if params.output_filter is not None:
        taps = params.output_filter.taps.to(audio.device)
        output, filtered = output_stage.output_filter(output, taps, sample_rate, filtered)
        after = torch.cat([after, filtered], dim=1)
    if signals is not None:
        fast, slow, heard = signals.unbind(1)
        mix = coefficients.detach()[:, COEFFICIENTS.index("slow_mix"), None]
        level_db = amplitude_to_db(heard.abs())
        threshold, slope, knee = coefficients.detach()[:, :3, None].unbind(1)
        target_db = sloped_gain_db(level_db, threshold, slope, knee)
        return CompressorTrace(output.detach(), level_db, target_db, fast + mix * (slow - fast), after.detach())
    return (output, after) if return_state else output


def _all_states(state: Tensor | float, params: CompressorParams, audio: Tensor) -> Tensor:
    """What :func:`compressor` is given as state, with a column for every number."""
    rest = rest_state(params)
    if isinstance(state, (int, float)):
        if not math.isfinite(state):
            raise ValueError(f"state: expected finite numbers, got {state}")
        rest[:2] = [float(state)] * 2
    before = torch.tensor(rest, dtype=torch.float64, device=audio.device).expand(len(audio), -1)
    if isinstance(state, (int, float)):
        return before
    given = torch.as_tensor(state, dtype=torch.float64, device=audio.device)
    if known_any(~torch.isfinite(given)):
        raise ValueError(f"state: expected finite numbers, got {state}")
    if given.ndim < 2:
        gain = per_row(given, "state", audio)[:, None]
        return torch.cat([gain, gain, before[:, 2:]], dim=1)
    if params.is_plain or given.shape != before.shape:
        expected = f"({len(audio)},)" if params.is_plain else tuple(before.shape)
        raise ValueError(f"state: expected a number or shape {expected}, got {tuple(given.shape)}")
    return given


def _plain_trace(audio: Tensor, given: dict[str, Tensor], sample_rate: float, before: Tensor) -> CompressorTrace:
    threshold, ratio, knee, attack_ms, release_ms, makeup_db = (given[name].expand(len(audio)) for name in _PLAIN)
    level_db = amplitude_to_db(audio.to(torch.float64).abs())
    target_db = static_gain_db(level_db, threshold[:, None], ratio[:, None], knee[:, None])
    attack, release = (rise_time_to_coefficient(time_ms, sample_rate) for time_ms in (attack_ms, release_ms))
    gain, after = smooth(db_to_amplitude(target_db), attack, release, before)
    output = (audio * gain * db_to_amplitude(makeup_db)[:, None]).to(audio.dtype)
    return CompressorTrace(output, level_db, target_db, gain, after)


def form_of(params: CompressorParams) -> fused.Form:
    """Which loops these parameters need."""
    return fused.Form(params.feedback, not params.is_plain, params.shelf_db is not None)


def stage_coefficients(params: CompressorParams, sample_rate: float) -> Tensor:
    """The kernels' numbers (:data:`~ddsp_la2a.dsp.kernels.COEFFICIENTS`) of some parameters.

    A stage that is off gets those that leave every bit as it is.

    Shape:
        ``(12,)`` for parameters of shape ``()``, ``(batch, 12)`` for ``(batch,)``; differentiable.
    """
    given = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in params.numbers().items()}
    return _coefficients(given, params.feedback, sample_rate)


def _coefficients(given: dict[str, Tensor], feedback: bool, sample_rate: float) -> Tensor:
    threshold_db, ratio, knee_db, attack_ms, release_ms, makeup_db = (given[name] for name in _PLAIN)
    attack = slow_attack = rise_time_to_coefficient(attack_ms, sample_rate)
    release = slow_release = rise_time_to_coefficient(release_ms, sample_rate)
    zero, one = threshold_db.new_zeros(()), threshold_db.new_ones(())
    slow_mix, shelf = zero, (one, zero, zero)
    if "slow_factor" in given:
        factor, slow_mix = given["slow_factor"], given["slow_mix"]
        slow_attack = rise_time_to_coefficient(factor * attack_ms, sample_rate)
        slow_release = rise_time_to_coefficient(factor * release_ms, sample_rate)
    if "shelf_db" in given:
        if known_any(given["shelf_hz"].detach() >= 0.5 * sample_rate):
            got = float(given["shelf_hz"].detach().max())
            raise ValueError(f"shelf_hz: expected less than half the sample rate of {sample_rate:g} Hz, got {got:g}")
        shelf = shelf_coefficients(given["shelf_db"], given["shelf_hz"], sample_rate)
    card = (threshold_db, slope_of(ratio, feedback), knee_db, attack, release)
    columns = (*card, slow_attack, slow_release, slow_mix, *shelf, db_to_amplitude(makeup_db))
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def rest_state(params: CompressorParams) -> list[float]:
    """State of a unit at rest with a stage on: columns of what :func:`compressor` returns."""
    return [1.0, 1.0, 0.0, 0.0] + [0.0] * (params.output_filter.states if params.output_filter is not None else 0)
