"""Models that play recordings block by block or as a whole: same output, same scores, how long and how much memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import soundfile

import ddsp_la2a as la
from ddsp_la2a.evaluation import evaluate, playback, scored_audio
from ddsp_la2a.evaluation.playback import Passage, Stopwatch, played

RATE = 8000
AT = {"compress_or_limit": 1, "peak_reduction": 65}


class Whole:
    """A model with ``process`` alone."""

    def __init__(self, model):
        self.model, self.calls = model, []

    def process(self, audio, sample_rate, **positions):
        self.calls.append(len(audio))
        return self.model.process(audio, sample_rate, **positions)


class Late:
    """What comes in goes out, so many samples later; ``process`` takes that out."""

    def __init__(self, latency_samples: int = 0):
        self.latency_samples = latency_samples

    def process(self, audio, sample_rate, **positions):
        return audio.copy()

    def stream(self, sample_rate, **positions):
        return LateStream(self.latency_samples)


class LateStream:
    def __init__(self, latency_samples: int):
        self.latency_samples = latency_samples
        self.waiting = np.zeros(latency_samples, dtype=np.float32)

    def process(self, block):
        both = np.concatenate([self.waiting, block])
        self.waiting = both[len(block) :]
        return both[: len(block)]


@pytest.fixture
def file(tmp_path, programme):
    """A recording and its samples."""
    audio = programme(1, 1.3)
    soundfile.write(tmp_path / "raw.wav", audio, RATE, "FLOAT")
    return str(tmp_path / "raw.wav"), audio


def output_of(model, file, first=0, stop=None):
    passage = Passage(file[0], first, len(file[1]) if stop is None else stop, RATE)
    return list(played("it", model, AT, passage, Stopwatch()))


@pytest.mark.parametrize("block_frames", [1, 999, 1000, 10_400, 1 << 18])
@pytest.mark.parametrize("latency", [0, 2, 1000, 1001, 20_000])
def test_an_output_is_not_late(file, block_frames, latency, monkeypatch):
    monkeypatch.setattr(playback, "BLOCK_FRAMES", block_frames)
    blocks = output_of(Late(latency), file, first=100, stop=5100)
    assert max(map(len, blocks)) <= block_frames
    assert np.array_equal(np.concatenate(blocks), file[1][100:5100])


@pytest.mark.parametrize("block_frames", [777, 1 << 18])
def test_a_model_gives_block_by_block_what_it_gives_as_a_whole(exportable, file, block_frames, monkeypatch):
    monkeypatch.setattr(playback, "BLOCK_FRAMES", block_frames)
    expected = exportable.process(file[1], RATE, **AT)
    found = np.concatenate(output_of(exportable, file))
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-9)


def test_a_model_without_a_stream_gets_the_whole_at_once(file, monkeypatch):
    monkeypatch.setattr(playback, "BLOCK_FRAMES", 1000)
    model = Whole(Late())
    blocks = output_of(model, file)
    assert model.calls == [10_400]
    assert [len(block) for block in blocks] == [1000] * 10 + [400]
    assert np.array_equal(np.concatenate(blocks), file[1])


class Unstreamed(Whole):
    def stream(self, sample_rate, **positions):
        return None


class Louder(Late):
    """Inherits a stream that isn't its own."""

    def process(self, audio, sample_rate, **positions):
        return 2.0 * audio


class Delegating(Whole):
    def __getattr__(self, name):
        return getattr(self.model, name)


class Without(Late):
    stream = None


def louder_itself():
    """Its own ``process`` was put in place of its class's."""
    model = Late()
    model.process = Louder().process
    return model


@pytest.mark.parametrize(
    ("model", "gain"),
    [
        (Unstreamed(Late()), 1.0),
        (Without(), 1.0),
        (Louder(), 2.0),
        (Delegating(Louder()), 2.0),
        (louder_itself(), 2.0),
    ],
    ids=["none now", "none at all", "process overridden", "delegating", "process put in place"],
)
def test_no_stream_but_the_model_s_own_is_played(file, model, gain, monkeypatch):
    monkeypatch.setattr(LateStream, "process", None)
    assert np.array_equal(np.concatenate(output_of(model, file)), gain * file[1])


@pytest.mark.parametrize("stretch", [None, (0, 20_000), (9000, 17_000), (16_000, 24_000)])
def test_scores_are_those_of_the_whole(frame, stretch, exportable, monkeypatch):
    """Blocks of 4000 frames have edges where stretches and scoring start (8000 and 16000) and stop."""
    rows = frame if stretch is None else frame.assign(start_frame=stretch[0], stop_frame=stretch[1])
    expected, expected_blocks = la.evaluate({"it": Whole(exportable)}, rows, return_blocks=True)
    for block_frames in (4000, 3001):
        monkeypatch.setattr(playback, "BLOCK_FRAMES", block_frames)
        scored, blocks = la.evaluate({"it": exportable}, rows, return_blocks=True)
        same = [name for name in scored if name not in ("real_time_factor", "setting_seen", "parameters")]
        pd.testing.assert_frame_equal(scored[same], expected[same], rtol=1e-6)
        pd.testing.assert_frame_equal(blocks, expected_blocks, rtol=1e-6)


def test_real_time_factor_counts_the_model_alone(frame, monkeypatch):
    """A clock that goes on only while the model works, and a long time while files are read."""
    now = [0.0]

    class Slow(Late):
        def process(self, audio, sample_rate, **positions):
            now[0] += 0.5
            return audio

    class SlowStream(Late):
        def stream(self, sample_rate, **positions):
            now[0] += 0.1
            return self

        def process(self, block, *_, **__):
            now[0] += 0.2
            return block

    def reading(*arguments):
        now[0] += 100.0
        return read_audio(*arguments)

    read_audio = evaluate.read_audio
    monkeypatch.setattr(evaluate, "read_audio", reading)
    monkeypatch.setattr(playback, "read_audio", reading)
    monkeypatch.setattr(playback.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(playback, "BLOCK_FRAMES", 8000)
    scored = la.evaluate({"whole": Whole(Slow()), "stream": SlowStream()}, frame).set_index("model")
    assert set(scored.loc["whole", "real_time_factor"]) == {round(3.0 / 0.5, 1)}
    assert set(scored.loc["stream", "real_time_factor"]) == {round(3.0 / (0.1 + 3 * 0.2), 1)}


@pytest.mark.parametrize("wrap", [Whole, lambda model: model], ids=["whole", "stream"])
def test_a_recording_that_is_not_finite_is_named(file, wrap):
    path, audio = file
    audio[9000] = np.nan
    soundfile.write(path, audio, RATE, "FLOAT")
    with pytest.raises(ValueError, match=r"raw\.wav: expected finite samples, got NaN or infinity"):
        output_of(wrap(Late()), file)


def test_a_stream_of_another_shape_is_refused(file, monkeypatch):
    monkeypatch.setattr(LateStream, "process", lambda self, block: block[None])
    with pytest.raises(ValueError, match=r"it: expected output of shape \(10400,\), got \(1, 10400\)"):
        output_of(Late(), file)


def test_a_target_that_ends_early_is_refused(frame, tmp_path):
    row = frame[frame["track_id"] == 121].assign(start_frame=0, stop_frame=24_000)
    audio, _ = soundfile.read(row["processed_audio_path"].item(), dtype="float32")
    soundfile.write(tmp_path / "short.wav", audio[:20_000], RATE, "FLOAT")
    with pytest.raises(ValueError, match=r"short\.wav: expected a stretch within 0 to 20000 frames, got 0 to 24000"):
        la.evaluate({"it": Late()}, row.assign(processed_audio_path=str(tmp_path / "short.wav")))


def peak_bytes(model, frame, stop):
    """Most memory that numpy and Python had while so many frames were scored."""
    tracemalloc.start()
    try:
        la.evaluate({"it": model}, frame.assign(start_frame=0, stop_frame=stop), return_blocks=True)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_recording(tmp_path, programme, monkeypatch):
    """A model without a stream needs input and output, four bytes a frame each, and nothing more."""
    for module, name in ((playback, "BLOCK_FRAMES"), (scored_audio, "_BLOCK_FRAMES")):
        monkeypatch.setattr(module, name, 1 << 14)
    audio = programme(1, 100.0)
    for name in ("raw", "processed"):
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE, "PCM_16")
    row = {"track_id": 1, "split": "test", "take": "", **AT}
    frame = pd.DataFrame([{**row, **{f"{n}_audio_path": tmp_path / f"{n}.wav" for n in ("raw", "processed")}}])
    peak_bytes(Late(2), frame, 20_000)  # what is imported and remembered once
    short, long = (peak_bytes(Late(2), frame, stop) for stop in (200_000, 800_000))
    assert long < short + 100_000
    assert peak_bytes(Whole(Late()), frame, 800_000) < short + 8 * 800_000 + 100_000
