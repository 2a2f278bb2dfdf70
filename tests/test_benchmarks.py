"""The benchmarks of speed run, on small sizes; no figure is asserted, but that what is compared is the same thing."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of ``benchmarks``, which aren't installed with the package."""
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip(f"not a checkout: expected {ROOT / 'benchmarks'}")
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: import_module(f"benchmarks.{name}")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def table(printed: str, first: str) -> list[list[str]]:
    """Rows of the Markdown table whose header begins like that, without the rule under it."""
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|") and cells(line)[0].startswith(first))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return [rows[0], *rows[2:]]


def positive(text: str) -> bool:
    """Whether every number is one: ``1,234 / 5.6``."""
    return all(re.fullmatch(r"[\d,]+(\.\d+)?", part) and float(part.replace(",", "")) > 0 for part in text.split(" / "))


def test_peers_are_timed_and_what_is_not_installed_is_said(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    operators, peers = benchmark("operators"), benchmark("peers")
    monkeypatch.setattr(operators, "SLOW_SHAPE", (1, 64))
    threads = torch.get_num_threads(), numba.get_num_threads()
    operators.main(((1, 256), (8, 256), (9, 256), (2, 300)), seconds=0.01)
    assert (torch.get_num_threads(), numba.get_num_threads()) == threads
    printed = capsys.readouterr().out
    assert "torchcomp " + ("0." if peers.compressor_core else "not installed") in printed
    times = [line for line in printed.splitlines() if "| ns |" in re.sub(" +", " ", line)]
    assert len(times) == len(operators.rows())
    for line in times:
        name, _, *values, remark = cells(line)
        row = operators.rows()[name]
        assert remark.startswith(row.remark)
        if row.operator is None:
            assert "not installed" in remark
            assert not any(values)
        elif row.slow:
            assert positive(values[0])
            assert not any(values[1:])
        else:
            assert all(positive(value.removesuffix(" / –")) for value in values)
    ratios = table(printed, "ratio")[1:]
    assert all(positive(ratio) or (ratio == "not installed" and not peers.compressor_core) for *_, ratio in ratios)


def test_what_is_not_installed_is_left_out(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    operators = benchmark("operators")
    monkeypatch.setattr(benchmark("peers"), "compressor_core", None)
    operators.print_measured({}, operators.SHAPES)
    operators.print_ratios({}, *operators.SHAPES[1:3])
    printed = capsys.readouterr().out
    assert all("; not installed" in line for line in printed.splitlines() if "torchcomp's core around" in line)
    assert {row[-1] for row in table(printed, "ratio")[1:]} == {"not installed"}
    operators.check_agreement(64)


def test_only_the_same_mathematics_counts_as_the_same(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    operators, peers, given = benchmark("operators"), benchmark("peers"), benchmark("problem")
    other = peers.behind_torch_curve(peers.one_pole)
    problem = given.problem(2, 512)
    assert not operators.disagreement(given.fused, other, problem) < 0.1  # NaN: it knows no release
    louder = operators.disagreement(given.fused, lambda *what: 1.01 * given.fused(*what), problem)
    assert louder == pytest.approx(0.01, rel=0.02)
    monkeypatch.setattr(peers, "scripted_loop", peers.one_pole)
    with pytest.raises(RuntimeError, match="TorchScript: expected our output and gradients to 0"):
        operators.check_agreement(512)


def test_jobs_take_turns(benchmark: Any) -> None:
    timing: ModuleType = benchmark("timing")
    called: list[str] = []
    jobs = {
        name: (lambda name=name: called.append(f"{name}{torch.get_num_threads()}"), i) for i, name in enumerate("ab", 1)
    }
    medians = timing.taking_turns(jobs, seconds=0.0)
    assert list(medians) == ["a", "b"]
    turns = [now for before, now in zip(["", *called], called, strict=False) if now != before]
    assert turns == ["a1", "b2"] * 4  # the first of them compiles


def test_scaling_names_the_cliff(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scaling = benchmark("scaling")
    said = scaling.steps([1, 2, 4, 8], [10.0, 5.0, 15.0, 15.0])
    assert said == "largest rise × 3.00 (2 → 4), largest fall × 0.50 (1 → 2)"
    scaling.main([16, 32], [1, 3], 64, seconds=0.01)
    printed = capsys.readouterr().out
    assert [row[0] for row in table(printed, "ns a sample, length")[1:]] == ["16", "32"]
    by_batch = table(printed, "ns a sample, batch")[1:]
    assert [row[0] for row in by_batch] == ["1", "3"]
    assert all(positive(cell) for row in by_batch for cell in row)


def test_blocks_have_a_budget(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = benchmark("blocks")
    blocks.main((64, 128), seconds=0.01)
    rows = table(capsys.readouterr().out, "µs a block")[1:]
    assert [row[0] for row in rows[:-1]] == list(blocks.ROWS)
    assert rows[-1][1:] == ["1,451", "2,902"]
    assert all(positive(cell) for row in rows for cell in row[1:])


def test_a_stream_moves_and_is_silent(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    streaming = benchmark("streaming")
    streaming.main(hours=0.001, seconds=0.01, silence_s=0.05)
    printed = capsys.readouterr().out
    for first in ("µs a block of 64", "dB apart"):
        rows = table(printed, first)[1:]
        assert [row[0] for row in rows] == list(streaming.ROWS)
        assert all(float(cell.replace(",", "")) < 1e-3 for row in rows for cell in row[1:] if first == "dB apart")


def test_first_calls_are_timed_one_by_one(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("first_call").measure()
    seconds = json.loads(capsys.readouterr().out)
    assert list(seconds)[2:] == ["forward", "backward", "block of a stream", "forward + backward again"]
    assert all(value > 0.0 for value in seconds.values())
