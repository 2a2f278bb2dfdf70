"""The charts of a report that compare models: error over a knob, accuracy against cost, learning, gain reduction."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ddsp_la2a.controls import Control
from ddsp_la2a.evaluation.levels import frame_levels_db
from ddsp_la2a.evaluation.report_tables import Group, Summary
from ddsp_la2a.evaluation.style import in_words
from ddsp_la2a.evaluation.svg import Axis, Mark, Panel, log_axis

_SHAPES = ("circle", "square", "triangle", "diamond", "down", "star")
_DASHES = ("", "5 3", "2 2", "8 3 2 3")
_COLOURS = 8
_MUTED = {"identity": Mark("muted", "down", "2 2"), "identity-filter": Mark("muted", "square", "5 3")}
"""What does nothing to the dynamics stays in the background."""

TARGET = Mark("ink", "circle", "")
"""The unit itself, a broad line behind its models."""

_GR_FRAME_S = 0.02
_AUDIBLE_DB = -60.0
_LETTER = 6.6
"""Width of a letter of a label in the units of a picture, on average."""


def marks(names: Sequence[str]) -> dict[str, Mark]:
    """How every model looks in all charts of a page, in the order of the names."""
    found: dict[str, Mark] = {}
    number = 0
    for name in names:
        if name in _MUTED:
            found[name] = _MUTED[name]
            continue
        # The first colour is the reference's alone.
        colour = 0 if number == 0 else 1 + (number - 1) % (_COLOURS - 1)
        again = number // _COLOURS
        found[name] = Mark(f"c{colour}", _SHAPES[number % len(_SHAPES)], _DASHES[(number + again) % len(_DASHES)])
        number += 1
    return found


@dataclass(frozen=True)
class KnobErrors:
    """Error over one knob for every position of the switches.

    Args:
        knob: in words.
        panels: a picture for every combination of switch positions.
        header: models of the table's columns.
        rows: switches in words, position of the knob, and the mean error of each model.
    """

    knob: str
    panels: list[str]
    header: list[str]
    rows: list[tuple[str, float, list[float]]]


def knob_errors(group: Group, controls: Sequence[Control], looks: Mapping[str, Mark]) -> list[KnobErrors]:
    """Error of every model over each knob of a unit; means run over recordings and seeds at a position."""
    switches = [control for control in controls if control.kind == "switch"]
    knobs = [control for control in controls if control.kind == "continuous"]
    models = [row.model for row in group.rows if not math.isnan(row.mean)]
    found = []
    for knob in knobs:
        means = group.scores.groupby([*(switch.name for switch in switches), knob.name, "model"])["esr_dc_filtered"]
        table = (100.0 * means.mean()).unstack("model").reindex(columns=models)  # noqa: PD010 - labels stay as they are
        y = log_axis([float(value) for value in table.to_numpy().ravel() if value > 0.0], "error, %")
        positions = [float(place[-1] if isinstance(place, tuple) else place) for place in table.index]
        room = 0.04 * (knob.high - knob.low)
        low, high = min(positions), max(positions)
        # Positions close together would sit in a corner of the whole range.
        narrow = high - low < 0.5 * (knob.high - knob.low)
        ends = (low - room, high + room) if narrow else (knob.low - room, knob.high + room)
        x = Axis(*ends, knob.name.replace("_", " "))
        combinations = sorted({_place(place)[:-1] for place in table.index})
        panels, rows = [], []
        for combination in combinations:
            words = ", ".join(in_words(s.name, at) for s, at in zip(switches, combination, strict=True))
            part = table[[_place(place)[:-1] == combination for place in table.index]]
            at = [_place(place)[-1] for place in part.index]
            panel = Panel(x, y, f"Error over {knob.name} {words}; the numbers are in the table.", words)
            for model in reversed(models):
                values = [float(value) if value > 0.0 else math.nan for value in part[model]]
                if len(knobs) == 1:
                    panel.line(at, values, looks[model])
                for position, value in zip(at, values, strict=True):
                    if math.isfinite(value):
                        panel.point(position, value, looks[model], f"{model}: {value:.3g} % at {position:g}")
            panels.append(panel.svg())
            rows += [(words, place, list(map(float, part.loc[key]))) for key, place in zip(part.index, at, strict=True)]
        found.append(KnobErrors(knob.name.replace("_", " "), panels, models, rows))
    return found


def _place(index: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in index) if isinstance(index, tuple) else (float(index),)


_COSTS = {
    "parameters": "numbers fitted",
    "real_time_factor": "real-time factor",
    "train_seconds": "training time, s",
}


def costs(group: Group, looks: Mapping[str, Mark]) -> list[tuple[str, list[str]]]:
    """Mean error against each cost: the picture, and the models it can't show.

    What was cut short by a budget is hollow. A cost that fewer than two models state has no picture.
    """
    found = []
    for column, label in _COSTS.items():
        rows = [row for row in group.rows if math.isfinite(getattr(row, column)) and row.mean > 0.0]
        if len(rows) < 2:
            continue
        values = [getattr(row, column) for row in rows]
        y = log_axis([100.0 * row.mean for row in rows], "mean error, %")
        about = f"Mean error against {label}; the numbers are in the table."
        panel = Panel(log_axis(values, label, zero=True), y, about, width=340.0, height=300.0)
        for row, value in zip(rows, values, strict=True):
            about = f"{row.model}: {100.0 * row.mean:.3g} %, {label} {value:.4g}"
            panel.point(value, 100.0 * row.mean, looks[row.model], about, hollow=row.converged is False)
        _labelled(panel, [(value, row) for value, row in zip(values, rows, strict=True)])
        found.append((panel.svg(), [row.model for row in group.rows if row not in rows]))
    return found


def _labelled(panel: Panel, points: Sequence[tuple[float, Summary]]) -> None:
    """A name beside each point, where it covers neither a point nor another name; else farther off, with a line."""
    places = [panel.at(value, 100.0 * row.mean) for value, row in points]
    taken = [(x - 8.0, y - 6.0, x + 8.0, y + 6.0) for x, y in places]
    left, top, _, bottom = panel.box
    for (x, y), (_, row) in zip(places, points, strict=True):
        name = row.model if len(row.model) <= 24 else row.model[:23] + "…"
        width = _LETTER * len(name)
        tries = [(9.0, 4.0, "start"), (-9.0, 4.0, "end"), (0.0, -10.0, "middle"), (0.0, 18.0, "middle")]
        far = [(side * (12.0 + 6.0 * n), (-1) ** n * 13.0 * (n // 2 + 1)) for n in range(16) for side in (1, -1)]
        tries += [(dx, 4.0 + dy, "start" if dx > 0 else "end") for dx, dy in far]
        for dx, dy, anchor in tries:
            start = x + dx - {"start": 0.0, "middle": width / 2.0, "end": width}[anchor]
            box = (start, y + dy - 10.0, start + width, y + dy + 3.0)
            inside = box[0] > left and box[2] <= panel.width and box[1] >= top - 8.0 and box[3] <= bottom
            free = not any(b[0] < box[2] and box[0] < b[2] and b[1] < box[3] and box[1] < b[3] for b in taken)
            if inside and free:
                if abs(dx) > 9.0:
                    panel.parts.append(f'<path class="leader" d="M{x:.1f} {y:.1f}L{x + dx:.1f} {y + dy - 4.0:.1f}"/>')
                panel.text(x + dx, y + dy, name, "name", anchor)
                taken.append(box)
                break
        else:  # a cloud of models: the pointer and the table still tell
            continue


def learning(
    histories: Mapping[str, pd.DataFrame], looks: Mapping[str, Mark], cut_short: Sequence[str]
) -> tuple[str, list[str]]:
    """Error over training time, one line a model and seed: the picture and the models in it.

    Args:
        histories: model → table with ``seconds`` or ``step``, and ``validation_esr`` or ``error``; a column ``seed``
            makes several lines.
        looks: of every model.
        cut_short: models that a budget ended.

    Raises:
        ValueError: a table without such columns; names it.
    """
    lines = []
    for name in (name for name in looks if name in histories):
        table = histories[name]
        for words in (("seconds", "step"), ("validation_esr", "error", "loss")):
            if not set(words) & set(table.columns):
                got = ", ".join(map(str, table.columns)) or "none"
                raise ValueError(f"histories, {name}: expected a column {' or '.join(words)}, got {got}")
        across = "seconds" if all("seconds" in table for table in histories.values()) else "step"
        down = next(column for column in ("validation_esr", "error", "loss") if column in table)
        if across not in table:
            raise ValueError(f"histories, {name}: expected a column {across} as the others have")
        runs = [part for _, part in table.groupby("seed")] if "seed" in table else [table]
        for run in runs:
            kept = run[np.isfinite(run[down].astype(float)) & (run[down].astype(float) > 0.0)]
            if len(kept):
                lines.append((name, across, down, kept))
    if not lines:
        return "", []
    times = [float(value) for _, across, _, run in lines for value in run[across]]
    errors = [100.0 * float(value) for _, _, down, run in lines for value in run[down]]
    spread = max(times) > 100.0 * min((time for time in times if time > 0.0), default=1.0)
    label = "training time, s" if lines[0][1] == "seconds" else "step"
    x = log_axis(times, label) if spread else Axis(0.0, 1.02 * max(max(times), 1e-9), label)
    panel = Panel(x, log_axis(errors, "error, %"), "Error over training time.", width=640.0, height=300.0)
    ends = []
    for name, across, down, run in lines:
        if spread:
            run = run[run[across] > 0.0]
        at, values = [float(v) for v in run[across]], [100.0 * float(v) for v in run[down]]
        stages = [str(stage) for stage in run["stage"]] if "stage" in run else [""] * len(at)
        for _, part in itertools.groupby(zip(stages, at, values, strict=True), key=operator.itemgetter(0)):
            _, xs, ys = zip(*part, strict=True)
            panel.line(xs, ys, looks[name])
        ends += [(name, at[-1], values[-1])] if at else []
    for name, time, value in ends:
        panel.point(time, value, looks[name], name, hollow=name in cut_short)
    return panel.svg(), list(dict.fromkeys(name for name, *_ in lines))


def gain_track(raw: NDArray[Any], tracks: Sequence[tuple[str, NDArray[Any], Mark]], rate: float) -> str:
    """Level of outputs over level of the input in frames of 20 ms, below it the input's level.

    Frames in which the input lies below −60 dBFS are left out.

    Args:
        raw: the input ``(time,)``.
        tracks: name, output ``(time,)`` and look of each, the target first.
        rate: sample rate in Hz.
    """
    size = round(_GR_FRAME_S * rate)
    before = frame_levels_db(raw, size)
    audible = before > _AUDIBLE_DB
    times = ((np.arange(len(before)) + 0.5) * _GR_FRAME_S).tolist()
    gains = [np.where(audible, frame_levels_db(track, size) - before, np.nan) for _, track, _ in tracks]
    seen = np.concatenate([gain[np.isfinite(gain)] for gain in gains])
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (-1.0, 1.0)
    room = max(0.06 * (high - low), 0.5)
    end = max(len(before), 1) * _GR_FRAME_S
    about = "Gain over time of " + ", ".join(name for name, *_ in tracks)
    gains_axis = Axis(low - room, high + room, "gain, dB")
    panel = Panel(Axis(0.0, end, ""), gains_axis, about, width=760.0, height=290.0)
    for number, (gain, (_, _, look)) in enumerate(zip(gains, tracks, strict=True)):
        panel.line(times, gain.tolist(), Mark(look.colour, look.shape, ""), "track" if number else "track target")
    level_axis = Axis(_AUDIBLE_DB, 0.0, "input, dBFS")
    below = Panel(Axis(0.0, end, "time, s"), level_axis, "Level of the input", width=760.0, height=140.0)
    levels = np.clip(before, _AUDIBLE_DB, 0.0)
    floor = [below.at(time, _AUDIBLE_DB) for time in times[:1] + times[-1:]]
    points = [below.at(time, float(level)) for time, level in zip(times, levels, strict=True)]
    outline = "L".join(f"{a:.1f} {b:.1f}" for a, b in itertools.chain(floor[:1], points, floor[1:]))
    below.parts.append(f'<path class="area" d="M{outline}z"/>')
    return panel.svg() + below.svg()
