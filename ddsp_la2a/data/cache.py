"""What was found out about files before, kept in the user's cache folder. Losing it costs time and nothing else.

Every entry is a small JSON file, written in one move: so two processes may write at once, and what is damaged or can't
be read is found out again. Entries are forgotten half a year after they were written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from ddsp_la2a.files import replacing

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "DDSP_LA2A_CACHE_DIR"
"""Environment variable that names another folder than the user's cache."""

_KEPT_SECONDS = 180 * 86400


def folder() -> Path:
    """Where entries are kept; it need not exist yet."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else user_cache_path("ddsp_la2a", appauthor=False)


def recall(kind: str, key: str) -> Any:
    """What was kept under a key, or None; damaged entries count as none.

    Args:
        kind: of entry, a word.
        key: any text.
    """
    path = _entry(kind, key)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["value"] if found["key"] == key else None
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.debug("cache: %s", error)
    except (ValueError, TypeError, LookupError) as error:
        _warn_once(f"{folder()}: damaged entries are left aside, and what they are of is read again")
        logger.debug("cache: %s: %s", path, error)
    return None


def keep(kind: str, key: str, value: Any) -> None:
    """Keep a value that JSON can hold. Where nothing can be written, nothing is kept, and the log says so once."""
    path = _entry(kind, key)
    try:
        if not path.parent.is_absolute():  # no home folder
            raise OSError(f"expected an absolute path, got {path.parent}")
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget_old(path.parent)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"key": key, "value": value}), encoding="utf-8")
    except (OSError, ValueError) as error:
        _warn_once(f"{folder()}: nothing can be kept there, so files will be read again next time")
        logger.debug("cache: %s", error)


def _entry(kind: str, key: str) -> Path:
    # Names of files aren't always text.
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return folder() / kind / f"{digest}.json"


@cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


@cache
def _forget_old(place: Path) -> None:
    """Once a process."""
    limit = time.time() - _KEPT_SECONDS
    for path in place.iterdir():
        try:
            if path.stat().st_mtime < limit:
                path.unlink()
        except OSError as error:  # another process was faster
            logger.debug("cache: %s", error)
