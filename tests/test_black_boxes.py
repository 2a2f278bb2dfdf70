"""What black boxes share: training, folders, the contract of the registry, the command; and dasp's compressor."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from baselines import __main__ as command_module
from baselines import black_box, registry
from baselines.black_box import HELD_OUT, train_black_box
from baselines.dasp_compressor import DaspCompressor
from baselines.lstm import ConditionedLSTM
from baselines.numpy_compressor import static_gain_db
from ddsp_la2a.compare import build_baselines
from ddsp_la2a.console import run_command
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.fitting.gradient import AdamSettings, validation_error

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 8000
TRAINED = ("tcn_300_c", "tcn_small", "lstm_32", "dasp")
AT = {"compress_or_limit": 1, "peak_reduction": 65}
QUICK = AdamSettings(
    learning_rate=0.01, batch_size=2, max_steps=6, window_frames=9000, validate_every=3, weight_prior_s=0.0
)


def tiny(sample_rate, *, seed, controls):
    return ConditionedLSTM(sample_rate, hidden=3, seed=seed, controls=controls)


def trained(frame, folder=None, settings=QUICK, **more):
    how = {"budget_s": 1e6, "seed": 1, **more}
    return train_black_box("tiny", tiny, settings, frame, folder=folder, **how)


def without_val(frame):
    return frame[frame["split"] != "val"]


# Training and folders


def test_what_is_kept_and_found_again(frame, tmp_path, monkeypatch):
    stalled = AdamSettings(**{**vars(QUICK), "learning_rate": 1e-6, "patience": 0, "max_steps": 100})
    first = trained(frame, tmp_path, stalled)
    assert first.info["converged"]
    place = tmp_path / "seed-1"
    assert sorted(file.name for file in place.iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "history.csv",
        "model.safetensors",
    ]
    monkeypatch.setattr(black_box, "train", None)
    again = trained(frame, tmp_path, stalled, budget_s=1e9)
    assert again.info == first.info
    pd.testing.assert_frame_equal(again.history, first.history, check_exact=True)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not again.training
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    assert config["name"] == "tiny"
    assert config["adam"]["patience"] == 0
    assert config["seed"] == 1


def test_what_its_budget_ended_is_loaded_for_that_budget_and_resumed_for_more(frame, tmp_path, monkeypatch):
    endless = AdamSettings(**{**vars(QUICK), "max_steps": 10**6, "patience": 10**6})
    first = trained(frame, tmp_path, endless, budget_s=0.3)
    assert first.info["converged"] is False
    with monkeypatch.context() as patched:
        patched.setattr(black_box, "train", None)
        assert trained(frame, tmp_path, endless, budget_s=0.3).info == first.info
    more = trained(frame, tmp_path, endless, budget_s=first.info["train_seconds"] + 0.5)
    assert more.info["train_seconds"] > first.info["train_seconds"] + 0.4
    assert len(more.history) > len(first.history) - 1


def test_another_model_in_the_folder_is_refused(frame, tmp_path):
    trained(frame, tmp_path)
    with pytest.raises(ValueError, match=r"model.safetensors: expected a model of these recordings and settings, got"):
        trained(without_val(frame), tmp_path)
    path = tmp_path / "seed-1" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"model.safetensors: expected a ddsp_la2a model file"):
        trained(frame, tmp_path)


def test_without_val_rows_the_end_of_every_training_row_is_held_out(frame):
    rows = without_val(frame)
    module = trained(rows)
    assert module.info["validation"] == "the last 20% of every training row"
    assert f"the last {HELD_OUT * 100:.0f} % of every training row" in " ".join(inspect.getdoc(train_black_box).split())
    assert trained(frame).info["validation"] == "val rows"
    training, validation, _ = black_box._datasets(rows[rows["split"] == "train"], module)
    edge = round((1 - HELD_OUT) * 4.0 * RATE)
    for dataset, first, last in ((training, RATE, edge), (validation, edge, 4 * RATE)):
        counted: list[list[int]] = [[], []]
        for item, segment in zip(dataset, dataset.segments.itertuples(), strict=False):
            at = segment.start_frame - segment.warmup_frames + item["mask"].nonzero()[:, 0]
            counted[int(item["recording"])] += at.tolist()
        assert counted == [list(range(first, last))] * 2
    held_out = validation_error(module, list(torch.utils.data.DataLoader(validation, 2)), QUICK.window_frames)
    assert held_out == pytest.approx(module.history["validation_esr"].min(), rel=1e-5)


def test_what_is_held_out_begins_warm(frame):
    """The segments hold the audio before it, down to the row's start."""
    rows = frame[frame["split"] == "train"]
    _, validation, _ = black_box._datasets(rows, ConditionedLSTM(RATE, hidden=2))
    assert len(validation) == 2  # the second segment of each row of 4 s, as the edge lies at 3.2 s
    raw = soundfile.read(rows["raw_audio_path"].iloc[0], dtype="float32")[0]
    assert np.array_equal(validation[0]["raw"][: 2 * RATE], raw[2 * RATE :])


# Registry


@pytest.mark.parametrize("name", TRAINED)
def test_registered_models_learn(frame, name):
    build = getattr(registry, name)
    module = build(frame, budget_s=1.5, seed=2, progress=False, folder=None)
    assert {"parameters", "settings_seen", "train_seconds", "budget_s", "converged", "seed"} <= set(module.info)
    assert module.info["seed"] == 2
    assert not module.info["converged"]
    assert list(module.history) == ["step", "seconds", "loss", "validation_esr", "learning_rate"]
    assert f"{module.info['parameters']:,} weights" in inspect.getdoc(build)
    watched = SegmentDataset(frame[frame["split"] == "val"], 3.0, module.warmup_s)
    assert validation_error(module, list(torch.utils.data.DataLoader(watched, 1))) == pytest.approx(
        module.history["validation_esr"].min(), rel=1e-3
    )


def test_what_is_trained_gets_a_folder_and_every_seed(frame, tmp_path, monkeypatch):
    asked = []

    def trained(frame, *, folder=None, **how):
        asked.append(("trained", folder, how["seed"]))

    def fitted(frame, **how):
        asked.append(("fitted", how.get("folder"), how["seed"]))

    points = [SimpleNamespace(name=build.__name__, load=lambda build=build: build) for build in (trained, fitted)]
    monkeypatch.setattr("ddsp_la2a.compare.entry_points", lambda **_: points)
    monkeypatch.setattr("ddsp_la2a.compare.refuse_unknown", lambda names: None)
    found = build_baselines(frame, ["trained", "fitted"], budget_s=1.0, seeds=[3, 4], folder=tmp_path)
    assert asked == [("trained", tmp_path / "trained", 3), ("trained", tmp_path / "trained", 4), ("fitted", None, 3)]
    assert {name: len(several) for name, several in found.items()} == {"trained": 2, "fitted": 1}
    asked.clear()
    build_baselines(frame, ["trained"], budget_s=1.0)
    assert asked == [("trained", None, 0)]


# dasp's compressor


def dasp_module(**values: float) -> DaspCompressor:
    """One with these parameters at every setting."""
    module = DaspCompressor(RATE)
    with torch.no_grad():
        for number, parameter in enumerate(module.card.parameters_table):
            if parameter.name in values:
                value = torch.tensor(values[parameter.name], dtype=torch.float64)
                module.card.layers[-1].bias[number] = parameter.to_unconstrained(value)
    return module


def batch_of(raw: np.ndarray) -> dict[str, torch.Tensor]:
    return {"raw": torch.from_numpy(raw), **{name: torch.full((len(raw),), float(p)) for name, p in AT.items()}}


PARAMETERS = {"threshold_db": -30.0, "ratio": 5.0, "knee_db": 8.0, "attack_ms": 200.0}


def test_it_is_dasps_own_function(programme):
    from dasp_pytorch.functional import compressor

    audio = np.stack([programme(1, 2.0), programme(2, 2.0)])
    given = {name: torch.full((2,), value) for name, value in PARAMETERS.items()}
    silence = torch.zeros(2, 4 * RATE)  # so that nothing wraps around
    signal = torch.cat([torch.from_numpy(audio), silence], dim=1)[:, None]
    expected = compressor(signal, RATE, **given, release_ms=torch.ones(2), makeup_gain_db=torch.zeros(2))
    with torch.no_grad():
        output = dasp_module(**PARAMETERS)(batch_of(audio))[0]
    torch.testing.assert_close(output, expected[:, 0, : 2 * RATE], atol=1e-5, rtol=0)


def test_it_is_one_pole_on_the_gain_in_db(programme):
    """Sample by sample in float64, so nothing of what wraps around is left, nor of what blocks leave."""
    audio = programme(3, 1.5)
    target_db = static_gain_db(20.0 * np.log10(np.maximum(np.abs(audio), 1e-8)), -30.0, 5.0, 8.0)
    coefficient = np.exp(-np.log(9.0) * 1000.0 / (200.0 * RATE))
    smoothed, gain_db = 0.0, []
    for value in target_db:
        smoothed = coefficient * smoothed + (1.0 - coefficient) * value
        gain_db.append(smoothed)
    expected = audio * 10.0 ** (np.array(gain_db) / 20.0)
    module = dasp_module(**PARAMETERS)
    with torch.no_grad():
        whole, state = module(batch_of(audio[None]))
        first, between = module(batch_of(audio[None, :3000]))
        second, _ = module(batch_of(audio[None, 3000:]), between)
    np.testing.assert_allclose(whole[0], expected, atol=2e-5)
    np.testing.assert_allclose(torch.cat([first, second], dim=1)[0], expected, atol=2e-5)
    assert float(state) == pytest.approx(gain_db[-1], abs=1e-3)
    np.testing.assert_allclose(module.process(audio, RATE, **AT), expected, atol=2e-5)


def test_its_gradients_are_finite_at_a_hard_knee(programme):
    module = dasp_module(**PARAMETERS | {"knee_db": 0.0})
    output, _ = module(batch_of(programme(1, 0.5)[None]))
    output.square().mean().backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    assert gradients["card.layers.2.bias"][[0, 1, 3]].abs().min() > 0
    assert gradients["makeup"].abs() > 0


# python -m baselines


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["baselines", *map(str, arguments)])
        status = 0
        with monkeypatch.context() as patched:
            patched.setattr(warnings, "showwarning", warnings.showwarning)
            try:
                run_command(command_module.command, "python -m baselines")
            except SystemExit as ended:
                status = ended.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def tiny_model(monkeypatch):
    """Two names: one that is trained in a folder, one that isn't."""

    def small(frame, *, folder=None, **how):
        """A tiny one.

        More.
        """
        return train_black_box("small", tiny, QUICK, frame, folder=folder, **how)

    monkeypatch.setattr(command_module, "_builders", lambda: {"identity": registry.identity, "small": small})


def test_list(run, tiny_model):
    status, out, _ = run("list")
    assert status == 0
    assert out.splitlines() == ["identity  fitted   No processing.", "small     trained  A tiny one."]


def test_list_of_all_that_is_registered(run):
    status, out, _ = run("list")
    assert status == 0
    assert "lstm-32" in out


def test_train(run, tiny_model, recordings, tmp_path):
    status, out, _ = run("train", "small", recordings, "--out", tmp_path / "new" / "models", "--seeds", 2)
    assert status == 0
    assert [line.rpartition("seed-")[2][:16] for line in out.splitlines()] == ["0: not converged", "1: not converged"]
    for seed in (0, 1):
        assert (tmp_path / "new" / "models" / "small" / f"seed-{seed}" / "model.safetensors").is_file()


def test_ctrl_c_ends_the_command(run, tiny_model, recordings, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddsp_la2a.fitting.gradient.validation_error", interrupted)
    status, _, err = run("train", "small", recordings, "--out", tmp_path / "models")
    assert status == 130
    assert "interrupted" in err
    assert [place.name for place in (tmp_path / "models" / "small").iterdir()] == ["seed-0"]
    assert (tmp_path / "models" / "small" / "seed-0" / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["identity", "ROOT"], "names: expected some of small, got identity"),
        (["small", "nowhere"], "nowhere: expected"),
        (["small", "ROOT", "--controls", "drive"], "controls: expected name=low:high"),
        (["small", "ROOT", "--device", "abacus"], "device: expected cpu, or one that torch finds here, got 'abacus'"),
        ([], "Missing argument 'NAME…'"),
    ],
)
def test_mistakes(run, tiny_model, recordings, tmp_path, arguments, message):
    given = [recordings if argument == "ROOT" else argument for argument in arguments]
    status, out, err = run("train", *given, "--out", tmp_path / "models")
    assert status == 2
    assert out == ""
    assert err.splitlines()[-1].startswith("python -m baselines: error: ")
    assert message in err
    assert not (tmp_path / "models").exists()
