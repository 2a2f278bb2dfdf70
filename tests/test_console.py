"""Bars for what takes a while."""

from __future__ import annotations

import time

import pytest

from ddsp_la2a.console import audio_bar, bar


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.rstrip("\n").split("\r")[-1].strip()


def test_a_bar_counts(capsys):
    progress = bar("render", "recording")
    for done in (1, 2, 3):
        progress(done, 3)
    assert last_line(capsys).startswith("render: 100%|██████████| 3/3 [00:00<00:00")


def test_a_bar_of_audio_says_how_many_times_faster_it_is_than_playing(capsys):
    progress = audio_bar("check")
    for done in (0, 1800, 3600):
        time.sleep(0.02)
        progress(done, 3600)
    line = last_line(capsys)
    assert line.startswith("check: 100%|██████████| 60/60 min of audio [00:00<00:00, ")
    assert line.endswith(" × real time]")
    times = int(line.split(", ", 1)[1].split(" × ")[0].replace(",", ""))
    assert 100 < times <= 3600 / 0.04


def test_what_was_known_before_has_no_say_in_the_speed(capsys):
    progress = audio_bar("check")
    progress(3000, 3600)
    time.sleep(0.05)
    progress(3600, 3600)
    line = last_line(capsys)
    assert "60/60 min of audio" in line
    assert int(line.split(", ", 1)[1].split(" × ")[0].replace(",", "")) <= 600 / 0.05


def test_time_left_is_that_of_the_average_speed(capsys):
    progress = audio_bar("check")
    progress(0, 3600)
    time.sleep(1.1)
    progress(1200, 3600)
    assert "33%|███▎      | 20/60 min of audio [00:01<00:02, " in last_line(capsys)


@pytest.mark.parametrize("kind", [lambda: audio_bar("check"), lambda: bar("check", "pair")])
def test_what_is_done_at_once_needs_no_bar(capsys, kind):
    progress = kind()
    progress(0, 0)
    progress(5, 5)
    assert capsys.readouterr().err == ""
