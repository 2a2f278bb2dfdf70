"""What tells one simulated LA-2A from another: the constants of its cell, side-chain and audio path."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from ddsp_la2a.units import db_to_amplitude

_SIDE_CHAIN_GAIN_DB = {
    40: -5.8, 45: -4.3, 50: -2.9, 55: -1.9, 60: -0.9, 65: 0.0, 70: 2.9,
    75: 5.5, 80: 8.3, 85: 12.7, 90: 17.8, 95: 20.6, 100: 22.7,
}  # fmt: skip
"""Side-chain gain in dB above that at peak reduction 65; the taper of the potentiometer."""


@dataclass(frozen=True)
class UnitConstants:
    r"""Constants of one unit; the defaults are the nominal unit.

    The cell's conductance times the series resistance is c = n / (1 + n / N). Light L makes carriers n, which recombine
    or are held by traps mᵢ of fast, slow and very slow escape:

        dn/dt  = A L − k1 n − kb n² − Σ dmᵢ/dt
        dmᵢ/dt = Kᵢ n (1 − mᵢ/Mᵢ) − eᵢ mᵢ

    Light is φ = exp(b (1 − 1/√d)) of the drive d, smoothed by the phosphor. Amplitudes are in full scale, which stands
    for +16 dBm at the output.

    Args:
        light_to_carriers_per_s: A, carriers per second and unit of light, > 0.
        recombination_per_s: k1, > 0.
        bimolecular_per_s: kb, ≥ 0.
        light_exponent: b, steepness of the panel's brightness over its voltage, > 0.
        conductance_limit: N, the conductance that carriers approach (its smallest resistance), > 0.
        phosphor_ms: time constant of the panel's afterglow, > 0.
        trap_capture_per_s: Kᵢ, capture rate of the empty trap levels, ≥ 0.
        trap_capacity: Mᵢ, carriers a level can hold, > 0.
        trap_escape_per_s: eᵢ, ≥ 0.
        side_chain_gain: drive per full scale at peak reduction 65, > 0.
        side_chain_highpass_hz: first-order high-pass in front of the lamp driver, ≥ 0.
        drive_limit: swing at which the lamp driver gives out, > 0.
        limit_mix: share of the signal before the cell that the limit switch adds to the side-chain, 0…1.
        drift_db: largest excursion of the side-chain gain's slow drift, ≥ 0.
        tube_curvature: steepness of the tanh that stands for the tubes, > 0.
        tube_bias: tanh of its working point, −1…1; even harmonics grow with it.
        output_gain: gain of the audio path without reduction, > 0.
        highpass_hz: first-order high-pass of the transformers, > 0.
        lowpass_hz: second-order low-pass of the transformers, > 0.
        lowpass_q: its quality factor, > 0.
        delay_us: delay of the audio path, beside that of the two filters.
        noise_dbfs: root mean square of the white output noise.

    References:
        UA LA-2A manual, rev. 1.3; UA webzine, June 2008; Broser, Kallmann & Warminsky (1952), Ann. Phys. 445, 61 (decay
        of cadmium sulphide). Cell constants: one unit, fitted to recordings.
    """

    light_to_carriers_per_s: float = 185.3
    recombination_per_s: float = 18.13
    bimolecular_per_s: float = 1.614
    light_exponent: float = 11.41
    conductance_limit: float = 150.0
    phosphor_ms: float = 0.1
    trap_capture_per_s: tuple[float, ...] = (1028.8, 11.54, 0.3)
    trap_capacity: tuple[float, ...] = (4.626, 8000.0, 400.0)
    trap_escape_per_s: tuple[float, ...] = (3.759, 0.8729, 0.1667)
    side_chain_gain: float = 5.79
    side_chain_highpass_hz: float = 39.0
    drive_limit: float = 64.3
    limit_mix: float = 0.0003
    drift_db: float = 0.15
    tube_curvature: float = 0.13
    tube_bias: float = 0.1
    output_gain: float = 0.975
    highpass_hz: float = 8.4
    lowpass_hz: float = 24750.0
    lowpass_q: float = 1.08
    delay_us: float = 1.6
    noise_dbfs: float = -87.0

    @classmethod
    def sampled(cls, seed: int) -> UnitConstants:
        """Another unit of the same production line, its cell drawn uniformly about the nominal one.

        A ±20 %, k1 ±15 %, b ±5 %, capture of the slow and very slow traps ±30 % each.

        Args:
            seed: ≥ 0; the same seed gives the same unit.

        Returns:
            The constants of that unit.

        References:
            Moore (2025): stable release of six units between 0.45 and 1.67 s.
        """
        nominal = cls()
        light, recombination, exponent, *slow = np.random.default_rng(seed).uniform(-1.0, 1.0, 5).tolist()
        fast_capture, *slow_capture = nominal.trap_capture_per_s
        return replace(
            nominal,
            light_to_carriers_per_s=nominal.light_to_carriers_per_s * (1.0 + 0.20 * light),
            recombination_per_s=nominal.recombination_per_s * (1.0 + 0.15 * recombination),
            light_exponent=nominal.light_exponent * (1.0 + 0.05 * exponent),
            trap_capture_per_s=(
                fast_capture,
                *(k * (1.0 + 0.30 * draw) for k, draw in zip(slow_capture, slow, strict=True)),
            ),
        )

    def side_chain_gain_at(self, peak_reduction: float) -> float:
        """Side-chain gain at a position of the peak reduction knob.

        S = side_chain_gain · 10^(dB(peak_reduction) / 20), monotone cubic between the positions known; below 40
        proportional to the position, and at least 0.01, since the potentiometer never closes quite.

        Args:
            peak_reduction: 0…100.

        Returns:
            Drive per full scale, > 0.
        """
        taper = PchipInterpolator(list(_SIDE_CHAIN_GAIN_DB), list(_SIDE_CHAIN_GAIN_DB.values()))
        gain_db = taper(max(peak_reduction, 40.0))
        return max(0.01, self.side_chain_gain * float(db_to_amplitude(gain_db)) * min(1.0, peak_reduction / 40.0))
