"""Levenberg–Marquardt against closed forms and scipy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from ddsp_la2a.fitting.least_squares import Minimum, Quadratic, in_step, levenberg_marquardt, minimised

Array = NDArray[np.float64]
Residuals = Callable[[Array], tuple[Array, Array]]


def quadratic_of(residuals: Residuals, at: Array) -> Quadratic:
    r, jacobian = residuals(at)
    return Quadratic(0.5 * float(r @ r), jacobian.T @ r, jacobian.T @ jacobian)


class Recorded:
    """Residuals as something to minimise, which keeps every point asked for and its value."""

    def __init__(self, residuals: Residuals) -> None:
        self.residuals = residuals
        self.points: list[Array] = []
        self.values: list[float] = []

    def __call__(self, at: Array) -> tuple[Quadratic, int]:
        quadratic = quadratic_of(self.residuals, at)
        self.points.append(at.copy())
        self.values.append(quadratic.value)
        return quadratic, len(self.points) - 1  # what is found with a point says which it was


def minimum_of(residuals: Residuals, start: Sequence[float], **more: Any) -> tuple[Minimum, Recorded]:
    recorded = Recorded(residuals)
    steps = levenberg_marquardt(np.array(start, dtype=float), **{"max_steps": 100, "tolerance": 1e-12, **more})
    minimum = minimised(steps, recorded)
    # Of everything looked at it is the best, with what belongs to it.
    assert minimum.quadratic.value == min(recorded.values)
    np.testing.assert_array_equal(minimum.point, recorded.points[minimum.found])
    assert minimum.quadratic.value == recorded.values[minimum.found]
    assert len(recorded.points) <= 1 + more.get("max_steps", 100)
    assert not minimum.interrupted
    return minimum, recorded


def linear(jacobian: Any, target: Any) -> Residuals:
    jacobian, target = np.asarray(jacobian, dtype=float), np.asarray(target, dtype=float)
    return lambda at: (jacobian @ at - target, jacobian)


def random_linear(seed: int, rows: int = 7, columns: int = 4) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)), rng.standard_normal(rows)


def rosenbrock(at: Array) -> tuple[Array, Array]:
    x, y = at
    return np.array([10.0 * (y - x * x), 1.0 - x]), np.array([[-20.0 * x, 10.0], [-1.0, 0.0]])


def bent(at: Array) -> tuple[Array, Array]:
    """Gauss–Newton steps of an arctangent diverge from beyond 1.39."""
    return np.arctan(at), np.diag(1.0 / (1.0 + at * at))


def powell(at: Array) -> tuple[Array, Array]:
    """Powell's singular function: its Jacobian has rank two of four at the minimum."""
    a, b, c, d = at
    root_5, root_10 = np.sqrt(5.0), np.sqrt(10.0)
    r = np.array([a + 10.0 * b, root_5 * (c - d), (b - 2.0 * c) ** 2, root_10 * (a - d) ** 2])
    rows = [
        [1.0, 10.0, 0.0, 0.0],
        [0.0, 0.0, root_5, -root_5],
        [0.0, 2.0 * (b - 2.0 * c), -4.0 * (b - 2.0 * c), 0.0],
        [2.0 * root_10 * (a - d), 0.0, 0.0, -2.0 * root_10 * (a - d)],
    ]
    return r, np.array(rows)


# Closed forms


@pytest.mark.parametrize("seed", range(5))
def test_linear_least_squares_takes_two_steps(seed: int) -> None:
    jacobian, target = random_linear(seed)
    expected = np.linalg.lstsq(jacobian, target, rcond=None)[0]
    one, _ = minimum_of(linear(jacobian, target), [5.0, -3.0, 8.0, 0.0], max_steps=1)
    assert not one.converged
    np.testing.assert_allclose(one.point, expected, atol=0.1)
    two, recorded = minimum_of(linear(jacobian, target), [5.0, -3.0, 8.0, 0.0], tolerance=1e-5)
    assert two.converged
    assert len(recorded.points) == 3
    np.testing.assert_allclose(two.point, expected, atol=1e-3)
    exact, _ = minimum_of(linear(jacobian, target), [5.0, -3.0, 8.0, 0.0], tolerance=0.0)
    np.testing.assert_allclose(exact.point, expected, atol=1e-9)


def test_scale_of_the_coordinates_does_not_matter() -> None:
    jacobian, target = random_linear(3)
    scale = np.array([1e-2, 1.0, 30.0, 1e3])
    plain, _ = minimum_of(linear(jacobian, target), [0.0] * 4)
    scaled, _ = minimum_of(linear(jacobian * scale, target), [0.0] * 4)
    np.testing.assert_allclose(scaled.point * scale, plain.point, rtol=1e-6)


def test_scale_of_the_value_does_not_matter() -> None:
    jacobian, target = random_linear(4)
    points = [minimum_of(linear(jacobian * s, target * s), [1.0] * 4)[0].point for s in (1.0, 1e-60, 1e60)]
    np.testing.assert_allclose(points[1], points[0], rtol=1e-6)
    np.testing.assert_allclose(points[2], points[0], rtol=1e-6)


@pytest.mark.parametrize("start", [(-1.2, 1.0), (5.0, -5.0), (0.0, 0.0), (-3.0, 10.0)])
def test_rosenbrock(start: tuple[float, float]) -> None:
    minimum, recorded = minimum_of(rosenbrock, start)
    assert minimum.converged
    np.testing.assert_allclose(minimum.point, 1.0, atol=1e-6)
    assert len(recorded.points) < 40


def test_a_singular_minimum() -> None:
    minimum, _ = minimum_of(powell, [3.0, -1.0, 0.0, 1.0], max_steps=60)
    np.testing.assert_allclose(minimum.point, 0.0, atol=1e-3)


def test_the_start_may_be_the_minimum() -> None:
    minimum, recorded = minimum_of(rosenbrock, [1.0, 1.0])
    assert minimum.converged
    assert minimum.quadratic.value == 0.0
    assert len(recorded.points) == 1


def test_the_start_is_left_as_it_was() -> None:
    start = np.array([-1.2, 1.0])
    minimised(levenberg_marquardt(start, max_steps=50), Recorded(rosenbrock))
    np.testing.assert_array_equal(start, [-1.2, 1.0])


# Coordinates without influence


def test_a_coordinate_without_influence_stays() -> None:
    jacobian, target = random_linear(5)
    jacobian[:, 2] = 0.0
    minimum, recorded = minimum_of(linear(jacobian, target), [1.0, 2.0, 0.3, 4.0])
    assert minimum.converged
    assert {point[2] for point in recorded.points} == {0.3}
    others = [0, 1, 3]
    np.testing.assert_allclose(
        minimum.point[others], np.linalg.lstsq(jacobian[:, others], target, rcond=None)[0], atol=1e-6
    )


def test_nothing_has_influence() -> None:
    minimum, recorded = minimum_of(lambda _: (np.ones(3), np.zeros((3, 2))), [0.5, -0.5])
    assert minimum.converged
    np.testing.assert_array_equal(minimum.point, [0.5, -0.5])
    assert len(recorded.points) == 1


def test_hardly_any_influence_moves_no_further_than_needed() -> None:
    jacobian = np.diag([1.0, 1e-9])
    minimum, recorded = minimum_of(linear(jacobian, [1.0, 1e-9]), [0.0, 0.0], tolerance=0.0)
    assert minimum.point[0] == pytest.approx(1.0)
    assert all(-1e-6 <= point[1] <= 1.0 + 1e-6 for point in recorded.points)


def test_two_coordinates_that_do_the_same() -> None:
    minimum, _ = minimum_of(linear([[1.0, 1.0], [1.0, 1.0]], [3.0, 3.0]), [0.0, 0.0])
    assert minimum.converged
    assert minimum.point.sum() == pytest.approx(3.0)
    assert minimum.point[0] == pytest.approx(minimum.point[1])


def test_two_coordinates_that_do_the_same_after_many_good_steps() -> None:
    minimum, _ = minimum_of(
        linear([[1.0, 1.0], [1.0, 1.0]], [300.0, 300.0]), [0.0, 0.0], longest_step=1.0, max_steps=200
    )
    assert minimum.converged
    assert minimum.point.sum() == pytest.approx(300.0)


# Steps that are rejected, and how long they are


@pytest.mark.parametrize(
    ("residuals", "start"),
    [
        (bent, [3.0]),
        (bent, [-20.0, 1.5]),
        (rosenbrock, [-1.2, 1.0]),
        (lambda at: (np.array([np.exp(at[0]) - 3.0]), np.exp(at)[None]), [-4.0]),
    ],
)
def test_a_bad_start_descends_over_rejected_steps(residuals: Residuals, start: list[float]) -> None:
    minimum, recorded = minimum_of(residuals, start, max_steps=200)
    assert minimum.converged
    assert minimum.quadratic.value < 1e-10
    best = list(itertools.accumulate(recorded.values, min))
    rejected = [value >= before for value, before in zip(recorded.values[1:], best, strict=False)]
    assert any(rejected)
    accepted = [recorded.values[0], *(v for v, no in zip(recorded.values[1:], rejected, strict=True) if not no)]
    assert (np.diff(accepted) < 0.0).all()


def test_a_step_that_is_small_because_it_is_damped_is_no_end() -> None:
    minimum, recorded = minimum_of(bent, [20.0], tolerance=0.2)
    assert recorded.values[1] > recorded.values[0]
    assert minimum.converged
    assert minimum.quadratic.value < 0.01 * recorded.values[0]


@pytest.mark.parametrize("elsewhere", [np.nan, np.inf])
def test_a_trial_without_a_value_is_rejected(elsewhere: float) -> None:
    def residuals(at: Array) -> tuple[Array, Array]:
        r, jacobian = bent(at)
        return (r if abs(at[0]) < 3.5 else np.full(1, elsewhere)), jacobian

    recorded = Recorded(residuals)
    minimum = minimised(levenberg_marquardt(np.array([3.0]), max_steps=100, tolerance=1e-12), recorded)
    assert not np.isfinite(recorded.values).all()
    assert minimum.converged
    np.testing.assert_allclose(minimum.point, 0.0, atol=1e-5)


def test_a_start_without_a_value_has_not_converged() -> None:
    minimum = minimised(
        levenberg_marquardt(np.zeros(2), max_steps=50), Recorded(lambda at: (np.full(2, np.nan), np.eye(2)))
    )
    assert not minimum.converged


def test_the_longest_step() -> None:
    minimum, recorded = minimum_of(linear(np.diag([1.0, 2.0]), [7.3, -8.0]), [0.0, 0.0], longest_step=0.5)
    np.testing.assert_allclose(minimum.point, [7.3, -4.0], atol=1e-5)
    steps = np.diff(np.array(recorded.points), axis=0)
    assert np.abs(steps).max() <= 0.5 + 1e-12
    np.testing.assert_allclose(np.abs(steps[:7]), 0.5)


@pytest.mark.parametrize("max_steps", [0, 1, 5])
def test_out_of_steps_is_not_converged(max_steps: int) -> None:
    minimum, recorded = minimum_of(rosenbrock, [-1.2, 1.0], max_steps=max_steps)
    assert not minimum.converged
    assert len(recorded.points) == 1 + max_steps


def test_converged_says_that_no_step_is_worth_it() -> None:
    loose, few = minimum_of(rosenbrock, [-1.2, 1.0], tolerance=0.5)
    tight, more = minimum_of(rosenbrock, [-1.2, 1.0], tolerance=1e-10)
    assert loose.converged
    assert tight.converged
    assert len(few.points) < len(more.points)
    assert tight.quadratic.value < loose.quadratic.value


# Limits


@pytest.mark.parametrize("seed", range(40))
def test_minimum_within_limits_is_that_of_scipy(seed: int) -> None:
    jacobian, _ = random_linear(seed)
    rng = np.random.default_rng(100 + seed)
    target = jacobian @ rng.uniform(-9.0, 9.0, 4) + rng.standard_normal(7)
    limit = 6.0 if seed % 2 else np.array([6.0, 2.0, 0.3, 60.0])
    minimum, recorded = minimum_of(linear(jacobian, target), rng.uniform(-1.0, 1.0, 4) * limit, limit=limit)
    expected = lsq_linear(jacobian, target, (-limit * np.ones(4), limit * np.ones(4)), tol=1e-14)
    assert minimum.converged
    assert minimum.quadratic.value <= expected.cost * (1.0 + 1e-6)
    np.testing.assert_allclose(minimum.point, expected.x, atol=1e-4)
    assert (np.abs(recorded.points) <= limit * (1.0 + 1e-15)).all()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_solution_outside_ends_at_the_limit(sign: float) -> None:
    minimum, recorded = minimum_of(linear(np.eye(2), [sign * 50.0, 1.0]), [0.0, 0.0], limit=4.0)
    assert minimum.converged
    assert minimum.point[0] == sign * 4.0
    assert minimum.point[1] == pytest.approx(1.0)
    assert np.abs(recorded.points).max() <= 4.0
    assert len(recorded.points) <= 4


def test_a_coordinate_leaves_its_limit_when_it_wants_to() -> None:
    minimum, _ = minimum_of(linear([[1.0, 0.5], [0.0, 1.0]], [1.0, 1.0]), [4.0, -4.0], limit=4.0)
    np.testing.assert_allclose(minimum.point, [0.5, 1.0], atol=1e-5)


def test_a_start_outside_is_brought_in() -> None:
    minimum, recorded = minimum_of(rosenbrock, [90.0, -90.0], limit=2.0)
    np.testing.assert_array_equal(recorded.points[0], [2.0, -2.0])
    np.testing.assert_allclose(minimum.point, 1.0, atol=1e-5)


def test_everything_at_its_limit() -> None:
    minimum, recorded = minimum_of(linear(np.eye(2), [9.0, -9.0]), [4.0, -4.0], limit=4.0)
    assert minimum.converged
    assert len(recorded.points) == 1


def test_limits_hold_to_the_last_bit() -> None:
    for start in np.random.default_rng(0).uniform(-6.0, 3.0, 100):
        minimum, recorded = minimum_of(linear(np.eye(1), [100.0]), [start], limit=6.0)
        assert np.abs(recorded.points).max() <= 6.0
        assert minimum.point[0] == 6.0


def test_no_evaluation_is_spent_on_the_last_bit_before_a_limit() -> None:
    for start in np.random.default_rng(0).uniform(-6.0, 3.0, 100):
        _, recorded = minimum_of(linear(np.eye(1), [100.0]), [start], limit=6.0)
        assert len(recorded.points) == 2


# Several at once

PROBLEMS: list[tuple[Residuals, list[float], dict[str, Any]]] = [
    (rosenbrock, [-1.2, 1.0], {}),
    (linear(*random_linear(1)), [1.0, 2.0, 3.0, 4.0], {}),
    (bent, [3.0], {}),
    (rosenbrock, [1.0, 1.0], {}),
    (linear(np.eye(2), [9.0, 1.0]), [0.0, 0.0], {"limit": 4.0, "longest_step": 1.0}),
    (rosenbrock, [5.0, -5.0], {"max_steps": 4}),
]


def started(residuals: Residuals, start: list[float], more: dict[str, Any]) -> Any:
    return levenberg_marquardt(np.array(start), **{"max_steps": 60, "tolerance": 1e-12, **more})


def assert_same(one: Minimum, other: Minimum) -> None:
    np.testing.assert_array_equal(one.point, other.point)
    for a, b in zip(one.quadratic, other.quadratic, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.found, one.converged, one.interrupted) == (other.found, other.converged, other.interrupted)


def test_side_by_side_as_alone() -> None:
    rounds: list[list[int]] = []

    def evaluate(asked: list[tuple[int, Array]]) -> list[tuple[Quadratic, str]]:
        rounds.append([i for i, _ in asked])
        return [(quadratic_of(PROBLEMS[i][0], at), f"of {i}") for i, at in asked]

    together = in_step([started(*problem) for problem in PROBLEMS], evaluate)
    lengths = []
    for i, (residuals, start, more) in enumerate(PROBLEMS):
        recorded = Recorded(residuals)
        alone = minimised(started(residuals, start, more), lambda at, i=i, r=recorded: (r(at)[0], f"of {i}"))
        assert_same(together[i], alone)
        lengths.append(len(recorded.points))
    # One request a round, of all that aren't done, in their order.
    assert rounds == [[i for i, n in enumerate(lengths) if n > r] for r in range(max(lengths))]
    assert [minimum.converged for minimum in together] == [True] * 5 + [False]


def test_no_problems_need_no_evaluation() -> None:
    assert in_step([], lambda asked: pytest.fail("asked for nothing")) == []


# Interruption


@pytest.mark.parametrize("call", [2, 3, 8, 15])
def test_an_interruption_leaves_the_best_so_far(call: int) -> None:
    recorded = Recorded(rosenbrock)

    def evaluate(at: Array) -> tuple[Quadratic, int]:
        if len(recorded.points) == call - 1:
            raise KeyboardInterrupt
        return recorded(at)

    minimum = minimised(levenberg_marquardt(np.array([-1.2, 1.0]), max_steps=100, tolerance=1e-12), evaluate)
    assert minimum.interrupted
    assert not minimum.converged
    assert len(recorded.points) == call - 1
    assert minimum.quadratic.value == min(recorded.values)
    np.testing.assert_array_equal(minimum.point, recorded.points[minimum.found])


@pytest.mark.parametrize("call", range(2, 9))
def test_an_interruption_ends_all_side_by_side(call: int) -> None:
    calls = 0
    best = [np.inf] * len(PROBLEMS)
    asked_last: list[int] = []

    def evaluate(asked: list[tuple[int, Array]]) -> list[tuple[Quadratic, None]]:
        nonlocal calls, asked_last
        calls += 1
        asked_last = [i for i, _ in asked]
        found = []
        for number, (i, at) in enumerate(asked):
            if calls == call and number == len(asked) - 1:
                raise KeyboardInterrupt  # in the middle: what was evaluated in this round is lost
            found.append((quadratic_of(PROBLEMS[i][0], at), None))
        for (i, _), (quadratic, _) in zip(asked, found, strict=True):
            best[i] = min(best[i], quadratic.value)
        return found

    minima = in_step([started(*problem) for problem in PROBLEMS], evaluate)
    assert calls == call
    assert [minimum.quadratic.value for minimum in minima] == best
    assert [i for i, minimum in enumerate(minima) if minimum.interrupted] == asked_last
    for i, minimum in enumerate(minima):
        assert not (minimum.converged and i in asked_last)


def test_an_interruption_of_the_first_evaluation_is_raised() -> None:
    def evaluate(_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimised(levenberg_marquardt(np.zeros(2), max_steps=10), evaluate)
    with pytest.raises(KeyboardInterrupt):
        in_step([started(*problem) for problem in PROBLEMS], evaluate)


def test_other_errors_are_raised() -> None:
    def evaluate(at: Array) -> tuple[Quadratic, None]:
        if at[0] != -1.2:
            raise OSError("the disk is gone")
        return quadratic_of(rosenbrock, at), None

    with pytest.raises(OSError, match="the disk is gone"):
        minimised(levenberg_marquardt(np.array([-1.2, 1.0]), max_steps=10), evaluate)
