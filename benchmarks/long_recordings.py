"""How long do fits of 26 settings of 20 minutes each take, read from disk?

Renders a tree of SignalTrain's size and layout (26 settings, one stimulus of 20 minutes, 16 bit, 5.5 GB) into a
temporary folder: the published parameters with a knee, a second, eight times slower release mixed in (so that no plain
compressor fits exactly), and noise at −74 dBFS. Then fits it per setting and jointly, and times a bare
read of all files.

    python -m benchmarks.long_recordings [FOLDER]

FOLDER holds the tree (and keeps it); without one it is a temporary folder.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

import ddsp_la2a as la
from ddsp_la2a.data.audio import read_blocks
from ddsp_la2a.model.stages import PLAIN
from ddsp_la2a.simulated_unit.programme import render_programme

_RATE, _MINUTES = 44100, 20
_SLOWER, _SHARE, _NOISE = 8.0, 0.2, 2e-4


def render(folder: Path) -> None:
    """One stimulus through 26 settings."""
    minutes = [render_programme(60.0, _RATE, seed=[5, minute], pause_s=4.0) for minute in range(_MINUTES)]
    stimulus = np.concatenate(minutes).astype(np.float32)
    published, noise = la.load("published"), np.random.default_rng(0)
    settings = [(switch, knob) for switch in (0, 1) for knob in range(40, 101, 5)]
    for track, (switch, knob) in enumerate(settings, start=138):
        with torch.no_grad():
            card = {name: float(v) for name, v in published.params(switch, knob).numbers().items()}
        fast = la.CompressorParams(**{**card, "knee_db": 6.0 + knob / 20.0, "makeup_db": 0.0})
        slow = dataclasses.replace(fast, release_ms=_SLOWER * float(fast.release_ms))
        parts = [la.Stream(params, _RATE).process(stimulus) for params in (fast, slow)]
        output = (1.0 - _SHARE) * parts[0] + _SHARE * parts[1] + _NOISE * noise.standard_normal(len(stimulus))
        soundfile.write(folder / f"input_{track}_.wav", stimulus, _RATE, "PCM_16")
        soundfile.write(folder / f"target_{track}_LA2A_3c__{switch}__{knob}.wav", output, _RATE, "PCM_16")


def seconds_to_read(frame: pd.DataFrame) -> float:
    """Wall-clock time of reading every file once, in blocks, in one thread."""
    started = time.monotonic()
    for path in (*frame["raw_audio_path"], *frame["processed_audio_path"]):
        for _ in read_blocks(path, 0, _MINUTES * 60 * _RATE, 1 << 16):
            pass
    return time.monotonic() - started


def main(folder: Path) -> None:
    """Render, read, fit, print."""
    train = folder / "Train"
    if not train.exists():
        train.mkdir(parents=True)
        render(train)
    frame = la.index(folder)
    print(f"{len(frame)} recordings; reading every file once, one thread: {seconds_to_read(frame):.0f} s", flush=True)
    for per_setting in (True, False):
        started = time.monotonic()
        result = la.fit(frame, per_setting=per_setting, stages=PLAIN)
        seconds = time.monotonic() - started
        memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        stages = result.history.groupby("stage", sort=False)
        print(f"per_setting={per_setting}: {seconds:.0f} s, converged {result.converged}, peak {memory_gb:.2f} GB")
        print(stages.agg(passes=("error", "size"), error=("error", "last"), seconds=("seconds", "last")), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
