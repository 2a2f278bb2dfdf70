"""The oracle itself, against closed forms and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from baselines import numpy_compressor
from baselines.numpy_compressor import (
    NumpyCompressor,
    amplitude_compressor,
    compressor,
    compressor_gradient,
    static_gain_db,
)

SAMPLE_RATE = 44100
SETTING = {
    "threshold_db": -30.0,
    "ratio": 4.0,
    "knee_db": 8.0,
    "attack_ms": 2.0,
    "release_ms": 30.0,
    "makeup_db": 3.0,
}


def bursts(frames: int = 3000, seed: int = 0) -> np.ndarray:
    """Noise that rises and falls by 40 dB, with some samples at and below the detector's floor."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(frames) * 10.0 ** (-1.0 + np.sin(np.arange(frames) / 200.0))
    x[::97] = 0.0
    x[1::97] = 1e-9
    return x


def test_amplitude_compressor_divides_amplitude_not_decibels() -> None:
    x = np.array([-1.0, -0.2, 0.0, 0.1, 0.2, 0.6])
    np.testing.assert_allclose(amplitude_compressor(x, 0.2, 4.0), [-0.4, -0.2, 0.0, 0.1, 0.2, 0.3])
    np.testing.assert_array_equal(amplitude_compressor(x, 0.2, 1.0), x)


@pytest.mark.parametrize("knee_db", [0.0, 6.0])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 4.0, math.inf])
def test_slopes_of_the_static_curve(ratio: float, knee_db: float) -> None:
    gain = static_gain_db([-60.0, -24.0, -10.0, 0.0], -20.0, ratio, knee_db)
    np.testing.assert_array_equal(gain[:2], 0.0)
    out = np.array([-10.0, 0.0]) + gain[2:]
    assert out[1] - out[0] == pytest.approx(10.0 / ratio)
    assert out[1] == pytest.approx(-20.0 + 20.0 / ratio)


def test_the_knee_is_smooth_and_a_quarter_down_at_the_threshold() -> None:
    """At the threshold the quadratic gives −s w / 8; at both its ends value and slope join the straight parts."""
    assert static_gain_db(-20.0, -20.0, 4.0, 6.0) == pytest.approx(-0.75 * 6.0 / 8.0)
    for end, slope in ((-23.0, 0.0), (-17.0, -0.75)):
        below, at, above = static_gain_db([end - 1e-4, end, end + 1e-4], -20.0, 4.0, 6.0)
        assert (at - below) / 1e-4 == pytest.approx(slope, abs=1e-4)
        assert (above - at) / 1e-4 == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize(("level_db", "knee_db"), [(-40.0, 6.0), (-19.0, 6.0), (-6.0, 6.0), (-6.0, 0.0)])
def test_a_steady_level_settles_on_the_static_curve(level_db: float, knee_db: float) -> None:
    x = np.full(SAMPLE_RATE, 10.0 ** (level_db / 20.0))
    result = compressor(x, SAMPLE_RATE, -20.0, 4.0, knee_db, 5.0, 50.0, makeup_db=2.0)
    expected = level_db + float(static_gain_db(level_db, -20.0, 4.0, knee_db)) + 2.0
    assert 20.0 * math.log10(result.output[-1]) == pytest.approx(expected, abs=1e-9)
    assert result.state == result.gain[-1]


def test_a_steady_sine_settles_on_the_mean_of_its_target() -> None:
    """With one time constant the smoothing is linear, of unit gain at 0 Hz: over a cycle the means are equal."""
    cycle = 441
    x = 0.5 * np.sin(2.0 * np.pi * np.arange(200 * cycle) / cycle)
    result = compressor(x, SAMPLE_RATE, -20.0, 4.0, 6.0, 50.0, 50.0)
    assert result.gain[-cycle:].mean() == pytest.approx(result.target_gain[-cycle:].mean(), rel=1e-12)


@pytest.mark.parametrize(("attack_ms", "release_ms"), [(5.0, 80.0), (80.0, 5.0)])
def test_step_response(attack_ms: float, release_ms: float) -> None:
    frames = SAMPLE_RATE // 2
    x = np.concatenate([np.full(frames, 1.0), np.zeros(frames)])
    gain = compressor(x, SAMPLE_RATE, -20.0, 4.0, 0.0, attack_ms, release_ms).gain
    milliseconds = np.arange(1, frames + 1) / SAMPLE_RATE * 1000.0
    target = 10.0 ** (-15.0 / 20.0)
    falling = target + (1.0 - target) * 9.0 ** (-milliseconds / attack_ms)
    np.testing.assert_allclose(gain[:frames], falling, rtol=1e-11)
    rising = 1.0 + (falling[-1] - 1.0) * 9.0 ** (-milliseconds / release_ms)
    np.testing.assert_allclose(gain[frames:], rising, rtol=1e-11)
    for part, start, end, time_ms in (
        (gain[:frames], 1.0, target, attack_ms),
        (gain[frames:], target, 1.0, release_ms),
    ):
        way = (part - start) / (end - start)
        rise = np.searchsorted(way, 0.9) - np.searchsorted(way, 0.1)
        assert rise / SAMPLE_RATE * 1000.0 == pytest.approx(time_ms, abs=1.01 / SAMPLE_RATE * 1000.0)


def test_level_has_a_floor() -> None:
    result = compressor(np.array([0.0, 1e-9, 1e-8, 1e-7]), SAMPLE_RATE, **SETTING)
    np.testing.assert_allclose(result.level_db, [-160.0, -160.0, -160.0, -140.0])


@pytest.mark.parametrize("knee_db", [0.0, 12.0])
@pytest.mark.parametrize(("attack_ms", "release_ms"), [(1.0, 40.0), (40.0, 1.0), (7.0, 7.0)])
@pytest.mark.parametrize("state", [0.95, 0.3])  # not 1: there a target of 1 changes from attack to release
def test_gradient_against_finite_differences(knee_db: float, attack_ms: float, release_ms: float, state: float) -> None:
    x = bursts()
    weight = np.random.default_rng(1).standard_normal(len(x))
    arguments = SETTING | {"knee_db": knee_db, "attack_ms": attack_ms, "release_ms": release_ms, "state": state}

    def loss(audio: np.ndarray = x, **changed: float) -> float:
        result = compressor(audio, SAMPLE_RATE, **(arguments | changed))
        return float(weight @ result.output + 0.7 * result.state)

    gradient = compressor_gradient(x, SAMPLE_RATE, **arguments, grad_output=weight, grad_state=0.7)
    for name, value in arguments.items():
        if name == "knee_db" and knee_db == 0.0:
            assert gradient[name] == 0.0
            continue
        step = 1e-5
        difference = (loss(**{name: value + step}) - loss(**{name: value - step})) / (2.0 * step)
        assert gradient[name] == pytest.approx(difference, rel=1e-5, abs=1e-5), name
    for n in range(2, len(x), 211):
        step = 1e-6 * max(abs(x[n]), 1e-3)
        high, low = x.copy(), x.copy()
        high[n] += step
        low[n] -= step
        assert gradient["x"][n] == pytest.approx((loss(high) - loss(low)) / (2.0 * step), rel=1e-4, abs=1e-5)


def test_gradient_is_finite_at_every_corner() -> None:
    threshold_db = -20.0
    at_threshold = 10.0 ** (threshold_db / 20.0)
    x = np.array([0.0, -0.0, 1e-8, -1e-8, 1e-300, at_threshold, -at_threshold, 1.0, 0.0])
    for knee_db in (0.0, 1e-12, 6.0):
        gradient = compressor_gradient(
            x, SAMPLE_RATE, threshold_db, 4.0, knee_db, 5.0, 50.0, grad_output=np.ones_like(x)
        )
        assert all(np.isfinite(value).all() for value in gradient.values())
    assert gradient["x"][0] == pytest.approx(1.0)  # silence: the gain alone, the level doesn't move


def test_blocks_equal_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    x = bursts()
    weight = np.random.default_rng(2).standard_normal(len(x))
    whole = compressor(x, SAMPLE_RATE, **SETTING)
    gradient = compressor_gradient(x, SAMPLE_RATE, **SETTING, grad_output=weight)

    state, parts = 1.0, []
    for block in np.split(x, [1, 700, 701, 2222]):
        result = compressor(block, SAMPLE_RATE, **SETTING, state=state)
        state = result.state
        parts.append(result.output)
    np.testing.assert_allclose(np.concatenate(parts), whole.output, rtol=1e-13)

    # The adjoint passes from block to block through grad_state, as the gain does through state.
    late = compressor_gradient(x[700:], SAMPLE_RATE, **SETTING, state=float(whole.gain[699]), grad_output=weight[700:])
    early = compressor_gradient(x[:700], SAMPLE_RATE, **SETTING, grad_output=weight[:700], grad_state=late["state"])
    np.testing.assert_allclose(np.concatenate([early["x"], late["x"]]), gradient["x"], rtol=1e-9, atol=1e-12)
    for name in SETTING:
        assert early[name] + late[name] == pytest.approx(gradient[name], rel=1e-9)

    monkeypatch.setattr(numpy_compressor, "_BLOCK", 257)
    np.testing.assert_allclose(compressor(x, SAMPLE_RATE, **SETTING).output, whole.output, rtol=1e-13)
    in_blocks = compressor_gradient(x, SAMPLE_RATE, **SETTING, grad_output=weight)
    for name, value in gradient.items():
        np.testing.assert_allclose(in_blocks[name], value, rtol=1e-9, atol=1e-12)


def test_no_frames_leave_the_state() -> None:
    result = compressor(np.empty(0), SAMPLE_RATE, **SETTING, state=0.5)
    assert result.output.shape == (0,)
    assert result.state == 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ratio": 0.0}, "ratio: expected"),
        ({"knee_db": -1.0}, "knee_db: expected"),
        ({"attack_ms": 0.0}, "attack_ms: expected"),
        ({"release_ms": math.nan}, "release_ms: expected"),
        ({"sample_rate": 0}, "sample_rate: expected"),
        ({"x": np.zeros((2, 3))}, "x: expected mono"),
    ],
)
def test_errors(changed: dict[str, object], message: str) -> None:
    arguments = {"x": np.zeros(3), "sample_rate": SAMPLE_RATE} | SETTING | changed
    with pytest.raises(ValueError, match=message):
        compressor(**arguments)


def test_model_for_tables() -> None:
    model = NumpyCompressor(**SETTING)
    x = np.stack([bursts(seed=3), bursts(seed=4)])
    knobs = {"compress_or_limit": 1, "peak_reduction": 65}
    both = model.process(x, SAMPLE_RATE, **knobs)
    for row_in, row_out in zip(x, both, strict=True):
        np.testing.assert_array_equal(row_out, compressor(row_in, SAMPLE_RATE, **SETTING).output)
        np.testing.assert_array_equal(row_out, model.process(row_in, SAMPLE_RATE, **knobs))
    assert model.process(x.astype(np.float32), SAMPLE_RATE, **knobs).dtype == np.float32
    with pytest.raises(ValueError, match="expected shape"):
        model.process(np.zeros((1, 1, 3)), SAMPLE_RATE, **knobs)
