"""A physical LA-2A to record from where no hardware is at hand; shares no code with the differentiable model."""

from ddsp_la2a.simulated_unit.constants import UnitConstants
from ddsp_la2a.simulated_unit.unit import SimulatedLA2A

__all__ = ["SimulatedLA2A", "UnitConstants"]
