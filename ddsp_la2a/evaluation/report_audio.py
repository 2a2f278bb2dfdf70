"""What a report lets one hear: a few passages through every model, in step, and small enough to travel."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray

from ddsp_la2a.controls import Control
from ddsp_la2a.data.audio import read_audio
from ddsp_la2a.data.frame import positions_of, rows_by_setting, stretch
from ddsp_la2a.evaluation.evaluate import LEAD_IN_S, SKIP_S, Model
from ddsp_la2a.evaluation.levels import frame_levels_db
from ddsp_la2a.evaluation.metrics import esr_dc_filtered
from ddsp_la2a.evaluation.style import in_words
from ddsp_la2a.units import seconds_to_frames

Array = NDArray[np.float64]

INPUT, TARGET = "input", "target"
"""What a passage has beside the models; not names, which a model may have as well, but the first two signals."""

MOST_PASSAGES = 4
LONGEST_S, SHORTEST_S = 10.0, 3.0
_SEARCHED_S = 120.0
"""How much of a recording is looked through for a passage."""

COLUMNS = 480
"""How many columns a waveform is drawn with."""

_FACTORS = (1, 2, 5, 10, 20, 50, 100, 200)
_HEADROOM = 0.97


@dataclass(frozen=True)
class Passage:
    """The same seconds of a recording: as played, as recorded, and through every model.

    Args:
        setting: positions of the controls in words.
        track_id, source: of the recording.
        start_s: where in the file the passage starts.
        sample_rate: in Hz.
        names: of the signals: input, target, then the models.
        signals: ``(time,)`` each.
    """

    setting: str
    track_id: int
    source: str
    start_s: float
    sample_rate: int
    names: list[str]
    signals: list[Array]

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.signals[0]) / self.sample_rate

    def shortened(self, seconds: float) -> Passage:
        """The first seconds of it."""
        frames = round(seconds * self.sample_rate)
        return replace(self, signals=[signal[:frames] for signal in self.signals])


def passages(
    models: Mapping[str, Model], frame: pd.DataFrame, controls: Sequence[Control], count: int = MOST_PASSAGES
) -> list[Passage]:
    """A passage of some rows of a frame, spread over its settings, through every model.

    Of each recording those ten of the scored seconds are taken in which the unit's gain moves most.

    Args:
        models: by name, in the order in which they are heard.
        frame: rows that may be heard.
        controls: of the unit.
        count: most passages.

    Raises:
        ValueError: a recording that is too short, or a model whose output has another length or isn't finite.
    """
    by_setting = [rows[0] for rows in rows_by_setting(frame, controls).values()]
    spread = np.unique(np.linspace(0, len(by_setting) - 1, min(count, len(by_setting))).round().astype(int))
    records = frame.to_dict("records")
    return [_passage(models, {str(k): v for k, v in records[by_setting[n]].items()}, controls) for n in spread]


def _passage(models: Mapping[str, Model], row: Mapping[str, Any], controls: Sequence[Control]) -> Passage:
    start, stop, rate = stretch(row)
    start = max(start, seconds_to_frames(SKIP_S, rate))
    stop = min(stop, start + seconds_to_frames(_SEARCHED_S, rate))
    frames = min(seconds_to_frames(LONGEST_S, rate), stop - start)
    if frames <= 0:
        raise ValueError(f"{row['processed_audio_path']}: expected more than {SKIP_S:g} s to listen to")
    target, _ = read_audio(row["processed_audio_path"], start, stop)
    raw, _ = read_audio(row["raw_audio_path"], start, stop)
    offset = _liveliest(raw, target, frames, rate)
    begin = start + offset
    first = max(begin - seconds_to_frames(LEAD_IN_S, rate), 0)
    played, _ = read_audio(row["raw_audio_path"], first, begin + frames)
    signals = [raw[offset : offset + frames], target[offset : offset + frames]]
    at = positions_of(row, controls)
    for name, model in models.items():
        output = np.asarray(model.process(played, rate, **at))
        if output.shape != played.shape or not np.isfinite(output).all():
            raise ValueError(f"{name}: expected finite output of shape {played.shape}, got {_fault(output)}")
        signals.append(output[begin - first :])
    return Passage(
        setting=", ".join(in_words(name, position) for name, position in at.items()),
        track_id=int(row["track_id"]),
        source=str(row["source"]),
        start_s=begin / rate,
        sample_rate=rate,
        names=[INPUT, TARGET, *models],
        signals=[np.asarray(signal, dtype=np.float64) for signal in signals],
    )


def _fault(output: NDArray[Any]) -> str:
    return f"shape {output.shape}" + ("" if np.isfinite(output).all() else " with NaN or infinity")


def _liveliest(raw: NDArray[Any], target: NDArray[Any], frames: int, rate: int) -> int:
    """Where a passage of that many frames starts in which the gain moves most, on a grid of half seconds."""
    size = seconds_to_frames(0.05, rate)
    before = frame_levels_db(raw, size)
    gain = np.where(before > -50.0, frame_levels_db(target, size) - before, np.nan)
    step, best, found = seconds_to_frames(0.5, rate), -1.0, 0
    for start in range(0, len(raw) - frames + 1, step):
        part = gain[start // size : (start + frames) // size]
        heard = part[np.isfinite(part)]
        # Silence counts against a passage twice: nothing moves in it, and nobody wants to wait.
        moves = float(heard.std()) * len(heard) ** 2 if len(heard) else 0.0
        if moves > best + 1e-9:
            best, found = moves, start
    return found


@dataclass(frozen=True)
class Sound:
    """One signal of a passage, ready for a page.

    Args:
        audio: FLAC with 16 bits, base64.
        scale: what decoded samples are multiplied with.
        matched: gain that gives it the target's RMS.
        wave, residual, residual_matched: lowest and highest sample of each column, base64 of int8 pairs, ±127 being the
            top of the drawing.
        error_percent: DC-filtered error on the passage, None for input and target.
    """

    audio: str
    scale: float
    matched: float
    wave: str
    residual: str
    residual_matched: str
    error_percent: float | None


@dataclass(frozen=True)
class Listening:
    """A passage ready for a page.

    Args:
        passage: what it is made of.
        sounds: one a signal.
        factor: by which residuals are magnified in the drawing.
        volume: common to all signals and to both ways of listening, so that nothing clips.
    """

    passage: Passage
    sounds: list[Sound]
    factor: int
    volume: float

    @property
    def size(self) -> int:
        """Bytes of its audio in a page."""
        return sum(len(sound.audio) for sound in self.sounds)

    @property
    def volume_db(self) -> float:
        """The common volume in dB."""
        return 20.0 * math.log10(self.volume)


def fitting_in(found: Sequence[Passage], most_bytes: int) -> list[Listening]:
    """The passages, shortened (all alike) or fewer until their audio takes no more than that many bytes of a page."""
    chosen = list(found)
    while chosen:
        ready = [ready_to_hear(passage) for passage in chosen]
        size = sum(each.size for each in ready)
        if size <= most_bytes:
            return ready
        longest = max(passage.seconds for passage in chosen)
        seconds = math.floor(4.0 * longest * max(most_bytes, 0) / size) / 4.0
        if seconds >= longest:
            seconds = longest - 0.25
        chosen = chosen[:-1] if seconds < SHORTEST_S else [passage.shortened(seconds) for passage in chosen]
    return []


def ready_to_hear(passage: Passage) -> Listening:
    """Encode a passage and draw its waveforms."""
    target = passage.signals[1]
    gains = [_rms(target) / _rms(signal) if _rms(signal) > 1e-8 < _rms(target) else 1.0 for signal in passage.signals]
    matched = [gain * signal for gain, signal in zip(gains, passage.signals, strict=True)]
    loudest = max(_peak(signal) for signal in [*passage.signals, *matched])
    top = max(_peak(target), 1e-8)
    leftover = max(_peak(target - matched[min(2, len(matched) - 1)]), 1e-8)
    factor = max(factor for factor in _FACTORS if factor == 1 or factor * leftover <= top)
    sounds = []
    for number, (signal, gain) in enumerate(zip(passage.signals, gains, strict=True)):
        scale = max(_peak(signal) / _HEADROOM, 1.0)
        sounds.append(
            Sound(
                audio=_flac(signal / scale, passage.sample_rate),
                scale=round(scale, 6),
                matched=round(gain, 6),
                wave=_outline(signal / top),
                residual=_outline(factor * (target - signal) / top),
                residual_matched=_outline(factor * (target - gain * signal) / top),
                error_percent=100.0 * esr_dc_filtered(signal, target) if number > 1 else None,
            )
        )
    return Listening(passage, sounds, factor, round(min(1.0, _HEADROOM / max(loudest, 1e-8)), 6))


def _rms(signal: Array) -> float:
    return float(np.sqrt(np.mean(np.square(signal))))


def _peak(signal: Array) -> float:
    return float(np.abs(signal).max(initial=0.0))


def _flac(signal: Array, rate: int) -> str:
    buffer = io.BytesIO()
    steps = np.clip(np.round(signal * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(buffer, steps, rate, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _outline(signal: Array) -> str:
    edges = np.linspace(0, len(signal), COLUMNS + 1).astype(int)
    parts = [signal[a : max(b, a + 1)] for a, b in itertools.pairwise(edges)]
    ends = np.array([(part.min(initial=0.0), part.max(initial=0.0)) for part in parts])
    return base64.b64encode(np.clip(np.round(127.0 * ends), -127, 127).astype(np.int8).tobytes()).decode("ascii")


def outline_path(outline: str) -> str:
    """The drawing of an outline in a box 480 wide and 100 high; the page's script draws the same."""
    ends = np.frombuffer(base64.b64decode(outline), dtype=np.int8).reshape(-1, 2).astype(int)
    high = [f"{x} {_down(top)}" for x, (_, top) in enumerate(ends.tolist())]
    low = [f"{x} {_down(bottom)}" for x, (bottom, _) in reversed(list(enumerate(ends.tolist())))]
    return "M" + "L".join([*high, *low]) + "z"


def _down(step: int) -> str:
    return f"{50.0 - 49.0 * step / 127.0:.1f}"
