"""How the loops are compiled and spread over threads.

numba's ``parallel=True`` is not used: its OpenMP pool kills forked DataLoader workers. The kernels release the GIL, and
:func:`over_rows` has a few threads of its own to share rows with.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import numba
import torch

_SAMPLES_WORTH_A_THREAD = 100_000


def compiled(function: Callable[..., Any] | None = None, *, fastmath: frozenset[str] = frozenset()) -> Any:
    """Compile on first use, and keep the machine code on disk where some cache folder is writable.

    Args:
        function: the loop.
        fastmath: LLVM's flags for what may be rounded otherwise than written; still the same in every run.
    """
    if function is None:
        return lambda later: compiled(later, fastmath=fastmath)
    flags = set(fastmath)
    try:
        kernel = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=flags)(function)
    except RuntimeError:  # numba found no folder to cache in
        return numba.njit(nogil=True, error_model="numpy", fastmath=flags)(function)
    files = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    if files is not None and hasattr(files, "_source_stamp"):
        # numba only looks whether the file of the loop itself is still the same; others are compiled into it.
        files._source_stamp = source_stamp()
    return kernel


@cache
def source_stamp() -> str:
    """Hash of all that machine code of this package is made of."""
    rooms = [*sorted(Path(__file__).parent.glob("*.py")), Path(__file__).parents[1] / "units.py"]
    return hashlib.sha256(b"".join(room.read_bytes() for room in rooms)).hexdigest()


FUSED = frozenset({"contract"})
"""Products are fused into sums."""

REORDERED = frozenset({"contract", "reassoc"})
"""Sums over time are taken in SIMD lanes."""

inlined = numba.njit(inline="always")


def over_rows(kernel: Any, rows: int, samples: int, *arguments: Any) -> list[Any]:
    """Run ``kernel(first, last, *arguments)`` on groups of rows, in as many threads as torch may use.

    Returns:
        What it returned for each group.
    """
    threads = min(rows, torch.get_num_threads(), 1 + rows * samples // _SAMPLES_WORTH_A_THREAD)
    if threads <= 1:
        return [kernel(0, rows, *arguments)]
    edges = [rows * i // threads for i in range(threads + 1)]
    others = [_helpers().submit(kernel, a, b, *arguments) for a, b in itertools.pairwise(edges[1:])]
    try:
        first = kernel(edges[0], edges[1], *arguments)
    finally:
        wait(others)
    return [first, *(done.result() for done in others)]


@cache
def _helpers() -> ThreadPoolExecutor:
    """Threads that wait for work: starting them anew would take longer than many a call."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ddsp_la2a")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # the child has none of its parent's threads


def needs_compiling(kernel: Any) -> bool:
    """Whether the first call will wait for the compiler: nothing compiled in this process and nothing in the cache."""
    if kernel.signatures:
        return False
    folder, source = kernel.stats.cache_path, Path(kernel.py_func.__code__.co_filename)
    return folder is None or not any(Path(folder).glob(f"{source.stem}.{kernel.py_func.__name__}-*.nbi"))
