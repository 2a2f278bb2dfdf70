"""Attack and release smoothing: value, gradient, batching, state."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor
from torch.autograd import forward_ad

from ddsp_la2a.dsp import compiling, smoothing_kernels
from ddsp_la2a.dsp.ballistics import smooth
from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.units import rise_time_to_coefficient

# torch's own, from what it imports when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

NAMES = ("target", "attack", "release", "state")


def noise(rows: int, samples: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand((rows, samples), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_hand(target: np.ndarray, attack: float, release: float, state: float) -> np.ndarray:
    smoothed = np.empty(len(target))
    for n, wanted in enumerate(target):
        alpha = attack if wanted < state else release
        state = (1.0 - alpha) * state + alpha * wanted
        smoothed[n] = state
    return smoothed


def differentiable_arguments() -> dict[str, Tensor]:
    """Three rows whose target stays clear of the output before it, where the function has its kink."""
    arguments = {
        "target": noise(3, 25, seed=5),
        "attack": torch.tensor([0.3, 0.05, 0.2], dtype=torch.float64),
        "release": torch.tensor([0.02, 0.4, 0.2], dtype=torch.float64),
        "state": torch.tensor([0.9, 0.1, 0.5], dtype=torch.float64),
    }
    smoothed, _ = smooth(**arguments)
    before = torch.cat([arguments["state"][:, None], smoothed[:, :-1]], dim=1)
    assert float((arguments["target"] - before).abs().min()) > 1e-4
    return arguments


@pytest.mark.parametrize(("attack", "release"), [(0.2, 0.01), (0.01, 0.2), (0.05, 0.05), (1.0, 1.0), (1e-6, 1e-5)])
@pytest.mark.parametrize("state", [1.0, 0.0, 0.4])
def test_value_is_that_of_the_recursion_by_hand(attack: float, release: float, state: float) -> None:
    target = noise(1, 500)
    smoothed, last = smooth(target, attack, release, state)
    expected = by_hand(target[0].numpy(), attack, release, state)
    np.testing.assert_allclose(smoothed[0].numpy(), expected, rtol=1e-12)
    assert float(last) == float(smoothed[0, -1])


@pytest.mark.parametrize("alpha", [1e-5, 0.03, 0.9])
def test_one_time_constant_is_a_linear_low_pass(alpha: float) -> None:
    target = noise(1, 2000)
    smoothed, _ = smooth(target, alpha, alpha, 0.3)
    expected, _ = lfilter([alpha], [1.0, alpha - 1.0], target[0].numpy(), zi=[(1.0 - alpha) * 0.3])
    np.testing.assert_allclose(smoothed[0].numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize("wanted", [*itertools.combinations(NAMES, 1), *itertools.combinations(NAMES, 3), NAMES])
def test_gradcheck(wanted: tuple[str, ...]) -> None:
    arguments = [value.requires_grad_(name in wanted) for name, value in differentiable_arguments().items()]
    assert torch.autograd.gradcheck(smooth, arguments, check_forward_ad=True)


def test_numbers_as_parameters_are_shared_by_all_rows() -> None:
    target = noise(3, 50)
    attack = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    smoothed, _ = smooth(target, attack, 0.05, 0.7)
    (shared,) = torch.autograd.grad(smoothed.sum(), attack)
    rows = torch.full((3,), 0.3, dtype=torch.float64, requires_grad=True)
    again, _ = smooth(target, rows, 0.05, 0.7)
    assert torch.equal(smoothed, again)
    (separate,) = torch.autograd.grad(again.sum(), rows)
    assert float(shared) == pytest.approx(float(separate.sum()), rel=1e-14)


@pytest.mark.parametrize("rows", range(1, 18))
def test_rows_one_by_one_equal_the_batch(rows: int) -> None:
    target = noise(rows, 12_000, seed=rows)  # from nine rows on worth several threads
    attack, release, state = (noise(1, rows, seed=100 + rows + k)[0] for k in range(3))
    arguments = [value.requires_grad_() for value in (target, attack, release, state)]
    smoothed, last = smooth(*arguments)
    weight = noise(rows, 12_000, seed=200)
    gradients = torch.autograd.grad((weight * smoothed).sum() + last.sum(), arguments)
    for row in range(rows):
        alone = [value[row : row + 1].detach().requires_grad_() for value in arguments]
        one, one_last = smooth(*alone)
        assert torch.equal(one[0], smoothed[row])
        assert torch.equal(one_last[0], last[row])
        ones = torch.autograd.grad((weight[row] * one).sum() + one_last.sum(), alone)
        for got, expected in zip(ones, gradients, strict=True):
            assert torch.equal(got[0], expected[row])


@pytest.mark.parametrize("seed", range(5))
def test_state_carried_over_a_partition_equals_one_pass(seed: int) -> None:
    target = noise(2, 400, seed=seed)
    whole, last = smooth(target, 0.2, 0.01, 1.0)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 401, 6))
    state: Tensor | float = 1.0
    parts = []
    for block in torch.tensor_split(target, cuts.tolist(), dim=1):
        part, state = smooth(block, 0.2, 0.01, state)
        parts.append(part)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert torch.equal(torch.as_tensor(state), last)


def test_float32_state_carried_sample_by_sample_does_not_stall() -> None:
    alpha = float(rise_time_to_coefficient(5000.0, 44100))
    target = torch.ones((1, 4000), dtype=torch.float32)
    _, last = smooth(target, alpha, alpha, 0.999)
    state: Tensor | float = 0.999
    for block in target.split(1, dim=1):
        _, state = smooth(block, alpha, alpha, state)
    assert 1.0 - float(state) == pytest.approx(1.0 - float(last), rel=1e-9)


def test_no_samples_hand_the_state_on() -> None:
    state = torch.tensor([0.25, 0.75], dtype=torch.float64, requires_grad=True)
    smoothed, last = smooth(torch.empty((2, 0)), 0.2, 0.1, state)
    assert smoothed.shape == (2, 0)
    assert last.tolist() == [0.25, 0.75]
    (gradient,) = torch.autograd.grad(last.sum(), state)
    assert gradient.tolist() == [1.0, 1.0]


def test_no_rows() -> None:
    smoothed, last = smooth(torch.empty((0, 7)), 0.2, 0.1, 1.0)
    assert smoothed.shape == (0, 7)
    assert last.shape == (0,)


@pytest.mark.parametrize(("target", "expected"), [(0.0, 0.8), (2.0, 1.1), (1.0, 1.0)])
def test_one_sample(target: float, expected: float) -> None:
    smoothed, last = smooth(torch.tensor([[target]], dtype=torch.float64), 0.2, 0.1, 1.0)
    assert float(smoothed) == pytest.approx(expected, rel=1e-15)
    assert float(last) == float(smoothed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_the_state_is_float64(dtype: torch.dtype) -> None:
    target = noise(2, 30, dtype=dtype).requires_grad_()
    smoothed, last = smooth(target, 0.2, 0.1, torch.tensor([0.5, 0.7], dtype=torch.float32))
    assert smoothed.dtype == dtype
    assert last.dtype == torch.float64
    (gradient,) = torch.autograd.grad(smoothed.sum(), target)
    assert gradient.dtype == dtype
    in_float64, _ = smooth(target.detach().double(), 0.2, 0.1, torch.tensor([0.5, 0.7], dtype=torch.float32))
    assert torch.equal(smoothed, in_float64.to(dtype))


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base.T,
        lambda base: base[:, ::3],
        lambda base: base[1:, 5:40],
        lambda base: base[:1].expand(4, -1),
        lambda base: base[:, :1].expand(-1, 30),
    ],
    ids=["transposed", "strided", "cut", "expanded rows", "expanded time"],
)
def test_any_memory_layout(view) -> None:
    base = noise(20, 50).requires_grad_()
    smoothed, _ = smooth(view(base), 0.2, 0.01, 0.5)
    plain = view(base).detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    expected, _ = smooth(plain, 0.2, 0.01, 0.5)
    assert torch.equal(smoothed, expected)
    (gradient,) = torch.autograd.grad(smoothed.square().sum(), base)
    (through_plain,) = torch.autograd.grad(expected.square().sum(), plain)
    (expected_gradient,) = torch.autograd.grad(view(base), base, through_plain)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("loss", [lambda y: y.square().sum(), lambda y: y.sum()], ids=["square", "sum"])
def test_second_derivative_is_refused(loss) -> None:
    # torch's once_differentiable alone isn't enough: it leaves the first derivative without a way to the inputs, so
    # that whatever else depends on them gives a wrong second derivative instead of an error.
    time_ms = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    smoothed, _ = smooth(noise(1, 40), rise_time_to_coefficient(time_ms, 44100), 0.02, 0.5)
    with pytest.raises(RuntimeError, match="second derivative"):  # noqa: PT012 - refused at either step
        (gradient,) = torch.autograd.grad(loss(smoothed), time_ms, create_graph=True)
        torch.autograd.grad(gradient, time_ms)


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


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("route", list(MIXED))
def test_second_derivative_is_refused_in_any_mix_of_modes(route: str, name: str, power: int) -> None:
    arguments = differentiable_arguments()

    def loss(value: Tensor) -> Tensor:
        smoothed, last = smooth(**arguments | {name: value})
        return (smoothed**power).sum() + last.sum()

    with pytest.raises(RuntimeError, match=r"smooth: differentiable once.* second derivative"):
        MIXED[route](loss, arguments[name])


def random_like(tensors: Iterable[Tensor], seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in tensors)


@pytest.mark.parametrize("wanted", [*itertools.combinations(NAMES, 1), NAMES[1:], NAMES])
def test_jvp_is_the_central_difference_and_the_transpose_of_reverse_mode(wanted: tuple[str, ...]) -> None:
    arguments = differentiable_arguments()

    def moved(*some: Tensor) -> tuple[Tensor, Tensor]:
        return smooth(**arguments | dict(zip(wanted, some, strict=True)))

    at = tuple(arguments[name] for name in wanted)
    direction = random_like(at, 1)
    values, tangents = torch.func.jvp(moved, at, direction)
    with forward_ad.dual_level():
        duals = moved(*map(forward_ad.make_dual, at, direction))
        for dual, tangent in zip(duals, tangents, strict=True):
            assert torch.equal(forward_ad.unpack_dual(dual).tangent, tangent)
    step = 1e-6
    ahead, behind = (moved(*(x + h * d for x, d in zip(at, direction, strict=True))) for h in (step, -step))
    for value, tangent, expected, a, b in zip(values, tangents, moved(*at), ahead, behind, strict=True):
        assert torch.equal(value, expected)
        torch.testing.assert_close(tangent, (a - b) / (2.0 * step), rtol=1e-7, atol=1e-8)
    weights = random_like(values, 2)
    gradients = torch.func.vjp(moved, *at)[1](weights)
    forward, reverse = (
        sum(float((a * b).sum()) for a, b in zip(*pair, strict=True))
        for pair in ((weights, tangents), (gradients, direction))
    )
    assert forward == pytest.approx(reverse, rel=1e-12)


def test_tangent_of_float32_is_float32_and_that_of_its_state_float64() -> None:
    target = noise(2, 30, dtype=torch.float32)
    _, (tangent, last) = torch.func.jvp(lambda t: smooth(t, 0.2, 0.1, 0.5), (target,), (target,))
    _, (expected, _) = torch.func.jvp(lambda t: smooth(t, 0.2, 0.1, 0.5), (target.double(),), (target.double(),))
    assert tangent.dtype == torch.float32
    assert last.dtype == torch.float64
    assert torch.equal(tangent, expected.float())


@pytest.mark.parametrize("jacobian", [torch.func.jacfwd, torch.func.jacrev], ids=["jacfwd", "jacrev"])
@pytest.mark.parametrize("name", NAMES)
def test_jacobian_is_that_of_reverse_mode(name: str, jacobian) -> None:
    arguments = differentiable_arguments()

    def of_one(value: Tensor) -> tuple[Tensor, Tensor]:
        return smooth(**arguments | {name: value})

    expected = torch.autograd.functional.jacobian(of_one, arguments[name])
    torch.testing.assert_close(jacobian(of_one)(arguments[name]), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("batched", [("target",), ("attack",), NAMES[1:], NAMES])
def test_vmap_equals_a_loop(batched: tuple[str, ...]) -> None:
    arguments = differentiable_arguments()
    factors = torch.tensor([0.9, 1.0, 0.95, 0.8], dtype=torch.float64)
    dims = tuple({"target": 2}.get(name, 0) if name in batched else None for name in NAMES)
    batch = [
        value if dim is None else torch.stack([f * value for f in factors], dim)
        for value, dim in zip(arguments.values(), dims, strict=True)
    ]
    alone = [
        tuple(x if dim is None else x.select(dim, k) for x, dim in zip(batch, dims, strict=True))
        for k in range(len(factors))
    ]
    every = (0, 1, 2, 3)

    def loss(*some: Tensor) -> Tensor:
        smoothed, last = smooth(*some)
        return smoothed.square().sum() + last.sum()

    direction = random_like(arguments.values(), 1)
    for function in (smooth, torch.func.grad(loss, every), lambda *x: torch.func.jvp(smooth, x, direction)[1]):
        loop = tuple(map(torch.stack, zip(*(function(*one) for one in alone), strict=True)))
        torch.testing.assert_close(torch.func.vmap(function, dims)(*batch), loop, rtol=1e-12, atol=1e-14)
    through = torch.func.grad(lambda *x: torch.func.vmap(loss, dims)(*x).sum(), every)(*batch)
    looped = torch.func.grad(
        lambda *x: sum(
            loss(*(v if dim is None else v.select(dim, k) for v, dim in zip(x, dims, strict=True)))
            for k in range(len(factors))
        ),
        every,
    )(*batch)
    torch.testing.assert_close(through, looped, rtol=1e-12, atol=1e-14)


def test_changing_an_input_before_the_backward_pass_is_refused() -> None:
    target = noise(1, 20)
    attack = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    smoothed, _ = smooth(target, attack, 0.1, 1.0)
    target.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        smoothed.sum().backward()


def test_changing_the_output_leaves_the_gradient_alone() -> None:
    attack = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(smooth(noise(1, 20), attack, 0.1, 1.0)[0].sum(), attack)
    smoothed, _ = smooth(noise(1, 20), attack, 0.1, 1.0)
    total = smoothed.sum()
    with torch.no_grad():
        smoothed.zero_()
    assert torch.equal(torch.autograd.grad(total, attack)[0], expected)


@pytest.mark.parametrize("shape", [(), (5,), (1, 1, 5)])
def test_target_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"target: expected shape \(batch, time\)"):
        smooth(torch.ones(shape), 0.2, 0.1, 1.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_target_of_another_type_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="target: expected"):
        smooth(torch.ones((1, 4), dtype=dtype), 0.2, 0.1, 0.5)


@pytest.mark.parametrize("name", ["attack", "release", "state"])
def test_parameter_of_another_batch_is_refused_by_name(name: str) -> None:
    arguments = {"attack": 0.2, "release": 0.1, "state": 1.0} | {name: torch.full((3,), 0.5)}
    with pytest.raises(ValueError, match=f"{name}: expected"):
        smooth(torch.ones((2, 4)), **arguments)


def _smooth_in_threads() -> np.ndarray:
    target = noise(8, 30_000).numpy()
    row = np.full(8, 0.1)
    smoothed = np.empty_like(target)
    arguments = target, row, row, row.copy(), smoothed, np.empty((8, 0))
    compiling.over_rows(smoothing_kernels.smooth_forward, 8, 30_000, *arguments)
    return smoothed


def _compress_beside_torchs_threads() -> np.ndarray:
    torch.ones((1000, 1000)).sum()
    return _compress_in_threads()


def _compress_in_threads() -> np.ndarray:
    params = CompressorParams(-20.0, 4.0, 6.0, 5.0, 250.0)
    return compressor(torch.from_numpy(_smooth_in_threads()), params, 44100).numpy()


def _send(pipe, work: Callable[[], np.ndarray]) -> None:
    pipe.send(work())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("of_parent", "of_child"),
    [(_smooth_in_threads, _smooth_in_threads), (_compress_beside_torchs_threads, _compress_in_threads)],
)
def test_a_forked_child_works_after_its_parent_used_threads(of_parent, of_child) -> None:
    expected = of_parent()
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(there, of_child))
    child.start()
    try:
        assert here.poll(60), "no answer from the child"
        np.testing.assert_array_equal(here.recv(), expected)
    finally:
        child.kill()
        child.join()


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def failing(first: int, last: int) -> None:
        raise ZeroDivisionError(f"rows {first} to {last}")

    with pytest.raises(ZeroDivisionError):
        compiling.over_rows(failing, 4, 1_000_000)


@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_groups_of_rows_cover_every_row_once(rows: int) -> None:
    seen: list[int] = []
    compiling.over_rows(lambda first, last: seen.extend(range(first, last)), rows, 1_000_000)
    assert sorted(seen) == list(range(rows))


def test_in_silence_nothing_fades_into_subnormals() -> None:
    target = torch.zeros((3, 40_000))
    target[:, 0] = 1.0
    smoothed, last = smooth(target, 0.1, 0.1, 1.0)
    assert last.tolist() == [0.0] * 3
    tiny = np.finfo(np.float64).tiny
    assert int(((smoothed > 0) & (smoothed < tiny)).sum()) < 3 * 400  # until the end of a piece
