"""What becomes of files that are damaged, or written by someone who wishes harm.

WAV files and model files are damaged at random, in every way there is, and read. Right is a refusal that names the file
and the reason, or what the file really holds. Each kind of file has a process of its own, so that a crash would be seen
and counted; the samples of a file whose samples were changed aren't compared, since nothing in it tells.

    python -m benchmarks.damaged_files [COUNT]
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from benchmarks import damaged_models, damaged_wav
from benchmarks.timing import print_table

_COUNT, _SEED = 10_000, 0
_STUCK_S = 60.0
Case = tuple[str, str, float, bool]
"""Kind of damage, outcome, seconds, and whether libsndfile alone would have misread it."""


def wav_cases(count: int, folder: Path, seed: int = _SEED) -> Iterator[Case]:
    """Damaged WAV files, the kinds in turn."""
    rng, files = np.random.default_rng(seed), damaged_wav.originals()
    kinds, names, path = list(damaged_wav.DAMAGE), list(files), folder / "damaged.wav"
    for number in range(count):
        kind, original = kinds[number % len(kinds)], files[names[rng.integers(len(names))]]
        damaged = damaged_wav.DAMAGE[kind](original, rng)
        found, seconds = damaged_wav.outcome(original, damaged, path, kind != damaged_wav.SAMPLES)
        yield kind, found, seconds, damaged_wav.libsndfile_alone(original, damaged)


def model_cases(count: int, folder: Path, seed: int = _SEED) -> Iterator[Case]:
    """Damaged and hostile model files, the kinds in turn."""
    rng, files = random.Random(seed), damaged_models.originals(folder)
    kinds, names, path = list(damaged_models.DAMAGE), list(files), folder / "damaged.safetensors"
    for original in files.values():  # what comes first takes longer
        damaged_models.outcome(original, original.data, path)
    for number in range(count):
        kind, original = kinds[number % len(kinds)], files[rng.choice(names)]
        damaged = damaged_models.DAMAGE[kind](original, rng)
        yield kind, *damaged_models.outcome(original, damaged, path, kind not in damaged_models.FORGED), False


_CASES = {"WAV": wav_cases, "model": model_cases}
_OUTCOMES = {"WAV": damaged_wav.OUTCOMES, "model": damaged_models.OUTCOMES}


def _send(what: str, count: int, sender: Connection) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(_CASES[what](count, Path(folder))):
            if number == 0:
                gc.freeze()  # looking through all that torch brings along takes 0.1 s, whenever it happens
            sender.send(case)
    sender.send(None)


def rows(what: str, count: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of one kind of file."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(what, count, sender))
    process.start()
    sender.close()
    counted: Counter[tuple[str, str]] = Counter()
    alone: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    end = "hang"
    while receiver.poll(_STUCK_S):
        try:
            case = receiver.recv()
        except EOFError:
            end = "crash"
            break
        if case is None:
            end = ""
            break
        kind, found, seconds, misread = case
        counted[kind, found] += 1
        alone[kind] += misread
        slowest[kind] = max(slowest.get(kind, 0.0), seconds)
    if end:
        process.kill()
        counted[f"{end} after {sum(counted.values())} files", ""] += 1
        slowest[next(kind for kind, _ in counted if kind.startswith(end))] = float("nan")
    process.join()
    header = ["damage", "files", *_OUTCOMES[what], "slowest, ms"] + ["libsndfile alone misreads"] * (what == "WAV")
    table = []
    for kind in slowest:
        numbers = [counted[kind, found] for found in _OUTCOMES[what]]
        row = [kind, f"{sum(numbers):,}", *(f"{number:,}" for number in numbers), f"{1e3 * slowest[kind]:.1f}"]
        table.append(row + [f"{alone[kind]:,}"] * (what == "WAV"))
    totals = [sum(counted[kind, found] for kind in slowest) for found in _OUTCOMES[what]]
    last = ["all", f"{sum(totals):,}", *(f"{number:,}" for number in totals), f"{1e3 * max(slowest.values()):.1f}"]
    return header, [*table, last + [f"{sum(alone.values()):,}"] * (what == "WAV")]


def main(count: int = _COUNT) -> None:
    """Print both tables."""
    for what in _CASES:
        print(f"{what} files:\n")
        print_table(*rows(what, count))
        print()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
