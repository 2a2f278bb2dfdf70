"""The compressor block by block, straight on the kernels, without torch in the loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddsp_la2a.dsp.checks import check_sample_rate
from ddsp_la2a.dsp.compressor import check_reference, form_of, rest_state, stage_coefficients
from ddsp_la2a.dsp.feedback_kernels import feedback_forward, linked_forward
from ddsp_la2a.dsp.filter_kernels import filter_forward
from ddsp_la2a.dsp.kernels import COEFFICIENTS, compress_forward
from ddsp_la2a.dsp.output_stage import slow_coefficient
from ddsp_la2a.dsp.params import CompressorParams, one_number_each
from ddsp_la2a.units import amplitude_to_db


class Stream:
    """A compressor that carries its state from block to block, so that any partition gives the same output.

    Args:
        params: the physical parameters, numbers (one compressor for all channels).
        sample_rate: in Hz.
        channels: how many channels a block has.
        linked: one gain for all channels, led by the loudest (keeps the stereo image); else each has its own.

    Attributes:
        latency_samples: by which the output comes late: 0 without an output filter.

    Raises:
        ValueError: a parameter isn't one number, the rate isn't positive, or there is no channel.
    """

    def __init__(self, params: CompressorParams, sample_rate: float, channels: int = 1, linked: bool = True) -> None:
        if channels < 1:
            raise ValueError(f"channels: expected at least 1, got {channels}")
        self._channels = channels
        self._linked = linked and channels > 1
        check_sample_rate(sample_rate)
        params = one_number_each(params, sample_rate)
        check_reference(params, sample_rate)
        self._form, self._filter = form_of(params), params.output_filter
        self._coefficients = np.tile(stage_coefficients(params, sample_rate).numpy(), (channels, 1))
        self._is_plain = params.is_plain
        self._rest = np.tile(rest_state(params), (channels, 1))
        self.latency_samples = 0
        if self._filter is not None:
            self.latency_samples = self._filter.latency
            self._taps = np.tile(self._filter.taps.detach().numpy(), (channels, 1))
            self._slow = slow_coefficient(sample_rate)
        self.reset()

    @property
    def state(self) -> NDArray[np.float64]:
        """State of each channel after the last sample, as that of :func:`~ddsp_la2a.compressor`; may be set."""
        return self._state[:, 0].copy() if self._is_plain else self._state.copy()

    @state.setter
    def state(self, value: ArrayLike) -> None:
        state = np.array(value, dtype=np.float64)
        expected = self.state.shape
        if state.shape != expected or not np.isfinite(state).all():
            raise ValueError(f"state: expected finite numbers of shape {expected}, got {state}; set what a stream gave")
        gains = state.reshape(self._channels, -1)[:, : 1 if self._is_plain else 2]
        if self._linked and (gains != gains[0]).any():
            raise ValueError(f"state: expected one gain for all linked channels, got {gains.tolist()}")
        self._state = np.column_stack([state, self._rest[:, 1:]]) if self._is_plain else state

    def reset(self) -> None:
        """Back to a unit at rest: no gain reduction."""
        self._state = self._rest.copy()

    @property
    def gain_reduction_db(self) -> float:
        """Deepest gain reduction of the channels now, in dB, ≥ 0: what a meter shows."""
        mix = self._coefficients[:, COEFFICIENTS.index("slow_mix")]
        gain = self._state[:, 0] + mix * (self._state[:, 1] - self._state[:, 0])
        return max(0.0, float(-amplitude_to_db(gain.min())))

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
        output = np.empty_like(rows)
        core = self._state[:, :4].copy()
        if self._linked:
            linked_forward(rows, self._coefficients, self._form.feedback, core, output)
        elif self._form.feedback:
            feedback_forward(0, self._channels, rows, self._coefficients, core, output, _NOT_KEPT)
        else:
            stages = self._form.two_cells, self._form.shelf
            results = core, output, _NOT_PASSED, _NOT_KEPT
            compress_forward(0, self._channels, rows, self._coefficients, *stages, *results)
        self._state[:, :4] = core
        if self._filter is not None:
            filtered, state = np.empty_like(rows), self._state[:, 4:].copy()
            filter_forward(0, self._channels, output, self._taps, self._slow, state, filtered)
            output, self._state[:, 4:] = filtered, state
        return output[0] if block.ndim == 1 else output


_NOT_KEPT = np.empty((0, 3, 0))
_NOT_PASSED = np.empty((0, 0, 4))
