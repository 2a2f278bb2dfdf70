"""How pictures look: one style, and one colour for every combination of switch positions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
from numpy.typing import NDArray

from ddsp_la2a.controls import Control
from ddsp_la2a.model.parameters import control_columns

_SWITCH = ("compress", "limit")
_LINES = (
    ("#0b6e99", "-"),
    ("#c2571a", "--"),
    ("#5b8a3a", "-."),
    ("#8a4f9e", "-"),
    ("#222222", "--"),
    ("#b8860b", "-."),
)
"""Colour and dashes of each combination of switch positions."""

STYLE = {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ddsp_la2a",  # the same figure gives the same bytes
}


class Look(NamedTuple):
    """How one combination of switch positions is drawn."""

    label: str
    colour: str
    dashes: str


def new_axes(rows: int, columns: int, size: tuple[float, float], title: str, **more: Any) -> tuple[Any, NDArray[Any]]:
    """A figure of this size in inches and its axes ``(rows, columns)``, without matplotlib's state machine."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, **more)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=9, color="#555555")
    return figure, axes


def in_words(control: str, position: float) -> str:
    """A position as a legend or a title says it."""
    if control == "compress_or_limit":
        return _SWITCH[int(position)]
    return f"{control.replace('_', ' ')} {position:g}"


def by_switches(card: pd.DataFrame, controls: Sequence[Control]) -> Iterator[tuple[Look, pd.DataFrame]]:
    """How to draw each combination of switch positions, and its rows of a card.

    Of more than can be told apart those come first that were fitted, and the rest is left out.
    """
    switches = [control for control in controls if control.kind == "switch"]
    if not switches:
        yield Look("", *_LINES[0]), card
        return
    names = [column_of(controls)[switch.name] for switch in switches]
    places = [range(round(switch.low), round(switch.high) + 1) for switch in switches]
    found = [(place, card[(card[names] == list(place)).all(axis=1)]) for place in itertools.product(*places)]
    if len(found) > len(_LINES):
        found = [(place, rows) for place, rows in found if len(rows)]
        found.sort(key=lambda each: bool(each[1].get("extrapolated", pd.Series([False])).all()))
    for (place, rows), line in zip(found, _LINES, strict=False):
        label = ", ".join(in_words(switch.name, at) for switch, at in zip(switches, place, strict=True))
        if len(rows):
            yield Look(label, *line), rows


def column_of(controls: Sequence[Control]) -> dict[str, str]:
    """Column of every control in a table of curves."""
    return dict(zip((control.name for control in controls), control_columns(controls), strict=True))
