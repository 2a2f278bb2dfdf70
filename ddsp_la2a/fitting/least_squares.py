"""Levenberg–Marquardt steps, for one problem or for many in step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEAST_CURVATURE = 1e-12
_FIRST_DAMPING, _LEAST_DAMPING, _LITTLE_DAMPING, _MOST_DAMPING = 1e-3, 1e-9, 0.1, 1e12


class Quadratic(NamedTuple):
    """Half a weighted sum of squares at a point: value, gradient ``(n,)`` and Gauss–Newton matrix ``(n, n)``."""

    value: float
    gradient: Array
    hessian: Array


@dataclass(frozen=True)
class Minimum:
    """Where the steps ended.

    Args:
        point: ``(n,)``.
        quadratic: there.
        found: what else was sent with it.
        converged: no step promises more than ``tolerance`` of the value, or none of any length gains anything.
        interrupted: ended by Ctrl-C; the best point until then.
    """

    point: Array
    quadratic: Quadratic
    found: Any
    converged: bool
    interrupted: bool = False


class Damping:
    """How strongly steps are shortened: follows the ratio of gained to promised decrease.

    References:
        Nielsen 1999, IMM-REP-1999-05, "Damping parameter in Marquardt's method".
    """

    def __init__(self) -> None:
        self.value, self._growth = _FIRST_DAMPING, 2.0

    def settled(self, little: bool) -> bool:
        """Whether it is over: little is promised without strong damping, which makes every promise small, or no step
        of any length gained anything."""
        return (little and self.value <= _LITTLE_DAMPING) or self.value > _MOST_DAMPING

    def accepts(self, gained: float) -> bool:
        """Whether a step that gained this share of what was promised is taken."""
        if gained > 0.0:
            self.value = max(self.value * max(1.0 / 5.0, 1.0 - (2.0 * gained - 1.0) ** 3), _LEAST_DAMPING)
            self._growth = 2.0
            return True
        self.value, self._growth = self.value * self._growth, 2.0 * self._growth
        return False


Steps = Generator[Array, tuple[Quadratic, Any], Minimum]
"""Yields a point, is sent the quadratic there and whatever belongs to it, returns the minimum."""


def levenberg_marquardt(
    start: Array,
    *,
    max_steps: int,
    tolerance: float = 1e-5,
    longest_step: float = np.inf,
    limit: float | Array = np.inf,
) -> Steps:
    """Minimise a sum of squares from its Gauss–Newton quadratics, each of which costs one evaluation.

    ::

        (H + λ diag H) δ = −gradient

    with λ from :class:`Damping`. A coordinate that changes nothing is left alone.

    Args:
        start: ``(n,)``.
        max_steps: evaluations after the first.
        tolerance: promised decrease, relative to the value, that isn't worth a step.
        longest_step: of any coordinate.
        limit: coordinates stay within ± this.

    References:
        Marquardt 1963, J. SIAM 11(2).
    """
    at = np.clip(start, -limit, limit)
    now, found = yield at
    damping, converged, interrupted = Damping(), False, False
    for _ in range(max_steps):
        diagonal = np.diag(now.hessian)
        scale = np.maximum(diagonal, max(_LEAST_CURVATURE * diagonal.max(), 1e-300))
        # A coordinate at its limit that wants to go on is held.
        free = ~((np.abs(at) >= limit) & (now.gradient * at < 0.0))
        step = np.zeros_like(at)
        matrix = now.hessian[np.ix_(free, free)] + np.diag(damping.value * scale[free])
        step[free] = -np.linalg.solve(matrix, now.gradient[free])
        if damping.settled(bool(-now.gradient @ step <= tolerance * now.value)):
            converged = bool(np.isfinite(now.value))
            break
        there = np.clip(at + step.clip(-longest_step, longest_step), -limit, limit)
        step = there - at
        promised = -(now.gradient @ step + 0.5 * step @ now.hessian @ step)
        gained = -1.0
        if promised > 0.0:
            try:
                trial, trial_found = yield there
            except KeyboardInterrupt:
                interrupted = True
                break
            gained = (now.value - trial.value) / promised
        if damping.accepts(gained):
            at, now, found = there, trial, trial_found
    return Minimum(at, now, found, converged, interrupted)


Evaluate = Callable[[list[tuple[int, Array]]], Sequence[tuple[Quadratic, Any]]]


def in_step(problems: Sequence[Steps], evaluate: Evaluate) -> list[Minimum]:
    """Run independent minimisations side by side, so that each round of evaluations is one request.

    Ctrl-C during an evaluation ends all of them at their best points, but for the first evaluation.

    Args:
        problems: not yet started.
        evaluate: from numbers of problems with their points to what is sent back, in the same order.
    """
    minima: dict[int, Minimum] = {}
    asked = [(i, next(problem)) for i, problem in enumerate(problems)]
    while asked:
        interruption = None
        try:
            answers = evaluate(asked)
        except KeyboardInterrupt as interrupted:
            interruption = interrupted  # a problem without a first value lets it through
        following = []
        for number, (i, _) in enumerate(asked):
            try:
                if interruption is not None:
                    problems[i].throw(interruption)
                following.append((i, problems[i].send(answers[number])))
            except StopIteration as stopped:
                minima[i] = stopped.value
        asked = following
    return [minima[i] for i in range(len(problems))]


def minimised(steps: Steps, evaluate: Callable[[Array], tuple[Quadratic, Any]]) -> Minimum:
    """Run one minimisation."""
    return in_step([steps], lambda asked: [evaluate(point) for _, point in asked])[0]
