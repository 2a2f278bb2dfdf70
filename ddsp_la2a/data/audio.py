"""Audio files: what a file says it holds, stretches read by seeking, and files written in one move."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ddsp_la2a.files import replacing

logger = logging.getLogger(__name__)

_FORMATS = {"AIF": "AIFF", "WAVE": "WAV"}


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says.

    Args:
        path: the file.
        sample_rate: in Hz.
        frames: samples a channel.
        channels: number of channels.
    """

    path: Path
    sample_rate: int
    frames: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sample_rate


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open for reading; what libsndfile complains about becomes a ValueError that names the file."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected an audio file, but there is nothing at this path")
    if path.is_dir():
        raise ValueError(f"{path}: expected an audio file, got a folder")
    if path.suffix.lower() == ".raw":
        raise ValueError(f"{path}: expected an audio file with a header, got one without; convert it to .wav")
    try:
        with soundfile.SoundFile(str(path)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(". ")
        raise ValueError(f"{path}: expected an audio file that can be read, got: {reason}; copy it again") from error


def audio_info(path: str | Path) -> AudioInfo:
    """Sample rate, length and channel count of an audio file, from its header.

    Args:
        path: any format libsndfile reads.

    Returns:
        :class:`AudioInfo`.

    Raises:
        FileNotFoundError: nothing at this path.
        ValueError: the file can't be read as audio.
    """
    path = Path(path)
    with _opened(path) as file:
        return AudioInfo(path, file.samplerate, file.frames, file.channels)


def read_audio(
    path: str | Path, start: int = 0, stop: int | None = None, *, mono: bool = True
) -> tuple[np.ndarray, int]:
    """Read a stretch of an audio file by seeking; nothing outside of it is read.

    Args:
        path: any format libsndfile reads.
        start: first frame, from 0.
        stop: frame after the last, at most the file's length; None: to the end.
        mono: True refuses files with several channels and returns one dimension.

    Shape:
        ``(time,)``, or ``(channels, time)`` with ``mono=False``.

    Returns:
        float32 samples (±1 is full scale) and the sample rate in Hz.

    Raises:
        FileNotFoundError: nothing at this path.
        ValueError: unreadable, several channels where one is expected, or a stretch outside of the file.
    """
    path = Path(path)
    with _opened(path) as file:
        if mono and file.channels != 1:
            raise ValueError(
                f"{path}: expected one channel, got {file.channels}; give a mono file or mix it down first"
            )
        last = file.frames if stop is None else stop
        if not 0 <= start <= last <= file.frames:
            raise ValueError(f"{path}: expected a stretch within 0 to {file.frames} frames, got {start} to {last}")
        file.seek(start)
        audio = file.read(last - start, dtype="float32", always_2d=True)
        if len(audio) != last - start:
            raise ValueError(
                f"{path}: expected {last} frames as its header says, got {start + len(audio)}; copy it again"
            )
        return (audio[:, 0] if mono else np.ascontiguousarray(audio.T)), file.samplerate


def read_blocks(path: str | Path, start: int, stop: int, block_frames: int) -> Iterator[np.ndarray]:
    """Read a stretch of a mono file block by block, the file opened once.

    Args:
        path: a mono audio file.
        start: first frame.
        stop: frame after the last.
        block_frames: frames in a block; the last one may be shorter.

    Shape:
        every block ``(block_frames,)`` or shorter.

    Returns:
        float32 blocks; they end early where the file does.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_audio`.
    """
    path = Path(path)
    with _opened(path) as file:
        file.seek(start)
        while start < stop:
            block = file.read(min(block_frames, stop - start), dtype="float32", always_2d=True)
            if not len(block):
                return
            start += len(block)
            yield block[:, 0]


def write_audio(path: str | Path, audio: Any, sample_rate: int) -> None:
    """Write audio in one move, with 24 bits where the format of the ending has them.

    Samples beyond ±1 are clipped, with a warning in the log.

    Args:
        path: file name; the ending says the format (``.wav``, ``.flac``, ``.aiff``, …).
        audio: finite samples, ±1 is full scale.
        sample_rate: in Hz.

    Shape:
        ``(time,)`` or ``(channels, time)``.

    Raises:
        ValueError: unknown ending, NaN or infinite samples, other shapes, or no folder to write to.
    """
    path = Path(path)
    samples = np.asarray(audio)
    if samples.ndim not in (1, 2):
        raise ValueError(f"{path}: expected audio of shape (time,) or (channels, time), got {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: expected finite samples, got NaN or infinity; nothing was written")
    file_format = path.suffix[1:].upper()
    file_format = _FORMATS.get(file_format, file_format)
    if file_format not in soundfile.available_formats():
        raise ValueError(f"{path}: expected an audio file ending such as .wav or .flac, got {path.suffix!r}")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > 1.0:
        logger.warning("%s: peak %.3f lies above full scale and was clipped; lower the gain", path, peak)
    wide = soundfile.check_format(file_format, "PCM_24")
    subtype = "PCM_24" if wide else soundfile.default_subtype(file_format)
    with replacing(path) as temporary:
        try:
            soundfile.write(str(temporary), samples.clip(-1.0, 1.0).T, sample_rate, subtype, format=file_format)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path}: could not be written: {error.error_string}") from error
