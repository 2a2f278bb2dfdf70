"""Where the stimulus stands in a recording: against offsets, fractions and drifts that the tests made themselves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal

from baselines.numpy_compressor import compressor
from ddsp_la2a.data.stimulus import stimulus
from ddsp_la2a.data.sync import NEGLIGIBLE_DRIFT_SAMPLES, Placement, common_fraction, locate, on_the_clock

FS = 8000
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def played() -> Array:
    return stimulus(75.0, FS)


@pytest.fixture(scope="module")
def compressed(played: Array) -> Array:
    """Through a compressor that works hard on the sync bursts themselves, 12 dB down."""
    how = {"threshold_db": -40.0, "ratio": 8.0, "knee_db": 6.0, "attack_ms": 1.0, "release_ms": 300.0}
    return compressor(played, FS, **how).output


def delayed(audio: Array, samples: float) -> Array:
    """Late by any fraction, exactly: a turn of the spectrum."""
    size = len(audio) + 2048
    turn = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size * samples)
    return np.fft.irfft(np.fft.rfft(audio, size) * turn, size)[: len(audio) + 64]


def recording(
    audio: Array, offset: int = 1000, fraction: float = 0.0, gain_db: float = 0.0, noise_db: float = -100.0
) -> Array:
    moved = delayed(audio, fraction) if fraction else audio
    whole = 10.0 ** (gain_db / 20.0) * np.concatenate([np.zeros(offset), moved, np.zeros(FS)])
    return whole + 10.0 ** (noise_db / 20.0) * np.random.default_rng(offset).standard_normal(len(whole))


@pytest.mark.parametrize("offset", [0, 1, 777, 123456])
def test_whole_offsets(played: Array, compressed: Array, offset: int) -> None:
    for audio in (played, compressed):
        found = locate(recording(audio, offset), played, FS)
        assert found.start == pytest.approx(offset, abs=0.01)
        assert abs(found.drift_ppm) * 1e-6 * len(played) < 0.02
        assert found.polarity == 1


@pytest.mark.parametrize("fraction", [-0.45, -0.1, 0.3, 0.5])
def test_fractions(played: Array, compressed: Array, fraction: float) -> None:
    for audio in (played, compressed):
        found = locate(recording(audio, 500, fraction, noise_db=-60.0), played, FS)
        assert found.start == pytest.approx(500 + fraction, abs=0.02)


@pytest.mark.parametrize("gain_db", [-50.0, 0.0, 30.0])
@pytest.mark.parametrize("polarity", [1, -1])
def test_gain_and_polarity(played: Array, gain_db: float, polarity: int) -> None:
    found = locate(polarity * recording(played, gain_db=gain_db, noise_db=gain_db - 70.0), played, FS)
    assert found.polarity == polarity
    assert found.gain_db == pytest.approx(gain_db, abs=0.05)
    assert found.start == pytest.approx(1000, abs=0.01)


@pytest.mark.parametrize("noise_db", [-60.0, -40.0])
def test_noise(played: Array, compressed: Array, noise_db: float) -> None:
    """At −40 dBFS the noise is as loud as the compressed bursts."""
    for audio in (played, compressed):
        found = locate(recording(audio, 3000, 0.2, noise_db=noise_db), played, FS)
        assert found.start == pytest.approx(3000.2, abs=0.05)
        assert abs(found.drift_ppm) * 1e-6 * len(played) < NEGLIGIBLE_DRIFT_SAMPLES


def test_constant_offset_and_hum_do_no_harm(played: Array) -> None:
    audio = recording(played, 200)
    hum = 0.01 + 0.01 * np.sin(2.0 * np.pi * 50.0 / FS * np.arange(len(audio)))
    assert locate(audio + hum, played, FS).start == pytest.approx(200, abs=0.02)


@pytest.mark.parametrize("extra_frames", [-30, 6, 30, 300])
def test_drift(played: Array, compressed: Array, extra_frames: int) -> None:
    """600 000 frames made longer by 30 are 50 ppm; done by one Fourier transform, another way than the code's."""
    drifted = signal.resample(compressed, len(compressed) + extra_frames)
    found = locate(recording(drifted, 4321, noise_db=-70.0), played, FS)
    assert found.drift_ppm == pytest.approx(1e6 * extra_frames / len(played), abs=0.1)
    assert found.start == pytest.approx(4321, abs=0.02)


def test_resampling_is_transparent() -> None:
    size, extra = 200_000, 10  # 50 ppm
    rng = np.random.default_rng(0)
    spectrum = np.zeros(size // 2 + 1, dtype=complex)
    used = int(0.47 * size)
    spectrum[1:used] = rng.standard_normal(used - 1) + 1j * rng.standard_normal(used - 1)
    audio = np.fft.irfft(spectrum, size)
    audio /= np.abs(audio).max()
    longer = signal.resample(audio, size + extra)
    shifted = np.concatenate([np.zeros(300), longer])
    back, offset, delay = on_the_clock(shifted, Placement(300.0, 1e6 * extra / size, 1, 0.0, True), size)
    assert (offset, delay) == (300, 0.0)
    assert back.dtype == np.float32
    error = (back - audio)[1000:-1000]
    assert 20.0 * np.log10(np.std(error) / np.std(audio)) < -95.0


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    audio = np.random.default_rng(0).standard_normal(5000)
    at = Placement(12.3, 80.0, 1, 0.0, True)
    whole, *_ = on_the_clock(audio, at, 4800)
    monkeypatch.setattr("ddsp_la2a.data.sync._BLOCK_FRAMES", 700)
    np.testing.assert_allclose(on_the_clock(audio, at, 4800)[0], whole, atol=1e-6)


def test_negligible_drift_is_cut_to_the_sample() -> None:
    audio = np.random.default_rng(0).standard_normal(5000)
    cut, offset, delay = on_the_clock(audio, Placement(99.8, 0.001, 1, 0.0, False), 3000)
    np.testing.assert_array_equal(cut, audio[100:3100].astype(np.float32))
    assert offset == 100
    assert delay == pytest.approx(-0.2, abs=1e-4)


def test_recordings_on_one_clock_keep_one_delay() -> None:
    """A delay near half a sample, measured a little differently each time, isn't rounded up here and down there."""
    audio = np.random.default_rng(0).standard_normal(5000)
    starts = [100.49, 200.51, 77.5, -3.48]
    fraction = common_fraction(starts)
    assert abs(fraction) == pytest.approx(0.495, abs=0.01)
    delays = [on_the_clock(audio, Placement(start, 0.0, 1, 0.0, False), 3000, fraction)[2] for start in starts]
    assert np.ptp(delays) < 0.05
    resampled = on_the_clock(audio, Placement(50.2, 100.0, 1, 0.0, True), 3000, fraction)
    assert resampled[2] == fraction
    assert common_fraction([]) == 0.0
    assert common_fraction([5.0, -7.01, 3.01]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("drift_ppm", [0.0, 100.0])
def test_beyond_the_ends_there_is_nothing(drift_ppm: float) -> None:
    audio = np.ones(2000)
    cut, *_ = on_the_clock(audio, Placement(-100.0, drift_ppm, 1, 0.0, drift_ppm > 0.0), 2400)
    for beyond in (cut[:60], cut[2200:]):  # an edge rings in any interpolation
        assert beyond == pytest.approx(0.0, abs=1e-4)
    assert cut[200:2000] == pytest.approx(1.0, abs=1e-4)


def refused(audio: Array, played: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locate(audio, played, FS)


def test_without_a_sync_there_is_no_start(played: Array) -> None:
    noise = np.random.default_rng(0).standard_normal(len(played))
    for audio in (noise, 0.0 * played, played[FS:-FS], np.zeros(0), np.zeros(5)):
        refused(audio, played, "found no sync; record it from before its start until after its end")


def test_what_is_missing_is_said_in_seconds(played: Array) -> None:
    refused(played[: -10 * FS], played, r"lacks 10\.00 s at its end; record again")
    refused(recording(played, 5 * FS)[: 20 * FS], played, r"lacks 60\.00 s at its end; record again")
    refused(played[3 * FS :], played, r"lacks 3\.00 s at its beginning; record again")
    # A sync that is cut in two is none.
    refused(played[round(0.6 * FS) :], played, r"lacks 0\.60 s at its beginning")


def test_a_sync_that_is_covered(played: Array) -> None:
    audio = played.copy()
    audio[-FS:] = np.random.default_rng(0).standard_normal(FS)
    refused(audio, played, "sync at both ends, found none at the end; something covers it")


def test_impossible_clocks(played: Array) -> None:
    refused(
        np.delete(played, slice(30 * FS, 31 * FS)),
        played,
        r"expected 73\.77 s from .* got 72\.77 s, -135\d\d ppm off .* has a gap",
    )
    refused(signal.resample(played, round(1.002 * len(played))), played, r"20\d\d ppm off")


def test_samples_lost_within_a_sync(played: Array) -> None:
    refused(np.delete(played, slice(4960, 4963)), played, "bursts of the syncs on one line, got one .* samples off")
