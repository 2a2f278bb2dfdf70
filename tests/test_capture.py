"""From a folder of recordings to aligned pairs and a frame; every way in which a recording can be no good."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.typing import NDArray
from scipy import signal

import ddsp_la2a as la
from baselines.numpy_compressor import compressor
from ddsp_la2a.controls import LA2A_CONTROLS, Control, parse_controls
from ddsp_la2a.data import capture
from ddsp_la2a.data.capture import REPORT_COLUMNS, index_captures, write_stimulus
from ddsp_la2a.data.capture_names import setting_of
from ddsp_la2a.data.frame import with_relative_paths
from ddsp_la2a.data.stimulus import read_stimulus

FS = 8000
CONTROLS = parse_controls("threshold=-60:0,ratio=1:20")
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def stimulus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stimulus") / "stimulus.wav"
    write_stimulus(path, 75.0, FS)
    return path


@pytest.fixture(scope="module")
def played(stimulus_file: Path) -> Array:
    return read_stimulus(stimulus_file)[0]


@pytest.fixture(scope="module")
def unit(played: Array) -> Callable[[float, float], Array]:
    """The stimulus through a compressor that shares no code with the package."""

    def output(threshold: float, ratio: float) -> Array:
        how = {"knee_db": 6.0, "attack_ms": 3.0, "release_ms": 200.0}
        return compressor(played, FS, threshold_db=threshold, ratio=ratio, **how).output.astype(np.float32)

    return output


@pytest.fixture
def folder(tmp_path: Path, stimulus_file: Path) -> Path:
    path = tmp_path / "my unit"
    path.mkdir()
    (path / "stimulus.wav").write_bytes(stimulus_file.read_bytes())
    return path


def between(audio: Array, offset: int = 0, noise_db: float = -90.0, after: int = FS) -> Array:
    """A recording that began earlier and ended later."""
    whole = np.concatenate([np.zeros(offset), audio, np.zeros(after)])
    return whole + 10.0 ** (noise_db / 20.0) * np.random.default_rng(offset).standard_normal(len(whole))


def write(folder: Path, name: str, audio: Array, rate: int = FS, subtype: str = "PCM_24") -> Path:
    soundfile.write(folder / f"{name}.wav", audio, rate, subtype)
    return folder / f"{name}.wav"


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- what is made of good recordings --------------------------------------------------------------------------------


def test_frame_and_aligned_files(folder: Path, played: Array, unit: Callable[[float, float], Array]) -> None:
    outputs = {(-20.0, 4.0): unit(-20.0, 4.0), (-40.0, 8.0): unit(-40.0, 8.0)}
    write(folder, "take_2_threshold=-20_ratio=4", between(outputs[-20.0, 4.0], 1234))
    write(folder, "take_2_ratio=8_threshold=-40.0", between(-0.5 * outputs[-40.0, 8.0], 98765))
    before = contents(folder)
    calls: list[tuple[int, int]] = []
    frame = index_captures(folder, CONTROLS, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]
    assert list(frame.columns) == [
        *("track_id", "split", "take", "device", "threshold", "ratio"),
        *("raw_audio_path", "processed_audio_path", "source"),
        *REPORT_COLUMNS,
    ]
    assert frame["threshold"].tolist() == [-40.0, -20.0]
    assert frame["ratio"].tolist() == [8.0, 4.0]
    assert frame["track_id"].tolist() == [0, 1]
    for column, value in {"split": "train", "take": "my unit", "device": "my unit", "source": "hardware"}.items():
        assert (frame[column] == value).all()
    assert frame["offset_samples"].tolist() == [98765, 1234]
    assert frame["polarity"].tolist() == [-1, 1]
    assert (frame["delay_samples"].abs() < 0.01).all()
    assert (frame["drift_ppm"].abs() < 0.05).all()
    assert (frame["noise_dbfs"] + 90.0).abs().max() < 0.3
    assert frame["clipped_samples"].tolist() == [0, 0]
    assert frame["gain_db"].iloc[1] == pytest.approx(0.0, abs=0.1)
    assert frame["gain_db"].iloc[0] < -6.0
    assert set(frame["raw_audio_path"]) == {(folder / "stimulus.wav").resolve().as_posix()}

    after = contents(folder)
    assert after.keys() - before.keys() == {f"aligned/{Path(p).name}" for p in frame["processed_audio_path"]}
    assert before.items() <= after.items()
    for row, gain in zip(frame.itertuples(), (0.5, 1.0), strict=True):
        info = soundfile.info(row.processed_audio_path)
        assert (info.subtype, info.samplerate, info.channels, info.frames) == ("FLOAT", FS, 1, len(played))
        aligned, _ = soundfile.read(row.processed_audio_path, dtype="float32")
        # Nothing but whole samples cut off: what was recorded, upright, to the last bit of its 24.
        expected = gain * outputs[row.threshold, row.ratio]
        np.testing.assert_allclose(aligned, expected, atol=6.0 * 10.0 ** (-90.0 / 20.0))
        recorded, _ = soundfile.read(folder / Path(row.processed_audio_path).name, dtype="float32")
        cut = recorded[row.offset_samples : row.offset_samples + len(played)]
        np.testing.assert_array_equal(aligned, row.polarity * cut)


def test_the_rest_of_a_sample_is_reported_not_filtered_away(
    folder: Path, played: Array, unit: Callable[[float, float], Array]
) -> None:
    audio = np.pad(unit(-30.0, 4.0), (0, 1024))
    fractions = (0.45, 0.5, 0.58)
    for number, fraction in enumerate(fractions):
        turn = np.exp(-2j * np.pi * np.fft.rfftfreq(len(audio)) * fraction)
        late = np.fft.irfft(np.fft.rfft(audio) * turn, len(audio))
        write(folder, f"threshold=-30_ratio={number + 1}", between(late, 500 + number), subtype="FLOAT")
    frame = index_captures(folder, CONTROLS)
    # Rounded one by one, the last would start a sample later and be early where the first is late.
    late = frame["offset_samples"].to_numpy() - [500, 501, 502]
    assert len(set(late)) == 1
    assert (late[0] + frame["delay_samples"]).tolist() == pytest.approx(fractions, abs=0.02)
    row = frame.iloc[1]
    recorded, _ = soundfile.read(folder / Path(row["processed_audio_path"]).name, dtype="float32")
    aligned, _ = soundfile.read(row["processed_audio_path"], dtype="float32")
    np.testing.assert_array_equal(aligned, recorded[501 + late[0] : 501 + late[0] + len(played)])


def test_drift_is_measured_and_undone(folder: Path, unit: Callable[[float, float], Array]) -> None:
    audio = unit(-30.0, 4.0)
    drifted = signal.resample(audio, len(audio) + 30)  # 50 ppm
    write(folder, "threshold=-30_ratio=4", between(drifted, 2000), subtype="FLOAT")
    (row,) = index_captures(folder, CONTROLS).to_dict("records")
    assert row["drift_ppm"] == pytest.approx(50.0, abs=0.1)
    assert row["delay_samples"] == 0.0
    aligned, _ = soundfile.read(row["processed_audio_path"], dtype="float32")
    error = aligned - audio
    # A hundredth of a sample is what the drift leaves at its ends; unaligned, the error is as large as the recording.
    assert np.sum(error**2) < 1e-4 * np.sum(audio**2)


def test_clipping_and_noise_are_counted_and_said(
    folder: Path, unit: Callable[[float, float], Array], caplog: pytest.LogCaptureFixture
) -> None:
    loud = unit(-10.0, 1.5)
    clipped = np.clip(between(3.0 * loud, 100), -1.0, 1.0 - 2.0**-23)
    quieter = 0.25 * np.clip(between(3.0 * loud, 100), -0.9, 0.7)  # clipped by something before the converter
    write(folder, "threshold=-1_ratio=1", clipped)
    write(folder, "threshold=-2_ratio=1", quieter)
    write(folder, "threshold=-3_ratio=1", between(loud, 100, noise_db=-45.0))
    write(folder, "threshold=-4_ratio=1", between(loud, 100))
    with caplog.at_level(logging.WARNING):
        frame = index_captures(folder, CONTROLS).set_index("threshold")
    counted = frame["clipped_samples"]
    runs = [(value, len(list(run))) for value, run in groupby(clipped.tolist())]
    ends = (clipped.max(), clipped.min())
    assert counted[-1.0] == sum(length for value, length in runs if value in ends and length > 2) > 1000
    assert counted[-2.0] > counted[-1.0]
    assert counted[-3.0] == counted[-4.0] == 0
    assert frame["noise_dbfs"][-3.0] == pytest.approx(-45.0, abs=0.3)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert re.search(r"threshold=-3_ratio=1\.wav: noise floor at -45\.. dBFS, only 2\d\.. dB below", messages[0])
    assert re.search(r"threshold=-2_ratio=1\.wav: clipped, \d+ samples .* lower the recording level", messages[1])
    assert "threshold=-1_ratio=1.wav: clipped" in messages[2]


def test_a_few_samples_of_silence_may_be_missing(
    folder: Path, played: Array, unit: Callable[[float, float], Array], caplog: pytest.LogCaptureFixture
) -> None:
    """A host that compensates a latency renders just as many samples as it was given."""
    audio = unit(-30.0, 4.0)
    write(folder, "threshold=-30_ratio=4", audio[70:])
    write(folder, "threshold=-30_ratio=5", between(audio, 70, after=0)[: len(played)])
    with caplog.at_level(logging.WARNING):
        frame = index_captures(folder, CONTROLS)
    assert frame["offset_samples"].tolist() == [-70, 70]
    assert ["lacks 70 samples of silence at its beginning, 0" in r.getMessage() for r in caplog.records] == [
        True,
        False,
    ]
    assert ["lacks 0 samples of silence at its beginning, 70" in r.getMessage() for r in caplog.records] == [
        False,
        True,
    ]
    for path in frame["processed_audio_path"]:
        aligned, _ = soundfile.read(path)
        np.testing.assert_allclose(aligned[70:-70], audio[70:-70], atol=3e-4)


def test_second_run_adds_what_is_new(folder: Path, unit: Callable[[float, float], Array]) -> None:
    write(folder, "threshold=-30_ratio=4", between(unit(-30.0, 4.0), 10))
    index_captures(folder, CONTROLS)
    write(folder, "threshold=-30_ratio=8", between(unit(-30.0, 8.0), 10))
    assert len(index_captures(folder, CONTROLS)) == 2
    assert len(list((folder / "aligned").iterdir())) == 2


def test_names(folder: Path) -> None:
    controls = (Control("reduction", 0.0, 9.0), Control("peak_reduction", 0.0, 100.0), Control("mode", 0, 2, "switch"))

    def setting(stem: str) -> dict[str, float | int]:
        return setting_of(folder / f"{stem}.wav", controls)

    expected = {"reduction": 3.0, "peak_reduction": 65.5, "mode": 2}
    assert setting("LA_2A take 2_reduction=3_peak_reduction=65.5_mode=2") == expected
    assert setting("peak_reduction=6.55e1_mode=2_reduction=3_spoiled") == expected
    assert type(setting("reduction=3_peak_reduction=65.5_mode=2")["mode"]) is int


def test_frame_of_an_la2a_is_read_and_fitted_as_any_other(
    folder: Path, unit: Callable[[float, float], Array], tmp_path: Path
) -> None:
    write(folder, "compress_or_limit=0_peak_reduction=40", between(unit(-20.0, 3.0), 99))
    write(folder, "compress_or_limit=1_peak_reduction=65", between(unit(-30.0, 8.0), 999))
    frame = index_captures(folder, LA2A_CONTROLS, device="one", source="simulated")
    assert frame["device"].tolist() == ["one", "one"]
    read = la.read_frame(frame)
    assert read["peak_reduction"].tolist() == [40, 65]
    with_relative_paths(frame, tmp_path / "frame.csv").to_csv(tmp_path / "frame.csv", index=False)
    text = (tmp_path / "frame.csv").read_text(encoding="utf-8")
    assert ",my unit/stimulus.wav,my unit/aligned/compress_or_limit=0_peak_reduction=40.wav,simulated," in text
    pd.testing.assert_frame_equal(la.read_frame(tmp_path / "frame.csv")[read.columns[:8]], read[read.columns[:8]])
    findings = la.check(frame)
    assert findings[findings["severity"] == "error"].empty
    lags = findings.loc[findings["finding"] == "lag", "value"].astype(float)
    assert len(lags) == 2
    assert (lags.abs() < 0.1).all()


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(folder: Path, message: str, **how: object) -> None:
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        index_captures(folder, CONTROLS, **how)  # type: ignore[arg-type]
    assert contents(folder) == before
    assert not [path for path in folder.iterdir() if path.is_dir()]


def bad(name: str, audio: Array) -> tuple[Array, int]:
    """A recording that can't be used, and the rate that its header says."""
    whole = between(audio, 1000)
    middle = len(whole) - 8 * FS
    damaged = {
        "rate": whole,
        "short": whole[: 40 * FS],
        "late": whole[1000 + 2 * FS :],
        "no sync": whole[4 * FS : -4 * FS],
        "other": np.random.default_rng(0).standard_normal(40 * FS) * 0.1,
        "stereo": np.stack([whole, whole], axis=1),
        "gap": np.delete(whole, slice(middle, middle + FS // 4)),
        "lost": np.delete(whole, slice(middle, middle + 25)),
        "NaN": np.where(np.arange(len(whole)) == 5000, np.nan, whole),
    }[name]
    return damaged, 11025 if name == "rate" else FS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rate", "expected 8000 Hz as the stimulus, got 11025 Hz; record it at that rate"),
        ("short", r"got a recording that lacks 35\.12 s at its end; record again"),
        ("late", r"got a recording that lacks 2\.00 s at its beginning; record again"),
        ("no sync", "expected the stimulus, found no sync"),
        ("other", "expected the stimulus, found no sync"),
        ("stereo", "expected one channel, got 2; give a mono file or mix it down first"),
        ("gap", r"got 73\.52 s, -\d{4} ppm off .* record it again"),
        ("lost", r"expected the programme where the syncs say, got delays of -?\d+\.\d to .* record it again"),
        ("NaN", "expected finite samples, got NaN or infinity"),
    ],
)
def test_one_bad_recording(folder: Path, played: Array, name: str, message: str) -> None:
    write(folder, "good_threshold=-30_ratio=4", between(played, 7))
    audio, rate = bad(name, played)
    path = write(folder, "bad_threshold=-30_ratio=8", audio, rate, "FLOAT")
    refused(folder, "^" + re.escape(str(path)) + ": .*" + message)


def test_all_bad_recordings_are_named_at_once(folder: Path, played: Array) -> None:
    for number, name in enumerate(("short", "no sync", "stereo")):
        write(folder, f"threshold=-30_ratio={number + 1}", *bad(name, played), "FLOAT")
    write(folder, "threshold=-30_ratio=9", between(played, 7))
    (folder / "threshold=-30_ratio=8.wav").write_bytes(b"RIFF")
    refused(
        folder,
        r"my unit: 4 recordings can't be used, nothing was written:(?s:.*)ratio=1\.wav(?s:.*)ratio=2\.wav(?s:.*)"
        r"ratio=3\.wav(?s:.*)ratio=8\.wav",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unit", "expected threshold=<value> and ratio=<value> in the name"),
        ("threshold=-20", "expected ratio=<value> in the name; rename the file"),
        ("threshold=-70_ratio=4", "expected a position of threshold=-60:0, got threshold=-70; rename the file"),
        ("threshold=-20_ratio=", "expected a position of ratio=1:20, got ratio="),
        ("threshold=-20_ratio=4 (2)", r"expected a position of ratio=1:20, got ratio=4 \(2\); rename"),
        ("threshold=nan_ratio=4", "expected a position of threshold=-60:0, got threshold=nan"),
        ("threshold=-20_ratio=4_ratio=5", "expected ratio once in the name, got it twice"),
        ("threshold=-20_ratio=4_knee=6", "expected positions of threshold, ratio, got knee=6; add the control"),
        ("=4_threshold=-20_ratio=4", "expected positions of threshold, ratio, got =4"),
    ],
)
def test_names_that_say_no_setting(folder: Path, name: str, message: str) -> None:
    path = write(folder, name, np.zeros(10))
    refused(folder, "^" + re.escape(str(path)) + ": " + message)


def test_one_setting_twice(folder: Path) -> None:
    write(folder, "a_threshold=-20_ratio=4", np.zeros(10))
    write(folder, "b_ratio=4.0_threshold=-20", np.zeros(10))
    refused(
        folder, r"b_ratio=4\.0_threshold=-20\.wav: expected every setting once, got that of a_threshold=-20_ratio=4"
    )


def test_damaged_header(folder: Path, played: Array) -> None:
    path = write(folder, "threshold=-20_ratio=4", between(played, 7))
    path.write_bytes(path.read_bytes()[:-5000])
    refused(folder, "expected a sound header, got .* bytes promised, .* held")


def test_arguments(folder: Path, tmp_path: Path, played: Array) -> None:
    refused(folder, r"my unit: expected recordings named such as <anything>_threshold=-60_ratio=1\.wav, found none")
    refused(folder, "source: expected one of hardware, .* got 'tape'", source="tape")
    with pytest.raises(ValueError, match="controls: expected names other than the frame's own columns, got gain_db"):
        index_captures(folder, parse_controls("gain_db=0:1,ratio=1:20"))
    with pytest.raises(FileNotFoundError, match="nowhere: expected a folder with recordings"):
        index_captures(tmp_path / "nowhere", CONTROLS)
    with pytest.raises(FileNotFoundError, match=r"other\.wav: expected the stimulus that was played"):
        index_captures(folder, CONTROLS, stimulus_path=folder / "other.wav")
    soundfile.write(folder / "stimulus.wav", played[100:], FS)
    refused(folder, r"stimulus\.wav: expected the file that 'ddsp-la2a capture stimulus' wrote")


def test_nothing_half_written(folder: Path, played: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "threshold=-20_ratio=4", between(played, 7))
    write(folder, "threshold=-20_ratio=5", between(played, 7))
    whole = soundfile.write
    written: list[Path] = []

    def full(path: Path, *how: object) -> None:
        if written:
            raise OSError("disc full")
        written.append(path)
        whole(path, *how)

    monkeypatch.setattr(capture.soundfile, "write", full)
    before = contents(folder)
    with pytest.raises(OSError, match="disc full"):
        index_captures(folder, CONTROLS)
    assert contents(folder) == before
    assert not (folder / "aligned").exists()
