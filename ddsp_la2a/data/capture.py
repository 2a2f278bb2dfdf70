"""From recordings of a unit of one's own to a frame: every setting found, laid onto the stimulus and looked at."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from scipy import signal

from ddsp_la2a.controls import Control, unique
from ddsp_la2a.data.alignment import alignment
from ddsp_la2a.data.audio import audio_info, read_audio, write_audio
from ddsp_la2a.data.capture_names import named_settings, refuse_all
from ddsp_la2a.data.frame import SOURCES, STRETCH_COLUMNS
from ddsp_la2a.data.stimulus import noise_frames, programme_frames, read_stimulus, stimulus
from ddsp_la2a.data.sync import Placement, common_fraction, locate, on_the_clock
from ddsp_la2a.data.wav_header import header_faults
from ddsp_la2a.units import amplitude_to_db, seconds_to_frames

logger = logging.getLogger(__name__)

REPORT_COLUMNS = (
    "offset_samples",
    "delay_samples",
    "gain_db",
    "polarity",
    "drift_ppm",
    "noise_dbfs",
    "clipped_samples",
)
"""What was measured on a recording, behind the columns that a frame needs."""

_COLUMNS = ("track_id", "split", "take", "device", "raw_audio_path", "processed_audio_path", "source")
_LEAST_SNR_DB = 40.0
_LAG_STRETCHES, _CLEAR = 12, 0.5
_LAG_STRETCH_S = 1.5
_LARGEST_LAG_SAMPLES, _LARGEST_LAG_S = 2.0, 5e-5  # what the phase of an analogue path may do


def write_stimulus(path: str | Path, seconds: float, sample_rate: int) -> None:
    """Write the stimulus to play through a unit, mono with 24 bits.

    Args:
        path: file name; the ending says the format.
        seconds: of the whole, at least :data:`~ddsp_la2a.data.stimulus.MIN_SECONDS`.
        sample_rate: Hz.

    Raises:
        ValueError: too short, a sample rate out of range, an unknown ending, or no folder to write to.
    """
    write_audio(path, stimulus(seconds, sample_rate), sample_rate)


def index_captures(
    folder: str | Path,
    controls: Iterable[Control],
    *,
    stimulus_path: str | Path | None = None,
    device: str | None = None,
    source: str = "hardware",
    progress: Callable[[int, int], object] | None = None,
) -> pd.DataFrame:
    """Frame of the recordings in a folder, each named with its setting: ``my unit_threshold=-20_ratio=4.wav``.

    Every recording is found by its sync bursts, wherever it starts, at any gain and either polarity; cut to the
    stimulus; laid onto its clock where the two clocks differ; turned upright; and written to ``folder/aligned`` as
    float WAV at its own gain. What was recorded is never changed. Nothing is written unless all of them can be used.
    Clipping, a high noise floor and the like are logged.

    Args:
        folder: holds the recordings, mono WAV files, and nothing else with that ending but the stimulus.
        controls: the unit's controls; a file's name holds ``name=value`` for each of them, parts separated by ``_``.
        stimulus_path: what was played; ``folder/stimulus.wav`` unless given.
        device: name of the unit; the folder's unless given.
        source: one of :data:`~ddsp_la2a.data.frame.SOURCES`.
        progress: called with the number of recordings done and their total after each.

    Returns:
        one row a recording, ordered by setting: ``track_id``, ``split`` (``train``), ``take`` (the folder's name),
        ``device``, a column a control, ``raw_audio_path``, ``processed_audio_path`` (absolute), ``source``, and
        :data:`REPORT_COLUMNS`: ``offset_samples`` where the stimulus starts in the recording; ``delay_samples`` that
        are left after whole samples were cut, much the same for all recordings on one clock; ``gain_db`` of the first
        sync; ``polarity`` of the recording, −1 where it was upside down; ``drift_ppm``, positive where the recorder's
        clock was the faster one; ``noise_dbfs``, RMS in the stimulus' silence; ``clipped_samples`` in runs at the
        recording's own extremes.

    Raises:
        FileNotFoundError: no folder or no stimulus.
        ValueError: names every recording that can't be used and says why, or what is wrong with an argument.
    """
    folder = Path(folder).resolve()
    controls = unique(controls)
    columns = (*_COLUMNS, *STRETCH_COLUMNS, *REPORT_COLUMNS)
    taken = [control.name for control in controls if control.name in columns]
    if taken:
        raise ValueError(f"controls: expected names other than the frame's own columns, got {', '.join(taken)}")
    if source not in SOURCES:
        raise ValueError(f"source: expected one of {', '.join(SOURCES)}, got {source!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder with recordings, but there is none at this path")
    stimulus_path = Path(stimulus_path or folder / "stimulus.wav").resolve()
    if not stimulus_path.is_file():
        raise FileNotFoundError(
            f"{stimulus_path}: expected the stimulus that was played, but there is nothing at this path; put it there "
            "or name it"
        )
    played, sample_rate = read_stimulus(stimulus_path)
    settings = named_settings(folder, controls, stimulus_path)

    placements, errors = {}, []
    for done, (path, _) in enumerate(settings, start=1):
        try:
            placements[path] = _placed(path, played, sample_rate)
        except ValueError as error:
            errors.append(str(error))
        if progress is not None:
            progress(done, len(settings))
    refuse_all(errors, folder)

    fraction = common_fraction([placement.start for placement in placements.values() if not placement.drifts])
    aligned = folder / "aligned"
    rows = []
    with tempfile.TemporaryDirectory(prefix=".aligned-", dir=folder) as scratch:
        for number, (path, setting) in enumerate(settings):
            recording, _ = read_audio(path)
            audio, offset, delay = on_the_clock(recording, placements[path], len(played), fraction)
            placement = placements[path]
            soundfile.write(Path(scratch) / path.name, placement.polarity * audio, sample_rate, "FLOAT")
            lacking = max(-offset, 0), max(offset + len(played) - len(recording), 0)
            if any(lacking):
                message = "%s: lacks %d samples of silence at its beginning, %d at its end; filled up"
                logger.warning(message, path, *lacking)
            row = {"track_id": number, "split": "train", "take": folder.name, "device": device or folder.name}
            paths = {"raw_audio_path": stimulus_path, "processed_audio_path": aligned / path.name}
            row |= setting | {name: file.as_posix() for name, file in paths.items()}
            row |= {"source": source, "offset_samples": offset, "delay_samples": round(delay, 4) + 0.0}  # no minus zero
            rows.append(row | _report(path, recording, audio, placement, sample_rate))
        aligned.mkdir(exist_ok=True)
        for path, _ in settings:
            (Path(scratch) / path.name).replace(aligned / path.name)
    return pd.DataFrame(rows)


def _placed(path: Path, played: np.ndarray, sample_rate: int) -> Placement:
    """Where the stimulus stands in a recording that can be used."""
    for _, severity, value, advice in header_faults(path):
        if severity == "error":
            raise ValueError(f"{path}: expected a sound header, got {value}; {advice}")
    rate = audio_info(path).sample_rate
    if rate != sample_rate:
        raise ValueError(f"{path}: expected {sample_rate} Hz as the stimulus, got {rate} Hz; record it at that rate")
    recording, _ = read_audio(path)
    if not np.isfinite(recording).all():
        raise ValueError(f"{path}: expected finite samples, got NaN or infinity; export it again")
    try:
        placement = locate(recording, played, sample_rate)
        _refuse_jumps(on_the_clock(recording, placement, len(played))[0], played, sample_rate)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return placement


def _report(
    path: Path, recording: np.ndarray, audio: np.ndarray, placement: Placement, sample_rate: int
) -> dict[str, Any]:
    """What was measured on a recording; what is doubtful about it goes to the log."""
    noise, programme = (
        float(amplitude_to_db(np.std(audio[stretch], dtype=np.float64)))
        for stretch in (noise_frames(sample_rate), programme_frames(len(audio), sample_rate))
    )
    clipped = _clipped(recording)
    if clipped:
        advice = "lower the recording level and record it again"
        logger.warning("%s: clipped, %d samples stand in runs at the extreme; %s", path, clipped, advice)
    if programme - noise < _LEAST_SNR_DB:
        message = "%s: noise floor at %.1f dBFS, only %.1f dB below the programme; raise the level or look for hum"
        logger.warning(message, path, noise, programme - noise)
    if placement.polarity < 0:
        logger.warning("%s: was recorded upside down; its copy in aligned/ is turned upright", path)
    return {
        "gain_db": round(placement.gain_db, 3) + 0.0,  # no minus zero
        "polarity": placement.polarity,
        "drift_ppm": round(placement.drift_ppm, 4) + 0.0,
        "noise_dbfs": round(noise, 2),
        "clipped_samples": clipped,
    }


def _refuse_jumps(audio: np.ndarray, played: np.ndarray, sample_rate: int) -> None:
    """Refuse a recording whose programme lies elsewhere than its syncs say, as it does where a driver lost samples."""
    programme = programme_frames(len(played), sample_rate)
    # In the syncs' own band, so that the phase of an analogue path's bass has no say.
    band = signal.butter(2, (500.0, min(8000.0, 0.4 * sample_rate)), "bandpass", fs=sample_rate, output="sos")
    sent, heard = (signal.sosfilt(band, samples[programme].astype(np.float64)) for samples in (played, audio))
    length = seconds_to_frames(_LAG_STRETCH_S, sample_rate)
    starts = np.linspace(0, len(sent) - length, _LAG_STRETCHES).astype(int)
    found = [alignment([(sent[start : start + length], heard[start : start + length])]) for start in starts]
    lags = [one.lag_samples for one in found if one is not None and one.ambiguity < _CLEAR]
    # One stretch may be mistaken; lost samples show in most of them, the drift between the syncs being wrong.
    if lags and np.median(np.abs(lags)) > max(_LARGEST_LAG_SAMPLES, _LARGEST_LAG_S * sample_rate):
        raise ValueError(
            f"expected the programme where the syncs say, got delays of {min(lags):.1f} to {max(lags):.1f} samples "
            "there; samples were lost or repeated on the way: record it again"
        )


def _clipped(audio: np.ndarray) -> int:
    """Samples in runs of three and more at the highest or the lowest value that occurs."""
    clipped = 0
    for extreme in (audio.max(), audio.min()):
        at = np.pad(audio == extreme, 2)
        runs = at[2:] & at[1:-1] & at[:-2]
        clipped += int((runs[2:] | runs[1:-1] | runs[:-2]).sum())
    return clipped
