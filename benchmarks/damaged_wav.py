"""WAV files damaged in every way there is, and what reading makes of them."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from ddsp_la2a.data.audio import audio_info, read_audio, read_blocks

_EXTREMES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_FIELDS = ((0, 2), (2, 2), (4, 4), (8, 4), (12, 2), (14, 2), (16, 2), (18, 2), (20, 4), (24, 2), (26, 4))
"""Place and width of what a fmt chunk holds; a plain one holds the first six."""

_PLAIN = 6


@dataclass(frozen=True)
class Original:
    """A sound file, where its parts are, and what is in it."""

    data: bytes
    header: int
    chunks: list[tuple[int, int]]
    rate: int
    audio: np.ndarray

    @classmethod
    def of(cls, data: bytes) -> Original:
        """Read a file that is as it should be."""
        audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        order, position, chunks, header = ("<", ">")[data[:4] == b"RIFX"], 12, [], 0
        while position + 8 <= len(data):
            name, length = struct.unpack(f"{order}4sI", data[position : position + 8])
            if name == b"data":
                header = position + 8
                length = struct.unpack("<Q", data[28:36])[0] if data[:4] == b"RF64" else length
            chunks.append((position, 8 + length + length % 2))
            position += 8 + length + length % 2
        return cls(data, header, chunks, rate, audio)

    @property
    def order(self) -> str:
        """Of bytes."""
        return ">" if self.data[:4] == b"RIFX" else "<"

    @property
    def form(self) -> int:
        """Where the fields of the fmt chunk begin."""
        return self.data.index(b"fmt ") + 8

    @property
    def extensible(self) -> bool:
        """Whether the fmt chunk is one of 40 bytes."""
        return struct.unpack(f"{self.order}I", self.data[self.form - 4 : self.form])[0] >= 40


def _written(subtype: str, channels: int, rate: int, frames: int, seed: int, **how: str) -> bytes:
    rng = np.random.default_rng(seed)
    audio = 0.3 * rng.standard_normal((frames, channels)).clip(-3, 3)
    audio[-frames // 4 :] *= seed % 3 > 0  # a third of them ends in silence
    file = io.BytesIO()
    soundfile.write(file, audio, rate, subtype, **{"format": "WAV", **how})
    return file.getvalue()


def _with(
    data: bytes, before: tuple[tuple[bytes, bytes], ...] = (), after: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """The same with more chunks before and after the data."""
    front, back = (
        b"".join(name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for name, body in group)
        for group in (before, after)
    )
    at = data.index(b"data")
    whole = data[:at] + front + data[at:] + back
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def originals() -> dict[str, Original]:
    """Encodings and layouts that recorders and editors write."""
    tags = b"INFOISFT\x0e\x00\x00\x00Lavf59.27.100\x00"
    pcm_16, pcm_24 = _written("PCM_16", 1, 44100, 2500, 1), _written("PCM_24", 1, 48000, 2001, 2)
    files = {
        "16 bits": pcm_16,
        "16 bits, quiet end": _written("PCM_16", 1, 44100, 2500, 3),
        "16 bits, stereo": _written("PCM_16", 2, 44100, 1500, 4),
        "24 bits": pcm_24,
        "24 bits, quiet end": _written("PCM_24", 1, 96000, 2000, 6),
        "32 bits": _written("PCM_32", 1, 44100, 2000, 5),
        "8 bits": _written("PCM_U8", 1, 22050, 2001, 7),
        "float": _written("FLOAT", 1, 44100, 2000, 8),
        "float, stereo": _written("FLOAT", 2, 192000, 1200, 10),
        "double": _written("DOUBLE", 1, 44100, 1500, 11),
        "extensible, 24 bits": _written("PCM_24", 1, 44100, 2000, 13, format="WAVEX"),
        "extensible, float": _written("FLOAT", 1, 44100, 2000, 14, format="WAVEX"),
        "RF64": _written("PCM_16", 1, 44100, 2500, 16, format="RF64"),
        "RIFX": _written("PCM_16", 1, 44100, 2500, 17, endian="BIG"),
        "tags behind": _with(pcm_16, after=((b"LIST", tags),)),
        "tags of 24 bytes behind": _with(pcm_16, after=((b"LIST", tags[:16]),)),
        "tags before": _with(pcm_24, before=((b"LIST", tags),)),
        "broadcast": _with(
            pcm_24, before=((b"bext", bytes(602)), (b"junk", bytes(27))), after=((b"iXML", b"<a/>" * 50),)
        ),
        "counted": _with(pcm_16, before=((b"fact", struct.pack("<I", 2500)),)),
        "odd chunks": _with(pcm_24, before=((b"odd ", b"abc"),), after=((b"odd ", b"abcde"), (b"LIST", tags))),
    }
    return {name: Original.of(data) for name, data in files.items()}


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _flipped(
    original: Original, rng: np.random.Generator, count: int, first: int = 0, last: int | None = None
) -> bytes:
    data = bytearray(original.data)
    for at in rng.integers(first, original.header if last is None else last, count):
        data[at] ^= 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
    return bytes(data)


def _one_byte(original: Original, rng: np.random.Generator) -> bytes:
    return _flipped(original, rng, 1)


def _several_bytes(original: Original, rng: np.random.Generator) -> bytes:
    return _flipped(original, rng, int(rng.integers(2, 9)))


def _cut(original: Original, rng: np.random.Generator) -> bytes:
    last = original.header + 40 if rng.random() < 0.3 else len(original.data)
    return original.data[: int(rng.integers(last))]


def _size(original: Original, rng: np.random.Generator) -> bytes:
    places = [4, *(position + 4 for position, _ in original.chunks)]
    at = places[rng.integers(len(places))]
    if original.data[:4] == b"RF64" and rng.random() < 0.5:
        at = int(rng.choice((20, 28, 36)))
    old = struct.unpack(f"{original.order}I", original.data[at : at + 4])[0]
    others = [size for _, size in original.chunks]
    new = (
        int(rng.choice(_EXTREMES)),
        old + int(rng.integers(-64, 65)),
        old + int(rng.choice(others)) * int(rng.choice((-1, 1))),
        old ^ 1 << int(rng.integers(32)),
        int(rng.integers(1 << 32)),
    )[rng.integers(5)]
    return _put(original.data, at, struct.pack(f"{original.order}I", new % (1 << 32)))


def _extremes(original: Original, rng: np.random.Generator) -> bytes:
    data = original.data
    for _ in range(int(rng.integers(1, 4))):
        place, width = _FIELDS[rng.integers(len(_FIELDS) if original.extensible else _PLAIN)]
        value = int(rng.choice(_EXTREMES)) % (1 << 8 * width)
        data = _put(data, original.form + place, struct.pack(f"{original.order}{'H' if width == 2 else 'I'}", value))
    return data


def _names(original: Original, rng: np.random.Generator) -> bytes:
    places = [0, 8, *(position for position, _ in original.chunks)]
    at = places[rng.integers(len(places))]
    if rng.random() < 0.5:
        names = (b"RIFF", b"RIFX", b"RF64", b"WAVE", b"fmt ", b"data", b"LIST", b"fact", b"slnt", b"\0\0\0\0", b"ds64")
        return _put(original.data, at, names[rng.integers(len(names))])
    return _flipped(original, rng, 1, at, at + 4)


def _order(original: Original, rng: np.random.Generator) -> bytes:
    parts = [original.data[position : position + size] for position, size in original.chunks]
    way, at = rng.integers(3), int(rng.integers(len(parts)))
    if way == 0:
        parts.insert(int(rng.integers(len(parts) + 1)), parts[at])
    elif way == 1:
        parts.pop(at)
    else:
        parts.insert(int(rng.integers(len(parts))), parts.pop(at))
    body = b"".join(parts)
    size = original.data[4:8] if rng.random() < 0.5 else struct.pack(f"{original.order}I", 4 + len(body))
    return original.data[:4] + size + original.data[8:12] + body


def _lengthened(original: Original, rng: np.random.Generator) -> bytes:
    count = int(rng.choice((1, 2, 7, 8, 100, 5000)))
    return original.data + (bytes(count) if rng.random() < 0.5 else rng.bytes(count))


def _samples(original: Original, rng: np.random.Generator) -> bytes:
    at = original.header + rng.integers(len(original.data) - original.header)
    return _flipped(original, rng, 1, int(at), int(at) + 1)


SAMPLES = "a byte behind the header"
DAMAGE: dict[str, Callable[[Original, np.random.Generator], bytes]] = {
    "a byte of the header": _one_byte,
    "2 to 8 bytes of the header": _several_bytes,
    "cut short": _cut,
    "a chunk's length": _size,
    "1 to 3 fields at extremes": _extremes,
    "a chunk's name": _names,
    "chunks twice, gone, moved": _order,
    "more at the end": _lengthened,
    SAMPLES: _samples,
}

OUTCOMES = ("refused", "right", "misread", "wrong error", "slow")
SLOW_S = 1.0


def outcome(original: Original, damaged: bytes, path: Path, exact: bool = True) -> tuple[str, float]:
    """What reading makes of a damaged file: one of the outcomes, and the seconds it took.

    Args:
        original: what was damaged.
        damaged: its bytes now.
        path: to write them to.
        exact: hold the samples against the original's as well.
    """
    path.write_bytes(damaged)
    start = time.perf_counter()
    try:
        info = audio_info(path)
        audio, rate = read_audio(path, mono=False)
        blocks = [*read_blocks(path, 0, info.frames, 1 << 12)] if info.channels == 1 else None
    except ValueError as error:
        seconds, message = time.perf_counter() - start, str(error)
        clear = message.startswith(f"{path}: expected") and "got" in message and "\n" not in message
        return ("slow" if seconds > SLOW_S else "refused" if clear else "wrong error"), seconds
    except Exception:
        return "wrong error", time.perf_counter() - start
    seconds = time.perf_counter() - start
    wanted = original.audio.T
    same = audio.shape == wanted.shape and rate == info.sample_rate == original.rate
    same = same and (info.channels, info.frames) == wanted.shape
    if same and exact:
        same = np.array_equal(audio, wanted) and (blocks is None or np.array_equal(np.concatenate(blocks), wanted[0]))
    return ("slow" if seconds > SLOW_S else "right" if same else "misread"), seconds


def libsndfile_alone(original: Original, damaged: bytes) -> bool:
    """Whether libsndfile by itself reads it with another length, rate or channel count, and says nothing."""
    try:
        with soundfile.SoundFile(io.BytesIO(damaged)) as file:
            return (file.frames, file.channels, file.samplerate) != (*original.audio.shape, original.rate)
    except soundfile.LibsndfileError:
        return False
