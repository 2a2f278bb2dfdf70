"""Gauss–Newton fits: every setting on its own, or all settings through the knob network.

A point of one recording is six numbers: the card parameters in unconstrained space, then the make-up in dB. What is
minimised is a sum over recordings,

    2 L = Σ seconds · (error energy / target energy) + ½ prior_s · Σ ((weight − its prior mean) / its prior spread)²,

so every recording counts by its own energy and its length. Evidence grows with the audio and a prior doesn't.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.linalg import helmert
from scipy.stats import qmc
from torch import nn
from tqdm import tqdm

from ddsp_la2a.data.frame import linked_takes, settings_of
from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.dsp.normal_equations import ERROR, FIRST_TANGENT, TARGET
from ddsp_la2a.fitting.gradient import WEIGHT_PRIOR_S, Training
from ddsp_la2a.fitting.least_squares import Damping, Minimum, Quadratic, Steps, in_step, levenberg_marquardt, minimised
from ddsp_la2a.fitting.recordings import SUMS_PER_S, Recordings
from ddsp_la2a.fitting.uncertainty import NOISE_FLOOR, block_seconds, covariance, score_covariance
from ddsp_la2a.model.control_net import CONTROLS, ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP
from ddsp_la2a.units import DB_PER_NEPER

Array = NDArray[np.float64]

_CARD = len(CARD_PARAMETERS)
_LIMIT = np.array([12.0] * _CARD + [0.99 * MAKEUP.high])
"""Beyond ±12 an unconstrained value changes nothing: the sigmoid is within 6e-6 of its end."""

_SILENCE = 1e-9
"""Power (−90 dBFS) that is added to a target's: a recording of silence must not weigh more than one of music."""

_GLANCE_S, _THIN_S, _THICKER_S = 5.0, 20.0, 120.0
"""Seconds of every recording on which spread starts are compared, the best are followed, and steps are taken before
those on everything."""

_SPREAD, _TRIED, _NETWORKS = 64, 6, 4
_ROUGH, _FINE, _INNER_STEPS = 1e-3, 1e-4, 50
_ASTRAY = 2.0

_WIDE = np.array([0.5**2] * _CARD + [12.0**2])
"""Variance of a prior as wide as the ranges, of shares of a range and of dB: what is left where nothing else is."""


@dataclass(frozen=True)
class GaussNewtonSettings:
    """How to fit. Most users need none of these.

    Args:
        max_steps: passes of every stage.
        weight_prior_s: strength of the Gaussian prior on the network's weights, in seconds of audio; see
            :data:`~ddsp_la2a.fitting.gradient.WEIGHT_PRIOR_S`.
        error_filter: what the error is heard through: ``none``, ``dc`` or ``pre-emphasis``.
        exact: never cut a recording into lanes.
    """

    max_steps: int = 40
    weight_prior_s: float = WEIGHT_PRIOR_S
    error_filter: str = "dc"
    exact: bool = False


class Passes:
    """Evaluates points of recordings, and keeps the history.

    Args:
        error_filter: see :class:`GaussNewtonSettings`.
        progress: show a bar of the audio gone through.
    """

    def __init__(self, error_filter: str, progress: bool) -> None:
        self.history: list[dict[str, Any]] = []
        self._error_filter = error_filter
        self._started = time.monotonic()
        self._bar = tqdm(desc="fit", unit=" s of audio", disable=not progress)

    def quadratics(self, recordings: Recordings, points: Sequence[tuple[int, Array]]) -> list[tuple[Quadratic, Array]]:
        """Quadratic of every (recording, point) and the products it is made of, one a quarter of a second."""
        asked = [(row, physical(point)) for row, point in points]
        found = recordings.products(asked, self._error_filter, self._bar.update)
        seconds, answers = recordings.seconds, []
        for (row, point), products in zip(points, found, strict=True):
            power = products[:, TARGET, TARGET].sum() / (seconds[row] * recordings.sample_rate)
            scale = np.concatenate([np.ones(FIRST_TANGENT), slopes(point)])
            shares = products * scale[:, None] * scale / (recordings.sample_rate * (power + _SILENCE))
            total, tangents = shares.sum(axis=0), slice(FIRST_TANGENT, None)
            quadratic = Quadratic(0.5 * total[ERROR, ERROR], total[tangents, ERROR], total[tangents, tangents])
            answers.append((quadratic, shares))
        return answers

    def log(self, stage: str, error: float) -> None:
        """Note a pass and its error-to-signal ratio."""
        self.history.append({"stage": stage, "seconds": time.monotonic() - self._started, "error": error})
        self._bar.set_postfix_str(f"{stage}, pass {len(self.history)}: error {100 * error:.3g} %")

    def close(self, converged: bool, interrupted: bool) -> Training:
        """The history as a training run."""
        self._bar.close()
        history = pd.DataFrame(self.history)
        return Training(history, converged, interrupted, time.monotonic() - self._started)


def physical(point: Array) -> CompressorParams:
    """Parameters of a point ``(6,)``."""
    at = torch.from_numpy(point)
    card = {p.name: float(p.to_physical(at[i])) for i, p in enumerate(CARD_PARAMETERS)}
    return CompressorParams(**card, makeup_db=float(point[_CARD]))


def slopes(point: Array) -> Array:
    """Derivative of each physical parameter for its own coordinate of a point, ``(6,)``."""
    at = torch.from_numpy(point).requires_grad_()
    total = torch.stack([p.to_physical(at[i]) for i, p in enumerate(CARD_PARAMETERS)]).sum() + at[_CARD]
    return np.asarray(torch.autograd.grad(total, at)[0].numpy())


def spread_points(seed: int) -> Array:
    """Points ``(64, 6)``: the generic start, then a Sobol sequence over the parameters' ranges; make-up 0 dB."""
    share = qmc.Sobol(_CARD, seed=seed).random(_SPREAD)
    points = np.column_stack([np.log(share / (1.0 - share)).clip(-4.0, 4.0), np.zeros(_SPREAD)])
    points[0, :_CARD] = generic_point()
    return points


def generic_point() -> Array:
    """The start values of the card, unconstrained."""
    return np.array([float(p.to_unconstrained(torch.tensor(p.start, dtype=torch.float64))) for p in CARD_PARAMETERS])


def _at_best_makeup(quadratic: Quadratic, point: Array) -> tuple[float, Array]:
    """Value at the make-up that suits the other parameters best, and the point with it: the output is linear in it."""
    curvature, pull = quadratic.hessian[_CARD, _CARD], quadratic.gradient[_CARD]
    if not curvature > 0.0:
        return quadratic.value, point
    gain = max(1.0 - pull / curvature / DB_PER_NEPER, 1e-3)
    best = np.append(point[:_CARD], point[_CARD] + DB_PER_NEPER * np.log(gain)).clip(-_LIMIT, _LIMIT)
    return quadratic.value - 0.5 * pull * pull / curvature, best


def sum_of(quadratics: Sequence[Quadratic]) -> Quadratic:
    value, gradient, hessian = (np.sum(parts, axis=0) for parts in zip(*quadratics, strict=True))
    return Quadratic(float(value), gradient, hessian)


def fit_settings(
    passes: Passes, recordings: Recordings, groups: Sequence[Sequence[int]], *, seed: int, max_steps: int, rough: bool
) -> list[Minimum]:
    """A point for every group of recordings, each fitted on its own.

    Spread starts are compared at their best make-up on a few seconds, the best few are followed on a thinned copy, and
    the best of these on everything.

    Args:
        passes: evaluates.
        recordings: of all settings.
        groups: row numbers of each setting.
        seed: of the spread starts.
        max_steps: of every stage.
        rough: leave out the steps on the whole recordings.

    Returns:
        minima whose ``found`` are the products of the group's recordings, a list in their order.
    """
    seconds = np.array([recordings.seconds[list(rows)].sum() for rows in groups])
    least = np.full(len(groups), np.inf)

    def evaluate(stage: str, where: Recordings, asked: Sequence[tuple[int, Array]]) -> list[tuple[Quadratic, Any]]:
        found = iter(passes.quadratics(where, [(row, point) for group, point in asked for row in groups[group]]))
        answers = []
        for group, _ in asked:
            parts = [next(found) for _ in groups[group]]
            answers.append((sum_of([quadratic for quadratic, _ in parts]), [products for _, products in parts]))
            share = 2.0 * answers[-1][0].value / where.seconds[list(groups[group])].sum()
            least[group] = min(least[group], share)
        passes.log(stage, float(least @ seconds / seconds.sum()))
        return answers

    everywhere = [(group, start) for group in range(len(groups)) for start in spread_points(seed)]
    ranked: list[list[tuple[float, Array]]] = [[] for _ in groups]
    glances = evaluate("starts", recordings.thinned(_GLANCE_S), everywhere)
    for (group, start), (quadratic, _) in zip(everywhere, glances, strict=True):
        ranked[group].append(_at_best_makeup(quadratic, start))
    chosen = [
        (group, start)
        for group, candidates in enumerate(ranked)
        for _, start in sorted(candidates, key=lambda pair: pair[0])[:_TRIED]
    ]
    thin = recordings.thinned(_THIN_S)
    least[:] = np.inf
    followed = in_step(
        [_card_steps(start, max_steps, _ROUGH) for _, start in chosen],
        lambda asked: evaluate("settings, thinned", thin, [(chosen[i][0], point) for i, point in asked]),
    )
    by_group: list[list[Minimum]] = [[] for _ in groups]
    for (group, _), minimum in zip(chosen, followed, strict=True):
        by_group[group].append(minimum)
    best = [min(minima, key=lambda minimum: minimum.quadratic.value) for minima in by_group]
    interrupted = any(minimum.interrupted for minimum in followed)
    for stage, where in [] if rough else _thicker(recordings, "settings"):
        if interrupted:
            break
        least[:] = np.inf
        problems = [_card_steps(minimum.point, max_steps, _FINE) for minimum in best]
        try:
            best = in_step(problems, partial(evaluate, stage, where))
        except KeyboardInterrupt:
            interrupted = True
        interrupted = interrupted or any(minimum.interrupted for minimum in best)
    if interrupted:
        best = [replace(minimum, converged=False, interrupted=True) for minimum in best]
    return best


def _thicker(recordings: Recordings, name: str) -> list[tuple[str, Recordings]]:
    """What steps are taken on after those on thinned recordings: more of long ones, then everything."""
    if recordings.seconds.max() <= _THICKER_S:
        return [(name, recordings)]
    return [(f"{name}, {_THICKER_S:g} s each", recordings.thinned(_THICKER_S)), (name, recordings)]


def _card_steps(start: Array, max_steps: int, tolerance: float) -> Steps:
    return levenberg_marquardt(start, max_steps=max_steps, tolerance=tolerance, longest_step=2.0, limit=_LIMIT)


class Card(Protocol):
    """What gives every recording its card: weights → unconstrained parameters, with derivative and prior."""

    start: Array
    mean: Array
    variance: Array
    precision: Array

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        """``(recordings, 5)`` and its derivative ``(recordings, 5, weights)``."""
        ...


class TableCard:
    """A row of five weights a setting; no prior."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        self._rows = np.empty(sum(map(len, groups)), dtype=int)
        for number, group in enumerate(groups):
            self._rows[list(group)] = number
        self.start = self.mean = self.precision = np.zeros(_CARD * len(groups))
        self.variance = np.full(_CARD * len(groups), np.inf)

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        derivative = np.zeros((len(self._rows), _CARD, len(weights)))
        for recording, row in enumerate(self._rows):
            derivative[recording, :, _CARD * row : _CARD * (row + 1)] = np.eye(_CARD)
        return weights.reshape(-1, _CARD)[self._rows], derivative


class NetworkCard:
    """The weights of a :class:`ControlNet`, in the order of its parameters, at the settings of a frame.

    Prior: matrices N(0, 1); biases N(their start, 3²), which spans the range of every parameter.
    """

    def __init__(self, network: ControlNet, frame: pd.DataFrame, prior_s: float) -> None:
        named = [(name, p.detach().numpy()) for name, p in network.named_parameters()]
        self._shapes = [values.shape for _, values in named]
        self._inputs = network.inputs(*(torch.tensor(frame[name].to_numpy()) for name in CONTROLS)).numpy()
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


class Joint(NamedTuple):
    """A fit of all recordings at once.

    Args:
        minimum: its point is the card's weights, the make-up in dB, then what the gains per take are made of.
        points: of every recording, ``(recordings, 6)``.
        derivatives: of those for the minimum's point, ``(recordings, 6, n)``.
        quadratics: of every recording.
        products: of every recording, see :meth:`Passes.quadratics`.
    """

    minimum: Minimum
    points: Array
    derivatives: Array
    quadratics: list[Quadratic]
    products: list[Array]


class JointProblem:
    """All recordings through one card, with the device's make-up and a gain per take.

    Args:
        card: weights → unconstrained parameters.
        takes: number of each recording's take, from 0, or None for no gains.
    """

    def __init__(self, card: Card, takes: NDArray[np.int64] | None) -> None:
        self.card = card
        self._size = len(card.mean)
        # Columns of an orthogonal matrix with zero mean: gains per take that leave the make-up alone.
        self.take_gains = np.zeros((0, 0)) if takes is None else helmert(int(takes.max()) + 1)
        self._takes = takes
        free = np.zeros(1 + len(self.take_gains))
        self._mean, self.precision = np.append(card.mean, free), np.append(card.precision, free)
        self.variance = np.append(card.variance, free + np.inf)

    def device(self, makeup_db: float) -> Array:
        """What follows the card's weights: this make-up, and no gains per take."""
        return np.append(makeup_db, np.zeros(len(self.take_gains)))

    def points(self, at: Array) -> tuple[Array, Array]:
        """Of every recording ``(recordings, 6)``, and their derivative ``(recordings, 6, n)``."""
        values, derivative = self.card(at[: self._size])
        makeup = np.full((len(values), 1), at[self._size])
        whole = np.zeros((len(values), _CARD + 1, len(at)))
        whole[:, :_CARD, : self._size] = derivative
        whole[:, _CARD, self._size] = 1.0
        if self._takes is not None:
            whole[:, _CARD, self._size + 1 :] = self.take_gains.T[self._takes]
            makeup[:, 0] += whole[:, _CARD, self._size + 1 :] @ at[self._size + 1 :]
        return np.hstack([values, makeup]), whole

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

        def at(point: Array) -> Joint:
            points, derivatives = self.points(point)
            answers = passes.quadratics(recordings, list(enumerate(points)))
            quadratics = [quadratic for quadratic, _ in answers]
            passes.log(stage, 2.0 * sum_of(quadratics).value / recordings.seconds.sum())
            total = self.total(point, derivatives, quadratics)
            minimum = Minimum(point, total, None, False)
            return Joint(minimum, points, derivatives, quadratics, [products for _, products in answers])

        now = at(np.clip(start, -limit, limit))
        damping = Damping()
        converged = interrupted = False
        for _ in range(max_steps):
            here = now.minimum.point
            goal = self.fit_quadratics(now, here, damping.value, max_steps=_INNER_STEPS, tolerance=_FINE, limit=limit)
            there = here + (goal.point - here).clip(-longest_step, longest_step)
            value = now.minimum.quadratic.value
            promised = value - self.model(now, there).value
            if damping.settled(promised <= tolerance * value):
                converged = True
                break
            try:
                trial = at(there)
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


def _fit_network(
    passes: Passes,
    recordings: Recordings,
    groups: Sequence[Sequence[int]],
    networks: Sequence[ControlNet],
    settings: GaussNewtonSettings,
    seed: int,
) -> tuple[ControlNet, JointProblem, Joint]:
    """One network for all settings, with one make-up.

    Every setting is fitted on its own; then all with one make-up; then networks are laid through those cards, each as
    exactly as the recordings determine it. The best of them, and one from the generic start, are fitted to thinned
    recordings, and the better one to all.

    Returns:
        the network, whose weights are not yet set, what was fitted and where it ended.
    """
    takes = linked_takes(recordings.frame)
    thin = recordings.thinned(_THIN_S)
    steps: dict[str, Any] = {"max_steps": settings.max_steps, "tolerance": _ROUGH}
    alone = fit_settings(passes, recordings, groups, seed=seed, max_steps=settings.max_steps, rough=True)
    table = JointProblem(TableCard(groups), takes)
    makeup_db = float(np.median([minimum.point[_CARD] for minimum in alone]))
    start = np.concatenate([*(minimum.point[:_CARD] for minimum in alone), table.device(makeup_db)])
    limit = np.concatenate([np.full(_CARD * len(groups), _LIMIT[0]), np.full(len(table.device(0.0)), _LIMIT[_CARD])])
    cards = table.fit(passes, "shared make-up", thin, start, longest_step=2.0, limit=limit, **steps)
    if any(minimum.interrupted for minimum in (*alone, cards.minimum)):
        raise KeyboardInterrupt("interrupted before there was a network to keep")
    device = cards.minimum.point[_CARD * len(groups) :]

    problems = [
        JointProblem(NetworkCard(network, recordings.frame, settings.weight_prior_s), takes) for network in networks
    ]
    laid = [
        problem.fit_quadratics(cards, np.append(problem.card.start, device), max_steps=200, tolerance=_ROUGH)
        for problem in problems
    ]
    number = int(np.argmin([minimum.quadratic.value for minimum in laid]))
    problem = problems[number]
    joint = problem.fit(passes, "network, thinned", thin, laid[number].point, **steps)
    if joint.minimum.quadratic.value > _ASTRAY * cards.minimum.quadratic.value and not joint.minimum.interrupted:
        # Quadratics are only true nearby: a strong prior may have led away from them.
        interrupted = True
        with suppress(KeyboardInterrupt):
            again = problem.fit(passes, "network, thinned", thin, np.append(problem.card.start, device), **steps)
            joint = min(joint, again, key=lambda found: found.minimum.quadratic.value)
            interrupted = again.minimum.interrupted
        joint = _marked(joint, interrupted)
    for stage, where in _thicker(recordings, "network"):
        if joint.minimum.interrupted:
            break
        try:
            joint = problem.fit(passes, stage, where, joint.minimum.point, **steps)
        except KeyboardInterrupt:
            joint = _marked(joint, True)
    return networks[number], problem, joint


def _marked(joint: Joint, interrupted: bool) -> Joint:
    converged = joint.minimum.converged and not interrupted
    return joint._replace(minimum=replace(joint.minimum, converged=converged, interrupted=interrupted))


def fit_gauss_newton(
    frame: pd.DataFrame, per_setting: bool, settings: GaussNewtonSettings, seed: int, progress: bool
) -> tuple[GreyBox, Training]:
    """Fit all rows of a frame; the model knows its covariance.

    Args:
        frame: the rows to fit.
        per_setting: every setting on its own, make-up included.
        settings: how.
        seed: of spread starts and of the networks' first weights.
        progress: show a bar.

    Returns:
        the model, and history (``stage``, ``seconds``, ``error``: error-to-signal ratio, a row a pass) and outcome.
    """
    recordings = Recordings(frame, exact=settings.exact)
    settings_seen = settings_of(recordings.frame)
    rows_of = recordings.frame.groupby(list(CONTROLS)).indices
    groups = [list(rows_of[setting]) for setting in settings_seen]
    passes = Passes(settings.error_filter, progress)
    if per_setting:
        minima = fit_settings(passes, recordings, groups, seed=seed, max_steps=settings.max_steps, rough=False)
        rows = [vars(physical(minimum.point)) for minimum in minima]
        at = pd.DataFrame(settings_seen, columns=list(CONTROLS))
        model = GreyBox(ParameterTable(at.join(pd.DataFrame(rows)), nearest=True))
        model.makeup.requires_grad_(False)  # a table has its own, one a setting
        of_rows = [
            _covariance_of_setting(minimum, recordings.seconds[rows], recordings.sample_rate)
            for minimum, rows in zip(minima, groups, strict=True)
        ]
        model.covariance = torch.from_numpy(np.stack(of_rows))
        finished = all(minimum.converged for minimum in minima), any(minimum.interrupted for minimum in minima)
    else:
        networks = [ControlNet(seed=seed + number) for number in range(_NETWORKS)]
        network, problem, joint = _fit_network(passes, recordings, groups, networks, settings, seed)
        weights = sum(p.numel() for p in network.parameters())
        point = torch.from_numpy(joint.minimum.point)
        nn.utils.vector_to_parameters(point[:weights], network.parameters())
        model = GreyBox(network)
        with torch.no_grad():
            model.makeup.copy_(MAKEUP.to_unconstrained(point[weights].clamp(-_LIMIT[_CARD], _LIMIT[_CARD])))
        whole = _covariance_of_network(problem, joint, recordings)
        model.covariance = torch.from_numpy(whole[: weights + 1, : weights + 1].copy())
        finished = joint.minimum.converged, joint.minimum.interrupted
    return model, passes.close(*finished)


def _covariance_of_setting(minimum: Minimum, seconds: Array, sample_rate: float) -> Array:
    """Of the parameters as shares of their ranges, where a value near an end is felt as much as any other."""
    sigmoid = 1.0 / (1.0 + np.exp(-minimum.point[:_CARD]))
    scale = 1.0 / np.append(sigmoid * (1.0 - sigmoid), 1.0)
    meat = np.sum([_score_covariance(products, sample_rate) for products in minimum.found], axis=0)
    hessian, meat = (matrix * np.outer(scale, scale) for matrix in (minimum.quadratic.hessian, meat))
    return covariance(hessian, meat, NOISE_FLOOR / sample_rate / _WIDE, _WIDE, _blocks(seconds))


def _covariance_of_network(problem: JointProblem, joint: Joint, recordings: Recordings) -> Array:
    hessian = joint.minimum.quadratic.hessian - np.diag(problem.precision)
    meat = np.zeros_like(hessian)
    for derivative, products in zip(joint.derivatives, joint.products, strict=True):
        meat += derivative.T @ _score_covariance(products, recordings.sample_rate) @ derivative
    variance = np.minimum(problem.variance, _WIDE[_CARD])
    precision = np.maximum(problem.precision, NOISE_FLOOR / recordings.sample_rate / variance)
    return covariance(hessian, meat, precision, variance, _blocks(recordings.seconds))


def _blocks(seconds: Array) -> float:
    return sum(duration / block_seconds(duration) for duration in seconds)


def _score_covariance(products: Array, sample_rate: float) -> Array:
    tangents = products[:, FIRST_TANGENT:, FIRST_TANGENT:].sum(axis=0)
    return score_covariance(products[:, FIRST_TANGENT:, ERROR], tangents, SUMS_PER_S, sample_rate)
