"""Checksums: what is written, what servers send, and of what is on disk."""

from __future__ import annotations

import base64
import hashlib
from email.message import Message

import pytest

from ddsp_la2a.fetching.checksum import Checksum, checksums, header_checksum, parse_checksum

MD5, SHA256 = hashlib.md5(b"abc"), hashlib.sha256(b"abc")


def base64_of(digest) -> str:
    return base64.b64encode(digest.digest()).decode()


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_of_a_file(tmp_path, algorithm):
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1_000_000)
    seen = []
    with path.open("rb") as file:
        file.read(5)
        found = checksums(file, [algorithm], progress=lambda *done: seen.append(done))[algorithm]
    assert found.digits == hashlib.new(algorithm, b"abc" * 1_000_000).hexdigest()
    assert seen[-1] == (3_000_000, 3_000_000)
    assert len(seen) == 3
    assert parse_checksum(f" {str(found).upper()} ") == found


@pytest.mark.parametrize(
    "text", ["", "md5", "md5:", "md5:xyz", f"md5:{SHA256.hexdigest()}", f"crc32:{MD5.hexdigest()}", MD5.hexdigest()]
)
def test_no_checksum(text):
    with pytest.raises(ValueError, match=r"checksum: expected ALGORITHM:HEX with one of md5 \(32 digits\)"):
        parse_checksum(text)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Repr-Digest": f"sha-256=:{base64_of(SHA256)}:"}, SHA256),
        ({"Repr-Digest": f"md5=:{base64_of(MD5)}:, sha-256=:{base64_of(SHA256)}:"}, SHA256),
        ({"Digest": f"SHA-256={base64_of(SHA256)},MD5={base64_of(MD5)}"}, SHA256),
        ({"Content-MD5": base64_of(MD5)}, MD5),
        ({"Content-MD5": MD5.hexdigest().upper()}, MD5),
        ({"Content-MD5": base64_of(MD5), "Digest": f"sha-256={base64_of(SHA256)}"}, SHA256),
        ({"Digest": "sha-256=AAAA", "Content-MD5": base64_of(MD5)}, MD5),
    ],
)
def test_in_headers(headers, expected):
    assert header_checksum(message(headers)) == Checksum(expected.name, expected.hexdigest())


@pytest.mark.parametrize(
    "headers", [{}, {"Digest": ""}, {"Digest": "sha-256"}, {"Digest": "=,=,,"}, {"Content-MD5": "é"}, {"ETag": '"x"'}]
)
def test_none_in_headers(headers):
    assert header_checksum(message(headers)) is None


def message(headers: dict[str, str]) -> Message:
    built = Message()
    for name, value in headers.items():
        built[name] = value
    return built
