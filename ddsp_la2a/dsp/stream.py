"""A compressor block by block, straight on the kernels, without torch in the loop."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddsp_la2a.dsp.checks import check_sample_rate
from ddsp_la2a.dsp.compressor import form_of, rest_state, stage_coefficients
from ddsp_la2a.dsp.feedback_kernels import feedback_forward, linked_forward
from ddsp_la2a.dsp.filter_kernels import filter_forward
from ddsp_la2a.dsp.kernels import COEFFICIENTS, compress_forward
from ddsp_la2a.dsp.kernels import STATES as COMPRESSOR_STATES
from ddsp_la2a.dsp.optical_cell import OpticalCellParams, cell_coefficients
from ddsp_la2a.dsp.optical_kernels import COEFFICIENTS as CELL_COEFFICIENTS
from ddsp_la2a.dsp.optical_kernels import STATES as CELL_STATES
from ddsp_la2a.dsp.optical_kernels import cell_forward, cell_linked
from ddsp_la2a.dsp.output_stage import slow_coefficient
from ddsp_la2a.dsp.params import CompressorParams, check_reference, one_number_each
from ddsp_la2a.units import amplitude_to_db

Array = NDArray[np.float64]


class _Core(Protocol):
    """What comes before the output filter.

    Attributes:
        rest: state of one channel at rest ``(states,)``.
        common: how many states, the first ones, linked channels share.
    """

    rest: Array
    common: int

    def process(self, rows: NDArray[np.floating], state: Array, output: NDArray[np.floating]) -> None:
        """Fill ``output`` and update ``state`` ``(channels, states)``."""
        ...

    def gain(self, state: Array) -> Array:
        """Of every channel, without make-up."""
        ...


class _Compressor:
    common = 2

    def __init__(self, params: CompressorParams, sample_rate: float, channels: int, linked: bool) -> None:
        self._form, self._linked = form_of(params), linked
        self._coefficients = np.tile(stage_coefficients(params, sample_rate).numpy(), (channels, 1))
        self.rest = np.array(rest_state(params)[: len(COMPRESSOR_STATES)])

    def process(self, rows: NDArray[np.floating], state: Array, output: NDArray[np.floating]) -> None:
        if self._linked:
            linked_forward(rows, self._coefficients, self._form.feedback, state, output)
        elif self._form.feedback:
            feedback_forward(0, len(rows), rows, self._coefficients, state, output, _NOT_KEPT)
        else:
            stages = self._form.two_cells, self._form.shelf
            compress_forward(0, len(rows), rows, self._coefficients, *stages, state, output, _NOT_PASSED, _NOT_KEPT)

    def gain(self, state: Array) -> Array:
        mix = self._coefficients[:, COEFFICIENTS.index("slow_mix")]
        return np.asarray(state[:, 0] + mix * (state[:, 1] - state[:, 0]))


class _OpticalCell:
    common = 4

    def __init__(self, params: OpticalCellParams, sample_rate: float, channels: int, linked: bool) -> None:
        self._linked = linked
        self._coefficients = np.tile(cell_coefficients(params, sample_rate).numpy(), (channels, 1))
        self.rest = np.zeros(len(CELL_STATES))

    def process(self, rows: NDArray[np.floating], state: Array, output: NDArray[np.floating]) -> None:
        if self._linked:
            cell_linked(rows, self._coefficients, state, output)
        else:
            cell_forward(0, len(rows), rows, self._coefficients, state, output, _NOT_PASSED)

    def gain(self, state: Array) -> Array:
        most = state[:, 0] * self._coefficients[:, CELL_COEFFICIENTS.index("per_most")]
        return np.asarray((1.0 + most) / (1.0 + most + state[:, 0]))


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

    def __init__(
        self,
        params: CompressorParams | OpticalCellParams,
        sample_rate: float,
        channels: int = 1,
        linked: bool = True,
    ) -> None:
        if channels < 1:
            raise ValueError(f"channels: expected at least 1, got {channels}")
        self._channels = channels
        self._linked = linked and channels > 1
        check_sample_rate(sample_rate)
        params = one_number_each(params, sample_rate)
        check_reference(params, sample_rate)
        self._core: _Core
        if isinstance(params, CompressorParams):
            self._core = _Compressor(params, sample_rate, channels, self._linked)
            self._is_plain = params.is_plain
        else:
            self._core = _OpticalCell(params, sample_rate, channels, self._linked)
            self._is_plain = False
        self._filter, self.latency_samples, filtered = params.output_filter, 0, 0
        if self._filter is not None:
            self.latency_samples, filtered = self._filter.latency, self._filter.states
            self._taps = np.tile(self._filter.taps.detach().numpy(), (channels, 1))
            self._slow = slow_coefficient(sample_rate)
        self._rest = np.tile(np.append(self._core.rest, np.zeros(filtered)), (channels, 1))
        self.reset()

    @property
    def state(self) -> Array:
        """State of each channel after the last sample, as that of the compressor function; may be set."""
        return self._state[:, 0].copy() if self._is_plain else self._state.copy()

    @state.setter
    def state(self, value: ArrayLike) -> None:
        state = np.array(value, dtype=np.float64)
        expected = self.state.shape
        if state.shape != expected or not np.isfinite(state).all():
            raise ValueError(f"state: expected finite numbers of shape {expected}, got {state}; set what a stream gave")
        gains = state.reshape(self._channels, -1)[:, : 1 if self._is_plain else self._core.common]
        if self._linked and (gains != gains[0]).any():
            raise ValueError(f"state: expected one gain for all linked channels, got {gains.tolist()}")
        self._state = np.column_stack([state, self._rest[:, 1:]]) if self._is_plain else state

    def reset(self) -> None:
        """Back to a unit at rest: no gain reduction."""
        self._state = self._rest.copy()

    @property
    def gain_reduction_db(self) -> float:
        """Deepest gain reduction of the channels now, in dB, ≥ 0: what a meter shows."""
        return max(0.0, float(-amplitude_to_db(self._core.gain(self._state).min())))

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
        output, own = np.empty_like(rows), len(self._core.rest)
        core = self._state[:, :own].copy()
        self._core.process(rows, core, output)
        self._state[:, :own] = core
        if self._filter is not None:
            filtered, state = np.empty_like(rows), self._state[:, own:].copy()
            filter_forward(0, self._channels, output, self._taps, self._slow, state, filtered)
            output, self._state[:, own:] = filtered, state
        return output[0] if block.ndim == 1 else output


_NOT_KEPT = np.empty((0, 3, 0))
_NOT_PASSED = np.empty((0, 0, 4))
