"""The demo set: layout, what may and may not recur across splits, levels, reproducible bytes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from ddsp_la2a.data import demo
from ddsp_la2a.data.demo import render_demo
from ddsp_la2a.simulated_unit.programme import render_programme
from ddsp_la2a.units import amplitude_to_db

FS = 44100


class Pair(NamedTuple):
    split: str
    track_id: int
    take: str
    switch: int
    knob: int
    programme: np.ndarray
    target: np.ndarray


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_demo(tmp_path_factory.mktemp("demo") / "set")


@pytest.fixture(scope="module")
def pairs(tree: Path) -> list[Pair]:
    found = []
    for path in sorted(tree.glob("*/target_*.wav")):
        match = re.fullmatch(r"target_(\d+)_LA2A_([23]c)__([01])__(\d+)\.wav", path.name)
        assert match
        track_id, take, switch, knob = match.groups()
        programme, target = (soundfile.read(file)[0] for file in (path.parent / f"input_{track_id}_.wav", path))
        found.append(Pair(path.parent.name, int(track_id), take, int(switch), int(knob), programme, target))
    return found


def few(monkeypatch: pytest.MonkeyPatch) -> None:
    short = [recording._replace(seconds=3.0, pause_s=0.5) for recording in demo._PLAN[::12]]
    monkeypatch.setattr(demo, "_PLAN", short)


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout(tree: Path, pairs: list[Pair]) -> None:
    assert sorted(path.name for path in tree.iterdir()) == ["Test", "Train", "Val", "dataset.json"]
    assert len(list(tree.glob("*/*"))) == 2 * len(pairs) == 80
    assert len({pair.track_id for pair in pairs}) == len(pairs)
    for path in tree.glob("*/*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (FS, 1, "WAV", "PCM_16")
    for pair in pairs:
        assert pair.programme.shape == pair.target.shape
        assert pair.take == ("3c" if pair.split == "Train" else "2c")


def test_description(tree: Path) -> None:
    description = json.loads((tree / "dataset.json").read_text(encoding="utf-8"))
    assert description["source"] == "simulated"
    assert description["device"] == "simulated LA-2A"
    assert description["seed"] == 0
    assert {"name", "licence", "version", "unit"} <= description.keys()


def test_knob_positions(pairs: list[Pair]) -> None:
    train, val, test = ({(p.switch, p.knob) for p in pairs if p.split == split} for split in ("Train", "Val", "Test"))
    assert train == {(switch, knob) for switch in (0, 1) for knob in (0, *range(40, 101, 5))}
    assert val < train
    assert {switch for switch, _ in val} == {switch for switch, _ in test} == {0, 1}
    assert {knob for _, knob in test}.isdisjoint({knob for _, knob in train | val})


def test_no_programme_recurs(pairs: list[Pair]) -> None:
    # Sample for sample, in blocks of 10 ms; within a recording a steady tone may well repeat.
    recordings = [
        {block.tobytes() for block in pair.programme.reshape(-1, 441)[:-1] if np.max(np.abs(block)) > 0.01}
        for pair in pairs
    ]
    assert len(set.union(*recordings)) == sum(map(len, recordings)) > 30000


def test_levels(pairs: list[Pair]) -> None:
    for pair in pairs:
        peak_db, rms_db = (float(amplitude_to_db(v)) for v in (np.max(np.abs(pair.programme)), np.std(pair.programme)))
        assert -3.01 <= peak_db <= -1.49
        assert -20 <= rms_db <= -14
        assert 11 <= peak_db - rms_db <= 18
        assert np.max(np.abs(pair.target)) < 0.99
        # The seconds that are scored on their own hold programme, and no recording is mostly silence.
        assert amplitude_to_db(np.std(pair.programme[-4 * FS :])) > -30
        loud = np.abs(pair.programme).reshape(-1, FS // 20).max(axis=1) > 0.01
        assert np.mean(loud) > 0.6


def test_the_compressor_works(pairs: list[Pair]) -> None:
    for pair in pairs:
        loss_db = amplitude_to_db(np.std(pair.programme)) - amplitude_to_db(np.std(pair.target))
        assert (0 < loss_db < 0.5) if pair.knob == 0 else (2 < loss_db < 30)


def test_the_unit_of_a_set_is_the_one_it_was_recorded_through(pairs: list[Pair]) -> None:
    """But for noise, rounding and a drift whose phase is another in each recording; units differ by more."""
    pair = next(pair for pair in pairs if pair.split == "Test")
    at = {"compress_or_limit": pair.switch, "peak_reduction": pair.knob}
    errors = []
    for seed in (0, 1):
        output = demo.DemoUnit(seed).process(pair.programme, FS, **at)
        errors.append(np.mean(np.square(output - pair.target)) / np.mean(np.square(pair.target)))
    assert errors[0] < 2e-4
    assert errors[1] > 10.0 * errors[0]


def test_same_seed_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    first, again, other = (
        digest(render_demo(tmp_path / name, seed=seed)) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_progress_and_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    calls: list[tuple[int, int]] = []
    folder = tmp_path / "new" / "set"
    folder.mkdir(parents=True)
    assert render_demo(str(folder), progress=lambda *call: calls.append(call)) == folder
    assert calls == [(done, 4) for done in range(1, 5)]
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        render_demo(tmp_path)
    with pytest.raises(ValueError, match="precious"):
        render_demo(tmp_path / "precious")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


def test_nothing_half_done_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)

    def broken(*_: object) -> None:
        raise OSError("disc full")

    monkeypatch.setattr(demo, "_describe", broken)
    with pytest.raises(OSError, match="disc full"):
        render_demo(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_negative_seed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed: expected 0 or more, got -1"):
        render_demo(tmp_path / "set", seed=-1)


def test_programme_keeps_to_its_levels_for_any_seed() -> None:
    for seed in range(10):
        programme = render_programme(12.0, FS, seed=[99, seed], pause_s=2.0)
        assert programme.size == 12 * FS
        assert -3.0 <= amplitude_to_db(np.max(np.abs(programme))) <= -1.5
        assert -20 <= amplitude_to_db(np.std(programme)) <= -14
        sounding = np.flatnonzero(programme)
        assert np.max(np.diff(sounding)) >= 2 * FS


def test_programme_of_silence_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pause_s: expected .* less than the 3\.0 s of the whole, got 5\.0"):
        render_programme(3.0, FS, seed=0)
