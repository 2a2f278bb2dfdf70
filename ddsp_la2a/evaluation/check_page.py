"""What ``check`` found, as one page to read: what is fit to be used, what isn't and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.data.audio import AudioInfo, audio_info
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.data.judgements import LAG_TOLERANCE_SAMPLES
from ddsp_la2a.data.states import GOOD, SEVERITIES, findings_of, states
from ddsp_la2a.evaluation.report_tables import SOURCE_WORDS
from ddsp_la2a.evaluation.style import in_words
from ddsp_la2a.evaluation.svg import Axis, Mark, Panel, swatch
from ddsp_la2a.files import replacing
from ddsp_la2a.html import rendered, template

_FAR_SAMPLES = 2.0 * LAG_TOLERANCE_SAMPLES
_SHAPES = ("circle", "square", "triangle", "diamond", "down", "star")
_EDGE = Mark("c1", "circle", "5 4")


@dataclass(frozen=True)
class Pair:
    """A row of the frame as the page shows it; findings are of what is more than its delay."""

    number: int
    track_id: int
    split: str
    take: str
    setting: str
    state: str
    left_out: bool
    lag: str
    files: tuple[str, str]
    findings: list[dict[str, Any]]


def check_page(
    findings: pd.DataFrame,
    frame: pd.DataFrame | str | Path,
    path: str | Path,
    *,
    controls: Sequence[Control] = LA2A_CONTROLS,
) -> None:
    """Write findings as one HTML file that needs no network. The same input gives the same bytes.

    Args:
        findings: what :func:`~ddsp_la2a.check` gave.
        frame: what it was given.
        path: of the file to be written, whole or not at all.
        controls: of the unit.

    Returns:
        nothing; the file is there.

    Raises:
        ValueError: the frame isn't valid, or there is no folder to write to.
    """
    controls = unique(controls)
    frame = read_frame(frame, controls)
    table = states(frame, findings, controls)
    orphans = _records(findings[~findings.index.isin(_places(frame, findings, controls))])
    names = _Names([*frame["raw_audio_path"], *frame["processed_audio_path"], *(each["path"] for each in orphans)])
    pairs = list(_pairs(frame, findings, table, names, controls))
    header, grid = _grid(table, pairs, controls)
    strip, legend, far = _strip(table, pairs, controls)
    order = {state: place for place, state in enumerate((*SEVERITIES[:2], GOOD))}
    values = {
        "folder": names.folder,
        "pairs": pairs,
        "fit": sum(not pair.left_out for pair in pairs),
        "counts": Counter(findings["severity"]),
        "states": Counter(pair.state for pair in pairs),
        "kinds": _kinds(findings),
        "totals": _totals(frame),
        "header": header,
        "grid": grid,
        "strip": strip,
        "legend": legend,
        "far": far,
        "tolerance": LAG_TOLERANCE_SAMPLES,
        "noted": sorted((pair for pair in pairs if pair.findings), key=lambda pair: order[pair.state]),
        "orphans": [each | {"path": names(each["path"])} for each in orphans],
    }
    style = template("evaluation", "report.css") + template("evaluation", "check.css")
    with replacing(path) as temporary:
        page = template("evaluation", "check.html.j2")
        temporary.write_bytes(rendered(page, style=style, filters={"samples": _samples}, values=values))


class _Names:
    """Names of files from the folder on that all of them lie in, so that a page tells nothing of the machine."""

    def __init__(self, paths: Sequence[str]) -> None:
        try:
            self._root = Path(os.path.commonpath([Path(path).parent for path in paths]))
        except ValueError:  # several drives
            self._root = Path()
        self.folder = self._root.name

    def __call__(self, path: str) -> str:
        file = Path(path)
        return file.relative_to(self._root).as_posix() if file.is_relative_to(self._root) else file.as_posix()


def _records(findings: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in findings.to_dict("records")]


def _places(frame: pd.DataFrame, findings: pd.DataFrame, controls: Sequence[Control]) -> list[Any]:
    """Index of the findings that are about pairs; others are about files without a partner."""
    places = {place for rows in findings_of(frame, findings, controls) for place in rows}
    return [findings.index[place] for place in sorted(places)]


def _pairs(
    frame: pd.DataFrame, findings: pd.DataFrame, table: pd.DataFrame, names: _Names, controls: Sequence[Control]
) -> Iterator[Pair]:
    rank = {severity: place for place, severity in enumerate(SEVERITIES)}
    about = findings_of(frame, findings, controls)
    for number, (row, places) in enumerate(zip(frame.to_dict("records"), about, strict=True)):
        state = table.iloc[number]
        mine = [each for each in _records(findings.iloc[places]) if each["finding"] != "lag"]
        yield Pair(
            number=number,
            track_id=row["track_id"],
            split=row["split"],
            take=row["take"],
            setting=", ".join(in_words(control.name, row[control.name]) for control in controls),
            state=state["state"],
            left_out=bool(state["left_out"]),
            lag=_samples(state["lag_samples"]),
            files=(names(row["raw_audio_path"]), names(row["processed_audio_path"])),
            findings=[
                each | {"path": names(each["path"])} for each in sorted(mine, key=lambda each: rank[each["severity"]])
            ],
        )


def _samples(lag: float) -> str:
    """A delay with its sign."""
    return "–" if not np.isfinite(lag) else f"{lag:+,.2f}".replace("-", "−")


def _kinds(findings: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Severity, finding and how many there are, the worst first."""
    counts = Counter(zip(findings["severity"], findings["finding"], strict=True))
    kinds = sorted(counts.items(), key=lambda item: (SEVERITIES.index(item[0][0]), -item[1], item[0][1]))
    return [(severity, finding, count) for (severity, finding), count in kinds]


def _totals(frame: pd.DataFrame) -> dict[str, str]:
    """What there is of it, in words."""
    infos: dict[str, AudioInfo] = {}
    files = dict.fromkeys([*frame["raw_audio_path"], *frame["processed_audio_path"]])
    for path in files:
        try:
            infos[path] = audio_info(path)
        except ValueError:  # a finding
            continue
    seconds = 0.0
    for row in frame.to_dict("records"):
        if info := infos.get(row["processed_audio_path"]):
            frames = row["stop_frame"] - row["start_frame"] if "stop_frame" in row else info.frames
            seconds += frames / info.sample_rate
    rates = Counter(info.sample_rate for info in infos.values())
    size = sum(Path(path).stat().st_size for path in files)
    splits = frame["split"].value_counts()
    return {
        "pairs": f"{len(frame)} ({', '.join(f'{name} {splits[name]}' for name in sorted(splits.index))})",
        "audio": f"{seconds / 3600.0:.1f} h of targets"
        if seconds >= 3600.0
        else f"{seconds / 60.0:.1f} min of targets",
        "files": f"{len(files)}, {size / 1e9:.2f} GB" if size >= 1e8 else f"{len(files)}, {size / 1e6:.1f} MB",
        "sample rate": ", ".join(f"{rate:,} Hz" for rate, _ in rates.most_common()) or "–",
        "source": ", ".join(SOURCE_WORDS[source] for source in sorted(set(frame["source"]))),
        "device": ", ".join(sorted(set(frame["device"]))),
    }


def _by_position(table: pd.DataFrame, controls: Sequence[Control]) -> list[tuple[str, pd.DataFrame]]:
    """Rows of every combination of positions that occurs of these controls, with its name."""
    if not controls:
        return [("all", table)]
    found: list[tuple[str, pd.DataFrame]] = []
    for place, rows in table.groupby([control.name for control in controls], sort=True):
        at = np.array(place, dtype=float)
        words = ", ".join(in_words(control.name, each) for control, each in zip(controls, at, strict=True))
        found.append((words, rows))
    return found


def _knobs(controls: Sequence[Control], *, switches: bool = False) -> list[Control]:
    return [control for control in controls if (control.kind == "switch") is switches]


def _grid(
    table: pd.DataFrame, pairs: Sequence[Pair], controls: Sequence[Control]
) -> tuple[list[str], list[tuple[str, list[list[Pair]]]]]:
    """Header; and for every position of the knobs its name, and its pairs at every position of the switches."""
    knobs, columns = _knobs(controls), _by_position(table, _knobs(controls, switches=True))
    name = knobs[0].name.replace("_", " ") if len(knobs) == 1 else ""  # need not stand in every row
    rows = [
        (
            words.removeprefix(f"{name} "),
            [[pairs[row] for row in rows.index.intersection(column.index)] for _, column in columns],
        )
        for words, rows in _by_position(table, knobs)
    ]
    return [name or "knobs", *(words for words, _ in columns)], rows


def _strip(
    table: pd.DataFrame, pairs: Sequence[Pair], controls: Sequence[Control]
) -> tuple[str, list[tuple[str, str]], list[Pair]]:
    """Delays over the first knob around their median, the picture's legend, and the pairs that lie farther off."""
    known = table[np.isfinite(table["lag_samples"])]
    if known.empty:
        return "", [], []
    ordered = np.sort(known["lag_samples"].to_numpy())
    median = float(ordered[(len(ordered) - 1) // 2])
    near = known[(known["lag_samples"] - median).abs() <= _FAR_SAMPLES]
    knob = next(iter(_knobs(controls)), None)
    heights = pd.Series(table.index, index=table.index) if knob is None else table[knob.name]
    low, high = (0.0, float(max(len(table), 1))) if knob is None else (knob.low, knob.high)
    room = 0.05 * (high - low)
    y = Axis(low - room, high + room, "row" if knob is None else knob.name.replace("_", " "))
    x = Axis(median - _FAR_SAMPLES, median + _FAR_SAMPLES, "delay of the target, samples")
    panel = Panel(x, y, "Delay of every pair over the knob")
    for edge in (-LAG_TOLERANCE_SAMPLES, LAG_TOLERANCE_SAMPLES):
        panel.line([median + edge] * 2, [y.low, y.high], _EDGE)
    legend = []
    switches = _by_position(table, _knobs(controls, switches=True))
    for place, (words, rows) in enumerate(switches):
        aside = 0.02 * (high - low) * (place - 0.5 * (len(switches) - 1))  # not one upon the other
        mark = Mark(f"c{place % 8}", _SHAPES[place % len(_SHAPES)], "")
        legend.append((words, swatch(mark)))
        for number in near.index.intersection(rows.index):
            pair = pairs[number]
            text = f"{pair.track_id}, {pair.setting}: {pair.lag} samples"
            panel.point(known["lag_samples"][number], float(heights[number]) + aside, mark, text, hollow=pair.left_out)
    return panel.svg(), legend, [pairs[number] for number in known.index.difference(near.index)]
