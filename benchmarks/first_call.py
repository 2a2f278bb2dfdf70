"""How long do the first calls in a fresh process take, with the machine code to be compiled and with it in the cache?

python -m benchmarks.first_call
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time


def measure() -> None:
    """Print the seconds of everything that is done for the first time in this process, as JSON."""
    seconds, began = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        now = time.perf_counter()
        seconds[name], began = now - began, now

    import torch

    lap("import torch")
    import ddsp_la2a as la

    lap("import ddsp_la2a")
    params = la.CompressorParams(torch.tensor(-30.0, requires_grad=True), 4.0, 6.0, 5.0, 250.0)
    output = la.compressor(torch.ones(1, 1024), params, 44100)
    lap("forward")
    output.sum().backward()
    lap("backward")
    la.Stream(params, 44100).process(torch.ones(64).numpy())
    lap("block of a stream")
    la.compressor(torch.ones(1, 1024), params, 44100).sum().backward()
    lap("forward + backward again")
    print(json.dumps(seconds))


def in_fresh_process(cache: str) -> dict[str, float]:
    """The seconds of :func:`measure` in a process of its own, with that folder for the machine code."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    command = [sys.executable, "-c", "from benchmarks.first_call import measure; measure()"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def main() -> None:
    """Print the table."""
    from benchmarks.timing import print_table

    with tempfile.TemporaryDirectory() as cache:
        runs = [in_fresh_process(cache) for _ in range(2)]
    lines = [[name, *(f"{run[name]:.3f}" for run in runs)] for name in runs[0]]
    print_table(["First in a process, seconds", "empty cache", "warm cache"], lines)


if __name__ == "__main__":
    main()
