"""Conversions between decibels, amplitudes, frames and time constants."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from ddsp_la2a.units import (
    FULL_SCALE_16_BIT,
    LEVEL_FLOOR,
    amplitude_to_db,
    coefficient_to_rise_time,
    db_to_amplitude,
    rise_time_to_coefficient,
    seconds_to_frames,
)

LEVELS_DB = np.array([-159.0, -60.0, -20.0, -6.0, 0.0, 3.0, 40.0])
TIMES_MS = np.array([0.05, 1.0, 5.0, 250.0, 5000.0, 60_000.0])
RATES = [44100, 48000, 96000]


@pytest.mark.parametrize(("db", "amplitude"), [(0.0, 1.0), (20.0, 10.0), (-20.0, 0.1), (-160.0, 1e-8), (60.0, 1000.0)])
def test_decibels_of_known_amplitudes(db: float, amplitude: float) -> None:
    assert db_to_amplitude(db) == pytest.approx(amplitude, rel=1e-14)
    assert amplitude_to_db(amplitude) == pytest.approx(db, abs=1e-13)


def test_decibels_there_and_back() -> None:
    np.testing.assert_allclose(amplitude_to_db(db_to_amplitude(LEVELS_DB)), LEVELS_DB, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("amplitude", [0.0, 1e-300, 1e-9, LEVEL_FLOOR])
def test_level_has_a_floor_of_minus_160_db(amplitude: float) -> None:
    assert amplitude_to_db(amplitude) == pytest.approx(-160.0)
    assert float(amplitude_to_db(torch.tensor(amplitude, dtype=torch.float64))) == pytest.approx(-160.0)


def test_level_at_silence_has_a_finite_gradient() -> None:
    amplitude = torch.tensor([0.0, 1e-9, 0.5], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(amplitude_to_db(amplitude).sum(), amplitude)
    assert gradient[:2].tolist() == [0.0, 0.0]
    assert float(gradient[2]) == pytest.approx(20.0 / math.log(10.0) / 0.5)


@pytest.mark.parametrize("sample_rate", RATES)
def test_time_constants_there_and_back(sample_rate: int) -> None:
    times = coefficient_to_rise_time(rise_time_to_coefficient(TIMES_MS, sample_rate), sample_rate)
    np.testing.assert_allclose(times, TIMES_MS, rtol=1e-13)


@pytest.mark.parametrize("sample_rate", RATES)
@pytest.mark.parametrize("time_ms", [0.5, 5.0, 250.0, 2000.0])
def test_rise_time_measured_on_a_step_response(time_ms: float, sample_rate: int) -> None:
    alpha = rise_time_to_coefficient(time_ms, sample_rate)
    frames = seconds_to_frames(2.0 * time_ms / 1000.0, sample_rate)
    response = lfilter([alpha], [1.0, alpha - 1.0], np.ones(frames))
    crossings = np.interp(np.log([0.9, 0.1]), np.log(1.0 - response)[::-1], np.arange(frames)[::-1])
    measured_ms = (crossings[1] - crossings[0]) / sample_rate * 1000.0
    assert abs(measured_ms) == pytest.approx(time_ms, rel=1e-9)


@pytest.mark.parametrize("time_ms", [5_000.0, 1e6, 1e12])
def test_long_times_keep_all_their_digits(time_ms: float) -> None:
    getcontext().prec = 50
    exact = 1 - (-Decimal(9).ln() * 1000 / (Decimal(time_ms) * 44100)).exp()
    assert rise_time_to_coefficient(time_ms, 44100) == pytest.approx(float(exact), rel=4e-16)
    assert coefficient_to_rise_time(float(exact), 44100) == pytest.approx(time_ms, rel=4e-16)


@pytest.mark.parametrize(
    ("convert", "values"),
    [
        (db_to_amplitude, LEVELS_DB),
        (amplitude_to_db, np.array([0.0, 1e-9, 1e-8, 1e-3, 1.0, 7.0])),
        (lambda t: rise_time_to_coefficient(t, 44100), TIMES_MS),
        (lambda a: coefficient_to_rise_time(a, 44100), np.array([1e-9, 1e-5, 0.1, 0.999])),
    ],
    ids=["db_to_amplitude", "amplitude_to_db", "rise_time_to_coefficient", "coefficient_to_rise_time"],
)
def test_numbers_arrays_and_tensors_agree_and_stay_what_they_are(convert, values: np.ndarray) -> None:
    array, tensor = convert(values), convert(torch.from_numpy(values))
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float64
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-14, atol=1e-300)
    for value, expected in zip(values.tolist(), array, strict=True):
        number = convert(value)
        assert isinstance(number, float)
        assert number == pytest.approx(expected, rel=1e-15)
    assert convert(values.astype(np.float32)).dtype == np.float32
    assert convert(torch.from_numpy(values).float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("convert", "value"),
    [
        (db_to_amplitude, -12.0),
        (amplitude_to_db, 0.3),
        (lambda t: rise_time_to_coefficient(t, 44100), 250.0),
        (lambda a: coefficient_to_rise_time(a, 44100), 0.01),
    ],
)
def test_differentiable(convert, value: float) -> None:
    assert torch.autograd.gradcheck(convert, torch.tensor(value, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(("seconds", "frames"), [(0.0, 0), (1.0, 44100), (2.99, 131859), (1e-5, 0), (2e-5, 1)])
def test_seconds_to_whole_frames(seconds: float, frames: int) -> None:
    got = seconds_to_frames(seconds, 44100)
    assert isinstance(got, int)
    assert got == frames


def test_full_scale_is_that_of_16_bit() -> None:
    assert FULL_SCALE_16_BIT == 2**15
