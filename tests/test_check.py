"""A tree with every fault planted: each is found, and nothing else is called one."""

from __future__ import annotations

import logging
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import ddsp_la2a.data.judgements as judgements
from ddsp_la2a.data.alignment import alignment, expansion
from ddsp_la2a.data.check import apply_findings, check
from ddsp_la2a.data.index import index
from ddsp_la2a.data.segments import SegmentDataset

RATE = 44100
REAL = Path(__file__).parents[2] / "shared" / "audio"


def programme(seed: int, seconds: float = 4.0, rate: int = RATE) -> np.ndarray:
    """Noise without much treble, with a bass note, in passages of a quarter of a second between −40 and −8 dB."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    noise = np.convolve(rng.standard_normal(len(time)), np.hanning(9) / 4.5, "same")
    sound = 0.3 * noise + 0.7 * np.sin(2 * np.pi * rng.uniform(50, 90) * time)
    levels = 10 ** (rng.uniform(-40, -8, int(4 * seconds) + 1) / 20)
    return sound * levels[(time * 4).astype(int)]


def compressed(x: np.ndarray, ratio: float = 4.0, threshold: float = 0.02, rate: int = RATE) -> np.ndarray:
    """A crude compressor: the mean magnitude of the last 20 ms says the gain."""
    window = rate // 50
    total = np.cumsum(np.concatenate([np.zeros(window), np.abs(x)]))
    level = (total[window:] - total[:-window]) / window
    return 0.8 * x * (np.maximum(level, threshold) / threshold) ** (1 / ratio - 1)


def late(y: np.ndarray, samples: int) -> np.ndarray:
    """The same length, moved by whole samples."""
    moved = np.zeros_like(y)
    if samples >= 0:
        moved[samples:] = y[: len(y) - samples]
    else:
        moved[:samples] = y[-samples:]
    return moved


def write(root: Path, track_id: int, x, y, *, split="Train", knob=50, switch=0, take="2c", rates=(RATE, RATE), **how):
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    raw, target = folder / f"input_{track_id}_.wav", folder / f"target_{track_id}_LA2A_{take}__{switch}__{knob}.wav"
    for path, audio, rate in ((raw, x, rates[0]), (target, y, rates[1])):
        if audio is not None:
            soundfile.write(path, audio, rate, how.get("subtype", "PCM_16"))
    return raw, target


def errors_by_id(findings: pd.DataFrame, severity: str = "error") -> dict[int, set[str]]:
    chosen = findings[findings["severity"] == severity]
    return {int(number): set(rows["finding"]) for number, rows in chosen.groupby("track_id")}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("SignalTrain__LA2A__13")
    for number in range(1, 10):  # nothing wrong with these, however much or little they compress
        x = programme(number)
        ratio = (1.0, 1.02, 1.1, 1.5, 2.0, 4.0, 8.0, 20.0, 100.0)[number - 1]
        write(root, number, x, compressed(x, ratio), split="Val" if number % 3 else "Test", knob=5 * number)
    for number, lag in ((20, 3), (21, -3), (22, 100), (23, -100), (24, 8583), (25, -8583)):
        x = programme(number)
        write(root, number, x, late(compressed(x), lag))
    x, y = (z := programme(30)), compressed(z)
    write(root, 30, x, -y)
    write(root, 31, y, x)
    write(root, 32, x, np.stack([y, y], 1))
    write(root, 33, x, y, rates=(RATE, 48000))
    write(root, 34, x, y, rates=(48000, 48000))
    write(root, 35, x, y[:-30_000])
    with_nan = y.copy()
    with_nan[[1000, 90_000]] = np.nan, np.inf
    write(root, 36, x, with_nan, subtype="FLOAT")
    _, path = write(root, 37, x, y)
    path.write_bytes(path.read_bytes()[:20])
    _, path = write(root, 38, x, y)
    path.write_bytes(path.read_bytes()[:-100_000])
    _, path = write(root, 39, x, y)
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", 200_000)
    path.write_bytes(content)
    _, path = write(root, 40, x, y)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", 22_050)
    path.write_bytes(content)
    write(root, 41, x, None)
    write(root, 42, None, y)
    write(root, 43, x, y, knob=20)
    write(root, 43, x, compressed(x, 10.0), knob=80)
    other = programme(13)
    write(root, 13, other, compressed(other))
    write(root, 130, x, y)
    write(root, 44, x, compressed(other))
    write(root, 45, x, np.zeros_like(x))
    gap = y.copy()
    gap[RATE : 2 * RATE] = 0.0
    write(root, 46, x, gap)
    write(root, 47, x, np.clip(30 * y, -1.0, 1.0))
    write(root, 48, x, y[8583:])
    write(root, 49, x, late(y, 8583)[:-20_000])
    write(root, 50, np.stack([x, x], 1), np.stack([y, y], 1))
    write(root, 51, x, y[: RATE // 2])
    write(root, 52, y[:-500], y)
    return root


@pytest.fixture(scope="module")
def findings(planted):
    return check(planted)


ERRORS = {
    **{number: {"lag_differs"} for number in range(20, 26)},
    30: {"polarity_inverted"},
    31: {"swapped_pair"},
    32: {"channels_differ"},
    33: {"sample_rate_differs"},
    34: {"sample_rate_differs"},
    36: {"not_finite"},
    37: {"unreadable"},
    38: {"header_length"},
    39: {"header_length"},
    40: {"header_fields"},
    41: {"missing_partner"},
    42: {"missing_partner"},
    44: {"unrelated"},
    45: {"silence"},
    48: {"lag_differs", "length_differs"},
    49: {"lag_differs", "length_differs"},
    50: {"not_mono"},
    51: {"too_short"},
}
WARNINGS = {
    35: {"length_differs"},
    43: {"duplicate_id"},
    46: {"silence"},
    47: {"clipping"},
    51: {"length_differs"},
    52: {"length_differs"},
}


def test_every_fault_is_found_and_nothing_else(findings):
    assert errors_by_id(findings) == ERRORS
    assert errors_by_id(findings, "warning") == WARNINGS


def test_findings_are_a_table(findings):
    assert list(findings.columns) == [
        *("track_id", "split", "take", "compress_or_limit", "peak_reduction"),
        *("finding", "severity", "value", "advice", "path"),
    ]
    assert set(findings["severity"]) == {"error", "warning", "information"}
    pairs = findings[findings["finding"] != "missing_partner"]
    assert not pairs.isna().any().any()
    assert all(len(advice) > 3 for advice in findings["advice"])
    assert findings["path"].map(lambda path: Path(path).is_file()).all()


def test_every_delay_is_measured(findings):
    lags = findings[findings["finding"] == "lag"].set_index("track_id")["value"].astype(float)
    expected = {20: 3, 21: -3, 22: 100, 23: -100, 24: 8583, 25: -8583, 48: -8583, 49: 8583}
    for number, lag in lags.items():
        assert abs(lag - expected.get(number, 0)) < 0.1, number
    assert set(range(1, 10)) <= set(lags.index)


def test_missing_ends_are_told_apart(findings):
    values = findings[findings["finding"] == "length_differs"].set_index("track_id")["value"]
    assert values[35] == "the last 30000 samples of the target are missing"
    assert values[52] == "the last 500 samples of the input are missing"
    assert values[48] == "the target lacks the first 8583 samples, both end together"
    assert values[49] == "the target starts 8583 samples late, the target lacks the last 28583"


def test_values_say_how_much(findings):
    def value(number: int, finding: str):
        [found] = findings.loc[(findings["track_id"] == number) & (findings["finding"] == finding), "value"]
        return found

    assert value(36, "not_finite") == 2
    assert value(46, "silence") == "0.8 s where the partner sounds"  # of the second, what isn't quiet in both
    assert value(32, "channels_differ") == "1 and 2"
    assert value(33, "sample_rate_differs") == "44100 Hz and 48000 Hz"
    assert value(22, "lag_differs").endswith(" samples, median -0.02")


def test_clean_frame(planted, findings, caplog):
    frame = index(planted)
    with caplog.at_level(logging.WARNING):
        clean = apply_findings(frame, findings)
    assert set(clean["track_id"]) == set(frame["track_id"]) - set(ERRORS)
    assert "swapped_pair" in caplog.text
    short = clean[clean["track_id"] == 35].iloc[0]
    assert (short["start_frame"], short["stop_frame"]) == (0, 4 * RATE - 30_000)
    assert clean.loc[clean["track_id"] == 1, "stop_frame"].item() == 4 * RATE
    again = check(clean)
    assert "error" not in set(again["severity"])
    assert "length_differs" not in set(again["finding"])
    assert SegmentDataset(clean).sample_rate == RATE


def test_clean_tree(planted):
    frame = index(planted)
    clean = frame[frame["track_id"] < 10].copy()
    seen = []
    found = check(clean, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 36) for done in range(0, 37, 4)]  # seconds: nine pairs of four
    unpaired = found["finding"] == "missing_partner"  # the frame still knows of the tree's orphans
    assert set(found[~unpaired]["finding"]) == {"lag"}
    kept = apply_findings(clean, found)
    assert len(kept) == 9
    assert "stop_frame" not in kept.columns


def test_a_common_delay_is_a_warning(tmp_path):
    for number in range(3):
        x = programme(number)
        write(tmp_path, number, x, late(compressed(x), 40 + number % 2))
    found = check(tmp_path)
    assert errors_by_id(found) == {}
    assert errors_by_id(found, "warning") == {0: {"lag_differs"}, 1: {"lag_differs"}, 2: {"lag_differs"}}


def test_of_two_pairs_the_late_one_is_wrong(tmp_path):
    for number, lag in ((1, 0), (2, 500)):
        x = programme(number)
        write(tmp_path, number, x, late(compressed(x), lag))
    assert errors_by_id(check(tmp_path)) == {2: {"lag_differs"}}


def test_stretches_are_looked_at_alone(tmp_path):
    x = programme(1, 8.0)
    y = compressed(x)
    y[: 4 * RATE] = late(y[: 4 * RATE], 50)
    write(tmp_path, 1, x, y)
    frame = index(tmp_path)
    later = check(frame.assign(start_frame=4 * RATE + 100, stop_frame=8 * RATE))
    assert later["value"].tolist() == pytest.approx([0.0], abs=0.1)
    outside = check(frame.assign(start_frame=0, stop_frame=9 * RATE))
    assert outside["finding"].tolist() == ["stretch_outside_file"]


def test_repeating_sound_has_no_delay(tmp_path):
    x = 0.3 * np.sin(2 * np.pi * 441 * np.arange(2 * RATE) / RATE)
    write(tmp_path, 1, x, 0.5 * x, subtype="FLOAT")
    found = check(tmp_path)
    assert found["finding"].tolist() == ["lag_ambiguous"]
    assert found["severity"].tolist() == ["warning"]


def test_noise_hides_neither_delay_nor_kinship(tmp_path):
    x = programme(1)
    noise = np.random.default_rng(2).standard_normal(len(x))
    y = compressed(x)
    write(tmp_path, 1, x, y + 0.1 * np.std(y) * noise)
    found = check(tmp_path)
    assert found["finding"].tolist() == ["lag"]
    assert abs(found["value"].item()) < 0.1


def test_unfinished_header(tmp_path):
    x = programme(1)
    _, path = write(tmp_path, 1, x, compressed(x))
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert errors_by_id(check(tmp_path), "warning") == {1: {"header_length"}}


def test_harmless_extra_chunks(tmp_path):
    x = programme(1)
    _, path = write(tmp_path, 1, x, compressed(x))
    content = bytearray(path.read_bytes() + b"LIST" + struct.pack("<I", 4) + b"INFO")
    content[4:8] = struct.pack("<I", len(content) - 8)
    path.write_bytes(content)
    assert check(tmp_path)["finding"].tolist() == ["lag"]


def test_errata_only_where_they_are_meant(tmp_path, monkeypatch):
    x = programme(1)
    y = compressed(x)
    write(tmp_path, 148, x, y, split="Val", take="3c", knob=50)
    write(tmp_path, 245, None, y, split="Val", switch=1, knob=10)
    write(tmp_path, 245, x, None, split="Train")
    write(tmp_path, 235, None, y, split="Train", knob=70)
    write(tmp_path, 236, x, None, split="Val")
    write(tmp_path, 235, x, y, split="Test", knob=65)
    short = check(tmp_path)
    known = short[short["finding"] == "known_erratum"]
    assert sorted(Path(path).name for path in known["path"]) == ["input_236_.wav", "target_235_LA2A_2c__0__70.wav"]
    assert short.loc[short["finding"] == "across_splits", "track_id"].tolist() == [245]
    monkeypatch.setattr(judgements, "_ERRATA_SECONDS", 1.0)
    long = check(tmp_path)
    assert set(long.loc[long["finding"] == "known_erratum", "track_id"]) == {148, 245, 235, 236}
    assert errors_by_id(long) == {235: {"missing_partner"}, 236: {"missing_partner"}}
    assert len(apply_findings(tmp_path, long)) == 3


def test_names_not_understood(tmp_path):
    x = programme(1)
    write(tmp_path, 1, x, compressed(x))
    soundfile.write(tmp_path / "Train" / "kick.wav", x, RATE)
    found = check(tmp_path)
    assert found[["finding", "severity"]].to_numpy().tolist()[-1] == ["name_not_understood", "warning"]
    assert len(apply_findings(tmp_path, found)) == 1


def test_nothing_left(tmp_path):
    x = programme(1)
    write(tmp_path, 1, x, -compressed(x))
    with pytest.raises(ValueError, match="a pair without an error, got none"):
        apply_findings(tmp_path, check(tmp_path))


@pytest.mark.parametrize("lag", [-0.75, -0.3, 0.0, 0.15, 0.5, 2.4, 10_000.3, -9_999.6])
@pytest.mark.parametrize("sign", [1, -1])
def test_fractions_of_a_sample(lag, sign):
    x = programme(5)
    spectrum = np.fft.rfft(x, 2 * len(x))
    turn = np.exp(-2j * np.pi * np.arange(len(spectrum)) * lag / (2 * len(x)))
    y = sign * compressed(np.fft.irfft(spectrum * turn, 2 * len(x))[: len(x)])
    pieces = [(x[start : start + 65536], y[start : start + 65536]) for start in range(0, 110_000, 20_000)]
    found = alignment(pieces)
    assert found is not None
    assert found.lag_samples == pytest.approx(lag, abs=0.05)
    assert found.polarity == sign
    assert found.likeness > 0.5


def test_silence_has_no_delay_and_no_gain():
    assert alignment([(np.zeros(1000), np.zeros(1000))]) is None
    assert alignment([]) is None
    assert expansion(np.zeros(0), np.zeros(0)) is None
    assert expansion(np.zeros(100), np.zeros(100)) == (0.0, 0.0)


def test_memory_does_not_grow_with_the_file(tmp_path):
    x = np.tile(programme(1, 20.0), 9)  # three minutes: 32 MB as float32
    write(tmp_path, 1, x, 0.5 * x)
    frame = index(tmp_path)
    del x
    tracemalloc.start()
    check(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def smoothed(x: np.ndarray, attack_ms: float, release_ms: float) -> np.ndarray:
    """Gain in amplitude of a compressor with attack and release, a loop over samples at a low rate."""
    level_db = 20 * np.log10(np.abs(x) + 1e-8)
    wanted = 10 ** (np.minimum(0.0, (-35 - level_db) * 0.75) / 20)
    attack, release = (1 - np.exp(-np.log(9) * 1000 / (time * 8000)) for time in (attack_ms, release_ms))
    gain, state = np.empty_like(wanted), 1.0
    for n, value in enumerate(wanted):
        state += (attack if value < state else release) * (value - state)
        gain[n] = state
    return gain


@pytest.mark.parametrize("decay", [0.02, 0.08, 0.2])
@pytest.mark.parametrize("release_ms", [60.0, 500.0, 2000.0])
def test_drum_hits_are_not_swapped(tmp_path, decay, release_ms):
    """Shorter than the attack, they come out louder against what follows: more dynamics, and yet compressed."""
    time = np.arange(6 * 8000) / 8000
    noise = np.random.default_rng(3).standard_normal(len(time))
    x = (0.4 * np.sin(2 * np.pi * 80 * time) + 0.1 * noise) * np.exp(-(time % 0.5) / decay) + 1e-4 * noise
    y = x * smoothed(x, 10.0, release_ms)
    write(tmp_path, 1, x, y, rates=(8000, 8000))
    assert check(tmp_path)["finding"].tolist() == ["lag"]
    if release_ms > 60.0 and decay > 0.05:  # of the shortest hits nothing can be told
        write(tmp_path, 1, y, x, rates=(8000, 8000))
        assert "swapped_pair" in check(tmp_path)["finding"].tolist()


def clips(folder: str, pairs: list[tuple[str, str]], source: str) -> pd.DataFrame:
    if not (REAL / folder).is_dir():
        pytest.skip(f"the recordings of {folder} aren't beside the checkout")
    rows = [[n, "test", "", 0, 50, str(REAL / folder / x), str(REAL / folder / y)] for n, (x, y) in enumerate(pairs)]
    names = ["track_id", "split", "take", "compress_or_limit", "peak_reduction", "raw_audio_path"]
    return pd.DataFrame(rows, columns=[*names, "processed_audio_path"]).assign(source=source)


@pytest.mark.parametrize("folder", ["signaltrain_excerpts", "la2a_clips"])
@pytest.mark.parametrize("swapped", [False, True])
def test_real_recordings(folder, swapped):
    if folder == "la2a_clips":
        names = [(f"clip{number}_input.wav", f"clip{number}_target.wav") for number in (1, 3, 5)]
        frame = clips(folder, names, "hardware-postprocessed")
    else:
        if not (REAL / folder).is_dir():
            pytest.skip(f"the recordings of {folder} aren't beside the checkout")
        frame = index(REAL / folder)
    if swapped:
        names = {"raw_audio_path": "processed_audio_path", "processed_audio_path": "raw_audio_path"}
        found = check(frame.rename(columns=names))
        # The clip that hardly compresses is left in doubt, not called wrong.
        assert set(found.loc[found["severity"] == "error", "finding"]) == {"swapped_pair"}
        assert (found["finding"] == "swapped_pair").sum() == (2 if folder == "la2a_clips" else 3)
        return
    found = check(frame)
    assert set(found["severity"]) == {"information"}
    lags = found.loc[found["finding"] == "lag", "value"].astype(float)
    assert len(lags) == 3
    assert lags.between(-0.91, 0.2).all()


def test_recordings_of_another_compressor():
    targets = sorted(path.name for path in (REAL / "cl1b_clips").glob("target_*.wav"))
    frame = clips("cl1b_clips", [("input.wav", target) for target in targets], "hardware")
    found = check(frame)
    lags = found[found["finding"] == "lag"]["value"].astype(float).to_numpy()
    # Three of the six really are 66.5 samples later than the others, in every second of theirs.
    is_late = lags > 60
    assert is_late.sum() == 3
    assert np.all(np.abs(lags[is_late] - 66.55) < 0.1)
    assert np.all((lags[~is_late] > -0.9) & (lags[~is_late] < 0.2))
    assert errors_by_id(found) == {number: {"lag_differs"} for number in np.flatnonzero(is_late)}
    for row in range(len(frame)):
        assert "error" not in set(check(frame.iloc[[row]])["severity"])


def test_recordings_of_another_unit(strip, tmp_path):
    frame = strip.record(tmp_path, [(1, 2.0, 0.2), (2, 5.0, 0.5), (3, 8.0, 0.9)])
    audio, rate = soundfile.read(frame["processed_audio_path"].iloc[1], dtype="float32")
    soundfile.write(frame["processed_audio_path"].iloc[1], -audio, rate, "FLOAT")
    found = check(frame, controls=strip.controls)
    assert list(found.columns)[:7] == ["track_id", "split", "take", "speed", "drive", "ratio", "finding"]
    (wrong,) = found[found["severity"] == "error"].to_dict("records")
    assert (wrong["finding"], wrong["speed"], wrong["drive"], wrong["ratio"]) == ("polarity_inverted", 2, 5.0, 0.5)
    assert apply_findings(frame, found, strip.controls)["track_id"].tolist() == [0, 2]
