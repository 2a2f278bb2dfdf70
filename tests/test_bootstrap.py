"""Paired intervals: against scores, against a closed form, and what they refuse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import ddsp_la2a as la
from baselines.identity import Identity
from ddsp_la2a.evaluation.bootstrap import BLOCK_COLUMNS, FEWEST_BLOCKS, BlockEnergies, paired_intervals
from ddsp_la2a.evaluation.metrics import esr_dc_filtered
from ddsp_la2a.evaluation.scored_audio import feed

RATE = 1000


def table(errors: dict[str, np.ndarray], targets: np.ndarray, **said: object) -> pd.DataFrame:
    """Blocks of models whose error energies are given, ``(recordings, seconds)`` each."""
    rows = []
    for model, energies in errors.items():
        for recording, (error, target) in enumerate(zip(energies, targets, strict=True)):
            seconds = pd.DataFrame({"second": np.arange(len(error)), "error": error, "target": target})
            rows.append(seconds.assign(model=model, recording=f"track {recording}"))
    filled = {"source": "simulated", "protocol": "shipped", "seed": 0, **said}
    return pd.concat(rows, ignore_index=True).assign(**filled)


def noise(count: int, seconds: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).chisquare(4, size=(count, seconds))


def test_blocks_sum_up_to_the_headline_error():
    random = np.random.default_rng(0)
    target = random.standard_normal(3456)
    estimate = target + 0.1 * random.standard_normal(3456) + 0.5  # an offset, which doesn't count
    blocks = feed(BlockEnergies(RATE), (estimate, target), 500).table
    assert blocks["second"].tolist() == [0, 1, 2]
    assert blocks["error"].sum() / blocks["target"].sum() == pytest.approx(
        esr_dc_filtered(estimate, target, start=500), rel=1e-12
    )


def test_evaluate_gives_blocks_that_belong_to_its_scores(frame, known_unit):
    models = {"unit": known_unit, "identity": Identity()}
    scored, blocks = la.evaluate(models, frame, return_blocks=True)
    assert list(blocks.columns) == list(BLOCK_COLUMNS)
    pd.testing.assert_frame_equal(
        scored.drop(columns="real_time_factor"), la.evaluate(models, frame).drop(columns="real_time_factor")
    )
    sums = blocks.groupby(["model", "recording"], sort=False)[["error", "target"]].sum()
    found = (sums["error"] / sums["target"]).groupby("model").mean()
    wanted = scored.groupby("model")["esr_dc_filtered"].mean()
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    row = paired_intervals(pd.concat([blocks.assign(second=blocks["second"] + 100 * n) for n in range(8)]), "unit")
    assert row["difference"].item() == pytest.approx(wanted["identity"] - wanted["unit"], rel=1e-12)


def test_seeds_of_one_model_are_averaged(frame):
    class Seeded(Identity):
        def __init__(self, seed: int, gain: float):
            super().__init__()
            self.info |= {"seed": seed}
            self.gain = gain

        def process(self, audio, sample_rate, **positions):
            return self.gain * audio

    several = [Seeded(0, 0.5), Seeded(1, 1.5)]
    scored, blocks = la.evaluate({"box": several, "identity": Identity()}, frame, return_blocks=True)
    assert scored[scored["model"] == "box"]["seed"].tolist() == [0, 1] * 2
    difference = paired_intervals(blocks, "identity")["difference"].item()
    means = scored.groupby("model")["esr_dc_filtered"].mean()
    assert difference == pytest.approx(means["box"] - means["identity"], rel=1e-12)


def test_interval_is_that_of_a_mean_where_all_seconds_are_as_loud():
    """With equal targets the difference is a mean of independent seconds: its standard error is known."""
    seconds = 400
    a, b = noise(1, seconds, 1), noise(1, seconds, 2) + 0.3
    row = paired_intervals(table({"a": a, "b": b}, np.full((1, seconds), 10.0)), "a").iloc[0]
    each = (b - a)[0] / 10.0
    assert row["difference"] == pytest.approx(each.mean())
    half_width = 1.96 * each.std() / np.sqrt(seconds)
    assert row["low"] == pytest.approx(each.mean() - half_width, abs=0.1 * half_width)
    assert row["high"] == pytest.approx(each.mean() + half_width, abs=0.1 * half_width)


def test_pairing_makes_small_differences_visible():
    """Both models fail on the same seconds; drawn apart, that would drown a difference of a tenth of it."""
    errors = noise(2, 60, 3)
    found = paired_intervals(table({"a": errors, "b": 1.1 * errors}, np.full((2, 60), 10.0)), "a").iloc[0]
    assert found["distinguishable"]
    assert found["low"] > 0.0


def test_intervals_of_equal_models_hold_zero_as_often_as_they_say():
    """200 pairs of models that are equally good: about 5 % are called distinguishable."""
    called = [
        paired_intervals(
            table({"a": noise(2, 20, 2 * n), "b": noise(2, 20, 2 * n + 1)}, np.full((2, 20), 9.0)), "a"
        ).iloc[0]["distinguishable"]
        for n in range(200)
    ]
    assert 0.01 <= np.mean(called) <= 0.11


def test_order_of_rows_and_models_does_not_matter():
    blocks = table({"a": noise(3, 9, 1), "b": noise(3, 9, 2), "c": noise(3, 9, 3)}, noise(3, 9, 4))
    first = paired_intervals(blocks, "a").set_index("model")
    again = paired_intervals(blocks[blocks["model"] != "c"], "a").set_index("model")
    pd.testing.assert_series_equal(first.loc["b"], again.loc["b"])


def test_sources_and_protocols_stay_apart():
    parts = [
        table({"a": noise(1, 9, 1), "b": noise(1, 9, 2)}, noise(1, 9, 3), source=source, protocol=protocol)
        for source, protocol in (("hardware", "shipped"), ("simulated", "shipped"), ("hardware", "in-sample"))
    ]
    lonely = parts[2][parts[2]["model"] == "b"]
    found = paired_intervals(pd.concat([*parts[:2], lonely]), "a")
    assert found[["source", "protocol"]].to_numpy().tolist() == [["hardware", "shipped"], ["simulated", "shipped"]]


@pytest.mark.parametrize(
    ("errors", "targets"),
    [
        (noise(1, FEWEST_BLOCKS - 1, 1), np.ones((1, FEWEST_BLOCKS - 1))),
        (np.full((1, 20), 2.0), np.ones((1, 20))),
    ],
    ids=["too few seconds", "the same model"],
)
def test_no_interval_where_nothing_can_be_said(errors, targets):
    other = errors if len(errors[0]) == 20 else 3.0 * errors
    row = paired_intervals(table({"a": errors, "b": other}, targets), "a").iloc[0]
    assert np.isnan(row["low"])
    assert not row["distinguishable"]


def test_silent_recordings_do_not_count():
    errors = {"a": noise(2, 12, 1), "b": noise(2, 12, 2)}
    targets = np.stack([np.full(12, 10.0), np.zeros(12)])
    row = paired_intervals(table(errors, targets), "a").iloc[0]
    alone = paired_intervals(table({name: e[:1] for name, e in errors.items()}, targets[:1]), "a").iloc[0]
    assert row["difference"] == alone["difference"]


def test_errors():
    blocks = table({"a": noise(1, 9, 1), "b": noise(1, 9, 2)}, noise(1, 9, 3))
    with pytest.raises(ValueError, match=r"blocks: expected the columns model, .* got none named target"):
        paired_intervals(blocks.drop(columns="target"), "a")
    with pytest.raises(ValueError, match="reference: expected one of a, b, got 'grey-box'"):
        paired_intervals(blocks, "grey-box")
    with pytest.raises(ValueError, match="expected all models scored on the same seconds of track 0, got some"):
        paired_intervals(blocks[:-1], "a")
