"""The report: one page to read, look at and listen to, in one file that asks the network for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pandas as pd

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.evaluation import charts, report_audio, tone_charts
from ddsp_la2a.evaluation.evaluate import Model
from ddsp_la2a.evaluation.report_measured import (
    checked_measured,
    checked_static_curves,
    checked_steps,
    table_of,
)
from ddsp_la2a.evaluation.report_models import GreyBoxPictures, pictures
from ddsp_la2a.evaluation.report_tables import SOURCE_WORDS, Group, checked_scores, groups, reference_of
from ddsp_la2a.evaluation.svg import in_the_dark, line_swatch, swatch
from ddsp_la2a.files import replacing
from ddsp_la2a.html import inert_json, rendered, template

MOST_BYTES = 15_000_000
"""Of a report: what still goes into a mail or a repository."""

_AUDIO_BYTES = 12_000_000
MOST_HEARD = 12
"""Models that can be listened to."""

_MOST_GREY_BOXES = 3


def report(
    scores: pd.DataFrame | str | Path,
    path: str | Path,
    *,
    blocks: pd.DataFrame | None = None,
    models: Mapping[str, Model] | None = None,
    frame: pd.DataFrame | str | Path | None = None,
    controls: Sequence[Control] = LA2A_CONTROLS,
    split: str = "test",
    histories: Mapping[str, pd.DataFrame] | None = None,
    measured: pd.DataFrame | None = None,
    static_curves: pd.DataFrame | None = None,
    steps: pd.DataFrame | None = None,
    about: Mapping[str, Any] | None = None,
    pages: Mapping[str, str] | None = None,
) -> None:
    """Write a comparison of models as one HTML file that needs no network: tables, pictures and listening.

    The same input gives the same bytes on one machine. What isn't given is left out of the page.

    Args:
        scores: what :func:`~ddsp_la2a.evaluate` gives, or the path of a ``scores.csv``; several sources and protocols
            stay apart, several seeds of a model are rows with the same ``model``.
        path: of the file to be written, whole or not at all.
        blocks: error energies per second (``model, source, protocol, recording, seed, second, error, target``), for
            intervals of the differences to the reference, which is the grey box.
        models: by name, as they were scored; those with ``curves`` are drawn.
        frame: a folder, a saved ``frame.csv`` or a DataFrame; together with ``models``, passages of its rows are
            processed, to be looked at and listened to.
        controls: of the unit.
        split: which rows of scores and frame.
        histories: model → table with ``seconds`` or ``step``, and ``validation_esr`` or ``error``.
        measured: what :func:`~ddsp_la2a.evaluation.measure.measured_curves` gives, of models or, by another name, of a
            recording of the unit itself.
        static_curves, steps: of models and unit in the same way, what
            :func:`~ddsp_la2a.evaluation.measure.measure_traced` gives, each with a column ``model`` and one for every
            control.
        about: what was run, such as versions, data hash, seeds, settings and commands; may hold mappings and lists.
        pages: model → path, relative to the report, of a page on which its knob can be turned; models whose curves are
            drawn are linked to theirs.

    Returns:
        nothing; the file is there.

    Raises:
        ValueError: missing columns (named), no rows of that split, audio that can't be read, a model that gives
            something else than audio, or an address where a relative path is expected.
    """
    controls = unique(controls)
    rows = checked_scores(scores, controls, split)
    models = dict(models or {})
    _refuse_names(models)
    _refuse_addresses(pages or {})
    names = list(dict.fromkeys([*rows["model"], *models]))
    scored = set(rows["model"])
    explicit = [name for name, model in models.items() if hasattr(model, "curves") and name in scored]
    reference = reference_of([name for name in names if name in scored], explicit)
    found = groups(rows, reference, blocks, controls)
    ranked = [row.model for group in found for row in group.rows]
    names = list(dict.fromkeys([reference, *ranked, *names]))
    on_tones = None if measured is None else checked_measured(measured, controls)
    levels = None if static_curves is None else checked_static_curves(static_curves, controls)
    stepped = None if steps is None else checked_steps(steps, controls)
    page = _Page(found, names, reference, controls, split)
    page.add_comparison(histories or {})
    page.add_on_tones(on_tones, levels, stepped)
    page.add_grey_boxes(models, pages or {}, () if stepped is None else set(stepped["model"]))
    passages: list[report_audio.Passage] = []
    if models and frame is not None:
        heard = {name: models[name] for name in names if name in models}
        passages = page.passages(heard, frame)
    listening = report_audio.fitting_in(passages, _AUDIO_BYTES)
    text = page.html(listening, about)
    if len(text) > MOST_BYTES and listening:
        left = sum(each.size for each in listening) - (len(text) - MOST_BYTES)
        text = page.html(report_audio.fitting_in(passages, left), about)
    with replacing(path) as temporary:
        temporary.write_bytes(text)


def _refuse_names(models: Mapping[Any, Any]) -> None:
    for name, model in models.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"models: expected names, got {name!r}")
        if not callable(getattr(model, "process", None)):
            raise ValueError(f"models, {name}: expected something with process, got {type(model).__name__}")


def _refuse_addresses(pages: Mapping[str, str]) -> None:
    for name, path in pages.items():
        parts = urlsplit(path)
        if not path or parts.scheme or parts.netloc or path.startswith(("/", "\\")):
            raise ValueError(f"pages, {name}: expected a path relative to the report, got {path!r}")


class _Page:
    """What goes into the template, gathered part by part."""

    def __init__(
        self, found: list[Group], names: list[str], reference: str, controls: Sequence[Control], split: str
    ) -> None:
        self.groups, self.names, self.reference = found, names, reference
        self.controls, self.split = controls, split
        self.looks = charts.marks(names)
        self.colours: dict[str, str] = {}
        self.values: dict[str, Any] = {
            "groups": found,
            "reference": reference,
            "words": SOURCE_WORDS,
            "swatches": {name: swatch(mark) for name, mark in self.looks.items()},
            "unit_swatch": line_swatch(charts.TARGET, "unit"),
            "split": split,
            "unheard": [],
        }

    def add_comparison(self, histories: Mapping[str, pd.DataFrame]) -> None:
        """Charts made of scores alone."""
        self.values["knobs"] = [charts.knob_errors(group, self.controls, self.looks) for group in self.groups]
        self.values["costs"] = [charts.costs(group, self.looks) for group in self.groups]
        cut_short = {name for group in self.groups for name in group.cut_short}
        drawn, within = charts.learning(histories, self.looks, sorted(cut_short))
        self.values["learning"], self.values["learners"] = drawn, within
        sources = {group.source for group in self.groups}
        self.values["simulated"] = sources == {"simulated"}

    def add_grey_boxes(self, models: Mapping[str, Model], pages: Mapping[str, str], stepped: Collection[str]) -> None:
        """Curves of the models that have some, the reference first, and links to where they can be played with.

        The step response of those in ``stepped`` was measured and isn't drawn again.
        """
        boxes: list[GreyBoxPictures] = []
        explicit = [name for name in self.names if hasattr(models.get(name), "curves")]
        for number, name in enumerate(explicit[:_MOST_GREY_BOXES]):
            boxes.append(pictures(name, models[name], f"box{number}", self.colours, step=name not in stepped))
        self.values["boxes"], self.values["undrawn"] = boxes, explicit[_MOST_GREY_BOXES:]
        self.values["pages"] = {name: quote(path) for name, path in pages.items()}

    def add_on_tones(
        self, measured: pd.DataFrame | None, levels: pd.DataFrame | None, steps: pd.DataFrame | None
    ) -> None:
        """What was read from a tone, and the curves that it was read from."""
        found = None if measured is None else table_of(measured, self.names, self.controls)
        self.values["measured"] = found if found and found.settings else None
        for name, table, draw in (
            ("static_curves", levels, tone_charts.static_curves),
            ("steps", steps, tone_charts.steps),
        ):
            self.values[name] = [] if table is None else draw(table, self.looks, self.controls)
        names = tone_charts.drawn([levels, steps], self.looks)
        swatches, unit = self.values["swatches"], self.values["unit_swatch"]
        self.values["tones_legend"] = [(name, swatches.get(name, unit)) for name in names]

    def passages(self, models: Mapping[str, Model], frame: pd.DataFrame | str | Path) -> list[report_audio.Passage]:
        """Passages of the frame through the models, and the track of gain reduction over the first of them."""
        rows = read_frame(frame, self.controls)
        chosen = rows[rows["split"] == self.split].reset_index(drop=True)
        if chosen.empty:
            splits = ", ".join(sorted(set(rows["split"])))
            raise ValueError(f"frame: expected rows whose split is {self.split!r}, got {splits}")
        heard = dict(list(models.items())[:MOST_HEARD])
        self.values["unheard"] = list(models)[MOST_HEARD:]
        found = report_audio.passages(heard, chosen, self.controls)
        first = found[0]
        shown = [name for name in (self.reference, self._black_box(heard)) if name in heard]
        tracks = [("target", first.signals[1], charts.TARGET)]
        tracks += [(name, first.signals[first.names.index(name, 2)], self.looks[name]) for name in shown]
        self.values["track"] = charts.gain_track(first.signals[0], tracks, first.sample_rate)
        legend = [("target", line_swatch(charts.TARGET, "track target"))]
        legend += [(name, line_swatch(self.looks[name], "track")) for name in shown]
        self.values["track_of"], self.values["track_legend"] = first, legend
        return found

    def _black_box(self, models: Mapping[str, Model]) -> str | None:
        """Of the models without curves the one with the most fitted numbers; linear rows are known by their names."""
        numbers = {row.model: row.parameters for group in self.groups for row in group.rows}
        rivals = {
            name: numbers[name]
            for name, model in models.items()
            if name != self.reference
            and not hasattr(model, "curves")
            and not name.startswith(("identity", "published"))
            and math.isfinite(numbers.get(name, math.nan))
        }
        return max(rivals, key=lambda name: rivals[name]) if rivals else None

    def html(self, listening: list[report_audio.Listening], about: Mapping[str, Any] | None) -> bytes:
        """The page as UTF-8."""
        from markupsafe import Markup

        filters: dict[str, Callable[..., str]] = {
            "points": _points, "duration": _duration, "whole": _whole, "plain": _plain, "percent": _percent,
        }  # fmt: skip
        data = Markup(inert_json(_player_data(listening)))
        more = {"listening": listening, "outline": report_audio.outline_path, "about": about, "data": data}
        return rendered(
            template("evaluation", "report.html.j2"),
            style=template("evaluation", "report.css") + self._extra_colours(),
            scripts={"report": template("evaluation", "report.js")},
            filters=filters,
            values=self.values | more,
        )

    def _extra_colours(self) -> str:
        """Variables for the colours of figures that the style sheet has no name for."""
        if not self.colours:
            return ""
        light = "".join(f"--{name}:{value};" for name, value in sorted(self.colours.items()))
        dark = "".join(f"--{name}:{in_the_dark(value)};" for name, value in sorted(self.colours.items()))
        return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def _player_data(listening: Sequence[report_audio.Listening]) -> list[dict[str, Any]]:
    return [
        {
            "rate": each.passage.sample_rate,
            "seconds": each.passage.seconds,
            "volume": each.volume,
            "signals": [
                {
                    "scale": sound.scale,
                    "matched": sound.matched,
                    "wave": sound.wave,
                    "residual": sound.residual,
                    "residualMatched": sound.residual_matched,
                }
                for sound in each.sounds
            ],
        }
        for each in listening
    ]


def _percent(ratio: float, least: float = math.nan) -> str:
    """A ratio in percent without its sign, with as many digits as the least of a column needs."""
    if not math.isfinite(ratio):
        return "–"
    digits = next((digits for top, digits in ((1e-4, 4), (1e-3, 3), (0.1, 2), (1.0, 1)) if least < top), 0)
    return f"{100.0 * ratio:,.{digits}f}"


def _points(ratio: float) -> str:
    """A difference of ratios in points of a percent with its sign."""
    if not math.isfinite(ratio):
        return "–"
    points = 100.0 * ratio
    digits = 3 if abs(points) < 0.1 else 2 if abs(points) < 10.0 else 1
    return f"{points:+,.{digits}f}".replace("-", "−")


def _whole(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < 120.0:
        return f"{seconds:.0f} s" if seconds >= 1.0 or seconds == 0.0 else f"{seconds:.2g} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"


def _plain(value: Any) -> str:
    """A value of ``about`` in words."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return f"{float(value):g}"
    return "–" if value is None else str(value)
