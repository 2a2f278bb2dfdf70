"""One description of a fitted model, plain data, from which every export is made; see ``docs/export-format.md``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddsp_la2a.controls import Control
from ddsp_la2a.dsp.glide import GLIDE_MS, IN_RATIOS
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.dsp.params import CompressorParams
from ddsp_la2a.files import replacing
from ddsp_la2a.model.control_net import ParameterTable
from ddsp_la2a.model.grey_box import GreyBox

FORMAT = "ddsp-la2a model description"
FORMAT_VERSION = 1

POINTS = 1001
"""Positions over the knob at which curves are given. On straight lines between them the output of fitted models was at
most 1e-4 dB from that of the model itself; a tenth of an LA-2A's scale, so where the knob is read it is the model."""

SAMPLE_RATES = (44100.0, 48000.0, 88200.0, 96000.0, 176400.0, 192000.0)
"""In Hz, for which the output filter's taps are given, beside the model's own."""

_TOLD = ("device", "source", "citation", "licence_note")


@dataclass(frozen=True)
class Description:
    """A fitted model with one knob and at most one switch.

    Args:
        name: of the model.
        family: ``compressor`` or ``optical-cell``.
        knob: of the unit.
        switch: of the unit, or None.
        default: position of each, by name.
        feedback: whether the detector hears the output; of a compressor.
        constants: parameters that are the same at all positions, by name.
        curves: the others, a row a position of the switch, of :data:`POINTS` positions of the knob from ``low`` to
            ``high``.
        output_filter: delay and colour after the gain, or None.
        info: where the model comes from.
    """

    name: str
    family: str
    knob: Control
    switch: Control | None
    default: Mapping[str, float]
    feedback: bool
    constants: Mapping[str, float]
    curves: Mapping[str, list[list[float]]]
    output_filter: OutputFilter | None
    info: Mapping[str, str] = field(default_factory=dict)

    @property
    def switch_positions(self) -> list[int]:
        """From the lowest on; one where there is no switch."""
        return [0] if self.switch is None else list(range(round(self.switch.low), round(self.switch.high) + 1))

    def taps(self) -> dict[float, list[float]]:
        """Of the output filter by sample rate in Hz, latest sample's first, then the slow pole's; empty without one."""
        if self.output_filter is None:
            return {}
        rates = sorted({*SAMPLE_RATES, float(self.output_filter.sample_rate)})
        return {rate: self.output_filter.at(rate).taps.tolist() for rate in rates}

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        kept, taps = self.output_filter, {f"{rate:g}": taps for rate, taps in self.taps().items()}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "info": dict(self.info),
            "family": self.family,
            "knob": _control(self.knob, self.default),
            "switch": None if self.switch is None else _control(self.switch, self.default),
            "glide_ms": GLIDE_MS,
            "feedback": self.feedback,
            "constants": dict(self.constants),
            "output_filter": None if kept is None else {"sample_rate": kept.sample_rate, "taps": taps},
            "curves": {name: {"scale": scale_of(name), "values": rows} for name, rows in self.curves.items()},
        }


def scale_of(name: str) -> str:
    """On which the values of a curve lie on straight lines between its points."""
    return "log" if name in IN_RATIOS else "linear"


def _control(control: Control, default: Mapping[str, float]) -> dict[str, Any]:
    return {"name": control.name, "low": control.low, "high": control.high, "default": default[control.name]}


def describe(model: GreyBox, name: str) -> Description:
    """Read a model's parameters off at every position.

    Args:
        model: of one knob and at most one switch.
        name: what it shall be called.

    Raises:
        ValueError: it has other controls, an output filter of its own for every setting, or takes the nearest setting.
    """
    knobs = [control for control in model.controls if control.kind == "continuous"]
    switches = [control for control in model.controls if control.kind == "switch"]
    if len(knobs) != 1 or len(switches) > 1:
        got = ", ".join(map(str, model.controls))
        raise ValueError(f"model: expected one knob and at most one switch, got {got}; fit one with the others held")
    if isinstance(model.card, ParameterTable):
        if model.card.nearest:
            raise ValueError("model: expected curves over the knob, got a table that takes the nearest setting")
        if model.stages.output_filter:
            raise ValueError(
                "model: expected one output filter for all settings, got one for each; fit all settings together, or "
                "leave out the stage output-filter"
            )
    knob, switch = knobs[0], switches[0] if switches else None
    along = torch.linspace(knob.low, knob.high, POINTS, dtype=torch.float64)
    default = model.middle()
    constants: dict[str, float] = {}
    columns: dict[str, list[list[float]]] = {}
    positions = [0] if switch is None else range(round(switch.low), round(switch.high) + 1)
    for position in positions:
        params = _params_along(model, along, position)
        for parameter, values in params.numbers().items():
            columns.setdefault(parameter, []).append(torch.as_tensor(values).expand(POINTS).tolist())
    for parameter, rows in columns.items():
        if not all(math.isfinite(value) for row in rows for value in row):
            raise ValueError(f"model: expected finite numbers, got others in {parameter}")
        if np.ptp(rows) == 0.0:
            constants[parameter] = rows[0][0]
    curves = {parameter: rows for parameter, rows in columns.items() if parameter not in constants}
    info = {key: told for key in _TOLD if (told := _text(model.info.get(key)))}
    feedback = isinstance(params, CompressorParams) and params.feedback
    kept = model.output_filter() if model.stages.output_filter else None
    return Description(name, model.stages.family, knob, switch, default, feedback, constants, curves, kept, info)


def _text(told: Any) -> str:
    """A text, or several with commas between; nothing of what is neither."""
    several = [told] if isinstance(told, str) else told
    return ", ".join(several) if isinstance(several, list) and all(isinstance(each, str) for each in several) else ""


def _params_along(model: GreyBox, along: Tensor, position: int) -> Any:
    columns = [along if control.kind == "continuous" else along.new_full((), position) for control in model.controls]
    at = torch.stack(torch.broadcast_tensors(*columns), dim=-1)
    if isinstance(model.card, ParameterTable):
        at = model.card.held(at)
    with torch.no_grad():
        return model.params(*at.unbind(-1))


def write_json(description: Description, folder: Path, _: int = 1) -> list[Path]:
    """Write ``model.json``, which holds for any number of channels; returns what was written."""
    path = folder / "model.json"
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in description.as_dict().items())
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return [path]
