"""Hashes of what files hold, remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from ddsp_la2a.data import cache

_KIND = "files"
_BLOCK_BYTES = 1 << 20
_SETTLED_NS = 2_000_000_000
"""Some file systems count time in steps of two seconds: a file this young may change and not show it."""

_seen: dict[Path, list[object]] = {}
"""For this process, wherever nothing can be kept."""


def content_hash(path: str | Path, between: Callable[[], object] = lambda: None) -> str:
    """SHA-256 of a file's bytes in hexadecimal digits; the file is read only if it isn't known.

    Args:
        path: the file.
        between: called between blocks; what it raises ends the reading.

    Raises:
        OSError: it can't be read.
    """
    known = known_hash(path)
    if known is not None:
        return known
    path = Path(path).absolute()
    size, changed_ns = stamp(path)
    found = _read(path, between)
    if stamp(path) == (size, changed_ns) and time.time_ns() - changed_ns > _SETTLED_NS:
        _seen[path] = [size, changed_ns, found]
        cache.keep(_KIND, str(path), _seen[path])
    return found


def _read(path: Path, between: Callable[[], object]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            between()
    return digest.hexdigest()


def known_hash(path: str | Path) -> str | None:
    """Hash of a file that still has the size and the time of change it had when it was read; None of others.

    Raises:
        OSError: there is no such file.
    """
    path = Path(path).absolute()
    for known in (_seen.get(path), cache.recall(_KIND, str(path))):
        if isinstance(known, list) and known[:2] == [*stamp(path)] and isinstance(known[-1], str):
            return known[-1]
    return None


def stamp(path: str | Path) -> tuple[int, int]:
    """Size and time of change in nanoseconds.

    Raises:
        OSError: there is no such file.
    """
    stat = Path(path).stat()
    return stat.st_size, stat.st_mtime_ns
