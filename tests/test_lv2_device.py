"""A foreign compressor, recorded and aligned: the whole way of ``ddsp-la2a capture`` with nothing of ours on it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from ddsp_la2a.controls import parse_controls
from ddsp_la2a.data.capture import index_captures, write_stimulus
from ddsp_la2a.data.stimulus import STEP_LEVELS_DB, read_stimulus, step_frames

FS = 22050
SETTINGS = [(-20.0, 2.0), (-20.0, 8.0), (-35.0, 2.0), (-35.0, 8.0)]


@pytest.fixture
def installed(lv2_device: ModuleType) -> ModuleType:
    if reason := lv2_device.missing():
        pytest.skip(reason)
    return lv2_device


def test_what_is_missing_is_said(lv2_device: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lv2_device.shutil, "which", lambda _: None)
    with pytest.raises(RuntimeError, match=r"expected the command lv2apply, .* apt-get install .*lilv-utils"):
        lv2_device.render(np.zeros(10), FS, {})


def test_other_plug_ins_and_ports_are_refused(installed: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"expected the LV2 plug-in urn:nothing, .* apt-get install"):
        installed.render(np.zeros(10), FS, {}, "urn:nothing")
    with pytest.raises(RuntimeError, match=r"lv2apply failed: .*Unknown port `thresh'"):
        installed.render(np.zeros(10), FS, {"thresh": 1.0})


def test_without_latency_or_colour(installed: ModuleType) -> None:
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(FS).astype(np.float32)
    np.testing.assert_allclose(installed.render(quiet, FS, installed.lsp_feedback(-20.0, 8.0)), quiet, rtol=1e-5)


@pytest.mark.slow
def test_a_foreign_compressor_is_captured(tmp_path: Path, installed: ModuleType) -> None:
    """Offsets, gain and polarity chosen here come back, and the aligned steps lie on the feedback curve.

    LSP's peak detector forgets a little within a half-wave, so it compresses some tenths of a dB less than its curve.
    """
    write_stimulus(tmp_path / "stimulus.wav", 75.0, FS)
    played, _ = read_stimulus(tmp_path / "stimulus.wav")
    rng = np.random.default_rng(0)
    offsets = rng.integers(0, 3 * FS, len(SETTINGS))
    gains_db = rng.uniform(-12.0, 0.0, len(SETTINGS))
    for (threshold, ratio), offset, gain_db in zip(SETTINGS, offsets, gains_db, strict=True):
        output = installed.render(played, FS, installed.lsp_feedback(threshold, ratio))
        # The plug-in hears nothing of what stands in front: its silence would be the same.
        heard = 10.0 ** (gain_db / 20.0) * np.concatenate([np.zeros(offset), output, np.zeros(FS)])
        heard += 10.0 ** (-80.0 / 20.0) * rng.standard_normal(len(heard))
        soundfile.write(tmp_path / f"lsp_threshold={threshold:g}_ratio={ratio:g}.wav", -heard, FS, "PCM_24")

    frame = index_captures(tmp_path, parse_controls("threshold=-60:0,ratio=1:100"), device="LSP", source="plug-in")
    rows = frame.set_index(["threshold", "ratio"])
    assert (frame["source"] == "plug-in").all()
    for setting, offset, gain_db in zip(SETTINGS, offsets, gains_db, strict=True):
        row, (threshold, ratio) = rows.loc[setting], setting
        assert row["offset_samples"] == offset
        assert abs(row["delay_samples"]) < 0.02
        assert row["polarity"] == -1
        assert abs(row["drift_ppm"]) < 0.05
        aligned, _ = soundfile.read(row["processed_audio_path"])
        aligned *= 10.0 ** (-gain_db / 20.0)
        for level_db, step in zip(STEP_LEVELS_DB, step_frames(FS), strict=True):
            settled = aligned[step][-FS // 4 :]
            measured_db = 20.0 * np.log10(np.sqrt(2.0) * np.std(settled))
            expected_db = min(level_db, threshold + (level_db - threshold) / (2.0 - 1.0 / ratio))
            assert measured_db == pytest.approx(expected_db, abs=0.4 if level_db > -45 else 0.6)
        top, below = (step_frames(FS)[STEP_LEVELS_DB.index(level)] for level in (0, -10))
        rise_db = 20.0 * np.log10(np.std(aligned[top][-FS // 4 :]) / np.std(aligned[below][-FS // 4 :]))
        assert rise_db / 10.0 == pytest.approx(1.0 / (2.0 - 1.0 / ratio), abs=0.01)
