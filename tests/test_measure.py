"""What is measured, against compressors whose parameters are known, and against what isn't there to be measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import signal

import ddsp_la2a as la
from baselines.numpy_compressor import compressor, static_gain_db
from ddsp_la2a.evaluation import readings, tones
from ddsp_la2a.evaluation.measure import (
    MEASURED,
    measure,
    measure_recording,
    measure_traced,
    measured_curves,
    static_curve,
    step_response,
    tone_signal,
)
from ddsp_la2a.evaluation.traces import steps_table
from ddsp_la2a.simulated_unit.unit import SimulatedLA2A

LN9 = math.log(9.0)
SETTINGS = {
    "soft": {
        "threshold_db": -20.0,
        "ratio": 4.0,
        "knee_db": 6.0,
        "attack_ms": 5.0,
        "release_ms": 250.0,
        "makeup_db": 3.0,
    },
    "hard": {"threshold_db": -30.3, "ratio": 2.0, "knee_db": 0.0, "attack_ms": 1.0, "release_ms": 1000.0},
    "wide": {"threshold_db": -25.0, "ratio": 8.0, "knee_db": 12.0, "attack_ms": 30.0, "release_ms": 100.0},
}


class Reference:
    """The oracle in numpy."""

    def __init__(self, **parameters: float) -> None:
        self.parameters = parameters

    def process(self, audio: np.ndarray, sample_rate: float) -> np.ndarray:
        return compressor(audio, sample_rate, **self.parameters).output


class Fast:
    """The package's compressor, stages and all."""

    def __init__(self, **parameters: Any) -> None:
        self.params = la.CompressorParams(**parameters)

    def process(self, audio: np.ndarray, sample_rate: float) -> np.ndarray:
        return la.compressor(torch.from_numpy(audio)[None], self.params, sample_rate)[0].numpy()


class Through:
    """Anything that is done to the audio as a whole."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.function = function

    def process(self, audio: np.ndarray, sample_rate: float, **positions: float) -> np.ndarray:
        return self.function(audio)


@pytest.fixture(autouse=True)
def _single(one_thread: Iterator[None]) -> None:
    pass


def threshold_of_1_db(threshold_db: float, ratio: float, knee_db: float) -> float:
    """Where the quadratic knee has taken 1 dB, solved by hand."""
    slope = 1.0 - 1.0 / ratio
    if knee_db <= 2.0 / slope:
        return threshold_db + 1.0 / slope
    return threshold_db - 0.5 * knee_db + math.sqrt(2.0 * knee_db / slope)


@pytest.mark.parametrize(
    ("name", "rate"), [("soft", 8000), ("soft", 44100), ("hard", 22050), ("wide", 11025), ("wide", 16000)]
)
def test_a_square_gives_back_the_parameters(name: str, rate: int) -> None:
    truth = SETTINGS[name]
    found = measure(Reference(**truth), rate, waveform="square")
    assert found["not_measured"] == ""
    assert found["low_level_gain_db"] == pytest.approx(truth.get("makeup_db", 0.0), abs=1e-4)
    expected = threshold_of_1_db(truth["threshold_db"], truth["ratio"], truth["knee_db"])
    assert found["threshold_1db_dbfs"] == pytest.approx(expected, abs=0.02)
    assert found["ratio_measured"] == pytest.approx(truth["ratio"], rel=2e-3)
    assert found["knee_width_db"] == pytest.approx(truth["knee_db"], abs=0.02 if truth["knee_db"] else 1.0)
    assert found["knee_centre_dbfs"] == pytest.approx(truth["threshold_db"], abs=0.05)
    assert found["knee_error_db"] < 0.01
    assert found["attack_10_90_ms"] == pytest.approx(truth["attack_ms"], rel=0.02)
    for passage in ("short", "long"):
        t50, t90 = (found[f"release_{share}_{passage}_ms"] for share in (50, 90))
        assert t50 == pytest.approx(truth["release_ms"] * math.log(2.0) / LN9, rel=0.005, abs=0.1)
        assert t90 == pytest.approx(truth["release_ms"] * math.log(10.0) / LN9, rel=0.005, abs=0.1)


def settled_gain_db(level_db: float, truth: dict[str, float], rate: float, period: int) -> float:
    """Where attack and release balance over a period of a sine, by bisection."""
    attack, release = (1.0 - math.exp(-LN9 * 1000.0 / (truth[n] * rate)) for n in ("attack_ms", "release_ms"))
    sine = np.abs(np.sin(2.0 * np.pi * np.arange(period) / period))
    heard_db = level_db + 20.0 * np.log10(np.maximum(sine, 1e-9))
    target = 10.0 ** (static_gain_db(heard_db, truth["threshold_db"], truth["ratio"], truth["knee_db"]) / 20.0)
    low, high = float(target.min()), 1.0
    for _ in range(60):
        gain = 0.5 * (low + high)
        down = attack * np.maximum(gain - target, 0.0).sum() - release * np.maximum(target - gain, 0.0).sum()
        low, high = (low, gain) if down > 0.0 else (gain, high)
    return 20.0 * math.log10(gain)


@pytest.mark.parametrize(("name", "rate", "tolerance_db"), [("soft", 16000, 0.03), ("hard", 44100, 0.01)])
def test_a_sine_settles_where_attack_and_release_balance(name: str, rate: int, tolerance_db: float) -> None:
    truth = SETTINGS[name]
    curve = static_curve(Reference(**truth), rate)
    period = tones.levels(rate, "sine").period
    makeup = truth.get("makeup_db", 0.0)
    for level, output in curve.to_numpy()[::3]:
        expected = level + makeup + settled_gain_db(level, truth, rate, period)
        assert output == pytest.approx(expected, abs=tolerance_db)


def test_what_the_module_says_of_a_sine() -> None:
    """The table in its docstring: threshold and ratio of a hard knee with a ratio of 4."""
    levels = np.linspace(-60.0, 0.0, 241)
    for balance, higher, ratio in ((200.0, 0.1, 3.9), (50.0, 0.2, 3.7), (10.0, 0.6, 3.3), (1.0, 2.5, 2.3)):
        truth = {"threshold_db": -30.0, "ratio": 4.0, "knee_db": 0.0, "attack_ms": 1e4, "release_ms": 1e4 * balance}
        gain = np.array([settled_gain_db(level, truth, 44100.0, 400) for level in levels])
        threshold = float(np.interp(1.0, -gain, levels))
        assert threshold - (-30.0 + 4.0 / 3.0) == pytest.approx(higher, abs=0.06)
        line = (levels >= threshold + 6.0) & (levels <= threshold + 18.0)
        assert 1.0 / np.polyfit(levels[line], (levels + gain)[line], 1)[0] == pytest.approx(ratio, abs=0.06)


def test_a_threshold_below_the_quiet_level() -> None:
    """The unit is back from it before the static curve begins, though slow to release."""
    truth = {"threshold_db": -45.0, "ratio": 3.0, "knee_db": 8.0, "attack_ms": 5.0, "release_ms": 1500.0}
    found = measure(Fast(**truth), 16000, waveform="square")
    assert found["threshold_1db_dbfs"] == pytest.approx(threshold_of_1_db(-45.0, 3.0, 8.0), abs=0.02)
    assert found["knee_width_db"] == pytest.approx(8.0, abs=0.05)
    assert found["release_90_long_ms"] == pytest.approx(1500.0 * math.log(10.0) / LN9, rel=0.005)


def test_attack_on_a_sine_is_that_of_the_gain() -> None:
    """Against the gain that the reference itself tells, averaged over the phases at which a passage may begin."""
    truth, rate, period = SETTINGS["soft"], 48000, 48
    gains = []
    for phase in range(0, period, 4):
        sine = np.sin(2.0 * np.pi * (np.arange(rate) + phase) / period)
        level = np.where(np.arange(rate) < rate // 2, 0.01, 10.0 ** (-6.0 / 20.0))
        gains.append(compressor(level * sine, rate, **truth).gain[rate // 2 :])
    gain = np.mean(gains, axis=0)
    way = (1.0 - gain) / (1.0 - gain[-period * 20 :].mean())
    expected = (np.argmax(way >= 0.9) - np.argmax(way >= 0.1)) * 1000.0 / rate
    assert expected > 1.5 * truth["attack_ms"]
    assert measure(Reference(**truth), rate)["attack_10_90_ms"] == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("waveform", ["sine", "square"])
def test_a_second_cell_is_heard_after_a_long_passage(waveform: Any) -> None:
    plain = {**SETTINGS["soft"], "attack_ms": 10.0, "release_ms": 150.0}
    found = measure(Fast(**plain, slow_factor=12.0, slow_mix=0.4), 16000, waveform=waveform)
    assert found["release_90_long_ms"] > 1.25 * found["release_90_short_ms"]
    assert found["release_50_long_ms"] > 1.1 * found["release_50_short_ms"]
    # Closed form: two one-poles, both fully charged.
    time = np.linspace(0.0, 3.0, 30001)
    left = sum(share * np.exp(-LN9 * time / (0.15 * factor)) for share, factor in ((0.6, 1.0), (0.4, 12.0)))
    for share in (50, 90):
        expected = 1000.0 * time[np.argmax(left <= 1.0 - share / 100.0)]
        assert found[f"release_{share}_long_ms"] == pytest.approx(expected, rel=0.01)
    without = measure(Fast(**plain), 16000, waveform=waveform)
    assert without["release_90_long_ms"] == pytest.approx(without["release_90_short_ms"], rel=0.01)


def coloured(output: np.ndarray) -> np.ndarray:
    """Turned over, 3.3 ms late, through coupling capacitors at 10 Hz and a fall above 15 kHz; unit gain at 1 kHz."""
    b, a = signal.butter(1, 10.0, "highpass", fs=44100)
    output = signal.lfilter([0.1, 0.8, 0.1], [1.0], signal.lfilter(b, a, output))
    return -np.concatenate([np.zeros(146), output])[: len(output)]


def test_a_feedback_detector_has_the_ratio_of_its_loop() -> None:
    truth = {**SETTINGS["hard"], "threshold_db": -30.0, "ratio": 4.0, "attack_ms": 8.0}
    found = measure(Fast(**truth, feedback=True), 16000, waveform="square")
    assert found["ratio_measured"] == pytest.approx(4.0, rel=1e-3)
    assert found["threshold_1db_dbfs"] == pytest.approx(-30.0 + 4.0 / 3.0, abs=0.02)
    assert 8.0 / 4.0 < found["attack_10_90_ms"] < 8.0  # near its rest the loop is four times faster, far from it not


def test_the_simulated_unit_releases_as_its_data_sheet_says() -> None:
    """Simulated: half of the gain is back at once after a short passage, the rest takes seconds after a long one."""

    class Unit:
        def process(self, audio: np.ndarray, sample_rate: float, **positions: int) -> np.ndarray:
            return SimulatedLA2A().record(audio, sample_rate, **positions)

    found = measure(Unit(), 16000, compress_or_limit=0, peak_reduction=65)
    assert found["not_measured"] == ""
    assert found["release_50_short_ms"] < 100.0
    assert found["release_90_long_ms"] > 1000.0
    assert found["release_50_long_ms"] > 2.0 * found["release_50_short_ms"]
    assert 2.0 < found["ratio_measured"] < 10.0


def test_latency_polarity_and_colour_do_not_matter() -> None:
    model = Fast(**SETTINGS["soft"])
    plain = measure(model, 44100)
    behind = measure_recording(coloured(model.process(tone_signal(44100), 44100)), 44100)
    for name in ("low_level_gain_db", "threshold_1db_dbfs", "knee_width_db", "knee_centre_dbfs"):
        assert behind[name] == pytest.approx(plain[name], abs=0.03)
    assert behind["ratio_measured"] == pytest.approx(plain["ratio_measured"], rel=1e-3)
    assert behind["attack_10_90_ms"] == pytest.approx(plain["attack_10_90_ms"], abs=0.25)
    for name in MEASURED[-4:]:
        assert behind[name] == pytest.approx(plain[name], rel=0.01, abs=0.5)


@pytest.mark.parametrize("late_ms", [-4.0, 40.0])
def test_a_recording_cut_a_little_early_or_late(late_ms: float) -> None:
    rate, late = 16000, round(16.0 * late_ms)
    model = Fast(**SETTINGS["soft"])
    output = model.process(tone_signal(rate), rate)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(len(output) + abs(late))
    noise[max(late, 0) :][: len(output)] += output
    cut = noise[max(-late, 0) :][: len(output)]
    found, plain = measure_recording(cut, rate), measure(model, rate)
    assert found["not_measured"] == ""
    for name in MEASURED:
        assert found[name] == pytest.approx(plain[name], rel=0.03, abs=0.1)


@pytest.mark.parametrize(("before_s", "after_s"), [(0.0, 0.0), (0.013, 0.0), (3.21, 5.0), (-0.02, 0.01)])
@pytest.mark.parametrize("name", ["soft", "limiter", "idle"])
def test_the_tone_is_found_in_a_recording(name: str, before_s: float, after_s: float) -> None:
    """Whenever the recorder ran, through noise at −60 dBFS, and whatever is left of the steps."""
    limiter = {"threshold_db": -45.0, "ratio": 50.0, "knee_db": 0.0, "attack_ms": 0.1, "release_ms": 50.0}
    idle = {**SETTINGS["soft"], "threshold_db": 0.0}
    rate = 16000
    output = Fast(**{**SETTINGS, "limiter": limiter, "idle": idle}[name]).process(tone_signal(rate), rate)
    before, after = round(before_s * rate), round(after_s * rate)
    recording = np.pad(output, (max(before, 0), after))[max(-before, 0) :]
    recording += 1e-3 * np.random.default_rng(0).standard_normal(len(recording))
    found = tones.cut_to_tone(recording, rate)
    assert len(found) == len(output)
    step = 16 * tones.passages(rate, "sine").passages[tones.LONG].start
    stretch = slice(step - 1600, step + 1600)
    apart = [np.square(found[stretch] - np.roll(output, late)[stretch]).sum() for late in range(-160, 320)]
    late = int(np.argmin(apart)) - 160
    assert (late == 0) if before_s == 0.0 else (0 <= late <= 192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda audio: audio[:1000], "all of the test signal, at least 68.5 s, got 0.1 s; record it to its end"),
        (lambda audio: audio[:0], "at least 68.5 s, got 0.0 s"),
        (lambda audio: np.pad(audio[24000:], (0, 48000)), "got a recording that lacks 3.01 s at its beginning"),
        (lambda audio: np.pad(audio[:-8000], (16000, 0)), "got a recording that lacks 0.99 s at its end"),
        (np.zeros_like, "found none of its steps"),
        (lambda audio: np.random.default_rng(0).standard_normal(len(audio)), "found none of its steps"),
        (lambda audio: np.repeat(audio, 2), "found none of its steps"),
    ],
    ids=["short", "empty", "beginning", "end", "silent", "noise", "another rate"],
)
def test_recordings_without_the_whole_tone(change: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tones.cut_to_tone(change(tone_signal(8000)), 8000)


def test_a_recording_is_measured_as_a_model_is() -> None:
    model = Fast(**SETTINGS["hard"])
    assert measure_recording(model.process(tone_signal(8000).astype(np.float32), 8000), 8000) == measure(model, 8000)


@pytest.mark.parametrize(("gain", "gain_db"), [(1.0, 0.0), (-0.5, -6.0206)])
def test_where_nothing_is_compressed(gain: float, gain_db: float) -> None:
    found = measure(Through(lambda audio: gain * audio), 8000)
    assert found["low_level_gain_db"] == pytest.approx(gain_db, abs=1e-4)
    assert all(math.isnan(found[name]) for name in MEASURED[1:])
    assert "threshold_1db_dbfs: no gain reduction of 1 dB up to 0 dBFS" in found["not_measured"]
    assert "attack_10_90_ms, release_50_short_ms, " in found["not_measured"]
    assert "the loud passage reduces the gain by less than 1 dB" in found["not_measured"]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (np.zeros_like, "the output is silent"),
        (lambda audio: np.full_like(audio, np.nan), "the output isn't finite"),
        (lambda audio: np.where(np.arange(len(audio)) == 9, np.inf, audio), "the output isn't finite"),
    ],
    ids=["silent", "nan", "inf"],
)
def test_where_there_is_no_output(function: Callable[[np.ndarray], np.ndarray], reason: str) -> None:
    found = measure(Through(function), 8000)
    assert all(math.isnan(found[name]) for name in MEASURED)
    assert found["not_measured"] == f"{', '.join(MEASURED)}: {reason}"
    response = step_response(Through(function), 8000)
    assert np.isfinite(response["time_s"]).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda audio: np.random.default_rng(0).standard_normal(len(audio)),
        np.ones_like,
        lambda audio: np.abs(audio),
        lambda audio: np.where(np.arange(len(audio)) < 100, audio, 0.0),
    ],
    ids=["noise", "constant", "rectified", "stops"],
)
def test_an_output_without_the_tone(function: Callable[[np.ndarray], np.ndarray]) -> None:
    found = measure(Through(function), 8000)
    assert all(math.isnan(found[name]) for name in MEASURED)
    assert "attack_10_90_ms, release_50_short_ms, " in found["not_measured"]
    assert "there is no tone in the output" in found["not_measured"]


def test_an_output_that_starts_elsewhere() -> None:
    found = measure(Through(lambda audio: np.roll(audio, 4000)), 8000)
    assert all(math.isnan(found[name]) for name in MEASURED)
    assert "the output doesn't step up with the input" in found["not_measured"]


def test_what_never_comes_back_is_not_timed() -> None:
    found = measure(Fast(**{**SETTINGS["soft"], "release_ms": 60000.0}), 8000)
    assert found["attack_10_90_ms"] > 0.0
    assert math.isnan(found["release_90_long_ms"])
    assert "release_90_short_ms: not back by 90 % within 5 s" in found["not_measured"]
    assert "release_90_long_ms: not back by 90 % within 10 s" in found["not_measured"]


def test_a_slow_attack_is_not_timed() -> None:
    found = measure(Fast(**{**SETTINGS["soft"], "attack_ms": 600.0}), 8000, waveform="square")
    assert "attack_10_90_ms: it takes longer than 0.25 s" in found["not_measured"]


def at_level(curve: Callable[[float], float]) -> Through:
    """A unit without memory whose output amplitude is a function of the input's, on square waves."""
    return Through(lambda audio: np.sign(audio) * np.vectorize(curve)(np.abs(audio)))


@pytest.mark.parametrize(
    ("curve", "name", "reason"),
    [
        (lambda x: min(x, 0.1) - 0.3 * max(x - 0.3, 0.0), "ratio_measured, knee_width_db", "the static curve falls at"),
        (lambda x: x**0.5, "low_level_gain_db", "the gain still depends on the level at -60 dBFS"),
        (lambda x: min(x, 0.7), "ratio_measured", "full scale lies less than 10 dB above the threshold"),
        (
            lambda x: x * min(max(x, 0.01) / 0.01, 10.0) ** -0.5,
            "knee_width_db",
            "the static curve has no quadratic knee",
        ),
    ],
    ids=["falling", "no linear range", "near full scale", "no knee"],
)
def test_curves_without_such_a_number(curve: Callable[[float], float], name: str, reason: str) -> None:
    found = measure(at_level(curve), 8000, waveform="square")
    assert math.isnan(found[name.split(",")[0]])
    assert any(name in part and reason in part for part in found["not_measured"].split("; "))


def test_a_limiter_has_an_infinite_ratio() -> None:
    found = measure(at_level(lambda x: min(x, 0.1)), 8000, waveform="square")
    assert found["ratio_measured"] == math.inf or found["ratio_measured"] > 1e6
    assert found["threshold_1db_dbfs"] == pytest.approx(-19.0, abs=0.05)
    assert found["attack_10_90_ms"] < 0.5


def test_curves_to_plot() -> None:
    model = Fast(**SETTINGS["soft"])
    curve = static_curve(model, 16000, waveform="square")
    assert list(curve) == ["input_dbfs", "output_dbfs"]
    truth = SETTINGS["soft"]
    expected = curve["input_dbfs"] + static_gain_db(curve["input_dbfs"], *[*truth.values()][:3]) + 3.0
    np.testing.assert_allclose(curve["output_dbfs"], expected, atol=1e-3)
    response = step_response(model, 16000, waveform="square")
    assert list(response) == ["passage", "time_s", "gain_db"]
    for name, length in (("short", 0.05), ("long", 5.0)):
        rows = response[response["passage"] == name]
        assert rows["time_s"].min() == pytest.approx(-0.5, abs=0.002)
        assert rows["time_s"].max() == pytest.approx(length + (5.0 if name == "short" else 10.0), abs=0.002)
        end = rows[(rows["time_s"] < length) & (rows["time_s"] > length - 0.01)]["gain_db"]
        np.testing.assert_allclose(end, 3.0 - 14.0 * 0.75, atol=0.01)
        np.testing.assert_allclose(rows[rows["time_s"] < 0.0]["gain_db"], 3.0, atol=1e-3)
        since = rows[rows["time_s"] > length + 0.004]
        assert since["gain_db"].is_monotonic_increasing
        gain = 10.0 ** ((since["gain_db"] - 3.0) / 20.0)
        left = (1.0 - 10.0 ** (-14.0 * 0.75 / 20.0)) * np.exp(-LN9 * (since["time_s"] - length) / 0.25)
        np.testing.assert_allclose(gain, 1.0 - left, atol=2e-3)


def test_curves_and_numbers_come_from_one_pass() -> None:
    class Counted(Fast):
        passes = 0

        def process(self, audio: np.ndarray, sample_rate: float) -> np.ndarray:
            self.passes += 1
            return super().process(audio, sample_rate)

    model = Counted(**SETTINGS["soft"])
    numbers, curve, steps = measure_traced(model, 16000, waveform="square")
    assert model.passes == 1
    assert numbers == measure(model, 16000, waveform="square")
    np.testing.assert_allclose(curve, static_curve(model, 16000, waveform="square"), atol=1e-3)
    assert list(steps) == ["level_step", "time_s", "tone_gain_db"]
    assert len(steps) < 300
    loud = 10.0 ** (-14.0 * 0.75 / 20.0)
    ends = {"up": (0.0, 5.0), "back after short": (0.003, 5.0), "back after long": (0.003, 10.0)}
    assert list(steps["level_step"].unique()) == list(ends)
    for step, (begin, end) in ends.items():
        rows = steps[steps["level_step"] == step]
        assert rows["time_s"].iloc[0] == pytest.approx(begin + 0.0005)
        assert rows["time_s"].iloc[-1] == pytest.approx(end - 0.0035, abs=0.001)
        gain = 10.0 ** ((rows["tone_gain_db"] - 3.0) / 20.0)
        time_ms = 5.0 if step == "up" else 250.0
        left = np.exp(-LN9 * 1000.0 * rows["time_s"] / time_ms)
        expected = loud + (1.0 - loud) * (left if step == "up" else 1.0 - left)
        np.testing.assert_allclose(gain, expected, atol=5e-3)


def test_curves_where_there_is_no_output() -> None:
    _, curve, steps = measure_traced(Through(lambda audio: np.full_like(audio, np.nan)), 8000)
    assert curve["output_dbfs"].isna().all()
    assert steps["tone_gain_db"].isna().all()
    assert np.isfinite(steps["time_s"]).all()


def test_one_sample_that_is_not_finite_takes_no_more_of_a_curve_than_is_averaged_with_it() -> None:
    """A second after a step up: what lies within a twentieth of that to either side is gone, and nothing else."""
    part = tones.passages(8000, "sine")
    output = part.audio.copy()
    output[(part.passages[tones.LONG].start + 1000) * part.period] = np.nan
    steps = steps_table(output, part, 8000)
    gone = steps[steps["tone_gain_db"].isna()]
    assert set(gone["level_step"]) == {"up"}
    assert gone["time_s"].between(0.94, 1.07).all()
    np.testing.assert_allclose(steps["tone_gain_db"].dropna(), 0.0, atol=1e-6)


def test_why_numbers_are_missing_comes_back_from_its_words() -> None:
    reasons = dict.fromkeys(MEASURED, "") | {"ratio_measured": "no threshold", "attack_10_90_ms": "0.3 dB, or less"}
    reasons |= {"knee_width_db": "no threshold"}
    text = readings.reasons_in_words(reasons)
    assert text == "ratio_measured, knee_width_db: no threshold; attack_10_90_ms: 0.3 dB, or less"
    assert readings.reasons_by_name(text) == {name: reason for name, reason in reasons.items() if reason}
    assert readings.reasons_by_name("") == {}


def test_models_over_settings() -> None:
    class Knob:
        def process(self, audio: np.ndarray, sample_rate: float, *, threshold: float, mode: int) -> np.ndarray:
            return Fast(**{**SETTINGS["soft"], "threshold_db": threshold}).process(audio, sample_rate)

    table = measured_curves({"knob": Knob(), "nothing": Through(np.copy)}, 8000, threshold=(-30.0, -20.0), mode=1)
    assert isinstance(table, pd.DataFrame)
    assert list(table) == ["model", "threshold", "mode", *MEASURED, "not_measured"]
    assert list(table["model"]) == ["knob", "knob", "nothing", "nothing"]
    assert list(table["threshold"]) == [-30.0, -20.0, -30.0, -20.0]
    assert table["threshold_1db_dbfs"][1] - table["threshold_1db_dbfs"][0] == pytest.approx(10.0, abs=0.05)
    assert table["threshold_1db_dbfs"][2:].isna().all()
    with pytest.raises(ValueError, match="models: expected at least one"):
        measured_curves({}, 8000)


def test_the_published_model_has_sensible_numbers() -> None:
    with torch.no_grad():
        model = la.load("published")
    found = measured_curves({"published": model}, 16000, compress_or_limit=1, peak_reduction=(50, 70, 90))
    assert found["threshold_1db_dbfs"].is_monotonic_decreasing
    learned = model.curves(compress_or_limit=1, peak_reduction=(50, 70, 90))
    assert (found["threshold_1db_dbfs"] - learned["threshold_db"]).between(1.0, 2.5).all()
    np.testing.assert_allclose(found["low_level_gain_db"], learned["makeup_db"], atol=0.01)
    np.testing.assert_allclose(found["release_90_long_ms"], learned["release_ms"] * math.log(10.0) / LN9, rtol=0.02)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000.0])
def test_the_tone(rate: float) -> None:
    audio = tone_signal(rate)
    period = tones.passages(rate, "sine").period
    assert period % 4 == 0
    assert 900.0 <= rate / period <= 1100.0
    assert np.abs(audio).max() == 1.0
    assert len(audio) / rate == pytest.approx(68.55, abs=0.1)
    square = tone_signal(rate, "square")
    assert square.sum() == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(np.abs(square).max(), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tone_signal(4000), r"sample_rate: expected at least 8000 Hz, got 4000"),
        (lambda: tone_signal(math.nan), r"sample_rate: expected at least 8000 Hz, got nan"),
        (lambda: tone_signal(8000, "triangle"), r"waveform: expected sine or square, got 'triangle'"),
        (lambda: la.Control("waveform"), r"control: expected a name of its own, got waveform"),
        (lambda: measure_recording(np.zeros(100), 8000), r"output: expected the shape of the test signal"),
        (lambda: measure(Through(lambda a: a[:-1]), 8000), r"model: expected output of shape"),
        (lambda: measure(la.load("published"), 8000), r"controls: expected a position for each of"),
    ],
    ids=["rate", "nan", "waveform", "control", "length", "shape", "positions"],
)
def test_mistakes_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
