"""One table of the physical parameters, and the way to and from unconstrained numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ddsp_la2a.controls import Control

_SATURATED = 30.0
"""Unconstrained values beyond ±30 change a float64 sigmoid by less than 1e-13; the ends of a range are put there."""


@dataclass(frozen=True)
class Parameter:
    """A physical parameter: what it is called, where it may lie, and where a fit starts.

    Args:
        name: as in :class:`~ddsp_la2a.dsp.compressor.CompressorParams`, unit at its end.
        low, high: range in that unit.
        scale: ``log`` for what the ear and the knob take in ratios, else ``linear``.
        start: value from which a fit starts.
        meaning: one line for tables and figures.
    """

    name: str
    low: float
    high: float
    scale: Literal["linear", "log"]
    start: float
    meaning: str

    def scaled(self, physical: Tensor) -> Tensor:
        """The value on its scale: itself or its natural logarithm."""
        return physical.log() if self.scale == "log" else physical

    def unscaled(self, scaled: Tensor) -> Tensor:
        """Inverse of :meth:`scaled`."""
        return scaled.exp() if self.scale == "log" else scaled

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = like.new_tensor(self.low), like.new_tensor(self.high)
        return self.scaled(low), self.scaled(high)

    def to_physical(self, unconstrained: Tensor) -> Tensor:
        """Physical value: low + (high − low) · sigmoid(u) on the parameter's scale; never out of range."""
        low, high = self._ends(unconstrained)
        # Rounding in exp(log(…)) may step over the end by one unit in the last place.
        return self.unscaled(low + (high - low) * torch.sigmoid(unconstrained)).clamp(self.low, self.high)

    def to_unconstrained(self, physical: Tensor) -> Tensor:
        """Inverse of :meth:`to_physical`; the ends of the range become ±30.

        Raises:
            ValueError: a value is out of range.
        """
        outside = ~((physical >= self.low) & (physical <= self.high))
        if bool(outside.any()):
            got = physical[outside].flatten()[0].item()
            raise ValueError(f"{self.name}: expected {self.low:g} to {self.high:g}, got {got:g}")
        low, high = self._ends(physical)
        return torch.logit((self.scaled(physical) - low) / (high - low)).clamp(-_SATURATED, _SATURATED)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a model file."""
        return asdict(self)


CARD_PARAMETERS = (
    Parameter("threshold_db", -70.0, 0.0, "linear", -25.0, "level at the centre of the knee, dBFS"),
    Parameter("ratio", 1.0, 100.0, "log", 4.0, "input dB per output dB far above the threshold"),
    Parameter("knee_db", 0.0, 40.0, "linear", 6.0, "width of the knee, dB"),
    Parameter("attack_ms", 0.05, 300.0, "log", 5.0, "10–90 % time of falling gain, ms"),
    Parameter("release_ms", 5.0, 5000.0, "log", 250.0, "10–90 % time of rising gain, ms"),
)
"""What depends on the controls of a compressor: a row of the learned card."""

SIDECHAIN_GAIN = Parameter("sidechain_gain_db", -40.0, 80.0, "linear", 20.0, "drive for a full-scale sample, dB")
INPUT_TAP = Parameter("input_tap", 0.0, 0.1, "linear", 1e-4, "input mixed into the side-chain, share")
CELL_CARD = (SIDECHAIN_GAIN, INPUT_TAP)
"""What depends on the controls where the gain is an optical cell's."""

MAKEUP = Parameter("makeup_db", -24.0, 24.0, "linear", 0.0, "gain after compression, dB")
"""What belongs to the device: its output gain never moved while it was recorded."""

SLOW_FACTOR = Parameter("slow_factor", 1.0, 300.0, "log", 10.0, "how much slower the second cell is")
SLOW_MIX = Parameter("slow_mix", 0.0, 1.0, "linear", 0.2, "share of the second cell in the gain")
SHELF_DB = Parameter("shelf_db", -24.0, 24.0, "linear", 3.0, "highs over lows in the side-chain, dB")
SHELF_HZ = Parameter("shelf_hz", 20.0, 10000.0, "log", 150.0, "centre of that shelf, Hz")
CELL = (
    Parameter("highpass_hz", 1.0, 500.0, "log", 30.0, "corner of the side-chain, Hz"),
    Parameter("drive_limit", 1.05, 1000.0, "log", 30.0, "drive that the side-chain doesn't exceed"),
    Parameter("light_exponent", 1.0, 100.0, "log", 10.0, "twice the slope of light in drive, dB per dB"),
    Parameter("light_ms", 0.01, 10.0, "log", 0.5, "10–90 % time of the panel's light, ms"),
    Parameter("recombination_per_s", 0.5, 1000.0, "log", 20.0, "carriers lost one by one, 1/s"),
    Parameter("pair_recombination_per_s", 1e-3, 1000.0, "log", 2.0, "carriers lost in pairs, 1/s"),
    Parameter("largest_reduction_db", 20.0, 80.0, "linear", 45.0, "reduction of the smallest resistance, dB"),
)
TRAPS = (
    Parameter("fast_trap_capture_per_s", 0.1, 1e5, "log", 300.0, "carriers caught by empty fast traps, 1/s"),
    Parameter("fast_trap_capacity", 0.01, 100.0, "log", 3.0, "carriers that fast traps hold"),
    Parameter("fast_trap_release_per_s", 0.3, 300.0, "log", 5.0, "carriers let go by fast traps, 1/s"),
    Parameter("slow_trap_capture_per_s", 0.01, 1000.0, "log", 5.0, "carriers caught by slow traps, 1/s"),
    Parameter("slow_trap_release_per_s", 0.01, 10.0, "log", 1.0, "carriers let go by slow traps, 1/s"),
)
"""Constants of :class:`~ddsp_la2a.dsp.optical_cell.OpticalCellParams`. The starts are round numbers of the order that
photoconductors of cadmium sulphide have; where a fit ends doesn't hang on them."""

TAPS = tuple(
    Parameter(name, -4.0, 4.0, "linear", 0.0, "a coefficient of the output filter")
    for name in ("tap_lead_2", "tap_lead_1", "tap_late_1", "tap_late_2", "tap_slow")
)
"""Coefficients of :class:`~ddsp_la2a.dsp.output_stage.OutputFilter`, in its order."""

_STAGES = (SLOW_FACTOR, SLOW_MIX, SHELF_DB, SHELF_HZ)
PARAMETERS = (*CARD_PARAMETERS, *CELL_CARD, MAKEUP, *_STAGES, *CELL, *TRAPS, *TAPS)
"""All there are, in the order in which fits count them."""


def control_columns(controls: Sequence[Control]) -> list[str]:
    """Columns for positions in a table that holds parameters as well.

    They are called as the controls are, with ``_position`` added where a parameter has that name: a knob may well be
    called ``ratio``.
    """
    taken = {parameter.name for parameter in PARAMETERS}
    return [control.name + ("_position" if control.name in taken else "") for control in controls]
