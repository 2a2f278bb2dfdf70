"""The feedback loop of side-chain, panel and photo-resistor: one compiled pass over the oversampled signal."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ddsp_la2a.simulated_unit.constants import UnitConstants

_NEXT_TO_NOTHING = 1e-30  # states below are cleared: the processor is many times slower on denormal numbers


def run_cell(
    audio: np.ndarray, side_chain_gain: np.ndarray, hold: int, rate: float, limit: bool, constants: UnitConstants
) -> tuple[np.ndarray, np.ndarray]:
    """Signal behind the optical cell, and what the cell takes away.

    v = x / (1 + c), with c driven by v (and a little of x, if limiting) as in :class:`UnitConstants`. Every step is
    implicit in the state it solves for, so that all states stay positive and bounded; c is that of the step before.

    Args:
        audio: input in full scale.
        side_chain_gain: drive per full scale, > 0; may wander slowly.
        hold: steps that each of its values lasts.
        rate: steps per second.
        limit: whether the switch is at limit.
        constants: of the unit.

    Shape:
        (time,) and (at least time / hold,) to two of (time,).

    Returns:
        The signal v and the attenuation 1 + c, ≥ 1.

    References:
        Scheme: Patankar (1980), Numerical Heat Transfer and Fluid Flow, 7.2 (linearised sinks keep states positive).
    """
    return _run(
        audio,
        side_chain_gain,
        hold,
        1.0 / rate,
        constants.limit_mix if limit else 0.0,
        constants.side_chain_highpass_hz,
        constants.drive_limit,
        constants.light_exponent,
        constants.phosphor_ms / 1000.0,
        constants.light_to_carriers_per_s,
        constants.recombination_per_s,
        constants.bimolecular_per_s,
        constants.conductance_limit,
        np.array(constants.trap_capture_per_s),
        1.0 / np.array(constants.trap_capacity),
        np.array(constants.trap_escape_per_s),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _run(
    audio: np.ndarray, side_chain_gain: np.ndarray, hold: int, step: float, mix: float, highpass_hz: float,
    drive_limit: float, exponent: float, phosphor_s: float, light_to_carriers: float, recombination: float,
    bimolecular: float, conductance_limit: float, capture: np.ndarray, per_capacity: np.ndarray, escape: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    highpass = -math.expm1(-2.0 * math.pi * highpass_hz * step)
    phosphor = -math.expm1(-step / phosphor_s)
    behind, attenuation = np.empty_like(audio), np.empty_like(audio)
    traps = np.zeros_like(capture)
    low = light = carriers = 0.0
    c = 0.0
    for i in range(audio.size):
        x = audio[i]
        v = x / (1.0 + c)
        behind[i], attenuation[i] = v, 1.0 + c

        s = v + mix * (x - v)
        low += highpass * (s - low)
        if abs(low) < _NEXT_TO_NOTHING:
            low = 0.0
        drive = side_chain_gain[i // hold] * abs(s - low)
        drive /= math.sqrt(1.0 + (drive / drive_limit) ** 2)
        glow = math.exp(exponent * (1.0 - 1.0 / math.sqrt(drive))) if drive > 1e-3 else 0.0
        light += phosphor * (glow - light)
        if light < _NEXT_TO_NOTHING:
            light = 0.0

        gained, lost = light_to_carriers * light, recombination + bimolecular * carriers
        for k in range(traps.size):
            gained += escape[k] * traps[k]
            lost += capture[k] * (1.0 - traps[k] * per_capacity[k])
        carriers = (carriers + step * gained) / (1.0 + step * lost)
        for k in range(traps.size):
            caught = step * capture[k] * carriers
            traps[k] = (traps[k] + caught) / (1.0 + caught * per_capacity[k] + step * escape[k])
        c = carriers / (1.0 + carriers / conductance_limit)
    return behind, attenuation
