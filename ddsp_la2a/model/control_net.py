"""From switch and knob to physical parameters: a small network, or a table."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP, Parameter

CONTROLS = ("compress_or_limit", "peak_reduction")


class ControlNet(nn.Module):
    """A multi-layer perceptron from (switch, peak reduction) to the five card parameters, always within their ranges.

    Two hidden layers of eight tanh units have 141 weights: enough for curves over a knob, too few to wriggle. It
    starts as a compressor that doesn't depend on its controls.

    Args:
        hidden: units of each hidden layer.
        parameters: what it gives; each with range and start.
        seed: of the first weights. The global random state is left alone.
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (8, 8),
        parameters: tuple[Parameter, ...] = CARD_PARAMETERS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.hidden = tuple(hidden)
        self.parameters_table = tuple(parameters)
        widths = [len(CONTROLS), *self.hidden, len(self.parameters_table)]
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

    @property
    def card(self) -> tuple[Parameter, ...]:
        """The parameters that depend on the controls."""
        return self.parameters_table

    @staticmethod
    def inputs(compress_or_limit: Tensor, peak_reduction: Tensor) -> Tensor:
        """The controls as the first layer takes them, from −1 to 1, ``(batch, 2)`` float64."""
        return torch.stack([compress_or_limit.double() * 2.0 - 1.0, peak_reduction.double() / 50.0 - 1.0], dim=-1)

    def unconstrained(self, compress_or_limit: Tensor, peak_reduction: Tensor, weights: Tensor | None = None) -> Tensor:
        """What the ranges are put on, ``(batch, parameters)`` float64, for controls of shape ``(batch,)``.

        Args:
            compress_or_limit, peak_reduction: the controls.
            weights: taken instead of its own; all in one vector, in the order of ``parameters()``.
        """
        own = list(self.parameters())
        taken = own if weights is None else weights.split([p.numel() for p in own])
        shaped = [part.reshape(p.shape) for part, p in zip(taken, own, strict=True)]
        values = self.inputs(compress_or_limit, peak_reduction)
        for matrix, bias in zip(shaped[::2], shaped[1::2], strict=True):
            values = nn.functional.linear(values if matrix is shaped[0] else torch.tanh(values), matrix, bias)
        return values

    def forward(self, compress_or_limit: Tensor, peak_reduction: Tensor) -> dict[str, Tensor]:
        """Physical parameters by name, each ``(batch,)`` float64, for controls of shape ``(batch,)``."""
        unconstrained = self.unconstrained(compress_or_limit, peak_reduction)
        return {p.name: p.to_physical(unconstrained[..., i]) for i, p in enumerate(self.parameters_table)}

    def config(self) -> dict[str, Any]:
        """What, beside the weights, rebuilds it."""
        return {
            "type": "control-net",
            "hidden": list(self.hidden),
            "parameters": [p.as_dict() for p in self.parameters_table],
        }


class ParameterTable(nn.Module):
    """One row of parameters a setting; between settings of the same switch position linear on each parameter's scale.

    Outside the settings of a switch position the nearest one is held, with a warning. The rows are learnable, which is
    what a fit of every setting on its own uses.

    Args:
        settings: columns ``compress_or_limit``, ``peak_reduction`` and one a parameter; one row a setting.
        nearest: take the nearest setting as it is instead of interpolating.

    Raises:
        ValueError: no settings, a setting twice, or a value out of range.
    """

    settings: Tensor

    def __init__(self, settings: pd.DataFrame, nearest: bool = False) -> None:
        super().__init__()
        names = [p.name for p in (*CARD_PARAMETERS, MAKEUP) if p.name in settings.columns]
        missing = [name for name in (*CONTROLS, *(p.name for p in CARD_PARAMETERS)) if name not in settings.columns]
        if missing or settings.empty:
            raise ValueError(f"settings: expected rows with all columns, got {len(settings)} rows without {missing}")
        if settings.duplicated(list(CONTROLS)).any():
            raise ValueError("settings: expected every setting once, got one twice")
        for name, allowed in (
            ("compress_or_limit", settings["compress_or_limit"].isin([0, 1])),
            ("peak_reduction", settings["peak_reduction"].between(0, 100)),
        ):
            if not allowed.all():
                expected = "0 or 1" if name == "compress_or_limit" else "0 to 100"
                raise ValueError(f"settings: expected {name} {expected}, got {settings.loc[~allowed, name].iloc[0]}")
        rows = settings.sort_values(list(CONTROLS))
        self.nearest = nearest
        self.parameters_table = tuple(p for p in (*CARD_PARAMETERS, MAKEUP) if p.name in names)
        self.register_buffer("settings", torch.tensor(rows[list(CONTROLS)].to_numpy(), dtype=torch.float64))
        columns = [
            p.to_unconstrained(torch.tensor(rows[p.name].to_numpy(), dtype=torch.float64))
            for p in self.parameters_table
        ]
        self.rows = nn.Parameter(torch.stack(columns, dim=1))

    @property
    def card(self) -> tuple[Parameter, ...]:
        """The parameters that depend on the controls, make-up aside."""
        return tuple(p for p in self.parameters_table if p != MAKEUP)

    def forward(self, compress_or_limit: Tensor, peak_reduction: Tensor) -> dict[str, Tensor]:
        """Physical parameters by name, each ``(batch,)`` float64, for controls of shape ``(batch,)``."""
        lower, upper, weight = self.neighbours(compress_or_limit, peak_reduction.double())
        found = {}
        for i, parameter in enumerate(self.parameters_table):
            physical = parameter.to_physical(self.rows[:, i])
            # Only a logarithm has to stay away from zero; log-scaled ranges start above it.
            scaled = parameter.scaled(physical)
            found[parameter.name] = parameter.unscaled(scaled[lower] + weight * (scaled[upper] - scaled[lower]))
        return found

    def neighbours(self, switch: Tensor, knob: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows below and above each knob position, and how far it lies between them."""
        lower, upper, weight = [], [], []
        for one_switch, one_knob in zip(switch.tolist(), knob, strict=True):
            rows = torch.nonzero(self.settings[:, 0] == one_switch).flatten()
            if not len(rows):  # a switch position never seen: the other one is the best guess there is
                warnings.warn(f"compress_or_limit {one_switch:g} isn't in the table: the other is used", stacklevel=4)
                rows = torch.nonzero(self.settings[:, 0] == self.settings[0, 0]).flatten()
            knots = self.settings[rows, 1]
            position = float(one_knob.detach())
            if not knots[0] <= position <= knots[-1] and not self.nearest:
                held = knots[0] if position < knots[0] else knots[-1]
                warnings.warn(
                    f"peak_reduction {position:g} lies outside the table ({knots[0]:g}–{knots[-1]:g}): "
                    f"the setting at {held:g} is held",
                    stacklevel=4,
                )
            if self.nearest:
                at = torch.argmin((knots - position).abs())
                below = above = int(at)
            else:
                above = int(torch.searchsorted(knots, position).clamp(1 if len(knots) > 1 else 0, len(knots) - 1))
                below = max(above - 1, 0)
            span = knots[above] - knots[below]
            inside = (one_knob - knots[below]) / span if span > 0 else torch.zeros_like(one_knob)
            lower.append(int(rows[below]))
            upper.append(int(rows[above]))
            weight.append(inside.clamp(0.0, 1.0))
        return torch.tensor(lower), torch.tensor(upper), torch.stack(weight)

    def config(self) -> dict[str, Any]:
        """What, beside the rows, rebuilds it."""
        return {
            "type": "table",
            "nearest": self.nearest,
            "settings": self.settings.tolist(),
            "parameters": [p.as_dict() for p in self.parameters_table],
        }
