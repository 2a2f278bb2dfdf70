"""A fitted model as an LV2 plug-in: its Faust source, compiled into a bundle.

Faust's own architecture for LV2 needs Boost, reports no latency and writes its ports' symbols itself, so the plug-in
around what Faust generates is a template here.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddsp_la2a.export.description import Description
from ddsp_la2a.export.faust import CHANNELS, faust_source, label_of, latencies_of, number, templates
from ddsp_la2a.export.names import label, slug

_ENDINGS = {"darwin": ".dylib", "win32": ".dll"}
_DEEPEST_DB = 60.0
_LONGEST_MESSAGE = 400
_HEADER = "lv2/core/lv2.h"


@dataclass(frozen=True)
class Port:
    """Of a plug-in.

    Args:
        index: number.
        symbol: what hosts save it by: a C identifier.
        name: what they show.
        is_output: whether the plug-in writes to it.
        is_audio: a signal, or else one number.
        facts: what else there is to say, in Turtle.
    """

    index: int
    symbol: str
    name: str
    is_output: bool = False
    is_audio: bool = False
    facts: tuple[str, ...] = ()


def uri_of(description: Description, channels: int) -> str:
    """The same wherever the same model is exported, another for any other."""
    kept = description.output_filter
    numbers = [*description.constants.values()]
    for rows in description.curves.values():
        numbers += [value for row in rows for value in row]
    numbers += [] if kept is None else kept.coefficients.tolist()
    what = [
        description.name,
        description.family,
        str(description.feedback),
        *description.constants,
        *description.curves,
    ]
    # Fewer digits than machines agree on; and of values with few digits none lies half way between two.
    what += [f"{round(math.pi * value, 6) + 0.0:.6f}" for value in numbers]
    digest = hashlib.sha256("\n".join(what).encode("utf-8")).hexdigest()
    return f"urn:ddsp-la2a:{slug(description.name)}:{digest[:16]}:{channels}"


def ports_of(description: Description, channels: int) -> list[Port]:
    """Audio in and out, knob, switch, meter, latency."""
    ports: list[Port] = []
    for way in ("in", "out"):
        for side in [""] if channels == 1 else CHANNELS[channels]:
            symbol = f"{way}_{side}".strip("_")
            name = symbol.replace("_", " ").capitalize()
            ports.append(Port(len(ports), symbol, name, way == "out", is_audio=True))
    knob, switch = description.knob, description.switch
    facts = _range(description.default[knob.name], knob.low, knob.high)
    ports.append(Port(len(ports), _symbol(knob.name, "knob"), label_of(knob), facts=facts))
    if switch is not None:
        positions = len(description.switch_positions)
        low, high = (0.0, 1.0) if positions == 2 else (switch.low, switch.high)
        facts = _range(description.default[switch.name] - switch.low + low, low, high)
        facts += ("lv2:portProperty lv2:toggled" if positions == 2 else "lv2:portProperty lv2:integer",)
        ports.append(Port(len(ports), _symbol(switch.name, "switch"), label_of(switch), facts=facts))
    facts = (*_range(None, 0.0, _DEEPEST_DB), "units:unit units:db")
    ports.append(Port(len(ports), "gain_reduction", "Gain Reduction", True, facts=facts))
    facts = (
        *_range(None, 0.0, max([1, *latencies_of(description)[1]])),
        "lv2:designation lv2:latency",
        "lv2:portProperty lv2:reportsLatency , lv2:integer",
        "units:unit units:frame",
    )
    ports.append(Port(len(ports), "latency", "Latency", True, facts=facts))
    return ports


def write_lv2(description: Description, folder: Path, channels: int = 1) -> list[Path]:
    """Write the bundle ``NAME.lv2``, with the source that it was compiled from; returns what was written.

    Raises:
        ValueError: Faust, a C++ compiler or LV2's headers aren't installed, with what to install; or one of them
            refuses what it is given, with what it says.
    """
    name = slug(description.name)
    faust, compiler = _tool("faust", "faust"), _tool(os.environ.get("CXX", "c++"), "g++")
    binary = name + _ENDINGS.get(sys.platform, ".so")
    with tempfile.TemporaryDirectory() as scratch:
        work, bundle = Path(scratch), Path(scratch) / f"{name}.lv2"
        bundle.mkdir()
        for file, text in _files(description, channels, binary).items():
            (bundle / file).write_text(text, encoding="utf-8")
        around, program, generated = work / "plugin.cpp", bundle / f"{name}.dsp", work / f"{name}.cpp"
        (bundle / around.name).rename(around)
        _run([faust, "-double", "-lang", "cpp", "-a", around, program, "-o", generated])
        flags = ["-O2", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden"]
        _run([compiler, *flags, generated, "-o", bundle / binary])
        shutil.copytree(bundle, folder / bundle.name)
    return [folder / bundle.name]


def _files(description: Description, channels: int, binary: str) -> dict[str, str]:
    """Of the bundle, and what the plug-in has around the program, by name."""
    borders, latencies = latencies_of(description)
    data = f"{slug(description.name)}.ttl"
    known: dict[str, Any] = {
        "uri": uri_of(description, channels),
        "title": label(description.name),
        "binary": binary,
        "data": data,
        "ports": ports_of(description, channels),
        "channels": CHANNELS[channels],
        "controls": ["knob", *(["switch"] if description.switch else []), "meter", "latency"],
        "borders": borders,
        "latencies": latencies,
    }
    names = {"manifest.ttl": "manifest.ttl.j2", data: "plugin.ttl.j2", "plugin.cpp": "plugin.cpp.j2"}
    environment = templates()
    texts = {name: environment.get_template(template).render(known) for name, template in names.items()}
    return texts | {f"{slug(description.name)}.dsp": faust_source(description, channels)}


def _range(default: float | None, low: float, high: float) -> tuple[str, ...]:
    start = () if default is None else (f"lv2:default {number(default)}",)
    return (*start, f"lv2:minimum {number(low)}", f"lv2:maximum {number(high)}")


def _symbol(name: str, otherwise: str) -> str:
    """A control's name, unless LV2 doesn't take it or another port has it."""
    taken = name in ("in", "out", "gain_reduction", "latency") or name.startswith(("in_", "out_"))
    return name if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) and not taken else otherwise


def _tool(command: str, package: str) -> str:
    found = shutil.which(command)
    if found is None:
        raise ValueError(
            f"{command}: expected this command, which makes the plug-in, got none; on Debian: apt-get install {package}"
        )
    return found


def _run(words: Sequence[object]) -> None:
    ran = subprocess.run(list(map(str, words)), capture_output=True, text=True, errors="replace", check=False)
    if ran.returncode == 0:
        return
    if _HEADER in ran.stderr:
        raise ValueError(f"{_HEADER}: expected LV2's headers, got none; on Debian: apt-get install lv2-dev")
    said = " ".join(ran.stderr.split())[:_LONGEST_MESSAGE]
    raise ValueError(f"{Path(str(words[0])).name}: expected it to take the exported source, got: {said}")
