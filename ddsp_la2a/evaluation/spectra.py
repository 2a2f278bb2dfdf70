"""Sums over blocks that the multi-resolution STFT distance is made of.

Conventions as in :mod:`~ddsp_la2a.evaluation.metrics`, whose function says what the distance is.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft
from scipy.signal import get_window

from ddsp_la2a.evaluation.scored_audio import Array, Energies, require_length

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""FFT size, hop and window length in frames: auraloss' defaults."""

POWER_FLOOR = 1e-8
"""Least squared magnitude of an STFT bin, as in auraloss."""

_TRANSFORMED_AT_ONCE = 128
"""STFT frames: a few megabytes, which stay in the cache."""


class MultiResolution:
    """Distance of the spectra of an estimate and its target."""

    def __init__(self) -> None:
        self._energies = Energies(2)
        self._resolutions = [_Resolution(*numbers) for numbers in RESOLUTIONS]

    def add(self, audio: Array, skip: int) -> None:
        """Take the next frames of estimate and target."""
        self._energies.add(audio[:, skip:])
        for resolution in self._resolutions:
            resolution.add(audio[:, skip:])

    @property
    def distance(self) -> float:
        """Mean over resolutions; NaN for a silent target.

        Raises:
            TooShortError: half an FFT can't be mirrored at both ends.
        """
        require_length("mr_stft", self._energies.frames, max(size for size, _, _ in RESOLUTIONS) // 2 + 1)
        if self._energies.silent[1]:
            return math.nan
        return sum(resolution.distance for resolution in self._resolutions) / len(self._resolutions)


class _Resolution:
    """Spectral convergence plus log-magnitude distance at one resolution; STFT frame k is centred on sample k · hop.

    Both ends are mirrored by half an FFT.
    """

    def __init__(self, fft_size: int, hop: int, window_length: int) -> None:
        margin = (fft_size - window_length) // 2
        self._window = np.pad(get_window("hann", window_length), (margin, fft_size - window_length - margin))
        self._half, self._hop = fft_size // 2, hop
        self._waiting = np.empty((2, 0))  # from the first sample of the next STFT frame on
        self._begun = False
        self._sums = np.zeros(4)

    def add(self, scored: Array) -> None:
        """Take the next scored frames of estimate and target."""
        self._waiting = np.concatenate([self._waiting, scored], axis=1)
        if not self._begun:
            if self._waiting.shape[1] <= self._half:
                return
            self._waiting = np.concatenate([self._waiting[:, self._half : 0 : -1], self._waiting], axis=1)
            self._begun = True
        if self._waiting.shape[1] >= len(self._window):
            frames = self._frames(self._waiting)
            self._sums += self._summed(frames)
            self._waiting = self._waiting[:, frames.shape[1] * self._hop :]

    @property
    def distance(self) -> float:
        mirrored = self._waiting[:, -2 : -self._half - 2 : -1]
        end = self._frames(np.concatenate([self._waiting, mirrored], axis=1))
        count, error, energy, log_distance = self._sums + self._summed(end)
        return math.sqrt(error / energy) + float(log_distance / count)

    def _frames(self, audio: Array) -> Array:
        """STFT frames ``(2, frames, samples)`` of what isn't shorter than one."""
        return np.lib.stride_tricks.sliding_window_view(audio, len(self._window), axis=1)[:, :: self._hop]

    def _summed(self, frames: Array) -> Array:
        """Bins, energy of the difference of magnitudes, energy of the target, distance of log magnitudes."""
        sums = np.zeros(4)
        for first in range(0, frames.shape[1], _TRANSFORMED_AT_ONCE):
            spectra = fft.rfft(self._window * frames[:, first : first + _TRANSFORMED_AT_ONCE])
            power_hat, power = np.maximum(spectra.real**2 + spectra.imag**2, POWER_FLOOR)
            error = np.sum((np.sqrt(power_hat) - np.sqrt(power)) ** 2)
            sums += power.size, error, np.sum(power), 0.5 * np.sum(np.abs(np.log(power / power_hat)))
        return sums
