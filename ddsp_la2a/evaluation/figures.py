"""Pictures of a fitted model: learned curves, static curves, step response, gain reduction on a recording.

Every function returns a matplotlib figure (a notebook shows it after ``%matplotlib inline``) with a title where one is
given; :func:`save` writes it with selectable text where the format has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ddsp_la2a.dsp.compressor import compressor
from ddsp_la2a.dsp.curve import static_gain_db
from ddsp_la2a.files import replacing
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude

_SWITCH = {0: ("compress", "#0b6e99", "-"), 1: ("limit", "#c2571a", "--")}
_STYLE = {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ddsp_la2a",  # the same figure gives the same bytes
}


def _axes(rows: int, columns: int, size: tuple[float, float], title: str, **more: Any) -> tuple[Any, NDArray[Any]]:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, **more)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=9, color="#555555")
    return figure, axes


def save(figure: Any, path: str | Path) -> None:
    """Write a figure whole or not at all; the ending says the format."""
    import matplotlib as mpl

    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    with mpl.rc_context(_STYLE), replacing(path) as temporary:  # type: ignore[arg-type]
        figure.savefig(temporary, metadata=metadata, dpi=120)


def learned_curves(
    curves: pd.DataFrame,
    settings_seen: Sequence[Sequence[int]] = (),
    others: Mapping[str, pd.DataFrame] | None = None,
    title: str = "",
) -> Any:
    """Each parameter against peak reduction, both switch positions.

    Where the curves know how sure they are, a band shows the 95 % interval, and the line is faint where the recordings
    don't determine the parameter; bands don't widen the axes there.

    Args:
        curves: what :meth:`GreyBox.curves` gives.
        settings_seen: pairs of switch and knob that were fitted, marked on the curves.
        others: further curves by name, drawn thin, for comparison.
        title: over the picture, such as where the recordings come from.
    """
    figure, axes = _axes(2, 3, (10.5, 5.6), title, sharex=True)
    for axis, parameter in zip(axes.flat, (*CARD_PARAMETERS, MAKEUP), strict=True):
        for switch, part in curves.groupby("compress_or_limit"):
            label, colour, dashes = _SWITCH[int(str(switch))]
            sure = part.get(f"{parameter.name}_identifiable", pd.Series(True, index=part.index))
            faint = {"color": colour, "lw": 1.8, "alpha": 1.0 if sure.all() else 0.35}
            axis.plot(part["peak_reduction"], part[parameter.name], dashes, label=label, **faint)
            if not sure.all():
                axis.plot(part["peak_reduction"], part[parameter.name].where(sure), dashes, color=colour, lw=1.8)
            seen = [knob for position, knob in settings_seen if position == switch]
            marked = part[part["peak_reduction"].isin(seen)]
            axis.plot(marked["peak_reduction"], marked[parameter.name], "o", color=colour, ms=3.5)
            for name, other in (others or {}).items():
                thin = other[other["compress_or_limit"] == switch]
                axis.plot(
                    thin["peak_reduction"], thin[parameter.name], ":", color=colour, lw=1.0, label=f"{name}, {label}"
                )
        if parameter.scale == "log":
            axis.set_yscale("log")
        if f"{parameter.name}_low" in curves:
            _bands(axis, curves, parameter.name)
        if parameter.scale == "log":
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            low, high = axis.get_ylim()
            labelled = "25" if high > 10.0 * low else "23456789"
            axis.yaxis.set_minor_formatter(lambda value, _, digits=labelled: _label(value, digits))
            axis.tick_params(which="minor", labelsize=7)
        axis.set_title(parameter.name, loc="left", fontweight="bold")
        axis.set_ylabel(parameter.meaning.rsplit(", ", 1)[-1] if ", " in parameter.meaning else "in dB : out dB")
    for axis in axes[-1]:
        axis.set_xlabel("peak reduction")
    axes[0, 0].legend(frameon=False)
    return figure


def _bands(axis: Any, curves: pd.DataFrame, name: str) -> None:
    low, high = f"{name}_low", f"{name}_high"
    sure = curves[curves[f"{name}_identifiable"]]
    axis.update_datalim([*zip(sure["peak_reduction"], sure[low], strict=True)])
    axis.update_datalim([*zip(sure["peak_reduction"], sure[high], strict=True)])
    axis.autoscale_view()
    limits = axis.get_ylim()
    for switch, part in curves.groupby("compress_or_limit"):
        colour = _SWITCH[int(str(switch))][1]
        axis.fill_between(part["peak_reduction"], part[low], part[high], color=colour, alpha=0.12, lw=0)
    axis.set_ylim(limits)


def _label(value: float, digits: str) -> str:
    """A logarithmic tick's label where its first digit is one of those wanted, else nothing."""
    return f"{value:g}" if f"{value:e}"[0] in digits else ""


def static_curves(
    model: GreyBox, peak_reduction: Sequence[float] = (0, 20, 40, 50, 60, 70, 80, 90, 100), title: str = ""
) -> Any:
    """Output over input level in dB of the steady state, one line a knob position, one panel a switch position."""
    figure, axes = _axes(1, 2, (9.0, 4.4), title, sharey=True)
    level_db = torch.linspace(-60.0, 0.0, 241, dtype=torch.float64)
    import matplotlib as mpl

    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.88, len(peak_reduction)))
    card = model.curves(peak_reduction=peak_reduction)  # holds the ends of a table without a warning
    for switch, axis in enumerate(axes[0]):
        rows = card[card["compress_or_limit"] == switch][["threshold_db", "ratio", "knee_db", "makeup_db"]].to_numpy()
        for knob, row, shade in zip(peak_reduction, torch.from_numpy(rows), shades, strict=True):
            output = level_db + static_gain_db(level_db, *row[:3]) + row[3]
            axis.plot(level_db, output, color=shade, label=f"{knob:g}")
        axis.plot(level_db, level_db, color="#999999", lw=0.8, ls=":")
        axis.set_title(_SWITCH[switch][0], loc="left", fontweight="bold")
        axis.set_xlabel("input, dBFS")
        axis.set_aspect("equal")
        axis.set_ylim(-60, 5)
    axes[0, 0].set_ylabel("output, dBFS")
    axes[0, 1].legend(title="peak reduction", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def step_response(model: GreyBox, peak_reduction: float = 65.0, sample_rate: float = 44100.0, title: str = "") -> Any:
    """Gain over time for a steady level that jumps from −40 to −10 dBFS for half a second and back."""
    times = np.arange(round(2.0 * sample_rate)) / sample_rate
    level = np.where((times >= 0.1) & (times < 0.6), -10.0, -40.0)
    audio = torch.from_numpy(db_to_amplitude(level))[None]
    figure, axes = _axes(1, 1, (7.0, 3.2), title)
    for switch, (label, colour, dashes) in _SWITCH.items():
        with torch.no_grad():
            gain = compressor(audio, model.params(switch, peak_reduction), sample_rate, trace=True).gain[0]
        axes[0, 0].plot(times, amplitude_to_db(gain), dashes, color=colour, label=label)
    axes[0, 0].axvspan(0.1, 0.6, color="#eeeeee", zorder=0)
    axes[0, 0].set_xlabel("time, s")
    axes[0, 0].set_ylabel("gain, dB")
    axes[0, 0].set_title(
        f"−40 → −10 → −40 dBFS (shaded: loud), peak reduction {peak_reduction:g}", loc="left", fontweight="bold"
    )
    axes[0, 0].legend(frameon=False)
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
    count = len(raw) // size

    def level_db(signal: NDArray[Any]) -> NDArray[Any]:
        power = np.square(np.asarray(signal[: count * size], dtype=np.float64)).reshape(count, size).mean(axis=1)
        return np.asarray(amplitude_to_db(np.sqrt(power)))

    times = (np.arange(count) + 0.5) * frame_s
    before = level_db(raw)
    audible = before > -60.0
    figure, axes = _axes(2, 1, (9.0, 4.4), title, sharex=True, height_ratios=[1, 2])
    axes[0, 0].fill_between(times, -60.0, np.maximum(before, -60.0), color="#bbbbbb", lw=0)
    axes[0, 0].set_ylabel("input, dBFS")
    colours = ["#222222", "#0b6e99", "#c2571a", "#5b8a3a", "#8a4f9e"]
    for i, (name, track) in enumerate(tracks.items()):
        gain = np.where(audible, level_db(track) - before, np.nan)
        axes[1, 0].plot(times, gain, color=colours[i % len(colours)], lw=1.6 if i == 0 else 1.0, label=name)
    axes[1, 0].set_ylabel("gain, dB")
    axes[1, 0].set_xlabel("time, s")
    axes[1, 0].legend(frameon=False, ncols=len(tracks), loc="lower right", bbox_to_anchor=(1.0, 1.0), borderpad=0.0)
    return figure
