"""Sums of products of error, target and tangents against the float64 numpy reference, forward mode and differences."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numba
import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from baselines import numpy_compressor
from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.dsp.elementary import exp2, log2
from ddsp_la2a.dsp.normal_equations import ERROR, ERROR_FILTERS, FIRST_TANGENT, TARGET, error_products

# torch's own, from what it imports when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

RATE = 8000
NAMES = ("threshold_db", "ratio", "knee_db", "attack_ms", "release_ms", "makeup_db")
SOFT = {
    "threshold_db": -30.0,
    "ratio": 4.0,
    "knee_db": 8.0,
    "attack_ms": 2.0,
    "release_ms": 30.0,
    "makeup_db": 3.0,
}
TANGENTS = slice(FIRST_TANGENT, None)
FRAMES = 20_003  # more than is worked on at once, and no multiple of anything


def settings() -> dict[str, dict[str, float]]:
    """Corners by name, then some at random, in eighths of their units."""
    found = {
        "soft": SOFT,
        "hard": SOFT | {"knee_db": 0.0},
        "ratio 1": SOFT | {"ratio": 1.0},
        "ratio 100": SOFT | {"ratio": 100.0},
        "attack > release": SOFT | {"attack_ms": 60.0, "release_ms": 4.0},
        "attack = release": SOFT | {"attack_ms": 7.0, "release_ms": 7.0},
        "slow": SOFT | {"attack_ms": 500.0, "release_ms": 4000.0},
        "less than a sample": SOFT | {"attack_ms": 0.0625, "release_ms": 0.125},
        "wide knee": SOFT | {"knee_db": 200.0},
        "no make-up": SOFT | {"makeup_db": 0.0},
    }
    rng = np.random.default_rng(11)
    low, high = np.array([-50.0, 1.125, 0.125, 0.125, 5.0, -12.0]), np.array([-5.0, 20.0, 24.0, 60.0, 900.0, 12.0])
    for number in range(6):
        values = np.round(8.0 * rng.uniform(low, high)) / 8.0
        found[f"random {number}"] = dict(zip(NAMES, values.tolist(), strict=True))
    return found


SETTINGS = settings()


def recording(frames: int = FRAMES, seed: int = 0, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Noise that rises and falls by 40 dB, over full scale too, with silence in between; and something like it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(frames) * 10.0 ** (-1.0 + np.sin(np.arange(frames) / 700.0))
    x[::97] = 0.0
    x[1::97] = 1e-9
    y = 0.4 * x + 0.01 * rng.standard_normal(frames) + 0.02
    return x.astype(dtype), y.astype(dtype)


def filtered(error_filter: str, signals: np.ndarray) -> np.ndarray:
    """What the three names stand for, along the last axis."""
    zero, pole = {"none": (0.0, 0.0), "dc": (1.0, 0.995), "pre-emphasis": (0.85, 0.0)}[error_filter]
    return lfilter([1.0, -zero], [1.0, -pole], signals, axis=-1)


def reference_output(x: np.ndarray, setting: dict[str, float], rate: float = RATE) -> np.ndarray:
    return numpy_compressor.compressor(x, rate, **setting).output


def forward_mode(x: np.ndarray, setting: dict[str, float], rate: float = RATE) -> np.ndarray:
    """Derivatives of ``compressor`` for its parameters, (6, time)."""
    audio = torch.from_numpy(x)[None]
    at = torch.tensor([setting[name] for name in NAMES], dtype=torch.float64)
    return torch.func.jacfwd(lambda v: compressor(audio, CompressorParams(*v), rate)[0])(at).numpy().T


def central_differences(x: np.ndarray, setting: dict[str, float], rate: float = RATE) -> np.ndarray:
    """Of the numpy reference, (6, time)."""
    tangents = []
    for name in NAMES:
        if name == "knee_db" and setting[name] == 0.0:
            # No width below 0. From above the curve moves by at most w/8, and over a width of w only: by nothing.
            tangents.append(np.zeros(len(x)))
            continue
        h = 1e-5 * max(abs(setting[name]), 0.01)
        above, below = (reference_output(x, setting | {name: setting[name] + sign * h}, rate) for sign in (1, -1))
        tangents.append((above - below) / (2.0 * h))
    return np.stack(tangents)


def expected_products(
    x: np.ndarray,
    y: np.ndarray,
    setting: dict[str, float],
    error_filter: str,
    tangents: np.ndarray,
    rate: float = RATE,
) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    rows = filtered(error_filter, np.vstack([reference_output(x, setting, rate) - y, y, tangents]))
    return rows @ rows.T


def products(
    x: np.ndarray, y: np.ndarray, setting: dict[str, float], error_filter: str = "dc", rate: float = RATE, **more: Any
) -> np.ndarray:
    return error_products([(x, y)], CompressorParams(**setting), rate, error_filter=error_filter, **more)


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest of all entries, each relative to the norms of the two signals whose product it is."""
    assert got.shape == expected.shape
    norms = np.sqrt(np.diagonal(expected, axis1=-2, axis2=-1))
    scale = np.maximum(norms[..., :, None] * norms[..., None, :], 1e-300)
    return float((np.abs(got - expected) / scale).max(initial=0.0))


# Logarithm and exponential


@numba.njit
def every_log2(values: np.ndarray, results: np.ndarray) -> None:
    for n in range(values.size):
        results[n] = log2(values[n])


@numba.njit(fastmath={"contract"})
def every_log2_fused(values: np.ndarray, results: np.ndarray) -> None:
    for n in range(values.size):
        results[n] = log2(values[n])


@numba.njit
def every_exp2(values: np.ndarray, results: np.ndarray) -> None:
    for n in range(values.size):
        results[n] = exp2(values[n])


@numba.njit(fastmath={"contract"})
def every_exp2_fused(values: np.ndarray, results: np.ndarray) -> None:
    for n in range(values.size):
        results[n] = exp2(values[n])


def applied(function: Callable[..., None], values: np.ndarray) -> np.ndarray:
    results = np.full_like(values, np.nan)
    function(values, results)
    return results


@pytest.fixture
def thirty_digits() -> Iterator[None]:
    with decimal.localcontext() as context:
        context.prec = 30
        yield


@pytest.mark.usefixtures("thirty_digits")
@pytest.mark.parametrize("function", [every_log2, every_log2_fused])
@pytest.mark.parametrize(
    ("lowest", "highest"),
    [
        (-511.0, 511.99),
        (math.log2(1e-8), math.log2(1e3)),  # what the level detector asks for
        (-1.0, 1.0),
        (-1e-6, 1e-6),
    ],
)
def test_log2(lowest: float, highest: float, function: Callable[..., None]) -> None:
    values = np.exp2(np.random.default_rng(0).uniform(lowest, highest, 500))
    for value, got in zip(values.tolist(), applied(function, values).tolist(), strict=True):
        expected = Decimal(value).ln() / Decimal(2).ln()
        # As stated, and half a unit of the last place of the result.
        assert abs(Decimal(got) - expected) <= Decimal(1e-14 + 0.5 * math.ulp(got)), value


@pytest.mark.parametrize("function", [every_log2, every_log2_fused])
def test_log2_of_powers_of_two_is_exact(function: Callable[..., None]) -> None:
    exponents = np.arange(-511.0, 513.0)
    np.testing.assert_array_equal(applied(function, np.exp2(exponents)), exponents)


@pytest.mark.parametrize("function", [every_log2, every_log2_fused])
def test_log2_rises_and_is_right_where_its_pieces_meet(function: Callable[..., None]) -> None:
    seams = [
        *(math.sqrt(0.5) * 2.0**e for e in (-511, -510, -26, -1, 0, 1, 2, 10, 512)),
        *(2.0**e for e in (-510, -1, 0, 1, 511)),
        1e-8,
        1e3,
    ]
    for seam in filter(lambda value: 2.0**-511 <= value < 2.0**512, seams):
        values = [seam]
        for _ in range(3):
            values = [math.nextafter(values[0], 0.0), *values, math.nextafter(values[-1], math.inf)]
        results = applied(function, np.array(values))
        assert (np.diff(results) >= 0.0).all(), seam
        np.testing.assert_allclose(results, [math.log2(v) for v in values], rtol=1e-15, atol=1e-14)


@pytest.mark.usefixtures("thirty_digits")
@pytest.mark.parametrize("function", [every_exp2, every_exp2_fused])
@pytest.mark.parametrize(("lowest", "highest"), [(-1000.0, 1000.0), (-30.0, 1.0), (-0.5, 0.5), (-1e-6, 1e-6)])
def test_exp2(lowest: float, highest: float, function: Callable[..., None]) -> None:
    values = np.random.default_rng(1).uniform(lowest, highest, 500)
    for value, got in zip(values.tolist(), applied(function, values).tolist(), strict=True):
        expected = Decimal(2) ** Decimal(value)
        assert abs(Decimal(got) - expected) <= Decimal("2e-14") * expected, value


@pytest.mark.parametrize("function", [every_exp2, every_exp2_fused])
def test_exp2_at_whole_numbers_and_halfway(function: Callable[..., None]) -> None:
    whole = np.arange(-1000.0, 1001.0)
    np.testing.assert_array_equal(applied(function, whole), np.exp2(whole))
    assert applied(function, np.array([-0.0]))[0] == 1.0  # so that a gain of 0 dB is no gain
    halves = whole[:-1] + 0.5
    np.testing.assert_allclose(applied(function, halves), np.exp2(halves), rtol=2e-14)


# Energies


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("error_filter", ["none", "dc", "pre-emphasis"])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_energies_of_error_and_target(name: str, error_filter: str, dtype: type) -> None:
    x, y = recording(seed=1, dtype=dtype)
    wide = y.astype(np.float64)
    error = filtered(error_filter, reference_output(x.astype(np.float64), SETTINGS[name]) - wide)
    target = filtered(error_filter, wide)
    (found,) = products(x, y, SETTINGS[name], error_filter)
    assert found.dtype == np.float64
    assert found[ERROR, ERROR] == pytest.approx(error @ error, rel=1e-11)
    assert found[TARGET, TARGET] == pytest.approx(target @ target, rel=1e-12)
    assert found[ERROR, TARGET] == pytest.approx(error @ target, abs=1e-11 * math.sqrt(error @ error * target @ target))


def test_three_filters_and_dc_by_default() -> None:
    assert set(ERROR_FILTERS) == {"none", "dc", "pre-emphasis"}
    x, y = recording(500)
    params = CompressorParams(**SOFT)
    np.testing.assert_array_equal(error_products([(x, y)], params, RATE), products(x, y, SOFT, "dc"))


def test_numbers_keep_all_their_digits() -> None:
    x, y = recording(3000)
    setting = SOFT | {"threshold_db": -23.3, "ratio": 3.7, "attack_ms": 3.3, "makeup_db": 1.1}
    error = reference_output(x, setting) - y
    assert products(x, y, setting, "none")[0, ERROR, ERROR] == pytest.approx(error @ error, rel=1e-11)


def test_numbers_as_tensors() -> None:
    x, y = recording(3000)
    setting = SOFT | {"threshold_db": -23.3, "ratio": 3.7, "attack_ms": 3.3, "makeup_db": 1.1}
    error = reference_output(x, setting) - y
    for shape in ((), (1,)):
        params = CompressorParams(**{n: torch.full(shape, v, dtype=torch.float64) for n, v in setting.items()})
        (found,) = error_products([(x, y)], params, RATE, error_filter="none")
        assert found[ERROR, ERROR] == pytest.approx(error @ error, rel=1e-11)


def test_numbers_with_a_gradient_are_numbers() -> None:
    x, y = recording(300)
    params = CompressorParams(**{n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in SOFT.items()})
    np.testing.assert_array_equal(error_products([(x, y)], params, RATE), products(x, y, SOFT))


# Derivatives


@pytest.mark.parametrize("error_filter", ["none", "dc", "pre-emphasis"])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_products_are_those_of_forward_mode(name: str, error_filter: str) -> None:
    x, y = recording(seed=2)
    expected = expected_products(x, y, SETTINGS[name], error_filter, forward_mode(x, SETTINGS[name]))
    assert difference(products(x, y, SETTINGS[name], error_filter)[0], expected) < 1e-11


@pytest.mark.parametrize("rate", [8000, 44100, 96000.0])
@pytest.mark.parametrize("name", ["soft", "hard", "attack > release", "random 0"])
def test_products_of_float32_at_every_rate(name: str, rate: float) -> None:
    x, y = recording(seed=3, dtype=np.float32)
    tangents = forward_mode(x.astype(np.float64), SETTINGS[name], rate)
    expected = expected_products(x, y, SETTINGS[name], "dc", tangents, rate)
    assert difference(products(x, y, SETTINGS[name], rate=rate)[0], expected) < 1e-11


# At ratio 1 the gain falls with the attack on one side and rises with the release on the other: a corner.
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "ratio 1"])
def test_products_are_those_of_central_differences(name: str) -> None:
    x, y = recording(seed=4)
    setting = SETTINGS[name]
    expected = expected_products(x, y, setting, "dc", central_differences(x, setting))
    got = products(x, y, setting)[0]
    assert difference(got, expected) < 1e-5
    gradient, matrix = expected[TANGENTS, ERROR], expected[TANGENTS, TANGENTS]
    assert np.linalg.norm(got[TANGENTS, ERROR] - gradient) < 1e-5 * np.linalg.norm(gradient)
    assert np.linalg.norm(got[TANGENTS, TANGENTS] - matrix) < 1e-5 * np.linalg.norm(matrix)


@pytest.mark.parametrize("error_filter", ["none", "dc", "pre-emphasis"])
@pytest.mark.parametrize("name", ["soft", "hard", "ratio 1", "attack > release", "random 1", "random 2"])
def test_gradient_is_that_of_reverse_accumulation(name: str, error_filter: str) -> None:
    x, y = recording(seed=5)
    error = filtered(error_filter, reference_output(x, SETTINGS[name]) - y)
    weight = filtered(error_filter, error[::-1])[::-1]  # the filter's adjoint is itself, backwards in time
    expected = numpy_compressor.compressor_gradient(x, RATE, **SETTINGS[name], grad_output=weight)
    (got,) = products(x, y, SETTINGS[name], error_filter)
    scale = np.sqrt(np.diag(got)[TANGENTS] * got[ERROR, ERROR])
    assert (np.abs(got[TANGENTS, ERROR] - [expected[n] for n in NAMES]) <= 1e-9 * scale).all()


@pytest.mark.parametrize("name", list(SETTINGS))
def test_symmetric_and_positive(name: str) -> None:
    x, y = recording(seed=6)
    (found,) = products(x, y, SETTINGS[name])
    assert difference(found, found.T) < 1e-15
    norms = np.sqrt(np.maximum(np.diag(found), 1e-300))
    assert np.linalg.eigvalsh(found / norms / norms[:, None]).min() > -1e-12


def test_above_all_levels_nothing_but_the_makeup_matters() -> None:
    x, y = recording(seed=7)
    setting = SOFT | {"threshold_db": 60.0}
    (found,) = products(x, y, setting)
    assert (found[FIRST_TANGENT:-1] == 0.0).all()
    assert (found[:, FIRST_TANGENT:-1] == 0.0).all()
    expected = expected_products(x, y, setting, "dc", forward_mode(x, setting))
    assert difference(found, expected) < 1e-12
    assert found[-1, -1] > 0.0


def test_a_ratio_of_one_leaves_only_ratio_and_makeup() -> None:
    x, y = recording(seed=8)
    (found,) = products(x, y, SETTINGS["ratio 1"])
    matter = [name in ("ratio", "makeup_db") for name in NAMES]
    np.testing.assert_array_equal(np.diag(found)[TANGENTS] > 0.0, matter)


def test_a_hard_knee_has_no_derivative_for_its_width() -> None:
    x, y = recording(seed=9)
    (found,) = products(x, y, SETTINGS["hard"])
    assert (found[FIRST_TANGENT + NAMES.index("knee_db")] == 0.0).all()


@pytest.mark.parametrize("knee_db", [0.0, 8.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_silence(dtype: type, knee_db: float) -> None:
    _, y = recording(3000, dtype=dtype)
    (found,) = products(np.zeros_like(y), y, SOFT | {"knee_db": knee_db, "threshold_db": -200.0})
    assert np.isfinite(found).all()
    assert (found[TANGENTS] == 0.0).all()  # whatever the gain does in silence, there is nothing to hear of it
    assert found[ERROR, ERROR] == found[TARGET, TARGET] == -found[ERROR, TARGET] > 0.0
    assert (products(np.zeros_like(y), np.zeros_like(y), SOFT) == 0.0).all()


@pytest.mark.parametrize("level", [-0.5, 1e-9, 1e-8, 1.0, 1000.0])
@pytest.mark.parametrize("name", ["soft", "hard", "attack > release"])
def test_a_constant(name: str, level: float) -> None:
    x, y = np.full(3000, level), np.full(3000, 0.25)
    (found,) = products(x, y, SETTINGS[name])
    assert np.isfinite(found).all()
    expected = expected_products(x, y, SETTINGS[name], "dc", forward_mode(x, SETTINGS[name]))
    assert difference(found, expected) < 1e-11


@pytest.mark.parametrize("level", [0.5e-8, 1e-8, 2e-8])
def test_the_floor_of_the_level(level: float) -> None:
    x, y = np.tile([level, -level, 0.0], 500), np.zeros(1500)
    setting = SOFT | {"threshold_db": -175.0, "knee_db": 40.0}
    (found,) = products(x, y, setting, "none")
    assert found[ERROR, ERROR] < 0.5 * 10.0 ** (setting["makeup_db"] / 10.0) * (x @ x)
    assert difference(found, expected_products(x, y, setting, "none", forward_mode(x, setting))) < 1e-11


def test_a_sample_at_a_hard_threshold_is_on_its_uncompressed_side() -> None:
    setting = SOFT | {"threshold_db": 0.0, "knee_db": 0.0}
    x = np.tile([1.0, -1.0, 0.5], 30)
    expected = expected_products(x, 0.5 * x, setting, "none", forward_mode(x, setting))
    assert difference(products(x, 0.5 * x, setting, "none")[0], expected) < 1e-11


@pytest.mark.parametrize("name", ["attack_ms", "release_ms"])
def test_a_time_so_short_that_the_gain_jumps(name: str) -> None:
    x, y = recording(2000)
    setting = SOFT | {name: 2.0**-10}
    expected = expected_products(x, y, setting, "dc", forward_mode(x, setting))
    assert difference(products(x, y, setting)[0], expected) < 1e-11


# Blocks, sums and what comes before them


def cut(x: np.ndarray, y: np.ndarray, edges: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    # A generator: one pass has to do.
    for a, b in zip([0, *edges], [*edges, len(x)], strict=True):
        yield x[a:b], y[a:b]


@pytest.mark.parametrize("error_filter", ["none", "dc", "pre-emphasis"])
@pytest.mark.parametrize("seed", range(6))
def test_blocks_make_no_difference(seed: int, error_filter: str) -> None:
    rng = np.random.default_rng(seed)
    x, y = recording(40_001, seed, rng.choice([np.float32, np.float64]))
    some = rng.integers(0, len(x), rng.integers(1, 40)).tolist()
    edges = sorted([0, 0, *some, *some[:3], some[0] + 1, len(x)])  # with blocks of none and of one
    warmup, length = int(rng.integers(0, 5000)), int(rng.integers(100, 20_000))
    for more in ({}, {"warmup_frames": warmup, "sum_frames": length}):
        whole = products(x, y, SOFT, error_filter, **more)
        blocks = cut(x, y, edges)
        parts = error_products(blocks, CompressorParams(**SOFT), RATE, error_filter=error_filter, **more)
        assert difference(parts, whole) < 1e-12


def test_single_frames_and_blocks_of_the_size_of_a_piece() -> None:
    x, y = recording(2 * 16_384)
    params = CompressorParams(**SOFT)
    whole = products(x, y, SOFT)
    for edges in ([16_384], [16_383], [16_385], [1, 2, 3, 16_386]):
        assert difference(error_products(cut(x, y, edges), params, RATE), whole) < 1e-12
    x, y = x[:600], y[:600]
    ones = error_products(cut(x, y, list(range(1, 600))), params, RATE)
    assert difference(ones, products(x, y, SOFT)) < 1e-12


def test_any_layout_of_the_arrays() -> None:
    x, y = recording(3001)
    expected = products(x, y, SOFT)
    columns = np.stack([x, y], axis=1)
    read_only = x.copy()
    read_only.flags.writeable = False
    swapped = y.astype(np.float32).astype(np.float64)
    for audio, target in ((columns[:, 0], columns[:, 1]), (x[::-1].copy()[::-1], y), (read_only, y)):
        assert difference(products(audio, target, SOFT), expected) < 1e-12
    np.testing.assert_array_equal(products(x, y.astype(np.float32), SOFT), products(x, swapped, SOFT))


def test_blocks_are_left_as_they_were() -> None:
    x, y = recording(3001)
    before = x.copy(), y.copy()
    products(x, y, SOFT)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize(
    ("warmup_frames", "sum_frames", "sums"),
    [
        (0, 2000, 11),
        (0, FRAMES, 1),
        (0, FRAMES - 1, 2),
        (0, 10 * FRAMES, 1),
        (3, 1000, 20),
        (1, 10_001, 2),
        (17_000, 16_384, 1),
        (FRAMES - 1, 5, 1),
        (4000, None, 1),
    ],
)
def test_every_sum_is_that_over_its_stretch(warmup_frames: int, sum_frames: int | None, sums: int) -> None:
    x, y = recording(seed=10)
    rows = np.vstack([reference_output(x, SOFT) - y, y, forward_mode(x, SOFT)])
    rows = filtered("dc", rows)[:, warmup_frames:]
    length = sum_frames or rows.shape[1]
    stretches = [rows[:, a : a + length] for a in range(0, rows.shape[1], length)]
    expected = np.stack([stretch @ stretch.T for stretch in stretches])
    found = products(x, y, SOFT, warmup_frames=warmup_frames, sum_frames=sum_frames)
    assert found.shape == (sums, 8, 8)
    assert difference(found, expected) < 1e-11
    (total,) = products(x, y, SOFT, warmup_frames=warmup_frames)
    assert difference(found.sum(axis=0), total) < 1e-12


def test_the_warmup_is_heard() -> None:
    x, y = recording(4000, 3)
    cold = products(x[2000:], y[2000:], SETTINGS["slow"])
    warm = products(x, y, SETTINGS["slow"], warmup_frames=2000)
    assert difference(warm, cold) > 1e-2
    whole, before = products(x, y, SETTINGS["slow"]), products(x[:2000], y[:2000], SETTINGS["slow"])
    assert difference(warm, whole - before) < 1e-11


@pytest.mark.parametrize(
    ("frames", "warmup_frames", "sum_frames"), [(0, 0, None), (0, 5, 3), (7, 7, None), (7, 8, 2), (7, 10**9, 10)]
)
def test_nothing_that_counts(frames: int, warmup_frames: int, sum_frames: int | None) -> None:
    x, y = recording(frames)
    blocks: list[Any] = [(x, y), (x[:0], y[:0])]
    more = {"warmup_frames": warmup_frames, "sum_frames": sum_frames}
    for given in (blocks, blocks[:1], blocks[1:], []):
        found = error_products(given, CompressorParams(**SOFT), RATE, **more)
        assert found.shape == (0, 8, 8)
        assert found.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bitwise_the_same_every_time(dtype: type) -> None:
    x, y = recording(seed=12, dtype=dtype)
    first = products(x, y, SOFT, sum_frames=777)
    shifted = np.empty(len(x) + 1, dtype)[1:]  # at another address too
    shifted[:] = x
    np.testing.assert_array_equal(products(x, y, SOFT, sum_frames=777), first)
    np.testing.assert_array_equal(products(shifted, y, SOFT, sum_frames=777), first)


# Errors


@pytest.mark.parametrize("error_filter", ["", "DC", "a-weighting", None])
def test_an_unknown_filter_is_refused_by_name(error_filter: Any) -> None:
    with pytest.raises(ValueError, match=r"^error_filter: expected one of none, dc, pre-emphasis, got"):
        products(*recording(10), SOFT, error_filter)


def test_arrays_of_two_lengths_are_refused() -> None:
    x, y = recording(10)
    for blocks in ([(x, y[:-1])], [(x, y), (x[:1], y[:0])], [(x[:, None], y)]):
        with pytest.raises(ValueError, match=r"^blocks: expected"):
            error_products(blocks, CompressorParams(**SOFT), RATE)


def test_arrays_of_two_dimensions_are_refused() -> None:
    x, y = recording(10)
    with pytest.raises(ValueError, match=r"^blocks: expected"):
        error_products([(x[None], y[None])], CompressorParams(**SOFT), RATE)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_parameters_is_refused_by_name(name: str) -> None:
    params = CompressorParams(**SOFT | {name: torch.full((2,), SOFT[name])})
    with pytest.raises(ValueError, match=rf"^{name}: expected a number"):
        error_products([recording(10)], params, RATE)


@pytest.mark.parametrize("sample_rate", [0, -8000, math.nan, math.inf, "8000", None])
def test_an_unfit_sample_rate_is_refused_by_name(sample_rate: Any) -> None:
    with pytest.raises(ValueError, match=r"^sample_rate: expected"):
        products(*recording(10), SOFT, rate=sample_rate)
