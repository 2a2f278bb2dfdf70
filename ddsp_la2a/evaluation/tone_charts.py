"""The charts of a report that show every model on a tone: static curves, and gain after a step of the level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ddsp_la2a.controls import Control
from ddsp_la2a.evaluation.charts import TARGET
from ddsp_la2a.evaluation.style import in_words
from ddsp_la2a.evaluation.svg import Axis, Mark, Panel, log_axis

_STEPS = {
    "up": "up to −6 dBFS",
    "back after short": "back after 0.05 s",
    "back after long": "back after 5 s",
}
"""Headings of a setting's panels; the quiet level is −40 dBFS."""

_LOWEST_DB, _HIGHEST_DB = -80.0, 30.0
"""Levels and gains beyond are those of an output that is as good as none, or runs away; they aren't drawn."""

_UNCHANGED = Mark("muted", "circle", "")

_MARKS = 3
"""Of a line, so that it is known without its colour."""


def static_curves(
    curves: pd.DataFrame, looks: Mapping[str, Mark], controls: Sequence[Control]
) -> list[tuple[str, str]]:
    """Output level over input level of all models: every setting in words with its picture.

    Args:
        curves: checked.
        looks: of the models, in the order of the report; what isn't among them, such as the unit itself, is drawn as
            the target.
        controls: of the unit.
    """
    curves = _drawable(curves, "input_dbfs", "output_dbfs")
    x, y = _axis(curves["input_dbfs"], "input, dBFS"), _axis(curves["output_dbfs"], "output, dBFS")
    found = []
    for words, part in _settings(curves, controls):
        panel = Panel(x, y, _about("Output level over input level", words, part, looks), height=322.0)
        low, high = max(x.low, y.low), min(x.high, y.high)
        if low < high:
            panel.line([low, high], [low, high], _UNCHANGED, "leader")
        _draw(panel, part, "input_dbfs", "output_dbfs", looks)
        found.append((words, panel.svg()))
    return found


def steps(rows: pd.DataFrame, looks: Mapping[str, Mark], controls: Sequence[Control]) -> list[tuple[str, list[str]]]:
    """Gain over time after each step of the level, of all models: every setting in words with its pictures.

    Args:
        rows: checked.
        looks, controls: as in :func:`static_curves`.
    """
    rows = _drawable(rows[rows["time_s"] > 0.0], "time_s", "tone_gain_db")
    found = []
    for words, part in _settings(rows, controls):
        y = _axis(part["tone_gain_db"], "gain, dB")
        panels = []
        for step, title in _STEPS.items():
            now = part[part["level_step"] == step]
            if now.empty:
                continue
            about = _about(f"Gain over time, {title}", words, now, looks)
            x = log_axis([1000.0 * float(time) for time in now["time_s"]], "ms after the step")
            panel = Panel(x, y, about, title, width=340.0, height=260.0)
            _draw(panel, now.assign(ms=1000.0 * now["time_s"]), "ms", "tone_gain_db", looks)
            panels.append(panel.svg())
        found.append((words, panels))
    return found


def drawn(tables: Sequence[pd.DataFrame | None], looks: Mapping[str, Mark]) -> list[str]:
    """Names in the charts of these tables, for a legend: first what isn't a model of the report."""
    names = {name: None for table in tables if table is not None for name in table["model"]}
    return [*(name for name in names if name not in looks), *(name for name in looks if name in names)]


def _settings(rows: pd.DataFrame, controls: Sequence[Control]) -> Iterator[tuple[str, pd.DataFrame]]:
    positions = [control.name for control in controls]
    for _, part in rows.groupby(positions):
        yield ", ".join(in_words(name, part[name].iloc[0]) for name in positions), part


def _drawable(rows: pd.DataFrame, across: str, down: str) -> pd.DataFrame:
    """With gaps where there is nothing to see."""
    rows = rows[np.isfinite(rows[across])]
    return rows.assign(**{down: rows[down].where(rows[down].between(_LOWEST_DB, _HIGHEST_DB))})


def _axis(values: pd.Series, label: str) -> Axis:
    """An axis with a little room around the values."""
    low, high = (float(values.min()), float(values.max())) if values.notna().any() else (-1.0, 1.0)
    room = max(0.04 * (high - low), 0.5)
    return Axis(low - room, high + room, label)


def _about(what: str, words: str, part: pd.DataFrame, looks: Mapping[str, Mark]) -> str:
    return f"{what}, {words}, of {', '.join(drawn([part], looks))}"


def _draw(panel: Panel, part: pd.DataFrame, across: str, down: str, looks: Mapping[str, Mark]) -> None:
    """A line for every model, the first of the report in front; marks are at places of each line's own."""
    names = drawn([part], looks)
    strangers = [name for name in names if name not in looks]
    for name in [*strangers, *(name for name in reversed(names) if name in looks)]:
        rows = part[part["model"] == name].sort_values(across)
        xs, ys = (rows[column].astype(float).tolist() for column in (across, down))
        look = looks.get(name, TARGET)
        panel.line(xs, ys, look, "line" if name in looks else "unit")
        seen = [number for number, y in enumerate(ys) if np.isfinite(y)]
        if name not in looks or not seen:
            continue
        shares = np.array([panel.x.share(xs[number]) for number in seen])
        own = (names.index(name) + 0.5) / len(names)
        at = {seen[int(np.abs(shares - (number + own) / _MARKS).argmin())] for number in range(_MARKS)}
        for number in sorted(at):
            panel.point(xs[number], ys[number], look, f"{name}: {ys[number]:.1f} dB at {xs[number]:.3g}")
