"""Grey boxes with stages: files, process at any rate, streams, their output filter, and Adam."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

import ddsp_la2a as la
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.dsp.compressor import compressor
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.fitting.fit import _AtTakeGains
from ddsp_la2a.fitting.gradient import train, validation_error
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP, TAPS
from ddsp_la2a.model.stages import HARDWARE, PLAIN, Stages, stages_text
from ddsp_la2a.model.storage import load

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 44100
LIMIT_65: dict[str, Any] = {"compress_or_limit": 1, "peak_reduction": 65}
FILTER = {"tap_lead_2": 0.02, "tap_lead_1": -0.15, "tap_late_1": 0.36, "tap_late_2": -0.1, "tap_slow": -0.86}
DEVICE = {"makeup_db": 2.0, "slow_factor": 12.0, "slow_mix": 0.4, "shelf_db": 9.0, "shelf_hz": 1500.0, **FILTER}
CARD = {"threshold_db": -30.0, "ratio": 4.0, "knee_db": 8.0, "attack_ms": 20.0, "release_ms": 150.0}
COMBINATIONS = [Stages(*on) for on in itertools.product((False, True), repeat=4)]
every = pytest.mark.parametrize("stages", COMBINATIONS, ids=stages_text)
kinds = pytest.mark.parametrize("kind", ["network", "table"])


def network(stages: Stages = HARDWARE, rate: float = RATE) -> GreyBox:
    """Its card depends on the controls, its device is :data:`DEVICE`."""
    box = GreyBox(ControlNet(seed=3), {"author": "György"}, stages, rate)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in box.card.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        for number, parameter in enumerate(box.device_parameters):
            box.device[number] = parameter.to_unconstrained(torch.tensor(DEVICE[parameter.name], dtype=torch.float64))
    return box


def table(stages: Stages = HARDWARE, rate: float = RATE, card: dict[str, float] | None = None) -> GreyBox:
    """Two settings, each with its own device; nearest."""
    rows = []
    for number, knob in enumerate((40, 65)):
        row = {"compress_or_limit": 1, "peak_reduction": knob, **CARD, **(card or {})}
        rows.append(row | {p.name: DEVICE[p.name] * (1.0 - 0.1 * (1 - number)) for p in stages.parameters})
    return GreyBox(ParameterTable(pd.DataFrame(rows), nearest=True), {}, stages, rate)


def model_of(kind: str, stages: Stages = HARDWARE, rate: float = RATE, **card: float) -> GreyBox:
    return network(stages, rate) if kind == "network" else table(stages, rate, card)


def noise(frames: int = 2_000, rows: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, frames)) * 10.0 ** (-1.0 + np.sin(np.arange(frames) / 200.0))


# What belongs to the device


@every
def test_the_device_has_what_its_stages_have(stages: Stages) -> None:
    box = network(stages)
    assert box.device_parameters == stages.parameters
    assert box.device.shape == (len(stages.parameters),)
    found = {name: value.item() for name, value in box.params(1, 65).numbers().items()}
    assert {name: found[name] for name in found if name in DEVICE} == pytest.approx(
        {p.name: DEVICE[p.name] for p in stages.parameters if p not in TAPS}
    )
    at_another = box.params(0, 20)
    assert at_another.makeup_db.item() == found["makeup_db"]
    assert at_another.feedback is stages.feedback
    assert box.latency == (2 if stages.output_filter else 0)


@every
def test_a_new_one_starts_as_the_table_of_parameters_says(stages: Stages) -> None:
    box = GreyBox(stages=stages)
    found = {name: value.item() for name, value in box.params(0, 50).numbers().items()}
    expected = {p.name: p.start for p in (*CARD_PARAMETERS, *stages.parameters) if p not in TAPS}
    assert found == pytest.approx(expected)
    assert box.output_filter().coefficients.tolist() == [0.0] * 5


@every
def test_of_a_table_with_the_stages_only_a_makeup_is_left_over(stages: Stages) -> None:
    box = table(stages)
    assert box.device_parameters == (MAKEUP,)
    assert box.device.item() == 0.0
    found = {name: value.item() for name, value in box.params(1, 65).numbers().items()}
    wanted = {p.name: DEVICE[p.name] for p in stages.parameters if p not in TAPS}
    assert found == pytest.approx({**CARD, **wanted})


@every
def test_every_number_of_the_device_has_a_gradient(stages: Stages) -> None:
    box = network(stages)
    x = torch.from_numpy(noise(600))
    box(x, torch.tensor([[0.0, 40.0], [1.0, 65.0]]), RATE).square().sum().backward()
    assert box.device.grad is not None
    assert (box.device.grad != 0.0).all()


# Files


@kinds
@every
def test_what_comes_back_gives_the_same_output_bit_by_bit(stages: Stages, kind: str, tmp_path: Path) -> None:
    box = model_of(kind, stages, 48000.0)
    box.save(tmp_path / "m")
    back = load(tmp_path / "m")
    assert back.stages == stages
    assert back.sample_rate == 48000.0
    x = noise(500)
    for rate in (48000, 44100):
        np.testing.assert_array_equal(back.process(x, rate, **LIMIT_65), box.process(x, rate, **LIMIT_65))
    back.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


@kinds
def test_a_covariance_of_the_device_comes_back(kind: str, tmp_path: Path) -> None:
    box = model_of(kind)
    if kind == "table":
        box.covariance = 1e-4 * torch.eye(13, dtype=torch.float64).expand(2, 13, 13)
    else:
        size = sum(p.numel() for p in box.parameters())
        box.covariance = 1e-4 * torch.eye(size, dtype=torch.float64)
    box.save(tmp_path / "m")
    back = load(tmp_path / "m")
    at = {"compress_or_limit": 1, "peak_reduction": [40, 65]}
    curves = back.curves(**at)
    pd.testing.assert_frame_equal(curves, box.curves(**at), check_exact=True)
    for name in ("slow_factor", "slow_mix", "makeup_db"):
        assert (curves[f"{name}_low"] < curves[name]).all()
        assert (curves[name] < curves[f"{name}_high"]).all()
    # In shares of a range, or unconstrained: 0.01 each; of the make-up dB.
    assert (curves["makeup_db_high"] - curves["makeup_db"]).tolist() == pytest.approx([0.0196, 0.0196])
    if kind == "network":
        ends = torch.tensor([1.0, 300.0], dtype=torch.float64).log()
        share = math.log(12.0) / float(ends.diff())
        reach = 0.0196 * share * (1.0 - share) * float(ends.diff())  # to first order
        assert np.log(curves["slow_factor_high"] / curves["slow_factor"]).tolist() == pytest.approx(
            [reach] * 2, rel=0.02
        )


# Process and stream


@kinds
@pytest.mark.parametrize("rate", [44100, 48000, 22050])
@pytest.mark.parametrize("stages", [PLAIN, HARDWARE, Stages(True, True, True, True)], ids=stages_text)
def test_process_is_the_stream_without_its_latency(kind: str, stages: Stages, rate: int) -> None:
    box = model_of(kind, stages)
    x = noise(1_500, 1)[0]
    stream = box.stream(rate, **LIMIT_65)
    late = stream.latency_samples
    assert (late > 0) == stages.output_filter
    if rate == box.sample_rate:
        assert late == box.latency
    output = np.concatenate([stream.process(x), stream.process(np.zeros(late))])
    np.testing.assert_allclose(box.process(x, rate, **LIMIT_65), output[late:], rtol=1e-9, atol=1e-13)


@kinds
def test_forward_is_late_by_the_latency(kind: str) -> None:
    box = model_of(kind)
    x = noise(900)
    with torch.no_grad():
        late = box(torch.from_numpy(x), torch.tensor([1.0, 65.0]), RATE)
    np.testing.assert_allclose(late[:, 2:], box.process(x, RATE, **LIMIT_65)[:, :-2], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
def test_process_has_the_filters_response(rate: int) -> None:
    """Below the threshold the rest is a gain. The impulse stands in the middle: the filter leads as well."""
    box = table(Stages(slow_release=False), card={"threshold_db": 0.0, "knee_db": 0.0})
    x = np.zeros(1 << 15)
    x[1 << 14] = 0.5
    found = np.fft.rfft(np.roll(box.process(x, rate, **LIMIT_65), -(1 << 14))) / 0.5
    hz = np.fft.rfftfreq(len(x), 1.0 / rate)
    heard = (hz > 20.0) & (hz < 15_000.0)
    chosen = box.output_filter(**LIMIT_65)
    assert chosen is not None
    wanted = chosen.response(hz[heard]) * 10.0 ** (2.0 / 20.0)
    tolerance = 1e-9 if rate == box.sample_rate else 3e-3
    np.testing.assert_allclose(found[heard], wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("stages", [PLAIN, Stages(slow_release=False), HARDWARE], ids=stages_text)
def test_process_at_48_khz_is_that_of_the_resampled_audio(stages: Stages, programme) -> None:
    box = table(stages)
    music = resample_poly(programme(7, 4.0, 11025), 4, 1).astype(np.float64)
    at_44 = box.process(music, 44100, **LIMIT_65)
    at_48 = box.process(resample_poly(music, 160, 147), 48000, **LIMIT_65)
    wanted = resample_poly(at_44, 160, 147)
    middle = slice(2_000, len(wanted) - 2_000)
    error = np.sum((at_48 - wanted)[middle] ** 2) / np.sum(wanted[middle] ** 2)
    assert error < 1e-5


def test_process_with_a_filter_that_does_nothing_is_process_without() -> None:
    x = noise()
    plain, flat = GreyBox(), GreyBox(stages=Stages(slow_release=False))
    np.testing.assert_allclose(flat.process(x, RATE, **LIMIT_65), plain.process(x, RATE, **LIMIT_65), rtol=1e-12)


@pytest.mark.parametrize("shape", [(0,), (1,), (2,), (3, 1), (2, 0)])
def test_audio_shorter_than_the_latency(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 0.1, dtype=np.float32)
    output = network().process(x, RATE, **LIMIT_65)
    assert output.shape == shape
    assert output.dtype == np.float32
    long = np.zeros((*shape[:-1], 50), dtype=np.float32)
    long[..., : shape[-1]] = x
    np.testing.assert_allclose(output, network().process(long, RATE, **LIMIT_65)[..., : shape[-1]], rtol=1e-6)


# The output filter


def test_a_network_has_one_filter() -> None:
    box = network(rate=48000.0)
    found = box.output_filter()
    assert isinstance(found, OutputFilter)
    assert found.coefficients.tolist() == pytest.approx(list(FILTER.values()))
    assert found.sample_rate == 48000.0
    assert not found.coefficients.requires_grad
    again = box.output_filter(**LIMIT_65)
    assert again is not None
    assert torch.equal(again.coefficients, found.coefficients)
    assert found.delay_us == pytest.approx(again.delay_us)


def test_every_setting_of_a_table_has_its_own_filter() -> None:
    box = table()
    for knob, share in ((40, 0.9), (65, 1.0)):
        found = box.output_filter(compress_or_limit=1, peak_reduction=knob)
        assert found is not None
        assert found.coefficients.tolist() == pytest.approx([share * value for value in FILTER.values()])
    with pytest.raises(ValueError, match="expected a position for each of compress_or_limit, peak_reduction, got none"):
        box.output_filter()


@kinds
def test_without_the_stage_there_is_neither_delay_nor_colour(kind: str) -> None:
    chosen = model_of(kind, PLAIN).output_filter(**LIMIT_65)
    assert chosen.delay_us == 0.0
    assert chosen.response([20.0, 1000.0, 20000.0]).tolist() == [1.0, 1.0, 1.0]


def test_positions_of_a_filter_are_checked() -> None:
    with pytest.raises(ValueError, match="expected a position for each of"):
        network().output_filter(peak_reduction=3)


# Adam


LOW_RATE = 8000


def staged_unit(stages: Stages) -> GreyBox:
    return table(stages, LOW_RATE, {"threshold_db": -28.0, "attack_ms": 5.0})


@pytest.fixture(scope="module")
def staged_frame(tmp_path_factory: pytest.TempPathFactory, programme) -> pd.DataFrame:
    """Two settings of a unit with a second cell and an output filter, one of them to watch as well."""
    folder, unit, rows = tmp_path_factory.mktemp("staged"), staged_unit(HARDWARE), []
    for number, (split, knob) in enumerate((("train", 40), ("train", 65), ("val", 65))):
        raw = programme(60 + number, 4.0)
        wet = unit.process(raw, LOW_RATE, compress_or_limit=1, peak_reduction=knob)
        paths = folder / f"dry {number}.wav", folder / f"wet {number}.wav"
        for path, audio in zip(paths, (raw, wet), strict=True):
            soundfile.write(path, audio, LOW_RATE, "FLOAT")
        row = {"track_id": number, "split": split, "take": "1", "compress_or_limit": 1, "peak_reduction": knob}
        rows.append(row | {"raw_audio_path": paths[0], "processed_audio_path": paths[1], "source": "simulated"})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("window_frames", [None, 5_000, 777])
def test_the_exact_model_has_no_validation_error(staged_frame: pd.DataFrame, window_frames: int | None) -> None:
    """What is wanted waits for the filter: a sample's misalignment would be an error of about one."""
    dataset = SegmentDataset(staged_frame, 4.0, 0.5)
    batches = torch.utils.data.DataLoader(dataset, 3)
    module = _AtTakeGains(staged_unit(HARDWARE), staged_frame, LOW_RATE)
    assert module.latency == 2
    assert validation_error(module, batches, window_frames) < 1e-12
    without = _AtTakeGains(staged_unit(Stages(output_filter=False)), staged_frame, LOW_RATE)
    assert validation_error(without, batches, window_frames) > 0.01


def test_a_step_of_adam_leaves_the_exact_model_nearly_where_it_is(staged_frame: pd.DataFrame, quick) -> None:
    box = staged_unit(HARDWARE)
    dataset = SegmentDataset(staged_frame[staged_frame["split"] == "train"], 4.0, 0.0)
    ran = train(_AtTakeGains(box, dataset.frame, LOW_RATE), dataset, None, quick(1))
    assert ran.history["loss"].iloc[0] < 1e-12


@pytest.mark.parametrize("per_setting", [False, True])
@pytest.mark.parametrize("stages", [HARDWARE, Stages(True, True, True, True)], ids=stages_text)
def test_adam_lowers_the_loss_with_stages(staged_frame: pd.DataFrame, quick, stages: Stages, per_setting: bool) -> None:
    how = {"method": "adam", "segment_s": 4.0, "warmup_s": 0.0, "adam": quick(40, validate_every=5)}
    result = la.fit(staged_frame, stages=stages, per_setting=per_setting, **how)
    loss = result.history["loss"]
    assert loss.iloc[-1] < 0.5 * loss.iloc[0]
    assert result.model.stages == stages
    assert result.model.sample_rate == LOW_RATE
    assert result.config["fit"]["stages"] == {
        "output_filter": True,
        "slow_release": True,
        "shelf": stages.shelf,
        "feedback": stages.feedback,
    }
    moved = result.model.card.rows[:, 5:] if per_setting else result.model.device
    start = la.GreyBox(stages=stages).device
    assert (moved.detach() != start.detach()).all()
    # What the fit watched is what the evaluation, which knows no latency, finds.
    if not per_setting:
        scored = la.evaluate({"it": result.model}, staged_frame, split="val")
        best = result.history["validation_esr"].min()
        assert scored["esr_dc_filtered"].mean() == pytest.approx(best, rel=1e-2)


def test_adam_finds_the_delay_of_a_filter(staged_frame: pd.DataFrame, quick) -> None:
    how = {"method": "adam", "segment_s": 4.0, "warmup_s": 0.0, "adam": quick(300, patience=4)}
    found = la.fit(staged_frame[staged_frame["peak_reduction"] == 65], **how).model.output_filter()
    truth = staged_unit(HARDWARE).output_filter(**LIMIT_65)
    assert found is not None
    assert truth is not None
    assert found.delay_us == pytest.approx(truth.delay_us, abs=0.1e6 / LOW_RATE)


def test_the_same_as_the_compressor_of_its_parameters() -> None:
    box = table(Stages(True, True, True, True))
    x = torch.from_numpy(noise(700))
    with torch.no_grad():
        expected = compressor(torch.nn.functional.pad(x, (0, 2)), box.params(1, 65), RATE)[:, 2:]
    assert torch.equal(box.process(x, RATE, **LIMIT_65), expected)
