"""Scores that are summed up over blocks against plain formulas on the whole recording."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from auraloss.freq import MultiResolutionSTFTLoss
from pyloudnorm import Meter
from scipy.signal import lfilter

from ddsp_la2a.evaluation import scored_audio
from ddsp_la2a.evaluation.bootstrap import BlockEnergies
from ddsp_la2a.evaluation.metrics import Scores
from ddsp_la2a.evaluation.scored_audio import Accumulator, PieceEnergies, feed

RATE = 11025
"""Three gating blocks in four don't start at a whole frame."""

FRAMES, START = 60_000, 11_025
SPECTRAL = ("mr_stft",)


def pair_of(frames: int = FRAMES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise in passages, with a pause; the estimate has another gain in each, noise and an offset."""
    random = np.random.default_rng(seed)
    passages = -(-frames // 5000)
    level, gain = (np.repeat(random.uniform(*span, passages), 5000)[:frames] for span in ((-4.0, -1.0), (0.5, 0.9)))
    target = 0.3 * 10.0**level * random.standard_normal(frames)
    target[30_000:34_000] = 0.0
    return gain * target + 1e-4 * random.standard_normal(frames) + 0.001, target


def cuts(frames: int, lengths: Iterable[int]) -> Iterator[slice]:
    """Consecutive slices of these lengths, over and over, the last one cut off."""
    first = 0
    for length in itertools.cycle(lengths):
        if first >= frames:
            return
        yield slice(first, min(first + length, frames))
        first += length


def fed_in_parts(
    accumulator: Accumulator, estimate: np.ndarray, target: np.ndarray, start: int, lengths: Iterable[int]
) -> Accumulator:
    for part in cuts(len(target), lengths):
        feed(accumulator, (estimate[part], target[part]), start - part.start)
    return accumulator


def on_the_whole(estimate: np.ndarray, target: np.ndarray, start: int, rate: float = RATE) -> dict[str, float]:
    """Every metric by its formula, with all frames at hand."""
    error, scored_error, scored = estimate - target, (estimate - target)[start:], target[start:]
    y_hat, y, e = (lfilter([1.0, -1.0], [1.0, -0.995], audio)[start:] for audio in (estimate, target, error))
    gain = (y_hat @ y) / (y_hat @ y_hat)
    rest = gain * y_hat - y
    length = round(0.05 * rate)
    frames = [audio[start:][: len(scored) // length * length].reshape(-1, length) for audio in (estimate, target)]
    levels = [20.0 * np.log10(np.maximum(np.sqrt(np.mean(f**2, axis=1)), 1e-8)) for f in frames]
    active = levels[1] > -60.0
    blocks = 1 + math.floor((len(scored) / rate - 0.4) / 0.1 + 1e-9)
    heard = math.ceil(0.4 * rate) + math.ceil((blocks - 1) * 0.1 * rate)
    meter = Meter(rate, filter_class="DeMan")
    loudness = [meter.integrated_loudness(audio[start:][:heard]) for audio in (estimate, target)]
    ranges = []
    for audio in (estimate, target):
        power = np.maximum(lfilter([1.0, -1.0], [1.0, -0.995], audio) ** 2, 1e-16)
        coefficients = [1.0 - math.exp(-1.0 / (tau * rate)) for tau in (0.05, 3.0)]
        short, long = (lfilter([a], [1.0, a - 1.0], power)[start:] for a in coefficients)
        ranges.append(math.sqrt(np.mean((10.0 * np.log10(short / long)) ** 2)))
    tensors = (torch.from_numpy(audio[start:].copy())[None, None] for audio in (estimate, target))
    return {
        "esr": (scored_error @ scored_error) / (scored @ scored),
        "esr_dc_filtered": (e @ e) / (y @ y),
        "esr_best_gain": (rest @ rest) / (y @ y),
        "gain_offset_db": 20.0 * math.log10(abs(gain)),
        "gain_error_db": math.sqrt(np.mean((levels[0] - levels[1])[active] ** 2)),
        "mae": np.mean(np.abs(scored_error)),
        "mr_stft": MultiResolutionSTFTLoss()(*tensors).item(),
        "lufs_difference": loudness[0] - loudness[1],
        "ldr_difference_db": ranges[0] - ranges[1],
        "polarity": math.copysign(1.0, gain),
    }


PARTITIONS = {
    "whole": [FRAMES],
    "prime": [997],
    "of all sizes": [1, 2500, 3, 120, 7001, 50],
    "an edge where scoring starts": [START],
    "an edge before and after": [START - 1, 1, 1],
    "longer than the recording": [10 * FRAMES],
}


@pytest.mark.parametrize("lengths", PARTITIONS.values(), ids=PARTITIONS)
def test_blocks_give_what_the_whole_gives(lengths, monkeypatch):
    monkeypatch.setattr(scored_audio, "_BLOCK_FRAMES", 4099)
    estimate, target = pair_of()
    found = fed_in_parts(Scores(RATE), estimate, target, START, lengths).by_name
    expected = on_the_whole(estimate, target, START)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6 if name in SPECTRAL else 1e-9, abs=0.0), name


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("more", [0, 1])
def test_where_the_last_gating_block_ends(rate, more):
    """To the frame, at every rate: with one less the last block is left out."""
    estimate, target = pair_of(2 * rate + more)
    for frames in (2 * rate + more, 2 * rate - 1):
        found = fed_in_parts(Scores(rate), estimate[:frames], target[:frames], 0, [4999]).by_name
        expected = on_the_whole(estimate[:frames], target[:frames], 0, rate)
        assert found["lufs_difference"] == pytest.approx(expected["lufs_difference"], rel=1e-9)


@pytest.mark.parametrize("scored", [1, 1024, 1025, 4409, 4410])
@pytest.mark.parametrize("lengths", [[1], [300], [5000]], ids=["samples", "parts", "whole"])
def test_short_recordings(scored, lengths):
    """Shorter than a block, an STFT window, a gating block: what is defined is right, the rest NaN."""
    estimate, target = pair_of(100 + scored)
    found = fed_in_parts(Scores(RATE), estimate, target, 100, lengths).by_name
    least = {"mr_stft": 1025, "gain_error_db": 551, "lufs_difference": 4410}
    assert {name for name, value in found.items() if math.isnan(value)} == {n for n in least if scored < least[n]}
    assert found["esr"] == pytest.approx(np.sum((estimate - target)[100:] ** 2) / np.sum(target[100:] ** 2), rel=1e-9)
    if scored >= least["mr_stft"]:
        tensors = (torch.from_numpy(audio[100:].copy())[None, None] for audio in (estimate, target))
        assert found["mr_stft"] == pytest.approx(MultiResolutionSTFTLoss()(*tensors).item(), rel=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-6, 1e-2])
def test_the_best_gain_leaves_its_digits(noise):
    """However small the residual is beside what the gain takes away: nothing cancels."""
    _, target = pair_of()
    estimate = 0.25 * target + noise * np.random.default_rng(1).standard_normal(FRAMES)
    found = fed_in_parts(Scores(RATE), estimate, target, START, [997]).by_name
    expected = on_the_whole(estimate, target, START)
    assert found["esr_best_gain"] == pytest.approx(expected["esr_best_gain"], rel=1e-9, abs=1e-28)
    assert found["gain_offset_db"] == pytest.approx(expected["gain_offset_db"], rel=1e-9)


def test_digital_silence_within():
    """The filter rings until its output is no number with digits any more; no block of that has a gain."""
    estimate, target = pair_of(400_000)
    estimate[50_000:350_000] = 0.0
    found = fed_in_parts(Scores(RATE), estimate, target, START, [997]).by_name
    expected = on_the_whole(estimate, target, START)
    for name in ("esr", "esr_dc_filtered", "esr_best_gain", "gain_offset_db", "ldr_difference_db"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name


@pytest.mark.parametrize("lengths", PARTITIONS.values(), ids=PARTITIONS)
def test_energies_of_seconds(lengths):
    estimate, target = pair_of()
    table = fed_in_parts(BlockEnergies(RATE), estimate, target, START, lengths).table
    filtered = [lfilter([1.0, -1.0], [1.0, -0.995], audio)[START:] for audio in (estimate - target, target)]
    seconds = [np.split(audio**2, range(RATE, FRAMES - START, RATE)) for audio in filtered]
    assert table["second"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(table["error"], [second.sum() for second in seconds[0]], rtol=1e-12)
    np.testing.assert_allclose(table["target"], [second.sum() for second in seconds[1]], rtol=1e-12)


def test_seconds_of_silence_are_zero():
    estimate, target = pair_of()
    target[START - 5000 :] = 0.2
    table = feed(BlockEnergies(RATE), (estimate, target), START).table
    assert (table["target"] == 0.0).all()
    assert (table["error"] > 0.0).all()


@pytest.mark.parametrize("frames", [0, 1, 9, 10, 11, 30])
def test_pieces_whole_and_broken(frames):
    audio = np.arange(1.0, 1.0 + 2 * frames).reshape(2, frames)
    energies = PieceEnergies(lambda number: 10 * number, 2)
    for part in cuts(frames, [4, 0, 13]):
        energies.add(audio[:, part])
    wanted = [np.sum(audio[:, n : n + 10] ** 2, axis=1) for n in range(0, frames, 10)]
    np.testing.assert_allclose(energies.all, np.reshape(wanted, (-1, 2)).T)
    np.testing.assert_allclose(energies.whole, np.reshape(wanted[: frames // 10], (-1, 2)).T)


def test_a_score_may_be_asked_for_meanwhile():
    """Looking at what there is so far changes nothing."""
    estimate, target = pair_of()
    asked, left_alone = Scores(RATE), Scores(RATE)
    for part in cuts(FRAMES, [20_000]):
        for scores in (asked, left_alone):
            feed(scores, (estimate[part], target[part]), -part.start)
        so_far = asked.by_name
        assert so_far == asked.by_name
    assert pd.Series(asked.by_name).equals(pd.Series(left_alone.by_name))
