"""Differentiable grey-box modelling of the Teletronix LA-2A levelling amplifier, and of other units with knobs.

Most users need only :func:`load`, :func:`index`, :func:`check`, :func:`fit` and :func:`evaluate`.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddsp_la2a.controls import Control
    from ddsp_la2a.data.check import apply_findings, check
    from ddsp_la2a.data.demo import render_demo
    from ddsp_la2a.data.index import index, read_frame
    from ddsp_la2a.data.segments import SegmentDataset, segments
    from ddsp_la2a.dsp.compressor import CompressorParams, compressor
    from ddsp_la2a.dsp.optical_cell import OpticalCellParams, optical_cell
    from ddsp_la2a.dsp.stream import Stream
    from ddsp_la2a.evaluation.evaluate import evaluate
    from ddsp_la2a.evaluation.report import report
    from ddsp_la2a.fitting.fit import FitResult, fit
    from ddsp_la2a.model.control_net import ControlNet
    from ddsp_la2a.model.grey_box import GreyBox
    from ddsp_la2a.model.stages import CellStages, Stages
    from ddsp_la2a.model.storage import load

# A library says what happened to whoever set up logging, and to nobody else.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.1.0"

__all__ = [
    "CellStages",
    "CompressorParams",
    "Control",
    "ControlNet",
    "FitResult",
    "GreyBox",
    "OpticalCellParams",
    "SegmentDataset",
    "Stages",
    "Stream",
    "apply_findings",
    "check",
    "compressor",
    "evaluate",
    "fit",
    "index",
    "load",
    "optical_cell",
    "read_frame",
    "render_demo",
    "report",
    "segments",
]

_HOMES = {
    "CellStages": "model.stages",
    "CompressorParams": "dsp.compressor",
    "Control": "controls",
    "ControlNet": "model.control_net",
    "FitResult": "fitting.fit",
    "GreyBox": "model.grey_box",
    "OpticalCellParams": "dsp.optical_cell",
    "SegmentDataset": "data.segments",
    "Stages": "model.stages",
    "Stream": "dsp.stream",
    "apply_findings": "data.check",
    "check": "data.check",
    "compressor": "dsp.compressor",
    "evaluate": "evaluation.evaluate",
    "fit": "fitting.fit",
    "index": "data.index",
    "load": "model.storage",
    "optical_cell": "dsp.optical_cell",
    "read_frame": "data.index",
    "render_demo": "data.demo",
    "report": "evaluation.report",
    "segments": "data.segments",
}
"""Where the public names live. They are fetched when they are first asked for: looking through recordings needs no
torch, whose import takes a second and half a gigabyte."""


if not TYPE_CHECKING:  # else any name would do

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
