"""Segments: where they lie, what is read, what counts."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import ddsp_la2a.data.audio as audio_module
from ddsp_la2a.data.segments import SegmentDataset, segments, warmup_seconds

RATE = 1000


def ramp(frames: int, first: int = 0) -> np.ndarray:
    """Every sample says where it stands: n / 2^20, exact in 24 bits and in float32."""
    return (first + np.arange(frames)) / 2.0**20


def make_frame(folder, *lengths, rate=RATE, **columns) -> pd.DataFrame:
    rows = []
    for number, length in enumerate(lengths):
        paths = folder / f"raw{number}.wav", folder / f"processed{number}.wav"
        soundfile.write(paths[0], ramp(length, 1), rate, "PCM_24")
        soundfile.write(paths[1], -ramp(length, 1), rate, "PCM_24")
        rows.append([number + 10, "train", "", number % 2, 5 * number, *map(str, paths)])
    names = ["track_id", "split", "take", "compress_or_limit", "peak_reduction", "raw_audio_path"]
    return pd.DataFrame(rows, columns=[*names, "processed_audio_path"]).assign(**columns)


def test_twenty_minutes_are_four_hundred_segments(tmp_path):
    frame = make_frame(tmp_path, 1200 * RATE)
    table = segments(frame, length_s=3.0)
    assert len(table) == 400
    assert (table["stop_frame"] - table["start_frame"]).eq(3 * RATE).all()
    assert table["start_frame"].tolist() == list(range(0, 1200 * RATE, 3 * RATE))
    assert table["padding_frames"].eq(0).all()
    assert len(SegmentDataset(frame, length_s=3.0)) == 400


def test_remainder_is_kept_and_padded(tmp_path):
    frame = make_frame(tmp_path, 12_345, 5_000)
    table = segments(frame)
    assert table["recording"].tolist() == [0, 0, 0, 1]
    assert table["stop_frame"].tolist() == [5000, 10_000, 12_345, 5000]
    assert table["padding_frames"].tolist() == [0, 0, 2655, 0]
    item = SegmentDataset(frame)[2]
    assert item["mask"].sum() == 2345
    assert item["raw"][2000 + 2345 :].eq(0).all()


@pytest.mark.parametrize("length_s", [3.0, 4.7, 10.0])
@pytest.mark.parametrize("warmup_s", [0.0, 2.0, 12.0])
@pytest.mark.parametrize("skip_s", [0.0, 1.0, 4.0])
def test_every_frame_counts_once_and_is_the_right_one(tmp_path, length_s, warmup_s, skip_s):
    length = 23_456
    dataset = SegmentDataset(make_frame(tmp_path, length), length_s, warmup_s, skip_s)
    warmup, counted = round(warmup_s * RATE), []
    for number in range(len(dataset)):
        item = dataset[number]
        size = warmup + round(length_s * RATE)
        for name in ("raw", "processed", "mask"):
            assert item[name].shape == (size,)
            assert item[name].dtype == torch.float32
        position = dataset.segments["start_frame"].iloc[number] - warmup + np.arange(size)
        expected = np.where((position >= 0) & (position < length), (position + 1) / 2.0**20, 0.0)
        np.testing.assert_array_equal(item["raw"].numpy(), expected.astype(np.float32))
        np.testing.assert_array_equal(item["processed"].numpy(), -expected.astype(np.float32))
        assert set(item["mask"].tolist()) <= {0.0, 1.0}
        counted.extend(position[item["mask"].numpy() == 1.0])
    assert counted == list(range(round(skip_s * RATE), length))


def test_rows_limited_to_a_stretch(tmp_path):
    frame = make_frame(tmp_path, 20_000, start_frame=4_000, stop_frame=13_500)
    dataset = SegmentDataset(frame, length_s=3.0, warmup_s=2.0, skip_s=1.0)
    assert dataset.segments["start_frame"].tolist() == [4000, 7000, 10_000, 13_000]
    first = dataset[0]
    assert first["raw"][:2000].eq(0).all()  # the stretch before may be another split's: it isn't looked at
    assert first["raw"][2000] == 4001 / 2.0**20
    assert first["mask"].nonzero().flatten().tolist() == list(range(3000, 5000))
    last = dataset[3]
    assert last["raw"][0] == 11_001 / 2.0**20
    assert last["mask"].sum() == 500


def test_controls_and_recording_are_integers(tmp_path):
    frame = make_frame(tmp_path, 4000, 4000, 4000)
    frame.index = [7, 3, 9]
    dataset = SegmentDataset(frame)
    for number in range(3):
        item = dataset[number]
        for name, value in (("compress_or_limit", number % 2), ("peak_reduction", 5 * number), ("recording", number)):
            assert item[name].dtype == torch.int64
            assert item[name].shape == ()
            assert item[name] == value
    assert dataset.frame.index.tolist() == [0, 1, 2]
    assert dataset.sample_rate == RATE
    assert dataset[-1]["recording"] == 2


def test_only_the_stretch_is_read(tmp_path, monkeypatch):
    dataset = SegmentDataset(make_frame(tmp_path, 100_000), length_s=3.0, warmup_s=2.0)
    read = []

    class Counting(soundfile.SoundFile):
        def read(self, frames=-1, *args, **kwargs):
            read.append((self.tell(), frames))
            return super().read(frames, *args, **kwargs)

    monkeypatch.setattr(audio_module.soundfile, "SoundFile", Counting)
    _ = dataset[20]
    assert read == [(58_000, 5000), (58_000, 5000)]


def test_segments_left_out_have_nothing_that_counts(tmp_path):
    frame = make_frame(tmp_path, 10_000, 800)
    dataset = SegmentDataset(frame, length_s=3.0, skip_s=4.0)
    assert dataset.segments["start_frame"].tolist() == [3000, 6000, 9000]
    assert all(item["mask"].any() for item in (dataset[number] for number in range(len(dataset))))
    with pytest.raises(ValueError, match="longer than skip_s"):
        SegmentDataset(frame, skip_s=11.0)


def test_batches_come_alike_from_every_kind_of_worker(tmp_path):
    dataset = SegmentDataset(make_frame(tmp_path, 20_000, 7_000))
    assert len(pickle.loads(pickle.dumps(dataset))) == len(dataset)
    here = list(torch.utils.data.DataLoader(dataset, batch_size=4))
    assert here[0]["raw"].shape == (4, 7000)
    assert here[0]["peak_reduction"].dtype == torch.int64
    for method in {"fork", "spawn"} & set(multiprocessing.get_all_start_methods()):
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=1, multiprocessing_context=method)
        for mine, theirs in zip(here, loader, strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_split_belongs_to_the_recording(tmp_path):
    frame = make_frame(tmp_path, 9000, 9000, 9000, split=["train", "val", "test"])
    table = segments(frame, length_s=3.0)
    assert table.groupby("recording")["split"].nunique().eq(1).all()
    assert table["split"].tolist() == ["train"] * 3 + ["val"] * 3 + ["test"] * 3


@pytest.mark.parametrize("length_s", [2.9, 10.1, -5.0, float("nan"), float("inf")])
def test_lengths_out_of_range(tmp_path, length_s):
    with pytest.raises(ValueError, match="length_s: expected 3 to 10 s, got"):
        segments(make_frame(tmp_path, 5000), length_s=length_s)


def test_other_arguments_out_of_range(tmp_path):
    frame = make_frame(tmp_path, 5000)
    for warmup_s in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="warmup_s: expected 0 s or more"):
            segments(frame, warmup_s=warmup_s)
    for skip_s in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="skip_s: expected 0 s or more"):
            SegmentDataset(frame, skip_s=skip_s)


def test_files_that_dont_go_together(tmp_path):
    frame = make_frame(tmp_path, 5000, 5000, 5000)
    soundfile.write(tmp_path / "raw1.wav", ramp(5000), 2 * RATE)
    with pytest.raises(ValueError, match=r"processed1\.wav: expected 2000 Hz as .*raw1\.wav, got 1000 Hz"):
        segments(frame)
    soundfile.write(tmp_path / "processed1.wav", ramp(5000), 2 * RATE)
    assert len(segments(frame)) == 3
    with pytest.raises(ValueError, match=r"one sample rate, got 1000 Hz in .*raw0\.wav and 2000 Hz in .*raw1\.wav"):
        SegmentDataset(frame)
    soundfile.write(tmp_path / "raw0.wav", np.zeros((5000, 2)), RATE)
    with pytest.raises(ValueError, match=r"raw0\.wav: expected one channel, got 2"):
        segments(frame)
    soundfile.write(tmp_path / "raw0.wav", ramp(4999), RATE)
    with pytest.raises(ValueError, match=r"processed0\.wav: expected 4999 frames as .*run check and apply_findings"):
        segments(frame)
    assert len(segments(frame.assign(start_frame=0, stop_frame=4999))) == 3
    with pytest.raises(ValueError, match=r"raw0\.wav: expected at least stop_frame = 5000 frames, got 4999"):
        segments(frame.assign(start_frame=0, stop_frame=5000))


def test_warmup_forgets_the_start():
    assert warmup_seconds(470.0) == pytest.approx(1.88)
    assert warmup_seconds([60.0, 1000.0]) == pytest.approx(4.0)
    left = np.exp(-np.log(9.0) * warmup_seconds(470.0) / 0.470)
    assert left < 2e-4
    for wrong in (0.0, -1.0, float("nan"), []):
        with pytest.raises(ValueError, match="release_ms"):
            warmup_seconds(wrong)


def test_controls_of_another_unit_by_name(strip, tmp_path):
    frame = strip.record(tmp_path, [(3, 2.5, 0.5), (1, 5.0, 1.0)], 4.0)
    first, second = SegmentDataset(frame, 4.0, 0.0, controls=strip.controls)
    positions = [[item[control.name] for control in strip.controls] for item in (first, second)]
    assert [[float(p) for p in row] for row in positions] == [[3.0, 2.5, 0.5], [1.0, 5.0, 1.0]]
    assert [p.dtype for p in positions[0]] == [torch.int64, torch.float64, torch.float64]
    assert segments(frame, 4.0, controls=strip.controls)["recording"].tolist() == [0, 1]


def test_a_skip_for_each_row(tmp_path):
    """What is skipped is still there to warm up by; a segment in which nothing counts is left out."""
    dataset = SegmentDataset(make_frame(tmp_path, 9000, 7000), length_s=3.0, warmup_s=1.0, skip_s=[7.5, 0.5])
    assert dataset.segments["recording"].tolist() == [0, 1, 1, 1]
    assert dataset.segments["start_frame"].tolist() == [6000, 0, 3000, 6000]
    counted = [item["mask"].sum() for item in (dataset[i] for i in range(4))]
    assert counted == [1500, 2500, 3000, 1000]
    assert torch.equal(dataset[0]["raw"], torch.from_numpy(ramp(4000, 5001)).float())
    with pytest.raises(ValueError, match="skip_s: expected 0 s or more, one for all rows or for each"):
        SegmentDataset(dataset.frame, skip_s=[1.0, 1.0, 1.0])
