"""Every setting on its own: starts spread over the ranges, the best of them followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import qmc

from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.least_squares import Minimum, Quadratic, Steps, in_step, levenberg_marquardt
from ddsp_la2a.fitting.passes import Array, Passes, sum_of
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.model.stages import Stages

GLANCE_S, THIN_S, THICKER_S = 5.0, 20.0, 120.0
"""Seconds of every recording on which spread starts are compared, the best are followed, and steps are taken before
those on everything."""

ROUGH, FINE = 1e-3, 1e-4
"""Promised decrease, relative to the value, that isn't worth a step."""

_SPREAD, _TRIED = 64, 6


def thicker(recordings: Recordings, name: str) -> list[tuple[str, Recordings]]:
    """What steps are taken on after those on thinned recordings: more of long ones, then everything."""
    if recordings.seconds.max() <= THICKER_S:
        return [(name, recordings)]
    return [(f"{name}, {THICKER_S:g} s each", recordings.thinned(THICKER_S)), (name, recordings)]


def first_stages(coordinates: Coordinates) -> Coordinates:
    """Those that a fit with stages starts from: the detector hears the same, and the output may have its colour.

    An output filter is linear, so it costs a start nothing, and without it starts would be told apart by how they mend
    the colour of a recording that is hardly compressed.
    """
    stages = coordinates.stages
    if not isinstance(stages, Stages):  # an optical cell is itself only as a whole
        return coordinates
    return Coordinates(Stages(stages.output_filter, False, False, stages.feedback), coordinates.sample_rate)


def spread_points(coordinates: Coordinates, seed: int) -> Array:
    """Points ``(64, coordinates)``: the generic start, then a Sobol sequence over the ranges of the card.

    The make-up is 0 dB; stages are at their start.
    """
    share = qmc.Sobol(coordinates.card, seed=seed).random(_SPREAD)
    points = np.tile(coordinates.start, (_SPREAD, 1))
    points[1:, : coordinates.card] = np.log(share / (1.0 - share)).clip(-4.0, 4.0)[1:]
    return points


class Search:
    """Fits of groups of recordings, each group on its own.

    Args:
        passes: evaluates.
        recordings: of all settings.
        groups: row numbers of each setting.
        coordinates: of a recording's point.
        max_steps: of every stage.
    """

    def __init__(
        self,
        passes: Passes,
        recordings: Recordings,
        groups: Sequence[Sequence[int]],
        coordinates: Coordinates,
        max_steps: int,
    ) -> None:
        self._passes, self._recordings, self._groups = passes, recordings, groups
        self._coordinates, self._max_steps = coordinates, max_steps
        self._precision = np.append(np.zeros(coordinates.card), coordinates.device_precision())

    def spread(self, seed: int) -> list[Minimum]:
        """A minimum of every group on thinned recordings.

        Spread starts are compared on a few seconds, each at the make-up and output filter that suit it best, and the
        best few are followed.
        """
        starts = spread_points(self._coordinates, seed)
        everywhere = [(group, start) for group in range(len(self._groups)) for start in starts]
        glances = self._evaluator("starts", self._recordings.thinned(GLANCE_S))(everywhere)
        ranked: list[list[tuple[float, Array]]] = [[] for _ in self._groups]
        for (group, start), (quadratic, _) in zip(everywhere, glances, strict=True):
            ranked[group].append(self._coordinates.at_best_linear(quadratic, start))
        return self.best_of(
            "settings, thinned",
            [[start for _, start in sorted(found, key=lambda pair: pair[0])[:_TRIED]] for found in ranked],
        )

    def best_of(self, stage: str, starts: Sequence[Sequence[Array]]) -> list[Minimum]:
        """The best minimum of every group on thinned recordings, from several starts each."""
        chosen = [(group, start) for group, several in enumerate(starts) for start in several]
        evaluate = self._evaluator(stage, self._recordings.thinned(THIN_S))
        followed = in_step(
            [self._steps(start, ROUGH) for _, start in chosen],
            lambda asked: evaluate([(chosen[i][0], point) for i, point in asked]),
        )
        by_group: list[list[Minimum]] = [[] for _ in self._groups]
        for (group, _), minimum in zip(chosen, followed, strict=True):
            by_group[group].append(minimum)
        best = [min(minima, key=lambda minimum: minimum.quadratic.value) for minima in by_group]
        return _interrupted(best) if any(minimum.interrupted for minimum in followed) else best

    def on_everything(self, minima: Sequence[Minimum]) -> list[Minimum]:
        """Follow minima on the whole recordings; those of an interrupted fit stay where they are."""
        best = list(minima)
        for stage, where in thicker(self._recordings, "settings"):
            if any(minimum.interrupted for minimum in best):
                return _interrupted(best)
            try:
                found = in_step([self._steps(minimum.point, FINE) for minimum in best], self._evaluator(stage, where))
            except KeyboardInterrupt:
                return _interrupted(best)
            best = found
        return _interrupted(best) if any(minimum.interrupted for minimum in best) else best

    def _steps(self, start: Array, tolerance: float) -> Steps:
        limit = self._coordinates.limit
        return levenberg_marquardt(start, max_steps=self._max_steps, tolerance=tolerance, longest_step=2.0, limit=limit)

    def _evaluator(
        self, stage: str, where: Recordings
    ) -> Callable[[Sequence[tuple[int, Array]]], list[tuple[Quadratic, Any]]]:
        """From (group, point) to the group's quadratic and the covariance of its gradient, without the prior."""
        seconds = np.array([where.seconds[list(rows)].sum() for rows in self._groups])
        least = np.full(len(self._groups), np.inf)

        def evaluate(asked: Sequence[tuple[int, Array]]) -> list[tuple[Quadratic, Any]]:
            points = [(row, point) for group, point in asked for row in self._groups[group]]
            found = iter(self._passes.quadratics(where, points, self._coordinates))
            answers = []
            for group, point in asked:
                parts = [next(found) for _ in self._groups[group]]
                summed = sum_of([quadratic for quadratic, _ in parts])
                least[group] = min(least[group], 2.0 * summed.value / seconds[group])
                pulled = Quadratic(
                    summed.value + 0.5 * float(self._precision @ point**2),
                    summed.gradient + self._precision * point,
                    summed.hessian + np.diag(self._precision),
                )
                answers.append((pulled, np.sum([scattered for _, scattered in parts], axis=0)))
            known = np.isfinite(least)
            self._passes.log(stage, float(least[known] @ seconds[known] / seconds[known].sum()))
            return answers

        return evaluate


def _interrupted(minima: Sequence[Minimum]) -> list[Minimum]:
    return [replace(minimum, converged=False, interrupted=True) for minimum in minima]
