"""The optical cell against a float64 numpy oracle, finite differences and physics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import lfilter, resample_poly
from torch import Tensor
from torch.autograd import forward_ad

from baselines import numpy_stages
from baselines.numpy_optical_cell import CellReference, numpy_optical_cell
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.normal_equations import error_products
from ddsp_la2a.dsp.optical_cell import OpticalCellParams, optical_cell
from ddsp_la2a.dsp.optical_kernels import STATES
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.dsp.smoothing_kernels import pieces
from ddsp_la2a.dsp.stream import Stream

# torch's own, from what it imports when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

RATE = 44100
LOW_RATE = 8000
"""For what takes seconds."""

CELL: dict[str, Any] = OpticalCellParams(
    sidechain_gain_db=30.0,
    input_tap=0.01,
    highpass_hz=30.0,
    drive_limit=50.0,
    light_exponent=10.0,
    light_ms=0.5,
    recombination_per_s=20.0,
    pair_recombination_per_s=2.0,
    fast_trap_capture_per_s=300.0,
    fast_trap_capacity=3.0,
    fast_trap_release_per_s=5.0,
    slow_trap_capture_per_s=5.0,
    slow_trap_release_per_s=1.0,
    largest_reduction_db=40.0,
    makeup_db=3.0,
).numbers()
"""Every number of a cell like the one in the device, in the order that the class has."""

QUICK = CELL | {
    "sidechain_gain_db": 26.0,
    "input_tap": 0.1,
    "highpass_hz": 60.0,
    "drive_limit": 5.0,
    "light_exponent": 3.0,
    "recombination_per_s": 200.0,
    "pair_recombination_per_s": 90.0,
    "fast_trap_capture_per_s": 600.0,
    "fast_trap_capacity": 0.7,
    "fast_trap_release_per_s": 80.0,
    "slow_trap_capture_per_s": 100.0,
    "slow_trap_release_per_s": 40.0,
    "largest_reduction_db": 15.0,
}
"""A cell in which everything has happened after some milliseconds, so that no derivative is tiny."""

NO_TRAPS = {"fast_trap_capture_per_s": 0.0, "slow_trap_capture_per_s": 0.0}
FAST_TRAP = ("fast_trap_capture_per_s", "fast_trap_capacity", "fast_trap_release_per_s")
SLOW_TRAP = ("slow_trap_capture_per_s", "slow_trap_release_per_s")
TRAPS = {"fast": FAST_TRAP, "slow": SLOW_TRAP, "both": FAST_TRAP + SLOW_TRAP}
SETTINGS = {
    "device": CELL,
    "quick": QUICK,
    "defaults": {"sidechain_gain_db": 20.0},
    "no traps": CELL | NO_TRAPS,
    "fast traps only": CELL | {"slow_trap_capture_per_s": 0.0},
    "slow traps only": CELL | {"fast_trap_capture_per_s": 0.0},
    "traps left out": CELL | dict.fromkeys(TRAPS["both"]),
    "no pairs": CELL | {"pair_recombination_per_s": 0.0},
    "much tap": CELL | {"input_tap": 0.3, "sidechain_gain_db": 24.0},
    "input only": CELL | {"input_tap": 1.0, "sidechain_gain_db": 10.0},
    "shallow": CELL | {"largest_reduction_db": 3.0, "sidechain_gain_db": 50.0},
    "early limit": CELL | {"drive_limit": 1.1, "highpass_hz": 900.0},
    "sluggish panel": CELL | {"light_ms": 30.0, "light_exponent": 1.5},
    "panel that is never quite dark": CELL | {"light_exponent": 0.05, "sidechain_gain_db": 0.0},
    "panel without delay": CELL | {"light_ms": 1e-3},
}

COEFFICIENTS = (0.02, -0.15, 0.36, -0.1, -0.86)
"""Of an output filter as one was fitted to a recording at 44.1 kHz."""

NUMBERS = tuple(CELL)
INPUTS = ("audio", *NUMBERS, "state")
ROWS = range(1, 18)
"""Every remainder of rows in lanes, alone and after full ones."""

NONE_OR_FILTER = pytest.mark.parametrize("filtering", [False, True], ids=["plain", "filter"])


def bursts(frames: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    """Noise that rises and falls by 40 dB, over full scale too, with some samples of silence."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(frames) * 10.0 ** (-1.0 + np.sin(np.arange(frames) / 200.0 + seed))
    x[5::97] = 0.0
    x[6::97] = 1e-9
    return x.astype(dtype)


def rows_of_bursts(rows: int, frames: int, dtype: type = np.float64) -> Tensor:
    return torch.from_numpy(np.stack([bursts(frames, seed, dtype) for seed in range(rows)]))


def params_of(setting: dict[str, Any], filtering: bool = False, rate: float = RATE, **more: Any) -> OpticalCellParams:
    kept = OutputFilter(torch.tensor(COEFFICIENTS, dtype=torch.float64), rate) if filtering else None
    return OpticalCellParams(**setting | more, output_filter=kept)


def spread(setting: dict[str, float], rows: int) -> dict[str, Tensor]:
    """Another cell in every row."""
    factors = torch.linspace(0.6, 1.4, rows, dtype=torch.float64)
    return {name: value * factors.roll(n) for n, (name, value) in enumerate(setting.items())}


def row_of(setting: dict[str, Tensor], row: int) -> dict[str, float]:
    return {name: float(values[row]) for name, values in setting.items()}


def oracle(x: Any, setting: dict[str, float], rate: float = RATE) -> CellReference:
    return numpy_optical_cell(x, OpticalCellParams(**setting), rate)


def played(x: np.ndarray, setting: dict[str, Any], rate: float = LOW_RATE, **more: Any) -> np.ndarray:
    """Output (batch, time) or (time,) as the audio."""
    output = optical_cell(torch.from_numpy(np.atleast_2d(x)), params_of(setting, **more), rate).numpy()
    return output if x.ndim == 2 else output[0]


def relative_error(got: Any, expected: Any) -> float:
    got, expected = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return float(np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-300))


def decibels(ratio: Any) -> Any:
    return 20.0 * np.log10(np.abs(ratio))


# Value against the oracle


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_output_and_state_are_those_of_the_oracle(name: str, rate: int) -> None:
    x, setting = bursts(3001), SETTINGS[name]
    expected = oracle(x, setting, rate)
    output, state = optical_cell(torch.from_numpy(x)[None], params_of(setting), rate, return_state=True)
    np.testing.assert_allclose(output[0], expected.output, rtol=1e-12)
    np.testing.assert_allclose(state[0], expected.state, rtol=1e-11)
    assert state.dtype == torch.float64
    assert expected.conductance.max() > 0.01  # there is something to compare


@pytest.mark.parametrize("name", list(SETTINGS))
def test_float32_is_that_of_the_oracle_rounded(name: str) -> None:
    x = bursts(3001, 1, np.float32)
    output = optical_cell(torch.from_numpy(x)[None], params_of(SETTINGS[name]), RATE)
    assert output.dtype == torch.float32
    np.testing.assert_allclose(output[0], oracle(x, SETTINGS[name]).output, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("frames", [1, 2, 127, 128, 129, 1000])
@pytest.mark.parametrize("rows", ROWS)
def test_every_number_of_rows_and_samples_with_another_cell_a_row(rows: int, frames: int) -> None:
    audio, setting = rows_of_bursts(rows, frames), spread(QUICK, rows)
    output, state = optical_cell(audio, OpticalCellParams(**setting), RATE, return_state=True)
    for row in range(rows):
        expected = oracle(audio[row], row_of(setting, row))
        np.testing.assert_allclose(output[row], expected.output, rtol=1e-12)
        np.testing.assert_allclose(state[row], expected.state, rtol=1e-11, atol=1e-200)


def test_the_output_filter_is_that_of_the_oracle() -> None:
    x = bursts(2000)
    expected = lfilter(*numpy_stages.output_filter(COEFFICIENTS, RATE), oracle(x, CELL).output)
    output = played(x, CELL, RATE, filtering=True)
    np.testing.assert_allclose(output, expected, rtol=1e-10, atol=1e-14)


def test_first_sample_after_the_dark_is_not_reduced() -> None:
    output = played(np.array([0.7]), CELL, RATE)
    assert float(output[0]) == pytest.approx(0.7 * 10.0 ** (CELL["makeup_db"] / 20.0), rel=1e-15)


# Batches, layouts, dtypes


@pytest.mark.parametrize(
    ("rows", "frames"),
    # Every remainder of samples in lanes and in pieces, too.
    [(rows, (1, 2, 7, 8, 9, 15, 127, 128, 129, 131, 250, 255, 256, 257, 263, 384, 389)[rows - 1]) for rows in ROWS],
)
def test_rows_one_by_one_equal_the_batch(rows: int, frames: int) -> None:
    audio = rows_of_bursts(rows, frames, np.float32).requires_grad_()
    inputs = [values.requires_grad_() for values in spread(QUICK, rows).values()]
    state = torch.rand(rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output, last = optical_cell(audio, OpticalCellParams(*inputs), RATE, state=state, return_state=True)
    gradients = torch.autograd.grad(output.sum() + last.sum(), [audio, *inputs, state])
    for row in range(rows):
        alone = [value[row : row + 1].detach().requires_grad_() for value in (audio, *inputs, state)]
        params = OpticalCellParams(*alone[1:-1])
        one, one_last = optical_cell(alone[0], params, RATE, state=alone[-1], return_state=True)
        assert torch.equal(one[0], output[row])
        assert torch.equal(one_last[0], last[row])
        for name, got, expected in zip(
            INPUTS, torch.autograd.grad(one.sum() + one_last.sum(), alone), gradients, strict=True
        ):
            if name in NUMBERS:  # torch's own pow has other last bits for other batches
                torch.testing.assert_close(got[0], expected[row], rtol=1e-14, atol=0.0)
            else:
                assert torch.equal(got[0], expected[row])


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_rows_shared_among_threads_equal_one_thread(threads: Callable[[int], None]) -> None:
    found = []
    for number in (1, 2, 5):
        threads(number)
        audio = rows_of_bursts(11, 30_000).requires_grad_()
        numbers = [values.requires_grad_() for values in spread(CELL, 11).values()]
        output = optical_cell(audio, OpticalCellParams(*numbers), RATE)
        found.append([output, *torch.autograd.grad(output.square().sum(), [audio, *numbers])])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("name", NUMBERS)
def test_one_parameter_per_row_and_the_rest_shared(name: str) -> None:
    audio = rows_of_bursts(1, 1000).expand(2, -1)
    values = [QUICK[name], 1.3 * QUICK[name]]
    both = optical_cell(audio, params_of(QUICK, **{name: torch.tensor(values, dtype=torch.float64)}), RATE)
    for row, value in enumerate(values):
        assert torch.equal(both[row], optical_cell(audio[:1], params_of(QUICK, **{name: value}), RATE)[0])
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize(
    "view",
    [lambda base: base.T, lambda base: base[:, ::3], lambda base: base[1:, 5:40], lambda base: base[:1].expand(4, -1)],
    ids=["transposed", "strided", "cut", "expanded"],
)
def test_any_memory_layout(view: Callable[[Tensor], Tensor]) -> None:
    base = rows_of_bursts(20, 50).requires_grad_()
    output = optical_cell(view(base), params_of(QUICK), RATE)
    plain = view(base).detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    expected = optical_cell(plain, params_of(QUICK), RATE)
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad(output.square().sum(), base)
    (through_plain,) = torch.autograd.grad(expected.square().sum(), plain)
    (expected_gradient,) = torch.autograd.grad(view(base), base, through_plain)
    torch.testing.assert_close(gradient, expected_gradient)


@NONE_OR_FILTER
@pytest.mark.parametrize(
    "view", [lambda base: base.T, lambda base: base.T[:1].expand(3, -1)], ids=["transposed", "expanded"]
)
def test_a_state_of_any_memory_layout(view: Callable[[Tensor], Tensor], filtering: bool) -> None:
    base = torch.from_numpy(np.random.default_rng(1).uniform(0.0, 0.5, (10 if filtering else 5, 3)))
    audio, params = rows_of_bursts(3, 300), params_of(QUICK, filtering)
    before = base.clone()
    plain = view(base).clone(memory_format=torch.contiguous_format)
    got = optical_cell(audio, params, RATE, state=view(base), return_state=True)
    expected = optical_cell(audio, params, RATE, state=plain, return_state=True)
    assert all(map(torch.equal, got, expected))
    assert torch.equal(base, before)


@NONE_OR_FILTER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frames", [0, 1, 9])
def test_shape_and_dtype_are_those_of_the_audio(frames: int, dtype: torch.dtype, filtering: bool) -> None:
    output, state = optical_cell(
        torch.full((2, frames), 0.5, dtype=dtype), params_of(CELL, filtering), RATE, return_state=True
    )
    assert output.shape == (2, frames)
    assert output.dtype == dtype
    assert state.shape == (2, 10 if filtering else 5)
    assert state.dtype == torch.float64


@NONE_OR_FILTER
def test_no_samples_hand_state_and_gradient_on(filtering: bool) -> None:
    states = 10 if filtering else 5
    state = torch.from_numpy(np.random.default_rng(2).uniform(0.0, 1.0, (2, states))).requires_grad_()
    audio, params = torch.empty((2, 0), dtype=torch.float64, requires_grad=True), params_of(CELL, filtering)
    output, after = optical_cell(audio, params, RATE, state=state, return_state=True)
    assert output.shape == (2, 0)
    assert torch.equal(after, state)
    (gradient,) = torch.autograd.grad((after * torch.arange(states)).sum(), state)
    assert torch.equal(gradient, torch.arange(states, dtype=torch.float64).expand(2, -1))


@NONE_OR_FILTER
def test_no_rows(filtering: bool) -> None:
    output, state = optical_cell(torch.empty((0, 5)), params_of(CELL, filtering), RATE, return_state=True)
    assert output.shape == (0, 5)
    assert state.shape == (0, 10 if filtering else 5)


def test_nothing_given_is_changed() -> None:
    audio, state = rows_of_bursts(2, 300), torch.full((2, 5), 0.3, dtype=torch.float64)
    optical_cell(audio, params_of(CELL), RATE, state=state)
    assert torch.equal(audio, rows_of_bursts(2, 300))
    assert torch.equal(state, torch.full((2, 5), 0.3, dtype=torch.float64))


# State


@NONE_OR_FILTER
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_state_carried_over_a_partition_equals_one_pass(seed: int, dtype: type, filtering: bool) -> None:
    audio = rows_of_bursts(3, 3000, dtype).requires_grad_()
    gain = torch.tensor(28.0, dtype=torch.float64, requires_grad=True)
    params = params_of(QUICK, filtering, sidechain_gain_db=gain)
    whole, last = optical_cell(audio, params, RATE, return_state=True)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 3001, 7)).tolist()
    state, parts = None, []
    for block in torch.tensor_split(audio, [0, 1, 2, *cuts, 3000], dim=1):
        part, state = optical_cell(block, params, RATE, state=state, return_state=True)
        parts.append(part)
    output = torch.cat(parts, dim=1)
    assert state is not None
    assert torch.equal(output, whole)
    assert torch.equal(state, last)
    gradients = torch.autograd.grad(output.square().sum() + state.sum(), [audio, gain])
    expected = torch.autograd.grad(whole.square().sum() + last.sum(), [audio, gain])
    for got, wanted in zip(gradients, expected, strict=True):
        assert relative_error(got, wanted) <= (1e-6 if dtype is np.float32 else 1e-12)


@NONE_OR_FILTER
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_stream_of_any_partition_equals_one_call(seed: int, linked: bool, dtype: type, filtering: bool) -> None:
    x = rows_of_bursts(2, 3000, dtype).numpy()
    cuts = np.sort(np.random.default_rng(seed).choice(3000, 12)).repeat(2)  # a cut twice is a block of no samples
    whole_stream, stream = (Stream(params_of(CELL, filtering), RATE, channels=2, linked=linked) for _ in range(2))
    whole = whole_stream.process(x)
    output = np.concatenate([stream.process(block) for block in np.split(x, cuts, axis=1)], axis=1)
    assert output.dtype == dtype
    np.testing.assert_array_equal(output, whole)
    np.testing.assert_array_equal(stream.state, whole_stream.state)


@NONE_OR_FILTER
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stream_and_function_are_the_same_to_the_last_bit(dtype: type, filtering: bool) -> None:
    audio, params = rows_of_bursts(3, 2000, dtype), params_of(CELL, filtering)
    stream = Stream(params, RATE, channels=3, linked=False)
    output, state = optical_cell(audio, params, RATE, return_state=True)
    np.testing.assert_array_equal(stream.process(audio.numpy()), output)
    np.testing.assert_array_equal(stream.state, state)
    assert stream.latency_samples == (2 if filtering else 0)


@NONE_OR_FILTER
def test_stream_goes_on_from_a_state_of_the_function_and_back(filtering: bool) -> None:
    audio, params = rows_of_bursts(1, 900), params_of(CELL, filtering)
    first, state = optical_cell(audio[:, :300], params, RATE, return_state=True)
    stream = Stream(params, RATE)
    stream.state = state.numpy()
    second = stream.process(audio[:, 300:600].numpy())
    last = optical_cell(audio[:, 600:], params, RATE, state=torch.from_numpy(stream.state))
    np.testing.assert_array_equal(np.hstack([first, second, last]), optical_cell(audio, params, RATE))


@NONE_OR_FILTER
def test_reset_is_a_cell_that_was_in_the_dark_for_long(filtering: bool) -> None:
    x = rows_of_bursts(2, 500).numpy()
    stream = Stream(params_of(CELL, filtering), RATE, channels=2)
    assert not stream.state.any()
    first = stream.process(x)
    assert not np.array_equal(stream.process(x), first)
    stream.reset()
    np.testing.assert_array_equal(stream.process(x), first)


# Gradient against finite differences


def quick_inputs(rows: int = 2, frames: int = 20) -> dict[str, Tensor]:
    """Every input in float64, no sample near zero, where the rectified drive has a corner."""
    rng = np.random.default_rng(3)
    sign = np.where(rng.random((rows, frames)) < 0.5, -1.0, 1.0)
    inputs = {"audio": torch.from_numpy(sign * rng.uniform(0.1, 0.6, (rows, frames)))}
    inputs |= {name: value * torch.linspace(1.0, 1.2, rows).double() for name, value in QUICK.items()}
    state = rng.uniform(0.1, 0.6, (rows, 5)) * [1.0, 1.0, 1.0, 1.0, 0.05]
    return inputs | {"state": torch.from_numpy(state)}


def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    audio, *numbers, state = inputs
    return optical_cell(audio, OpticalCellParams(*numbers), LOW_RATE, state=state, return_state=True)


def square_loss(*inputs: Tensor) -> Tensor:
    output, state = run(*inputs)
    return output.square().sum() + state.sum()


def random_like(tensors: Iterable[Tensor], seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal(t.shape)).to(t.dtype) for t in tensors]


def inner(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    return sum(float(torch.sum(a.double() * b.double())) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("wanted", [*itertools.combinations(INPUTS, 1), ("audio", "light_ms", "state"), INPUTS])
def test_gradcheck(wanted: tuple[str, ...]) -> None:
    # Not check_batched_grad: torch's own old vmap, which that uses, can't run any autograd.Function of this package.
    inputs = {name: value.requires_grad_(name in wanted) for name, value in quick_inputs(1, 15).items()}
    assert torch.autograd.gradcheck(run, tuple(inputs.values()), check_forward_ad=True)


def test_gradcheck_through_the_output_filter() -> None:
    def filtered(audio: Tensor, gain: Tensor, state: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        params = OpticalCellParams(
            **QUICK | {"sidechain_gain_db": gain}, output_filter=OutputFilter(coefficients, LOW_RATE)
        )
        return optical_cell(audio, params, LOW_RATE, state=state, return_state=True)

    inputs = quick_inputs(2, 8)
    state = torch.cat([inputs["state"], 0.1 * inputs["state"]], dim=1)
    coefficients = torch.tensor([COEFFICIENTS, COEFFICIENTS[::-1]], dtype=torch.float64)
    leaves = inputs["audio"], inputs["sidechain_gain_db"], state, coefficients
    assert torch.autograd.gradcheck(filtered, [t.requires_grad_() for t in leaves], check_forward_ad=True)


@pytest.mark.parametrize("setting", [QUICK, CELL], ids=["quick", "device"])
@pytest.mark.parametrize("name", NUMBERS)
def test_derivative_for_a_parameter_is_the_central_difference(name: str, setting: dict[str, float]) -> None:
    audio = rows_of_bursts(1, 4000)
    rng = np.random.default_rng(5)
    weights, of_state = torch.from_numpy(rng.standard_normal(4000)), torch.from_numpy(rng.uniform(0.5, 1.0, 5))

    def total(value: Any) -> Tensor:
        output, state = optical_cell(audio, params_of(setting, **{name: value}), LOW_RATE, return_state=True)
        return output[0] @ weights + state[0] @ of_state

    def difference(step: float) -> float:
        return float(total(setting[name] + step) - total(setting[name] - step)) / (2.0 * step)

    leaf = torch.tensor(setting[name], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(total(leaf), leaf)
    step = 1e-3 * setting[name]
    richardson = (64.0 * difference(step) - 20.0 * difference(2.0 * step) + difference(4.0 * step)) / 45.0
    assert abs(richardson) * setting[name] > 1e-4  # something to compare
    assert float(gradient) == pytest.approx(richardson, rel=1e-6)
    _, tangent = torch.func.jvp(total, (leaf.detach(),), (torch.ones_like(leaf),))
    assert float(tangent) == pytest.approx(float(gradient), rel=1e-10)


@pytest.mark.parametrize("wanted", [*itertools.combinations(INPUTS, 1), INPUTS[1:], INPUTS])
def test_jvp_is_the_central_difference_and_keeps_the_value(wanted: tuple[str, ...]) -> None:
    inputs = quick_inputs(2, 300)

    def moved(*some: Tensor) -> tuple[Tensor, Tensor]:
        return run(*(inputs | dict(zip(wanted, some, strict=True))).values())

    at = tuple(inputs[name] for name in wanted)
    direction = tuple(x * d for x, d in zip(at, random_like(at, 1), strict=True))
    values, tangents = torch.func.jvp(moved, at, direction)
    step = 1e-5
    ahead, behind = (moved(*(x + h * d for x, d in zip(at, direction, strict=True))) for h in (step, -step))
    for value, tangent, expected, a, b in zip(values, tangents, moved(*at), ahead, behind, strict=True):
        assert torch.equal(value, expected)
        if bool(tangent.any()):
            assert relative_error(tangent, (a - b) / (2.0 * step)) < 1e-7
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*INPUTS, "all"])
def test_forward_mode_is_the_transpose_of_reverse_mode(name: str, dtype: type) -> None:
    # In silence and at the corner of the rectified drive too, where both must take the same side.
    inputs = {"audio": rows_of_bursts(3, 500, dtype)} | spread(QUICK, 3) | {"state": torch.zeros(3, 5).double()}
    inputs["audio"][:, :40] = 0.0
    directions = dict(zip(inputs, random_like(inputs.values(), 1), strict=True))
    weights = random_like(run(*inputs.values()), 2)
    wanted = list(inputs) if name == "all" else [name]
    with forward_ad.dual_level():
        duals = {n: forward_ad.make_dual(t, directions[n]) if n in wanted else t for n, t in inputs.items()}
        tangents = [forward_ad.unpack_dual(dual).tangent for dual in run(*duals.values())]
    assert [t.dtype for t in tangents] == [inputs["audio"].dtype, torch.float64]
    leaves = [inputs[n].requires_grad_() for n in wanted]
    gradients = torch.autograd.grad(run(*inputs.values()), leaves, weights)
    transposed = inner([directions[n] for n in wanted], gradients)
    scale = sum(abs(inner([w], [t])) for w, t in zip(weights, tangents, strict=True))
    assert abs(inner(weights, tangents) - transposed) <= (1e-4 if dtype is np.float32 else 1e-11) * scale


@pytest.mark.parametrize("which", [0, 1], ids=["output", "state"])
def test_jacobians_of_both_modes_for_the_parameters_are_the_same(which: int) -> None:
    audio, *numbers, state = quick_inputs(1, 40).values()
    vector = torch.cat(numbers)

    def of_vector(vector: Tensor) -> Tensor:
        return run(audio, *vector, state)[which]

    ahead, back = torch.func.jacfwd(of_vector)(vector), torch.func.jacrev(of_vector)(vector)
    torch.testing.assert_close(ahead, back, rtol=1e-10, atol=1e-13)
    expected = torch.autograd.functional.jacobian(of_vector, vector)
    torch.testing.assert_close(back, expected, rtol=1e-13, atol=1e-15)


def test_jacobians_of_both_modes_for_audio_and_state_are_the_same() -> None:
    audio, *numbers, state = quick_inputs(2, 30).values()
    ahead, back = (
        jacobian(lambda x, s: run(x, *numbers, s), (0, 1))(audio, state)
        for jacobian in (torch.func.jacfwd, torch.func.jacrev)
    )
    torch.testing.assert_close(ahead, back, rtol=1e-10, atol=1e-13)
    for_audio = ahead[0][0]
    assert not bool(for_audio[0, :, 1].any())  # no row depends on another
    assert not bool(for_audio[1, :, 1].triu(1).any())  # nor the past on the future


BATCHED = [("audio",), INPUTS[1:], ("light_ms",), ("sidechain_gain_db", "state"), INPUTS]


@pytest.mark.parametrize("batched", BATCHED, ids=lambda names: "+".join(names[:3]))
def test_vmap_equals_a_loop(batched: tuple[str, ...]) -> None:
    inputs = quick_inputs(2, 40)
    factors = torch.tensor([0.9, 1.0, 1.05], dtype=torch.float64)
    dims = tuple({"audio": 2}.get(name, 0) if name in batched else None for name in INPUTS)
    batch = [
        value if dim is None else torch.stack([f * value for f in factors], dim)
        for value, dim in zip(inputs.values(), dims, strict=True)
    ]
    alone = [
        [x if dim is None else x.select(dim, k) for x, dim in zip(batch, dims, strict=True)]
        for k in range(len(factors))
    ]
    every = tuple(range(len(INPUTS)))

    def same(got: tuple[Tensor, ...], loop: list[tuple[Tensor, ...]]) -> None:
        torch.testing.assert_close(got, tuple(map(torch.stack, zip(*loop, strict=True))), rtol=1e-12, atol=1e-14)

    output, state = torch.func.vmap(run, dims)(*batch)
    for k, one in enumerate(alone):
        assert torch.equal(output[k], run(*one)[0])
        assert torch.equal(state[k], run(*one)[1])
    gradients = [torch.func.grad(square_loss, every)(*one) for one in alone]
    same(torch.func.vmap(torch.func.grad(square_loss, every), dims)(*batch), gradients)
    directions = tuple(random_like(inputs.values(), 1))
    tangents = [torch.func.jvp(run, tuple(one), directions)[1] for one in alone]
    same(torch.func.vmap(lambda *one: torch.func.jvp(run, one, directions)[1], dims)(*batch), tangents)

    def total(*batch: Tensor) -> Tensor:
        return torch.func.vmap(square_loss, dims)(*batch).sum()

    wanted = tuple(
        torch.stack(parts, dim) if dim is not None else sum(parts)
        for parts, dim in zip(zip(*gradients, strict=True), dims, strict=True)
    )
    torch.testing.assert_close(torch.func.grad(total, every)(*batch), wanted, rtol=1e-11, atol=1e-13)
    leaves = [x.clone().requires_grad_() for x in batch]
    torch.testing.assert_close(torch.autograd.grad(total(*leaves), leaves), wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("frames", [0, 1])
def test_vmap_and_jvp_of_hardly_any_samples(frames: int) -> None:
    audio = torch.full((3, 2, frames), 0.5)

    def last(x: Tensor) -> tuple[Tensor, Tensor]:
        return optical_cell(x, params_of(CELL), RATE, return_state=True)

    assert torch.func.vmap(last)(audio)[0].shape == audio.shape
    assert torch.func.jvp(last, (audio[0],), (audio[0],))[1][0].shape == audio[0].shape
    assert torch.func.vmap(last)(torch.empty((3, 0, frames)))[1].shape == (3, 0, 5)


MIXED: dict[str, Callable[[Any, Tensor], Any]] = {
    "reverse over reverse": lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x),
    "reverse over forward": lambda f, x: torch.func.jacrev(torch.func.jacfwd(f))(x),
    "forward over reverse": lambda f, x: torch.func.jacfwd(torch.func.jacrev(f))(x),
    "forward over forward": lambda f, x: torch.func.jacfwd(torch.func.jacfwd(f))(x),
    "autograd.hessian": lambda f, x: torch.autograd.functional.hessian(f, x),
    "under vmap": lambda f, x: torch.func.vmap(torch.func.hessian(f))(torch.stack([x, x])),
}


@pytest.mark.parametrize("linear", [False, True], ids=["square", "linear"])
@pytest.mark.parametrize("name", ["audio", "sidechain_gain_db", "light_ms", "makeup_db", "state"])
@pytest.mark.parametrize("route", list(MIXED))
def test_second_derivative_is_refused_in_any_mix_of_modes(route: str, name: str, linear: bool) -> None:
    inputs = quick_inputs(1, 10)

    def loss(value: Tensor) -> Tensor:
        arguments = (inputs | {name: value}).values()
        return run(*arguments)[0].sum() if linear else square_loss(*arguments)

    with pytest.raises(RuntimeError, match=r"optical_cell: differentiable once.* second derivative"):
        MIXED[route](loss, inputs[name])


def test_derivative_for_one_input_of_the_derivative_for_another_is_refused() -> None:
    audio, gain, *others = quick_inputs().values()

    def along_the_audio(gain: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: square_loss(x, gain, *others), (audio,), (torch.ones_like(audio),))[1]

    for second in (torch.func.grad(along_the_audio), torch.func.jacfwd(along_the_audio)):
        with pytest.raises(RuntimeError, match="second derivative"):
            second(gain)


def test_states_are_kept_for_a_backward_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def spy(kernel: Any, rows: int, samples: int, *arrays: np.ndarray) -> list[float]:
        kept.append(arrays[-1].shape)
        return over_rows(kernel, rows, samples, *arrays)

    monkeypatch.setattr("ddsp_la2a.dsp.optical_cell.over_rows", spy)
    audio, params = rows_of_bursts(2, 500), params_of(CELL, light_ms=torch.tensor(0.5, requires_grad=True))
    optical_cell(audio, params_of(CELL), RATE)
    optical_cell(audio, params, RATE)
    with torch.no_grad():
        optical_cell(audio, params, RATE)
    assert kept == [(2, 0, 5), (2, pieces(500), 5), (2, 0, 5)]


def test_changing_the_audio_before_the_backward_pass_is_refused() -> None:
    audio = rows_of_bursts(1, 50)
    output = optical_cell(audio, params_of(CELL, light_ms=torch.tensor(0.5, requires_grad=True)), RATE)
    audio.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_the_graph_can_be_used_again_and_output_and_state_be_changed() -> None:
    exponent = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    audio, params = rows_of_bursts(1, 300), params_of(QUICK, light_exponent=exponent)
    output, state = optical_cell(audio, params, RATE, return_state=True)
    total = output.sum() + state.sum()
    first = torch.autograd.grad(total, exponent, retain_graph=True)[0]
    with torch.no_grad():
        output.zero_()
        state.zero_()
    assert torch.equal(torch.autograd.grad(total, exponent)[0], first)


# Normal equations


def recording(frames: int, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    x = bursts(frames, 4)
    y = 0.4 * x + 0.01 * np.random.default_rng(4).standard_normal(frames) + 0.02
    return x.astype(dtype), y.astype(dtype)


def expected_products(x: np.ndarray, y: np.ndarray, error_filter: str, filtering: bool) -> np.ndarray:
    """From ``jacfwd``, and scipy's filters."""
    audio, numbers = torch.from_numpy(x.astype(np.float64))[None], len(NUMBERS)

    def output(values: Tensor) -> Tensor:
        kept = OutputFilter(values[numbers:], LOW_RATE) if filtering else None
        return optical_cell(audio, OpticalCellParams(*values[:numbers], output_filter=kept), LOW_RATE)[0]

    at = torch.tensor([*QUICK.values(), *(COEFFICIENTS if filtering else ())], dtype=torch.float64)
    late = np.concatenate([np.zeros(2), y])[: len(y)].astype(np.float64) if filtering else y.astype(np.float64)
    rows = np.vstack([output(at).numpy() - late, late, torch.func.jacfwd(output)(at).numpy().T])
    zero, pole = {"none": (0.0, 0.0), "dc": (1.0, 0.995), "pre-emphasis": (0.85, 0.0)}[error_filter]
    rows = lfilter([1.0, -zero], [1.0, -pole], rows, axis=-1)
    return rows @ rows.T


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest of all entries, each relative to the norms of the two signals whose product it is."""
    assert got.shape == expected.shape
    norms = np.sqrt(np.diag(expected))
    return float((np.abs(got - expected) / (norms[:, None] * norms)).max())


@NONE_OR_FILTER
@pytest.mark.parametrize("error_filter", ["none", "dc", "pre-emphasis"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_those_of_forward_mode(dtype: type, error_filter: str, filtering: bool) -> None:
    x, y = recording(20_003, dtype)  # more than is worked on at once, and no multiple of anything
    (found,) = error_products([(x, y)], params_of(QUICK, filtering, LOW_RATE), LOW_RATE, error_filter=error_filter)
    assert difference(found, expected_products(x, y, error_filter, filtering)) < 1e-10


@NONE_OR_FILTER
def test_products_in_blocks_of_odd_lengths_and_in_sums(filtering: bool) -> None:
    x, y = recording(3001)
    params, edges = params_of(QUICK, filtering, LOW_RATE), [0, 0, 1, 3, 127, 128, 129, 1000, 1001, 3001]
    blocks = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    expected = expected_products(x, y, "dc", filtering)
    assert difference(error_products(blocks, params, LOW_RATE)[0], expected) < 1e-10
    sums = error_products(blocks, params, LOW_RATE, sum_frames=700)
    assert len(sums) == 5
    assert difference(sums.sum(axis=0), expected) < 1e-10


def test_products_after_a_warmup_remember_it() -> None:
    x, y = recording(3000)
    (warm,) = error_products([(x, y)], params_of(QUICK), LOW_RATE, warmup_frames=1200)
    whole, before = (error_products([(x[:n], y[:n])], params_of(QUICK), LOW_RATE)[0] for n in (3000, 1200))
    assert difference(warm, whole - before) < 1e-10


# Physics

HARDLY_ANY_HIGHPASS = {"highpass_hz": 1e-6}
BARE = CELL | HARDLY_ANY_HIGHPASS | {"drive_limit": 1e9, "largest_reduction_db": 1e3, "light_ms": 1e-3}


def tone(seconds: float, level_db: float = -6.0, rate: int = LOW_RATE) -> np.ndarray:
    return 10.0 ** (level_db / 20.0) * np.sin(2.0 * np.pi * 1000.0 * np.arange(round(seconds * rate)) / rate + 0.3)


def reduction_db(x: np.ndarray, setting: dict[str, Any], **more: Any) -> np.ndarray:
    """In the last second, of the rms."""
    output = played(x, setting, makeup_db=0.0, **more)
    return decibels(np.linalg.norm(x[..., -LOW_RATE:], axis=-1) / np.linalg.norm(output[..., -LOW_RATE:], axis=-1))


@pytest.mark.parametrize("light_exponent", [1.0, 10.0])
@pytest.mark.parametrize("traps", [{}, NO_TRAPS], ids=["traps", "no traps"])
def test_a_steady_drive_of_one_halves_the_gain(traps: dict[str, float], light_exponent: float) -> None:
    # A square wave, rectified, is steady; 20 × 0.1, halved by the divider, is one.
    square = 0.1 * (-1.0) ** np.arange(30 * LOW_RATE)
    setting = BARE | traps | {"sidechain_gain_db": 20.0 * math.log10(20.0), "light_exponent": light_exponent}
    found = reduction_db(square, setting, input_tap=0.0)
    assert float(found) == pytest.approx(20.0 * math.log10(2.0), abs=1e-6)


@pytest.mark.parametrize("drive", [0.5, 1.0, 5.0, 60.0])
def test_steady_light_and_carriers_are_those_of_the_equations(drive: float) -> None:
    # With all of the signal before the divider in the side-chain the drive doesn't depend on the gain.
    square = torch.from_numpy(0.1 * (-1.0) ** np.arange(60 * LOW_RATE))[None]
    gain_db, limit = 20.0 * math.log10(10.0 * drive), 20.0
    params = params_of(BARE, sidechain_gain_db=gain_db, input_tap=1.0, drive_limit=limit, largest_reduction_db=20.0)
    output, state = optical_cell(square, params, LOW_RATE, return_state=True)
    carriers, glow, fast, slow, _ = state[0].tolist()
    light = math.exp(10.0 * (1.0 - 1.0 / math.sqrt(drive / math.sqrt(1.0 + (drive**2 - 1.0) / limit**2))))
    k1, kb = 20.0, 2.0
    expected = (-k1 + math.sqrt(k1**2 + 4.0 * kb * (k1 + kb) * light)) / (2.0 * kb)
    assert glow == pytest.approx(light, rel=1e-7)
    assert carriers == pytest.approx(expected, rel=1e-4)
    assert fast == pytest.approx(1.0 / (1.0 / 3.0 + 5.0 / (300.0 * expected)), rel=1e-4)
    assert slow == pytest.approx(5.0 * expected, rel=1e-4)
    conductance = 1.0 / (1.0 / expected + 1.0 / 9.0)  # 20 dB: nine times
    makeup = 10.0 ** (CELL["makeup_db"] / 20.0)
    assert float(square[0, -1] * makeup / output[0, -1]) == pytest.approx(1.0 + conductance, rel=1e-4)


def test_panel_rises_from_10_to_90_percent_in_the_time_given() -> None:
    square = (-1.0) ** np.arange(RATE // 10)
    stream = Stream(params_of(BARE, input_tap=1.0, sidechain_gain_db=0.0, light_ms=20.0), RATE)
    glow = []
    for sample in np.split(square, len(square)):
        stream.process(sample)
        glow.append(stream.state[0, STATES.index("glow")])
    samples = np.searchsorted(glow, 0.9) - np.searchsorted(glow, 0.1)
    assert samples / RATE * 1000.0 == pytest.approx(20.0, abs=0.05)


@pytest.mark.parametrize("setting", [CELL, QUICK, CELL | NO_TRAPS], ids=["device", "quick", "no traps"])
def test_more_side_chain_gain_never_gives_less_reduction_of_a_tone(setting: dict[str, float]) -> None:
    gains_db = torch.linspace(-10.0, 60.0, 71, dtype=torch.float64)
    x = np.tile(tone(3.0), (71, 1))
    found = reduction_db(x, setting, sidechain_gain_db=gains_db, input_tap=0.0)
    assert (np.diff(found) >= 0.0).all()
    assert found[0] < 0.1
    assert found[-1] > 0.5 * setting["largest_reduction_db"]


def test_louder_never_comes_out_softer_without_a_tap() -> None:
    levels_db = np.arange(-60.0, 7.0, 3.0)
    x = np.stack([tone(3.0, level) for level in levels_db])
    reduced = reduction_db(x, CELL, input_tap=0.0)
    assert (np.diff(reduced) >= 0.0).all()
    assert (np.diff(levels_db - reduced) > 0.0).all()


def test_the_input_tap_raises_the_ratio() -> None:
    levels_db = np.array([-10.0, 0.0])
    x = np.stack([tone(3.0, level) for level in levels_db])
    ratios = []
    for tap in (0.0, 0.01, 0.03, 0.06):
        out = levels_db - reduction_db(x, CELL, input_tap=tap)
        ratios.append(float(np.diff(levels_db)[0] / np.diff(out)[0]))
    assert 2.0 < ratios[0] < 4.0
    assert (np.diff(ratios) > 0.2).all()


def after_a_tone(seconds: float, setting: dict[str, float], share: float) -> float:
    """Seconds until so much of the reduction in dB is left."""
    x = np.concatenate([tone(seconds), np.full(20 * LOW_RATE, 1e-7)])
    left = -decibels(played(x, setting, makeup_db=0.0)[round(seconds * LOW_RATE) :] / 1e-7)
    return float(np.argmax(left < share * left[0])) / LOW_RATE


@pytest.mark.parametrize("share", [0.5, 0.2, 0.1])
def test_without_traps_the_cell_does_not_remember_how_long_the_tone_was(share: float) -> None:
    setting = CELL | NO_TRAPS
    assert after_a_tone(10.0, setting, share) == pytest.approx(after_a_tone(1.0, setting, share), abs=1.0 / LOW_RATE)


def test_with_slow_traps_the_release_is_slower_after_a_long_tone() -> None:
    short, long, longest = (after_a_tone(seconds, CELL, 0.2) for seconds in (0.1, 1.0, 10.0))
    assert long > 3.0 * short
    assert longest > 1.5 * long


def test_traps_that_catch_nothing_have_no_other_numbers() -> None:
    x = bursts(4000)
    others = {"fast_trap_capacity": 0.2, "fast_trap_release_per_s": 77.0, "slow_trap_release_per_s": 33.0}
    output, state = optical_cell(torch.from_numpy(x)[None], params_of(CELL | NO_TRAPS), RATE, return_state=True)
    assert not bool(state[0, 2:4].any())
    np.testing.assert_array_equal(output[0], played(x, CELL | NO_TRAPS | others, RATE))
    # A cell of nothing but light and carriers, in terms of what the oracle doesn't have.
    n = glow = low = 0.0
    step, makeup, most = 1.0 / RATE, 10.0 ** (3.0 / 20.0), 10.0 ** (40.0 / 20.0) - 1.0
    for sample, found in zip(x, output[0].tolist(), strict=True):
        v = sample / (1.0 + 1.0 / (1.0 / n + 1.0 / most)) if n > 0.0 else sample
        assert found == pytest.approx(v * makeup, rel=1e-12, abs=1e-300)
        h = 0.99 * v + 0.01 * sample - low
        low += (1.0 - math.exp(-2.0 * math.pi * 30.0 * step)) * h
        u = 10.0**1.5 * abs(h)
        w = u / math.sqrt(1.0 + (u * u - 1.0) / 50.0**2)
        light = math.exp(10.0 * (1.0 - w**-0.5)) if u > 1e-3 else 0.0
        glow = light + (glow - light) * 9.0 ** (-step / 0.5e-3)
        n = (n + step * 22.0 * glow) / (1.0 + step * (20.0 + 2.0 * n))


@pytest.mark.parametrize("which", list(TRAPS))
def test_traps_left_out_are_traps_that_catch_nothing(which: str) -> None:
    left_out = QUICK | dict.fromkeys(TRAPS[which])
    empty = QUICK | {name: 0.0 for name in TRAPS[which] if name in NO_TRAPS}
    audio = rows_of_bursts(2, 2000)
    got, expected = (optical_cell(audio, params_of(s), LOW_RATE, return_state=True) for s in (left_out, empty))
    assert all(map(torch.equal, got, expected))
    np.testing.assert_array_equal(Stream(params_of(left_out), LOW_RATE).process(audio[0].numpy()), expected[0][0])
    assert list(params_of(left_out).numbers()) == [name for name in NUMBERS if name not in TRAPS[which]]
    assert params_of(left_out).slowest_ms() == params_of(empty).slowest_ms()
    pair = [recording(3000)]
    kept = [0, 1, *(2 + n for n, name in enumerate(NUMBERS) if name not in TRAPS[which])]
    got, expected = (error_products(pair, params_of(s), LOW_RATE)[0] for s in (left_out, empty))
    assert difference(got, expected[np.ix_(kept, kept)]) < 1e-12


@pytest.mark.parametrize("largest_db", [0.5, 6.0, 40.0])
def test_the_largest_reduction_is_reached_and_never_exceeded(largest_db: float) -> None:
    x = np.concatenate([bursts(4000), 1e3 * bursts(4000, 1)])
    setting = CELL | {"sidechain_gain_db": 100.0, "drive_limit": 1e3, "largest_reduction_db": largest_db}
    loud = np.abs(x) > 1e-6
    found = -decibels(played(x, setting, RATE, makeup_db=0.0)[loud] / x[loud])
    assert found.max() <= largest_db + 1e-12
    assert found.max() > 0.95 * largest_db


@pytest.mark.parametrize("makeup_db", [-24.0, 0.0, 6.0])
def test_makeup_only_scales(makeup_db: float) -> None:
    audio = rows_of_bursts(2, 3000)
    output, state = optical_cell(audio, params_of(CELL, makeup_db=makeup_db), RATE, return_state=True)
    plain, plain_state = optical_cell(audio, params_of(CELL, makeup_db=0.0), RATE, return_state=True)
    torch.testing.assert_close(output, plain * 10.0 ** (makeup_db / 20.0), rtol=1e-14, atol=0.0)
    assert torch.equal(state, plain_state)


def test_sign_of_the_audio_is_kept() -> None:
    x = bursts(3000)
    np.testing.assert_array_equal(played(-x, CELL), -played(x, CELL))


def test_what_is_too_faint_for_the_panel_is_left_alone() -> None:
    x = 1e-7 * bursts(3000)
    np.testing.assert_allclose(played(x, CELL, makeup_db=0.0), x, rtol=1e-14)


def test_the_high_pass_keeps_the_lows_out_of_the_side_chain() -> None:
    low, high = (0.5 * np.sin(2.0 * np.pi * hz * np.arange(3 * LOW_RATE) / LOW_RATE) for hz in (40.0, 1000.0))
    found = reduction_db(np.stack([low, high]), CELL, highpass_hz=400.0)
    assert found[0] < 0.5 * found[1]


@pytest.mark.parametrize("setting", [CELL, QUICK, CELL | NO_TRAPS], ids=["device", "quick", "no traps"])
def test_slowest_time_is_that_of_the_last_carriers_in_the_dark(setting: dict[str, float]) -> None:
    params = params_of(setting)
    few = torch.tensor([[1e-9, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    frames = round(4.0 * params.slowest_ms() * LOW_RATE / 1e3)
    left = []
    for _ in range(2):
        _, few = optical_cell(
            torch.zeros(1, frames, dtype=torch.float64), params, LOW_RATE, state=few, return_state=True
        )
        left.append(float(few[0, 0]))
    assert left[1] / left[0] == pytest.approx(9.0**-4.0, rel=0.1)  # the step is implicit


def test_slowest_time_of_a_batch_is_that_of_its_slowest_row() -> None:
    each = [params_of(CELL, slow_trap_release_per_s=rate).slowest_ms() for rate in (0.5, 2.0)]
    both = params_of(CELL, slow_trap_release_per_s=torch.tensor([0.5, 2.0], dtype=torch.float64))
    assert both.slowest_ms() == pytest.approx(max(each), rel=1e-12)
    assert params_of(CELL | NO_TRAPS, light_ms=1e4).slowest_ms() == 1e4
    assert params_of(CELL | NO_TRAPS, highpass_hz=0.01).slowest_ms() == pytest.approx(math.log(9.0) / (2e-5 * math.pi))


# Bounded


def extreme(name: str, factor: float) -> float:
    if name.endswith("_db"):
        return CELL[name] + 20.0 * math.log10(factor) if factor > 1.0 or name == "sidechain_gain_db" else 1e-3
    lowest, highest = {"drive_limit": (1.001, math.inf), "input_tap": (0.0, 1.0)}.get(name, (0.0, math.inf))
    return min(max(CELL[name] * factor, lowest), highest)


@pytest.mark.parametrize("rate", [8000, 44100, 96000, 192_000])
@pytest.mark.parametrize(("name", "factor"), [*itertools.product(NUMBERS, (1e-3, 1e3))])
def test_output_state_and_gradient_are_bounded_for_any_signal_and_any_number(
    name: str, factor: float, rate: int
) -> None:
    frames = 3000
    rng = np.random.default_rng(6)
    signals = {
        "silence": np.zeros(frames),
        "DC": np.full(frames, 0.5),
        "square wave": np.where(np.arange(frames) // 20 % 2, 0.7, -0.7),
        "a million": np.where(rng.random(frames) < 0.5, 1e6, -1e6),
        "subnormal": np.full(frames, np.finfo(np.float64).smallest_subnormal),
        "noise": 0.3 * rng.standard_normal(frames),
        "bursts": bursts(frames) * (np.arange(frames) // 500 % 2),
    }
    audio = torch.from_numpy(np.stack(list(signals.values()))).requires_grad_()
    setting = CELL | {name: extreme(name, factor)}
    numbers = {n: torch.full((len(audio),), value, dtype=torch.float64) for n, value in setting.items()}
    leaves = [audio, *(values.requires_grad_() for values in numbers.values())]
    output, state = optical_cell(audio, OpticalCellParams(**numbers), rate, return_state=True)
    # Of a few samples: where the loop swings by itself, derivatives grow with time beyond all numbers.
    beginning, early = optical_cell(audio[:, :500], OpticalCellParams(**numbers), rate, return_state=True)
    gradients = torch.autograd.grad(beginning.sum() + early.sum(), leaves)
    makeup = 10.0 ** (setting["makeup_db"] / 20.0)
    for row, what in enumerate(signals):
        assert bool(torch.isfinite(output[row]).all()), what
        assert bool(torch.isfinite(state[row]).all()), what
        assert bool((output[row].abs() <= audio[row].abs() * (makeup * (1.0 + 1e-12))).all()), what
        assert bool((state[row, :4] >= 0.0).all()), what
        assert float(state[row, 2].detach()) <= setting["fast_trap_capacity"], what
        for leaf, gradient in zip(INPUTS, gradients, strict=False):
            assert bool(torch.isfinite(gradient[row]).all()), f"{what}, {leaf}"


def test_derivative_for_the_limit_far_beyond_it() -> None:
    audio = torch.from_numpy(np.where(np.random.default_rng(0).random(300) < 0.5, 1e6, -1e6))[None]
    limit = torch.tensor(50.0, dtype=torch.float64, requires_grad=True)

    def total(limit: Any) -> Tensor:
        return optical_cell(audio, params_of(CELL, sidechain_gain_db=80.0, drive_limit=limit), RATE).sum()

    (gradient,) = torch.autograd.grad(total(limit), limit)
    assert float(gradient) == pytest.approx(float(total(50.01) - total(49.99)) / 0.02, rel=1e-4)


@NONE_OR_FILTER
def test_silence_stays_silence_in_the_dark(filtering: bool) -> None:
    output, state = optical_cell(torch.zeros(2, 500), params_of(CELL, filtering), RATE, return_state=True)
    assert not bool(output.any())
    assert not bool(state.any())


@pytest.mark.parametrize("linked", [False, True])
def test_silence_after_a_burst_leaves_no_subnormal_state(linked: bool) -> None:
    # A subnormal that rounds to itself would stay for ever, and cost several times as much as zero.
    quicker = {"recombination_per_s": 4e3, "fast_trap_release_per_s": 2e3, "slow_trap_release_per_s": 1e3}
    stream = Stream(params_of(QUICK, **quicker), LOW_RATE, channels=2, linked=linked)
    stream.process(rows_of_bursts(2, 1000).numpy())
    assert (stream.state[:, :4] > 1e-6).all()
    for _ in range(300):
        stream.process(np.zeros((2, 50)))
        left = np.abs(stream.state)
        assert ((left == 0.0) | (left >= 1e-300)).all()
    assert not stream.state.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_subnormal_input_after_a_burst_is_finite(dtype: type) -> None:
    faint = np.full(3000, np.finfo(dtype).smallest_subnormal, dtype)
    x = np.concatenate([bursts(500, dtype=dtype), faint])
    output, state = optical_cell(torch.from_numpy(x)[None], params_of(QUICK), RATE, return_state=True)
    assert bool(torch.isfinite(output).all())
    assert bool(torch.isfinite(state).all())


# NaN and infinity


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_not_finite_is_refused_by_row_and_frame(bad: float) -> None:
    audio = rows_of_bursts(2, 50)
    audio[1, 17] = bad
    with pytest.raises(ValueError, match=rf"^audio: expected finite samples, got {bad} in row 1, frame 17"):
        optical_cell(audio, params_of(CELL), RATE)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_not_finite_spoils_only_itself_in_a_stream(bad: float, linked: bool) -> None:
    x = rows_of_bursts(2, 900).numpy()
    x[0, 350] = bad
    stream, other = (Stream(params_of(CELL), RATE, channels=2, linked=linked) for _ in range(2))
    output = stream.process(x)
    assert np.argwhere(~np.isfinite(output)).tolist() == [[0, 350]]
    assert np.isfinite(stream.state).all()
    stream.state = stream.state.copy()
    x[0, 350] = output[0, 350] = 0.0
    np.testing.assert_array_equal(output, other.process(x))


def test_a_sample_that_is_not_finite_passes_through_the_output_filter() -> None:
    x = bursts(200)
    x[50] = math.nan
    output = Stream(params_of(CELL, filtering=True), RATE).process(x)
    assert np.argwhere(~np.isfinite(output)).ravel().tolist() == [50, 51, 52, 53, 54]


# Discretisation


def music(rate: int, seconds: float = 3.0) -> np.ndarray:
    """Noise that falls above 1 kHz, in passages of an eighth of a second between −44 and −16 dBFS, and crests."""
    rng = np.random.default_rng(1)
    frames, passage = round(seconds * rate), rate // 8
    level_db = np.repeat(rng.uniform(-30.0, -2.0, frames // passage + 1), passage)[:frames]
    corner = 1.0 - math.exp(-2.0 * math.pi * 1000.0 / rate)
    noise = lfilter([corner], [1.0, corner - 1.0], rng.standard_normal(frames))
    return np.clip(0.2 * noise / noise.std(), -0.8, 0.8) * 10.0 ** (level_db / 20.0)


def gain_off_db(rate: int, gain_db: float) -> np.ndarray:
    """What one step a sample is off by against eight."""
    x = music(rate)
    finer = resample_poly(x, 8, 1)
    heard = (np.abs(x) > 1e-6) & (np.abs(finer[::8]) > 1e-6)
    setting = CELL | {"sidechain_gain_db": gain_db}
    coarse_db = decibels(played(x, setting, rate)[heard] / x[heard])
    return coarse_db - decibels(played(finer, setting, 8 * rate)[::8][heard] / finer[::8][heard])


# Measured, rms and largest over the three gains: 0.016 and 0.074 dB; 0.014 and 0.105 dB; 0.0066 and 0.0123 dB.
@pytest.mark.parametrize(
    ("rate", "rms_db", "largest_db"), [(44100, 0.02, 0.15), (48000, 0.018, 0.15), (96000, 0.009, 0.02)]
)
@pytest.mark.parametrize("gain_db", [20.0, 30.0, 40.0])
def test_gain_is_nearly_that_of_eight_steps_a_sample(
    gain_db: float, rate: int, rms_db: float, largest_db: float
) -> None:
    off_db = gain_off_db(rate, gain_db)
    assert float(np.sqrt(np.mean(off_db**2))) < rms_db
    assert float(np.abs(off_db).max()) < largest_db


def test_oversampling_in_the_oracle_is_a_higher_rate() -> None:
    x = bursts(500)
    finer = resample_poly(x, 4, 1)
    params = params_of(CELL, makeup_db=0.0)
    conductance = numpy_optical_cell(x, params, RATE, oversample=4).conductance
    heard = np.abs(finer[::4]) > 1e-6
    found = (finer / played(finer, CELL, 4 * RATE, makeup_db=0.0))[::4]
    np.testing.assert_allclose(found[heard], 1.0 + conductance[heard], rtol=1e-12)


# Linked stereo


def linked_stream(setting: dict[str, Any] = CELL, rate: float = RATE) -> Stream:
    return Stream(params_of(setting), rate, channels=2, linked=True)


def test_linked_channels_have_one_gain() -> None:
    x = rows_of_bursts(2, 3000).numpy()
    x[x == 0.0] = 1e-5
    gain = linked_stream().process(x) / x
    np.testing.assert_allclose(gain[0], gain[1], rtol=1e-12)
    for channel in range(2):  # neither is led by itself alone
        assert not np.allclose(gain[channel] * x[channel], played(x[channel], CELL, RATE), rtol=1e-3)


@pytest.mark.parametrize("other", [0.0, -0.3, 1.0])
@pytest.mark.parametrize("first", [False, True])
def test_linked_channels_are_led_by_the_louder(first: bool, other: float) -> None:
    x = bursts(3000)
    both = np.stack([x, other * x] if first else [other * x, x])
    output = linked_stream().process(both)
    mono = Stream(params_of(CELL), RATE).process(x)
    expected = np.stack([mono, other * mono] if first else [other * mono, mono])
    np.testing.assert_allclose(output, expected, rtol=1e-12)


def test_linked_channels_are_led_by_whichever_is_louder_now() -> None:
    x = rows_of_bursts(2, 3000).numpy()
    x[x == 0.0] = 1e-5
    setting = CELL | {"highpass_hz": 1e-9}  # else what was heard depends on what was loud before
    loudest = np.abs(x).max(axis=0)
    led = Stream(params_of(setting), RATE).process(loudest) / loudest
    np.testing.assert_allclose(linked_stream(setting).process(x), led * x, rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("linked", [False, True])
@NONE_OR_FILTER
def test_the_same_signal_on_both_channels_equals_mono(filtering: bool, linked: bool, dtype: type) -> None:
    x, params = bursts(3000, dtype=dtype), params_of(CELL, filtering)
    output = Stream(params, RATE, channels=2, linked=linked).process(np.stack([x, x]))
    assert output.dtype == dtype
    mono = Stream(params, RATE).process(x)
    np.testing.assert_array_equal(output[0], output[1])
    np.testing.assert_allclose(output[0], mono, rtol=1e-12 if dtype is np.float64 else 1e-6, atol=1e-14)


def test_linked_channels_have_one_cell_and_a_low_pass_each() -> None:
    stream = linked_stream()
    stream.process(rows_of_bursts(2, 300).numpy())
    state = stream.state
    np.testing.assert_array_equal(state[0, :4], state[1, :4])
    assert state[0, 4] != state[1, 4]
    state[1, 0] *= 1.5
    with pytest.raises(ValueError, match=r"^state: expected one gain for all linked channels"):
        stream.state = state
    Stream(params_of(CELL), RATE, channels=2, linked=False).state = state


@NONE_OR_FILTER
@pytest.mark.parametrize(
    "shape", [(), (5,), (2,), (1, 5), (2, 4), (2, 6), (5, 2), (10,), (2, 9)], ids=lambda shape: str(shape)
)
def test_a_stream_refuses_a_state_of_another_shape(shape: tuple[int, ...], filtering: bool) -> None:
    stream = Stream(params_of(CELL, filtering), RATE, channels=2)
    with pytest.raises(ValueError, match=r"^state: expected finite numbers of shape"):
        stream.state = np.zeros(shape)


@pytest.mark.parametrize("linked", [False, True])
def test_the_meter_shows_the_gain_of_the_next_sample(linked: bool) -> None:
    x = rows_of_bursts(2, 3000).numpy()
    x[np.abs(x) < 1e-6] = 1e-6
    stream = Stream(params_of(CELL, makeup_db=0.0), RATE, channels=2, linked=linked)
    assert stream.gain_reduction_db == 0.0
    for block, after in zip(np.split(x[:, :2990], 26, axis=1), x[:, 115::115].T[:26], strict=True):
        stream.process(block)
        shown, state = stream.gain_reduction_db, stream.state
        found = decibels(after / stream.process(after[:, None].copy())[:, 0])
        assert shown == pytest.approx(float(found.max()), abs=1e-11)
        stream.state = state
    assert shown > 3.0


# Errors

POSITIVE = (
    "highpass_hz",
    "light_exponent",
    "light_ms",
    "recombination_per_s",
    "fast_trap_capacity",
    "fast_trap_release_per_s",
    "slow_trap_release_per_s",
    "largest_reduction_db",
)
NOT_NEGATIVE = ("input_tap", "pair_recombination_per_s", "fast_trap_capture_per_s", "slow_trap_capture_per_s")
OUT_OF_RANGE = [
    *itertools.product(NUMBERS, (math.nan, math.inf, -math.inf)),
    *itertools.product(POSITIVE, (0.0, -1.0)),
    *itertools.product(NOT_NEGATIVE, (-1e-9,)),
    ("input_tap", 1.001),
    ("drive_limit", 1.0),
]


@pytest.mark.parametrize("kind", [float, torch.tensor, lambda value: torch.tensor([30.0, value])])
@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_by_name(name: str, value: float, kind: Callable[[float], Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        params_of(CELL, **{name: kind(value)})


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_zero_is_allowed_where_it_means_none(name: str) -> None:
    assert np.isfinite(played(bursts(300), CELL, **{name: 0.0})).all()


@pytest.mark.parametrize("name", FAST_TRAP + SLOW_TRAP)
def test_a_number_of_a_trap_missing_beside_its_others_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a number beside"):
        params_of(CELL, **{name: None})


@pytest.mark.parametrize("given", [torch.full((1, 2), 0.5), "loud", [0.5, "loud"]], ids=["matrix", "text", "list"])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_or_row_of_numbers_is_refused_by_name(name: str, given: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a number or shape \(batch,\), got"):
        params_of(CELL, **{name: given})


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_of_another_batch_is_refused_by_name(name: str) -> None:
    params = params_of(CELL, **{name: torch.full((3,), CELL[name])})
    with pytest.raises(ValueError, match=rf"^{name}: expected a number or shape \(2,\) as the audio's batch"):
        optical_cell(rows_of_bursts(2, 10), params, RATE)
    with pytest.raises(ValueError, match=rf"^{name}: expected a number"):
        Stream(params, RATE, channels=3)
    with pytest.raises(ValueError, match=rf"^{name}: expected a number"):
        error_products([(np.zeros(10), np.zeros(10))], params, RATE)


@NONE_OR_FILTER
@pytest.mark.parametrize("shape", [(), (5,), (2,), (1, 5), (2, 4), (2, 6), (5, 2), (10,), (2, 9)], ids=str)
def test_a_state_of_another_shape_is_refused(shape: tuple[int, ...], filtering: bool) -> None:
    with pytest.raises(ValueError, match=r"^state: expected shape \(2, (5|10)\), got"):
        optical_cell(rows_of_bursts(2, 10), params_of(CELL, filtering), RATE, state=torch.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_refused(value: float) -> None:
    state = torch.zeros(2, 5)
    state[1, 2] = value
    with pytest.raises(ValueError, match=r"^state: expected finite numbers"):
        optical_cell(rows_of_bursts(2, 10), params_of(CELL), RATE, state=state)
    stream = Stream(params_of(CELL), RATE, channels=2)
    with pytest.raises(ValueError, match=r"^state: expected finite numbers"):
        stream.state = state.numpy()


def test_an_output_filter_of_another_batch_is_refused() -> None:
    params = OpticalCellParams(**CELL, output_filter=OutputFilter(torch.zeros(3, 5), RATE))
    with pytest.raises(ValueError, match=r"^output_filter: expected one filter or 2 as the audio's batch"):
        optical_cell(rows_of_bursts(2, 10), params, RATE)
    with pytest.raises(ValueError, match=r"^output_filter: expected one filter for all channels"):
        Stream(params, RATE, channels=3)


@pytest.mark.parametrize("given", [0.5, torch.zeros(5), COEFFICIENTS])
def test_an_output_filter_of_another_type_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^output_filter: expected an OutputFilter or None, got"):
        OpticalCellParams(**CELL, output_filter=given)


@pytest.mark.parametrize("rate", [0, -8000, math.nan, math.inf, "8000", None])
def test_an_unfit_sample_rate_is_refused(rate: Any) -> None:
    for build in (
        lambda: optical_cell(rows_of_bursts(2, 10), params_of(CELL), rate),
        lambda: Stream(params_of(CELL), rate),
    ):
        with pytest.raises(ValueError, match=r"^sample_rate: expected a positive number of Hz"):
            build()


def test_a_sample_rate_too_low_for_the_output_filter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^sample_rate: expected more than 2000 Hz"):
        optical_cell(rows_of_bursts(2, 10), params_of(CELL, filtering=True), 2000)


@pytest.mark.parametrize("audio", [torch.zeros(2, 5, dtype=torch.int16), np.zeros((2, 5)), torch.zeros(2, 5).half()])
def test_audio_of_another_type_is_refused(audio: Any) -> None:
    with pytest.raises(ValueError, match=r"^audio: expected a tensor of float32 or float64"):
        optical_cell(audio, params_of(CELL), RATE)


@pytest.mark.parametrize("shape", [(5,), (1, 2, 5), ()])
def test_audio_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^audio: expected shape \(batch, time\)"):
        optical_cell(torch.zeros(shape), params_of(CELL), RATE)


def test_values_are_checked_in_forward_mode_and_shapes_under_vmap() -> None:
    audio = rows_of_bursts(2, 20)

    def of_light(light_ms: Tensor) -> Tensor:
        return optical_cell(audio, params_of(CELL, light_ms=light_ms), RATE)

    def of_state(state: Tensor) -> Tensor:
        return optical_cell(audio, params_of(CELL), RATE, state=state)

    with pytest.raises(ValueError, match=r"light_ms: expected more than 0, got -1"):
        torch.func.jacfwd(of_light)(torch.tensor(-1.0))
    with pytest.raises(ValueError, match=r"light_ms: expected a number or shape \(batch,\), got shape \(1, 2\)"):
        torch.func.vmap(of_light)(torch.full((3, 1, 2), 4.0))
    with pytest.raises(ValueError, match=r"light_ms: expected a number or shape \(2,\)"):
        torch.func.vmap(of_light)(torch.full((2, 3), 4.0))
    with pytest.raises(ValueError, match=r"state: expected shape \(2, 5\)"):
        torch.func.vmap(of_state)(torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match=r"audio: expected shape \(batch, time\), got \(20,\)"):
        torch.func.vmap(lambda x: optical_cell(x, params_of(CELL), RATE))(audio)


# A real recording


def fact_sheet(x: np.ndarray, gain: float, tap: float, rate: int) -> np.ndarray:
    """The scheme of ``shared/facts/la2a_physics.md``, in its own constants."""
    step = 1.0 / rate
    n = light = m1 = m2 = low = 0.0
    output = np.empty(len(x))
    for at, sample in enumerate(x.tolist()):
        c = n / (1.0 + n / 150.0)
        v = sample / (1.0 + c)
        h = v + tap * (sample - v) - low
        low += (1.0 - math.exp(-2.0 * math.pi * 39.0 * step)) * h
        d = gain * abs(h)
        d /= math.sqrt(1.0 + (d / 64.3) ** 2)
        phi = math.exp(11.41 * (1.0 - 1.0 / math.sqrt(d))) if d > 1e-3 else 0.0
        light += (1.0 - math.exp(-step / 1e-4)) * (phi - light)
        n = (n + step * (185.3 * light + 3.759 * m1 + 0.8729 * m2)) / (
            1.0 + step * (18.13 + 1.614 * n + 222.4 * (4.626 - m1) + 11.54)
        )
        m1 = (m1 + step * 222.4 * 4.626 * n) / (1.0 + step * (222.4 * n + 3.759))
        m2 = (m2 + step * 11.54 * n) / (1.0 + step * 0.8729)
        output[at] = v
    return output


@pytest.mark.parametrize(("name", "gain", "tap"), [("235", 5.79, 0.0), ("259", 5.79 * 10.0 ** (8.3 / 20.0), 0.0003)])
def test_a_recording_through_the_constants_of_the_fact_sheet(
    real_recordings: Callable[[str], Path], name: str, gain: float, tap: float
) -> None:
    path = real_recordings("signaltrain_excerpts") / "Test" / f"input_{name}_.wav"
    x, rate = soundfile.read(path, frames=44100, start=44100)
    # The drive whose steady light halves the gain, where carriers recombine as fast as they are made: n = 1.
    one = (1.0 - math.log((18.13 + 1.614) / 185.3) / 11.41) ** -2
    drive = one / math.sqrt(1.0 - (one / 64.3) ** 2)  # one that is limited to that
    params = OpticalCellParams(
        sidechain_gain_db=20.0 * math.log10(gain / drive),
        input_tap=tap,
        highpass_hz=39.0,
        drive_limit=64.3 / one,
        light_exponent=11.41 / math.sqrt(one),
        light_ms=1e-4 * math.log(9.0) * 1000.0,
        recombination_per_s=18.13,
        pair_recombination_per_s=1.614,
        fast_trap_capture_per_s=222.4 * 4.626,
        fast_trap_capacity=4.626,
        fast_trap_release_per_s=3.759,
        slow_trap_capture_per_s=11.54,
        slow_trap_release_per_s=0.8729,
        largest_reduction_db=20.0 * math.log10(151.0),
    )
    expected = fact_sheet(x, gain, tap, rate)
    output = optical_cell(torch.from_numpy(x)[None], params, rate)[0].numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-9)
    np.testing.assert_allclose(numpy_optical_cell(x, params, rate).output, expected, rtol=1e-9)
    loud = np.abs(x) > 1e-3
    assert decibels(x[loud] / expected[loud]).max() > 3.0
