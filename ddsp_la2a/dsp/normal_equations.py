"""Error, gradient and Gauss–Newton matrix of a recording in one pass, without a tape.

A compressor has so few parameters that the derivative of its output for every one of them can be carried along in time
(forward mode). What a least-squares fit needs of a recording is the sums of their products, a few numbers a second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor

from ddsp_la2a.dsp import kernels, staged_kernels
from ddsp_la2a.dsp.checks import check_sample_rate
from ddsp_la2a.dsp.compressor import CompressorParams, stage_coefficients
from ddsp_la2a.dsp.output_stage import OutputFilter, slow_coefficient
from ddsp_la2a.dsp.stream import one_number_each
from ddsp_la2a.units import DB_PER_NEPER, RISE_TIME_TO_TIME_CONSTANT, db_to_amplitude, rise_time_to_coefficient

Array = NDArray[np.float64]

ERROR_FILTERS = {"none": (0.0, 0.0), "dc": (1.0, 0.995), "pre-emphasis": (0.85, 0.0)}
"""Zero and pole of what the error is heard through, (1 − zero z⁻¹) / (1 − pole z⁻¹): nothing, the filter of the
published tables, or the pre-emphasis of Wright & Välimäki 2020."""

ERROR, TARGET, FIRST_TANGENT = 0, 1, 2
"""Rows of the products: the filtered error, the filtered target, then the derivatives of the output."""

_PIECE = 16384
"""Samples whose signals stay in the second-level cache between the loops; shorter pieces wait for the interpreter."""


class Tangents(Protocol):
    """:func:`~ddsp_la2a.compressor` of one row, block by block, with its derivatives for every parameter.

    Attributes:
        scale: ``(rows, parameters)``, by which the rows of tangents have to be multiplied to be derivatives for the
            parameters: those of ``CompressorParams.numbers()``, then the output filter's coefficients.
        latency: samples by which the output is late.
    """

    scale: Array
    latency: int

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        """Fill ``output`` (time,) and ``tangents`` (rows, time) for the next block of audio (time,)."""
        ...


class PlainTangents:
    """:class:`Tangents` of a compressor without stages."""

    latency = 0

    def __init__(self, params: CompressorParams, sample_rate: float) -> None:
        threshold_db, ratio, knee_db, attack_ms, release_ms, makeup_db = map(float, params.numbers().values())
        attack, release = (float(rise_time_to_coefficient(t, sample_rate)) for t in (attack_ms, release_ms))
        makeup = float(db_to_amplitude(makeup_db))
        self._arguments = (threshold_db, 1.0 - 1.0 / ratio, knee_db, attack, release, makeup)
        self._state = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        # α = 1 − exp(−c / t): dα/dt = −(1 − α) c / t²
        c = RISE_TIME_TO_TIME_CONSTANT * 1000.0 / sample_rate
        attack_per_ms, release_per_ms = (
            -(1.0 - a) * c / (t * t) for a, t in ((attack, attack_ms), (release, release_ms))
        )
        self.scale = np.diag([1.0, ratio**-2.0, 1.0, attack_per_ms, release_per_ms, makeup / DB_PER_NEPER])

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        kernels.compress_tangents(audio, *self._arguments, self._state, output, tangents)


class StagedTangents:
    """:class:`Tangents` of a compressor with stages."""

    def __init__(self, params: CompressorParams, sample_rate: float) -> None:
        numbers = params.numbers()
        self._count = len(numbers)
        self._feedback = params.feedback

        def coefficients(values: Tensor) -> Tensor:
            given: dict[str, Any] = dict(zip(numbers, values.unbind(), strict=True))
            return stage_coefficients(replace(params, **given), sample_rate)

        at = torch.tensor(list(numbers.values()), dtype=torch.float64)
        self._coefficients = coefficients(at).numpy()[None]
        self._directions = np.ascontiguousarray(torch.func.jacrev(coefficients)(at).numpy()[None])
        self._state = np.array([[1.0, 1.0, 0.0, 0.0]])
        self._tangents = np.zeros((1, self._state.shape[1], self._count))
        self.latency, self.scale = 0, np.eye(self._count)
        self._taps: Array | None = None
        if params.output_filter is not None:
            chosen = params.output_filter

            def taps(values: Tensor) -> Tensor:
                return OutputFilter(values, chosen.sample_rate).taps

            at = chosen.coefficients.detach()
            self._taps, self._slow = taps(at).numpy(), slow_coefficient(sample_rate)
            self.latency = chosen.latency
            self.scale = block_diag(self.scale, torch.func.jacrev(taps)(at).numpy())
            self._filtered = np.zeros((1 + self._count, chosen.states))
            self._slow_alone = np.zeros((1, chosen.states))

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        of_numbers = tangents[: self._count]
        staged_kernels.staged_tangents(
            0,
            1,
            audio[None],
            _CONSTANT,
            self._coefficients,
            self._directions,
            self._feedback,
            self._state,
            self._tangents,
            output[None],
            of_numbers[None],
        )
        if self._taps is None:
            return
        # The derivatives for the taps: what each of them alone would let through.
        memory = self._filtered.shape[1] - 1
        known = np.concatenate([self._filtered[0, :memory], output])
        for k in range(memory + 1):
            tangents[self._count + k] = known[memory - k : memory - k + len(output)]
        slow_alone = np.eye(1, len(self._taps), memory + 1)[0]
        staged_kernels.filter_rows(slow_alone, self._slow, self._slow_alone, output[None], tangents[-1:])
        for signals, state in ((output[None], self._filtered[:1]), (of_numbers, self._filtered[1:])):
            staged_kernels.filter_rows(self._taps, self._slow, state, signals, signals)


_CONSTANT = np.empty((1, 0, 0))


def tangents_of(params: CompressorParams, sample_rate: float) -> Tangents:
    """What carries the derivatives of some parameters along.

    Raises:
        ValueError: a parameter isn't one number, or the rate isn't positive.
    """
    check_sample_rate(sample_rate)
    params = one_number_each(params, sample_rate)
    return PlainTangents(params, sample_rate) if params.is_plain else StagedTangents(params, sample_rate)


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
            kernels.filter_signals(*ERROR_FILTERS[error_filter], memory, piece)
            done += length
            if until_count > 0:
                until_count -= length
                continue
            kernels.add_products(piece, sums[-1])
            left_in_sum -= length
    lower = np.array(sums).reshape(-1, rows, rows)
    scale = block_diag(np.eye(FIRST_TANGENT), tangents.scale)
    full = lower + np.tril(lower, -1).swapaxes(1, 2)
    with np.errstate(invalid="ignore"):  # a feedback loop that swings by itself has derivatives beyond all numbers
        return np.asarray(scale.T @ full @ scale)
