"""Fitting recordings of a compressor whose parameters are known, and everything a fit promises beside."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ddsp_la2a as la
from ddsp_la2a.controls import parse_controls
from ddsp_la2a.data.frame import linked_takes
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.fitting import fit as fit_module
from ddsp_la2a.fitting import gradient
from ddsp_la2a.fitting.fit import data_hash
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.fitting.gradient import AdamSettings, train, validation_error
from ddsp_la2a.model.stages import PLAIN

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = {"method": "adam", "segment_s": 4.0, "warmup_s": 0.0, "stages": PLAIN}
HISTORY = ["step", "seconds", "loss", "validation_esr", "learning_rate"]
TOLERANCE = {
    "threshold_db": {"abs": 0.3},
    "ratio": {"rel": 0.05},
    "knee_db": {"abs": 8.0},  # hardly matters to the error
    "attack_ms": {"rel": 0.06},
    "release_ms": {"rel": 0.06},
    "makeup_db": {"abs": 0.2},
}


def parameters(model: la.GreyBox, setting: tuple[int, int]) -> dict[str, float]:
    with torch.no_grad():
        return {name: float(value) for name, value in model.params(*setting).numbers().items()}


def same_weights(first: la.FitResult, second: la.FitResult) -> bool:
    one, other = first.model.state_dict(), second.model.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_val(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] != "val"]


def validated(model: la.GreyBox, frame: pd.DataFrame) -> float:
    """The error of the validation rows, by the evaluation's own code."""
    return float(la.evaluate({"it": model}, frame, split="val")["esr_dc_filtered"].mean())


@pytest.fixture
def modules(monkeypatch):
    """What ``fit`` hands to the training loop."""
    seen: list[torch.nn.Module] = []

    def spy(module, *more, **options):
        seen.append(module)
        return train(module, *more, **options)

    monkeypatch.setattr(fit_module, "train", spy)
    return seen


@pytest.mark.parametrize("per_setting", [True, False])
def test_known_parameters_are_found(frame, truth, makeup_db, quick, per_setting):
    result = la.fit(frame, per_setting=per_setting, adam=quick(400, patience=3), **SHORT)
    for setting in ((0, 50), (1, 65)):
        found = parameters(result.model, setting)
        for name, expected in {**truth[setting], "makeup_db": makeup_db}.items():
            assert found[name] == pytest.approx(expected, **TOLERANCE[name]), f"{name} at {setting}"
    assert result.history["loss"].iloc[-1] < 1e-4
    assert la.evaluate({"it": result.model}, frame, split="train")["esr_dc_filtered"].max() < 1e-4


def test_one_makeup_for_the_device_but_one_a_setting_on_its_own(frame, quick):
    joint = la.fit(frame, adam=quick(30), **SHORT).model
    assert parameters(joint, (0, 50))["makeup_db"] == parameters(joint, (1, 65))["makeup_db"] != 0.0
    alone = la.fit(frame, per_setting=True, adam=quick(30), **SHORT).model
    assert parameters(alone, (0, 50))["makeup_db"] != parameters(alone, (1, 65))["makeup_db"]
    assert parameters(alone, (1, 100)) == parameters(alone, (1, 65))
    assert parameters(alone, (0, 0)) == parameters(alone, (0, 50))


def test_history_and_what_the_model_says_of_itself(frame, recordings, quick):
    result = la.fit(frame, adam=quick(25, validate_every=10), seed=3, **SHORT)
    assert list(result.history.columns) == HISTORY
    assert result.history["step"].tolist() == [10, 20, 25]
    assert (result.history["seconds"].diff().dropna() > 0).all()
    assert np.isfinite(result.history.to_numpy()).all()
    assert result.converged is False
    assert result.interrupted is False
    info = result.model.info
    assert json.loads(json.dumps(info, allow_nan=False)) == json.loads(json.dumps(result.config, allow_nan=False))
    assert info["source"] == ["hardware"]
    assert info["sample_rate"] == 8000
    assert info["data_sha256"] == data_hash(without_test(frame))
    assert info["parameters"] == sum(p.numel() for p in result.model.parameters())
    assert info["settings_seen"] == [(0, 50), (1, 65)]
    assert info["training_loss"] == result.history["loss"].min()
    assert info["validation_esr"] == result.history["validation_esr"].min()
    assert info["converged"] is False
    assert info["train_seconds"] > 0
    assert info["seed"] == 3
    assert info["fit"]["adam"]["max_steps"] == 25
    assert not result.model.training
    assert str(recordings) not in json.dumps(info)


def without_test(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] != "test"]


def test_without_val_rows_the_training_loss_is_watched(frame, quick):
    result = la.fit(without_val(frame), adam=quick(20), **SHORT)
    assert result.history["validation_esr"].isna().all()
    assert result.model.info["validation_esr"] is None
    json.dumps(result.model.info, allow_nan=False)


def test_the_best_validated_weights_are_kept_not_the_last(tmp_path, record, quick):
    """The validation rows belong to another compressor, so their error falls on the way and rises again."""
    record(tmp_path, "Train", 1, (1, 65), 4.0)
    record(tmp_path, "Val", 2, (1, 65), 4.0, truth=(0, 50))
    frame = la.index(tmp_path)
    result = la.fit(frame, adam=quick(120, validate_every=3), **SHORT)
    errors = result.history["validation_esr"]
    assert errors.iloc[-1] > 1.1 * errors.min()
    assert validated(result.model, frame) == pytest.approx(errors.min(), rel=1e-4)


def test_early_stop_is_convergence_and_max_steps_is_not(frame, quick):
    """With steps too small to matter the error stalls at once: five stalls end it."""
    stopped = la.fit(frame, adam=quick(500, learning_rate=1e-6, validate_every=1, patience=1), **SHORT)
    assert stopped.converged is True
    assert len(stopped.history) < 20
    rates = stopped.history["learning_rate"].to_numpy()
    assert rates[0] == 1e-6
    assert rates[-1] == pytest.approx(1e-6 / 16)
    assert set(np.round(np.unique(1e-6 / rates), 9)) == {1.0, 2.0, 4.0, 8.0, 16.0}


def test_budget_ends_it_unconverged(frame, quick):
    result = la.fit(frame, adam=quick(10**6, budget_s=0.0), **SHORT)
    assert result.history["step"].tolist() == [1]
    assert result.converged is False
    assert result.interrupted is False


def test_the_test_rows_are_never_read(tmp_path, recordings, quick):
    root = tmp_path / "copy"
    shutil.copytree(recordings, root)
    frame = la.index(root)
    expected = la.fit(frame, adam=quick(10), **SHORT)
    for path in (root / "Test").iterdir():
        path.write_text("not a recording", encoding="utf-8")
    result = la.fit(frame, adam=quick(10), **SHORT)
    assert same_weights(result, expected)
    assert result.model.info["data_sha256"] == expected.model.info["data_sha256"]
    assert same_weights(la.fit(without_test(frame), adam=quick(10), **SHORT), expected)


def test_val_rows_only_decide_when_to_stop(frame, quick):
    """As long as every look is an improvement, they change no weight."""
    watched = la.fit(frame, adam=quick(8, validate_every=8), **SHORT)
    assert same_weights(watched, la.fit(without_val(frame), adam=quick(8, validate_every=8), **SHORT))


def test_same_seed_same_weights(frame, quick):
    first, second, other = (
        la.fit(frame, adam=quick(12, batch_size=1, seed=seed), seed=seed, **SHORT) for seed in (1, 1, 2)
    )
    assert same_weights(first, second)
    assert first.history.drop(columns="seconds").equals(second.history.drop(columns="seconds"))
    assert not same_weights(first, other)


def test_the_seed_orders_the_segments_whatever_the_settings(frame, quick):
    first, other = (
        la.fit(frame, per_setting=True, adam=quick(3, batch_size=1), seed=seed, **{**SHORT, "segment_s": 3.0})
        for seed in (0, 1)
    )
    assert not same_weights(first, other)


@pytest.mark.parametrize(
    "watched",
    [
        False,
        True,
    ],
)
def test_global_random_state_is_left_alone(frame, quick, watched):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    la.fit(frame if watched else without_val(frame), adam=quick(10, batch_size=1), **SHORT)
    assert random.getstate() == before[2]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[0])


def test_global_random_state_has_no_say(frame, quick):
    torch.manual_seed(1)
    first = la.fit(frame, adam=quick(6, batch_size=1), **SHORT)
    torch.manual_seed(2)
    assert same_weights(first, la.fit(frame, adam=quick(6, batch_size=1), **SHORT))


@pytest.mark.parametrize("at_step", [1, 23])
def test_ctrl_c_keeps_the_best_model(frame, quick, monkeypatch, caplog, at_step):
    steps = []

    class Interrupted(gradient.SegmentLoss):
        def forward(self, *signals):
            steps.append(1)
            if len(steps) == at_step:
                raise KeyboardInterrupt
            return super().forward(*signals)

    monkeypatch.setattr(gradient, "SegmentLoss", Interrupted)
    with caplog.at_level(logging.WARNING, "ddsp_la2a"):
        result = la.fit(frame, adam=quick(1000, validate_every=5), **SHORT)
    assert result.interrupted is True
    assert result.converged is False
    assert result.model.info["converged"] is False
    assert "interrupted" in caplog.text
    assert result.history["step"].tolist() == list(range(5, at_step, 5)) if at_step > 5 else result.history.empty
    json.dumps(result.model.info, allow_nan=False)
    if at_step > 5:
        best = result.history["validation_esr"].min()
        assert validated(result.model, frame) == pytest.approx(best, rel=1e-4)


def test_an_interrupted_fit_can_be_saved(frame, quick, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gradient.SegmentLoss, "forward", interrupted)
    result = la.fit(frame, adam=quick(), **SHORT)
    result.save(tmp_path / "run")
    assert la.load(tmp_path / "run" / "model.safetensors").info["converged"] is False


@pytest.fixture
def two_takes(tmp_path, record):
    """Take b has one recording more than take a, and the make-up lies where their mean is."""
    record(tmp_path, "Train", 1, (1, 65), 3.0, take="a", gain_db=1.0)
    record(tmp_path, "Train", 2, (0, 50), 3.0, take="b", gain_db=-1.0)
    record(tmp_path, "Train", 3, (1, 65), 3.0, take="b", gain_db=-1.0)
    return la.index(tmp_path)


def test_gain_per_take_is_a_nuisance_with_zero_mean(two_takes, makeup_db, quick, modules):
    result = la.fit(two_takes, adam=quick(300, patience=3), **SHORT)
    assert modules[0].state_dict().keys() > {f"model.{name}" for name in result.model.state_dict()}
    assert parameters(result.model, (0, 50))["makeup_db"] == pytest.approx(makeup_db, abs=0.15)
    scored = la.evaluate({"it": result.model}, two_takes, split="train").set_index("track_id")
    assert scored["gain_offset_db"].to_dict() == pytest.approx({1: 1.0, 2: -1.0, 3: -1.0}, abs=0.15)
    assert scored["esr_best_gain"].max() < 1e-4


def test_gains_that_cannot_be_told_from_settings_are_not_fitted(tmp_path, record, quick, modules):
    record(tmp_path, "Train", 1, (1, 65), 3.0, take="a", gain_db=1.0)
    record(tmp_path, "Train", 2, (0, 50), 3.0, take="b", gain_db=-1.0)
    result = la.fit(la.index(tmp_path), adam=quick(3), **SHORT)
    assert modules[0].state_dict().keys() == {f"model.{name}" for name in result.model.state_dict()}


@pytest.mark.parametrize(
    ("takes", "linked"),
    [
        ("a:0:50 a:1:65", False),  # one take
        ("a:0:50 b:1:65", False),  # confounded
        ("a:0:50 b:0:50", True),
        ("a:0:50 b:0:50 b:1:65 c:1:65", True),  # hangs together through b
        ("a:0:50 b:0:50 c:1:65 d:1:65", False),  # two groups
        ("a:0:50 b:1:50", False),  # the switch is part of a setting
    ],
)
def test_when_takes_hang_together(takes, linked):
    rows = [row.split(":") for row in takes.split()]
    frame = pd.DataFrame([{"take": t, "compress_or_limit": int(c), "peak_reduction": int(p)} for t, c, p in rows])
    assert (linked_takes(frame) is not None) is linked


def test_gain_per_take_is_not_heard_in_validation(two_takes, tmp_path, record, quick):
    record(tmp_path, "Val", 11, (1, 65), 3.0, take="b")
    frame = la.index(tmp_path)
    result = la.fit(frame, adam=quick(300, patience=3), **SHORT)
    assert validated(result.model, frame) == pytest.approx(result.history["validation_esr"].min(), rel=1e-3)


def test_more_validation_rows_than_training_rows_beside_takes(two_takes, tmp_path, record, quick):
    for track_id in range(11, 15):
        record(tmp_path, "Val", track_id, (1, 65), 3.0, take="b")
    la.fit(la.index(tmp_path), adam=quick(2), **SHORT)


def test_silent_validation_rows_decide_nothing(tmp_path, record, quick):
    import soundfile

    record(tmp_path, "Train", 1, (1, 65), 4.0)
    record(tmp_path, "Val", 2, (1, 65), 4.0)
    frame = la.index(tmp_path)
    for column in ("raw_audio_path", "processed_audio_path"):
        path = frame.loc[frame["split"] == "val", column].iloc[0]
        soundfile.write(path, np.zeros(32000, dtype=np.float32), 8000, "FLOAT")
    result = la.fit(frame, adam=quick(100), **SHORT)
    assert result.history["loss"].iloc[-1] < 0.01
    assert la.evaluate({"it": result.model}, frame, split="train")["esr_dc_filtered"].max() < 0.01


def test_windows_carry_the_state(frame, quick):
    """Truncated back-propagation: the first step sees the first window alone, and all windows come one by one."""
    seen = []

    class Spy(torch.nn.Module):
        latency = 0

        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, batch, state=None):
            seen.append((batch["raw"].shape[1], None if state is None else float(state)))
            return batch["raw"] * self.gain, torch.tensor(float(len(seen)))

    dataset = SegmentDataset(frame[frame["split"] == "train"], 4.0, 0.0)
    settings = AdamSettings(max_steps=4, window_frames=6000, weight_prior_s=0.0)
    train(Spy(), dataset, None, settings)
    # 32000 frames in windows of 6000; nothing counts in the first second, which only warms the state.
    assert seen[:5] == [(6000, None), (6000, 1.0), (6000, 2.0), (6000, 3.0), (6000, 4.0)]


def test_validation_error_is_per_recording(frame):
    """Segments of a recording add up before the ratio is taken, so the cut into segments doesn't matter."""

    class Half(torch.nn.Module):
        latency = 0

        def forward(self, batch, state=None):
            return 0.5 * batch["processed"], torch.zeros(())

    for length in (3.0, 4.0):
        dataset = SegmentDataset(frame, length, 1.0)
        loader = torch.utils.data.DataLoader(dataset, 2)
        for window in (None, 5000):
            assert validation_error(Half(), loader, window) == pytest.approx(0.25, rel=1e-6)


def test_the_prior_draws_the_curves_together(frame, quick):
    free = la.fit(frame, adam=quick(60), **SHORT).model
    held = la.fit(frame, adam=quick(60, weight_prior_s=1e3), **SHORT).model

    def spread(model: la.GreyBox) -> float:
        return float(np.ptp(model.curves()["threshold_db"]))

    assert spread(held) < 0.2 * spread(free)


def test_saved_files_and_the_loaded_model(frame, quick, tmp_path, programme):
    result = la.fit(frame, adam=quick(15), **SHORT)
    result.save(tmp_path / "a" / "run")
    folder = tmp_path / "a" / "run"
    names = {"model.safetensors", "curves.csv", "history.csv", "config.json"}
    assert {path.name for path in folder.iterdir()} == names
    pd.testing.assert_frame_equal(pd.read_csv(folder / "curves.csv"), result.curves())
    assert pd.read_csv(folder / "history.csv").columns.tolist() == HISTORY
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config == json.loads(json.dumps(result.config))
    loaded = la.load(folder / "model.safetensors")
    assert loaded.info == config
    audio = programme(9, 1.0)
    setting = {"compress_or_limit": 1, "peak_reduction": 65}
    assert np.array_equal(loaded.process(audio, 8000, **setting), result.model.process(audio, 8000, **setting))
    knobs = [0, 20, 50, 100]
    pd.testing.assert_frame_equal(loaded.curves(peak_reduction=knobs), result.model.curves(peak_reduction=knobs))


def test_per_setting_fits_can_be_saved_too(frame, quick, tmp_path, programme):
    result = la.fit(frame, per_setting=True, adam=quick(15), **SHORT)
    result.save(tmp_path)
    loaded = la.load(tmp_path / "model.safetensors")
    audio = programme(9, 1.0)
    for setting in ({"compress_or_limit": 1, "peak_reduction": 70}, {"compress_or_limit": 0, "peak_reduction": 3}):
        assert np.array_equal(loaded.process(audio, 8000, **setting), result.model.process(audio, 8000, **setting))


def test_folder_and_csv_give_what_the_frame_gives(recordings, frame, quick, tmp_path):
    expected = la.fit(frame, adam=quick(3), **SHORT)
    frame.to_csv(tmp_path / "frame.csv", index=False)
    assert same_weights(la.fit(recordings, adam=quick(3), **SHORT), expected)
    assert same_weights(la.fit(tmp_path / "frame.csv", adam=quick(3), **SHORT), expected)


def test_data_hash_follows_the_recordings(tmp_path, recordings):
    root = tmp_path / "copy"
    shutil.copytree(recordings, root)
    frame = la.index(root)
    before = data_hash(frame)
    assert before == data_hash(la.index(root))
    assert len(before) == 64
    assert data_hash(frame.assign(peak_reduction=frame["peak_reduction"] + 1)) != before
    assert data_hash(frame.assign(take="2c")) != before
    assert data_hash(frame.assign(start_frame=0, stop_frame=20000)) != before
    assert data_hash(frame.iloc[1:]) != before
    path = Path(frame["processed_audio_path"].iloc[0])
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(content + b"\0")
    assert data_hash(frame) != before
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
    assert data_hash(frame) == before
    assert data_hash(la.index(shutil.copytree(root, tmp_path / "elsewhere"))) == before
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert data_hash(frame) != before


def test_nothing_to_train_on(frame):
    with pytest.raises(ValueError, match="expected rows whose split is 'train', got test, val"):
        la.fit(frame[frame["split"] != "train"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "method: expected one of gauss-newton, adam, got 'newton'"),
        ({"method": "adam", "segment_s": 2.0}, "length_s: expected 3 to 10 s, got 2.0"),
        ({"method": "adam", "warmup_s": -1.0}, "warmup_s: expected 0 s or more, got -1.0"),
        ({"method": "adam", "adam": AdamSettings(stft_weight=-1.0)}, "stft_weight: expected 0 or more"),
        ({"adam": AdamSettings()}, "adam: expected no settings for method 'gauss-newton'"),
        ({"method": "adam", "gauss_newton": GaussNewtonSettings()}, "gauss_newton: expected no settings for method"),
        (
            {"gauss_newton": GaussNewtonSettings(error_filter="a")},
            "error_filter: expected one of none, dc, pre-emphasis",
        ),
    ],
)
def test_wrong_arguments(frame, options, message):
    with pytest.raises(ValueError, match=message):
        la.fit(frame, **options)


def test_no_bar_unless_asked_for(frame, quick, capfd):
    la.fit(frame, adam=quick(2), **SHORT)
    assert capfd.readouterr() == ("", "")
    la.fit(frame, adam=quick(2), progress=True, **SHORT)
    out, err = capfd.readouterr()
    assert out == ""
    assert "fit" in err
    assert "2/2" in err


@pytest.mark.slow
def test_real_recordings(real_recordings):
    """Fitted to all but the last 4 s of three recordings of the unit, scored on these 4 s, nothing adapted there."""
    from ddsp_la2a.data.splits import split_by

    frame = split_by(real_recordings("signaltrain_excerpts"), "later-in-time")
    scored = la.evaluate({"grey box": la.fit(frame).model}, frame, protocol="later-in-time")
    assert len(scored) == 3
    assert scored["esr_dc_filtered"].mean() <= 0.004


# Other units


def error(model: la.GreyBox, unit, audio: np.ndarray, **positions: float) -> float:
    """Share of the unit's energy that the model is off by."""
    wanted = unit.process(audio, 8000, **positions)
    return float(np.sum((model.process(audio, 8000, **positions) - wanted) ** 2) / np.sum(wanted**2))


@pytest.fixture(scope="module")
def strip_fit(strip_frame, strip):
    return la.fit(strip_frame, controls=strip.controls, stages=PLAIN)


@pytest.mark.parametrize("speed", [1, 2, 3])
def test_a_combination_of_knobs_that_was_not_recorded_is_guessed(strip_fit, strip, programme, speed):
    """Each knob was recorded at its middle, but never both at once."""
    at = {"speed": speed, "drive": 5.0, "ratio": 0.5}
    assert error(strip_fit.model, strip, programme(9, 3.0), **at) < 1e-3
    found, truth = parameters(strip_fit.model, tuple(at.values())), strip.parameters(**at)
    assert found["threshold_db"] == pytest.approx(truth["threshold_db"], abs=1.0)
    assert found["ratio"] == pytest.approx(truth["ratio"], rel=0.15)
    assert found["release_ms"] == pytest.approx(truth["release_ms"], rel=0.25)
    assert found["makeup_db"] == pytest.approx(3.0, abs=0.2)


def test_what_a_fit_of_another_unit_says_of_itself(strip_fit, strip, strip_frame):
    assert strip_fit.model.controls == strip.controls
    assert strip_fit.model.info["device"] == "strip"
    assert parse_controls(strip_fit.config["controls"]) == strip.controls
    assert strip_fit.model.info["settings_seen"][:2] == [(1, 1.0, 0.1), (1, 1.0, 0.5)]
    assert len(strip_fit.model.info["settings_seen"]) == len(strip_frame)
    assert set(strip_fit.curves()["swept"]) == {"drive", "ratio"}


def test_a_fit_of_another_unit_is_saved_and_loaded(strip_fit, strip, programme, tmp_path):
    strip_fit.save(tmp_path)
    loaded = la.load(tmp_path / "model.safetensors")
    at = {"speed": 2, "drive": 3.3, "ratio": 0.7}
    audio = programme(9, 1.0)
    assert np.array_equal(loaded.process(audio, 8000, **at), strip_fit.model.process(audio, 8000, **at))
    pd.testing.assert_frame_equal(loaded.curves(), strip_fit.curves())


@pytest.mark.parametrize("method", ["gauss-newton", "adam"])
def test_every_setting_of_another_unit_on_its_own(strip, tmp_path, quick, programme, method):
    settings = [(1, 2.0, 0.2), (3, 8.0, 0.9)]
    frame = strip.record(tmp_path, settings, 4.0)
    how = {"stages": PLAIN} if method == "gauss-newton" else {**SHORT, "adam": quick(300, patience=3)}
    model = la.fit(frame, per_setting=True, controls=strip.controls, **how).model
    for setting in settings:
        at = dict(zip(("speed", "drive", "ratio"), setting, strict=True))
        assert error(model, strip, programme(9, 3.0), **at) < 1e-3
    assert parameters(model, (1, 4.0, 0.3)) == parameters(model, settings[0])
    assert parameters(model, (3, 2.0, 0.2)) == parameters(model, settings[1])  # no knob is as far as a switch


def test_adam_takes_any_controls(strip, tmp_path, quick):
    frame = strip.record(tmp_path, [(1, 2.0, 0.2), (3, 8.0, 0.9)], 4.0).assign(split=["train", "val"])
    result = la.fit(frame, controls=strip.controls, adam=quick(30), **SHORT)
    assert result.history["loss"].iloc[-1] < result.history["loss"].iloc[0]
    assert result.model.info["settings_seen"] == [(1, 2.0, 0.2)]


def test_a_model_belongs_to_one_device(strip, tmp_path):
    frame = strip.record(tmp_path, [(1, 2.0, 0.2), (1, 2.0, 0.4)])
    with pytest.raises(ValueError, match=r"expected recordings of one device, got a, b; a model belongs to one"):
        la.fit(frame.assign(device=["a", "b"]), controls=strip.controls)


def test_a_fit_needs_the_columns_of_its_controls(frame, strip):
    with pytest.raises(ValueError, match=r"frame: expected the columns .* add speed, drive, ratio"):
        la.fit(frame, controls=strip.controls)


@pytest.mark.parametrize("number", [0, 1], ids=["a switch", "a knob"])
def test_a_unit_with_one_control(strip, tmp_path, programme, number):
    settings = [(1, 2.0, 0.3), (2, 2.0, 0.3), (3, 2.0, 0.3)] if number == 0 else [(1, 2.0, 0.3), (1, 8.0, 0.3)]
    frame = strip.record(tmp_path, settings)
    controls = strip.controls[number : number + 1]
    models = [la.fit(frame, controls=controls, per_setting=alone, stages=PLAIN).model for alone in (False, True)]
    audio = programme(9, 2.0)
    for setting in settings:
        wanted = strip.process(audio, 8000, **dict(zip(("speed", "drive", "ratio"), setting, strict=True)))
        for model in models:
            found = model.process(audio, 8000, **{controls[0].name: setting[number]})
            assert np.sum((found - wanted) ** 2) < 0.01 * np.sum(wanted**2)
    assert len(models[0].curves()) == (3, 101)[number]
