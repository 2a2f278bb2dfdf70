"""A fitted model as Faust source."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddsp_la2a.controls import Control
from ddsp_la2a.dsp.glide import GLIDE_MS, IN_RATIOS
from ddsp_la2a.export.description import POINTS, Description, scale_of
from ddsp_la2a.export.names import label, one_line, slug
from ddsp_la2a.files import replacing
from ddsp_la2a.model.stages import CellStages

if TYPE_CHECKING:
    from jinja2 import Environment

_LABELS = {"compress_or_limit": "Limit"}
CHANNELS = {1: ("x",), 2: ("left", "right")}
"""What they are called, by how many there are."""

_COLUMNS = 6
_INDENT = "    "


def faust_source(description: Description, channels: int = 1) -> str:
    """A Faust program with the model's knob, its switch and a meter.

    Args:
        description: of the model.
        channels: 1, or 2 with one gain for both.
    """
    names, rows = CHANNELS[channels], list(description.taps().values())
    curves = {name: scale_of(name) for name in description.curves}
    width = max(map(len, rows), default=0)
    borders, latencies = latencies_of(description)
    numbers = {*description.constants, *curves}
    knob, switch = description.knob, description.switch
    known: dict[str, Any] = {
        "title": label(description.name),
        "told": [one_line(f"{key}: {text}") for key, text in description.info.items()],
        "is_cell": description.family == CellStages.family,
        "feedback": description.feedback,
        "channels": names,
        "fed_back": [f"{name}_before" for name in names],
        "knob": _bounds(knob, description),
        "knob_label": label_of(knob),
        "switch": None if switch is None else _bounds(switch, description),
        "switch_label": "" if switch is None else label_of(switch),
        "rows": len(description.switch_positions),
        "points": POINTS,
        "glide_ms": GLIDE_MS,
        "constants": description.constants,
        "curves": curves,
        "tables": {name: _table_of(name, values) for name, values in description.curves.items()},
        "has_slow": "slow_factor" in numbers,
        "has_shelf": "shelf_db" in numbers,
        "has_traps": "fast_trap_capacity" in numbers,
        "has_filter": bool(rows),
        "rates": [f"{rate:g}" for rate in description.taps()],
        "borders": borders,
        "latencies": latencies,
        "width": width,
        "taps": [value for *row, slow in rows for value in (*row, *[0.0] * (width - 1 - len(row)), slow)],
    }
    return templates().get_template("model.dsp.j2").render(known)


def write_faust(description: Description, folder: Path, channels: int = 1) -> list[Path]:
    """Write ``NAME.dsp``; returns what was written."""
    path = folder / f"{slug(description.name)}.dsp"
    with replacing(path) as temporary:
        temporary.write_text(faust_source(description, channels), encoding="utf-8")
    return [path]


def latencies_of(description: Description) -> tuple[list[float], list[int]]:
    """Sample rates in Hz between two for which there are taps, and samples by which the output is late round each."""
    taps = description.taps()
    borders = [math.sqrt(lower * upper) for lower, upper in itertools.pairwise(taps)]
    return borders, [len(row) // 2 - 1 for row in taps.values()]


def label_of(control: Control) -> str:
    """What a control is called on a panel."""
    return label(_LABELS.get(control.name, control.name.replace("_", " ").title()))


def number(value: float) -> str:
    """A literal that is this number to the last bit, in whatever language the machine speaks."""
    if not math.isfinite(value):
        raise ValueError(f"model: expected finite numbers, got {value}")
    return repr(float(value))


def _bounds(control: Control, description: Description) -> dict[str, float]:
    step = (control.high - control.low) / (POINTS - 1)
    default = description.default[control.name]
    return {"low": control.low, "high": control.high, "default": default, "step": step}


def _table_of(name: str, rows: Sequence[Sequence[float]]) -> list[float]:
    values = [value for row in rows for value in row]
    return list(map(math.log, values)) if scale_of(name) == "log" else values


def _waveform(values: Sequence[float]) -> str:
    lines = (", ".join(map(number, values[at : at + _COLUMNS])) for at in range(0, len(values), _COLUMNS))
    return "waveform{\n" + ",\n".join(_INDENT + line for line in lines) + "\n}"


def _gliding(name: str, curves: Iterable[str]) -> str:
    """A parameter, on its way where it moves."""
    if name not in curves:
        return name
    return f"glide_by_ratios({name})" if name in IN_RATIOS else f"glide({name})"


def _gliding_if(expression: str, curves: Iterable[str], *names: str) -> str:
    """What is computed from parameters, on its way by equal ratios where one of them moves."""
    return f"glide_by_ratios({expression})" if set(names) & set(curves) else expression


def _line_if(expression: str, curves: Iterable[str], *names: str) -> str:
    return f"glide({expression})" if set(names) & set(curves) else expression


def templates() -> Environment:
    """All that exports are made from."""
    # jinja2 takes a while to import, and only an export needs it
    from jinja2 import DictLoader, Environment, StrictUndefined

    folder = files("ddsp_la2a.export") / "templates"
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".j2")}
    environment = Environment(
        loader=DictLoader(texts),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # no HTML: every name goes through names.label, every number through number
    )
    environment.filters.update(
        number=number,
        table=_waveform,
        gliding=_gliding,
        gliding_if=_gliding_if,
        line_if=_line_if,
        each=_each,
    )
    return environment


def _each(values: Sequence[str | float], pattern: str) -> list[str]:
    return [pattern.replace("%s", value if isinstance(value, str) else number(value)) for value in values]
