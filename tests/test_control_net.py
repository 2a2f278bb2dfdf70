"""From switch and knob to parameters: the network and the table."""

from __future__ import annotations

import json
import warnings
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from ddsp_la2a.controls import Control
from ddsp_la2a.model.control_net import ControlNet, ParameterTable, network_inputs
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP, control_columns

NAMES = [p.name for p in CARD_PARAMETERS]
PUBLISHED = pd.DataFrame(
    json.loads(resources.files("ddsp_la2a.model").joinpath("published_4a2a.json").read_text(encoding="utf-8"))[
        "settings"
    ]
).assign(knee_db=0.0)
ROW = {"threshold_db": -20.0, "ratio": 4.0, "knee_db": 6.0, "attack_ms": 5.0, "release_ms": 250.0}


def positions(*settings: tuple[float, ...]) -> Tensor:
    return torch.tensor(settings, dtype=torch.float64)


def grid() -> Tensor:
    return positions(*((switch, knob) for switch in (0, 1) for knob in range(0, 101, 5)))


def shaken(scale: float, seed: int = 0, **options: Any) -> ControlNet:
    """A network with random weights everywhere, the last layer too."""
    net = ControlNet(seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return net


def table_of(*rows: dict[str, float], **options: Any) -> ParameterTable:
    return ParameterTable(pd.DataFrame([ROW | row for row in rows]), **options)


def setting(compress_or_limit: float, peak_reduction: float, **values: float) -> dict[str, float]:
    return {"compress_or_limit": compress_or_limit, "peak_reduction": peak_reduction, **values}


# The network


def test_starts_at_the_start_values_whatever_the_controls() -> None:
    found = ControlNet()(grid())
    assert list(found) == NAMES
    for parameter in CARD_PARAMETERS:
        expected = torch.full((42,), parameter.start, dtype=torch.float64)
        torch.testing.assert_close(found[parameter.name], expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(("hidden", "count"), [((8, 8), 141), ((), 15), ((4,), 37), ((8, 8, 8), 213)])
def test_number_of_weights(hidden: tuple[int, ...], count: int) -> None:
    net = ControlNet(hidden)
    assert sum(weight.numel() for weight in net.parameters()) == count
    assert net(positions((0, 50)))["ratio"].item() == pytest.approx(4.0)


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e9])
@pytest.mark.parametrize("seed", range(3))
def test_in_range_for_any_weights(seed: int, scale: float) -> None:
    found = shaken(scale, seed)(grid())
    for parameter in CARD_PARAMETERS:
        values = found[parameter.name]
        assert values.shape == (42,)
        assert values.dtype == torch.float64
        assert bool(((values >= parameter.low) & (values <= parameter.high)).all())


def test_the_global_random_state_is_left_alone() -> None:
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - the very thing watched
    ControlNet(seed=3)
    assert torch.equal(torch.get_rng_state(), before_torch)
    np.testing.assert_equal(np.random.get_state(), before_numpy)  # noqa: NPY002


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (ControlNet(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_gradient_reaches_the_knob_and_every_weight() -> None:
    net = shaken(0.5)
    knob = torch.tensor([12.0, 50.0, 93.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: tuple(net(torch.stack([torch.tensor([0, 1, 1]), k], 1)).values()), knob)
    sum(value.log1p().sum() if name == "ratio" else value.sum() for name, value in net(grid()).items()).backward()
    for weight in net.parameters():
        assert weight.grad is not None
        assert bool(weight.grad.any())


def test_the_first_step_of_a_fit_moves_the_last_layer() -> None:
    net = ControlNet()
    net(grid())["threshold_db"].sum().backward()
    assert bool(net.layers[-1].weight.grad.any())


def test_switch_and_knob_both_matter() -> None:
    net = shaken(0.5)
    compress, limit, further = (net(positions(pair))["threshold_db"].item() for pair in ((0, 50), (1, 50), (0, 60)))
    assert len({compress, limit, further}) == 3


def test_controls_may_be_integers() -> None:
    net = shaken(0.5)
    integers = net(torch.tensor([[0, 40], [1, 70]]))
    floats = net(positions((0, 40), (1, 70)))
    assert all(torch.equal(integers[name], floats[name]) for name in NAMES)


# The table


def test_published_values_come_back_at_their_settings() -> None:
    assert len(PUBLISHED) == 26
    found = ParameterTable(PUBLISHED)(torch.tensor(PUBLISHED[["compress_or_limit", "peak_reduction"]].to_numpy()))
    assert set(found) == {*NAMES, MAKEUP.name}
    for name, values in found.items():
        atol = 1e-9 if name == "knee_db" else 0.0
        np.testing.assert_allclose(values.detach().numpy(), PUBLISHED[name].to_numpy(), rtol=1e-9, atol=atol)


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.9])
def test_between_settings_it_is_linear_on_each_scale(weight: float) -> None:
    low, high = ROW | setting(0, 40), ROW | setting(0, 60, threshold_db=-40.0, ratio=8.0, knee_db=0.0, attack_ms=0.5)
    found = table_of(low, high)(positions((0, 40 + 20 * weight)))
    for parameter in CARD_PARAMETERS:
        a, b = low[parameter.name], high[parameter.name]
        expected = a ** (1 - weight) * b**weight if parameter.scale == "log" else a + weight * (b - a)
        assert found[parameter.name].item() == pytest.approx(expected, rel=1e-9)


def test_the_switch_positions_are_kept_apart_and_rows_may_come_in_any_order() -> None:
    rows = [setting(s, k, threshold_db=-10.0 * s - 0.1 * k) for s, k in [(1, 80), (0, 20), (1, 40), (0, 60)]]
    found = table_of(*rows)(positions((0, 40), (1, 60), (0, 20), (1, 80)))["threshold_db"]
    np.testing.assert_allclose(found.detach(), [-4.0, -16.0, -2.0, -18.0], rtol=1e-9)


@pytest.mark.parametrize(("knob", "held"), [(0.0, 40), (39.9, 40), (100.5, 100)])
def test_outside_the_table_the_nearest_setting_is_held_with_a_warning(knob: float, held: int) -> None:
    table = ParameterTable(PUBLISHED)
    with pytest.warns(UserWarning, match=f"peak_reduction {knob:g} lies outside the table .* at {held} is held"):
        found = table(positions((1, knob)))
    expected = table(positions((1, held)))
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_switch_position_that_is_not_there_takes_the_other_with_a_warning() -> None:
    table = table_of(setting(0, 40), setting(0, 60, ratio=8.0))
    with pytest.warns(UserWarning, match="compress_or_limit 1 isn't in the table"):
        found = table(positions((1, 60)))
    assert found["ratio"].item() == pytest.approx(8.0)


@pytest.mark.parametrize(("knob", "ratio"), [(0, 2.0), (40, 2.0), (49, 2.0), (51, 8.0), (60, 8.0), (100, 8.0)])
def test_nearest_takes_a_setting_as_it_is(knob: float, ratio: float) -> None:
    table = table_of(setting(0, 40, ratio=2.0), setting(0, 60, ratio=8.0), nearest=True)
    assert table(positions((0, knob)))["ratio"].item() == pytest.approx(ratio)


def test_one_setting_alone_holds_at_its_knob_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = table_of(setting(1, 65))(positions((1, 65)))
    assert {name: value.item() for name, value in found.items()} == pytest.approx(ROW)


def test_rows_and_knob_are_differentiable() -> None:
    table = ParameterTable(PUBLISHED)
    knob = torch.tensor([42.0, 77.7], dtype=torch.float64, requires_grad=True)
    switch = torch.tensor([0.0, 1.0])
    assert torch.autograd.gradcheck(lambda k: tuple(table(torch.stack([switch, k], 1)).values()), knob)
    table(torch.stack([switch, knob], 1))["ratio"].sum().backward()
    touched = table.rows.grad[:, NAMES.index("ratio")].nonzero().flatten().tolist()
    assert touched == [0, 1, 13 + 7, 13 + 8]


@pytest.mark.parametrize("missing", ["compress_or_limit", "peak_reduction", *NAMES])
def test_a_missing_column_is_refused_by_name(missing: str) -> None:
    with pytest.raises(ValueError, match=f"^settings: expected .*{missing}"):
        ParameterTable(PUBLISHED.drop(columns=missing))


def test_a_table_without_makeup_gives_none() -> None:
    assert list(table_of(setting(0, 50))(positions((0, 50)))) == NAMES


def test_no_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^settings: expected rows"):
        ParameterTable(PUBLISHED.iloc[:0])


def test_a_setting_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^settings: expected every setting once"):
        table_of(setting(0, 50), setting(0, 50, ratio=2.0))


@pytest.mark.parametrize(("name", "value"), [("ratio", 0.5), ("attack_ms", 0.0), ("knee_db", -1.0), ("ratio", np.nan)])
def test_a_value_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        table_of(setting(0, 50, **{name: value}))


@pytest.mark.parametrize(("switch", "knob"), [(0, 150), (0, -1), (0, np.nan), (3, 50)])
def test_a_control_out_of_range_is_refused(switch: float, knob: float) -> None:
    with pytest.raises(ValueError, match=r"settings|peak_reduction|compress_or_limit"):
        table_of(setting(switch, knob))


# Other units

MODE = Control("mode", 1.0, 3.0, "switch")
DRIVE = Control("drive", -10.0, 10.0)


def test_inputs_of_any_controls_run_from_minus_one_to_one() -> None:
    side = Control("side", 4.0, 5.0, "switch")
    at = torch.tensor([[1, -10, 4], [2, 0, 5], [3, 10, 4]], dtype=torch.float64)
    expected = [[1, -1, -1, -1, -1], [-1, 1, -1, 0, 1], [-1, -1, 1, 1, -1]]
    assert network_inputs((MODE, DRIVE, side), at).tolist() == expected
    assert network_inputs((MODE, DRIVE, side), at.float()).dtype == torch.float32


def test_a_network_of_other_controls() -> None:
    net = shaken(0.5, controls=(MODE, DRIVE))
    assert sum(weight.numel() for weight in net.parameters()) == 141 + 2 * 8
    found = net(positions((1, 0.0), (2, 0.0), (3, 0.0), (3, 1.0)))["threshold_db"]
    assert len(set(found.tolist())) == 4


def other(nearest: bool, *settings: tuple[float, ...], controls: tuple[Control, ...]) -> ParameterTable:
    names = [control.name for control in controls]
    rows = [ROW | dict(zip(names, at, strict=True)) | {"ratio": 2.0 + i} for i, at in enumerate(settings)]
    return ParameterTable(pd.DataFrame(rows), controls, nearest)


def test_the_nearest_of_several_knobs_by_shares_of_their_ranges() -> None:
    controls = (DRIVE, MODE, Control("colour", 0.0, 1.0))
    table = other(True, (-10, 1, 0.0), (10, 1, 0.0), (-10, 1, 1.0), (0, 3, 0.5), controls=controls)
    found = table(positions((-9, 1, 0.4), (2, 1, 0.1), (-9, 1, 0.6), (9, 3, 0.0)))["ratio"]
    assert found.tolist() == pytest.approx([2.0, 3.0, 4.0, 5.0])
    with pytest.warns(UserWarning, match="mode 2 isn't in the table: the nearest setting is used"):
        assert table(positions((0, 2, 0.5)))["ratio"].item() == pytest.approx(5.0)


def test_one_knob_is_interpolated_wherever_it_stands_among_the_switches() -> None:
    table = other(False, (-10, 1), (10, 1), (-10, 2), (10, 2), controls=(DRIVE, MODE))
    found = table(positions((0, 1), (0, 2), (-5, 2)))["ratio"]
    assert found.tolist() == pytest.approx([6.0**0.5, 20.0**0.5, 4.0**0.75 * 5.0**0.25])


@pytest.mark.parametrize("controls", [(DRIVE, Control("colour")), (MODE,)], ids=["two knobs", "none"])
def test_interpolation_needs_one_knob(controls: tuple[Control, ...]) -> None:
    with pytest.raises(ValueError, match=r"^settings: expected one knob to interpolate along, got [02]; take the near"):
        other(False, (1, 0.5)[: len(controls)], controls=controls)
    assert other(True, (1, 0.5)[: len(controls)], controls=controls).nearest


def test_a_knob_called_like_a_parameter() -> None:
    controls = (Control("ratio"), DRIVE)
    assert control_columns(controls) == ["ratio_position", "drive"]
    table = ParameterTable(pd.DataFrame([ROW | {"ratio_position": 0.5, "drive": 0.0}]), controls, nearest=True)
    assert table(positions((0.1, 3.0)))["ratio"].item() == pytest.approx(4.0)
