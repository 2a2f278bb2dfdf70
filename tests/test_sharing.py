"""Least-squares fits over several processes: to the last bit what one process finds."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ddsp_la2a as la
from ddsp_la2a.fitting import gauss_newton
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.fitting.sharing import dealt
from ddsp_la2a.model.stages import CellStages, Stages

pytestmark = pytest.mark.usefixtures("one_thread")

WAYS = {"compressor": {}, "optical-cell": {"family": "optical-cell"}, "per-setting": {"per_setting": True}}
FIT = """
import os, pickle, sys, time
import torch
import ddsp_la2a as la
from ddsp_la2a.fitting import gauss_newton
from ddsp_la2a.fitting.distributed import joined, rank
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.interrupts import termination_interrupts

folder, ways, dies_at = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
gauss_newton._NETWORKS = 1
products, calls = Recordings.products, []

def counted(recordings, requests, *more):
    calls.append(requests)
    if len(calls) == dies_at and rank() == 1:
        os.kill(os.getpid(), 9)
    return products(recordings, requests, *more)

Recordings.products = counted
torch.set_num_threads(1)
with termination_interrupts(), joined():
    for name, way in ways.items():
        settings = gauss_newton.GaussNewtonSettings(max_steps=3)
        kept = f"{folder}/{name}.checkpoint.safetensors" if dies_at else None
        result = la.fit(f"{folder}/frame.csv", gauss_newton=settings, checkpoint=kept, **way)
        answered = sum(len(requests) for requests in calls)
        with open(f"{folder}/{name}-{rank()}.pickle", "wb") as file:
            pickle.dump((result, answered), file)
        calls.clear()
"""


def environment() -> dict[str, str]:
    root = str(Path(la.__file__).parents[1])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }


def start(folder: Path, ways: dict[str, Any], dies_at: int = 0) -> subprocess.Popen[str]:
    script = folder / "fit.py"
    script.write_text(textwrap.dedent(FIT), encoding="utf-8")
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, folder, repr(ways), dies_at]
    command = [sys.executable, "-m", *map(str, launch)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finished(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=120)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def folder(frame: pd.DataFrame, tmp_path: Path) -> Path:
    frame[frame["split"] == "train"].to_csv(tmp_path / "frame.csv", index=False)
    return tmp_path


def alone(folder: Path, monkeypatch: pytest.MonkeyPatch, **way: Any) -> la.FitResult:
    monkeypatch.setattr(gauss_newton, "_NETWORKS", 1)
    return la.fit(folder / "frame.csv", gauss_newton=GaussNewtonSettings(max_steps=3), **way)


def assert_same(one: la.FitResult, other: la.FitResult) -> None:
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert one.model.covariance is not None
    assert other.model.covariance is not None
    assert torch.equal(one.model.covariance, other.model.covariance)
    histories = (result.history.drop(columns="seconds") for result in (one, other))
    pd.testing.assert_frame_equal(*histories, check_exact=True)


@pytest.mark.slow
def test_two_processes_find_what_one_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(folder, WAYS)
    expected = {name: alone(folder, monkeypatch, **way) for name, way in WAYS.items()}
    said = finished(process)
    assert process.returncode == 0, said
    for name in WAYS:
        found = [pickle.loads((folder / f"{name}-{number}.pickle").read_bytes()) for number in range(2)]
        for result, _ in found:
            assert_same(result, expected[name])
        counts = [answered for _, answered in found]
        assert min(counts) > 0.4 * sum(counts)  # both had something to do


@pytest.mark.slow
def test_one_that_dies_ends_the_others_and_the_fit_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = {"compressor": {}}
    process = start(folder, way, dies_at=6)
    said = finished(process)
    assert process.returncode != 0
    assert "SIGKILL" in said  # torchrun names the one that died
    left, _ = pickle.loads((folder / "compressor-0.pickle").read_bytes())
    assert left.interrupted
    assert len(left.history) >= 4
    resumed = start(folder, way, dies_at=-1)
    said = finished(resumed)
    assert resumed.returncode == 0, said
    result, _ = pickle.loads((folder / "compressor-0.pickle").read_bytes())
    assert_same(result, alone(folder, monkeypatch))


@pytest.mark.slow
def test_a_mistake_ends_all_of_them(folder: Path) -> None:
    (folder / "compressor.checkpoint.safetensors").write_bytes(b"no checkpoint")
    process = start(folder, {"compressor": {}}, dies_at=-1)
    said = finished(process)
    assert process.returncode != 0
    assert "expected a ddsp_la2a checkpoint" in said


# Parts


@pytest.mark.parametrize("hands", [1, 2, 3, 7])
def test_everything_is_dealt_once_and_evenly(hands: int) -> None:
    costs = np.random.default_rng(hands).uniform(1.0, 20.0, 40)
    shares = dealt(costs, hands)
    assert sorted(number for share in shares for number in share) == list(range(40))
    loads = [costs[share].sum() for share in shares]
    assert max(loads) - min(loads) <= costs.max()
    assert max(loads) <= 4.0 / 3.0 * max(costs.sum() / hands, costs.max())  # Graham's bound on the best there is


def test_more_hands_than_items() -> None:
    assert dealt(np.array([1.0, 2.0]), 4) == [[1], [0], [], []]
    assert dealt(np.zeros(0), 2) == [[], []]


@pytest.mark.parametrize("stages", [Stages(), CellStages()], ids=["compressor", "optical-cell"])
def test_coordinates_can_be_sent(stages: Any) -> None:
    coordinates = Coordinates(stages, 8000)
    sent = pickle.loads(pickle.dumps(coordinates))
    point = coordinates.start + 0.1
    assert sent.values(point) == coordinates.values(point)
    np.testing.assert_array_equal(sent.limit, coordinates.limit)
