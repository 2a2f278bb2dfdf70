"""From a tree of recordings to a frame, and what is refused on the way."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from ddsp_la2a.controls import Control
from ddsp_la2a.data.audio import audio_info, read_audio, write_audio
from ddsp_la2a.data.frame import refuse_several_devices, settings_of
from ddsp_la2a.data.index import index, read_frame, write_frame
from ddsp_la2a.files import replacing

COLUMNS = [
    "track_id",
    "split",
    "take",
    "compress_or_limit",
    "peak_reduction",
    "raw_audio_path",
    "processed_audio_path",
    "source",
    "device",
]


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(10), 44100)
    return root


@pytest.fixture
def root(tmp_path):
    return tree(
        tmp_path / "SignalTrain__13 ä",
        "Train/input_130_.wav",
        "Train/target_130_LA2A_2c__0__65.wav",
        "Train/input_13_.wav",
        "Train/target_13_LA2A_3c__1__5.wav",
        "VAL/input_2_.wav",
        "VAL/target_2_LA2A_2c__1__100.wav",
        "VAL/target_2_LA2A_2c__0__0.wav",
        "test/input_7_.wav",
        "test/target_7_LA2A_2c__0__70.WAV",
        "other/input_9_.wav",
        "other/target_9_LA2A_2c__0__70.wav",
    )


def test_one_row_a_pair(root):
    frame = index(root)
    assert list(frame.columns) == COLUMNS
    key = frame[["split", "track_id", "take", "compress_or_limit", "peak_reduction"]].to_numpy().tolist()
    assert key == [
        ["test", 7, "2c", 0, 70],
        ["train", 13, "3c", 1, 5],
        ["train", 130, "2c", 0, 65],
        ["val", 2, "2c", 0, 0],
        ["val", 2, "2c", 1, 100],
    ]
    assert (frame["source"] == "hardware").all()
    assert frame.attrs["unpaired"] == []


def test_types_and_sanity(root):
    frame = index(str(root))
    for column in ("track_id", "compress_or_limit", "peak_reduction"):
        assert frame[column].dtype == np.int64
    for column in ("split", "take", "raw_audio_path", "processed_audio_path", "source"):
        assert all(type(value) is str for value in frame[column])
    assert not frame.isna().any().any()
    assert not frame.duplicated().any()
    for row in frame.itertuples():
        assert Path(row.raw_audio_path).is_absolute()
        assert "\\" not in row.raw_audio_path
        assert f"/input_{row.track_id}_" in row.raw_audio_path
        assert f"/target_{row.track_id}_" in row.processed_audio_path


def test_order_is_always_the_same(root):
    pd.testing.assert_frame_equal(index(root), index(root))
    assert index(root).index.tolist() == [0, 1, 2, 3, 4]


def test_errata_of_the_authors(tmp_path, caplog):
    root = tree(
        tmp_path,
        "Train/target_235_LA2A_2c__0__70.wav",
        "Test/input_235_.wav",
        "Test/target_235_LA2A_2c__0__65.wav",
        "Val/input_236_.wav",
        "Train/input_245_.wav",
        "Val/target_245_LA2A_2c__1__10.wav",
    )
    with caplog.at_level(logging.WARNING):
        frame = index(root)
    assert frame[["track_id", "split"]].to_numpy().tolist() == [[235, "test"], [245, "val"]]
    assert frame["peak_reduction"].tolist() == [65, 10]
    assert frame["raw_audio_path"].iloc[1].endswith("Train/input_245_.wav")
    unpaired = frame.attrs["unpaired"]
    assert [(file["kind"], file["track_id"], file["split"]) for file in unpaired] == [
        ("target", 235, "train"),
        ("input", 236, "val"),
    ]
    assert (unpaired[0]["take"], unpaired[0]["compress_or_limit"], unpaired[0]["peak_reduction"]) == ("2c", 0, 70)
    [message] = [record.getMessage() for record in caplog.records]
    assert "\n" not in message
    assert "target_235_LA2A_2c__0__70.wav" in message
    assert "input_236_.wav" in message


def test_a_lone_input_wanted_by_two_folders_goes_to_neither(tmp_path):
    root = tree(
        tmp_path,
        "Train/input_1_.wav",
        "Train/target_1_LA2A_2c__0__5.wav",
        "Train/input_5_.wav",
        "Val/target_5_LA2A_2c__0__5.wav",
        "Test/target_5_LA2A_2c__0__10.wav",
    )
    frame = index(root)
    assert frame["track_id"].tolist() == [1]
    assert len(frame.attrs["unpaired"]) == 3


def test_names_that_say_nothing_are_reported(tmp_path):
    root = tree(
        tmp_path,
        "Train/input_1_.wav",
        "Train/target_1_LA2A_2c__0__5.wav",
        "Train/input_01_.wav",
        "Train/input_2.wav",
        "Train/target_3_LA2A_2c__0__105.wav",
        "Train/target_4_LA2A_2c__2__5.wav",
        "Train/._input_1_.wav",
    )
    (root / "Train" / "readme.txt").write_text("hello", encoding="utf-8")
    frame = index(root)
    assert len(frame) == 1
    kinds = sorted((Path(file["path"]).name, file["kind"]) for file in frame.attrs["unpaired"])
    # Of two inputs with one number the first in order is taken; which one doesn't matter, both are named.
    assert [kind for _, kind in kinds] == ["input", "unknown", "unknown", "unknown"]
    assert "second input" in next(file["reason"] for file in frame.attrs["unpaired"] if file["kind"] == "input")


@pytest.mark.parametrize("source", ["simulated", "plug-in", "hardware-postprocessed", "hardware"])
def test_source_of_the_data_set(root, source):
    (root / "dataset.json").write_text(f'{{"source": "{source}", "seed": 3}}', encoding="utf-8")
    assert set(index(root)["source"]) == {source}


@pytest.mark.parametrize("text", ['{"source": "tape"}', "{}", "[]", "{", "\x00"])
def test_source_that_is_none(root, text):
    (root / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"dataset\.json: expected"):
        index(root)


@pytest.mark.parametrize("read", [index, read_frame])
def test_wrong_roots(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="nothing at this path"):
        read(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: expected pairs .* found 0 WAV files .* give the folder"):
        read(tmp_path / "empty")
    orphan = tree(tmp_path / "orphan", "Train/input_1_.wav")
    with pytest.raises(ValueError, match=r"found 1 WAV files .* and no pair"):
        read(orphan)
    for content in (b"", b"\xff\xfe\x00\x81", b"hello\n", b'a,b\n1,2,3,4\n"', b"RIFF\x00\x00\x00\x00WAVE"):
        path = tmp_path / "no.csv"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no\.csv: expected|got a file") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_saved_frame_comes_back_and_moves_with_its_folder(root, tmp_path):
    frame = index(root)
    write_frame(frame, root / "frame.csv")
    pd.testing.assert_frame_equal(read_frame(root / "frame.csv"), frame)
    moved = root.rename(tmp_path / "moved")
    assert "moved" in read_frame(moved / "frame.csv")["raw_audio_path"].iloc[0]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_frame(index(moved), elsewhere / "frame.csv")
    pd.testing.assert_frame_equal(read_frame(elsewhere / "frame.csv"), index(moved))
    assert [path.name for path in elsewhere.iterdir()] == ["frame.csv"]
    with pytest.raises(ValueError, match="existing folder"):
        write_frame(index(moved), tmp_path / "no" / "frame.csv")


def test_frame_of_ones_own(root):
    frame = index(root).drop(columns="source").assign(note="x", raw_audio_path=lambda f: f["raw_audio_path"].map(Path))
    frame.index = frame.index + 5
    own = read_frame(frame[["note", *frame.columns[:-1]]])
    assert list(own.columns) == [*COLUMNS, "note"]
    assert own.index.tolist() == [0, 1, 2, 3, 4]
    assert set(own["source"]) == {"hardware"}
    floats = read_frame(frame.astype({"track_id": float, "peak_reduction": str}))
    assert floats["track_id"].dtype == np.int64
    assert floats["peak_reduction"].dtype == np.int64


def test_stretches(root):
    frame = index(root).assign(start_frame=0, stop_frame=6)
    later = frame.iloc[:1].assign(start_frame=6, stop_frame=10, split="test")
    both = read_frame(pd.concat([frame, later]))
    assert list(both.columns) == [*COLUMNS, "start_frame", "stop_frame"]
    assert both["stop_frame"].dtype == np.int64
    write_frame(both, root / "frame.csv")
    pd.testing.assert_frame_equal(read_frame(root / "frame.csv"), both)
    with pytest.raises(ValueError, match=r"row 5.*don't overlap.*row 0"):
        read_frame(pd.concat([frame, later.assign(start_frame=5)]))
    with pytest.raises(ValueError, match=r"row 0.*start_frame below stop_frame, got 6 and 6"):
        read_frame(frame.assign(start_frame=6))
    with pytest.raises(ValueError, match="both start_frame and stop_frame"):
        read_frame(frame.drop(columns="stop_frame"))


@pytest.mark.parametrize(
    ("column", "value", "got"),
    [
        ("compress_or_limit", 2, "0 or 1, got 2"),
        ("compress_or_limit", 0.5, "0 or 1, got 0.5"),
        ("peak_reduction", 101, "0 to 100, got 101"),
        ("peak_reduction", -5, "got -5"),
        ("peak_reduction", float("nan"), "got nan"),
        ("track_id", "13a", "got '13a'"),
        ("track_id", None, "got None"),
        ("split", "Train", "lower-case name such as 'train', got 'Train'"),
        ("split", "", "got ''"),
        ("take", 3, "text, got 3"),
        ("device", " ", "the name of a unit, got ' '"),
        ("source", "tape", "one of hardware, hardware-postprocessed, simulated, plug-in, got 'tape'"),
        ("raw_audio_path", "absent.wav", "there is none at .*absent.wav"),
        ("processed_audio_path", None, "text, got None"),
    ],
)
def test_wrong_cells_are_named(root, column, value, got):
    frame = index(root).astype({column: object})
    frame.iloc[3, frame.columns.get_loc(column)] = value
    with pytest.raises(ValueError, match=f"^frame, row 3, column {column}: expected.*{got}"):
        read_frame(frame)


def test_wrong_cell_of_a_file_is_named_by_its_line(root):
    path = root / "frame.csv"
    write_frame(index(root), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].replace(",1,", ",7,", 1)
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=r"frame\.csv, line 3, column compress_or_limit: .* got '7'"):
        read_frame(path)


def test_missing_columns_empty_frames_and_repeated_rows(root):
    frame = index(root)
    with pytest.raises(ValueError, match="add take"):
        read_frame(frame.drop(columns="take"))
    with pytest.raises(ValueError, match="without rows"):
        read_frame(frame.iloc[:0])
    with pytest.raises(ValueError, match=r"row 5: expected every target once"):
        read_frame(pd.concat([frame, frame.iloc[:1]]))


def test_audio_goes_to_disk_whole_or_not_at_all(tmp_path, caplog):
    audio = np.linspace(-1.0, 1.0, 1000)
    for name in ("a.wav", "a.flac", "a.aif"):
        write_audio(tmp_path / name, audio, 48000)
        info = audio_info(tmp_path / name)
        assert (info.sample_rate, info.frames, info.channels) == (48000, 1000, 1)
        assert soundfile.info(tmp_path / name).subtype == "PCM_24"
        back, rate = read_audio(tmp_path / name, 100, 200)
        assert rate == 48000
        assert back.dtype == np.float32
        assert np.abs(back - audio[100:200]).max() < 2.0**-23
    before = (tmp_path / "a.wav").read_bytes()
    for wrong in (np.array([0.0, np.nan]), np.array([np.inf]), np.zeros((1, 2, 3))):
        with pytest.raises(ValueError, match=r"a\.wav: expected"):
            write_audio(tmp_path / "a.wav", wrong, 48000)
    with pytest.raises(TypeError), replacing(tmp_path / "a.wav") as temporary:
        temporary.write_text(b"half")
    assert (tmp_path / "a.wav").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.aif", "a.flac", "a.wav"]
    with pytest.raises(ValueError, match="file ending"):
        write_audio(tmp_path / "a.xyz", audio, 48000)
    with pytest.raises(ValueError, match="existing folder"):
        write_audio(tmp_path / "no" / "a.wav", audio, 48000)
    write_audio(tmp_path / "loud.wav", 2.0 * audio, 48000)
    assert "above full scale" in caplog.text
    assert read_audio(tmp_path / "loud.wav")[0][0] == -1.0


def test_reading_says_what_is_wrong_with_which_file(tmp_path):
    stereo = tmp_path / "stereo.wav"
    write_audio(stereo, np.ones((2, 50)) * [[0.5], [0.25]], 44100)
    with pytest.raises(ValueError, match=r"stereo\.wav: expected one channel, got 2"):
        read_audio(stereo)
    both, _ = read_audio(stereo, mono=False)
    assert both.shape == (2, 50)
    assert both[:, 0].tolist() == [0.5, 0.25]
    for start, stop in ((-1, 10), (0, 51), (10, 5)):
        with pytest.raises(ValueError, match="a stretch within 0 to 50"):
            read_audio(stereo, start, stop, mono=False)
    with pytest.raises(FileNotFoundError, match=r"absent\.wav"):
        audio_info(tmp_path / "absent.wav")
    with pytest.raises(ValueError, match="got a folder"):
        audio_info(tmp_path)
    (tmp_path / "text.wav").write_text("no audio", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.wav: expected an audio file that can be read"):
        audio_info(tmp_path / "text.wav")


# Other units


KNOBS = (Control("mode", 1.0, 3.0, "switch"), Control("threshold", -60.0, 0.0), Control("ratio", 1.0, 20.0))


@pytest.fixture
def strip(tmp_path):
    """What a frame of another unit needs, and nothing else."""
    for name in ("dry", "wet 1", "wet 2"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(10), 44100)
    rows = {"mode": [1, 3], "threshold": [-20.5, -30], "ratio": [4, 10], "device": "strip"}
    wet = [tmp_path / "wet 1.wav", tmp_path / "wet 2.wav"]
    return pd.DataFrame({**rows, "raw_audio_path": tmp_path / "dry.wav", "processed_audio_path": wet})


def test_what_a_frame_of_another_unit_lacks_is_filled_in(strip):
    frame = read_frame(strip, KNOBS)
    assert list(frame.columns) == [
        *("track_id", "split", "take", "mode", "threshold", "ratio"),
        *("raw_audio_path", "processed_audio_path", "source", "device"),
    ]
    assert frame["track_id"].tolist() == [0, 1]
    assert set(frame["split"]) == {"train"}
    assert set(frame["take"]) == {""}
    assert set(frame["source"]) == {"hardware"}
    assert frame.dtypes[["track_id", "mode", "threshold", "ratio"]].tolist() == [np.int64, np.int64, float, np.int64]
    assert settings_of(frame, KNOBS) == [(1, -20.5, 4), (3, -30.0, 10)]
    given = strip.assign(track_id=[7, 8], split="test", take="b", source="plug-in", start_frame=0, stop_frame=5)
    assert read_frame(given, KNOBS)[["track_id", "split", "take", "source"]].to_numpy().tolist() == [
        [7, "test", "b", "plug-in"],
        [8, "test", "b", "plug-in"],
    ]


def test_a_frame_of_another_unit_goes_through_a_file(strip, tmp_path):
    frame = read_frame(strip, KNOBS)
    write_frame(frame, tmp_path / "frame.csv", KNOBS)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "frame.csv", KNOBS), frame)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("mode", 2.5, "row 1, column mode: expected a whole number from 1 to 3, got 2.5"),
        ("mode", 0, "row 1, column mode: expected a whole number from 1 to 3, got 0"),
        ("threshold", 0.5, "row 1, column threshold: expected -60 to 0, got 0.5"),
        ("threshold", "loud", "row 1, column threshold: expected -60 to 0, got 'loud'"),
        ("ratio", float("nan"), "row 1, column ratio: expected 1 to 20, got nan"),
    ],
)
def test_a_position_out_of_range_is_named(strip, column, value, message):
    frame = strip.astype({column: object})
    frame.loc[1, column] = value
    with pytest.raises(ValueError, match=f"^frame, {message}"):
        read_frame(frame, KNOBS)


@pytest.mark.parametrize("missing", ["device", "ratio", "raw_audio_path"])
def test_a_missing_column_of_another_unit_is_named(strip, missing):
    with pytest.raises(ValueError, match=f"add {missing}$"):
        read_frame(strip.drop(columns=missing), KNOBS)


def test_a_folder_is_an_la2a_s(root):
    with pytest.raises(ValueError, match=r"expected a CSV file with the columns mode, threshold, ratio, got a folder"):
        read_frame(root, KNOBS)


def test_the_device_of_an_la2a(root):
    frame = index(root)
    assert set(frame["device"]) == {"LA-2A"}
    pd.testing.assert_frame_equal(read_frame(frame.drop(columns="device")), frame)
    (root / "dataset.json").write_text('{"source": "simulated", "device": "simulated LA-2A"}', encoding="utf-8")
    assert set(index(root)["device"]) == {"simulated LA-2A"}


def test_knobs_between_the_numbers(root):
    frame = index(root).astype({"peak_reduction": float})
    frame.loc[0, "peak_reduction"] = 62.5
    assert read_frame(frame)["peak_reduction"].dtype == float
    assert (0, 62.5) in settings_of(read_frame(frame))


def test_recordings_of_several_devices_are_refused(strip):
    frame = read_frame(strip.assign(device=["strip", "bus"]), KNOBS)
    with pytest.raises(ValueError, match=r"expected recordings of one device, got bus, strip; .* select its rows"):
        refuse_several_devices(frame)
