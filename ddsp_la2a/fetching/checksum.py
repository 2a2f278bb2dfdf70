"""Checksums of files: as a user gives them, as servers send them, and of what is on disk."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from email.message import Message
from typing import BinaryIO, NamedTuple

_HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_IN_HEADERS = {"sha-512": "sha512", "sha-256": "sha256", "md5": "md5"}
"""Names of HTTP digest fields, the strongest first."""

_BLOCK_BYTES = 1 << 20


class Checksum(NamedTuple):
    """An algorithm and the lower-case hexadecimal digits."""

    algorithm: str
    digits: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digits}"


def parse_checksum(text: str) -> Checksum:
    """A checksum written such as ``sha256:ab12…``.

    Raises:
        ValueError: an unknown algorithm, or digits that aren't one of its checksums.
    """
    algorithm, _, digits = text.strip().lower().partition(":")
    count = _HEX_DIGITS.get(algorithm)
    if count is None or not re.fullmatch(rf"[0-9a-f]{{{count}}}", digits):
        known = ", ".join(f"{name} ({digits} digits)" for name, digits in _HEX_DIGITS.items())
        raise ValueError(f"checksum: expected ALGORITHM:HEX with one of {known}, got {text!r}")
    return Checksum(algorithm, digits)


def header_checksum(headers: Message) -> Checksum | None:
    """The strongest checksum of a whole file among the headers of an answer, if there is one.

    References:
        RFC 9530 (Repr-Digest), RFC 3230 (Digest), RFC 1864 (Content-MD5, which some servers send in hexadecimal).
    """
    fields = f"{headers.get('Repr-Digest') or ''},{headers.get('Digest') or ''}".split(",")
    sent = {name.strip().lower(): value.strip().strip(":") for name, _, value in (f.partition("=") for f in fields)}
    sent.setdefault("md5", (headers.get("Content-MD5") or "").strip())
    for name, algorithm in _IN_HEADERS.items():
        value = sent.get(name, "")
        if algorithm == "md5" and re.fullmatch(r"[0-9a-fA-F]{32}", value):
            return Checksum(algorithm, value.lower())
        try:
            digits = base64.b64decode(value, validate=True).hex()
        except (binascii.Error, ValueError):
            continue
        if len(digits) == _HEX_DIGITS[algorithm]:
            return Checksum(algorithm, digits)
    return None


def checksums(
    file: BinaryIO, algorithms: Iterable[str], *, progress: Callable[[int, int], object] | None = None
) -> dict[str, Checksum]:
    """Checksums of a whole open file, in one pass.

    Args:
        file: to be read from its start.
        algorithms: names as :mod:`hashlib` knows them.
        progress: called with the bytes done and their total after each block.
    """
    total = file.seek(0, 2)
    file.seek(0)
    # Against accidents, and what a record publishes: MD5 is fine for that even where policy bars it from security.
    sums = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    done = 0
    while block := file.read(_BLOCK_BYTES):
        for running in sums.values():
            running.update(block)
        done += len(block)
        if progress is not None:
            progress(done, total)
    return {name: Checksum(name, running.hexdigest()) for name, running in sums.items()}
