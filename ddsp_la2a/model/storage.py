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

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.dsp.checks import check_sample_rate
from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.dsp.optical_cell import OpticalCellParams
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import CELL_CARD, TAPS, Parameter, control_columns
from ddsp_la2a.model.stages import FAMILIES, PLAIN, CellStages, Stages
from ddsp_la2a.model.taper import Taper
from ddsp_la2a.model.tensor_file import read_tensors, write_tensors

FORMAT_VERSION = 3
"""2 added the covariance; 3 the controls (before, what is now the card had their name) and the stages. All are read."""

_READ = (1, 2, FORMAT_VERSION)
_COVARIANCE = "covariance"


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
    write_tensors(path, description, tensors)


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
    description, tensors = read_tensors(path, "model file", _READ)
    if any(tensor.dtype != torch.float64 for tensor in tensors.values()):
        raise ValueError(f"{path}: expected weights in float64, got another type: the file was changed")
    try:
        if description["family"] not in FAMILIES:
            raise ValueError(f"family {description['family']!r} is not known")
        if description["format_version"] < 3:
            description, tensors = _as_version_3(description, tensors)
        controls = unique(Control(**row) for row in description["controls"])
        card = _card(description["card"], controls, description["family"])
        stages = FAMILIES[description["family"]](**description["stages"])
        if not all(type(on) is bool for on in asdict(stages).values()):
            raise ValueError("a stage is neither on nor off")
        check_sample_rate(description["sample_rate"])
        model = GreyBox(card, description["info"], stages, float(description["sample_rate"]))
        covariance = tensors.pop(_COVARIANCE, None)
        model.load_state_dict(tensors)
        if covariance is not None and covariance.shape != _covariance_shape(model):
            raise ValueError(f"the covariance has shape {tuple(covariance.shape)}")
        model.covariance = covariance
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError) as error:
        why = " ".join(str(error).split())  # torch's own run over several lines
        raise ValueError(f"{path}: expected the weights that its description names, got others ({why})") from error
    return model.eval()


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


def _covariance_shape(model: GreyBox) -> tuple[int, ...]:
    if isinstance(model.card, ParameterTable):
        rows, parameters = model.card.rows.shape
        return rows, parameters, parameters
    values = sum(p.numel() for p in model.parameters())
    return values, values


def _card(config: dict[str, Any], controls: tuple[Control, ...], family: str) -> ControlNet | ParameterTable | Taper:
    parameters = tuple(Parameter(**row) for row in config["parameters"])
    if any(not p.low < p.high or (p.scale == "log" and p.low <= 0) for p in parameters):
        raise ValueError("a parameter's range is empty")
    if len({p.name for p in parameters}) < len(parameters) or any(p.scale not in ("linear", "log") for p in parameters):
        raise ValueError("a parameter is there twice or on a scale that is not known")
    params = {Stages.family: CompressorParams, CellStages.family: OpticalCellParams}[family]
    for end in ("low", "high"):  # what lies between two values that the family takes it takes as well
        params(**{p.name: getattr(p, end) for p in parameters if p not in TAPS})
    if config["type"] == "taper":
        if parameters != CELL_CARD or family != CellStages.family:
            raise ValueError("a taper that gives other parameters than the optical cell's")
        if type(config["rises"]) is not bool:
            raise ValueError("a taper that neither rises nor falls")
        return Taper(controls, config["rises"])
    if config["type"] == "control-net":
        return ControlNet(tuple(config["hidden"]), parameters, controls=controls)
    if config["type"] == "table":
        settings = pd.DataFrame(config["settings"], columns=control_columns(controls))
        starts = settings.assign(**{p.name: p.start for p in parameters})
        table = ParameterTable(starts, controls, nearest=bool(config["nearest"]))
        table.parameters_table = parameters
        return table
    raise ValueError(f"card type {config['type']!r} is not known")


def _published() -> GreyBox:
    text = resources.files("ddsp_la2a.model").joinpath("published_4a2a.json").read_text(encoding="utf-8")
    data = json.loads(text)
    settings = pd.DataFrame(data["settings"]).assign(knee_db=0.0)
    info = {key: data[key] for key in ("citation", "licence_note", "source")}
    return GreyBox(ParameterTable(settings), info).eval()
