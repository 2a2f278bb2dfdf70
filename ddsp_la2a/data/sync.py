"""Where in a recording the stimulus stands: start, clock, polarity, gain; and the recording laid onto its clock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy import ndimage, signal

from ddsp_la2a.data.alignment import alignment
from ddsp_la2a.data.stimulus import Sync, syncs
from ddsp_la2a.units import amplitude_to_db, seconds_to_frames

MAX_DRIFT_PPM = 1000.0
"""No two converters' clocks differ by more (a tenth of that is rare)."""

NEGLIGIBLE_DRIFT_SAMPLES = 0.1
"""Below this from the first frame to the last a drift is left as it is: no filter then touches the recording."""

_FOUND = 0.5
_LOOSENESS_S = 0.0005
"""How far a burst may stand from where its neighbours say; lets a sync be found at thrice the largest drift."""

_MOST_SCATTER_SAMPLES = 1.0
_SILENT = 1e-6
_UPSAMPLING, _HALF_TAPS, _MARGIN, _BLOCK_FRAMES = 4, 64, 160, 1 << 18


@dataclass(frozen=True)
class Placement:
    """The stimulus in a recording: its frame n stands at ``start + (1 + drift_ppm / 1e6) n``.

    Args:
        start: frames, with a fraction; negative where the recording began late.
        drift_ppm: positive where the recorder's clock ran faster, so that the recording is longer.
        polarity: 1, or −1 where the recording is upside down.
        gain_db: of the first sync.
        drifts: whether the drift is worth undoing; where it isn't, ``start`` is the mean over the whole.
    """

    start: float
    drift_ppm: float
    polarity: int
    gain_db: float
    drifts: bool


def locate(recording: np.ndarray, played: np.ndarray, sample_rate: int) -> Placement:
    """Find the stimulus in a recording.

    A burst's likeness is its normalised correlation, ⟨r, b⟩ / √(⟨r, r⟩⟨b, b⟩) over the burst's length: it doesn't
    depend on gain, and loud programme doesn't outdo a quiet burst. Its smallest magnitude among a sync's bursts, each
    with half a millisecond of looseness, is largest where the sync stands. There :func:`alignment` gives every burst's
    fraction of a sample, and a straight line through all of them is the recorder's clock.

    Args:
        recording: finite samples at any gain, with anything before and after the stimulus.
        played: the stimulus, at the same nominal rate.
        sample_rate: Hz.

    Shape:
        ``(recorded_time,)`` and ``(time,)``.

    Returns:
        :class:`Placement`.

    Raises:
        ValueError: a sync isn't there, or the two are further apart than a clock's drift explains.
    """
    first, last = syncs(len(played), sample_rate)
    # A burst cut by the recording's end is better found than indexed around.
    pad = 2 * len(first.burst)
    peak = float(np.abs(recording).max(initial=0.0)) or 1.0
    padded = np.pad(recording.astype(np.float64) / peak, pad)
    begin, end = (_found(padded, sync, sample_rate) for sync in (first, last))
    if begin is None and end is None:
        raise ValueError("expected the stimulus, found no sync; record it from before its start until after its end")
    if begin is None or end is None:
        raise ValueError(_missing(recording, played, sample_rate, begin, end, pad))
    stimulus_frames, recorded_frames, polarity = _burst_times(padded, played, (first, last), (begin, end))
    line = np.polynomial.Polynomial.fit(stimulus_frames, recorded_frames - stimulus_frames, 1).convert()
    offset, drift = (float(value) for value in line.coef)
    scatter = float(np.abs(recorded_frames - stimulus_frames - line(stimulus_frames)).max())
    if abs(drift) > 1e-6 * MAX_DRIFT_PPM:
        sent_s = float(last.starts[0] - first.starts[0]) / sample_rate
        raise ValueError(
            f"expected {sent_s:.2f} s from the first to the last sync, got {sent_s * (1.0 + drift):.2f} s, "
            f"{1e6 * drift:.0f} ppm off (clocks differ by at most {MAX_DRIFT_PPM:g}); the recording has a gap, is of "
            "another stimulus, or was made at another sample rate: record it again"
        )
    if scatter > _MOST_SCATTER_SAMPLES:
        raise ValueError(
            f"expected the bursts of the syncs on one line, got one {scatter:.1f} samples off it; the recording is too "
            "noisy or lost samples: record it again"
        )
    heard = np.concatenate([padded[start : start + len(first.burst)] for start in begin])
    sent = np.concatenate([played[start : start + len(first.burst)] for start in first.starts])
    gain_db = float(amplitude_to_db(peak * np.std(heard)) - amplitude_to_db(np.std(sent)))
    drifts = abs(drift) * len(played) >= NEGLIGIBLE_DRIFT_SAMPLES
    start = (offset if drifts else float(np.mean(recorded_frames - stimulus_frames))) - pad
    return Placement(start, 1e6 * drift, polarity, gain_db, drifts)


def common_fraction(starts: list[float]) -> float:
    """The fraction of a sample, within ±0.5, that starts have in common: the mean of them as angles; 0 of none.

    Cut around it, recordings of one unit on one clock keep one delay; rounded one by one, a delay near half a sample
    would become +0.5 here and −0.5 there.
    """
    return float(np.angle(np.sum(np.exp(2j * np.pi * np.array(starts)))) / (2.0 * np.pi)) if starts else 0.0


def on_the_clock(
    recording: np.ndarray, placement: Placement, frames: int, fraction: float = 0.0
) -> tuple[np.ndarray, int, float]:
    """The recording, cut to the stimulus' frames.

    Where the clocks don't drift apart, samples are only cut out. Otherwise the recording is read at ``start − fraction
    + (1 + drift) n`` by fourfold oversampling (flat to 0.47 of the sample rate) and splines of degree 5; what that
    leaves of an error lies below −100 dB up to 20 kHz at 44.1 kHz. Frames before its beginning and after its end are
    zero.

    Args:
        recording: samples.
        placement: from :func:`locate`.
        frames: length of the stimulus.
        fraction: delay to leave in, in samples, as nearly as whole samples allow.

    Shape:
        ``(recorded_time,)`` to ``(frames,)``, float32.

    Returns:
        samples; the frame of the recording that became their first; and the delay that is left in them, in samples,
        within ``fraction`` ± 0.5, or just that where it was resampled.
    """
    offset = round(placement.start - fraction)
    if not placement.drifts:
        return _stretch(recording, offset, offset + frames).astype(np.float32), offset, placement.start - offset
    start, speed = placement.start - fraction, 1.0 + 1e-6 * placement.drift_ppm
    taps = 2 * _HALF_TAPS * _UPSAMPLING + 1
    low_pass = _UPSAMPLING * signal.firwin(taps, 1.0 / _UPSAMPLING, window=("kaiser", 11.0))
    out = np.empty(frames, dtype=np.float32)
    for begin in range(0, frames, _BLOCK_FRAMES):
        at = start + speed * np.arange(begin, min(begin + _BLOCK_FRAMES, frames))
        low = int(np.floor(at[0])) - _MARGIN
        around = _stretch(recording, low, int(np.ceil(at[-1])) + _MARGIN).astype(np.float64)
        fine = signal.upfirdn(low_pass, around, up=_UPSAMPLING)
        places = _UPSAMPLING * (at - low + _HALF_TAPS)  # the low-pass delays by half its length
        out[begin : begin + len(at)] = ndimage.map_coordinates(fine, [places], order=5)
    return out, offset, fraction


def _found(recording: np.ndarray, sync: Sync, sample_rate: int) -> np.ndarray | None:
    """First frame of every burst in the recording, to the sample, or None where there is no such sync."""
    length = len(sync.burst)
    offsets = sync.starts - sync.starts[0]
    places = len(recording) - length + 1 - int(offsets[-1])
    if places < 1:
        return None
    matched = signal.oaconvolve(recording, sync.burst[::-1], mode="valid")
    running = np.concatenate([[0.0], np.cumsum(recording * recording)])
    energy = np.maximum(running[length:] - running[:-length], length * _SILENT**2)
    likeness = np.abs(matched) / np.sqrt(energy * np.sum(sync.burst**2))
    loose = seconds_to_frames(_LOOSENESS_S, sample_rate)
    nearby = ndimage.maximum_filter1d(likeness, 2 * loose + 1, mode="constant")
    score = reduce(np.minimum, [nearby[offset : offset + places] for offset in offsets])
    best = int(np.argmax(score))
    if score[best] < _FOUND:
        return None
    ranges = [(max(best + int(offset) - loose, 0), best + int(offset) + loose + 1) for offset in offsets]
    return np.array([low + int(likeness[low:high].argmax()) for low, high in ranges])


def _burst_times(
    recording: np.ndarray, played: np.ndarray, pair: tuple[Sync, Sync], found: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Middle of every burst in frames of the stimulus and of the recording, and the polarity of most."""
    recorded, polarity = [], 0
    for sync, starts in zip(pair, found, strict=True):
        length = len(sync.burst)
        for place, start in zip(sync.starts, starts, strict=True):
            sent = played[place - length : place + 2 * length]
            heard = _stretch(recording, start - length, start + 2 * length)
            aligned = alignment([(sent, heard / np.abs(heard).max())])
            if aligned is None:  # bursts were found at both places, so this can't be silence
                raise RuntimeError("a burst that was found can't be aligned")
            recorded.append(start + aligned.lag_samples + 0.5 * (length - 1))
            polarity += aligned.polarity
    return np.concatenate([sync.centres for sync in pair]), np.array(recorded), 1 if polarity > 0 else -1


def _missing(
    recording: np.ndarray,
    played: np.ndarray,
    sample_rate: int,
    begin: np.ndarray | None,
    end: np.ndarray | None,
    pad: int,
) -> str:
    """What to say where one sync is there and the other isn't."""
    first, last = syncs(len(played), sample_rate)
    if begin is not None:
        lacking = int(begin[0] - first.starts[0]) - pad + len(played) - len(recording)
        where = "end"
    else:
        assert end is not None
        lacking = int(last.starts[0] - end[0]) + pad
        where = "beginning"
    if lacking > 0:
        seconds = lacking / sample_rate
        return f"expected all of the stimulus, got a recording that lacks {seconds:.2f} s at its {where}; record again"
    return f"expected a sync at both ends, found none at the {where}; something covers it: record again"


def _stretch(audio: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples from start to stop, zero beyond the ends."""
    inside = audio[max(start, 0) : max(stop, 0)]
    return np.pad(inside, (min(max(-start, 0), stop - start), max(stop - max(len(audio), start), 0)))
