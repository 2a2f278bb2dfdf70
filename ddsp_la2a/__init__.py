"""Differentiable grey-box modelling of the Teletronix LA-2A levelling amplifier, and of other units with knobs.

Most users need only :func:`load`, :func:`index`, :func:`check`, :func:`fit` and :func:`evaluate`.
"""

import logging

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
