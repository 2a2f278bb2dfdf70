"""What is played through a unit to measure it: sync bursts at both ends, test signals and programme between them.

=========================== ===================================================================================
seconds                     what
=========================== ===================================================================================
0.5                         silence
0.25                        sync: five rising chirps
3.25                        silence; the unit recovers, the last two seconds tell the noise floor
21 and 3                    1 kHz at −50, −45 … 0 … −50 dBFS, a second each; silence
20.22                       1 kHz at −6 dBFS for 20 ms, 200 ms, 1 s and 5 s, each with silence for the release
10 and 4                    sweeps from 20 Hz at −40 and −10 dBFS, each with silence
the rest                    programme: drums, strings, voice, bursts, level steps
3.25                        silence
0.25                        sync: the first one played backwards
0.5                         silence
=========================== ===================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import signal

from ddsp_la2a.data.audio import read_audio
from ddsp_la2a.simulated_unit.programme import render_programme
from ddsp_la2a.units import db_to_amplitude, seconds_to_frames

MIN_SECONDS = 75.0
"""Shortest stimulus; below it next to no programme would be left beside the test signals."""

SAMPLE_RATES = (8000, 192000)
"""Lowest and highest sample rate in Hz."""

STEP_LEVELS_DB = (*range(-50, 0, 5), *range(0, -51, -5))
"""Peak levels (dBFS) of the 1 kHz steps, a second each."""

_EDGE_S, _SYNC_S, _SILENCE_S = 0.5, 0.25, 3.25
_NOISE_S = 2.0
_STEP_S, _STEPS_PAUSE_S = 1.0, 3.0
_TONE_HZ = 1000.0
_BURSTS_S = ((0.02, 3.0), (0.2, 3.0), (1.0, 3.0), (5.0, 5.0))  # length and the pause behind it
_BURST_DB = -6.0
_SWEEPS_DB = ((-40.0, 1.0), (-10.0, 3.0))
_SWEEP_S, _FADE_S = 5.0, 0.02
_PROGRAMME_START_S = (
    _EDGE_S
    + _SYNC_S
    + _SILENCE_S
    + _STEP_S * len(STEP_LEVELS_DB)
    + _STEPS_PAUSE_S
    + sum(length + pause for length, pause in _BURSTS_S)
    + sum(_SWEEP_S + pause for _, pause in _SWEEPS_DB)
)

_CHIRP_S, _CHIRP_HZ, _CHIRP_DB = 0.01, (500.0, 8000.0), -24.0
_CHIRP_STARTS_S = (0.0, 0.04, 0.09, 0.15, 0.22)  # no two of them are as far apart as two others
_LEAST_LIKENESS = 0.99


class Sync(NamedTuple):
    """Bursts that say where in a recording the stimulus stands."""

    burst: np.ndarray
    """One burst, shape (burst_frames,)."""
    starts: np.ndarray
    """First frame of every burst in the stimulus, int64."""

    @property
    def centres(self) -> np.ndarray:
        """Middle of every burst in frames of the stimulus, with a fraction."""
        return self.starts + 0.5 * (len(self.burst) - 1)


def stimulus(seconds: float, sample_rate: int) -> np.ndarray:
    """The whole stimulus; the same length and rate always give the same samples.

    Args:
        seconds: of the whole, at least :data:`MIN_SECONDS`.
        sample_rate: Hz, within :data:`SAMPLE_RATES`.

    Shape:
        ``(time,)``, float64.

    Returns:
        Samples within ±1, which is full scale; the tone at 0 dBFS reaches it.

    Raises:
        ValueError: too short, or a sample rate out of range.
    """
    if not seconds >= MIN_SECONDS:
        raise ValueError(f"seconds: expected at least {MIN_SECONDS:g} for test signals and programme, got {seconds:g}")
    _require_rate(sample_rate, "sample_rate")
    frames = seconds_to_frames(seconds, sample_rate)
    programme = programme_frames(frames, sample_rate)
    out = np.zeros(frames)
    for sync in syncs(frames, sample_rate):
        for start in sync.starts:
            out[start : start + len(sync.burst)] = sync.burst
    test_signals = _test_signals(sample_rate)
    out[programme.start - len(test_signals) : programme.start] = test_signals
    length = programme.stop - programme.start
    out[programme] = render_programme(length / sample_rate, sample_rate, seed=0, pause_s=3.0)[:length]
    return out


def read_stimulus(path: str | Path) -> tuple[np.ndarray, int]:
    """Read the stimulus that was played; what stands between the sync bursts may be anything.

    Args:
        path: the file that :func:`stimulus` went to, or a copy of it in another format or at another level.

    Shape:
        ``(time,)``, float32.

    Returns:
        samples and the sample rate in Hz.

    Raises:
        FileNotFoundError: nothing at this path.
        ValueError: unreadable, not mono, or without the sync bursts where they belong.
    """
    audio, sample_rate = read_audio(path)
    _require_rate(sample_rate, f"{path}: sample rate")
    if len(audio) >= seconds_to_frames(MIN_SECONDS, sample_rate) and all(
        _likeness(audio[start : start + len(sync.burst)], sync.burst) > _LEAST_LIKENESS
        for sync in syncs(len(audio), sample_rate)
        for start in sync.starts
    ):
        return audio, sample_rate
    raise ValueError(
        f"{path}: expected the file that 'ddsp-la2a capture stimulus' wrote, got one without its sync bursts; "
        "give the stimulus that was played, uncut"
    )


def syncs(frames: int, sample_rate: int) -> tuple[Sync, Sync]:
    """First and last sync of a stimulus.

    A burst is a Tukey-windowed linear chirp of 10 ms over 500…8000 Hz (less at low rates) at −24 dBFS: short and low
    enough for a compressor to forget it at once, long enough to stand 20 dB above a noise of its own level. The last
    sync is the first one backwards, chirps and rhythm, so that neither is taken for the other.

    Args:
        frames: length of the stimulus.
        sample_rate: Hz.
    """
    time_s = np.arange(seconds_to_frames(_CHIRP_S, sample_rate)) / sample_rate
    high_hz = min(_CHIRP_HZ[1], 0.4 * sample_rate)
    chirp = signal.chirp(time_s, _CHIRP_HZ[0], _CHIRP_S, high_hz) * signal.windows.tukey(len(time_s), 0.25)
    chirp *= db_to_amplitude(_CHIRP_DB)
    starts = np.array([seconds_to_frames(_EDGE_S + start, sample_rate) for start in _CHIRP_STARTS_S])
    return Sync(chirp, starts), Sync(chirp[::-1], frames - len(chirp) - starts[::-1])


def noise_frames(sample_rate: int) -> slice:
    """The silence in which the noise floor is measured."""
    stop = seconds_to_frames(_EDGE_S + _SYNC_S + _SILENCE_S, sample_rate)
    return slice(stop - seconds_to_frames(_NOISE_S, sample_rate), stop)


def step_frames(sample_rate: int) -> list[slice]:
    """Every level step, in the order of :data:`STEP_LEVELS_DB`."""
    first, length = noise_frames(sample_rate).stop, seconds_to_frames(_STEP_S, sample_rate)
    return [slice(first + step * length, first + (step + 1) * length) for step in range(len(STEP_LEVELS_DB))]


def programme_frames(frames: int, sample_rate: int) -> slice:
    """The programme in a stimulus of that many frames."""
    end = frames - seconds_to_frames(_SILENCE_S + _SYNC_S + _EDGE_S, sample_rate)
    return slice(seconds_to_frames(_PROGRAMME_START_S, sample_rate), end)


def _test_signals(sample_rate: int) -> np.ndarray:
    """Level steps, tone bursts and sweeps. All tones begin and end at a zero of the sine, so nothing clicks."""

    def silence(seconds: float) -> np.ndarray:
        return np.zeros(seconds_to_frames(seconds, sample_rate))

    def tone(level_db: float, seconds: float) -> np.ndarray:
        time_s = np.arange(seconds_to_frames(seconds, sample_rate)) / sample_rate
        return db_to_amplitude(level_db) * np.sin(2.0 * np.pi * _TONE_HZ * time_s)

    def sweep(level_db: float) -> np.ndarray:
        time_s = np.arange(seconds_to_frames(_SWEEP_S, sample_rate)) / sample_rate
        high_hz = min(20000.0, 0.45 * sample_rate)
        swept = signal.chirp(time_s, 20.0, _SWEEP_S, high_hz, method="logarithmic", phi=-90)
        fade = np.minimum(1.0, np.minimum(time_s, time_s[::-1]) / _FADE_S)
        return db_to_amplitude(level_db) * fade * swept

    parts = [tone(level_db, _STEP_S) for level_db in STEP_LEVELS_DB]
    parts.append(silence(_STEPS_PAUSE_S))
    for seconds, pause_s in _BURSTS_S:
        parts += [tone(_BURST_DB, seconds), silence(pause_s)]
    for level_db, pause_s in _SWEEPS_DB:
        parts += [sweep(level_db), silence(pause_s)]
    return np.concatenate(parts)


def _likeness(audio: np.ndarray, burst: np.ndarray) -> float:
    energy = float(np.sum(audio.astype(np.float64) ** 2) * np.sum(burst**2))
    return float(np.sum(audio * burst) / np.sqrt(energy)) if energy > 0.0 else 0.0


def _require_rate(sample_rate: int, name: str) -> None:
    low, high = SAMPLE_RATES
    if not low <= sample_rate <= high:
        raise ValueError(f"{name}: expected {low} to {high} Hz, got {sample_rate}")
