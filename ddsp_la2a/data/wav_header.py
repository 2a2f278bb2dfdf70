"""What a WAV header promises against what the file holds.

libsndfile opens more than a quarter of randomly damaged WAV headers without complaint, with a wrong length, rate or
channel count. Here the fields are held against one another and against the size of the file, so that no single wrong
field goes unnoticed: rate against bytes a second, channels and bits against bytes a frame, lengths against where chunks
begin and end, integers against floats by what the samples look like.

What can't be known from the file alone: that samples were changed, or several fields so that they agree again; and how
much is missing where a recorder never filled in the length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

Fault = tuple[str, str, str, str]
"""Code (``header_length``, ``header_fields`` or ``unreadable``), severity, value, advice."""

_ORDERS = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<"}
_UNKNOWN = 0xFFFFFFFF
_STREAMED = (0, _UNKNOWN)
"""Data sizes that a recorder writes first and fills in at the end, if it gets there."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SUBTYPES = {
    (_PCM, 1): "PCM_U8",
    (_PCM, 2): "PCM_16",
    (_PCM, 3): "PCM_24",
    (_PCM, 4): "PCM_32",
    (_FLOAT, 4): "FLOAT",
    (_FLOAT, 8): "DOUBLE",
}
"""What libsndfile calls an encoding of so many bytes a sample; others can't be held against anything."""

_SUBFORMAT = (0x0000, 0x0010, bytes.fromhex("800000aa00389b71"))
"""What follows the encoding in the GUID of an extensible header."""

_BEHIND = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX", b"cue ", b"smpl", b"inst", b"acid", b"fact", b"PEAK")
"""Chunks that stand behind the data where there are any."""

_MOST_CHUNKS = 1000
_PROBE = _PADDING = 4096
_FAINT, _ONE, _FAR_OUT = 0x2B8CBCCC, 0x3F800000, 0x49742400  # 1e-12, 1 and 1e6 in float32
_NO_NUMBERS = (0x7F800000, 0x7FC00000)  # infinity and the usual NaN, likewise
_COPY = "the header is damaged; copy the file again"


@dataclass(frozen=True)
class WavHeader:
    """What a WAV file says of itself.

    Args:
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples a channel.
        subtype: encoding, as libsndfile calls it.
    """

    sample_rate: int
    channels: int
    frames: int
    subtype: str


def header_faults(path: str | Path) -> list[Fault]:
    """Contradictions in the header of a WAV file; other formats have none here.

    Args:
        path: the file; only its chunk headers and a few samples are read.

    Returns:
        list of (code, severity, value, advice), code ``header_length``, ``header_fields`` or ``unreadable``.
    """
    return read_header(path)[1]


def read_header(path: str | Path) -> tuple[WavHeader | None, list[Fault]]:
    """Header and contradictions of a WAV file (RIFF, RIFX or RF64); None and nothing of another format.

    Without a header and with an error it is one that can't be relied on.
    """
    with Path(path).open("rb", buffering=0) as file:
        return _Wav(file).judged()


class _Wav:
    """A file and what was found in it so far."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.head = file.read(_PROBE)
        self.size = file.seek(0, 2)
        self.order = _ORDERS.get(self.head[:4], "") if self.head[8:12] == b"WAVE" else ""
        self.faults: list[Fault] = []

    def at(self, position: int, count: int) -> bytes:
        """Bytes of the file, most often those that were read at once."""
        if position + count <= len(self.head):
            return self.head[position : position + count]
        self.file.seek(position)
        return self.file.read(count)

    def fault(self, code: str, value: str, advice: str = _COPY, severity: str = "error") -> None:
        """Note a contradiction."""
        self.faults.append((code, severity, value, advice))

    def judged(self) -> tuple[WavHeader | None, list[Fault]]:
        """Header, None where it can't be relied on, and faults."""
        if not self.order:
            return None, []
        riff = struct.unpack(f"{self.order}I", self.head[4:8])[0]
        counted = 0
        if self.head[:4] == b"RF64":
            if self.head[12:16] != b"ds64" or len(self.head) < 48:
                self.fault("unreadable", "no ds64 chunk")
                return None, self.faults
            riff, self.long_data, counted = struct.unpack("<QQQ", self.head[20:44])
        chunks, end = self.chunks()
        names = [name for name, _, _ in chunks]
        if [name for name in names if name in (b"fmt ", b"data")] != [b"fmt ", b"data"]:
            self.fault("unreadable", "other chunks than one fmt, then one data")
            return None, self.faults
        by_name = {name: (position, length) for name, position, length in chunks}
        form = self.fields(*by_name[b"fmt "])
        position, promised = by_name[b"data"]
        held = self.size - position
        unfinished = promised in _STREAMED and held > 0 and (promised == _UNKNOWN or end != self.size)
        self.lengths(promised, held, end, riff + 8, unfinished)
        if form is None:
            return None, self.faults
        encoding, channels, rate, width = form
        length = held if unfinished else min(promised, held)
        block = channels * width
        if not unfinished and promised % block > block % 2:  # an odd one may count the byte that makes it even
            self.fault("header_length", f"{promised} bytes promised, {block} a frame")
        if block == 1 and length and not length % 2 and self.at(position + length - 1, 1) == b"\0":
            self.fault("header_length", f"{promised} bytes promised, the last perhaps one that makes them even")
        frames = length // block
        if b"fact" in by_name and by_name[b"fact"][1] >= 4:
            counted = counted or struct.unpack(f"{self.order}I", self.at(by_name[b"fact"][0], 4))[0]
        # Some programs count samples of all channels, or bytes.
        if not unfinished and counted not in (*_STREAMED, frames, frames * channels, length):
            self.fault("header_length", f"{counted} frames counted, {frames} held")
        self.samples(position, length, encoding, width)
        found = WavHeader(rate, channels, frames, _SUBTYPES[encoding, width])
        return (None if any(fault[1] == "error" for fault in self.faults) else found), self.faults

    def chunks(self) -> tuple[list[tuple[bytes, int, int]], int]:
        """(name, position, size) of the chunks in order, and where the last whole one ends."""
        chunks: list[tuple[bytes, int, int]] = []
        position = 12
        while position + 8 <= self.size and len(chunks) < _MOST_CHUNKS:
            name, length = struct.unpack(f"{self.order}4sI", self.at(position, 8))
            if not _is_name(name):
                # Some programs leave the byte out that makes an odd chunk even.
                if not (chunks and chunks[-1][2] % 2) or not _is_name(self.at(position - 1, 4)):
                    break
                position -= 1
                name, length = struct.unpack(f"{self.order}4sI", self.at(position, 8))
            if name == b"data" and length == _UNKNOWN and self.head[:4] == b"RF64":
                length = self.long_data
            # Chunks other than data must fit; data may be cut, and that is what is looked for.
            if name != b"data" and position + 8 + length > self.size:
                break
            chunks.append((name, position + 8, length))
            position += 8 + length + length % 2
        return chunks, min(position, self.size)

    def fields(self, position: int, length: int) -> tuple[int, int, int, int] | None:
        """Encoding, channels, rate and bytes a sample, where they agree with the rest of the fmt chunk."""
        if length < 16:
            self.fault("header_fields", f"{length} bytes of fmt chunk")
            return None
        encoding, channels, rate, byte_rate, block, bits = struct.unpack(f"{self.order}HHIIHH", self.at(position, 16))
        if encoding == _EXTENSIBLE:
            if length < 40:
                self.fault("header_fields", f"{length} bytes of extensible fmt chunk")
                return None
            extra, valid, _, encoding, *rest = struct.unpack(f"{self.order}HHIIHH8s", self.at(position + 16, 24))
            if extra < 22 or valid > bits or tuple(rest) != _SUBFORMAT:
                self.fault("header_fields", f"{extra} more bytes, {valid} of {bits} bits, a subformat of other bytes")
                return None
        width = (bits + 7) // 8
        if encoding not in (_PCM, _FLOAT):
            advice = "such samples can't be checked, or the header is damaged; copy it again, or convert it to 24 bits"
            self.fault("header_fields", f"encoding {encoding}", advice)
            return None
        if block != channels * width or byte_rate != rate * block or not block or not rate:
            value = f"{channels} channels, {bits} bits, {rate} Hz, but {block} bytes a frame and {byte_rate} a second"
            advice = "rate, channels and sample size contradict one another, the header is damaged; copy the file again"
            self.fault("header_fields", value, advice)
            return None
        if (encoding, width) not in _SUBTYPES or (encoding == _FLOAT and bits % 8):
            self.fault("header_fields", f"encoding {encoding} of {bits} bits")
            return None
        return encoding, channels, rate, width

    def lengths(self, promised: int, held: int, end: int, riff_end: int, unfinished: bool) -> None:
        """Faults of the data's size: against the file's, the header's own, and what follows the data."""
        value, start = f"{promised} bytes promised, {held} held", self.size - held
        stop = min(start + promised, self.size) if not unfinished else self.size
        tail = max(start, stop - _PROBE)
        if self.holds_chunk(tail, stop, {stop, self.size, riff_end}):
            self.fault("header_length", f"{value}, another chunk among them")
        elif unfinished:
            advice = "the recorder never finished the header; open the file in an editor and save it again"
            # Of the two, libsndfile reads to the end of the file only with the largest number, and nothing with 0.
            self.fault("header_length", value, advice, "warning" if promised else "error")
        elif promised > held:
            self.fault("header_length", value, "the end of the file is missing; copy or record it again")
        # What lies beyond an end that the file has by its own count as well doesn't belong to it.
        elif end not in (self.size, riff_end) and (riff_end == self.size or not self.only_padding(end)):
            advice = "after its end there is more that is no chunk, so the length is wrong; copy the file again"
            self.fault("header_length", value, advice)

    def holds_chunk(self, start: int, stop: int, ends: set[int]) -> bool:
        """Whether a chunk that stands behind the data begins here, and ends where one must."""
        tail = self.at(start, stop - start)
        for name in _BEHIND:
            found = tail.find(name, 0, -4)
            while found >= 0:
                length = struct.unpack_from(f"{self.order}I", tail, found + 4)[0]
                if not ends.isdisjoint((start + found + 8 + length, start + found + 8 + length + length % 2)):
                    return True
                found = tail.find(name, found + 1, -4)
        return False

    def only_padding(self, start: int) -> bool:
        """Whether what follows is a few zero bytes, as some programs append."""
        rest = self.at(start, min(self.size - start, _PADDING + 1))
        return len(rest) <= _PADDING and not any(rest)

    def samples(self, position: int, length: int, encoding: int, width: int) -> None:
        """Integers said to be floats look like no sound, and floats said to be integers like floats."""
        if width != 4:
            return
        middle = position + length // 2 // 4 * 4
        words = np.frombuffer(self.at(middle, min(_PROBE, (position + length - middle) // 4 * 4)), f"{self.order}u4")
        size = words & 0x7FFFFFFF
        sounding = np.count_nonzero(size)
        if encoding == _FLOAT:
            wild = np.count_nonzero(size >= _FAR_OUT) - sum(np.count_nonzero(size == word) for word in _NO_NUMBERS)
            if wild > 0.25 * sounding:
                self.fault("header_fields", "samples that are no sound if they are floats")
        elif 0 < np.count_nonzero(words != size) < sounding:  # of both signs
            within = np.count_nonzero((size >= _FAINT) & (size <= _ONE))
            if within > 0.95 * sounding:
                self.fault("header_fields", "samples that look like floats, said to be integers")


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and name.isascii() and name.decode("ascii").isprintable()
