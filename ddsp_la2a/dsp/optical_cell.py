"""The optical cell: a physical model of a levelling amplifier's gain, with one set of constants for every setting."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ddsp_la2a.dsp import optical_derivative_kernels, optical_kernels, output_stage
from ddsp_la2a.dsp.ballistics import number_or_row
from ddsp_la2a.dsp.checks import check_audio, check_finite, check_sample_rate, known_any
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.optical_kernels import STATES
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.dsp.params import check_numbers, check_reference, checked_filter
from ddsp_la2a.dsp.row_functions import FirstDerivative, LoopFunction, as_array
from ddsp_la2a.dsp.smoothing_kernels import pieces
from ddsp_la2a.units import DB_PER_NEPER, RISE_TIME_TO_TIME_CONSTANT, db_to_amplitude, rise_time_to_coefficient

_NUMBERS, _LIGHT_AND_CARRIERS = 15, 4
_AT_ONCE = 1e6  # 1/s: of traps that catch nothing
_FAST_TRAP = ("fast_trap_capture_per_s", "fast_trap_capacity", "fast_trap_release_per_s")
_SLOW_TRAP = ("slow_trap_capture_per_s", "slow_trap_release_per_s")
_OF_TRAPS = frozenset((*_FAST_TRAP, *_SLOW_TRAP))
_NOT_NEGATIVE = ("input_tap", "pair_recombination_per_s", "fast_trap_capture_per_s", "slow_trap_capture_per_s")
_POSITIVE = (
    "highpass_hz",
    "light_exponent",
    "light_ms",
    "recombination_per_s",
    "fast_trap_capacity",
    "fast_trap_release_per_s",
    "slow_trap_release_per_s",
    "largest_reduction_db",
)


@dataclass(frozen=True)
class OpticalCellParams:
    """The constants of an optical cell and what drives it, each a number or a tensor of shape ``()`` or ``(batch,)``.

    A drive of 1 is the one whose steady light halves the gain (6.02 dB of reduction, but for what ``input_tap`` and
    ``largest_reduction_db`` add): it sets the unit of the side-chain gain, of the light and of the carriers, so that no
    two sets of constants mean the same cell.

    Args:
        sidechain_gain_db: drive for a full-scale sample after the divider, dB; what the peak-reduction knob turns.
        input_tap: share of the signal before the divider that is mixed into the side-chain, 0 to 1; what the limit
            switch adds.
        makeup_db: gain after the divider in dB.
        highpass_hz: corner of the side-chain's first-order high-pass, Hz, > 0.
        drive_limit: drive that the side-chain amplifier doesn't exceed, > 1.
        light_exponent: b of the panel's light exp(b (1 − 1/√drive)), > 0: twice the slope of light in drive, both in
            dB, at a drive of 1.
        light_ms: 10–90 % time of the panel's light, ms, > 0.
        recombination_per_s: rate at which carriers recombine one by one, 1/s, > 0.
        pair_recombination_per_s: rate at which they recombine in pairs, 1/s at a reduction of 6 dB, ≥ 0.
        largest_reduction_db: reduction of a cell with its smallest resistance, dB, > 0.
        fast_trap_capture_per_s: rate at which empty fast traps catch carriers, 1/s, ≥ 0; None: there are none.
        fast_trap_capacity: carriers that they hold, as many as reduce the gain by 6 dB being 1, > 0.
        fast_trap_release_per_s: rate at which they let them go, 1/s, > 0.
        slow_trap_capture_per_s: rate at which slow traps, which are never full, catch carriers, 1/s, ≥ 0; None: there
            are none.
        slow_trap_release_per_s: rate at which they let them go, 1/s, > 0.
        output_filter: after that; it makes the output late by its ``latency``.

    Raises:
        ValueError: a value is not finite or out of range, or some numbers of a kind of trap are missing; the message
            names the parameter. Under ``torch.func.vmap`` only the shape is checked.
    """

    sidechain_gain_db: Tensor | float
    input_tap: Tensor | float = 0.0
    makeup_db: Tensor | float = 0.0
    highpass_hz: Tensor | float = 30.0
    drive_limit: Tensor | float = 50.0
    light_exponent: Tensor | float = 10.0
    light_ms: Tensor | float = 0.5
    recombination_per_s: Tensor | float = 20.0
    pair_recombination_per_s: Tensor | float = 2.0
    largest_reduction_db: Tensor | float = 40.0
    fast_trap_capture_per_s: Tensor | float | None = 300.0
    fast_trap_capacity: Tensor | float | None = 3.0
    fast_trap_release_per_s: Tensor | float | None = 5.0
    slow_trap_capture_per_s: Tensor | float | None = 5.0
    slow_trap_release_per_s: Tensor | float | None = 1.0
    output_filter: OutputFilter | None = None

    def __post_init__(self) -> None:
        for traps in (_FAST_TRAP, _SLOW_TRAP):
            missing = [name for name in traps if getattr(self, name) is None]
            if missing and len(missing) < len(traps):
                raise ValueError(f"{missing[0]}: expected a number beside {' and '.join(traps)}, got None; give all")
        check_numbers(
            self.numbers(),
            lowest=dict.fromkeys(_NOT_NEGATIVE, 0.0),
            highest={"input_tap": 1.0},
            above=dict.fromkeys(_POSITIVE, 0.0) | {"drive_limit": 1.0},
        )
        if not (self.output_filter is None or isinstance(self.output_filter, OutputFilter)):
            raise ValueError(f"output_filter: expected an OutputFilter or None, got {self.output_filter!r}")

    def numbers(self) -> dict[str, Tensor | float]:
        """Every parameter that is a number, or one a row, by name; those of traps that aren't there are left out."""
        given = {field.name: getattr(self, field.name) for field in fields(self)[:_NUMBERS]}
        return {name: value for name, value in given.items() if name not in _OF_TRAPS or value is not None}

    @property
    def has_reference(self) -> bool:
        """Whether a stage has unit gain at 1 kHz, which the sample rate must hold."""
        return self.output_filter is not None

    def slowest_ms(self) -> float:
        """Longest of the 10–90 % times in which it forgets, ms.

        Of the last few carriers in the dark: what traps let go they mostly catch again, so that it takes much longer
        than they hold a carrier.
        """
        zero = dict.fromkeys((*_FAST_TRAP, *_SLOW_TRAP), 0.0)
        given = {
            name: torch.as_tensor(value).detach().double().cpu() for name, value in (zero | self.numbers()).items()
        }
        k1, k_fast, e_fast, k_slow, e_slow, highpass_hz, light_ms = torch.broadcast_tensors(
            given["recombination_per_s"],
            given["fast_trap_capture_per_s"],
            given["fast_trap_release_per_s"],
            given["slow_trap_capture_per_s"],
            given["slow_trap_release_per_s"],
            given["highpass_hz"],
            given["light_ms"],
        )
        nothing = torch.zeros_like(k1)
        e_fast, e_slow = (torch.where(k > 0.0, e, _AT_ONCE) for k, e in ((k_fast, e_fast), (k_slow, e_slow)))
        rows = (k1 + k_fast + k_slow, -e_fast, -e_slow), (-k_fast, e_fast, nothing), (-k_slow, nothing, e_slow)
        rates = torch.linalg.eigvals(torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)).real
        slowest = rates.amin()
        times = RISE_TIME_TO_TIME_CONSTANT / torch.stack([slowest, 2.0 * torch.pi * highpass_hz.min()])
        return float(torch.cat([1e3 * times, light_ms.max()[None]]).max())


def optical_cell(
    audio: Tensor,
    params: OpticalCellParams,
    sample_rate: float,
    *,
    state: Tensor | None = None,
    return_state: bool = False,
) -> Any:
    """Compress audio with an optical cell and feedback; sequential, differentiable.

    The cell's conductance c shunts the audio behind a series resistor; the side-chain takes the signal after it, drives
    an electroluminescent panel with it, unrectified, and the panel's light frees carriers in the cell::

        v = x / (1 + c),   1/c = 1/n + 1/most                        divider; v · makeup is the output
        s = v + tap (x − v),   h: s high-passed
        u = gain |h|,   w = u / √(1 + (u² − 1)/limit²)               drive of the panel
        φ = exp(b (1 − 1/√w)),   0 where u < 0.001                   its light
        τ dL/dt = φ − L                                              phosphor
        dn/dt = (k1 + kb) L − k1 n − kb n² − dm1/dt − dm2/dt         carriers
        dm1/dt = kc n (1 − m1/M) − ke1 m1,   dm2/dt = k2 n − ke2 m2  carriers in fast and in slow traps

    in steps that are linearly implicit (see :mod:`~ddsp_la2a.dsp.optical_kernels`): bounded and positive at any rate.
    v is divided by the c of the sample before, so the result depends a little on the sample rate; ``benchmarks/README``
    says how much.

    Differentiable once with respect to the audio, every parameter and the state, in reverse mode and in forward mode,
    under ``torch.func.vmap`` too. A second derivative is refused.

    Args:
        audio: full scale ±1, float32 or float64.
        params: the physical parameters.
        sample_rate: in Hz.
        state: None for a cell that was in the dark for long; or what an earlier call returned.
        return_state: also return the state after the last sample.

    Shape:
        audio ``(batch, time)``; parameters ``(batch,)`` or a number; output as the audio. State ``(batch, 5)``
        (:data:`~ddsp_la2a.dsp.optical_kernels.STATES`), and more with an output filter (its ``states``).

    Returns:
        The output, late by ``latency`` samples if there is an output filter; with ``return_state`` the pair (output,
        state in float64).

    Raises:
        ValueError: wrong type, shape or range, with what was expected and what came.
        RuntimeError: a second derivative, when it is computed.

    References:
        Rose 1955, "Recombination processes in insulators and semiconductors", Phys. Rev. 97(2), for traps and
        recombination; Alfrey & Taylor 1955, Proc. Phys. Soc. B 68, for exp(−b/√V); Universal Audio, "LA-2A leveling
        amplifier" (manual, rev. 1.3), for the circuit.
    """
    check_audio(audio)
    check_sample_rate(sample_rate)
    check_reference(params, sample_rate)
    filtering = checked_filter(params, sample_rate, len(audio))
    given = {name: number_or_row(value, name, audio).double() for name, value in params.numbers().items()}
    coefficients = _coefficients(given, sample_rate).expand(len(audio), -1)
    before = _all_states(state, len(STATES) + (0 if filtering is None else filtering.states), audio)
    core, filtered = before[:, : len(STATES)], before[:, len(STATES) :]
    output, after = audio, core
    if audio.shape[1] > 0:
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (audio, coefficients, core))
        output, after, _ = _Cell.apply(keep, audio, coefficients, core)
    if filtering is not None:
        taps = filtering.taps.to(audio.device)
        output, filtered = output_stage.output_filter(output, taps, sample_rate, filtered)
        after = torch.cat([after, filtered], dim=1)
    return (output, after) if return_state else output


def _all_states(state: Tensor | None, states: int, audio: Tensor) -> Tensor:
    if state is None:
        return torch.zeros(len(audio), states, dtype=torch.float64, device=audio.device)
    given = torch.as_tensor(state, dtype=torch.float64, device=audio.device)
    if given.shape != (len(audio), states):
        raise ValueError(f"state: expected shape {(len(audio), states)}, got {tuple(given.shape)}")
    if known_any(~torch.isfinite(given)):
        raise ValueError(f"state: expected finite numbers, got {state}")
    if known_any(given[:, :_LIGHT_AND_CARRIERS] < 0.0):
        raise ValueError(
            f"state: expected light and carriers of 0 or more, got {state}; give what an earlier call gave"
        )
    return given


def cell_coefficients(params: OpticalCellParams, sample_rate: float) -> Tensor:
    """The kernels' numbers (:data:`~ddsp_la2a.dsp.optical_kernels.COEFFICIENTS`) of some parameters.

    Shape:
        ``(15,)`` for parameters of shape ``()``, ``(batch, 15)`` for ``(batch,)``; differentiable.
    """
    given = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in params.numbers().items()}
    return _coefficients(given, sample_rate)


def _coefficients(given: dict[str, Tensor], sample_rate: float) -> Tensor:
    step = 1.0 / sample_rate
    fast, slow = (traps[0] in given for traps in (_FAST_TRAP, _SLOW_TRAP))
    nothing = given["sidechain_gain_db"].new_zeros(())
    capacity = given["fast_trap_capacity"] if fast else nothing + 1.0
    columns = (
        db_to_amplitude(given["sidechain_gain_db"]),
        given["input_tap"],
        -torch.expm1(-2.0 * torch.pi * step * given["highpass_hz"]),
        1.0 / given["drive_limit"].square(),
        given["light_exponent"] / math.log(2.0),
        rise_time_to_coefficient(given["light_ms"], sample_rate),
        given["recombination_per_s"] * step,
        given["pair_recombination_per_s"] * step,
        given["fast_trap_capture_per_s"] / capacity * step if fast else nothing,
        capacity,
        given["fast_trap_release_per_s"] * step if fast else nothing,
        given["slow_trap_capture_per_s"] * step if slow else nothing,
        given["slow_trap_release_per_s"] * step if slow else nothing,
        1.0 / torch.expm1(given["largest_reduction_db"] / DB_PER_NEPER),
        db_to_amplitude(given["makeup_db"]),
    )
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def _run(keep: bool, audio: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, samples = audio.shape
    output = torch.empty((rows, samples), dtype=audio.dtype)
    after = state.to(device="cpu", copy=True).contiguous()
    passed = torch.empty((rows, pieces(samples) if keep else 0, len(STATES)), dtype=torch.float64)
    inputs, results = map(as_array, (audio, coefficients)), map(as_array, (after, output, passed))
    if any(over_rows(optical_kernels.cell_forward, rows, samples, *inputs, *results)):
        check_finite(audio)
    return output.to(audio.device), after.to(audio.device), passed


class _CellAdjoint(FirstDerivative):
    operator = "optical_cell"

    @staticmethod
    def forward(
        kept: Tensor, grad_output: Tensor, grad_state: Tensor, audio: Tensor, coefficients: Tensor, state: Tensor
    ) -> tuple[Tensor, ...]:
        rows, samples = audio.shape
        if kept.numel() == 0:  # under vmap it doesn't show beforehand that there is a backward pass to keep it for
            kept = _run(True, audio, coefficients, state)[2]
        grad_audio = torch.empty((rows, samples), dtype=audio.dtype)
        grad_coefficients = torch.empty(coefficients.shape, dtype=torch.float64)
        adjoint = grad_state.to(device="cpu", dtype=torch.float64, copy=True).contiguous()
        arrays = map(as_array, (audio, coefficients, kept, grad_output, grad_audio, grad_coefficients, adjoint))
        over_rows(optical_derivative_kernels.cell_backward, rows, samples, *arrays)
        return tuple(part.to(audio.device) for part in (grad_audio, grad_coefficients, adjoint))


class _CellTangent(FirstDerivative):
    operator = "optical_cell"

    @staticmethod
    def forward(
        audio: Tensor, coefficients: Tensor, state: Tensor, d_audio: Tensor, d_coefficients: Tensor, d_state: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows, samples = audio.shape
        output = torch.empty((rows, samples), dtype=torch.float64)
        tangents = torch.empty((rows, 1, samples), dtype=torch.float64)
        after = d_state.to(device="cpu", copy=True)[:, :, None].contiguous()
        inputs = map(as_array, (audio, d_audio[:, None], coefficients, d_coefficients[:, :, None]))
        others = map(as_array, (state.to(device="cpu", copy=True).contiguous(), after, output, tangents))
        over_rows(optical_derivative_kernels.cell_tangents, rows, samples, *inputs, *others)
        return tangents[:, 0].to(audio.device, audio.dtype), after[:, :, 0].to(audio.device)


class _Cell(LoopFunction):
    adjoint, tangent = _CellAdjoint, _CellTangent

    @staticmethod
    def forward(keep: bool, audio: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _run(keep, audio, coefficients, state)
