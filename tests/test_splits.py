"""Protocols: what is fitted and what is scored."""

from __future__ import annotations

import pandas as pd
import pytest
import soundfile

import ddsp_la2a as la
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.data.splits import LATER_SECONDS, PROTOCOLS, split_by


@pytest.fixture
def long_enough(tmp_path, record):
    record(tmp_path, "Train", 1, (0, 50), 6.0)
    record(tmp_path, "Test", 2, (1, 65), 7.5)
    return la.index(tmp_path)


def test_names():
    assert PROTOCOLS == ("shipped", "later-in-time")
    assert LATER_SECONDS == 4.0


def test_shipped_is_the_frame_itself(frame, recordings):
    pd.testing.assert_frame_equal(split_by(frame, "shipped"), frame)
    pd.testing.assert_frame_equal(split_by(recordings, "shipped"), frame)


def test_later_in_time_holds_the_last_four_seconds_of_everything(long_enough):
    rows = split_by(long_enough, "later-in-time")
    found = rows[["track_id", "split", "start_frame", "stop_frame"]].to_numpy().tolist()
    assert sorted(found) == [
        [1, "test", 16000, 48000],
        [1, "train", 0, 16000],
        [2, "test", 28000, 60000],
        [2, "train", 0, 28000],
    ]
    assert list(rows.columns) == [*long_enough.columns, "start_frame", "stop_frame"]
    assert rows.index.tolist() == [0, 1, 2, 3]
    assert {str(rows[name].dtype) for name in ("start_frame", "stop_frame")} == {"int64"}
    pd.testing.assert_frame_equal(la.read_frame(rows), rows)  # and is valid, so can be saved and read


def test_no_frame_is_fitted_and_scored(long_enough):
    rows = split_by(long_enough, "later-in-time")
    for _, both in rows.groupby("track_id"):
        train, test = (both[both["split"] == name].iloc[0] for name in ("train", "test"))
        assert train["stop_frame"] == test["start_frame"]
    dataset = SegmentDataset(rows[rows["split"] == "train"], 3.0, 2.0)
    assert dataset.segments["stop_frame"].max() == 28000


def test_the_frame_given_is_left_alone(long_enough):
    before = long_enough.copy()
    split_by(long_enough, "later-in-time")
    pd.testing.assert_frame_equal(long_enough, before)


def test_a_stretch_is_split_within_itself(long_enough):
    assert long_enough["track_id"].tolist() == [2, 1]
    rows = split_by(long_enough.assign(start_frame=[10000, 0], stop_frame=[59000, 48000]), "later-in-time")
    assert rows["start_frame"].tolist() == [10000, 0, 27000, 16000]
    assert rows["stop_frame"].tolist() == [27000, 16000, 59000, 48000]


def test_the_shorter_file_says_where_the_end_is(long_enough):
    path = long_enough["raw_audio_path"].iloc[0]
    audio, rate = soundfile.read(path)
    soundfile.write(path, audio[:-500], rate, "FLOAT")
    rows = split_by(long_enough, "later-in-time")
    assert rows["stop_frame"].max() == 60000 - 500


def test_scored_on_the_last_four_seconds_with_a_warm_state(long_enough, known_unit):
    scored = la.evaluate({"unit": known_unit}, split_by(long_enough, "later-in-time"), protocol="later-in-time")
    assert sorted(scored["scored_from_s"]) == [2.0, 3.5]
    assert (scored["esr"] == 0.0).all()


def test_too_short(tmp_path, record):
    record(tmp_path, "Train", 1, (0, 50), 5.5)
    with pytest.raises(
        ValueError, match=r"target_1_.*expected at least 6 s to hold 4 s out, got 5\.50 s; leave it out"
    ):
        split_by(tmp_path, "later-in-time")


def test_unknown_protocol(frame):
    with pytest.raises(ValueError, match="split: expected one of shipped, later-in-time, got 'random'"):
        split_by(frame, "random")


def test_nothing_at_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at this path"):
        split_by(tmp_path / "missing", "shipped")


def test_rows_of_another_unit_keep_their_setting(strip, tmp_path):
    rows = split_by(strip.record(tmp_path, [(2, 1.5, 0.5)], 7.0), "later-in-time", strip.controls)
    assert rows["split"].tolist() == ["train", "test"]
    assert rows[["speed", "drive", "ratio"]].to_numpy().tolist() == [[2, 1.5, 0.5]] * 2
