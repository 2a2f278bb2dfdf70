"""Gauss–Newton fits: every setting on its own, or all settings through the knob network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.data.frame import Setting, linked_takes, rows_by_setting
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.gradient import WEIGHT_PRIOR_S, Training
from ddsp_la2a.fitting.joint import Joint, JointProblem, NetworkCard, TableCard, marked
from ddsp_la2a.fitting.journal import Journal
from ddsp_la2a.fitting.least_squares import Minimum
from ddsp_la2a.fitting.optical import fit_taper
from ddsp_la2a.fitting.passes import Array, Ask, Passes
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.fitting.search import FINE, ROUGH, THIN_S, Search, first_stages, thicker
from ddsp_la2a.fitting.uncertainty import NOISE_FLOOR, block_seconds, covariance
from ddsp_la2a.interrupts import postponed
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import MAKEUP, control_columns
from ddsp_la2a.model.stages import AnyStages, CellStages
from ddsp_la2a.model.taper import Taper

_NETWORKS = 4
_ASTRAY = 2.0

_WIDE, _WIDE_DB = 50.0**2, 1000.0**2
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


def fit_settings(
    passes: Passes,
    recordings: Recordings,
    groups: Sequence[Sequence[int]],
    coordinates: Coordinates,
    *,
    seed: int,
    max_steps: int,
) -> list[Minimum]:
    """A point for every group of recordings, each fitted on its own: first with the output filter only, then with all.

    Returns:
        minima whose ``found`` is the covariance of the group's gradient.
    """
    first = first_stages(coordinates)
    minima = Search(passes, recordings, groups, first, max_steps).spread(seed)
    search = Search(passes, recordings, groups, coordinates, max_steps)
    if coordinates.stages != first.stages:
        if any(minimum.interrupted for minimum in minima):
            raise KeyboardInterrupt("interrupted before there were all stages to keep")
        starts = [coordinates.staged_starts(minimum.point, first) for minimum in minima]
        minima = search.best_of("stages, thinned", starts)
    return search.on_everything(minima)


def _fit_cards(
    passes: Passes,
    recordings: Recordings,
    groups: Sequence[Sequence[int]],
    coordinates: Coordinates,
    steps: dict[str, Any],
    seed: int,
) -> tuple[JointProblem, Joint]:
    """A card for every setting and one device, on thinned recordings: first the output filter only, then all stages."""
    takes, first = linked_takes(recordings.frame, recordings.controls), first_stages(coordinates)
    card = coordinates.card
    thin = recordings.thinned(THIN_S)
    alone = Search(passes, recordings, groups, first, steps["max_steps"]).spread(seed)
    table = JointProblem(TableCard(groups, card), takes, first)
    device = np.median([minimum.point[card:] for minimum in alone], axis=0)
    start = table.start(np.concatenate([minimum.point[:card] for minimum in alone]), device)
    bounds: dict[str, Any] = {"longest_step": 2.0, "limit": table.limit(coordinates.limit[0])}
    cards = table.fit(passes, "shared device", thin, start, **bounds, **steps)
    interrupted = any(minimum.interrupted for minimum in (*alone, cards.minimum))
    if coordinates.stages != first.stages and not interrupted:
        before = cards.minimum.point
        weights, device = before[: card * len(groups)], table.device(before)
        table = JointProblem(TableCard(groups, card), takes, coordinates)
        bounds["limit"] = table.limit(coordinates.limit[0])
        found = []
        for point in coordinates.staged_starts(np.append(coordinates.start[:card], device), first):
            start = table.start(weights, point[card:])
            found.append(table.fit(passes, "shared stages", thin, start, **bounds, **steps))
        cards = min(found, key=lambda joint: joint.minimum.quadratic.value)
        interrupted = any(joint.minimum.interrupted for joint in found)
    if interrupted:
        raise KeyboardInterrupt("interrupted before there was a network to keep")
    return table, cards


def _fit_network(
    passes: Passes,
    recordings: Recordings,
    groups: Sequence[Sequence[int]],
    networks: Sequence[ControlNet],
    coordinates: Coordinates,
    settings: GaussNewtonSettings,
    seed: int,
) -> tuple[ControlNet, JointProblem, Joint]:
    """One network for all settings, with one device.

    Every setting is fitted on its own; then all with one device; then networks are laid through those cards, each as
    exactly as the recordings determine it. The best of them is fitted to thinned recordings, from the generic start as
    well if that went astray, and the better fit to all.

    Returns:
        the network, whose weights are not yet set, what was fitted and where it ended.
    """
    steps: dict[str, Any] = {"max_steps": settings.max_steps, "tolerance": ROUGH}
    thin = recordings.thinned(THIN_S)
    table, cards = _fit_cards(passes, recordings, groups, coordinates, steps, seed)
    device = table.device(cards.minimum.point)
    takes = linked_takes(recordings.frame, recordings.controls)
    problems = [
        JointProblem(NetworkCard(network, recordings.frame, settings.weight_prior_s), takes, coordinates)
        for network in networks
    ]
    starts = [problem.start(problem.card.start, device) for problem in problems]
    laid = [
        problem.fit_quadratics(cards, start, max_steps=200, tolerance=FINE, limit=problem.limit(np.inf))
        for problem, start in zip(problems, starts, strict=True)
    ]
    number = int(np.argmin([minimum.quadratic.value for minimum in laid]))
    problem = problems[number]
    steps["limit"] = problem.limit(np.inf)
    # Fine steps already here: a corner of the taper is at the end of a long valley.
    joint = problem.fit(passes, "network, thinned", thin, laid[number].point, **steps | {"tolerance": FINE})
    if joint.minimum.quadratic.value > _ASTRAY * cards.minimum.quadratic.value and not joint.minimum.interrupted:
        # Quadratics are only true nearby: a strong prior may have led away from them.
        interrupted = True
        with suppress(KeyboardInterrupt):
            again = problem.fit(passes, "network, thinned", thin, starts[number], **steps)
            joint = min(joint, again, key=lambda found: found.minimum.quadratic.value)
            interrupted = again.minimum.interrupted
        joint = marked(joint, interrupted)
    for stage, where in thicker(recordings, "network"):
        if joint.minimum.interrupted:
            break
        try:
            joint = problem.fit(passes, stage, where, joint.minimum.point, **steps)
        except KeyboardInterrupt:
            joint = marked(joint, True)
    return networks[number], problem, joint


def fit_gauss_newton(
    frame: pd.DataFrame,
    controls: Sequence[Control],
    stages: AnyStages,
    per_setting: bool,
    settings: GaussNewtonSettings,
    seed: int,
    progress: bool,
    journal: Journal | None = None,
    ask: Ask | None = None,
) -> tuple[GreyBox, Training]:
    """Fit all rows of a frame; the model knows its covariance.

    Args:
        frame: the rows to fit.
        controls: of the unit.
        stages: what the model has beside curve, ballistics and make-up.
        per_setting: every setting on its own, with its own device.
        settings: how.
        seed: of spread starts and of the networks' first weights.
        progress: show a bar.
        journal: of passes that are known already, and where those to come are noted.
        ask: who answers the others.

    Returns:
        the model, and history (``stage``, ``seconds``, ``error``: error-to-signal ratio, a row a pass) and outcome.
        Interrupted before the settings had one model, it is a table of the best points so far, without covariance.

    Raises:
        KeyboardInterrupt: before the first pass was through.
    """
    fit_all = _fit_table if per_setting else partial(_fit_shared, cards=_cards(controls, stages, seed))
    recordings = Recordings(frame, exact=settings.exact, controls=controls)
    passes = Passes(settings.error_filter, progress, journal, ask)
    coordinates = Coordinates(stages, recordings.sample_rate)
    try:
        # With several threads the last bit of a matrix product hangs on their number; there is nothing to be gained.
        with threadpool_limits(1, user_api="blas"):
            model, ended = fit_all(passes, recordings, coordinates, settings, seed)
    except KeyboardInterrupt:
        known = [(stage, best) for stage, best in passes.best.items() if best]
        if not passes.history or not known:
            raise
        with postponed() as came:
            stage, best = max(reversed(known), key=lambda pair: len(pair[1]))  # the latest that saw most settings
            by_setting = {setting: best[setting][1] for setting in sorted(best)}
            model, ended = _table(by_setting, stage, controls), (False, True)
            came.clear()  # it is ending already
    except Exception:
        passes.close(False, False)  # what is said next stands on a line of its own
        raise
    return model, passes.close(*ended)


def _table(points: Mapping[Setting, Array], coordinates: Coordinates, controls: Sequence[Control]) -> GreyBox:
    """A model that knows a point for each setting."""
    at = pd.DataFrame(list(points), columns=control_columns(controls))
    names = [parameter.name for parameter in coordinates.parameters]
    rows = pd.DataFrame([coordinates.values(point) for point in points.values()], columns=names)
    card = ParameterTable(at.join(rows), controls, nearest=True)
    model = GreyBox(card, stages=coordinates.stages, sample_rate=coordinates.sample_rate)
    model.device.requires_grad_(False)  # a table has its own, one a setting
    return model


def _fit_table(
    passes: Passes, recordings: Recordings, coordinates: Coordinates, settings: GaussNewtonSettings, seed: int
) -> tuple[GreyBox, tuple[bool, bool]]:
    """Every setting on its own; whether it converged, and whether it was interrupted."""
    rows_of = rows_by_setting(recordings.frame, recordings.controls)
    groups = list(rows_of.values())
    minima = fit_settings(passes, recordings, groups, coordinates, seed=seed, max_steps=settings.max_steps)
    points = {setting: minimum.point for setting, minimum in zip(rows_of, minima, strict=True)}
    model = _table(points, coordinates, recordings.controls)
    covariances = [
        _covariance_of_setting(minimum, coordinates, recordings.seconds[rows])
        for minimum, rows in zip(minima, groups, strict=True)
    ]
    model.covariance = torch.from_numpy(np.stack(covariances))
    return model, (all(minimum.converged for minimum in minima), any(minimum.interrupted for minimum in minima))


def _cards(controls: Sequence[Control], stages: AnyStages, seed: int) -> list[ControlNet] | list[Taper]:
    """What may give all settings their card."""
    if isinstance(stages, CellStages):
        # Only of the LA-2A's own knob it is known which way it turns.
        return [Taper(controls, rises) for rises in ((True,) if LA2A_CONTROLS[1] in controls else (True, False))]
    return [ControlNet(seed=seed + number, controls=controls) for number in range(_NETWORKS)]


def _fit_shared(
    passes: Passes,
    recordings: Recordings,
    coordinates: Coordinates,
    settings: GaussNewtonSettings,
    seed: int,
    *,
    cards: list[ControlNet] | list[Taper],
) -> tuple[GreyBox, tuple[bool, bool]]:
    """One card and one device for all settings; whether it converged, and whether it was interrupted."""
    shared: ControlNet | Taper
    if isinstance(coordinates.stages, CellStages):
        tapers = [card for card in cards if isinstance(card, Taper)]
        shared, problem, joint = fit_taper(
            passes, recordings, coordinates, tapers, prior_s=settings.weight_prior_s, max_steps=settings.max_steps
        )
    else:
        groups = list(rows_by_setting(recordings.frame, recordings.controls).values())
        networks = [card for card in cards if isinstance(card, ControlNet)]
        shared, problem, joint = _fit_network(passes, recordings, groups, networks, coordinates, settings, seed)
    weights = sum(p.numel() for p in shared.parameters())
    point = torch.from_numpy(joint.minimum.point)
    nn.utils.vector_to_parameters(point[:weights], shared.parameters())
    model = GreyBox(shared, stages=coordinates.stages, sample_rate=recordings.sample_rate)
    device = torch.from_numpy(problem.device(joint.minimum.point).copy())
    device[0] = MAKEUP.to_unconstrained(device[0])
    with torch.no_grad():
        model.device.copy_(device)
    whole = _covariance_of_network(problem, joint, recordings)
    known = weights + len(device)
    model.covariance = torch.from_numpy(whole[:known, :known].copy())
    return model, (joint.minimum.converged, joint.minimum.interrupted)


def _covariance_of_setting(minimum: Minimum, coordinates: Coordinates, seconds: Array) -> Array:
    """Of the parameters as shares of their ranges, where a value near an end is felt as much as any other."""
    scale = 1.0 / coordinates.shares(minimum.point)
    hessian, meat = (matrix * np.outer(scale, scale) for matrix in (minimum.quadratic.hessian, minimum.found))
    wide = np.where(np.arange(len(scale)) == coordinates.card, _WIDE_DB, _WIDE)
    precision = np.maximum(NOISE_FLOOR / coordinates.sample_rate / wide, _BARELY * np.diag(hessian))
    return covariance(hessian, meat, precision, wide, _blocks(seconds))


def _covariance_of_network(problem: JointProblem, joint: Joint, recordings: Recordings) -> Array:
    hessian = joint.minimum.quadratic.hessian - np.diag(problem.precision)
    meat = np.zeros_like(hessian)
    for derivative, scattered in zip(joint.derivatives, joint.covariances, strict=True):
        meat += derivative.T @ scattered @ derivative
    variance = np.minimum(problem.variance, MAKEUP.high**2)
    precision = np.maximum(problem.precision, NOISE_FLOOR / recordings.sample_rate / variance)
    return covariance(hessian, meat, precision, variance, _blocks(recordings.seconds))


def _blocks(seconds: Array) -> float:
    return sum(duration / block_seconds(duration) for duration in seconds)
