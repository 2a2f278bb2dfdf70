"""Files of tensors with a description: safetensors with JSON metadata and a content hash. Nothing in them can run."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ddsp_la2a.files import replacing

_KEY = "ddsp_la2a"
_MOST_TENSORS = 4096
_ANY = 1 << 62
_SHOWN = 200


def in_a_line(text: object) -> str:
    """Text for a message, of one line and not too long, whatever a file holds."""
    line = " ".join(str(text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def content_hash(description: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a description as JSON and of every tensor's name and bytes."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, ensure_ascii=False).encode("utf-8"))
    for name in sorted(tensors):
        digest.update(name.encode("utf-8"))
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_tensors(
    path: str | os.PathLike[str],
    description: dict[str, Any],
    tensors: dict[str, Tensor],
    previous: Path | None = None,
    *,
    largest_bytes: int = _ANY,
    largest_header: int = _ANY,
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: in an existing folder.
        description: plain data, with a ``format_version``.
        tensors: by name; finite.
        previous: where the present file goes, see :func:`~ddsp_la2a.files.replacing`.
        largest_bytes, largest_header: of the file and of its description, as for :func:`read_tensors`.

    Raises:
        ValueError: a tensor that isn't finite, more than what would be read, or no such folder.
        UnwritableError: the disk is full or read-only.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in kept.values()):
        raise ValueError(f"{path}: expected finite weights to save, got NaN or infinity")
    plain = json.loads(json.dumps(description))  # as it will be read: keys are text, tuples are lists
    metadata = {_KEY: json.dumps({**plain, "content_sha256": content_hash(plain, kept)})}
    content = to_bytes(kept, metadata)
    _check_sizes(path, "file", content[:8], len(content), largest_bytes, largest_header)
    with replacing(Path(path), previous) as temporary:
        temporary.write_bytes(content)


def read_tensors(
    path: str | os.PathLike[str],
    what: str,
    versions: tuple[int, ...],
    *,
    largest_bytes: int = _ANY,
    largest_header: int = _ANY,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a file that :func:`write_tensors` wrote.

    Args:
        path: of the file.
        what: what it should be, for messages.
        versions: formats that the caller can read, the newest last.
        largest_bytes, largest_header: of the file and of its description; more isn't even looked at, so that no file
            takes more memory or time than one of its kind may.

    Raises:
        ValueError: it is no such file, too large, of another format, damaged, or holds values that aren't finite.
    """
    other = f"{path}: expected a ddsp_la2a {what}, got something else or a damaged one"
    if not Path(path).is_file():  # opening a pipe would wait for ever
        raise ValueError(other)
    try:
        with Path(path).open("rb") as start:
            _check_sizes(path, what, start.read(8), os.fstat(start.fileno()).st_size, largest_bytes, largest_header)
    except OSError as error:
        raise ValueError(f"{other} ({error.strerror})") from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if len(names) > _MOST_TENSORS or any(file.get_slice(n).get_dtype() not in ("F32", "F64") for n in names):
                raise ValueError(f"{len(names)} tensors, some of another type than floating point")
            description = json.loads(metadata[_KEY], object_pairs_hook=_each_once)
            expected_hash = str(description.pop("content_sha256"))
            version = description.get("format_version")
            known = type(version) is int and version in versions
            tensors = {name: file.get_tensor(name) for name in names} if known else {}
            found_hash = content_hash(description, tensors) if known else ""
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(other) from error
    if not known:
        newest, got = versions[-1], in_a_line(version)
        raise ValueError(f"{path}: expected format version {newest}, got {got}; install a ddsp_la2a that knows it")
    if found_hash != expected_hash:
        wanted = in_a_line(expected_hash[:12])
        raise ValueError(f"{path}: expected content hash {wanted}…, got another: the file was changed")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"{path}: expected finite weights, got NaN or infinity")
    return description, tensors


def _check_sizes(
    path: str | os.PathLike[str], what: str, start: bytes, size: int, largest_bytes: int, largest_header: int
) -> None:
    """Refuse a file by its size and by that of its header, which its first eight bytes say."""
    header = int.from_bytes(start, "little")
    if len(start) < 8 or header > size - 8:
        raise ValueError(f"{path}: expected a ddsp_la2a {what}, got something else or a damaged one")
    for part, count, largest in (("file", size, largest_bytes), ("description", header, largest_header)):
        if count > largest:
            raise ValueError(f"{path}: expected a {part} of at most {largest:,} bytes, got {count:,}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
