"""The demo set: a small tree laid out like SignalTrain's, recorded through the simulated unit in seconds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ddsp_la2a.simulated_unit import SimulatedLA2A, UnitConstants
from ddsp_la2a.simulated_unit.programme import render_programme
from ddsp_la2a.units import FULL_SCALE_16_BIT

SAMPLE_RATE = 44100
"""Sample rate (Hz) of the demo set, as of SignalTrain."""

DEMO_VERSION = "1.2"
"""Grows whenever the same seed gives other bytes."""

_TRAINED = (0, *range(40, 101, 5))
_HELD_OUT = (52, 62, 72, 82)
"""Trained are SignalTrain's own positions, held out are positions between them. With positions ten apart no model could
guess what lies between: the taper measured on the unit turns at 65, and is 0.8 dB off the middle of its neighbours at
80."""

_TRAIN_KNOBS = [(switch, knob) for switch in (0, 1) for knob in _TRAINED]
_VAL_KNOBS = [(0, 55), (0, 85), (1, 65), (1, 95)]
_TEST_KNOBS = [(switch, knob) for switch in (0, 1) for knob in _HELD_OUT]
_FIRST_ID = {("3c", 0): 138, ("3c", 1): 159, ("2c", 0): 222, ("2c", 1): 243}  # of SignalTrain's series, steps of 5


class _Recording(NamedTuple):
    split: str
    take: str
    compress_or_limit: int
    peak_reduction: int
    seconds: float
    pause_s: float

    @property
    def track_id(self) -> int:
        return _FIRST_ID[self.take, self.compress_or_limit] + self.peak_reduction // 5


_PLAN = [
    *(_Recording("Train", "3c", switch, knob, 12.0, 3.0) for switch, knob in _TRAIN_KNOBS),
    *(_Recording("Val", "2c", switch, knob, 15.0, 3.0) for switch, knob in _VAL_KNOBS),
    *(_Recording("Test", "2c", switch, knob, 15.0, 3.0) for switch, knob in _TEST_KNOBS),
]


def render_demo(
    folder: str | os.PathLike[str], *, seed: int = 0, progress: Callable[[int, int], object] | None = None
) -> Path:
    """Render the demo set: 40 recordings of one simulated unit, nine minutes in all.

    Every recording has a programme of its own. Train holds fourteen positions of peak reduction at both positions of
    the switch, Val four of these, Test four positions that occur nowhere else. The unit is one drawn from the simulated
    production line, its output gain never moves. Every number got from this set is to be called "simulated".

    Args:
        folder: to be made; may exist if it is empty.
        seed: ≥ 0, of unit, programmes and noise; the same seed gives the same bytes.
        progress: called with the number of recordings done and their total after each.

    Returns:
        The folder, which appears only once it is complete: Train/, Val/, Test/ with input_<id>_.wav and
        target_<id>_LA2A_<take>__<switch>__<peak reduction>.wav (44.1 kHz, mono, 16 bit), and dataset.json.

    Raises:
        ValueError: folder holds something already, or seed is negative.

    References:
        Layout: Hawley, Colburn & Mimilakis (2019), SignalTrain, AES 147; data set 10.5281/zenodo.3824876.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder: expected a new or an empty folder, got {folder}; remove it or name another")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    unit = UnitConstants.sampled(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        root = Path(scratch) / folder.name
        for split in {recording.split for recording in _PLAN}:
            (root / split).mkdir(parents=True)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for done, _ in enumerate(pool.map(lambda recording: _render(root, recording, unit, seed), _PLAN), start=1):
                if progress is not None:
                    progress(done, len(_PLAN))
        _describe(root / "dataset.json", unit, seed)
        if folder.exists():  # only POSIX renames onto an empty folder
            folder.rmdir()
        root.rename(folder)
    return folder


class DemoUnit:
    """The unit that a demo set was recorded through, as a model: what the grey box should have become.

    Args:
        seed: of the demo set.
    """

    def __init__(self, seed: int = 0) -> None:
        self.device = SimulatedLA2A(UnitConstants.sampled(seed), seed=seed)

    def process(
        self, audio: np.ndarray, sample_rate: float, *, compress_or_limit: int, peak_reduction: float
    ) -> np.ndarray:
        """What comes back from the unit, which has rested before; see :meth:`SimulatedLA2A.record`."""
        return self.device.record(audio, sample_rate, compress_or_limit, peak_reduction)


def _render(root: Path, recording: _Recording, unit: UnitConstants, seed: int) -> None:
    """Write one pair; the unit is played what the file holds, rounding included."""
    split, take, switch, knob, seconds, pause_s = recording
    track_id = recording.track_id
    programme = _to_16_bit(render_programme(seconds, SAMPLE_RATE, seed=[seed, track_id], pause_s=pause_s))
    device = SimulatedLA2A(unit, seed=1000 * seed + track_id)
    target = _to_16_bit(device.record(programme / FULL_SCALE_16_BIT, SAMPLE_RATE, switch, knob))
    soundfile.write(root / split / f"input_{track_id}_.wav", programme, SAMPLE_RATE, "PCM_16")
    soundfile.write(
        root / split / f"target_{track_id}_LA2A_{take}__{switch}__{knob}.wav", target, SAMPLE_RATE, "PCM_16"
    )


def _to_16_bit(audio: np.ndarray) -> np.ndarray:
    """Rounded without dither, since that would need chance; saturates as a converter does."""
    steps = np.round(audio * FULL_SCALE_16_BIT)
    return np.clip(steps, -FULL_SCALE_16_BIT, FULL_SCALE_16_BIT - 1).astype(np.int16)


def _describe(path: Path, unit: UnitConstants, seed: int) -> None:
    description = {
        "name": "Simulated LA-2A demo",
        "source": "simulated",
        "device": "simulated LA-2A",
        "licence": "CC0-1.0",
        "description": "Synthesised programme through a physical simulation; no hardware was recorded.",
        "version": DEMO_VERSION,
        "seed": seed,
        "sample_rate": SAMPLE_RATE,
        "unit": asdict(unit),
    }
    path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
