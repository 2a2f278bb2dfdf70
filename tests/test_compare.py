"""What a comparison measures on tones: at which settings, of which models, and what becomes of programs that fail."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import ddsp_la2a as la
from ddsp_la2a import compare
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.evaluation.external import External
from ddsp_la2a.evaluation.measure import measure

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(*settings, controls=LA2A_CONTROLS):
    names = [control.name for control in controls]
    return compare.settings_to_measure(pd.DataFrame(settings, columns=names), controls)


def test_the_ends_of_the_knob_at_each_position_of_the_switch():
    assert settings((1, 80), (0, 62), (0, 52), (1, 70), (0, 72), (0, 52), (1, 60)) == [
        (0, 52),
        (0, 72),
        (1, 60),
        (1, 80),
    ]
    assert settings((0, 50), (1, 80)) == [(0, 50), (1, 80)]
    assert settings((0, 52.5)) == [(0, 52.5)]


def test_few_settings_of_any_unit():
    knobs = (la.Control("drive", 0, 10), la.Control("tone"))
    assert settings((3.0, 0.1), (1.0, 0.9), (1.0, 0.2), (3.0, 0.0), controls=knobs) == [(1.0, 0.2), (3.0, 0.1)]
    switches = (la.Control("drive", 0, 10), la.Control("mode", 1, 20, "switch"))
    rows = [(drive, mode) for mode in range(1, 21) for drive in (1, 2, 3)]
    found = settings(*rows, controls=switches)
    assert len(found) == compare.MOST_MEASURED
    assert (found[0], found[-1]) == ((1, 1), (3, 20))
    assert found == settings(*rows[::-1], controls=switches)
    modes = (la.Control("mode", 1, 3, "switch"),)
    assert settings((3,), (1,), (3,), controls=modes) == [(1,), (3,)]


class Threshold:
    """A compressor whose threshold is the knob's negative."""

    def process(self, audio, sample_rate, *, compress_or_limit, peak_reduction):
        params = la.CompressorParams(-float(peak_reduction), 4.0, 6.0, 5.0, 200.0)
        return la.compressor(torch.from_numpy(audio)[None], params, sample_rate)[0].numpy()


def test_models_are_measured_at_the_rate_of_the_recordings(frame, caplog):
    failing = External(f"{sys.executable} -c 0 {{input}} {{output}} {{compress_or_limit}} {{peak_reduction}}")
    rows = frame[frame["split"] == "train"].assign(peak_reduction=[20, 30])
    models = {"knob": Threshold(), "identity-filter": Threshold(), "program": failing}
    told = []
    with caplog.at_level(logging.WARNING):
        measured = compare.measured_on_tones(models, rows, progress=lambda done, total: told.append((done, total)))
    table, curves, steps = measured
    assert table[["model", "compress_or_limit", "peak_reduction"]].to_numpy().tolist() == [
        ["knob", 0, 20],
        ["knob", 1, 30],
    ]
    expected = measure(Threshold(), 8000, compress_or_limit=1, peak_reduction=30)
    for name, value in expected.items():
        assert table[name][1] == value, name
    assert np.diff(table["threshold_1db_dbfs"]) == pytest.approx(-10.0, abs=0.1)
    settings = ["model", "compress_or_limit", "peak_reduction"]
    assert list(curves) == [*settings, "input_dbfs", "output_dbfs"]
    assert list(steps) == [*settings, "level_step", "time_s", "tone_gain_db"]
    for each in (curves, steps):
        assert each[settings].drop_duplicates().to_numpy().tolist() == [["knob", 0, 20], ["knob", 1, 30]]
    higher, lower = (rows["output_dbfs"].to_numpy() for _, rows in curves.groupby("peak_reduction"))
    np.testing.assert_allclose(lower[:-10] + 10.0, higher[10:], atol=0.05)  # a threshold 10 dB lower, and nothing else
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(caplog.messages) == 1
    assert "program: not measured on a tone: " in caplog.text


def test_nothing_to_measure(frame):
    with pytest.raises(ValueError, match=r"^models: expected one that can be measured on a tone, got identity$"):
        compare.measured_on_tones({"identity": Threshold()}, frame)


def test_a_page_for_every_model_with_curves_over_one_knob(tmp_path):
    several = la.GreyBox(la.ControlNet(controls=(la.Control("drive"), la.Control("tone"))))
    box = la.GreyBox(la.ControlNet(seed=1))
    models = {"grey-box": box, "knob": Threshold(), "several": several, "Grey box": box, "report": box, "b/../c": box}
    written = compare.write_pages(models, tmp_path)
    assert written == {"grey-box": "grey-box.html", "b/../c": "b-c.html"}  # no file is written twice, nor the report
    assert {path.name for path in tmp_path.iterdir()} == set(written.values())
