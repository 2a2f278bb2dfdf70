"""Processes that are killed: what they leave can be read, and they go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes as POSIX has them")

AT_EVERY_STEP = """
import json, logging, os, signal, sys
from pathlib import Path
import torch
from ddsp_la2a.fitting.checkpoint import read_kept, write_kept

logging.basicConfig()
scratch = Path(sys.argv[1])

def write(folder, number):
    write_kept(folder / "checkpoint.safetensors", {"format_version": 1}, {"a": torch.full((3,), number)})

def kill_at(wanted):
    fsync, replace, done = os.fsync, Path.replace, []

    def step():
        done.append(1)
        if len(done) == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    def noted(function):
        def call(*arguments):
            step()
            result = function(*arguments)
            step()
            return result
        return call

    def half(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            step()
            file.write(data[len(data) // 2 :])

    os.fsync, Path.replace, Path.write_bytes = noted(fsync), noted(replace), half

found, ended = [], False
while not ended:
    folder = scratch / str(len(found))
    folder.mkdir()
    write(folder, 1.0)
    write(folder, 2.0)
    child = os.fork()
    if not child:
        kill_at(len(found) + 1)
        write(folder, 3.0)
        os._exit(0)
    ended = os.waitpid(child, 0)[1] == 0
    number = float(read_kept(folder / "checkpoint.safetensors", "checkpoint", (1,))[1]["a"][0])
    write(folder, 4.0)
    write(folder, 5.0)
    found.append([number, sorted(path.name for path in folder.iterdir())])
print(json.dumps(found))
"""


def test_a_kill_at_any_step_of_a_write_leaves_a_whole_one(tmp_path):
    """Half written, around fsync, around either rename, around the folder's fsync; and none."""
    command = [sys.executable, "-c", AT_EVERY_STEP, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [number for number, _ in found] == [2.0] * 6 + [3.0] * 4
    names = ["checkpoint.previous.safetensors", "checkpoint.safetensors"]
    assert all(files == names for _, files in found)
    assert done.stderr.count("isn't there: going on from the one before") == 2  # between the renames
    assert "damaged" not in done.stderr


@pytest.fixture
def kills(monkeypatch):
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip(f"not a checkout: expected {ROOT / 'benchmarks'}")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import kills

    return kills


@pytest.mark.slow
def test_a_killed_training_goes_on_bit_by_bit(kills, tmp_path):
    kills.write_recordings(tmp_path)
    outcome = kills.killed(kills.training(tmp_path), 15, seed=1)
    assert outcome.kills.total() == 15
    assert 3 <= outcome.kills.total() - outcome.kills[kills.ANYWHERE] <= 5
    assert outcome.unreadable == []
    assert outcome.runs == outcome.identical >= 3
