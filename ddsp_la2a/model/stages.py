"""Which stages a model has beside curve, ballistics and make-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.model.parameters import MAKEUP, SHELF_DB, SHELF_HZ, SLOW_FACTOR, SLOW_MIX, TAPS, Parameter


@dataclass(frozen=True)
class Stages:
    """What the hardware does that a textbook compressor doesn't; each stage on or off. Kept in the model file.

    The default is what the ablation supports: see ``benchmarks/README.md``. All of it belongs to the device: no stage
    depends on the controls.

    Args:
        output_filter: delay and colour after the gain, five numbers.
        slow_release: a second, slower cell, which remembers the programme, two numbers.
        shelf: a shelf before the detector, two numbers.
        feedback: the detector hears the output instead of the input.
    """

    output_filter: bool = True
    slow_release: bool = True
    shelf: bool = False
    feedback: bool = False

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the device has: make-up, then the numbers of its stages."""
        slow = (SLOW_FACTOR, SLOW_MIX) if self.slow_release else ()
        shelf = (SHELF_DB, SHELF_HZ) if self.shelf else ()
        return (MAKEUP, *slow, *shelf, *(TAPS if self.output_filter else ()))

    def compressor_params(self, values: Mapping[str, Tensor], sample_rate: float) -> CompressorParams:
        """Put a compressor together.

        Args:
            values: of the card's and the stages' parameters by name, ``()`` or ``(batch,)`` each.
            sample_rate: in Hz, which the coefficients of the output filter belong to.
        """
        taps = {tap.name for tap in TAPS}
        numbers: dict[str, Any] = {name: value for name, value in values.items() if name not in taps}
        chosen = None
        if self.output_filter:
            chosen = OutputFilter(torch.stack([values[tap.name] for tap in TAPS], dim=-1), sample_rate)
        return CompressorParams(**numbers, feedback=self.feedback, output_filter=chosen)


HARDWARE = Stages()
"""What recordings of hardware are fitted with."""

PLAIN = Stages(output_filter=False, slow_release=False, shelf=False, feedback=False)
"""The textbook compressor."""

_NONE = "none"


def parse_stages(text: str) -> Stages:
    """Stages from text such as ``output-filter,slow-release``, or ``none``; the inverse of :func:`stages_text`.

    Raises:
        ValueError: names the stages there are and what isn't one, or is there twice.
    """
    names = [part.strip() for part in text.split(",")]
    known = [name.replace("_", "-") for name in asdict(PLAIN)]
    if names == [_NONE]:
        return PLAIN
    wrong = [name for name in names if name not in known] or [name for name in known if names.count(name) > 1]
    if wrong:
        raise ValueError(
            f"stages: expected {_NONE}, or some of {', '.join(known)}, each once, got {', '.join(map(repr, wrong))}"
        )
    return Stages(**{name.replace("-", "_"): name in names for name in known})


def stages_text(stages: Stages) -> str:
    """The stages that are on, as :func:`parse_stages` takes them."""
    return ",".join(name.replace("_", "-") for name, on in asdict(stages).items() if on) or _NONE
