"""A page with a knob that turns: a model, what plays it and what draws it, in one file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddsp_la2a.export.description import Description
from ddsp_la2a.export.names import slug
from ddsp_la2a.files import replacing
from ddsp_la2a.html import inert_json, rendered, template

_DIGITS = 10
"""Significant ones of the curves' values: the output stays within 1e-8, and the page is a third smaller."""

_STILL = 1e-3
"""A curve that moves by a smaller share of its largest value, or of 1, is listed as a number."""

_WORDS = {
    "threshold_db": ("Threshold", "dBFS", "Level at the centre of the knee."),
    "ratio": ("Ratio", ": 1", "Input dB per output dB far above the threshold."),
    "knee_db": ("Knee", "dB", "Width of the bend around the threshold."),
    "attack_ms": ("Attack", "ms", "10–90 % time in which the gain falls."),
    "release_ms": ("Release", "ms", "10–90 % time in which the gain comes back."),
    "makeup_db": ("Make-up", "dB", "Gain after compression."),
    "slow_factor": ("Second cell, slower by", "×", "How much longer its attack and release are."),
    "slow_mix": ("Second cell, share", "", "Its part in the gain, 0 to 1."),
    "shelf_db": ("Side-chain shelf", "dB", "How much better the detector hears highs than lows."),
    "shelf_hz": ("Side-chain shelf, centre", "Hz", "Where that shelf rises."),
    "sidechain_gain_db": ("Side-chain gain", "dB", "Drive of the panel for a full-scale sample."),
    "input_tap": ("Input tap", "", "Share of the input that the side-chain hears before the cell."),
    "highpass_hz": ("Side-chain high-pass", "Hz", "Below it the cell hears less."),
    "drive_limit": ("Drive limit", "", "The side-chain amplifier doesn’t exceed it."),
    "light_exponent": ("Light exponent", "", "Twice the slope of the panel’s light in its drive, dB per dB."),
    "light_ms": ("Light", "ms", "10–90 % time in which the panel lights up."),
    "recombination_per_s": ("Recombination", "per s", "Carriers lost one by one."),
    "pair_recombination_per_s": ("Recombination in pairs", "per s", "Carriers lost in pairs."),
    "largest_reduction_db": ("Largest reduction", "dB", "What the brightest cell does."),
    "fast_trap_capture_per_s": ("Fast traps, capture", "per s", "Carriers caught by empty fast traps."),
    "fast_trap_capacity": ("Fast traps, capacity", "", "Carriers that they hold."),
    "fast_trap_release_per_s": ("Fast traps, release", "per s", "Carriers that they let go."),
    "slow_trap_capture_per_s": ("Slow traps, capture", "per s", "Carriers caught by slow traps."),
    "slow_trap_release_per_s": ("Slow traps, release", "per s", "Carriers that they let go."),
}
"""What a parameter is called on a page, its unit, and what it means."""

_SCRIPTS = ("processor", "material", "sound", "drawing", "curves", "page")
"""In the order in which they need one another; the first is the audio thread's module as well."""

_POSITIONS = {"compress_or_limit": ("Compress", "Limit")}


def write_page(description: Description, folder: Path, _: int = 1) -> list[Path]:
    """Write the model as one HTML file to play with, named after it, for any number of channels.

    The page asks the network for nothing. The same description gives the same bytes. Returns what was written.
    """
    path = folder / f"{slug(description.name)}.html"
    text = page(description)
    with replacing(path) as temporary:
        temporary.write_bytes(text)
    return [path]


def page(description: Description) -> bytes:
    """The page as UTF-8."""
    return rendered(
        template("export", "page.html.j2"),
        style=template("export", "page.css"),
        scripts={name: template("export", f"{name}.js") for name in _SCRIPTS},
        modules="data: blob:",  # the audio thread takes a module by its address only: the text of the first script
        values={
            "name": description.name,
            "family": description.family,
            "feedback": description.feedback,
            "simulated": description.info.get("source") == "simulated",
            "info": description.info,
            "knob": _in_words(description.knob.name),
            "switch": None if description.switch is None else _in_words(description.switch.name),
            "positions": _switch_positions(description),
            "data": inert_json(_data(description)),
        },
    )


def _data(description: Description) -> dict[str, Any]:
    model = description.as_dict()
    for curve in model["curves"].values():
        curve["values"] = [[float(f"{value:.{_DIGITS}g}") for value in row] for row in curve["values"]]
    drawn = [name for name, rows in description.curves.items() if not _is_still(rows)]
    names = {*description.curves, *description.constants}
    order = [name for name in _WORDS if name in names] + sorted(names - set(_WORDS))
    return {
        "model": model,
        "words": {name: _WORDS.get(name, (_in_words(name), "", "")) for name in names},
        "drawn": [name for name in order if name in drawn],
        "listed": [name for name in order if name not in drawn],
        "knob": _in_words(description.knob.name),
        "positions": _switch_positions(description),
    }


def _is_still(rows: list[list[float]]) -> bool:
    values = [value for row in rows for value in row]
    return max(values) - min(values) < _STILL * max(1.0, max(map(abs, values)))


def _in_words(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _switch_positions(description: Description) -> list[str]:
    if description.switch is None:
        return []
    known = _POSITIONS.get(description.switch.name, ())
    numbers = description.switch_positions
    return list(known) if numbers == [0, 1] and known else [str(number) for number in numbers]
