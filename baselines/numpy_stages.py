"""The stages around the compressor of ``numpy_compressor``, in plain numpy and float64: the oracle of their tests.

Side-chain shelf, feedback detection, a second slow cell and an output filter, each written from its equation as the
recursion that it is, one sample at a time. It imports nothing of ``ddsp_la2a``.
"""

from __future__ import annotations

import cmath
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import signal

from baselines.numpy_compressor import LEVEL_FLOOR, NEPER_PER_DB, Array, _coefficient, _mono

REFERENCE_HZ = 1000.0
"""Where shelf and output filter have unit gain."""

POLE_HZ = 10.0
"""Corner of the output filter's slow pole."""


class StagedReference(NamedTuple):
    """What :func:`staged_compressor` computed, float64; arrays have shape (time,)."""

    output: Array
    """Compressed audio, late by half the output filter's order."""
    gain: Array
    """Linear gain given, both cells mixed, make-up not included."""
    fast: Array
    """Linear gain of the first cell."""
    slow: Array
    """Linear gain of the second."""
    level_db: Array
    """Level in dB that the curve was given, at least −160."""
    target_gain: Array
    """Linear gain that the curve asked for."""
    fed_back: float
    """Last compressed sample before make-up."""


def shelf(shelf_db: float, shelf_hz: float, sample_rate: float) -> tuple[Array, Array]:
    """Numerator and denominator in z⁻¹ of the side-chain's shelf.

    The bilinear transform of H(s) = (1 + √G s/Ω) / (1 + s/(√G Ω)), Ω = 2 fs tan(π f / fs) so that it is exact at the
    shelf's centre f, over its magnitude at 1 kHz; G = 10^(shelf_db / 20) is the gain of the highs over the lows.

    Args:
        shelf_db: highs over lows in dB.
        shelf_hz: centre f in Hz, below half the sample rate.
        sample_rate: fs in Hz.

    Shape: two coefficients each, the denominator's first is 1.
    """
    root = 10.0 ** (shelf_db / 40.0)
    centre = 2.0 * sample_rate * math.tan(math.pi * shelf_hz / sample_rate)
    b, a = signal.bilinear([root / centre, 1.0], [1.0 / (root * centre), 1.0], fs=sample_rate)
    return b / abs(_response(b, a, sample_rate)), a


def output_filter(coefficients: ArrayLike, sample_rate: float) -> tuple[Array, Array]:
    """Numerator and denominator in z⁻¹ of the output filter, made causal by L samples of latency.

        H(z) = (1 + Σ c_k (z^−k − cos ω k) + c_p (P(z) − Re P)) / |the same at 1 kHz|,   k = −L … L without 0
        P(z) = (1 − p) / (1 − p z⁻¹),   p = exp(−2π 10 Hz / fs)

    Args:
        coefficients: c_−L … c_−1, c_1 … c_L, c_p.
        sample_rate: fs in Hz.

    Shape: ``coefficients`` is (2 L + 1,); the numerator has 2 L + 2, the denominator two.
    """
    *sides, share = (float(c) for c in np.asarray(coefficients))
    latency = len(sides) // 2
    omega = 2.0 * math.pi * REFERENCE_HZ / sample_rate
    p = math.exp(-2.0 * math.pi * POLE_HZ / sample_rate)
    pole_at_reference = (1.0 - p) / (1.0 - p * cmath.exp(-1j * omega))
    delays = [*range(-latency, 0), *range(1, latency + 1)]
    fir = np.zeros(2 * latency + 1)
    fir[latency] = 1.0 - share * pole_at_reference.real
    for k, c in zip(delays, sides, strict=True):
        fir[latency + k] += c
        fir[latency] -= c * math.cos(omega * k)
    denominator = np.array([1.0, -p])
    numerator = np.convolve(fir, denominator)
    numerator[latency] += share * (1.0 - p)
    return numerator / abs(_response(numerator, denominator, sample_rate)), denominator


def staged_compressor(
    x: ArrayLike,
    sample_rate: float,
    threshold_db: float,
    ratio: float,
    knee_db: float,
    attack_ms: float,
    release_ms: float,
    makeup_db: float = 0.0,
    *,
    slow_factor: float = 1.0,
    slow_mix: float = 0.0,
    shelf_db: float = 0.0,
    shelf_hz: float = REFERENCE_HZ,
    feedback: bool = False,
    output_coefficients: ArrayLike = (0.0,),
    state: float = 1.0,
) -> StagedReference:
    """Peak compressor whose detector is filtered and may hear the output, with two cells and a filter behind it.

        s[n] = shelf of x[n], or of v[n−1] with feedback
        t[n] = 10^(G(20 log10 max(|s[n]|, 1e−8)) / 20)
        f[n] = f[n−1] + α (t[n] − f[n−1]),   q[n] likewise with both times × slow_factor
        v[n] = x[n] ((1 − mix) f[n] + mix q[n]),   y = output filter of 10^(makeup / 20) v

    G is the quadratic knee of ``numpy_compressor``, its slope 1 − 1/ratio, or ratio − 1 with feedback.

    Args:
        x, sample_rate, threshold_db, ratio, knee_db, attack_ms, release_ms, makeup_db: as
            :func:`~baselines.numpy_compressor.compressor`.
        slow_factor, slow_mix: times of the second cell over those of the first, and its share.
        shelf_db, shelf_hz: as :func:`shelf`.
        feedback: whether the detector hears the last compressed sample.
        output_coefficients: as :func:`output_filter`.
        state: linear gain of both cells before the first frame; all else is at rest.

    Shape: ``x`` is (time,), and so is every array returned.

    References:
        D. Giannoulis, M. Massberg, J. D. Reiss, "Digital dynamic range compressor design", JAES 60(6), 2012.
    """
    x = _mono("x", x)
    slope = ratio - 1.0 if feedback else 1.0 - 1.0 / ratio
    alphas = [
        (_coefficient("attack_ms", attack_ms * k, sample_rate), _coefficient("release_ms", release_ms * k, sample_rate))
        for k in (1.0, slow_factor)
    ]
    (b0, b1), (_, a1) = (part.tolist() for part in shelf(shelf_db, shelf_hz, sample_rate))
    heard_before = shelved_before = compressed = 0.0
    cells = [float(state)] * 2
    rows = []
    for sample in x.tolist():
        heard = compressed if feedback else sample
        shelved = b0 * heard + b1 * heard_before - a1 * shelved_before
        heard_before, shelved_before = heard, shelved
        level_db = math.log(max(abs(shelved), LEVEL_FLOOR)) / NEPER_PER_DB
        target = math.exp(NEPER_PER_DB * _static_gain_db(level_db - threshold_db, slope, knee_db))
        for i, (attack, release) in enumerate(alphas):
            cells[i] += (attack if target < cells[i] else release) * (target - cells[i])
        gain = (1.0 - slow_mix) * cells[0] + slow_mix * cells[1]
        compressed = sample * gain
        rows.append((compressed, gain, *cells, level_db, target))
    compressed_audio, gain_given, fast, slow, levels_db, targets = np.array(rows).reshape(-1, 6).T
    loud = math.exp(NEPER_PER_DB * makeup_db) * compressed_audio
    output = signal.lfilter(*output_filter(output_coefficients, sample_rate), loud)
    return StagedReference(output, gain_given, fast, slow, levels_db, targets, compressed)


def _static_gain_db(above: float, slope: float, knee_db: float) -> float:
    if above >= 0.5 * knee_db:
        return -slope * above
    return -slope * (above + 0.5 * knee_db) ** 2 / (2.0 * knee_db) if above > -0.5 * knee_db else 0.0


def _response(numerator: Array, denominator: Array, sample_rate: float) -> complex:
    """Of a filter at 1 kHz."""
    _, response = signal.freqz(numerator, denominator, [REFERENCE_HZ], fs=sample_rate)
    return complex(response[0])
