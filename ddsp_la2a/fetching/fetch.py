"""Fetches the SignalTrain LA2A data set: looks at what is there, downloads, compares checksums, unpacks."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from ddsp_la2a.data.index import SPLITS, index
from ddsp_la2a.fetching.checksum import Checksum, checksums, parse_checksum
from ddsp_la2a.fetching.download import (
    PAUSES_S,
    TIMEOUT_S,
    Remote,
    bytes_kept,
    download,
    inquire,
    state_path,
)
from ddsp_la2a.fetching.unpack import DamagedError, unpack
from ddsp_la2a.fetching.web import checked_url, read_document

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

URL = "https://zenodo.org/records/3824876/files/SignalTrain_LA2A_Dataset_1.1.tgz"
RECORD_URL = "https://zenodo.org/api/records/3824876"
"""What the data set's host says of :data:`URL`: checksum and size."""

_UNPACKED_PER_PACKED = 1.25
"""An estimate on the safe side: noise-like 16-bit audio hardly packs."""
_RESERVE_BYTES = 1 << 28
_RECORD_BYTES = 1 << 22

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class FetchPlan:
    """What :func:`fetch` would do.

    Args:
        folder: of the data set, not there yet or empty.
        archive: beside it: a part of the download, or the whole file where somebody put it there.
        remote: what the server says; None where nothing needs to be downloaded.
        size: bytes of the archive.
        kept: bytes of it that are there already.
        free: bytes free on that disk.
        checksum: to compare with; None where nobody says one.
        checksum_source: who says so.
    """

    folder: Path
    archive: Path
    remote: Remote | None
    size: int
    kept: int
    free: int
    checksum: Checksum | None
    checksum_source: str

    @property
    def unpacked(self) -> int:
        """Estimated bytes of the unpacked data set."""
        return round(_UNPACKED_PER_PACKED * self.size)

    @property
    def needed(self) -> int:
        """Bytes that have to be free: what is still to come, and all of it unpacked."""
        return self.size - self.kept + self.unpacked + _RESERVE_BYTES


@dataclass(frozen=True)
class Fetched:
    """What :func:`fetch` did."""

    folder: Path
    pairs: int
    sha256: Checksum


def plan_fetch(
    folder: str | os.PathLike[str],
    *,
    url: str | None = None,
    checksum: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> FetchPlan:
    """Ask server and disk what fetching the data set would take; nothing is written.

    An archive of the address' name beside the folder, such as one from a browser, is used in place of a download.

    Args:
        folder: of the data set, to be made; may exist if it is empty.
        url: of a ``.tgz`` with Train, Val and Test; default: :data:`URL`.
        checksum: such as ``sha256:ab12…``; default: what the data set's record says (of :data:`URL` alone), else what
            the server sends with the file, else none.
        timeout_s: how long a server may be silent.

    Raises:
        ValueError: folder isn't empty or can't be one, another kind of address, or too little room on the disk.
        ConnectionError: the server can't be reached, or doesn't have the file.
    """
    folder = _new_folder(Path(folder))
    url, is_default = checked_url(URL if url is None else url), url in (None, URL)
    expected = parse_checksum(checksum) if checksum is not None else None
    source, recorded_size = ("you", None) if expected is not None else ("nobody", None)
    if expected is None and is_default:
        expected, recorded_size = _recorded(RECORD_URL, _name(url), timeout_s)
        source = RECORD_URL if expected is not None else source

    archive = folder.with_name(_name(url))
    remote = None
    if archive.is_file():
        size = kept = archive.stat().st_size
    else:
        archive = archive.with_name(f"{archive.name}.part")
        remote = inquire(url, timeout_s=timeout_s)
        size, kept = remote.size, bytes_kept(archive, remote)
        if not kept and archive.is_file():
            logger.warning("%s: not a part of what the server has now; it would be begun anew", archive)
        if expected is None and remote.checksum is not None:
            expected, source = remote.checksum, "the server, with the file"
    if recorded_size not in (None, size):
        where = archive if remote is None else url
        raise ValueError(
            f"{where}: expected {recorded_size} bytes as in {RECORD_URL}, got {size}; "
            f"{'move it away' if remote is None else 'try again later'}"
        )
    free = shutil.disk_usage(next(parent for parent in archive.parents if parent.is_dir())).free
    free += sum(path.stat().st_size for path in _scratch(folder).rglob("*") if path.is_file())
    plan = FetchPlan(folder, archive, remote, size, kept, free, expected, source)
    if free < plan.needed:
        raise ValueError(
            f"{folder}: expected {plan.needed / 1e9:.1f} GB free for archive and recordings, got {free / 1e9:.1f} GB; "
            "make room, or name a folder on another disk"
        )
    return plan


def fetch(
    plan: FetchPlan,
    *,
    progress: Progress | None = None,
    timeout_s: float = TIMEOUT_S,
    pauses_s: Sequence[float] = PAUSES_S,
) -> Fetched:
    """Download what is missing, compare the checksum, unpack.

    Ended early, it leaves the part of the archive, which the next call goes on from. The folder appears only once it is
    complete, with ``fetched.json``: address, bytes and checksums. A downloaded archive is deleted then; one that
    somebody put there never is.

    Args:
        plan: as :func:`plan_fetch` gave it.
        progress: called with the step (download, checksum, unpack), the bytes done and their total.
        timeout_s: how long a server may be silent, or send less than 1 kB/s.
        pauses_s: before each further attempt to connect.

    Raises:
        ConnectionError: the connection was lost too often; the next call goes on.
        ValueError: the checksum differs, the archive is damaged, holds what it shouldn't or no data set; or another
            process is at it.
    """
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    is_ours = plan.remote is not None
    done = False
    try:
        with _alone(plan.archive, "a+b" if is_ours else "rb") as file:
            if plan.remote is not None:
                download(
                    plan.remote,
                    plan.archive,
                    file,
                    progress=progress and partial(progress, "download"),
                    timeout_s=timeout_s,
                    pauses_s=pauses_s,
                )
            names = {"sha256"} | ({plan.checksum.algorithm} if plan.checksum else set())
            sums = checksums(file, names, progress=progress and partial(progress, "checksum"))
            if plan.checksum is not None and sums[plan.checksum.algorithm] != plan.checksum:
                done = is_ours
                raise ValueError(
                    f"{plan.archive}: expected {plan.checksum} (says {plan.checksum_source}), "
                    f"got {sums[plan.checksum.algorithm]}; {_what_now(plan)}"
                )
            try:
                _unpack_into(plan, file, sums, progress and partial(progress, "unpack"))
            except DamagedError as error:
                done = is_ours and plan.checksum is None
                advice = _what_now(plan) if plan.checksum is None else "it is what the checksum promises: ask its host"
                raise ValueError(f"{plan.archive}: {error}; {advice}") from error
            except ValueError as error:
                raise ValueError(f"{plan.archive}: {error}; the archive is kept") from error
            done = is_ours
    finally:
        if done:
            state_path(plan.archive).unlink(missing_ok=True)
            plan.archive.unlink(missing_ok=True)
    return Fetched(plan.folder, len(index(plan.folder)), sums["sha256"])


def _what_now(plan: FetchPlan) -> str:
    return "move it away and run again" if plan.remote is None else "deleted; run again to begin anew"


def _new_folder(folder: Path) -> Path:
    folder = folder.resolve()
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected a new or an empty folder; remove what is in it, or name another")
    if folder.exists() and (not folder.is_dir() or os.path.ismount(folder)):
        raise ValueError(f"{folder}: expected the name of a folder to be made, got a file or a disk; name one in it")
    return folder


def _name(url: str) -> str:
    """File name in an address, where it is a plain one."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) else "archive.tgz"


def _recorded(url: str, name: str, timeout_s: float) -> tuple[Checksum | None, int | None]:
    """Checksum and size of a file as a record of Zenodo says them; none where it can't be understood or reached."""
    try:
        files = json.loads(read_document(url, most_bytes=_RECORD_BYTES, timeout_s=timeout_s))["files"]
        entry = next(entry for entry in files if name in (entry.get("key"), entry.get("filename")))
        text = str(entry["checksum"])
        return parse_checksum(text if ":" in text else f"md5:{text}"), int(entry["size"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        logger.warning("no checksum from the data set's record: %s", str(error) or f"{url} doesn't list {name}")
        return None, None


@contextmanager
def _alone(path: Path, mode: str) -> Iterator[BinaryIO]:
    """Open a file that no other process of this kind has open, as far as the system can tell."""
    with path.open(mode) as opened:
        file: BinaryIO = opened  # type: ignore[assignment]
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{path}: expected to fetch alone, got another process at it; wait for it") from None
            except OSError:
                logger.info("%s: its file system knows no locks", path)
        yield file


def _unpack_into(
    plan: FetchPlan, file: BinaryIO, sums: dict[str, Checksum], progress: Callable[[int, int], object] | None
) -> None:
    """Unpack beside the folder, then move there what holds Train, Val and Test."""
    scratch = _scratch(plan.folder)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        free = shutil.disk_usage(scratch).free
        unpack(file, scratch, most_bytes=max(free - _RESERVE_BYTES, 0), progress=progress)
        root = _root(scratch)
        description = {
            "url": plan.remote.url if plan.remote is not None else None,
            "bytes": plan.size,
            "checksums": sorted(map(str, sums.values())),
            "compared_with": str(plan.checksum) if plan.checksum else None,
            "said_by": plan.checksum_source,
        }
        (root / "fetched.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if plan.folder.exists():  # only POSIX renames onto an empty folder
            plan.folder.rmdir()
        root.rename(plan.folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(folder: Path) -> Path:
    """One name for all runs: what a killed one left behind goes with the next."""
    return folder.with_name(f".{folder.name}.unpacking")


def _root(folder: Path) -> Path:
    """The folder with Train, Val or Test: this one, or one in it."""
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    for candidate in candidates:
        if any(path.is_dir() and path.name.lower() in SPLITS for path in candidate.iterdir()):
            return candidate
    raise ValueError("archive: expected Train, Val and Test in it, got no such folder")
