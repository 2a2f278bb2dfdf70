"""What a report shows of a model that can be read: its curves with intervals, and how it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ddsp_la2a.evaluation import figures
from ddsp_la2a.evaluation.style import by_switches, column_of
from ddsp_la2a.evaluation.svg import inlined

_HEADINGS = {
    "threshold_db": "threshold, dBFS",
    "ratio": "ratio",
    "knee_db": "knee, dB",
    "attack_ms": "attack, ms",
    "release_ms": "release, ms",
    "sidechain_gain_db": "side-chain gain, dB",
    "input_tap": "input tap",
    "makeup_db": "make-up, dB",
}


@dataclass(frozen=True)
class GreyBoxPictures:
    """Pictures and table of one model.

    Args:
        name: of the model.
        learned, static, step, output: pictures as elements of a page; empty where there is none.
        source: words for where its recordings came from.
        header, rows: the learned curves at some knob positions; each cell the value and, below, its interval.
        has_intervals: whether it knows how sure it is.
    """

    name: str
    source: str
    learned: str
    static: str
    step: str
    output: str
    header: list[str]
    rows: list[list[tuple[str, str]]]
    has_intervals: bool


def pictures(name: str, model: Any, prefix: str, colours: dict[str, str], *, step: bool = True) -> GreyBoxPictures:
    """Draw a grey box.

    Args:
        name: of the model.
        model: a :class:`~ddsp_la2a.GreyBox`, or what has its ``curves``, ``controls``, ``stages`` and ``middle``.
        prefix: of the ids in its pictures.
        colours: see :func:`~ddsp_la2a.evaluation.svg.inlined`.
        step: draw its step response.
    """
    info = getattr(model, "info", {})
    source = info.get("source", "")
    learned = ""
    header: list[str] = []
    rows: list[list[tuple[str, str]]] = []
    curves = model.curves()
    if any(control.kind == "continuous" for control in model.controls):
        drawn = figures.learned_curves(curves, info.get("settings_seen", ()), controls=model.controls)
        learned = inlined(drawn, f"{prefix}-learned", "Each learned parameter over the knob.", colours)
        header, rows = _card(curves, model.controls)
    static = inlined(figures.static_curves(model), f"{prefix}-static", "Output level over input level.", colours)
    stepped = output = ""
    if step:
        stepped = inlined(
            figures.step_response(model), f"{prefix}-step", "Gain over time for a step of level.", colours
        )
    if model.has_one_output_filter:
        about = "Magnitude and phase of the output filter."
        output = inlined(figures.output_stage(model.output_filter()), f"{prefix}-output", about, colours)
    return GreyBoxPictures(
        name=name,
        source=source if isinstance(source, str) else ", ".join(map(str, source)),
        learned=learned,
        static=static,
        step=stepped,
        output=output,
        header=header,
        rows=rows,
        has_intervals="makeup_db_low" in curves,
    )


def _card(curves: pd.DataFrame, controls: Sequence[Any]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Some rows of the curves, numbers with intervals; “not identifiable” where the recordings don't tell."""
    knobs = [control for control in controls if control.kind == "continuous"]
    columns = column_of(controls)
    if "swept" in curves:
        return [], []
    at = columns[knobs[0].name]
    shown = [name for name in _HEADINGS if name in curves]
    header = ["switch", *(columns[knob.name].replace("_", " ") for knob in knobs), *(_HEADINGS[n] for n in shown)]
    rows = []
    for look, part in by_switches(curves, controls):
        several = np.unique(np.linspace(0, len(part) - 1, 11).round().astype(int))
        for _, row in part.sort_values(at).iloc[several].iterrows():
            positions = [(f"{row[columns[knob.name]]:g}", "") for knob in knobs]
            rows.append([(look.label or "–", ""), *positions, *(_cell(row, name) for name in shown)])
    return header, rows


def _cell(row: pd.Series, name: str) -> tuple[str, str]:
    if f"{name}_low" not in row:
        return _number(row[name]), ""
    if not row[f"{name}_identifiable"]:
        return "not identifiable", ""
    return _number(row[name]), f"{_number(row[f'{name}_low'])} to {_number(row[f'{name}_high'])}"


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100.0 else 1 if abs(value) >= 10.0 else 2
    return f"{value:.{digits}f}".replace("-", "−")
