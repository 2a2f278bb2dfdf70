"""The explicit compressor: level → static curve → attack and release → gain → make-up."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddsp_la2a.dsp import fused, output_stage
from ddsp_la2a.dsp.ballistics import number_or_row, per_row, smooth
from ddsp_la2a.dsp.checks import check_audio, check_finite, check_sample_rate, known_any
from ddsp_la2a.dsp.coefficients import CARD, Array, to_coefficients
from ddsp_la2a.dsp.curve import sloped_gain_db, static_gain_db
from ddsp_la2a.dsp.kernels import COEFFICIENTS, STATES
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.dsp.params import CompressorParams, check_reference, checked_filter
from ddsp_la2a.dsp.row_functions import as_array
from ddsp_la2a.dsp.side_chain import shelf_coefficients
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
    filtering = checked_filter(params, sample_rate, len(audio))
    given = {name: number_or_row(value, name, audio) for name, value in params.numbers().items()}
    before = _all_states(state, params, filtering, audio)
    if trace and params.is_plain:
        check_finite(audio)
        return _plain_trace(audio, given, sample_rate, before[:, 0])
    card, stages = (part.expand(len(audio), -1) for part in (_card(given), _stages(given, sample_rate)))
    form, core, filtered = form_of(params), before[:, : len(STATES)], before[:, len(STATES) :]
    output, after = fused.compress(audio, card, stages, form, sample_rate, core)
    if params.is_plain and return_state:
        after = after[:, 0]
    if filtering is not None:
        taps = filtering.taps.to(audio.device)
        output, filtered = output_stage.output_filter(output, taps, sample_rate, filtered)
        after = torch.cat([after, filtered], dim=1)
    if trace:
        coefficients = to_coefficients(as_array(card), as_array(stages), params.feedback, sample_rate)
        fast, slow, heard = fused.signals(audio, coefficients, form, core).unbind(1)
        numbers = torch.from_numpy(coefficients).to(audio.device)
        mix = numbers[:, COEFFICIENTS.index("slow_mix"), None]
        level_db = amplitude_to_db(heard.abs())
        threshold, slope, knee = numbers[:, :3, None].unbind(1)
        target_db = sloped_gain_db(level_db, threshold, slope, knee)
        return CompressorTrace(output.detach(), level_db, target_db, fast + mix * (slow - fast), after.detach())
    return (output, after) if return_state else output


def _all_states(
    state: Tensor | float, params: CompressorParams, filtering: OutputFilter | None, audio: Tensor
) -> Tensor:
    """What :func:`compressor` is given as state, with a column for every number."""
    rest = _rest(filtering)
    if isinstance(state, (int, float)):
        if not math.isfinite(state):
            raise ValueError(f"state: expected finite numbers, got {state}")
        rest[:2] = [float(state)] * 2
    before = torch.from_numpy(np.array(rest)).to(audio.device).expand(len(audio), -1)
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
    threshold, ratio, knee, attack_ms, release_ms, makeup_db = (
        given[name].double().expand(len(audio)) for name in CARD
    )
    level_db = amplitude_to_db(audio.to(torch.float64).abs())
    target_db = static_gain_db(level_db, threshold[:, None], ratio[:, None], knee[:, None])
    attack, release = (rise_time_to_coefficient(time_ms, sample_rate) for time_ms in (attack_ms, release_ms))
    gain, after = smooth(db_to_amplitude(target_db), attack, release, before)
    output = (audio * gain * db_to_amplitude(makeup_db)[:, None]).to(audio.dtype)
    return CompressorTrace(output, level_db, target_db, gain, after)


def form_of(params: CompressorParams) -> fused.Form:
    """Which loops these parameters need."""
    return fused.Form(params.feedback, not params.is_plain, params.shelf_db is not None)


def stage_coefficients(params: CompressorParams, sample_rate: float) -> Array:
    """The kernels' numbers (:data:`~ddsp_la2a.dsp.kernels.COEFFICIENTS`) of some parameters.

    A stage that is off gets those that leave every bit as it is.

    Shape:
        ``(12,)`` for parameters of shape ``()``, ``(batch, 12)`` for ``(batch,)``.
    """
    card, stages = card_and_stages(params, sample_rate)
    shape = torch.broadcast_shapes(card.shape[:-1], stages.shape[:-1])
    rows = math.prod(shape)
    card_rows, stage_rows = (as_array(part.expand(*shape, -1)).reshape(rows, part.shape[-1]) for part in (card, stages))
    return to_coefficients(card_rows, stage_rows, params.feedback, sample_rate).reshape(*shape, len(COEFFICIENTS))


def card_and_stages(params: CompressorParams, sample_rate: float) -> tuple[Tensor, Tensor]:
    """What :func:`~ddsp_la2a.dsp.coefficients.to_coefficients` makes the kernels' numbers of; differentiable."""
    given = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in params.numbers().items()}
    return _card(given), _stages(given, sample_rate)


def _card(given: dict[str, Tensor]) -> Tensor:
    """The parameters of the card ``(…, 6)`` in float64; few functions, for torch's sake."""
    # Floats are stacked in the widest of their types, which keeps them; among halves an integer would be rounded.
    numbers = [given[name] if given[name].is_floating_point() else given[name].double() for name in CARD]
    if any(number.shape != numbers[0].shape for number in numbers):
        numbers = list(torch.broadcast_tensors(*numbers))
    return torch.stack(numbers, dim=-1).double()


def _stages(given: dict[str, Tensor], sample_rate: float) -> Tensor:
    """Coefficients of slow cell and shelf ``(…, 6)``, ``(0,)`` where both are off."""
    if len(given) == len(CARD):
        return torch.empty(0, dtype=torch.float64)
    attack_ms, release_ms = given["attack_ms"].double(), given["release_ms"].double()
    zero, one = attack_ms.new_zeros(()), attack_ms.new_ones(())
    factor, mix, shelf = one, zero, (one, zero, zero)
    if "slow_factor" in given:
        factor, mix = given["slow_factor"].double(), given["slow_mix"].double()
    if "shelf_db" in given:
        if known_any(given["shelf_hz"].detach() >= 0.5 * sample_rate):
            got = float(given["shelf_hz"].detach().max())
            raise ValueError(f"shelf_hz: expected less than half the sample rate of {sample_rate:g} Hz, got {got:g}")
        shelf = shelf_coefficients(given["shelf_db"].double(), given["shelf_hz"].double(), sample_rate)
    slow = (rise_time_to_coefficient(factor * time_ms, sample_rate) for time_ms in (attack_ms, release_ms))
    return torch.stack(torch.broadcast_tensors(*slow, mix, *shelf), dim=-1)


def rest_state(params: CompressorParams) -> list[float]:
    """State of a unit at rest with a stage on: columns of what :func:`compressor` returns."""
    return _rest(params.output_filter)


def _rest(filtering: OutputFilter | None) -> list[float]:
    return [1.0, 1.0, 0.0, 0.0] + [0.0] * (filtering.states if filtering is not None else 0)
