"""What a WAV header promises against what the file holds.

libsndfile opens more than a quarter of randomly damaged WAV headers without complaint, with a wrong length, rate or
channel count. Here the fields are held against one another and against the size of the file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_STREAMED = (0, 0xFFFFFFFF)
"""Data sizes that a recorder writes first and fills in at the end, if it gets there."""

_PLAIN_ENCODINGS = (1, 3, 0xFFFE)
"""PCM, float and extensible: the encodings whose block is channels × bytes a sample."""


def header_faults(path: str | Path) -> list[tuple[str, str, str, str]]:
    """Contradictions in the header of a RIFF WAV file; other formats have none here.

    Args:
        path: the file; only its chunk headers are read.

    Returns:
        list of (code, severity, value, advice), code ``header_length`` or ``header_fields``.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if len(start) < 12 or start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return []
        chunks, end = _chunks(file, size)
        faults = _field_faults(file, chunks)
    data = next((chunk for chunk in chunks if chunk[0] == b"data"), None)
    if data is None:
        return [*faults, ("header_length", "error", "no data chunk", "the file is cut or damaged; copy it again")]
    _, position, promised = data
    held = size - position
    if promised in _STREAMED and held > 0:
        advice = "the recorder never finished the header; open the file in an editor and save it again"
        faults.append(("header_length", "warning", f"{promised} bytes promised, {held} held", advice))
    elif promised > held:
        advice = "the end of the file is missing; copy or record it again"
        faults.append(("header_length", "error", f"{promised} bytes promised, {held} held", advice))
    elif end != size and not _only_padding(path, end):
        advice = "after the promised end there is more that is no chunk, so the length is wrong; copy the file again"
        faults.append(("header_length", "error", f"{promised} bytes promised, {held} held", advice))
    return faults


def _chunks(file: BinaryIO, size: int) -> tuple[list[tuple[bytes, int, int]], int]:
    """(name, position, size) of the chunks in order, and where the last whole one ends."""
    chunks = []
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if not name.isascii() or not name.decode("ascii").isprintable():
            break
        # Chunks other than data must fit; data may be cut, and that is what is looked for.
        if name != b"data" and position + 8 + length > size:
            break
        chunks.append((name, position + 8, length))
        position += 8 + length + length % 2
    return chunks, min(position, size)


def _only_padding(path: Path, start: int) -> bool:
    """Whether what follows is a few zero bytes, as some programs append."""
    with path.open("rb") as file:
        file.seek(start)
        rest = file.read(4097)
    return len(rest) <= 4096 and not any(rest)


def _field_faults(file: BinaryIO, chunks: list[tuple[bytes, int, int]]) -> list[tuple[str, str, str, str]]:
    for name, position, length in chunks:
        if name == b"fmt " and length >= 16:
            file.seek(position)
            encoding, channels, rate, byte_rate, block, bits = struct.unpack("<HHIIHH", file.read(16))
            if encoding not in _PLAIN_ENCODINGS:
                return []
            expected_block = channels * ((bits + 7) // 8)
            if block == expected_block and byte_rate == rate * block:
                return []
            value = f"{channels} channels, {bits} bits, {rate} Hz, but {block} bytes a frame and {byte_rate} a second"
            advice = "rate, channels and sample size contradict one another, the header is damaged; copy the file again"
            return [("header_fields", "error", value, advice)]
    return [("header_fields", "error", "no fmt chunk", "the header is damaged; copy the file again")]
