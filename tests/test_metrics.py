"""Every metric against independent code, closed forms or a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import signal

from ddsp_la2a.evaluation import levels, loudness, metrics, spectra

SAMPLE_RATE = 44100
PAIRWISE = (
    metrics.esr,
    metrics.esr_dc_filtered,
    metrics.esr_best_gain,
    metrics.gain_offset_db,
    metrics.mae,
    metrics.mr_stft,
    metrics.polarity,
)
WITH_RATE = (levels.gain_error_db, loudness.lufs_difference, levels.ldr_difference_db)


def programme(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Noise with a spectrum and dynamics, RMS near −20 dBFS."""
    frames = int(seconds * SAMPLE_RATE)
    noise = np.random.default_rng(seed).standard_normal(frames)
    coloured = signal.lfilter([0.3], [1.0, -0.7], noise)
    return 0.2 * coloured * (0.55 + 0.45 * np.sin(2.0 * np.pi * np.arange(frames) / SAMPLE_RATE * 1.3))


def sine(frequency: float, amplitude: float = 1.0, seconds: float = 5.0, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    return amplitude * np.sin(2.0 * np.pi * frequency * np.arange(int(seconds * sample_rate)) / sample_rate)


@pytest.fixture(name="pair")
def fixture_pair() -> tuple[np.ndarray, np.ndarray]:
    target = programme()
    return 0.8 * target + 0.02 * programme(seed=1) + 0.01, target


def test_esr_agrees_with_auraloss(pair: tuple[np.ndarray, np.ndarray]) -> None:
    import torch
    from auraloss.time import ESRLoss

    estimate, target = (torch.from_numpy(audio)[None, None] for audio in pair)
    assert metrics.esr(*pair) == pytest.approx(ESRLoss(eps=0.0)(estimate, target).item(), rel=1e-12)


def test_noise_at_minus_20_db_is_an_esr_of_one_percent() -> None:
    target, noise = np.random.default_rng(0).standard_normal((2, 400_000)) * 0.1
    assert metrics.esr(target + 0.1 * noise, target) == pytest.approx(0.01, rel=0.02)
    assert metrics.esr_dc_filtered(target + 0.1 * noise, target) == pytest.approx(0.01, rel=0.02)


def test_dc_filtered_esr_is_scored_after_filtering_the_whole(pair: tuple[np.ndarray, np.ndarray]) -> None:
    start = 20_000
    filtered = []
    for audio in (pair[0] - pair[1], pair[1]):
        out, last_in, last_out = [], 0.0, 0.0
        for value in audio.tolist():
            last_out = value - last_in + 0.995 * last_out
            last_in = value
            out.append(last_out)
        filtered.append(np.array(out)[start:])
    error, target = filtered
    assert metrics.esr_dc_filtered(*pair, start=start) == pytest.approx((error @ error) / (target @ target), rel=1e-10)
    cold = metrics.esr_dc_filtered(pair[0][start:], pair[1][start:])
    assert abs(cold / metrics.esr_dc_filtered(*pair, start=start) - 1.0) > 1e-6


def test_an_offset_counts_only_in_the_plain_esr() -> None:
    target = programme()
    estimate = target + 0.1
    assert metrics.esr(estimate, target) == pytest.approx(0.01 / np.mean(target**2), rel=1e-9)
    assert metrics.esr_dc_filtered(estimate, target, start=SAMPLE_RATE) == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0, -0.25])
def test_a_scaled_copy_differs_by_its_gain_alone(gain: float) -> None:
    target = programme()
    gain_db = 20.0 * math.log10(abs(gain))
    result = metrics.scores(gain * target, target, SAMPLE_RATE, start=4410)
    assert result["esr"] == pytest.approx((gain - 1.0) ** 2, abs=1e-15)
    assert result["esr_dc_filtered"] == pytest.approx((gain - 1.0) ** 2, abs=1e-15)
    assert result["esr_best_gain"] == pytest.approx(0.0, abs=1e-20)
    assert result["gain_offset_db"] == pytest.approx(-gain_db, abs=1e-9)
    assert result["gain_error_db"] == pytest.approx(abs(gain_db), abs=1e-9)
    assert result["lufs_difference"] == pytest.approx(gain_db, abs=1e-9)
    assert result["ldr_difference_db"] == pytest.approx(0.0, abs=1e-6)
    assert result["polarity"] == math.copysign(1.0, gain)
    assert result["mae"] == pytest.approx(abs(gain - 1.0) * np.mean(np.abs(target[4410:])))


def test_no_other_gain_is_better_than_the_best(pair: tuple[np.ndarray, np.ndarray]) -> None:
    best = metrics.esr_best_gain(*pair, start=1000)
    gain = 10.0 ** (metrics.gain_offset_db(*pair, start=1000) / 20.0)
    assert metrics.esr_dc_filtered(gain * pair[0], pair[1], start=1000) == pytest.approx(best, rel=1e-9)
    for other in (0.99 * gain, 1.01 * gain):
        assert metrics.esr_dc_filtered(other * pair[0], pair[1], start=1000) > best


def test_gain_error_leaves_quiet_frames_out() -> None:
    frame = 2205
    level_db = np.repeat([-20.0, -30.0, -61.0, -100.0], frame)
    target = np.sqrt(2.0) * 10.0 ** (level_db / 20.0) * sine(400.0, seconds=0.2)
    error_db = np.repeat([1.0, -2.0, 30.0, 50.0], frame)
    estimate = target * 10.0 ** (error_db / 20.0)
    assert levels.gain_error_db(estimate, target, SAMPLE_RATE) == pytest.approx(math.sqrt((1.0 + 4.0) / 2.0))
    assert levels.gain_error_db(estimate, target, SAMPLE_RATE, start=frame) == pytest.approx(2.0)
    assert math.isnan(levels.gain_error_db(estimate, target, SAMPLE_RATE, start=2 * frame))


@pytest.mark.parametrize("frames", [1025, 1199, 4097, 88_200])
@pytest.mark.parametrize("chunk", [3, 128])
def test_mr_stft_agrees_with_auraloss_in_one_piece(
    frames: int, chunk: int, pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from auraloss.freq import MultiResolutionSTFTLoss

    monkeypatch.setattr(spectra, "_TRANSFORMED_AT_ONCE", chunk)
    estimate, target = (audio[-frames:] for audio in pair)
    expected = MultiResolutionSTFTLoss()(
        torch.from_numpy(estimate)[None, None], torch.from_numpy(target)[None, None]
    ).item()
    assert metrics.mr_stft(estimate, target) == pytest.approx(expected, rel=1e-6)
    assert metrics.mr_stft(*pair, start=len(pair[0]) - frames) == pytest.approx(expected, rel=1e-6)
    assert metrics.mr_stft(target, estimate) != pytest.approx(expected, rel=1e-3)  # the order of arguments matters


@pytest.mark.parametrize("sample_rate", [44100, 48000])
def test_loudness_of_the_reference_sine(sample_rate: int) -> None:
    audio = sine(997.0, sample_rate=sample_rate)
    assert loudness.loudness_lufs(audio, sample_rate) == pytest.approx(-3.01, abs=0.01)


def test_loudness_by_hand_from_the_standard() -> None:
    """The standard's filter coefficients at 48 kHz, its blocks and its gates, written out."""
    sample_rate = 48000
    audio = np.concatenate([sine(997.0, 0.1, 2.0, sample_rate), sine(100.0, 0.004, 3.03, sample_rate), np.zeros(48000)])
    shelf = signal.lfilter(
        [1.53512485958697, -2.69169618940638, 1.19839281085285], [1.0, -1.69065929318241, 0.73248077421585], audio
    )
    weighted = signal.lfilter([1.0, -2.0, 1.0], [1.0, -1.99004745483398, 0.99007225036621], shelf)
    block, step = 19200, 4800
    power = np.array([np.mean(weighted[n : n + block] ** 2) for n in range(0, len(audio) - block + 1, step)])
    loud = power[-0.691 + 10.0 * np.log10(power + 1e-20) > -70.0]
    gate = -0.691 + 10.0 * math.log10(loud.mean()) - 10.0
    expected = -0.691 + 10.0 * math.log10(loud[-0.691 + 10.0 * np.log10(loud) > gate].mean())
    assert loudness.loudness_lufs(audio, sample_rate) == pytest.approx(expected, abs=0.005)


def test_lufs_difference_agrees_with_torchaudio(pair: tuple[np.ndarray, np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchaudio.functional")
    estimate, target = (functional.loudness(torch.from_numpy(audio)[None], SAMPLE_RATE).item() for audio in pair)
    assert loudness.lufs_difference(*pair, SAMPLE_RATE) == pytest.approx(estimate - target, abs=0.02)


def test_ldr_by_a_plain_loop() -> None:
    audio = programme(1.0)
    filtered = signal.lfilter([1.0, -1.0], [1.0, -0.995], audio)
    short = long = 0.0
    squares = []
    for value in filtered.tolist():
        power = max(value * value, 1e-16)
        short += (1.0 - math.exp(-1.0 / (0.05 * SAMPLE_RATE))) * (power - short)
        long += (1.0 - math.exp(-1.0 / (3.0 * SAMPLE_RATE))) * (power - long)
        squares.append((10.0 * math.log10(short / long)) ** 2)
    for start in (0, 10_000):
        expected = math.sqrt(np.mean(squares[start:]))
        assert levels.ldr_db(audio, SAMPLE_RATE, start=start) == pytest.approx(expected, rel=1e-9)


def test_ldr_of_noise_bursts_and_its_difference() -> None:
    """A steady level has no dynamics, slow bursts have; less of them is a negative difference."""
    steady = 0.1 * np.random.default_rng(0).standard_normal(30 * SAMPLE_RATE)
    swing_db = 6.0 * np.sign(np.sin(2.0 * np.pi * np.arange(len(steady)) / SAMPLE_RATE))
    target, estimate = (steady * 10.0 ** (depth * swing_db / 20.0) for depth in (1.0, 0.5))
    start = 20 * SAMPLE_RATE
    assert levels.ldr_db(steady, SAMPLE_RATE, start=start) < 0.2
    assert levels.ldr_difference_db(estimate, target, SAMPLE_RATE, start=start) < -1.0
    assert levels.ldr_difference_db(target, estimate, SAMPLE_RATE, start=start) > 1.0


def test_polarity_ignores_the_offset() -> None:
    target = programme() + 0.5
    assert metrics.polarity(0.5 - 0.3 * programme(), target, start=SAMPLE_RATE) == -1.0
    assert metrics.polarity(0.5 + 0.3 * programme(), target, start=SAMPLE_RATE) == 1.0


def test_perfect_estimate() -> None:
    target = programme()
    expected = dict.fromkeys(metrics.SCORE_COLUMNS, 0.0) | {"polarity": 1.0}
    assert metrics.scores(target.copy(), target, SAMPLE_RATE) == expected


def test_silent_target_is_undefined_not_huge(pair: tuple[np.ndarray, np.ndarray]) -> None:
    silence = np.zeros(len(pair[0]))
    result = metrics.scores(pair[0], silence, SAMPLE_RATE)
    assert result.pop("mae") == pytest.approx(np.mean(np.abs(pair[0])))
    assert result.pop("polarity") == 0.0
    assert all(math.isnan(value) for value in result.values()), result


def test_silent_estimate(pair: tuple[np.ndarray, np.ndarray]) -> None:
    result = metrics.scores(np.zeros(len(pair[1])), pair[1], SAMPLE_RATE)
    assert result["esr"] == result["esr_dc_filtered"] == result["esr_best_gain"] == 1.0
    assert result["polarity"] == 0.0
    assert result["gain_error_db"] > 100.0
    assert math.isfinite(result["mr_stft"])
    assert all(math.isnan(result[name]) for name in ("gain_offset_db", "lufs_difference", "ldr_difference_db"))


def test_silence_on_the_scored_frames_only(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The filter still rings from what came before; that is no signal to divide by. Nor is an offset."""
    start = SAMPLE_RATE
    for level in (0.0, 0.3):
        target = pair[1].copy()
        target[start - 4410 :] = level
        for metric in (metrics.esr_dc_filtered, metrics.esr_best_gain, metrics.gain_offset_db):
            assert math.isnan(metric(pair[0], target, start=start)), metric.__name__
        assert metrics.polarity(pair[0], target, start=start) == 0.0


def test_a_short_recording_still_has_a_row() -> None:
    target = programme(0.01)
    result = metrics.scores(0.9 * target, target, SAMPLE_RATE)
    assert tuple(result) == metrics.SCORE_COLUMNS
    assert {name for name, value in result.items() if math.isnan(value)} == {
        "gain_error_db",
        "mr_stft",
        "lufs_difference",
    }
    with pytest.raises(ValueError, match=r"mr_stft: expected at least 1025 frames to score, got 441"):
        metrics.mr_stft(target, target)
    with pytest.raises(ValueError, match=r"gain_error_db: expected at least 2205"):
        levels.gain_error_db(target, target, SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"loudness: expected at least 17640"):
        loudness.lufs_difference(target, target, SAMPLE_RATE)


def test_float32_is_computed_in_float64(pair: tuple[np.ndarray, np.ndarray]) -> None:
    low = tuple(audio.astype(np.float32) for audio in pair)
    high = tuple(audio.astype(np.float64) for audio in low)
    assert metrics.scores(*low, SAMPLE_RATE) == metrics.scores(*high, SAMPLE_RATE)


@pytest.mark.parametrize(
    ("estimate", "target", "start", "message"),
    [
        (np.zeros(4), np.zeros(5), 0, "same length, got 4 and 5 frames"),
        (
            np.zeros((1, 4)),
            np.zeros((1, 4)),
            0,
            r"estimate: expected mono audio of shape \(time,\), got shape \(1, 4\)",
        ),
        (np.zeros(4), np.array([0.0, np.nan, np.inf, 0.0]), 0, "target: expected finite samples, got 2"),
        (np.zeros(4, dtype=np.int16), np.zeros(4), 0, "estimate: expected floating-point audio .* got int16"),
        (np.zeros(4), np.zeros(4), 4, "start: expected a frame from 0 to 3"),
        (np.zeros(4), np.zeros(4), -1, "start: expected"),
        (np.zeros(0), np.zeros(0), 0, "expected at least one frame"),
    ],
)
def test_errors(estimate: np.ndarray, target: np.ndarray, start: int, message: str) -> None:
    for metric in PAIRWISE:
        with pytest.raises(ValueError, match=message):
            metric(estimate, target, start=start)
    for metric in (*WITH_RATE, metrics.scores):
        with pytest.raises(ValueError, match=message):
            metric(estimate, target, SAMPLE_RATE, start=start)
