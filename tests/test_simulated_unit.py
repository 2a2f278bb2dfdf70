"""The simulated unit against the measured table, the manual's figures and an independent integrator."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ddsp_la2a.simulated_unit import SimulatedLA2A, UnitConstants
from ddsp_la2a.units import amplitude_to_db, db_to_amplitude

FS = 44100
STEADY = replace(UnitConstants(), drift_db=0.0)

# peak reduction: threshold (dBFS), reduction at −20/−10/0 dBFS (dB), attack to 63/90 % (ms),
# half release after 20 ms/1 s/10 s (ms), to 10 % after 1 s (s)
TABLE = {
    50: (-15.4, (0.0, 4.4, 12.0), (51, 88), (2, 58, 115), 2.7),
    65: (-18.3, (0.2, 6.5, 14.3), (18, 40), (8, 53, 113), 2.6),
    80: (-26.6, (5.2, 12.9, 20.6), (0.6, 9), (36, 61, 327), 3.1),
    100: (-41.0, (16.3, 23.8, 30.6), (0.4, 1), (42, 140, 1037), 4.5),
}


def tone(level_dbfs: float, seconds: float, frequency_hz: float = 1000.0) -> np.ndarray:
    return db_to_amplitude(level_dbfs) * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * FS)) / FS)


def reduction_db(audio: np.ndarray, peak_reduction: float, switch: int = 0) -> np.ndarray:
    return SimulatedLA2A(STEADY).gain_reduction_db(audio, FS, switch, peak_reduction)


def settled_db(audio: np.ndarray, peak_reduction: float, switch: int = 0) -> float:
    return float(np.mean(reduction_db(audio, peak_reduction, switch)[-FS // 1000 :]))


def time_ms(reached: np.ndarray) -> float:
    assert reached.any()
    return float(np.argmax(reached)) / FS * 1000


@pytest.mark.parametrize("knob", TABLE)
def test_static_curve_of_the_nominal_unit(knob: int) -> None:
    threshold_dbfs, reductions_db, *_ = TABLE[knob]
    assert settled_db(tone(threshold_dbfs, 3.0), knob) == pytest.approx(1.0, abs=0.1)
    for level_dbfs, expected in zip((-20, -10, 0), reductions_db, strict=True):
        assert settled_db(tone(level_dbfs, 3.0), knob) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("knob", TABLE)
def test_ballistics_of_the_nominal_unit(knob: int) -> None:
    # The very slow traps, which the table's unit lacks, hold half releases up by less than a tenth.
    *_, attack_ms, half_release_ms, tenth_s = TABLE[knob]
    for seconds, expected in zip((0.02, 1.0, 10.0), half_release_ms, strict=True):
        burst = round(seconds * FS)
        track = reduction_db(np.concatenate([tone(-10, seconds), np.zeros(5 * FS)]), knob)
        before, after = track[:burst], track[burst:]
        assert time_ms(after <= before[-1] / 2) == pytest.approx(expected, rel=0.1, abs=0.5)
        if seconds == 1.0:
            assert time_ms(after <= before[-1] / 10) == pytest.approx(1000 * tenth_s, rel=0.05)
            final = np.mean(before[-FS // 1000 :])
            attacks = [time_ms(before >= share * final) for share in (0.63, 0.9)]
            assert attacks == pytest.approx(attack_ms, rel=0.1, abs=0.5)


def test_limit_takes_a_little_more_than_compress() -> None:
    more = settled_db(tone(0, 1.0), 80, switch=1) - settled_db(tone(0, 1.0), 80, switch=0)
    assert 0.001 < more < 0.1


@pytest.mark.parametrize(("knob", "switch"), [(65, 0), (90, 1)])
def test_scheme_agrees_with_an_adaptive_integrator(knob: int, switch: int) -> None:
    # Two tones, the second 20 dB down: attack and release at fast and slow drive, as one smooth function of time.
    k = STEADY
    gain = k.side_chain_gain_at(knob)
    capture, capacity, escape = map(np.array, (k.trap_capture_per_s, k.trap_capacity, k.trap_escape_per_s))
    seconds = 0.12

    def audio(t: Any) -> Any:
        envelope = 0.28 + 0.22 * np.tanh((0.06 - t) / 0.001)
        return envelope * np.sin(2 * np.pi * 700 * t)

    def conductance(n: Any) -> Any:
        return n / (1 + n / k.conductance_limit)

    def slope(t: float, state: np.ndarray) -> list[float]:
        low, light, n, *traps = state
        x = audio(t)
        v = x / (1 + conductance(n))
        s = v + (k.limit_mix if switch else 0.0) * (x - v)
        d = gain * abs(s - low)
        d /= np.sqrt(1 + (d / k.drive_limit) ** 2)
        glow = np.exp(k.light_exponent * (1 - d**-0.5)) if d > 1e-3 else 0.0
        caught = capture * n * (1 - traps / capacity) - escape * traps
        made = k.light_to_carriers_per_s * light - k.recombination_per_s * n - k.bimolecular_per_s * n**2
        return [2 * np.pi * 39 * (s - low), (glow - light) / 1e-4, made - caught.sum(), *caught]

    times = np.arange(round(seconds * FS)) / FS
    exact = solve_ivp(slope, (0, seconds), np.zeros(6), "LSODA", times, rtol=1e-7, atol=1e-9, max_step=1e-4)
    assert exact.success
    expected = amplitude_to_db(1 + conductance(exact.y[2]))
    assert expected.max() > 5
    # The very ends see the edge of the resampling filter.
    np.testing.assert_allclose(reduction_db(audio(times), knob, switch)[64:-64], expected[64:-64], atol=0.05)


def test_linear_path_is_the_transformers_alone() -> None:
    impulse = np.zeros(2 * FS)
    impulse[FS // 2] = 0.01
    recording = SimulatedLA2A().record(impulse, FS, 0, 0, noise=False)
    frequency_hz = np.fft.rfftfreq(impulse.size, 1 / FS)
    band = (frequency_hz > 5) & (frequency_hz < 18000)
    s = 1j * frequency_hz[band]
    expected = 0.975 * s / (s + 8.4) / (1 + s / (1.08 * 24750) + (s / 24750) ** 2) * np.exp(-2 * np.pi * s * 1.6e-6)
    measured = (np.fft.rfft(recording) / np.fft.rfft(impulse))[band]
    np.testing.assert_allclose(measured, expected, atol=1e-3)  # 1e-3 of phase is 0.001 samples at 7 kHz


@pytest.mark.parametrize(
    ("level_dbfs", "at_least", "at_most"),
    [(0.0, 0.0063, 0.0069), (-6.0, 0.0, 0.0035)],
    ids=["+16 dBm: 0.66 %", "+10 dBm"],
)
def test_distortion_without_reduction(level_dbfs: float, at_least: float, at_most: float) -> None:
    recording = SimulatedLA2A().record(tone(level_dbfs, 1.5), FS, 0, 0, noise=False)[FS // 4 :][:FS]
    harmonics = np.abs(np.fft.rfft(recording))[1000:20001:1000]
    distortion = np.sqrt(np.sum(harmonics[1:] ** 2)) / harmonics[0]
    assert at_least <= distortion <= at_most


def test_noise_level_and_its_seed() -> None:
    silence = np.zeros(2 * FS)
    first, again, other = (SimulatedLA2A(seed=seed).record(silence, FS, 0, 50) for seed in (1, 1, 2))
    assert amplitude_to_db(np.std(first)) == pytest.approx(-87, abs=0.1)
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.02
    np.testing.assert_array_equal(SimulatedLA2A().record(silence, FS, 0, 50, noise=False), 0.0)


def test_drift_is_slow_small_and_seeded() -> None:
    audio = tone(-6, 10.0)
    steady = reduction_db(audio, 65)
    drifts = [SimulatedLA2A(seed=seed).gain_reduction_db(audio, FS, 0, 65) - steady for seed in (1, 2)]
    for drift in drifts:
        assert 0.02 < np.max(np.abs(drift[FS:])) < 0.15
    assert np.max(np.abs(drifts[0] - drifts[1])) > 0.02


def test_units_of_the_line_differ_within_the_stated_spread() -> None:
    assert UnitConstants.sampled(3) == UnitConstants.sampled(3)
    nominal = UnitConstants()
    units = [UnitConstants.sampled(seed) for seed in range(200)]
    spread = {"light_to_carriers_per_s": 0.2, "recombination_per_s": 0.15, "light_exponent": 0.05}
    for name, share in spread.items():
        deviations = np.array([getattr(unit, name) for unit in units]) / getattr(nominal, name) - 1
        assert np.max(np.abs(deviations)) <= share
        assert np.ptp(deviations) > 1.8 * share
    captures = np.array([unit.trap_capture_per_s for unit in units]) / nominal.trap_capture_per_s - 1
    assert np.ptp(captures, axis=0) == pytest.approx([0, 0.6, 0.6], abs=0.05)
    kept = asdict(nominal).keys() - spread.keys() - {"trap_capture_per_s"}
    assert all(getattr(unit, name) == getattr(nominal, name) for unit in units for name in kept)


@pytest.mark.parametrize("length", [0, 1, 2, 1001])
def test_any_length_comes_back(length: int) -> None:
    audio = np.full(length, 0.1, np.float32)
    for noise in (True, False):
        recording = SimulatedLA2A().record(audio, FS, 1, 70, noise=noise)
        assert recording.shape == (length,)
        assert recording.dtype == np.float64
        assert np.all(np.isfinite(recording))


def test_far_too_loud_stays_finite_and_within_the_cell() -> None:
    audio = 30 * np.random.default_rng(0).standard_normal(FS)
    assert np.all(np.isfinite(SimulatedLA2A().record(audio, FS, 1, 100)))
    assert 30 < reduction_db(audio, 100).max() < amplitude_to_db(151)


def test_other_sample_rates_give_the_same_reduction() -> None:
    audio = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(96000) / 96000)
    track = SimulatedLA2A(STEADY).gain_reduction_db(audio, 96000, 0, 65)
    assert np.mean(track[-960:]) == pytest.approx(np.mean(reduction_db(tone(-6.0206, 1.0), 65)[-441:]), abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": np.zeros((2, 10))}, r"audio: expected one channel of shape \(time,\), got \(2, 10\)"),
        ({"audio": np.zeros(10, np.int16)}, "audio: expected floating-point samples, got int16"),
        ({"audio": np.array([0.0, np.nan, np.inf])}, "audio: expected finite samples, got 2 that"),
        ({"sample_rate": 8000}, "sample_rate: expected at least 16000 Hz, got 8000"),
        ({"sample_rate": float("nan")}, "sample_rate: expected at least 16000 Hz, got nan"),
        ({"compress_or_limit": 2}, "compress_or_limit: expected 0 or 1, got 2"),
        ({"peak_reduction": 100.5}, "peak_reduction: expected 0…100, got 100.5"),
        ({"peak_reduction": -1}, "peak_reduction: expected 0…100, got -1"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"audio": np.zeros(10), "sample_rate": FS, "compress_or_limit": 0, "peak_reduction": 50} | change
    with pytest.raises(ValueError, match=message):
        SimulatedLA2A().record(**arguments)
