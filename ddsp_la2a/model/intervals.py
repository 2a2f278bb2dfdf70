"""How sure a fitted card is: intervals of every parameter at any setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.parameters import MAKEUP, Parameter, control_columns
from ddsp_la2a.model.taper import Taper

_STANDARD_ERRORS = 1.96
_WIDEST_SHARE = 0.2
"""An interval that takes more of a parameter's range says that the recordings don't determine it."""


def intervals(
    card: ControlNet | ParameterTable | Taper,
    device: Sequence[Parameter],
    covariance: Tensor,
    positions: Tensor,
    found: Mapping[str, Tensor],
) -> dict[str, NDArray[Any]]:
    """95 % intervals of the parameters at some settings, by the delta method.

    The standard error of a network's parameter is that of its unconstrained value, that of a table's is a share of its
    range; no interval leaves the range. The make-up's is taken in dB.

    Args:
        card: what gives the parameters that depend on the controls.
        device: the parameters that don't.
        covariance: see :class:`~ddsp_la2a.GreyBox`.
        positions: ``(batch, controls)``.
        found: the physical parameters there, ``(batch,)`` each; those that are missing are left out.

    Returns:
        ``<name>_low``, ``<name>_high`` and ``<name>_identifiable``, ``(batch,)`` each.

    References:
        Oehlert 1992, "A note on the delta method", Am. Stat. 46(1).
    """
    errors = _standard_errors(card, device, covariance, positions)
    columns: dict[str, NDArray[Any]] = {}
    for number, parameter in enumerate(_known(card, device)):
        if parameter.name not in found:
            continue
        reach = _STANDARD_ERRORS * errors[:, number]
        value = found[parameter.name]
        whole = torch.tensor([parameter.low, parameter.high], dtype=torch.float64)
        bottom, top = parameter.scaled(whole)
        if parameter.name == MAKEUP.name:
            low, high = value - reach, value + reach
        elif isinstance(card, ParameterTable):
            scaled = parameter.scaled(value)
            low, high = (
                parameter.unscaled(scaled + sign * reach * (top - bottom)).clamp(parameter.low, parameter.high)
                for sign in (-1.0, 1.0)
            )
        else:
            centre = parameter.to_unconstrained(value)
            low, high = (parameter.to_physical(centre + sign * reach) for sign in (-1.0, 1.0))
        share = (parameter.scaled(high) - parameter.scaled(low)) / (top - bottom)
        columns[f"{parameter.name}_low"] = low.numpy()
        columns[f"{parameter.name}_high"] = high.numpy()
        columns[f"{parameter.name}_identifiable"] = (share <= _WIDEST_SHARE).numpy()
    return columns


def _known(card: ControlNet | ParameterTable | Taper, device: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """What the covariance is of."""
    return card.parameters_table if isinstance(card, ParameterTable) else (*card.parameters_table, *device)


def _standard_errors(
    card: ControlNet | ParameterTable | Taper, device: Sequence[Parameter], covariance: Tensor, positions: Tensor
) -> Tensor:
    """Of what the covariance is of, see :func:`intervals`, ``(batch, parameters)``."""
    if isinstance(card, ParameterTable):  # fitted tables take the nearest row as it is
        nearest, _, _ = card.neighbours(positions)
        return covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()[nearest]
    weights = torch.cat([p.detach().flatten() for p in card.parameters()])
    derivative = torch.func.jacrev(lambda flat: card.unconstrained(positions, flat))(weights).detach()
    of_card = torch.einsum("bpi,ij,bpj->bp", derivative, covariance[: len(weights), : len(weights)], derivative)
    of_device = covariance.diagonal()[len(weights) :].expand(len(of_card), len(device))
    return torch.cat([of_card, of_device], dim=1).clamp_min(0.0).sqrt()


def extrapolated(
    settings: pd.DataFrame, seen: Sequence[Sequence[float]], controls: Sequence[Control] = LA2A_CONTROLS
) -> NDArray[np.bool_]:
    """Whether any knob of a setting lies outside of where it was seen at these positions of the switches."""
    names = control_columns(controls)
    switches = [name for name, control in zip(names, controls, strict=True) if control.kind == "switch"]
    knobs = [name for name in names if name not in switches]
    known = pd.DataFrame([tuple(setting) for setting in seen], columns=names, dtype=np.float64)
    outside = np.ones(len(settings), dtype=bool)
    for _, at in known.groupby(switches) if switches else [((), known)]:
        if at.empty:
            continue
        inside = (settings[switches] == at[switches].iloc[0]).all(axis=1)
        inside &= ((settings[knobs] >= at[knobs].min()) & (settings[knobs] <= at[knobs].max())).all(axis=1)
        outside &= ~inside.to_numpy()
    return outside
