"""An interrupted least-squares fit goes on where it was, to the last bit; what doesn't belong to it is refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ddsp_la2a as la
from ddsp_la2a.fitting import gauss_newton
from ddsp_la2a.fitting import journal as journals
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.fitting.journal import Answer, Journal, question_hash
from ddsp_la2a.fitting.least_squares import Quadratic
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.model.stages import PLAIN, CellStages

pytestmark = pytest.mark.usefixtures("one_thread", "one_network")

BARE_CELL = CellStages(output_filter=False, traps=False)
WAYS: dict[str, dict[str, Any]] = {
    "shared": {"stages": PLAIN},
    "per-setting": {"stages": PLAIN, "per_setting": True},
    "optical-cell": {"family": "optical-cell", "stages": BARE_CELL},
}


@pytest.fixture
def one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "_NETWORKS", 1)


@pytest.fixture
def few(frame: pd.DataFrame) -> pd.DataFrame:
    """Two settings; the files are small."""
    return frame[frame["split"] == "train"].iloc[:2].reset_index(drop=True)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Counts passes over audio, and raises KeyboardInterrupt in one of them."""
    products, counted, last = Recordings.products, [], [None]

    def limited(recordings: Recordings, requests: Sequence[Any], *more: Any):
        if len(counted) == last[0]:
            raise KeyboardInterrupt
        counted.append(len(requests))
        return products(recordings, requests, *more)

    def begin(at: int | None = None) -> list[int]:
        counted.clear()
        last[0] = at
        return counted

    monkeypatch.setattr(Recordings, "products", limited)
    return begin


def fit(frame: pd.DataFrame, way: str, checkpoint: Path | None = None, **more: Any) -> la.FitResult:
    how = GaussNewtonSettings(max_steps=3)
    return la.fit(frame, gauss_newton=how, checkpoint=checkpoint, **WAYS[way], **more)


def assert_same(one: la.FitResult, other: la.FitResult) -> None:
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert one.model.covariance is not None
    assert other.model.covariance is not None
    assert torch.equal(one.model.covariance, other.model.covariance)
    histories = (result.history.drop(columns="seconds") for result in (one, other))
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert one.converged == other.converged


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_fit_is_an_uninterrupted_one(few: pd.DataFrame, passes: Any, tmp_path: Path, way: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    total = len((passes(), expected := fit(few, way))[0])
    stops = [0, 1, total // 4, total // 3]
    for stop in stops:
        passes(stop)
        try:
            assert fit(few, way, path).interrupted
        except KeyboardInterrupt:
            assert stop == 0
    read = passes()
    assert_same(fit(few, way, path), expected)
    assert len(read) == total - sum(stops) > 1  # what was known wasn't listened to again
    read = passes()
    assert_same(fit(few, way, path), expected)
    assert read == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.previous.safetensors", path.name]


def test_a_moved_data_set_is_the_same(few: pd.DataFrame, recordings: Path, passes: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    passes(3)
    fit(few, "shared", path)
    shutil.copytree(recordings / "Train", tmp_path / "elsewhere" / "Train")
    read = passes()
    resumed = fit(la.index(tmp_path / "elsewhere"), "shared", path)
    assert len(resumed.history) == len(read) + 3


def test_time_goes_on(few: pd.DataFrame, passes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    passes(4)
    before = fit(few, "shared", path)
    passes(2)
    after = fit(few, "shared", path)
    assert after.history["seconds"].is_monotonic_increasing
    np.testing.assert_allclose(after.history["seconds"][:4], before.history["seconds"], atol=0.05)
    assert after.config["train_seconds"] >= before.config["train_seconds"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    few: pd.DataFrame, passes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    for stop in (2, 3):
        passes(stop)
        fit(few, "shared", path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    passes(1)
    with caplog.at_level(logging.WARNING, "ddsp_la2a"):
        resumed = fit(few, "shared", path)
    assert str(path) in caplog.text
    assert len(resumed.history) == 2 + 1


@pytest.mark.parametrize("change", ["recordings", "seed", "settings", "stages", "per-setting", "another family"])
def test_a_checkpoint_of_something_else_is_refused(few: pd.DataFrame, passes: Any, tmp_path: Path, change: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    passes(1)
    fit(few, "shared", path)
    before = path.read_bytes()
    other: dict[str, Any] = {"stages": PLAIN, "gauss_newton": GaussNewtonSettings(max_steps=3)}
    other |= {
        "recordings": {},
        "seed": {"seed": 1},
        "settings": {"gauss_newton": GaussNewtonSettings(max_steps=4)},
        "stages": {"stages": None},
        "per-setting": {"per_setting": True},
        "another family": {"family": "optical-cell", "stages": None},
    }[change]
    frame = few.iloc[:1] if change == "recordings" else few
    with pytest.raises(ValueError, match=r"checkpoint.safetensors: expected a checkpoint of these recordings and sett"):
        la.fit(frame, checkpoint=path, **other)
    assert path.read_bytes() == before


def test_a_checkpoint_of_a_training_is_refused(few: pd.DataFrame, quick: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    la.fit(few, method="adam", adam=quick(2), segment_s=3.0, stages=PLAIN, checkpoint=path)
    with pytest.raises(ValueError, match=r"expected a checkpoint of a least-squares fit, got something else"):
        fit(few, "shared", path)


def test_adam_goes_on_too(few: pd.DataFrame, quick: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    how: dict[str, Any] = {"method": "adam", "segment_s": 3.0, "stages": PLAIN}
    expected = la.fit(few, adam=quick(6), **how)
    la.fit(few, adam=quick(2), checkpoint=path, **how)
    resumed = la.fit(few, adam=quick(6), checkpoint=path, **how)
    for name, value in expected.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


# The journal by itself


def answers_of(seed: int, count: int = 3, size: int = 4) -> list[Answer]:
    rng = np.random.default_rng(seed)
    quadratics = [
        Quadratic(float(rng.random()), rng.random(size), rng.standard_normal((size, size))) for _ in range(count)
    ]
    quadratics[1] = Quadratic(np.inf, np.zeros(size), np.zeros((size, size)))  # where derivatives overflow
    return [Answer(quadratic, rng.random((size, size))) for quadratic in quadratics]


def same(one: list[Answer], other: list[Answer] | None) -> bool:
    return other is not None and all(
        np.array_equal(a, b)
        for first, second in zip(one, other, strict=True)
        for a, b in zip((*first.quadratic, first.covariance), (*second.quadratic, second.covariance), strict=True)
    )


def test_answers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    journal = Journal(path, "f")
    journal.add("first", 1.5, answers_of(0))
    journal.add("second", 2.5, answers_of(1, count=2, size=7))
    journal.write()
    again = Journal(path, "f")
    assert again.seconds == 0.0
    assert same(answers_of(0), again.known("first"))
    assert again.seconds == 1.5
    assert same(answers_of(1, count=2, size=7), again.known("second"))
    assert again.known("third") is None
    assert again.seconds == 2.5


def test_another_question_ends_what_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "checkpoint.safetensors"
    journal = Journal(path, "f")
    for number in range(3):
        journal.add(f"question {number}", number, answers_of(number))
    journal.write()
    again = Journal(path, "f")
    again.known("question 0")
    with caplog.at_level(logging.WARNING, "ddsp_la2a"):
        assert again.known("something else") is None
    assert "from pass 1 on the fit takes another way" in caplog.text
    again.add("something else", 1.0, answers_of(9))
    again.write()
    last = Journal(path, "f")
    assert same(answers_of(0), last.known("question 0"))
    assert same(answers_of(9), last.known("something else"))
    assert last.known("question 2") is None


def test_it_is_written_every_half_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(journals.time, "monotonic", lambda: now[0])
    path = tmp_path / "checkpoint.safetensors"
    journal = Journal(path, "f")
    for now[0], is_there in ((29.0, False), (31.0, True)):
        journal.add("a", now[0], answers_of(0))
        assert path.exists() == is_there
    before = path.stat().st_mtime_ns
    journal.write()
    assert path.stat().st_mtime_ns == before  # nothing new


def test_without_a_file_nothing_is_kept() -> None:
    journal = Journal(None, "")
    journal.add("a", 1.0, answers_of(0))
    journal.write()
    assert journal.known("a") is None


def test_questions_are_told_apart(frame: pd.DataFrame) -> None:
    recordings = Recordings(frame)
    point = np.zeros(3)
    asked = [
        (recordings, [(0, point)]),
        (recordings, [(1, point)]),
        (recordings, [(0, point), (0, point)]),
        (recordings, [(0, point + np.finfo(float).tiny)]),
        (recordings.thinned(1.0), [(0, point)]),
        (recordings.thinned(1.0, 2.0), [(0, point)]),
        (Recordings(frame, skip_s=0.5), [(0, point)]),
    ]
    assert len({question_hash(*each) for each in asked}) == len(asked)
    assert question_hash(recordings.chosen([1, 0]), [(1, point)]) == question_hash(recordings, [(0, point)])
