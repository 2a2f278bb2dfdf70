"""Levels of an input and its target over time, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddsp_la2a.data.alignment import expansion

_SILENT_DB, _SOUNDING_DB, _PAUSE_DB = -90.0, -40.0, -80.0


@dataclass(frozen=True)
class Levels:
    """What the levels of a pair have shown.

    Args:
        raw_gaps: levels at which the input is silent while the target sounds.
        processed_gaps: levels at which the target is silent while the input sounds.
        paused: share of levels at which both pause, 0 to 1.
        expansion: score of :func:`~ddsp_la2a.data.alignment.expansion`; None where too little sounds.
        spread_db: standard deviation of the gain; None with the score.
    """

    raw_gaps: int
    processed_gaps: int
    paused: float
    expansion: float | None
    spread_db: float | None


def compared(raw_db: np.ndarray, processed_db: np.ndarray, late: int) -> Levels:
    """Compare levels.

    Args:
        raw_db: of the input.
        processed_db: of the target.
        late: by how many levels the target is late.

    Shape:
        ``(levels,)`` both.
    """
    x, y = raw_db[max(-late, 0) :], processed_db[max(late, 0) :]
    length = min(len(x), len(y))
    x, y = x[:length], y[:length]
    with np.errstate(invalid="ignore"):  # of samples so large that their levels are infinite
        gain = expansion(x, y)
    return Levels(
        raw_gaps=int(((x < _SILENT_DB) & (y > _SOUNDING_DB)).sum()),
        processed_gaps=int(((y < _SILENT_DB) & (x > _SOUNDING_DB)).sum()),
        paused=float(np.mean((x < _PAUSE_DB) & (y < _PAUSE_DB))) if length else 0.0,
        expansion=None if gain is None else gain[0],
        spread_db=None if gain is None else gain[1],
    )
