"""The grey box: controls → physical parameters → explicit compressor."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.dsp.stream import Stream
from ddsp_la2a.model.control_net import CONTROLS, ControlNet, ParameterTable
from ddsp_la2a.model.intervals import extrapolated, intervals
from ddsp_la2a.model.parameters import MAKEUP


def check_controls(compress_or_limit: Any, peak_reduction: Any) -> None:
    """Refuse a switch or knob position that the unit doesn't have.

    Raises:
        ValueError: names the control, what was expected and what came.
    """
    switch, knob = _numbers(compress_or_limit), _numbers(peak_reduction)
    if switch is None or not bool(((switch == 0) | (switch == 1)).all()):
        raise ValueError(f"compress_or_limit: expected 0 (compress) or 1 (limit), got {compress_or_limit!r}")
    if knob is None or not bool(((knob >= 0) & (knob <= 100)).all()):
        raise ValueError(f"peak_reduction: expected 0 to 100, got {peak_reduction!r}")


def _numbers(value: Any) -> Tensor | None:
    try:
        return torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        return None


class GreyBox(nn.Module):
    """An explicit compressor whose parameters are derived from switch and knob.

    Most users need only :meth:`process`, :meth:`curves`, :meth:`stream`, :meth:`save` and ``ddsp_la2a.load``.

    Args:
        controls: :class:`ControlNet` or :class:`ParameterTable`.
        info: plain data about where it comes from (data hash, scores, citation); kept in the model file.

    Attributes:
        covariance: how sure a fit is, or None: of the network's weights and, last, the make-up in dB
            ``(weights + 1, weights + 1)``; or of every row of a table, as shares of the parameters' ranges on their
            scales, and its make-up in dB ``(rows, parameters, parameters)``. ± 1.96 standard errors make a 95 %
            interval. Kept in the model file.
    """

    def __init__(self, controls: ControlNet | ParameterTable | None = None, info: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.controls = controls if controls is not None else ControlNet()
        self.covariance: Tensor | None = None
        self.makeup = nn.Parameter(MAKEUP.to_unconstrained(torch.tensor(MAKEUP.start, dtype=torch.float64)))
        self.info = dict(info or {})

    def params(self, compress_or_limit: Tensor | float, peak_reduction: Tensor | float) -> CompressorParams:
        """Physical parameters at control positions of shape ``()`` or ``(batch,)``, as tensors ``(batch,)``.

        Differentiable in the weights and in the knob.

        Raises:
            ValueError: a control is out of range.
        """
        check_controls(compress_or_limit, peak_reduction)
        switch = torch.as_tensor(compress_or_limit, dtype=torch.float64)
        knob = torch.as_tensor(peak_reduction, dtype=torch.float64)
        switch, knob = torch.broadcast_tensors(torch.atleast_1d(switch), torch.atleast_1d(knob))
        found = self.controls(switch, knob)
        makeup_db = MAKEUP.to_physical(self.makeup.reshape(1))
        return CompressorParams(**{**found, "makeup_db": found.get("makeup_db", 0.0) + makeup_db.expand(knob.shape)})

    def forward(
        self,
        audio: Tensor,
        compress_or_limit: Tensor,
        peak_reduction: Tensor,
        sample_rate: float,
        state: Tensor | float = 1.0,
        return_state: bool = False,
    ) -> Any:
        """Compress ``(batch, time)`` audio, each row at its own setting; differentiable in audio, knob and weights.

        Args:
            audio: full scale ±1.
            compress_or_limit: 0 compress, 1 limit, ``(batch,)`` or ``()``.
            peak_reduction: 0–100, ``(batch,)`` or ``()``.
            sample_rate: in Hz.
            state, return_state: as in :func:`ddsp_la2a.compressor`.
        """
        params = self.params(compress_or_limit, peak_reduction)
        for name, control in zip(CONTROLS, (compress_or_limit, peak_reduction), strict=True):
            shape = tuple(torch.as_tensor(control).shape)
            if shape not in ((), (1,), tuple(audio.shape[:1])):
                raise ValueError(f"{name}: expected a number or one for each of {len(audio)} rows, got shape {shape}")
        return compressor(audio, params, sample_rate, state=state, return_state=return_state)

    def process(self, audio: Any, sample_rate: float, *, compress_or_limit: int, peak_reduction: float) -> Any:
        """What the unit would make of this audio at one setting.

        Args:
            audio: numpy array or tensor, full scale ±1.
            sample_rate: in Hz; any, since the parameters are times and levels.
            compress_or_limit: 0 compress, 1 limit.
            peak_reduction: knob position 0–100.

        Shape:
            ``(time,)`` or ``(batch, time)``, every row on its own; the output is the same, and of the same kind.

        Raises:
            ValueError: wrong type, shape or control, or a sample that isn't finite (the first is named).
        """
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
            output = self(torch.atleast_2d(tensor), compress_or_limit, peak_reduction, sample_rate)
        output = output.reshape(tensor.shape)
        return output if is_tensor else output.numpy()

    def stream(
        self,
        sample_rate: float,
        *,
        compress_or_limit: int,
        peak_reduction: float,
        channels: int = 1,
        linked: bool = True,
    ) -> Stream:
        """The same, block by block, with state carried and without torch in the loop; see :class:`Stream`."""
        with torch.no_grad():
            found = self.params(compress_or_limit, peak_reduction)
        return Stream(found, sample_rate, channels=channels, linked=linked)

    def curves(self, peak_reduction: Iterable[float] = range(101)) -> pd.DataFrame:
        """The learned card: every parameter over peak reduction, both switch positions.

        Returns:
            Columns ``compress_or_limit``, ``peak_reduction`` and one a parameter, one row a setting. A table holds its
            first and last setting beyond them. Where the fit knows how sure it is, for every parameter
            ``<name>_low`` and ``<name>_high``, a 95 % interval, and ``<name>_identifiable``, false where the
            recordings don't determine it: the interval takes more than a fifth of the parameter's range. Where the
            fitted settings are known, ``extrapolated``: the knob lies outside of those at this switch position.
        """
        knobs = np.asarray(list(peak_reduction), dtype=np.float64)
        settings = pd.MultiIndex.from_product([(0, 1), knobs], names=list(CONTROLS)).to_frame(index=False)
        with torch.no_grad():
            switch, knob = (torch.tensor(settings[name].to_numpy(), dtype=torch.float64) for name in CONTROLS)
            if isinstance(self.controls, ParameterTable):
                for position in self.controls.settings[:, 0].unique():
                    span = self.controls.settings[self.controls.settings[:, 0] == position, 1]
                    knob = torch.where(switch == position, knob.clamp(span.min(), span.max()), knob)
            found = {name: torch.as_tensor(value) for name, value in self.params(switch, knob).numbers().items()}
        columns = {name: value.numpy() for name, value in found.items()}
        if self.covariance is not None:
            columns |= intervals(self.controls, self.covariance, switch, knob, found)
        if "settings_seen" in self.info:
            columns["extrapolated"] = extrapolated(settings, self.info["settings_seen"])
        if (knobs == np.round(knobs)).all():  # as in a frame of recordings, which this is joined with
            settings = settings.astype(dict.fromkeys(CONTROLS, np.int64))
        return settings.assign(**columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file (safetensors with JSON metadata, no code); whole or not at all."""
        from ddsp_la2a.model.storage import save

        save(self, path)
