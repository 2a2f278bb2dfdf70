"""Intervals of a card: the delta method against chance, what is called identifiable, and what a file keeps of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ddsp_la2a.controls import Control
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.intervals import extrapolated
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP
from ddsp_la2a.model.storage import load
from ddsp_la2a.model.tensor_file import content_hash

PARAMETERS = (*CARD_PARAMETERS, MAKEUP)
NAMES = [p.name for p in PARAMETERS]
ENDINGS = ["low", "high", "identifiable"]
SETTINGS = [(0, 40), (0, 90), (1, 30), (1, 60)]


def root(size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5


def network(spread: float = 0.02, hidden: tuple[int, ...] = (8, 8)) -> GreyBox:
    """A network whose card depends on its controls, with a covariance that is no diagonal."""
    box = GreyBox(ControlNet(hidden, seed=5))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in box.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    size = sum(p.numel() for p in box.parameters())
    box.covariance = (spread * root(size)) @ (spread * root(size)).T
    return box.eval()


def table(spread: float = 0.1) -> GreyBox:
    """As a fit of every setting on its own leaves it."""
    rows = [
        {"compress_or_limit": s, "peak_reduction": k, **{p.name: 0.9 * p.start + 0.02 * p.high * i for p in PARAMETERS}}
        for i, (s, k) in enumerate(SETTINGS)
    ]
    box = GreyBox(ParameterTable(pd.DataFrame(rows), nearest=True))
    roots = [spread * (row + 1) * root(len(PARAMETERS), row) for row in range(len(SETTINGS))]
    box.covariance = torch.stack([r @ r.T for r in roots])
    return box.eval()


MODELS: dict[str, Callable[..., GreyBox]] = {"network": network, "table": table}


def unconstrained(card: pd.DataFrame, name: str, ending: str = "") -> np.ndarray:
    """Values of a column, as the ranges are put on them; the make-up in dB."""
    values = torch.tensor(card[name + ending].to_numpy())
    parameter = PARAMETERS[NAMES.index(name)]
    return values.numpy() if parameter is MAKEUP else parameter.to_unconstrained(values).numpy()


# What is in the table


@pytest.mark.parametrize("name", MODELS)
def test_columns_with_and_without_covariance(name: str) -> None:
    model = MODELS[name]()
    plain = ["compress_or_limit", "peak_reduction", *NAMES]
    sure = [f"{parameter}_{ending}" for parameter in NAMES for ending in ENDINGS]
    card = model.curves()
    assert card.columns.tolist() == [*plain, *sure]
    assert len(card) == 202
    assert (card.filter(like="_identifiable").dtypes == np.dtype(bool)).all()
    assert (card.filter(regex="_(low|high)$").dtypes == np.float64).all()
    model.info["settings_seen"] = SETTINGS
    assert model.curves().columns.tolist() == [*plain, *sure, "extrapolated"]
    model.covariance = None
    assert model.curves().columns.tolist() == [*plain, "extrapolated"]
    model.info.pop("settings_seen")
    assert model.curves().columns.tolist() == plain
    # The values are the same whether or not something is known of them.
    pd.testing.assert_frame_equal(model.curves(), card[plain], check_exact=True)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.03, 1.0, 1e4])
def test_intervals_hold_the_value_and_stay_within_the_range(name: str, spread: float) -> None:
    card = MODELS[name](spread).curves()
    assert np.isfinite(card.select_dtypes("number").to_numpy()).all()
    for parameter in PARAMETERS:
        value, low, high = (card[parameter.name + ending] for ending in ("", "_low", "_high"))
        slack = 1e-12 * value.abs()
        assert (low <= value + slack).all(), parameter.name
        assert (value <= high + slack).all(), parameter.name
        if parameter is not MAKEUP:
            assert (low >= parameter.low).all(), parameter.name
            assert (high <= parameter.high).all(), parameter.name
        if spread == 0.0:
            np.testing.assert_allclose(high, low, rtol=1e-12)
            assert card[f"{parameter.name}_identifiable"].all()
        if spread == 1e4:
            assert not card[f"{parameter.name}_identifiable"].any(), parameter.name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spread", [0.03, 0.3])
def test_identifiable_is_less_than_a_fifth_of_the_range(name: str, spread: float) -> None:
    card = MODELS[name](spread).curves()
    seen = set()
    for parameter in PARAMETERS:
        scaled = np.log if parameter.scale == "log" else np.asarray
        share = (scaled(card[f"{parameter.name}_high"]) - scaled(card[f"{parameter.name}_low"])) / (
            scaled(parameter.high) - scaled(parameter.low)
        )
        np.testing.assert_array_equal(card[f"{parameter.name}_identifiable"], share <= 0.2)
        seen |= set(card[f"{parameter.name}_identifiable"])
    if spread == 0.3:
        assert seen == {False, True}


def test_the_makeup_is_symmetric_in_db() -> None:
    model = network()
    assert model.covariance is not None
    model.covariance[-1, :] = model.covariance[:, -1] = 0.0
    model.covariance[-1, -1] = 0.25
    card = model.curves(peak_reduction=[0, 50])
    np.testing.assert_allclose(card["makeup_db"] - card["makeup_db_low"], 0.98)
    np.testing.assert_allclose(card["makeup_db_high"] - card["makeup_db"], 0.98)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_changed_and_no_gradient_is_kept(name: str) -> None:
    model = MODELS[name]()
    before = copy.deepcopy((model.state_dict(), model.covariance))
    model.curves(peak_reduction=[0, 50])
    assert all(torch.equal(before[0][key], value) for key, value in model.state_dict().items())
    assert torch.equal(before[1], model.covariance)
    assert all(weight.grad is None for weight in model.parameters())


# Delta method


def test_intervals_of_a_network_are_what_chance_gives() -> None:
    """Weights drawn from the covariance, pushed through the network."""
    model, knobs, draws = network(0.01), [0, 35, 50, 100], 4000
    assert model.covariance is not None
    card = model.curves(peak_reduction=knobs)
    positions = torch.tensor(card[card.columns[:2]].to_numpy(), dtype=torch.float64)
    weights = torch.nn.utils.parameters_to_vector(model.card.parameters()).detach()
    factor = torch.linalg.cholesky(model.covariance)
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(draws, len(factor), generator=generator, dtype=torch.float64) @ factor.T
    with torch.no_grad():
        found = torch.stack([model.card.unconstrained(positions, weights + step[:-1]) for step in steps])
    for number, name in enumerate(NAMES):
        # Half an interval in unconstrained space is 1.96 standard errors.
        errors = (unconstrained(card, name, "_high") - unconstrained(card, name, "_low")) / (2.0 * 1.96)
        drawn = steps[:, -1:].expand(-1, len(card)) if name == "makeup_db" else found[..., number]
        np.testing.assert_allclose(errors, drawn.std(dim=0).numpy(), rtol=0.06, err_msg=name)


def test_intervals_of_a_network_are_their_closed_form() -> None:
    """Without hidden layers the card is linear in the weights: switch, knob and one."""
    model = network(0.2, ())
    assert model.covariance is not None
    card = model.curves(peak_reduction=[0, 30, 100])
    for row in card.itertuples():
        controls = np.array([2.0 * row.compress_or_limit - 1.0, row.peak_reduction / 50.0 - 1.0])
        for number, name in enumerate(NAMES[:5]):
            derivative = np.zeros(16)
            derivative[2 * number : 2 * number + 2], derivative[10 + number] = controls, 1.0
            error = np.sqrt(derivative @ model.covariance.numpy() @ derivative)
            found = unconstrained(card.loc[[row.Index]], name, "_high") - unconstrained(card.loc[[row.Index]], name)
            assert found[0] == pytest.approx(1.96 * error, rel=1e-6), name


def test_every_row_of_a_table_has_its_own_intervals() -> None:
    """Other settings get those of the nearest one, and beyond the last one its own."""
    model = table()
    assert model.covariance is not None
    card = model.curves()
    rows = {setting: number for number, setting in enumerate(SETTINGS)}
    for setting, nearest in {
        (0, 40): (0, 40),
        (0, 0): (0, 40),
        (0, 66): (0, 90),
        (0, 100): (0, 90),
        (1, 30): (1, 30),
        (1, 44): (1, 30),
        (1, 46): (1, 60),
        (1, 99): (1, 60),
    }.items():
        at = card[(card["compress_or_limit"] == setting[0]) & (card["peak_reduction"] == setting[1])]
        errors = model.covariance[rows[nearest]].diagonal().sqrt().numpy()
        for number, name in enumerate(NAMES):
            parameter = PARAMETERS[number]
            ends = torch.tensor([parameter.low, parameter.high], dtype=torch.float64)
            high, value = (parameter.scaled(torch.tensor(at[name + end].to_numpy())).item() for end in ("_high", ""))
            width = 1.0 if parameter is MAKEUP else parameter.scaled(ends).diff().item()
            top = np.inf if parameter is MAKEUP else parameter.scaled(ends)[1].item()
            expected = min(value + 1.96 * float(errors[number]) * width, top)
            assert high == pytest.approx(expected, rel=1e-6), f"{name} at {setting}"


def test_rows_of_a_table_in_any_order() -> None:
    """A table sorts its rows; a covariance is of the rows as they are then, as fits give settings in that order."""
    model = table()
    assert [tuple(row) for row in model.card.settings.int().tolist()] == SETTINGS


# Beyond what was fitted


def test_extrapolated_per_switch_position() -> None:
    knobs = [0, 39, 40, 64.5, 90, 91, 100]
    settings = pd.MultiIndex.from_product([(0, 1), knobs], names=["compress_or_limit", "peak_reduction"])
    found = extrapolated(settings.to_frame(index=False), [(0, 40), (0, 90), (0, 60), (1, 91)])
    assert found.dtype == bool
    assert found[:7].tolist() == [True, True, False, False, False, True, True]
    assert found[7:].tolist() == [True, True, True, True, True, False, True]


@pytest.mark.parametrize(("seen", "never"), [([(0, 0), (0, 100)], 1), ([(1, 0), (1, 100)], 0)])
def test_a_switch_position_never_seen_is_extrapolated(seen: list[tuple[int, int]], never: int) -> None:
    model = network()
    model.info["settings_seen"] = seen
    card = model.curves()
    assert (card["extrapolated"] == (card["compress_or_limit"] == never)).all()


def test_nothing_seen_is_all_extrapolated() -> None:
    settings = pd.DataFrame({"compress_or_limit": [0, 1], "peak_reduction": [50, 50]})
    assert extrapolated(settings, []).all()


def test_extrapolated_of_several_knobs_is_outside_of_any() -> None:
    controls = (Control("ratio"), Control("mode", 1.0, 3.0, "switch"), Control("drive", 0.0, 10.0))
    seen = [(0.2, 1, 2.0), (0.8, 1, 5.0), (0.5, 3, 5.0)]
    at = [(0.5, 1, 3.0), (0.1, 1, 3.0), (0.5, 1, 6.0), (0.5, 2, 5.0), (0.5, 3, 5.0), (0.5, 3, 4.0)]
    settings = pd.DataFrame(at, columns=["ratio_position", "mode", "drive"])
    assert extrapolated(settings, seen, controls).tolist() == [False, True, True, True, False, True]
    without_switch = extrapolated(settings[["ratio_position"]], [(0.2,), (0.5,)], controls[:1])
    assert without_switch.tolist() == [False, True, False, False, False, False]


# Files


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> GreyBox:
    box = MODELS[request.param]()
    box.info["settings_seen"] = SETTINGS
    return box


def forge(
    path: Path, model: GreyBox, covariance: Callable[[Tensor], Tensor | None] = lambda c: c, version: int = 3
) -> None:
    """Write a file as someone would who knows the format: the hash fits what it holds."""
    assert model.covariance is not None
    held = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    changed = covariance(model.covariance.clone())
    if changed is not None:
        held["covariance"] = changed.contiguous()
    plain: dict[str, Any] = {
        "format_version": version,
        "family": "compressor",
        "controls": [control.as_dict() for control in model.controls],
        "card": model.card.config(),
        "stages": asdict(model.stages),
        "sample_rate": model.sample_rate,
        "info": model.info,
    }
    if version < 3:
        plain["controls"] = plain.pop("card")
        del plain["stages"], plain["sample_rate"]
        held = {name.replace("card.", "controls."): tensor for name, tensor in held.items()}
        held["makeup"] = held.pop("device").reshape(())
    described = json.loads(json.dumps(plain))
    text = json.dumps({**described, "content_sha256": content_hash(described, held)})
    path.write_bytes(to_bytes(held, {"ddsp_la2a": text}))


def test_a_loaded_model_gives_the_same_curves(model: GreyBox, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    back = load(path)
    assert back.covariance is not None
    assert torch.equal(back.covariance, model.covariance)
    pd.testing.assert_frame_equal(back.curves(), model.curves(), check_exact=True)
    again = tmp_path / "again.safetensors"
    back.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_without_a_covariance_there_is_none_in_the_file(model: GreyBox, tmp_path: Path) -> None:
    model.covariance = None
    model.save(tmp_path / "model.safetensors")
    assert "covariance" not in load_file(tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").covariance is None


def test_forged_files_are_as_those_that_are_saved(model: GreyBox, tmp_path: Path) -> None:
    forge(tmp_path / "model.safetensors", model)
    pd.testing.assert_frame_equal(load(tmp_path / "model.safetensors").curves(), model.curves(), check_exact=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:-1],
        lambda c: c[..., :-1],
        lambda c: c[..., :-1, :-1],
        lambda c: c.reshape(-1),
        lambda c: c[None],
        lambda c: c[:0],
        lambda c: torch.tensor(1.0, dtype=torch.float64),
        lambda c: c.float(),
        lambda c: c.masked_fill(c == c.flatten()[0], torch.nan),
        lambda c: c.masked_fill(c == c.flatten()[0], torch.inf),
    ],
)
def test_a_covariance_of_another_shape_or_kind_is_refused(
    model: GreyBox, tmp_path: Path, change: Callable[[Tensor], Tensor]
) -> None:
    path = tmp_path / "model.safetensors"
    forge(path, model, change)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected"):
        load(path)


def test_a_damaged_covariance_is_refused(model: GreyBox, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    content = path.read_bytes()
    assert model.covariance is not None
    at = content.index(model.covariance.numpy().tobytes())
    for offset in (0, 7, 8 * model.covariance.numel() - 1):
        damaged = bytearray(content)
        damaged[at + offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="the file was changed"):
            load(path)


def test_a_covariance_that_is_not_finite_is_not_saved(model: GreyBox, tmp_path: Path) -> None:
    assert model.covariance is not None
    model.covariance.flatten()[3] = torch.nan
    with pytest.raises(ValueError, match="expected finite weights"):
        model.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def negative(covariance: Tensor) -> Tensor:
    covariance.diagonal(dim1=-2, dim2=-1)[..., 0] = -1.0
    return covariance


@pytest.mark.parametrize(
    "name",
    ["network", "table"],
)
def test_a_variance_below_zero_gives_no_nan(name: str, tmp_path: Path) -> None:
    """Refused, or taken for none."""
    path = tmp_path / "model.safetensors"
    forge(path, MODELS[name](), negative)
    try:
        card = load(path).curves()
    except ValueError:
        return
    assert not card.isna().any().any()


def test_files_of_version_1_have_no_covariance(model: GreyBox, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    forge(path, model, lambda c: None, version=1)
    back = load(path)
    assert back.covariance is None
    card = back.curves()
    pd.testing.assert_frame_equal(card, model.curves()[card.columns.tolist()], check_exact=True)
    assert not [column for column in card.columns if column.endswith("_identifiable")]


@pytest.mark.parametrize("version", [0, 4])
def test_other_versions_are_refused(model: GreyBox, tmp_path: Path, version: int) -> None:
    forge(tmp_path / "model.safetensors", model, version=version)
    with pytest.raises(ValueError, match="expected format version 3"):
        load(tmp_path / "model.safetensors")
