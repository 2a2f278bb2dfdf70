"""Files that are there whole or not at all, whatever room writes them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class UnwritableError(OSError):
    """A file can't be written, as when the disk is full; what was there before is still there.

    Args:
        path: of the file.
        error: of the system, whose number this one gets.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path}: expected to write it, got '{error.strerror}'; make room, or name a folder that can be written to"
        )
        self.errno = error.errno


@contextmanager
def replacing(path: str | Path, previous: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and move it there once all is written and on the disk.

    So a file is either the old one or complete, whatever interrupts the writing, a power cut included.

    Args:
        path: the file to be written; its folder must exist.
        previous: in the same folder, where the present file goes first; None: it is replaced.

    Returns:
        the temporary path, with the same ending, in the same folder.

    Raises:
        ValueError: the folder doesn't exist, or ``path`` is a folder itself.
        UnwritableError: the disk is full or read-only; names ``path``, where the old file still is.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected a file name, got a folder")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: expected a file name in an existing folder; create {path.parent} first")
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        # One of another file, such as the one that is read meanwhile, isn't about the writing.
        other = error.filename not in (None, str(temporary), temporary)
        if other or error.errno is None or isinstance(error, UnwritableError):
            raise
        raise UnwritableError(path, error) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses that as well, and it isn't what went wrong
            temporary.unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    """Have the names in a folder outlast a power cut, where the system can: both files are whole if it can't."""
    with suppress(OSError):  # Windows opens no folder, some network disks don't sync one
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
