"""Training in several processes comes to what one comes to, and ends well where one of them ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddsp_la2a.fitting import distributed

TRAIN = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path

import click
import torch

import ddsp_la2a as la
from baselines.tcn import ConditionedTCN
from ddsp_la2a.console import run_command
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.fitting import distributed, gradient
from ddsp_la2a.fitting.fit import _AtTakeGains

torch.set_num_threads(1)
out, how = Path(sys.argv[2]), json.loads(sys.argv[3])
adam = {"learning_rate": 0.01, "batch_size": 3, "max_steps": 12, "validate_every": 5, "patience": 0, "clip_norm": 0.5}
SETTINGS = gradient.AdamSettings(**adam, window_frames=None if how.get("grey") else 9000, weight_prior_s=how["prior"])


class Precise(ConditionedTCN):
    # In float64, since Adam makes steps of full length of the rounding where a gradient is next to nothing.
    def __init__(self):
        super().__init__(8000, channels=2, kernel=3)
        self.double()

    def positions(self, batch):
        return torch.stack([batch[control.name].double() for control in self.controls], dim=-1)

    def forward(self, batch, state=None):
        at = how.get("die_at")
        self.calls = getattr(self, "calls", 0) + self.training
        if at is not None and distributed.rank() == how["die"] and self.calls == at:
            os.kill(os.getpid(), how["signal"])
        return super().forward({name: value.double() for name, value in batch.items()}, state)

    def prior_energy(self):
        return sum(weight.square().sum() for weight in self.parameters())


@click.command()
def command():
    frame = la.index(recordings)
    training, watched = (SegmentDataset(frame[frame["split"] == split], 3.0, 1.0) for split in ("train", "val"))
    watched = None if how.get("blind") else watched
    torch.manual_seed(distributed.rank())  # nothing hangs on it
    module = _AtTakeGains(la.GreyBox(sample_rate=8000.0), training.frame, 8000) if how.get("grey") else Precise()
    if distributed.rank():
        with torch.no_grad():  # the first process' weights count
            next(module.parameters()).add_(1.0)
    gradient._CHECKPOINT_S = 0.0
    settings = replace(SETTINGS, **how.get("settings", {}))
    ran = gradient.train(module, training, watched, settings, "fit", True, out / "checkpoint.safetensors")
    result = {
        "history": ran.history.drop(columns="seconds").fillna(-1.0).to_dict("list"),
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "ended": [ran.converged, ran.interrupted],
    }
    (out / f"result-{distributed.rank()}.json").write_text(json.dumps(result), encoding="utf-8")


recordings, sys.argv = sys.argv[1], [sys.argv[0], "train"]
run_command(click.Group(commands={"train": command}), "training")
"""
"""Arguments: recordings, a folder, and how as JSON."""


@pytest.fixture
def run(recordings, tmp_path):
    """Run the script in so many processes; exit status, standard error, and each process' result."""
    script = tmp_path / "script.py"
    script.write_text(TRAIN, encoding="utf-8")

    def run(processes: int, folder: str, **how):
        out = tmp_path / folder
        out.mkdir(exist_ok=True)
        for old in out.glob("result-*"):
            old.unlink()
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable] if processes == 1 else launcher
        arguments = [str(script), str(recordings), str(out), json.dumps({"prior": 0.0, **how})]
        root = str(Path(distributed.__file__).parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("result-*"))]
        return done.returncode, done.stderr, results

    return run


def assert_close(one, other, tolerance=1e-5):
    assert one["ended"] == other["ended"]
    for part in ("history", "weights"):
        assert one[part].keys() == other[part].keys()
        for name, values in one[part].items():
            np.testing.assert_allclose(other[part][name], values, rtol=tolerance, atol=tolerance, err_msg=name)


def test_two_processes_come_to_what_one_comes_to(run, tmp_path):
    """Four segments in batches of three: the last batch of an epoch leaves a process without one."""
    status, _, (alone,) = run(1, "alone", prior=0.02)
    assert status == 0
    status, said, both = run(2, "both", prior=0.02)
    assert (status, len(both)) == (0, 2), said
    assert both[0] == both[1]
    assert_close(alone, both[0])
    assert said.count(" 0/12 ") == 1  # one bar
    names = {"checkpoint.safetensors", "checkpoint.previous.safetensors", "result-0.json", "result-1.json"}
    assert {path.name for path in (tmp_path / "both").iterdir()} == names


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"grey": True, "prior": 0.02}, {"blind": True}], ids=str)
@pytest.mark.parametrize("processes", [2, 3])
def test_whatever_is_trained(run, how, processes):
    """With three processes there are fewer batches to watch than processes."""
    alone = run(1, "alone", **how)[2][0]
    status, said, results = run(processes, "several", **how)
    assert status == 0, said
    for result in results:
        assert_close(alone, result)


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_one_that_is_killed_ends_the_others_and_the_run_goes_on(run, dying):
    status, said, results = run(2, "killed", die=dying, die_at=6, signal=9)
    assert status != 0
    assert results == []
    told = [line for line in said.splitlines() if "training: error:" in line]
    assert len(told) == 1, said
    assert "expected all of them to take part to the end, but one has ended" in told[0]
    assert "start all of them again: training goes on from its checkpoint" in told[0]
    status, _, both = run(2, "killed")
    assert status == 0
    uninterrupted = run(2, "whole")[2]
    assert both == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 15])
def test_one_that_is_interrupted_interrupts_all(run, number):
    """And one process alone goes on from there."""
    status, said, both = run(2, "ended", die=1, die_at=6, signal=number)
    assert (status, len(both)) == (0, 2), said
    assert [result["ended"] for result in both] == [[False, True]] * 2
    assert both[0] == both[1]
    assert said.count("interrupted: the best weights so far are kept") == 1
    assert_close(run(1, "alone")[2][0], run(1, "ended")[2][0])


@pytest.mark.slow
def test_what_is_wrong_is_said_and_ends_all(run):
    run(1, "same", settings={"max_steps": 1})
    status, said, results = run(2, "same", settings={"learning_rate": 0.02})
    assert status != 0
    assert results == []
    assert "checkpoint.safetensors: expected a checkpoint of these recordings and settings" in said
    assert "learning_rate 0.01 instead of 0.02" in said
    assert "one has ended" not in said
    status, said, _ = run(2, "stft", settings={"stft_weight": 1.0})
    assert status != 0
    assert "stft_weight: expected 0 in several processes, got 1.0" in said


def test_alone_nothing_is_different(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with distributed.joined(), distributed.interruptions() as check:
        check()
        assert (distributed.world(), distributed.rank()) == (1, 0)
        assert distributed.summed(3.0) == 3.0
        assert distributed.gathered("a") == ["a"]
        assert distributed.of_first(lambda: 5) == 5
        assert list(distributed.shared_out([1, 2, 3], check)) == [1, 2, 3]
        module = torch.nn.Linear(2, 1)
        distributed.start_alike(module)
        distributed.sum_gradients(module)
        assert module.weight.grad is None
