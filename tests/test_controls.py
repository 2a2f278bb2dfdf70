"""Knobs and switches: ranges, positions, text."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest

import ddsp_la2a as la
from ddsp_la2a.controls import LA2A_CONTROLS, Control, distances, parse_controls, unique, whole_or_not
from ddsp_la2a.data.frame import STRETCH_COLUMNS
from ddsp_la2a.data.frame import columns as frame_columns
from ddsp_la2a.evaluation.evaluate import columns as score_columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("two words",), "Python identifier"),
        ((3,), "Python identifier"),
        (("ratio", 2.0, 1.0), "low below high"),
        (("ratio", 1.0, 1.0), "low below high"),
        (("ratio", math.nan, 1.0), "low below high"),
        (("ratio", 0.0, math.inf), "low below high"),
        (("mode", 0.0, 1.5, "switch"), "whole positions"),
        (("mode", 0.0, 1.0, "toggle"), "continuous or switch"),
    ],
)
def test_a_control_without_a_name_or_a_range_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Control(*arguments)  # type: ignore[arg-type]


def test_positions_that_the_la2a_has_and_has_not() -> None:
    switch, knob = LA2A_CONTROLS
    assert [switch.holds(p) for p in (0, 1, 0.5, 2, -1)] == [True, True, False, False, False]
    assert [knob.holds(p) for p in (0, 62.5, 100, 100.1, math.nan)] == [True, True, True, False, False]


def test_text_and_back() -> None:
    controls = (*LA2A_CONTROLS, Control("threshold", -60.0, 0.0), Control("mode", 1.0, 3.0, "switch"))
    assert parse_controls(",".join(map(str, controls))) == controls
    assert parse_controls(" ratio=1:20 , mode=switch:0:1")[0] == Control("ratio", 1.0, 20.0)


@pytest.mark.parametrize("text", ["", "ratio", "ratio=1", "ratio=1:2:3", "mode=switch", "ratio=a:b", "ratio=0:1,"])
def test_text_that_is_no_control_is_shown(text: str) -> None:
    with pytest.raises(ValueError, match="controls: expected name=low:high"):
        parse_controls(text)


def test_a_name_twice_none_or_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="each name once, got ratio, ratio"):
        parse_controls("ratio=0:1,ratio=0:2")
    with pytest.raises(ValueError, match="at least one"):
        unique(())
    with pytest.raises(ValueError, match=r"expected ddsp_la2a\.Control, got 'ratio'"):
        unique(["ratio"])  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["_gain", "class", "2nd", ""])
def test_a_name_that_python_or_a_table_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^control: expected a name that is a Python identifier"):
        Control(name)


def arguments(function: Callable[..., object]) -> set[str]:
    return {name for name, p in inspect.signature(function).parameters.items() if p.kind is not p.VAR_KEYWORD}


@pytest.mark.parametrize(
    "names",
    [
        {*frame_columns(()), *STRETCH_COLUMNS},
        {"raw", "processed", "mask", "recording"},
        set(score_columns(())),
        {"swept", "extrapolated"},
        arguments(la.GreyBox.process) | arguments(la.GreyBox.stream) | arguments(la.GreyBox.curves),
    ],
    ids=["frame", "segment", "scores", "curves", "arguments"],
)
def test_a_name_that_means_something_else_already_is_refused(names: set[str]) -> None:
    for name in names:
        with pytest.raises(ValueError, match=rf"^control: expected a name of its own, got {name}, which"):
            Control(name)


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (LA2A_CONTROLS[0], "0 or 1"),
        (LA2A_CONTROLS[1], "0 to 100"),
        (Control("mode", 1.0, 3.0, "switch"), "a whole number from 1 to 3"),
        (Control("threshold", -60.0, 0.5), "-60 to 0.5"),
    ],
)
def test_positions_in_words(control: Control, words: str) -> None:
    assert control.positions == words


def test_distances_are_shares_of_ranges_and_a_switch_is_farther_than_any_knob() -> None:
    controls = (Control("mode", 1.0, 3.0, "switch"), Control("a", 0.0, 10.0), Control("b", -1.0, 1.0))
    settings = [(1, 5.0, 0.0), (1, 8.0, 0.8), (1, 0.0, -1.0), (2, 5.0, 0.0), (3, 5.0, 0.0)]
    found = distances(controls, settings, (1, 5.0, 0.0))
    assert found == pytest.approx([0.0, 0.5, math.hypot(0.5, 0.5), found[3], found[3]])
    assert found[3] > distances(controls, [(1, 10.0, 1.0)], (1, 0.0, -1.0))[0] == pytest.approx(math.sqrt(2.0))
    only_switches = distances(controls[:1], [(1,), (3,)], (3,))
    assert only_switches.tolist() == [1.0, 0.0]


def test_positions_that_are_all_whole_are_integers() -> None:
    assert whole_or_not(np.array([0.0, 50.0])).dtype == np.int64
    assert whole_or_not(np.array([0.0, 50.5])).tolist() == [0.0, 50.5]
