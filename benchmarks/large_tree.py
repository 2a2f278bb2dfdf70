"""How long does it take to look through a data set of SignalTrain's layout, and how much memory?

Renders a tree of 26 pairs of 20 minutes (44.1 kHz, 16 bit, 5.5 GB; see :mod:`benchmarks.long_recordings`) into a
temporary folder and plants three faults: a target cut short, one that is 8583 samples late, and a pair whose files are
exchanged. Then ``index`` and ``check`` run in processes of their own: on one core and on all of them with files that
neither the library nor the system has in a cache, and once more with the library's cache. At last a joint
Gauss–Newton fit of all pairs that are left, with its checkpoint, in a process of its own.

    python -m benchmarks.large_tree [FOLDER]

FOLDER holds the tree (and keeps it); without one it is a temporary folder.

Audio is counted once a pair, by the length of the target: a pair of 20 minutes is 1200 s, though 40 minutes are read.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile

import ddsp_la2a as la
from ddsp_la2a.data.audio import audio_info
from ddsp_la2a.data.cache import FOLDER_VARIABLE

_SPLITS = {"Val": (140, 148, 161), "Test": (139, 158)}
_CUT, _LATE, _SWAPPED, _LATE_SAMPLES = 142, 148, 155, 8583
_EXPECTED = {_CUT: {"header_length"}, _LATE: {"lag_differs"}, _SWAPPED: {"swapped_pair"}}
_FULL_PAIRS, _FULL_SECONDS = 84, 1200.0


def build(folder: Path) -> None:
    """The tree with its faults."""
    from benchmarks.long_recordings import render  # takes torch, which what is measured does without

    train = folder / "Train"
    train.mkdir(parents=True)
    render(train)
    plant(folder)


def plant(folder: Path) -> None:
    """Splits and faults, in a folder that holds only ``Train``."""
    for split, tracks in _SPLITS.items():
        (folder / split).mkdir()
        for path in [path for path in (folder / "Train").iterdir() if int(path.name.split("_")[1]) in tracks]:
            path.rename(folder / split / path.name)

    def target(track: int) -> Path:
        (path,) = folder.glob(f"*/target_{track}_*.wav")
        return path

    os.truncate(target(_CUT), target(_CUT).stat().st_size - 2_000_000)
    audio, rate = soundfile.read(target(_LATE), dtype="int16")
    audio[_LATE_SAMPLES:] = audio[:-_LATE_SAMPLES].copy()
    audio[:_LATE_SAMPLES] = 0
    soundfile.write(target(_LATE), audio, rate, "PCM_16")
    processed, between = target(_SWAPPED), folder / "between"
    raw = processed.with_name(f"input_{_SWAPPED}_.wav")
    for old, new in ((raw, between), (processed, raw), (between, processed)):
        old.rename(new)


def measure(folder: Path, cores: int) -> None:
    """What one process takes on so many cores; printed as JSON."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    la.check, la.index  # noqa: B018 - imported when first asked for
    imported = _peak_mb()
    wall, busy = time.monotonic(), time.process_time()
    frame = la.index(folder)
    findings = la.check(frame)
    wall, busy = time.monotonic() - wall, time.process_time() - busy
    errors = findings[findings["severity"] == "error"].groupby("track_id")["finding"].agg(set).to_dict()
    assert errors == _EXPECTED, errors
    seconds = sum(audio_info(path).seconds for path in frame["processed_audio_path"])
    files = {*frame["raw_audio_path"], *frame["processed_audio_path"]}
    size = sum(Path(path).stat().st_size for path in files)
    found = {"wall": wall, "busy": busy, "imported": imported, "peak": _peak_mb(), "seconds": seconds}
    print(json.dumps(found | {"pairs": len(frame), "gb": size / 1e9}))


def fit(folder: Path, checkpoint: Path) -> None:
    """What a joint fit takes; printed as JSON."""
    frame = la.index(folder)
    frame = la.apply_findings(frame, la.check(frame)).assign(split="train")
    la.fit  # noqa: B018 - imported when first asked for
    imported, seconds = _peak_mb(), time.monotonic()
    result = la.fit(frame, checkpoint=checkpoint)
    found = {"wall": time.monotonic() - seconds, "imported": imported, "peak": _peak_mb(), "pairs": len(frame)}
    print(json.dumps(found | {"passes": len(result.history), "converged": result.converged}))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def in_a_process(folder: Path, cache: Path, cores: int, *, cold: bool) -> dict[str, float]:
    """:func:`measure` on so many cores, with the files out of the system's memory or not."""
    if cold:
        os.sync()
        for path in folder.rglob("*.wav"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _said(["--measure", str(folder), str(cores)], cache, OMP_NUM_THREADS="1")


def _said(arguments: list[str], cache: Path, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.large_tree", *arguments]
    ran = subprocess.run(
        command,
        env={**os.environ, FOLDER_VARIABLE: str(cache), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def main(folder: Path) -> None:
    """Render, measure, print."""
    if not (folder / "Train").exists():
        build(folder)
    cores = len(os.sched_getaffinity(0))
    print(
        "| index + check | s | processor, s | × real time | a core | a core, by processor time "
        "| peak MB | above import, MB | 84 pairs, s |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as caches:
        for name, number, cache, cold in (
            ("one core, first", 1, "one", True),
            (f"{cores} cores, first", cores, "all", True),
            (f"{cores} cores, again", cores, "all", False),
        ):
            ran = in_a_process(folder, Path(caches) / cache, number, cold=cold)
            by_clock, by_processor = ran["seconds"] / ran["wall"], ran["seconds"] / ran["busy"]
            speed = f"{by_clock:,.0f} | {by_clock / number:,.0f} | {by_processor:,.0f}" if cold else "– | – | –"
            full = _FULL_PAIRS * _FULL_SECONDS / ran["seconds"] * ran["wall"]
            print(
                f"| {name} | {ran['wall']:.2f} | {ran['busy']:.2f} | {speed} "
                f"| {ran['peak']:.0f} | {ran['peak'] - ran['imported']:.0f} | {full:.2f} |",
                flush=True,
            )
        print(f"\n{ran['pairs']} pairs, {ran['seconds'] / 3600:.2f} h of targets, {ran['gb']:.2f} GB read for them\n")
        fitted = _said(["--fit", str(folder), str(Path(caches) / "checkpoint.safetensors")], Path(caches) / "all")
    full = _FULL_PAIRS / fitted["pairs"] * fitted["wall"]
    print(
        f"joint fit of {fitted['pairs']} pairs: {fitted['wall']:.0f} s, {fitted['passes']} passes, "
        f"{'' if fitted['converged'] else 'not '}converged, peak {fitted['peak']:.0f} MB, "
        f"{fitted['peak'] - fitted['imported']:.0f} MB above import; {_FULL_PAIRS} pairs would take {full / 60:.0f} min"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--fit"]:
        fit(Path(sys.argv[2]), Path(sys.argv[3]))
    elif len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
