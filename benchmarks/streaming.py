"""Does a stream hold in a mix?

    python -m benchmarks.streaming [HOURS]

What a block of 64 samples takes while nothing moves and while a knob glides, and what :meth:`ddsp_la2a.Stream.glide`
itself takes; what silence costs after a burst, beside noise; and how far hours of audio in float32 are from the same
audio in float64 (ten, if not said otherwise).
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

import ddsp_la2a as la
from benchmarks.blocks import PLAIN, STAGED
from benchmarks.problem import RATE
from benchmarks.timing import Job, announce, print_table, shown, taking_turns
from ddsp_la2a.dsp.optical_cell import OpticalCellParams
from ddsp_la2a.units import amplitude_to_db

BLOCK = 64
SECONDS = 20.0
HOURS = 10.0
SILENCE_S = 60.0
_BLOCKS_OF_A_GLIDE = 20
_TURNS = 5

CELL = OpticalCellParams(30.0, input_tap=0.001, output_filter=STAGED.output_filter)
ROWS: dict[str, tuple[Any, Any]] = {
    "plain": (PLAIN, replace(PLAIN, threshold_db=-10.0)),
    "default stages": (STAGED, replace(STAGED, threshold_db=-10.0)),
    "optical cell": (CELL, replace(CELL, sidechain_gain_db=20.0)),
}
"""Parameters, and others to glide to."""


def _noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.1, samples).astype(np.float32)


def still(params: Any, _: Any) -> Job:
    """A block while nothing moves."""
    stream, block = la.Stream(params, RATE), _noise(BLOCK)
    return lambda: stream.process(block)


def gliding(params: Any, other: Any) -> Job:
    """A block while parameters are on their way; a twentieth of them with the move itself."""
    stream, block, number = la.Stream(params, RATE), _noise(BLOCK), count()

    def job() -> None:
        turn = next(number)
        if turn % _BLOCKS_OF_A_GLIDE == 0:
            stream.glide(params if turn // _BLOCKS_OF_A_GLIDE % 2 else other)
        stream.process(block)

    return job


def moving(params: Any, other: Any) -> Job:
    """The move itself."""
    stream, number = la.Stream(params, RATE), count()
    return lambda: stream.glide(params if next(number) % 2 else other)


def silence_and_noise(params: Any, seconds: float) -> tuple[float, float]:
    """Seconds of a block, of noise and of silence after a burst; each the best of some turns."""
    blocks = round(seconds * RATE / BLOCK)
    noise, nothing = _noise(BLOCK), np.zeros(BLOCK, np.float32)

    def run(block: np.ndarray) -> float:
        stream = la.Stream(params, RATE)
        stream.process(_noise(RATE))
        began = time.process_time()
        for _ in range(blocks):
            stream.process(block)
        return (time.process_time() - began) / blocks

    turns = [(run(noise), run(nothing)) for _ in range(_TURNS)]
    return min(noisy for noisy, _ in turns), min(silent for _, silent in turns)


def apart_db(params: Any, hours: float) -> tuple[float, float]:
    """Largest difference of float32 from float64, over all seconds: of the output's level and of the gain reduction."""
    single, double = la.Stream(params, RATE), la.Stream(params, RATE)
    rng, level, reduction = np.random.default_rng(0), 0.0, 0.0
    for _ in range(max(1, round(3600.0 * hours))):
        x = rng.standard_normal(RATE, dtype=np.float32) * np.float32(10.0 ** rng.uniform(-3.0, -0.5))
        levels = [
            np.sqrt(np.mean(np.square(s.process(part), dtype=np.float64)))
            for s, part in ((single, x), (double, x.astype(np.float64)))
        ]
        level = max(level, abs(float(amplitude_to_db(levels[0]) - amplitude_to_db(levels[1]))))
        reduction = max(reduction, abs(single.gain_reduction_db - double.gain_reduction_db))
    return level, reduction


def main(hours: float = HOURS, seconds: float = SECONDS, silence_s: float = SILENCE_S) -> None:
    """Print the tables."""
    announce()
    kinds = {"nothing moves": still, "a knob glides": gliding, "the move": moving}
    jobs = {(name, kind): (job(*both), 1) for name, both in ROWS.items() for kind, job in kinds.items()}
    found = taking_turns(jobs, seconds)
    lines = [[name, *(shown(1e6 * found[name, kind]) for kind in kinds)] for name in ROWS]
    print_table([f"µs a block of {BLOCK}", *kinds], lines)
    print()
    lines = []
    for name, (params, _) in ROWS.items():
        noisy, silent = silence_and_noise(params, silence_s)
        lines.append([name, shown(1e6 * noisy), shown(1e6 * silent), shown(silent / noisy)])
    print_table([f"µs a block of {BLOCK}", "noise", f"{silence_s:g} s of silence", "ratio"], lines)
    print()
    lines = [[name, *(f"{value:.1e}" for value in apart_db(params, hours))] for name, (params, _) in ROWS.items()]
    print_table([f"dB apart, {hours:g} h", "level", "gain reduction"], lines)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
