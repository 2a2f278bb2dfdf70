"""What the description in a model file may say, and which tensors follow from it.

Whoever writes a file can make its content hash fit, so nothing in it is believed: every number is looked at, and sizes
are held against the tensors that are really there before anything is built from them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ddsp_la2a.controls import Control, unique
from ddsp_la2a.dsp.checks import check_sample_rate
from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.dsp.optical_cell import OpticalCellParams
from ddsp_la2a.dsp.side_chain import REFERENCE_HZ
from ddsp_la2a.model.control_net import count_inputs
from ddsp_la2a.model.parameters import MAKEUP, PARAMETERS, TAPS, Parameter
from ddsp_la2a.model.stages import FAMILIES, AnyStages, CellStages, Stages
from ddsp_la2a.model.taper import count_weights

_SCALES = {parameter.name: parameter.scale for parameter in PARAMETERS}
_HIGHEST_HZ = 1e7
_LARGEST_END, _LARGEST_POSITION = 1e6, 1e12
_LARGEST_WEIGHT, _LARGEST_TAPER_WEIGHT, _LARGEST_VARIANCE = 1e100, 100.0, 1e30
"""Far beyond any fit, and small enough for no sum or exponential to overflow."""

_ASYMMETRY = 1e-9
_CARDS = {"control-net": {"hidden"}, "table": {"nearest", "settings"}, "taper": {"rises"}}
"""What describes a card beside its type and parameters."""


def check_keys(what: str, found: Any, expected: Sequence[str] | set[str]) -> None:
    """Refuse what isn't a dictionary of just these keys."""
    if not isinstance(found, dict) or found.keys() != set(expected):
        got = ", ".join(sorted(found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{what} with {', '.join(sorted(expected))} are needed, not {got or 'nothing'}")


def described_controls(rows: Any) -> tuple[Control, ...]:
    """Controls of a description."""
    names = [field.name for field in fields(Control)]
    for row in _listed("controls", rows):
        check_keys("controls", row, names)
        _check_numbers("a control", row["low"], row["high"], largest=_LARGEST_POSITION)
    return unique(Control(**row) for row in rows)


def described_stages(description: Mapping[str, Any]) -> AnyStages:
    """Stages of a description, once its family and sample rate are known to be some."""
    family, rate = description["family"], description["sample_rate"]
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"family {family!r} is not known")
    given = description["stages"]
    check_keys("stages", given, [field.name for field in fields(FAMILIES[family])])
    if not all(type(on) is bool for on in given.values()):
        raise ValueError("a stage is neither on nor off")
    stages = FAMILIES[family](**given)
    _check_numbers("the sample rate", rate)
    check_sample_rate(rate)
    if stages.output_filter and not 2.0 * REFERENCE_HZ < rate <= _HIGHEST_HZ:
        raise ValueError(f"an output filter at {rate:g} Hz")
    return stages


def described_parameters(config: Any, stages: AnyStages) -> tuple[Parameter, ...]:
    """Parameters that a card gives, once the rest of its description has the right form."""
    if not isinstance(config, dict) or not isinstance(config.get("type"), str) or config["type"] not in _CARDS:
        raise ValueError(f"card type {config.get('type') if isinstance(config, dict) else config!r} is not known")
    check_keys("a card", config, {"type", "parameters", *_CARDS[config["type"]]})
    for name in ("nearest", "rises"):
        if name in config and type(config[name]) is not bool:
            raise ValueError(f"{name} is neither yes nor no")
    names = [field.name for field in fields(Parameter)]
    for row in _listed("parameters", config["parameters"]):
        check_keys("parameters", row, names)
        _check_numbers("a parameter", row["low"], row["high"], row["start"], largest=_LARGEST_END)
    parameters = tuple(Parameter(**row) for row in config["parameters"])
    of_family = {p.name for p in (*stages.card_parameters, *stages.parameters)}
    for p in parameters:
        if not isinstance(p.name, str) or p.name not in of_family or p.scale != _SCALES[p.name]:
            raise ValueError(f"a parameter {p.name!r} on scale {p.scale!r} is not known, or belongs to no stage")
        if not p.low <= p.start <= p.high or p.low == p.high or not isinstance(p.meaning, str):
            raise ValueError(f"the range of {p.name} is empty, or doesn't hold its start")
    if len({p.name for p in parameters}) < len(parameters):
        raise ValueError("a parameter is there twice")
    taps = {tap.name for tap in TAPS}
    params = {Stages.family: CompressorParams, CellStages.family: OpticalCellParams}[stages.family]
    for end in ("low", "high"):  # what lies between two values that the family takes it takes as well
        params(**{p.name: getattr(p, end) for p in parameters if p.name not in taps})
    return parameters


def check_tensors(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    controls: Sequence[Control],
    parameters: Sequence[Parameter],
    stages: AnyStages,
) -> None:
    """Refuse other tensors than the description implies, and numbers that no fit ends with."""
    given = {p.name for p in parameters}
    device = len([p for p in stages.parameters if p is MAKEUP or p.name not in given])
    shapes: dict[str, tuple[int, ...]] = {}
    if config["type"] == "table":
        rows = len(_listed("settings", config["settings"]))
        shapes = {"card.settings": (rows, len(controls)), "card.rows": (rows, len(parameters))}
        expected: tuple[int, ...] = rows, len(parameters), len(parameters)
    else:
        if config["type"] == "taper":
            shapes["card.weight"] = (count_weights(controls),)
        else:
            hidden = config["hidden"]
            if not isinstance(hidden, list) or not all(type(width) is int and width > 0 for width in hidden):
                raise ValueError("a hidden layer without units")
            if len(hidden) > len(tensors):
                raise ValueError(f"{len(hidden)} hidden layers, but {len(tensors)} tensors")
            widths = [count_inputs(controls), *hidden, len(parameters)]
            for number, (before, after) in enumerate(itertools.pairwise(widths)):
                shapes[f"card.layers.{number}.weight"] = (after, before)
                shapes[f"card.layers.{number}.bias"] = (after,)
        values = sum(math.prod(shape) for shape in shapes.values()) + device
        expected = values, values
    shapes["device"] = (device,)
    if "covariance" in tensors:
        shapes["covariance"] = expected
    for name in sorted(shapes.keys() | tensors.keys()):
        got = tuple(tensors[name].shape) if name in tensors else None
        if got != shapes.get(name):
            raise ValueError(f"{name} has shape {got} instead of {shapes.get(name)}")
    largest = {"card.weight": _LARGEST_TAPER_WEIGHT, "covariance": _LARGEST_VARIANCE}
    for name, tensor in tensors.items():
        if bool((tensor.abs() > largest.get(name, _LARGEST_WEIGHT)).any()):
            raise ValueError(f"{name} holds {tensor.abs().max().item():g}")
    if "covariance" in tensors:
        _check_covariance(tensors["covariance"])


def _check_covariance(covariance: Tensor) -> None:
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    if bool((variances < 0.0).any()):
        raise ValueError("the covariance has a variance below 0")
    reach = variances.sqrt()
    most = reach[..., :, None] * reach[..., None, :]
    if bool(((covariance - covariance.mT).abs() > _ASYMMETRY * most).any()):
        raise ValueError("the covariance isn't symmetric")
    if bool((covariance.abs() > (1.0 + _ASYMMETRY) * most).any()):
        raise ValueError("the covariance holds a correlation beyond 1")


def check_settings(config: Mapping[str, Any], settings: Tensor) -> None:
    """Refuse a table whose settings aren't those of its description."""
    for row in config["settings"]:
        _check_numbers("a setting", *_listed("a setting", row))
    if torch.tensor(config["settings"], dtype=torch.float64).tolist() != settings.tolist():
        raise ValueError("the table has other settings than its description")


def check_info(info: Any, controls: Sequence[Control]) -> None:
    """Refuse information that is no dictionary, or names settings that are none."""
    if not isinstance(info, dict):
        raise ValueError("info is no dictionary")
    for setting in _listed("settings_seen", info.get("settings_seen", [])):
        _check_numbers("a setting seen", *_listed("a setting seen", setting))
        if len(setting) != len(controls):
            raise ValueError(f"a setting seen of {len(setting)} positions, for {len(controls)} controls")


def _listed(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is no list")
    return value


def _check_numbers(what: str, *values: Any, largest: float = math.inf) -> None:
    """Refuse what is no finite number; true and false are none either."""
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > largest:
            raise ValueError(f"{what} isn't a number of a size to be expected")
