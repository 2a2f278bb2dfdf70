"""The filter after the gain: response, delay and colour, other sample rates, taps, and the filtering itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor

from baselines import numpy_stages
from ddsp_la2a.dsp.output_stage import OutputFilter, from_taps, output_filter, slow_coefficient

# torch's own, from what it imports when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

RATES = (22050, 32000, 44100, 48000, 88200, 96000, 192000)
FITTED = (0.02, -0.15, 0.36, -0.1, -0.86)
"""What was fitted to a recording at 44.1 kHz."""


def random_coefficients(seed: int, count: int = 5, scale: float = 0.2) -> tuple[float, ...]:
    return tuple(scale * np.random.default_rng(seed).standard_normal(count))


FILTERS = [FITTED, random_coefficients(1), random_coefficients(2, 3), random_coefficients(3, 9, 0.1), (0.0, 0.0, -0.5)]


def filter_of(coefficients: Any, rate: float = 44100) -> OutputFilter:
    return OutputFilter(torch.tensor(coefficients, dtype=torch.float64), rate)


def apply(kept: OutputFilter, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The filtered signal from rest, latency taken out."""
    padded = torch.from_numpy(np.concatenate([x, np.zeros(kept.latency)]))[None]
    output, _ = output_filter(padded, kept.taps, kept.sample_rate, torch.zeros((1, kept.states), dtype=torch.float64))
    return output[0, kept.latency :].numpy()


def by_scipy(kept: OutputFilter, hz: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Response of its taps and its pole: those of the FIR filter and of the one-pole, summed at the middle tap."""
    *fir, share = kept.taps.tolist()
    alpha = slow_coefficient(kept.sample_rate)
    _, of_fir = signal.freqz(fir, [1.0], hz, fs=kept.sample_rate)
    _, of_pole = signal.freqz([alpha], [1.0, alpha - 1.0], hz, fs=kept.sample_rate)
    return of_fir * np.exp(2j * np.pi * hz / kept.sample_rate * kept.latency) + share * of_pole


def measured(kept: OutputFilter, hz: float) -> complex:
    """Response from a second of a filtered complex exponential, after it has settled."""
    n = np.arange(2 * int(kept.sample_rate))
    phase = 2.0 * np.pi * hz / kept.sample_rate * n
    output = apply(kept, np.cos(phase)) + 1j * apply(kept, np.sin(phase))
    second = slice(len(n) // 2, len(n) - 2 * kept.latency)
    return complex((output[second] * np.exp(-1j * phase[second])).mean())


# Response


@pytest.mark.parametrize("coefficients", FILTERS)
@pytest.mark.parametrize("rate", RATES)
def test_response_is_that_of_the_transfer_function(rate: int, coefficients: tuple[float, ...]) -> None:
    kept, hz = filter_of(coefficients, rate), np.linspace(0.0, rate / 2, 333)
    numerator, denominator = numpy_stages.output_filter(coefficients, rate)
    _, late = signal.freqz(numerator, denominator, hz, fs=rate)
    expected = late * np.exp(2j * np.pi * hz / rate * kept.latency)
    np.testing.assert_allclose(kept.response(hz), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_scipy(kept, hz), expected, rtol=1e-9, atol=1e-9)
    assert abs(kept.response(1000.0)) == pytest.approx(1.0, rel=1e-13)


@pytest.mark.parametrize("coefficients", FILTERS)
def test_response_is_what_a_sine_shows(coefficients: tuple[float, ...]) -> None:
    kept = filter_of(coefficients)
    for hz in (10.0, 100.0, 1000.0, 9000.0, 20000.0):
        assert abs(measured(kept, hz) - complex(kept.response(hz))) < 1e-9
    assert abs(measured(kept, 1000.0)) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("coefficients", FILTERS)
def test_delay_is_the_phase_delay_at_a_thousand_hertz_and_colour_the_rest(coefficients: tuple[float, ...]) -> None:
    kept, hz = filter_of(coefficients), np.array([30.0, 1000.0, 15000.0])
    response = by_scipy(kept, hz)
    assert kept.delay_us == pytest.approx(-np.angle(response[1]) / (2.0 * np.pi * 1000.0) * 1e6, abs=1e-9)
    np.testing.assert_allclose(kept.colour(hz), response * np.exp(2j * np.pi * hz * kept.delay_us * 1e-6), rtol=1e-11)
    assert complex(kept.colour(1000.0)) == pytest.approx(1.0, abs=1e-12)


def test_a_delayed_sine_comes_as_much_later_as_the_delay_says() -> None:
    kept = filter_of((0.0, 0.0, 0.5, 0.0, 0.0))
    n = np.arange(44100)
    later = np.sin(2.0 * np.pi * 1000.0 * (n / 44100 - kept.delay_us * 1e-6))
    output = apply(kept, np.sin(2.0 * np.pi * 1000.0 * n / 44100))
    np.testing.assert_allclose(output[100:-100], later[100:-100], atol=1e-12)
    assert 0.0 < kept.delay_us < 1e6 / 44100
    assert filter_of((0.0, 0.5, 0.0, 0.0, 0.0)).delay_us == pytest.approx(-kept.delay_us, rel=1e-12)


def test_zeros_are_nothing_but_latency() -> None:
    kept = filter_of((0.0,) * 5)
    assert kept.taps.tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert (kept.latency, kept.states) == (2, 5)
    assert kept.delay_us == 0.0
    assert (kept.colour(np.linspace(0.0, 22050.0, 20)) == 1.0).all()
    x = np.random.default_rng(0).standard_normal(100)
    np.testing.assert_array_equal(apply(kept, x), x)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_response_has_the_shape_of_the_frequencies(shape: tuple[int, ...]) -> None:
    hz = np.full(shape, 440.0)
    assert filter_of(FITTED).response(hz).shape == shape
    assert filter_of(FITTED).colour(hz).shape == shape


# Taps


@pytest.mark.parametrize("rate", [16000, 44100, 192000])
@pytest.mark.parametrize("coefficients", FILTERS)
def test_from_taps_is_the_inverse_of_taps(coefficients: tuple[float, ...], rate: int) -> None:
    kept = filter_of(coefficients, rate)
    for gain in (1.0, 0.3, 20.0):
        found, found_gain = from_taps(gain * kept.taps, rate)
        torch.testing.assert_close(found, kept.coefficients, rtol=1e-10, atol=1e-12)
        assert float(found_gain) == pytest.approx(gain, rel=1e-12)


def test_from_taps_row_by_row() -> None:
    rows = torch.tensor([FITTED, random_coefficients(1), random_coefficients(2)], dtype=torch.float64)
    gains = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    taps = OutputFilter(rows, 44100).taps
    assert taps.shape == (3, 6)
    found, found_gains = from_taps(gains[:, None] * taps, 44100)
    torch.testing.assert_close(found, rows, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found_gains, gains, rtol=1e-12, atol=0.0)
    for row in range(3):
        torch.testing.assert_close(filter_of(rows[row].tolist()).taps, taps[row], rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("taps", [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
def test_taps_that_turn_a_tone_round_are_refused(taps: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^taps: expected a filter that leaves a 1 kHz tone upright, got a gain of"):
        from_taps(torch.tensor(taps, dtype=torch.float64), 44100)


@pytest.mark.parametrize("coefficients", FILTERS)
def test_taps_gradcheck(coefficients: tuple[float, ...]) -> None:
    leaf = torch.tensor(coefficients, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: OutputFilter(c, 44100).taps, leaf, check_forward_ad=True)
    assert torch.autograd.gradcheck(
        lambda c: from_taps(1.7 * OutputFilter(c, 44100).taps, 44100), leaf, check_forward_ad=True
    )


# Other sample rates


def deviation(coefficients: tuple[float, ...], rate: int) -> tuple[float, float]:
    """dB and degrees by which the filter of another rate is off, up to 0.4 of the lower rate."""
    kept = filter_of(coefficients)
    hz = np.concatenate([np.geomspace(1.0, 0.4 * min(rate, 44100), 600), np.linspace(0.0, 0.4 * min(rate, 44100), 600)])
    off = kept.at(rate).response(hz) / kept.response(hz)
    return float(np.abs(20.0 * np.log10(np.abs(off))).max()), float(np.degrees(np.abs(np.angle(off))).max())


@pytest.mark.parametrize("coefficients", [FITTED, *(random_coefficients(seed) for seed in range(8))])
@pytest.mark.parametrize("rate", [48000, 88200, 96000, 192000])
def test_a_higher_rate_keeps_magnitude_and_phase(rate: int, coefficients: tuple[float, ...]) -> None:
    db, degrees = deviation(coefficients, rate)
    assert db < 0.02
    assert degrees < 0.15
    assert db < (0.01 if rate == 48000 else 0.001)


@pytest.mark.parametrize("coefficients", [FITTED, *(random_coefficients(seed) for seed in range(8))])
@pytest.mark.parametrize("rate", [16000, 22050, 32000])
def test_a_lower_rate_keeps_magnitude_and_phase_well_enough(rate: int, coefficients: tuple[float, ...]) -> None:
    db, degrees = deviation(coefficients, rate)
    assert db < 0.12
    assert degrees < 1.0


@pytest.mark.parametrize("rate", [22050, 32000])
def test_a_lower_rate_keeps_magnitude(rate: int) -> None:
    db, _ = deviation(FITTED, rate)
    assert db < 0.02


def test_delay_in_microseconds_is_that_of_any_rate() -> None:
    kept = filter_of(FITTED)
    for rate in RATES:
        assert kept.at(rate).delay_us == pytest.approx(kept.delay_us, abs=0.5)


def test_its_own_rate_is_itself() -> None:
    kept = filter_of(FITTED)
    assert kept.at(44100) is kept


def test_at_is_row_by_row_and_differentiable() -> None:
    rows = torch.tensor([FITTED, random_coefficients(1)], dtype=torch.float64, requires_grad=True)
    both = OutputFilter(rows, 44100).at(48000)
    assert both.coefficients.shape == (2, 2 * both.latency + 1)
    for row in range(2):
        alone = OutputFilter(rows[row].detach(), 44100).at(48000)
        torch.testing.assert_close(both.coefficients[row].detach(), alone.coefficients, rtol=1e-8, atol=1e-9)
    assert torch.autograd.gradcheck(lambda c: OutputFilter(c, 44100).at(48000).coefficients, rows, atol=1e-4)


# Filtering


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("coefficients", FILTERS)
def test_output_is_that_of_scipy(coefficients: tuple[float, ...], dtype: torch.dtype) -> None:
    kept = filter_of(coefficients)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1000))).to(dtype)
    output, state = output_filter(x, kept.taps, 44100, torch.zeros((2, kept.states), dtype=torch.float64))
    expected = signal.lfilter(*numpy_stages.output_filter(coefficients, 44100), x.double().numpy(), axis=1)
    assert output.dtype == dtype
    assert state.dtype == torch.float64
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6 if dtype is torch.float32 else 1e-13)
    np.testing.assert_array_equal(state[:, :-1], x[:, 1000 - 2 * kept.latency :].double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cuts", [[], [0], [1, 2, 3, 3], [17, 18, 90], list(range(100))])
def test_state_carried_over_a_partition_equals_one_pass(cuts: list[int], dtype: torch.dtype) -> None:
    kept = filter_of(FITTED)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 100))).to(dtype)
    state = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 5)))
    whole, last = output_filter(x, kept.taps, 44100, state)
    parts = []
    for block in torch.tensor_split(x, cuts, dim=1):
        part, state = output_filter(block, kept.taps, 44100, state)
        parts.append(part)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert torch.equal(state, last)


@pytest.mark.parametrize("wanted", ["x", "taps", "state", "all"])
@pytest.mark.parametrize("frames", [1, 3, 12])
def test_gradcheck(frames: int, wanted: str) -> None:
    rng = np.random.default_rng(0)
    rows = torch.tensor([FITTED, random_coefficients(1)], dtype=torch.float64)
    inputs = {
        "x": torch.from_numpy(rng.standard_normal((2, frames))),
        "taps": OutputFilter(rows, 44100).taps,
        "state": torch.from_numpy(rng.standard_normal((2, 5))),
    }
    leaves = [value.requires_grad_(wanted in (name, "all")) for name, value in inputs.items()]

    def run(x: Tensor, taps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return output_filter(x, taps, 44100, state)

    assert torch.autograd.gradcheck(run, leaves, check_forward_ad=True)


# Errors


@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (2, 6), (1, 1, 5), (0,)])
def test_coefficients_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^coefficients: expected a tensor \(2 L \+ 1,\) or \(batch, 2 L \+ 1\), got"):
        OutputFilter(torch.zeros(shape), 44100)


@pytest.mark.parametrize("coefficients", [[0.0] * 5, np.zeros(5), None, 0.1])
def test_coefficients_that_are_no_tensor_are_refused(coefficients: Any) -> None:
    with pytest.raises(ValueError, match=r"^coefficients: expected a tensor"):
        OutputFilter(coefficients, 44100)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_coefficients_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^coefficients: expected finite numbers, got"):
        filter_of((0.0, value, 0.0))


@pytest.mark.parametrize("rate", [0, -44100, math.nan, math.inf, "44100", None])
def test_an_unfit_sample_rate_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"^sample_rate: expected"):
        filter_of(FITTED, rate)
    with pytest.raises(ValueError, match=r"^sample_rate: expected"):
        filter_of(FITTED).at(rate)
