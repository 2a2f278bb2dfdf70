"""What the benchmarks of speed share: the machine, jobs that take turns, and tables."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
import numpy as np
import torch

import ddsp_la2a as la
from benchmarks.problem import forward_backward, fused, problem

_TURN_S, _FEWEST_TURNS, _MOST_TURNS = 0.01, 3, 101
_PACKAGES = ("torch", "numba", "numpy", "torchaudio", "torchcomp", "dasp-pytorch")


Job = Callable[[], Any]
Key = TypeVar("Key", bound=Hashable)


def taking_turns(jobs: Mapping[Key, tuple[Job, int]], seconds: float) -> dict[Key, float]:
    """Median seconds of a call of every job.

    The jobs take turns, so that whatever else the machine does hits them alike; a turn is as many calls as fill 10 ms,
    after one that isn't timed, because the job before left its own data in the caches.
    What runs in one thread is timed by the processor time of this process, which other programs don't stretch as they
    do the clock on the wall. With more threads there is no other.

    Args:
        jobs: what to call, and in how many threads.
        seconds: for all together; every job gets three turns at least and 101 at most.
    """
    calls = {}
    for key, (job, count) in jobs.items():
        with threads(count):
            job()  # compiles, and fills caches
            calls[key] = max(1, round(_TURN_S / max(_per_call(job, 1, count), 1e-6)))
    taken: dict[Key, list[float]] = {key: [] for key in jobs}
    began = time.perf_counter()
    for turn in range(_MOST_TURNS):
        if turn >= _FEWEST_TURNS and time.perf_counter() - began > seconds:
            break
        for key, (job, count) in jobs.items():
            with threads(count):
                job()
                taken[key].append(_per_call(job, calls[key], count))
    return {key: float(np.median(times)) for key, times in taken.items()}


def _per_call(job: Job, calls: int, count: int) -> float:
    clock = time.process_time if count == 1 else time.perf_counter
    began = clock()
    for _ in range(calls):
        job()
    return (clock() - began) / calls


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch, and with it this library, and numba's own pool, which torchcomp uses, have so many threads."""
    before = torch.get_num_threads(), numba.get_num_threads()
    # numba's pool may be the one of OpenMP, whose number torch reads as its own: so torch has the last word.
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before[1])
        torch.set_num_threads(before[0])


def announce() -> None:
    """Print machine and versions, and how long the first call took."""
    features = llvm.get_host_cpu_features()
    simd = next((name for name in ("avx512f", "avx2", "neon") if features.get(name)), "unknown SIMD")
    load = f"load of other programs {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown load"
    print(f"{llvm.get_host_cpu_name()} ({simd}), {os.cpu_count()} cores, {load}, {platform.system()}", end=", ")
    print(f"Python {platform.python_version()}, ddsp_la2a {la.__version__}", end=", ")
    print(", ".join(f"{package} {_version(package)}" for package in _PACKAGES))
    print("First calls, forward and backward; where the machine code isn't in the cache yet it is compiled: ", end="")
    began = time.perf_counter()
    forward_backward(fused, problem(1, 1024))
    print(f"{time.perf_counter() - began:.1f} s\n", flush=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def shown(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print as Markdown, the first column left-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for line in (header, rule, *rows):
        first, *others = (c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        print("|", " | ".join([first, *others]), "|", flush=True)
