"""What a point of one recording is: numbers without bounds, and the compressor they stand for."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsp_la2a.dsp.params import Params
from ddsp_la2a.fitting.least_squares import Quadratic
from ddsp_la2a.model.parameters import MAKEUP, SHELF_HZ, SLOW_FACTOR, TAPS, Parameter
from ddsp_la2a.model.stages import AnyStages
from ddsp_la2a.units import DB_PER_NEPER

Array = NDArray[np.float64]

_FARTHEST = 12.0
"""Beyond ±12 an unconstrained value changes nothing: the sigmoid is within 6e-6 of its end."""

_TAP_SPREAD, _TAP_PRIOR_S = 0.5, 1e-5
"""Spread of the prior that pulls the coefficients of an output filter towards nothing, and its strength in seconds of
audio: it decides where the recordings say nothing, such as about frequencies that they don't hold."""

_RIDGE, _LEAST_GAIN = 1e-12, 1e-3

_SLOW_FACTORS, _SHELVES_HZ = (6.0, 40.0), (100.0, 2000.0)
"""Where fits of stages start; between them lie hills."""


class Coordinates:
    """Points of a model with some stages: unconstrained parameters, but for the make-up, which is in dB.

    Args:
        stages: of which family, and which there are.
        sample_rate: of the recordings in Hz.

    Attributes:
        parameters: of a point, in order: the card's, make-up, the others of the device.
        card: how many numbers of a point depend on the controls; the make-up comes right after them.
        limit: how far each coordinate may go to either side of 0.
        start: of each.
        linear: numbers of the make-up and an output filter's coefficients, which the output is linear in.
    """

    def __init__(self, stages: AnyStages, sample_rate: float) -> None:
        self.stages = stages
        self.sample_rate = sample_rate
        self.parameters: tuple[Parameter, ...] = (*stages.card_parameters, *stages.parameters)
        self.card = len(stages.card_parameters)
        self.limit = np.where(self._is_makeup(), 0.99 * MAKEUP.high, _FARTHEST)
        starts = [p.to_unconstrained(torch.tensor(p.start, dtype=torch.float64)) for p in self.parameters]
        self.start = np.array([float(start) for start in starts])
        self.linear = np.flatnonzero([parameter is MAKEUP or parameter in TAPS for parameter in self.parameters])

    def __reduce__(self) -> tuple[type[Coordinates], tuple[AnyStages, float]]:
        return Coordinates, (self.stages, self.sample_rate)  # parameters are told apart by which they are

    def _is_makeup(self) -> NDArray[np.bool_]:
        return np.array([parameter is MAKEUP for parameter in self.parameters])

    def _values(self, point: Tensor) -> dict[str, Tensor]:
        pairs = zip(self.parameters, point.unbind(), strict=True)
        return {p.name: at if p is MAKEUP else p.to_physical(at) for p, at in pairs}

    def values(self, point: Array) -> dict[str, float]:
        """Every parameter of a point, in its unit."""
        return {name: float(value) for name, value in self._values(torch.from_numpy(point)).items()}

    def physical(self, point: Array) -> Params:
        """The compressor of a point."""
        return self.stages.params(self._values(torch.from_numpy(point)), self.sample_rate)

    def slopes(self, point: Array) -> Array:
        """Derivative of each parameter for its own coordinate."""
        at = torch.from_numpy(point).requires_grad_()
        total = torch.stack([*self._values(at).values()]).sum()
        return np.asarray(torch.autograd.grad(total, at)[0].numpy())

    def shares(self, point: Array) -> Array:
        """By how much of its range, on its scale, each parameter moves with its coordinate; of the make-up, dB."""
        sigmoid = 1.0 / (1.0 + np.exp(-point))
        return np.where(self._is_makeup(), 1.0, sigmoid * (1.0 - sigmoid))

    def device_variance(self) -> Array:
        """Variance of the prior on each coordinate beyond the card: infinite but for an output filter's."""
        # At 0 a coefficient moves by a quarter of its range with its coordinate.
        spreads = [4.0 * _TAP_SPREAD / (p.high - p.low) if p in TAPS else np.inf for p in self.parameters[self.card :]]
        return np.square(spreads)

    def device_precision(self) -> Array:
        """By how much a squared coordinate beyond the card counts, in the units of what is minimised, times two."""
        return np.asarray(0.5 * _TAP_PRIOR_S / self.device_variance())

    def at_best_linear(self, quadratic: Quadratic, point: Array) -> tuple[float, Array]:
        """Value at the make-up and output filter that suit the other parameters best, and the point with them.

        Gain · (input + Σ coefficient · what it lets through) is linear in the gain and in gain · coefficient, so one
        step of Newton's is exact.

        Args:
            quadratic: at the point.
            point: without an output filter.

        References:
            Golub & Pereyra 2003, "Separable nonlinear least squares: the variable projection method", Inverse Problems
            19.
        """
        at = self.linear
        pull, matrix = quadratic.gradient[at], quadratic.hessian[np.ix_(at, at)]
        if not matrix[0, 0] > 0.0:  # silence
            return quadratic.value, point
        step = -np.linalg.solve(matrix + _RIDGE * np.diag(np.diag(matrix)), pull)
        gain = max(1.0 + step[0] / DB_PER_NEPER, _LEAST_GAIN)
        best = point.copy()
        best[at[0]] += DB_PER_NEPER * np.log(gain)
        slopes = self.slopes(point)[at[1:]]
        for number, coefficient in zip(at[1:], slopes * step[1:] / gain, strict=True):
            tap = self.parameters[number]
            inside = np.clip(coefficient, 0.9 * tap.low, 0.9 * tap.high)
            best[number] = float(tap.to_unconstrained(torch.tensor(inside, dtype=torch.float64)))
        return quadratic.value + 0.5 * float(pull @ step), best.clip(-self.limit, self.limit)

    def staged_starts(self, point: Array, of: Coordinates) -> list[Array]:
        """Points to start from, given one with fewer stages: those that it lacks, from different sides."""
        slow = [(SLOW_FACTOR, value) for value in _SLOW_FACTORS] if SLOW_FACTOR in self.parameters else [None]
        shelf = [(SHELF_HZ, value) for value in _SHELVES_HZ] if SHELF_HZ in self.parameters else [None]
        starts = []
        for pair in itertools.product(slow, shelf):
            start = self.start.copy()
            start[[self.parameters.index(parameter) for parameter in of.parameters]] = point
            for parameter, value in filter(None, pair):
                at = torch.tensor(value, dtype=torch.float64)
                start[self.parameters.index(parameter)] = float(parameter.to_unconstrained(at))
            starts.append(start)
        return starts
