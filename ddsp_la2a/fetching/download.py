"""A long file over HTTP: goes on where the connection was cut, in the same run or the next."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ddsp_la2a.fetching.checksum import Checksum, header_checksum
from ddsp_la2a.fetching.web import LostError, ask, ask_once, reason_of
from ddsp_la2a.files import replacing

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
"""How long a server may be silent, or slower than a modem."""

PAUSES_S = (1.0, 3.0, 10.0, 30.0, 60.0)
"""Before each further attempt; progress gives all of them back."""

_LEAST_BYTES_PER_S = 1000
_BLOCK_BYTES = 1 << 20


class Remote(NamedTuple):
    """What a server says of a file: bytes, and what changes whenever the file does."""

    url: str
    size: int
    validator: str | None
    checksum: Checksum | None

    @property
    def state(self) -> dict[str, Any]:
        """What is kept beside a part, to tell whether it is still one of this file."""
        return {"url": self.url, "size": self.size, "validator": self.validator}


def inquire(url: str, *, timeout_s: float = TIMEOUT_S) -> Remote:
    """Ask a server for length and state of a file.

    Raises:
        ValueError: no http or https address, or a server that doesn't say how long the file is.
        ConnectionError: no such file, or no such server.
    """
    with ask_once(url, {}, timeout_s) as response:
        return _described(url, response)


def bytes_kept(part: Path, remote: Remote) -> int:
    """How much of a file is in a part of it; none where the file has changed since."""
    try:
        size = part.stat().st_size
        state = json.loads(state_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    return size if state == remote.state and size <= remote.size else 0


def state_path(part: Path) -> Path:
    """Where is kept what a part is a part of."""
    return part.with_name(f"{part.name}.json")


def download(
    remote: Remote,
    part: Path,
    file: BinaryIO,
    *,
    progress: Callable[[int, int], object] | None = None,
    timeout_s: float = TIMEOUT_S,
    pauses_s: Sequence[float] = PAUSES_S,
) -> None:
    """Append to a part what it lacks, over as many connections as that takes.

    Whatever ends it early (an exception of ``progress`` too), the next call goes on from there. A file that has changed
    on the server since the last call is begun anew.

    Args:
        remote: as :func:`inquire` gave it.
        part: path of the part; :func:`state_path` is written beside it.
        file: the part, open for appending and reading.
        progress: called with the bytes done and their total after each block.
        timeout_s: how long a server may be silent, or send less than 1 kB/s.
        pauses_s: before each further attempt, in a row of attempts that don't get on.

    Raises:
        ConnectionError: the file isn't to be had, or attempts ran out; what there is can be gone on from.
    """
    done = bytes_kept(part, remote)
    if done < file.seek(0, 2):
        logger.warning("%s: not a part of what the server has now; begins anew", part)
        file.truncate(done)
    with replacing(state_path(part)) as temporary:
        temporary.write_text(json.dumps(remote.state) + "\n", encoding="utf-8")
    furthest, failures, ranged = done, 0, True
    while (done := file.seek(0, 2)) < remote.size:
        try:
            _append(remote, file, done if ranged else 0, progress, timeout_s)
        except LostError as lost:
            done, ranged = file.seek(0, 2), lost.ranged
            if done >= furthest + _BLOCK_BYTES:
                furthest, failures = done, 0
            if failures == len(pauses_s):
                raise ConnectionError(
                    f"{remote.url}: expected {remote.size} bytes, got {done} ({lost}); run the command again to go on"
                ) from lost
            pause_s = max(pauses_s[failures], lost.pause_s)
            failures += 1
            logger.warning("%s: %s at byte %d; trying again in %g s", remote.url, lost, done, pause_s)
            time.sleep(pause_s)


def _append(
    remote: Remote, file: BinaryIO, first: int, progress: Callable[[int, int], object] | None, timeout_s: float
) -> None:
    """One attempt, from a byte on."""
    headers = {"Range": f"bytes={first}-"} if first else {}
    conditional = {"If-Range": remote.validator} if first and remote.validator else {}
    with ask(remote.url, headers | conditional, timeout_s) as response:
        _checked_state(remote, response)
        if response.status == 206 or not conditional:
            _go_on(remote, response, file, first, progress, timeout_s)
            return
    # The file is the same, yet all of it comes: some servers know ranges and don't understand the condition.
    with ask(remote.url, headers, timeout_s) as response:
        _checked_state(remote, response)
        _go_on(remote, response, file, first, progress, timeout_s)


def _checked_state(remote: Remote, response: HTTPResponse) -> None:
    """Whether the file changed or a login page stands in its place: nothing is thrown away for that unasked.

    Raises:
        LostError: it isn't the file that it was.
    """
    if response.status != 206:
        length = response.headers.get("Content-Length")
        if length != str(remote.size) or _validator(response) != remote.validator:
            raise LostError("another file than at the start")
    elif _content_range(response)[1] != remote.size or _validator(response) not in (None, remote.validator):
        raise LostError("a range of another file", ranged=False)


def _go_on(
    remote: Remote,
    response: HTTPResponse,
    file: BinaryIO,
    first: int,
    progress: Callable[[int, int], object] | None,
    timeout_s: float,
) -> None:
    """Append what comes where it belongs there, else begin anew with it."""
    if response.status == 206:
        if not first or _content_range(response)[0] != first:
            raise LostError("another range than was asked for", ranged=False)
    else:
        if file.seek(0, 2):
            logger.warning("%s: the server only gives the whole file; begins anew", remote.url)
            file.truncate(0)
        first = 0
    _receive(response, file, first, remote.size, progress, timeout_s)


def _receive(
    response: HTTPResponse,
    file: BinaryIO,
    done: int,
    size: int,
    progress: Callable[[int, int], object] | None,
    timeout_s: float,
) -> None:
    begun, received = time.monotonic(), 0
    while done < size:
        try:
            block = response.read1(min(_BLOCK_BYTES, size - done))
        except (OSError, HTTPException) as error:
            raise LostError(reason_of(error)) from error
        if not block:
            raise LostError("cut off")
        file.write(block)
        done += len(block)
        received += len(block)
        if progress is not None:
            progress(done, size)
        if (passed_s := time.monotonic() - begun) > timeout_s:
            if received < _LEAST_BYTES_PER_S * passed_s:
                raise LostError(f"only {received} bytes in {passed_s:.0f} s")
            begun, received = time.monotonic(), 0


def _described(url: str, response: HTTPResponse) -> Remote:
    length = response.headers.get("Content-Length") or ""
    if not re.fullmatch("[0-9]{1,15}", length) or not int(length):
        raise ValueError(f"{url}: expected a server that says how long the file is, got a length of {length!r}")
    return Remote(url, int(length), _validator(response), header_checksum(response.headers))


def _validator(response: HTTPResponse) -> str | None:
    """What If-Range may be asked with: a strong ETag, else the time of the last change."""
    etag = response.headers.get("ETag") or ""
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""
    return validator if re.fullmatch(r"[ -~]{1,500}", validator) else None


def _content_range(response: HTTPResponse) -> tuple[int | None, int | None]:
    """First byte and size of the whole, where they are said."""
    match = re.fullmatch(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15})", response.headers.get("Content-Range") or "")
    return (int(match[1]), int(match[2])) if match else (None, None)
