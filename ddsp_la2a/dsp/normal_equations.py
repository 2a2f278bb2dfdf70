"""Error, gradient and Gauss–Newton matrix of a recording in one pass, without a tape.

A compressor has so few parameters that the derivative of its output for every one of them can be carried along in time
(forward mode). What a least-squares fit needs of a recording is the sums of their products, a few numbers a second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from ddsp_la2a.dsp import kernels
from ddsp_la2a.dsp.checks import check_sample_rate
from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.units import DB_PER_NEPER, RISE_TIME_TO_TIME_CONSTANT, db_to_amplitude, rise_time_to_coefficient

Array = NDArray[np.float64]

ERROR_FILTERS = {"none": (0.0, 0.0), "dc": (1.0, 0.995), "pre-emphasis": (0.85, 0.0)}
"""Zero and pole of what the error is heard through, (1 − zero z⁻¹) / (1 − pole z⁻¹): nothing, the filter of the
published tables, or the pre-emphasis of Wright & Välimäki 2020."""

ERROR, TARGET, FIRST_TANGENT = 0, 1, 2
"""Rows of the products: the filtered error, the filtered target, then the derivatives of the output."""

_PIECE = 16384
"""Samples whose signals stay in the second-level cache between the loops; shorter pieces wait for the interpreter."""


class CompressorTangents:
    """:func:`compressor` of one row, block by block, with its derivatives for every physical parameter.

    Args:
        params: numbers.
        sample_rate: in Hz.

    Attributes:
        scale: (6,), by which the tangents have to be multiplied to be derivatives for the parameters of
            :class:`CompressorParams` in their order and units.
    """

    def __init__(self, params: CompressorParams, sample_rate: float) -> None:
        check_sample_rate(sample_rate)
        threshold_db, ratio, knee_db, attack_ms, release_ms, makeup_db = (
            _number(value, name) for name, value in params.numbers().items()
        )
        attack, release = (float(rise_time_to_coefficient(t, sample_rate)) for t in (attack_ms, release_ms))
        makeup = float(db_to_amplitude(makeup_db))
        self._arguments = (threshold_db, 1.0 - 1.0 / ratio, knee_db, attack, release, makeup)
        self._state = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        # α = 1 − exp(−c / t): dα/dt = −(1 − α) c / t²
        c = RISE_TIME_TO_TIME_CONSTANT * 1000.0 / sample_rate
        attack_per_ms, release_per_ms = (
            -(1.0 - a) * c / (t * t) for a, t in ((attack, attack_ms), (release, release_ms))
        )
        self.scale = np.array([1.0, ratio**-2.0, 1.0, attack_per_ms, release_per_ms, makeup / DB_PER_NEPER])

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        """Fill ``output`` (time,) and ``tangents`` (6, time) for the next block of audio (time,); no copy is made."""
        kernels.compress_tangents(audio, *self._arguments, self._state, output, tangents)


def _number(value: torch.Tensor | float, name: str) -> float:
    tensor = torch.as_tensor(value, dtype=torch.float64).detach()
    if tensor.numel() != 1:
        raise ValueError(f"{name}: expected a number, got shape {tuple(tensor.shape)}")
    return tensor.item()


def error_products(
    blocks: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]],
    params: CompressorParams,
    sample_rate: float,
    *,
    error_filter: str = "dc",
    warmup_frames: int = 0,
    sum_frames: int | None = None,
) -> Array:
    """Products of error, target and derivatives of the output, summed over stretches of a recording.

    ::

        P[i, j] = Σ r_i[n] r_j[n],   r = F (ŷ − y), F y, F ∂ŷ/∂p_0, …, F ∂ŷ/∂p_5

    with F the error filter and p the parameters of :class:`CompressorParams` in their order and units. So P[0, 0] is
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
        ``(sums, 8, 8)``; the last sum may be over fewer frames. ``(0, 8, 8)`` where nothing counts.

    Raises:
        ValueError: an unknown filter, or the two arrays of a block differ in length.

    References:
        Marquardt 1963, J. SIAM 11(2); forward accumulation as in Griewank & Walther 2008, "Evaluating Derivatives",
        ch. 3; Wright & Välimäki 2020, "Perceptual loss function for neural modelling of audio systems".
    """
    if error_filter not in ERROR_FILTERS:
        raise ValueError(f"error_filter: expected one of {', '.join(ERROR_FILTERS)}, got {error_filter!r}")
    tangents = CompressorTangents(params, sample_rate)
    rows = FIRST_TANGENT + len(tangents.scale)
    signals, memory = np.empty((rows, _PIECE)), np.zeros((rows, 2))
    sums: list[Array] = []
    until_count, left_in_sum = warmup_frames, 0
    for audio, target in blocks:
        if audio.ndim != 1 or audio.shape != target.shape:
            raise ValueError(
                f"blocks: expected input and target (time,) of one length, got {audio.shape} and {target.shape}"
            )
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
            kernels.filter_signals(*ERROR_FILTERS[error_filter], memory, piece)
            done += length
            if until_count > 0:
                until_count -= length
                continue
            kernels.add_products(piece, sums[-1])
            left_in_sum -= length
    lower = np.array(sums).reshape(-1, rows, rows)
    scale = np.concatenate([np.ones(FIRST_TANGENT), tangents.scale])
    full = lower + np.tril(lower, -1).swapaxes(1, 2)
    return full * np.outer(scale, scale)
