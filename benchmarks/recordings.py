"""What the ablation fits and scores: real recordings, a plug-in, a simulated unit; each with its protocol.

The recordings are not part of this repository. They are looked for in ``../shared/audio`` beside it; see its README for
where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

import ddsp_la2a as la
from benchmarks import lv2_device
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.data.capture import index_captures, write_stimulus
from ddsp_la2a.data.splits import split_by
from ddsp_la2a.simulated_unit.programme import render_programme

AUDIO = Path(__file__).resolve().parents[2] / "shared" / "audio"

CL1B_CONTROLS = tuple(la.Control(name) for name in ("attack", "release", "ratio", "threshold"))
_CL1B_LATE_SAMPLES = 67

LV2_CONTROLS = (la.Control("threshold", -60.0, 0.0),)
_LV2_FITTED_DB, _LV2_UNSEEN_DB, _LV2_RATIO = (-40.0, -32.0, -24.0, -16.0), (-36.0, -28.0, -20.0), 4.0
_LV2_SECONDS, _LV2_RATE = 120.0, 44100


@dataclass(frozen=True)
class Trial:
    """Rows to fit (``train``) and to score (``test``) by one protocol; in-sample ones are only ``train``.

    Args:
        data: name in tables.
        protocol: see ``scores.csv``.
        frame: the rows.
        controls: of the unit.
        joint: whether one model of all settings makes sense.
        there: for protocols with unseen settings, recordings at those very settings to fit: what guessing is measured
            against.
    """

    data: str
    protocol: str
    frame: pd.DataFrame
    controls: Sequence[la.Control] = LA2A_CONTROLS
    joint: bool = True
    there: pd.DataFrame | None = None


def excerpts() -> list[Trial]:
    """Three excerpts of SignalTrain's own test files."""
    frame = la.index(AUDIO / "signaltrain_excerpts")
    return [
        Trial("excerpts", "later-in-time", split_by(frame, "later-in-time")),
        Trial("excerpts", "in-sample", frame.assign(split="train")),
    ]


def inner_excerpts() -> list[Trial]:
    """The same without their last 4 s: fitted to the first 4 s, scored on the next 2; what stages are chosen on."""
    frame = la.index(AUDIO / "signaltrain_excerpts")
    parts = [
        frame.assign(split=split, start_frame=first * 44100, stop_frame=last * 44100)
        for split, first, last in (("train", 0, 4), ("test", 4, 6))
    ]
    return [Trial("excerpts, inner split", "later-in-time", pd.concat(parts, ignore_index=True))]


def clips(folder: Path) -> list[Trial]:
    """Three clips that were filtered after recording, at unknown settings: each is a setting of its own."""
    controls = (la.Control("clip", 1, 5, "switch"),)
    rows = []
    for clip in (1, 3, 5):
        pair = [soundfile.read(AUDIO / "la2a_clips" / f"clip{clip}_{kind}.wav") for kind in ("input", "target")]
        rows.append(_row(folder, f"clip{clip}", pair[0][0], pair[1][0], pair[0][1]) | {"clip": clip})
    frame = pd.DataFrame(rows).assign(device="LA-2A", source="hardware-postprocessed")
    return [Trial("clips", "later-in-time", split_by(frame, "later-in-time", controls), controls, joint=False)]


def cl1b(folder: Path) -> list[Trial]:
    """Six clips of a Tube-Tech CL 1B: all of them in-sample, then each in turn unseen.

    Three targets come 66.5 samples late; they are cut by 67.
    """
    rows = []
    raw, rate = soundfile.read(AUDIO / "cl1b_clips" / "input.wav")
    for path in sorted((AUDIO / "cl1b_clips").glob("target_*.wav")):
        found = re.fullmatch(r"target_at_(\d+)_re_(\d+)_ra_(\d+)_th_(\d+)", path.stem)
        assert found is not None
        knobs = {c.name: int(n) / 10 ** (len(n) - 1) for c, n in zip(CL1B_CONTROLS, found.groups(), strict=True)}
        late = _CL1B_LATE_SAMPLES if knobs["release"] == 0.0 or knobs["attack"] == 0.25 else 0
        target = soundfile.read(path)[0][late:]
        rows.append(_row(folder, path.stem, raw, target, rate) | knobs | {"track_id": len(rows)})
    frame = pd.DataFrame(rows).assign(device="CL 1B", source="hardware")
    trials = [Trial("CL 1B", "in-sample", frame.assign(split="train"), CL1B_CONTROLS)]
    for unseen in range(len(frame)):
        split = np.where(frame.index == unseen, "test", "train")
        trials.append(Trial("CL 1B", "unseen-knob", frame.assign(split=split), CL1B_CONTROLS))
    return trials


def _row(folder: Path, name: str, raw: np.ndarray, target: np.ndarray, rate: int) -> dict[str, str]:
    """A pair cut to the same length."""
    frames = min(len(raw), len(target))
    paths = {kind: folder / f"{name}_{kind}.wav" for kind in ("raw", "processed")}
    for path, audio in zip(paths.values(), (raw, target), strict=True):
        soundfile.write(path, audio[:frames], rate, "FLOAT")
    return {f"{kind}_audio_path": path.as_posix() for kind, path in paths.items()}


def lv2(folder: Path) -> list[Trial]:
    """LSP's feedback compressor, captured at four thresholds; scored in between, on another programme."""
    captured = _captured(folder)
    (folder / "programme").mkdir()
    rows = []
    for number, threshold_db in enumerate(_LV2_UNSEEN_DB):
        programme = render_programme(15.0, _LV2_RATE, seed=[7, number], pause_s=3.0).astype(np.float32)
        output = lv2_device.render(programme, _LV2_RATE, lv2_device.lsp_feedback(threshold_db, _LV2_RATIO))
        pair = _row(folder / "programme", f"{threshold_db:g}", programme, output, _LV2_RATE)
        rows.append(pair | {"threshold": threshold_db, "track_id": 100 + number, "take": "programme"})
    scored = pd.DataFrame(rows).assign(device="LSP compressor", source="plug-in", split="test")
    kept = [c for c in captured.columns if c in scored.columns]
    fitted, there = (captured.loc[captured["threshold"].isin(at), kept] for at in (_LV2_FITTED_DB, _LV2_UNSEEN_DB))
    frame = pd.concat([fitted, scored], ignore_index=True)
    return [Trial("LV2 plug-in", "unseen-knob", frame, LV2_CONTROLS, there=there)]


def _captured(folder: Path) -> pd.DataFrame:
    """The plug-in captured at all thresholds, each recording starting late."""
    write_stimulus(folder / "stimulus.wav", _LV2_SECONDS, _LV2_RATE)
    played = soundfile.read(folder / "stimulus.wav", dtype="float32")[0]
    late = np.random.default_rng(4)
    for threshold_db in (*_LV2_FITTED_DB, *_LV2_UNSEEN_DB):
        output = lv2_device.render(played, _LV2_RATE, lv2_device.lsp_feedback(threshold_db, _LV2_RATIO))
        silence = np.zeros(int(late.integers(2000, 90000)), dtype=np.float32)
        name = folder / f"lsp_threshold={threshold_db:g}.wav"
        soundfile.write(name, np.concatenate([silence, output, np.zeros(3000, np.float32)]), _LV2_RATE, "FLOAT")
    return index_captures(folder, LV2_CONTROLS, device="LSP compressor", source="plug-in")


def demo(folder: Path) -> list[Trial]:
    """The simulated unit, whose test knob positions occur nowhere else."""
    return [Trial("demo set", "unseen-knob", la.index(la.render_demo(folder / "demo")))]
