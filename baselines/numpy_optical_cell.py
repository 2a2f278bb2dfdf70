"""The optical cell in plain numpy and float64, one sample at a time: the oracle of its tests.

Written from the equations in the docstrings of ``ddsp_la2a.dsp.optical_cell``, in their own units of seconds, dB and
Hz. Nothing of ``ddsp_la2a`` runs in it: only the names of the parameters are taken from there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import signal

from baselines.numpy_compressor import Array, _mono

if TYPE_CHECKING:
    from ddsp_la2a.dsp.optical_cell import OpticalCellParams

DARK = 1e-3
"""Drive up to which the panel gives no light."""


class CellReference(NamedTuple):
    """What :func:`numpy_optical_cell` computed, float64; arrays have shape (time,)."""

    output: Array
    """Compressed audio, make-up included."""
    conductance: Array
    """Of the cell, times the series resistance: c, by which every sample is divided as x / (1 + c)."""
    state: Array
    """Carriers, light of the panel, carriers in fast and in slow traps, low-passed side-chain, after the last step."""


def numpy_optical_cell(
    audio: ArrayLike, params: OpticalCellParams, sample_rate: float, oversample: int = 1
) -> CellReference:
    """Compress audio with an optical cell and feedback, from the dark.

        v = x / (1 + c),   1/c = 1/n + 1/most,   most = 10^(largest reduction / 20) − 1
        s = v + tap (x − v),   h = s − low,   low ← low + (1 − e^(−2π f T)) h
        u = gain |h|,   w = u / √(1 + (u² − 1)/limit²)
        φ = exp(b (1 − 1/√w)),   0 where u ≤ 0.001
        L  ← L + (1 − e^(−ln 9 T / t)) (φ − L)
        n  ← (n + T (A L + ke1 m1 + ke2 m2)) / (1 + T (k1 + kb n + kc (1 − m1/M) + k2)),   A = k1 + kb
        m1 ← (m1 + T kc n) / (1 + T (kc n / M + ke1)),   m2 ← (m2 + T k2 n) / (1 + T ke2)

    T is the length of a step; what is on the left of an arrow is, on its right, the one of the step before.

    Args:
        audio: full scale ±1.
        params: numbers; its output filter is left out.
        sample_rate: in Hz.
        oversample: steps a sample; the audio between samples is what a band-limited interpolation says.

    Shape: ``audio`` is (time,), and so is every array returned but the state (5,).
    """
    x = _mono("audio", audio)
    rate = sample_rate * oversample
    step = 1.0 / rate
    p = {name: float(value) for name, value in params.numbers().items()}
    gain, makeup, most = (
        10.0 ** (p[name] / 20.0) for name in ("sidechain_gain_db", "makeup_db", "largest_reduction_db")
    )
    most -= 1.0
    tap, limit, b = p["input_tap"], p["drive_limit"], p["light_exponent"]
    corner = -math.expm1(-2.0 * math.pi * p["highpass_hz"] / rate)
    rise = -math.expm1(-math.log(9.0) / (1e-3 * p["light_ms"] * rate))
    k1, kb = p["recombination_per_s"], p["pair_recombination_per_s"]
    kc, ke1 = (p.get(f"fast_trap_{what}_per_s", 0.0) for what in ("capture", "release"))
    k2, ke2 = (p.get(f"slow_trap_{what}_per_s", 0.0) for what in ("capture", "release"))
    capacity = p.get("fast_trap_capacity", 1.0)
    n = light = m1 = m2 = low = 0.0
    conductances = []
    for sample in (x if oversample == 1 else signal.resample_poly(x, oversample, 1)).tolist():
        c = n / (1.0 + n / most)
        conductances.append(c)
        v = sample / (1.0 + c)
        h = v + tap * (sample - v) - low
        low += corner * h
        u = gain * abs(h)
        phi = math.exp(b * (1.0 - 1.0 / math.sqrt(u / math.sqrt(1.0 + (u * u - 1.0) / limit**2)))) if u > DARK else 0.0
        light += rise * (phi - light)
        fed = n + step * ((k1 + kb) * light + ke1 * m1 + ke2 * m2)
        n = fed / (1.0 + step * (k1 + kb * n + kc * (1.0 - m1 / capacity) + k2))
        m1 = (m1 + step * kc * n) / (1.0 + step * (kc * n / capacity + ke1))
        m2 = (m2 + step * k2 * n) / (1.0 + step * ke2)
    conductance = np.array(conductances)[::oversample]
    return CellReference(makeup * x / (1.0 + conductance), conductance, np.array([n, light, m1, m2, low]))
