"""Fits of settings on their own: starts, which of them are followed, stages on and off; and all with one device."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.signal import lfilter

import ddsp_la2a as la
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.gauss_newton import fit_settings
from ddsp_la2a.fitting.joint import JointProblem, TableCard
from ddsp_la2a.fitting.least_squares import Quadratic
from ddsp_la2a.fitting.passes import Passes
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.fitting.search import FINE, Search, first_stages, spread_points
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP, TAPS
from ddsp_la2a.model.stages import PLAIN, Stages

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 8000
CARD = len(CARD_PARAMETERS)
SLOW, FILTERED = Stages(output_filter=False), Stages(slow_release=False)
CARDS: list[dict[str, float]] = [
    {"threshold_db": -30.0, "ratio": 6.0, "knee_db": 8.0, "attack_ms": 4.0, "release_ms": 150.0, "makeup_db": 2.0},
    {"threshold_db": -22.0, "ratio": 3.0, "knee_db": 4.0, "attack_ms": 8.0, "release_ms": 80.0, "makeup_db": 2.0},
]
SECOND_CELL = {"slow_factor": 15.0, "slow_mix": 0.25}


def recorded(folder: Path, programme, truths: Sequence[dict[str, float]]) -> pd.DataFrame:
    rows = []
    for number, truth in enumerate(truths):
        raw = programme(40 + number, 6.0)
        wet = la.compressor(torch.from_numpy(raw)[None], la.CompressorParams(**truth), RATE)[0].numpy()
        paths = folder / f"dry {number}.wav", folder / f"wet {number}.wav"
        for path, audio in zip(paths, (raw, wet), strict=True):
            soundfile.write(path, audio, RATE, "FLOAT")
        row = {"track_id": number, "split": "train", "take": "1", "compress_or_limit": 0, "peak_reduction": 50 + number}
        rows.append(row | {"raw_audio_path": paths[0], "processed_audio_path": paths[1], "source": "simulated"})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def two_cells(tmp_path_factory: pytest.TempPathFactory, programme) -> Recordings:
    """Two settings of a unit with a second cell."""
    truths = [card | SECOND_CELL for card in CARDS]
    return Recordings(recorded(tmp_path_factory.mktemp("two cells"), programme, truths))


@pytest.fixture
def passes() -> Passes:
    return Passes("dc", progress=False)


def coordinates(stages: Stages) -> Coordinates:
    return Coordinates(stages, RATE)


def point_at(of: Coordinates, values: dict[str, float]) -> np.ndarray:
    """The point at which the parameters have these values."""
    wanted = [(p, torch.tensor(values[p.name], dtype=torch.float64)) for p in of.parameters]
    return np.array([float(value if p is MAKEUP else p.to_unconstrained(value)) for p, value in wanted])


def test_spread_points_are_the_generic_start_and_a_sequence() -> None:
    plain = coordinates(PLAIN)
    points = spread_points(plain, 0)
    assert points.shape == (64, 6)
    np.testing.assert_array_equal(points[0], plain.start)
    assert (points[:, 5] == 0.0).all()
    assert np.abs(points).max() <= 4.0
    assert len(np.unique(points[1:, :5], axis=0)) == 63
    np.testing.assert_array_equal(points, spread_points(plain, 0))
    assert not np.array_equal(points[1:], spread_points(plain, 1)[1:])


@pytest.mark.parametrize("stages", [PLAIN, FILTERED], ids=["plain", "output filter"])
def test_spread_points_have_no_stage(stages: Stages) -> None:
    at = coordinates(stages)
    np.testing.assert_array_equal(spread_points(at, 0)[:, : CARD + 1], spread_points(coordinates(PLAIN), 0))
    assert (spread_points(at, 0)[:, CARD + 1 :] == 0.0).all()


@pytest.mark.parametrize(("output_filter", "feedback"), [*itertools.product([False, True], repeat=2)])
def test_starts_are_sought_with_what_is_linear_and_what_the_detector_hears(output_filter: bool, feedback: bool) -> None:
    found = first_stages(coordinates(Stages(output_filter, True, True, feedback)))
    assert found.stages == replace(PLAIN, output_filter=output_filter, feedback=feedback)
    assert found.sample_rate == RATE
    assert len(found.parameters) == CARD + 1 + (len(TAPS) if output_filter else 0)


@pytest.mark.parametrize("stages", [PLAIN, FILTERED], ids=["plain", "output filter"])
def test_one_pass_tells_the_best_gain_and_filter(stages: Stages, two_cells: Recordings, passes: Passes) -> None:
    """The output is linear in its gain and in gain times coefficient, so one evaluation tells the error at all."""
    at = coordinates(stages)
    start = spread_points(at, 0)[7]
    ((quadratic, _),) = passes.quadratics(two_cells, [(0, start)], at)
    value, best = at.at_best_linear(quadratic, start)
    np.testing.assert_array_equal(best[:CARD], start[:CARD])
    assert (best[at.linear] != start[at.linear]).all()
    tried = [best, *(best + offset * np.eye(len(best))[i] for i in at.linear for offset in (-0.01, 0.01))]
    there, *beside = (q.value for q, _ in passes.quadratics(two_cells, [(0, point) for point in tried], at))
    assert there == pytest.approx(value, rel=1e-6)
    assert there < 0.5 * quadratic.value
    assert min(beside) > there


def test_a_start_is_found_through_a_colour_that_outweighs_the_compression(
    tmp_path: Path, programme, passes: Passes
) -> None:
    """What the colour leaves is a hundred times what two decibels of gain reduction leave."""
    card = {"threshold_db": -14.0, "ratio": 3.0, "knee_db": 2.0, "attack_ms": 10.0, "release_ms": 300.0}
    frame = recorded(tmp_path, programme, [card])
    path = frame["processed_audio_path"].item()
    soundfile.write(path, lfilter([0.7, 0.3], [1.0], soundfile.read(path)[0]), RATE, "FLOAT")
    (minimum,) = fit_settings(passes, Recordings(frame), [[0]], coordinates(FILTERED), seed=0, max_steps=40)
    found = coordinates(FILTERED).values(minimum.point)
    assert {name: found[name] for name in card} == pytest.approx(card, rel=0.03)


def test_a_point_without_derivatives_is_the_worst(two_cells: Recordings, passes: Passes, monkeypatch) -> None:
    """Also among others: a list with numbers that are none in it can't be sorted."""
    plain = coordinates(PLAIN)
    products = two_cells.products

    def overflowing(requests, *more):
        for i, found in enumerate(products(requests, *more)):
            yield np.full_like(found, np.nan) if i == 1 else found

    monkeypatch.setattr(two_cells, "products", overflowing)
    (first, _), (second, _), (third, _) = passes.quadratics(two_cells, [(0, plain.start)] * 3, plain)
    assert first.value == third.value < second.value == np.inf
    assert np.isfinite(second.gradient).all()
    assert np.isfinite(second.hessian).all()
    value, at = plain.at_best_linear(second, plain.start)
    assert value == np.inf
    np.testing.assert_array_equal(at, plain.start)


def test_the_best_six_starts_of_every_setting_are_followed(two_cells: Recordings, passes: Passes, monkeypatch) -> None:
    followed = []

    def noted(searching, stage, starts):
        followed.append((stage, starts))
        return []

    monkeypatch.setattr(Search, "best_of", noted)
    Search(passes, two_cells, [[0], [1]], coordinates(PLAIN), 5).spread(0)
    ((stage, starts),) = followed
    assert stage == "settings, thinned"
    assert [len(several) for several in starts] == [6, 6]
    assert not np.array_equal(starts[0], starts[1])
    for group, several in enumerate(starts):
        values = [q.value for q, _ in passes.quadratics(two_cells, [(group, at) for at in several], coordinates(PLAIN))]
        assert values[0] == pytest.approx(min(values))


def test_best_of_takes_the_best_minimum_of_each_setting(two_cells: Recordings, passes: Passes) -> None:
    plain = coordinates(PLAIN)
    searching = Search(passes, two_cells, [[0], [1]], plain, 10)
    starts = spread_points(plain, 3)[:4]
    alone = [searching.best_of("one", [[start], [start]]) for start in starts]
    best = searching.best_of("all", [list(starts), list(starts)])
    for group in (0, 1):
        values = [minima[group].quadratic.value for minima in alone]
        assert best[group].quadratic.value == min(values)
    with_stages = {row["stage"] for row in passes.history}
    assert with_stages == {"one", "all"}


def test_a_setting_is_fitted_without_stages_and_then_with_them(two_cells: Recordings, passes: Passes) -> None:
    slow = coordinates(SLOW)
    minima = fit_settings(passes, two_cells, [[0], [1]], slow, seed=0, max_steps=40)
    stages = list(dict.fromkeys(row["stage"] for row in passes.history))
    assert stages == ["starts", "settings, thinned", "stages, thinned", "settings"]
    for minimum, card in zip(minima, CARDS, strict=True):
        assert minimum.converged
        found = slow.values(minimum.point)
        assert found == pytest.approx(card | SECOND_CELL, rel=1e-3, abs=1e-3)


def test_without_stages_there_is_nothing_to_start_again_from(two_cells: Recordings, passes: Passes) -> None:
    fit_settings(passes, two_cells, [[0], [1]], coordinates(PLAIN), seed=0, max_steps=3)
    assert "stages, thinned" not in {row["stage"] for row in passes.history}


def test_both_sides_of_a_stage_are_tried(two_cells: Recordings, passes: Passes) -> None:
    """From either side alone a fit may end on a hill's wrong side; the better one is kept."""
    slow = coordinates(SLOW)
    plain = Search(passes, two_cells, [[0]], coordinates(PLAIN), 40).spread(0)
    searching = Search(passes, two_cells, [[0]], slow, 40)
    sides = slow.staged_starts(plain[0].point, coordinates(PLAIN))
    assert len(sides) == 2
    each = [searching.best_of("side", [[side]])[0].quadratic.value for side in sides]
    assert searching.best_of("both", [sides])[0].quadratic.value == min(each)


def test_a_filters_coefficients_are_pulled_towards_nothing(two_cells: Recordings, passes: Passes) -> None:
    filtered = coordinates(FILTERED)
    searching = Search(passes, two_cells, [[0]], filtered, 1)
    point = filtered.start + 0.01
    ((own, _),) = passes.quadratics(two_cells, [(0, point)], filtered)
    ((pulled, _),) = searching._evaluator("pulled", two_cells)([(0, point)])
    precision = np.append(np.zeros(CARD), filtered.device_precision())
    assert pulled.value == pytest.approx(own.value + 0.5 * np.sum(precision * point**2), rel=1e-12)
    np.testing.assert_allclose(pulled.gradient, own.gradient + precision * point, rtol=1e-12)
    np.testing.assert_allclose(pulled.hessian, own.hessian + np.diag(precision), rtol=1e-12)


def test_several_recordings_of_a_setting_are_summed(two_cells: Recordings, passes: Passes) -> None:
    slow = coordinates(SLOW)
    each, scattered = zip(*passes.quadratics(two_cells, [(0, slow.start), (1, slow.start)], slow), strict=True)
    ((both, found),) = Search(passes, two_cells, [[0, 1]], slow, 1)._evaluator("both", two_cells)([(0, slow.start)])
    np.testing.assert_array_equal(found, scattered[0] + scattered[1])
    for one, other, whole in zip(*each, both, strict=True):
        np.testing.assert_allclose(whole, one + other, rtol=1e-12)


# All settings with one device


def test_one_setting_jointly_is_one_setting_on_its_own(two_cells: Recordings, passes: Passes) -> None:
    slow = coordinates(SLOW)
    (alone,) = fit_settings(passes, two_cells, [[0]], slow, seed=0, max_steps=40)
    one = Recordings(two_cells.frame.iloc[:1])
    problem = JointProblem(TableCard([[0]], CARD), None, slow)
    near = alone.point + 0.05
    start = problem.start(near[:CARD], near[CARD:])
    joint = problem.fit(passes, "joint", one, start, max_steps=40, tolerance=FINE, limit=problem.limit(12.0))
    assert joint.minimum.converged
    assert slow.values(joint.points[0]) == pytest.approx(slow.values(alone.point), rel=1e-3, abs=1e-3)
    np.testing.assert_array_equal(problem.device(joint.minimum.point), joint.points[0][CARD:])


def test_settings_share_the_device_and_nothing_else(two_cells: Recordings, passes: Passes) -> None:
    slow = coordinates(SLOW)
    problem = JointProblem(TableCard([[0], [1]], CARD), None, slow)
    near = [point_at(slow, card | SECOND_CELL) + 0.2 for card in CARDS]
    start = problem.start(np.concatenate([at[:CARD] for at in near]), near[0][CARD:])
    joint = problem.fit(passes, "joint", two_cells, start, max_steps=40, tolerance=FINE, limit=problem.limit(12.0))
    np.testing.assert_array_equal(joint.points[0][CARD:], joint.points[1][CARD:])
    for point, card in zip(joint.points, CARDS, strict=True):
        assert slow.values(point) == pytest.approx(card | SECOND_CELL, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("takes", [False, True])
def test_the_joint_gradient_is_that_of_differences(two_cells: Recordings, passes: Passes, takes: bool) -> None:
    every = coordinates(Stages(shelf=True))
    numbers = np.array([0, 1]) if takes else None
    problem = JointProblem(TableCard([[0], [1]], CARD), numbers, every)
    rng = np.random.default_rng(0)
    start = problem.start(rng.uniform(-0.5, 0.5, 2 * CARD), every.start[CARD:] + rng.uniform(-0.1, 0.1, 10))
    start[len(start) - takes :] = 0.7  # the gains per take

    def total(at: np.ndarray) -> Quadratic:
        points, derivatives = problem.points(at)
        found = passes.quadratics(two_cells, list(enumerate(points)), every)
        return problem.total(at, derivatives, [quadratic for quadratic, _ in found])

    gradient = total(start).gradient
    for i, unit in enumerate(np.eye(len(start))):
        expected = (total(start + 1e-5 * unit).value - total(start - 1e-5 * unit).value) / 2e-5
        assert gradient[i] == pytest.approx(expected, rel=1e-3, abs=1e-5 * np.abs(gradient).max()), i


def test_gains_per_take_leave_the_device_alone(two_cells: Recordings) -> None:
    every = coordinates(Stages(shelf=True))
    problem = JointProblem(TableCard([[0], [1]], CARD), np.array([0, 1]), every)
    at = problem.start(np.zeros(2 * CARD), every.start[CARD:])
    at[-1] = 1.5
    points, _ = problem.points(at)
    assert points[0, CARD] == -points[1, CARD] != 0.0
    np.testing.assert_array_equal(points[:, CARD + 1 :], np.tile(every.start[CARD + 1 :], (2, 1)))
