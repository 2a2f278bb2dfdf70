"""How fast is the compressor, beside others' and beside its own parts?

    python -m benchmarks

One table: nanoseconds a sample and times real time, forward and forward + backward (gradients for the audio and for
every parameter), several shapes, one thread and two; medians of runs that take turns. Then the ratios to watch. Before
anything is timed, the operators with the same mathematics have to give the same output and gradients. torchcomp is an
extra: ``pip install torchcomp "torchlpc<0.7"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.problem import RATE, Operator, Parameters, Problem, forward, forward_backward, fused, problem
from benchmarks.timing import Job, announce, print_table, shown, taking_turns
from ddsp_la2a.dsp.ballistics import smooth

Shape = tuple[int, int]
Case = tuple[str, str, Shape, int]  # row, pass, shape, threads

SHAPES: tuple[Shape, ...] = ((1, 65_536), (8, 65_536), (32, 65_536), (8, 262_144))
SLOW_SHAPE: Shape = (1, 2_048)
THREADS = (1, 2)
PASSES = {"forward": forward, "forward + backward": forward_backward}
SECONDS = 50.0
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Of output and gradients, relative to their largest value. float32: torchcomp's state is float32, ours is not."""

FUSED, CORE, DASP, SMOOTH, COPY = "**ddsp_la2a**", "torchcomp's core", "dasp-pytorch", "`smooth` alone", "memory copy"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        operator: None where it isn't installed.
        remark: what it leaves out.
        slow: so slow that it is timed on one short row of audio only, in one thread.
        of_gain: it works on the target gain instead of the audio.
        passes: which of them it has.
    """

    operator: Operator | None
    remark: str
    slow: bool = False
    of_gain: bool = False
    passes: Sequence[str] = tuple(PASSES)


def smooth_alone(target: Tensor, given: Parameters) -> Tensor:
    """Attack and release by this library, and nothing else."""
    return smooth(target, *peers.coefficients(given), 1.0)[0]


def copy(audio: Tensor, _: Parameters) -> Tensor:
    """As much memory as a forward pass has to touch."""
    return audio.clone()


def rows() -> dict[str, Row]:
    """All there is to compare."""
    found = peers.compressor_core is not None
    missing = "" if found else "; not installed"
    core = peers.behind_torch_curve(peers.torchcomp_core)
    return {
        FUSED: Row(fused, "one fused pass, checks of the parameters included"),
        CORE: Row(core if found else None, "the same mathematics: torch curve around torchcomp's core" + missing),
        "torchcomp": Row(peers.torchcomp if found else None, "`compexp_gain`: hard knee" + missing),
        "torchaudio": Row(peers.behind_torch_curve(peers.one_pole), "torch curve, `lfilter`: no release"),
        DASP: Row(peers.dasp, "no release, wraps around"),
        "TorchScript": Row(peers.behind_torch_curve(peers.scripted_loop), "torch curve, loop over samples", slow=True),
        SMOOTH: Row(smooth_alone, "attack and release of a given gain, by this library", of_gain=True),
        COPY: Row(copy, "the floor", passes=("forward",)),
    }


def disagreement(one: Operator, other: Operator, given: Problem) -> float:
    """Largest difference of output and gradients, relative to the largest value of each; a missing one is NaN off."""
    missing = torch.tensor(torch.nan)
    found, expected = ((forward(which, given), *forward_backward(which, given)) for which in (one, other))
    signals = zip(found, expected, strict=True)
    pairs = ([missing if signal is None else signal for signal in pair] for pair in signals)
    return float(torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max())


def check_agreement(samples: int) -> None:
    """Print how far the operators with the same mathematics lie apart.

    Raises:
        RuntimeError: that is more than rounding.
    """
    same = {"TorchScript": (peers.scripted_loop, min(samples, SLOW_SHAPE[1]))}
    if peers.compressor_core is not None:
        same[CORE] = (peers.torchcomp_core, samples)
    for name, (ballistics, length) in same.items():
        for dtype, tolerance in TOLERANCES.items():
            found = disagreement(fused, peers.behind_torch_curve(ballistics), problem(2, length, dtype))
            if not found <= tolerance:
                raise RuntimeError(f"{name}: expected our output and gradients to {tolerance:g}, got {found:.2g} off")
            print(f"{name}: output and gradients agree to {found:.1e} in {dtype} (tolerance {tolerance:g})")


def jobs(shape: Shape, slow: bool) -> dict[Case, tuple[Job, int]]:
    """What to time on one shape."""
    given = problem(*shape)
    target = given._replace(audio=peers.target_gain(given.audio, given.parameters))
    return {
        (name, way, shape, count): (partial(PASSES[way], row.operator, target if row.of_gain else given), count)
        for name, row in rows().items()
        for way in row.passes
        for count in (THREADS[:1] if slow else THREADS)
        if row.operator is not None and row.slow == slow
    }


def measured(shapes: Sequence[Shape], seconds: float) -> dict[Case, float]:
    """Nanoseconds a sample."""
    found: dict[Case, float] = {}
    for shape in (SLOW_SHAPE, *shapes):
        found |= taking_turns(jobs(shape, shape is SLOW_SHAPE), seconds)
    return {case: 1e9 * time_s / (case[2][0] * case[2][1]) for case, time_s in found.items()}


def print_measured(found: Mapping[Case, float], shapes: Sequence[Shape]) -> None:
    """Print the table: two lines for every row, passes divided by a slash."""
    columns = [(shape, count) for shape in shapes for count in THREADS]
    header = [f"{batch} × {samples:,}, {count} thr." for (batch, samples), count in columns]
    lines = []
    for name, row in rows().items():
        nanoseconds, speeds = [], []
        for shape, count in columns:
            at = (SLOW_SHAPE, 1) if row.slow and (shape, count) == columns[0] else (shape, count)
            times = [found.get((name, way, *at)) for way in PASSES]
            nanoseconds.append(_slashed(times))
            speeds.append(_slashed([None if t is None else 1e9 / (RATE * t) for t in times]))
        note = row.remark + (f"; timed on {SLOW_SHAPE[0]} × {SLOW_SHAPE[1]:,}" if row.slow else "")
        lines += [[name, "ns", *nanoseconds, note], ["", "× real time", *speeds, ""]]
    print(f"\nA sample, forward / forward + backward, float32, {RATE / 1000:g} kHz:\n")
    print_table(["", "", *header, ""], lines)


def _slashed(values: Sequence[float | None]) -> str:
    return "" if values[0] is None else " / ".join("–" if value is None else shown(value) for value in values)


def print_ratios(found: Mapping[Case, float], batch_of_8: Shape, batch_of_32: Shape) -> None:
    """Print the ratios that the project watches."""
    both = "forward + backward"
    watched = {
        "torchcomp's core / ours": ((CORE, both, batch_of_8, 1), (FUSED, both, batch_of_8, 1)),
        "dasp-pytorch / ours": ((DASP, both, batch_of_8, 1), (FUSED, both, batch_of_8, 1)),
        "one thread / two": ((FUSED, both, batch_of_32, 1), (FUSED, both, batch_of_32, 2)),
        "one thread / two, forward": ((FUSED, "forward", batch_of_32, 1), (FUSED, "forward", batch_of_32, 2)),
        "ours / `smooth` alone, forward": ((FUSED, "forward", batch_of_8, 1), (SMOOTH, "forward", batch_of_8, 1)),
        "ours / memory copy, forward": ((FUSED, "forward", batch_of_8, 1), (COPY, "forward", batch_of_8, 1)),
    }
    lines = []
    for name, (upper, lower) in watched.items():
        _, way, (batch, samples), count = upper
        ratio = f"{found[upper] / found[lower]:.2f}" if upper in found else "not installed"
        at = f"{batch} × {samples:,}" + (f", {count} thread" if upper[3] == lower[3] else "")
        lines.append([name if way in name else f"{name}, {way}", at, ratio])
    print()
    print_table(["ratio", "at", ""], lines)


def main(shapes: Sequence[Shape] = SHAPES, seconds: float = SECONDS) -> None:
    """Print the tables.

    Args:
        shapes: batch and length of what is timed; ratios are printed of the second and the third.
        seconds: for every shape.
    """
    announce()
    check_agreement(min(shapes)[1])
    found = measured(shapes, seconds)
    print_measured(found, shapes)
    print_ratios(found, *shapes[1:3])


if __name__ == "__main__":
    main()
