"""Passes over recordings: quadratics of what is minimised, at points of every recording.

A recording counts by its own energy and its length: what is summed is ½ seconds · (error energy / target energy).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from ddsp_la2a.dsp.normal_equations import ERROR, FIRST_TANGENT, TARGET
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.gradient import Training
from ddsp_la2a.fitting.least_squares import Quadratic
from ddsp_la2a.fitting.recordings import SUMS_PER_S, Recordings
from ddsp_la2a.fitting.uncertainty import score_covariance

Array = NDArray[np.float64]

_SILENCE = 1e-9
"""Power (−90 dBFS) that is added to a target's: a recording of silence must not weigh more than one of music."""


class Passes:
    """Evaluates points of recordings, and keeps the history.

    Args:
        error_filter: see :class:`~ddsp_la2a.fitting.gauss_newton.GaussNewtonSettings`.
        progress: show a bar of the audio gone through.
    """

    def __init__(self, error_filter: str, progress: bool) -> None:
        self.history: list[dict[str, Any]] = []
        self._error_filter = error_filter
        self._started = time.monotonic()
        self._bar = tqdm(desc="fit", unit=" s of audio", disable=not progress)

    def quadratics(
        self, recordings: Recordings, points: Sequence[tuple[int, Array]], coordinates: Coordinates
    ) -> list[tuple[Quadratic, Array]]:
        """Quadratic of every (recording, point), and the covariance of its gradient.

        Where derivatives overflow, as those of a feedback loop that swings by itself may, the value is infinite.
        """
        asked = [(row, coordinates.physical(point)) for row, point in points]
        seconds = recordings.seconds
        with closing(recordings.products(asked, self._error_filter, self._bar.update)) as found:
            return [
                _answer(products, point, coordinates, seconds[row])
                for (row, point), products in zip(points, found, strict=True)
            ]

    def log(self, stage: str, error: float) -> None:
        """Note a pass and its error-to-signal ratio."""
        self.history.append({"stage": stage, "seconds": time.monotonic() - self._started, "error": error})
        self._bar.set_postfix_str(f"{stage}, pass {len(self.history)}: error {100 * error:.3g} %")

    def close(self, converged: bool, interrupted: bool) -> Training:
        """The history as a training run."""
        self._bar.close()
        history = pd.DataFrame(self.history)
        return Training(history, converged, interrupted, time.monotonic() - self._started)


def _answer(products: Array, point: Array, coordinates: Coordinates, seconds: float) -> tuple[Quadratic, Array]:
    rate = coordinates.sample_rate
    power = products[:, TARGET, TARGET].sum() / (seconds * rate)
    scale = np.concatenate([np.ones(FIRST_TANGENT), coordinates.slopes(point)])
    shares = products * scale[:, None] * scale / (rate * (power + _SILENCE))
    total, tangents = shares.sum(axis=0), slice(FIRST_TANGENT, None)
    if not np.isfinite(total).all():
        nothing = np.zeros((len(point), len(point)))
        return Quadratic(np.inf, np.zeros(len(point)), nothing), nothing
    hessian = total[tangents, tangents]
    scattered = score_covariance(shares[:, tangents, ERROR], hessian, SUMS_PER_S, rate)
    return Quadratic(0.5 * total[ERROR, ERROR], total[tangents, ERROR], hessian), scattered


def sum_of(quadratics: Sequence[Quadratic]) -> Quadratic:
    value, gradient, hessian = (np.sum(parts, axis=0) for parts in zip(*quadratics, strict=True))
    return Quadratic(float(value), gradient, hessian)
