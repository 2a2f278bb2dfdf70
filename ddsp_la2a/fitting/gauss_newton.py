"""Gauss–Newton fits: every setting on its own, or all settings through the knob network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import qmc
from torch import nn

from ddsp_la2a.controls import Control
from ddsp_la2a.data.frame import linked_takes, rows_by_setting
from ddsp_la2a.dsp.normal_equations import ERROR, FIRST_TANGENT
from ddsp_la2a.fitting.gradient import WEIGHT_PRIOR_S, Training
from ddsp_la2a.fitting.joint import Joint, JointProblem, NetworkCard, TableCard
from ddsp_la2a.fitting.least_squares import Minimum, Quadratic, Steps, in_step, levenberg_marquardt
from ddsp_la2a.fitting.passes import CARD, LIMIT, Array, Passes, physical, sum_of
from ddsp_la2a.fitting.recordings import SUMS_PER_S, Recordings
from ddsp_la2a.fitting.uncertainty import NOISE_FLOOR, block_seconds, covariance, score_covariance
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP, control_columns
from ddsp_la2a.units import DB_PER_NEPER

_GLANCE_S, _THIN_S, _THICKER_S = 5.0, 20.0, 120.0
"""Seconds of every recording on which spread starts are compared, the best are followed, and steps are taken before
those on everything."""

_SPREAD, _TRIED, _NETWORKS = 64, 6, 4
_ROUGH, _FINE = 1e-3, 1e-4
_ASTRAY = 2.0

_WIDE = np.array([50.0**2] * CARD + [1000.0**2])
"""Variance of a prior far wider than the ranges, of shares of a range and of dB: what hangs on something that the
recordings don't determine is then not determined either."""

_BARELY = 1e-12
"""Share of a parameter's own curvature that rounding leaves where there is none."""


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


def spread_points(seed: int) -> Array:
    """Points ``(64, 6)``: the generic start, then a Sobol sequence over the parameters' ranges; make-up 0 dB."""
    share = qmc.Sobol(CARD, seed=seed).random(_SPREAD)
    points = np.column_stack([np.log(share / (1.0 - share)).clip(-4.0, 4.0), np.zeros(_SPREAD)])
    points[0, :CARD] = generic_point()
    return points


def generic_point() -> Array:
    """The start values of the card, unconstrained."""
    return np.array([float(p.to_unconstrained(torch.tensor(p.start, dtype=torch.float64))) for p in CARD_PARAMETERS])


def _at_best_makeup(quadratic: Quadratic, point: Array) -> tuple[float, Array]:
    """Value at the make-up that suits the other parameters best, and the point with it: the output is linear in it."""
    curvature, pull = quadratic.hessian[CARD, CARD], quadratic.gradient[CARD]
    if not curvature > 0.0:
        return quadratic.value, point
    gain = max(1.0 - pull / curvature / DB_PER_NEPER, 1e-3)
    best = np.append(point[:CARD], point[CARD] + DB_PER_NEPER * np.log(gain)).clip(-LIMIT, LIMIT)
    return quadratic.value - 0.5 * pull * pull / curvature, best


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

    starts = spread_points(seed)
    everywhere = [(group, start) for group in range(len(groups)) for start in starts]
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
    return levenberg_marquardt(start, max_steps=max_steps, tolerance=tolerance, longest_step=2.0, limit=LIMIT)


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
    exactly as the recordings determine it. The best of them is fitted to thinned recordings, from the generic start as
    well if that went astray, and the better fit to all.

    Returns:
        the network, whose weights are not yet set, what was fitted and where it ended.
    """
    takes = linked_takes(recordings.frame, networks[0].controls)
    thin = recordings.thinned(_THIN_S)
    steps: dict[str, Any] = {"max_steps": settings.max_steps, "tolerance": _ROUGH}
    alone = fit_settings(passes, recordings, groups, seed=seed, max_steps=settings.max_steps, rough=True)
    table = JointProblem(TableCard(groups), takes)
    makeup_db = float(np.median([minimum.point[CARD] for minimum in alone]))
    start = np.concatenate([*(minimum.point[:CARD] for minimum in alone), table.device(makeup_db)])
    limit = np.concatenate([np.full(CARD * len(groups), LIMIT[0]), np.full(len(table.device(0.0)), LIMIT[CARD])])
    cards = table.fit(passes, "shared make-up", thin, start, longest_step=2.0, limit=limit, **steps)
    if any(minimum.interrupted for minimum in (*alone, cards.minimum)):
        raise KeyboardInterrupt("interrupted before there was a network to keep")
    device = cards.minimum.point[CARD * len(groups) :]

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
    frame: pd.DataFrame,
    controls: Sequence[Control],
    per_setting: bool,
    settings: GaussNewtonSettings,
    seed: int,
    progress: bool,
) -> tuple[GreyBox, Training]:
    """Fit all rows of a frame; the model knows its covariance.

    Args:
        frame: the rows to fit.
        controls: of the unit.
        per_setting: every setting on its own, make-up included.
        settings: how.
        seed: of spread starts and of the networks' first weights.
        progress: show a bar.

    Returns:
        the model, and history (``stage``, ``seconds``, ``error``: error-to-signal ratio, a row a pass) and outcome.
    """
    recordings = Recordings(frame, exact=settings.exact, controls=controls)
    rows_of = rows_by_setting(recordings.frame, controls)
    groups = list(rows_of.values())
    passes = Passes(settings.error_filter, progress)
    if per_setting:
        minima = fit_settings(passes, recordings, groups, seed=seed, max_steps=settings.max_steps, rough=False)
        rows = [physical(minimum.point).numbers() for minimum in minima]
        at = pd.DataFrame(list(rows_of), columns=control_columns(controls))
        model = GreyBox(ParameterTable(at.join(pd.DataFrame(rows)), controls, nearest=True))
        model.makeup.requires_grad_(False)  # a table has its own, one a setting
        of_rows = [
            _covariance_of_setting(minimum, recordings.seconds[rows], recordings.sample_rate)
            for minimum, rows in zip(minima, groups, strict=True)
        ]
        model.covariance = torch.from_numpy(np.stack(of_rows))
        finished = all(minimum.converged for minimum in minima), any(minimum.interrupted for minimum in minima)
    else:
        networks = [ControlNet(seed=seed + number, controls=controls) for number in range(_NETWORKS)]
        network, problem, joint = _fit_network(passes, recordings, groups, networks, settings, seed)
        weights = sum(p.numel() for p in network.parameters())
        point = torch.from_numpy(joint.minimum.point)
        nn.utils.vector_to_parameters(point[:weights], network.parameters())
        model = GreyBox(network)
        with torch.no_grad():
            model.makeup.copy_(MAKEUP.to_unconstrained(point[weights].clamp(-LIMIT[CARD], LIMIT[CARD])))
        whole = _covariance_of_network(problem, joint, recordings)
        model.covariance = torch.from_numpy(whole[: weights + 1, : weights + 1].copy())
        finished = joint.minimum.converged, joint.minimum.interrupted
    return model, passes.close(*finished)


def _covariance_of_setting(minimum: Minimum, seconds: Array, sample_rate: float) -> Array:
    """Of the parameters as shares of their ranges, where a value near an end is felt as much as any other."""
    sigmoid = 1.0 / (1.0 + np.exp(-minimum.point[:CARD]))
    scale = 1.0 / np.append(sigmoid * (1.0 - sigmoid), 1.0)
    meat = np.sum([_score_covariance(products, sample_rate) for products in minimum.found], axis=0)
    hessian, meat = (matrix * np.outer(scale, scale) for matrix in (minimum.quadratic.hessian, meat))
    precision = np.maximum(NOISE_FLOOR / sample_rate / _WIDE, _BARELY * np.diag(hessian))
    return covariance(hessian, meat, precision, _WIDE, _blocks(seconds))


def _covariance_of_network(problem: JointProblem, joint: Joint, recordings: Recordings) -> Array:
    hessian = joint.minimum.quadratic.hessian - np.diag(problem.precision)
    meat = np.zeros_like(hessian)
    for derivative, products in zip(joint.derivatives, joint.products, strict=True):
        meat += derivative.T @ _score_covariance(products, recordings.sample_rate) @ derivative
    variance = np.minimum(problem.variance, MAKEUP.high**2)
    precision = np.maximum(problem.precision, NOISE_FLOOR / recordings.sample_rate / variance)
    return covariance(hessian, meat, precision, variance, _blocks(recordings.seconds))


def _blocks(seconds: Array) -> float:
    return sum(duration / block_seconds(duration) for duration in seconds)


def _score_covariance(products: Array, sample_rate: float) -> Array:
    tangents = products[:, FIRST_TANGENT:, FIRST_TANGENT:].sum(axis=0)
    return score_covariance(products[:, FIRST_TANGENT:, ERROR], tangents, SUMS_PER_S, sample_rate)
