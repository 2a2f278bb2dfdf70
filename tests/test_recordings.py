"""Sums over files against one pass over arrays: stretches, lanes, threads and thinning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from baselines.numpy_compressor import compressor
from ddsp_la2a.data.frame import columns as columns_of
from ddsp_la2a.dsp.compressor import CompressorParams
from ddsp_la2a.dsp.normal_equations import ERROR, FIRST_TANGENT, TARGET, error_products
from ddsp_la2a.fitting.recordings import Recordings

RATE = 2000
SETTING = {
    "threshold_db": -30.0,
    "ratio": 4.0,
    "knee_db": 8.0,
    "attack_ms": 5.0,
    "release_ms": 250.0,
    "makeup_db": 2.0,
}
TANGENTS = slice(FIRST_TANGENT, None)
QUARTER = RATE // 4
FORGOTTEN = 9.0**-4  # of a state, when a lane begins to count

Write = Callable[..., pd.DataFrame]


def params_of(**more: float) -> CompressorParams:
    return CompressorParams(**SETTING | more)


def signals(programme: Callable[..., np.ndarray], seed: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise in passages, and something like what a compressor makes of it."""
    x = programme(seed, seconds, RATE)
    rng = np.random.default_rng(seed)
    return x, (0.4 * np.tanh(3.0 * x) + 0.01 * rng.standard_normal(len(x))).astype(np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Pairs of arrays as files, and the frame of them."""

    def written(*pairs: tuple[np.ndarray, np.ndarray], rates: tuple[int, ...] = (), **columns: Any) -> pd.DataFrame:
        rows = []
        for number, (x, y) in enumerate(pairs):
            raw, processed = tmp_path / f"input_{number}_.wav", tmp_path / f"target_{number}_LA2A_3c__0__50.wav"
            rate = rates[number] if rates else RATE
            soundfile.write(raw, x, rate, "FLOAT")
            soundfile.write(processed, y, rate, "FLOAT")
            rows.append([number, "train", "3c", 0, 50, str(raw), str(processed), "hardware", "LA-2A"])
        return pd.DataFrame(rows, columns=list(columns_of())).assign(**columns)

    return written


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def long_frame(tmp_path_factory: pytest.TempPathFactory, programme: Callable[..., np.ndarray]) -> pd.DataFrame:
    """One row of eight minutes and a second: eight lanes of a minute each, in whole quarters of a second."""
    folder = tmp_path_factory.mktemp("long")
    for name, signal in zip(("input", "target"), signals(programme, 1, 481.0), strict=True):
        soundfile.write(folder / f"{name}.wav", signal, RATE, "FLOAT")
    row = [1, "train", "3c", 1, 65, str(folder / "input.wav"), str(folder / "target.wav"), "hardware", "LA-2A"]
    return pd.DataFrame([row], columns=list(columns_of()))


def in_one_pass(
    x: np.ndarray,
    y: np.ndarray,
    params: CompressorParams,
    error_filter: str = "dc",
    skip: int = RATE,
    block: int = 1 << 16,
) -> np.ndarray:
    blocks = ((x[a : a + block], y[a : a + block]) for a in range(0, len(x), block))
    return error_products(
        blocks, params, RATE, error_filter=error_filter, warmup_frames=skip, sum_frames=round(0.25 * RATE)
    )


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest of all entries, each relative to the norms of the two signals whose product it is."""
    assert got.shape == expected.shape
    norms = np.sqrt(np.diagonal(expected, axis1=-2, axis2=-1))
    scale = np.maximum(norms[..., :, None] * norms[..., None, :], 1e-300)
    return float((np.abs(got - expected) / scale).max())


# Against one pass


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("error_filter", ["none", "dc", "pre-emphasis"])
def test_products_are_those_of_the_whole_file(
    write: Write, programme: Callable[..., np.ndarray], error_filter: str, exact: bool
) -> None:
    pairs = [signals(programme, seed, seconds) for seed, seconds in ((1, 3.3), (2, 70.123), (3, 1.001))]
    recordings = Recordings(write(*pairs), exact=exact)
    assert recordings.sample_rate == RATE
    np.testing.assert_array_equal(recordings.seconds, [(len(x) - RATE) / RATE for x, _ in pairs])
    params = params_of()
    for (x, y), found in zip(pairs, recordings.products([(i, params) for i in range(3)], error_filter), strict=True):
        assert found.shape == (math.ceil((len(x) - RATE) / QUARTER), 8, 8)
        np.testing.assert_array_equal(found, in_one_pass(x, y, params, error_filter))
        whole = in_one_pass(x, y, params, error_filter, block=len(x))
        assert difference(found, whole) < 1e-12


def test_the_error_filter_is_dc_by_default(write: Write, programme: Callable[..., np.ndarray]) -> None:
    recordings = Recordings(write(signals(programme, 1, 2.0)))
    by_default, dc = (next(recordings.products([(0, params_of())], *name)) for name in ((), ("dc",)))
    np.testing.assert_array_equal(by_default, dc)


def test_the_sums_are_what_the_numpy_reference_says(write: Write, programme: Callable[..., np.ndarray]) -> None:
    x, y = signals(programme, 4, 6.0)
    error = compressor(x, RATE, **SETTING).output - y
    (found,) = Recordings(write((x, y))).products([(0, params_of())], "none")
    assert found.shape == (20, 8, 8)
    expected = np.square(error[RATE:].reshape(20, QUARTER)).sum(axis=1)
    np.testing.assert_allclose(found[:, ERROR, ERROR], expected, rtol=1e-9)
    expected = np.square(y[RATE:].astype(np.float64).reshape(20, QUARTER)).sum(axis=1)
    np.testing.assert_allclose(found[:, TARGET, TARGET], expected, rtol=1e-12)


def test_stretches_of_a_file(write: Write, programme: Callable[..., np.ndarray]) -> None:
    x, y = signals(programme, 5, 40.0)
    frame = write((x, y))
    limits = [(0, 9001), (9001, 30_000), (65_000, 80_000)]
    frame = pd.concat([frame] * 3, ignore_index=True).assign(
        start_frame=[a for a, _ in limits], stop_frame=[b for _, b in limits]
    )
    recordings = Recordings(frame)
    np.testing.assert_array_equal(recordings.seconds, [(b - a - RATE) / RATE for a, b in limits])
    params = params_of(release_ms=3000.0)
    for (a, b), found in zip(limits, recordings.products([(i, params) for i in range(3)]), strict=True):
        # From rest at the stretch's beginning: what came before isn't this row's to hear.
        np.testing.assert_array_equal(found, in_one_pass(x[a:b], y[a:b], params))


@pytest.mark.parametrize("skip_s", [0.0, 0.1, 2.5])
def test_what_is_skipped(write: Write, programme: Callable[..., np.ndarray], skip_s: float) -> None:
    x, y = signals(programme, 6, 5.0)
    recordings = Recordings(write((x, y)), skip_s)
    assert recordings.seconds == pytest.approx([5.0 - skip_s])
    (found,) = recordings.products([(0, params_of())])
    np.testing.assert_array_equal(found, in_one_pass(x, y, params_of(), skip=round(skip_s * RATE)))


def test_rows_in_any_order_and_several_times(write: Write, programme: Callable[..., np.ndarray]) -> None:
    pairs = [signals(programme, seed, 2.0 + seed) for seed in range(3)]
    recordings = Recordings(write(*pairs))
    requests = [
        (2, params_of()),
        (0, params_of(ratio=8.0)),
        (2, params_of(threshold_db=-20.0)),
        (0, params_of()),
        (2, params_of()),
    ]
    found = list(recordings.products(requests))
    assert len(found) == len(requests)
    for (row, params), sums in zip(requests, found, strict=True):
        np.testing.assert_array_equal(sums, in_one_pass(*pairs[row], params))
    assert list(recordings.products([])) == []


def test_a_folder_will_do(recordings: Path) -> None:
    found = Recordings(recordings)
    assert len(found.frame) == len(found.seconds) == 5
    sums = list(found.products([(row, params_of()) for row in range(5)]))
    np.testing.assert_array_equal([len(s) for s in sums], np.ceil(4.0 * found.seconds))


def test_the_frame_given_is_left_alone(write: Write, programme: Callable[..., np.ndarray]) -> None:
    frame = write(signals(programme, 1, 2.0), signals(programme, 2, 2.0)).set_index(pd.Index([7, 3]))
    before = frame.copy()
    recordings = Recordings(frame)
    list(recordings.products([(1, params_of())]))
    pd.testing.assert_frame_equal(frame, before)
    assert recordings.frame.index.tolist() == [0, 1]


# Threads


def test_the_number_of_threads_changes_no_bit(long_frame: pd.DataFrame, threads: Callable[[int], None]) -> None:
    requests = [(0, params_of()), (0, params_of(attack_ms=100.0, release_ms=20.0))]
    found = []
    for number in (1, 2, 2, 5):
        threads(number)
        found.append(list(Recordings(long_frame).products(requests)))
    for again in found[1:]:
        for sums, expected in zip(again, found[0], strict=True):
            np.testing.assert_array_equal(sums, expected)


def test_progress_counts_every_second_once(long_frame: pd.DataFrame, threads: Callable[[int], None]) -> None:
    threads(2)
    recordings = Recordings(long_frame)
    done: list[float] = []
    list(recordings.products([(0, params_of()), (0, params_of())], progress=done.append))
    assert len(done) == 16
    assert sum(done) == pytest.approx(2 * recordings.seconds.sum())


# Lanes

SLOW = {"attack_ms": 2000.0, "release_ms": 2000.0}


@pytest.mark.parametrize(
    "times",
    [
        {},
        {"release_ms": 2000.0},
        {"attack_ms": 400.0, "release_ms": 20.0},
        {"attack_ms": 2000.0, "release_ms": 50.0},
        {"attack_ms": 1000.0, "release_ms": 2000.0},
        {"attack_ms": 3.0, "release_ms": 20_000.0},  # remembers more than a lane
        SLOW,  # forgets no faster than it is allowed to, whatever is played
    ],
    ids=str,
)
def test_lanes_are_nearly_one_pass(long_frame: pd.DataFrame, times: dict[str, float]) -> None:
    requests = [(0, params_of(**times))]
    lanes, exact = (next(Recordings(long_frame, exact=exact).products(requests)) for exact in (False, True))
    assert lanes.shape == exact.shape == (4 * 480, 8, 8)
    total, expected = lanes.sum(axis=0), exact.sum(axis=0)
    assert total[ERROR, ERROR] == pytest.approx(expected[ERROR, ERROR], rel=1e-6)
    assert total[TARGET, TARGET] == pytest.approx(expected[TARGET, TARGET], rel=1e-9)
    # The gradient is what is left of a sum that cancels, so it is compared with what there was to cancel.
    norms = np.sqrt(np.diag(expected)[TANGENTS] * expected[ERROR, ERROR])
    assert (np.abs(total[TANGENTS, ERROR] - expected[TANGENTS, ERROR]) < 1e-5 * norms).all()
    matrix = expected[TANGENTS, TANGENTS]
    assert np.linalg.norm(total[TANGENTS, TANGENTS] - matrix) < 5e-6 * np.linalg.norm(matrix)
    assert difference(total, expected) < 2e-4


def test_lanes_are_bit_equal_where_they_are_one_pass(
    long_frame: pd.DataFrame, programme: Callable[..., np.ndarray]
) -> None:
    x, y = signals(programme, 1, 481.0)
    expected = in_one_pass(x, y, params_of(**SLOW))
    (exact,) = Recordings(long_frame, exact=True).products([(0, params_of(**SLOW))])
    np.testing.assert_array_equal(exact, expected)
    (lanes,) = Recordings(long_frame).products([(0, params_of(**SLOW))])
    np.testing.assert_array_equal(lanes[:240], expected[:240])  # the first lane begins where the row does
    for lane in range(1, 8):
        assert difference(lanes[240 * lane], expected[240 * lane]) > 0.0


@pytest.mark.parametrize(("attack_ms", "release_ms"), [(2000.0, 2000.0), (2000.0, 100.0), (500.0, 3000.0)])
def test_what_a_lane_does_not_know_of_its_state(write: Write, attack_ms: float, release_ms: float) -> None:
    # A constant: the gain falls from 1 to G as a single exponential, so that what is left of it can be told.
    x = np.full(481 * RATE, 0.5, np.float32)
    frame = write((x, np.zeros_like(x)))
    params = params_of(attack_ms=attack_ms, release_ms=release_ms)
    found = (next(Recordings(frame, exact=exact).products([(0, params)], "none")) for exact in (False, True))
    lanes, exact = (sums[:, ERROR, ERROR] for sums in found)
    settled = math.sqrt(exact[-1] / QUARTER) / 0.5 / 10.0 ** (SETTING["makeup_db"] / 20.0)
    assert 0.1 < settled < 0.9
    gains = settled * np.sqrt(lanes / exact)
    first = np.arange(240, 1920, 240)
    missing = (gains - settled) / (1.0 - settled)
    left = 9.0 ** (-4.0 * max(attack_ms, release_ms) / attack_ms)
    assert (missing[first] <= left).all()
    assert (missing[first] >= 0.5 * left - 1e-12).all()
    assert left <= FORGOTTEN
    for lane in first:  # and less from then on
        assert (np.diff(missing[lane : lane + 240]) <= 1e-12).all()


@pytest.mark.parametrize("release_ms", [300.0, 2000.0])
def test_what_a_lane_does_not_know_of_a_release(write: Write, release_ms: float) -> None:
    # Loud until what a lane hears begins, and quiet for the rest of its minute: the lane itself is at rest all along.
    loud_until = 60 * RATE - round(4.0 * release_ms / 1000.0 * RATE)
    minute = np.where(np.arange(60 * RATE) < loud_until, 0.9, 1e-3)
    minute[: 20 * RATE] = 1e-3
    x = np.concatenate([minute[-RATE:], *[minute] * 8]).astype(np.float32)
    frame = write((x, np.zeros_like(x)))
    params = params_of(release_ms=release_ms)
    found = (next(Recordings(frame, exact=exact).products([(0, params)], "none")) for exact in (False, True))
    lanes, exact = (np.sqrt(sums[240::240, ERROR, ERROR]) for sums in found)
    depth = 1.0 - compressor(x[: RATE + loud_until], RATE, **SETTING | {"release_ms": release_ms}).state
    assert depth > 0.8
    missing = 1.0 - exact / lanes
    assert (missing <= depth * FORGOTTEN).all()
    assert (missing >= 0.1 * depth * FORGOTTEN).all()


@pytest.mark.parametrize(
    ("rows", "seconds", "lanes"),
    [(1, 481.3, 8), (1, 200.3, 3), (1, 120.3, 1), (2, 481.3, 4), (3, 301.3, 3), (8, 125.3, 1)],
)
def test_number_of_lanes(write: Write, rows: int, seconds: float, lanes: int) -> None:
    silence = np.zeros(round(seconds * RATE), np.float32)
    recordings = Recordings(write(*[(silence, silence)] * rows))
    done: list[float] = []
    list(recordings.products([(row, params_of()) for row in range(rows)], progress=done.append))
    assert len(done) == rows * lanes
    assert lanes == 1 or min(done) >= 60.0
    assert sum(done) == pytest.approx(recordings.seconds.sum())


# Thinning


def ramp(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """A target whose value is the time in units of 1000 s."""
    time = (np.arange(round(seconds * RATE)) / (1000.0 * RATE)).astype(np.float32)
    return np.zeros_like(time), time


def times_of(sums: np.ndarray, seconds: float) -> np.ndarray:
    """Where the sums over a :func:`ramp` were taken: their middles in s, if all are of that length."""
    return 1000.0 * np.sqrt(sums[:, TARGET, TARGET] / (seconds * RATE))


@pytest.mark.parametrize(("asked", "stretches"), [(5.0, 1), (10.0, 1), (20.0, 2), (50.0, 5)])
def test_thinned_is_spread_over_the_file(write: Write, asked: float, stretches: int) -> None:
    thin = Recordings(write(ramp(300.0))).thinned(asked)
    assert thin.seconds == pytest.approx([asked])
    (found,) = thin.products([(0, params_of())], "none")
    times = times_of(found, 0.25)
    assert len(times) == 4 * asked
    length = asked / stretches
    starts = times[:: len(times) // stretches] - 0.125
    share = 299.0 / stretches  # every stretch lies in the middle of its share
    np.testing.assert_allclose(starts, 1.0 + share * np.arange(stretches) + (share - length) / 2.0, atol=0.01)
    inside = np.diff(times.reshape(stretches, -1), axis=1)
    np.testing.assert_allclose(inside, 0.25, atol=0.01)


@pytest.mark.parametrize("asked", [0.5, 3.0, 4.9, 7.3, 14.9, 15.1, 20.0, 25.0, 33.3, 1000.0])
def test_thinned_is_never_more_than_asked(write: Write, programme: Callable[..., np.ndarray], asked: float) -> None:
    pairs = [signals(programme, seed, seconds) for seed, seconds in enumerate((1.5, 16.0, 26.05, 200.0))]
    recordings = Recordings(write(*pairs))
    whole = recordings.seconds
    thin = recordings.thinned(asked)
    some_frames = 4 / RATE
    assert (thin.seconds <= asked + some_frames).all()
    assert (thin.seconds >= np.minimum(whole, asked) - some_frames).all()
    found = list(thin.products([(row, params_of()) for row in range(4)]))
    everything = list(Recordings(recordings.frame, exact=True).products([(row, params_of()) for row in range(4)]))
    for row, (sums, all_sums) in enumerate(zip(found, everything, strict=True)):
        if whole[row] <= asked:
            np.testing.assert_array_equal(sums, all_sums)
            assert thin.seconds[row] == whole[row]
        else:
            assert sums[:, TARGET, TARGET].sum() < all_sums[:, TARGET, TARGET].sum()
    np.testing.assert_array_equal(recordings.seconds, whole)  # the original is what it was


def test_thinned_sums_are_those_of_the_whole(write: Write, programme: Callable[..., np.ndarray]) -> None:
    recordings = Recordings(write(signals(programme, 2, 61.0)))
    requests = [(0, params_of(**times)) for times in ({}, {"attack_ms": 300.0, "release_ms": 300.0}, SLOW)]
    for thin, whole in zip(recordings.thinned(20.0).products(requests), recordings.products(requests), strict=True):
        assert len(thin) == 80
        for part, same in ((thin[:40], whole[40:80]), (thin[40:], whole[160:200])):  # 11 s to 21 s, 41 s to 51 s
            assert difference(part.sum(axis=0), same.sum(axis=0)) < 2e-3
            assert part[:, ERROR, ERROR].sum() == pytest.approx(same[:, ERROR, ERROR].sum(), rel=4.0 * FORGOTTEN)


def test_thinned_copies_have_no_lanes_and_stay_within_stretches(write: Write) -> None:
    frame = write(ramp(400.0))
    limits = {"start_frame": [0, 200 * RATE], "stop_frame": [150 * RATE, 400 * RATE]}
    frame = pd.concat([frame] * 2, ignore_index=True).assign(**limits)
    found = list(Recordings(frame).thinned(20.0).products([(0, params_of()), (1, params_of())], "none"))
    for sums, (first, stop) in zip(found, ((1.0, 150.0), (201.0, 400.0)), strict=True):
        times = times_of(sums, 0.25)
        assert len(times) == 80
        quarter = (stop - first) / 4.0
        assert times[0] == pytest.approx(first + quarter - 5.0 + 0.125, abs=0.01)
        assert times[-1] == pytest.approx(stop - quarter + 5.0 - 0.125, abs=0.01)


# Errors


@pytest.mark.parametrize("seconds", [0.4, 1.0])
def test_a_row_that_is_skipped_whole_is_refused(
    write: Write, programme: Callable[..., np.ndarray], seconds: float
) -> None:
    frame = write(signals(programme, 1, 3.0), signals(programme, 2, seconds))
    with pytest.raises(ValueError, match=rf"input_1_\.wav: expected more than skip_s = 1 s to fit, got {seconds:g} s"):
        Recordings(frame)
    assert Recordings(frame, 0.25).seconds == pytest.approx([2.75, seconds - 0.25])


def test_a_stretch_that_is_skipped_whole_is_refused(write: Write, programme: Callable[..., np.ndarray]) -> None:
    frame = write(signals(programme, 1, 3.0), start_frame=2 * RATE, stop_frame=3 * RATE)
    with pytest.raises(ValueError, match=r"input_0_\.wav: expected more than skip_s"):
        Recordings(frame)
    assert Recordings(frame.assign(start_frame=2 * RATE - 1)).seconds == pytest.approx([1 / RATE])


def test_rows_of_different_rates_are_refused(write: Write, programme: Callable[..., np.ndarray]) -> None:
    frame = write(signals(programme, 1, 3.0), signals(programme, 2, 3.0), rates=(RATE, 4000))
    with pytest.raises(ValueError, match=r"2000 Hz in .*input_0_\.wav and 4000 Hz in .*input_1_\.wav"):
        Recordings(frame)


def test_a_pair_of_two_rates_is_refused(write: Write, programme: Callable[..., np.ndarray]) -> None:
    x, y = signals(programme, 1, 3.0)
    frame = write((x, y))
    soundfile.write(frame["processed_audio_path"][0], y, 4000, "FLOAT")
    with pytest.raises(ValueError, match=r"target_0_LA2A_3c__0__50\.wav: expected 2000 Hz"):
        Recordings(frame)


def test_a_pair_of_two_lengths_is_refused(write: Write, programme: Callable[..., np.ndarray]) -> None:
    x, y = signals(programme, 1, 3.0)
    frame = write((x, y[:-1]))
    with pytest.raises(ValueError, match=r"target_0_LA2A_3c__0__50\.wav: expected 6000 frames"):
        Recordings(frame)
    limited = frame.assign(start_frame=0, stop_frame=5999)
    (found,) = Recordings(limited).products([(0, params_of())])
    np.testing.assert_array_equal(found, in_one_pass(x[:-1], y[:-1], params_of()))
    with pytest.raises(ValueError, match=r"target_0_LA2A_3c__0__50\.wav: expected at least stop_frame = 6000"):
        Recordings(frame.assign(start_frame=0, stop_frame=6000))


@pytest.mark.parametrize("which", ["input", "target"])
def test_stereo_is_refused(write: Write, programme: Callable[..., np.ndarray], which: str) -> None:
    x, y = signals(programme, 1, 3.0)
    both = np.stack([x, x], axis=1)
    frame = write((both, y) if which == "input" else (x, both))
    with pytest.raises(ValueError, match=rf"{which}_0_.*wav: expected one channel, got 2"):
        Recordings(frame)


@pytest.mark.parametrize("skip_s", [-0.5, math.nan, math.inf])
def test_an_unfit_skip_is_refused_by_name(write: Write, programme: Callable[..., np.ndarray], skip_s: float) -> None:
    frame = write(signals(programme, 1, 3.0))
    with pytest.raises(ValueError, match=r"^skip_s: expected"):
        Recordings(frame, skip_s)


def test_a_row_that_is_not_there(write: Write, programme: Callable[..., np.ndarray]) -> None:
    with pytest.raises(IndexError):
        list(Recordings(write(signals(programme, 1, 3.0))).products([(1, params_of())]))


# What is left alone


def test_nothing_is_read_on_once_nobody_listens(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a pass within a block, not after twenty minutes of audio."""
    silence = np.zeros(200 * RATE, np.float32)
    recordings = Recordings(write(*[(silence, silence)] * 4), exact=True)
    blocks, read = [], recordings._blocks

    def counted(*stretch: int):
        for block in read(*stretch):
            blocks.append(block)
            yield block

    monkeypatch.setattr(recordings, "_blocks", counted)
    whole = sum(1 for _ in counted(0, 0, 200 * RATE))
    blocks.clear()

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(recordings.products([(row, params_of()) for row in range(4)], progress=interrupted))
    assert len(blocks) < 3 * whole
