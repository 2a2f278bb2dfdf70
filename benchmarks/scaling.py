"""Does the compressor cost the same a sample, whatever the length and the batch?

    python -m benchmarks.scaling

Nanoseconds a sample against length (batch 1 and 8) and against batch (32,768 samples), one thread, forward and forward
+ backward. Short audio pays the price of a call; what must not be there are cliffs, so the largest steps between
neighbours are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from benchmarks.problem import forward, forward_backward, fused, problem
from benchmarks.timing import announce, print_table, shown, taking_turns

LENGTHS = [2**k for k in range(10, 23)]
LENGTH_BATCHES = (1, 8)
BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 40, 47, 48, 63, 64)
SAMPLES = 32_768
SECONDS = 60.0
PASSES = {"forward": forward, "forward + backward": forward_backward}

Shape = tuple[int, int]


def measured(shapes: Sequence[Shape], seconds: float) -> dict[tuple[str, Shape], float]:
    """Nanoseconds a sample."""
    given = {shape: problem(*shape) for shape in shapes}
    jobs = {(name, at): (partial(way, fused, given[at]), 1) for at in shapes for name, way in PASSES.items()}
    return {(name, at): 1e9 * s / (at[0] * at[1]) for (name, at), s in taking_turns(jobs, seconds).items()}


def steps(sizes: Sequence[int], costs: Sequence[float]) -> str:
    """The largest rise and fall between neighbours."""
    ratios = [
        (after / before, f"{a:,} → {b:,}")
        for (a, b), (before, after) in zip(pairwise(sizes), pairwise(costs), strict=True)
    ]
    (fall, falls_at), (rise, rises_at) = min(ratios), max(ratios)
    return f"largest rise × {rise:.2f} ({rises_at}), largest fall × {fall:.2f} ({falls_at})"


def report(
    first: str, sizes: Sequence[int], shapes: Sequence[Sequence[Shape]], names: Sequence[str], seconds: float
) -> None:
    """Measure and print a column for every list of shapes and pass, a row for every size, and the largest steps."""
    found = measured([at for column in shapes for at in column], seconds)
    columns = {
        f"{name}{way}": [found[way, at] for at in column]
        for name, column in zip(names, shapes, strict=True)
        for way in PASSES
    }
    lines = [[f"{size:,}", *map(shown, costs)] for size, *costs in zip(sizes, *columns.values(), strict=True)]
    print_table([first, *columns], lines)
    for name, costs in columns.items():
        print(f"{name}: {steps(sizes, costs)}")
    print(flush=True)


def main(
    lengths: Sequence[int] = LENGTHS, batches: Sequence[int] = BATCHES, samples: int = SAMPLES, seconds: float = SECONDS
) -> None:
    """Print the tables."""
    announce()
    by_length = [[(batch, length) for length in lengths] for batch in LENGTH_BATCHES]
    report("ns a sample, length", lengths, by_length, [f"batch {batch}, " for batch in LENGTH_BATCHES], seconds)
    report(
        "ns a sample, batch", batches, [[(batch, samples) for batch in batches]], [f"{samples:,} samples, "], seconds
    )


if __name__ == "__main__":
    main()
