"""How the loops are compiled and spread over threads.

numba's ``parallel=True`` is not used: its OpenMP pool kills forked DataLoader workers. The kernels release the GIL and
:func:`over_rows` starts its few threads for the length of one call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_SAMPLES_WORTH_A_THREAD = 100_000

_EXPONENT = np.uint64(52)
_EXPONENT_BIAS = np.uint64(1023)
_SIGNED_EXPONENT_BIAS = np.uint64(512)
_SQRT_HALF_LESS_512 = np.uint64(int(np.float64(math.sqrt(0.5)).view(np.uint64)) - (512 << 52))
_TWO_TO_52 = 2.0**52
_TWO_TO_52_BITS = np.float64(_TWO_TO_52).view(np.uint64)
_ROUNDS_TO_WHOLE = 1.5 * 2.0**52
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = (2.0 / math.log(2.0) / (2 * k + 1) for k in range(8))
_E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9, _E10, _E11, _E12 = (
    math.log(2.0) ** k / math.factorial(k) for k in range(1, 13)
)


def compiled(function: Callable[..., Any] | None = None, *, fastmath: frozenset[str] = frozenset()) -> Any:
    """Compile on first use, and keep the machine code on disk where some cache folder is writable.

    Args:
        function: the loop.
        fastmath: LLVM's flags for what may be rounded otherwise than written; still the same in every run.
    """
    if function is None:
        return lambda later: compiled(later, fastmath=fastmath)
    flags = set(fastmath)
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=flags)(function)
    except RuntimeError:  # numba found no folder to cache in
        return numba.njit(nogil=True, error_model="numpy", fastmath=flags)(function)


FUSED = frozenset({"contract"})
"""Products are fused into sums. What :func:`log2` and :func:`exp2` are used with: they don't survive reordering."""

REORDERED = frozenset({"contract", "reassoc"})
"""Sums over time are taken in SIMD lanes."""

inlined = numba.njit(inline="always")


@intrinsic
def _bits(typing_context, value):
    return types.uint64(types.float64), lambda _, builder, __, values: builder.bitcast(values[0], ir.IntType(64))


@intrinsic
def _from_bits(typing_context, bits):
    return types.float64(types.uint64), lambda _, builder, __, values: builder.bitcast(values[0], ir.DoubleType())


@inlined
def log2(value):
    """Binary logarithm of a normal number between 2^−511 and 2^512, to 3e-14, in a form that loops can vectorise.

    value = 2^e · m with m in [√½, √2); log2 m = 2/ln 2 · artanh((m − 1)/(m + 1)) as a series.
    """
    bits = _bits(value)
    shifted = (bits - _SQRT_HALF_LESS_512) >> _EXPONENT  # the exponent, + 512 so that it is positive
    mantissa = _from_bits(bits - ((shifted - _SIGNED_EXPONENT_BIAS) << _EXPONENT))
    # SIMD has no conversion from 64-bit integers: the integer becomes the last bits of a number near 2^52.
    exponent = _from_bits(shifted | _TWO_TO_52_BITS) - (_TWO_TO_52 + 512.0)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    q = s * s
    return exponent + s * (_L0 + q * (_L1 + q * (_L2 + q * (_L3 + q * (_L4 + q * (_L5 + q * (_L6 + q * _L7)))))))


@inlined
def exp2(exponent):
    """2^exponent for exponents between −1000 and 1000, to 4e-16 of the value, in a form that loops can vectorise."""
    whole = exponent + _ROUNDS_TO_WHOLE
    f = exponent - (whole - _ROUNDS_TO_WHOLE)
    high = _E7 + f * (_E8 + f * (_E9 + f * (_E10 + f * (_E11 + f * _E12))))
    fraction = 1.0 + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * (_E6 + f * high))))))
    return fraction * _from_bits((_bits(whole) + _EXPONENT_BIAS) << _EXPONENT)


def over_rows(kernel: Any, rows: int, samples: int, *arguments: Any) -> None:
    """Run ``kernel(first, last, *arguments)`` on groups of rows, in as many threads as torch may use."""
    threads = min(rows, torch.get_num_threads(), 1 + rows * samples // _SAMPLES_WORTH_A_THREAD)
    if threads <= 1:
        kernel(0, rows, *arguments)
        return
    edges = [rows * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(kernel, a, b, *arguments) for a, b in itertools.pairwise(edges)]:
            done.result()
