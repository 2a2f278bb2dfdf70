"""Gauss–Newton fits of recordings whose parameters are known, and everything such a fit promises beside."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import ddsp_la2a as la
from baselines.numpy_compressor import compressor
from ddsp_la2a.fitting import gauss_newton, search
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.fitting.gradient import WEIGHT_PRIOR_S
from ddsp_la2a.fitting.joint import JointProblem
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.model.stages import PLAIN

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 8000
NAMES = ["threshold_db", "ratio", "knee_db", "attack_ms", "release_ms", "makeup_db"]
STAGES = ["starts", "settings, thinned", "shared device", "network, thinned", "network"]
Truth = dict[str, float]


def fit_plain(frame: pd.DataFrame, **options) -> la.FitResult:
    """These recordings are of a compressor without stages."""
    return la.fit(frame, stages=PLAIN, **options)


def bursts(seed: Sequence[int], seconds: float, rate: int) -> np.ndarray:
    """Noise in passages of 50 to 600 ms between −55 and −13 dBFS, every fifth of them a pause; float32."""
    rng = np.random.default_rng(seed)
    audio, at = np.zeros(round(seconds * rate)), 0
    while at < len(audio):
        frames = int(rng.uniform(0.05, 0.6) * rate)
        level_db = rng.uniform(-45.0, -3.0)
        passage = 0.33 * rng.standard_normal(frames).clip(-3.0, 3.0) * 10.0 ** (level_db / 20.0)
        if rng.random() >= 0.2:
            audio[at : at + frames] = passage[: len(audio) - at]
        at += frames
    return audio.astype(np.float32)


def drawn(rng: np.random.Generator) -> Truth:
    def ratios(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    return {
        "threshold_db": float(rng.uniform(-40.0, -10.0)),
        "ratio": ratios(1.5, 20.0),
        "knee_db": float(rng.uniform(0.0, 20.0)),
        "attack_ms": ratios(0.3, 100.0),
        "release_ms": ratios(20.0, 1500.0),
        "makeup_db": float(rng.uniform(-6.0, 6.0)),
    }


def frame_of(
    folder: Path, pairs: Sequence[tuple[np.ndarray, np.ndarray]], rate: int = RATE, one_setting: bool = False
) -> pd.DataFrame:
    """A row for each input and target, by turns at both switch positions; float32 files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, pair in enumerate(pairs):
        paths = [folder / f"{kind}_{number}.wav" for kind in ("input", "target")]
        for path, audio in zip(paths, pair, strict=True):
            soundfile.write(path, audio.astype(np.float32), rate, "FLOAT")
        rows.append(
            {
                "track_id": number,
                "split": "train",
                "take": "1",
                "compress_or_limit": 0 if one_setting else number % 2,
                "peak_reduction": 70 if one_setting else number // 2,
                "raw_audio_path": str(paths[0]),
                "processed_audio_path": str(paths[1]),
                "source": "simulated",
            }
        )
    return pd.DataFrame(rows)


def rows_of(result: la.FitResult, frame: pd.DataFrame) -> list[pd.Series]:
    """What the card says at the setting of every row."""
    card = result.curves().set_index(["compress_or_limit", "peak_reduction"])
    return [card.loc[s] for s in zip(frame["compress_or_limit"], frame["peak_reduction"], strict=True)]


def missed(row: pd.Series, truth: Truth) -> dict[str, tuple[float, float]]:
    """Identifiable parameters further than 0.1 % or 0.01 dB from the truth: truth and what was found."""
    allowed = {name: 0.01 if name.endswith("_db") else 1e-3 * value for name, value in truth.items()}
    return {
        name: (value, float(row[name]))
        for name, value in truth.items()
        if row[f"{name}_identifiable"] and not abs(row[name] - value) <= allowed[name]
    }


def identifiable(row: pd.Series) -> set[str]:
    return {name for name in NAMES if row[f"{name}_identifiable"]}


def same_fit(first: la.FitResult, second: la.FitResult) -> bool:
    one, other = first.model.state_dict(), second.model.state_dict()
    assert first.model.covariance is not None
    assert second.model.covariance is not None
    return (
        one.keys() == other.keys()
        and all(torch.equal(one[name], other[name]) for name in one)
        and torch.equal(first.model.covariance, second.model.covariance)
        and first.history.drop(columns="seconds").equals(second.history.drop(columns="seconds"))
    )


# Known parameters are found

SIX: list[Truth] = [
    dict(zip(NAMES, values, strict=True))
    for values in (
        (-22.0, 3.0, 8.0, 8.0, 150.0, 2.0),
        (-30.0, 6.0, 0.0, 4.0, 250.0, -3.0),  # hard knee
        (-35.0, 2.0, 12.0, 120.0, 40.0, 5.0),  # attack slower than release
        (-17.0, 15.0, 3.0, 0.5, 60.0, 0.0),
        (-28.0, 1.6, 6.0, 20.0, 500.0, -6.0),
        (-38.0, 4.0, 18.0, 1.0, 1000.0, 6.0),
    )
]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    raw = [bursts([3, number], 6.0, RATE) for number in range(len(SIX))]
    pairs = [(x, compressor(x, RATE, **truth).output) for x, truth in zip(raw, SIX, strict=True)]
    return frame_of(tmp_path_factory.mktemp("six"), pairs)


@pytest.mark.parametrize("seed", [0, 1, 4, 6])
def test_known_parameters_are_found(six: pd.DataFrame, seed: int) -> None:
    result = fit_plain(six, per_setting=True, seed=seed)
    rows = rows_of(result, six)
    for row, truth in zip(rows, SIX, strict=True):
        assert missed(row, truth) == {}, f"seed {seed}, {truth}"
    assert sum(len(identifiable(row)) for row in rows) >= 34
    assert not result.interrupted
    assert result.history["error"].iloc[-1] < 1e-12


@pytest.mark.slow
def test_fifty_random_sets_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(2026)
    truths = [drawn(rng) for _ in range(50)]
    found, told = [], 0
    for first in (0, 25):
        pairs = []
        for number in range(first, first + 25):
            x = bursts([2026, number], 10.0, 44100)
            pairs.append((x, compressor(x, 44100, **truths[number]).output))
        frame = frame_of(tmp_path / str(first), pairs, 44100)
        result = fit_plain(frame, per_setting=True, seed=first)
        for row, truth in zip(rows_of(result, frame), truths[first:], strict=False):
            found.append(missed(row, truth))
            told += len(identifiable(row))
    worst = {number: wrong for number, wrong in enumerate(found) if wrong}
    assert len(worst) <= 2, worst
    assert told >= 0.8 * 6 * 50


def test_several_recordings_of_a_setting_are_one(tmp_path: Path) -> None:
    raw = [bursts([5, number], 4.0, RATE) for number in range(3)]
    pairs = [(x, compressor(x, RATE, **SIX[0]).output) for x in raw]
    result = fit_plain(frame_of(tmp_path, pairs, one_setting=True), per_setting=True)
    assert result.model.info["settings_seen"] == [(0, 70)]
    with torch.no_grad():
        found = {name: float(value) for name, value in result.model.params(0, 70).numbers().items()}
    assert found == pytest.approx(SIX[0], rel=1e-3, abs=0.01)


# What the recordings don't say

UNHEARD: Truth = dict(zip(NAMES, (-10.0, 4.0, 4.0, 5.0, 100.0, 3.0), strict=True))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[pd.Series, la.FitResult]]:
    """Cards of recordings that say little."""
    x = bursts([4, 0], 5.0, RATE)
    quiet = 0.003 * x
    noise = 1e-3 * np.random.default_rng(4).standard_normal(len(x))
    pairs = {
        "uncompressed": (quiet, compressor(quiet, RATE, **UNHEARD).output),
        "silent target": (x, 0.0 * x),
        "gain": (x, 1.5 * x),
        "gain and noise": (x, 0.7 * x + noise),
        "silent input": (0.0 * x, x),
        "silence": (0.0 * x, 0.0 * x),
    }
    frame = frame_of(tmp_path_factory.mktemp("odd"), list(pairs.values()))
    result = fit_plain(frame, per_setting=True)
    return {name: (row, result) for name, row in zip(pairs, rows_of(result, frame), strict=True)}


def test_recordings_that_say_little_end_cleanly(odd: dict[str, tuple[pd.Series, la.FitResult]]) -> None:
    result = odd["gain"][1]
    assert result.converged
    assert not result.interrupted
    assert np.isfinite(result.history[["seconds", "error"]].to_numpy()).all()
    assert result.model.covariance is not None
    assert torch.isfinite(result.model.covariance).all()
    card = result.curves()
    assert np.isfinite(card.select_dtypes("number").to_numpy()).all()


def test_below_the_threshold_only_the_makeup_is_heard(odd: dict[str, tuple[pd.Series, la.FitResult]]) -> None:
    row = odd["uncompressed"][0]
    assert identifiable(row) == {"makeup_db"}
    assert row["makeup_db"] == pytest.approx(3.0, abs=1e-4)
    # What has no influence keeps its start.
    assert (row["ratio"], row["release_ms"]) == (pytest.approx(4.0), pytest.approx(250.0))


def test_of_a_silent_target_nothing_is_known(odd: dict[str, tuple[pd.Series, la.FitResult]]) -> None:
    row = odd["silent target"][0]
    assert identifiable(row) == set()
    assert row["makeup_db"] < -20.0


@pytest.mark.parametrize("name", ["gain", "gain and noise"])
def test_a_gain_is_a_makeup(odd: dict[str, tuple[pd.Series, la.FitResult]], name: str) -> None:
    row = odd[name][0]
    gain_db = {"gain": 3.521825, "gain and noise": -3.098039}[name]
    assert row["makeup_db"] == pytest.approx(gain_db, abs=5e-3)
    assert row["makeup_db_identifiable"]
    assert row["makeup_db_low"] <= gain_db <= row["makeup_db_high"]


@pytest.mark.parametrize("name", ["gain", "gain and noise"])
def test_a_gain_says_nothing_of_level_and_time(odd: dict[str, tuple[pd.Series, la.FitResult]], name: str) -> None:
    # A ratio of 1 would be an answer.
    assert identifiable(odd[name][0]) <= {"makeup_db", "ratio"}


@pytest.mark.parametrize("name", ["silent input", "silence"])
def test_of_a_silent_input_no_card_is_known(odd: dict[str, tuple[pd.Series, la.FitResult]], name: str) -> None:
    assert identifiable(odd[name][0]) <= {"makeup_db"}


@pytest.mark.parametrize("name", ["silent input", "silence"])
def test_of_a_silent_input_no_makeup_is_known(odd: dict[str, tuple[pd.Series, la.FitResult]], name: str) -> None:
    assert identifiable(odd[name][0]) == set()


@pytest.fixture(scope="module")
def odd_with_stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[pd.Series, la.FitResult]]:
    """Recordings that say little, fitted as those of hardware."""
    x = bursts([4, 0], 3.0, RATE)
    noise = 1e-3 * np.random.default_rng(4).standard_normal(len(x))
    quiet = 0.003 * x
    pairs = {
        "uncompressed": (quiet, compressor(quiet, RATE, **UNHEARD).output),
        "silent target": (x, 0.0 * x),
        "gain": (x, 1.5 * x),
        "gain and noise": (x, 0.7 * x + noise),
        "silence": (0.0 * x, 0.0 * x),
    }
    frame = frame_of(tmp_path_factory.mktemp("odd"), list(pairs.values()))
    result = la.fit(frame, per_setting=True)
    return {name: (row, result) for name, row in zip(pairs, rows_of(result, frame), strict=True)}


def test_recordings_that_say_little_end_cleanly_with_stages(
    odd_with_stages: dict[str, tuple[pd.Series, la.FitResult]],
) -> None:
    result = odd_with_stages["gain"][1]
    assert not result.interrupted
    assert np.isfinite(result.history[["seconds", "error"]].to_numpy()).all()
    assert result.model.covariance is not None
    assert torch.isfinite(result.model.covariance).all()
    assert np.isfinite(result.curves().select_dtypes("number").to_numpy()).all()


def test_of_stages_such_recordings_say_nothing(odd_with_stages: dict[str, tuple[pd.Series, la.FitResult]]) -> None:
    told = {
        name: {column for column in row.index if column.endswith("_identifiable") and row[column]}
        for name, (row, _) in odd_with_stages.items()
    }
    for name in ("uncompressed", "gain", "gain and noise"):
        assert told[name] <= {"makeup_db_identifiable", "ratio_identifiable"}
        assert "makeup_db_identifiable" in told[name]
    for name in ("silent target", "silence"):
        assert told[name] == set()


@pytest.mark.parametrize(("name", "flat_db"), [("uncompressed", 1e-3), ("gain", 1e-3), ("gain and noise", 0.02)])
def test_of_a_gain_the_output_filter_is_flat(
    odd_with_stages: dict[str, tuple[pd.Series, la.FitResult]], name: str, flat_db: float
) -> None:
    row, result = odd_with_stages[name]
    at = {"compress_or_limit": int(row.name[0]), "peak_reduction": int(row.name[1])}
    chosen = result.model.output_filter(**at)
    assert chosen is not None
    response_db = 20.0 * np.log10(np.abs(chosen.response(np.geomspace(100.0, 3600.0, 50))))
    assert np.abs(response_db).max() < flat_db
    assert abs(chosen.delay_us) < 1.0


# The network


@pytest.fixture(scope="module")
def train(recordings: Path) -> pd.DataFrame:
    frame = la.index(recordings)
    return frame[frame["split"] == "train"].reset_index(drop=True)


@pytest.fixture(scope="module")
def fitted(train: pd.DataFrame) -> la.FitResult:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    result = fit_plain(train)
    torch.set_num_threads(before)
    return result


@pytest.fixture(scope="module")
def alone(train: pd.DataFrame) -> la.FitResult:
    return fit_plain(train, per_setting=True)


def test_network_goes_through_the_settings(fitted: la.FitResult, train: pd.DataFrame, truth, makeup_db: float) -> None:
    assert fitted.converged
    assert not fitted.interrupted
    scored = la.evaluate({"it": fitted.model}, train, split="train")
    assert scored["esr_dc_filtered"].max() < 2e-3
    for row, setting in zip(rows_of(fitted, train), ((0, 50), (1, 65)), strict=True):
        for name, expected in {**truth[setting], "makeup_db": makeup_db}.items():
            assert row[f"{name}_low"] <= expected <= row[f"{name}_high"], f"{name} at {setting}"


def test_less_prior_is_nearer_to_the_recordings(fitted: la.FitResult, train: pd.DataFrame, truth) -> None:
    result = fit_plain(train, gauss_newton=GaussNewtonSettings(weight_prior_s=1e-6))
    assert result.history["error"].iloc[-1] < 1e-2 * fitted.history["error"].iloc[-1]
    for row, setting in zip(rows_of(result, train), ((0, 50), (1, 65)), strict=True):
        assert {n: row[n] for n in truth[setting]} == pytest.approx(truth[setting], rel=0.06), f"at {setting}"


def test_without_a_prior(train: pd.DataFrame) -> None:
    result = fit_plain(train, gauss_newton=GaussNewtonSettings(weight_prior_s=0.0, max_steps=15))
    assert result.model.covariance is not None
    assert torch.isfinite(result.model.covariance).all()
    assert result.history["error"].iloc[-1] < 1e-4


def test_a_strong_prior_draws_the_curves_together(fitted: la.FitResult, train: pd.DataFrame) -> None:
    held = fit_plain(train, gauss_newton=GaussNewtonSettings(weight_prior_s=1e3))
    for name in ("threshold_db", "ratio", "attack_ms", "release_ms"):
        assert np.ptp(held.curves()[name]) < 0.02 * np.ptp(fitted.curves()[name]), name


def test_history_and_what_the_model_says_of_itself(fitted: la.FitResult, train: pd.DataFrame) -> None:
    history = fitted.history
    assert list(history.columns) == ["stage", "seconds", "error"]
    assert history["stage"].unique().tolist() == STAGES
    assert (history["seconds"].diff().dropna() >= 0.0).all()
    assert (history["error"] >= 0.0).all()
    assert np.isfinite(history["error"]).all()
    info = fitted.model.info
    assert json.loads(json.dumps(info, allow_nan=False)) == json.loads(json.dumps(fitted.config, allow_nan=False))
    assert info["training_loss"] == history["error"].iloc[-1]
    assert info["validation_esr"] is None
    assert info["converged"] is True
    assert info["settings_seen"] == [(0, 50), (1, 65)]
    assert info["parameters"] == sum(p.numel() for p in fitted.model.parameters())
    assert info["fit"] == {
        "method": "gauss-newton",
        "per_setting": False,
        "seed": 0,
        "family": "compressor",
        "stages": {"output_filter": False, "slow_release": False, "shelf": False, "feedback": False},
        "gauss_newton": {"max_steps": 40, "weight_prior_s": WEIGHT_PRIOR_S, "error_filter": "dc", "exact": False},
    }
    weights = info["parameters"]
    assert fitted.model.covariance is not None
    assert fitted.model.covariance.shape == (weights, weights)
    assert fitted.model.covariance.dtype == torch.float64
    assert not fitted.model.training
    assert all(p.requires_grad for p in fitted.model.parameters())


def test_the_reported_error_is_that_of_the_model(fitted: la.FitResult, train: pd.DataFrame) -> None:
    """Recordings of one length, so that a mean over recordings is one over seconds."""
    scored = la.evaluate({"it": fitted.model}, train, split="train")
    assert scored["esr_dc_filtered"].mean() == pytest.approx(fitted.history["error"].iloc[-1], rel=0.02)


@pytest.mark.parametrize("per_setting", [False, True])
def test_same_weights_on_any_number_of_threads(
    fitted: la.FitResult, alone: la.FitResult, train: pd.DataFrame, per_setting: bool
) -> None:
    torch.set_num_threads(2)
    assert same_fit(fit_plain(train, per_setting=per_setting), alone if per_setting else fitted)


def test_another_seed_is_another_network(fitted: la.FitResult, train: pd.DataFrame) -> None:
    assert not same_fit(fitted, fit_plain(train, seed=11))


@pytest.mark.parametrize("per_setting", [False, True])
def test_only_train_rows_are_read_and_global_random_state_neither_changes_nor_counts(
    fitted: la.FitResult, alone: la.FitResult, tmp_path: Path, recordings: Path, per_setting: bool
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(recordings, root)
    frame = la.index(root)
    for path in [*(root / "Test").iterdir(), *(root / "Val").iterdir()]:
        path.write_text("not a recording", encoding="utf-8")
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    result = fit_plain(frame, per_setting=per_setting)
    assert random.getstate() == before[2]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[0])
    assert same_fit(result, alone if per_setting else fitted)


def test_the_order_of_rows_hardly_matters(fitted: la.FitResult, train: pd.DataFrame) -> None:
    turned = fit_plain(train.iloc[::-1].reset_index(drop=True))
    one, other = (result.curves().select_dtypes("number") for result in (fitted, turned))
    pd.testing.assert_frame_equal(one, other, rtol=1e-3)


@pytest.mark.parametrize("per_setting", [False, True])
def test_saved_files_and_the_loaded_model(
    fitted: la.FitResult, alone: la.FitResult, tmp_path: Path, programme: Callable[..., np.ndarray], per_setting: bool
) -> None:
    result = alone if per_setting else fitted
    folder = tmp_path / "a" / "run"
    result.save(folder)
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "curves.csv",
        "history.csv",
        "config.json",
    }
    pd.testing.assert_frame_equal(pd.read_csv(folder / "curves.csv"), result.curves())
    pd.testing.assert_frame_equal(pd.read_csv(folder / "history.csv"), result.history)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    loaded = la.load(folder / "model.safetensors")
    assert loaded.info == config == json.loads(json.dumps(result.config))
    audio = programme(9, 1.0)
    setting = {"compress_or_limit": 1, "peak_reduction": 65}
    assert np.array_equal(loaded.process(audio, RATE, **setting), result.model.process(audio, RATE, **setting))
    pd.testing.assert_frame_equal(loaded.curves(), result.curves(), check_exact=True)


@pytest.mark.parametrize("error_filter", ["none", "dc", "pre-emphasis"])
@pytest.mark.parametrize("per_setting", [False, True])
def test_every_error_filter(train: pd.DataFrame, truth, error_filter: str, per_setting: bool) -> None:
    settings = GaussNewtonSettings(error_filter=error_filter, max_steps=40 if per_setting else 8)
    result = fit_plain(train, per_setting=per_setting, gauss_newton=settings)
    assert result.history["error"].iloc[-1] < (1e-12 if per_setting else 1e-2)
    if per_setting:
        for row, setting in zip(rows_of(result, train), ((0, 50), (1, 65)), strict=True):
            assert missed(row, truth[setting]) == {}


def test_lanes_hardly_matter(tmp_path: Path) -> None:
    """Beyond 120 s a recording is cut into lanes; noise, so that there is an error at all."""
    x = bursts([6, 0], 125.0, RATE)
    noise = 1e-3 * np.random.default_rng(6).standard_normal(len(x))
    frame = frame_of(tmp_path, [(x, compressor(x, RATE, **SIX[0]).output + noise)])
    whole = Recordings(frame, exact=True)
    assert len(whole._stretches[0]) == 1
    assert len(Recordings(frame)._stretches[0]) == 2
    cut, exact = (
        fit_plain(frame, per_setting=True, gauss_newton=GaussNewtonSettings(exact=exact)) for exact in (False, True)
    )
    assert cut.config["fit"]["gauss_newton"]["exact"] is False
    with torch.no_grad():
        one, other = ({n: float(v) for n, v in r.model.params(0, 0).numbers().items()} for r in (cut, exact))
    assert one == pytest.approx(other, rel=1e-4)
    assert cut.history["error"].iloc[-1] == pytest.approx(exact.history["error"].iloc[-1], rel=1e-4)


def test_out_of_steps_is_not_converged(train: pd.DataFrame) -> None:
    for per_setting in (False, True):
        result = fit_plain(train, per_setting=per_setting, gauss_newton=GaussNewtonSettings(max_steps=1))
        assert result.converged is False
        assert result.model.info["converged"] is False
        assert result.interrupted is False
        assert np.isfinite(result.curves().select_dtypes("number").to_numpy()).all()


def test_no_bar_unless_asked_for(train: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    settings = GaussNewtonSettings(max_steps=2)
    fit_plain(train, per_setting=True, gauss_newton=settings)
    assert capfd.readouterr() == ("", "")
    fit_plain(train, per_setting=True, gauss_newton=settings, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "fit" in err
    assert "error" in err


# A gain per take


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory, record: Callable[..., None]) -> dict[str, pd.DataFrame]:
    """The same recordings with takes 1 dB louder and quieter, all alike, and with takes that share no setting."""
    frames = {}
    for name, gain_db, last in (("apart", 1.0, "b"), ("alike", 0.0, "b"), ("confounded", 1.0, "")):
        root = tmp_path_factory.mktemp(name)
        record(root, "Train", 1, (1, 65), 4.0, take="a", gain_db=gain_db)
        record(root, "Train", 2, (0, 50), 4.0, take="b", gain_db=-gain_db)
        if last:
            record(root, "Train", 3, (1, 65), 4.0, take=last, gain_db=-gain_db)
        frames[name] = la.index(root)
    return frames


def test_a_gain_per_take_does_not_disturb_the_card(takes: dict[str, pd.DataFrame], makeup_db: float) -> None:
    settings = GaussNewtonSettings(weight_prior_s=1e-4)
    apart, alike = (fit_plain(takes[name], gauss_newton=settings) for name in ("apart", "alike"))
    found = rows_of(apart, takes["apart"])
    for row, expected in zip(found, rows_of(alike, takes["alike"]), strict=True):
        assert row["makeup_db"] == pytest.approx(makeup_db, abs=0.05)
        assert row[NAMES].to_dict() == pytest.approx(expected[NAMES].to_dict(), rel=0.02, abs=0.05)
    scored = la.evaluate({"it": apart.model}, takes["apart"], split="train").set_index("track_id")
    assert scored["gain_offset_db"].to_dict() == pytest.approx({1: 1.0, 2: -1.0, 3: -1.0}, abs=0.05)
    assert apart.model.covariance is not None
    assert len(apart.model.covariance) == 142  # the gains are a nuisance, integrated out


def test_gains_that_cannot_be_told_from_settings_are_not_fitted(
    takes: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    first = JointProblem.__init__

    def spy(self, card, takes, coordinates):
        seen.append(takes)
        first(self, card, takes, coordinates)

    monkeypatch.setattr(JointProblem, "__init__", spy)
    fit_plain(takes["confounded"], gauss_newton=GaussNewtonSettings(max_steps=1))
    assert seen
    assert all(numbers is None for numbers in seen)


# Ctrl-C


class Interrupter:
    """Raises KeyboardInterrupt in one evaluation; notes at which number of evaluations joint fits begin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.calls, self.begins = -1, 0, []
        products, fit = Recordings.products, JointProblem.fit

        def interrupted(recordings, *arguments, **options):
            self.calls += 1
            if self.calls - 1 == self.at:
                raise KeyboardInterrupt
            return products(recordings, *arguments, **options)

        def noted(problem, *arguments, **options):
            self.begins.append(self.calls)
            return fit(problem, *arguments, **options)

        # So that the last stage has something to do.
        for module in (gauss_newton, search):
            monkeypatch.setattr(module, "THIN_S", 2.0)
        monkeypatch.setattr(search, "FINE", 1e-9)
        monkeypatch.setattr(Recordings, "products", interrupted)
        monkeypatch.setattr(JointProblem, "fit", noted)

    def fit(self, frame: pd.DataFrame, at: int = -1, **options) -> la.FitResult:
        self.at, self.calls, self.begins = at, 0, []
        return fit_plain(frame, **options)

    def kept(self, frame: pd.DataFrame, at: int, **options) -> la.FitResult:
        """The fit, where Ctrl-C must not come through: that would end the tests."""
        try:
            return self.fit(frame, at, **options)
        except KeyboardInterrupt as interruption:
            raise AssertionError("nothing was kept") from interruption


@pytest.fixture
def interrupter(monkeypatch: pytest.MonkeyPatch) -> Interrupter:
    return Interrupter(monkeypatch)


def cut_short(result: la.FitResult, tmp_path: Path) -> None:
    """It is a usable model that says it was interrupted."""
    assert result.interrupted is True
    assert result.converged is False
    assert result.model.info["converged"] is False
    assert np.isfinite(result.curves().select_dtypes("number").to_numpy()).all()
    assert not result.curves().isna().any().any()
    result.save(tmp_path / "run")
    assert la.load(tmp_path / "run" / "model.safetensors").info["converged"] is False


@pytest.fixture(scope="module")
def begins(train: pd.DataFrame) -> list[int]:
    """Numbers of the evaluations with which begin: the shared device, the network's two starts, its last fit."""
    with pytest.MonkeyPatch.context() as patch:
        interrupter = Interrupter(patch)
        interrupter.fit(train)
    return interrupter.begins


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """With noise, so that a fit to a part of it is not one to the whole."""
    rng = np.random.default_rng(8)
    raw = [bursts([8, number], 6.0, RATE) for number in range(2)]
    targets = [
        compressor(x, RATE, **t).output + 3e-3 * rng.standard_normal(len(x)) for x, t in zip(raw, SIX, strict=False)
    ]
    return frame_of(tmp_path_factory.mktemp("noisy"), list(zip(raw, targets, strict=True)))


@pytest.fixture(scope="module")
def last_stage(noisy: pd.DataFrame) -> int:
    """Number of the evaluation with which the fit of both settings to the whole recordings begins."""
    with pytest.MonkeyPatch.context() as patch:
        stages = Interrupter(patch).fit(noisy, per_setting=True).history["stage"].tolist()
    return stages.index("settings")


@pytest.mark.parametrize(
    ("fit", "later"),
    [
        (1, 4),
        (2, 1),
        (2, 0),
        (3, 0),
        (3, 1),
    ],
)
def test_ctrl_c_in_the_network_keeps_the_best(
    train: pd.DataFrame, interrupter: Interrupter, begins: list[int], tmp_path: Path, fit: int, later: int
) -> None:
    result = interrupter.kept(train, begins[fit] + later)
    assert len(result.history) == begins[fit] + later
    # The first network is laid through the settings' cards, so it is good from its beginning.
    scored = la.evaluate({"it": result.model}, train, split="train")
    assert scored["esr_dc_filtered"].max() < 0.02
    cut_short(result, tmp_path)


@pytest.mark.parametrize(
    ("fit", "later"),
    [
        (0, -1),
        (0, 0),
        (0, 1),
        (1, -1),
        (1, 0),
    ],
)
def test_ctrl_c_before_the_network_leaves_a_table(
    train: pd.DataFrame, interrupter: Interrupter, begins: list[int], tmp_path: Path, fit: int, later: int
) -> None:
    result = interrupter.kept(train, begins[fit] + later)
    scored = la.evaluate({"it": result.model}, train, split="train")
    assert scored["esr_dc_filtered"].max() < 0.05
    assert result.model.covariance is None
    cut_short(result, tmp_path)


@pytest.mark.parametrize(
    "later",
    [
        -1,
        0,
        1,
    ],
)
def test_ctrl_c_keeps_the_best_cards(
    noisy: pd.DataFrame, interrupter: Interrupter, last_stage: int, tmp_path: Path, later: int
) -> None:
    result = interrupter.kept(noisy, last_stage + later, per_setting=True)
    cut_short(result, tmp_path)
    assert len(result.history) == last_stage + later
    assert result.history["error"].iloc[-1] < 0.5


def test_ctrl_c_while_starts_are_followed(train: pd.DataFrame, interrupter: Interrupter, tmp_path: Path) -> None:
    for per_setting in (False, True):
        cut_short(interrupter.kept(train, 4, per_setting=per_setting), tmp_path / str(per_setting))


@pytest.mark.parametrize("per_setting", [False, True])
def test_ctrl_c_among_the_starts(
    train: pd.DataFrame, interrupter: Interrupter, tmp_path: Path, per_setting: bool
) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupter.fit(train, 0, per_setting=per_setting)
    result = interrupter.kept(train, 1, per_setting=per_setting)
    assert result.history["stage"].tolist() == ["starts"]
    cut_short(result, tmp_path)


# Parts


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Torch tells some things only once."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.usefixtures("every_warning")
def test_no_warning_of_arrays_that_are_not_writable(train: pd.DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_plain(train, gauss_newton=GaussNewtonSettings(max_steps=1))
