"""What is played through a unit: the same every time, at stated levels, with sync bursts like nothing else in it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from ddsp_la2a.data.audio import read_audio, write_audio
from ddsp_la2a.data.stimulus import (
    MIN_SECONDS,
    STEP_LEVELS_DB,
    noise_frames,
    programme_frames,
    read_stimulus,
    step_frames,
    stimulus,
    syncs,
)

FS = 16000


@pytest.fixture(scope="module")
def played() -> np.ndarray:
    return stimulus(80.0, FS)


def peak_db(audio: np.ndarray) -> float:
    return float(20.0 * np.log10(np.abs(audio).max()))


@pytest.mark.parametrize(("seconds", "rate"), [(MIN_SECONDS, 8000), (75.3, 11025), (76.0001, 44100)])
def test_length_and_range(seconds: float, rate: int) -> None:
    audio = stimulus(seconds, rate)
    assert audio.shape == (round(seconds * rate),)
    assert np.isfinite(audio).all()
    assert 0.99 < np.abs(audio).max() <= 1.0


def test_same_every_time_and_longer_ones_differ_in_programme_alone(played: np.ndarray) -> None:
    np.testing.assert_array_equal(stimulus(80.0, FS), played)
    start = programme_frames(len(played), FS).start
    np.testing.assert_array_equal(stimulus(90.0, FS)[:start], played[:start])


def test_silences(played: np.ndarray) -> None:
    assert not played[noise_frames(FS)].any()
    assert noise_frames(FS).stop - noise_frames(FS).start == 2 * FS
    assert not played[: FS // 2].any()
    assert not played[-FS // 2 :].any()
    end = programme_frames(len(played), FS).stop
    assert not played[end : end + 3 * FS].any()


def test_level_steps(played: np.ndarray) -> None:
    assert STEP_LEVELS_DB[0] == STEP_LEVELS_DB[-1] == -50
    assert max(STEP_LEVELS_DB) == 0
    frequency = np.fft.rfftfreq(FS, 1.0 / FS)
    for level_db, step in zip(STEP_LEVELS_DB, step_frames(FS), strict=True):
        assert step.stop - step.start == FS
        assert peak_db(played[step]) == pytest.approx(level_db, abs=0.01)
        assert frequency[np.abs(np.fft.rfft(played[step])).argmax()] == 1000.0


def test_tone_bursts_and_sweeps(played: np.ndarray) -> None:
    rest = played[step_frames(FS)[-1].stop : programme_frames(len(played), FS).start]
    sounding = np.abs(rest) > 1e-9
    # Sines pass through zero: gaps below 10 ms belong to the sound.
    sounding = np.convolve(sounding, np.ones(FS // 100), "same") > 0.5
    edges = np.flatnonzero(np.diff(sounding.astype(int)))
    lengths = np.diff(edges.reshape(-1, 2))[:, 0] / FS
    assert lengths == pytest.approx([0.02, 0.2, 1.0, 5.0, 5.0, 5.0], abs=0.011)
    pauses = (edges[2::2] - edges[1:-1:2]) / FS
    assert pauses[:4] == pytest.approx([3.0, 3.0, 3.0, 5.0], abs=0.011)
    levels = [peak_db(rest[start:stop]) for start, stop in edges.reshape(-1, 2)]
    assert levels == pytest.approx([-6.0] * 4 + [-40.0, -10.0], abs=0.05)


def test_programme(played: np.ndarray) -> None:
    programme = played[programme_frames(len(played), FS)]
    assert len(programme) > 13 * FS
    assert -3.0 <= peak_db(programme) <= -1.4
    assert -20.0 < 20.0 * np.log10(np.std(programme)) < -14.0


def test_syncs_are_short_low_and_mirrored(played: np.ndarray) -> None:
    first, last = syncs(len(played), FS)
    np.testing.assert_array_equal(first.burst, last.burst[::-1])
    np.testing.assert_array_equal(np.diff(first.starts), np.diff(last.starts)[::-1])
    for sync in (first, last):
        assert peak_db(sync.burst) == pytest.approx(-24.0, abs=0.2)
        assert len(sync.burst) == FS // 100
        for start in sync.starts:
            np.testing.assert_array_equal(played[start : start + len(sync.burst)], sync.burst)
    assert first.starts[0] == FS // 2
    assert len(played) - last.starts[-1] - len(last.burst) == FS // 2
    gaps = [b - a for i, a in enumerate(first.starts) for b in first.starts[i + 1 :]]
    assert len(set(gaps)) == len(gaps)


def test_nothing_else_looks_like_a_burst(played: np.ndarray) -> None:
    first, last = syncs(len(played), FS)
    length = len(first.burst)
    energy = np.convolve(played**2, np.ones(length), "valid")
    for sync in (first, last):
        matched = signal.oaconvolve(played, sync.burst[::-1], mode="valid")
        likeness = np.abs(matched) / np.sqrt(np.maximum(energy, 1e-12) * np.sum(sync.burst**2))
        assert likeness[sync.starts] == pytest.approx(1.0)
        for start in sync.starts:
            likeness[start - length : start + length] = 0.0
        assert likeness.max() < 0.75


@pytest.mark.parametrize(
    ("seconds", "rate", "message"),
    [
        (74.9, 44100, "seconds: expected at least 75 for test signals and programme, got 74.9"),
        (float("nan"), 44100, "seconds: expected at least 75 .* got nan"),
        (120.0, 4000, "sample_rate: expected 8000 to 192000 Hz, got 4000"),
        (120.0, 400000, "sample_rate: expected 8000 to 192000 Hz, got 400000"),
    ],
)
def test_what_is_refused(seconds: float, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stimulus(seconds, rate)


@pytest.mark.parametrize(("name", "subtype", "gain"), [("a.wav", "PCM_16", 1.0), ("a.flac", "PCM_24", 0.5)])
def test_read_back_from_other_formats_and_levels(
    tmp_path: Path, played: np.ndarray, name: str, subtype: str, gain: float
) -> None:
    soundfile.write(tmp_path / name, gain * played, FS, subtype)
    audio, rate = read_stimulus(tmp_path / name)
    assert rate == FS
    np.testing.assert_allclose(audio, gain * played, atol=1e-4)


def test_written_with_24_bits(tmp_path: Path, played: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    write_audio(tmp_path / "a.wav", played, FS)
    assert not caplog.records
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.subtype, info.channels) == ("PCM_24", 1)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], played, atol=2.0**-22)


@pytest.mark.parametrize("damage", ["cut", "short", "no first", "no last", "silent", "shifted"])
def test_a_file_without_syncs_is_refused(tmp_path: Path, played: np.ndarray, damage: str) -> None:
    audio = {
        "cut": played[100:],
        "short": played[: FS * 10],
        "no first": np.where(np.arange(len(played)) < FS, 0.0, played),
        "no last": np.where(np.arange(len(played)) > len(played) - FS, 0.0, played),
        "silent": 0.0 * played,
        "shifted": np.roll(played, 3),
    }[damage]
    path = tmp_path / "a.wav"
    soundfile.write(path, audio, FS, "PCM_24")
    with pytest.raises(ValueError, match=re.escape(str(path)) + ": expected the file that .* without its sync bursts"):
        read_stimulus(path)
