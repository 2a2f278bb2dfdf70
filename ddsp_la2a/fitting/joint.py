"""All recordings at once: weights give every recording its card, the device its make-up, a take its gain.

What is minimised is a sum over recordings and a prior,

    2 L = Σ seconds · (error energy / target energy) + ½ prior_s · Σ ((weight − its prior mean) / its prior spread)²:

evidence grows with the audio and a prior doesn't.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.linalg import helmert
from torch.autograd.functional import jacobian

from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.least_squares import Damping, Minimum, Quadratic, levenberg_marquardt, minimised
from ddsp_la2a.fitting.passes import Array, Passes, sum_of
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.model.control_net import ControlNet
from ddsp_la2a.model.taper import Taper

_INNER_STEPS, _INNER_TOLERANCE = 50, 1e-4


class Card(Protocol):
    """What gives every recording its card: weights → unconstrained parameters, with derivative and prior."""

    start: Array
    mean: Array
    variance: Array
    precision: Array

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        """``(recordings, card)`` and its derivative ``(recordings, card, weights)``."""
        ...


class TableCard:
    """A row of as many weights as the card has parameters for each setting; no prior."""

    def __init__(self, groups: Sequence[Sequence[int]], width: int) -> None:
        self._rows, self._width = np.empty(sum(map(len, groups)), dtype=int), width
        for number, group in enumerate(groups):
            self._rows[list(group)] = number
        self.start = self.mean = self.precision = np.zeros(width * len(groups))
        self.variance = np.full(width * len(groups), np.inf)

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        width = self._width
        derivative = np.zeros((len(self._rows), width, len(weights)))
        for recording, row in enumerate(self._rows):
            derivative[recording, :, width * row : width * (row + 1)] = np.eye(width)
        return weights.reshape(-1, width)[self._rows], derivative


class NetworkCard:
    """The weights of a :class:`ControlNet`, in the order of its parameters, at the settings of a frame.

    Prior: matrices N(0, 1); biases N(their start, 3²), which spans the range of every parameter.
    """

    def __init__(self, network: ControlNet, frame: pd.DataFrame, prior_s: float) -> None:
        named = [(name, p.detach().numpy()) for name, p in network.named_parameters()]
        self._shapes = [values.shape for _, values in named]
        positions = frame[[control.name for control in network.controls]].to_numpy(dtype=np.float64)
        self._inputs = network.inputs(torch.tensor(positions)).numpy()
        self.start = np.concatenate([values.ravel() for _, values in named])
        is_matrix = np.concatenate([np.full(values.size, name.endswith("weight")) for name, values in named])
        self.mean = np.where(is_matrix, 0.0, self.start)
        self.variance = np.where(is_matrix, 1.0, 3.0**2)
        self.precision = 0.5 * prior_s / self.variance

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        """The network and its backward pass, in numpy: a thousand times for a fit, on arrays too small for torch."""
        edges = np.cumsum([np.prod(shape) for shape in self._shapes])[:-1].astype(int)
        parts = [part.reshape(shape) for part, shape in zip(np.split(weights, edges), self._shapes, strict=True)]
        matrices, biases = parts[::2], parts[1::2]
        signals = [self._inputs]
        for matrix, bias in zip(matrices[:-1], biases[:-1], strict=True):
            signals.append(np.tanh(signals[-1] @ matrix.T + bias))
        values = signals[-1] @ matrices[-1].T + biases[-1]
        derivatives: list[Array] = []
        adjoint = np.broadcast_to(np.eye(values.shape[1]), (len(values), values.shape[1], values.shape[1]))
        for matrix, signal in zip(matrices[::-1], signals[::-1], strict=True):
            of_matrix = adjoint[..., None] * signal[:, None, None, :]
            derivatives[:0] = [of_matrix.reshape(*adjoint.shape[:2], -1), adjoint]
            adjoint = adjoint @ matrix * (1.0 - signal * signal)[:, None]
        return values, np.concatenate(derivatives, axis=2)


class TaperCard:
    """The weights of a :class:`Taper` at the settings of a frame, N(0, 1) a priori each."""

    def __init__(self, taper: Taper, frame: pd.DataFrame, prior_s: float) -> None:
        positions = torch.tensor(frame[[control.name for control in taper.controls]].to_numpy(dtype=np.float64))
        self._settings, rows = torch.unique(positions, dim=0, return_inverse=True)
        self._rows = rows.numpy()
        self._taper = taper
        self.start = self.mean = np.zeros(taper.weight.numel())
        self.variance = np.ones_like(self.mean)
        self.precision = 0.5 * prior_s / self.variance

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        at = torch.from_numpy(weights)
        derivative = jacobian(lambda moved: self._taper.unconstrained(self._settings, moved), at)
        values = self._taper.unconstrained(self._settings, at)
        return values.detach().numpy()[self._rows], derivative.numpy()[self._rows]


class Joint(NamedTuple):
    """A fit of all recordings at once.

    Args:
        minimum: its point is the card's weights, the device's coordinates, then what the gains per take are made of.
        points: of every recording, ``(recordings, coordinates)``.
        derivatives: of those for the minimum's point, ``(recordings, coordinates, n)``.
        quadratics: of every recording.
        covariances: of every recording's gradient.
    """

    minimum: Minimum
    points: Array
    derivatives: Array
    quadratics: list[Quadratic]
    covariances: list[Array]


def marked(joint: Joint, interrupted: bool) -> Joint:
    """The same, said to be interrupted."""
    converged = joint.minimum.converged and not interrupted
    return joint._replace(minimum=replace(joint.minimum, converged=converged, interrupted=interrupted))


class JointProblem:
    """All recordings through one card and one device, with a gain per take.

    Args:
        card: weights → unconstrained parameters.
        takes: number of each recording's take, from 0, or None for no gains.
        coordinates: of a recording's point: first the card's, then the device's, the make-up before its stages.
    """

    def __init__(self, card: Card, takes: NDArray[np.int64] | None, coordinates: Coordinates) -> None:
        self.card = card
        self.coordinates = coordinates
        self._size = len(card.mean)
        self._width = len(coordinates.parameters)
        self._gains_from = self._size + self._width - coordinates.card
        # Columns of an orthogonal matrix with zero mean: gains per take that leave the make-up alone.
        self.take_gains = np.zeros((0, 0)) if takes is None else helmert(int(takes.max()) + 1)
        self._takes = takes
        free = np.zeros(len(self.take_gains))
        self._mean = np.concatenate([card.mean, np.zeros(self._width - coordinates.card), free])
        self.precision = np.concatenate([card.precision, coordinates.device_precision(), free])
        self.variance = np.concatenate([card.variance, coordinates.device_variance(), free + np.inf])

    def start(self, weights: Array, device: Array) -> Array:
        """A point of all: these weights and coordinates of the device, and no gains per take."""
        return np.concatenate([weights, device, np.zeros(len(self.take_gains))])

    def device(self, at: Array) -> Array:
        """The device's coordinates of a point of all."""
        return at[self._size : self._gains_from]

    def limit(self, of_weights: float) -> Array:
        """How far each number of a point of all may go to either side of 0."""
        of_device = self.coordinates.limit[self.coordinates.card :]
        return np.concatenate([np.full(self._size, of_weights), of_device, np.full(len(self.take_gains), of_device[0])])

    def points(self, at: Array) -> tuple[Array, Array]:
        """Of every recording ``(recordings, coordinates)``, and their derivative ``(recordings, coordinates, n)``."""
        values, derivative = self.card(at[: self._size])
        device = np.tile(self.device(at), (len(values), 1))
        whole = np.zeros((len(values), self._width, len(at)))
        card = self.coordinates.card
        whole[:, :card, : self._size] = derivative
        whole[:, card:, self._size : self._gains_from] = np.eye(self._width - card)
        if self._takes is not None:
            whole[:, card, self._gains_from :] = self.take_gains.T[self._takes]
            device[:, 0] += whole[:, card, self._gains_from :] @ at[self._gains_from :]
        return np.hstack([values, device]), whole

    def total(self, at: Array, derivatives: Array, quadratics: Sequence[Quadratic]) -> Quadratic:
        """Sum over recordings, in their order, and the prior."""
        distance = at - self._mean
        value = 0.5 * float(self.precision @ distance**2)
        gradient, hessian = self.precision * distance, np.diag(self.precision)
        for derivative, quadratic in zip(derivatives, quadratics, strict=True):
            value += quadratic.value
            gradient = gradient + derivative.T @ quadratic.gradient
            hessian = hessian + derivative.T @ quadratic.hessian @ derivative
        return Quadratic(value, gradient, hessian)

    def at(self, passes: Passes, stage: str, recordings: Recordings, point: Array) -> Joint:
        """A pass over recordings at a point of all."""
        points, derivatives = self.points(point)
        answers = passes.quadratics(recordings, list(enumerate(points)), self.coordinates)
        quadratics = [quadratic for quadratic, _ in answers]
        passes.log(stage, 2.0 * sum_of(quadratics).value / recordings.seconds.sum())
        total = self.total(point, derivatives, quadratics)
        minimum = Minimum(point, total, None, False)
        return Joint(minimum, points, derivatives, quadratics, [scattered for _, scattered in answers])

    def fit(
        self,
        passes: Passes,
        stage: str,
        recordings: Recordings,
        start: Array,
        *,
        max_steps: int,
        tolerance: float,
        longest_step: float = np.inf,
        limit: float | Array = np.inf,
    ) -> Joint:
        """Minimise over recordings.

        Levenberg–Marquardt with the damping on the cards: each pass over the audio gives every recording's quadratic,
        and the weights follow those as far as they go without another pass. So a network's curvature costs no audio.
        """

        now = self.at(passes, stage, recordings, np.clip(start, -limit, limit))
        damping = Damping()
        converged = interrupted = False
        for _ in range(max_steps):
            here = now.minimum.point
            value = now.minimum.quadratic.value
            try:
                goal = self.fit_quadratics(
                    now, here, damping.value, max_steps=_INNER_STEPS, tolerance=_INNER_TOLERANCE, limit=limit
                )
                there = here + (goal.point - here).clip(-longest_step, longest_step)
                promised = value - self.model(now, there).value
                if damping.settled(promised <= tolerance * value):
                    converged = True
                    break
                trial = self.at(passes, stage, recordings, there)
            except KeyboardInterrupt:
                interrupted = True
                break
            if damping.accepts((value - trial.minimum.quadratic.value) / promised if promised > 0.0 else -1.0):
                now = trial
        return now._replace(minimum=replace(now.minimum, converged=converged, interrupted=interrupted))

    def model(self, known: Joint, point: Array, damping: float = 0.0) -> Quadratic:
        """What the quadratics of a fit promise at another point; damped, as if each were steeper by that share."""
        points, derivatives = self.points(point)
        moved = []
        for quadratic, step in zip(known.quadratics, points - known.points, strict=True):
            hessian = quadratic.hessian + damping * np.diag(np.diag(quadratic.hessian))
            pull = hessian @ step
            value = quadratic.value + quadratic.gradient @ step + 0.5 * step @ pull
            moved.append(Quadratic(value, quadratic.gradient + pull, hessian))
        return self.total(point, derivatives, moved)

    def fit_quadratics(self, known: Joint, start: Array, damping: float = 0.0, **steps: Any) -> Minimum:
        """Minimise what another fit's quadratics promise, without audio."""
        return minimised(levenberg_marquardt(start, **steps), lambda point: (self.model(known, point, damping), None))
