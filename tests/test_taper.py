"""The taper of an optical cell: a monotone curve against its integral, switches, and its model files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes
from scipy.integrate import quad
from torch import Tensor

import ddsp_la2a as la
from ddsp_la2a.model.control_net import ControlNet
from ddsp_la2a.model.parameters import CARD_PARAMETERS, CELL_CARD, INPUT_TAP, SIDECHAIN_GAIN
from ddsp_la2a.model.stages import PLAIN, CellStages
from ddsp_la2a.model.storage import FORMAT_VERSION
from ddsp_la2a.model.taper import Taper
from ddsp_la2a.model.tensor_file import content_hash

# torch's own, from what it imports when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

KNOTS = np.linspace(0.0, 1.0, 11)
LEVEL, WALK, SWITCH_DB, TAP = 0.4, 0.5, 1.0, 3.0
"""As the taper's prior is described: slope, its walk from knot to knot, and what a switch does."""

KNOB = (la.Control("threshold", -60.0, -20.0),)
SWITCHES = (
    la.Control("mode", 1.0, 3.0, "switch"),
    la.Control("drive", 2.0, 12.0),
    la.Control("pad", 0.0, 1.0, "switch"),
)
UNITS: dict[str, dict[str, Any]] = {
    "la-2a": {},
    "knob only": {"controls": KNOB},
    "falling": {"controls": KNOB, "rises": False},
    "several switches": {"controls": SWITCHES},
    "several switches, falling": {"controls": SWITCHES, "rises": False},
}
EVERY_UNIT = pytest.mark.parametrize("unit", UNITS)
BOTH_WAYS = pytest.mark.parametrize("rises", [True, False], ids=["rises", "falls"])


def shaken(seed: int = 0, scale: float = 1.0, **options: Any) -> Taper:
    """A taper as its prior has it, or wilder."""
    taper = Taper(**options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        taper.weight.copy_(scale * torch.randn(taper.weight.shape, generator=generator, dtype=torch.float64))
    return taper


def somewhere(taper: Taper, count: int = 40, seed: int = 0) -> Tensor:
    """Positions of all controls, ``(count, controls)``."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.integers(round(c.low), round(c.high) + 1, count)
        if c.kind == "switch"
        else rng.uniform(c.low, c.high, count)
        for c in taper.controls
    ]
    return torch.from_numpy(np.stack(columns, axis=-1).astype(np.float64))


def along(taper: Taper, shares: np.ndarray, **switches: float) -> Tensor:
    """Positions along the knob, in shares of its range; switches in their first position unless given."""
    columns = [
        c.low + shares * (c.high - c.low)
        if c.kind == "continuous"
        else np.full(len(shares), switches.get(c.name, c.low))
        for c in taper.controls
    ]
    return torch.from_numpy(np.stack(columns, axis=-1))


def gain(taper: Taper, positions: Tensor) -> np.ndarray:
    """The gain's unconstrained value."""
    with torch.no_grad():
        return taper.unconstrained(positions)[:, 0].numpy()


def start_of(parameter: Any) -> float:
    return float(parameter.to_unconstrained(torch.tensor(parameter.start, dtype=torch.float64)))


def log_slope(weight: np.ndarray, share: float) -> float:
    """Of the taper, from its weights: a walk from the middle of the knob outwards, linear between knots."""
    down, up = np.cumsum(weight[2:7])[::-1], np.cumsum(weight[7:12])
    return float(np.interp(share, KNOTS, LEVEL + weight[1] + WALK * np.concatenate([down, [0.0], up])))


# Values


@pytest.mark.parametrize("seed", range(4))
@BOTH_WAYS
def test_the_gain_is_the_integral_of_its_slope(seed: int, rises: bool) -> None:
    taper = shaken(seed, 2.0, rises=rises)
    weight = taper.weight.detach().numpy()
    shares = np.concatenate([KNOTS, np.random.default_rng(seed).uniform(0.0, 1.0, 10)])
    for share, found in zip(shares, gain(taper, along(taper, shares)), strict=True):
        corners = [knot for knot in KNOTS if min(share, 0.5) < knot < max(share, 0.5)] or None
        climbed, _ = quad(lambda at: np.exp(log_slope(weight, at)), 0.5, share, points=corners, epsabs=0, epsrel=1e-12)
        expected = start_of(SIDECHAIN_GAIN) + weight[0] + (climbed if rises else -climbed)
        assert found == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_a_prior_start_is_straight() -> None:
    shares = np.linspace(0.0, 1.0, 101)
    found = gain(Taper(), along(Taper(), shares))
    np.testing.assert_allclose(found, start_of(SIDECHAIN_GAIN) + np.exp(LEVEL) * (shares - 0.5), atol=1e-13)


@pytest.mark.parametrize("flat", [1e-3, 1e-4, 1e-5, 1e-9, 0.0, -1e-5, -1e-3])
def test_nearly_straight_is_as_exact_as_any(flat: float) -> None:
    """Where (e^x − 1) / x would lose its digits."""
    taper = Taper()
    with torch.no_grad():
        taper.weight[2:12] = flat / WALK
    shares = np.linspace(0.0, 1.0, 101)
    rise = 10.0 * flat * np.abs(shares - 0.5)
    growth = 1.0 + rise / 2.0 + rise**2 / 6.0 + rise**3 / 24.0
    expected = start_of(SIDECHAIN_GAIN) + np.exp(LEVEL) * (shares - 0.5) * growth
    np.testing.assert_allclose(gain(taper, along(taper, shares)), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [1.0, 3.0])
@BOTH_WAYS
def test_never_turns_back(seed: int, scale: float, rises: bool) -> None:
    taper = shaken(seed, scale, rises=rises)
    for switch in (0.0, 1.0):
        at = along(taper, np.linspace(0.0, 1.0, 1001), compress_or_limit=switch)
        steps = np.diff(gain(taper, at)) * (1.0 if rises else -1.0)
        assert steps.min() > 0.0
        with torch.no_grad():
            physical = np.diff(taper(at)["sidechain_gain_db"].numpy()) * (1.0 if rises else -1.0)
        assert physical.min() >= 0.0  # at the end of its range it may stand still
        assert physical.max() > 0.0


def test_weights_never_leave_the_ranges() -> None:
    for seed in range(4):
        found = shaken(seed, 30.0)(somewhere(Taper(), 200))
        for parameter in CELL_CARD:
            values = found[parameter.name]
            assert bool(((values >= parameter.low) & (values <= parameter.high)).all())


@BOTH_WAYS
def test_its_slope_has_no_corners(rises: bool) -> None:
    taper = shaken(5, 2.0, rises=rises)
    weight = taper.weight.detach().numpy()
    beside = 1e-9
    shares = np.concatenate([KNOTS[1:] - beside, KNOTS[:-1] + beside, KNOTS])
    at = along(taper, shares).requires_grad_()
    slope = torch.autograd.grad(taper.unconstrained(at)[:, 0].sum(), at)[0][:, 1].numpy()
    expected = [np.exp(log_slope(weight, share)) / 100.0 * (1.0 if rises else -1.0) for share in shares]
    np.testing.assert_allclose(slope, expected, rtol=1e-10)


# Derivatives


@EVERY_UNIT
def test_derivatives_in_weights(unit: str) -> None:
    taper = shaken(1, **UNITS[unit])
    positions = somewhere(taper, 6)
    weights = taper.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda given: taper.unconstrained(positions, given), (weights,), check_forward_ad=True
    )


def test_derivatives_in_weights_where_it_is_straight() -> None:
    """As a fit starts."""
    weights = torch.zeros_like(Taper().weight).requires_grad_()
    positions = torch.cat([somewhere(Taper(), 6), along(Taper(), KNOTS, compress_or_limit=1.0)])
    assert torch.autograd.gradcheck(lambda given: Taper().unconstrained(positions, given), (weights,))


@EVERY_UNIT
def test_derivatives_in_the_knob(unit: str) -> None:
    taper = shaken(2, **UNITS[unit])
    knob = [control.kind for control in taper.controls].index("continuous")
    positions = somewhere(taper, 8)
    step = 1e-6 * (taper.controls[knob].high - taper.controls[knob].low)
    moved = torch.zeros_like(positions)
    moved[:, knob] = step
    at = positions.clone().requires_grad_()
    slopes = torch.autograd.grad(taper.unconstrained(at)[:, 0].sum(), at)[0][:, knob].numpy()
    differences = (gain(taper, positions + moved) - gain(taper, positions - moved)) / (2.0 * step)
    np.testing.assert_allclose(slopes, differences, rtol=1e-6)


@pytest.mark.parametrize("name", [p.name for p in CELL_CARD])
def test_derivatives_of_the_parameters(name: str) -> None:
    taper = shaken(3)
    positions = somewhere(taper, 5)
    weights = taper.weight.detach().clone().requires_grad_()

    def physical(given: Tensor) -> Tensor:
        return torch.func.functional_call(taper, {"weight": given}, (positions,))[name]

    assert torch.autograd.gradcheck(physical, (weights,))


# Switches


def test_a_switch_in_its_first_position_leaves_gain_and_tap_alone() -> None:
    taper, without = shaken(4), Taper(LA2A_KNOB)
    with torch.no_grad():
        without.weight.copy_(taper.weight[:12])
    shares = np.linspace(0.0, 1.0, 21)
    with torch.no_grad():
        found = taper(along(taper, shares))
        alone = without(along(without, shares))
    assert torch.equal(found["sidechain_gain_db"], alone["sidechain_gain_db"])
    for taps in (found["input_tap"], alone["input_tap"]):
        assert 0.0 <= float(taps.max()) <= 1e-13


def test_every_other_position_has_an_offset_and_a_tap_of_its_own() -> None:
    taper = shaken(6, controls=SWITCHES)
    of_gain, of_tap = taper.weight.detach().numpy()[12:].reshape(2, 3)
    per_db = 4.0 / (SIDECHAIN_GAIN.high - SIDECHAIN_GAIN.low)
    shares = np.linspace(0.0, 1.0, 7)
    base = gain(taper, along(taper, shares))
    for mode in (1, 2, 3):
        for pad in (0, 1):
            closed = np.array([mode == 2, mode == 3, pad == 1])
            with torch.no_grad():
                found = taper.unconstrained(along(taper, shares, mode=mode, pad=pad)).numpy()
            offset = SWITCH_DB * per_db * (of_gain @ closed)
            np.testing.assert_allclose(found[:, 0], base + offset, rtol=1e-12)
            if closed.any():
                np.testing.assert_allclose(found[:, 1], start_of(INPUT_TAP) + TAP * (of_tap @ closed), rtol=1e-12)
            else:
                assert float(INPUT_TAP.to_physical(torch.from_numpy(found[:, 1])).max()) <= 1e-13


def test_a_switch_is_a_decibel_in_the_middle_of_the_range() -> None:
    taper = Taper()
    with torch.no_grad():
        taper.weight[12] = 1.0
        found = taper(torch.tensor([[0.0, 50.0], [1.0, 50.0]], dtype=torch.float64))["sidechain_gain_db"]
    assert float(found[0]) == pytest.approx(SIDECHAIN_GAIN.start, abs=1e-12)
    assert float(found[1] - found[0]) == pytest.approx(SWITCH_DB, rel=1e-3)


def test_a_unit_without_switches_has_no_tap() -> None:
    taper = shaken(7, 3.0, controls=KNOB)
    assert taper.weight.shape == (12,)
    with torch.no_grad():
        assert float(taper(somewhere(taper))["input_tap"].max()) <= 1e-13


@pytest.mark.parametrize(("unit", "weights"), [("la-2a", 14), ("knob only", 12), ("several switches", 18)])
def test_as_many_weights_as_positions_need(unit: str, weights: int) -> None:
    assert Taper(**UNITS[unit]).weight.shape == (weights,)


# Batches, types


@EVERY_UNIT
def test_a_batch_is_its_rows(unit: str) -> None:
    taper = shaken(8, **UNITS[unit])
    positions = somewhere(taper, 30)
    with torch.no_grad():
        together = taper(positions)
        for row, position in enumerate(positions):
            alone = taper(position[None])
            for name, values in together.items():
                assert values.dtype == torch.float64
                assert values.shape == (30,)
                np.testing.assert_allclose(float(alone[name][0]), float(values[row]), rtol=1e-14)


def test_whole_positions_are_taken_as_well() -> None:
    taper = shaken(9)
    whole = torch.tensor([[0, 0], [1, 65], [1, 100]])
    with torch.no_grad():
        for name, values in taper(whole).items():
            assert torch.equal(values, taper(whole.double())[name])


def test_given_weights_are_taken_instead_of_its_own() -> None:
    taper, other = shaken(10), shaken(11)
    positions = somewhere(taper)
    assert torch.equal(taper.unconstrained(positions, other.weight), other.unconstrained(positions))


def test_gives_the_cells_parameters_in_order() -> None:
    assert [*Taper()(somewhere(Taper()))] == [p.name for p in CELL_CARD]


# Errors


@pytest.mark.parametrize(
    ("controls", "count"),
    [
        ((la.Control("mode", 0.0, 1.0, "switch"),), 0),
        ((la.Control("threshold"), la.Control("ratio")), 2),
        ((la.Control("threshold"), la.Control("mode", 0.0, 1.0, "switch"), la.Control("mix"), la.Control("ratio")), 3),
    ],
)
def test_not_one_knob(controls: tuple[la.Control, ...], count: int) -> None:
    with pytest.raises(ValueError, match=f"controls: expected one knob, .* got {count}; fit the other family"):
        Taper(controls)


def test_two_controls_of_one_name() -> None:
    with pytest.raises(ValueError, match="drive"):
        Taper((la.Control("drive"), la.Control("drive", 0.0, 1.0, "switch")))


# Model files


LA2A_KNOB = (la.Control("peak_reduction", 0.0, 100.0),)
STAGES = {
    "everything": CellStages(),
    "no filter": CellStages(output_filter=False),
    "no traps": CellStages(traps=False),
    "neither": CellStages(False, False),
}


def model_of(unit: str = "la-2a", stages: CellStages = STAGES["everything"], rate: float = 44100.0) -> la.GreyBox:
    """A grey box whose device isn't at its start, either."""
    box = la.GreyBox(shaken(12, 0.5, **UNITS[unit]), {"source": "György"}, stages, rate)
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        box.device.add_(0.1 * torch.randn(box.device.shape, generator=generator, dtype=torch.float64))
    return box


def position_of(box: la.GreyBox, row: int) -> dict[str, float]:
    at = somewhere(box.card, 3, seed=row)[row]
    return {control.name: float(position) for control, position in zip(box.controls, at, strict=True)}


def streamed(box: la.GreyBox, audio: np.ndarray, rate: float, at: dict[str, float]) -> np.ndarray:
    stream = box.stream(rate, **at)
    return np.concatenate([stream.process(audio[start : start + 777]) for start in range(0, len(audio), 777)])


def test_what_rebuilds_it() -> None:
    for options in UNITS.values():
        taper = shaken(13, **options)
        config = json.loads(json.dumps(taper.config()))
        assert config["type"] == "taper"
        assert [row["name"] for row in config["parameters"]] == ["sidechain_gain_db", "input_tap"]
        again = Taper(taper.controls, config["rises"])
        again.load_state_dict(taper.state_dict())
        assert again.config() == taper.config()
        assert torch.equal(again.unconstrained(somewhere(taper)), taper.unconstrained(somewhere(taper)))


@EVERY_UNIT
@pytest.mark.parametrize("stages", STAGES)
def test_a_model_file_gives_the_same_bits(unit: str, stages: str, tmp_path: Path) -> None:
    box = model_of(unit, STAGES[stages], 22050.0)
    box.covariance = torch.eye(box.card.weight.numel() + len(box.device), dtype=torch.float64) * 1e-4
    box.save(tmp_path / "m.safetensors")
    back = la.load(tmp_path / "m.safetensors")
    assert isinstance(back.card, Taper)
    assert back.card.rises is UNITS[unit].get("rises", True)
    assert back.stages == STAGES[stages]
    assert back.controls == box.controls
    assert back.sample_rate == 22050.0
    assert back.info == box.info
    assert not back.training
    x = 0.3 * np.random.default_rng(0).standard_normal(4000)
    for row, rate in enumerate((22050, 44100, 48000)):
        at = position_of(box, row)
        for audio in (x, x.astype(np.float32)):
            np.testing.assert_array_equal(back.process(audio, rate, **at), box.process(audio, rate, **at))
        np.testing.assert_array_equal(streamed(back, x, rate, at), streamed(box, x, rate, at))
    curves = box.curves()
    assert curves.equals(back.curves())
    assert {f"{name}_low" for name in ("sidechain_gain_db", "input_tap", "makeup_db", "light_ms")} <= set(curves)


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        model_of().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_differentiable_through_the_grey_box() -> None:
    box = model_of()
    found = box.params(torch.tensor([0.0, 1.0]), torch.tensor([40.0, 70.0]))
    sum(value.sum() for value in found.numbers().values()).backward()
    assert bool((box.card.weight.grad != 0.0).any())
    assert bool(torch.isfinite(box.device.grad).all())


def forge(path: Path, change: Callable[[dict[str, Any]], Any], box: la.GreyBox | None = None) -> None:
    """Write a file as someone would who knows the format: the hash fits what it holds."""
    box = box or model_of()
    held = {name: tensor.detach().contiguous() for name, tensor in box.state_dict().items()}
    plain = {
        "format_version": FORMAT_VERSION,
        "family": box.stages.family,
        "controls": [control.as_dict() for control in box.controls],
        "card": box.card.config(),
        "stages": asdict(box.stages),
        "sample_rate": box.sample_rate,
        "info": box.info,
    }
    change(plain)
    text = json.dumps({**plain, "content_sha256": content_hash(plain, held)})
    path.write_bytes(to_bytes(held, {"ddsp_la2a": text}))


def test_what_is_forged_unchanged_is_read(tmp_path: Path) -> None:
    forge(tmp_path / "m", lambda plain: None)
    assert isinstance(la.load(tmp_path / "m").card, Taper)


def set_card(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plain: plain["card"].update(changes)


def wider(plain: dict[str, Any]) -> None:
    plain["card"]["parameters"][0]["high"] = 90.0


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "rises is missing": lambda plain: plain["card"].pop("rises"),
    "rises is a number": set_card(rises=1),
    "rises is a word": set_card(rises="yes"),
    "rises is nothing": set_card(rises=None),
    "parameters are missing": lambda plain: plain["card"].pop("parameters"),
    "no parameters": set_card(parameters=[]),
    "one parameter": lambda plain: plain["card"]["parameters"].pop(),
    "parameters the other way round": lambda plain: plain["card"]["parameters"].reverse(),
    "a wider range": wider,
    "a compressor's parameters": set_card(parameters=[p.as_dict() for p in CARD_PARAMETERS]),
    "unknown card": set_card(type="potentiometer"),
    "unknown family": lambda plain: plain.update(family="vca"),
    "family is a list": lambda plain: plain.update(family=["optical-cell"]),
    "the other family": lambda plain: plain.update(family="compressor"),
    "the other family and its stages": lambda plain: plain.update(family="compressor", stages=asdict(PLAIN)),
    "stages of the other family": lambda plain: plain.update(stages=asdict(PLAIN)),
    "other stages": lambda plain: plain.update(stages=asdict(CellStages(traps=False))),
    "a stage that is neither on nor off": lambda plain: plain["stages"].update(traps=1),
    "no family": lambda plain: plain.pop("family"),
    "two knobs": lambda plain: plain["controls"].append(la.Control("mix").as_dict()),
    "no knob": lambda plain: plain["controls"].pop(),
    "another switch": lambda plain: plain["controls"].append(la.Control("pad", 0.0, 1.0, "switch").as_dict()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    forge(path, DAMAGES[damage])
    with pytest.raises(ValueError, match=r"damaged\.safetensors: expected"):
        la.load(path)


@pytest.mark.parametrize("damage", ["other stages", "another switch"])
def test_a_refusal_is_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    forge(path, DAMAGES[damage])
    with pytest.raises(ValueError, match="expected") as caught:
        la.load(path)
    assert "\n" not in str(caught.value)


def test_a_compressor_with_a_cells_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    forge(path, lambda plain: plain.update(family="optical-cell"), la.GreyBox(ControlNet()))
    with pytest.raises(ValueError, match=r"damaged\.safetensors: expected"):
        la.load(path)


def test_a_covariance_of_another_size_is_refused(tmp_path: Path) -> None:
    box = model_of()
    box.covariance = torch.eye(box.card.weight.numel(), dtype=torch.float64)
    box.save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: expected .*covariance"):
        la.load(tmp_path / "m.safetensors")
