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
from ddsp_la2a.fitting.gradient import AdamSettings, train

TRAIN = """
import json, os, sys
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
out, trainings = Path(sys.argv[2]), json.loads(sys.argv[3])
ADAM = {"learning_rate": 0.01, "batch_size": 3, "max_steps": 12, "validate_every": 5, "patience": 0, "clip_norm": 0.5}


class Precise(ConditionedTCN):
    # In float64, since Adam makes steps of full length of the rounding where a gradient is next to nothing.
    def __init__(self, how):
        super().__init__(8000, channels=2, kernel=3)
        self.double()
        self.how, self.calls = how, 0

    def positions(self, batch):
        return torch.stack([batch[control.name].double() for control in self.controls], dim=-1)

    def forward(self, batch, state=None):
        self.calls += self.training
        if distributed.rank() == self.how.get("die") and self.calls == 6:
            os.kill(os.getpid(), self.how["signal"])
        return super().forward({name: value.double() for name, value in batch.items()}, state)

    def prior_energy(self):
        return sum(weight.square().sum() for weight in self.parameters())


def trained(number, how):
    frame = la.index(recordings)
    training, watched = (SegmentDataset(frame[frame["split"] == split], 3.0, 1.0) for split in ("train", "val"))
    grey = how.get("grey")
    module = _AtTakeGains(la.GreyBox(sample_rate=8000.0), training.frame, 8000) if grey else Precise(how)
    if distributed.rank():
        with torch.no_grad():  # the first process' weights count
            next(module.parameters()).add_(1.0)
    settings = {**ADAM, "window_frames": None if grey else 9000, "weight_prior_s": 0.02, **how.get("settings", {})}
    path = out / f"{number}" / "checkpoint.safetensors"
    path.parent.mkdir(exist_ok=True)
    watched = None if how.get("blind") else watched
    ran = gradient.train(module, training, watched, gradient.AdamSettings(**settings), "fit", True, path)
    return {
        "history": ran.history.drop(columns="seconds").fillna(-1.0).to_dict("list"),
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "ended": [ran.converged, ran.interrupted],
    }


@click.command()
def command():
    gradient._CHECKPOINT_S = 0.0
    torch.manual_seed(distributed.rank())  # nothing hangs on it
    results = [trained(number, how) for number, how in enumerate(trainings)]
    (out / f"result-{distributed.rank()}.json").write_text(json.dumps(results), encoding="utf-8")


recordings, sys.argv = sys.argv[1], [sys.argv[0], "train"]
run_command(click.Group(commands={"train": command}), "training")
"""
"""Arguments: recordings, a folder, and a list of how to train as JSON."""


@pytest.fixture(scope="module")
def run(recordings, tmp_path_factory):
    """Run the script in so many processes; exit status, standard error, and of each process a result a training."""
    folders = tmp_path_factory.mktemp("runs")
    script = folders / "script.py"
    script.write_text(TRAIN, encoding="utf-8")

    def run(processes: int, folder: str, *trainings: dict):
        out = folders / folder
        out.mkdir(exist_ok=True)
        for old in out.glob("result-*"):
            old.unlink()
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable] if processes == 1 else launcher
        arguments = [str(script), str(recordings), str(out), json.dumps(trainings or [{}])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(distributed.__file__).parents[2])}
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("result-*"))]
        return done.returncode, done.stderr, results

    run.folders = folders
    return run


@pytest.fixture(scope="module")
def alone(run):
    """Result of one process."""
    status, said, ((result,),) = run(1, "alone")
    assert status == 0, said
    return result


@pytest.fixture(scope="module")
def both(run):
    """What two processes said, and their results."""
    status, said, results = run(2, "both")
    assert status == 0, said
    return said, [result for (result,) in results]


def assert_close(one, other, tolerance=1e-5):
    assert one["ended"] == other["ended"]
    for part in ("history", "weights"):
        assert one[part].keys() == other[part].keys()
        for name, values in one[part].items():
            np.testing.assert_allclose(other[part][name], values, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_two_processes_come_to_what_one_comes_to(run, alone, both):
    """Four segments in batches of three: the last batch of an epoch leaves a process without one."""
    said, results = both
    assert len(results) == 2
    assert results[0] == results[1]
    assert_close(alone, results[0])
    assert said.count(" 0/12 ") == 1  # one bar
    names = {"checkpoint.safetensors", "checkpoint.previous.safetensors"}
    assert {path.name for path in (run.folders / "both" / "0").iterdir()} == names


@pytest.mark.slow
def test_whatever_is_trained(run, alone):
    """The grey box; without rows to watch; and with more processes than batches to watch."""
    how = {"grey": True}, {"blind": True}
    expected = [*run(1, "kinds-alone", *how)[2][0], alone]
    status, said, results = run(3, "kinds", *how, {})
    assert status == 0, said
    for several in results:
        for one, other in zip(expected, several, strict=True):
            assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_one_that_is_killed_ends_the_others_and_the_run_goes_on(run, both, dying):
    folder = f"killed-{dying}"
    status, said, results = run(2, folder, {"die": dying, "signal": 9})
    assert status != 0
    assert results == []
    told = [line for line in said.splitlines() if "training: error:" in line]
    assert len(told) == 1, said
    assert "expected all of them to take part to the end, but one has ended" in told[0]
    assert "start all of them again: it goes on from its checkpoint" in told[0]
    status, said, results = run(2, folder)
    assert status == 0, said
    assert [result for (result,) in results] == both[1]


@pytest.mark.slow
def test_one_that_is_interrupted_interrupts_all(run, alone):
    """And one process alone goes on from there."""
    status, said, results = run(2, "ended", {"die": 1, "signal": 15})
    assert (status, len(results)) == (0, 2), said
    assert results[0] == results[1]
    assert results[0][0]["ended"] == [False, True]
    assert said.count("interrupted: the best weights so far are kept") == 1
    assert_close(alone, run(1, "ended")[2][0][0])


@pytest.mark.slow
def test_what_is_wrong_is_said_and_ends_all(run, alone):
    status, said, results = run(2, "alone", {"settings": {"learning_rate": 0.02}})
    assert status != 0
    assert results == []
    assert "checkpoint.safetensors: expected a checkpoint of these recordings and settings" in said
    assert "learning_rate 0.01 instead of 0.02" in said
    assert "one has ended" not in said


def test_a_loss_that_is_no_mean_over_segments_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(ValueError, match=r"stft_weight: expected 0 in several processes, got 1\.0; start one alone"):
        train(None, None, None, AdamSettings(stft_weight=1.0))


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
