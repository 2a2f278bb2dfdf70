"""Asks HTTP servers and no others; tells faults that may pass from final answers."""

from __future__ import annotations

import re
import ssl
import time
from http.client import HTTPException, HTTPResponse
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

_LONGEST_PAUSE_S = 300.0
_BLOCK_BYTES = 1 << 16
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}


class LostError(Exception):
    """An attempt ended before the file did; another one may fare better."""

    def __init__(self, reason: object, *, pause_s: float = 0.0, ranged: bool = True) -> None:
        super().__init__(reason)
        self.pause_s = pause_s
        self.ranged = ranged


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        checked_url(newurl, "redirect")
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise ValueError(f"{req.full_url}: expected an encrypted address to redirect to, got {newurl!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def checked_url(url: str, name: str = "url") -> str:
    """The address itself, where it is one that can be fetched.

    Raises:
        ValueError: another scheme than http and https, no host, or a password in it.
    """
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        _ = parts.port
    except ValueError:
        sound = False
    if not sound or re.search(r"[^!-~]", url):
        raise ValueError(f"{name}: expected http:// or https://, a host, no user name and no blanks, got {url!r}")
    return url


def read_document(url: str, *, most_bytes: int, timeout_s: float) -> bytes:
    """The whole of something short.

    Raises:
        ValueError: no http or https address, or longer than allowed.
        ConnectionError: no such document, no such server, or one that is too slow.
    """
    content, deadline = b"", time.monotonic() + timeout_s
    with ask_once(url, {"Accept": "application/json"}, timeout_s) as response:
        try:
            while block := response.read1(_BLOCK_BYTES):
                content += block
                if len(content) > most_bytes:
                    raise ValueError(f"{url}: expected at most {most_bytes} bytes, got more")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not whole within {timeout_s:g} s")
        except (OSError, HTTPException) as error:
            raise ConnectionError(f"{url}: {reason_of(error)}") from error
    return content


def ask(url: str, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    """An answer with the file; other answers and none are sorted into passing faults and final ones."""
    opener = OpenerDirector()  # of http and https alone: no file:, ftp: or data: whatever an address or redirect says
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        UnknownHandler(),
        HTTPErrorProcessor(),
        HTTPDefaultErrorHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    request = Request(checked_url(url), headers={"User-Agent": "ddsp_la2a", "Accept-Encoding": "identity"} | headers)
    try:
        response: HTTPResponse = opener.open(request, timeout=timeout_s)
    except HTTPError as error:
        with error:
            if error.code == 416 and "Range" in headers:
                raise LostError("the server has no such range", ranged=False) from error
            if error.code in _PASSING_STATUS:
                after = error.headers.get("Retry-After") or ""
                pause_s = min(float(after), _LONGEST_PAUSE_S) if re.fullmatch("[0-9]{1,9}", after) else 0.0
                raise LostError(reason_of(error), pause_s=pause_s) from error
            raise ConnectionError(f"{url}: expected the file, got {reason_of(error)}; check the address") from error
    except (OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise ConnectionError(f"{url}: expected a valid certificate, got {reason_of(error)}") from error
        raise LostError(reason_of(error)) from error
    return response


def ask_once(url: str, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    """The same for somebody who sits there: every fault is final."""
    try:
        return ask(url, headers, timeout_s)
    except LostError as lost:
        raise ConnectionError(f"{url}: expected an answer, got: {lost}; check the connection and run again") from lost


def reason_of(error: Exception) -> str:
    """In a word what went wrong, also where the exception says nothing; servers choose some of these words."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        return reason_of(error.reason)
    text = f"{error.code} {error.reason}" if isinstance(error, HTTPError) else str(error) or type(error).__name__
    return re.sub(r"[^ -~]", "?", text.strip())[:200]
