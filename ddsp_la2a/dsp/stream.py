"""The compressor block by block, straight on the kernels, without torch in the loop."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ddsp_la2a.dsp.compressor import CompressorParams, check_sample_rate
from ddsp_la2a.dsp.kernels import compress_forward
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude, rise_time_to_coefficient


class Stream:
    """A compressor that carries its state from block to block, so that any partition gives the same output.

    Args:
        params: the physical parameters, numbers (one compressor for all channels).
        sample_rate: in Hz.
        channels: how many channels a block has.
        linked: one gain for all channels, led by the loudest (keeps the stereo image); else each has its own.

    Raises:
        ValueError: a parameter isn't one number, the rate isn't positive, or there is no channel.
    """

    def __init__(self, params: CompressorParams, sample_rate: float, channels: int = 1, linked: bool = True) -> None:
        if channels < 1:
            raise ValueError(f"channels: expected at least 1, got {channels}")
        self._channels = channels
        self._linked = linked
        check_sample_rate(sample_rate)
        values = {f.name: np.full(channels, _number(f.name, getattr(params, f.name))) for f in fields(params)}
        self._params = (
            values["threshold_db"],
            1.0 - 1.0 / values["ratio"],
            values["knee_db"],
            rise_time_to_coefficient(values["attack_ms"], sample_rate),
            rise_time_to_coefficient(values["release_ms"], sample_rate),
            db_to_amplitude(values["makeup_db"]),
        )
        self._state = np.ones(channels)

    @property
    def state(self) -> NDArray[np.float64]:
        """Gain of each channel after the last sample, ``(channels,)``; may be set, and copied to resume."""
        return self._state

    @state.setter
    def state(self, value: ArrayLike) -> None:
        state = np.array(value, dtype=np.float64)
        if state.shape != (self._channels,) or not np.isfinite(state).all():
            raise ValueError(f"state: expected {self._channels} finite gain(s), shape (channels,), got {state}")
        self._state = state

    def reset(self) -> None:
        """Back to a unit at rest: no gain reduction."""
        self.state = np.ones(self._channels)

    @property
    def gain_reduction_db(self) -> float:
        """Deepest gain reduction of the channels now, in dB, ≥ 0: what a meter shows."""
        return max(0.0, float(-amplitude_to_db(self.state.min())))

    def process(self, block: NDArray[np.floating]) -> NDArray[np.floating]:
        """Compress the next block.

        Args:
            block: full scale ±1, float32 or float64, any length, zero too.

        Shape:
            ``(time,)`` for one channel, ``(channels, time)`` else; the output is the same.

        Raises:
            ValueError: wrong type or number of channels.
        """
        if not isinstance(block, np.ndarray) or block.dtype not in (np.float32, np.float64):
            got = block.dtype if isinstance(block, np.ndarray) else type(block).__name__
            raise ValueError(f"block: expected float32 or float64, got {got}: hand over a numpy array of these")
        rows = np.ascontiguousarray(block[None] if block.ndim == 1 else block)
        if rows.ndim != 2 or rows.shape[0] != self._channels:
            raise ValueError(f"block: expected {self._channels} channel(s) as (channels, time), got {block.shape}")
        detector = rows
        if self._linked and self._channels > 1:
            detector = np.repeat(np.abs(rows).max(axis=0, keepdims=True), self._channels, axis=0)
        output = np.empty_like(rows)
        compress_forward(0, self._channels, rows, detector, *self._params, self.state, output, _NO_GAIN)
        return output[0] if block.ndim == 1 else output


def _number(name: str, value: torch.Tensor | float) -> float:
    tensor = torch.as_tensor(value, dtype=torch.float64).detach()
    if tensor.numel() != 1:
        raise ValueError(f"{name}: expected one number for all channels, got shape {tuple(tensor.shape)}")
    return float(tensor)


_NO_GAIN = np.empty((0, 0))
