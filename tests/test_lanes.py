"""Eight numbers at once, each operation against numpy, on lanes and on single numbers."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest

from ddsp_la2a.dsp.lanes import (
    WIDTH,
    anywhere,
    bits,
    fma,
    from_bits,
    larger,
    load,
    magnitude,
    put,
    smaller,
    store,
    sum_of,
    take,
    transpose,
    where,
)

ONE_ULP_BITS = np.uint64(1)
SHIFT = np.uint64(3)


@pytest.fixture
def some() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, c = np.random.default_rng(0).standard_normal((3, 3 * WIDTH))
    return a, b, c


@numba.njit(inline="always")
def everything(a, b, c):
    total = (a + b) * c - a / b + 2.0 * a - (1.0 - b) + c / 3.0
    chosen = where(a < b, a, 0.5) + where(a > 0.25, 1.0, b)
    return total + chosen + fma(a, b, c) + larger(a, b) * smaller(b, c) + magnitude(c) + larger(a, 0.1)


@numba.njit(inline="always")
def next_up(a):
    return from_bits(bits(a) + ONE_ULP_BITS)


@numba.njit(inline="always")
def shuffled_bits(a):
    pattern = bits(a)
    return from_bits((((pattern >> SHIFT) << SHIFT) | ONE_ULP_BITS) - ONE_ULP_BITS)


@numba.njit
def on_lanes(a, b, c, results):
    for n in range(0, len(a), WIDTH):
        x, y, z = load(a, n), load(b, n), load(c, n)
        store(results[0], n, everything(x, y, z))
        store(results[1], n, next_up(x))
        store(results[2], n, shuffled_bits(x))


@numba.njit
def on_numbers(a, b, c, results):
    for n in range(len(a)):
        results[0, n] = everything(a[n], b[n], c[n])
        results[1, n] = next_up(a[n])
        results[2, n] = shuffled_bits(a[n])


def test_lanes_and_numbers_give_the_same_bits(some) -> None:
    lanes, numbers = np.empty((2, 3, len(some[0])))
    on_lanes(*some, lanes)
    on_numbers(*some, numbers)
    np.testing.assert_array_equal(lanes, numbers)


def test_every_operation_is_that_of_numpy(some) -> None:
    a, b, c = some
    found = np.empty((3, len(a)))
    on_lanes(a, b, c, found)
    total = (a + b) * c - a / b + 2.0 * a - (1.0 - b) + c / 3.0
    chosen = np.where(a < b, a, 0.5) + np.where(a > 0.25, 1.0, b)
    more = a * b + c + np.maximum(a, b) * np.minimum(b, c) + np.abs(c) + np.maximum(a, 0.1)
    np.testing.assert_allclose(found[0], total + chosen + more, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(np.abs(found[1]), np.nextafter(np.abs(a), np.inf))
    np.testing.assert_array_equal(found[2].view(np.uint64), (((a.view(np.uint64) >> SHIFT) << SHIFT) | 1) - 1)


@numba.njit
def fused(a, b, c):
    return fma(a, b, c)


def test_a_product_is_fused_into_a_sum_without_rounding() -> None:
    a = 1.0 + 2.0**-30
    assert fused(a, a, -1.0 - 2.0**-29) == 2.0**-60
    assert a * a - 1.0 - 2.0**-29 != 2.0**-60


@numba.njit
def extremes(a, b, results):
    store(results[0], 0, larger(load(a, 0), load(b, 0)))
    store(results[1], 0, smaller(load(a, 0), load(b, 0)))


def test_where_the_first_is_no_number_the_second_is_taken() -> None:
    a, b = np.full(WIDTH, math.nan), np.arange(float(WIDTH))
    results = np.empty((2, WIDTH))
    extremes(a, b, results)
    np.testing.assert_array_equal(results, [b, b])


@numba.njit
def any_above(a, limit):
    return anywhere(load(a, 0) > limit)


def test_whether_a_condition_holds_anywhere() -> None:
    a = np.arange(float(WIDTH))
    assert [any_above(np.roll(a, n), WIDTH - 1.5) for n in range(WIDTH)] == [True] * WIDTH
    assert not any_above(a, WIDTH - 1.0)
    assert not any_above(np.full(WIDTH, math.nan), -1.0)


@numba.njit
def summed(a):
    return sum_of(load(a, 0))


def test_the_sum_of_all_lanes() -> None:
    assert summed(2.0 ** np.arange(WIDTH)) == 2.0**WIDTH - 1.0


@numba.njit
def turned_over(source, start, step, target, to, to_step):
    transpose(source, start, step, target, to, to_step)


def test_a_square_is_turned_over_and_nothing_else_is_touched() -> None:
    source, target = np.random.default_rng(0).standard_normal((WIDTH, 40)), np.zeros((WIDTH, 24))
    turned_over(source, 5, 40, target, 9, 24)
    np.testing.assert_array_equal(target[:, 9 : 9 + WIDTH], source[:, 5 : 5 + WIDTH].T)
    assert np.count_nonzero(target) == WIDTH * WIDTH


@numba.njit
def doubled(source, target):
    for n in range(source.size):
        put(target, n, 2.0 * take(source, n))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_taken_and_put_in_any_precision(dtype: type) -> None:
    source = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    target = np.empty_like(source)
    doubled(source, target)
    np.testing.assert_array_equal(target, 2 * source)
