"""Side-chain shelf, feedback detection, second cell and output filter in the compressor.

Every combination of the four against the float64 numpy oracle and against itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ddsp_la2a.dsp import fused
from ddsp_la2a.dsp.coefficients import CARD, STAGES
from ddsp_la2a.dsp.compressor import CompressorParams, compressor, rest_state, stage_coefficients
from ddsp_la2a.dsp.kernels import COEFFICIENTS, STATES
from ddsp_la2a.dsp.output_stage import OutputFilter

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
NUMBERS = {"slow_factor": 10.0, "slow_mix": 0.5, "shelf_db": 6.0, "shelf_hz": 2000.0}
STAGE_NUMBERS = ("slow_factor", "slow_mix", "shelf_db", "shelf_hz")
ALL = ("slow", "shelf", "feedback", "filter")
ALONE = [("slow",), ("shelf",), ("feedback",), ("filter",), ALL]

few = pytest.mark.parametrize("stages", ALONE, indirect=True, ids="+".join)
everything = pytest.mark.parametrize("stages", [ALL], indirect=True, ids="+".join)


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


def random_like(tensors: Iterable[Tensor], seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal(t.shape)).to(t.dtype) for t in tensors]


def inner(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    return sum(float(torch.sum(a.double() * b.double())) for a, b in zip(left, right, strict=True))


def run(stages, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Output and last state."""
    beside = ("audio", "state", "coefficients")
    setting = {name: value for name, value in inputs.items() if name not in beside}
    params = stages.params(setting, RATE, inputs.get("coefficients"))
    return compressor(inputs["audio"], params, RATE, state=inputs["state"], return_state=True)


def of_some(stages, inputs: dict[str, Tensor], names: Iterable[str]) -> Callable[..., tuple[Tensor, Tensor]]:
    names = tuple(names)
    return lambda *values: run(stages, inputs | dict(zip(names, values, strict=True)))


def random_inputs(stages, rows: int, frames: int, seed: int, dtype: type = np.float64) -> dict[str, Tensor]:
    """Every input, all different from row to row, and a state in mid-music."""
    rng = np.random.default_rng(seed)
    spread = torch.linspace(1.0, 1.3, rows, dtype=torch.float64)
    audio = 10.0 ** rng.uniform(-2.5, -0.3, (rows, frames)) * rng.choice([-1.0, 1.0], (rows, frames))
    setting = SETTING | {"attack_ms": 0.4, "release_ms": 1.0} | stages.numbers
    inputs = {"audio": torch.from_numpy(audio.astype(dtype))}
    inputs |= {name: value * spread for name, value in setting.items()}
    if not stages.on:
        return inputs | {"state": 0.6 * spread}
    low, high = np.array([0.3, 0.5, -0.05, 0.05]), np.array([0.6, 0.8, 0.05, 0.2])
    state = rng.uniform(low, high, (rows, 4))
    if stages.coefficients is not None:
        inputs["coefficients"] = stages.coefficients * spread[:, None]
        state = np.concatenate([state, rng.uniform(-0.2, 0.2, (rows, 5))], axis=1)
    return inputs | {"state": torch.from_numpy(state)}


def clearance(stages, inputs: dict[str, Tensor]) -> float:
    """How far the nearest sample is from a kink: an edge of the knee, or where a cell's attack turns to release."""
    numbers = {name: value for name, value in inputs.items() if name in (*SETTING, *STAGE_NUMBERS)}
    coefficients = stage_coefficients(CompressorParams(**numbers, feedback=stages.feedback), RATE)
    state = inputs["state"]
    core = state[:, :4] if state.ndim == 2 else torch.stack([state, state, 0.0 * state, 0.0 * state], 1)
    form = fused.Form(stages.feedback, two_cells=True, shelf=True)
    fast, slow, heard = fused.signals(inputs["audio"], coefficients, form, core).unbind(1)
    threshold, slope, knee = torch.from_numpy(coefficients)[:, :3, None].unbind(1)
    above = 20.0 * heard.abs().log10() - threshold
    inside = -slope * (above + 0.5 * knee).square() / (2.0 * knee)
    gain_db = torch.where(above >= 0.5 * knee, -slope * above, torch.where(above <= -0.5 * knee, 0.0, inside))
    target = 10.0 ** (gain_db / 20.0)
    edges = [(above.abs() - 0.5 * knee).abs() / 20.0]
    for cell, before in ((fast, core[:, :1]), (slow, core[:, 1:2])):
        edges.append((target - torch.cat([before, cell[:, :-1]], dim=1)).abs())
    return min(float(edge.min()) for edge in [*edges, heard.abs()])


def away_from_kinks(stages, rows: int, frames: int) -> dict[str, Tensor]:
    for seed in range(300):
        inputs = random_inputs(stages, rows, frames, seed)
        if clearance(stages, inputs) > 1e-4:
            return inputs
    raise AssertionError("no random input stays clear of the kinks")


# Value


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("sample_rate", "changed"),
    [
        (44100, {}),
        (96000, {"knee_db": 0.0, "attack_ms": 40.0, "release_ms": 0.5}),
        (44100, {"ratio": 20.0, "attack_ms": 30.0, "threshold_db": -50.0, "knee_db": 24.0}),
    ],
    ids=["usual", "hard knee", "limiting"],
)
def test_every_signal_is_that_of_the_oracle(stages, sample_rate: int, changed: dict[str, float], dtype: type) -> None:
    x = bursts(2501, dtype=dtype)
    setting = SETTING | changed
    expected = stages.oracle(x.astype(np.float64), sample_rate, setting, state=0.9)
    params = stages.params(setting, sample_rate)
    output, state = compressor(torch.from_numpy(x)[None], params, sample_rate, state=0.9, return_state=True)
    assert relative_error(output[0], expected.output) < (2e-7 if dtype is np.float32 else 1e-12)
    found = state[0].tolist() if stages.on else [float(state)]
    wanted = dict(zip(STATES, (expected.fast[-1], expected.slow[-1], None, expected.fed_back), strict=True))
    for name, got in zip(STATES, found, strict=False):
        if wanted[name] is not None:
            assert got == pytest.approx(wanted[name], rel=1e-11, abs=1e-15), name
    trace = compressor(torch.from_numpy(x)[None], params, sample_rate, state=0.9, trace=True)
    if stages.on:
        assert torch.equal(trace.state, state)
    np.testing.assert_allclose(trace.output[0], output[0], rtol=1e-6 if dtype is np.float32 else 1e-12, atol=1e-15)
    np.testing.assert_allclose(trace.level_db[0], expected.level_db, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(10.0 ** (trace.static_gain_db[0].numpy() / 20.0), expected.target_gain, rtol=1e-10)
    np.testing.assert_allclose(trace.gain[0], expected.gain, rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coefficients_of_stages_that_are_off_leave_every_bit(dtype: type) -> None:
    audio = rows_of_bursts(3, 3000, dtype)
    setting = {name: value * torch.tensor([1.0, 1.1, 0.9], dtype=torch.float64) for name, value in SETTING.items()}
    plain, last = compressor(audio, CompressorParams(**setting), RATE, state=0.7, return_state=True)
    assert stage_coefficients(CompressorParams(**setting), RATE).shape == (3, len(COEFFICIENTS))
    card = torch.stack([setting[name] for name in CARD], dim=1)
    rest = torch.tensor([[0.7, 0.7, 0.0, 0.0]], dtype=torch.float64).expand(3, -1)
    output, state = fused.compress(audio, card, card[:, :0], fused.Form(two_cells=True, shelf=True), RATE, rest)
    assert torch.equal(output, plain)
    assert torch.equal(state[:, 0], last)
    assert torch.equal(state[:, 1], last)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "neutral",
    [
        {"slow_factor": 12.0, "slow_mix": 0.0},
        {"shelf_db": 0.0, "shelf_hz": 2500.0},
        {"slow_factor": 12.0, "slow_mix": 0.0, "shelf_db": 0.0, "shelf_hz": 300.0},
    ],
    ids="+".join,
)
def test_neutral_parameters_leave_every_bit(neutral: dict[str, float], dtype: type) -> None:
    audio = rows_of_bursts(2, 3000, dtype)
    plain = compressor(audio, CompressorParams(**SETTING), RATE)
    assert torch.equal(compressor(audio, CompressorParams(**SETTING, **neutral), RATE), plain)


def test_a_second_cell_as_fast_as_the_first_changes_nothing() -> None:
    audio = rows_of_bursts(2, 3000)
    plain = compressor(audio, CompressorParams(**SETTING), RATE)
    output = compressor(audio, CompressorParams(**SETTING, slow_factor=1.0, slow_mix=0.7), RATE)
    torch.testing.assert_close(output, plain, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_output_filter_of_zeros_is_its_latency(dtype: type) -> None:
    audio = rows_of_bursts(2, 1000, dtype)
    plain = compressor(audio, CompressorParams(**SETTING), RATE)
    nothing = OutputFilter(torch.zeros(5), RATE)
    output = compressor(audio, CompressorParams(**SETTING, output_filter=nothing), RATE)
    assert torch.equal(output[:, 2:], plain[:, :-2])
    assert not bool(output[:, :2].any())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("stages", [on for n in range(4) for on in itertools.combinations(ALL[:3], n)], indirect=True)
def test_ratio_one_does_nothing_at_all(stages, dtype: type) -> None:
    audio = rows_of_bursts(2, 500, dtype)
    assert torch.equal(compressor(audio, stages.params(SETTING | {"ratio": 1.0, "makeup_db": 0.0}, RATE), RATE), audio)


def test_a_filter_of_another_rate_is_the_one_that_comes_nearest() -> None:
    audio, kept = rows_of_bursts(2, 500), OutputFilter(torch.tensor([0.1, -0.2, 0.3]), 48000)
    output = compressor(audio, CompressorParams(**SETTING, output_filter=kept), RATE)
    assert torch.equal(output, compressor(audio, CompressorParams(**SETTING, output_filter=kept.at(RATE)), RATE))
    assert not torch.equal(output, compressor(audio, CompressorParams(**SETTING, output_filter=kept), 48000))


# Gradient


def check_gradients(stages, wanted: Iterable[str] | None) -> None:
    inputs = away_from_kinks(stages, rows=1, frames=9)
    names = list(inputs)
    leaves = [value.requires_grad_(wanted is None or name in wanted) for name, value in inputs.items()]
    assert torch.autograd.gradcheck(of_some(stages, inputs, names), leaves, check_forward_ad=True)


def test_gradcheck(stages) -> None:
    check_gradients(stages, None)


@everything
@pytest.mark.parametrize("name", ["audio", *SETTING, *STAGE_NUMBERS, "state", "coefficients"])
def test_gradcheck_of_each_input_alone(stages, name: str) -> None:
    check_gradients(stages, [name])


@everything
@pytest.mark.parametrize("beside", [("audio",), ("state", "audio"), ("audio", "coefficients", "state")], ids="+".join)
def test_gradcheck_of_all_inputs_but_some(stages, beside: tuple[str, ...]) -> None:
    check_gradients(stages, [*SETTING, *STAGE_NUMBERS, *{"state", "coefficients"} - {*beside}])


@pytest.mark.parametrize("knee_db", [0.0, 12.0])
def test_gradient_is_the_central_difference_of_the_oracle(stages, knee_db: float) -> None:
    x = bursts(900, 2)
    weight = np.random.default_rng(1).standard_normal(len(x))
    setting = SETTING | {"knee_db": knee_db} | stages.numbers
    numbers = setting | {"state": 0.9}
    leaves = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in numbers.items()}
    coefficients = None if stages.coefficients is None else stages.coefficients.requires_grad_()
    params = stages.params({name: leaves[name] for name in setting}, RATE, coefficients)
    loss = (torch.from_numpy(weight) * compressor(torch.from_numpy(x)[None], params, RATE, state=leaves["state"])).sum()

    def oracle(**changed: Any) -> float:
        given = numbers | changed
        return float(weight @ stages.oracle(x, RATE, given, state=given.pop("state")).output)

    gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    for (name, value), gradient in zip(numbers.items(), gradients, strict=True):
        if name == "knee_db" and knee_db == 0.0:
            assert float(gradient) == 0.0
            continue
        step = 1e-5 * max(1.0, abs(value))
        expected = (oracle(**{name: value + step}) - oracle(**{name: value - step})) / (2.0 * step)
        assert float(gradient) == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    if coefficients is not None:
        (gradient,) = torch.autograd.grad(loss, coefficients)
        for k, moved in enumerate(1e-5 * np.eye(5)):
            ahead, behind = (oracle(output_coefficients=coefficients.detach().numpy() + d) for d in (moved, -moved))
            assert float(gradient[k]) == pytest.approx((ahead - behind) / 2e-5, rel=1e-6, abs=1e-7), f"c[{k}]"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("knee_db", [0.0, 12.0])
def test_forward_mode_is_the_transpose_of_reverse_mode(stages, knee_db: float, dtype: type) -> None:
    # At the kinks too, where both must take the same side: silence, samples below the floor, a state of 1.
    inputs = random_inputs(stages, 2, 400, 0, dtype)
    inputs["audio"] = rows_of_bursts(2, 400, dtype)
    inputs["knee_db"] = torch.full((2,), knee_db, dtype=torch.float64)
    inputs["state"][0] = torch.tensor(rest_state(stages.params(SETTING, RATE)) if stages.on else [1.0])
    directions = dict(zip(inputs, random_like(inputs.values(), 1), strict=True))
    weights = random_like(run(stages, inputs), 2)
    for name in inputs:
        with forward_ad.dual_level():
            duals = inputs | {name: forward_ad.make_dual(inputs[name], directions[name])}
            tangents = [forward_ad.unpack_dual(dual).tangent for dual in run(stages, duals)]
        pairs = [(w, t) for w, t in zip(weights, tangents, strict=True) if t is not None]
        assert all(t.dtype == w.dtype for w, t in pairs), name
        leaf = inputs[name].clone().requires_grad_()
        moved = [
            (value, w)
            for value, w in zip(run(stages, inputs | {name: leaf}), weights, strict=True)
            if value.requires_grad
        ]
        gradients = torch.autograd.grad([value for value, _ in moved], leaf, [w for _, w in moved])
        forward = sum(inner([w], [t]) for w, t in pairs)
        scale = sum(float((w.double() * t.double()).abs().sum()) for w, t in pairs) + 1e-30
        difference = abs(forward - inner([directions[name]], gradients))
        assert difference <= (1e-5 if dtype is np.float32 else 1e-11) * scale, name


def test_jvp_is_the_central_difference_and_keeps_the_value(stages) -> None:
    inputs = away_from_kinks(stages, rows=2, frames=24)
    at = tuple(inputs.values())
    function = of_some(stages, inputs, inputs)
    direction = tuple(x * d for x, d in zip(at, random_like(at, 1), strict=True))
    values, tangents = torch.func.jvp(function, at, direction)
    step = 1e-6
    ahead, behind = (function(*(x + h * d for x, d in zip(at, direction, strict=True))) for h in (step, -step))
    for value, tangent, expected, a, b in zip(values, tangents, function(*at), ahead, behind, strict=True):
        assert torch.equal(value, expected)
        assert relative_error(tangent, (a - b) / (2.0 * step)) < 1e-6


def test_jacobians_of_both_modes_are_the_same(stages) -> None:
    inputs = away_from_kinks(stages, rows=1, frames=24)
    names = [name for name in inputs if name not in ("audio", "state", "coefficients")]
    vector = torch.cat([inputs[name] for name in names])

    def of_vector(vector: Tensor, audio: Tensor, state: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        some = {"audio": audio, "state": state} | dict(zip(names, vector, strict=True))
        return run(stages, inputs | some | dict(zip(("coefficients",), coefficients, strict=False)))

    at = [vector, inputs["audio"], inputs["state"], *([inputs["coefficients"]] if "coefficients" in inputs else [])]
    every = tuple(range(len(at)))
    forward, reverse = (jacobian(of_vector, every)(*at) for jacobian in (torch.func.jacfwd, torch.func.jacrev))
    torch.testing.assert_close(forward, reverse, rtol=1e-10, atol=1e-12)


# Under vmap


@pytest.mark.parametrize("stages", [("slow", "shelf"), ("slow", "shelf", "feedback")], indirect=True, ids="+".join)
@pytest.mark.parametrize("two_cells", [False, True])
@pytest.mark.parametrize("shelf", [False, True])
def test_any_coefficients_have_the_same_derivatives_in_both_modes(stages, two_cells: bool, shelf: bool) -> None:
    inputs, form = away_from_kinks(stages, 2, 12), fused.Form(stages.feedback, two_cells, shelf)
    numbers = {name: value for name, value in inputs.items() if name in (*SETTING, *STAGE_NUMBERS)}
    coefficients = stage_coefficients(CompressorParams(**numbers, feedback=form.feedback), RATE)
    card = torch.stack([inputs[name] for name in CARD], dim=1)
    at = (inputs["audio"], card, torch.from_numpy(coefficients[:, STAGES]), inputs["state"])
    directions = tuple(random_like(at, 1))

    def function(*values: Tensor) -> tuple[Tensor, Tensor]:
        *given, state = values
        return fused.compress(*given, form, RATE, state)

    _, forward = torch.func.jvp(function, at, directions)
    weights = tuple(random_like(forward, 2))
    _, pull = torch.func.vjp(function, *at)
    assert inner(weights, forward) == pytest.approx(inner(pull(weights), directions), rel=1e-10)


@few
@pytest.mark.parametrize("batched", ["audio", "parameters", "everything"])
def test_vmap_equals_a_loop(stages, batched: str) -> None:
    inputs = away_from_kinks(stages, rows=2, frames=12)
    names = tuple(inputs)
    wanted = {"audio": ("audio",), "parameters": names[1:], "everything": names}[batched]
    factors = torch.tensor([0.95, 1.0, 1.04], dtype=torch.float64)
    dims = tuple({"audio": 2}.get(name, 0) if name in wanted else None for name in names)
    batch = [
        value if dim is None else torch.stack([f * value for f in factors], dim)
        for value, dim in zip(inputs.values(), dims, strict=True)
    ]
    alone = [[x if dim is None else x.select(dim, k) for x, dim in zip(batch, dims, strict=True)] for k in range(3)]
    function, every = of_some(stages, inputs, names), tuple(range(len(names)))

    def loss(*some: Tensor) -> Tensor:
        output, state = function(*some)
        return output.square().sum() + state.sum()

    directions = tuple(random_like(inputs.values(), 1))
    for mapped in (
        function,
        torch.func.grad(loss, every),
        lambda *some: torch.func.jvp(function, some, directions)[1],
    ):
        loop = tuple(map(torch.stack, zip(*(mapped(*one) for one in alone), strict=True)))
        torch.testing.assert_close(torch.func.vmap(mapped, dims)(*batch), loop, rtol=1e-11, atol=1e-13)
    leaves = [x.clone().requires_grad_() for x in batch]
    through = torch.autograd.grad(torch.func.vmap(loss, dims)(*leaves).sum(), leaves)
    gradients = zip(*(torch.func.grad(loss, every)(*one) for one in alone), strict=True)
    for got, parts, dim in zip(through, gradients, dims, strict=True):
        torch.testing.assert_close(got, sum(parts) if dim is None else torch.stack(parts, dim), rtol=1e-10, atol=1e-12)


def test_vmap_over_a_filter_of_another_rate_equals_a_loop() -> None:
    audio = rows_of_bursts(2, 200)

    def filtered(coefficients: Tensor) -> Tensor:
        return compressor(audio, CompressorParams(**SETTING, output_filter=OutputFilter(coefficients, 48000)), RATE)

    coefficients = 0.1 * torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5)))
    loop = torch.stack([filtered(one) for one in coefficients])
    torch.testing.assert_close(torch.func.vmap(filtered)(coefficients), loop, rtol=1e-9, atol=1e-12)


# Second derivatives

ROUTES: dict[str, Callable[[Any, Tensor], Any]] = {
    "reverse over reverse": lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x),
    "reverse over forward": lambda f, x: torch.func.jacrev(torch.func.jacfwd(f))(x),
    "forward over reverse": lambda f, x: torch.func.jacfwd(torch.func.jacrev(f))(x),
    "forward over forward": lambda f, x: torch.func.jacfwd(torch.func.jacfwd(f))(x),
    "autograd.hessian": lambda f, x: torch.autograd.functional.hessian(f, x),
}


@pytest.mark.parametrize("linear", [False, True], ids=["square", "linear"])
@pytest.mark.parametrize("name", ["audio", *SETTING, *STAGE_NUMBERS, "state"])
@pytest.mark.parametrize("route", list(ROUTES))
@pytest.mark.parametrize("stages", [("slow", "shelf", "feedback")], indirect=True, ids="+".join)
def test_second_derivative_is_refused_in_any_mix_of_modes(stages, route: str, name: str, linear: bool) -> None:
    inputs = random_inputs(stages, 1, 6, 0)

    def loss(value: Tensor) -> Tensor:
        output, state = run(stages, inputs | {name: value})
        return output.sum() + state.sum() if linear else output.square().sum() + state.sum()

    with pytest.raises(RuntimeError, match=r"compressor: differentiable once.* second derivative"):
        ROUTES[route](loss, inputs[name])


@everything
@pytest.mark.parametrize("name", ["audio", "ratio", "slow_mix", "shelf_hz"])
def test_second_derivative_through_the_output_filter_is_refused(stages, name: str) -> None:
    inputs = random_inputs(stages, 1, 6, 0)
    with pytest.raises(RuntimeError, match=r"differentiable once.* second derivative"):
        torch.autograd.functional.hessian(
            lambda value: run(stages, inputs | {name: value})[0].square().sum(), inputs[name]
        )


# Batches, layouts


@few
def test_rows_one_by_one_equal_the_batch(stages) -> None:
    inputs = random_inputs(stages, 5, 300, 0, np.float32)
    leaves = [value.requires_grad_() for value in inputs.values()]
    output, last = run(stages, inputs)
    gradients = torch.autograd.grad(output.sum() + last.sum(), leaves)
    for row in range(5):
        alone = {name: value[row : row + 1].detach().requires_grad_() for name, value in inputs.items()}
        one, one_last = run(stages, alone)
        assert torch.equal(one[0], output[row])
        assert torch.equal(one_last[0], last[row])
        ones = torch.autograd.grad(one.sum() + one_last.sum(), list(alone.values()))
        for name, got, expected in zip(inputs, ones, gradients, strict=True):
            torch.testing.assert_close(got[0], expected[row], rtol=1e-13, atol=0.0, msg=name)


def test_rows_shared_among_threads_equal_one_thread() -> None:
    audio = rows_of_bursts(3, 120_000, np.float32)
    params = CompressorParams(**SETTING, slow_factor=9.0, slow_mix=0.3, shelf_db=6.0, shelf_hz=3000.0, feedback=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        output = compressor(audio, params, RATE)
        torch.set_num_threads(1)
        assert torch.equal(compressor(audio, params, RATE), output)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("rest", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float32])
@pytest.mark.parametrize(("shape", "of_rest"), [((), ()), ((), (2,)), ((1,), ()), ((2,), ()), ((2,), (2,))])
def test_a_number_of_any_type_counts_as_it_is(
    dtype: torch.dtype, rest: torch.dtype, shape: tuple[int, ...], of_rest: tuple[int, ...]
) -> None:
    audio, numbers = rows_of_bursts(2, 40), SETTING | NUMBERS
    others = {name: torch.full(of_rest, value, dtype=rest) for name, value in numbers.items()}
    for name, usual in numbers.items():
        value = 2049.0 if dtype == torch.int64 and name == "release_ms" else usual  # none of float16's
        if value != int(value) and dtype == torch.int64:
            continue
        mixed = CompressorParams(**others | {name: torch.full(shape, value, dtype=dtype)})
        plain = CompressorParams(**numbers | {name: value})
        found, expected = (compressor(audio, params, RATE, return_state=True) for params in (mixed, plain))
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-14, atol=1e-15, msg=name)


@pytest.mark.parametrize("numbers", [{}, NUMBERS], ids=["off", "on"])
def test_coefficients_have_the_batch_of_the_parameters(numbers: dict[str, float]) -> None:
    for shape in ((), (0,), (1,), (3,)):
        params = CompressorParams(**SETTING | numbers | {"ratio": torch.full(shape, 4.0)})
        assert stage_coefficients(params, RATE).shape == (*shape, len(COEFFICIENTS))


@everything
@pytest.mark.parametrize("name", [*SETTING, *STAGE_NUMBERS, "coefficients"])
def test_one_parameter_per_row_and_the_rest_shared(stages, name: str) -> None:
    audio = rows_of_bursts(2, 600)
    shared = SETTING | stages.numbers
    coefficients = stages.coefficients
    value = coefficients if name == "coefficients" else torch.tensor(shared[name], dtype=torch.float64)
    values = torch.stack([value, 1.2 * value])

    def params(value: Tensor) -> CompressorParams:
        if name == "coefficients":
            return stages.params(shared, RATE, value)
        return stages.params(shared | {name: value}, RATE)

    both = compressor(audio, params(values), RATE)
    for row in range(2):
        assert torch.equal(compressor(audio[row : row + 1], params(values[row]), RATE)[0], both[row])
    assert not torch.equal(both[1], compressor(audio[1:], params(value), RATE)[0])


@few
@pytest.mark.parametrize(
    "view",
    [lambda base: base.T, lambda base: base[:, ::3], lambda base: base[1:, 5:40], lambda base: base[:1].expand(4, -1)],
    ids=["transposed", "strided", "cut", "expanded"],
)
def test_any_memory_layout(stages, view) -> None:
    base = rows_of_bursts(20, 50).requires_grad_()
    params = stages.params(SETTING, RATE)
    output = compressor(view(base), params, RATE)
    plain = view(base).detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    expected = compressor(plain, params, RATE)
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad(output.square().sum(), base)
    (through_plain,) = torch.autograd.grad(expected.square().sum(), plain)
    (expected_gradient,) = torch.autograd.grad(view(base), base, through_plain)
    torch.testing.assert_close(gradient, expected_gradient)


@everything
def test_a_state_of_any_memory_layout(stages) -> None:
    inputs = random_inputs(stages, 3, 50, 0)
    output, last = run(stages, inputs)
    for state in (inputs["state"].T.contiguous().T, torch.stack([inputs["state"]] * 2, 2)[..., 0]):
        assert not state.is_contiguous()
        before = state.clone()
        again, again_last = run(stages, inputs | {"state": state})
        assert torch.equal(again, output)
        assert torch.equal(again_last, last)
        assert torch.equal(state, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize(("rows", "frames"), [(2, 0), (0, 5), (2, 1), (1, 3)])
@few
def test_shape_and_dtype_are_those_of_the_audio(
    stages, rows: int, frames: int, trace: bool, dtype: torch.dtype
) -> None:
    audio = torch.full((rows, frames), 0.5, dtype=dtype)
    params = stages.params(SETTING, RATE)
    output = compressor(audio, params, RATE, trace=True).output if trace else compressor(audio, params, RATE)
    assert output.shape == (rows, frames)
    assert output.dtype == dtype
    _, state = compressor(audio, params, RATE, return_state=True)
    assert state.shape == (rows, 9 if "filter" in stages.on else 4)
    assert state.dtype == torch.float64


@few
def test_no_samples_hand_state_and_gradient_on(stages) -> None:
    inputs = random_inputs(stages, 2, 0, 0)
    state = inputs["state"].requires_grad_()
    _, last = run(stages, inputs)
    assert torch.equal(last, state)
    assert bool((torch.autograd.grad(last.sum(), state)[0] == 1.0).all())


@everything
def test_nothing_given_is_changed(stages) -> None:
    inputs = random_inputs(stages, 2, 50, 0)
    before = {name: value.clone() for name, value in inputs.items()}
    run(stages, inputs)
    assert all(torch.equal(value, before[name]) for name, value in inputs.items())


# State


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_state_carried_over_a_partition_equals_one_pass(stages, dtype: type) -> None:
    audio = rows_of_bursts(2, 1500, dtype).requires_grad_()
    release = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    params = stages.params(SETTING | {"release_ms": release}, RATE)
    whole, last = compressor(audio, params, RATE, return_state=True)
    cuts = [0, 1, 2, 3, 3, *np.sort(np.random.default_rng(0).integers(4, 1500, 5)).tolist()]
    state: Tensor | float = 1.0
    parts = []
    for block in torch.tensor_split(audio, cuts, dim=1):
        part, state = compressor(block, params, RATE, state=state, return_state=True)
        parts.append(part)
    assert isinstance(state, Tensor)
    output = torch.cat(parts, dim=1)
    assert torch.equal(output, whole)
    assert torch.equal(state, last)
    gradients = torch.autograd.grad(output.square().sum() + state.sum(), [audio, release])
    expected = torch.autograd.grad(whole.square().sum() + last.sum(), [audio, release])
    for got, wanted in zip(gradients, expected, strict=True):
        assert relative_error(got, wanted) <= (1e-6 if dtype is np.float32 else 1e-9)


@few
def test_a_gain_as_state_is_that_of_both_cells_with_all_else_at_rest(stages) -> None:
    audio, params = rows_of_bursts(2, 300), stages.params(SETTING, RATE)
    rest = torch.tensor([rest_state(params)] * 2, dtype=torch.float64)
    assert torch.equal(compressor(audio, params, RATE), compressor(audio, params, RATE, state=rest))
    gains = torch.tensor([0.5, 0.8], dtype=torch.float64)
    rest[:, 0], rest[:, 1] = gains, gains
    assert torch.equal(compressor(audio, params, RATE, state=gains), compressor(audio, params, RATE, state=rest))


@few
def test_a_trace_starts_from_the_state_it_is_given(stages) -> None:
    audio, params = rows_of_bursts(2, 600), stages.params(SETTING, RATE)
    whole = compressor(audio, params, RATE, trace=True)
    first = compressor(audio[:, :250], params, RATE, trace=True)
    second = compressor(audio[:, 250:], params, RATE, state=first.state, trace=True)
    for name in ("output", "level_db", "static_gain_db", "gain"):
        joined = torch.cat([getattr(first, name), getattr(second, name)], dim=1)
        assert torch.equal(joined, getattr(whole, name)), name


def test_signals_are_kept_for_a_backward_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    over_rows = fused.over_rows

    def spy(kernel: Any, rows: int, samples: int, *arrays: Any) -> list[float]:
        kept.append(arrays[-1].size)
        return over_rows(kernel, rows, samples, *arrays)

    monkeypatch.setattr("ddsp_la2a.dsp.fused.over_rows", spy)
    audio, ratio = rows_of_bursts(2, 50), torch.tensor(4.0, requires_grad=True)
    for given in (4.0, ratio):
        compressor(audio, CompressorParams(**SETTING | {"ratio": given}, feedback=True), RATE)
    with torch.no_grad():
        compressor(audio, CompressorParams(**SETTING | {"ratio": ratio}, feedback=True), RATE)
    assert kept == [0, 2 * 3 * 50, 0]


# Corners


@pytest.mark.parametrize("level", [0.0, 1e-45, 1e-310, 1e-8, 0.1, 1e4])
@pytest.mark.parametrize(("threshold_db", "knee_db"), [(-20.0, 0.0), (-20.0, 12.0), (-200.0, 12.0), (-200.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@few
def test_silence_denormals_and_constants_have_finite_values_and_gradients(
    stages, dtype: torch.dtype, threshold_db: float, knee_db: float, level: float
) -> None:
    numbers = SETTING | stages.numbers | {"knee_db": knee_db, "threshold_db": threshold_db}
    inputs = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in numbers.items()}
    inputs["state"] = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    inputs["audio"] = torch.full((1, 200), level, dtype=dtype, requires_grad=True)
    if stages.coefficients is not None:
        inputs["coefficients"] = stages.coefficients.requires_grad_()
    output, state = run(stages, inputs)
    assert bool(torch.isfinite(output).all())
    for gradient in torch.autograd.grad(output.sum() + state.sum(), list(inputs.values())):
        assert bool(torch.isfinite(gradient).all())
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(x.detach(), torch.ones_like(x)) for name, x in inputs.items()}
        for dual in run(stages, duals):
            assert bool(torch.isfinite(forward_ad.unpack_dual(dual).tangent).all())


def test_silence_stays_silence_and_at_rest(stages) -> None:
    params = stages.params(SETTING, RATE)
    output, state = compressor(torch.zeros((1, 100)), params, RATE, return_state=True)
    assert not bool(output.any())
    assert state.flatten().tolist() == (rest_state(params) if stages.on else [1.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_is_refused(stages, bad: float) -> None:
    audio = rows_of_bursts(1, 100)
    audio[0, 50] = bad
    with pytest.raises(ValueError, match=rf"^audio: expected finite samples, got {bad} in row 0, frame 50"):
        compressor(audio, stages.params(SETTING, RATE), RATE)


# Errors


@pytest.mark.parametrize("pair", [("slow_factor", "slow_mix"), ("shelf_db", "shelf_hz")])
@pytest.mark.parametrize("given", [0, 1])
def test_half_a_pair_is_refused_by_the_name_of_what_is_missing(pair: tuple[str, str], given: int) -> None:
    with pytest.raises(ValueError, match=rf"^{pair[1 - given]}: expected a number beside .* got None; give both"):
        CompressorParams(**SETTING, **{pair[given]: 1.0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slow_factor", 0.99),
        ("slow_mix", -1e-9),
        ("slow_mix", 1.001),
        ("shelf_hz", 0.0),
        ("shelf_hz", -1.0),
        *((name, value) for name in NUMBERS for value in (math.nan, math.inf, -math.inf)),
    ],
)
@pytest.mark.parametrize("kind", [float, torch.tensor, lambda v: torch.tensor([1.0, v])])
def test_a_number_out_of_range_is_refused_by_name(name: str, value: float, kind) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected .* got {value:g}"):
        CompressorParams(**SETTING, **NUMBERS | {name: kind(value)})


@pytest.mark.parametrize("name", list(NUMBERS))
def test_a_number_of_another_batch_is_refused_by_name(name: str) -> None:
    params = CompressorParams(**SETTING, **NUMBERS | {name: torch.ones(3)})
    with pytest.raises(ValueError, match=rf"^{name}: expected a number or shape \(2,\) .* got \(3,\)"):
        compressor(torch.zeros((2, 10)), params, RATE)
    with pytest.raises(ValueError, match=rf"^{name}: expected a number or shape \(batch,\)"):
        CompressorParams(**SETTING, **NUMBERS | {name: torch.ones((2, 2))})


@pytest.mark.parametrize("shelf_hz", [22050.0, 30000.0, torch.tensor([1000.0, 22050.0])])
def test_a_shelf_above_half_the_rate_is_refused(shelf_hz: Any) -> None:
    params = CompressorParams(**SETTING, shelf_db=6.0, shelf_hz=shelf_hz)
    with pytest.raises(ValueError, match=r"^shelf_hz: expected less than half the sample rate of 44100 Hz, got"):
        compressor(torch.zeros((2, 10)), params, RATE)
    compressor(torch.zeros((2, 10)), params, 96000)


@pytest.mark.parametrize("shape", [(3,), (1, 1), (2, 3), (2, 5), (3, 4), (2, 4, 1)])
@pytest.mark.parametrize("stages", [("slow",)], indirect=True)
def test_a_state_of_another_shape_is_refused_by_name(stages, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^state: expected"):
        compressor(torch.zeros((2, 10)), stages.params(SETTING, RATE), RATE, state=torch.ones(shape))


@few
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_refused_by_name(stages, value: float) -> None:
    params = stages.params(SETTING, RATE)
    state = torch.tensor([rest_state(params)] * 2)
    state[1, -1] = value
    for bad in (value, state):
        with pytest.raises(ValueError, match=r"^state: expected finite"):
            compressor(torch.zeros((2, 10)), params, RATE, state=bad)


def test_an_output_filter_of_another_batch_is_refused_by_name() -> None:
    params = CompressorParams(**SETTING, output_filter=OutputFilter(torch.zeros((3, 5)), RATE))
    with pytest.raises(ValueError, match=r"^output_filter: expected"):
        compressor(torch.zeros((2, 10)), params, RATE)


@pytest.mark.parametrize("given", [torch.zeros(5), [0.0] * 5, 0.0])
def test_an_output_filter_of_another_type_is_refused_by_name(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^output_filter: expected"):
        CompressorParams(**SETTING, output_filter=given)


def test_values_are_checked_in_forward_mode_and_shapes_under_vmap() -> None:
    audio = rows_of_bursts(2, 20)

    def of(name: str) -> Callable[[Tensor], Tensor]:
        return lambda value: compressor(audio, CompressorParams(**SETTING, **NUMBERS | {name: value}), RATE)

    with pytest.raises(ValueError, match=r"slow_mix: expected 0 to 1, got 1\.5"):
        torch.func.jacfwd(of("slow_mix"))(torch.tensor(1.5))
    with pytest.raises(ValueError, match=r"shelf_hz: expected less than half"):
        torch.func.jacfwd(of("shelf_hz"))(torch.tensor(23000.0))
    with pytest.raises(ValueError, match=r"slow_factor: expected a number or shape \(2,\)"):
        torch.func.vmap(of("slow_factor"))(torch.full((2, 3), 4.0))
