"""One optical cell for all settings: a start from which it converges, and the fit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddsp_la2a.data.frame import linked_takes
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.joint import Joint, JointProblem, TaperCard, marked
from ddsp_la2a.fitting.least_squares import Quadratic, levenberg_marquardt, minimised
from ddsp_la2a.fitting.passes import Array, Passes
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.fitting.search import FINE, GLANCE_S, ROUGH, THIN_S, thicker
from ddsp_la2a.model.taper import Taper

_MIDDLES, _LEVELS = (-0.7, -0.35, 0.0, 0.35, 0.7), (0.0, -1.5)
"""Where the taper starts: its middle, from 21 dB below the generic gain to 21 dB above, and its slope."""

_FOLLOWED, _FEW = 2, 8
_TOLD_APART = 1e-3
_GLANCE_WARMUP_S, _THIN_WARMUP_S = 2.0, 5.0
_LONGEST_STEP = 1.0


def fit_taper(
    passes: Passes,
    recordings: Recordings,
    coordinates: Coordinates,
    tapers: Sequence[Taper],
    *,
    prior_s: float,
    max_steps: int,
    start: Array | None = None,
) -> tuple[Taper, JointProblem, Joint]:
    """One set of constants and one taper for all recordings.

    How loud the cell hears the recordings is what a start must not miss by far, for in the dark there is no slope: so
    the gain is tried over a range, and the best are followed, first on a few seconds of a few settings.

    Args:
        passes: evaluates.
        recordings: of all settings.
        coordinates: of a recording's point.
        tapers: what may give gain and tap, the likelier ones first; their weights are left alone.
        prior_s: strength of the prior on those, in seconds of audio.
        max_steps: of every stage.
        start: coordinates of the device; None for generic ones.

    Returns:
        the best taper, what was fitted and where it ended.

    Raises:
        KeyboardInterrupt: before there was anything worth keeping.
    """
    device = coordinates.start[coordinates.card :] if start is None else start
    names = [control.name for control in recordings.controls]
    in_order = recordings.frame.sort_values(names, kind="stable").index.to_numpy()
    few = recordings.chosen(in_order[np.linspace(0, len(in_order) - 1, min(len(in_order), _FEW)).round().astype(int)])

    def posed(taper: Taper, heard: Recordings, takes: NDArray[np.int64] | None) -> JointProblem:
        return JointProblem(TaperCard(taper, heard.frame, prior_s), takes, coordinates)

    def descent(problem: JointProblem, stage: str, where: Recordings, at: Array, tolerance: float) -> Joint:
        def evaluate(point: Array) -> tuple[Quadratic, Joint]:
            joint = problem.at(passes, stage, where, point)
            return joint.minimum.quadratic, joint

        # Damped by the sum of all recordings: hardly a number here belongs to one of them alone.
        how: dict[str, Any] = {"tolerance": tolerance, "limit": problem.limit(np.inf)}
        steps = levenberg_marquardt(at, max_steps=max_steps, longest_step=_LONGEST_STEP, **how)
        minimum = minimised(steps, evaluate)
        ended = {"converged": minimum.converged, "interrupted": minimum.interrupted}
        return minimum.found._replace(minimum=replace(minimum.found.minimum, **ended))

    first = [posed(taper, few, None) for taper in tapers]
    for glance in (few.thinned(GLANCE_S, _GLANCE_WARMUP_S), few):
        tried = []
        for number, middle, level in itertools.product(range(len(tapers)), _MIDDLES, _LEVELS):
            weights = first[number].card.start.copy()
            weights[:2] = middle, level
            tried.append((first[number].at(passes, "starts", glance, first[number].start(weights, device)), number))
        tried.sort(key=_value)
        if _value(tried[-1]) - _value(tried[0]) > _TOLD_APART * glance.seconds.sum():
            break  # else they were compared on silence
    followed = []
    for joint, number in tried[:_FOLLOWED]:
        found = descent(first[number], "cell, glanced", glance, joint.minimum.point, ROUGH)
        if found.minimum.interrupted:
            raise KeyboardInterrupt("interrupted before there was a cell to keep")
        followed.append((found, number))
    rough, number = min(followed, key=_value)
    problem = posed(tapers[number], recordings, linked_takes(recordings.frame, recordings.controls))
    at = problem.start(rough.minimum.point[: len(problem.card.start)], first[number].device(rough.minimum.point))
    thin = recordings.thinned(THIN_S, _THIN_WARMUP_S)
    best = descent(problem, "cell, thinned", thin, at, FINE)
    for stage, where in thicker(recordings, "cell"):
        if best.minimum.interrupted:
            break
        try:
            best = descent(problem, stage, where, best.minimum.point, FINE)
        except KeyboardInterrupt:
            best = marked(best, True)
    return tapers[number], problem, best


def _value(found: tuple[Joint, int]) -> float:
    return found[0].minimum.quadratic.value
