"""Fits of one optical cell to recordings of one whose constants are known, and everything such a model goes into.

All simulated: the cell that is fitted is the one that was recorded. What hardware leaves is another matter.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from commands import Ran

import ddsp_la2a as la
from ddsp_la2a import compare
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.evaluation import figures, measure
from ddsp_la2a.fitting import optical
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.fitting.gradient import AdamSettings
from ddsp_la2a.fitting.joint import Joint
from ddsp_la2a.fitting.passes import Passes
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.model.control_net import ParameterTable
from ddsp_la2a.model.parameters import CELL, INPUT_TAP, MAKEUP, SIDECHAIN_GAIN, TAPS, TRAPS
from ddsp_la2a.model.stages import HARDWARE, PLAIN, AnyStages, CellStages
from ddsp_la2a.model.taper import Taper
from ddsp_la2a.simulated_unit.programme import render_programme

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 22050
FAMILY = "optical-cell"
BARE = CellStages(output_filter=False, traps=False)
TRAPPED = CellStages(output_filter=False)

CONSTANTS = {
    "highpass_hz": 40.0,
    "drive_limit": 20.0,
    "light_exponent": 8.0,
    "light_ms": 0.8,
    "recombination_per_s": 25.0,
    "pair_recombination_per_s": 4.0,
    "largest_reduction_db": 40.0,
    "fast_trap_capture_per_s": 200.0,
    "fast_trap_capacity": 2.0,
    "fast_trap_release_per_s": 6.0,
    "slow_trap_capture_per_s": 4.0,
    "slow_trap_release_per_s": 1.5,
    "makeup_db": 3.0,
    **dict(zip((tap.name for tap in TAPS), (0.02, -0.15, 0.36, -0.1, -0.86), strict=True)),
}
"""None of them where a fit starts; the output filter as one was fitted to a recording at 44.1 kHz."""

NOISE = 1e-4
CLOSE = GaussNewtonSettings(weight_prior_s=1e-6)
"""Next to no prior on the taper: the usual one is made for hours, and of seconds it leaves an error of its own."""

SETTINGS = ((0, 40), (0, 70), (1, 55), (1, 90))
THRESHOLD = (la.Control("threshold", -60.0, -20.0),)


def unit_of(
    stages: CellStages, controls: Sequence[la.Control] = LA2A_CONTROLS, rises: bool = True, tap: float = 0.02
) -> la.GreyBox:
    """A unit whose taper is curved, whose switch adds 1.5 dB and a tap, and whose constants are known."""
    taper = Taper(controls, rises)
    with torch.no_grad():
        taper.weight[:12] = torch.tensor([0.1, 0.2, 0.3, -0.2, 0.1, 0.0, 0.2, -0.3, 0.2, 0.1, 0.0, -0.1])
        if len(taper.weight) > 12:
            of_tap = INPUT_TAP.to_unconstrained(torch.tensor([tap, INPUT_TAP.start], dtype=torch.float64))
            taper.weight[12], taper.weight[13] = 1.5, (of_tap[0] - of_tap[1]) / 3.0
    box = la.GreyBox(taper, stages=stages, sample_rate=RATE)
    values = [torch.tensor(CONSTANTS[p.name], dtype=torch.float64) for p in box.device_parameters]
    with torch.no_grad():
        box.device.copy_(
            torch.stack([p.to_unconstrained(v) for p, v in zip(box.device_parameters, values, strict=True)])
        )
    return box


def record(
    folder: Path,
    unit: la.GreyBox,
    settings: Iterable[Sequence[float]],
    seconds: float,
    noise: float = 0.0,
    takes: Sequence[tuple[str, float]] = (),
) -> pd.DataFrame:
    """A frame of recordings of a unit, each with a programme of its own and, where given, take and gain in dB."""
    rows = []
    for number, setting in enumerate(settings):
        take, gain_db = takes[number] if takes else ("1", 0.0)
        at = dict(zip((control.name for control in unit.controls), setting, strict=True))
        raw = render_programme(seconds, RATE, seed=number, pause_s=0.15 * seconds).astype(np.float32)
        wet = unit.process(raw.astype(np.float64), RATE, **at) * 10.0 ** (gain_db / 20.0)
        wet = wet + noise * np.random.default_rng(number).standard_normal(len(raw))
        paths = [folder / f"{kind} {number}.wav" for kind in ("dry", "wet")]
        for path, audio in zip(paths, (raw, wet), strict=True):
            soundfile.write(path, audio.astype(np.float32), RATE, "FLOAT")
        row = {"track_id": number, "split": "train", "take": take, "source": "simulated", "device": "cell", **at}
        rows.append(row | {"raw_audio_path": paths[0], "processed_audio_path": paths[1]})
    return pd.DataFrame(rows)


def numbers_at(model: la.GreyBox, setting: Sequence[float]) -> dict[str, float]:
    with torch.no_grad():
        return {name: float(value) for name, value in model.params(*setting).numbers().items()}


def row_at(curves: pd.DataFrame, setting: Sequence[float]) -> pd.Series:
    return curves[(curves["compress_or_limit"] == setting[0]) & (curves["peak_reduction"] == setting[1])].iloc[0]


def error_signal_db(model: la.GreyBox, frame: pd.DataFrame) -> float:
    """Error energy over target energy of all rows, dB, heard from the first sample."""
    energies = np.zeros(2)
    for _, row in frame.iterrows():
        raw, wet = (soundfile.read(row[f"{kind}_audio_path"])[0] for kind in ("raw", "processed"))
        at = {control.name: row[control.name] for control in model.controls}
        energies += np.sum((model.process(raw, RATE, **at) - wet) ** 2), np.sum(wet**2)
    return float(10.0 * np.log10(energies[0] / energies[1]))


def refused(message: str, frame: pd.DataFrame, **how: Any) -> None:
    """One clear ValueError, before anything is fitted."""
    with pytest.raises(ValueError, match=message) as caught:
        la.fit(frame, **how)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def bare_frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return record(tmp_path_factory.mktemp("bare"), unit_of(BARE), SETTINGS, 5.0)


@pytest.fixture(scope="module")
def bare(bare_frame: pd.DataFrame) -> la.FitResult:
    """A cell without traps and output filter, and no noise."""
    return la.fit(bare_frame, family=FAMILY, stages=BARE, gauss_newton=CLOSE)


@pytest.fixture(scope="module")
def as_it_comes(bare_frame: pd.DataFrame) -> la.FitResult:
    """The same with the usual prior."""
    return la.fit(bare_frame, family=FAMILY, stages=BARE)


@pytest.fixture(scope="module")
def whole_frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return record(tmp_path_factory.mktemp("whole"), unit_of(CellStages()), SETTINGS, 6.0, NOISE)


@pytest.fixture(scope="module")
def whole(whole_frame: pd.DataFrame) -> la.FitResult:
    """Everything a cell has, and noise of −80 dBFS."""
    return la.fit(whole_frame, family=FAMILY, gauss_newton=CLOSE)


# Recovery


def missed(result: la.FitResult, truth: la.GreyBox) -> dict[tuple[str, Any], tuple[float, float]]:
    """Identifiable constants further than 2 % from the truth, of dB a tenth: truth and what was found."""
    curves, wrong = result.curves(), {}
    for setting in SETTINGS:
        row, expected = row_at(curves, setting), numbers_at(truth, setting)
        for name, value in expected.items():
            allowed = 0.1 if name.endswith("_db") else 0.02 * value + 1e-9
            if row[f"{name}_identifiable"] and not abs(row[name] - value) <= allowed:
                wrong[name, setting] = value, float(row[name])
    return wrong


def outside(result: la.FitResult, truth: la.GreyBox) -> dict[tuple[str, Any], tuple[float, float, float]]:
    """Truth and interval where it doesn't hold the truth, at the fitted settings."""
    curves, wrong = result.curves(), {}
    for setting in SETTINGS:
        row = row_at(curves, setting)
        for name, value in numbers_at(truth, setting).items():
            low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
            if not low - 1e-13 <= value <= high + 1e-13:
                wrong[name, setting] = value, low, high
    return wrong


def identifiable(result: la.FitResult, setting: Sequence[float] = SETTINGS[-1]) -> set[str]:
    row = row_at(result.curves(), setting)
    return {name.removesuffix("_identifiable") for name in row.index if name.endswith("_identifiable") and row[name]}


SURE = {"sidechain_gain_db", "makeup_db", "highpass_hz", "light_exponent", "light_ms", "recombination_per_s"}


def test_constants_without_noise_are_found(bare: la.FitResult) -> None:
    assert bare.converged
    assert not bare.interrupted
    assert missed(bare, unit_of(BARE)) == {}
    assert identifiable(bare) >= SURE | {"pair_recombination_per_s"}


def test_without_noise_nearly_nothing_is_left(bare: la.FitResult, bare_frame: pd.DataFrame) -> None:
    assert bare.history["error"].iloc[-1] < 1e-7
    assert error_signal_db(bare.model, bare_frame) < -65.0


def test_the_usual_prior_draws_a_taper_from_seconds_towards_a_straight_one(
    as_it_comes: la.FitResult, bare: la.FitResult
) -> None:
    """Which is known: the truth is in the intervals."""
    assert as_it_comes.converged
    assert bare.history["error"].iloc[-1] < as_it_comes.history["error"].iloc[-1] < 1e-3
    truth = unit_of(BARE)
    assert float(as_it_comes.model.card.weight.detach().norm()) < float(truth.card.weight.detach().norm())
    assert outside(as_it_comes, truth) == {}


def test_constants_in_noise_are_found(whole: la.FitResult) -> None:
    assert whole.converged
    assert missed(whole, unit_of(CellStages())) == {}
    assert identifiable(whole) >= SURE


def test_in_noise_nothing_else_is_left(whole: la.FitResult, whole_frame: pd.DataFrame) -> None:
    """Rows weigh by their own energy: what is left is the noise over each of them."""
    floor = []
    for path in whole_frame["processed_audio_path"]:
        wet = soundfile.read(path)[0][RATE:]
        floor.append(NOISE**2 / np.mean(wet**2))
    assert whole.history["error"].iloc[-1] == pytest.approx(np.mean(floor), rel=0.05)


def test_the_output_filter_is_found(whole: la.FitResult) -> None:
    found, truth = whole.model.output_filter(), unit_of(CellStages()).output_filter()
    hz = np.geomspace(30.0, 8000.0, 200)
    ratio = np.abs(found.response(hz)) / np.abs(truth.response(hz))
    assert float(np.abs(20.0 * np.log10(ratio)).max()) < 0.1
    assert found.delay_us == pytest.approx(truth.delay_us, abs=0.1)


@pytest.mark.parametrize("which", ["bare", "whole"])
def test_intervals_hold_the_truth(which: str, request: pytest.FixtureRequest) -> None:
    stages = {"bare": BARE, "whole": CellStages()}[which]
    assert outside(request.getfixturevalue(which), unit_of(stages)) == {}


def test_what_recordings_do_not_determine_is_said(tmp_path: Path) -> None:
    """A knob far down and much noise: the side-chain never comes to its limit, nor the cell to its darkest."""
    unit, settings = unit_of(BARE), [(0, 15), (0, 25)]
    result = la.fit(record(tmp_path, unit, settings, 4.0, 1e-3), family=FAMILY, stages=BARE, gauss_newton=CLOSE)
    assert not {"drive_limit", "largest_reduction_db"} & identifiable(result, settings[0])
    assert "makeup_db" in identifiable(result, settings[0])
    row = row_at(result.curves(), settings[0])
    for name, value in numbers_at(unit, settings[0]).items():
        assert row[f"{name}_low"] - 1e-13 <= value <= row[f"{name}_high"] + 1e-13, name
    # The switch was never closed: of its tap nothing is known but the prior.
    limited = row_at(result.curves(), (1, 20))
    assert limited["extrapolated"]
    assert limited["input_tap_high"] > 10.0 * limited["input_tap"]


# Curves


def test_curves_say_how_sure_they_are(whole: la.FitResult) -> None:
    curves = whole.curves()
    names = [SIDECHAIN_GAIN.name, INPUT_TAP.name, MAKEUP.name, *(p.name for p in (*CELL, *TRAPS))]
    for name in names:
        low, value, high = (curves[column] for column in (f"{name}_low", name, f"{name}_high"))
        assert bool(((low <= value + 1e-12) & (value <= high + 1e-12)).all()), name
        assert curves[f"{name}_identifiable"].dtype == bool
    assert not any(tap.name in curves for tap in TAPS)
    assert not curves.isna().any().any()
    assert len(curves) == 2 * 101
    inside = {0: (40, 70), 1: (55, 90)}
    for switch, (low, high) in inside.items():
        part = curves[curves["compress_or_limit"] == switch]
        assert part["extrapolated"].tolist() == [not low <= at <= high for at in part["peak_reduction"]]
        seen = part["peak_reduction"].isin([low, high])
        width = part["sidechain_gain_db_high"] - part["sidechain_gain_db_low"]
        assert width[part["peak_reduction"] == 0].iloc[0] > 2.0 * width[seen].max()
        assert np.diff(part["sidechain_gain_db"]).min() > 0.0
    for name in (MAKEUP.name, *(p.name for p in CELL)):
        assert (curves[name] == curves[name].iloc[0]).all(), name
    tap = curves.groupby("compress_or_limit")["input_tap"]
    assert float(tap.max()[0]) <= 1e-13
    assert float(tap.max()[1]) > 1e-6


def test_what_a_fit_says_of_itself(whole: la.FitResult, tmp_path: Path) -> None:
    info = whole.model.info
    assert info["fit"]["family"] == FAMILY
    assert info["fit"]["stages"] == {"output_filter": True, "traps": True}
    assert info["parameters"] == sum(p.numel() for p in whole.model.parameters()) == 14 + 1 + 7 + 5 + 5
    assert sorted(map(tuple, info["settings_seen"])) == sorted(SETTINGS)
    assert list(whole.history.columns) == ["stage", "seconds", "error"]
    json.dumps(whole.config, allow_nan=False)
    whole.save(tmp_path / "run")
    back = la.load(tmp_path / "run" / "model.safetensors")
    assert back.curves().equals(whole.curves())
    x = render_programme(1.0, RATE, seed=9, pause_s=0.1)
    at = {"compress_or_limit": 1, "peak_reduction": 77.5}
    np.testing.assert_array_equal(back.process(x, RATE, **at), whole.model.process(x, RATE, **at))


def test_the_same_recordings_give_the_same_bits(bare: la.FitResult, bare_frame: pd.DataFrame) -> None:
    again = la.fit(bare_frame, family=FAMILY, stages=BARE, gauss_newton=CLOSE)
    for name, value in bare.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert torch.equal(bare.model.covariance, again.model.covariance)
    assert bare.history["error"].tolist() == again.history["error"].tolist()


# Stages


@pytest.mark.parametrize(
    ("stages", "numbers"),
    [(CellStages(), 18), (TRAPPED, 13), (CellStages(traps=False), 13), (BARE, 8)],
)
def test_a_stage_is_five_numbers(stages: CellStages, numbers: int) -> None:
    assert len(stages.parameters) == numbers == len(la.GreyBox(Taper(), stages=stages).device)


def test_fewer_stages_are_fewer_numbers_of_a_model(bare: la.FitResult, whole: la.FitResult) -> None:
    assert bare.model.info["parameters"] == whole.model.info["parameters"] - 10
    assert not any(p.name in bare.curves() for p in TRAPS)
    assert bare.model.latency == 0
    assert not bare.model.has_one_output_filter
    assert whole.model.has_one_output_filter


# Starts


def fitted_from(frame: pd.DataFrame, stages: CellStages, factors: Sequence[float]) -> Joint:
    """A fit whose constants start at some factors of where they start."""
    recordings = Recordings(frame)
    coordinates = Coordinates(stages, recordings.sample_rate)
    start = []
    turns = itertools.cycle(factors)
    for parameter, at in zip(coordinates.parameters[2:], coordinates.start[2:], strict=True):
        if parameter is MAKEUP or parameter in TAPS:
            start.append(at)
            continue
        value = parameter.start * next(turns)
        if parameter.scale == "linear":
            value = parameter.start + 10.0 * math.log(value / parameter.start)
        inside = min(max(value, 1.02 * parameter.low), 0.98 * parameter.high)
        start.append(float(parameter.to_unconstrained(torch.tensor(inside, dtype=torch.float64))))
    how = {"prior_s": CLOSE.weight_prior_s, "max_steps": 40, "start": np.array(start)}
    passes = Passes("dc", False)
    taper, problem, joint = optical.fit_taper(passes, recordings, coordinates, [Taper()], **how)
    assert taper.rises
    assert joint.minimum.converged
    assert len(problem.device(joint.minimum.point)) == len(start)
    return joint


STARTS = {
    "up and down": (3.0, 1.0 / 3.0),
    "down and up": (1.0 / 3.0, 3.0),
    "all up": (3.0,),
    "mixed": (2.0, 0.5, 1.0, 3.0, 1.0 / 3.0),
}


def noisy_value(result: la.FitResult) -> float:
    return float(result.history["error"].iloc[-1])


@pytest.fixture(scope="module")
def noisy_frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return record(tmp_path_factory.mktemp("noisy"), unit_of(BARE), SETTINGS, 4.0, NOISE)


@pytest.fixture(scope="module")
def from_generic_start(noisy_frame: pd.DataFrame) -> float:
    return fitted_from(noisy_frame, BARE, (1.0,)).minimum.quadratic.value


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTS)
def test_where_a_fit_ends_does_not_hang_on_its_start(
    noisy_frame: pd.DataFrame, from_generic_start: float, name: str
) -> None:
    found = fitted_from(noisy_frame, BARE, STARTS[name])
    assert found.minimum.quadratic.value == pytest.approx(from_generic_start, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTS)
def test_nor_does_a_fit_with_everything(whole_frame: pd.DataFrame, whole: la.FitResult, name: str) -> None:
    joint = fitted_from(whole_frame, CellStages(), STARTS[name])
    recordings = Recordings(whole_frame)
    error = 2.0 * sum(q.value for q in joint.quadratics) / recordings.seconds.sum()
    assert error == pytest.approx(noisy_value(whole), rel=0.05)


# Which way a knob turns


@pytest.mark.slow
def test_a_threshold_turns_the_gain_down(tmp_path: Path) -> None:
    unit = unit_of(BARE, THRESHOLD, rises=False)
    frame = record(tmp_path, unit, [(-55.0,), (-42.0,), (-30.0,)], 5.0)
    result = la.fit(frame, family=FAMILY, stages=BARE, controls=THRESHOLD, gauss_newton=CLOSE)
    assert isinstance(result.model.card, Taper)
    assert result.model.card.rises is False
    curves = result.curves()
    assert len(curves) == 101
    assert np.diff(curves["sidechain_gain_db"]).max() < 0.0
    assert float(curves["input_tap"].max()) <= 1e-13
    assert curves["input_tap_identifiable"].all()
    for at in (-55.0, -42.0, -30.0):
        found, truth = numbers_at(result.model, (at,)), numbers_at(unit, (at,))
        assert found["sidechain_gain_db"] == pytest.approx(truth["sidechain_gain_db"], abs=0.1)
    assert error_signal_db(result.model, frame) < -50.0
    result.save(tmp_path / "run")
    assert la.load(tmp_path / "run" / "model.safetensors").card.rises is False
    compare.write_pictures(result.model, tmp_path)
    assert "threshold" in (tmp_path / "curves.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_which_way_a_knob_turns_is_not_told_from_silence(tmp_path: Path) -> None:
    """One stimulus for all settings, with a long pause in its middle."""
    unit = unit_of(BARE, THRESHOLD, rises=False)
    frame = record(tmp_path, unit, [(-55.0,), (-30.0,)], 6.0)
    for _, row in frame.iterrows():
        for column in ("raw_audio_path", "processed_audio_path"):
            audio, _ = soundfile.read(row[column])
            apart = np.concatenate([audio[: 3 * RATE], np.zeros(7 * RATE), audio[3 * RATE :]])
            if column == "processed_audio_path":
                raw, _ = soundfile.read(row["raw_audio_path"])
                apart = unit.process(raw, RATE, threshold=row["threshold"])
            soundfile.write(row[column], apart.astype(np.float32), RATE, "FLOAT")
    how = GaussNewtonSettings(weight_prior_s=1e-6, max_steps=10)
    result = la.fit(frame, family=FAMILY, stages=BARE, controls=THRESHOLD, gauss_newton=how)
    assert result.model.card.rises is False
    assert result.history["error"].iloc[-1] < 1e-3


# Takes


def test_a_gain_per_take_where_takes_share_settings(tmp_path: Path) -> None:
    settings = ((0, 50), (1, 80), (0, 50), (1, 80))
    takes = [("a", 1.0), ("a", 1.0), ("b", -1.0), ("b", -1.0)]
    frame = record(tmp_path, unit_of(BARE), settings, 4.0, takes=takes)
    result = la.fit(frame, family=FAMILY, stages=BARE, gauss_newton=CLOSE)
    row = result.curves().iloc[0]
    assert row["makeup_db"] == pytest.approx(CONSTANTS["makeup_db"], abs=0.05)
    assert result.history["error"].iloc[-1] < 2e-6
    assert result.model.covariance.shape == (14 + 8, 14 + 8)


# Every setting on its own


@pytest.fixture(scope="module")
def alone(bare_frame: pd.DataFrame) -> la.FitResult:
    return la.fit(
        bare_frame.iloc[[1, 3]],
        family=FAMILY,
        stages=BARE,
        per_setting=True,
        gauss_newton=GaussNewtonSettings(max_steps=15),
    )


def test_every_setting_on_its_own_is_a_table(alone: la.FitResult, bare_frame: pd.DataFrame, tmp_path: Path) -> None:
    assert isinstance(alone.model.card, ParameterTable)
    assert alone.model.stages == BARE
    assert alone.model.card.rows.shape == (2, 2 + 8)
    assert alone.model.covariance.shape == (2, 10, 10)
    assert error_signal_db(alone.model, bare_frame.iloc[[1, 3]]) < -35.0
    curves = alone.model.curves(peak_reduction=[70, 90])
    assert {"sidechain_gain_db_low", "light_ms_identifiable", "extrapolated"} <= set(curves)
    for setting in (SETTINGS[1], SETTINGS[3]):
        row = row_at(curves, setting)
        for name, value in numbers_at(alone.model, setting).items():
            assert row[name] == pytest.approx(value)
    alone.save(tmp_path / "run")
    back = la.load(tmp_path / "run" / "model.safetensors")
    assert back.curves().equals(alone.curves())


# Adam


def test_adam_lowers_the_loss(bare_frame: pd.DataFrame) -> None:
    how = AdamSettings(max_steps=12, learning_rate=0.1, validate_every=3, batch_size=4)
    result = la.fit(bare_frame, "adam", family=FAMILY, stages=TRAPPED, adam=how, segment_s=3.0, warmup_s=1.0)
    assert isinstance(result.model.card, Taper)
    losses = result.history["loss"].to_numpy()
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]
    assert result.model.covariance is None
    assert "light_ms_low" not in result.curves()
    assert result.model.info["fit"]["family"] == FAMILY
    assert float((result.model.card.weight != 0.0).double().mean()) > 0.9


def test_adam_does_not_find_out_which_way_a_knob_turns(tmp_path: Path) -> None:
    frame = record(tmp_path, unit_of(BARE, THRESHOLD, rises=False), [(-55.0,), (-25.0,)], 3.5)
    with pytest.raises(ValueError, match=r"^method: expected gauss-newton, .* got adam with the controls threshold$"):
        la.fit(frame, "adam", family=FAMILY, stages=BARE, controls=THRESHOLD, segment_s=3.0, warmup_s=0.0)


# Mistakes


def test_an_unknown_family(bare_frame: pd.DataFrame) -> None:
    refused("family: expected one of compressor, optical-cell, got 'vca'", bare_frame, family="vca")


@pytest.mark.parametrize(
    ("family", "stages"),
    [(FAMILY, HARDWARE), (FAMILY, PLAIN), ("compressor", CellStages()), ("compressor", BARE)],
)
@pytest.mark.parametrize("method", ["gauss-newton", "adam"])
def test_stages_of_the_other_family(bare_frame: pd.DataFrame, family: str, stages: AnyStages, method: str) -> None:
    message = f"stages: expected those of family '{family}', got .*; name the family as well"
    refused(message, bare_frame, method=method, family=family, stages=stages)


@pytest.mark.parametrize("method", ["gauss-newton", "adam"])
@pytest.mark.parametrize("count", [0, 2])
def test_not_one_knob(bare_frame: pd.DataFrame, method: str, count: int) -> None:
    switch, knob = LA2A_CONTROLS
    controls = (switch, knob, la.Control("mix")) if count else (switch,)
    frame = bare_frame.assign(mix=0.5)
    refused(f"controls: expected one knob, .* got {count}", frame, method=method, family=FAMILY, controls=controls)


def test_one_recording_is_enough_to_fit_something(bare_frame: pd.DataFrame) -> None:
    result = la.fit(bare_frame.iloc[:1], family=FAMILY, stages=BARE)
    assert result.history["error"].iloc[-1] < 1e-3


def test_a_card_of_the_other_family_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^card: expected one that gives the parameters of family optical-cell, .* sid"
    ):
        la.GreyBox(stages=CellStages())
    with pytest.raises(ValueError, match=r"^card: expected one that gives the parameters of family compressor, .* thr"):
        la.GreyBox(Taper())


def test_native_curves_of_two_families_are_not_drawn_in_one_picture() -> None:
    cell = unit_of(BARE).curves()
    with pytest.raises(ValueError, match=r"^others: expected curves of the same family, got classical without sidech"):
        figures.learned_curves(cell, others={"classical": la.GreyBox().curves()})


# Ctrl-C


class Interrupter:
    """Raises KeyboardInterrupt at one pass over the audio."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at, self.calls = -1, 0
        products = Recordings.products

        def interrupted(recordings: Recordings, *arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self.at:
                raise KeyboardInterrupt
            return products(recordings, *arguments, **options)

        patch.setattr(optical, "GLANCE_S", 1.0)
        patch.setattr(optical, "THIN_S", 2.0)
        patch.setattr(Recordings, "products", interrupted)

    def fit(self, frame: pd.DataFrame, at: int) -> la.FitResult:
        self.at, self.calls = at, 0
        return la.fit(frame, family=FAMILY, stages=BARE)


@pytest.fixture(scope="module")
def short_frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """With noise, so that a fit to a part of it is not one to the whole."""
    return record(tmp_path_factory.mktemp("short"), unit_of(BARE), SETTINGS[1:3], 4.0, 1e-3)


@pytest.fixture(scope="module")
def stages_of_a_fit(short_frame: pd.DataFrame) -> list[str]:
    """Stage of every pass."""
    with pytest.MonkeyPatch.context() as patch:
        return [str(stage) for stage in Interrupter(patch).fit(short_frame, -1).history["stage"]]


def test_stages_come_in_order(stages_of_a_fit: list[str]) -> None:
    assert [*dict.fromkeys(stages_of_a_fit)] == ["starts", "cell, glanced", "cell, thinned", "cell"]
    assert stages_of_a_fit.count("starts") == 10


@pytest.mark.parametrize(("stage", "later"), [("cell, thinned", 1), ("cell", 0), ("cell", 1)])
def test_ctrl_c_leaves_a_model(
    short_frame: pd.DataFrame,
    stages_of_a_fit: list[str],
    stage: str,
    later: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    at = stages_of_a_fit.index(stage) + later
    assert stages_of_a_fit[at] == stage
    try:
        result = Interrupter(monkeypatch).fit(short_frame, at)
    except KeyboardInterrupt as interruption:
        raise AssertionError("nothing was kept") from interruption
    assert result.interrupted is True
    assert result.converged is False
    assert result.model.info["converged"] is False
    assert len(result.history) == at
    curves = result.curves()
    assert not curves.isna().any().any()
    assert {"sidechain_gain_db_low", "light_ms_high"} <= set(curves)
    assert error_signal_db(result.model, short_frame) < -20.0
    result.save(tmp_path / "run")
    assert la.load(tmp_path / "run" / "model.safetensors").info["converged"] is False


def test_ctrl_c_before_there_is_anything_to_keep(short_frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        Interrupter(monkeypatch).fit(short_frame, 0)


@pytest.mark.parametrize("at", [5, 12])
def test_ctrl_c_before_there_is_one_cell_for_all(
    short_frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Then every setting has the best cell of its own so far."""
    result = Interrupter(monkeypatch).fit(short_frame, at)
    assert result.interrupted is True
    assert result.model.stages == BARE
    assert result.model.covariance is None
    assert np.isfinite(error_signal_db(result.model, short_frame))


# Processing


@pytest.mark.parametrize("stages", [CellStages(), TRAPPED, BARE], ids=["whole", "trapped", "bare"])
@pytest.mark.parametrize("rate", [RATE, 48000])
def test_blocks_equal_one_pass(stages: CellStages, rate: int) -> None:
    model, at = unit_of(stages), {"compress_or_limit": 1, "peak_reduction": 72.5}
    x = render_programme(1.5, rate, seed=4, pause_s=0.2)
    stream = model.stream(rate, **at)
    late = 0 if model.params(1, 72.5).output_filter is None else model.output_filter().at(rate).latency
    edges = [0, 1, 64, 1000, 1001, 9000, len(x)]
    blocks = [stream.process(x[a:b]) for a, b in itertools.pairwise(edges)]
    blocks.append(stream.process(np.zeros(late)))
    np.testing.assert_allclose(np.concatenate(blocks)[late:], model.process(x, rate, **at), atol=1e-12)


def test_linked_channels_that_are_the_same_sound_as_one() -> None:
    model, at = unit_of(TRAPPED), {"compress_or_limit": 0, "peak_reduction": 65}
    x = render_programme(1.0, RATE, seed=4, pause_s=0.1)
    found = model.stream(RATE, channels=2, linked=True, **at).process(np.stack([x, x]))
    np.testing.assert_allclose(found, np.stack([model.process(x, RATE, **at)] * 2), atol=1e-12)


def test_a_batch_is_its_rows_and_a_tensor_its_array(whole: la.FitResult) -> None:
    model, at = whole.model, {"compress_or_limit": 0, "peak_reduction": 65}
    x = np.stack([render_programme(1.0, RATE, seed=seed, pause_s=0.1) for seed in range(3)])
    together = model.process(x, RATE, **at)
    assert isinstance(together, np.ndarray)
    for row, alone in zip(x, together, strict=True):
        np.testing.assert_allclose(model.process(row, RATE, **at), alone, atol=1e-14)
    tensor = model.process(torch.from_numpy(x), RATE, **at)
    assert isinstance(tensor, torch.Tensor)
    assert not tensor.requires_grad
    assert np.array_equal(tensor.numpy(), together)
    single = model.process(torch.from_numpy(x).float(), RATE, **at)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), together, atol=1e-5)


def test_forward_takes_a_setting_a_row() -> None:
    model = unit_of(CellStages())
    x = torch.from_numpy(np.stack([render_programme(0.5, RATE, seed=seed, pause_s=0.1) for seed in range(2)]))
    positions = torch.tensor([[0.0, 40.0], [1.0, 90.0]], dtype=torch.float64)
    with torch.no_grad():
        output = model(x, positions, RATE)
        first, state = model(x[:, :4000], positions, RATE, return_state=True)
        second = model(x[:, 4000:], positions, RATE, state=state)
    assert torch.allclose(torch.cat([first, second], dim=1), output, atol=1e-13)
    for row, (switch, knob) in enumerate(positions.tolist()):
        alone = model.process(x[row], RATE, compress_or_limit=switch, peak_reduction=knob)
        late = model.latency
        assert torch.allclose(output[row, late:], alone[: output.shape[1] - late], atol=1e-12)


def test_more_peak_reduction_is_more_reduction(whole: la.FitResult) -> None:
    x = render_programme(2.0, RATE, seed=6, pause_s=0.2)
    for switch in (0, 1):
        energies = [
            float(np.sum(whole.model.process(x, RATE, compress_or_limit=switch, peak_reduction=knob) ** 2))
            for knob in (30, 50, 70, 90)
        ]
        assert np.all(np.diff(energies) < 0.0)


# Pictures


def test_learned_curves(whole: la.FitResult) -> None:
    curves = whole.curves()
    figure = figures.learned_curves(curves, whole.model.info["settings_seen"])
    names = ["sidechain_gain_db", "input_tap", "makeup_db"]
    assert [axis.get_title(loc="left") for axis in figure.axes] == names
    assert [axis.get_ylabel() for axis in figure.axes] == ["dB", "share", "dB"]
    assert [axis.get_xlabel() for axis in figure.axes] == ["peak reduction"] * 3
    for axis, name in zip(figure.axes, names, strict=True):
        drawn = {line.get_label(): line for line in axis.lines}
        for switch, label in enumerate(("compress", "limit")):
            part = curves[curves["compress_or_limit"] == switch]
            assert np.array_equal(drawn[label].get_ydata(), part[name])
        dots = [list(line.get_xdata()) for line in axis.lines if line.get_marker() == "o"]
        assert dots == [[40.0, 70.0], [55.0, 90.0]]
        assert len(axis.collections) == 2  # a band each
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["compress", "limit"]


def test_static_curves_are_what_is_measured(whole: la.FitResult) -> None:
    figure = figures.static_curves(whole.model, (0, 60))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["compress", "limit"]
    assert figure.axes[1].get_legend().get_title().get_text() == "peak reduction"
    assert figure.axes[0].get_ylabel() == "output, dBFS"
    for switch, axis in enumerate(figure.axes):
        assert len(axis.lines) == 2 + 1
        drawn = {line.get_label(): line for line in axis.lines}
        for knob in (0, 60):
            measured = measure.static_curve(whole.model, compress_or_limit=switch, peak_reduction=knob)
            np.testing.assert_allclose(drawn[f"{knob}"].get_xdata(), measured["input_dbfs"])
            np.testing.assert_allclose(drawn[f"{knob}"].get_ydata(), measured["output_dbfs"], atol=1e-9)


def test_step_response(whole: la.FitResult) -> None:
    (axis,) = figures.step_response(whole.model, RATE).axes
    drawn = {line.get_label(): line for line in axis.lines}
    assert set(drawn) == {"compress", "limit"}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("time, s", "gain, dB")
    assert "peak reduction 65" in axis.get_title(loc="left")
    for line in drawn.values():
        times, gain_db = line.get_data()
        assert len(times) == 2 * RATE
        assert np.isfinite(gain_db).all()
        quiet, loud, after = (float(gain_db[np.searchsorted(times, at)]) for at in (0.095, 0.59, 1.95))
        assert loud < quiet - 3.0
        assert loud < after <= quiet + 0.2
        assert quiet <= 0.01  # without make-up


def test_measured_curves(whole: la.FitResult) -> None:
    at = {"compress_or_limit": (0, 1), "peak_reduction": (55, 70)}
    measured = measure.measured_curves({"cell": whole.model, "unit": unit_of(CellStages())}, RATE, **at)
    figure = figures.measured_curves(measured)
    assert len(figure.axes) == 8
    assert [axis.get_xlabel() for axis in figure.axes[4:]] == ["peak reduction"] * 4
    for axis in figure.axes:
        assert len(axis.lines) == 4
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["cell, compress", "cell, limit", "unit, compress", "unit, limit"]
    threshold = measured.pivot_table("threshold_1db_dbfs", ["compress_or_limit", "peak_reduction"], "model")
    assert len(threshold) == 4
    for setting in SETTINGS[1:3]:  # those that were fitted
        assert threshold.loc[setting, "cell"] == pytest.approx(threshold.loc[setting, "unit"], abs=0.05)


def test_pictures_are_written(whole: la.FitResult, tmp_path: Path) -> None:
    compare.write_pictures(whole.model, tmp_path)
    names = {"curves.svg", "static_curves.svg", "step_response.svg", "output_stage.svg"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "sidechain_gain_db" in (tmp_path / "curves.svg").read_text(encoding="utf-8")


def test_pictures_of_a_table(alone: la.FitResult, tmp_path: Path) -> None:
    compare.write_pictures(alone.model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"curves.svg", "static_curves.svg", "step_response.svg"}


def test_report(whole: la.FitResult, whole_frame: pd.DataFrame, tmp_path: Path) -> None:
    frame = whole_frame.assign(split="test").iloc[1:3]
    scores = la.evaluate({"grey-box": whole.model}, frame)
    assert scores["esr"].max() < 1e-3
    la.report(scores, tmp_path / "report.html", models={"grey-box": whole.model}, frame=frame)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in ("sidechain_gain_db", "side-chain gain, dB", "input tap", "make-up, dB", "grey-box"):
        assert words in page
    assert "threshold_db" not in page


# Command line


def test_command_line_fits_a_cell(run: Callable[..., Ran], short_frame: pd.DataFrame) -> None:
    short_frame.to_csv("frame.csv", index=False)
    ran = run("fit", "frame.csv", "--out", "run", "--family", FAMILY, "--stages", "output-filter", "--max-steps", 3)
    assert ran.status == 0, ran.err
    assert {path.name for path in Path("run").iterdir()} == {
        "model.safetensors",
        "curves.csv",
        "history.csv",
        "config.json",
        "curves.svg",
        "static_curves.svg",
        "step_response.svg",
        "output_stage.svg",
        "frame.csv",
        "fit.json",
    }
    model = la.load("run/model.safetensors")
    assert model.stages == CellStages(output_filter=True, traps=False)
    assert isinstance(model.card, Taper)
    config = json.loads(Path("run/config.json").read_text(encoding="utf-8"))
    assert config["fit"]["family"] == FAMILY
    assert config["fit"]["stages"] == {"output_filter": True, "traps": False}
    assert "sidechain_gain_db" in pd.read_csv("run/curves.csv")


def test_command_line_processes_with_a_cell(run: Callable[..., Ran]) -> None:
    model = unit_of(CellStages())
    model.save("cell.safetensors")
    x = render_programme(1.0, 44100, seed=7, pause_s=0.1).astype(np.float32)
    soundfile.write("in.wav", x, 44100, "FLOAT")
    ran = run("process", "in.wav", "out.wav", "--model", "cell.safetensors", "--peak-reduction", 70, "--limit")
    assert ran.status == 0, ran.err
    found, rate = soundfile.read("out.wav")
    assert rate == 44100
    expected = model.process(x, 44100, compress_or_limit=1, peak_reduction=70)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--family", FAMILY, "--stages", "slow-release"), "stages: expected none, or some of output-filter, traps"),
        (("--stages", "slow-release", "--family", FAMILY), "stages: expected none, or some of output-filter, traps"),
        (("--stages", "traps"), "stages: expected none, or some of output-filter, slow-release, shelf, feedback"),
        (("--family", FAMILY, "--stages", "traps,traps"), "each once, got 'traps'"),
        (("--family", FAMILY, "--controls", "compress_or_limit=switch:0:1"), "controls: expected one knob"),
        (("--family", "vca"), "vca"),
    ],
)
def test_command_line_refuses(
    run: Callable[..., Ran], short_frame: pd.DataFrame, options: tuple[str, ...], message: str
) -> None:
    short_frame.to_csv("frame.csv", index=False)
    ran = run("fit", "frame.csv", "--out", "run", *options)
    assert ran.status == 2
    lines = [line for line in ran.err.splitlines() if line.startswith("ddsp-la2a: error: ")]
    assert len(lines) == 1, ran.err
    assert message in lines[0]
    assert not Path("run").exists()
    assert "Traceback" not in ran.err
