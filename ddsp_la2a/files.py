"""Files that are there whole or not at all, whatever room writes them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and move it there once all is written.

    So a file is either the old one or complete, whatever interrupts the writing.

    Args:
        path: the file to be written; its folder must exist.

    Returns:
        the temporary path, with the same ending, in the same folder.

    Raises:
        ValueError: the folder doesn't exist, or ``path`` is a folder itself.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected a file name, got a folder")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: expected a file name in an existing folder; create {path.parent} first")
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
