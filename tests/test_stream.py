"""The compressor block by block."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from baselines import numpy_compressor, numpy_stages
from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.dsp.glide import GLIDE_MS, GLIDE_STEP
from ddsp_la2a.dsp.optical_cell import OpticalCellParams
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.dsp.stream import Stream

RATE = 44100
FILTER = (0.02, -0.15, 0.36, -0.1, -0.86)
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


# Every combination of stages


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("linked", [False, True])
def test_any_partition_with_stages_equals_one_call(stages, linked: bool, dtype: type) -> None:
    x = noise(2, 2000, 5, dtype)
    params = stages.params(SETTING, RATE)
    whole_stream = Stream(params, RATE, channels=2, linked=linked)
    whole = whole_stream.process(x)
    assert whole.dtype == dtype
    cuts = [0, 1, 2, 3, 3, 8, *np.sort(np.random.default_rng(0).integers(9, 2000, 6))]
    stream = Stream(params, RATE, channels=2, linked=linked)
    blocks = [stream.process(block) for block in np.split(x, cuts, axis=1)]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)
    np.testing.assert_array_equal(stream.state, whole_stream.state)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stream_and_compressor_are_the_same_to_the_last_bit(stages, dtype: type) -> None:
    x = noise(2, 2000, 6, dtype)
    params = stages.params(SETTING, RATE)
    stream = Stream(params, RATE, channels=2, linked=False)
    output, state = compressor(torch.from_numpy(x), params, RATE, return_state=True)
    np.testing.assert_array_equal(stream.process(x), output.numpy())
    np.testing.assert_array_equal(stream.state, state.numpy())


def test_stream_goes_on_from_a_state_of_compressor_and_back(stages) -> None:
    x = noise(1, 900, 7)
    params = stages.params(SETTING, RATE)
    whole = compressor(torch.from_numpy(x), params, RATE).numpy()
    first, state = compressor(torch.from_numpy(x[:, :300]), params, RATE, return_state=True)
    stream = Stream(params, RATE)
    stream.state = state.numpy()
    second = stream.process(x[:, 300:600])
    last = compressor(torch.from_numpy(x[:, 600:]), params, RATE, state=torch.from_numpy(stream.state))
    np.testing.assert_array_equal(np.concatenate([first, second, last], axis=1), whole)


def test_output_with_stages_is_that_of_the_reference(stages) -> None:
    x = noise(1, 1500, seed=3)[0]
    expected = stages.oracle(x, RATE, SETTING)
    np.testing.assert_allclose(
        Stream(stages.params(SETTING, RATE), RATE).process(x), expected.output, rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("linked", [False, True])
def test_with_stages_the_same_signal_on_both_channels_equals_mono(stages, linked: bool, dtype: type) -> None:
    x = noise(1, 1200, 2, dtype)
    params = stages.params(SETTING, RATE)
    output = Stream(params, RATE, channels=2, linked=linked).process(np.repeat(x, 2, axis=0))
    np.testing.assert_array_equal(output, np.repeat(Stream(params, RATE).process(x), 2, axis=0))


@pytest.mark.parametrize(
    "stages", [("feedback",), ("shelf",), ("slow", "shelf", "feedback")], indirect=True, ids="+".join
)
def test_linked_channels_share_one_gain_with_stages(stages) -> None:
    x = noise(2, 3000, seed=1)
    output = Stream(stages.params(SETTING, RATE), RATE, channels=2).process(x)
    gain = output / x
    np.testing.assert_allclose(gain[0], gain[1], rtol=1e-12)
    for channel in range(2):  # neither is led by itself alone
        alone = Stream(stages.params(SETTING, RATE), RATE).process(x[channel])
        assert not np.allclose(output[channel], alone, rtol=1e-3)
    silent = x.copy()
    silent[1] = 0.0
    led = Stream(stages.params(SETTING, RATE), RATE, channels=2).process(silent)
    np.testing.assert_array_equal(led[0], Stream(stages.params(SETTING, RATE), RATE).process(x[0]))


def test_linked_channels_are_led_by_the_one_whose_shelved_signal_is_loudest() -> None:
    x = noise(2, 3000, seed=1)
    shelf = {"shelf_db": 9.0, "shelf_hz": 2500.0}
    heard = np.abs(lfilter(*numpy_stages.shelf(**shelf, sample_rate=RATE), x, axis=1)).max(axis=0)
    gain = numpy_compressor.compressor(heard, RATE, **SETTING).gain * 10.0 ** (SETTING["makeup_db"] / 20.0)
    output = Stream(CompressorParams(**SETTING, **shelf), RATE, channels=2).process(x)
    np.testing.assert_allclose(output, gain * x, rtol=1e-10)


def test_reset_with_stages_is_a_fresh_start(stages) -> None:
    x = noise(2, 400)
    stream = Stream(stages.params(SETTING, RATE), RATE, channels=2)
    rest = stream.state.copy()
    first = stream.process(x)
    assert not np.array_equal(stream.process(x), first)
    stream.reset()
    np.testing.assert_array_equal(stream.state, rest)
    np.testing.assert_array_equal(stream.process(x), first)


def test_a_copied_state_resumes_with_stages(stages) -> None:
    x = noise(2, 600)
    stream, other = (Stream(stages.params(SETTING, RATE), RATE, channels=2) for _ in range(2))
    stream.process(x[:, :250])
    state = stream.state.copy()
    expected = stream.process(x[:, 250:])
    other.state = state
    np.testing.assert_array_equal(other.process(x[:, 250:]), expected)
    np.testing.assert_array_equal(state, stages_state_after(stages, x[:, :250]))


def stages_state_after(stages, x: np.ndarray) -> np.ndarray:
    stream = Stream(stages.params(SETTING, RATE), RATE, channels=2)
    stream.process(x)
    return stream.state


def test_a_state_that_was_set_is_a_copy(stages) -> None:
    stream = Stream(stages.params(SETTING, RATE), RATE, channels=2)
    state = stream.state.copy()
    stream.state = state
    stream.process(noise(2, 100))
    np.testing.assert_array_equal(state, Stream(stages.params(SETTING, RATE), RATE, channels=2).state)


def test_empty_blocks_change_nothing(stages) -> None:
    stream = Stream(stages.params(SETTING, RATE), RATE)
    stream.process(noise(1, 50))
    before = stream.state.copy()
    assert stream.process(np.empty((1, 0))).shape == (1, 0)
    assert stream.process(np.empty(0, np.float32)).shape == (0,)
    np.testing.assert_array_equal(stream.state, before)


def test_silence_and_denormals_stay_finite_with_stages(stages) -> None:
    params = stages.params(SETTING, RATE)
    assert not Stream(params, RATE).process(np.zeros(100)).any()
    for dtype in (np.float32, np.float64):
        stream = Stream(params, RATE)
        stream.process(noise(1, 200, dtype=dtype))
        faint = np.full(200, np.finfo(dtype).smallest_subnormal, dtype)
        assert np.isfinite(stream.process(faint)).all()
        assert np.isfinite(stream.state).all()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    "view", [lambda x: x[:, ::-2], lambda x: x.T.copy().T, lambda x: np.broadcast_to(x[:1], x.shape)]
)
@pytest.mark.parametrize("stages", [("slow", "shelf", "feedback", "filter")], indirect=True, ids="+".join)
def test_any_memory_layout_with_stages(stages, view, linked: bool) -> None:
    x = view(noise(2, 300))
    before = x.copy()
    output = Stream(stages.params(SETTING, RATE), RATE, channels=2, linked=linked).process(x)
    expected = Stream(stages.params(SETTING, RATE), RATE, channels=2, linked=linked).process(before)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(x, before)


def test_the_shelf_forgets_in_silence() -> None:
    # A subnormal that rounds to itself would stay for ever, and cost several times as much as zero.
    stream = Stream(CompressorParams(**SETTING, shelf_db=9.0, shelf_hz=300.0), RATE)
    stream.process(noise(1, 100))
    stream.process(np.zeros((1, 2 * RATE)))
    assert stream.state[0, 2] == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_passes_through_the_output_filter(bad: float) -> None:
    kept = OutputFilter(torch.tensor([0.1, 0.2, -0.3, 0.1, -0.5]), RATE)
    params = CompressorParams(**SETTING, output_filter=kept)
    x = noise(1, 200)
    x[0, 50] = bad
    output = Stream(params, RATE).process(x)
    assert np.argwhere(~np.isfinite(output[0])).flatten().tolist() == [50, 51, 52, 53, 54]


def test_latency_is_that_of_the_output_filter_at_this_rate() -> None:
    kept = OutputFilter(torch.tensor([0.1, -0.2, 0.3, 0.0, -0.1]), RATE)
    assert Stream(PARAMS, RATE).latency_samples == 0
    assert Stream(CompressorParams(**SETTING, output_filter=kept), RATE).latency_samples == 2
    elsewhere = Stream(CompressorParams(**SETTING, output_filter=kept), 96000)
    assert elsewhere.latency_samples == kept.at(96000).latency > 2
    x = np.zeros(100)
    x[0] = 1e-3
    assert int(np.abs(elsewhere.process(x)).argmax()) == pytest.approx(elsewhere.latency_samples, abs=1)


def test_meter_shows_both_cells_mixed() -> None:
    params = CompressorParams(**SETTING, slow_factor=20.0, slow_mix=0.4)
    stream = Stream(params, RATE)
    x = np.ones(500)
    stream.process(x)
    gain = compressor(torch.from_numpy(x)[None], params, RATE, trace=True).gain[0, -1]
    assert stream.gain_reduction_db == pytest.approx(-20.0 * math.log10(float(gain)), rel=1e-12)


def test_filters_that_differ_by_row_are_refused_by_name() -> None:
    params = CompressorParams(**SETTING, output_filter=OutputFilter(torch.zeros((2, 5)), RATE))
    with pytest.raises(ValueError, match=r"^output_filter: expected one filter for all channels"):
        Stream(params, RATE, channels=2)


def test_a_shelf_above_half_the_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^shelf_hz: expected less than half the sample rate"):
        Stream(CompressorParams(**SETTING, shelf_db=6.0, shelf_hz=9000.0), 16000)


@pytest.mark.parametrize("shape", [(2,), (1, 4), (2, 3), (2, 5), (4,)])
@pytest.mark.parametrize("stages", [("slow", "feedback")], indirect=True)
def test_with_stages_a_state_that_does_not_fit_is_refused(stages, shape: tuple[int, ...]) -> None:
    stream = Stream(stages.params(SETTING, RATE), RATE, channels=2)
    with pytest.raises(ValueError, match=r"^state: expected"):
        stream.state = np.full(shape, 0.5)


def test_linked_channels_with_gains_that_differ_are_refused() -> None:
    stream = Stream(PARAMS, RATE, channels=2, linked=True)
    with pytest.raises(ValueError, match=r"^state: expected one gain"):
        stream.state = np.array([1.0, 0.1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("stages", [("slow",), ("slow", "feedback")], indirect=True, ids="+".join)
def test_a_state_after_a_sample_that_is_not_finite_is_finite(stages, bad: float) -> None:
    stream = Stream(stages.params(SETTING, RATE), RATE)
    x = noise(1, 50)
    x[0, -1] = bad
    stream.process(x)
    core = stream.state[..., :4]
    assert np.isfinite(core).all()


# In place


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("linked", [False, True])
def test_in_place_is_the_same(stages, linked: bool, dtype: type) -> None:
    x = noise(2, 1500, 4, dtype)
    params = stages.params(SETTING, RATE)
    expected = Stream(params, RATE, channels=2, linked=linked).process(x)
    stream, block = Stream(params, RATE, channels=2, linked=linked), x.copy()
    assert stream.process(block, out=block) is block
    np.testing.assert_array_equal(block, expected)


@pytest.mark.parametrize("view", [lambda x: x[:, ::-2], lambda x: x.T.copy().T, lambda x: x[:, 7:]])
def test_into_any_memory_layout(view) -> None:
    x = noise(2, 300)
    expected = Stream(PARAMS, RATE, channels=2).process(view(x))
    block = view(x.copy())
    Stream(PARAMS, RATE, channels=2).process(block, out=block)
    np.testing.assert_array_equal(block, expected)
    overlapping = np.concatenate([view(x), np.zeros((2, 1))], axis=1)
    Stream(PARAMS, RATE, channels=2).process(overlapping[:, :-1], out=overlapping[:, 1:])
    np.testing.assert_array_equal(overlapping[:, 1:], expected)


@pytest.mark.parametrize(
    "out", [np.zeros(99), np.zeros((1, 100)), np.zeros(100, np.float32), np.broadcast_to(0.0, 100), [0.0] * 100]
)
def test_an_output_that_does_not_fit_is_refused(out: Any) -> None:
    with pytest.raises(ValueError, match=r"^out: expected a writable array of float64 \(100,\), as the block, got"):
        Stream(PARAMS, RATE).process(np.zeros(100), out=out)


# Long silence, memory


def random_partition(rng: np.random.Generator, samples: int, longest: int = 8192) -> list[int]:
    """Sizes of blocks, short and long ones alike, some of them empty."""
    sizes: list[int] = []
    while samples:
        at_most = int(rng.choice([1, 16, 300, longest]))
        sizes.append(min(samples, int(rng.integers(0, at_most + 1))))
        samples -= sizes[-1]
    return sizes


def in_blocks(stream: Stream, x: np.ndarray, sizes: list[int]) -> np.ndarray:
    blocks = np.split(x, np.cumsum(sizes)[:-1], axis=-1)
    return np.concatenate([stream.process(block) for block in blocks], axis=-1)


CELL = OpticalCellParams(sidechain_gain_db=30.0, output_filter=OutputFilter(torch.tensor(FILTER), 8000.0))


@pytest.mark.parametrize("params", [CompressorParams(**SETTING, output_filter=CELL.output_filter), CELL])
def test_any_partition_of_a_burst_and_a_long_silence_is_the_same_to_the_last_bit(params: Any) -> None:
    """Of what the output filter remembers, next to nothing is forgotten where a block ends."""
    rate, rng = 8000, np.random.default_rng(0)
    x = np.concatenate([noise(1, 2000)[0], np.zeros(12 * rate), noise(1, 500, 1)[0]])
    whole = Stream(params, rate).process(x)
    assert whole[-600] == 0.0
    for _ in range(5):
        np.testing.assert_array_equal(in_blocks(Stream(params, rate), x, random_partition(rng, len(x))), whole)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("params", [replace(PARAMS, slow_factor=9.0, slow_mix=0.4), CELL])
def test_five_hundred_partitions_are_the_same_to_the_last_bit(params: Any, dtype: type) -> None:
    rng = np.random.default_rng(1)
    x = noise(1, 20000, dtype=dtype)[0]
    whole = Stream(params, RATE).process(x)
    stream = Stream(params, RATE)
    for _ in range(500):
        stream.reset()
        np.testing.assert_array_equal(in_blocks(stream, x, random_partition(rng, len(x))), whole)


def test_no_memory_is_kept_from_block_to_block() -> None:
    stream = Stream(CompressorParams(**SETTING, slow_factor=9.0, slow_mix=0.4, output_filter=CELL.output_filter), RATE)
    block = noise(1, 64, dtype=np.float32)[0]
    for _ in range(20):
        stream.process(block)
    tracemalloc.start()
    try:
        for _ in range(20):
            stream.process(block)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(500):
            stream.process(block, out=block if n % 2 else None)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2000
    assert peak - before < 100_000


# Parameters that glide

OTHER = replace(PARAMS, threshold_db=-45.0, ratio=12.0, knee_db=0.0, attack_ms=0.5, release_ms=90.0, makeup_db=15.0)
MOVES = [
    (PARAMS, OTHER),
    (replace(PARAMS, feedback=True), replace(OTHER, feedback=True)),
    (
        CompressorParams(**SETTING, slow_factor=9.0, slow_mix=0.4, output_filter=OutputFilter(torch.zeros(5), RATE)),
        CompressorParams(
            **vars(OTHER)
            | {"slow_factor": 2.0, "slow_mix": 0.1, "output_filter": OutputFilter(torch.tensor(FILTER), RATE)}
        ),
    ),
    (OpticalCellParams(10.0), OpticalCellParams(50.0, input_tap=0.01, makeup_db=9.0)),
]
GLIDE = round(1e-3 * GLIDE_MS * RATE / GLIDE_STEP) * GLIDE_STEP


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(("start", "end"), MOVES)
def test_a_glide_is_the_same_in_any_partition(start: Any, end: Any, linked: bool) -> None:
    rng = np.random.default_rng(0)
    x = noise(2, 4000)
    moves = [(700, end), (1333, start), (3000, end)]  # the second while the first is on its way

    def played(sizes_of: Any) -> np.ndarray:
        stream, parts, at = Stream(start, RATE, channels=2, linked=linked), [], 0
        for stop, params in [*moves, (x.shape[1], None)]:
            parts.append(in_blocks(stream, x[:, at:stop], sizes_of(stop - at)))
            if params is not None:
                stream.glide(params)
            at = stop
        return np.concatenate(parts, axis=1)

    whole = played(lambda samples: [samples])
    for _ in range(5):
        np.testing.assert_array_equal(played(lambda samples: random_partition(rng, samples, 500)), whole)


@pytest.mark.parametrize(("start", "end"), MOVES)
def test_after_a_glide_the_parameters_are_those_of_the_move_to_the_last_bit(start: Any, end: Any) -> None:
    x = noise(1, 4000)[0]
    stream, fresh = Stream(start, RATE), Stream(end, RATE)
    stream.glide(end)
    stream.process(x[:GLIDE])
    fresh.state = stream.state
    np.testing.assert_array_equal(stream.process(x[GLIDE:]), fresh.process(x[GLIDE:]))
    stream.glide(start)
    stream.reset()
    np.testing.assert_array_equal(stream.process(x), Stream(start, RATE).process(x))


@pytest.mark.parametrize(("start", "end"), MOVES)
def test_to_where_it_is_nothing_moves(start: Any, end: Any) -> None:
    x = noise(1, 1000)[0]
    stream = Stream(start, RATE)
    stream.process(x[:100])
    stream.glide(replace(start))
    np.testing.assert_array_equal(stream.process(x[100:]), Stream(start, RATE).process(x)[100:])


def test_a_glide_goes_on_a_straight_line() -> None:
    """Read off the output of an input that is too quiet to be compressed: dB of make-up rise evenly."""
    quiet = CompressorParams(0.0, 4.0, 6.0, 5.0, 100.0, makeup_db=0.0)
    stream = Stream(quiet, RATE)
    stream.glide(replace(quiet, makeup_db=12.0))
    rise_db = 20.0 * np.log10(stream.process(np.full(2 * GLIDE, 1e-3)) / 1e-3)
    assert rise_db[0] == pytest.approx(12.0 * GLIDE_STEP / GLIDE)
    assert rise_db[GLIDE // 2] == pytest.approx(6.0, abs=0.2)
    np.testing.assert_array_equal(rise_db[GLIDE:], rise_db[-1])
    assert rise_db[-1] == pytest.approx(12.0)
    assert pytest.approx(1e3 * GLIDE / RATE, abs=1e3 * GLIDE_STEP / RATE) == GLIDE_MS


@pytest.mark.parametrize(("start", "end"), MOVES)
def test_a_glide_has_no_click(start: Any, end: Any) -> None:
    """On a slow sine the gain's largest step is a small part of what it is where the parameters jump."""
    x = 0.5 * np.sin(2.0 * np.pi * 100.0 * np.arange(8000) / RATE)
    gliding, jumping = Stream(start, RATE), Stream(end, RATE)
    before = gliding.process(x[:4000])
    gliding.glide(end)
    jumping.state = gliding.state
    late = gliding.latency_samples
    outputs = [np.concatenate([before, stream.process(x[4000:])]) for stream in (gliding, jumping)]
    smooth, jump = (np.abs(np.diff(output[4000 + late - 50 :], n=2)).max() for output in outputs)
    undisturbed = np.abs(np.diff(outputs[0][2000:3900], n=2)).max()
    assert smooth < 0.1 * jump + 3.0 * undisturbed
    assert jump > 10.0 * undisturbed


@pytest.mark.parametrize(
    "params",
    [
        OpticalCellParams(10.0),
        replace(PARAMS, feedback=True),
        replace(PARAMS, slow_factor=2.0, slow_mix=0.1),
        replace(PARAMS, output_filter=OutputFilter(torch.zeros(5), RATE)),
    ],
)
def test_a_glide_to_other_stages_is_refused(params: Any) -> None:
    with pytest.raises(ValueError, match=r"^params: expected the stream's own stages, got others"):
        Stream(PARAMS, RATE).glide(params)
