"""A compressor block by block, straight on the kernels, without torch in the loop."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddsp_la2a.dsp.checks import check_sample_rate
from ddsp_la2a.dsp.compressor import form_of, rest_state
from ddsp_la2a.dsp.feedback_kernels import feedback_forward, linked_forward
from ddsp_la2a.dsp.filter_kernels import filter_forward
from ddsp_la2a.dsp.glide import Glide, coefficients_of, taps_of
from ddsp_la2a.dsp.kernels import COEFFICIENTS, compress_forward
from ddsp_la2a.dsp.kernels import STATES as COMPRESSOR_STATES
from ddsp_la2a.dsp.optical_cell import OpticalCellParams
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
        coefficients: the kernel's numbers ``(channels, coefficients)``; may be written to.
    """

    rest: Array
    common: int
    coefficients: Array

    def process(self, rows: NDArray[np.floating], state: Array, output: NDArray[np.floating]) -> None:
        """Fill ``output`` and update ``state`` ``(channels, states)``."""
        ...

    def gain(self, state: Array) -> Array:
        """Of every channel, without make-up."""
        ...


class _Compressor:
    common = 2

    def __init__(self, params: CompressorParams, coefficients: Array, linked: bool) -> None:
        self._form, self._linked, self.coefficients = form_of(params), linked, coefficients
        self.rest = np.array(rest_state(params)[: len(COMPRESSOR_STATES)])

    def process(self, rows: NDArray[np.floating], state: Array, output: NDArray[np.floating]) -> None:
        if self._linked:
            linked_forward(rows, self.coefficients, self._form.feedback, state, output)
        elif self._form.feedback:
            feedback_forward(0, len(rows), rows, self.coefficients, state, output, _NOT_KEPT)
        else:
            stages = self._form.two_cells, self._form.shelf
            compress_forward(0, len(rows), rows, self.coefficients, *stages, state, output, _NOT_PASSED, _NOT_KEPT)

    def gain(self, state: Array) -> Array:
        mix = self.coefficients[:, COEFFICIENTS.index("slow_mix")]
        return np.asarray(state[:, 0] + mix * (state[:, 1] - state[:, 0]))


class _OpticalCell:
    common = 4

    def __init__(self, coefficients: Array, linked: bool) -> None:
        self._linked, self.coefficients = linked, coefficients
        self.rest = np.zeros(len(CELL_STATES))

    def process(self, rows: NDArray[np.floating], state: Array, output: NDArray[np.floating]) -> None:
        if self._linked:
            cell_linked(rows, self.coefficients, state, output)
        else:
            cell_forward(0, len(rows), rows, self.coefficients, state, output, _NOT_PASSED)

    def gain(self, state: Array) -> Array:
        most = state[:, 0] * self.coefficients[:, CELL_COEFFICIENTS.index("per_most")]
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
        self._channels, self._sample_rate = channels, sample_rate
        self._linked = linked and channels > 1
        check_sample_rate(sample_rate)
        self._params = params = one_number_each(params, sample_rate)
        check_reference(params, sample_rate)
        self._core: _Core
        self._end = coefficients_of(params, sample_rate), taps_of(params)
        coefficients, self._taps = (np.tile(numbers, (channels, 1)) for numbers in self._end)
        if isinstance(params, CompressorParams):
            self._core = _Compressor(params, coefficients, self._linked)
            self._is_plain = params.is_plain
        else:
            self._core = _OpticalCell(coefficients, self._linked)
            self._is_plain = False
        self.latency_samples, filtered = 0, 0
        if params.output_filter is not None:
            self.latency_samples, filtered = params.output_filter.latency, params.output_filter.states
        self._slow = slow_coefficient(sample_rate)
        self._glide: Glide | None = None
        self._rest = np.tile(np.append(self._core.rest, np.zeros(filtered)), (channels, 1))
        self.reset()

    @property
    def state(self) -> Array:
        """State of each channel after the last sample, as that of the compressor function; may be set.

        Where parameters are on their way to others isn't part of it.
        """
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
        """Back to a unit at rest, no gain reduction, with the parameters where they were to go."""
        self._state = self._rest.copy()
        self._arrive()

    def glide(self, params: CompressorParams | OpticalCellParams) -> None:
        """Go to other parameters from the next sample on, over :data:`~ddsp_la2a.dsp.glide.GLIDE_MS`.

        Each goes on a straight line, :data:`some <ddsp_la2a.dsp.glide.IN_RATIOS>` by equal ratios, in steps of
        :data:`~ddsp_la2a.dsp.glide.GLIDE_STEP` samples; a further call starts from where they are. Takes most of a
        millisecond.

        Args:
            params: numbers, of the same stages.

        Raises:
            ValueError: they have other stages, or a parameter isn't one number.
        """
        params = one_number_each(params, self._sample_rate)
        if _form(params) != _form(self._params):
            raise ValueError("params: expected the stream's own stages, got others; make another stream for them")
        end = coefficients_of(params, self._sample_rate), taps_of(params)
        if params.numbers() == self._params.numbers() and np.array_equal(end[1], self._end[1]):
            return
        start = self._params.numbers() if self._glide is None else self._glide.numbers
        glide = Glide(start, self._taps[0], params, end[1], self._sample_rate)
        self._params, self._end, self._glide = params, end, glide
        self._follow(glide)

    def _follow(self, glide: Glide) -> None:
        if glide.is_over:
            self._arrive()
        else:
            self._core.coefficients[:], self._taps[:] = glide.coefficients, glide.taps

    def _arrive(self) -> None:
        self._core.coefficients[:], self._taps[:] = self._end
        self._glide = None

    @property
    def gain_reduction_db(self) -> float:
        """Deepest gain reduction of the channels after the last sample, in dB, ≥ 0: what a meter shows."""
        return max(0.0, float(-amplitude_to_db(self._core.gain(self._state).min())))

    def process(self, block: NDArray[np.floating], out: NDArray[np.floating] | None = None) -> NDArray[np.floating]:
        """Compress the next block.

        Args:
            block: full scale ±1, float32 or float64, any length, zero too.
            out: where the output goes instead of a new array, as large and of the same type; may be the block itself.

        Shape:
            ``(time,)`` for one channel, ``(channels, time)`` else; the output is the same.

        Raises:
            ValueError: wrong type or number of channels, or ``out`` doesn't fit.
        """
        if not isinstance(block, np.ndarray) or block.dtype not in (np.float32, np.float64):
            got = block.dtype if isinstance(block, np.ndarray) else type(block).__name__
            raise ValueError(f"block: expected float32 or float64, got {got}: hand over a numpy array of these")
        rows = np.ascontiguousarray(block[None] if block.ndim == 1 else block)
        if rows.ndim != 2 or rows.shape[0] != self._channels:
            raise ValueError(f"block: expected {self._channels} channel(s) as (channels, time), got {block.shape}")
        if out is None:
            output = np.empty_like(rows)
            self._glide_and_play(rows, output)
            return output[0] if block.ndim == 1 else output
        _check_out(out, block)
        if out is block and np.shares_memory(rows, block):
            self._glide_and_play(rows, rows)
            return out
        output = np.empty_like(rows)
        self._glide_and_play(rows, output)
        out[...] = output.reshape(out.shape)
        return out

    def _glide_and_play(self, rows: NDArray[np.floating], output: NDArray[np.floating]) -> None:
        start, samples = 0, rows.shape[1]
        while self._glide is not None and start < samples:
            piece = rows[:, start : start + self._glide.samples_left].copy()
            self._play(piece, piece)
            output[:, start : start + piece.shape[1]] = piece
            start += piece.shape[1]
            self._glide.advance(piece.shape[1])
            self._follow(self._glide)
        if start == 0:
            self._play(rows, output)
        elif start < samples:
            rest = rows[:, start:].copy()
            self._play(rest, rest)
            output[:, start:] = rest

    def _play(self, rows: NDArray[np.floating], output: NDArray[np.floating]) -> None:
        """Contiguous arrays, which may be the same: every kernel reads a sample before it writes there."""
        own = len(self._core.rest)
        core = self._state[:, :own].copy()
        self._core.process(rows, core, output)
        self._state[:, :own] = core
        if self._taps.shape[1]:
            state = self._state[:, own:].copy()
            filter_forward(0, self._channels, output, self._taps, self._slow, state, output)
            self._state[:, own:] = state


def _form(params: CompressorParams | OpticalCellParams) -> tuple[object, ...]:
    """Which kernels parameters need, and how many numbers."""
    feedback = isinstance(params, CompressorParams) and params.feedback
    latency = None if params.output_filter is None else params.output_filter.latency
    return type(params), feedback, tuple(params.numbers()), latency


def _check_out(out: object, block: NDArray[np.floating]) -> None:
    fits = isinstance(out, np.ndarray) and out.shape == block.shape and out.dtype == block.dtype
    if not isinstance(out, np.ndarray) or not fits or not out.flags.writeable:
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"out: expected a writable array of {block.dtype} {block.shape}, as the block, got {got}")


_NOT_KEPT = np.empty((0, 3, 0))
_NOT_PASSED = np.empty((0, 0, 4))
