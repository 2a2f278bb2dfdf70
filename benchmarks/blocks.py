"""How long does a block take in real time?

    python -m benchmarks.blocks

Microseconds a block: :class:`ddsp_la2a.Stream`, without torch in the loop, and ``compressor(…, state=…)`` through
tensors; without stages and with those that a fit has by default (second cell, output filter). Beside it the budget: the
time that the block lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch

import ddsp_la2a as la
from benchmarks.problem import RATE, SETTING, problem
from benchmarks.timing import Job, announce, print_table, shown, taking_turns
from ddsp_la2a.dsp.output_stage import OutputFilter

BLOCKS = (64, 128, 256, 512, 1024)
SECONDS = 30.0
_ROUND = 32  # blocks, over and over

PLAIN = la.CompressorParams(*map(float, SETTING))
STAGED = replace(
    PLAIN,
    slow_factor=8.0,
    slow_mix=0.2,
    output_filter=OutputFilter(torch.tensor([0.01, -0.05, 0.04, -0.01, -0.02], dtype=torch.float64), float(RATE)),
)


def streamed(params: la.CompressorParams, channels: int) -> Callable[[int], Job]:
    """Block by block through a stream; several channels are linked."""

    def of_size(samples: int) -> Job:
        stream, audio = la.Stream(params, RATE, channels), problem(channels, _ROUND * samples).audio
        blocks = cycle([block.squeeze(0).numpy().copy() for block in audio.split(samples, dim=1)])
        return lambda: stream.process(next(blocks))

    return of_size


def through_tensors(params: la.CompressorParams) -> Callable[[int], Job]:
    """Block by block through the differentiable operator."""

    def of_size(samples: int) -> Job:
        blocks = cycle([block.clone() for block in problem(1, _ROUND * samples).audio.split(samples, dim=1)])
        state: Any = 1.0

        @torch.no_grad()
        def job() -> None:
            nonlocal state
            _, state = la.compressor(next(blocks), params, RATE, state=state, return_state=True)

        return job

    return of_size


ROWS = {
    "`Stream`, mono": streamed(PLAIN, 1),
    "`Stream`, stereo, linked": streamed(PLAIN, 2),
    "`Stream`, mono, default stages": streamed(STAGED, 1),
    "`Stream`, stereo, linked, default stages": streamed(STAGED, 2),
    "`compressor`, mono": through_tensors(PLAIN),
    "`compressor`, mono, default stages": through_tensors(STAGED),
}


def main(sizes: Sequence[int] = BLOCKS, seconds: float = SECONDS) -> None:
    """Print the table."""
    announce()
    jobs = {(name, size): (of_size(size), 1) for name, of_size in ROWS.items() for size in sizes}
    found = taking_turns(jobs, seconds)
    lines = [[name, *(shown(1e6 * found[name, size]) for size in sizes)] for name in ROWS]
    budget = [f"budget at {RATE / 1000:g} kHz", *(shown(1e6 * size / RATE) for size in sizes)]
    print_table(["µs a block of", *map(str, sizes)], [*lines, budget])


if __name__ == "__main__":
    main()
