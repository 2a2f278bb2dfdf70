"""The oracle of the stages, against closed forms and the oracle without stages."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from baselines import numpy_compressor
from baselines.numpy_stages import output_filter, shelf, staged_compressor

RATE = 44100
SETTING = {
    "threshold_db": -30.0,
    "ratio": 4.0,
    "knee_db": 8.0,
    "attack_ms": 2.0,
    "release_ms": 30.0,
    "makeup_db": 3.0,
}


def bursts(frames: int = 1500, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(frames) * 10.0 ** (-1.0 + np.sin(np.arange(frames) / 200.0))
    x[::97] = 0.0
    return x


@pytest.mark.parametrize("knee_db", [0.0, 8.0])
def test_without_stages_it_is_the_plain_compressor(knee_db: float) -> None:
    x, setting = bursts(), SETTING | {"knee_db": knee_db}
    plain = numpy_compressor.compressor(x, RATE, **setting, state=0.8)
    result = staged_compressor(x, RATE, **setting, state=0.8)
    np.testing.assert_allclose(result.output, plain.output, rtol=1e-12)
    np.testing.assert_allclose(result.gain, plain.gain, rtol=1e-12)
    np.testing.assert_allclose(result.level_db, plain.level_db, rtol=1e-12)
    np.testing.assert_allclose(result.target_gain, plain.target_gain, rtol=1e-12)


def test_a_constant_settles_where_the_closed_loop_has_its_ratio() -> None:
    result = staged_compressor(np.full(RATE // 2, 1.0), RATE, **SETTING | {"knee_db": 0.0}, feedback=True)
    assert 20.0 * np.log10(result.fed_back) == pytest.approx(-30.0 + 30.0 / 4.0, abs=1e-9)


def test_shelf_and_output_filter_pass_a_thousand_hertz() -> None:
    for b, a in (shelf(9.0, 2500.0, RATE), output_filter([0.02, -0.15, 0.36, -0.1, -0.86], RATE)):
        assert abs(signal.freqz(b, a, [1000.0], fs=RATE)[1][0]) == pytest.approx(1.0, rel=1e-12)
    b, a = shelf(9.0, 2500.0, RATE)
    low, high = np.abs(signal.freqz(b, a, [0.0, RATE / 2], fs=RATE)[1])
    assert 20.0 * np.log10(high / low) == pytest.approx(9.0)


def test_no_coefficients_are_no_output_filter() -> None:
    b, a = output_filter([0.0] * 5, RATE)
    x = bursts()
    np.testing.assert_allclose(signal.lfilter(b, a, x)[2:], x[:-2], atol=1e-14)


def test_no_frames() -> None:
    assert staged_compressor(np.empty(0), RATE, **SETTING, feedback=True).output.shape == (0,)
