"""Resumed training: bit by bit what an uninterrupted one gives; what doesn't belong to it is refused."""

from __future__ import annotations

import errno
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from baselines.lstm import ConditionedLSTM
from baselines.tcn import ConditionedTCN
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.files import UnwritableError
from ddsp_la2a.fitting import gradient
from ddsp_la2a.fitting.checkpoint import read_kept, write_kept
from ddsp_la2a.fitting.gradient import AdamSettings, train
from ddsp_la2a.fitting.windows import windows_of

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 8000
SETTINGS = AdamSettings(
    learning_rate=0.01, batch_size=2, max_steps=12, window_frames=9000, validate_every=5, patience=0, weight_prior_s=0.0
)
"""A batch is four windows, the first of which is mostly warm-up: steps, looks and batches end at different places."""


def lstm(seed: int = 0) -> ConditionedLSTM:
    return ConditionedLSTM(RATE, hidden=3, seed=seed)


def tcn(seed: int = 0) -> ConditionedTCN:
    return ConditionedTCN(RATE, channels=2, kernel=3, seed=seed)


@pytest.fixture
def datasets(frame):
    return tuple(SegmentDataset(frame[frame["split"] == split], 3.0, 1.0) for split in ("train", "val"))


def assert_same(one, other):
    (first, ran), (second, again) = one, other
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    pd.testing.assert_frame_equal(
        ran.history.drop(columns="seconds"), again.history.drop(columns="seconds"), check_exact=True
    )
    assert ran.converged == again.converged


def run(build, datasets, settings, checkpoint=None):
    module = build()
    return module, train(module, *datasets, settings, checkpoint=checkpoint)


@pytest.mark.parametrize("build", [lstm, tcn])
@pytest.mark.parametrize("stops", [[5], [1, 2, 7], [11]])
def test_a_resumed_run_is_an_uninterrupted_one(build, datasets, tmp_path, stops):
    path = tmp_path / "checkpoint.safetensors"
    for stop in stops:
        run(build, datasets, replace(SETTINGS, max_steps=stop), path)
    torch.manual_seed(9)  # nothing hangs on the global state
    assert_same(run(build, datasets, SETTINGS, path), run(build, datasets, SETTINGS))
    names = {"checkpoint.safetensors", "checkpoint.previous.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_without_val_rows_too(datasets, tmp_path):
    only_training = (datasets[0], None)
    path = tmp_path / "checkpoint.safetensors"
    run(lstm, only_training, replace(SETTINGS, max_steps=7), path)
    assert_same(run(lstm, only_training, SETTINGS, path), run(lstm, only_training, SETTINGS))


def test_ctrl_c_leaves_a_checkpoint(datasets, tmp_path, monkeypatch, caplog):
    path, steps = tmp_path / "checkpoint.safetensors", []

    class Interrupted(gradient.SegmentLoss):
        def forward(self, *signals):
            steps.append(1)
            if len(steps) == 8:
                raise KeyboardInterrupt
            return super().forward(*signals)

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "ddsp_la2a"):
        patched.setattr(gradient, "SegmentLoss", Interrupted)
        assert run(tcn, datasets, SETTINGS, path)[1].interrupted
    assert_same(run(tcn, datasets, SETTINGS, path), run(tcn, datasets, SETTINGS))


def test_the_budget_counts_all_runs(datasets, tmp_path, monkeypatch):
    """By a clock that goes on a second a call: the second run starts with what the first one took."""
    path, clock = tmp_path / "checkpoint.safetensors", iter(range(10**6))
    monkeypatch.setattr(gradient.time, "monotonic", lambda: float(next(clock)))
    far = replace(SETTINGS, max_steps=10**4, patience=10**4)
    _, first = run(lstm, datasets, replace(far, budget_s=20.0), path)
    assert 20.0 < first.seconds < 30.0
    assert not first.converged
    _, second = run(lstm, datasets, replace(far, budget_s=60.0), path)
    assert 60.0 < second.seconds < 70.0
    assert second.history["seconds"].is_monotonic_increasing
    assert second.history["step"].iloc[-1] > first.history["step"].iloc[-1]


def test_what_converged_is_not_trained_again(datasets, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    stalled = replace(SETTINGS, learning_rate=1e-6, validate_every=1, max_steps=100)
    done = run(lstm, datasets, stalled, path)
    assert done[1].converged
    assert len(done[1].history) < 20
    monkeypatch.setattr(gradient, "counting_windows", None)  # a step would fail
    monkeypatch.setattr(gradient, "in_memory", None)
    assert_same(done, run(lstm, datasets, stalled, path))


@pytest.mark.parametrize(
    "changed",
    [{"learning_rate": 0.02}, {"batch_size": 1}, {"window_frames": 4000}, {"seed": 1}, {"patience": 3}],
    ids=str,
)
def test_other_settings_are_refused(datasets, tmp_path, changed):
    path = tmp_path / "checkpoint.safetensors"
    run(lstm, datasets, replace(SETTINGS, max_steps=1), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"expected a checkpoint of these recordings and settings") as raised:
        run(lstm, datasets, replace(SETTINGS, **changed), path)
    ((name, value),) = changed.items()
    assert f"{name} {getattr(SETTINGS, name)} instead of {value})" in str(raised.value)
    assert path.read_bytes() == before


def test_other_recordings_and_modules_are_refused(frame, datasets, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    run(lstm, datasets, replace(SETTINGS, max_steps=1), path)
    training, validation = datasets
    rows = training.frame
    others = [
        (lstm, (SegmentDataset(rows.iloc[:1], 3.0, 1.0), validation)),
        (lstm, (SegmentDataset(rows, 4.0, 1.0), validation)),
        (lstm, (SegmentDataset(rows, 3.0, 1.0, skip_s=[1.0, 1.5]), validation)),
        (lstm, (SegmentDataset(rows.assign(peak_reduction=[50, 66]), 3.0, 1.0), validation)),
        (lstm, (training, None)),
        (tcn, datasets),
        (lambda: lstm(seed=1), datasets),
    ]
    for build, data in others:
        with pytest.raises(ValueError, match=r"checkpoint.safetensors: expected a checkpoint of these recordings"):
            run(build, data, SETTINGS, path)


def test_damaged_files_are_refused(datasets, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    run(lstm, datasets, replace(SETTINGS, max_steps=1), path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for damaged in (b"", b"nothing", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint.safetensors: expected"):
            run(lstm, datasets, SETTINGS, path)
        assert path.read_bytes() == damaged


def test_another_file_is_refused(datasets, tmp_path):
    """A model file of the grey box, which is made of the same things."""
    import ddsp_la2a as la

    path = tmp_path / "checkpoint.safetensors"
    la.GreyBox().save(path)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors: expected format version 1, got 3"):
        run(lstm, datasets, SETTINGS, path)


def test_an_interrupted_writing_leaves_the_old_one(datasets, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    run(lstm, datasets, replace(SETTINGS, max_steps=3), path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("ddsp_la2a.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            run(lstm, datasets, SETTINGS, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_nothing_in_it_can_run(datasets, tmp_path):
    """Tensors and JSON; rewritten from these alone it is the same checkpoint."""
    path = tmp_path / "checkpoint.safetensors"
    run(lstm, datasets, replace(SETTINGS, max_steps=6), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    described = json.loads(metadata["ddsp_la2a"])
    assert described["position"]["step"] <= 6
    assert {name.partition("/")[0] for name in tensors} == {"weights", "best", "adam"}
    save_file(tensors, path, metadata)
    assert_same(run(lstm, datasets, SETTINGS, path), run(lstm, datasets, SETTINGS))


def test_a_loss_that_is_not_finite_ends_the_run(datasets, tmp_path, caplog):
    path = tmp_path / "checkpoint.safetensors"
    wild = replace(SETTINGS, learning_rate=1e30, max_steps=30)
    with caplog.at_level(logging.WARNING, "ddsp_la2a"):
        module, ran = run(tcn, datasets, wild, path)
    assert "no longer finite" in caplog.text
    assert not ran.converged
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def test_a_long_gradient_is_scaled_down(datasets):
    class Gain(torch.nn.Module):
        latency = 0

        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(100.0))

        def forward(self, batch, state=None):
            return batch["raw"] * self.gain, torch.zeros(())

    norms = []
    for limit in (None, 0.5):
        module = Gain()
        train(module, datasets[0], None, replace(SETTINGS, max_steps=1, window_frames=None, clip_norm=limit))
        norms.append(float(module.gain.grad.norm()))
    assert norms[0] > 1.0
    assert norms[1] == pytest.approx(0.5, rel=1e-4)


def test_windows_do_not_start_the_dc_filter_anew(datasets):
    """The errors of windows, one after the other, are those of the whole segment."""
    from ddsp_la2a.fitting.losses import dc_filter

    module, item = lstm(), datasets[0][1]
    batch = torch.utils.data.default_collate([item])
    with torch.no_grad():
        whole = dc_filter(module(batch)[0] - batch["processed"])
        parts = []
        for estimate, part, memory in windows_of(module, batch, 3000):
            parts.append(dc_filter(estimate - part["processed"], None if memory is None else memory[0]))
    assert len(parts) == 11
    np.testing.assert_allclose(torch.cat(parts, dim=1), whole, atol=1e-6)


# The last two are kept


def tensors_of(number: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3,), number)}


@pytest.fixture
def kept(tmp_path):
    """A file written three times, and the one before."""
    path = tmp_path / "checkpoint.safetensors"
    for number in (0.0, 1.0, 2.0):
        write_kept(path, {"format_version": 1, "number": number}, tensors_of(number))
    return path, tmp_path / "checkpoint.previous.safetensors"


def number_in(path):
    described, tensors = read_kept(path, "checkpoint", (1,))
    assert torch.equal(tensors["a"], tensors_of(described["number"])["a"])
    return described["number"]


def damage(path):
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)


def test_the_newest_that_is_whole_is_read(kept, caplog):
    path, previous = kept
    assert sorted(path.parent.iterdir()) == sorted(kept)
    assert number_in(path) == 2.0
    assert not caplog.text
    damage(path)
    assert number_in(path) == 1.0
    assert f"{path}: expected content hash" in caplog.text
    assert f"going on from the one before, {previous}" in caplog.text
    damage(previous)
    with pytest.raises(ValueError, match=r"checkpoint\.safe.*; .*previous\.safetensors: .*; delete checkpoint\.safe"):
        read_kept(path, "checkpoint", (1,))


def test_without_a_newest_the_one_before_is_read(kept, caplog):
    """As where the process was killed between two names."""
    path, previous = kept
    path.unlink()
    assert number_in(path) == 1.0
    assert f"{path} isn't there: going on from the one before, {previous}" in caplog.text
    previous.unlink()
    assert read_kept(path, "checkpoint", (1,)) is None


def test_a_damaged_file_does_not_take_the_place_of_a_whole_one(kept, monkeypatch):
    path, _ = kept
    damage(path)
    moved = []
    replace_ = Path.replace

    def noted(source, target):
        moved.append(target.name)
        return replace_(source, target)

    monkeypatch.setattr(Path, "replace", noted)
    write_kept(path, {"format_version": 1, "number": 3.0}, tensors_of(3.0))
    assert moved == [path.name]
    assert number_in(path) == 3.0
    path.unlink()
    assert number_in(path) == 1.0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_leaves_both(kept, monkeypatch, number):
    before = [file.read_bytes() for file in kept]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
        with pytest.raises(UnwritableError, match=r"checkpoint\.safetensors: expected to write it"):
            write_kept(kept[0], {"format_version": 1, "number": 3.0}, tensors_of(3.0))
    assert [file.read_bytes() for file in kept] == before
    assert sorted(kept[0].parent.iterdir()) == sorted(kept)


def test_what_a_killed_process_left_goes(kept):
    path, _ = kept
    (path.parent / ".checkpoint.0123abcd.safetensors").write_bytes(b"half")
    other = path.parent / ".model.0123abcd.safetensors"
    other.write_bytes(b"another's")
    write_kept(path, {"format_version": 1, "number": 3.0}, tensors_of(3.0))
    assert sorted(path.parent.iterdir()) == sorted([*kept, other])
