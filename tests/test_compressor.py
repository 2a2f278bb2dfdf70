"""The explicit compressor against the float64 numpy reference, and against physics."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from baselines import numpy_compressor
from baselines.numpy_compressor import compressor_gradient
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.dsp.smoothing_kernels import pieces
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude

# torch's own, from what it imports when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

RATE = 44100
SETTING = {
    "threshold_db": -30.0,
    "ratio": 4.0,
    "knee_db": 8.0,
    "attack_ms": 2.0,
    "release_ms": 30.0,
    "makeup_db": 3.0,
}
TOLERANCE = 1e-6


def bursts(frames: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    """Noise that rises and falls by 40 dB, with some samples at and below the detector's floor."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(frames) * 10.0 ** (-1.0 + np.sin(np.arange(frames) / 200.0))
    x[::97] = 0.0
    x[1::97] = 1e-9
    return x.astype(dtype)


def rows_of_bursts(rows: int, frames: int, dtype: type = np.float64) -> Tensor:
    return torch.from_numpy(np.stack([bursts(frames, seed, dtype) for seed in range(rows)]))


def relative_error(got: Any, expected: Any) -> float:
    got, expected = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return float(np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-300))


def errors_against_the_reference(
    x: np.ndarray, setting: dict[str, float], sample_rate: float = RATE, state: float = 0.9, trace: bool = False
) -> dict[str, float]:
    # Of output, last state and every derivative, for random weights of output and state.
    weight = np.random.default_rng(7).standard_normal(len(x)).astype(x.dtype)
    wide = x.astype(np.float64)
    expected = numpy_compressor.compressor(wide, sample_rate, **setting, state=state)
    expected_gradient = compressor_gradient(
        wide, sample_rate, **setting, state=state, grad_output=weight.astype(np.float64), grad_state=0.7
    )
    numbers = {**setting, "state": state}
    inputs = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in numbers.items()}
    inputs["x"] = torch.from_numpy(x).requires_grad_()
    params = CompressorParams(**{name: inputs[name] for name in setting})
    arguments = inputs["x"][None], params, sample_rate
    if trace:
        traced = compressor(*arguments, state=inputs["state"], trace=True)
        output, last = traced.output, traced.state
    else:
        output, last = compressor(*arguments, state=inputs["state"], return_state=True)
    loss = (output * torch.from_numpy(weight)).sum().double() + 0.7 * last.sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    errors = {
        "output": relative_error(output.detach()[0], expected.output),
        "last state": relative_error(last.detach()[0], expected.state),
    }
    for name, gradient in zip(inputs, gradients, strict=True):
        errors[f"d/d {name}"] = relative_error(gradient, expected_gradient[name])
    return errors


def assert_small(errors: dict[str, float]) -> None:
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


# Value and gradient against the reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sample_rate", [44100, 48000, 96000])
@pytest.mark.parametrize("threshold_db", [-55.0, -18.0])
@pytest.mark.parametrize("ratio", [1.01, 4.0, 100.0])
@pytest.mark.parametrize("knee_db", [0.0, 24.0])
@pytest.mark.parametrize(("attack_ms", "release_ms"), [(0.5, 80.0), (80.0, 0.5), (7.0, 7.0)])
def test_output_state_and_gradient_are_those_of_the_reference(
    attack_ms: float,
    release_ms: float,
    knee_db: float,
    ratio: float,
    threshold_db: float,
    sample_rate: int,
    dtype: type,
) -> None:
    times = {"attack_ms": attack_ms, "release_ms": release_ms}
    setting = SETTING | times | {"knee_db": knee_db, "ratio": ratio, "threshold_db": threshold_db}
    assert_small(errors_against_the_reference(bursts(3001, dtype=dtype), setting, sample_rate))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("frames", [1, 2, 3, 7, 64, 1023, 4097, 200_003])
def test_any_length(frames: int, dtype: type) -> None:
    assert_small(errors_against_the_reference(bursts(frames, 1, dtype) + dtype(0.2), SETTING))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("knee_db", [0.0, 24.0])
def test_trace_against_the_reference(knee_db: float, dtype: type) -> None:
    assert_small(errors_against_the_reference(bursts(3001, dtype=dtype), SETTING | {"knee_db": knee_db}, trace=True))


@pytest.mark.slow
def test_ten_minutes_against_the_reference() -> None:
    setting = SETTING | {"attack_ms": 5.0, "release_ms": 5000.0}
    assert_small(errors_against_the_reference(bursts(600 * RATE, 3, np.float32), setting, state=1.0))


@pytest.mark.parametrize("scale", [1e-12, 1e-30, 1e12])
def test_gradient_of_a_scaled_loss_in_float32(scale: float) -> None:
    def gradient(factor: float) -> float:
        threshold = torch.tensor(-60.0, dtype=torch.float64, requires_grad=True)
        x = torch.from_numpy(bursts(2000, 2, np.float32) * np.float32(1e-3))[None]
        output = compressor(x, CompressorParams(**SETTING | {"threshold_db": threshold}), RATE)
        return float(torch.autograd.grad(output, threshold, torch.full_like(output, factor))[0])

    assert gradient(scale) / scale == pytest.approx(gradient(1.0), rel=TOLERANCE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_release_of_five_seconds_ends_where_the_closed_form_does(dtype: type) -> None:
    setting = SETTING | {"attack_ms": 1.0, "release_ms": 5000.0, "makeup_db": 0.0}
    burst, silence, probe = np.full(RATE // 10, 0.9), np.zeros(20 * RATE), np.full(RATE, 1e-3)
    x = np.concatenate([burst, silence, probe]).astype(dtype)
    output, state = compressor(torch.from_numpy(x)[None], CompressorParams(**setting), RATE, return_state=True)
    oracle = numpy_compressor.compressor(x, RATE, **setting)
    after_burst = oracle.gain[len(burst) - 1]
    assert after_burst < 0.1
    closed_form = 1.0 - (1.0 - after_burst) * 9.0 ** (-(len(x) - len(burst)) / RATE / 5.0)
    end = float(output[0, -1]) / float(x[-1])
    for expected in (oracle.state, closed_form):
        assert amplitude_to_db(end) == pytest.approx(amplitude_to_db(expected), abs=1e-3)
        assert float(state) == pytest.approx(expected, rel=1e-9)


# Gradient against finite differences

INPUTS = ("audio", *SETTING, "state")


@pytest.mark.parametrize("wanted", [*itertools.combinations(INPUTS, 1), ("threshold_db", "attack_ms", "state"), INPUTS])
@pytest.mark.parametrize("knee_db", [0.0, 10.0])
@pytest.mark.parametrize(("attack_ms", "release_ms"), [(0.2, 1.0), (1.0, 0.2)])
def test_gradcheck(attack_ms: float, release_ms: float, knee_db: float, wanted: tuple[str, ...]) -> None:
    if knee_db == 0.0 and "knee_db" in wanted:
        wanted = tuple(name for name in wanted if name != "knee_db") or ("audio",)  # a knee below 0 isn't allowed
    numbers = SETTING | {"knee_db": knee_db, "attack_ms": attack_ms, "release_ms": release_ms, "state": 0.6}
    inputs = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}
    inputs["audio"] = torch.from_numpy(np.random.default_rng(3).uniform(0.003, 0.5, (1, 20)))
    inputs["audio"][0, ::3] *= -1.0
    trace = compressor(
        inputs["audio"], CompressorParams(**{n: inputs[n] for n in SETTING}), RATE, state=0.6, trace=True
    )
    before = torch.cat([inputs["state"][:, None], trace.gain[:, :-1]], dim=1)
    assert float((db_to_amplitude(trace.static_gain_db) - before).abs().min()) > 1e-3  # no sample at the kink
    assert float((trace.level_db - SETTING["threshold_db"]).abs().min()) > 1e-3

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        found = dict(zip(inputs, tensors, strict=True))
        params = CompressorParams(**{name: found[name] for name in SETTING})
        return compressor(found["audio"], params, RATE, state=found["state"], return_state=True)

    leaves = [value.requires_grad_(name in wanted) for name, value in inputs.items()]
    assert torch.autograd.gradcheck(run, leaves, check_forward_ad=True)


@pytest.mark.parametrize("loss", [lambda y: y.square().sum(), lambda y: y.sum()], ids=["square", "sum"])
@pytest.mark.parametrize("name", ["audio", *SETTING])
def test_second_derivative_is_refused(name: str, loss) -> None:
    audio = rows_of_bursts(1, 200)
    if name == "audio":
        leaf = audio.requires_grad_()
        params = CompressorParams(**SETTING)
    else:
        leaf = torch.tensor(SETTING[name], dtype=torch.float64, requires_grad=True)
        params = CompressorParams(**SETTING | {name: leaf})
    with pytest.raises(RuntimeError, match="second derivative"):  # noqa: PT012 - refused at either step
        (gradient,) = torch.autograd.grad(loss(compressor(audio, params, RATE)), leaf, create_graph=True)
        torch.autograd.grad((gradient.square() + leaf.square()).sum(), leaf)


def test_changing_the_audio_before_the_backward_pass_is_refused() -> None:
    audio = rows_of_bursts(1, 50)
    ratio = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    output = compressor(audio, CompressorParams(**SETTING | {"ratio": ratio}), RATE)
    audio.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_changing_output_and_state_leaves_the_gradient_alone() -> None:
    def gradient(spoil: bool) -> Tensor:
        ratio = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
        audio, params = rows_of_bursts(1, 50), CompressorParams(**SETTING | {"ratio": ratio})
        output, state = compressor(audio, params, RATE, return_state=True)
        total = output.sum() + state.sum()
        if spoil:
            with torch.no_grad():
                output.zero_()
                state.zero_()
        return torch.autograd.grad(total, ratio)[0]

    assert torch.equal(gradient(spoil=True), gradient(spoil=False))


def test_the_graph_can_be_used_again() -> None:
    ratio = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    params = CompressorParams(**SETTING | {"ratio": ratio})
    output, state = compressor(rows_of_bursts(1, 50), params, RATE, return_state=True)
    total = output.sum() + state.sum()
    first, again = (torch.autograd.grad(total, ratio, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)


# Forward mode, vmap


def away_from_kinks() -> dict[str, Tensor]:
    """Two rows of every input in float64, with no sample at the edge of the knee or where attack turns to release."""
    spread = torch.tensor([1.0, 1.3], dtype=torch.float64)
    inputs = {name: value * spread for name, value in (SETTING | {"attack_ms": 0.2, "release_ms": 1.0}).items()}
    inputs["state"] = torch.tensor([0.6, 0.9], dtype=torch.float64)
    inputs["audio"] = torch.from_numpy(10.0 ** np.random.default_rng(4).uniform(-2.5, -0.3, (2, 40)))
    inputs["audio"][:, ::3] *= -1.0
    params = CompressorParams(**{name: inputs[name] for name in SETTING})
    trace = compressor(inputs["audio"], params, RATE, state=inputs["state"], trace=True)
    before = torch.cat([inputs["state"][:, None], trace.gain[:, :-1]], dim=1)
    excess_db = (trace.level_db - inputs["threshold_db"][:, None]).abs()
    assert float((db_to_amplitude(trace.static_gain_db) - before).abs().min()) > 1e-4
    assert float((excess_db - 0.5 * inputs["knee_db"][:, None]).abs().min()) > 1e-3
    return {name: inputs[name] for name in INPUTS}


def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    audio, *params, state = inputs
    return compressor(audio, CompressorParams(*params), RATE, state=state, return_state=True)


def square_loss(*inputs: Tensor) -> Tensor:
    output, state = run(*inputs)
    return output.square().sum() + state.sum()


def random_like(tensors: Iterable[Tensor], seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal(t.shape)).to(t.dtype) for t in tensors]


def inner(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    return sum(float(torch.sum(a.double() * b.double())) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("wanted", [*itertools.combinations(INPUTS, 1), INPUTS[1:], INPUTS])
def test_jvp_is_the_central_difference(wanted: tuple[str, ...]) -> None:
    inputs = away_from_kinks()

    def moved(*some: Tensor) -> tuple[Tensor, Tensor]:
        return run(*(inputs | dict(zip(wanted, some, strict=True))).values())

    at = tuple(inputs[name] for name in wanted)
    direction = tuple(x * d for x, d in zip(at, random_like(at, 1), strict=True))
    values, tangents = torch.func.jvp(moved, at, direction)
    step = 1e-5
    ahead, behind = (moved(*(x + h * d for x, d in zip(at, direction, strict=True))) for h in (step, -step))
    for value, tangent, expected, a, b in zip(values, tangents, moved(*at), ahead, behind, strict=True):
        assert torch.equal(value, expected)
        assert relative_error(tangent, (a - b) / (2.0 * step)) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("threshold_db", "knee_db"), [(-30.0, 0.0), (-30.0, 12.0), (-200.0, 12.0)])
@pytest.mark.parametrize("name", [*INPUTS, "all"])
def test_forward_mode_is_the_transpose_of_reverse_mode(
    name: str, threshold_db: float, knee_db: float, dtype: type
) -> None:
    # At the kinks too, where both must take the same side: the bursts have silence and samples below the floor.
    numbers = SETTING | {"threshold_db": threshold_db, "knee_db": knee_db, "state": 1.0}
    inputs = {"audio": rows_of_bursts(2, 500, dtype)}
    inputs |= {name: torch.full((2,), value, dtype=torch.float64) for name, value in numbers.items()}
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


def test_fused_and_traced_tangents_are_the_same() -> None:
    inputs = tuple(away_from_kinks().values())

    def traced(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        audio, *params, state = inputs
        trace = compressor(audio, CompressorParams(*params), RATE, state=state, trace=True)
        return trace.output, trace.state

    directions = tuple(random_like(inputs, 1))
    _, fused = torch.func.jvp(run, inputs, directions)
    _, expected = torch.func.jvp(traced, inputs, directions)
    torch.testing.assert_close(fused, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("forward", [torch.func.jacfwd, torch.func.jacrev], ids=["jacfwd", "jacrev"])
@pytest.mark.parametrize("which", [0, 1], ids=["output", "state"])
def test_jacobian_for_the_parameters_is_that_of_reverse_mode(which: int, forward) -> None:
    audio, *params = away_from_kinks().values()
    vector = torch.stack(params, dim=1)[0]

    def of_vector(vector: Tensor) -> Tensor:
        return run(audio[:1], *vector)[which]

    expected = torch.autograd.functional.jacobian(of_vector, vector)
    torch.testing.assert_close(forward(of_vector)(vector), expected, rtol=1e-10, atol=1e-12)


def test_jacobian_for_the_audio_is_that_of_reverse_mode() -> None:
    audio, *params = away_from_kinks().values()
    expected = torch.autograd.functional.jacobian(lambda x: run(x, *params)[0], audio)
    jacobian = torch.func.jacfwd(lambda x: run(x, *params)[0])(audio)
    torch.testing.assert_close(jacobian, expected, rtol=1e-10, atol=1e-12)
    assert not bool(jacobian[0, :, 1].any())  # no row depends on another


BATCHED = [("audio",), INPUTS[1:], ("ratio",), ("attack_ms", "state"), INPUTS]


@pytest.mark.parametrize("batched", BATCHED)
def test_vmap_equals_a_loop(batched: tuple[str, ...]) -> None:
    inputs = away_from_kinks()
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
    params = CompressorParams(**SETTING)

    def last(x: Tensor) -> tuple[Tensor, Tensor]:
        return compressor(x, params, RATE, return_state=True)

    assert torch.func.vmap(last)(audio)[0].shape == audio.shape
    assert torch.func.jvp(last, (audio[0],), (audio[0],))[1][0].shape == audio[0].shape
    assert torch.func.vmap(last)(torch.empty((3, 0, frames)))[1].shape == (3, 0)


MIXED: dict[str, Callable[[Any, Tensor], Any]] = {
    "reverse over reverse": lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x),
    "reverse over forward": lambda f, x: torch.func.jacrev(torch.func.jacfwd(f))(x),
    "forward over reverse": lambda f, x: torch.func.jacfwd(torch.func.jacrev(f))(x),
    "forward over forward": lambda f, x: torch.func.jacfwd(torch.func.jacfwd(f))(x),
    "func.hessian": lambda f, x: torch.func.hessian(f)(x),
    "autograd.hessian": lambda f, x: torch.autograd.functional.hessian(f, x),
    "vectorised autograd.hessian": lambda f, x: torch.autograd.functional.hessian(f, x, vectorize=True),
    "under vmap": lambda f, x: torch.func.vmap(torch.func.hessian(f))(torch.stack([x, x])),
}


@pytest.mark.parametrize("linear", [False, True], ids=["square", "linear"])
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("route", list(MIXED))
def test_second_derivative_is_refused_in_any_mix_of_modes(route: str, name: str, linear: bool) -> None:
    inputs = away_from_kinks()

    def loss(value: Tensor) -> Tensor:
        arguments = (inputs | {name: value}).values()
        return run(*arguments)[0].sum() if linear else square_loss(*arguments)

    with pytest.raises(RuntimeError, match=r"compressor: differentiable once.* second derivative"):
        MIXED[route](loss, inputs[name])


def test_derivative_for_one_input_of_the_derivative_for_another_is_refused() -> None:
    audio, *params = away_from_kinks().values()

    def along_the_audio(ratio: Tensor) -> Tensor:
        others = [params[0], ratio, *params[2:]]
        return torch.func.jvp(lambda x: square_loss(x, *others), (audio,), (torch.ones_like(audio),))[1]

    for second in (torch.func.grad(along_the_audio), torch.func.jacfwd(along_the_audio)):
        with pytest.raises(RuntimeError, match="second derivative"):
            second(params[1])


def test_values_are_checked_in_forward_mode_and_shapes_under_vmap() -> None:
    audio = rows_of_bursts(2, 20)

    def of_ratio(ratio: Tensor) -> Tensor:
        return compressor(audio, CompressorParams(**SETTING | {"ratio": ratio}), RATE)

    def of_state(state: Tensor) -> Tensor:
        return compressor(audio, CompressorParams(**SETTING), RATE, state=state)

    with pytest.raises(ValueError, match=r"ratio: expected at least 1, got 0\.5"):
        torch.func.jacfwd(of_ratio)(torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"ratio: expected a number or shape \(batch,\), got shape \(1, 2\)"):
        torch.func.vmap(of_ratio)(torch.full((3, 1, 2), 4.0))
    with pytest.raises(ValueError, match=r"ratio: expected a number or shape \(2,\)"):
        torch.func.vmap(of_ratio)(torch.full((2, 3), 4.0))
    with pytest.raises(ValueError, match="state: expected finite numbers"):
        torch.func.jacfwd(of_state)(torch.tensor(math.nan))
    with pytest.raises(ValueError, match=r"audio: expected shape \(batch, time\), got \(20,\)"):
        torch.func.vmap(lambda x: compressor(x, CompressorParams(**SETTING), RATE))(audio)


def test_states_are_kept_for_a_backward_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def spy(kernel: Any, rows: int, samples: int, *arrays: np.ndarray) -> list[float]:
        kept.append(arrays[-2].shape)
        return over_rows(kernel, rows, samples, *arrays)

    monkeypatch.setattr("ddsp_la2a.dsp.fused.over_rows", spy)
    audio, ratio = rows_of_bursts(2, 500), torch.tensor(4.0, requires_grad=True)
    compressor(audio, CompressorParams(**SETTING), RATE)
    compressor(audio, CompressorParams(**SETTING | {"ratio": ratio}), RATE)
    with torch.no_grad():
        compressor(audio, CompressorParams(**SETTING | {"ratio": ratio}), RATE)
    assert kept == [(2, 0, 4), (2, pieces(500), 4), (2, 0, 4)]


# The fused path and the traced one


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("knee_db", [0.0, 12.0])
def test_fused_equals_traced(knee_db: float, dtype: type) -> None:
    audio = rows_of_bursts(3, 2000, dtype)
    inputs = [
        torch.tensor([v, v * 1.1, v * 0.9], dtype=torch.float64) for v in (SETTING | {"knee_db": knee_db}).values()
    ]
    inputs = [tensor.requires_grad_() for tensor in (audio, torch.tensor(0.8, dtype=torch.float64), *inputs)]
    params = CompressorParams(*inputs[2:])
    fused, state = compressor(audio, params, RATE, state=inputs[1], return_state=True)
    trace = compressor(audio, params, RATE, state=inputs[1], trace=True)
    rtol = 1e-6 if dtype is np.float32 else 1e-11
    torch.testing.assert_close(trace.output, fused, rtol=rtol, atol=1e-12)
    torch.testing.assert_close(trace.state, state, rtol=1e-12, atol=0.0)
    weight = torch.from_numpy(bursts(2000, 9)).to(audio.dtype)
    for got, expected in zip(
        torch.autograd.grad((weight * trace.output).sum() + trace.state.sum(), inputs),
        torch.autograd.grad((weight * fused).sum() + state.sum(), inputs),
        strict=True,
    ):
        assert relative_error(got, expected) <= rtol


def test_trace_shows_every_signal_between() -> None:
    audio = rows_of_bursts(2, 300)
    trace = compressor(audio, CompressorParams(**SETTING), RATE, trace=True)
    for row in range(2):
        oracle = numpy_compressor.compressor(audio[row].numpy(), RATE, **SETTING)
        np.testing.assert_allclose(trace.output[row], oracle.output, rtol=1e-12)
        np.testing.assert_allclose(trace.level_db[row], oracle.level_db, rtol=1e-12)
        np.testing.assert_allclose(db_to_amplitude(trace.static_gain_db[row]), oracle.target_gain, rtol=1e-12)
        np.testing.assert_allclose(trace.gain[row], oracle.gain, rtol=1e-12)
        assert float(trace.state[row]) == pytest.approx(oracle.state, rel=1e-13)


# Batches, layouts, dtypes


@pytest.mark.parametrize("rows", range(1, 18))
@pytest.mark.parametrize("frames", [1, 5, 130, 301])
def test_every_number_of_rows_and_samples_is_that_of_the_reference(rows: int, frames: int) -> None:
    x = np.stack([bursts(frames, seed) for seed in range(rows)])
    output = compressor(torch.from_numpy(x), CompressorParams(**SETTING), RATE)
    for row in range(rows):
        oracle = numpy_compressor.compressor(x[row], **SETTING, sample_rate=RATE)
        np.testing.assert_allclose(output[row], oracle.output, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(
    ("rows", "frames"),
    # Every remainder of rows in lanes, of samples in lanes and in pieces; from nine rows of 12,000 on several threads.
    [*zip(range(1, 18), (1, 2, 7, 8, 9, 15, 127, 128, 129, 131, 250, 255, 256, 257, 263, 384, 389), strict=True)]
    + [(rows, 12_000) for rows in (1, 2, 3, 9, 17)],
)
def test_rows_one_by_one_equal_the_batch(rows: int, frames: int) -> None:
    audio = rows_of_bursts(rows, frames, np.float32).requires_grad_()
    spread = torch.linspace(0.6, 1.4, rows, dtype=torch.float64)
    inputs = [(value * spread).requires_grad_() for value in SETTING.values()]
    state = (0.7 * spread).requires_grad_()
    output, last = compressor(audio, CompressorParams(*inputs), RATE, state=state, return_state=True)
    gradients = torch.autograd.grad(output.sum() + last.sum(), [audio, *inputs, state])
    for row in range(rows):
        alone = [value[row : row + 1].detach().requires_grad_() for value in (audio, *inputs, state)]
        one, one_last = compressor(alone[0], CompressorParams(*alone[1:7]), RATE, state=alone[7], return_state=True)
        assert torch.equal(one[0], output[row])
        assert torch.equal(one_last[0], last[row])
        for got, expected in zip(torch.autograd.grad(one.sum() + one_last.sum(), alone), gradients, strict=True):
            assert torch.equal(got[0], expected[row])


@pytest.mark.parametrize("name", list(SETTING))
def test_one_parameter_per_row_and_the_rest_shared(name: str) -> None:
    audio = rows_of_bursts(2, 1000)
    values = [SETTING[name], SETTING[name] * 1.5]
    both = compressor(audio, CompressorParams(**SETTING | {name: torch.tensor(values)}), RATE)
    for row, value in enumerate(values):
        alone = compressor(audio[row : row + 1], CompressorParams(**SETTING | {name: value}), RATE)
        assert torch.equal(alone[0], both[row])
    assert not torch.equal(both[1], compressor(audio[1:], CompressorParams(**SETTING), RATE)[0])


@pytest.mark.parametrize(
    "view",
    [lambda base: base.T, lambda base: base[:, ::3], lambda base: base[1:, 5:40], lambda base: base[:1].expand(4, -1)],
    ids=["transposed", "strided", "cut", "expanded"],
)
def test_any_memory_layout(view) -> None:
    base = rows_of_bursts(20, 50).requires_grad_()
    output = compressor(view(base), CompressorParams(**SETTING), RATE)
    plain = view(base).detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    expected = compressor(plain, CompressorParams(**SETTING), RATE)
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad(output.square().sum(), base)
    (through_plain,) = torch.autograd.grad(expected.square().sum(), plain)
    (expected_gradient,) = torch.autograd.grad(view(base), base, through_plain)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("frames", [0, 1, 9])
def test_shape_and_dtype_are_those_of_the_audio(frames: int, trace: bool, dtype: torch.dtype) -> None:
    audio = torch.full((2, frames), 0.5, dtype=dtype)
    params = CompressorParams(**SETTING)
    output = compressor(audio, params, RATE, trace=True).output if trace else compressor(audio, params, RATE)
    assert output.shape == (2, frames)
    assert output.dtype == dtype
    _, state = compressor(audio, params, RATE, return_state=True)
    assert state.shape == (2,)
    assert state.dtype == torch.float64


def test_no_rows() -> None:
    output, state = compressor(torch.empty((0, 5)), CompressorParams(**SETTING), RATE, return_state=True)
    assert output.shape == (0, 5)
    assert state.shape == (0,)


def test_the_audio_is_not_changed() -> None:
    audio = rows_of_bursts(1, 100)
    before = audio.clone()
    compressor(audio, CompressorParams(**SETTING), RATE)
    assert torch.equal(audio, before)


# State


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_state_carried_over_a_partition_equals_one_pass(seed: int, dtype: type) -> None:
    audio = rows_of_bursts(2, 3000, dtype).requires_grad_()
    release = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    params = CompressorParams(**SETTING | {"release_ms": release})
    whole, last = compressor(audio, params, RATE, return_state=True)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 3001, 7)).tolist()
    state: Tensor | float = 1.0
    parts = []
    for block in torch.tensor_split(audio, cuts, dim=1):
        part, state = compressor(block, params, RATE, state=state, return_state=True)
        parts.append(part)
    output = torch.cat(parts, dim=1)
    assert torch.equal(output, whole)
    assert torch.equal(torch.as_tensor(state), last)
    gradients = torch.autograd.grad(output.square().sum() + torch.as_tensor(state).sum(), [audio, release])
    expected = torch.autograd.grad(whole.square().sum() + last.sum(), [audio, release])
    for got, wanted in zip(gradients, expected, strict=True):
        assert relative_error(got, wanted) <= 1e-9


def test_a_peak_before_a_buffer_edge_acts_in_the_next_buffer() -> None:
    buffer = 3 * RATE
    x = np.full(2 * buffer, 0.01)
    peak = round(2.99 * RATE)
    x[peak : peak + 200] = 1.0
    audio = torch.from_numpy(x)[None]
    params = CompressorParams(**SETTING | {"release_ms": 1000.0})
    whole = compressor(audio, params, RATE)
    first, state = compressor(audio[:, :buffer], params, RATE, return_state=True)
    carried = compressor(audio[:, buffer:], params, RATE, state=state)
    independent = compressor(audio[:, buffer:], params, RATE)
    assert torch.equal(torch.cat([first, carried], dim=1), whole)
    too_loud_db = amplitude_to_db((independent / whole[:, buffer:])[0])
    assert float(too_loud_db[0]) > 6.0
    assert float(too_loud_db[RATE]) > 0.5  # a second later it still shows
    assert float(too_loud_db[-1]) < 0.2


# Physics


def test_ratio_one_and_no_makeup_is_identity() -> None:
    audio = rows_of_bursts(2, 500, np.float32)
    output = compressor(audio, CompressorParams(**SETTING | {"ratio": 1.0, "makeup_db": 0.0}), RATE)
    assert torch.equal(output, audio)


@pytest.mark.parametrize("makeup_db", [-24.0, 0.0, 6.0])
def test_makeup_is_a_gain_after_compression(makeup_db: float) -> None:
    audio = rows_of_bursts(1, 500)
    output = compressor(audio, CompressorParams(**SETTING | {"makeup_db": makeup_db}), RATE)
    plain = compressor(audio, CompressorParams(**SETTING | {"makeup_db": 0.0}), RATE)
    torch.testing.assert_close(output, plain * 10.0 ** (makeup_db / 20.0), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("threshold_db", [-70.0, -20.0, 0.0])
@pytest.mark.parametrize("ratio", [1.5, 100.0])
@pytest.mark.parametrize("knee_db", [0.0, 40.0])
def test_gain_lies_between_the_deepest_static_gain_and_one(knee_db: float, ratio: float, threshold_db: float) -> None:
    setting = SETTING | {"knee_db": knee_db, "ratio": ratio, "threshold_db": threshold_db, "attack_ms": 0.05}
    trace = compressor(rows_of_bursts(4, 4000), CompressorParams(**setting), RATE, trace=True)
    deepest = db_to_amplitude(trace.static_gain_db).amin(dim=1, keepdim=True)
    assert bool((trace.gain <= 1.0).all())
    assert bool((trace.gain >= deepest).all())


@pytest.mark.parametrize("knee_db", [0.0, 20.0])
def test_steady_levels_settle_on_the_static_curve_and_louder_never_gets_more_gain(knee_db: float) -> None:
    levels_db = np.linspace(-80.0, 6.0, 44)
    audio = torch.from_numpy(10.0 ** (levels_db / 20.0))[:, None].expand(-1, RATE // 4)
    _, gain = compressor(audio, CompressorParams(**SETTING | {"knee_db": knee_db}), RATE, return_state=True)
    expected = numpy_compressor.static_gain_db(levels_db, -30.0, 4.0, knee_db)
    np.testing.assert_allclose(amplitude_to_db(gain.numpy()), expected, atol=1e-9)
    assert bool((gain.diff() <= 1e-15).all())


def test_sign_of_the_audio_is_kept() -> None:
    audio = rows_of_bursts(1, 500)
    assert torch.equal(
        compressor(-audio, CompressorParams(**SETTING), RATE), -compressor(audio, CompressorParams(**SETTING), RATE)
    )


def test_half_the_rate_and_half_the_samples_are_the_same_gain() -> None:
    steps = torch.tensor([[0.01, 1.0, 0.05]], dtype=torch.float64)
    slow = compressor(steps.repeat_interleave(4410, 1), CompressorParams(**SETTING), 44100, trace=True).gain
    fast = compressor(steps.repeat_interleave(8820, 1), CompressorParams(**SETTING), 88200, trace=True).gain
    torch.testing.assert_close(fast[:, 1::2], slow, rtol=1e-11, atol=0.0)


# Physics of feedback and of the second cell


def settled_db(x: np.ndarray, **setting: Any) -> np.ndarray:
    # Output in dB where the input has a constant level: its own, and the mean of the gain at the end.
    trace = compressor(torch.from_numpy(x), CompressorParams(**setting), RATE, trace=True)
    return amplitude_to_db(np.abs(x).max(axis=1)) + amplitude_to_db(trace.gain.numpy()[:, -RATE // 10 :]).mean(axis=1)


@pytest.mark.parametrize("attack_ms", [5.0, 20.0])
@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0, 4.0, 20.0, 100.0])
def test_the_closed_loop_has_the_ratio_that_is_asked_for(ratio: float, attack_ms: float) -> None:
    levels_db = np.array([-60.0, -30.0, -24.0, -12.0, 0.0, 6.0])
    x = np.repeat(10.0 ** (levels_db / 20.0)[:, None], RATE // 2, axis=1)
    setting = SETTING | {"ratio": ratio, "knee_db": 0.0, "attack_ms": attack_ms, "makeup_db": 0.0, "feedback": True}
    found = settled_db(x, **setting)
    np.testing.assert_allclose(found, levels_db + np.maximum(levels_db + 30.0, 0.0) * (1.0 / ratio - 1.0), atol=1e-6)


@pytest.mark.parametrize("ratio", [1.5, 3.0, 6.0])
@pytest.mark.parametrize("hz", [1000.0, 3000.0])
def test_the_closed_loop_has_that_ratio_on_sines(hz: float, ratio: float) -> None:
    # A release so long against the attack that the gain follows the crests and hardly ripples.
    levels_db = np.array([-20.0, -10.0, 0.0])
    sine = np.sin(2.0 * np.pi * hz * np.arange(5 * RATE) / RATE)
    times = {"attack_ms": 0.5, "release_ms": 3000.0}
    found = settled_db(
        10.0 ** (levels_db / 20.0)[:, None] * sine, threshold_db=-40.0, ratio=ratio, knee_db=0.0, **times, feedback=True
    )
    np.testing.assert_allclose(np.diff(levels_db) / np.diff(found), ratio, rtol=0.02)


@pytest.mark.parametrize("knee_db", [6.0, 20.0])
def test_the_knee_of_a_closed_loop_lies_on_the_output_level(knee_db: float) -> None:
    # What goes out is the level that the curve sees: x = y − G(y), with slope R − 1.
    output_db = np.linspace(-50.0, -20.0, 16)
    above = output_db + 30.0
    inside = np.where(above > -0.5 * knee_db, (above + 0.5 * knee_db) ** 2 / (2.0 * knee_db), 0.0)
    levels_db = output_db + 3.0 * np.where(above >= 0.5 * knee_db, above, inside)
    x = np.repeat(10.0 ** (levels_db / 20.0)[:, None], RATE // 2, axis=1)
    found = settled_db(x, **SETTING | {"knee_db": knee_db, "makeup_db": 0.0}, feedback=True)
    np.testing.assert_allclose(found, output_db, atol=1e-6)


def test_make_up_comes_after_the_detector_of_a_closed_loop() -> None:
    audio = rows_of_bursts(1, 800)
    quiet, loud = (
        compressor(audio, CompressorParams(**SETTING | {"makeup_db": db}, feedback=True), RATE) for db in (0.0, 12.0)
    )
    torch.testing.assert_close(loud, quiet * 10.0 ** (12.0 / 20.0), rtol=1e-13, atol=0.0)


def test_a_closed_loop_falls_faster_than_its_attack_and_an_open_one_does_not() -> None:
    # Around its rest the loop's own gain, R − 1, comes on top: it settles R times faster.
    x = np.concatenate([np.full(RATE // 2, 0.10), np.full(RATE // 2, 0.11)])
    setting = SETTING | {"knee_db": 0.0, "attack_ms": 20.0}

    def rise_ms(feedback: bool) -> float:
        trace = compressor(torch.from_numpy(x)[None], CompressorParams(**setting, feedback=feedback), RATE, trace=True)
        gain = trace.gain[0, RATE // 2 - 1 :].numpy()
        way = (gain - gain[0]) / (gain[-1] - gain[0])
        return float(np.searchsorted(way, 0.9) - np.searchsorted(way, 0.1)) / RATE * 1000.0

    assert rise_ms(feedback=False) == pytest.approx(20.0, abs=0.05)
    assert rise_ms(feedback=True) == pytest.approx(20.0 / setting["ratio"], rel=0.05)


def recovery_s(burst_s: float, **slow: float) -> float:
    # From the end of a burst until 60 % of the gain reduction is gone.
    setting = SETTING | {"attack_ms": 0.5, "release_ms": 40.0}
    x = np.concatenate([np.full(round(burst_s * RATE), 0.5), np.full(4 * RATE, 1e-3)])
    trace = compressor(torch.from_numpy(x)[None], CompressorParams(**setting, **slow), RATE, trace=True)
    missing = 1.0 - trace.gain[0, round(burst_s * RATE) - 1 :].numpy()
    return float(np.argmax(missing < 0.4 * missing[0])) / RATE


def test_a_second_cell_remembers_how_long_the_burst_was() -> None:
    assert recovery_s(3.0, slow_factor=60.0, slow_mix=0.5) > 3.0 * recovery_s(0.01, slow_factor=60.0, slow_mix=0.5)
    assert recovery_s(3.0) == pytest.approx(recovery_s(0.01), abs=2.0 / RATE)


def test_cells_settle_on_the_same_curve() -> None:
    levels_db = np.linspace(-60.0, 0.0, 7)
    audio = torch.from_numpy(10.0 ** (levels_db / 20.0))[:, None].expand(-1, RATE // 2)
    params = CompressorParams(**SETTING, slow_factor=8.0, slow_mix=0.4)
    gain = compressor(audio, params, RATE, trace=True).gain[:, -1]
    np.testing.assert_allclose(
        amplitude_to_db(gain.numpy()), numpy_compressor.static_gain_db(levels_db, -30.0, 4.0, 8.0), atol=1e-6
    )


def test_the_share_of_the_second_cell_is_that_of_its_step_response() -> None:
    # After a step the gain is the mix of two exponentials, with 10–90 % times attack and attack · factor.
    audio = torch.ones((1, RATE), dtype=torch.float64)
    params = CompressorParams(**SETTING | {"knee_db": 0.0}, slow_factor=20.0, slow_mix=0.3)
    gain = compressor(audio, params, RATE, trace=True).gain[0].numpy()
    target, ms = 10.0 ** (-0.75 * 30.0 / 20.0), np.arange(1, RATE + 1) / RATE * 1000.0
    falling = [target + (1.0 - target) * 9.0 ** (-ms / time) for time in (2.0, 40.0)]
    np.testing.assert_allclose(gain, 0.7 * falling[0] + 0.3 * falling[1], rtol=1e-10)


# Corners


@pytest.mark.parametrize("level", [0.0, 1e-45, 1e-8, 1e-7, 0.1, 1.0, 1e4])
@pytest.mark.parametrize("knee_db", [0.0, 12.0])
@pytest.mark.parametrize("threshold_db", [-200.0, -20.0])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silence_and_constants_have_finite_values_and_gradients(
    dtype: torch.dtype, trace: bool, threshold_db: float, knee_db: float, level: float
) -> None:
    numbers = SETTING | {"knee_db": knee_db, "threshold_db": threshold_db, "state": 1.0}
    inputs = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in numbers.items()}
    audio = torch.full((1, 300), level, dtype=dtype, requires_grad=True)
    params = CompressorParams(**{name: inputs[name] for name in SETTING})
    if trace:
        output = compressor(audio, params, RATE, state=inputs["state"], trace=True).output
    else:
        output = compressor(audio, params, RATE, state=inputs["state"])
    assert bool(torch.isfinite(output).all())
    for gradient in torch.autograd.grad(output.sum(), [audio, *inputs.values()]):
        assert bool(torch.isfinite(gradient).all())


def test_silence_stays_silence() -> None:
    output, state = compressor(torch.zeros((1, 100)), CompressorParams(**SETTING), RATE, return_state=True)
    assert not bool(output.any())
    assert float(state) == 1.0


@pytest.mark.parametrize("name", ["float64 grid", "16-bit samples"])
def test_hard_knee_has_no_hole_a_rounding_error_above_its_threshold(name: str) -> None:
    if name == "float64 grid":
        thresholds_db = np.round(np.arange(-70.0, 0.0, 0.05), 2)
        feet = np.exp(thresholds_db * math.log(10.0) / 20.0)
        steps = [feet]
        for _ in range(6):
            steps.append(np.nextafter(steps[-1], 1.0))
        audio = torch.from_numpy(np.stack(steps, axis=1))
    else:  # a threshold set to the very level of a sample
        codes = np.arange(1, 32768, 7)
        thresholds_db = np.array([20.0 * math.log10(code / 32768) for code in codes])
        audio = torch.from_numpy((codes / 32768).astype(np.float32))[:, None].expand(-1, 3)
    params = CompressorParams(torch.from_numpy(thresholds_db), 4.0, 0.0, 5.0, 250.0)
    output, state = compressor(audio, params, RATE, return_state=True)
    assert int(torch.isnan(output).any(dim=1).sum()) == 0
    assert float(state.min()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_sample_that_is_not_finite_is_named(bad: float, dtype: torch.dtype) -> None:
    audio = rows_of_bursts(3, 100).to(dtype)
    audio[1, 50], audio[1, 70], audio[2, 10] = bad, math.nan, math.inf
    with pytest.raises(ValueError, match=rf"^audio: expected finite samples, got {bad} in row 1, frame 50 .3 in all"):
        compressor(audio, CompressorParams(**SETTING), RATE)
    with pytest.raises(ValueError, match=rf"^audio: expected finite samples, got {bad} in row 1, frame 50 .3 in all"):
        torch.func.vmap(lambda one: compressor(one, CompressorParams(**SETTING), RATE))(audio[:, None])


def test_samples_whose_sum_is_beyond_all_numbers_are_finite_all_the_same() -> None:
    output = compressor(torch.full((1, 8), 1e38), CompressorParams(**SETTING), RATE)
    assert bool(torch.isfinite(output).all())


# Errors


@pytest.mark.parametrize("name", list(SETTING))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_parameter_that_is_not_finite_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        CompressorParams(**SETTING | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ratio", 0.99),
        ("ratio", -4.0),
        ("knee_db", -1e-9),
        ("attack_ms", 0.0),
        ("attack_ms", -1.0),
        ("release_ms", 0.0),
    ],
)
@pytest.mark.parametrize("kind", [float, torch.tensor, lambda v: torch.tensor([SETTING["ratio"], v])])
def test_a_parameter_out_of_range_is_refused_by_name_and_value(name: str, value: float, kind) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected .* got {value:g}"):
        CompressorParams(**SETTING | {name: kind(value)})


@pytest.mark.parametrize("value", [None, "4", [[2.0]], torch.ones(2, 2), 1j])
def test_a_parameter_of_the_wrong_kind_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^ratio: expected"):
        CompressorParams(**SETTING | {"ratio": value})


@pytest.mark.parametrize("name", list(SETTING))
def test_a_parameter_of_another_batch_is_refused_by_name(name: str) -> None:
    params = CompressorParams(**SETTING | {name: torch.full((3,), SETTING[name])})
    with pytest.raises(ValueError, match=rf"^{name}: expected a number or shape \(2,\) .* got \(3,\)"):
        compressor(torch.zeros((2, 10)), params, RATE)


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize(
    "audio",
    [
        torch.zeros(10),
        torch.zeros((1, 1, 10)),
        torch.zeros((1, 10), dtype=torch.int16),
        torch.zeros((1, 10), dtype=torch.float16),
        torch.zeros((1, 10), dtype=torch.complex64),
        np.zeros((1, 10)),
        [[0.0]],
        None,
    ],
)
def test_unfit_audio_is_refused_by_name(audio: Any, trace: bool) -> None:
    with pytest.raises(ValueError, match=r"^audio: expected"):
        compressor(audio, CompressorParams(**SETTING), RATE, trace=trace)


@pytest.mark.parametrize("sample_rate", [0, -44100, math.nan, math.inf, "44100", None])
def test_an_unfit_sample_rate_is_refused_by_name(sample_rate: Any) -> None:
    with pytest.raises(ValueError, match=r"^sample_rate: expected"):
        compressor(torch.zeros((1, 10)), CompressorParams(**SETTING), sample_rate)


@pytest.mark.parametrize("state", [torch.ones(3), torch.ones((1, 2)), math.nan, math.inf])
def test_an_unfit_state_is_refused_by_name(state: Any) -> None:
    with pytest.raises(ValueError, match=r"^state: expected"):
        compressor(torch.zeros((2, 10)), CompressorParams(**SETTING), RATE, state=state)


# Where it runs


class Squashed(torch.nn.Module):
    def forward(self, audio: Tensor) -> Tensor:
        return 2.0 * compressor(torch.tanh(audio), CompressorParams(**SETTING), RATE)


def test_a_module_that_contains_it_runs_compiled() -> None:
    audio = rows_of_bursts(2, 200, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        # Without code generation, for which the machine would need a compiler of C++.
        compiled = torch.compile(Squashed(), backend="eager")(audio)
    assert torch.equal(compiled, Squashed()(audio))


def test_calls_from_several_threads_equal_serial_ones() -> None:
    batches = [rows_of_bursts(9, 12_000) * (1.0 + 0.1 * k) for k in range(8)]
    params = CompressorParams(**SETTING)
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda audio: compressor(audio, params, RATE), batches))
    for audio, output in zip(batches, outputs, strict=True):
        assert torch.equal(output, compressor(audio, params, RATE))
