"""The compressor block by block."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from baselines import numpy_compressor
from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.dsp.stream import Stream

RATE = 44100
SETTING = {
    "threshold_db": -30.0,
    "ratio": 4.0,
    "knee_db": 8.0,
    "attack_ms": 2.0,
    "release_ms": 30.0,
    "makeup_db": 3.0,
}
PARAMS = CompressorParams(**SETTING)


def noise(channels: int, frames: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    envelope = 10.0 ** (-1.0 + np.sin(np.arange(frames) / 300.0 + np.arange(channels)[:, None]))
    return (rng.standard_normal((channels, frames)) * envelope).astype(dtype)


def one_pass(x: np.ndarray) -> np.ndarray:
    return compressor(torch.from_numpy(x), PARAMS, RATE).numpy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_any_partition_equals_one_pass(seed: int, channels: int, dtype: type) -> None:
    x = noise(channels, 5000, seed, dtype)
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(5000, 12)).repeat(rng.integers(1, 3, 12))  # a cut twice is a block of no samples
    stream = Stream(PARAMS, RATE, channels=channels, linked=False)
    blocks = [stream.process(block) for block in np.split(x, cuts, axis=1)]
    assert min(block.shape[1] for block in blocks) == 0
    output = np.concatenate(blocks, axis=1)
    assert output.dtype == dtype
    np.testing.assert_array_equal(output, Stream(PARAMS, RATE, channels=channels, linked=False).process(x))
    np.testing.assert_allclose(output, one_pass(x), rtol=1e-12 if dtype is np.float64 else 1e-6, atol=1e-15)


@pytest.mark.parametrize("frames", [1, 2, 64])
def test_small_blocks_of_one_channel(frames: int) -> None:
    x = noise(1, 640)
    stream = Stream(PARAMS, RATE)
    output = np.concatenate([stream.process(block) for block in np.split(x[0], 640 // frames)])
    np.testing.assert_array_equal(output, Stream(PARAMS, RATE).process(x[0]))


def test_output_and_state_are_those_of_the_reference() -> None:
    x = noise(1, 3000, seed=3)[0]
    stream = Stream(PARAMS, RATE)
    expected = numpy_compressor.compressor(x, RATE, **SETTING)
    np.testing.assert_allclose(stream.process(x), expected.output, rtol=1e-11)
    assert float(stream.state[0]) == pytest.approx(expected.state, rel=1e-12)


def test_linked_channels_have_one_gain_led_by_the_loudest() -> None:
    x = noise(2, 4000, seed=1)
    output = Stream(PARAMS, RATE, channels=2).process(x)
    loudest = np.abs(x).max(axis=0)
    gain = numpy_compressor.compressor(loudest, RATE, **SETTING).gain * 10.0 ** (SETTING["makeup_db"] / 20.0)
    np.testing.assert_allclose(output, gain * x, rtol=1e-11)


def test_linked_channels_pull_each_other_down_and_unlinked_do_not() -> None:
    x = np.stack([np.full(4000, 0.9), np.full(4000, 0.001)])
    linked = Stream(PARAMS, RATE, channels=2, linked=True).process(x)
    separate = Stream(PARAMS, RATE, channels=2, linked=False).process(x)
    np.testing.assert_array_equal(linked[0], separate[0])
    assert linked[1, -1] < 0.2 * separate[1, -1]
    assert linked[0, -1] / linked[1, -1] == pytest.approx(900.0, rel=1e-12)


@pytest.mark.parametrize("linked", [False, True])
def test_the_same_signal_on_both_channels_equals_mono(linked: bool) -> None:
    x = noise(1, 2000, seed=2)
    output = Stream(PARAMS, RATE, channels=2, linked=linked).process(np.repeat(x, 2, axis=0))
    mono = Stream(PARAMS, RATE).process(x)
    np.testing.assert_array_equal(output, np.repeat(mono, 2, axis=0))


def test_reset_is_a_fresh_start() -> None:
    x = noise(2, 1000)
    stream = Stream(PARAMS, RATE, channels=2)
    first = stream.process(x)
    assert not np.array_equal(stream.process(x), first)
    stream.reset()
    np.testing.assert_array_equal(stream.process(x), first)


def test_a_copied_state_resumes() -> None:
    x = noise(1, 1000)[0]
    stream = Stream(PARAMS, RATE)
    stream.process(x[:400])
    state = stream.state.copy()
    expected = stream.process(x[400:])
    other = Stream(PARAMS, RATE)
    other.state = state
    np.testing.assert_array_equal(other.process(x[400:]), expected)


def test_gain_reduction_is_that_of_the_most_compressed_channel() -> None:
    stream = Stream(PARAMS, RATE, channels=2, linked=False)
    assert stream.gain_reduction_db == 0.0
    stream.process(np.stack([np.full(RATE, 1e-3), np.full(RATE, 1.0)]))
    assert stream.gain_reduction_db == pytest.approx(0.75 * 30.0, abs=1e-6)
    stream.process(np.zeros((2, RATE)))
    assert stream.gain_reduction_db == pytest.approx(0.0, abs=1e-6)


def test_meter_at_rest_reads_plus_zero() -> None:
    assert math.copysign(1.0, Stream(PARAMS, RATE).gain_reduction_db) == 1.0


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[:, ::-2][:2], lambda x: np.broadcast_to(x[:1], (2, 300))])
def test_any_memory_layout(view, linked: bool) -> None:
    x = view(noise(2, 300) if view(noise(2, 300)).shape[0] == 2 else noise(2, 300).T.copy())
    output = Stream(PARAMS, RATE, channels=2, linked=linked).process(x)
    np.testing.assert_array_equal(output, Stream(PARAMS, RATE, channels=2, linked=linked).process(x.copy()))


def test_the_block_is_not_changed() -> None:
    x = noise(2, 100)
    before = x.copy()
    Stream(PARAMS, RATE, channels=2).process(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("block", [np.zeros(10, np.int16), np.zeros(10, np.float16), np.zeros(10, complex)])
def test_a_block_of_another_type_is_refused(block: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^block: expected float32 or float64, got"):
        Stream(PARAMS, RATE).process(block)


@pytest.mark.parametrize("block", [[0.1, 0.2], None, torch.zeros(4)])
def test_a_block_that_is_no_array_is_refused_by_name(block: Any) -> None:
    with pytest.raises(ValueError, match=r"^block: expected"):
        Stream(PARAMS, RATE).process(block)


@pytest.mark.parametrize(("channels", "shape"), [(1, (2, 10)), (2, (10,)), (2, (3, 10)), (2, (10, 2)), (1, (1, 1, 10))])
def test_another_number_of_channels_is_refused(channels: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^block: expected {channels} channel"):
        Stream(PARAMS, RATE, channels=channels).process(np.zeros(shape))


@pytest.mark.parametrize("channels", [0, -1])
def test_no_channels_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=r"^channels: expected"):
        Stream(PARAMS, RATE, channels=channels)


@pytest.mark.parametrize("values", [torch.tensor([2.0, 3.0]), np.array([2.0, 3.0])], ids=["tensor", "array"])
def test_parameters_that_differ_by_row_are_refused_by_name(values: Any) -> None:
    with pytest.raises(ValueError, match=r"^ratio: expected"):
        Stream(CompressorParams(**SETTING | {"ratio": values}), RATE)


def test_parameters_may_be_tensors_that_require_gradients() -> None:
    ratio = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    x = noise(1, 100)
    output = Stream(CompressorParams(**SETTING | {"ratio": ratio}), RATE).process(x)
    np.testing.assert_allclose(output, one_pass(x), rtol=1e-12)


@pytest.mark.parametrize("sample_rate", [0.0, -44100.0, math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
def test_an_unfit_sample_rate_is_refused_by_name(sample_rate: float) -> None:
    with pytest.raises(ValueError, match=r"^sample_rate: expected"):
        Stream(PARAMS, sample_rate)


@pytest.mark.parametrize("state", [0.5, np.full(3, 0.5), np.full((2, 1), 0.5)], ids=["number", "three", "a column"])
def test_a_state_that_does_not_fit_is_refused(state: Any) -> None:
    # None is shorter than the channels: unchecked, that would be read beyond its end.
    stream = Stream(PARAMS, RATE, channels=2)
    with pytest.raises(ValueError, match=r"^state: expected"):  # noqa: PT012 - on assignment or in use
        stream.state = state
        stream.process(np.zeros((2, 4)))


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "stages",
    [
        {},
        {"slow_factor": 9.0, "slow_mix": 0.4},
        {"shelf_db": 9.0, "shelf_hz": 2500.0},
        {"feedback": True},
        {"shelf_db": 9.0, "shelf_hz": 2500.0, "feedback": True},
    ],
    ids=lambda stages: "+".join(stages) or "plain",
)
def test_a_sample_that_is_not_finite_spoils_only_itself(stages: dict[str, Any], bad: float, linked: bool) -> None:
    x = noise(2, 200)
    x[0, 50] = bad
    stream = Stream(CompressorParams(**SETTING, **stages), RATE, channels=2, linked=linked)
    output = stream.process(x)
    assert np.argwhere(~np.isfinite(output)).tolist() == [[0, 50]]
    assert np.isfinite(stream.state).all()
    stream.state = stream.state.copy()
