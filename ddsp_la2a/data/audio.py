"""Audio files: what a file says it holds, stretches read by seeking, and files written in one move.

A file whose header contradicts itself is refused, not read as something else; see :mod:`ddsp_la2a.data.wav_header` for
what a file alone can't tell. The other file of a pair tells more: rates and lengths of the two must agree.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ddsp_la2a.data.wav_header import WavHeader, read_header
from ddsp_la2a.files import replacing

logger = logging.getLogger(__name__)

_LOWEST_HZ, _HIGHEST_HZ = 1000, 10_000_000
_SETTLED_NS = 2_000_000_000
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


_remembered = functools.lru_cache(maxsize=4096)(lambda path, *_: read_header(path))


def _header(path: Path) -> WavHeader | None:
    """What a WAV file says of itself, None of another format; remembered as long as the file stays as it is.

    Raises:
        ValueError: the header contradicts itself or the file.
    """
    try:
        now = path.stat()
        # What was written just now may be written again without its time telling.
        settled = time.time_ns() - now.st_mtime_ns > _SETTLED_NS
        key = (now.st_ino, now.st_size, now.st_mtime_ns)
        header, faults = _remembered(str(path), *key) if settled else read_header(path)
    except OSError as error:
        raise ValueError(f"{path}: expected an audio file that can be read, got: {error.strerror}") from error
    for code, severity, value, advice in faults:
        if severity == "error":
            expected = "an audio file that can be read, got:" if code == "unreadable" else "a sound header, got"
            raise ValueError(f"{path}: expected {expected} {value}; {advice}")
    return header


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open for reading; what libsndfile complains about, or should, becomes a ValueError that names the file."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected an audio file, but there is nothing at this path")
    if path.is_dir():
        raise ValueError(f"{path}: expected an audio file, got a folder")
    if not path.is_file():
        raise ValueError(f"{path}: expected an audio file, got a pipe or a device")
    if path.suffix.lower() == ".raw":
        raise ValueError(f"{path}: expected an audio file with a header, got one without; convert it to .wav")
    header = _header(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            if not _LOWEST_HZ <= file.samplerate <= _HIGHEST_HZ:
                expected, got = f"{_LOWEST_HZ} to {_HIGHEST_HZ} Hz", file.samplerate
                raise ValueError(f"{path}: expected {expected}, got {got} Hz; the header is damaged, copy it again")
            found = WavHeader(file.samplerate, file.channels, file.frames, file.subtype)
            if header not in (None, found):
                raise ValueError(f"{path}: expected {header} as its fields say, got {found}; copy it again")
            yield file
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(". ")
        raise ValueError(f"{path}: expected an audio file that can be read, got: {reason}; copy it again") from error


def _check_mono(path: Path, file: Any) -> None:
    if file.channels != 1:
        raise ValueError(f"{path}: expected one channel, got {file.channels}; give a mono file or mix it down first")


def _check_stretch(path: Path, file: Any, start: int, stop: int) -> None:
    if not 0 <= start <= stop <= file.frames:
        raise ValueError(f"{path}: expected a stretch within 0 to {file.frames} frames, got {start} to {stop}")


def _cut_short(path: Path, promised: int, got: int) -> ValueError:
    return ValueError(f"{path}: expected {promised} frames as its header says, got {got}; copy it again")


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
        if mono:
            _check_mono(path, file)
        last = file.frames if stop is None else stop
        _check_stretch(path, file, start, last)
        file.seek(start)
        audio = file.read(last - start, dtype="float32", always_2d=True)
        if len(audio) != last - start:
            raise _cut_short(path, last, start + len(audio))
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
        float32 blocks.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_audio`.
    """
    path = Path(path)
    with _opened(path) as file:
        _check_mono(path, file)
        _check_stretch(path, file, start, stop)
        file.seek(start)
        while start < stop:
            wanted = min(block_frames, stop - start)
            block = file.read(wanted, dtype="float32", always_2d=True)
            if len(block) != wanted:
                raise _cut_short(path, stop, start + len(block))
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
