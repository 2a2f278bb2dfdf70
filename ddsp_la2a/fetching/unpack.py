"""Unpacks an archive that nobody vouches for: plain files and folders, below one folder, or nothing at all."""

from __future__ import annotations

import gzip
import tarfile
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20
_HEADER_BYTES = 1 << 16
"""Most that may stand between two files, and after the last: names, attributes, padding."""

_MOST_MEMBERS = 20_000
_LONGEST_NAME = 255


class DamagedError(ValueError):
    """The archive isn't whole, or never was one."""


class _Bounded:
    """A stream of which only so much may be read; else one long name in a header would fill the memory."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file = file
        self.left = self.position = self.last_content = 0

    def allow(self, count: int) -> None:
        self.left = count + tarfile.RECORDSIZE  # is read ahead

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if content := data.rstrip(b"\0"):
            self.last_content = self.position + len(content)
        self.position += len(data)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"archive: expected at most {_HEADER_BYTES} bytes between files, got more; not unpacked")
        return data


def unpack(
    archive: BinaryIO, folder: Path, *, most_bytes: int, progress: Callable[[int, int], object] | None = None
) -> int:
    """Unpack a ``.tgz`` into an empty folder, as files of this user that nobody can run.

    The first member that is neither file nor folder, or whose name would lead anywhere else (on any system), ends it,
    so the folder is to be thrown away after an error. What macOS adds (``._*``) is left out.

    Args:
        archive: to be read from its start.
        folder: exists and is empty.
        most_bytes: more than these aren't written.
        progress: called with the bytes of the archive done and their total.

    Returns:
        bytes of all files.

    Raises:
        DamagedError: no ``.tgz``, a cut one, or one with wrong bytes.
        ValueError: it holds what it shouldn't.
    """
    size = archive.seek(0, 2)
    archive.seek(0)
    try:
        with gzip.GzipFile(fileobj=archive, mode="rb") as unzipped:
            stream = _Bounded(unzipped)
            written, end = _unpack_members(
                stream, folder, most_bytes, lambda: progress and progress(archive.tell(), size)
            )
            # gzip only compares its checksum at the very end, behind the padding
            while stream.read(_BLOCK_BYTES):
                pass
            if stream.last_content > end:  # tarfile takes a damaged header for the end
                raise DamagedError(f"archive: expected the end at byte {end} unzipped, got more that isn't a file")
    except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError, RecursionError) as error:
        raise DamagedError(f"archive: expected a whole .tgz, got a damaged or another file ({error})") from error
    except UnicodeError as error:
        raise ValueError("archive: expected names in UTF-8, got others; not unpacked") from error
    if progress is not None:
        progress(size, size)
    return written


def _unpack_members(stream: _Bounded, folder: Path, most_bytes: int, advance: Callable[[], object]) -> tuple[int, int]:
    """Bytes of all files, and where the archive ends."""
    taken: dict[str, bool] = {}
    written = 0
    stream.allow(_HEADER_BYTES)
    with tarfile.open(  # type: ignore[call-overload]  # of a stream it only reads
        fileobj=stream, mode="r|", encoding="utf-8", errors="strict"
    ) as tar:
        for count, member in enumerate(iter(tar.next, None), start=1):
            tar.members.clear()  # or all of them stay in memory
            parts = _parts(member)
            _take(taken, parts, member)
            if count > _MOST_MEMBERS:
                raise ValueError(f"archive: expected at most {_MOST_MEMBERS} files, got more; not unpacked")
            if member.isdir():
                folder.joinpath(*parts).mkdir(parents=True, exist_ok=True)
            else:
                written += member.size
                if written > most_bytes:
                    raise ValueError(
                        f"archive: expected at most {most_bytes} bytes unpacked, got {written} up to {member.name!r}; "
                        "make room, or fetch to another disk"
                    )
                stream.allow(member.size)
                _write(tar, member, folder.joinpath(*parts), advance)
            stream.allow(_HEADER_BYTES)
        return written, tar.offset


def _parts(member: tarfile.TarInfo) -> list[str]:
    """Names of the folders and the file; none for the folder of all.

    Raises:
        ValueError: no plain file or folder, or a name that means something else on some system.
    """
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.issparse() or member.size < 0:
        raise ValueError(f"archive: expected files and folders, got a link or device {member.name!r}; not unpacked")
    name = member.name
    parts = [] if name == "." else name.removeprefix("./").removesuffix("/").split("/")
    sound = len(name) <= _LONGEST_NAME and not any(
        character in '\\:<>"|?*' or unicodedata.category(character).startswith("C") for character in name
    )
    if not sound or any(part.strip(". ") == "" or part.endswith((".", " ")) for part in parts):
        raise ValueError(f"archive: expected relative names that every system takes, got {name!r}; not unpacked")
    if not parts and not member.isdir():
        raise ValueError(f"archive: expected a name of a file, got {name!r}; not unpacked")
    return parts


def _take(taken: dict[str, bool], parts: list[str], member: tarfile.TarInfo) -> None:
    """Note a name, and that it is a folder or not; systems that ignore case would mix up two that differ by it.

    Raises:
        ValueError: there is a file of this name, or a file and a folder.
    """
    keys = [unicodedata.normalize("NFC", "/".join(parts[:end])).casefold() for end in range(1, len(parts) + 1)]
    for key in keys:
        is_folder = member.isdir() or key != keys[-1]
        if key in taken and not (is_folder and taken[key]):
            raise ValueError(f"archive: expected every name once, got {member.name!r} again; not unpacked")
        taken[key] = is_folder


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, advance: Callable[[], object]) -> None:
    source = tar.extractfile(member)
    assert source is not None  # a plain file
    if path.name.startswith("._"):
        while source.read(_BLOCK_BYTES):
            pass
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with path.open("xb") as file:
        while left:
            block = source.read(min(_BLOCK_BYTES, left))
            if not block:
                raise DamagedError(
                    f"archive: expected {member.size} bytes of {member.name!r}, got {member.size - left}"
                )
            file.write(block)
            left -= len(block)
            advance()
