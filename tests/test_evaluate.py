"""Scoring: which rows, which seconds, which columns, and nothing adapted to them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import soundfile

import ddsp_la2a as la
from baselines.identity import Identity
from baselines.registry import identity_filter
from ddsp_la2a.evaluation.evaluate import (
    LEAD_IN_S,
    PROTOCOL_ROWS,
    SKIP_S,
    columns,
    mean_error,
    missing_rows,
    summary,
)
from ddsp_la2a.evaluation.metrics import SCORE_COLUMNS, esr_dc_filtered

RATE = 8000


class Spy:
    """Gives the input back and remembers what it was asked."""

    def __init__(self, gain: float = 1.0, **info):
        self.calls: list[tuple[int, float, int, int]] = []
        self.gain = gain
        if info:
            self.info = info

    def process(self, audio, sample_rate, *, compress_or_limit, peak_reduction):
        self.calls.append((len(audio), sample_rate, compress_or_limit, peak_reduction))
        return self.gain * audio


class Wrong:
    def __init__(self, change):
        self.change = change

    def process(self, audio, sample_rate, *, compress_or_limit, peak_reduction):
        return self.change(audio)


def stretched(frame: pd.DataFrame, start: int, stop: int) -> pd.DataFrame:
    return frame.assign(start_frame=start, stop_frame=stop)


def test_columns_are_those_of_the_protocol(frame, known_unit):
    scored = la.evaluate({"unit": known_unit, "identity": Spy()}, frame)
    expected = (
        "model, source, protocol, track_id, split, compress_or_limit, peak_reduction, setting_seen, scored_from_s, "
        "esr, esr_dc_filtered, esr_best_gain, gain_offset_db, gain_error_db, mae, mr_stft, lufs_difference, "
        "ldr_difference_db, polarity, parameters, real_time_factor, train_seconds, converged, seed"
    )
    assert list(scored.columns) == expected.split(", ")
    assert list(columns()) == expected.split(", ")
    assert set(SCORE_COLUMNS) < set(columns())


def test_a_row_for_every_recording_and_model(frame, known_unit):
    scored = la.evaluate({"unit": known_unit, "identity": Spy()}, frame, protocol="by hand")
    assert scored[["track_id", "model"]].to_numpy().tolist() == [
        [121, "unit"],
        [121, "identity"],
        [122, "unit"],
        [122, "identity"],
    ]
    assert set(scored["split"]) == {"test"}
    assert set(scored["protocol"]) == {"by hand"}
    assert set(scored["source"]) == {"hardware"}
    assert (scored["real_time_factor"] > 0).all()


@pytest.mark.parametrize(("split", "ids"), [("train", [101, 102]), ("val", [111]), ("test", [121, 122])])
def test_rows_of_one_split(frame, split, ids):
    assert la.evaluate({"it": Spy()}, frame, split=split)["track_id"].tolist() == ids


def test_the_unit_itself_has_no_error(frame, known_unit):
    scored = la.evaluate({"unit": known_unit}, frame)
    for name in ("esr", "esr_dc_filtered", "gain_error_db", "mae", "mr_stft", "lufs_difference", "ldr_difference_db"):
        assert (scored[name] == 0.0).all(), name
    assert scored["esr_best_gain"].max() < 1e-28
    assert scored["gain_offset_db"].abs().max() < 1e-12
    assert (scored["polarity"] == 1.0).all()
    assert (scored["scored_from_s"] == SKIP_S).all()


def test_the_first_second_does_not_count(frame, known_unit):
    class Late:
        def process(self, audio, sample_rate, **setting):
            output = known_unit.process(audio, sample_rate, **setting)
            output[: sample_rate - 1] = 0.0
            return output

    scored = la.evaluate({"late": Late()}, frame)
    assert (scored["esr"] == 0.0).all()


def test_numbers_are_the_metrics_own(frame):
    scored = la.evaluate({"half": Spy(0.5)}, frame)
    row = frame[frame["split"] == "test"].iloc[0]
    raw, target = (soundfile.read(row[f"{n}_audio_path"], dtype="float32")[0] for n in ("raw", "processed"))
    expected = esr_dc_filtered(np.float32(0.5) * raw, target, start=RATE)
    assert scored["esr_dc_filtered"].iloc[0] == pytest.approx(expected, rel=1e-12)


def test_a_stretch_is_scored_with_a_warm_state(frame, known_unit):
    """The last second: from rest it would be wrong, with the seconds before it is what the whole file gives."""
    spy = Spy()
    scored = la.evaluate({"unit": known_unit, "spy": spy}, stretched(frame, 16000, 24000))
    assert (scored["scored_from_s"] == 2.0).all()
    unit = scored[scored["model"] == "unit"]
    assert (unit["esr"] == 0.0).all()
    assert {call[0] for call in spy.calls} == {24000}

    row = frame[frame["track_id"] == 122].iloc[0]
    raw, target = (soundfile.read(row[f"{n}_audio_path"], dtype="float32")[0] for n in ("raw", "processed"))
    cold = known_unit.process(raw[16000:], RATE, compress_or_limit=1, peak_reduction=80)
    assert esr_dc_filtered(cold, target[16000:]) > 1e-4


def test_nothing_after_a_stretch_is_read(frame):
    spy = Spy()
    scored = la.evaluate({"spy": spy}, stretched(frame, 0, 12000))
    assert {call[0] for call in spy.calls} == {12000}
    assert (scored["scored_from_s"] == 1.0).all()


def test_a_stretch_that_starts_within_the_first_second(frame):
    scored = la.evaluate({"it": Spy()}, stretched(frame, 4000, 24000))
    assert (scored["scored_from_s"] == 1.0).all()


def test_lead_in_is_at_most_thirty_seconds(tmp_path, programme):
    raw = programme(1, 35.0)
    for name in ("raw", "processed"):
        soundfile.write(tmp_path / f"{name}.wav", raw, RATE, "FLOAT")
    row = {
        "track_id": 1,
        "split": "test",
        "take": "3c",
        "compress_or_limit": 0,
        "peak_reduction": 50,
        "raw_audio_path": tmp_path / "raw.wav",
        "processed_audio_path": tmp_path / "processed.wav",
        "start_frame": 33 * RATE,
        "stop_frame": 34 * RATE,
    }
    spy = Spy()
    scored = la.evaluate({"spy": spy}, pd.DataFrame([row]))
    assert spy.calls[0][0] == round((LEAD_IN_S + 1.0) * RATE)
    assert scored["scored_from_s"].item() == 33.0
    assert scored["esr"].item() == 0.0


def test_the_model_is_asked_for_the_setting_of_the_row(frame):
    spy = Spy()
    la.evaluate({"spy": spy}, frame)
    assert spy.calls == [(24000, RATE, 0, 50), (24000, RATE, 1, 80)]
    assert all(type(value) is int for value in spy.calls[0][2:])


def test_what_models_say_of_themselves(frame):
    told = Spy(
        settings_seen=[(0, 50), (1, 65)],
        parameters=142,
        train_seconds=3.5,
        converged=False,
        seed=7,
    )
    scored = la.evaluate({"told": told, "mute": Spy()}, frame).set_index("model")
    assert scored.loc["told", "setting_seen"].tolist() == [True, False]
    assert set(scored.loc["told", "parameters"]) == {142}
    assert set(scored.loc["told", "train_seconds"]) == {3.5}
    assert set(scored.loc["told", "seed"]) == {7}
    assert not any(scored.loc["told", "converged"])
    empty = ["setting_seen", "parameters", "train_seconds", "converged", "seed"]
    assert scored.loc["mute", empty].isna().all(axis=None)


def test_settings_seen_as_they_come_back_from_a_file(frame):
    scored = la.evaluate({"it": Spy(settings_seen=[[1, 80]])}, frame)
    assert scored["setting_seen"].tolist() == [False, True]


def test_grey_box_and_published_can_be_scored(frame):
    scored = la.evaluate({"published": la.load("published"), "new": la.GreyBox()}, frame)
    assert np.isfinite(scored["esr_dc_filtered"].astype(float)).all()
    assert len(scored) == 4


def test_no_models(frame):
    with pytest.raises(ValueError, match="models: expected at least one, got none"):
        la.evaluate({}, frame)


def test_no_rows_of_the_split(frame):
    with pytest.raises(ValueError, match="expected rows whose split is 'later', got test, train, val"):
        la.evaluate({"it": Spy()}, frame, split="later")


@pytest.mark.parametrize(
    "change", [lambda x: x[:-1], lambda x: np.append(x, x[-1]), lambda x: x[None]], ids=["short", "long", "two axes"]
)
def test_output_of_another_shape(frame, change):
    with pytest.raises(ValueError, match=r"wrong: expected output of shape \(24000,\), got"):
        la.evaluate({"wrong": Wrong(change)}, frame)


def test_output_that_is_not_finite(frame):
    with pytest.raises(ValueError, match="finite"):
        la.evaluate({"wrong": Wrong(lambda x: x * np.float32("nan"))}, frame)


def test_nothing_left_to_score(frame):
    with pytest.raises(ValueError, match="expected more than 1 s to score, got"):
        la.evaluate({"it": Spy()}, stretched(frame, 0, 8000))


def test_stretch_beyond_the_file(frame):
    with pytest.raises(ValueError, match="expected a stretch within 0 to 24000 frames"):
        la.evaluate({"it": Spy()}, stretched(frame, 0, 30000))


def test_files_of_different_rates(frame, tmp_path):
    row = frame[frame["track_id"] == 121].copy()
    audio, _ = soundfile.read(row["processed_audio_path"].item(), dtype="float32")
    soundfile.write(tmp_path / "other.wav", audio, 16000, "FLOAT")
    row["processed_audio_path"] = str(tmp_path / "other.wav")
    with pytest.raises(ValueError, match="Hz"):
        la.evaluate({"it": Spy()}, row)


def test_bar_only_if_asked_for(frame, capfd):
    la.evaluate({"it": Spy()}, frame)
    assert capfd.readouterr() == ("", "")
    la.evaluate({"it": Spy()}, frame, progress=True)
    assert "2/2" in capfd.readouterr().err


@pytest.fixture
def scored():
    """Two sources, two protocols and two models, with numbers that show which were averaged."""
    rows = [
        ("a", "hardware", "shipped", 1, 0.01),
        ("a", "hardware", "shipped", 2, 0.03),
        ("b", "hardware", "shipped", 1, 0.01),
        ("b", "hardware", "shipped", 2, 0.01),
        ("a", "simulated", "shipped", 3, 0.5),
        ("b", "simulated", "shipped", 3, 0.7),
        ("a", "hardware", "later-in-time", 1, 0.2),
    ]
    names = ["model", "source", "protocol", "track_id", "esr_dc_filtered"]
    table = pd.DataFrame(rows, columns=names)
    numbers = {name: 1.0 for name in columns() if name not in names}
    return table.assign(**numbers)[list(columns())]


def test_summary_has_means_and_worst_cases_best_first(scored):
    table = summary(scored)
    rows = table.reset_index()
    hardware = rows[(rows["source"] == "hardware") & (rows["protocol"] == "shipped")]
    assert hardware["model"].tolist() == ["b", "a"]
    assert hardware["esr_dc_filtered"].tolist() == pytest.approx([0.01, 0.02])
    assert hardware["worst"].tolist() == pytest.approx([0.01, 0.03])
    assert hardware["recordings"].tolist() == [2, 2]


def test_no_mean_runs_across_sources_or_protocols(scored):
    table = summary(scored)
    assert table.index.names == ["source", "protocol", "model"]
    assert len(table) == 5
    assert table.loc[("simulated", "shipped", "a"), "esr_dc_filtered"] == 0.5
    assert table.loc[("hardware", "later-in-time", "a"), "esr_dc_filtered"] == 0.2
    assert table["recordings"].sum() == len(scored)


@pytest.mark.parametrize("name", ["source", "protocol", "model"])
def test_a_mean_across_sources_is_refused(scored, name):
    mixed = scored[scored["model"] == "a"].assign(source="hardware", protocol="shipped", model="a")
    assert mean_error(mixed) == pytest.approx(0.185)
    with pytest.raises(ValueError, match=f"expected rows of one {name}, got one, other; no mean runs across them"):
        mean_error(mixed.assign(**{name: ["one", "one", "one", "other"]}))


def test_seeds_are_means_of_their_own(scored):
    one, other = (scored[scored["protocol"] == "shipped"].assign(seed=seed) for seed in (0, 7))
    other["esr_dc_filtered"] *= 3.0
    row = summary(pd.concat([one, other.assign(converged=False)])).loc[("hardware", "shipped", "a")]
    assert row[["recordings", "seeds"]].tolist() == [2, 2]
    assert row[["esr_dc_filtered", "best_seed", "worst_seed", "worst"]].tolist() == pytest.approx(
        [0.04, 0.02, 0.06, 0.09]
    )
    assert not row["converged"]


def test_rows_that_no_table_may_leave_out(scored):
    assert missing_rows(scored) == list(PROTOCOL_ROWS)
    full = pd.concat([scored.assign(model=name) for name in PROTOCOL_ROWS])
    assert missing_rows(full) == []
    simulated = full["source"] == "simulated"
    assert missing_rows(full[~(simulated & (full["model"] == "identity-filter"))]) == ["identity-filter"]


def test_summary_of_an_evaluation(frame, known_unit):
    table = summary(la.evaluate({"identity": Spy(parameters=0), "unit": known_unit}, frame))
    assert table.index.get_level_values("model").tolist() == ["unit", "identity"]
    assert table.loc[("hardware", "shipped", "identity"), "parameters"] == 0


# Other units


class Loud:
    """Whatever it is asked, ten times too loud."""

    def __init__(self):
        self.info = {"settings_seen": [[2, 1.5, 0.25]]}
        self.asked = []

    def process(self, audio, sample_rate, **positions):
        self.asked.append(positions)
        return 10.0 * audio


def test_scores_of_another_unit_name_its_controls(strip, tmp_path):
    frame = strip.record(tmp_path, [(2, 1.5, 0.25), (3, 8.0, 0.25)])
    loud = Loud()
    scored = la.evaluate({"unit": strip, "loud": loud}, frame, controls=strip.controls, split="train")
    assert list(scored.columns) == list(columns(strip.controls))
    assert list(scored.columns)[4:9] == ["split", "speed", "drive", "ratio", "setting_seen"]
    assert scored[["speed", "drive", "ratio"]].drop_duplicates().to_numpy().tolist() == [[2, 1.5, 0.25], [3, 8, 0.25]]
    assert (scored.loc[scored["model"] == "unit", "esr"] == 0.0).all()
    assert scored.loc[scored["model"] == "loud", "setting_seen"].tolist() == [True, False]
    assert loud.asked[0] == {"speed": 2, "drive": 1.5, "ratio": 0.25}


def test_a_model_of_another_unit_is_refused(frame, strip, tmp_path):
    rows = strip.record(tmp_path, [(1, 1.0, 0.5)])
    with pytest.raises(ValueError, match="controls: expected a position for each of compress_or_limit, peak_reduction"):
        la.evaluate({"published": la.load("published")}, rows, controls=strip.controls, split="train")
    with pytest.raises(ValueError, match="controls: expected a position for each of speed, drive, ratio"):
        la.evaluate({"strip": la.GreyBox(la.ControlNet(controls=strip.controls))}, frame)


CL1B = tuple(la.Control(name) for name in ("attack", "release", "ratio", "threshold"))


@pytest.fixture
def cl1b(real_recordings, tmp_path):
    """Six recordings of a CL 1B, the three that are 66.5 samples late (see test_check) cut by 67 in a copy."""
    folder = real_recordings("cl1b_clips")
    raw, rate = soundfile.read(folder / "input.wav", dtype="float32")
    rows = []
    for path in sorted(folder.glob("target_*.wav")):
        digits = re.fullmatch(r"target_at_(\d+)_re_(\d+)_ra_(\d+)_th_(\d+)", path.stem).groups()
        setting = [float(f"{text[0]}.{text[1:] or 0}") for text in digits]
        late = 67 if setting[:2] in ([0.0, 0.0], [0.25, 0.5], [0.5, 0.0]) else 0
        target, _ = soundfile.read(path, dtype="float32")
        soundfile.write(tmp_path / path.name, target[late:], rate, "FLOAT")
        files = {"raw_audio_path": folder / "input.wav", "processed_audio_path": tmp_path / path.name}
        stop = min(len(raw), len(target) - late)
        positions = dict(zip((control.name for control in CL1B), setting, strict=True))
        rows.append({**files, "device": "CL 1B", "start_frame": 0, "stop_frame": stop, **positions})
    return la.read_frame(pd.DataFrame(rows), CL1B)


@pytest.mark.slow
def test_another_compressor_with_four_knobs(cl1b):
    """In-sample: six settings of four knobs can't be held out. Every card on its own, and one network for all."""
    assert set(la.check(cl1b, controls=CL1B)["severity"]) == {"information"}
    models = {
        "identity": Identity(),
        "identity-filter": identity_filter(cl1b, controls=CL1B),
        "per setting": la.fit(cl1b, per_setting=True, controls=CL1B).model,
        "joint": la.fit(cl1b, controls=CL1B).model,
    }
    scored = la.evaluate(models, cl1b, controls=CL1B, split="train", protocol="in-sample")
    assert scored["setting_seen"].fillna(True).all()
    errors = scored.pivot_table(index="track_id", columns="model", values="esr_dc_filtered")
    assert np.isfinite(errors.to_numpy()).all()
    assert (errors["per setting"] < errors["joint"]).all()
    assert (errors["joint"] < errors["identity-filter"]).all()
    assert (errors["identity-filter"] < errors["identity"]).all()
    assert errors["per setting"].mean() < 0.05
    assert errors["joint"].mean() < 0.055
    curves = models["joint"].curves(release=0.5, ratio=0.5, threshold=0.5)
    assert curves["attack_ms"].is_monotonic_increasing
