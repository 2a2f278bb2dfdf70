"""Passes over recordings: quadratics of what is minimised, at points of every recording.

A recording counts by its own energy and its length: what is summed is ½ seconds · (error energy / target energy).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from ddsp_la2a.data.frame import Setting, rows_by_setting
from ddsp_la2a.dsp.normal_equations import ERROR, FIRST_TANGENT, TARGET
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.gradient import Training
from ddsp_la2a.fitting.journal import Answer, Journal, question_hash
from ddsp_la2a.fitting.least_squares import Quadratic
from ddsp_la2a.fitting.recordings import SUMS_PER_S, Recordings
from ddsp_la2a.fitting.uncertainty import score_covariance

Array = NDArray[np.float64]

_SILENCE = 1e-9
"""Power (−90 dBFS) that is added to a target's: a recording of silence must not weigh more than one of music."""


Ask = Callable[[Recordings, Sequence[tuple[int, Array]], Coordinates, str, Callable[[float], object]], "list[Answer]"]
"""From what :func:`answered` is given to what it returns."""


class Passes:
    """Evaluates points of recordings, and keeps the history.

    Args:
        error_filter: see :class:`~ddsp_la2a.fitting.gauss_newton.GaussNewtonSettings`.
        progress: show a bar of the audio gone through.
        journal: of passes that are known already, and where those to come are noted; None: none are.
        ask: who answers the others.

    Attributes:
        history: a row a pass.
        best: for the coordinates of every stage the best point of each setting so far, with its error.
    """

    def __init__(
        self, error_filter: str, progress: bool, journal: Journal | None = None, ask: Ask | None = None
    ) -> None:
        self.history: list[dict[str, Any]] = []
        self.best: dict[Coordinates, dict[Setting, tuple[float, Array]]] = {}
        self._error_filter = error_filter
        self._journal = journal or Journal(None, "")
        self._ask = ask or answered
        self._before, self._since = 0.0, time.monotonic()
        self._interrupted = False
        self._bar = tqdm(desc="fit", unit=" s of audio", disable=not progress)

    @property
    def seconds(self) -> float:
        """Wall-clock time of the fit, that of passes which are known already included."""
        return self._before + time.monotonic() - self._since

    def quadratics(
        self, recordings: Recordings, points: Sequence[tuple[int, Array]], coordinates: Coordinates
    ) -> list[Answer]:
        """Quadratic of every (recording, point), and the covariance of its gradient.

        Where derivatives overflow, as those of a feedback loop that swings by itself may, the value is infinite.

        Raises:
            KeyboardInterrupt: in this pass, or in one before: what comes after an interruption must not listen to more.
        """
        question = question_hash(recordings, points)
        answers = self._journal.known(question)
        if answers is not None:
            self._before, self._since = self._journal.seconds, time.monotonic()
        elif self._interrupted:
            raise KeyboardInterrupt("a pass before this one was interrupted")
        else:
            self._interrupted = True  # unless it comes through
            answers = self._ask(recordings, points, coordinates, self._error_filter, self._bar.update)
            self._interrupted = False
            self._journal.add(question, self.seconds, answers)
        self._note_best(recordings, points, coordinates, answers)
        return answers

    def _note_best(
        self,
        recordings: Recordings,
        points: Sequence[tuple[int, Array]],
        coordinates: Coordinates,
        answers: Sequence[Answer],
    ) -> None:
        best, seconds = self.best.setdefault(coordinates, {}), recordings.seconds
        settings = rows_by_setting(recordings.frame, recordings.controls)
        setting_of = {row: setting for setting, rows in settings.items() for row in rows}
        for (row, point), (quadratic, _) in zip(points, answers, strict=True):
            setting, error = setting_of[row], 2.0 * quadratic.value / seconds[row]
            if setting not in best or error < best[setting][0]:
                best[setting] = error, point

    def log(self, stage: str, error: float) -> None:
        """Note a pass and its error-to-signal ratio."""
        self.history.append({"stage": stage, "seconds": self.seconds, "error": error})
        self._bar.set_postfix_str(f"{stage}, pass {len(self.history)}: error {100 * error:.3g} %")

    def close(self, converged: bool, interrupted: bool) -> Training:
        """The history as a training run."""
        self._bar.close()
        history = pd.DataFrame(self.history)
        return Training(history, converged, interrupted, self.seconds)


def answered(
    recordings: Recordings,
    points: Sequence[tuple[int, Array]],
    coordinates: Coordinates,
    error_filter: str,
    progress: Callable[[float], object] | None = None,
) -> list[Answer]:
    """What a pass over these recordings at these points finds."""
    asked = [(row, coordinates.physical(point)) for row, point in points]
    seconds = recordings.seconds
    with closing(recordings.products(asked, error_filter, progress)) as found:
        return [
            _answer(products, point, coordinates, seconds[row])
            for (row, point), products in zip(points, found, strict=True)
        ]


def _answer(products: Array, point: Array, coordinates: Coordinates, seconds: float) -> Answer:
    rate, tangents = coordinates.sample_rate, slice(FIRST_TANGENT, None)
    power = products[:, TARGET, TARGET].sum() / (seconds * rate)
    scale = np.concatenate([np.ones(FIRST_TANGENT), coordinates.slopes(point)])
    shares = np.outer(scale, scale) / (rate * (power + _SILENCE))
    total = products.sum(axis=0) * shares
    if not np.isfinite(total).all():
        nothing = np.zeros((len(point), len(point)))
        return Answer(Quadratic(np.inf, np.zeros(len(point)), nothing), nothing)
    scores = products[:, tangents, ERROR] * shares[tangents, ERROR]
    gradient, hessian = total[tangents, ERROR].copy(), total[tangents, tangents].copy()
    scattered = score_covariance(scores, hessian, SUMS_PER_S, rate)
    return Answer(Quadratic(float(0.5 * total[ERROR, ERROR]), gradient, hessian), scattered)


def sum_of(quadratics: Sequence[Quadratic]) -> Quadratic:
    value, gradient, hessian = (np.sum(parts, axis=0) for parts in zip(*quadratics, strict=True))
    return Quadratic(float(value), gradient, hessian)
