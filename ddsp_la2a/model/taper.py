"""From one knob and switches to what drives an optical cell: the taper of a potentiometer, learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.model.parameters import CELL_CARD, INPUT_TAP, SIDECHAIN_GAIN, Parameter

_INTERVALS = 10
_LEVEL = 0.4  # natural logarithm of the slope, a priori: 45 dB over the knob
_WALK = 0.5  # by how much that logarithm changes from a tenth of the knob to the next, a priori
_SWITCH_DB = 1.0
_TAP = 3.0
_OFF = -30.0
_PER_DB = 4.0 / (SIDECHAIN_GAIN.high - SIDECHAIN_GAIN.low)  # in the middle of its range
_STRAIGHT = 1e-4


def count_weights(controls: Sequence[Control]) -> int:
    """How many numbers a :class:`Taper` learns for these controls, without making one."""
    switched = sum(round(control.high) - round(control.low) for control in controls if control.kind == "switch")
    return 2 + _INTERVALS + 2 * switched


class Taper(nn.Module):
    """Side-chain gain that rises with the knob, or falls, and the tap that a switch closes.

    The gain's unconstrained value is a monotone curve over the knob, whose slope has a logarithm that is linear between
    eleven knots::

        u(k, switch) = middle ± ∫_½^k exp(ℓ(q)) dq + Σ switch_db,   0 ≤ k ≤ 1

    so it is smooth, never turns back, and is straight where nothing is known: ℓ is a random walk a priori, from the
    middle of the knob outwards. A switch in its first position leaves gain and tap alone, and there is no tap; every
    other position has an offset and a tap of its own.

    Args:
        controls: of the unit: one knob and any switches; positions are ``(batch, controls)`` float64, in their order.
        rises: whether the gain rises with the knob, as with peak reduction, or falls, as with a threshold.

    Attributes:
        weight: what is learned, N(0, 1) a priori each.

    Raises:
        ValueError: no knob, or several.
    """

    def __init__(self, controls: Sequence[Control] = LA2A_CONTROLS, rises: bool = True) -> None:
        super().__init__()
        self.rises = rises
        self.controls = unique(controls)
        knobs = [number for number, control in enumerate(self.controls) if control.kind == "continuous"]
        if len(knobs) != 1:
            raise ValueError(
                f"controls: expected one knob, which turns the optical cell's side-chain gain, got {len(knobs)}; "
                "fit the other family, or hold the others still and leave them out"
            )
        self._knob = knobs[0]
        self._switched = [
            (number, position)
            for number, control in enumerate(self.controls)
            if control.kind == "switch"
            for position in range(round(control.low) + 1, round(control.high) + 1)
        ]
        self.parameters_table: tuple[Parameter, ...] = CELL_CARD
        self.weight = nn.Parameter(torch.zeros(count_weights(self.controls), dtype=torch.float64))

    def unconstrained(self, positions: Tensor, weights: Tensor | None = None) -> Tensor:
        """What the ranges are put on, ``(batch, 2)`` float64.

        Args:
            positions: ``(batch, controls)``.
            weights: taken instead of its own.
        """
        at = positions.double()
        switched = len(self._switched)
        taken = self.weight if weights is None else weights
        middle, level, walk, of_gain, of_tap = taken.split([1, 1, _INTERVALS, switched, switched])
        control, half = self.controls[self._knob], _INTERVALS // 2
        down, up = walk[:half].cumsum(0).flip(0), walk[half:].cumsum(0)
        logs = _LEVEL + level + _WALK * torch.cat([down, walk.new_zeros(1), up])
        rise = torch.diff(logs)
        whole = _growth(rise) * logs[:-1].exp() / _INTERVALS
        until = torch.cat([whole.new_zeros(1), whole.cumsum(0)])
        place = _INTERVALS * (at[:, self._knob] - control.low) / (control.high - control.low)
        interval = place.detach().floor().clamp(0, _INTERVALS - 1).long()
        inside = place - interval
        further = inside * _growth(inside * rise[interval]) * logs[interval].exp() / _INTERVALS
        climbed = until[interval] - until[half] + further
        gain = _start(SIDECHAIN_GAIN) + middle + (climbed if self.rises else -climbed)
        if not self._switched:
            return torch.stack([gain, torch.full_like(gain, _OFF)], dim=-1)
        closed = torch.stack([at[:, number] == position for number, position in self._switched]).double()
        gain = gain + _SWITCH_DB * _PER_DB * (of_gain @ closed)
        tap = _start(INPUT_TAP) + _TAP * (of_tap @ closed)
        return torch.stack([gain, torch.where(closed.any(dim=0), tap, _OFF)], dim=-1)

    def forward(self, positions: Tensor) -> dict[str, Tensor]:
        """Physical parameters by name, each ``(batch,)`` float64, for positions ``(batch, controls)``."""
        unconstrained = self.unconstrained(positions)
        return {p.name: p.to_physical(unconstrained[..., i]) for i, p in enumerate(self.parameters_table)}

    def config(self) -> dict[str, Any]:
        """What, beside controls and weights, rebuilds it."""
        return {
            "type": "taper",
            "rises": self.rises,
            "parameters": [p.as_dict() for p in self.parameters_table],
        }


def _start(parameter: Parameter) -> float:
    return float(parameter.to_unconstrained(torch.tensor(parameter.start, dtype=torch.float64)))


def _growth(exponent: Tensor) -> Tensor:
    """(e^x − 1) / x."""
    straight = exponent.abs() < _STRAIGHT
    safe = torch.where(straight, torch.ones_like(exponent), exponent)
    return torch.where(straight, 1.0 + exponent / 2.0 + exponent**2 / 6.0, torch.expm1(safe) / safe)
