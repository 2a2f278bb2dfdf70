"""A compressor of one row, block by block, with its derivatives for every parameter carried along in time.

A compressor has so few parameters that this costs little more than the compressor itself (forward mode).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor
from torch.autograd.functional import jacobian  # torch.func would take 200 MB for what it imports

from ddsp_la2a.dsp import feedback_kernels, optical_derivative_kernels, optical_kernels, tangent_kernels
from ddsp_la2a.dsp.checks import check_sample_rate
from ddsp_la2a.dsp.coefficients import CARD, coefficients_tangent
from ddsp_la2a.dsp.compressor import card_and_stages, stage_coefficients
from ddsp_la2a.dsp.optical_cell import OpticalCellParams, cell_coefficients
from ddsp_la2a.dsp.output_stage import OutputFilter, slow_coefficient
from ddsp_la2a.dsp.params import CompressorParams, Params, check_reference, one_number_each
from ddsp_la2a.units import DB_PER_NEPER

Array = NDArray[np.float64]


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


def tangents_of(params: Params, sample_rate: float) -> Tangents:
    """What carries the derivatives of some parameters along.

    Raises:
        ValueError: a parameter isn't one number, or the rate isn't positive or too low for a stage.
    """
    check_sample_rate(sample_rate)
    params = one_number_each(params, sample_rate)
    check_reference(params, sample_rate)
    core: Tangents
    if isinstance(params, OpticalCellParams):
        core = _OpticalCell(params, sample_rate)
    elif not isinstance(params, CompressorParams):
        raise ValueError(f"params: expected CompressorParams or OpticalCellParams, got {type(params).__name__}")
    elif params.feedback or params.shelf_db is not None:
        core = _AnyStage(params, sample_rate)
    elif params.slow_factor is not None:
        core = _TwoCells(params, sample_rate)
    else:
        core = _Plain(params, sample_rate)
    return core if params.output_filter is None else _Filtered(core, params.output_filter)


def _with_derivatives(params: CompressorParams, sample_rate: float) -> tuple[Array, Array]:
    """The kernels' coefficients ``(n,)`` and their derivatives for the parameters ``(n, parameters)``."""
    at = torch.tensor(list(params.numbers().values()), dtype=torch.float64)

    def settings(values: Tensor) -> Tensor:
        return torch.cat(card_and_stages(_with_numbers(params, values), sample_rate))

    # Every direction is a row: first as it moves card and stages, then the coefficients.
    moved = np.ascontiguousarray(jacobian(settings, at).numpy().T)
    there = np.tile(settings(at).numpy(), (len(at), 1))
    (d_card, d_stages), (card, stages) = (np.split(rows, [len(CARD)], axis=1) for rows in (moved, there))
    directions = coefficients_tangent(d_card, d_stages, card, stages, params.feedback, sample_rate)
    return stage_coefficients(params, sample_rate), np.ascontiguousarray(directions.T)


def _with_numbers(params: Any, values: Tensor) -> Any:
    return replace(params, **dict(zip(params.numbers(), values.unbind(), strict=True)))


class _Plain:
    """Without stages."""

    latency = 0

    def __init__(self, params: CompressorParams, sample_rate: float) -> None:
        at, derivative = _with_derivatives(params, sample_rate)
        self._arguments = tuple(float(at[n]) for n in (0, 1, 2, 3, 4, 11))
        self._state = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        self.scale = derivative[[0, 1, 2, 3, 4, 11]]

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        tangent_kernels.compress_tangents(audio, *self._arguments, self._state, output, tangents)


class _TwoCells:
    """With a second cell, both hearing the input."""

    latency = 0

    def __init__(self, params: CompressorParams, sample_rate: float) -> None:
        at, derivative = _with_derivatives(params, sample_rate)
        self._curve, self._times, self._mix, self._makeup = at[:3], at[3:7], float(at[7]), float(at[11])
        attack, release, factor = 3, 4, 6
        self._per_ms = derivative[[3, 5, 4, 6, 5, 6], [attack, attack, release, release, factor, factor]]
        self._state = np.zeros((2, 6))
        self._state[:, 0] = 1.0
        self.scale = np.diag([1.0, derivative[1, 1], 1.0, 1.0, 1.0, self._makeup / DB_PER_NEPER, 1.0, 1.0])

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        arguments = (self._curve, self._times, self._mix, self._makeup, self._per_ms, self._state)
        signals = np.empty((4, len(audio)))
        tangent_kernels.two_cell_tangents(audio, *arguments, signals, output, tangents)


class _AnyStage:
    """With any stages but the output filter: sample by sample, since the detector may hear the output."""

    latency = 0

    def __init__(self, params: CompressorParams, sample_rate: float) -> None:
        at, derivative = _with_derivatives(params, sample_rate)
        self._coefficients, self._directions, self._feedback = at[None], derivative[None], params.feedback
        self._state = np.array([[1.0, 1.0, 0.0, 0.0]])
        self._tangents = np.zeros((1, 4, derivative.shape[1]))
        self.scale = np.eye(derivative.shape[1])

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        feedback_kernels.tangents_forward(
            0,
            1,
            audio[None],
            _CONSTANT,
            self._coefficients,
            self._directions,
            self._feedback,
            True,
            True,
            self._state,
            self._tangents,
            output[None],
            tangents[None],
        )


class _OpticalCell:
    """The optical cell."""

    latency = 0

    def __init__(self, params: OpticalCellParams, sample_rate: float) -> None:
        at = torch.tensor(list(params.numbers().values()), dtype=torch.float64)

        def coefficients(values: Tensor) -> Tensor:
            return cell_coefficients(_with_numbers(params, values), sample_rate)

        self._coefficients = coefficients(at).numpy()[None]
        self._directions = np.ascontiguousarray(jacobian(coefficients, at).numpy())[None]
        self._state = np.zeros((1, len(optical_kernels.STATES)))
        self._tangents = np.zeros((1, len(optical_kernels.STATES), len(at)))
        self.scale = np.eye(len(at))

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        at = self._coefficients, self._directions, self._state, self._tangents
        optical_derivative_kernels.cell_tangents(0, 1, audio[None], _CONSTANT, *at, output[None], tangents[None])


class _Filtered:
    """Any of those through an output filter, whose taps are parameters as well."""

    def __init__(self, core: Tangents, output_filter: OutputFilter) -> None:
        rate = output_filter.sample_rate

        def taps(values: Tensor) -> Tensor:
            return OutputFilter(values, rate).taps

        at = output_filter.coefficients.detach()
        self._core, self._count = core, len(core.scale)
        self._taps, self._slow = taps(at).numpy(), slow_coefficient(rate)
        self.latency = output_filter.latency
        self.scale = block_diag(core.scale, jacobian(taps, at).numpy())
        self._filtered = np.zeros((1 + self._count, output_filter.states))
        self._slow_alone = np.zeros((1, output_filter.states))

    def process(self, audio: NDArray[np.floating], output: Array, tangents: Array) -> None:
        of_core = tangents[: self._count]
        self._core.process(audio, output, of_core)
        # The derivatives for the taps: what each of them alone would let through.
        memory = self._filtered.shape[1] - 1
        known = np.concatenate([self._filtered[0, :memory], output])
        for k in range(memory + 1):
            tangents[self._count + k] = known[memory - k : memory - k + len(output)]
        slow_alone = np.eye(1, len(self._taps), memory + 1)[0]
        tangent_kernels.filter_rows(slow_alone, self._slow, self._slow_alone, output[None], tangents[-1:])
        for signals, state in ((output[None], self._filtered[:1]), (of_core, self._filtered[1:])):
            tangent_kernels.filter_rows(self._taps, self._slow, state, signals, signals)


_CONSTANT = np.empty((1, 0, 0))
