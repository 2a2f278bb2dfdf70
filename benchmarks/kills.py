"""Is what a killed run leaves whole, and does it go on as if nothing had happened?

    python -m benchmarks.kills [KILLS]

Programs that checkpoint are killed (SIGKILL) at random moments, every third time in the middle of a write, which is
slowed down for that. After each kill the checkpoint is read and the program started again; after five it may finish,
and its result is compared, bit by bit, with that of one that nobody killed. A table of kills by place, checkpoints that
could be read, and results that are the same.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.timing import print_table
from ddsp_la2a.fitting.checkpoint import read_kept

KILLS = 50
KILLS_A_RUN = 5
PLACES = ("half written", "before fsync", "after fsync", "before rename", "after rename")
ANYWHERE = "anywhere"

_ROOT = Path(__file__).parents[1]
_PIPE = "DDSP_LA2A_KILLS_PIPE"
_PAUSE_S = 0.01
_BEGUN = len(PLACES)
_LONGEST_S = 300.0


@dataclass(frozen=True)
class Victim:
    """A program to be killed.

    Args:
        name: in the table.
        command: run with a folder as one more argument it goes on from the checkpoint there, if there is one, and
            writes its result last. It calls :func:`slow_files` once it has begun to work.
        checkpoint: file name in the folder, for :func:`~ddsp_la2a.fitting.checkpoint.read_kept`.
        result: file name in the folder; the same bytes for the same result.
    """

    name: str
    command: tuple[str, ...]
    checkpoint: str = "checkpoint.safetensors"
    result: str = "result.json"


@dataclass
class Outcome:
    """What became of a program that was killed again and again.

    Attributes:
        kills: number at each place.
        unreadable: messages of checkpoints that couldn't be read.
        none_yet: kills before there was a checkpoint.
        runs: that were left to finish.
        identical: those whose result is that of an uninterrupted one.
    """

    kills: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    none_yet: int = 0
    runs: int = 0
    identical: int = 0


def slow_files() -> None:
    """In the victim: pause before and after each step of every write, and tell the one who kills which it is."""
    if _PIPE not in os.environ:
        return
    pipe = int(os.environ[_PIPE])
    fsync, replace = os.fsync, Path.replace

    def at(place: int) -> None:
        os.write(pipe, bytes([place]))
        if place != _BEGUN:
            time.sleep(_PAUSE_S)

    def slow_write(path: Path, data: Any) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            at(0)
            file.write(data[len(data) // 2 :])
        return len(data)

    def slow_fsync(number: int) -> None:
        at(1)
        fsync(number)
        at(2)

    def slow_replace(path: Path, target: Path) -> Path:
        at(3)
        moved = replace(path, target)
        at(4)
        return moved

    Path.write_bytes, os.fsync, Path.replace = slow_write, slow_fsync, slow_replace  # type: ignore[method-assign,assignment]
    at(_BEGUN)


def killed(victim: Victim, kills: int, seed: int = 0, told: Callable[[str], None] = lambda _: None) -> Outcome:
    """Kill a program so many times, and see what it leaves.

    Args:
        victim: the program.
        kills: how many.
        seed: of moments and places.
        told: gets a line a kill.
    """
    rng, outcome = random.Random(seed), Outcome()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        expected = Path(scratch) / "uninterrupted"
        expected.mkdir()
        seconds, writes = _left_alone(victim, expected)
        while outcome.kills.total() < kills:
            folder = Path(scratch) / f"run-{outcome.runs}"
            folder.mkdir()
            for _ in range(min(KILLS_A_RUN, kills - outcome.kills.total())):
                inside = outcome.kills.total() % 3 == 2
                place = _kill(victim, folder, rng, seconds, writes if inside else 0)
                if place is None:
                    break
                outcome.kills[place] += 1
                _look(victim, folder, outcome)
                told(f"{victim.name}: kill {outcome.kills.total()}: {place}")
            if not (folder / victim.result).exists():
                _left_alone(victim, folder)
            same = (folder / victim.result).read_bytes() == (expected / victim.result).read_bytes()
            outcome.runs += 1
            outcome.identical += same
            told(f"{victim.name}: run {outcome.runs}: {'the same' if same else 'ANOTHER'} result")
    return outcome


def _look(victim: Victim, folder: Path, outcome: Outcome) -> None:
    try:
        if read_kept(folder / victim.checkpoint, "checkpoint", (1,)) is None:
            outcome.none_yet += 1
    except ValueError as error:
        outcome.unreadable.append(str(error))


def _started(victim: Victim, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The program, and the end of the pipe that it tells its places through."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [*victim.command, str(folder)], cwd=_ROOT, env={**os.environ, _PIPE: str(writing)}, pass_fds=(writing,)
        )
    finally:
        os.close(writing)
    return process, reading


def _left_alone(victim: Victim, folder: Path) -> tuple[float, int]:
    """Seconds that the program works, and steps of writes on the way."""
    process, pipe = _started(victim, folder)
    with os.fdopen(pipe, "rb", buffering=0) as places:
        places.read(1)
        begun, steps = time.monotonic(), 0
        while places.read(1):
            steps += 1
    if process.wait(_LONGEST_S):
        raise RuntimeError(f"{victim.name}: expected exit status 0, got {process.returncode}")
    return time.monotonic() - begun, steps


def _kill(victim: Victim, folder: Path, rng: random.Random, seconds: float, writes: int) -> str | None:
    """Kill it somewhere, or with ``writes`` steps of writes to choose from inside one; None where it was faster."""
    process, pipe = _started(victim, folder)
    with os.fdopen(pipe, "rb", buffering=0) as places:
        at = places.read(1)
        if writes:
            for _ in range(rng.randrange(1, max(2, writes // KILLS_A_RUN))):
                at = places.read(1) or at
        else:
            time.sleep(rng.uniform(0.0, 0.5 * seconds))
        alive = process.poll() is None
        process.kill()
        process.wait(_LONGEST_S)
    if not alive or process.returncode != -9:
        return None
    return PLACES[at[0]] if writes and at[0] < _BEGUN else ANYWHERE


def write_recordings(folder: Path) -> None:
    """Noise through a gain that depends on the setting, in folders as of SignalTrain: two rows to fit, one to watch."""
    rng = np.random.default_rng(0)
    for split, number, switch, knob in (("Train", 1, 0, 50), ("Train", 2, 1, 65), ("Val", 3, 1, 65)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        audio = rng.normal(0.0, 0.1, 8000 * 4)
        for name, gain in ((f"input_{number}_", 1.0), (f"target_{number}_LA2A_2c__{switch}__{knob}", 1.0 - knob / 200)):
            soundfile.write(folder / split / f"{name}.wav", gain * audio, 8000, "FLOAT")


def training(recordings: Path) -> Victim:
    """Training of a small network with Adam."""
    return Victim("Adam", (sys.executable, "-m", "benchmarks.killed_training", str(recordings)))


def fit(recordings: Path) -> Victim:
    """A Gauss–Newton fit."""
    return Victim("Gauss–Newton", (sys.executable, "-m", "benchmarks.killed_fit", str(recordings)))


def main(kills: int = KILLS) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        write_recordings(Path(scratch))
        victims = [training(Path(scratch)), fit(Path(scratch))]
        outcomes = {victim.name: killed(victim, kills, told=lambda line: print(line, flush=True)) for victim in victims}
    print()
    rows = []
    for name, outcome in outcomes.items():
        counts = [outcome.kills[place] for place in (*PLACES, ANYWHERE)]
        ends = (outcome.kills.total(), outcome.none_yet, len(outcome.unreadable), outcome.runs, outcome.identical)
        rows.append([name, *map(str, (*counts, *ends))])
        for message in outcome.unreadable:
            print(message)
    print_table(["program", *PLACES, ANYWHERE, "kills", "no checkpoint yet", "unreadable", "runs", "identical"], rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
