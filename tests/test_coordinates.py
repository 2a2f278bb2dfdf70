"""Points of a recording: what they stand for, how their values move with them, their prior and where fits start."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP, SHELF_HZ, SLOW_FACTOR, TAPS
from ddsp_la2a.model.stages import PLAIN, Stages, stages_text

RATE = 44100.0
EVERY = pytest.mark.parametrize(
    "stages", [Stages(*on) for on in itertools.product((False, True), repeat=4)], ids=stages_text
)
ALL = Stages(True, True, True, True)


def somewhere(coordinates: Coordinates, seed: int = 0) -> np.ndarray:
    """A point within two of 0 in every direction, the make-up within 2 dB."""
    return np.random.default_rng(seed).uniform(-2.0, 2.0, len(coordinates.parameters))


@EVERY
def test_order_and_size(stages: Stages) -> None:
    coordinates = Coordinates(stages, RATE)
    assert coordinates.parameters == (*CARD_PARAMETERS, *stages.parameters)
    assert coordinates.parameters[len(CARD_PARAMETERS)] is MAKEUP
    assert coordinates.start.shape == coordinates.limit.shape == (len(coordinates.parameters),)
    assert len(coordinates.device_variance()) == len(coordinates.device_precision()) == len(stages.parameters)


@EVERY
def test_the_start_is_that_of_the_table_with_a_makeup_in_db(stages: Stages) -> None:
    coordinates = Coordinates(stages, RATE)
    found = coordinates.values(coordinates.start)
    assert found == pytest.approx({p.name: p.start for p in coordinates.parameters}, abs=1e-12)


@EVERY
def test_values_are_those_of_the_table(stages: Stages) -> None:
    coordinates = Coordinates(stages, RATE)
    point = somewhere(coordinates)
    for parameter, at, value in zip(coordinates.parameters, point, coordinates.values(point).values(), strict=True):
        expected = at if parameter is MAKEUP else float(parameter.to_physical(torch.tensor(at)))
        assert value == expected, parameter.name


@EVERY
def test_the_compressor_of_a_point(stages: Stages) -> None:
    coordinates = Coordinates(stages, RATE)
    point = somewhere(coordinates, 1)
    values, params = coordinates.values(point), coordinates.physical(point)
    assert params.feedback is stages.feedback
    given = {name: float(value) for name, value in params.numbers().items()}
    taps = [values.pop(tap.name) for tap in TAPS] if stages.output_filter else None
    assert given == values
    if taps is None:
        assert params.output_filter is None
    else:
        assert params.output_filter is not None
        assert params.output_filter.coefficients.tolist() == taps
        assert params.output_filter.sample_rate == RATE


@EVERY
@pytest.mark.parametrize("seed", [2, 3])
def test_slopes_are_central_differences(stages: Stages, seed: int) -> None:
    coordinates = Coordinates(stages, RATE)
    point = somewhere(coordinates, seed)
    for i, parameter in enumerate(coordinates.parameters):
        step = 1e-5 * np.eye(len(point))[i]
        above, below = (coordinates.values(point + sign * step) for sign in (1.0, -1.0))
        moved = {name: above[name] - below[name] for name in above if above[name] != below[name]}
        assert list(moved) == [parameter.name]
        expected = moved[parameter.name] / 2e-5
        assert coordinates.slopes(point)[i] == pytest.approx(expected, rel=1e-6), parameter.name


def test_shares_are_slopes_on_the_scale_by_the_range() -> None:
    coordinates = Coordinates(ALL, RATE)
    point = somewhere(coordinates, 4)
    for i, (parameter, share) in enumerate(zip(coordinates.parameters, coordinates.shares(point), strict=True)):
        if parameter is MAKEUP:
            assert share == 1.0
            continue
        ends = torch.tensor([parameter.low, parameter.high], dtype=torch.float64)
        bottom, top = parameter.scaled(ends).tolist()
        at = torch.tensor([point[i] + 1e-5, point[i] - 1e-5], dtype=torch.float64)
        above, below = parameter.scaled(parameter.to_physical(at)).tolist()
        assert share == pytest.approx((above - below) / 2e-5 / (top - bottom), rel=1e-6), parameter.name


@EVERY
def test_only_the_coefficients_of_the_filter_have_a_prior(stages: Stages) -> None:
    coordinates = Coordinates(stages, RATE)
    device = coordinates.parameters[len(CARD_PARAMETERS) :]
    variance, precision = coordinates.device_variance(), coordinates.device_precision()
    is_tap = np.array([p in TAPS for p in device])
    assert np.isinf(variance[~is_tap]).all()
    assert (precision[~is_tap] == 0.0).all()
    assert (precision[is_tap] > 0.0).all()
    for tap, its_variance in zip(TAPS, variance[is_tap], strict=False):
        spread = float(tap.to_physical(torch.tensor(1e-3 * np.sqrt(its_variance)))) / 1e-3
        assert spread == pytest.approx(0.5, rel=1e-3)  # in the filter's own numbers


def test_the_prior_of_a_filter_is_centred_on_no_filter() -> None:
    coordinates = Coordinates(Stages(), RATE)
    taps = slice(-len(TAPS), None)
    np.testing.assert_allclose(coordinates.start[taps], 0.0, atol=1e-15)
    chosen = coordinates.physical(coordinates.start).output_filter
    assert isinstance(chosen, OutputFilter)
    np.testing.assert_allclose(chosen.response([20.0, 1000.0, 20000.0]), 1.0, rtol=1e-14)


@EVERY
def test_at_the_limit_every_parameter_is_at_an_end_of_its_range(stages: Stages) -> None:
    coordinates = Coordinates(stages, RATE)
    for sign, end in ((-1.0, "low"), (1.0, "high")):
        found = coordinates.values(sign * coordinates.limit)
        for parameter in coordinates.parameters:
            ends = torch.tensor([parameter.low, parameter.high, found[parameter.name]], dtype=torch.float64)
            low, high, value = parameter.scaled(ends).tolist()
            share = 0.011 if parameter is MAKEUP else 1e-5
            assert abs(value - (low if end == "low" else high)) <= share * (high - low), parameter.name
        coordinates.physical(sign * coordinates.limit)  # a compressor takes it


@EVERY
@pytest.mark.parametrize("filtered", [False, True])
def test_staged_starts_keep_the_point_and_try_both_sides(stages: Stages, filtered: bool) -> None:
    of = Coordinates(replace(PLAIN, output_filter=filtered and stages.output_filter), RATE)
    point = somewhere(of, 5)
    coordinates = Coordinates(stages, RATE)
    starts = coordinates.staged_starts(point, of)
    assert len(starts) == 2 ** (stages.slow_release + stages.shelf)
    values = [coordinates.values(start) for start in starts]
    for start in starts:
        kept = [coordinates.parameters.index(p) for p in of.parameters]
        np.testing.assert_array_equal(start[kept], point)
        assert start.shape == coordinates.start.shape
    tried = {tuple(round(v[p.name], 6) for p in (SLOW_FACTOR, SHELF_HZ) if p.name in v) for v in values}
    expected = itertools.product(
        *([(6.0, 40.0)] if stages.slow_release else []), *([(100.0, 2000.0)] if stages.shelf else [])
    )
    assert tried == set(expected)
    known = {*of.parameters, SLOW_FACTOR, SHELF_HZ}
    others = [p for p in coordinates.parameters if p not in known]
    assert all(v[p.name] == pytest.approx(p.start, abs=1e-12) for v in values for p in others)


def test_starts_of_a_compressor_without_stages_are_the_point_itself() -> None:
    point = somewhere(Coordinates(PLAIN, RATE), 6)
    plain = Coordinates(PLAIN, RATE)
    (start,) = plain.staged_starts(point, plain)
    np.testing.assert_array_equal(start, point)
