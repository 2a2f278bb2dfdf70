"""The grey box as a whole: process, stream, curves, gradients, and the published settings on real recordings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import Tensor

from baselines import numpy_compressor
from ddsp_la2a.controls import Control
from ddsp_la2a.dsp.compressor import compressor
from ddsp_la2a.evaluation.metrics import esr_best_gain, esr_dc_filtered
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.storage import load

RATE = 44100
LIMIT_65: dict[str, Any] = {"compress_or_limit": 1, "peak_reduction": 65}
EXCERPTS = Path(__file__).parents[2] / "shared" / "audio" / "signaltrain_excerpts" / "Test"


def noise(rows: int = 2, frames: int = 2000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, frames)) * 10.0 ** (-1.0 + np.sin(np.arange(frames) / 200.0))


@pytest.fixture
def model() -> GreyBox:
    """A grey box whose parameters do depend on switch and knob, and whose make-up isn't zero."""
    box = GreyBox(ControlNet(seed=1))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in box.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return box


# process


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2000,), (1, 2000), (3, 2000), (0,), (2, 0)])
def test_kind_shape_and_dtype_are_kept(model: GreyBox, shape: tuple[int, ...], dtype: type) -> None:
    x = noise(3).ravel()[: math.prod(shape)].reshape(shape).astype(dtype)
    array = model.process(x, RATE, **LIMIT_65)
    tensor = model.process(torch.from_numpy(x), RATE, **LIMIT_65)
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, Tensor)
    assert array.shape == tensor.shape == shape
    assert array.dtype == tensor.numpy().dtype == dtype
    np.testing.assert_array_equal(array, tensor.numpy())
    assert not tensor.requires_grad


@pytest.mark.parametrize("sample_rate", [22050, 44100, 96000])
def test_output_is_that_of_the_reference(model: GreyBox, sample_rate: int) -> None:
    x = noise(1)[0]
    setting = {name: float(value.detach()) for name, value in model.params(1, 65).numbers().items()}
    expected = numpy_compressor.compressor(x, sample_rate, **setting).output
    np.testing.assert_allclose(model.process(x, sample_rate, **LIMIT_65), expected, rtol=1e-11)


def test_rows_one_by_one_equal_the_batch(model: GreyBox) -> None:
    x = noise(3)
    batch = model.process(x, RATE, **LIMIT_65)
    for row in range(3):
        np.testing.assert_array_equal(model.process(x[row], RATE, **LIMIT_65), batch[row])


def test_a_batch_of_settings_equals_one_by_one(model: GreyBox) -> None:
    x = torch.from_numpy(noise(3))
    positions = torch.tensor([[0.0, 20.0], [1.0, 20.0], [1.0, 90.0]])
    batch = model(x, positions, RATE)
    for row, (switch, knob) in enumerate(positions.tolist()):
        alone = model.process(x[row], RATE, compress_or_limit=switch, peak_reduction=knob)
        torch.testing.assert_close(batch[row].detach(), alone, rtol=1e-13, atol=0.0)
    assert not torch.equal(model(x[:1], positions[0], RATE), model(x[:1], positions[1], RATE))


@pytest.mark.parametrize(
    "view",
    [lambda x: x.T.copy().T, lambda x: x[:, ::-1], lambda x: x[:, ::3], lambda x: np.broadcast_to(x[0], (4, 2000))],
    ids=["Fortran order", "reversed", "strided", "broadcast"],
)
def test_any_memory_layout(model: GreyBox, view) -> None:
    x = view(noise())
    np.testing.assert_array_equal(model.process(x, RATE, **LIMIT_65), model.process(x.copy(), RATE, **LIMIT_65))


def test_read_only_audio_is_processed_without_a_warning(model: GreyBox) -> None:
    x = noise()
    x.flags.writeable = False
    np.testing.assert_array_equal(model.process(x, RATE, **LIMIT_65), model.process(x.copy(), RATE, **LIMIT_65))


def test_the_audio_is_not_changed(model: GreyBox) -> None:
    x = noise()
    before = x.copy()
    model.process(x, RATE, **LIMIT_65)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("knob", [0, 100, 50.5, np.float32(30.0), np.int64(7), torch.tensor(3)])
def test_any_number_is_a_knob_position(model: GreyBox, knob: Any) -> None:
    assert np.isfinite(model.process(noise(), RATE, compress_or_limit=0, peak_reduction=knob)).all()


def test_state_carried_through_forward_equals_one_pass(model: GreyBox) -> None:
    x = torch.from_numpy(noise())
    positions = torch.tensor([[0, 50], [1, 70]])
    whole = model(x, positions, RATE)
    first, state = model(x[:, :777], positions, RATE, return_state=True)
    second = model(x[:, 777:], positions, RATE, state=state)
    assert torch.equal(torch.cat([first, second], dim=1), whole)


# Errors


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(10, np.int16),
        np.zeros(10, np.float16),
        np.zeros(10, np.complex64),
        np.zeros((1, 1, 10)),
        torch.zeros((1, 1, 10)),
        torch.tensor(0.5),
        torch.zeros(10, dtype=torch.int32),
        np.zeros(10, ">f4"),
        np.zeros(10, np.longdouble),
        np.float64(0.5),
        "take.wav",
        None,
    ],
    ids=lambda audio: f"{type(audio).__name__} {getattr(audio, 'dtype', '')}",
)
def test_unfit_audio_is_refused_by_name(model: GreyBox, audio: Any) -> None:
    with pytest.raises(ValueError, match=r"^audio: expected"):
        model.process(audio, RATE, **LIMIT_65)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_first_bad_sample_is_named(model: GreyBox, kind, value: float) -> None:
    x = noise()
    x[1, [123, 124, 1999]] = value
    with pytest.raises(ValueError, match=rf"^audio: expected finite samples, got {value} at index \[1, 123\]"):
        model.process(kind(x), RATE, **LIMIT_65)


@pytest.mark.parametrize("value", [2, -1, 0.5, math.nan, "limit", None])
def test_an_unfit_switch_is_refused_by_name(model: GreyBox, value: Any) -> None:
    for call in (lambda **c: model.process(noise(), RATE, **c), lambda **c: model.stream(RATE, **c)):
        with pytest.raises(ValueError, match=r"^compress_or_limit: expected"):
            call(compress_or_limit=value, peak_reduction=65)


@pytest.mark.parametrize("value", [-0.1, 100.1, math.nan, math.inf, "65 %", None])
def test_an_unfit_knob_is_refused_by_name(model: GreyBox, value: Any) -> None:
    for call in (lambda **c: model.process(noise(), RATE, **c), lambda **c: model.stream(RATE, **c)):
        with pytest.raises(ValueError, match=r"^peak_reduction: expected"):
            call(compress_or_limit=0, peak_reduction=value)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 2), (2, 3), (1, 2, 2)])
def test_positions_of_another_batch_or_unit_are_refused(model: GreyBox, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^positions: expected shape \(2,\) or \(2, 2\), got"):
        model(torch.zeros((2, 10)), torch.zeros(shape), RATE)


@pytest.mark.parametrize(
    "positions", [{}, {"peak_reduction": 65}, {**LIMIT_65, "gain": 1}, {"peak_reduction": 65, "limit": 1}], ids=str
)
def test_missing_or_unknown_controls_are_refused_with_those_there_are(model: GreyBox, positions: Any) -> None:
    for call in (lambda: model.process(noise(), RATE, **positions), lambda: model.stream(RATE, **positions)):
        with pytest.raises(ValueError, match=r"^controls: expected .* compress_or_limit, peak_reduction, got"):
            call()
    with pytest.raises(ValueError, match=r"^params: expected positions of compress_or_limit, peak_reduction, got 1"):
        model.params(65)


@pytest.mark.parametrize("sample_rate", [0, -1, math.nan])
def test_an_unfit_sample_rate_is_refused_by_name(model: GreyBox, sample_rate: float) -> None:
    with pytest.raises(ValueError, match=r"^sample_rate: expected"):
        model.process(noise(), sample_rate, **LIMIT_65)


@pytest.mark.parametrize("sample_rate", [0, -1, math.nan])
@pytest.mark.filterwarnings("ignore:.*encountered in .*divide:RuntimeWarning")
def test_a_stream_refuses_an_unfit_sample_rate_by_name(model: GreyBox, sample_rate: float) -> None:
    with pytest.raises(ValueError, match=r"^sample_rate: expected"):
        model.stream(sample_rate, **LIMIT_65)


# stream


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stream_equals_process(model: GreyBox, dtype: type) -> None:
    x = noise(1)[0].astype(dtype)
    stream = model.stream(RATE, **LIMIT_65)
    blocks = [stream.process(block) for block in np.split(x, [1, 1, 64, 1000, 1999])]
    expected = model.process(x, RATE, **LIMIT_65)
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=1e-12 if dtype is np.float64 else 1e-6)


def test_stream_of_two_channels(model: GreyBox) -> None:
    x = noise()
    separate = model.stream(RATE, **LIMIT_65, channels=2, linked=False).process(x)
    np.testing.assert_allclose(separate, model.process(x, RATE, **LIMIT_65), rtol=1e-12)
    assert not np.array_equal(model.stream(RATE, **LIMIT_65, channels=2).process(x), separate)


def test_knob_and_switch_move_within_a_stream(model: GreyBox) -> None:
    x = noise(1, 6000)[0]
    stream = model.stream(RATE, compress_or_limit=0, peak_reduction=20)
    stream.process(x[:1000])
    stream.move(peak_reduction=65)
    stream.process(x[1000:1500])  # not there yet
    stream.move(compress_or_limit=1)
    assert stream.positions == LIMIT_65
    stream.process(x[1500:3000])
    there = model.stream(RATE, **LIMIT_65)
    there.state = stream.state
    np.testing.assert_array_equal(stream.process(x[3000:]), there.process(x[3000:]))


def test_a_move_that_the_unit_does_not_have_is_refused(model: GreyBox) -> None:
    stream = model.stream(RATE, **LIMIT_65)
    x = noise(1)[0]
    with pytest.raises(ValueError, match=r"^controls: expected a position for each of .*, got .*drive"):
        stream.move(drive=3)
    with pytest.raises(ValueError, match=r"^peak_reduction: expected 0 to 100, got 101"):
        stream.move(peak_reduction=101)
    assert stream.positions == LIMIT_65
    np.testing.assert_array_equal(stream.process(x), model.stream(RATE, **LIMIT_65).process(x))


# curves


@pytest.mark.parametrize("source", ["network", "published"])
def test_curves_are_a_typed_table_of_both_switch_positions(model: GreyBox, source: str) -> None:
    box = load("published") if source == "published" else model
    curves = box.curves()
    parameters = ["threshold_db", "ratio", "knee_db", "attack_ms", "release_ms", "makeup_db"]
    assert list(curves.columns) == ["compress_or_limit", "peak_reduction", *parameters]
    assert len(curves) == 202
    assert curves["compress_or_limit"].dtype == np.int64
    assert all(pd.api.types.is_float_dtype(curves[name]) for name in parameters)
    assert curves["peak_reduction"].tolist() == [*range(101), *range(101)]
    assert curves["compress_or_limit"].tolist() == [0] * 101 + [1] * 101
    assert not curves.isna().to_numpy().any()
    assert not curves.duplicated(["compress_or_limit", "peak_reduction"]).any()


def test_curves_are_what_process_uses(model: GreyBox) -> None:
    row = model.curves(peak_reduction=[65]).query("compress_or_limit == 1").iloc[0]
    for name, value in model.params(1, 65).numbers().items():
        assert row[name] == pytest.approx(value.item(), rel=1e-13)


def test_curves_at_knob_positions_of_ones_own(model: GreyBox) -> None:
    assert model.curves(peak_reduction=iter([0.5, 99.5]))["peak_reduction"].tolist() == [0.5, 99.5, 0.5, 99.5]
    with pytest.raises(ValueError, match=r"^peak_reduction: expected 0 to 100"):
        model.curves(peak_reduction=[101])


def test_curves_of_a_table_hold_its_ends_without_a_warning() -> None:
    curves = load("published").curves().set_index(["compress_or_limit", "peak_reduction"])
    for switch in (0, 1):
        pd.testing.assert_series_equal(curves.loc[(switch, 0)], curves.loc[(switch, 40)], check_names=False)


def test_curves_of_a_table_whose_switch_positions_end_apart_give_no_warning() -> None:
    row = {"threshold_db": -20.0, "ratio": 4.0, "knee_db": 6.0, "attack_ms": 5.0, "release_ms": 250.0}
    ends = [(0, 40), (0, 70), (1, 55), (1, 90)]
    rows = [row | {"compress_or_limit": s, "peak_reduction": k, "ratio": 1.0 + k / 10} for s, k in ends]
    curves = GreyBox(ParameterTable(pd.DataFrame(rows))).curves(peak_reduction=[0, 100])
    assert curves["ratio"].to_numpy() == pytest.approx([5.0, 8.0, 6.5, 10.0])


# Gradients through the whole model


def test_differentiable_in_knob_and_audio(model: GreyBox) -> None:
    x = torch.from_numpy(np.random.default_rng(2).uniform(0.05, 0.6, (2, 15)))
    knob = torch.tensor([35.0, 80.0], dtype=torch.float64)

    def run(audio: Tensor, knob: Tensor) -> Tensor:
        return model(audio, torch.stack([torch.tensor([0.0, 1.0]), knob], dim=1), RATE)

    assert torch.autograd.gradcheck(run, (x, knob.requires_grad_()))
    assert torch.autograd.gradcheck(run, (x.requires_grad_(), knob.detach()))
    assert torch.autograd.gradcheck(run, (x, knob))


def test_knob_gradient_equals_finite_differences_over_a_second(model: GreyBox) -> None:
    x = torch.from_numpy(noise(1, RATE))

    def loss(knob: Tensor) -> Tensor:
        return model(x, torch.stack([torch.ones(1), knob], dim=1), RATE).square().mean()

    knob = torch.tensor([65.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(knob), knob)
    with torch.no_grad():
        difference = (loss(knob + 1e-4) - loss(knob - 1e-4)) / 2e-4
    assert float(gradient) == pytest.approx(float(difference), rel=1e-5)


def test_every_weight_has_a_gradient(model: GreyBox) -> None:
    x = torch.from_numpy(noise())
    model(x, torch.tensor([[0, 30], [1, 70]]), RATE).square().mean().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(torch.isfinite(weight.grad).all()), name
        assert bool(weight.grad.any()), name


def test_params_agree_with_the_compressor(model: GreyBox) -> None:
    x = torch.from_numpy(noise(1))
    assert torch.equal(model(x, torch.tensor([1, 65]), RATE), compressor(x, model.params(1, 65), RATE))


# The published settings


def test_published_model_warns_below_its_settings_and_holds() -> None:
    box = load("published")
    assert isinstance(box.card, ParameterTable)
    with pytest.warns(UserWarning, match="peak_reduction 20 lies outside the table"):
        low = box.process(noise(), RATE, compress_or_limit=0, peak_reduction=20)
    np.testing.assert_array_equal(low, box.process(noise(), RATE, compress_or_limit=0, peak_reduction=40))


@pytest.mark.skipif(not EXCERPTS.is_dir(), reason="the recordings of the real unit aren't beside this checkout")
@pytest.mark.parametrize(
    ("track", "switch", "knob", "as_is", "best_gain"),
    [(235, 0, 65, 7.2, 0.40), (256, 1, 65, 2.9, 0.39), (259, 1, 80, 9.9, 0.93)],
)
def test_published_model_on_real_recordings(track: int, switch: int, knob: int, as_is: float, best_gain: float) -> None:
    x, sample_rate = soundfile.read(EXCERPTS / f"input_{track}_.wav")
    (target,) = EXCERPTS.glob(f"target_{track}_*__{switch}__{knob}.wav")
    y, _ = soundfile.read(target)
    estimate = load("published").process(x, sample_rate, compress_or_limit=switch, peak_reduction=knob)
    assert round(100.0 * esr_dc_filtered(estimate, y, start=sample_rate), 1) == as_is
    assert round(100.0 * esr_best_gain(estimate, y, start=sample_rate), 2) == best_gain


# Other units

STRIP = (Control("speed", 1.0, 3.0, "switch"), Control("drive", 0.0, 10.0), Control("ratio"))
PARAMETERS = ["threshold_db", "ratio", "knee_db", "attack_ms", "release_ms", "makeup_db"]


@pytest.fixture
def strip_model() -> GreyBox:
    box = GreyBox(ControlNet(seed=1, controls=STRIP), {"settings_seen": [(1, 1.0, 0.2), (2, 4.0, 0.6), (3, 9.0, 0.9)]})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in box.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return box


def test_another_unit_in_process_stream_and_params(strip_model: GreyBox) -> None:
    assert strip_model.controls == STRIP
    x = noise(1)[0]
    at = {"ratio": 0.3, "drive": 7, "speed": 2}
    y = strip_model.process(x, RATE, **at)
    np.testing.assert_allclose(strip_model.stream(RATE, **at).process(x), y, rtol=1e-12)
    numbers = {name: float(value.detach()) for name, value in strip_model.params(2, 7, 0.3).numbers().items()}
    np.testing.assert_allclose(numpy_compressor.compressor(x, RATE, **numbers).output, y, rtol=1e-11)
    for wrong, message in (
        ({"speed": 2.5}, "speed: expected a whole number from 1 to 3, got 2.5"),
        ({"drive": 11}, "drive: expected 0 to 10, got 11"),
        ({"compress_or_limit": 1}, "controls: expected a position for each of speed, drive, ratio, got"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            strip_model.process(x, RATE, **at | wrong)


def test_curves_of_several_knobs_move_one_at_a_time(strip_model: GreyBox) -> None:
    """The others stand at the fitted setting nearest to the middle, (4, 0.6); the switch takes all positions."""
    curves = strip_model.curves()
    assert list(curves.columns) == ["speed", "drive", "ratio_position", "swept", *PARAMETERS, "extrapolated"]
    assert len(curves) == 2 * 3 * 21
    drive, ratio = (curves[curves["swept"] == name] for name in ("drive", "ratio"))
    assert drive["drive"].tolist() == np.tile(np.linspace(0.0, 10.0, 21), 3).tolist()
    assert ratio["ratio_position"].tolist() == np.tile(np.linspace(0.0, 1.0, 21), 3).tolist()
    assert set(drive["ratio_position"]) == {0.6}
    assert set(ratio["drive"]) == {4.0}
    assert drive["speed"].tolist() == [1] * 21 + [2] * 21 + [3] * 21
    row = curves[(curves["speed"] == 2) & (curves["drive"] == 4.0) & (curves["ratio_position"] == 0.6)].iloc[0]
    assert not row["extrapolated"]
    for name, value in strip_model.params(2, 4.0, 0.6).numbers().items():
        assert row[name] == pytest.approx(value.item(), rel=1e-13)


def test_curves_over_positions_that_are_given(strip_model: GreyBox) -> None:
    one = strip_model.curves(ratio=0.25)
    assert "swept" not in one
    assert one["drive"].tolist() == np.tile(np.linspace(0.0, 10.0, 101), 3).tolist()
    assert set(one["ratio_position"]) == {0.25}
    assert strip_model.curves(ratio=[0.0, 1.0], drive=[5], speed=2)[
        ["speed", "ratio_position"]
    ].to_numpy().tolist() == [
        [2, 0],
        [2, 1],
    ]
    with pytest.raises(ValueError, match=r"^curves: expected positions of speed, drive, ratio, got peak_reduction"):
        strip_model.curves(peak_reduction=[50])
    with pytest.raises(ValueError, match=r"^ratio: expected 0 to 1"):
        strip_model.curves(ratio=2.0)


def test_curves_of_a_unit_that_says_nothing_of_its_settings_run_through_the_middle(strip_model: GreyBox) -> None:
    strip_model.info = {}
    curves = strip_model.curves()
    assert set(curves[curves["swept"] == "drive"]["ratio_position"]) == {0.5}
    assert "extrapolated" not in curves


def test_curves_of_a_unit_without_knobs_are_its_switch_positions() -> None:
    curves = GreyBox(ControlNet(controls=STRIP[:1])).curves()
    assert curves["speed"].tolist() == [1, 2, 3]
    assert list(curves.columns) == ["speed", *PARAMETERS]
