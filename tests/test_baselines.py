"""What the grey box is compared with: each is as good as it can be made, and says what it is."""

from __future__ import annotations

import inspect
import math
import warnings
from importlib.metadata import entry_points

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.signal import lfilter

import ddsp_la2a as la
from baselines.dasp_compressor import DaspCompressor
from baselines.identity import Identity
from baselines.lstm import ConditionedLSTM
from baselines.numpy_compressor import NumpyCompressor
from baselines.output_filter import Filtered
from baselines.published import Published
from baselines.registry import FILTER_TAPS, lstm_32, nearest_setting, numpy_single
from baselines.tcn import ConditionedTCN
from ddsp_la2a.compare import DEMO_ROWS, ENTRY_POINT_GROUP, baseline_names, build_baselines, suitable
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.evaluation.evaluate import PROTOCOL_ROWS
from ddsp_la2a.evaluation.scored_audio import DC_FILTER
from ddsp_la2a.fitting.gradient import validation_error

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 8000
NAMES = [
    "dasp",
    "identity",
    "identity-filter",
    "lstm-32",
    "nearest-setting",
    "numpy-single",
    "optical-cell",
    "published-filter",
    "published-gain",
    "tcn-300-c",
    "tcn-small",
]
TRAINED = ("dasp", "lstm-32", "tcn-300-c", "tcn-small")
AT = {"compress_or_limit": 0, "peak_reduction": 50}
STREAMED = (
    Identity(),
    Published(),
    NumpyCompressor(),
    ConditionedLSTM(RATE),
    ConditionedTCN(RATE, channels=3),
    DaspCompressor(RATE),
)


@pytest.fixture
def filtered_recordings(tmp_path, programme):
    """Recordings of a linear device: a function of the input, one for every setting."""

    def make(devices, seconds: float = 6.0) -> pd.DataFrame:
        rows = []
        for i, ((switch, knob), device) in enumerate(devices.items()):
            raw = programme(i, seconds)
            for name, audio in (("raw", raw), ("processed", device(raw))):
                soundfile.write(tmp_path / f"{i}_{name}.wav", audio, RATE, "FLOAT")
            rows.append(
                {
                    "track_id": i,
                    "split": "train",
                    "take": "3c",
                    "compress_or_limit": switch,
                    "peak_reduction": knob,
                    "raw_audio_path": tmp_path / f"{i}_raw.wav",
                    "processed_audio_path": tmp_path / f"{i}_processed.wav",
                }
            )
        return pd.DataFrame(rows)

    return make


def shifted(audio: np.ndarray, samples: int) -> np.ndarray:
    """Later by so many samples; earlier where it is negative."""
    if samples < 0:
        return np.concatenate([audio[-samples:], np.zeros(-samples, audio.dtype)])
    return np.concatenate([np.zeros(samples, audio.dtype), audio[: len(audio) - samples]])


def test_identity(programme):
    audio = programme(1, 0.5)
    output = Identity().process(audio, RATE, **AT)
    assert np.array_equal(output, audio)
    assert output is not audio
    assert Identity().info == {"parameters": 0}


@pytest.mark.parametrize("gain", [0.5, -1.7])
def test_a_gain_is_found(filtered_recordings, programme, gain):
    frame = filtered_recordings({(0, 50): lambda x: np.float32(gain) * x})
    model = Filtered(Identity(), frame, 1)
    assert model.filters[0, 50] == pytest.approx([gain], rel=1e-6)
    assert model.info["parameters"] == 1
    audio = programme(7, 0.5)
    np.testing.assert_allclose(model.process(audio, RATE, **AT), gain * audio, rtol=1e-5)


@pytest.mark.parametrize("lag", [-3, 0, 5])
def test_a_filter_is_found_lead_and_lag(filtered_recordings, programme, lag):
    taps = np.array([0.7, -0.2, 0.05])

    def device(audio):
        return shifted(np.convolve(audio, taps)[: len(audio)].astype(np.float32), lag)

    model = Filtered(Identity(), filtered_recordings({(0, 50): device}), 33)
    expected = np.zeros(34)  # the pole's share last
    expected[16 + lag : 19 + lag] = taps
    np.testing.assert_allclose(model.filters[0, 50], expected, atol=5e-4)
    audio = programme(7, 1.0)
    inner = slice(40, -40)
    np.testing.assert_allclose(model.process(audio, RATE, **AT)[inner], device(audio)[inner], atol=5e-4)


def test_the_pole_of_an_output_filter_is_found(filtered_recordings):
    """A coupling capacitor of 6 Hz: what 33 taps could not do."""

    def device(audio):
        return lfilter([1.0, -1.0], [1.0, -math.exp(-2 * math.pi * 6.0 / RATE)], audio).astype(np.float32)

    frame = filtered_recordings({(0, 50): device})
    model = Filtered(Identity(), frame, 33)
    assert model.filters[0, 50][-1] == pytest.approx(-0.6, abs=0.2)
    raw, target = (soundfile.read(frame[f"{kind}_audio_path"].iloc[0])[0] for kind in ("raw", "processed"))
    error = lfilter(*DC_FILTER, model.process(raw, RATE, **AT) - target)[RATE:]
    assert error @ error < 1e-3 * (target[RATE:] @ target[RATE:])


def test_filter_keeps_length_kind_and_rows(filtered_recordings, programme):
    model = Filtered(Identity(), filtered_recordings({(0, 50): lambda x: shifted(x, -1)}), 33)
    audio = np.stack([programme(s, 0.25) for s in (1, 2)])
    both = model.process(audio, RATE, **AT)
    assert both.shape == audio.shape
    assert both.dtype == np.float32
    for row_in, row_out in zip(audio, both, strict=True):
        assert np.array_equal(model.process(row_in, RATE, **AT), row_out)


def test_one_filter_a_setting_and_the_nearest_for_others(filtered_recordings, programme):
    gains = {(0, 40): 0.25, (0, 80): 0.5, (1, 50): 2.0}
    frame = filtered_recordings({s: (lambda x, g=g: np.float32(g) * x) for s, g in gains.items()}, seconds=2.0)
    model = Filtered(Identity(), frame, 1)
    audio = programme(3, 0.25)
    for switch, knob, gain in ((0, 0, 0.25), (0, 55, 0.25), (0, 66, 0.5), (0, 100, 0.5), (1, 0, 2.0), (1, 100, 2.0)):
        output = model.process(audio, RATE, compress_or_limit=switch, peak_reduction=knob)
        np.testing.assert_allclose(output, gain * audio, rtol=1e-4)
    assert model.info["settings_seen"] == [(0, 40), (0, 80), (1, 50)]
    assert model.info["parameters"] == 3


def test_a_switch_position_never_seen_takes_the_other(filtered_recordings, programme):
    model = Filtered(Identity(), filtered_recordings({(0, 50): lambda x: np.float32(0.5) * x}, seconds=2.0), 1)
    audio = programme(3, 0.25)
    np.testing.assert_allclose(
        model.process(audio, RATE, compress_or_limit=1, peak_reduction=50), 0.5 * audio, rtol=1e-5
    )


def test_recordings_of_one_setting_are_pooled(filtered_recordings):
    frame = filtered_recordings({(0, 50): lambda x: np.float32(0.5) * x, (0, 60): lambda x: np.float32(0.5) * x})
    pooled = Filtered(Identity(), frame.assign(peak_reduction=50), 1)
    assert list(pooled.filters) == [(0, 50)]
    assert pooled.filters[0, 50] == pytest.approx([0.5], rel=1e-6)


def test_only_the_stretch_is_fitted(filtered_recordings):
    def device(audio):
        return np.concatenate([np.float32(0.5) * audio[:16000], np.float32(9.0) * audio[16000:]])

    frame = filtered_recordings({(0, 50): device}).assign(start_frame=0, stop_frame=16000)
    assert Filtered(Identity(), frame, 1).filters[0, 50] == pytest.approx([0.5], rel=1e-6)


def test_the_first_second_is_not_fitted(filtered_recordings):
    def device(audio):
        return np.concatenate([np.float32(0.0) * audio[:7900], np.float32(0.5) * audio[7900:]])

    assert Filtered(Identity(), filtered_recordings({(0, 50): device}), 1).filters[0, 50] == pytest.approx(
        [0.5], rel=1e-4
    )


def test_the_model_is_asked_for_the_knob_as_it_is(filtered_recordings, programme):
    model = Filtered(Published(), filtered_recordings({(0, 50): lambda x: x}, seconds=2.0), 1)
    audio = programme(4, 0.25)
    at = {"compress_or_limit": 0, "peak_reduction": 62.9}
    (gain,) = model.filters[0, 50]
    np.testing.assert_allclose(
        model.process(audio, RATE, **at), gain * Published().process(audio, RATE, **at), rtol=1e-5
    )


def test_silence_is_passed_on(filtered_recordings):
    frame = filtered_recordings({(0, 50): lambda x: x})
    soundfile.write(frame["raw_audio_path"].iloc[0], np.zeros(48000, np.float32), RATE, "FLOAT")
    model = Filtered(Identity(), frame, 33)
    assert model.filters[0, 50].tolist() == np.eye(34)[16].tolist()


def test_the_filter_comes_after_the_model(filtered_recordings, programme):
    """A compressor with another make-up: its own gain is what is missing, and its info is kept."""
    inner = NumpyCompressor(info={"parameters": 6, "converged": True})
    frame = filtered_recordings({(0, 50): lambda x: np.float32(0.5) * inner.process(x, RATE, **AT)}, seconds=2.0)
    model = Filtered(inner, frame, 1)
    assert model.filters[0, 50] == pytest.approx([0.5], rel=1e-6)
    assert model.info == {"parameters": 7, "converged": True, "settings_seen": [(0, 50)]}
    audio = programme(2, 0.5)
    np.testing.assert_allclose(model.process(audio, RATE, **AT), 0.5 * inner.process(audio, RATE, **AT), rtol=1e-5)


@pytest.mark.parametrize(("switch", "knob"), [(0, 40), (0, 62), (1, 65), (1, 100)])
def test_published_is_the_published_model(programme, switch, knob):
    audio = programme(4, 0.5)
    setting = {"compress_or_limit": switch, "peak_reduction": knob}
    assert np.array_equal(
        Published().process(audio, RATE, **setting), la.load("published").process(audio, RATE, **setting)
    )


def by_blocks(model, audio: np.ndarray, **positions) -> np.ndarray:
    """What a stream makes of it, in blocks of several sizes, no longer late."""
    stream = model.stream(RATE, **positions)
    late = stream.latency_samples
    parts = np.split(np.append(audio, np.zeros(late, dtype=audio.dtype)), [1, 8, 1000, 4097])
    return np.concatenate([stream.process(part) for part in parts])[late:]


@pytest.mark.parametrize("model", STREAMED, ids=lambda model: type(model).__name__)
def test_blocks_give_what_the_whole_gives(model, programme):
    audio = programme(3, 0.7)
    expected = model.process(audio, RATE, **AT)
    found = by_blocks(model, audio, **AT)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("taps", [1, 3, 33])
def test_a_filter_gives_in_blocks_what_it_gives_of_the_whole(filtered_recordings, programme, taps):
    def device(audio: np.ndarray) -> np.ndarray:
        return (0.7 * shifted(audio, -1) + 0.1 * shifted(audio, 1)).astype(np.float32)

    model = Filtered(Published(), filtered_recordings({(0, 50): device}), taps)
    audio = programme(3, 0.7)
    assert model.stream(RATE, **AT).latency_samples == taps // 2
    np.testing.assert_allclose(by_blocks(model, audio, **AT), model.process(audio, RATE, **AT), atol=1e-7)
    twice = Filtered(model, filtered_recordings({(0, 50): device}), taps)
    found, expected = by_blocks(twice, audio, **AT), twice.process(audio, RATE, **AT)
    assert twice.stream(RATE, **AT).latency_samples == 2 * (taps // 2)
    kept = slice(taps // 2, len(audio) - taps // 2)  # in a stream the outer filter hears the inner one's ends, too
    np.testing.assert_allclose(found[kept], expected[kept], atol=1e-6)


def test_what_takes_the_whole_has_no_stream(filtered_recordings, known_unit):
    assert ConditionedLSTM(44100).stream(RATE, **AT) is None
    assert Filtered(known_unit, filtered_recordings({(0, 50): lambda x: x}, seconds=2.0), 1).stream(RATE, **AT) is None


def test_published_streams_say_nothing_below_forty():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Published().stream(RATE, compress_or_limit=0, peak_reduction=20)


def test_published_says_nothing_below_forty(programme):
    """Where the table is held the model warns; in a table of scores that is known."""
    audio = programme(4, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low = Published().process(audio, RATE, compress_or_limit=1, peak_reduction=5)
    with pytest.warns(UserWarning, match="the setting at 40 is held"):
        assert np.array_equal(low, la.load("published").process(audio, RATE, compress_or_limit=1, peak_reduction=5))


def test_published_has_five_numbers_a_setting():
    """Threshold, ratio, attack, release and make-up; the knee is hard by construction."""
    assert Published().info == {"parameters": 26 * 5}


def test_numpy_single_ignores_the_controls(programme):
    model, audio = NumpyCompressor(threshold_db=-30.0), programme(4, 0.1)
    first = model.process(audio, RATE, compress_or_limit=0, peak_reduction=0)
    assert np.array_equal(first, model.process(audio, RATE, compress_or_limit=1, peak_reduction=100))


def test_numpy_single_is_as_good_as_one_setting_can_be(tmp_path, record, truth, makeup_db):
    """All recordings were made at one setting, whatever their names say: it finds that one."""
    record(tmp_path, "Train", 1, (0, 50), 3.0, truth=(1, 65))
    record(tmp_path, "Train", 2, (1, 80), 3.0, truth=(1, 65))
    record(tmp_path, "Test", 3, (0, 70), 2.0, truth=(1, 65))
    frame = la.index(tmp_path)
    model = numpy_single(frame, budget_s=1.0)
    assert model.threshold_db == pytest.approx(truth[1, 65]["threshold_db"], abs=0.3)
    assert model.ratio == pytest.approx(truth[1, 65]["ratio"], rel=0.05)
    assert model.makeup_db == pytest.approx(makeup_db, abs=0.2)
    assert model.info["parameters"] == 6
    assert model.info["converged"] is True
    assert model.info["seed"] == 0
    assert la.evaluate({"it": model}, frame)["esr_dc_filtered"].item() < 1e-4


def test_nearest_setting_knows_the_settings_it_was_fitted_to(frame, programme):
    model = nearest_setting(frame, budget_s=1.0)
    assert model.info["settings_seen"] == [(0, 50), (1, 65)]
    audio = programme(4, 0.25)
    near, at = (model.process(audio, RATE, compress_or_limit=1, peak_reduction=k) for k in (90, 65))
    assert np.array_equal(near, at)


def test_lstm_has_the_weights_it_says():
    """4 · 32 rows of 3 + 32 weights and torch's two biases, and a read-out of 32 + 1."""
    module = ConditionedLSTM(RATE)
    assert module.info["parameters"] == 4 * 32 * (3 + 32) + 2 * 4 * 32 + 33 == 4769
    assert "4,769" in inspect.getdoc(ConditionedLSTM)


def test_lstm_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    one, same, other = (ConditionedLSTM(RATE, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_lstm_hears_switch_and_knob(programme):
    module, audio = ConditionedLSTM(RATE), programme(2, 0.1)
    outputs = [
        module.process(audio, RATE, compress_or_limit=switch, peak_reduction=knob)
        for switch, knob in ((0, 50), (1, 50), (0, 60))
    ]
    assert not np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_lstm_blocks_carry_the_state(programme):
    """12 s at 100 Hz are two blocks; together they are one pass, apart they aren't."""
    module, audio = ConditionedLSTM(100), programme(2, 0.15)
    assert len(audio) == 1200
    batch = {
        "raw": torch.from_numpy(audio[None]),
        "compress_or_limit": torch.tensor([1.0]),
        "peak_reduction": torch.tensor([65.0]),
    }
    with torch.no_grad():
        whole = module(batch)[0][0].numpy()
    output = module.process(audio, 100, compress_or_limit=1, peak_reduction=65)
    np.testing.assert_allclose(output, whole, atol=1e-6)
    second = module.process(audio[600:], 100, compress_or_limit=1, peak_reduction=65)
    assert np.abs(second[:50] - whole[600:650]).max() > 1e-4


def test_lstm_rows(programme):
    module = ConditionedLSTM(RATE)
    audio = np.stack([programme(s, 0.1) for s in (1, 2)])
    both = module.process(audio, RATE, **AT)
    assert both.shape == audio.shape
    assert both.dtype == np.float32
    np.testing.assert_allclose(both[1], module.process(audio[1], RATE, **AT), atol=1e-6)


@pytest.mark.parametrize(("rate", "frames"), [(48000, 4800), (48000, 4801), (96000, 777), (32000, 1)])
def test_lstm_at_another_rate_keeps_the_length(rate, frames):
    audio = np.sin(2 * np.pi * 440.0 * np.arange(frames) / rate).astype(np.float32)
    module = ConditionedLSTM(44100)
    with torch.no_grad():  # nothing added: what is left is the way there and back
        module.read_out.weight.zero_()
        module.read_out.bias.zero_()
    output = module.process(audio, rate, **AT)
    assert output.shape == audio.shape
    if frames > 4000:
        np.testing.assert_allclose(output[500:-500], audio[500:-500], atol=5e-3)


def test_lstm_learns(frame):
    """A short budget on a few seconds of audio: better than at its start, and it says that it isn't done."""
    start = ConditionedLSTM(RATE, seed=1)
    trained = lstm_32(frame, budget_s=2.0, seed=1)
    watched = SegmentDataset(frame[frame["split"] == "val"], 3.0, 1.0)
    batches = list(torch.utils.data.DataLoader(watched, 1))
    assert validation_error(trained, batches) < 0.8 * validation_error(start, batches)
    assert trained.info["converged"] is False
    assert trained.info["settings_seen"] == [(0, 50), (1, 65)]
    assert trained.info["parameters"] == 4769
    assert trained.info["seed"] == 1
    assert trained.info["budget_s"] == 2.0
    assert trained.info["train_seconds"] >= 2.0
    assert not trained.training


def test_lstm_without_rows_to_train_on(frame):
    with pytest.raises(ValueError, match="frame"):
        lstm_32(frame[frame["split"] == "test"], budget_s=1.0)


def test_registered_names():
    assert baseline_names() == NAMES
    assert set(PROTOCOL_ROWS) < set(DEMO_ROWS) < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_entry_points_load(name):
    (point,) = entry_points(group=ENTRY_POINT_GROUP, name=name)
    build = point.load()
    assert callable(build)
    assert inspect.getdoc(build)
    options = inspect.signature(build).parameters
    for option in ("budget_s", "seed", "progress", "folder"):
        assert option in options or any(p.kind is p.VAR_KEYWORD for p in options.values())
    assert ("folder" in options) == (name in TRAINED)


@pytest.mark.slow
def test_all_baselines_are_built_and_scored(frame):
    models = build_baselines(frame, NAMES, budget_s=0.5, seeds=[2])
    scored = la.evaluate(models, frame)
    assert len(scored) == 2 * len(NAMES)
    assert np.isfinite(scored["esr_dc_filtered"]).all()
    told = scored.drop_duplicates("model").set_index("model")
    published = Published().info["parameters"]
    assert told["parameters"].to_dict() == {
        "dasp": 133,
        "identity": 0,
        "identity-filter": 2 * (FILTER_TAPS + 1),
        "lstm-32": 4769,
        "nearest-setting": 2 * 13,
        "numpy-single": 6,
        "optical-cell": 32,
        "published-filter": published + 2 * (FILTER_TAPS + 1),
        "published-gain": published + 2,
        "tcn-300-c": 50737,
        "tcn-small": 16209,
    }
    for name in (*TRAINED, "nearest-setting", "optical-cell"):
        assert told.loc[name, "seed"] == 2
    for name in (*TRAINED, "nearest-setting", "numpy-single", "optical-cell"):
        assert told.loc[name, "train_seconds"] > 0


def test_numpy_single_says_its_seed(frame):
    assert numpy_single(frame, budget_s=1.0, seed=2).info["seed"] == 2


def test_numpy_single_finishes(frame):
    """At its best single setting it has nothing more to learn; recordings of two settings keep its error up."""
    assert numpy_single(frame, budget_s=60.0).info["converged"] is True


@pytest.mark.slow
def test_baselines_see_only_training_and_validation_rows(frame):
    """The same without the test rows."""
    names = [name for name in NAMES if name not in (*TRAINED, "numpy-single")]
    train_only = frame[frame["split"] == "train"]
    one, other = (build_baselines(rows, names, budget_s=1.0) for rows in (frame, train_only))
    timed = ["real_time_factor", "train_seconds"]
    first, second = (la.evaluate(models, frame).drop(columns=timed) for models in (one, other))
    pd.testing.assert_frame_equal(first, second)


def test_unknown_name(frame):
    with pytest.raises(ValueError, match=r"models: expected some of dasp, identity, .*, got magic, more magic"):
        build_baselines(frame, ["identity", "magic", "more magic"], budget_s=1.0)


# Other units


@pytest.mark.slow
def test_all_but_the_published_and_the_cell_are_built_for_a_unit_with_two_knobs(strip, tmp_path):
    frame = strip.record(tmp_path, [(1, 2.0, 0.2), (3, 8.0, 0.9), (3, 2.0, 0.2)], 4.0).assign(
        split=["train", "train", "test"]
    )
    names = suitable(NAMES, strip.controls)
    assert sorted(set(NAMES) - set(names)) == ["optical-cell", "published-filter", "published-gain"]  # two knobs
    assert suitable(NAMES, LA2A_CONTROLS) == NAMES
    frame = la.read_frame(frame, strip.controls)
    models = build_baselines(frame, names, controls=strip.controls, budget_s=0.5)
    scored = la.evaluate(models, frame, controls=strip.controls).set_index("model")
    assert np.isfinite(scored["esr_dc_filtered"]).all()
    assert scored.loc["lstm-32", "parameters"] == 4769 + 4 * 32 * (5 - 2)  # three inputs for the switch
    assert models["identity-filter"][0].info["settings_seen"] == [(1, 2.0, 0.2), (3, 8.0, 0.9)]
    assert models["nearest-setting"][0].info["settings_seen"] == [(1, 2.0, 0.2), (3, 8.0, 0.9)]


def test_the_nearest_filter_is_of_the_same_switch_position(strip, tmp_path, programme):
    """By the rule that a table of parameters follows, ddsp_la2a.controls.distances."""
    frame = strip.record(tmp_path, [(1, 2.0, 0.2), (3, 8.0, 0.9), (3, 5.0, 0.0)], 2.0)
    model = Filtered(Identity(), frame, 1, strip.controls)
    audio = programme(3, 0.25)
    nearest = {(3, 2.0, 0.2): (3, 5.0, 0.0), (3, 10.0, 0.5): (3, 8.0, 0.9), (1, 9.0, 0.9): (1, 2.0, 0.2)}
    for at, setting in nearest.items():
        output = model.process(audio, RATE, **dict(zip(("speed", "drive", "ratio"), at, strict=True)))
        np.testing.assert_allclose(output, model.filters[setting][0] * audio, rtol=1e-6)


@pytest.mark.parametrize("name", ["published-gain", "published-filter"])
def test_the_published_parameters_are_the_la2a_s(strip, strip_frame, name):
    message = r"^published: expected the LA-2A's controls, got speed=switch:1:3, drive=0:10, ratio=0:1; leave"
    with pytest.raises(ValueError, match=message):
        build_baselines(strip_frame, [name], controls=strip.controls, budget_s=1.0)


def test_lstm_hears_every_control(strip, programme):
    module, audio = ConditionedLSTM(RATE, controls=strip.controls), programme(2, 0.1)
    settings = [(1, 5.0, 0.5), (2, 5.0, 0.5), (3, 5.0, 0.5), (1, 6.0, 0.5), (1, 5.0, 0.6)]
    outputs = [
        module.process(audio, RATE, **dict(zip(("speed", "drive", "ratio"), setting, strict=True)))
        for setting in settings
    ]
    assert len({output.tobytes() for output in outputs}) == len(settings)


def test_what_hears_the_controls_needs_them_all(filtered_recordings, programme):
    filtered = Filtered(Identity(), filtered_recordings({(0, 50): lambda x: x}, seconds=2.0), 1)
    for model in (filtered, ConditionedLSTM(RATE), Published()):
        with pytest.raises(ValueError, match=r"controls: expected .* compress_or_limit, peak_reduction, got drive"):
            model.process(programme(1, 0.1), RATE, drive=5)
