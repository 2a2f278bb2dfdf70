"""Measured by one thread or several, now or before: the findings are the same, and no file is read for nothing."""

from __future__ import annotations

import _thread
import os
import shutil
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import ddsp_la2a as la
from ddsp_la2a.data import cache, contents, measurements
from ddsp_la2a.data.measurements import Measurement, Recording, measured

RATE = 8000


def age(root: Path, seconds: float = 60.0) -> None:
    """As if all files had been written a while ago: a file written just now isn't relied on."""
    then = time.time() - seconds
    for path in root.rglob("*.wav"):
        os.utime(path, (then, then))


def damage(path: Path, change) -> None:
    audio, rate = soundfile.read(path, dtype="float32")
    soundfile.write(path, change(audio), rate, "FLOAT")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory, record):
    """Six pairs, some with faults; one input has two targets."""
    root = tmp_path_factory.mktemp("made") / "tree"
    for number, knob in enumerate((40, 50, 60, 70, 80)):
        record(root, "Train", number, (0, knob), 2.0 + 0.5 * number, truth=(0, 50))
    folder = root / "Train"
    shutil.copy(folder / "target_0_LA2A_3c__0__40.wav", folder / "target_0_LA2A_3c__1__40.wav")
    damage(folder / "target_0_LA2A_3c__1__40.wav", lambda y: 0.5 * y)
    damage(folder / "target_1_LA2A_3c__0__50.wav", lambda y: -y)
    damage(folder / "target_2_LA2A_3c__0__60.wav", lambda y: np.roll(y, 300))
    damage(folder / "input_3_.wav", lambda x: np.where(np.arange(len(x)) == 5, np.nan, x))
    return root


@pytest.fixture
def tree(tmp_path, made_once):
    root = shutil.copytree(made_once, tmp_path / "tree")
    age(root)
    return root


@pytest.fixture
def reads(monkeypatch):
    """How often what was done to which file; the process remembers no hashes."""
    counts: Counter[tuple[str, str]] = Counter()
    lock = threading.Lock()
    monkeypatch.setattr(contents, "_seen", {})

    def counted(name, whole):
        def wrapper(path, *arguments):
            with lock:
                counts[name, Path(path).name] += 1
            return whole(path, *arguments)

        return wrapper

    for name in ("scan", "read_audio"):
        monkeypatch.setattr(measurements, name, counted(name, getattr(measurements, name)))
    monkeypatch.setattr(contents, "_read", counted("hash", contents._read))
    return counts


def totals(reads: Counter[tuple[str, str]]) -> dict[str, int]:
    """Since the last call."""
    found: Counter[str] = Counter()
    for (name, _), count in reads.items():
        found[name] += count
    reads.clear()
    return {name: found[name] for name in ("hash", "scan")}


def errors(findings: pd.DataFrame) -> set[tuple[int, str]]:
    wrong = findings[findings["severity"] == "error"]
    return set(zip(wrong["track_id"], wrong["finding"], strict=True))


FAULTS = {(1, "polarity_inverted"), (2, "lag_differs"), (3, "not_finite")}
ONCE = {"hash": 11, "scan": 11}


# --- threads --------------------------------------------------------------------------------------------------------


def test_findings_do_not_depend_on_the_number_of_threads(tree, monkeypatch, cache_folder):
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(measurements, "_threads", lambda threads=threads: threads)
        found.append(la.check(tree))
        assert errors(found[-1]) == FAULTS
        shutil.rmtree(cache_folder)
    pd.testing.assert_frame_equal(found[0], found[1], check_exact=True)
    pd.testing.assert_frame_equal(found[0], found[2], check_exact=True)


def test_an_input_of_several_targets_is_read_once(tree, reads, monkeypatch):
    monkeypatch.setattr(measurements, "_threads", lambda: 4)
    la.check(tree)
    assert reads["scan", "input_0_.wav"] == reads["hash", "input_0_.wav"] == 1
    assert totals(reads) == ONCE


def test_an_input_is_dropped_after_its_last_use(tree):
    target = "target_0_LA2A_3c__0__40.wav"
    recording = Recording(str(tree / "Train/input_0_.wav"), str(tree / "Train" / target), 0, 2 * RATE, RATE)
    shared = measurements._Shared([recording, recording])
    shared.scan(recording)
    shared.release(recording)
    assert shared._scans
    shared.release(recording)
    assert not shared._scans


def test_memory_does_not_grow_with_files_or_their_number(tmp_path, programme, monkeypatch):
    seconds, rate = 240, 44100
    x = np.tile(programme(1, 20.0, rate), seconds // 20)
    for name, audio in (("in", x), ("out", 0.5 * x)):
        soundfile.write(tmp_path / f"{name}.wav", audio, rate, "PCM_16")
    starts = np.arange(0, seconds, 60) * rate
    rows = {"raw_audio_path": str(tmp_path / "in.wav"), "processed_audio_path": str(tmp_path / "out.wav")}
    frame = pd.DataFrame({"device": "x", "drive": 1, "start_frame": starts, "stop_frame": starts + 60 * rate, **rows})
    del x, audio
    monkeypatch.setattr(measurements, "_threads", lambda: 2)
    tracemalloc.start()
    la.check(frame, controls=[la.Control("drive", 0.0, 10.0)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # of 85 MB as float32


def test_ctrl_c_ends_it_at_once(tree, monkeypatch):
    blocks = threading.Semaphore(0)

    def endless(path, start, stop, sample_rate, between):
        blocks.release()
        for _ in range(3000):
            between()
            time.sleep(0.01)
        raise AssertionError("not stopped")

    def interrupt():
        blocks.acquire(timeout=20.0)
        _thread.interrupt_main()

    monkeypatch.setattr(measurements, "scan", endless)
    threading.Thread(target=interrupt).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        la.check(tree)
    while any("ThreadPool" in thread.name for thread in threading.enumerate()):
        time.sleep(0.01)  # a thread may have been just about to start
    assert time.monotonic() - started < 10.0


def test_what_was_measured_before_an_interruption_is_kept(tree, reads, monkeypatch):
    monkeypatch.setattr(measurements, "_threads", lambda: 1)
    seen = []

    def interrupted(done, total):
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        la.check(tree, progress=interrupted)
    assert seen[0] == 0
    again = []
    reads.clear()
    assert errors(la.check(tree, progress=lambda *done: again.append(done))) == FAULTS
    assert again[0][0] >= seen[-1]
    assert again[-1] == (again[-1][1], again[-1][1])
    assert totals(reads)["scan"] < ONCE["scan"]


def test_a_file_that_goes_away_ends_it(tree, monkeypatch):
    def gone(path, *_):
        raise FileNotFoundError(path)

    monkeypatch.setattr(measurements, "scan", gone)
    with pytest.raises(FileNotFoundError, match="target"):
        la.check(tree)


def test_a_disk_that_fails_is_a_finding(tree, monkeypatch):
    def failing(path, *_):
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(measurements, "content_hash", failing)
    found = la.check(tree)
    assert set(found.loc[found["severity"] == "error", "finding"]) == {"unreadable"}
    assert "Input/output error; copy it again" in found["value"].iloc[0]


# --- what is known --------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_read(tree, reads):
    first = la.check(tree)
    assert errors(first) == FAULTS
    assert totals(reads) == ONCE
    seen = []
    again = la.check(tree, progress=lambda *done: seen.append(done))
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    assert not reads
    assert seen == [(17, 17)]  # seconds, all of them known


def test_another_process_knows_it_too(tree, reads):
    first = la.check(tree)
    totals(reads)
    contents._seen.clear()
    pd.testing.assert_frame_equal(la.check(tree), first, check_exact=True)
    assert not reads


def test_what_was_touched_or_copied_is_hashed_and_not_measured(tree, tmp_path, reads):
    first = la.check(tree)
    totals(reads)
    age(tree, 30.0)
    pd.testing.assert_frame_equal(la.check(tree), first, check_exact=True)
    assert totals(reads) == {"hash": 11, "scan": 0}
    shutil.copytree(tree, tmp_path / "copy")
    copied = la.check(tmp_path / "copy")
    assert copied["value"].tolist() == first["value"].tolist()
    assert copied["path"].str.contains("copy/").all()
    assert totals(reads) == {"hash": 11, "scan": 0}
    assert not any(name == "read_audio" for name, _ in reads)


def test_what_changed_is_measured_again(tree, reads):
    la.check(tree)
    totals(reads)
    target = tree / "Train" / "target_4_LA2A_3c__0__80.wav"
    damage(target, lambda y: -y)  # as long as before
    os.utime(target, (time.time() - 50.0,) * 2)
    assert errors(la.check(tree)) == FAULTS | {(4, "polarity_inverted")}
    assert totals(reads) == {"hash": 1, "scan": 2}
    content, stat = target.read_bytes(), target.stat()
    damage(target, lambda y: y[:-100])
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as old as before
    found = la.check(tree)
    assert "length_differs" in set(found["finding"])
    assert totals(reads) == {"hash": 1, "scan": 2}
    target.write_bytes(content)
    os.utime(target, (time.time() - 40.0,) * 2)
    assert errors(la.check(tree)) == FAULTS | {(4, "polarity_inverted")}
    assert totals(reads) == {"hash": 1, "scan": 0}


def test_a_file_written_just_now_is_not_relied_on(tree, reads):
    la.check(tree)
    target = tree / "Train" / "target_4_LA2A_3c__0__80.wav"
    target.touch()
    la.check(tree)
    totals(reads)
    la.check(tree)
    assert totals(reads) == {"hash": 1, "scan": 0}


def test_another_stretch_is_measured_on_its_own(tree, reads):
    frame = la.index(tree).iloc[:1]
    whole = la.check(frame)
    totals(reads)
    assert la.check(frame.assign(start_frame=0, stop_frame=2 * RATE)).equals(whole)
    assert totals(reads) == {"hash": 0, "scan": 0}  # the same stretch in other words
    for start, stop in ((0, RATE), (RATE // 2, 2 * RATE)):
        la.check(frame.assign(start_frame=start, stop_frame=stop))
        assert totals(reads) == {"hash": 0, "scan": 2}


def test_settings_of_the_frame_are_no_matter_of_the_samples(tree, reads):
    frame = la.index(tree)
    la.check(frame)
    totals(reads)
    found = la.check(frame.assign(peak_reduction=frame["peak_reduction"] + 1, track_id=range(10, 16)))
    assert set(found["track_id"]) == set(range(10, 16))
    assert not reads


def test_another_version_measures_again(tree, reads, monkeypatch):
    la.check(tree)
    totals(reads)
    monkeypatch.setattr(measurements, "MEASURING_VERSION", measurements.MEASURING_VERSION + 1)
    la.check(tree)
    assert totals(reads) == {"hash": 0, "scan": 11}


def test_a_file_that_changes_while_it_is_measured_is_not_remembered(tree, reads, monkeypatch):
    frame = la.index(tree).iloc[:1]
    whole = measurements._measure

    def touched(recording, shared):
        os.utime(recording.processed_path, (time.time() - 20.0,) * 2)
        return whole(recording, shared)

    monkeypatch.setattr(measurements, "_measure", touched)
    la.check(frame)
    monkeypatch.setattr(measurements, "_measure", whole)
    totals(reads)
    la.check(frame)
    assert totals(reads) == {"hash": 1, "scan": 2}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"key": 1, "value": {}}'])
def test_a_damaged_cache_is_no_matter(tree, reads, cache_folder, content):
    first = la.check(tree)
    totals(reads)
    for path in cache_folder.glob("*/*"):
        path.write_bytes(content)
    contents._seen.clear()
    pd.testing.assert_frame_equal(la.check(tree), first, check_exact=True)
    assert totals(reads) == ONCE
    contents._seen.clear()
    la.check(tree)
    assert not reads  # mended


@pytest.mark.parametrize("value", [[], 3, {}, {"raw": {"frames": 1}}, {"raw": None, "processed": None}])
def test_an_entry_of_something_else_is_no_matter(tree, reads, monkeypatch, value):
    first = la.check(tree)
    totals(reads)
    whole = cache.recall
    monkeypatch.setattr(cache, "recall", lambda kind, key: value if kind == "pairs" else whole(kind, key))
    pd.testing.assert_frame_equal(la.check(tree), first, check_exact=True)
    assert totals(reads) == {"hash": 0, "scan": 11}


def test_a_cache_that_cannot_be_written_is_no_matter(tree, reads, cache_folder, caplog):
    cache._warn_once.cache_clear()
    cache_folder.write_text("a file in the way", encoding="utf-8")
    first = la.check(tree)
    assert caplog.text.count("nothing can be kept there") == 1
    totals(reads)
    pd.testing.assert_frame_equal(la.check(tree), first, check_exact=True)
    assert totals(reads) == {"hash": 0, "scan": 11}  # the process itself remembers hashes


def test_measurements_of_silence_and_of_what_is_not_finite_are_kept(tmp_path, reads):
    recordings = []
    for name, audio in (("silence", np.zeros(2 * RATE)), ("huge", np.repeat([1e30, 0.0], RATE))):
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE, "FLOAT")
        recordings.append(Recording(*[str(tmp_path / f"{name}.wav")] * 2, 0, 2 * RATE, RATE))
    age(tmp_path)
    first = measured(recordings)
    assert all(isinstance(each, Measurement) for each in first)
    assert first[0].alignment is None
    totals(reads)
    again = measured(recordings)
    assert not reads
    assert repr(again) == repr(first)


def test_nothing_to_measure():
    seen = []
    assert measured([], lambda *done: seen.append(done)) == []
    assert seen == [(0, 0)]
