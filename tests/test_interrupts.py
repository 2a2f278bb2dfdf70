"""Ctrl-C and SIGTERM, wherever they come: a checkpoint, the best weights, and a run that goes on bit by bit."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import replace

import click
import pandas as pd
import pytest
import torch

from baselines.lstm import ConditionedLSTM
from ddsp_la2a.console import run_command
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.fitting import gradient, windows
from ddsp_la2a.fitting.gradient import AdamSettings, train
from ddsp_la2a.interrupts import postponed, termination_interrupts

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = AdamSettings(
    learning_rate=0.01, batch_size=2, max_steps=12, window_frames=9000, validate_every=5, patience=0, weight_prior_s=0.0
)
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _as_the_commands_do():
    with termination_interrupts():
        yield


@pytest.fixture
def datasets(frame):
    return tuple(SegmentDataset(frame[frame["split"] == split], 3.0, 1.0) for split in ("train", "val"))


def run(datasets, path=None, settings=SETTINGS):
    module = ConditionedLSTM(8000, hidden=3)
    return module, train(module, *datasets, settings, checkpoint=path)


def signalled(monkeypatch, owner, name, number, call):
    """The signal comes in the middle of that call of a function, once."""
    original, calls = getattr(owner, name), []

    def function(*arguments, **more):
        calls.append(1)
        result = original(*arguments, **more)
        if len(calls) == call:
            signal.raise_signal(number)
        return result

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize(
    ("owner", "name", "call", "number"),
    [
        (gradient.SegmentLoss, "forward", 8, signal.SIGTERM),  # in a step
        (torch.optim.Adam, "step", 7, signal.SIGTERM),  # behind the snapshot's back
        (windows, "dc_filter", 25, signal.SIGINT),  # between two windows
        (gradient, "validation_error", 2, signal.SIGTERM),
        (os, "fsync", 3, signal.SIGTERM),  # writing
        (os, "fsync", 4, signal.SIGINT),  # the name of what was written
    ],
)
def test_wherever_it_comes_the_run_goes_on(datasets, tmp_path, monkeypatch, caplog, owner, name, call, number):
    path = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(gradient, "_CHECKPOINT_S", 0.0)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "ddsp_la2a"):
        signalled(patched, owner, name, number, call)
        started = time.monotonic()
        module, ran = run(datasets, path)
    assert time.monotonic() - started < 5.0
    assert ran.interrupted
    assert "interrupted" in caplog.text
    assert all(bool(torch.isfinite(weight).all()) for weight in module.state_dict().values())
    (resumed, again), (one, alone) = run(datasets, path), run(datasets)
    assert not again.interrupted
    for weight, value in one.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[weight])
    seconds = {"columns": "seconds"}
    pd.testing.assert_frame_equal(again.history.drop(**seconds), alone.history.drop(**seconds), check_exact=True)
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, "checkpoint.previous.safetensors"}


@pytest.mark.parametrize("number", SIGNALS)
def test_the_last_write_is_finished(datasets, tmp_path, monkeypatch, number):
    """It comes while all that is left is to write: nothing is lost, and the caller hears of it."""
    path = tmp_path / "checkpoint.safetensors"
    with monkeypatch.context() as patched:
        signalled(patched, os, "fsync", number, 1)
        _, ran = run(datasets, path, replace(SETTINGS, max_steps=5))
    assert ran.interrupted
    assert path.is_file()
    assert len(ran.history) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_first_step_there_is_nothing_to_keep(datasets, tmp_path, monkeypatch, number):
    """Nor is what an earlier run left touched."""
    path = tmp_path / "checkpoint.safetensors"
    run(datasets, path, replace(SETTINGS, max_steps=5))
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        signalled(patched, SegmentDataset, "__getitem__", number, 3)
        with pytest.raises(KeyboardInterrupt):
            run(datasets, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_is_postponed_comes_after():
    done = []

    def interrupted_block():
        with postponed() as came:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append(list(came))
        done.append("too late")

    with pytest.raises(KeyboardInterrupt):
        interrupted_block()
    assert done == [[signal.SIGTERM, signal.SIGINT]]
    with postponed() as came:
        signal.raise_signal(signal.SIGINT)
        came.clear()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_are_given_back():
    inside = signal.getsignal(signal.SIGTERM)
    with termination_interrupts(), postponed():
        pass
    assert signal.getsignal(signal.SIGTERM) is inside


def test_other_threads_have_no_handlers():
    failed = []

    def work():
        try:
            with termination_interrupts(), postponed() as came:
                assert came == []
        except ValueError as error:  # signal only works in main thread
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


def test_a_command_ends_by_sigterm_as_by_ctrl_c(monkeypatch, capsys):
    @click.command()
    def command():
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("sys.argv", ["command", "--"])
    monkeypatch.setattr("warnings.showwarning", None)  # run_command puts its own there
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # where the command has no handler it goes on to its end
    try:
        with pytest.raises(SystemExit) as ended:
            run_command(command, "command")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"
