"""The table of physical parameters and its bijection to unconstrained numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP, Parameter

ALL = (*CARD_PARAMETERS, MAKEUP)
pytestmark = pytest.mark.parametrize("parameter", ALL, ids=lambda p: p.name)


def spread(parameter: Parameter, count: int = 101) -> torch.Tensor:
    """Values over the whole range, evenly on its scale, both ends exact."""
    space = np.geomspace if parameter.scale == "log" else np.linspace
    values = space(parameter.low, parameter.high, count)
    values[0], values[-1] = parameter.low, parameter.high
    return torch.from_numpy(values)


def test_there_and_back_over_the_range_and_its_ends(parameter: Parameter) -> None:
    values = spread(parameter)
    back = parameter.to_physical(parameter.to_unconstrained(values))
    torch.testing.assert_close(back, values, rtol=1e-11, atol=1e-11)


def test_back_and_there(parameter: Parameter) -> None:
    values = torch.linspace(-12.0, 12.0, 101, dtype=torch.float64)
    torch.testing.assert_close(parameter.to_unconstrained(parameter.to_physical(values)), values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_unconstrained_number_is_in_range(parameter: Parameter, dtype: torch.dtype) -> None:
    ends = [0.0, 1.0, 17.0, 40.0, 710.0, 1e9, 1e38, math.inf]
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 20.0
    values = torch.cat([torch.tensor([*ends, *(-end for end in ends)]), noise]).to(dtype)
    physical = parameter.to_physical(values)
    assert physical.dtype == dtype
    assert bool((physical >= torch.tensor(parameter.low, dtype=dtype)).all())
    assert bool((physical <= torch.tensor(parameter.high, dtype=dtype)).all())


def test_strictly_monotone(parameter: Parameter) -> None:
    physical = parameter.to_physical(torch.linspace(-20.0, 20.0, 400, dtype=torch.float64))
    assert bool((physical.diff() > 0).all())


def test_the_ends_are_finite_numbers(parameter: Parameter) -> None:
    ends = parameter.to_unconstrained(torch.tensor([parameter.low, parameter.high], dtype=torch.float64))
    assert ends.tolist() == [-30.0, 30.0]


def test_gradient(parameter: Parameter) -> None:
    values = torch.tensor([-8.0, -1.0, 0.3, 5.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(parameter.to_physical, values)
    physical = parameter.to_physical(values).detach().requires_grad_()
    assert torch.autograd.gradcheck(parameter.to_unconstrained, physical, rtol=1e-3)


@pytest.mark.parametrize("value", [-1e9, -30.0, 30.0, 1e9])
def test_gradient_is_finite_where_it_saturates(parameter: Parameter, value: float) -> None:
    unconstrained = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(parameter.to_physical(unconstrained), unconstrained)
    assert bool(torch.isfinite(gradient))


def test_scale_there_and_back(parameter: Parameter) -> None:
    values = spread(parameter)
    torch.testing.assert_close(parameter.unscaled(parameter.scaled(values)), values, rtol=1e-14, atol=0.0)


def test_the_middle_of_the_scale_is_at_zero(parameter: Parameter) -> None:
    middle = spread(parameter, 3)[1]
    assert float(parameter.to_physical(torch.zeros(1, dtype=torch.float64))) == pytest.approx(float(middle), abs=1e-12)


@pytest.mark.parametrize("where", ["below", "above", "nan"])
def test_a_value_out_of_range_is_refused_by_name(parameter: Parameter, where: str) -> None:
    value = {"below": parameter.low - 1e-6, "above": parameter.high + 1e-6, "nan": math.nan}[where]
    values = torch.tensor([parameter.start, value], dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{parameter.name}: expected {parameter.low:g} to {parameter.high:g}, got"):
        parameter.to_unconstrained(values)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_shape_is_kept(parameter: Parameter, shape: tuple[int, ...]) -> None:
    physical = parameter.to_physical(torch.zeros(shape, dtype=torch.float64))
    assert physical.shape == shape
    assert parameter.to_unconstrained(physical).shape == shape


def test_range_and_start_are_what_the_compressor_takes(parameter: Parameter) -> None:
    fields = {p.name: p.start for p in ALL}
    for value in (parameter.low, parameter.start, parameter.high):
        CompressorParams(**fields | {parameter.name: value})
    assert parameter.low <= parameter.start <= parameter.high


def test_plain_data_rebuilds_it(parameter: Parameter) -> None:
    assert Parameter(**parameter.as_dict()) == parameter
