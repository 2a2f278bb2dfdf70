"""Sums of products of a compressor with stages: every combination of them against forward mode and the oracle."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from ddsp_la2a.dsp.compressor import CompressorParams, compressor
from ddsp_la2a.dsp.normal_equations import ERROR, ERROR_FILTERS, FIRST_TANGENT, TARGET, error_products
from ddsp_la2a.dsp.output_stage import OutputFilter

# torch's own, from what it imports when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

RATE = 44100
FRAMES = 20_003  # more than is worked on at once, and no multiple of anything
SETTING = {
    "threshold_db": -30.0,
    "ratio": 4.0,
    "knee_db": 8.0,
    "attack_ms": 2.0,
    "release_ms": 30.0,
    "makeup_db": 3.0,
}
ODD = [0, 1, 1, 4, 2_051, 2_052, 9_001, 18_437]
NO_FILTER = OutputFilter(torch.zeros(5, dtype=torch.float64), RATE)

some = pytest.mark.parametrize(
    "stages", [("slow",), ("feedback", "filter"), ("slow", "shelf", "feedback", "filter")], indirect=True, ids="+".join
)


def recording(frames: int = FRAMES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise that rises and falls by 40 dB, with silence in between; and something like it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(frames) * 10.0 ** (-1.0 + np.sin(np.arange(frames) / 700.0))
    x[::97] = 0.0
    x[1::97] = 1e-9
    return x, 0.4 * x + 0.01 * rng.standard_normal(frames) + 0.02


def latency(params: CompressorParams) -> int:
    return 0 if params.output_filter is None else params.output_filter.latency


def forward_mode(x: np.ndarray, params: CompressorParams) -> tuple[np.ndarray, np.ndarray]:
    """Output and its derivatives for every number, then the filter's coefficients, ``(parameters, time)``."""
    audio = torch.from_numpy(x)[None]
    numbers = params.numbers()
    given = torch.tensor([float(value) for value in numbers.values()], dtype=torch.float64)
    taps = torch.zeros(0, dtype=torch.float64)
    if params.output_filter is not None:
        taps = params.output_filter.coefficients

    def output(values: torch.Tensor) -> torch.Tensor:
        found: dict[str, Any] = dict(zip(numbers, values[: len(given)].unbind(), strict=True))
        kept = None if params.output_filter is None else OutputFilter(values[len(given) :], RATE)
        return compressor(audio, CompressorParams(**found, feedback=params.feedback, output_filter=kept), RATE)[0]

    at = torch.cat([given, taps])
    return output(at).numpy(), torch.func.jacfwd(output)(at).numpy().T


def rows_of(x: np.ndarray, y: np.ndarray, params: CompressorParams, error_filter: str = "dc") -> np.ndarray:
    """Filtered error, target and derivatives; the target waits for the filter."""
    output, tangents = forward_mode(x, params)
    waiting = np.concatenate([np.zeros(latency(params)), y])[: len(y)]
    zero, pole = {"none": (0.0, 0.0), "dc": (1.0, 0.995), "pre-emphasis": (0.85, 0.0)}[error_filter]
    return lfilter([1.0, -zero], [1.0, -pole], np.vstack([output - waiting, waiting, tangents]), axis=-1)


def cut(x: np.ndarray, y: np.ndarray, edges: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for a, b in zip([0, *edges], [*edges, len(x)], strict=True):
        yield x[a:b], y[a:b]


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest of all entries, each relative to the norms of the two signals whose product it is."""
    assert got.shape == expected.shape
    norms = np.sqrt(np.diagonal(expected, axis1=-2, axis2=-1))
    scale = np.maximum(norms[..., :, None] * norms[..., None, :], 1e-300)
    return float((np.abs(got - expected) / scale).max(initial=0.0))


def test_products_are_those_of_forward_mode_in_blocks_of_odd_lengths(stages) -> None:
    x, y = recording(seed=1)
    params = stages.params(SETTING, RATE)
    warmup, length = 1_237, 5_003
    rows = rows_of(x, y, params)[:, warmup:]
    stretches = [rows[:, a : a + length] for a in range(0, rows.shape[1], length)]
    found = error_products(cut(x, y, ODD), params, RATE, warmup_frames=warmup, sum_frames=length)
    assert difference(found, np.stack([stretch @ stretch.T for stretch in stretches])) < 1e-10
    assert found.shape[1] == FIRST_TANGENT + len(params.numbers()) + (5 if latency(params) else 0)


def test_the_error_is_that_of_the_oracle(stages) -> None:
    x, y = recording(6_001, seed=2)
    params = stages.params(SETTING, RATE)
    late = latency(params)
    waiting = np.concatenate([np.zeros(late), y])[: len(y)]
    error = stages.oracle(x, RATE, SETTING).output - waiting
    (found,) = error_products(cut(x, y, [17, 4_000]), params, RATE, error_filter="none")
    assert found[ERROR, ERROR] == pytest.approx(error @ error, rel=1e-10)
    assert found[TARGET, TARGET] == pytest.approx(waiting @ waiting, rel=1e-12)


@some
@pytest.mark.parametrize("error_filter", list(ERROR_FILTERS))
def test_every_error_filter(stages, error_filter: str) -> None:
    x, y = recording(6_001, seed=3)
    rows = rows_of(x, y, stages.params(SETTING, RATE), error_filter)
    (found,) = error_products([(x, y)], stages.params(SETTING, RATE), RATE, error_filter=error_filter)
    assert difference(found, rows @ rows.T) < 1e-10


@some
def test_float32_is_what_it_stands_for(stages) -> None:
    x, y = (signal.astype(np.float32) for signal in recording(6_001, seed=4))
    params = stages.params(SETTING, RATE)
    (found,) = error_products(cut(x, y, ODD[:5]), params, RATE)
    (expected,) = error_products([(x.astype(np.float64), y.astype(np.float64))], params, RATE)
    assert difference(found, expected) < 1e-10


@pytest.mark.parametrize("edges", [[], ODD[:5], [1, 2, 3, 4, 5], [2_999]])
def test_the_target_waits_for_the_filter(edges: list[int]) -> None:
    """A filter that does nothing gives back its input two samples late, and there is no error."""
    x, _ = recording(3_001, seed=5)
    loud_enough = SETTING | {"threshold_db": 60.0, "makeup_db": 0.0}
    params = CompressorParams(**loud_enough, output_filter=NO_FILTER)
    (found,) = error_products(cut(x, x, edges), params, RATE, error_filter="none")
    heard = x[:-2]
    assert found[TARGET, TARGET] == pytest.approx(heard @ heard, rel=1e-12)
    assert found[ERROR, ERROR] < 1e-20 * found[TARGET, TARGET]


def test_sums_of_a_late_target_start_where_they_are_said_to() -> None:
    """The target's energy in every sum is that of the samples before, by the latency."""
    x, y = recording(3_001, seed=6)
    params = CompressorParams(**SETTING, output_filter=NO_FILTER)
    found = error_products([(x, y)], params, RATE, error_filter="none", warmup_frames=100, sum_frames=500)
    waiting = np.concatenate([np.zeros(2), y])[:3_001]
    expected = [np.sum(waiting[a : min(a + 500, 3_001)] ** 2) for a in range(100, 3_001, 500)]
    np.testing.assert_allclose(found[:, TARGET, TARGET], expected, rtol=1e-12)


@pytest.mark.parametrize("stages", [("slow",), ("slow", "shelf", "feedback", "filter")], indirect=True, ids="+".join)
def test_without_a_second_cells_share_its_slowness_has_no_derivative(stages) -> None:
    x, y = recording(3_001, seed=7)
    params = stages.params(SETTING | {"slow_mix": 0.0}, RATE)
    number = FIRST_TANGENT + list(params.numbers()).index("slow_factor")
    (found,) = error_products([(x, y)], params, RATE)
    assert (found[number] == 0.0).all()
    assert found[number + 1, number + 1] > 0.0


def test_a_feedback_loop_that_swings_by_itself_gives_no_warning() -> None:
    """Its derivatives grow until they are no numbers."""
    x = 0.9 * np.sin(0.02 * np.arange(60_000.0))
    wild = SETTING | {"threshold_db": -41.0, "ratio": 20.0, "attack_ms": 0.106, "release_ms": 4_415.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = error_products([(x, x)], CompressorParams(**wild, feedback=True), RATE)
    assert found.shape == (8, 8)
    assert not np.isfinite(found).all()
