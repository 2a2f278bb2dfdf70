"""From the positions of the controls to physical parameters: a small network, or a table."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ddsp_la2a.controls import LA2A_CONTROLS, Control, distances, unique
from ddsp_la2a.model.parameters import (
    CARD_PARAMETERS,
    CELL_CARD,
    PARAMETERS,
    SIDECHAIN_GAIN,
    Parameter,
    control_columns,
)


def network_inputs(controls: Sequence[Control], positions: Tensor) -> Tensor:
    """Positions as a network takes them, every input from −1 to 1.

    A switch of more than two positions, which are not on the way to one another, has one input for each: 1 where it
    stands, −1 elsewhere.

    Args:
        controls: of the unit.
        positions: in the order of the controls.

    Shape:
        ``(batch, controls)`` → ``(batch, inputs)``, of the same type.
    """
    found = []
    for control, position in zip(controls, positions.unbind(-1), strict=True):
        if control.kind == "switch" and control.high - control.low > 1:
            places = range(round(control.low), round(control.high) + 1)
            found += [2.0 * (position == place).to(position.dtype) - 1.0 for place in places]
        else:
            found.append((position - control.low) / (0.5 * (control.high - control.low)) - 1.0)
    return torch.stack(found, dim=-1)


def count_inputs(controls: Sequence[Control]) -> int:
    """How many inputs :func:`network_inputs` gives, without making any."""
    places = [round(c.high) - round(c.low) + 1 if c.kind == "switch" else 1 for c in controls]
    return sum(count if count > 2 else 1 for count in places)


class ControlNet(nn.Module):
    """A multi-layer perceptron from the controls to the five card parameters, always within their ranges.

    Two hidden layers of eight tanh units have 141 weights for a switch and a knob: enough for curves over a knob, too
    few to wriggle. It starts as a compressor that doesn't depend on its controls.

    Args:
        hidden: units of each hidden layer.
        parameters: what it gives; each with range and start.
        seed: of the first weights. The global random state is left alone.
        controls: of the unit; positions are ``(batch, controls)`` float64, in their order.
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (8, 8),
        parameters: tuple[Parameter, ...] = CARD_PARAMETERS,
        seed: int = 0,
        controls: Sequence[Control] = LA2A_CONTROLS,
    ) -> None:
        super().__init__()
        self.controls = unique(controls)
        self.hidden = tuple(hidden)
        self.parameters_table = tuple(parameters)
        widths = [count_inputs(self.controls), *self.hidden, len(self.parameters_table)]
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList()
        for fan_in, fan_out in itertools.pairwise(widths):
            # Linear would first draw weights of its own from the global generator.
            layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
            nn.init.xavier_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)
        first, last = self.layers[0], self.layers[-1]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        start = [p.to_unconstrained(torch.tensor([p.start], dtype=torch.float64)) for p in self.parameters_table]
        with torch.no_grad():
            # The units turn at different positions of the knob.
            first.bias.copy_(torch.linspace(-0.7, 0.7, len(first.bias)))
            last.weight.zero_()
            last.bias.copy_(torch.cat(start))

    def inputs(self, positions: Tensor) -> Tensor:
        """What the first layer takes, from −1 to 1, ``(batch, inputs)`` float64; see :func:`network_inputs`."""
        return network_inputs(self.controls, positions.double())

    def unconstrained(self, positions: Tensor, weights: Tensor | None = None) -> Tensor:
        """What the ranges are put on, ``(batch, parameters)`` float64.

        Args:
            positions: ``(batch, controls)``.
            weights: taken instead of its own; all in one vector, in the order of ``parameters()``.
        """
        own = list(self.parameters())
        taken = own if weights is None else weights.split([p.numel() for p in own])
        shaped = [part.reshape(p.shape) for part, p in zip(taken, own, strict=True)]
        values = self.inputs(positions)
        for matrix, bias in zip(shaped[::2], shaped[1::2], strict=True):
            values = nn.functional.linear(values if matrix is shaped[0] else torch.tanh(values), matrix, bias)
        return values

    def forward(self, positions: Tensor) -> dict[str, Tensor]:
        """Physical parameters by name, each ``(batch,)`` float64, for positions ``(batch, controls)``."""
        unconstrained = self.unconstrained(positions)
        return {p.name: p.to_physical(unconstrained[..., i]) for i, p in enumerate(self.parameters_table)}

    def config(self) -> dict[str, Any]:
        """What, beside controls and weights, rebuilds it."""
        return {
            "type": "control-net",
            "hidden": list(self.hidden),
            "parameters": [p.as_dict() for p in self.parameters_table],
        }


class ParameterTable(nn.Module):
    """One row of parameters a setting; between settings along one knob linear on each parameter's scale.

    Outside the settings of a switch position the nearest one is held, with a warning. The rows are learnable, which is
    what a fit of every setting on its own uses.

    Args:
        settings: a column a control, see :func:`~ddsp_la2a.model.parameters.control_columns`, and one a parameter; one
            row a setting.
        controls: of the unit; one knob and any switches unless ``nearest``.
        nearest: take the nearest setting as it is instead of interpolating; see :func:`ddsp_la2a.controls.distances`.

    Raises:
        ValueError: no settings, a setting twice, a value out of range, or several knobs to interpolate along.
    """

    settings: Tensor

    def __init__(
        self, settings: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS, nearest: bool = False
    ) -> None:
        super().__init__()
        self.controls = unique(controls)
        self._switches = [number for number, c in enumerate(self.controls) if c.kind == "switch"]
        knobs = [number for number, c in enumerate(self.controls) if c.kind == "continuous"]
        if not nearest and len(knobs) != 1:
            raise ValueError(
                f"settings: expected one knob to interpolate along, got {len(knobs)}; take the nearest setting instead"
            )
        self._knob = knobs[0] if knobs else -1
        at = control_columns(self.controls)
        needed = CELL_CARD if SIDECHAIN_GAIN.name in settings.columns else CARD_PARAMETERS
        missing = [name for name in (*at, *(p.name for p in needed)) if name not in settings.columns]
        if missing or settings.empty:
            raise ValueError(f"settings: expected rows with all columns, got {len(settings)} rows without {missing}")
        if settings.duplicated(at).any():
            raise ValueError("settings: expected every setting once, got one twice")
        for control, name in zip(self.controls, at, strict=True):
            for position in settings[name]:
                if not control.holds(position):
                    raise ValueError(f"settings: expected {name} {control.positions}, got {position}")
        rows = settings.sort_values(at)
        self.nearest = nearest
        self.parameters_table = tuple(p for p in PARAMETERS if p.name in settings.columns)
        self.register_buffer("settings", torch.tensor(rows[at].to_numpy(), dtype=torch.float64))
        columns = [
            p.to_unconstrained(torch.tensor(rows[p.name].to_numpy(), dtype=torch.float64))
            for p in self.parameters_table
        ]
        self.rows = nn.Parameter(torch.stack(columns, dim=1))

    def forward(self, positions: Tensor) -> dict[str, Tensor]:
        """Physical parameters by name, each ``(batch,)`` float64, for positions ``(batch, controls)``."""
        lower, upper, weight = self.neighbours(positions.double())
        found = {}
        for i, parameter in enumerate(self.parameters_table):
            physical = parameter.to_physical(self.rows[:, i])
            # Only a logarithm has to stay away from zero; log-scaled ranges start above it.
            scaled = parameter.scaled(physical)
            found[parameter.name] = parameter.unscaled(scaled[lower] + weight * (scaled[upper] - scaled[lower]))
        return found

    def neighbours(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows below and above each position ``(batch, controls)``, and how far it lies between them."""
        lower, upper, weight = [], [], []
        for position in positions:
            same = self._same_switches(position, warn=True)
            if self.nearest:
                below = above = int(same[0])
                inside = torch.zeros_like(position[0])
            else:
                below, above, inside = self._between(torch.sort(same).values, position[self._knob])
            lower.append(below)
            upper.append(above)
            weight.append(inside)
        return torch.tensor(lower), torch.tensor(upper), torch.stack(weight)

    def held(self, positions: Tensor) -> Tensor:
        """Positions ``(batch, controls)`` with the knob brought within the settings it is interpolated between."""
        if self.nearest:
            return positions
        found = positions.clone()
        for number, position in enumerate(positions):
            knots = self.settings[self._same_switches(position, warn=False), self._knob]
            found[number, self._knob] = position[self._knob].clamp(knots.min(), knots.max())
        return found

    def _same_switches(self, position: Tensor, warn: bool) -> Tensor:
        """Rows with these positions of the switches, nearest first; where there are none, with those of the nearest."""
        at, settings = position.detach().numpy(), self.settings.numpy()
        order = np.argsort(distances(self.controls, settings, at), kind="stable")
        wanted, there = at[self._switches], settings[order[0], self._switches]
        if warn and (wanted != there).any():
            text = ", ".join(f"{self.controls[n].name} {at[n]:g}" for n in self._switches)
            warnings.warn(f"{text} isn't in the table: the nearest setting is used", stacklevel=5)
        return torch.from_numpy(order[(settings[order][:, self._switches] == there).all(axis=1)])

    def _between(self, rows: Tensor, knob: Tensor) -> tuple[int, int, Tensor]:
        """Two of these rows, and how far the knob lies between them."""
        knots = self.settings[rows, self._knob]
        position = float(knob.detach())
        if not knots[0] <= position <= knots[-1]:
            held = knots[0] if position < knots[0] else knots[-1]
            warnings.warn(
                f"{self.controls[self._knob].name} {position:g} lies outside the table ({knots[0]:g}–{knots[-1]:g}): "
                f"the setting at {held:g} is held",
                stacklevel=5,
            )
        above = int(torch.searchsorted(knots, position).clamp(1 if len(knots) > 1 else 0, len(knots) - 1))
        below = max(above - 1, 0)
        span = knots[above] - knots[below]
        inside = (knob - knots[below]) / span if span > 0 else torch.zeros_like(knob)
        return int(rows[below]), int(rows[above]), inside.clamp(0.0, 1.0)

    def config(self) -> dict[str, Any]:
        """What, beside controls and rows, rebuilds it."""
        return {
            "type": "table",
            "nearest": self.nearest,
            "settings": self.settings.tolist(),
            "parameters": [p.as_dict() for p in self.parameters_table],
        }
