"""Model files: safetensors with JSON metadata. Nothing in them can run."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.description import (
    check_info,
    check_keys,
    check_settings,
    check_tensors,
    described_controls,
    described_parameters,
    described_stages,
)
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import CELL_CARD, Parameter, control_columns
from ddsp_la2a.model.stages import PLAIN, CellStages
from ddsp_la2a.model.taper import Taper
from ddsp_la2a.model.tensor_file import in_a_line, read_tensors, write_tensors

FORMAT_VERSION = 3
"""2 added the covariance; 3 the controls (before, what is now the card had their name) and the stages. All are read."""

_READ = (1, 2, FORMAT_VERSION)
_COVARIANCE = "covariance"
_LARGEST_BYTES, _LARGEST_HEADER = 16_000_000, 1_000_000
"""Of a file: a network of 1,400 weights with its covariance, or a table of ten thousand settings."""

_OLD_PARTS = {"format_version", "family", "controls", "info"}
_PARTS = {*_OLD_PARTS, "card", "stages", "sample_rate"}


def save(model: GreyBox, path: str | os.PathLike[str]) -> None:
    """Write a model file, whole or not at all."""
    tensors = dict(model.state_dict())
    if model.covariance is not None:
        tensors[_COVARIANCE] = model.covariance
    description = {
        "format_version": FORMAT_VERSION,
        "family": model.stages.family,
        "controls": [control.as_dict() for control in model.controls],
        "card": model.card.config(),
        "stages": asdict(model.stages),
        "sample_rate": model.sample_rate,
        "info": model.info,
    }
    write_tensors(path, description, tensors, largest_bytes=_LARGEST_BYTES, largest_header=_LARGEST_HEADER)


def load(path: str | os.PathLike[str]) -> GreyBox:
    """Read a model: a file that ``save`` wrote, or ``"published"`` for the 26 published 4A-2A settings.

    Args:
        path: a model file, or the word ``published``.

    Returns:
        the :class:`~ddsp_la2a.GreyBox`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no model file, of a newer format, damaged, or holds values out of range.

    References:
        Yu & Fazekas 2025, "Sound Matching an Analogue Levelling Amplifier Using the Newton-Raphson Method", AES AIMLA
        (arXiv 2509.10706), for the published settings.
    """
    if str(path) == "published":
        return _published()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a model file (or the word 'published'), got no file")
    description, tensors = read_tensors(
        path, "model file", _READ, largest_bytes=_LARGEST_BYTES, largest_header=_LARGEST_HEADER
    )
    if any(tensor.dtype != torch.float64 for tensor in tensors.values()):
        raise ValueError(f"{path}: expected weights in float64, got another type: the file was changed")
    try:
        check_keys("descriptions", description, _OLD_PARTS if description["format_version"] < 3 else _PARTS)
        if description["format_version"] < 3:
            description, tensors = _as_version_3(description, tensors)
        model = _model(description, tensors)
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path}: expected the weights that its description names, got others ({in_a_line(error)})"
        ) from error
    return model.eval()


def _model(description: dict[str, Any], tensors: dict[str, Tensor]) -> GreyBox:
    """The model that is described; a ValueError, without the file's name, where none can be."""
    config = description["card"]
    stages = described_stages(description)
    parameters = described_parameters(config, stages)
    controls = described_controls(description["controls"])
    check_info(description["info"], controls)
    check_tensors(tensors, config, controls, parameters, stages)
    if config["type"] == "table":
        check_settings(config, tensors["card.settings"])
    card = _card(config, controls, parameters, stages.family)
    model = GreyBox(card, description["info"], stages, float(description["sample_rate"]))
    covariance = tensors.pop(_COVARIANCE, None)
    model.load_state_dict(tensors)
    model.covariance = covariance
    return model


def _as_version_3(description: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Of a file from when there was only the LA-2A, and its card was called ``controls``."""
    if "card" in description or any(name.startswith("card.") for name in tensors):
        raise ValueError("there was no card in that format version")
    controls = [control.as_dict() for control in LA2A_CONTROLS]
    described = {**description, "card": description["controls"], "controls": controls}
    described |= {"stages": asdict(PLAIN), "sample_rate": 44100.0}
    renamed = {re.sub(r"^controls\.", "card.", name): tensor for name, tensor in tensors.items()}
    renamed["device"] = renamed.pop("makeup").reshape(1)
    return described, renamed


def _card(
    config: dict[str, Any], controls: tuple[Control, ...], parameters: tuple[Parameter, ...], family: str
) -> ControlNet | ParameterTable | Taper:
    if config["type"] == "taper":
        if parameters != CELL_CARD or family != CellStages.family:
            raise ValueError("a taper that gives other parameters than the optical cell's")
        return Taper(controls, config["rises"])
    if config["type"] == "control-net":
        return ControlNet(tuple(config["hidden"]), parameters, controls=controls)
    settings = pd.DataFrame(config["settings"], columns=control_columns(controls))
    starts = settings.assign(**{p.name: p.start for p in parameters})
    table = ParameterTable(starts, controls, nearest=config["nearest"])
    table.parameters_table = parameters
    return table


def _published() -> GreyBox:
    text = resources.files("ddsp_la2a.model").joinpath("published_4a2a.json").read_text(encoding="utf-8")
    data = json.loads(text)
    settings = pd.DataFrame(data["settings"]).assign(knee_db=0.0)
    info = {key: data[key] for key in ("citation", "licence_note", "source")}
    return GreyBox(ParameterTable(settings), info).eval()
