"""Logarithm and exponential of base two, for single numbers and for :mod:`~ddsp_la2a.dsp.lanes` alike.

The polynomials are minimax fits (Lawson's iteration, 1961), summed in pairs (Estrin 1960), because with feedback every
sample waits for them.
"""

from __future__ import annotations

import math

import numpy as np

from ddsp_la2a.dsp.compiling import inlined
from ddsp_la2a.dsp.lanes import bits, fma, from_bits

_EXPONENT = np.uint64(52)
_EXPONENT_BIAS = np.uint64(1023)
_SIGNED_EXPONENT_BIAS = np.uint64(512)
_SQRT_HALF_LESS_512 = np.uint64(int(np.float64(math.sqrt(0.5)).view(np.uint64)) - (512 << 52))
_TWO_TO_52 = 2.0**52
_TWO_TO_52_BITS = np.float64(_TWO_TO_52).view(np.uint64)
_ROUNDS_TO_WHOLE = 1.5 * 2.0**52
_L0, _L1, _L2, _L3, _L4, _L5 = (
    2.885390081777424,
    0.961796694403799,
    0.5770778871426451,
    0.41221353673223154,
    0.31976025691939497,
    0.28469562304260565,
)
_E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9 = (
    0.6931471805598846,
    0.24022650695723358,
    0.05550410866840893,
    0.009618129181040474,
    0.001333355762490387,
    0.00015403440989913687,
    1.5252991291026748e-05,
    1.3258309307976777e-06,
    1.0147948423418886e-07,
)


@inlined
def log2(value):
    """Binary logarithm of a normal number between 2^−511 and 2^512, to 1e-14.

    value = 2^e · m with m in [√½, √2); log2 m = s P(s²), s = (m − 1)/(m + 1), as of 2/ln 2 · artanh s.
    """
    pattern = bits(value)
    shifted = (pattern - _SQRT_HALF_LESS_512) >> _EXPONENT  # the exponent, + 512 so that it is positive
    mantissa = from_bits(pattern - ((shifted - _SIGNED_EXPONENT_BIAS) << _EXPONENT))
    # SIMD has no conversion from 64-bit integers: the integer becomes the last bits of a number near 2^52.
    exponent = from_bits(shifted | _TWO_TO_52_BITS) - (_TWO_TO_52 + 512.0)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    q = s * s
    q_2 = q * q
    high = fma(q_2, fma(q, _L5, _L4), fma(q, _L3, _L2))
    return fma(s, fma(q_2, high, fma(q, _L1, _L0)), exponent)


@inlined
def exp2(exponent):
    """2^exponent for exponents between −1000 and 1000, to 2e-14 of the value; whole ones exactly."""
    whole = exponent + _ROUNDS_TO_WHOLE
    f = exponent - (whole - _ROUNDS_TO_WHOLE)
    f_2 = f * f
    f_4 = f_2 * f_2
    low = fma(f_2, fma(f, _E3, _E2), fma(f, _E1, 1.0))
    high = fma(f_4, fma(f, _E9, _E8), fma(f_2, fma(f, _E7, _E6), fma(f, _E5, _E4)))
    return fma(f_4, high, low) * from_bits((bits(whole) + _EXPONENT_BIAS) << _EXPONENT)
