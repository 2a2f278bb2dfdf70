"""Families of models, and which stages one has beside what makes it a model of that family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.dsp.optical_cell import OpticalCellParams, optical_cell
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.model.parameters import (
    CARD_PARAMETERS,
    CELL,
    CELL_CARD,
    MAKEUP,
    SHELF_DB,
    SHELF_HZ,
    SLOW_FACTOR,
    SLOW_MIX,
    TAPS,
    TRAPS,
    Parameter,
)


@dataclass(frozen=True)
class Stages:
    """A classical compressor, and what the hardware does that a textbook one doesn't; each stage on or off.

    Kept in the model file.

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

    family: ClassVar[str] = "compressor"
    card_parameters: ClassVar[tuple[Parameter, ...]] = CARD_PARAMETERS

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the device has: make-up, then the numbers of its stages."""
        slow = (SLOW_FACTOR, SLOW_MIX) if self.slow_release else ()
        shelf = (SHELF_DB, SHELF_HZ) if self.shelf else ()
        return (MAKEUP, *slow, *shelf, *(TAPS if self.output_filter else ()))

    def params(self, values: Mapping[str, Tensor], sample_rate: float) -> CompressorParams:
        """Put a compressor together.

        Args:
            values: of the card's and the stages' parameters by name, ``()`` or ``(batch,)`` each.
            sample_rate: in Hz, which the coefficients of the output filter belong to.
        """
        numbers, chosen = _parted(values, sample_rate, self.output_filter)
        return CompressorParams(**numbers, feedback=self.feedback, output_filter=chosen)

    @staticmethod
    def process(
        audio: Tensor, params: CompressorParams, sample_rate: float, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Output and state of :func:`~ddsp_la2a.compressor`, from rest where no state is given."""
        output, after = compressor(audio, params, sample_rate, state=1.0 if state is None else state, return_state=True)
        return output, after


@dataclass(frozen=True)
class CellStages:
    """An optical cell, one set of constants for every setting; each stage on or off. Kept in the model file.

    Args:
        output_filter: delay and colour after the gain, five numbers.
        traps: which hold carriers for long, so that the cell remembers the programme, five numbers.
    """

    output_filter: bool = True
    traps: bool = True

    family: ClassVar[str] = "optical-cell"
    card_parameters: ClassVar[tuple[Parameter, ...]] = CELL_CARD

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the device has: make-up, then the constants of the cell and the numbers of its stages."""
        return (MAKEUP, *CELL, *(TRAPS if self.traps else ()), *(TAPS if self.output_filter else ()))

    def params(self, values: Mapping[str, Tensor], sample_rate: float) -> OpticalCellParams:
        """Put a cell together; see :meth:`Stages.params`."""
        numbers, chosen = _parted(values, sample_rate, self.output_filter)
        if not self.traps:
            numbers |= dict.fromkeys(trap.name for trap in TRAPS)
        return OpticalCellParams(**numbers, output_filter=chosen)

    @staticmethod
    def process(
        audio: Tensor, params: OpticalCellParams, sample_rate: float, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Output and state of :func:`~ddsp_la2a.dsp.optical_cell.optical_cell`."""
        output, after = optical_cell(audio, params, sample_rate, state=state, return_state=True)
        return output, after


AnyStages = Stages | CellStages

FAMILIES: dict[str, type[Stages] | type[CellStages]] = {kind.family: kind for kind in (Stages, CellStages)}
"""What a model can be, by name."""


def _parted(
    values: Mapping[str, Tensor], sample_rate: float, filtered: bool
) -> tuple[dict[str, Any], OutputFilter | None]:
    """What isn't part of an output filter, and the filter."""
    taps = [tap.name for tap in TAPS]
    numbers: dict[str, Any] = {name: value for name, value in values.items() if name not in taps}
    if not filtered:
        return numbers, None
    return numbers, OutputFilter(torch.stack([values[name] for name in taps], dim=-1), sample_rate)


HARDWARE = Stages()
"""What recordings of hardware are fitted with."""

PLAIN = Stages(output_filter=False, slow_release=False, shelf=False, feedback=False)
"""The textbook compressor."""

_NONE = "none"


def parse_stages(text: str, family: str = Stages.family) -> AnyStages:
    """Stages from text such as ``output-filter,slow-release``, or ``none``; the inverse of :func:`stages_text`.

    Raises:
        ValueError: names the stages there are and what isn't one, or is there twice.
    """
    names = [part.strip() for part in text.split(",")]
    known = [field.name.replace("_", "-") for field in fields(FAMILIES[family])]
    if names == [_NONE]:
        names = []
    wrong = [name for name in names if name not in known] or [name for name in known if names.count(name) > 1]
    if wrong:
        raise ValueError(
            f"stages: expected {_NONE}, or some of {', '.join(known)}, each once, got {', '.join(map(repr, wrong))}"
        )
    return FAMILIES[family](**{name.replace("-", "_"): name in names for name in known})


def stages_text(stages: AnyStages) -> str:
    """The stages that are on, as :func:`parse_stages` takes them."""
    return ",".join(name.replace("_", "-") for name, on in asdict(stages).items() if on) or _NONE
