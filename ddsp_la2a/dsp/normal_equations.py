"""Error, gradient and Gauss–Newton matrix of a recording in one pass, without a tape.

What a least-squares fit needs of a recording is the sums of products of error and derivatives, a few numbers a second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from ddsp_la2a.dsp import tangent_kernels
from ddsp_la2a.dsp.params import Params
from ddsp_la2a.dsp.tangents import tangents_of

Array = NDArray[np.float64]

ERROR_FILTERS = {"none": (0.0, 0.0), "dc": (1.0, 0.995), "pre-emphasis": (0.85, 0.0)}
"""Zero and pole of what the error is heard through, (1 − zero z⁻¹) / (1 − pole z⁻¹): nothing, the filter of the
published tables, or the pre-emphasis of Wright & Välimäki 2020."""

ERROR, TARGET, FIRST_TANGENT = 0, 1, 2
"""Rows of the products: the filtered error, the filtered target, then the derivatives of the output."""

_PIECE = 2048
"""Samples whose signals stay in the second-level cache between the loops; shorter pieces wait for the interpreter."""

_SUMS_AT_ONCE = 256


def error_products(
    blocks: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]],
    params: Params,
    sample_rate: float,
    *,
    error_filter: str = "dc",
    warmup_frames: int = 0,
    sum_frames: int | None = None,
) -> Array:
    """Products of error, target and derivatives of the output, summed over stretches of a recording.

    ::

        P[i, j] = Σ r_i[n] r_j[n],   r = F (ŷ − y), F y, F ∂ŷ/∂p_0, F ∂ŷ/∂p_1, …

    with F the error filter and p the parameters that the compressor has: ``params.numbers()``, in their order and
    units, then the coefficients of its output filter, for which the target waits. So P[0, 0] is
    the error's energy, P[1, 1] the target's, P[2:, 0] half the gradient of the first and P[2:, 2:] half its
    Gauss–Newton matrix. Memory does not depend on the length; all is float64. From rest: the gain starts at one.

    Args:
        blocks: input and target, one after the other.
        params: numbers.
        sample_rate: in Hz.
        error_filter: a key of :data:`ERROR_FILTERS`.
        warmup_frames: at the beginning, which are heard but not counted.
        sum_frames: length of one sum; None: one for all that counts.

    Shape:
        every block two arrays ``(time,)``, float32 or float64.

    Returns:
        ``(sums, n, n)``, n being 2 more than the parameters; the last sum may be over fewer frames. ``(0, n, n)`` where
        nothing counts.

    Raises:
        ValueError: an unknown filter, or the two arrays of a block differ in length.

    References:
        Marquardt 1963, J. SIAM 11(2); forward accumulation as in Griewank & Walther 2008, "Evaluating Derivatives",
        ch. 3; Wright & Välimäki 2020, "Perceptual loss function for neural modelling of audio systems".
    """
    if error_filter not in ERROR_FILTERS:
        raise ValueError(f"error_filter: expected one of {', '.join(ERROR_FILTERS)}, got {error_filter!r}")
    tangents = tangents_of(params, sample_rate)
    rows = FIRST_TANGENT + len(tangents.scale)
    late = np.zeros(tangents.latency)
    signals, memory = np.empty((rows, _PIECE)), np.zeros((rows, 2))
    sums: list[Array] = []
    until_count, left_in_sum = warmup_frames, 0
    for audio, target in blocks:
        if audio.ndim != 1 or audio.shape != target.shape:
            raise ValueError(
                f"blocks: expected input and target (time,) of one length, got {audio.shape} and {target.shape}"
            )
        if tangents.latency:
            waiting = np.concatenate([late, target])
            target, late = waiting[: len(audio)], waiting[len(audio) :]
        done = 0
        while done < len(audio):
            if until_count == 0 and left_in_sum == 0:
                sums.append(np.zeros((rows, rows)))
                left_in_sum = sum_frames or sys.maxsize
            length = min(_PIECE, len(audio) - done, until_count or left_in_sum)
            piece = signals if length == _PIECE else np.empty((rows, length))
            tangents.process(audio[done : done + length], piece[ERROR], piece[FIRST_TANGENT:])
            piece[TARGET] = target[done : done + length]
            piece[ERROR] -= piece[TARGET]
            tangent_kernels.filter_signals(*ERROR_FILTERS[error_filter], memory, piece)
            done += length
            if until_count > 0:
                until_count -= length
                continue
            tangent_kernels.add_products(piece, sums[-1])
            left_in_sum -= length
    scale = block_diag(np.eye(FIRST_TANGENT), tangents.scale)
    found = np.empty((len(sums), scale.shape[1], scale.shape[1]))
    # Some at a time: those of 20 min are 10 MB, which there needn't be several of.
    for first in range(0, len(sums), _SUMS_AT_ONCE):
        lower = np.stack(sums[first : first + _SUMS_AT_ONCE])
        full = lower + np.tril(lower, -1).swapaxes(1, 2)
        with np.errstate(invalid="ignore"):  # a feedback loop that swings by itself has derivatives beyond all numbers
            found[first : first + _SUMS_AT_ONCE] = scale.T @ full @ scale
    return found
