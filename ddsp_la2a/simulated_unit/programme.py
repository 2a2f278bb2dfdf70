"""Programme to play through the simulated unit: music-like passages and test signals, all synthesised here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal
from scipy.optimize import brentq

from ddsp_la2a.units import db_to_amplitude, seconds_to_frames

_PENTATONIC = np.array([0, 3, 5, 7, 10, 12, 15, 17])  # semitones; any two of them sound together
_VOWELS_HZ = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
_FORMANT_BANDWIDTH_HZ = 90.0
_SHARES = {"band": 6, "drums": 2, "plucked": 2, "bowed": 2, "voice": 2, "bursts": 1, "sweep": 1, "steps": 2}
_FADE_S = 0.005
_TILT_HZ = 800.0
"""Above this the spectrum falls by 6 dB an octave. Of the six real clips at hand 0.2–2.8 % of the (DC-filtered) energy
lies above 3 kHz; without the tilt it is 15 % here, and the phase of an analogue output path then outweighs all that a
compressor does to the error."""


def render_programme(seconds: float, sample_rate: float, *, seed: int | list[int], pause_s: float = 5.0) -> np.ndarray:
    """A collage of drums, strings, voice, a band of these, noise bursts, a sweep, level steps and a pause.

    Passages come in random order at 0…−9 dB; the pause follows a passage of the first half, so that the slow part of a
    release is heard whole. Root mean square −18…−15 dBFS, brought about by y = tanh(g x) with the g that fits; peak
    −3…−1.5 dBFS.

    Args:
        seconds: of the whole, greater than pause_s.
        sample_rate: Hz.
        seed: ≥ 0, one number or several; the same gives the same programme.
        pause_s: digital silence, ≥ 0.

    Shape:
        (time,), float64.

    Returns:
        The programme, full scale 1.0.

    Raises:
        ValueError: the pause takes the whole length.

    References:
        Strings: Karplus & Strong (1983), Comput. Music J. 7(2). Formants: Peterson & Barney (1952), table II.
    """
    if not 0.0 <= pause_s < seconds:
        raise ValueError(f"pause_s: expected 0 or more and less than the {seconds} s of the whole, got {pause_s}")
    rng = np.random.default_rng(seed)
    players = _Players(rng, sample_rate, root_hz=110.0 * 2.0 ** (rng.integers(0, 12) / 12.0))
    names = rng.permutation(list(_SHARES)).tolist()
    ends = np.cumsum([_SHARES[name] for name in names]) / sum(_SHARES.values())
    edges = [0, *(round(end * seconds_to_frames(seconds - pause_s, sample_rate)) for end in ends)]
    tilt = signal.butter(1, _TILT_HZ, fs=sample_rate)
    passages = [
        _faded(_normalised(signal.lfilter(*tilt, getattr(players, name)(end - start))), sample_rate)
        * db_to_amplitude(rng.uniform(-9.0, 0.0))
        for name, start, end in zip(names, edges[:-1], edges[1:], strict=True)
    ]
    passages.insert(int(rng.integers(2, len(passages) // 2 + 1)), np.zeros(seconds_to_frames(pause_s, sample_rate)))
    peak_dbfs = rng.uniform(-3.0, -1.5)
    return db_to_amplitude(peak_dbfs) * _with_crest(np.concatenate(passages), peak_dbfs - rng.uniform(-18.0, -15.0))


def _with_crest(audio: np.ndarray, crest_db: float) -> np.ndarray:
    """Audio of peak 1, saturated until its crest factor has come down to crest_db; left alone where it is below."""
    audio = _normalised(audio)
    some = audio[::8]  # enough to measure by

    def saturated(samples: np.ndarray, gain: float) -> np.ndarray:
        return np.tanh(gain * samples) / np.tanh(gain)

    def excess_db(gain: float) -> float:
        return float(-10.0 * np.log10(np.mean(saturated(some, gain) ** 2)) - crest_db)

    gentle, hard = 1e-3, 30.0
    return saturated(audio, brentq(excess_db, gentle, hard, rtol=1e-3) if excess_db(gentle) > 0.0 else gentle)


def _normalised(audio: np.ndarray) -> np.ndarray:
    return audio / max(np.max(np.abs(audio), initial=0.0), 1e-9)


def _faded(audio: np.ndarray, sample_rate: float) -> np.ndarray:
    """The same without clicks at both ends."""
    ramp = np.minimum(1.0, np.arange(audio.size) / (_FADE_S * sample_rate))
    return audio * ramp * ramp[::-1]


@dataclass(frozen=True)
class _Players:
    """Instruments that share a key and a source of chance; each plays any number of samples."""

    rng: np.random.Generator
    sample_rate: float
    root_hz: float

    def band(self, length: int) -> np.ndarray:
        weights = {"drums": 1.0, "plucked": 0.5, "bowed": 0.3, "voice": 0.6}
        return sum(
            (weight * _normalised(getattr(self, name)(length)) for name, weight in weights.items()), np.zeros(length)
        )

    def drums(self, length: int) -> np.ndarray:
        time_s = self._time_s(0.25)
        noise = self.rng.standard_normal((2, time_s.size))
        kick = np.sin(2.0 * np.pi * (50.0 * time_s - 4.0 * np.exp(-time_s / 0.03))) * np.exp(-time_s / 0.08)
        snare = 0.4 * (np.sin(2.0 * np.pi * 190.0 * time_s) + noise[0]) * np.exp(-time_s / 0.05)
        hat = 0.2 * np.diff(noise[1], prepend=0.0) * np.exp(-time_s / 0.015)
        out = np.zeros(length)
        sixteenth = 15.0 / self.rng.uniform(90.0, 140.0) * self.sample_rate
        for step in range(int(length / sixteenth) + 1):
            velocity = self.rng.uniform(0.6, 1.0)
            hit, is_played = {0: (kick, True), 4: (snare, True)}.get(step % 8, (hat, self.rng.random() < 0.7))
            _add(out, round(step * sixteenth), velocity * is_played * hit)
        return out

    def plucked(self, length: int) -> np.ndarray:
        out = np.zeros(length)
        start = 0
        while start < length:
            for _ in range(self.rng.integers(1, 4)):
                _add(out, start, self._string(self._note_hz(), self.rng.uniform(0.5, 1.5)))
            start += seconds_to_frames(self.rng.uniform(0.12, 0.5), self.sample_rate)
        return out

    def bowed(self, length: int) -> np.ndarray:
        """Two parts of long notes that swell, with vibrato and bow noise."""
        out = np.zeros(length)
        for _ in range(2):
            start = 0
            while start < length:
                time_s = self._time_s(self.rng.uniform(0.6, 1.4))
                vibrato = 1.0 + 0.006 * np.sin(2.0 * np.pi * 5.5 * time_s)
                tone = self._oscillate(self._note_hz() * vibrato, slope=1.0)
                swell = signal.windows.cosine(time_s.size) ** 0.5
                _add(out, start, swell * (tone + 0.02 * self.rng.standard_normal(time_s.size)))
                start += round(0.95 * time_s.size)
        return out

    def voice(self, length: int) -> np.ndarray:
        """Syllables: a gliding glottal pulse train through three formants, some with a breath in front."""
        out = np.zeros(length)
        start = 0
        while start < length:
            time_s = self._time_s(self.rng.uniform(0.12, 0.4))
            glide = 2.0 ** (self.rng.uniform(-0.3, 0.3) * time_s / time_s[-1])
            pulses = self._oscillate(0.5 * self._note_hz() * glide, slope=1.3)
            breath = 0.5 * self.rng.standard_normal(time_s.size) * np.exp(-time_s / 0.02)
            vowel = _VOWELS_HZ[self.rng.integers(len(_VOWELS_HZ))]
            sound = sum(
                (self._formant(pulses + breath, hz) / (1 + k) for k, hz in enumerate(vowel)), np.zeros(time_s.size)
            )
            loudness = self.rng.uniform(0.4, 1.0) * signal.windows.cosine(time_s.size) ** 0.3
            _add(out, start, loudness * _normalised(sound))
            start += time_s.size + seconds_to_frames(self.rng.choice([0.0, 0.03, 0.15]), self.sample_rate)
        return out

    def bursts(self, length: int) -> np.ndarray:
        """Noise, nearly white to nearly brown, from clicks of 2 ms to bursts of 0.3 s, at −24…0 dB."""
        out = np.zeros(length)
        start = 0
        while start < length:
            size = seconds_to_frames(0.002 * 150.0 ** self.rng.random(), self.sample_rate)
            noise = signal.lfilter([1.0], [1.0, -self.rng.uniform(0.5, 0.97)], self.rng.standard_normal(size))
            _add(out, start, db_to_amplitude(self.rng.uniform(-24.0, 0.0)) * _normalised(noise))
            start += size + seconds_to_frames(self.rng.uniform(0.02, 0.2), self.sample_rate)
        return out

    def sweep(self, length: int) -> np.ndarray:
        """Exponential sine sweep over most of the band, up or down."""
        frequency_hz = np.geomspace(self.rng.uniform(40.0, 80.0), 0.35 * self.sample_rate, length)
        frequency_hz = frequency_hz[:: self.rng.choice([-1, 1])]
        return np.sin(2.0 * np.pi * np.cumsum(frequency_hz) / self.sample_rate)

    def steps(self, length: int) -> np.ndarray:
        """A tone whose level jumps every 0.05…0.4 s, within 30 dB."""
        level_db = np.zeros(length)
        start = 0
        while start < length:
            size = seconds_to_frames(self.rng.uniform(0.05, 0.4), self.sample_rate)
            level_db[start : start + size] = self.rng.uniform(-30.0, 0.0)
            start += size
        frequency_hz = self._note_hz() * self.rng.choice([1, 2, 4, 8])
        return db_to_amplitude(level_db) * np.sin(2.0 * np.pi * frequency_hz * np.arange(length) / self.sample_rate)

    def _time_s(self, seconds: float) -> np.ndarray:
        return np.arange(seconds_to_frames(seconds, self.sample_rate)) / self.sample_rate

    def _note_hz(self) -> float:
        return self.root_hz * 2.0 ** (self.rng.choice(_PENTATONIC) / 12.0)

    def _string(self, frequency_hz: float, seconds: float) -> np.ndarray:
        """Karplus–Strong, all periods at once: the loop's filter acts once a period, so period r is ρʳ Hʳ of the first.

        The two-point average H is taken around the circle of one period.
        """
        period = round(self.sample_rate / frequency_hz)
        periods = round(seconds * self.sample_rate / period)
        damping = 0.998 * (1.0 + np.exp(-2j * np.pi * np.arange(period // 2 + 1) / period)) / 2.0
        decay = np.multiply.accumulate(np.broadcast_to(damping, (periods, damping.size)))
        string = np.fft.irfft(np.fft.rfft(self.rng.uniform(-1.0, 1.0, period)) * decay, period).ravel()
        return self.rng.uniform(0.5, 1.0) * string * np.linspace(1.0, 0.0, string.size) ** 0.5

    def _oscillate(self, frequency_hz: np.ndarray, slope: float) -> np.ndarray:
        """A tone of harmonics k with amplitudes k^−slope, all of them below the band's edge; peak 1."""
        harmonics = np.arange(1, max(2, int(0.4 * self.sample_rate / np.max(frequency_hz))))
        points = 2048
        spectrum = np.zeros(points // 2 + 1, complex)
        spectrum[harmonics] = -1j * harmonics**-slope
        table = _normalised(np.fft.irfft(spectrum, points))
        phase = np.cumsum(frequency_hz) / self.sample_rate % 1.0
        return np.interp(phase * points, np.arange(points + 1), np.append(table, table[0]))

    def _formant(self, audio: np.ndarray, frequency_hz: float) -> np.ndarray:
        return signal.lfilter(
            *signal.iirpeak(frequency_hz, frequency_hz / _FORMANT_BANDWIDTH_HZ, fs=self.sample_rate), audio
        )


def _add(out: np.ndarray, start: int, sound: np.ndarray) -> None:
    """Mix a sound into out, cut off where out ends."""
    room = out[start : start + sound.size]
    room += sound[: room.size]
