"""The simulated LA-2A as a device one records through."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import signal

from ddsp_la2a.simulated_unit.cell import run_cell
from ddsp_la2a.simulated_unit.constants import UnitConstants
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude

OVERSAMPLING = 4
"""Steps of the physical model per sample."""

LOWEST_SAMPLE_RATE = 16000
"""Below it the oversampled band (Hz) would no longer hold the corner of the output transformer."""

_HALF_LENGTH = 24 * OVERSAMPLING  # of the filters between the two rates
_DRIFT_PERIODS_S = (11.0, 29.0, 67.0)
_DRIFT_HOLD = 64  # samples; within them the drift moves by less than 0.001 dB


@dataclass(frozen=True)
class SimulatedLA2A:
    """A levelling amplifier to record from where no hardware is at hand.

    Feedback side-chain → electroluminescent panel → photo-resistor with three trap levels → tubes → transformers →
    noise. Results carry the word "simulated" wherever they are printed.

    Args:
        constants: of the unit; the nominal one by default.
        seed: ≥ 0, of what differs from one recording to the next: noise and the phase of the drift.

    References:
        See :class:`UnitConstants`.
    """

    constants: UnitConstants = field(default_factory=UnitConstants)
    seed: int = 0

    def record(
        self,
        audio: np.ndarray,
        sample_rate: float,
        compress_or_limit: int,
        peak_reduction: float,
        *,
        noise: bool = True,
    ) -> np.ndarray:
        """What comes back when audio is played through the unit, which has rested in the dark before.

        With v the signal behind the cell, κ the tube's curvature and θ its working point,
        y = gain · h ∗ (tanh(κ v + θ) − tanh θ) / (κ (1 − tanh² θ)) + noise, where h is the transformers' response.

        Args:
            audio: mono, floating-point, full scale 1.0, finite.
            sample_rate: Hz, at least 16000.
            compress_or_limit: 0 compress, 1 limit.
            peak_reduction: position of the knob, 0…100.
            noise: whether the unit's own noise is added.

        Shape:
            (time,) to (time,), float64; no latency but the transformers' own. Beyond its ends the audio is silent.

        Returns:
            The recording, full scale 1.0, not clipped.

        Raises:
            ValueError: an argument is not as stated.
        """
        behind, _ = self._run_cell(audio, sample_rate, compress_or_limit, peak_reduction)
        if not behind.size:
            return behind
        unit = self.constants
        theta = math.atanh(unit.tube_bias)
        tubes = np.tanh(unit.tube_curvature * behind + theta) - np.tanh(theta)  # exactly 0 in silence
        tubes *= unit.output_gain / (unit.tube_curvature * (1.0 - unit.tube_bias**2))
        start = _HALF_LENGTH // OVERSAMPLING  # of the recording in the filter's causal response
        recording = signal.upfirdn(self._output_taps(sample_rate), tubes, down=OVERSAMPLING)
        recording = recording[start : start + behind.size // OVERSAMPLING]
        recording = signal.lfilter(*signal.butter(1, unit.highpass_hz, "highpass", fs=sample_rate), recording)
        if noise:
            recording += db_to_amplitude(unit.noise_dbfs) * self._rng("noise").standard_normal(recording.size)
        return recording

    def gain_reduction_db(
        self, audio: np.ndarray, sample_rate: float, compress_or_limit: int, peak_reduction: float
    ) -> np.ndarray:
        """What the unit's meter would show without inertia: 20 log10(1 + c) of the cell's conductance c.

        Args:
            audio: as for :meth:`record`.
            sample_rate: as for :meth:`record`.
            compress_or_limit: as for :meth:`record`.
            peak_reduction: as for :meth:`record`.

        Shape:
            (time,) to (time,), float64.

        Returns:
            Gain reduction in dB, ≥ 0.

        Raises:
            ValueError: an argument is not as stated.
        """
        _, attenuation = self._run_cell(audio, sample_rate, compress_or_limit, peak_reduction)
        return amplitude_to_db(attenuation[::OVERSAMPLING])

    def _run_cell(
        self, audio: np.ndarray, sample_rate: float, compress_or_limit: int, peak_reduction: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Signal behind the cell and its attenuation, both oversampled, after checking the arguments."""
        audio = np.asarray(audio)
        _require(audio.ndim == 1, "audio: expected one channel of shape (time,)", audio.shape)
        _require(np.issubdtype(audio.dtype, np.floating), "audio: expected floating-point samples", audio.dtype)
        bad = np.count_nonzero(~np.isfinite(audio))
        _require(bad == 0, "audio: expected finite samples", f"{bad} that are NaN or infinite")
        _require(
            LOWEST_SAMPLE_RATE <= sample_rate < math.inf,
            f"sample_rate: expected at least {LOWEST_SAMPLE_RATE} Hz",
            sample_rate,
        )
        _require(compress_or_limit in (0, 1), "compress_or_limit: expected 0 or 1", compress_or_limit)
        _require(0 <= peak_reduction <= 100, "peak_reduction: expected 0…100", peak_reduction)
        if not audio.size:
            return np.empty(0), np.empty(0)
        oversampled = signal.upfirdn(OVERSAMPLING * _interpolation_taps(), audio.astype(np.float64), up=OVERSAMPLING)
        return run_cell(
            oversampled[_HALF_LENGTH : _HALF_LENGTH + OVERSAMPLING * audio.size],
            self.constants.side_chain_gain_at(peak_reduction) * self._drift(audio.size, sample_rate),
            OVERSAMPLING * _DRIFT_HOLD,
            OVERSAMPLING * sample_rate,
            compress_or_limit == 1,
            self.constants,
        )

    def _drift(self, length: int, sample_rate: float) -> np.ndarray:
        """Factor of the side-chain gain every 64 samples; wanders over tens of seconds, as heaters and lamp do."""
        phases = self._rng("drift").uniform(0.0, 2.0 * math.pi, len(_DRIFT_PERIODS_S))
        time_s = np.arange(0, length, _DRIFT_HOLD) / sample_rate
        swings = (
            np.sin(2.0 * math.pi * time_s / period_s + phase)
            for period_s, phase in zip(_DRIFT_PERIODS_S, phases, strict=True)
        )
        return db_to_amplitude(self.constants.drift_db / len(_DRIFT_PERIODS_S) * sum(swings))

    def _output_taps(self, sample_rate: float) -> np.ndarray:
        """Decimation filter times the transformers' low-pass and delay, as one response sampled in frequency.

        A bilinear transform would bend the low-pass by several percent at 20 kHz.
        """
        unit = self.constants
        taps = _interpolation_taps()
        length = 2 * taps.size
        s = 2j * math.pi * np.fft.rfftfreq(length, 1.0 / (OVERSAMPLING * sample_rate))
        corner = 2.0 * math.pi * unit.lowpass_hz
        response = np.exp(-s * unit.delay_us * 1e-6) / (1.0 + s / (unit.lowpass_q * corner) + (s / corner) ** 2)
        return np.fft.irfft(np.fft.rfft(taps, length) * response, length)[: taps.size]

    def _rng(self, purpose: str) -> np.random.Generator:
        """Independent random numbers for every purpose, so that switching one off leaves the other as it was."""
        return np.random.default_rng([self.seed, *purpose.encode()])


def _interpolation_taps() -> np.ndarray:
    """Linear-phase low-pass at the audio band's edge, flat to nine tenths of it; stop band −80 dB."""
    return signal.firwin(2 * _HALF_LENGTH + 1, 1.0 / OVERSAMPLING, window=("kaiser", 8.0))


def _require(condition: bool | np.bool_, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{expected}, got {value}")
