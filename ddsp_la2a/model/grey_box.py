"""The grey box: controls → physical parameters → explicit compressor."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ddsp_la2a.controls import Control, distances, in_order, whole_or_not
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.intervals import extrapolated, intervals
from ddsp_la2a.model.knob_stream import KnobStream
from ddsp_la2a.model.parameters import MAKEUP, TAPS, Parameter, control_columns
from ddsp_la2a.model.stages import PLAIN, AnyStages
from ddsp_la2a.model.taper import Taper

_ONE_SWEEP, _MANY_SWEEPS = 101, 21
"""Positions over the range of the one knob that curves run along, and of each of several."""


def check_controls(controls: Sequence[Control], positions: Sequence[Any]) -> None:
    """Refuse a position that the unit doesn't have.

    Args:
        controls: of the unit.
        positions: a number or several for each of them, in their order.

    Raises:
        ValueError: names the control, what was expected and what came.
    """
    for control, position in zip(controls, positions, strict=True):
        try:
            numbers = torch.as_tensor(position, dtype=torch.float64).detach()
        except (TypeError, ValueError, RuntimeError):
            numbers = torch.tensor(torch.nan)
        if not all(control.holds(number) for number in numbers.flatten().tolist()):
            raise ValueError(f"{control.name}: expected {control.positions}, got {position!r}")


class GreyBox(nn.Module):
    """An explicit compressor whose parameters are derived from the positions of the unit's controls.

    Most users need only :meth:`process`, :meth:`curves`, :meth:`stream`, :meth:`save` and ``ddsp_la2a.load``.

    Args:
        card: :class:`ControlNet`, :class:`ParameterTable`, or the :class:`~ddsp_la2a.model.taper.Taper` of an optical
            cell; it knows the controls.
        stages: of which family it is, and what there is beside curve, ballistics and make-up, or beside the cell.
        sample_rate: in Hz, which the coefficients of the output filter belong to.
        info: plain data about where it comes from (data hash, scores, citation); kept in the model file.

    Attributes:
        controls: of the unit, a tuple of :class:`~ddsp_la2a.Control`.
        device: unconstrained values of what doesn't depend on the controls, see :attr:`device_parameters`.
        covariance: how sure a fit is, or None: of the network's weights and, last, of :attr:`device`
            ``(weights + device, weights + device)``; or of every row of a table, as shares of the parameters' ranges on
            their scales ``(rows, parameters, parameters)``. The make-up's is in dB either way. ± 1.96 standard errors
            make a 95 % interval. Kept in the model file.
    """

    def __init__(
        self,
        card: ControlNet | ParameterTable | Taper | None = None,
        info: dict[str, Any] | None = None,
        stages: AnyStages = PLAIN,
        sample_rate: float = 44100.0,
    ) -> None:
        super().__init__()
        self.card = card if card is not None else ControlNet()
        given = {parameter.name for parameter in self.card.parameters_table}
        if missing := [p.name for p in stages.card_parameters if p.name not in given]:
            raise ValueError(
                f"card: expected one that gives the parameters of family {stages.family}, got one without "
                f"{', '.join(missing)}; a Taper is for optical cells, a ControlNet for compressors"
            )
        self.covariance: Tensor | None = None
        self.stages = stages
        self.sample_rate = sample_rate
        starts = [p.to_unconstrained(torch.tensor(p.start, dtype=torch.float64)) for p in self.device_parameters]
        self.device = nn.Parameter(torch.stack(starts))
        self.info = dict(info or {})

    @property
    def controls(self) -> tuple[Control, ...]:
        """What the unit lets its user set."""
        return self.card.controls

    @property
    def device_parameters(self) -> tuple[Parameter, ...]:
        """What doesn't depend on the controls: the make-up, and what the stages have and the card doesn't give."""
        given = {parameter.name for parameter in self.card.parameters_table}
        return tuple(p for p in self.stages.parameters if p is MAKEUP or p.name not in given)

    @property
    def has_one_output_filter(self) -> bool:
        """Whether there is an output filter, and one for all settings: a table has one for each of them."""
        return self.stages.output_filter and not isinstance(self.card, ParameterTable)

    @property
    def latency(self) -> int:
        """Samples by which :meth:`forward` and a stream at the model's sample rate are late."""
        return len(TAPS) // 2 if self.stages.output_filter else 0

    def params(self, *positions: Tensor | float) -> Any:
        """Physical parameters at positions of shape ``()`` or ``(batch,)``, one a control in their order.

        Differentiable in the weights and in the knobs.

        Returns:
            :class:`~ddsp_la2a.CompressorParams`, or :class:`~ddsp_la2a.OpticalCellParams` where the family is that, of
            tensors ``(batch,)``.

        Raises:
            ValueError: too few or too many positions, or one out of range.
        """
        if len(positions) != len(self.controls):
            names = ", ".join(control.name for control in self.controls)
            raise ValueError(f"params: expected positions of {names}, got {len(positions)}")
        at = torch.atleast_2d(self._stacked(positions))
        found = self.card(at)
        for parameter, unconstrained in zip(self.device_parameters, self.device, strict=True):
            value = parameter.to_physical(unconstrained).expand(len(at))
            found[parameter.name] = found.get(parameter.name, 0.0) + value
        return self.stages.params(found, self.sample_rate)

    def _stacked(self, positions: Sequence[Any]) -> Tensor:
        """Positions of all controls in one tensor ``(…, controls)`` float64, once they are known to be there."""
        check_controls(self.controls, positions)
        each = [torch.as_tensor(position, dtype=torch.float64) for position in positions]
        return torch.stack(torch.broadcast_tensors(*each), dim=-1)

    def forward(
        self,
        audio: Tensor,
        positions: Tensor,
        sample_rate: float,
        state: Tensor | None = None,
        return_state: bool = False,
    ) -> Any:
        """Compress ``(batch, time)`` audio, each row at its own setting; differentiable in audio, knobs and weights.

        Args:
            audio: full scale ±1.
            positions: of the controls in their order, ``(batch, controls)`` or ``(controls,)``.
            sample_rate: in Hz.
            state: None for a unit at rest, or what an earlier call returned.
            return_state: also return the state after the last sample.

        Returns:
            as :func:`ddsp_la2a.compressor` or :func:`ddsp_la2a.optical_cell`: with an output filter the output is late.
        """
        at = torch.as_tensor(positions)
        count = len(self.controls)
        if tuple(at.shape) not in ((count,), (1, count), (len(audio), count)):
            raise ValueError(f"positions: expected shape ({count},) or ({len(audio)}, {count}), got {tuple(at.shape)}")
        output, after = self.stages.process(audio, self.params(*at.unbind(-1)), sample_rate, state)
        return (output, after) if return_state else output

    def process(self, audio: Any, sample_rate: float, **positions: Any) -> Any:
        """What the unit would make of this audio at one setting.

        Args:
            audio: numpy array or tensor, full scale ±1.
            sample_rate: in Hz; any, since the parameters are times and levels, and an output filter is matched to it.
            positions: of all controls by name, such as ``compress_or_limit=1, peak_reduction=65``.

        Shape:
            ``(time,)`` or ``(batch, time)``, every row on its own; the output is the same, of the same kind, and not
            late.

        Raises:
            ValueError: wrong type or shape, a control that is missing, unknown or out of range, or a sample that isn't
                finite (the first is named).
        """
        wanted = in_order(self.controls, positions)
        is_tensor = isinstance(audio, Tensor)
        if not is_tensor and np.asarray(audio).dtype not in (np.float32, np.float64):
            got = np.asarray(audio).dtype
            raise ValueError(f"audio: expected float32 or float64 with full scale ±1, got {got}")
        # What can't be written to is copied: torch warns of it.
        tensor = audio if is_tensor else torch.from_numpy(np.require(audio, requirements=["C", "W"]))
        if not tensor.is_floating_point():
            raise ValueError(f"audio: expected floating point with full scale ±1, got {tensor.dtype}")
        if tensor.ndim not in (1, 2):
            raise ValueError(f"audio: expected shape (time,) or (batch, time), got {tuple(tensor.shape)}")
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            where = torch.nonzero(~finite)[0].tolist()
            raise ValueError(f"audio: expected finite samples, got {tensor[tuple(where)].item()} at index {where}")
        with torch.no_grad():
            params = self.params(*self._stacked(wanted))
            late = 0 if params.output_filter is None else params.output_filter.at(sample_rate).latency
            waited_for = nn.functional.pad(torch.atleast_2d(tensor), (0, late))
            output = self.stages.process(waited_for, params, sample_rate)[0][:, late:]
        output = output.reshape(tensor.shape)
        return output if is_tensor else output.numpy()

    def stream(self, sample_rate: float, *, channels: int = 1, linked: bool = True, **positions: Any) -> KnobStream:
        """The same, block by block, with state carried and without torch in the loop; its controls may
        :meth:`~ddsp_la2a.model.knob_stream.KnobStream.move`."""
        return KnobStream(self.controls, self._params_without_gradients, positions, sample_rate, channels, linked)

    def _params_without_gradients(self, *positions: Any) -> Any:
        with torch.no_grad():
            return self.params(*positions)

    def output_filter(self, **positions: Any) -> OutputFilter:
        """Delay and colour after the gain; without that stage there is nothing of either.

        Args:
            positions: of all controls by name, where every setting was fitted on its own; else none are needed.

        Raises:
            ValueError: positions are missing, unknown or out of range.
        """
        if not self.stages.output_filter:
            return OutputFilter(torch.zeros(len(TAPS), dtype=torch.float64), self.sample_rate)
        if not positions and not isinstance(self.card, ParameterTable):
            positions = self.middle()
        with torch.no_grad():
            chosen = self.params(*in_order(self.controls, positions)).output_filter
        assert chosen is not None
        return OutputFilter(chosen.coefficients[0], chosen.sample_rate)

    def curves(self, **positions: Iterable[float] | float) -> pd.DataFrame:
        """The learned card: every parameter over the positions of the controls.

        A control that is given takes these positions, a switch that isn't takes all it has. One knob that isn't given
        takes 101 positions over its range: for the LA-2A whole peak reductions from 0 to 100. Of several, each in turn
        takes 21 positions, with the others at the fitted setting nearest to the middle of their ranges.

        Args:
            positions: of controls by name.

        Returns:
            A column a control (:func:`~ddsp_la2a.model.parameters.control_columns`), where several knobs take turns
            ``swept`` with the name of the one that moves, and a column a parameter; one row a setting. A table that
            interpolates holds its first and last setting beyond them. Where the fit knows how sure it is, for every
            parameter ``<name>_low`` and ``<name>_high``, a 95 % interval, and ``<name>_identifiable``, false where the
            recordings don't determine it: the interval takes more than a fifth of the parameter's range. Where the
            fitted settings are known, ``extrapolated``: a knob lies outside of those at these switch positions.

        Raises:
            ValueError: a control that the unit doesn't have, or a position out of range.
        """
        settings = self._settings(positions)
        names = control_columns(self.controls)
        at = torch.tensor(settings[names].to_numpy(dtype=np.float64))
        check_controls(self.controls, at.unbind(-1))
        if isinstance(self.card, ParameterTable):
            at = self.card.held(at)
        with torch.no_grad():
            found = {name: torch.as_tensor(value) for name, value in self.params(*at.unbind(-1)).numbers().items()}
        columns = {name: value.numpy() for name, value in found.items()}
        if self.covariance is not None:
            columns |= intervals(self.card, self.device_parameters, self.covariance, at, found)
        if "settings_seen" in self.info:
            columns["extrapolated"] = extrapolated(settings, self.info["settings_seen"], self.controls)
        whole = {name: whole_or_not(settings[name].to_numpy()) for name in names}
        return settings.assign(**whole, **columns)

    def _settings(self, positions: Mapping[str, Iterable[float] | float]) -> pd.DataFrame:
        """Settings that curves run along, and which knob moves where several take turns."""
        names = [control.name for control in self.controls]
        if unknown := [name for name in positions if name not in names]:
            raise ValueError(f"curves: expected positions of {', '.join(names)}, got {', '.join(unknown)}")
        axes: dict[str, Any] = {
            control.name: np.arange(control.low, control.high + 1.0)
            for control in self.controls
            if control.kind == "switch"
        }
        for name, given in positions.items():
            axes[name] = np.array(list(given) if isinstance(given, Iterable) else [given], dtype=np.float64)
        moving = [control for control in self.controls if control.name not in axes]
        still = self.middle()
        tables = []
        turns: list[Control | None] = [*moving] or [None]
        for control in turns:
            count = _MANY_SWEEPS if len(moving) > 1 else _ONE_SWEEP
            along = {} if control is None else {control.name: np.linspace(control.low, control.high, count)}
            each = [{**{n: [p] for n, p in still.items()}, **axes, **along}[name] for name in names]
            table = pd.DataFrame(itertools.product(*each), columns=control_columns(self.controls), dtype=np.float64)
            tables.append(table.assign(swept=control.name) if control is not None and len(moving) > 1 else table)
        return pd.concat(tables, ignore_index=True)

    def middle(self) -> dict[str, float]:
        """The fitted setting nearest to the middle of the knobs' ranges; the middle itself where none is known."""
        middle = [(c.low + c.high) / 2 if c.kind == "continuous" else c.low for c in self.controls]
        seen = self.info.get("settings_seen") or [middle]
        knobs = [number for number, control in enumerate(self.controls) if control.kind == "continuous"]
        along = np.asarray(seen, dtype=np.float64)[:, knobs]
        apart = distances([self.controls[n] for n in knobs], along, [middle[n] for n in knobs])
        at = seen[int(apart.argmin())]
        return {control.name: float(position) for control, position in zip(self.controls, at, strict=True)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file (safetensors with JSON metadata, no code); whole or not at all."""
        from ddsp_la2a.model.storage import save

        save(self, path)
