"""The static curve on tensors, against the numpy reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from baselines import numpy_compressor
from ddsp_la2a.dsp.curve import static_gain_db

THRESHOLD_DB = -20.0
LEVELS_DB = np.linspace(-160.0, 20.0, 1801)


def tensors(*values: float, requires_grad: bool = False) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64, requires_grad=requires_grad) for value in values]


def slope_at(level_db: float, ratio: float, knee_db: float) -> float:
    level = torch.tensor(level_db, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(static_gain_db(level, *tensors(THRESHOLD_DB, ratio, knee_db)), level)
    return float(slope)


@pytest.mark.parametrize("knee_db", [0.0, 1e-6, 6.0, 40.0])
@pytest.mark.parametrize("ratio", [1.0, 1.001, 4.0, 100.0])
@pytest.mark.parametrize("threshold_db", [-70.0, -20.0, 0.0])
def test_value_is_that_of_the_reference(threshold_db: float, ratio: float, knee_db: float) -> None:
    gain_db = static_gain_db(torch.from_numpy(LEVELS_DB), *tensors(threshold_db, ratio, knee_db))
    expected = numpy_compressor.static_gain_db(LEVELS_DB, threshold_db, ratio, knee_db)
    np.testing.assert_allclose(gain_db.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("knee_db", [0.0, 6.0])
def test_nothing_below_the_knee_and_never_a_boost(knee_db: float) -> None:
    levels = torch.from_numpy(LEVELS_DB)
    gain_db = static_gain_db(levels, *tensors(THRESHOLD_DB, 4.0, knee_db))
    assert bool((gain_db[levels <= THRESHOLD_DB - 0.5 * knee_db] == 0).all())
    assert bool((gain_db <= 0).all())
    assert bool((gain_db.diff() <= 0).all())


@pytest.mark.parametrize("ratio", [2.0, 100.0])
@pytest.mark.parametrize("knee_db", [0.5, 6.0, 40.0])
def test_value_and_slope_are_continuous_at_both_ends_of_the_knee(knee_db: float, ratio: float) -> None:
    step = 1e-7
    for end, slope in ((-0.5 * knee_db, 0.0), (0.5 * knee_db, 1.0 / ratio - 1.0)):
        level = THRESHOLD_DB + end
        below, above = static_gain_db(
            torch.tensor([level - step, level + step], dtype=torch.float64), *tensors(THRESHOLD_DB, ratio, knee_db)
        )
        assert float(above - below) == pytest.approx(0.0, abs=2.1 * step)
        for side in (level - step, level, level + step):
            assert slope_at(side, ratio, knee_db) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("level_db", [-160.0, -20.0 - 1e-9, -20.0, -20.0 + 1e-9, 0.0])
@pytest.mark.parametrize("knee_db", [0.0, 1e-12, 6.0])
def test_gradients_are_finite(level_db: float, knee_db: float) -> None:
    inputs = tensors(level_db, THRESHOLD_DB, 4.0, knee_db, requires_grad=True)
    gradients = torch.autograd.grad(static_gain_db(*inputs), inputs)
    assert all(bool(torch.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize(("dtype", "knee_db"), [(torch.float64, 1e-170), (torch.float32, 1e-25)])
@pytest.mark.parametrize("level_db", [-30.0, -10.0])
def test_gradients_are_finite_for_a_vanishing_knee(dtype: torch.dtype, knee_db: float, level_db: float) -> None:
    values = (level_db, THRESHOLD_DB, 4.0, knee_db)
    inputs = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in values]
    gradients = torch.autograd.grad(static_gain_db(*inputs), inputs)
    assert all(bool(torch.isfinite(gradient)) for gradient in gradients)


def test_hard_knee_has_no_gradient_for_its_width() -> None:
    for level_db in (-30.0, -20.0, -10.0):
        knee = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(static_gain_db(*tensors(level_db, THRESHOLD_DB, 4.0), knee), knee)
        assert float(gradient) == 0.0


@pytest.mark.parametrize("wanted", [*itertools.combinations(range(4), 1), (0, 1, 2, 3)])
def test_gradcheck(wanted: tuple[int, ...]) -> None:
    levels = torch.tensor([-40.0, -24.5, -21.0, -18.5, -15.2, -3.0], dtype=torch.float64)
    inputs = [levels, *tensors(THRESHOLD_DB, 4.0, 9.0)]
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(i in wanted)
    assert torch.autograd.gradcheck(static_gain_db, inputs)


def test_broadcasts_rows_of_parameters_over_levels() -> None:
    ratios = torch.tensor([[1.0], [2.0], [8.0]], dtype=torch.float64)
    gain_db = static_gain_db(torch.tensor([-30.0, -12.0], dtype=torch.float64), *tensors(THRESHOLD_DB), ratios, ratios)
    assert gain_db.shape == (3, 2)
    np.testing.assert_allclose(gain_db[:, 1], [0.0, -4.0, -7.0], atol=1e-12)
