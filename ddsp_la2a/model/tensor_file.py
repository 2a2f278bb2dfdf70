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
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: in an existing folder.
        description: plain data, with a ``format_version``.
        tensors: by name; finite.
        previous: where the present file goes, see :func:`~ddsp_la2a.files.replacing`.

    Raises:
        ValueError: a tensor that isn't finite, or no such folder.
        UnwritableError: the disk is full or read-only.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in kept.values()):
        raise ValueError(f"{path}: expected finite weights to save, got NaN or infinity")
    plain = json.loads(json.dumps(description))  # as it will be read: keys are text, tuples are lists
    metadata = {_KEY: json.dumps({**plain, "content_sha256": content_hash(plain, kept)})}
    with replacing(Path(path), previous) as temporary:
        temporary.write_bytes(to_bytes(kept, metadata))


def read_tensors(
    path: str | os.PathLike[str], what: str, versions: tuple[int, ...]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a file that :func:`write_tensors` wrote.

    Args:
        path: of the file.
        what: what it should be, for messages.
        versions: formats that the caller can read, the newest last.

    Raises:
        ValueError: it is no such file, of another format, damaged, or holds values that aren't finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        description = json.loads(metadata[_KEY])
        expected_hash = str(description.pop("content_sha256"))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(f"{path}: expected a ddsp_la2a {what}, got something else or a damaged one") from error
    version = description.get("format_version")
    if type(version) is not int or version not in versions:
        raise ValueError(
            f"{path}: expected format version {versions[-1]}, got {version}; install a ddsp_la2a that knows it"
        )
    if any(tensor.dtype not in (torch.float32, torch.float64) for tensor in tensors.values()):
        raise ValueError(f"{path}: expected tensors of floating point, got another type: the file was changed")
    if content_hash(description, tensors) != expected_hash:
        raise ValueError(f"{path}: expected content hash {expected_hash[:12]}…, got another: the file was changed")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"{path}: expected finite weights, got NaN or infinity")
    return description, tensors
