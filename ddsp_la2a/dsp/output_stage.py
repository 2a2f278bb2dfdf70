"""What the analogue path adds after the gain: a fractional delay and a little colour."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddsp_la2a.dsp import filter_kernels
from ddsp_la2a.dsp.checks import check_sample_rate, known_any
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.row_functions import FirstDerivative, LoopFunction, as_array
from ddsp_la2a.dsp.side_chain import REFERENCE_HZ

COEFFICIENTS = 5
"""Numbers of an output filter as it is fitted: two taps to either side, then the slow pole. A recorded target may lead
its input by a sample, so the filter reaches ahead and its output comes late."""

_POLE_HZ = 10.0
"""Coupling capacitors and transformers cut the lowest frequencies. Any pole down there will do: between 5 and 15 Hz the
error on real recordings is the same, because its share in the output is fitted."""

_MATCHED_TO = 0.45
_MATCHED_FREQUENCIES = 256
_FURTHER_UP, _FURTHER_DOWN = 6, 12
_RIDGE = 1e-8


@dataclass(frozen=True)
class OutputFilter:
    """A short linear filter near unity.

    ::

        H(z) = (1 + Σ c_k (z^−k − cos ω k) + c_p (P(z) − Re P)) / |the same at 1 kHz|,   k = −L … L without 0
        P(z) = (1 − p) / (1 − p z⁻¹),   p = exp(−2π 10 Hz / sample_rate)

    with ω and Re P taken at 1 kHz. All numbers 0 is no filter at all. The gain at 1 kHz is 1; what is left of it there
    is a delay, so gain (the make-up), delay and colour are three things apart: :attr:`delay_us` and :meth:`colour`.

    Args:
        coefficients: c_−L … c_−1, c_1 … c_L, c_p; the k-th delays by k samples. Fits have L = 2.
        sample_rate: in Hz, which they belong to; :meth:`at` gives those of another.

    Shape:
        coefficients ``(2 L + 1,)`` or ``(batch, 2 L + 1)``.

    :meth:`response`, :attr:`delay_us` and :meth:`colour` are there for a single filter.

    Raises:
        ValueError: another shape, or a coefficient that is not finite.
    """

    coefficients: Tensor
    sample_rate: float

    def __post_init__(self) -> None:
        check_sample_rate(self.sample_rate)
        shape = tuple(self.coefficients.shape) if isinstance(self.coefficients, Tensor) else None
        if shape is None or len(shape) not in (1, 2) or shape[-1] < 3 or shape[-1] % 2 == 0:
            got = type(self.coefficients).__name__ if shape is None else shape
            raise ValueError(f"coefficients: expected a tensor (2 L + 1,) or (batch, 2 L + 1), got {got}")
        if known_any(~torch.isfinite(self.coefficients.detach())):
            raise ValueError(f"coefficients: expected finite numbers, got {self.coefficients.tolist()}")

    @property
    def latency(self) -> int:
        """Samples by which the output is late: L."""
        return self.coefficients.shape[-1] // 2

    @property
    def states(self) -> int:
        """How many numbers its state has: the last 2 L samples, oldest first, then the slow pole's output."""
        return 2 * self.latency + 1

    @property
    def taps(self) -> Tensor:
        """Weights of the 2 L + 1 samples, the latest one's first, then of P, ``(…, 2 L + 2)``."""
        c, middle = self.coefficients.double(), self.latency
        reference = _basis(torch.tensor([REFERENCE_HZ], dtype=torch.float64), self.sample_rate, middle)[:, 0]
        side = torch.cat([reference[:middle], reference[middle + 1 :]])
        centre = 1.0 - c @ side.real
        taps = torch.cat([c[..., :middle], centre[..., None], c[..., middle:]], dim=-1)
        imaginary = c @ side.imag  # at 1 kHz, where the real part is 1
        return taps / torch.hypot(torch.ones_like(imaginary), imaginary)[..., None]

    def response(self, frequencies_hz: ArrayLike) -> NDArray[np.complex128]:
        """Frequency response, gain 1 at 1 kHz, latency taken out; of the shape of the frequencies."""
        frequencies = np.asarray(frequencies_hz, dtype=np.float64)
        basis = _basis(torch.from_numpy(frequencies.ravel()), self.sample_rate, self.latency).numpy()
        return np.asarray((self.taps.detach().numpy() @ basis).reshape(frequencies.shape))

    @property
    def delay_us(self) -> float:
        """Phase delay at 1 kHz in microseconds; negative where the output leads."""
        return float(-np.angle(self.response(REFERENCE_HZ)) / (2e-6 * np.pi * REFERENCE_HZ))

    def colour(self, frequencies_hz: ArrayLike) -> NDArray[np.complex128]:
        """Response without the delay: unit gain and no phase at 1 kHz."""
        frequencies = np.asarray(frequencies_hz, dtype=np.float64)
        return np.asarray(self.response(frequencies) * np.exp(2j * np.pi * frequencies * self.delay_us * 1e-6))

    def at(self, sample_rate: float) -> OutputFilter:
        """The filter of the same kind that comes nearest to this one at another sample rate.

        Least squares of the two responses over the frequencies that both rates have.
        """
        check_sample_rate(sample_rate)
        if sample_rate == self.sample_rate:
            return self
        top = _MATCHED_TO * min(sample_rate, self.sample_rate)
        frequencies = torch.cat(
            [
                torch.linspace(0.0, top, _MATCHED_FREQUENCIES, dtype=torch.float64),
                torch.logspace(0.0, math.log10(top), _MATCHED_FREQUENCIES, dtype=torch.float64),
            ]
        )
        wanted = self.taps.to(torch.complex128) @ _basis(frequencies, self.sample_rate, self.latency)
        further = _FURTHER_UP if sample_rate > self.sample_rate else _FURTHER_DOWN
        latency = math.ceil(self.latency * max(1.0, sample_rate / self.sample_rate)) + further
        basis = _basis(frequencies, sample_rate, latency)
        matrix = (basis.conj() @ basis.T).real
        matrix = matrix + _RIDGE * len(frequencies) * torch.eye(len(matrix), dtype=torch.float64)
        taps = torch.linalg.solve(matrix, (wanted @ basis.conj().T).real[..., None])[..., 0]
        return OutputFilter(from_taps(taps, sample_rate)[0], sample_rate)


def from_taps(taps: Tensor, sample_rate: float) -> tuple[Tensor, Tensor]:
    """Coefficients ``(…, 2 L + 1)`` of a filter with these taps ``(…, 2 L + 2)``, and its gain at 1 kHz ``(…,)``.

    Raises:
        ValueError: the filter turns a 1 kHz tone round, or takes it away.
    """
    middle = taps.shape[-1] // 2 - 1
    reference = _basis(torch.tensor([REFERENCE_HZ], dtype=torch.float64), sample_rate, middle)[:, 0]
    real = taps @ reference.real
    if known_any(~(real.detach() > 0.0)):
        got = float(real.min())
        raise ValueError(f"taps: expected a filter that leaves a 1 kHz tone upright, got a gain of {got:g}")
    side = torch.cat([taps[..., :middle], taps[..., middle + 1 :]], dim=-1)
    return side / real[..., None], torch.hypot(real, taps @ reference.imag)


def _basis(frequencies_hz: Tensor, sample_rate: float, latency: int) -> Tensor:
    """Responses of the taps and of the slow pole, ``(2 latency + 2, frequencies)``."""
    omega = 2.0 * torch.pi * frequencies_hz / sample_rate
    delays = torch.arange(-latency, latency + 1, dtype=torch.float64)[:, None]
    pole = 1.0 - slow_coefficient(sample_rate)
    slow = (1.0 - pole) / (1.0 - pole * torch.exp(-1j * omega))
    return torch.cat([torch.exp(-1j * delays * omega), slow[None]])


def slow_coefficient(sample_rate: float) -> float:
    """1 − p of the slow pole."""
    return -math.expm1(-2.0 * math.pi * _POLE_HZ / sample_rate)


def output_filter(signal: Tensor, taps: Tensor, sample_rate: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter a signal, L samples late; differentiable once in everything but the rate, in both modes, under ``vmap``.

    Args:
        signal: float32 or float64.
        taps: :attr:`OutputFilter.taps`.
        sample_rate: in Hz.
        state: zeros for a unit at rest, or what an earlier call returned.

    Shape:
        signal ``(batch, time)``, taps ``(2 L + 2,)`` or ``(batch, 2 L + 2)``, state ``(batch, 2 L + 1)``.

    Returns:
        The output in the signal's dtype and the state after it, float64.
    """
    if signal.shape[1] == 0:
        return signal.clone(), state.clone()
    return _Filter.apply(slow_coefficient(sample_rate), signal, taps.expand(len(signal), -1), state)


class _FilterAdjoint(FirstDerivative):
    operator = "compressor"

    @staticmethod
    def forward(
        coefficient: float, grad_output: Tensor, grad_state: Tensor, signal: Tensor, taps: Tensor, state: Tensor
    ) -> tuple[Tensor, ...]:
        grad_signal, grad_taps = (
            torch.empty(signal.shape, dtype=signal.dtype),
            torch.empty(taps.shape, dtype=taps.dtype),
        )
        adjoint = grad_state.to(device="cpu", dtype=torch.float64, copy=True).contiguous()
        arrays = map(as_array, (state, grad_output, grad_signal, grad_taps, adjoint))
        inputs = as_array(signal), as_array(taps), coefficient
        over_rows(filter_kernels.filter_backward, *signal.shape, *inputs, *arrays)
        return tuple(part.to(signal.device) for part in (grad_signal, grad_taps, adjoint))


class _FilterTangent(FirstDerivative):
    """The output is linear in signal and state together, and in the taps."""

    operator = "compressor"

    @staticmethod
    def forward(coefficient: float, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        signal, taps, state, d_signal, d_taps, d_state = inputs
        if d_signal.shape != signal.shape:
            d_signal = torch.zeros_like(signal)
        moved, d_after = _Filter.forward(coefficient, d_signal.to(signal), taps, d_state)
        return moved + _Filter.forward(coefficient, signal, d_taps, state)[0], d_after


class _Filter(LoopFunction):
    adjoint, tangent = _FilterAdjoint, _FilterTangent

    @staticmethod
    def forward(coefficient: float, signal: Tensor, taps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output = torch.empty(signal.shape, dtype=signal.dtype)
        after = state.to(device="cpu", copy=True).contiguous()
        arrays = as_array(signal), as_array(taps), coefficient, as_array(after), as_array(output)
        over_rows(filter_kernels.filter_forward, *signal.shape, *arrays)
        return output.to(signal.device), after.to(signal.device)
