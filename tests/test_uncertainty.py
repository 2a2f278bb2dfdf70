"""Standard errors: against closed forms, simulation and the share of intervals that hold what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import ddsp_la2a as la
from baselines.numpy_compressor import compressor
from ddsp_la2a.fitting import search
from ddsp_la2a.fitting.uncertainty import NOISE_FLOOR, block_seconds, covariance, score_covariance
from ddsp_la2a.model.stages import PLAIN
from ddsp_la2a.simulated_unit import SimulatedLA2A, UnitConstants
from ddsp_la2a.simulated_unit.programme import render_programme

NONE = np.zeros((3, 3))


def coloured(rng: np.random.Generator, sums: int, n: int, memory: float) -> np.ndarray:
    scores = rng.standard_normal((sums, n)) @ rng.standard_normal((n, n))
    for row in range(1, sums):
        scores[row] += memory * scores[row - 1]
    return scores


# The gradient's covariance


def test_blocks_grow_slower_than_recordings() -> None:
    assert block_seconds(1.0) == pytest.approx(0.55)
    assert block_seconds(8.0) == pytest.approx(1.1)
    assert block_seconds(1000.0) == pytest.approx(5.5)


@pytest.mark.parametrize("seconds", [3.0, 20.0, 77.5])
def test_score_covariance_is_the_formula(seconds: float) -> None:
    scores = coloured(np.random.default_rng(1), round(4 * seconds), 3, 0.5)
    lags = max(1, round(4 * block_seconds(seconds)))
    expected = sum(
        (1.0 - abs(i - j) / lags) * np.outer(scores[i], scores[j])
        for i in range(len(scores))
        for j in range(len(scores))
        if abs(i - j) < lags
    )
    np.testing.assert_allclose(score_covariance(scores, NONE, 4.0, 44100.0), expected, rtol=1e-10)


def test_white_scores_give_their_outer_products() -> None:
    found, plain = [], []
    for seed in range(200):
        scores = np.random.default_rng([2, seed]).standard_normal((400, 3)) * [1.0, 2.0, 0.5]
        found.append(score_covariance(scores, NONE, 4.0, 44100.0))
        plain.append(scores.T @ scores)
    spread = np.sqrt(np.outer(*[np.diag(np.mean(plain, axis=0))] * 2))
    np.testing.assert_allclose(np.mean(found, axis=0) / spread, np.mean(plain, axis=0) / spread, atol=0.05)


def test_scores_that_stay_alike_count_for_more() -> None:
    """An autoregression of 0.6 has 1 / (1 − 0.6)² of the variance that its white source brings about."""
    found = [
        score_covariance(coloured_one(np.random.default_rng([3, seed]), 40000, 0.6), np.zeros((1, 1)), 4.0, 1.0)
        for seed in range(10)
    ]
    assert np.mean(found) / 40000 == pytest.approx(1.0 / 0.4**2, rel=0.1)


def coloured_one(rng: np.random.Generator, sums: int, memory: float) -> np.ndarray:
    values = rng.standard_normal(sums)
    for row in range(1, sums):
        values[row] += memory * values[row - 1]
    return values[:, None]


@pytest.mark.parametrize("sums", [1, 2, 3, 7, 80, 1000])
@pytest.mark.parametrize("memory", [-0.95, 0.0, 0.5, 0.99])
def test_score_covariance_is_never_negative(sums: int, memory: float) -> None:
    for seed in range(5):
        scores = coloured(np.random.default_rng([4, seed]), sums, 6, memory)
        meat = score_covariance(scores, np.zeros((6, 6)), 4.0, 44100.0)
        np.testing.assert_allclose(meat, meat.T, rtol=1e-12)
        values = np.linalg.eigvalsh(meat)
        assert values.min() >= -1e-12 * values.max()


def test_one_sum_is_its_outer_product() -> None:
    scores = np.array([[1.0, -2.0, 3.0]])
    np.testing.assert_allclose(score_covariance(scores, NONE, 4.0, 44100.0), scores.T @ scores)


def test_no_recording_is_known_better_than_the_floor() -> None:
    """As if white noise of −80 dB lay over the target: H is a sum over frames, divided by rate and power."""
    hessian = np.diag([1.0, 4.0, 0.0])
    meat = score_covariance(np.zeros((40, 3)), hessian, 4.0, 8000.0)
    np.testing.assert_allclose(meat, NOISE_FLOOR / 8000.0 * hessian)


# Covariance of what is fitted


def test_the_spread_of_ordinary_least_squares() -> None:
    """Many regressions with white noise, each cut into quarters of a second: standard errors are what they vary by."""
    rng = np.random.default_rng(5)
    rate, seconds, truth = 100.0, 200.0, np.array([1.0, -2.0, 0.5])
    frames, per_sum = int(rate * seconds), 25
    mixing = np.array([[1.0, 0.6, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.2]])
    estimates, errors = [], []
    for _ in range(300):
        x = rng.standard_normal((frames, 3)) @ mixing
        y = x @ truth + 0.7 * rng.standard_normal(frames)
        power = y @ y / frames
        hessian = x.T @ x / (rate * power)
        estimate = np.linalg.solve(x.T @ x, x.T @ y)
        scores = (x * (x @ estimate - y)[:, None]).reshape(-1, per_sum, 3).sum(axis=1) / (rate * power)
        meat = score_covariance(scores, hessian, rate / per_sum, rate)
        found = covariance(hessian, meat, np.full(3, 1e-12), np.ones(3), seconds / block_seconds(seconds))
        estimates.append(estimate)
        errors.append(np.sqrt(np.diag(found)))
    np.testing.assert_allclose(np.mean(errors, axis=0), np.std(estimates, axis=0), rtol=0.15)


def test_few_blocks_are_a_students_t() -> None:
    """12 blocks for 2 values: 10 degrees of freedom."""
    hessian, meat = np.diag([2.0, 5.0]), np.array([[1.0, 0.3], [0.3, 2.0]])
    many = covariance(hessian, meat, np.full(2, 1e-15), np.ones(2), 1e9)
    few = covariance(hessian, meat, np.full(2, 1e-15), np.ones(2), 12.0)
    np.testing.assert_allclose(many, np.linalg.solve(hessian, np.linalg.solve(hessian, meat).T), rtol=1e-4)
    np.testing.assert_allclose(few / many, 1.2 * (2.228139 / 1.96) ** 2, rtol=1e-4)


@pytest.mark.parametrize("blocks", [0.3, 1.0, 2.0, 3.0])
def test_fewer_blocks_than_values_are_one_degree_of_freedom(blocks: float) -> None:
    found = covariance(np.eye(3), 0.01 * np.eye(3), np.full(3, 1e-12), np.ones(3), blocks)
    np.testing.assert_allclose(found, 0.01 * blocks * (12.7062 / 1.96) ** 2 * np.eye(3), atol=1e-12, rtol=1e-4)


def test_a_direction_without_data_has_the_variance_of_the_prior() -> None:
    """As of a recording of silence: half of a card's ranges, twelve decibels of make-up."""
    variance = np.array([0.5**2] * 5 + [12.0**2])
    found = covariance(np.zeros((6, 6)), np.zeros((6, 6)), 1e-12 / variance, variance, 50.0)
    np.testing.assert_allclose(np.sqrt(np.diag(found)), [0.5] * 5 + [12.0])


@pytest.mark.parametrize("condition", [1.0, 1e6, 1e14, 1e30])
@pytest.mark.parametrize("precision", [1e-13, 1e-6])
def test_symmetric_and_positive_for_a_nearly_singular_hessian(condition: float, precision: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng([6, seed])
        basis, _ = np.linalg.qr(rng.standard_normal((6, 6)))
        hessian = basis * np.geomspace(1.0, 1.0 / condition, 6) @ basis.T
        hessian = (hessian + hessian.T) / 2.0
        root = hessian @ rng.standard_normal((6, 6))
        found = covariance(hessian, 1e-3 * root @ root.T, np.full(6, precision), np.ones(6), 40.0)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, found.T)
        values = np.linalg.eigvalsh(found)
        assert values.min() >= -1e-9 * values.max()
        assert (np.diag(found) > 0.0).all()


def test_units_of_the_coordinates_do_not_matter() -> None:
    rng = np.random.default_rng(7)
    root, noise = rng.standard_normal((2, 4, 4))
    hessian, meat, precision = root @ root.T, 0.01 * noise @ noise.T, np.full(4, 1e-9)
    scale = np.array([1e-5, 1.0, 3e4, 1e2])
    plain = covariance(hessian, meat, precision, np.ones(len(precision)), 40.0)
    scaled = covariance(
        hessian * np.outer(scale, scale), meat * np.outer(scale, scale), precision * scale**2, scale**-2.0, 40.0
    )
    # The prior hardly counts here: its P² has other units.
    np.testing.assert_allclose(scaled * np.outer(scale, scale), plain, rtol=1e-4, atol=1e-6 * plain.max())


# The share of intervals that hold the answer

SECONDS, COUNT, COVERAGE_RATE = 20.0, 40, 16000
TRUTH = {
    "threshold_db": -20.0,
    "ratio": 4.0,
    "knee_db": 10.0,
    "attack_ms": 3.0,
    "release_ms": 180.0,
    "makeup_db": 1.0,
}


def noisy(x: np.ndarray, number: int) -> np.ndarray:
    noise = np.random.default_rng([9, number]).standard_normal(len(x))
    return compressor(x, COVERAGE_RATE, **TRUTH).output + 1e-3 * noise


def two_releases(x: np.ndarray, number: int) -> np.ndarray:
    fast, slow = (compressor(x, COVERAGE_RATE, **{**TRUTH, "release_ms": ms}).output for ms in (80.0, 600.0))
    return 0.6 * fast + 0.4 * slow


def simulated(x: np.ndarray, number: int) -> np.ndarray:
    return SimulatedLA2A(UnitConstants.sampled(0), seed=number).record(x.astype(np.float64), COVERAGE_RATE, 0, 70)


@pytest.fixture(scope="module")
def programmes() -> list[np.ndarray]:
    return [
        render_programme(SECONDS, COVERAGE_RATE, seed=[77, number], pause_s=2.0).astype(np.float32)
        for number in range(COUNT)
    ]


def point_of(result: la.FitResult) -> np.ndarray:
    """The only row of a table: unconstrained card and make-up in dB."""
    with torch.no_grad():
        makeup_db = result.model.params(0, 70).makeup_db
    return np.append(result.model.card.rows.detach().numpy()[0, :5], float(makeup_db))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "least", "most"), [(noisy, 0.88, 1.0), (two_releases, 0.88, 0.99), (simulated, 0.88, 0.99)]
)
def test_coverage(programmes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device, least, most) -> None:
    """Each recording's 95 % intervals of its own, and the answer of all 40 together."""
    rows = []
    for number, x in enumerate(programmes):
        paths = [tmp_path / f"{kind}{number}.wav" for kind in ("input", "target")]
        for path, audio in zip(paths, (x, device(x, number)), strict=True):
            soundfile.write(path, audio.astype(np.float32), COVERAGE_RATE, "FLOAT")
        rows.append(
            {
                "track_id": number,
                "split": "train",
                "take": "1",
                "compress_or_limit": number % 2,
                "peak_reduction": number // 2,
                "raw_audio_path": str(paths[0]),
                "processed_audio_path": str(paths[1]),
                "source": "simulated",
            }
        )
    frame = pd.DataFrame(rows)
    together = frame.assign(compress_or_limit=0, peak_reduction=70)

    near = la.fit(together.iloc[:3], per_setting=True, stages=PLAIN)
    monkeypatch.setattr(search, "spread_points", lambda *_: point_of(near)[None])
    answer = la.fit(together, per_setting=True, stages=PLAIN)
    monkeypatch.setattr(search, "spread_points", lambda *_: point_of(answer)[None])
    card = la.fit(frame, per_setting=True, stages=PLAIN).curves().query("peak_reduction < 20")
    assert answer.converged
    assert len(card) == COUNT

    with torch.no_grad():
        expected = {name: float(value) for name, value in answer.model.params(0, 70).numbers().items()}
    if device is noisy:
        assert expected == pytest.approx(TRUTH, rel=1e-2)
    inside, told = {}, {}
    for name, value in expected.items():
        is_told = card[f"{name}_identifiable"]
        told[name] = int(is_told.sum())
        inside[name] = int((card[f"{name}_low"] <= value)[is_told].sum()) - int(
            (card[f"{name}_high"] < value)[is_told].sum()
        )
    share = sum(inside.values()) / sum(told.values())
    assert least <= share <= most, f"{inside} of {told} hold {expected}"
    assert sum(told.values()) >= 0.6 * 6 * COUNT
    for name, count in inside.items():
        assert told[name] < 20 or count >= 0.7 * told[name], f"{name}: {inside} of {told}"
