"""What a report says of threshold, ratio, knee, attack and release, measured on a tone, and of the curves behind."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ddsp_la2a.controls import Control
from ddsp_la2a.evaluation.readings import reasons_by_name
from ddsp_la2a.evaluation.report_tables import checked_name, numbers_in, refuse_missing
from ddsp_la2a.evaluation.style import in_words
from ddsp_la2a.evaluation.traces import STEPS

SHOWN = {
    "threshold_1db_dbfs": -math.inf,
    "ratio_measured": -math.inf,
    "knee_width_db": 1.0,
    "attack_10_90_ms": 0.25,
    "release_50_short_ms": 4.0,
    "release_90_short_ms": 4.0,
    "release_50_long_ms": 4.0,
    "release_90_long_ms": 4.0,
}
"""Columns of the table, and what the measurement tells from nothing; see :func:`~ddsp_la2a.evaluation.measure.measure`.
"""


@dataclass(frozen=True)
class Cell:
    """A number in words, or a dash and the number of its reason (0: none is known)."""

    text: str
    reason: int = 0


@dataclass(frozen=True)
class Measured:
    """The table of a report.

    Args:
        settings: in words, each with its models and their cells in the order of :data:`SHOWN`.
        reasons: why some numbers are missing; cells count them from 1.
    """

    settings: list[tuple[str, list[tuple[str, list[Cell]]]]]
    reasons: list[str]


def checked_measured(measured: Any, controls: Sequence[Control]) -> pd.DataFrame:
    """The measurements, once all that a report reads is known to be there.

    Raises:
        ValueError: missing columns or names, positions that the unit hasn't, or something else than numbers.
    """
    return _checked("measured", measured, controls, tuple(SHOWN), ("not_measured",), "use what measured_curves() gives")


def checked_static_curves(curves: Any, controls: Sequence[Control]) -> pd.DataFrame:
    """The static curves, as :func:`checked_measured` checks the measurements.

    Raises:
        ValueError: as there.
    """
    numbers = ("input_dbfs", "output_dbfs")
    return _checked("static_curves", curves, controls, numbers, (), "use what measure_traced() gives")


def checked_steps(steps: Any, controls: Sequence[Control]) -> pd.DataFrame:
    """The step responses, as :func:`checked_measured` checks the measurements.

    Raises:
        ValueError: as there, or a step that isn't one of :data:`~ddsp_la2a.evaluation.traces.STEPS`.
    """
    numbers = ("time_s", "tone_gain_db")
    rows = _checked("steps", steps, controls, numbers, ("level_step",), "use what measure_traced() gives")
    unknown = sorted({str(step) for step in rows["level_step"]} - set(STEPS))
    if unknown:
        raise ValueError(f"steps, column level_step: expected {', '.join(STEPS)}, got {', '.join(unknown)}")
    return rows


def _checked(
    name: str, table: Any, controls: Sequence[Control], numbers: Sequence[str], more: Sequence[str], advice: str
) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"{name}: expected a DataFrame, got {type(table).__name__}")
    positions = [control.name for control in controls]
    refuse_missing(name, table, ("model", *positions, *numbers, *more), advice)
    rows = table.reset_index(drop=True)
    names = [checked_name(name, value, "names in the column model") for value in rows["model"]]
    rows["model"] = pd.Series(names, dtype=object)
    for column in (*positions, *numbers):
        rows[column] = numbers_in(name, rows[column])
    for control in controls:
        for position in rows[control.name].unique():
            if not control.holds(position):
                raise ValueError(f"{name}, column {control.name}: expected {control.positions}, got {position:g}")
    return rows


def table_of(measured: pd.DataFrame, names: Sequence[str], controls: Sequence[Control]) -> Measured:
    """The table: settings in their order; in each first what isn't a model of the report, such as the unit itself.

    Args:
        measured: checked.
        names: of the models in the order of the report.
        controls: of the unit.
    """
    order = {name: number for number, name in enumerate(names)}
    reasons: dict[str, int] = {}
    settings = []
    positions = [control.name for control in controls]
    for _, part in measured.groupby(positions):
        rows = sorted(part.to_dict("records"), key=lambda row: order.get(row["model"], -1))
        words = ", ".join(in_words(name, rows[0][name]) for name in positions)
        settings.append((words, [(row["model"], _cells(row, reasons)) for row in rows]))
    return Measured(settings, [re.sub(r"-(?=\d)", "−", reason) for reason in reasons])


def _cells(row: dict[Any, Any], reasons: dict[str, int]) -> list[Cell]:
    text = row["not_measured"]
    why = reasons_by_name(text) if isinstance(text, str) else {}  # an empty text comes back from a file as NaN
    cells = []
    for name, least in SHOWN.items():
        value = float(row[name])
        if math.isfinite(value):
            cells.append(Cell(_number(value, least)))
        elif name == "ratio_measured" and value > 0.0:
            cells.append(Cell("∞"))
        else:
            reason = why.get(name, "")
            cells.append(Cell("–", reasons.setdefault(reason, len(reasons) + 1) if reason else 0))
    return cells


def _number(value: float, least: float) -> str:
    if value < least:
        return f"< {least:g}"
    return (f"{value:.1f}" if abs(value) < 100.0 else f"{value:,.0f}").replace("-", "−")
