"""The test signal of :mod:`ddsp_la2a.evaluation.measure`, and how gain is read from what a unit makes of it.

A tone of about 1 kHz whose level is all that changes. It never pauses, so there is a gain to read at any time:

======================= ============ =============
what for                seconds      level, dBFS
======================= ============ =============
gain at rest            1            −40
short loud passage      0.05, 5      −6, −40
attack                  0.5, 6       −6, −40
attack, a quarter of a
period ahead            0.5, 5       −6, −40
long loud passage       5, 10        −6, −40
static curve            5, 61 × 0.5  −60, −60 … 0
======================= ============ =============

Levels only rise where the static curve is read, so that a unit has to attack, which is quick, and never to release.

A period is a multiple of four samples, so that every half-wave reaches the level, a square wave has no offset, and a
quarter of a period can be shifted without interpolation. The tone lies at 1 kHz where the sample rate is a multiple of
4 kHz, else within a tenth of it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from ddsp_la2a.units import LEVEL_FLOOR, db_to_amplitude, seconds_to_frames

Array = NDArray[np.float64]
Waveform = Literal["sine", "square"]

QUIET_DBFS, LOUD_DBFS = -40.0, -6.0
"""Levels between which the gain is made to step."""

SHORT_S, STEP_S, LONG_S = 0.05, 0.5, 5.0
"""Length of the loud passages: a short one, one for the attack and a long one."""

REST, SHORT, SHORT_RECOVERY, STEP, _, _, STEP_AHEAD, _, LONG, LONG_RECOVERY = range(10)
"""Passages of :func:`passages`."""

LEVELS_DBFS = np.arange(-60.0, 1.0)
"""Levels at which the static curve is read."""

LOWEST_SAMPLE_RATE = 8000
"""Below it a period would have fewer than eight samples."""

_REST_S, _SHORT_RECOVERY_S, _LONG_RECOVERY_S = 1.0, 5.0, 10.0
_LEVEL_S = 0.5
_READ = (0.5, 0.9)
EARLIEST_S, LATEST_S = -0.005, 0.05
"""How late an output may be."""

_ALIKE = 0.35  # steps of the level as played and as recorded: 1 for the same, 0.5 for a limiter, 0.2 for noise
_STEP_DB = 6.0, 20.0  # less is noise, and more, as the one from digital silence, counts no more
_ROOM_S = 0.01
_SPARE_S = 0.04  # of the signal's ends nothing is read


class Passage(NamedTuple):
    """A stretch of one level, in whole periods of the tone."""

    level_dbfs: float
    start: int
    stop: int
    ahead: bool
    """Whether the tone is a quarter of a period ahead."""


class Part(NamedTuple):
    """Half of the test signal and where everything in it lies."""

    audio: Array
    """Shape (time,)."""
    period: int
    """Samples."""
    passages: tuple[Passage, ...]


def tone_signal(sample_rate: float, waveform: Waveform = "sine") -> Array:
    """The signal to play through a unit: always the same samples for a sample rate and waveform.

    Args:
        sample_rate: in Hz, at least 8000.
        waveform: ``sine`` as in the standards, or ``square``, whose absolute value never moves.

    Shape:
        ``(time,)``, about a minute.

    Returns:
        float64 samples; the last level reaches full scale, ±1.

    Raises:
        ValueError: sample rate too low or not finite, or another waveform.

    References:
        AES17-2020: level of a tone in dBFS, a full-scale sine being 0 dBFS. IEC 60268-8: tone steps for attack and
        recovery times.
    """
    return np.concatenate([passages(sample_rate, waveform).audio, levels(sample_rate, waveform).audio])


def passages(sample_rate: float, waveform: Waveform) -> Part:
    """First part: loud passages with recovery."""
    parts = [
        (QUIET_DBFS, _REST_S, False),
        (LOUD_DBFS, SHORT_S, False),
        (QUIET_DBFS, _SHORT_RECOVERY_S, False),
        (LOUD_DBFS, STEP_S, False),
        (QUIET_DBFS, _SHORT_RECOVERY_S, False),
        (QUIET_DBFS, _REST_S, True),
        (LOUD_DBFS, STEP_S, True),
        (QUIET_DBFS, _SHORT_RECOVERY_S, True),
        (LOUD_DBFS, LONG_S, True),
        (QUIET_DBFS, _LONG_RECOVERY_S, True),
    ]
    return _laid_out(parts, sample_rate, waveform)


def levels(sample_rate: float, waveform: Waveform) -> Part:
    """Second part: one passage to recover at the lowest level, and one for each of :data:`LEVELS_DBFS`."""
    steps = [(float(level), _LEVEL_S, False) for level in LEVELS_DBFS]
    return _laid_out([(float(LEVELS_DBFS[0]), _SHORT_RECOVERY_S, False), *steps], sample_rate, waveform)


def _laid_out(parts: list[tuple[float, float, bool]], sample_rate: float, waveform: Waveform) -> Part:
    if not LOWEST_SAMPLE_RATE <= sample_rate < np.inf:
        raise ValueError(f"sample_rate: expected at least {LOWEST_SAMPLE_RATE} Hz, got {sample_rate!r}")
    if waveform not in ("sine", "square"):
        raise ValueError(f"waveform: expected sine or square, got {waveform!r}")
    period = 4 * round(sample_rate / 4000.0)
    phase = np.arange(period)
    wave = np.sin(2.0 * np.pi * phase / period) if waveform == "sine" else np.where(phase < period // 2, 1.0, -1.0)
    found: list[Passage] = []
    audio = []
    for level_dbfs, seconds, ahead in parts:
        count = round(seconds * sample_rate / period)
        start = found[-1].stop if found else 0
        found.append(Passage(level_dbfs, start, start + count, ahead))
        one = np.roll(wave, -period // 4) if ahead else wave
        audio.append(db_to_amplitude(level_dbfs) * np.tile(one, count))
    return Part(np.concatenate(audio), period, tuple(found))


def gains(output: Array, part: Part, late: int = 0) -> NDArray[np.complex128]:
    """Gain in each period of the tone, with its phase:

    ::

        Y[k] = Σ y[k P + n + late] exp(−2πi n / P),   n = 0 … P − 1;   gain[k] = Y[k] / X[k]

    An offset and harmonics drop out.

    Args:
        output: of the unit, as long as the part.
        part: what was played.
        late: samples by which the output is.

    Shape:
        ``(time,)`` to ``(periods,)``.
    """
    aligned = np.pad(output, (max(-late, 0), max(late, 0)))[max(late, 0) :][: len(output)]
    analysis = np.exp(-2j * np.pi * np.arange(part.period) / part.period)
    heard, played = (audio.reshape(-1, part.period) @ analysis for audio in (aligned, part.audio))
    return np.asarray(heard / played)


def steady(passage: Passage) -> slice:
    """Periods of a passage in which a steady gain is read; an output may be a little early or late."""
    start, stop = (passage.start + round(share * (passage.stop - passage.start)) for share in _READ)
    return slice(start, stop)


def envelope(output: Array, part: Part, start: int, stop: int) -> Array:
    """Gain sample by sample around the step for the attack, from two steps that differ by a quarter of a period.

    ::

        g[n] = sqrt((y₁[n]² + y₂[n]²) / (x₁² + x₂²))

    The two tones are in quadrature, so their squares add up to a constant, x₁² + x₂² in the loud passages, and nothing
    has to be averaged over a period; polarity and phase don't matter.

    Args:
        output: of the unit, as long as the part.
        part: what :func:`passages` gave.
        start, stop: in samples from the step.

    Shape:
        ``(time,)`` to ``(stop − start,)``.
    """
    steps = [part.passages[passage].start * part.period for passage in (STEP, STEP_AHEAD)]
    heard = np.hypot(*(output[at + start : at + stop] for at in steps))
    played = np.hypot(*(part.audio[at : at + part.period] for at in steps))
    return np.asarray(heard / np.sqrt(np.mean(np.square(played))))


def latency(output: Array, part: Part, sample_rate: float) -> int:
    """Samples by which an output is late: where it rises most steeply around the step for the attack.

    Looks from 5 ms before the step to 50 ms after it. Whatever a unit does to the gain afterwards, no rise is as steep.
    """
    earliest, latest = (seconds_to_frames(seconds, sample_rate) for seconds in (EARLIEST_S, LATEST_S))
    rise = np.diff(envelope(output, part, earliest - 1, latest))
    return earliest + int(rise.argmax())


def cut_to_tone(recording: Array, sample_rate: float) -> Array:
    """The stretch of a recording in which the test signal was played, wherever in it that began.

    Of the signal's periods the level in dB rises and falls at each of its steps, in the recording as it did when
    played, whatever the unit does to the level in between. Where these differences are most alike, the signal begins.

    Args:
        recording: of the test signal, finite.
        sample_rate: in Hz, of both.

    Shape:
        ``(recorded_time,)`` to ``(time,)``, as long as the test signal.

    Returns:
        for :func:`~ddsp_la2a.evaluation.measure.measure_recording`: not early, and late by a hundredth of a second at
        most. A recording that began when the signal did, and is no later than that, stays as it is.

    Raises:
        ValueError: the signal isn't in it, or not all of it.
    """
    played, period = tone_signal(sample_rate), passages(sample_rate, "sine").period
    spare, room = (seconds_to_frames(seconds, sample_rate) for seconds in (_SPARE_S, _ROOM_S))
    if len(recording) < len(played) - spare:
        seconds = f"at least {len(played) / sample_rate:.1f} s, got {len(recording) / sample_rate:.1f} s"
        raise ValueError(f"expected a recording of all of the test signal, {seconds}; record it to its end")
    sent, heard = (_steps_db(audio, period) for audio in (played, recording))
    likeness = signal.correlate(heard, sent) / (np.linalg.norm(sent) * max(float(np.linalg.norm(heard)), 1.0))
    if likeness.max() < _ALIKE:
        raise ValueError(
            "expected a recording of the test signal, found none of its steps; cut away what else is on it"
        )
    start = (int(likeness.argmax()) - len(sent) + 1) * period  # to within a period
    start = 0 if -period <= start <= room else start - room
    end = start + len(played) - len(recording)
    for missing, where in ((-start, "beginning"), (end, "end")):
        if missing > spare:
            got = f"got a recording that lacks {missing / sample_rate:.2f} s at its {where}; record it again"
            raise ValueError(f"expected all of the test signal, {got}")
    return np.pad(recording, (max(-start, 0), max(end, 0)))[max(start, 0) :][: len(played)]


def _steps_db(audio: Array, period: int) -> Array:
    """How the level changes over two periods; noise doesn't, and 80 dB below the loudest counts as silence."""
    power = np.square(audio[: len(audio) // period * period].reshape(-1, period)).mean(axis=1)
    floor = 1e-8 * power.max(initial=LEVEL_FLOOR**2)
    level_db = np.pad(10.0 * np.log10(np.maximum(power, floor)), 1, mode="edge")
    steps = level_db[2:] - level_db[:-2]
    return np.where(np.abs(steps) > _STEP_DB[0], steps.clip(-_STEP_DB[1], _STEP_DB[1]), 0.0)
