"""The shelf before the detector: its response, and what it does to a compressor's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import signal

from baselines import numpy_stages
from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.dsp.side_chain import shelf_coefficients

# torch's own, from what it imports when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

RATES = (8000, 32000, 44100, 48000, 96000, 192000)
SHELVES = [(9.0, 2500.0), (-6.0, 300.0), (20.0, 80.0), (3.0, 3900.0), (-14.0, 1000.0), (0.0, 500.0)]


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def coefficients_of(shelf_db: float, shelf_hz: float, rate: float) -> tuple[float, float, float]:
    b0, b1, a1 = shelf_coefficients(number(shelf_db), number(shelf_hz), rate)
    return float(b0), float(b1), float(a1)


def magnitude_db(shelf_db: float, shelf_hz: float, rate: float, hz: float | list[float]) -> NDArray[np.float64]:
    b0, b1, a1 = coefficients_of(shelf_db, shelf_hz, rate)
    _, response = signal.freqz([b0, b1], [1.0, a1], np.atleast_1d(hz), fs=rate)
    return 20.0 * np.log10(np.abs(response))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("shelf_db", "shelf_hz"), SHELVES)
def test_coefficients_are_the_bilinear_transform_of_the_analogue_shelf(
    shelf_db: float, shelf_hz: float, rate: float
) -> None:
    b, a = numpy_stages.shelf(shelf_db, shelf_hz, rate)
    np.testing.assert_allclose(coefficients_of(shelf_db, shelf_hz, rate), [*b, a[1]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("shelf_db", "shelf_hz"), SHELVES)
def test_a_thousand_hertz_pass_and_the_ends_are_as_far_apart_as_asked(
    shelf_db: float, shelf_hz: float, rate: float
) -> None:
    low, centre, reference, high = magnitude_db(shelf_db, shelf_hz, rate, [0.0, shelf_hz, 1000.0, rate / 2])
    assert reference == pytest.approx(0.0, abs=1e-10)
    assert high - low == pytest.approx(shelf_db, abs=1e-9)
    assert centre - low == pytest.approx(0.5 * shelf_db, abs=1e-9)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("shelf_db", "shelf_hz"), SHELVES)
def test_the_shelf_only_rises_or_only_falls_and_is_stable_both_ways(
    shelf_db: float, shelf_hz: float, rate: float
) -> None:
    steps = np.diff(magnitude_db(shelf_db, shelf_hz, rate, np.linspace(0.0, rate / 2, 500).tolist()))
    assert (steps * math.copysign(1.0, shelf_db) >= -1e-12).all()
    b0, b1, a1 = coefficients_of(shelf_db, shelf_hz, rate)
    assert abs(a1) < 1.0
    assert abs(b1 / b0) < 1.0  # so is its inverse


def test_low_frequencies_are_those_of_the_analogue_circuit_at_any_rate() -> None:
    hz = np.geomspace(20.0, 2000.0, 50)
    root = 10.0 ** (9.0 / 40.0)

    def analogue(f: NDArray[np.float64] | float) -> NDArray[np.float64]:
        s = 1j * np.asarray(f) / 2500.0
        return np.abs((1.0 + root * s) / (1.0 + s / root))

    expected = 20.0 * np.log10(analogue(hz) / analogue(1000.0))
    for rate, tolerance in ((44100, 0.05), (96000, 0.01), (192000, 0.0025)):
        np.testing.assert_allclose(magnitude_db(9.0, 2500.0, rate, hz.tolist()), expected, atol=tolerance)


def test_rows_one_by_one_equal_the_batch() -> None:
    shelf_db, shelf_hz = (torch.tensor(column, dtype=torch.float64) for column in zip(*SHELVES, strict=True))
    batch = torch.stack(shelf_coefficients(shelf_db, shelf_hz, 44100), dim=1)
    assert batch.shape == (len(SHELVES), 3)
    for row, one in enumerate(SHELVES):
        assert batch[row].tolist() == list(coefficients_of(*one, 44100))


@pytest.mark.parametrize(("shelf_db", "shelf_hz"), SHELVES)
def test_gradcheck(shelf_db: float, shelf_hz: float) -> None:
    inputs = number(shelf_db).requires_grad_(), number(shelf_hz).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: shelf_coefficients(*x, 44100), inputs, check_forward_ad=True)


# In the compressor


def gain_db(hz: float, level_db: float, rate: int, feedback: bool, **shelf: float) -> float:
    sine = 10.0 ** (level_db / 20.0) * np.sin(2.0 * np.pi * hz * np.arange(rate) / rate)
    params = CompressorParams(-30.0, 4.0, 6.0, 1.0, 200.0, feedback=feedback, **shelf)
    gain = compressor(torch.from_numpy(sine)[None], params, rate, trace=True).gain[0, -rate // 10 :]
    return 20.0 * math.log10(float(gain.mean()))


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("rate", [44100, 96000])
def test_the_threshold_is_that_of_a_thousand_hertz_and_highs_are_compressed_more(rate: int, feedback: bool) -> None:
    tolerance = 0.05 if feedback else 0.01  # dB; what is fed back has harmonics, of the gain's ripple
    for level_db in (-36.0, -30.0, -10.0):
        at = {
            (shelf_db, hz): gain_db(hz, level_db, rate, feedback, shelf_db=shelf_db, shelf_hz=2500.0)
            for shelf_db in (-9.0, 0.0, 9.0)
            for hz in (100.0, 1000.0, 8000.0)
        }
        for shelf_db in (-9.0, 9.0):
            assert at[shelf_db, 1000.0] == pytest.approx(at[0.0, 1000.0], abs=tolerance)
        assert at[9.0, 8000.0] < at[0.0, 8000.0] - (0.5 if level_db > -36.0 else 0.0)
        assert at[-9.0, 8000.0] >= at[0.0, 8000.0]
        if level_db == -10.0:
            assert at[9.0, 100.0] > at[0.0, 100.0] + 0.2
            assert at[-9.0, 100.0] < at[0.0, 100.0] - 0.2


def test_the_detector_alone_is_filtered() -> None:
    # Below the threshold the audio passes as it is.
    audio = torch.from_numpy(1e-4 * np.random.default_rng(0).standard_normal((1, 500)))
    params = CompressorParams(-30.0, 4.0, 6.0, 1.0, 200.0, shelf_db=12.0, shelf_hz=2500.0)
    assert torch.equal(compressor(audio, params, 44100), audio)


def test_level_is_that_of_the_filtered_input() -> None:
    x = np.random.default_rng(0).standard_normal(2000)
    params = CompressorParams(-30.0, 4.0, 6.0, 1.0, 200.0, shelf_db=12.0, shelf_hz=2500.0)
    trace = compressor(torch.from_numpy(x)[None], params, 44100, trace=True)
    heard = signal.lfilter(*numpy_stages.shelf(12.0, 2500.0, 44100), x)
    np.testing.assert_allclose(trace.level_db[0], 20.0 * np.log10(np.maximum(np.abs(heard), 1e-8)), atol=1e-9)


@pytest.mark.parametrize("rate", [1000, 1500, 2000])
def test_a_rate_that_has_no_thousand_hertz_is_refused(rate: int) -> None:
    params = CompressorParams(-30.0, 4.0, 6.0, 1.0, 200.0, shelf_db=6.0, shelf_hz=300.0)
    with pytest.raises(ValueError, match=r"^sample_rate: expected"):
        compressor(torch.zeros((1, 10)), params, rate)


def test_a_shelf_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^shelf_db: expected"):
        CompressorParams(-30.0, 4.0, 6.0, 1.0, 200.0, shelf_db=20000.0, shelf_hz=300.0)
