"""Pictures of a fitted model: learned and static curves, step response, output stage, gain reduction on a recording.

Every function returns a matplotlib figure (a notebook shows it after ``%matplotlib inline``) with a title where one is
given; :func:`save` writes it with selectable text where the format has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.dsp.curve import slope_of, sloped_gain_db
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.evaluation.levels import frame_levels_db
from ddsp_la2a.evaluation.measure import static_curve
from ddsp_la2a.evaluation.style import STYLE, by_switches, column_of, in_words, new_axes
from ddsp_la2a.files import replacing
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import CARD_PARAMETERS, CELL_CARD, MAKEUP, SIDECHAIN_GAIN, Parameter
from ddsp_la2a.model.stages import Stages
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude

COLOURS = ("#222222", "#0b6e99", "#c2571a", "#5b8a3a", "#8a4f9e")
"""Of models that share a panel, the unit itself first."""

_PEAK_REDUCTIONS = (0, 20, 40, 50, 60, 70, 80, 90, 100)


def save(figure: Any, path: str | Path) -> None:
    """Write a figure whole or not at all; the ending says the format."""
    import matplotlib as mpl

    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    with mpl.rc_context(STYLE), replacing(path) as temporary:  # type: ignore[arg-type]
        figure.savefig(temporary, metadata=metadata, dpi=120)


def _sweeps(curves: pd.DataFrame, controls: Sequence[Control]) -> list[tuple[Control, pd.DataFrame]]:
    """Every knob that moves, and the curves along it."""
    columns = column_of(controls)
    knobs = [control for control in controls if control.kind == "continuous"]
    if "swept" in curves:
        return [(knob, curves[curves["swept"] == knob.name]) for knob in knobs if knob.name in set(curves["swept"])]
    moving = [knob for knob in knobs if len(set(curves[columns[knob.name]])) > 1]
    if len(moving) != 1:
        names = ", ".join(knob.name for knob in moving) or "none"
        raise ValueError(
            f"curves: expected one knob that moves, or several in turn, got {names}; hold the others still"
        )
    return [(moving[0], curves)]


def learned_curves(
    curves: pd.DataFrame,
    settings_seen: Sequence[Sequence[float]] = (),
    others: Mapping[str, pd.DataFrame] | None = None,
    title: str = "",
    controls: Sequence[Control] = LA2A_CONTROLS,
) -> Any:
    """Each parameter against the knob, a line for every switch position; several knobs have a column of panels each.

    Where the curves know how sure they are, a band shows the 95 % interval, and the line is faint where the recordings
    don't determine the parameter; bands don't widen the axes there.

    Args:
        curves: what :meth:`GreyBox.curves` gives.
        settings_seen: settings that were fitted; those that a curve runs through are marked on it.
        others: further curves by name, drawn thin, for comparison.
        title: over the picture, such as where the recordings come from.
        controls: of the unit.

    Raises:
        ValueError: several knobs move at once, or none.
    """
    sweeps = _sweeps(curves, controls)
    parameters = (*(CELL_CARD if SIDECHAIN_GAIN.name in curves else CARD_PARAMETERS), MAKEUP)
    if len(sweeps) == 1:
        rows = len(parameters) // 3
        figure, axes = new_axes(rows, 3, (10.5, 2.8 * rows), title, sharex=True)
        panels = axes.reshape(len(parameters), 1)
    else:
        size = (1.0 + 2.6 * len(sweeps), 11.0)
        figure, axes = new_axes(len(parameters), len(sweeps), size, title, sharex="col", sharey="row")
        panels = axes
    for row, parameter in zip(panels, parameters, strict=True):
        for axis, (knob, part) in zip(row, sweeps, strict=True):
            beside = {name: dict(_sweeps(other, controls))[knob] for name, other in (others or {}).items()}
            if foreign := [name for name, other in beside.items() if parameter.name not in other]:
                raise ValueError(
                    f"others: expected curves of the same family, got {', '.join(foreign)} without {parameter.name}; "
                    "measured_curves draws families side by side"
                )
            _draw(axis, part, parameter, knob, settings_seen, beside, controls)
        if parameter.scale == "log":
            row[0].set_yscale("log")
        elif np.ptp(row[0].get_ylim()) < 2e-4 * (parameter.high - parameter.low):  # of nothing no mountain is made
            middle, far = np.mean(row[0].get_ylim()), 0.01 * (parameter.high - parameter.low)
            row[0].set_ylim(middle - far, middle + far)
        if f"{parameter.name}_low" in curves:
            _bands([*row], sweeps, parameter.name, controls)
        if parameter.scale == "log":
            _label_decades(row[0])
        row[0].set_title(parameter.name, loc="left", fontweight="bold")
        row[0].set_ylabel("in dB : out dB" if parameter.name == "ratio" else parameter.meaning.rsplit(", ", 1)[-1])
    for number, axis in enumerate(axes[-1]):
        axis.set_xlabel(sweeps[min(number, len(sweeps) - 1)][0].name.replace("_", " "))
    if axes[0, 0].get_legend_handles_labels()[1]:
        axes[0, 0].legend(frameon=False)
    return figure


def _label_decades(axis: Any) -> None:
    """Plain numbers along a logarithmic axis, between the decades too."""
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    low, high = axis.get_ylim()
    labelled = "25" if high > 10.0 * low else "23456789"
    axis.yaxis.set_minor_formatter(lambda value, _, digits=labelled: _label(value, digits))
    axis.tick_params(which="minor", labelsize=7)


def _draw(
    axis: Any,
    curves: pd.DataFrame,
    parameter: Parameter,
    knob: Control,
    settings_seen: Sequence[Sequence[float]],
    others: Mapping[str, pd.DataFrame],
    controls: Sequence[Control],
) -> None:
    """One parameter along one knob."""
    columns = column_of(controls)
    at = columns[knob.name]
    for look, part in by_switches(curves, controls):
        sure = part.get(f"{parameter.name}_identifiable", pd.Series(True, index=part.index))
        faint = {"color": look.colour, "lw": 1.8, "alpha": 1.0 if sure.all() else 0.35}
        axis.plot(part[at], part[parameter.name], look.dashes, label=look.label, **faint)
        if not sure.all():
            axis.plot(part[at], part[parameter.name].where(sure), look.dashes, color=look.colour, lw=1.8)
        seen = pd.DataFrame([tuple(setting) for setting in settings_seen], columns=list(columns.values()))
        still = [name for name in columns.values() if name != at]
        along = seen[
            (seen[still] == part[still].iloc[0]).all(axis=1) & seen[at].between(part[at].min(), part[at].max())
        ]
        marked = np.sort(along[at].to_numpy(dtype=np.float64))
        axis.plot(marked, np.interp(marked, part[at], part[parameter.name]), "o", color=look.colour, ms=3.5)
    for name, other in others.items():
        for look, thin in by_switches(other, controls):
            label = ", ".join(text for text in (name, look.label) if text)
            axis.plot(thin[at], thin[parameter.name], ":", color=look.colour, lw=1.0, label=label)


def _bands(
    row: Sequence[Any], sweeps: Sequence[tuple[Control, pd.DataFrame]], name: str, controls: Sequence[Control]
) -> None:
    """Intervals of one parameter in all its panels, which share their vertical axis."""
    low, high = f"{name}_low", f"{name}_high"
    columns = column_of(controls)
    for axis, (knob, curves) in zip(row, sweeps, strict=True):
        sure = curves[curves[f"{name}_identifiable"]]
        for end in (low, high):
            axis.update_datalim([*zip(sure[columns[knob.name]], sure[end], strict=True)])
    row[0].autoscale_view()
    limits = row[0].get_ylim()
    for axis, (knob, curves) in zip(row, sweeps, strict=True):
        for look, part in by_switches(curves, controls):
            axis.fill_between(part[columns[knob.name]], part[low], part[high], color=look.colour, alpha=0.12, lw=0)
    row[0].set_ylim(limits)


def _label(value: float, digits: str) -> str:
    """A logarithmic tick's label where its first digit is one of those wanted, else nothing."""
    return f"{value:g}" if f"{value:e}"[0] in digits else ""


_MEASURED = {
    "threshold_1db_dbfs": "1 dB threshold, dBFS",
    "ratio_measured": "ratio, in dB : out dB",
    "knee_width_db": "width of the knee, dB",
    "attack_10_90_ms": "attack 10–90 %, ms",
    "release_50_short_ms": "half release after 0.05 s, ms",
    "release_50_long_ms": "half release after 5 s, ms",
    "release_90_short_ms": "90 % release after 0.05 s, ms",
    "release_90_long_ms": "90 % release after 5 s, ms",
}


def measured_curves(measured: pd.DataFrame, title: str = "", controls: Sequence[Control] = LA2A_CONTROLS) -> Any:
    """What was measured on a tone over the knob, a colour for every model: families, black boxes and units alike.

    Where there is no number there is no point.

    Args:
        measured: what :func:`~ddsp_la2a.evaluation.measure.measured_curves` gives, with one knob that moves.
        title: over the picture.
        controls: of the unit.

    Raises:
        ValueError: several knobs move, or none.
    """
    moving = [c.name for c in controls if c.kind == "continuous" and len(set(measured[c.name])) > 1]
    if len(moving) != 1:
        raise ValueError(f"measured: expected one knob that moves, got {', '.join(moving) or 'none'}")
    figure, axes = new_axes(2, 4, (13.0, 5.6), title, sharex=True)
    for number, (model, rows) in enumerate(measured.groupby("model", sort=False)):
        for look, part in by_switches(rows, controls):
            label = f"{model}, {look.label}" if look.label else str(model)
            how = {"color": COLOURS[number % len(COLOURS)], "ls": look.dashes, "marker": "o", "ms": 3.0, "label": label}
            for axis, column in zip(axes.flat, _MEASURED, strict=True):
                axis.plot(part[moving[0]], part[column].astype(float), **how)
    for axis, (column, words) in zip(axes.flat, _MEASURED.items(), strict=True):
        axis.set_title(words, loc="left", fontweight="bold")
        if column.endswith("_ms"):
            axis.set_yscale("log")
            _label_decades(axis)
    for axis in axes[-1]:
        axis.set_xlabel(moving[0].replace("_", " "))
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure


def static_curves(model: GreyBox, positions: Sequence[float] = (), title: str = "") -> Any:
    """Output over input level in dB of the steady state, one line a knob position, one panel a switch position.

    An optical cell has no curve: it is measured, see :func:`~ddsp_la2a.evaluation.measure.static_curve`, at each level
    for half a second, in which a cell with slow traps doesn't quite come to rest.

    Several knobs have a column of panels each, in which the others stand at :meth:`GreyBox.middle`.

    Args:
        model: whose curves.
        positions: of the knob that moves; a few over its range where none are given.
        title: over the picture.
    """
    import matplotlib as mpl

    knobs = [control for control in model.controls if control.kind == "continuous"]
    middle = model.middle()
    cards = []
    for knob in knobs:
        few = _PEAK_REDUCTIONS if knob in LA2A_CONTROLS else np.linspace(knob.low, knob.high, 6)
        still = {other.name: middle[other.name] for other in knobs if other != knob}
        cards.append(list(by_switches(model.curves(**{**still, knob.name: positions or few}), model.controls)))
    if not knobs:
        cards.append(list(by_switches(model.curves(), model.controls)))
    panels = len(cards[0])
    shape = (panels, len(knobs)) if len(knobs) > 1 else (1, panels)
    figure, axes = new_axes(*shape, (1.0 + 4.0 * shape[1], 0.4 + 4.0 * shape[0]), title, sharey=True)
    columns = column_of(model.controls)
    for number, lines in enumerate(cards):
        for axis, (look, card) in zip(axes[:, number] if len(knobs) > 1 else axes[0], lines, strict=True):
            shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.88, len(card)))
            labels = card[columns[knobs[number].name]] if knobs else [np.nan]
            for at, (_, row), shade in zip(labels, card.iterrows(), shades, strict=True):
                axis.plot(*_steady(model, row), color=shade, label=f"{at:g}")
            axis.plot([-60.0, 0.0], [-60.0, 0.0], color="#999999", lw=0.8, ls=":")
            axis.set_title(look.label, loc="left", fontweight="bold")
            axis.set_aspect("equal")
            axis.set_xlim(-60, 0)
            axis.set_ylim(-60, 5)
        if knobs:
            name = knobs[number].name.replace("_", " ")
            where = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(knobs) == 1 else {"loc": "upper left"}
            axis.legend(title=name, frameon=False, **where)
    for axis in axes[-1]:
        axis.set_xlabel("input, dBFS")
    for axis in axes[:, 0]:
        axis.set_ylabel("output, dBFS")
    return figure


def _steady(model: GreyBox, row: pd.Series) -> tuple[NDArray[Any], NDArray[Any]]:
    """Input and output level in dB: from the curve, or where there is none of a tone after a third of a second."""
    if not isinstance(model.stages, Stages):
        positions = {control.name: row[column_of(model.controls)[control.name]] for control in model.controls}
        measured = static_curve(model, **positions)
        return measured["input_dbfs"].to_numpy(), measured["output_dbfs"].to_numpy()
    level_db = torch.linspace(-60.0, 0.0, 241, dtype=torch.float64)
    threshold, ratio, knee = (torch.tensor(row[name]) for name in ("threshold_db", "ratio", "knee_db"))
    gain = sloped_gain_db(level_db, threshold, slope_of(ratio, model.stages.feedback), knee)
    # Fed back, the curve hears the output: each output level has the input that leads to it.
    heard, left = (level_db - gain, level_db) if model.stages.feedback else (level_db, level_db + gain)
    return heard.numpy(), left.numpy() + row["makeup_db"]


def step_response(model: GreyBox, sample_rate: float = 44100.0, title: str = "", **positions: float) -> Any:
    """Gain over time for a square wave that jumps from −40 to −10 dBFS for half a second and back.

    Args:
        model: whose gain.
        sample_rate: in Hz.
        title: over the picture.
        positions: of knobs by name; peak reduction is 65, others stand at :meth:`GreyBox.middle` unless given.
    """
    times = np.arange(round(2.0 * sample_rate)) / sample_rate
    level = np.where((times >= 0.1) & (times < 0.6), -10.0, -40.0)
    half_waves = np.arange(len(times)) // max(1, round(sample_rate / 2000.0))
    audio = torch.from_numpy(db_to_amplitude(level) * np.where(half_waves % 2, -1.0, 1.0))[None]
    figure, axes = new_axes(1, 1, (7.0, 3.2), title)
    usual = {"peak_reduction": 65.0} if model.controls == LA2A_CONTROLS else model.middle()
    knobs = {c.name: {**usual, **positions}[c.name] for c in model.controls if c.kind == "continuous"}
    for look, card in by_switches(model.curves(**knobs), model.controls):
        positions_here = [float(card[column].iloc[0]) for column in column_of(model.controls).values()]
        with torch.no_grad():
            params = replace(model.params(*positions_here), makeup_db=0.0, output_filter=None)
            gain = (model.stages.process(audio, params, sample_rate)[0] / audio)[0]
        axes[0, 0].plot(times, amplitude_to_db(gain), look.dashes, color=look.colour, label=look.label)
    axes[0, 0].axvspan(0.1, 0.6, color="#eeeeee", zorder=0)
    axes[0, 0].set_xlabel("time, s")
    axes[0, 0].set_ylabel("gain, dB")
    where = ", ".join(in_words(name, position) for name, position in knobs.items())
    axes[0, 0].set_title(f"−40 → −10 → −40 dBFS (shaded: loud), {where}", loc="left", fontweight="bold")
    if axes[0, 0].get_legend_handles_labels()[1]:
        axes[0, 0].legend(frameon=False, loc="lower right")  # "best" takes seconds to find among so many points
    return figure


def output_stage(chosen: OutputFilter, title: str = "") -> Any:
    """Magnitude and phase of an output filter over frequency, without its gain (the make-up) and its delay.

    Args:
        chosen: see :meth:`GreyBox.output_filter`.
        title: over the picture.
    """
    frequencies = np.geomspace(10.0, 0.48 * chosen.sample_rate, 400)
    colour = chosen.colour(frequencies)
    figure, axes = new_axes(1, 2, (8.5, 3.0), title)
    curves = (amplitude_to_db(np.abs(colour)), np.degrees(np.angle(colour)))
    for axis, values, unit in zip(axes[0], curves, ("magnitude, dB", "phase, degrees"), strict=True):
        axis.semilogx(frequencies, values, color="#0b6e99")
        axis.axhline(0.0, color="#999999", lw=0.8, ls=":")
        axis.set_xlabel("frequency, Hz")
        axis.set_ylabel(unit)
        axis.set_xticks([10, 100, 1000, 10000], ["10", "100", "1k", "10k"])
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, -1.0), max(high, 1.0))  # of nothing no mountain is made
    axes[0, 0].set_title(f"colour beside a delay of {chosen.delay_us:.1f} µs", loc="left", fontweight="bold")
    return figure


def gain_reduction(
    raw: NDArray[Any], tracks: Mapping[str, NDArray[Any]], sample_rate: float, title: str = "", frame_s: float = 0.02
) -> Any:
    """Level of outputs over level of the input in frames of 20 ms: what a gain-reduction meter would have shown.

    Args:
        raw: the input ``(time,)``.
        tracks: outputs by name, the target first, each ``(time,)``.
        sample_rate: in Hz.
        title: over the picture.
        frame_s: length of a frame in seconds.
    """
    size = round(frame_s * sample_rate)
    before = frame_levels_db(raw, size)
    times = (np.arange(len(before)) + 0.5) * frame_s
    audible = before > -60.0
    figure, axes = new_axes(2, 1, (9.0, 4.4), title, sharex=True, height_ratios=[1, 2])
    axes[0, 0].fill_between(times, -60.0, np.maximum(before, -60.0), color="#bbbbbb", lw=0)
    axes[0, 0].set_ylabel("input, dBFS")
    for i, (name, track) in enumerate(tracks.items()):
        gain = np.where(audible, frame_levels_db(track, size) - before, np.nan)
        axes[1, 0].plot(times, gain, color=COLOURS[i % len(COLOURS)], lw=1.6 if i == 0 else 1.0, label=name)
    axes[1, 0].set_ylabel("gain, dB")
    axes[1, 0].set_xlabel("time, s")
    axes[1, 0].legend(frameon=False, ncols=len(tracks), loc="lower right", bbox_to_anchor=(1.0, 1.0), borderpad=0.0)
    return figure
