"""The report: what it says and refuses, that names in it are inert, and that the same input gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import ddsp_la2a as la
from ddsp_la2a.evaluation import charts, report_audio, report_tables
from ddsp_la2a.evaluation.evaluate import columns
from ddsp_la2a.evaluation.measure import MEASURED, measured_curves
from ddsp_la2a.evaluation.metrics import esr_dc_filtered
from ddsp_la2a.evaluation.svg import Axis, in_short, log_axis

LINEAR = ("identity", "identity-filter", "published-gain", "published-filter")
HOSTILE = [
    "<script>alert(1)</script>",
    "\"onload='alert(2)' x=\"",
    "]]><!--</style></title>",
    "two\nlines\u2028and\u202emore",
    "$\\frac{1}{0}$ {{ 7*7 }} &amp; 😀\x00",
    "_hidden",
    "target",
    "lone \ud800 surrogate",
]
VOID = {"meta", "br", "input", "link", "img"}


def scores_of(errors, source="simulated", protocol="shipped", settings=((0, 50), (0, 70), (1, 50), (1, 70)), **more):
    """Scores as evaluate gives them: a model for every error, a recording for every setting."""
    rows = []
    for model, error in errors.items():
        for number, (switch, knob) in enumerate(settings):
            known = {"model": model, "source": source, "protocol": protocol, "track_id": number, "split": "test"}
            at = {"compress_or_limit": switch, "peak_reduction": knob, "setting_seen": False}
            scored = {"esr_dc_filtered": error * (1 + number), "esr_best_gain": 0.5 * error}
            about = {"parameters": 100, "real_time_factor": 50.0, "train_seconds": 9.0, "converged": True, "seed": 0}
            rows.append({**known, **at, **scored, **about, **more})
    return pd.DataFrame(rows, columns=columns())


def blocks_of(scores):
    return pd.DataFrame(
        [
            {"model": row.model, "source": row.source, "protocol": row.protocol, "recording": str(row.track_id)}
            | {"seed": row.seed, "second": second, "error": row.esr_dc_filtered, "target": 1.0}
            for row in scores.itertuples()
            for second in range(3)
        ]
    )


def measured_of(models, settings=((0, 50), (1, 70)), **numbers):
    """Measurements as measured_curves gives them: the same numbers for every model and setting."""
    usual = {"threshold_1db_dbfs": -20.0, "ratio_measured": 4.0, "knee_width_db": 6.0, "attack_10_90_ms": 5.0}
    usual |= dict.fromkeys(MEASURED[-4:], 250.0) | {"not_measured": ""}
    rows = [{"compress_or_limit": switch, "peak_reduction": knob} for switch, knob in settings]
    return pd.DataFrame([{"model": name, **at, **usual, **numbers} for at in rows for name in models])


def static_curves_of(models, settings=((0, 50), (1, 70))):
    """Static curves as measure_traced gives them: above −20 dBFS with a ratio of 4."""
    level = np.arange(-60.0, 1.0)
    curve = pd.DataFrame({"input_dbfs": level, "output_dbfs": np.minimum(level, -20.0 + (level + 20.0) / 4.0)})
    return _at_settings(curve, models, settings)


def steps_of(models, settings=((0, 50), (1, 70))):
    """Step responses as measure_traced gives them: to 10 dB less gain and back."""
    time = np.geomspace(0.004, 5.0, 30)
    left = 10.0 * np.exp(-time / 0.1)
    gains = {"up": left - 10.0, "back after short": -left, "back after long": -left}
    steps = [pd.DataFrame({"level_step": step, "time_s": time, "tone_gain_db": gain}) for step, gain in gains.items()]
    return _at_settings(pd.concat(steps, ignore_index=True), models, settings)


def _at_settings(curve, models, settings):
    each = itertools.product(models, settings)
    return pd.concat(curve.assign(model=name, compress_or_limit=at[0], peak_reduction=at[1]) for name, at in each)


@pytest.fixture
def intervals(monkeypatch):
    """Differences with an interval of a point of a percent to either side, in place of the bootstrap."""

    def stand_in(blocks, reference):
        means = blocks.groupby(["source", "protocol", "model"])["error"].mean()
        rows = []
        for (source, protocol, model), mean in means.items():
            if (source, protocol, reference) in means.index and model != reference:
                apart = mean - means[source, protocol, reference]
                known = {"source": source, "protocol": protocol, "model": model, "reference": reference}
                ends = {"difference": apart, "low": apart - 0.01, "high": apart + 0.01}
                rows.append(known | ends | {"distinguishable": abs(apart) > 0.01})
        return pd.DataFrame(rows)

    monkeypatch.setattr(report_tables, "paired_intervals", stand_in)


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, the text of each table cell, and what is open where."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_bytes().decode("utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def text_in(self, *tags):
        return [" ".join(text.split()) for where, text in self.texts if set(tags) & set(where) and text.strip()]

    @property
    def words(self):
        hidden = {"script", "style", "title"}
        text = " ".join(" ".join(text for where, text in self.texts if not hidden & set(where)).split())
        return re.sub(r" ([,.:;])", r"\1", text)

    def headings(self):
        found, here = [], None
        for where, text in self.texts:
            level = next((tag for tag in ("h2", "h3") if tag in where), None)
            if level is None:
                here = None
            elif here is None:
                found.append(text)
                here = level
            else:
                found[-1] += text
        return [" ".join(heading.split()) for heading in found]

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture
def write(tmp_path):
    def written(scores, **more):
        path = tmp_path / "report.html"
        la.report(scores, path, **more)
        return Page(path)

    return written


class Gain:
    def __init__(self, gain=0.5):
        self.gain = gain

    def process(self, audio, sample_rate, *, compress_or_limit, peak_reduction):
        return (self.gain * audio).astype(np.float32)


@pytest.fixture(scope="module")
def models():
    return {"grey-box": la.GreyBox(la.ControlNet(seed=3)), "half": Gain(0.5), "loud": Gain(3.0)}


def rows_of(page):
    """Text of the summary's rows, by their first cell."""
    tables = re.findall(r'<table class="summary">.*?</table>', page.source, re.S)
    found = []
    for table in tables:
        body = table.split("<tbody>")[1]
        cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", body, re.S)]
        plain = [[" ".join(html.unescape(re.sub(r"<[^>]*>", " ", cell)).split()) for cell in row] for row in cells]
        found.append({row[0]: row[1:] for row in plain})
    return found


def test_a_page_of_scores_alone(write):
    page = write(scores_of({"grey-box": 0.002, "lstm": 0.004}))
    assert page.open == []
    assert page.source.startswith("<!DOCTYPE html>")
    assert rows_of(page) == [
        {
            "grey-box": ["0.50", "0.80", "0.10", "100", "50", "9 s", "yes"],
            "lstm": ["1.00", "1.60", "0.20", "100", "50", "9 s", "yes"],
        }
    ]
    for left_out in ("curves", "track", "learning", "listening", "run"):
        assert left_out not in page.ids()
        assert f"#{left_out}" not in page.source
    assert {"summary", "knobs", "cost", "method"} <= set(page.ids())


def test_scores_may_be_a_file(tmp_path, write):
    scores = scores_of({"grey-box": 0.002, "identity": 0.4}, converged=None)
    scores.to_csv(tmp_path / "scores.csv", index=False)
    from_file = write(tmp_path / "scores.csv").source
    assert from_file == write(scores).source


def test_no_mean_runs_across_sources_or_protocols(write):
    parts = [
        scores_of({"grey-box": 0.01}, "hardware", "later-in-time"),
        scores_of({"grey-box": 0.03}, "simulated", "shipped"),
        scores_of({"grey-box": 0.05}, "simulated", "in-sample"),
    ]
    page = write(pd.concat(parts))
    assert [rows["grey-box"][0] for rows in rows_of(page)] == ["2.50", "12.5", "7.50"]


def test_every_heading_of_simulated_numbers_says_so(write, models, frame):
    simulated = write(scores_of({"grey-box": 0.01, "half": 0.5}), histories={"half": history()})
    about_numbers = [h for h in simulated.headings() if h != "How it is measured"]
    assert about_numbers
    assert all("simulated" in heading.lower() for heading in about_numbers)
    both = [scores_of({"grey-box": 0.01}, "hardware"), scores_of({"grey-box": 0.01})]
    mixed = write(pd.concat(both)).headings()
    assert mixed[0] == "Summary"
    assert "Simulated – shipped" in mixed
    assert "Real hardware – shipped" in mixed
    heard = write(scores_of({"grey-box": 0.01}, "hardware"), models=models, frame=frame.assign(source="simulated"))
    assert "Listening – simulated" in heard.headings()
    assert "Gain reduction over one passage – simulated" in heard.headings()


def test_a_run_cut_short_says_so_and_is_never_the_best(write):
    scores = pd.concat([scores_of({"grey-box": 0.02}), scores_of({"lstm": 0.001}, converged=False)])
    page = write(scores)
    assert list(rows_of(page)[0]) == ["lstm", "grey-box"]
    assert rows_of(page)[0]["lstm"][-1] == "cut short"
    best = re.findall(r'<tr class="best">\s*<th.*?<bdi>(.*?)</bdi>', page.source, re.S)
    assert best == ["grey-box"]
    assert "Cut short by a budget, so no verdict on: lstm" in page.words
    assert re.findall(r'class="best"', write(scores_of({"a": 0.1, "b": 0.2}, converged=False)).source) == []


def test_several_seeds_of_a_model_are_one_row(write):
    seeds = [scores_of({"lstm": error}, seed=seed) for seed, error in enumerate((0.01, 0.02, 0.03))]
    seeds[2]["converged"] = False
    page = write(pd.concat([scores_of({"grey-box": 0.001}), *seeds]))
    assert rows_of(page)[0]["lstm"][0] == "5.00 3 seeds: 2.50 to 7.50"
    assert rows_of(page)[0]["lstm"][-1] == "cut short"
    assert rows_of(page)[0]["grey-box"][0] == "0.25"
    assert "4 recordings." in page.words


def test_intervals_and_what_is_not_distinguishable(write, intervals):
    scores = scores_of({"lstm": 0.001, "grey-box": 0.002, "identity": 0.1})
    page = write(scores, blocks=blocks_of(scores))
    rows = rows_of(page)[0]
    assert rows["grey-box"][3] == "reference"
    assert rows["lstm"][3] == "−0.25 [−1.25, +0.75] not distinguishable"
    assert rows["identity"][3] == "+24.5 [+23.5, +25.5]"
    assert "Not distinguishable from grey-box: lstm." in page.words
    assert "difference" not in " ".join(write(scores).text_in("th"))


def test_missing_rows_of_the_protocol_are_named(write):
    there = scores_of(dict.fromkeys(["grey-box", "identity", "published-gain"], 0.01), "hardware")
    assert "Missing here: identity-filter, published-filter." in write(there).words
    everything = scores_of(dict.fromkeys(["grey-box", *LINEAR], 0.01), "hardware")
    assert "Missing here" not in write(everything).words
    assert "Missing here" not in write(scores_of({"grey-box": 0.01}, "simulated")).words


def test_another_unit_has_rows_and_knobs_of_its_own(write):
    controls = (la.Control("mode", 1, 3, "switch"), la.Control("drive", 0.0, 10.0), la.Control("tone"))
    scores = scores_of({"grey-box": 0.01, "identity": 0.1}, "hardware").drop(
        columns=["compress_or_limit", "peak_reduction"]
    )
    scores = scores.assign(mode=[1, 2, 3, 3] * 2, drive=[1.0, 2.0, 3.0, 9.0] * 2, tone=0.25)
    page = write(scores, controls=controls)
    assert "Missing here: identity-filter." in page.words
    assert [heading for heading in page.headings() if heading.startswith("Real hardware – shipped: ")] == [
        "Real hardware – shipped: drive",
        "Real hardware – shipped: tone",
    ]
    without_knobs = write(scores, controls=controls[:1])
    assert without_knobs.open == []


@pytest.mark.parametrize("count", [1, 2, 3], ids=["switch", "knob", "knobs"])
def test_a_model_of_another_unit(tmp_path, strip, strip_frame, count):
    """Whatever controls there are, it can be drawn and heard."""
    controls = strip.controls[:count]
    box = la.GreyBox(la.ControlNet(controls=controls))
    frame = strip_frame.iloc[:3].assign(split="test", speed=[1, 2, 3])
    scores = la.evaluate({"grey-box": box}, frame, controls=controls)
    path = tmp_path / "report.html"
    la.report(scores, path, models={"grey-box": box}, frame=frame, controls=controls)
    page = Page(path)
    assert page.open == []
    assert {"curves", "track", "listening"} <= set(page.ids())
    labels = [attributes["aria-label"] for tag, attributes in page.elements if attributes.get("class") == "plot"]
    assert ("Each learned parameter over the knob." in labels) == (count > 1)
    assert "speed 1" in page.words


def test_what_the_shipped_split_of_hardware_proves(write):
    assert "proves little about knobs" in write(scores_of({"grey-box": 0.01}, "hardware")).words
    assert "proves little about knobs" not in write(scores_of({"grey-box": 0.01}, "simulated")).words


def test_error_over_the_knob(write):
    page = write(scores_of({"grey-box": 0.01, "lstm": 0.02}))
    charts = re.findall(r'<svg class="chart" role="img" aria-label="Error over peak_reduction .*?</svg>', page.source)
    assert len(charts) == 2
    assert "<title>lstm: 6 % at 50</title>" in charts[1]
    table = re.findall(r"<details>.*?</details>", page.source, re.S)[0]
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>.*?</tr>", table, re.S)[1:]]
    assert cells == [
        ["compress 50", "1.00", "2.00"],
        ["compress 70", "2.00", "4.00"],
        ["limit 50", "3.00", "6.00"],
        ["limit 70", "4.00", "8.00"],
    ]


def test_scores_that_are_not_defined_are_in_no_mean(write):
    scores = scores_of({"grey-box": 0.01, "odd": np.nan})
    scores.loc[0, "esr_dc_filtered"] = np.nan
    page = write(scores)
    assert rows_of(page)[0]["grey-box"][0] == "3.00"
    assert rows_of(page)[0]["odd"][0] == "–"
    assert "5 scores aren’t defined" in page.words


def measured_in(page):
    """The table of measurements: by setting, a list of rows of texts."""
    table = re.search(r'<section id="measured">.*?<table.*?>(.*?)</table>', page.source, re.S)[1]
    found = {}
    for body in re.findall(r"<tbody>(.*?)</tbody>", table, re.S):
        rows = [re.findall(r"<t[hd].*?</t[hd]>", row, re.S) for row in re.findall(r"<tr>.*?</tr>", body, re.S)]
        plain = [[html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in rows]
        found[plain[0][0]] = plain[1:]
    return found


class Known:
    """A compressor without stages at parameters that the knob has no say in."""

    def __init__(self, **parameters):
        self.params = la.CompressorParams(**parameters)

    def process(self, audio, sample_rate, **_):
        return la.compressor(torch.from_numpy(audio)[None], self.params, sample_rate)[0].numpy()


def test_what_is_measured_on_a_tone_against_closed_forms(write, one_thread):
    """On a square tone, whose absolute sample stands still, threshold, ratio and times follow from the parameters."""
    known = {"threshold_db": -30.0, "ratio": 4.0, "knee_db": 0.0, "attack_ms": 5.0, "release_ms": 250.0}
    models = {"known": Known(**known), "half": Gain(0.5)}
    at = {"compress_or_limit": 1, "peak_reduction": 70}
    page = write(
        scores_of(dict.fromkeys(models, 0.01)), measured=measured_curves(models, 8000, waveform="square", **at)
    )
    ((setting, (first, second)),) = measured_in(page).items()
    assert setting == "limit, peak reduction 70"
    threshold = f"{-30.0 + 1.0 / 0.75:.1f}".replace("-", "−")
    assert first[:5] == ["known", threshold, "4.0", "< 1", "5.0"]
    releases = [250.0 * math.log(times) / math.log(9.0) for times in (2.0, 10.0, 2.0, 10.0)]
    assert [float(cell) for cell in first[5:]] == pytest.approx(releases, rel=0.005)
    assert second == ["half", "–1", "–2", "–2", *["–3"] * 5]
    reasons = (
        "1 no gain reduction of 1 dB up to 0 dBFS; 2 no threshold; 3 the loud passage reduces the gain by less than"
    )
    assert f"Why there is no number: {reasons} 1 dB." in page.words
    assert "compare tones with tones" in page.words
    assert "Measured on a tone – simulated" in page.headings()
    assert "#measured" in page.source


def test_numbers_that_are_infinite_or_too_small_to_tell(write):
    least = {"knee_width_db": 0.2, "attack_10_90_ms": 0.0, "release_50_short_ms": 3.0, "release_90_long_ms": 12345.6}
    odd = {"ratio_measured": np.inf, "threshold_1db_dbfs": -np.inf, "release_50_long_ms": np.nan}
    page = write(scores_of({"a": 0.1}), measured=measured_of("a", settings=[(0, 50)], **least, **odd))
    cells = ["–", "∞", "< 1", "< 0.25", "< 4", "250", "–", "12,346"]
    assert measured_in(page) == {"compress, peak reduction 50": [["a", *cells]]}
    assert "Why there is no number" not in page.words


def test_the_unit_itself_comes_before_its_models(write):
    measured = measured_of(["other", "grey-box", "my unit"])
    page = write(scores_of({"grey-box": 0.01, "other": 0.02}, converged=False), measured=measured.iloc[::-1])
    assert list(measured_in(page)) == ["compress, peak reduction 50", "limit, peak reduction 70"]
    for rows in measured_in(page).values():
        assert [row[0] for row in rows] == ["my unit", "grey-box", "other"]
    assert "Cut short by a budget: grey-box, other." in page.words


def test_measurements_may_come_from_a_file(tmp_path, write):
    reason = "ratio_measured, knee_width_db: falls at -2 dBFS; attack_10_90_ms: slow"
    measured = measured_of(
        "a", ratio_measured=np.nan, knee_width_db=np.nan, attack_10_90_ms=np.nan, not_measured=reason
    )
    measured.loc[0, "not_measured"] = ""
    measured.to_csv(tmp_path / "measured.csv", index=False)
    page = write(scores_of({"a": 0.1}), measured=measured)
    assert page.source == write(scores_of({"a": 0.1}), measured=pd.read_csv(tmp_path / "measured.csv")).source
    assert [rows[0][2:5] for rows in measured_in(page).values()] == [["–", "–", "–"], ["–1", "–1", "–2"]]
    assert "Why there is no number: 1 falls at −2 dBFS; 2 slow." in page.words


def test_without_measurements_there_is_no_such_section(write):
    for measured in (None, measured_of([], settings=[]).reindex(columns=measured_of("a").columns)):
        page = write(scores_of({"a": 0.1}), measured=measured)
        assert "measured" not in page.ids()
        assert "#measured" not in page.source


def charts_in(page, section):
    """Every chart of a section: its label, the lines, and what the marks say."""
    part = re.search(rf'<section id="{section}">.*?</section>', page.source, re.S)[0]
    found = []
    for label, drawing in re.findall(
        r'<svg class="chart" role="img" aria-label="([^"]*)"[^>]*>(.*?)</svg>', part, re.S
    ):
        lines = re.findall(r'<path class="(line|unit)" stroke="([^"]*)"[^>]* d="([^"]*)"', drawing)
        found.append((html.unescape(label), lines, re.findall(r"<title>([^<]*)</title>", drawing)))
    return found


def test_static_curves_and_step_responses_of_all_models(write, models):
    names = ["half", "grey-box", "my unit"]
    how = {"static_curves": static_curves_of(names), "steps": steps_of(names), "models": models}
    page = write(scores_of({"grey-box": 0.01, "half": 0.2}), measured=measured_of(names), **how)
    charts = charts_in(page, "measured")
    words = ("compress, peak reduction 50", "limit, peak reduction 70")
    after = ("up to −6 dBFS", "back after 0.05 s", "back after 5 s")
    assert [label for label, *_ in charts] == [
        *(f"Output level over input level, {each}, of my unit, grey-box, half" for each in words),
        *(f"Gain over time, {step}, {each}, of my unit, grey-box, half" for each in words for step in after),
    ]
    for _, lines, marks in charts:
        # The unit is a broad line at the back, and the reference lies in front.
        assert [line[:2] for line in lines] == [
            ("unit", "var(--ink)"), ("line", "var(--c1)"), ("line", "var(--c0)")
        ]  # fmt: skip
        assert {mark.split(":")[0] for mark in marks} == {"half", "grey-box"}
    for mark in charts[0][2]:
        left, right = map(float, re.search(r": (\S+) dB at (\S+)$", mark).groups())
        assert left == pytest.approx(min(right, -20.0 + (right + 20.0) / 4.0), abs=0.051)
    # Settings of many knobs take several lines, which a picture's own text couldn't.
    assert re.findall(r"<h4>(.*?)</h4>", page.source) == [*words, *words]
    legend = re.search(r'<h3 id="static">.*?<ul class="legend">(.*?)</ul>', page.source, re.S)[1]
    assert re.findall(r"<bdi>([^<]*)</bdi>", legend) == ["my unit", "grey-box", "half"]
    assert {"Static curves – simulated", "Step response – simulated"} <= set(page.headings())
    # The grey box's own step response would be a second picture of the same.
    plots = [a["aria-label"] for tag, a in page.elements if tag == "svg" and a["class"] == "plot"]
    assert [label.split()[0] for label in plots] == ["Each", "Output"]


def test_it_is_said_how_models_were_timed(write):
    words = write(scores_of({"a": 0.1})).words
    assert "plays them block by block, any other in one piece, which is slower" in words


def test_a_grey_box_that_was_not_measured_shows_its_own_step_response(write, models):
    page = write(scores_of({"grey-box": 0.01, "half": 0.2}), models=models, steps=steps_of(["half", "my unit"]))
    plots = [a["aria-label"] for tag, a in page.elements if tag == "svg" and a["class"] == "plot"]
    assert "Gain over time for a step of level." in plots


def test_curves_may_come_from_files_and_alone(tmp_path, write):
    scores = scores_of({"a": 0.1, "b": 0.2})
    tables = {"static_curves": static_curves_of("ab"), "steps": steps_of("ab")}
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        page = write(scores, **{name: table})
        assert page.source == write(scores, **{name: pd.read_csv(tmp_path / f"{name}.csv")}).source
        assert page.source == write(scores, **{name: table.iloc[::-1]}).source
        assert "#measured" in page.source
        page = write(scores, **{name: table[:0]})
        assert "measured" not in page.ids()


def test_an_output_that_is_always_louder_than_any_input(write):
    static = static_curves_of("a").assign(output_dbfs=20.0)
    page = write(scores_of({"a": 0.1}), static_curves=static)
    assert "leader" not in re.search(r'<section id="measured">.*?</section>', page.source, re.S)[0]
    assert "leader" in write(scores_of({"a": 0.1}), static_curves=static_curves_of("a")).source


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -160.0, 1e300])
def test_curves_with_gaps(write, odd):
    """A value that tells nothing leaves a gap and doesn't stretch the axes."""
    static, steps = static_curves_of("ab"), steps_of("ab")
    whole = charts_in(write(scores_of({"a": 0.1, "b": 0.2}), static_curves=static, steps=steps), "measured")
    static["output_dbfs"] = static["output_dbfs"].where((static["input_dbfs"] != -30.0) | (static["model"] != "b"), odd)
    steps["tone_gain_db"] = steps["tone_gain_db"].where((steps["time_s"] != 5.0) | (steps["model"] != "b"), odd)
    page = write(scores_of({"a": 0.1, "b": 0.2}), static_curves=static, steps=steps)
    found = charts_in(page, "measured")
    assert [lines[1] for _, lines, _ in found] == [lines[1] for _, lines, _ in whole]
    assert [lines[0][2].count("M") for _, lines, _ in found] == [2, 2, *[1] * 6]
    assert not re.search(r'd="[^"]*(nan|inf|e\+)', page.source)
    static["output_dbfs"] = steps["tone_gain_db"] = odd
    page = write(scores_of({"a": 0.1, "b": 0.2}), static_curves=static, steps=steps)
    assert not re.search(r'd="[^"]*(nan|inf|e\+)', page.source)


def history(**more):
    steps = np.arange(1, 6)
    table = {"step": steps, "seconds": 2.0 * steps, "loss": 1 / steps, "validation_esr": 0.5 / steps}
    return pd.DataFrame({**table, **more})


def test_learning_curves(write):
    fit = pd.DataFrame({"stage": ["a", "a", "b"], "seconds": [1.0, 2.0, 3.0], "error": [0.1, 0.05, 0.02]})
    scores = scores_of({"grey-box": 0.01, "lstm": 0.02})
    page = write(scores, histories={"grey-box": fit, "lstm": pd.concat([history(seed=0), history(seed=1)])})
    drawn = re.search(r'<svg class="chart" role="img" aria-label="Error over training time.*?</svg>', page.source)[0]
    assert drawn.count('class="line"') == 2 + 2
    with pytest.raises(ValueError, match="histories, lstm: expected a column seconds or step, got loss"):
        write(scores, histories={"lstm": history()[["loss"]]})


def test_what_was_run_is_said_if_it_is_given(write):
    scores = scores_of({"grey-box": 0.01})
    about = {"versions": {"torch": "2.14"}, "seeds": [0, 1], "sure": True, "factor": 0.25, "note": "<b>&"}
    page = write(scores, about=about)
    assert "What was run versions torch 2.14 seeds 0 1 sure yes factor 0.25 note <b>&" in page.words
    assert "run" not in write(scores, about={}).ids()


def policy_of(page):
    return next(
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )


def test_the_policy_forbids_everything_but_the_script_and_style_of_the_page(write, models, frame):
    page = write(scores_of({"grey-box": 0.01, "half": 0.2}), models=models, frame=frame)
    policy = dict(part.strip().split(" ", 1) for part in policy_of(page).split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in policy_of(page)
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page.source, re.S)
        assert len(texts) == 1
        digest = base64.b64encode(hashlib.sha256(texts[0].encode()).digest()).decode()
        assert policy[name] == f"'sha256-{digest}'"
    for tag, attributes in page.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action", "data", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert "http:" not in page.source.replace("http://www.w3.org", "")
    assert "https:" not in page.source


def test_ids_are_unique_and_links_within_figures_lead_somewhere(write, models, frame):
    both = {**models, "other": la.GreyBox(la.ControlNet(seed=4))}
    page = write(scores_of({"grey-box": 0.01, "half": 0.2}), models=both, frame=frame)
    ids = page.ids()
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for _, attributes in page.elements if "href" in attributes}
    targets |= set(re.findall(r"url\(#([^)]*)\)", page.source))
    assert any(target.startswith("box1-") for target in targets)
    assert targets <= set(ids)


def test_hostile_names_are_inert(write, frame, intervals):
    scores = scores_of({"grey-box": 0.01, **dict.fromkeys(HOSTILE, 0.02)}, protocol=HOSTILE[0])
    models = {"grey-box": la.GreyBox(la.ControlNet(seed=3)), **{name: Gain() for name in HOSTILE}}
    histories = dict.fromkeys(HOSTILE, history())
    about = {name: name for name in HOSTILE}
    how = {"models": models, "frame": frame, "histories": histories, "about": about, "blocks": blocks_of(scores)}
    odd = measured_of([*HOSTILE, "</td><script>"], ratio_measured=np.nan, not_measured=f"ratio_measured: {HOSTILE[0]}")
    strangers = [*HOSTILE, "</svg><script>"]
    page = write(scores, **how, measured=odd, static_curves=static_curves_of(strangers), steps=steps_of(strangers))
    assert measured_in(page)["limit, peak reduction 70"][0][0] == "</td><script>"
    assert "1 <script>alert(1)</script>." in page.words
    assert page.open == []
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    executable = [attributes for attributes in scripts if not attributes.get("type")]
    assert len(executable) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script>alert" not in page.source
    assert page.source.count("</style>") == 1
    assert "$\\frac{1}{0}$ {{ 7*7 }} &amp; 😀" in page.words  # neither markup nor a template nor mathematics
    shown = [attributes["data-name"] for tag, attributes in page.elements if "data-name" in attributes]
    assert HOSTILE[1] in shown
    assert shown.count("target") == 2 * 2  # the recording and the model that is called so, in two passages


def test_the_same_input_gives_the_same_bytes(tmp_path, models, frame):
    scores = scores_of({"grey-box": 0.01, "half": 0.2, "loud": 0.3})
    for name in ("a", "b"):
        how = {"histories": {"half": history()}, "about": {"x": 1}, "measured": measured_of(models)}
        how |= {"static_curves": static_curves_of(models), "steps": steps_of(models)}
        la.report(scores, tmp_path / name, models=models, frame=frame, **how)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_same_scores_give_the_same_bytes_in_another_process(tmp_path):
    scores = pd.concat([scores_of(dict.fromkeys("abcdefgh", 0.1), source) for source in ("hardware", "simulated")])
    scores.to_csv(tmp_path / "scores.csv", index=False)
    la.report(tmp_path / "scores.csv", tmp_path / "here.html")
    code = "import sys, ddsp_la2a as la; la.report(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(tmp_path / "scores.csv"), str(tmp_path / "there.html")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, timeout=120)
    assert (tmp_path / "here.html").read_bytes() == (tmp_path / "there.html").read_bytes()


def player_data(page):
    return json.loads(re.search(r'id="report-data">(.*?)</script>', page.source, re.S)[1])


def sounds_of(page):
    """Decoded audio by passage and signal."""
    found = re.findall(r'id="audio-(\d+)-(\d+)">(.*?)</script>', page.source, re.S)
    return {(int(p), int(s)): soundfile.read(io.BytesIO(base64.b64decode(text))) for p, s, text in found}


def test_what_is_heard_is_what_is_scored(write, frame, models):
    page = write(scores_of({"grey-box": 0.01, "half": 0.2, "loud": 0.3}), models=models, frame=frame)
    sounds, data = sounds_of(page), player_data(page)
    rows = frame[frame["split"] == "test"].sort_values(["compress_or_limit", "peak_reduction"]).to_dict("records")
    assert len(data) == len(rows) == 2
    names = ["input", "target", "grey-box", "half", "loud"]
    assert [a["data-name"] for _, a in page.elements if "data-name" in a] == names * 2
    for number, row in enumerate(rows):
        raw, rate = soundfile.read(row["raw_audio_path"])
        target, _ = soundfile.read(row["processed_audio_path"])
        assert (data[number]["rate"], data[number]["seconds"]) == (rate, 2.0)
        for signal, expected in ((0, raw), (1, target), (3, 0.5 * raw), (4, 3.0 * raw)):
            audio, its_rate = sounds[number, signal]
            scale = data[number]["signals"][signal]["scale"]
            assert its_rate == rate
            assert np.allclose(scale * audio, expected[rate:], atol=scale / 32768)  # from 1 s on, at its own level
        for signal, matched in enumerate(data[number]["signals"]):
            audio = matched["scale"] * sounds[number, signal][0]
            loudness = matched["matched"] * np.sqrt(np.mean(audio**2))
            assert loudness == pytest.approx(np.sqrt(np.mean(target[rate:] ** 2)), rel=1e-3)
            for gain in (1.0, matched["matched"]):
                assert np.abs(audio * gain).max() * data[number]["volume"] < 1.0
    half = rows[0]["raw_audio_path"], rows[0]["processed_audio_path"]
    raw, target = (soundfile.read(path)[0][8000:] for path in half)
    assert f"<bdi>half</bdi> <small>{100 * esr_dc_filtered(0.5 * raw, target):.1f}&nbsp;%" in page.source


def test_a_passage_within_a_recording_has_what_came_before(write, frame, tmp_path):
    class Memory(Gain):
        """Its output at a sample is the mean of all until then."""

        def process(self, audio, sample_rate, **_):
            return (np.cumsum(audio) / np.arange(1, len(audio) + 1)).astype(np.float32)

    rows = frame.assign(start_frame=12000, stop_frame=20000)
    page = write(scores_of({"memory": 0.01}), models={"memory": Memory()}, frame=rows[rows["split"] == "test"])
    first = rows[rows["split"] == "test"].sort_values("compress_or_limit").iloc[0]
    raw, _ = soundfile.read(first["raw_audio_path"], dtype="float32")
    expected = Memory().process(raw, 8000)[12000:20000]
    signal = player_data(page)[0]["signals"][2]
    assert np.allclose(signal["scale"] * sounds_of(page)[0, 2][0], expected, atol=1 / 32768)


def test_waveforms_and_their_factor(models, frame):
    rows = frame[frame["split"] == "test"].reset_index(drop=True)
    passage = report_audio.passages(models, rows, la.ControlNet().controls)[0]
    ready = report_audio.ready_to_hear(passage)
    target, first = passage.signals[1], ready.sounds[2].matched * passage.signals[2]
    assert ready.factor * np.abs(target - first).max() <= np.abs(target).max() or ready.factor == 1
    ends = np.frombuffer(base64.b64decode(ready.sounds[1].wave), dtype=np.int8).reshape(-1, 2)
    assert len(ends) == report_audio.COLUMNS
    assert np.abs(ends).max() == 127
    assert set(base64.b64decode(ready.sounds[1].residual)) == {0}
    drawn = report_audio.outline_path(ready.sounds[1].wave)
    assert drawn.count("L") == 2 * report_audio.COLUMNS - 1


def test_audio_is_shortened_until_it_fits():
    rng = np.random.default_rng(0)
    signals = [0.1 * rng.standard_normal(44100 * 10) for _ in range(4)]
    passage = report_audio.Passage("x", 1, "simulated", 1.0, 44100, ["input", "target", "a", "b"], signals)
    ready = report_audio.fitting_in([passage] * 3, 4_000_000)
    assert 2 <= len(ready) <= 3
    assert sum(len(sound.audio) for each in ready for sound in each.sounds) <= 4_000_000
    assert {each.passage.seconds for each in ready} == {ready[0].passage.seconds}
    assert 3.0 <= ready[0].passage.seconds < 10.0
    assert report_audio.fitting_in([passage], 1000) == []


def test_a_page_that_would_grow_too_large_is_shortened(write, models, frame, monkeypatch):
    scores = scores_of({"grey-box": 0.01, "half": 0.2})
    whole = write(scores, models=models, frame=frame)
    monkeypatch.setattr("ddsp_la2a.evaluation.report.MOST_BYTES", len(whole.source.encode()) - 1)
    monkeypatch.setattr("ddsp_la2a.evaluation.report_audio.SHORTEST_S", 0.5)
    smaller = write(scores, models=models, frame=frame)
    assert len(smaller.source) < len(whole.source)


def test_curves_of_what_can_be_read(write, models):
    page = write(scores_of({"grey-box": 0.01, "half": 0.2}), models={**models, "table": la.load("published")})
    plots = [a["aria-label"] for tag, a in page.elements if tag == "svg" and a["class"] == "plot"]
    assert [label.split()[0] for label in plots] == ["Each", "Output", "Gain"] * 2
    assert "grey-box" in page.headings()
    assert "table" in " ".join(page.headings())
    assert "listening" not in page.ids()
    assert "This model doesn’t say how sure it is." in page.words


def test_a_model_is_linked_to_the_page_with_its_knob(write, models):
    pages = {"grey-box": "pages/my box & <co>.html", "half": "half.html"}
    page = write(scores_of({"grey-box": 0.01, "half": 0.2}), models=models, pages=pages)
    links = [a["href"] for tag, a in page.elements if tag == "a" and not a["href"].startswith("#")]
    assert links == ["pages/my%20box%20%26%20%3Cco%3E.html"]  # what has no curves has no place for a link
    assert "Turn its knob and listen" in page.words
    page = write(scores_of({"grey-box": 0.01, "half": 0.2}), models=models)
    assert "Turn its knob" not in page.words


@pytest.mark.parametrize("path", ["https://example.org/x.html", "//example.org/x", "/etc/x", "javascript:alert(1)", ""])
def test_links_lead_nowhere_but_beside_the_report(tmp_path, models, path):
    with pytest.raises(ValueError, match=r"^pages, grey-box: expected a path relative to the report, got "):
        la.report(scores_of({"a": 0.1}), tmp_path / "x.html", models=models, pages={"grey-box": path})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scores", "more", "message"),
    [
        (
            "nowhere.csv",
            {},
            "the path of a scores.csv, but there is no file at nowhere",
        ),
        (3, {}, "scores: expected a DataFrame or the path of a scores.csv, got int"),
        (scores_of({}), {}, "scores: expected rows whose split is 'test', got no rows at all"),
        (
            scores_of({"a": 0.1}),
            {"split": "val"},
            "expected rows whose split is 'val', got test; say which split=",
        ),
        (
            scores_of({"a": 0.1}).drop(columns=["esr_best_gain", "peak_reduction"]),
            {},
            "scores: expected also the columns peak_reduction, esr_best_gain, got model, source",
        ),
        (scores_of({"a": 0.1}, "moon"), {}, "scores: expected source to be one of hardware, .* got moon"),
        (
            scores_of({"a": 0.1}).assign(model=1.0),
            {},
            "expected names in the columns model and protocol, got 1.0",
        ),
        (scores_of({"a": 0.1}).assign(seed="x"), {}, "scores, column seed: expected numbers, got 'x'"),
        (scores_of({"a": 0.1}), {"models": {"a": 3}}, "models, a: expected something with process, got int"),
        (scores_of({"a": 0.1}), {"models": {3: Gain()}}, "models: expected names, got 3"),
        (scores_of({"a": 0.1}), {"controls": []}, "controls: expected at least one"),
        (
            scores_of({"a": 0.1}),
            {"blocks": pd.DataFrame({"model": []})},
            "blocks: expected also the columns source",
        ),
        (scores_of({"a": 0.1}), {"measured": "measured.csv"}, "measured: expected a DataFrame, got str"),
        (
            scores_of({"a": 0.1}),
            {"measured": measured_of("a").drop(columns=["peak_reduction", "ratio_measured"])},
            "measured: expected also the columns peak_reduction, ratio_measured, got model, ",
        ),
        (scores_of({"a": 0.1}), {"measured": measured_of([3])}, "measured: expected names in the column model, got 3"),
        (
            scores_of({"a": 0.1}),
            {"measured": measured_of("a", knee_width_db="wide")},
            "measured, column knee_width_db: expected numbers, got 'wide'",
        ),
        (
            scores_of({"a": 0.1}),
            {"measured": measured_of("a", settings=[(5, 50)])},
            "measured, column compress_or_limit: expected 0 or 1, got 5",
        ),
        (
            scores_of({"a": 0.1}),
            {"measured": measured_of("a", settings=[(0, np.nan)])},
            "measured, column peak_reduction: expected 0 to 100, got nan",
        ),
        (
            scores_of({"a": 0.1}),
            {"static_curves": static_curves_of("a").drop(columns="output_dbfs")},
            "static_curves: expected also the columns output_dbfs, got input_dbfs, model, .* what measure_traced",
        ),
        (
            scores_of({"a": 0.1}),
            {"steps": steps_of("a").assign(level_step="down")},
            "steps, column level_step: expected up, back after short, back after long, got down",
        ),
    ],
    ids=[
        "path",
        "type",
        "empty",
        "split",
        "columns",
        "source",
        "model",
        "number",
        "process",
        "name",
        "control",
        "blocks",
        "measured type",
        "measured columns",
        "measured name",
        "measured number",
        "measured switch",
        "measured knob",
        "static curves columns",
        "steps' names",
    ],
)
def test_bad_input_is_one_clear_error_and_no_file(tmp_path, scores, more, message):
    with pytest.raises(ValueError, match=message):
        la.report(scores, tmp_path / "report.html", **more)
    assert list(tmp_path.iterdir()) == []


class Broken:
    def __init__(self, change):
        self.change = change

    def process(self, audio, sample_rate, **_):
        return self.change(audio)


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda audio: audio[1:], "got shape"), (lambda audio: audio * np.nan, "with NaN or infinity")],
    ids=["length", "not finite"],
)
def test_a_model_that_gives_something_else_than_audio(tmp_path, frame, change, message):
    with pytest.raises(ValueError, match=f"odd: expected finite output of shape .*{message}"):
        la.report(scores_of({"odd": 0.1}), tmp_path / "x.html", models={"odd": Broken(change)}, frame=frame)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_without_rows_of_the_split(tmp_path, frame):
    rows = frame[frame["split"] == "train"]
    with pytest.raises(ValueError, match="frame: expected rows whose split is 'test', got train"):
        la.report(scores_of({"a": 0.1}), tmp_path / "x.html", models={"a": Gain()}, frame=rows)


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(0.0, 100.0, ""), ["0", "20", "40", "60", "80", "100"]),
        (Axis(-10.5, 1.0, ""), ["−10", "−7.5", "−5", "−2.5", "0"]),
        (log_axis([0.3, 700.0], ""), ["1", "10", "100", "1000"]),
        (log_axis([2.0, 6.0], ""), ["2", "3", "5", "7"]),
        (log_axis([0.0, 5.0, 50000.0], "", zero=True), ["0", "10", "100", "1000", "10k"]),
    ],
    ids=["linear", "negative", "decades", "within a decade", "zero"],
)
def test_ticks(axis, labels):
    assert [label for _, label in axis.ticks()] == labels
    assert all(-1e-9 <= axis.share(value) <= 1.0 + 1e-9 for value, _ in axis.ticks())


def test_models_look_different_from_one_another():
    looks = charts.marks([*"abcdefghijklmnop", *LINEAR])
    assert len(set(looks.values())) == len(looks)
    assert [name for name, look in looks.items() if look.colour == "c0"] == ["a"]


def test_accuracy_against_cost(write):
    free = scores_of({"identity": 0.5}, parameters=0, train_seconds=np.nan, converged=None)
    page = write(pd.concat([scores_of({"grey-box": 0.01}), scores_of({"lstm": 0.03}, converged=False), free]))
    drawn = re.findall(r'<svg class="chart" role="img" aria-label="Mean error against.*?</svg>', page.source)
    names = [re.findall(r'class="name"[^>]*>([^<]*)<', each) for each in drawn]
    assert [sorted(each) for each in names] == [["grey-box", "identity", "lstm"]] * 2 + [["grey-box", "lstm"]]
    assert drawn[0].count('fill="var(--paper)"') == 1
    assert "<title>lstm: 7.5 %, numbers fitted 100</title>" in drawn[0]
    assert ">0</text>" in drawn[0]


def test_names_in_a_crowd_do_not_cover_one_another():
    errors = {f"model number {number}": 0.01 * 1.07**number for number in range(12)}
    group = report_tables.groups(scores_of(errors), "model number 0", None, la.ControlNet().controls)[0]
    picture, absent = charts.costs(group, charts.marks(list(errors)))[0]
    placed = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="name" text-anchor="(\w+)">', picture)
    assert absent == []
    assert len(placed) >= 8
    at = {"start": 0.0, "middle": 0.5, "end": 1.0}
    lefts = [(float(x) - at[anchor] * 6.6 * 14, float(y)) for x, y, anchor in placed]
    for (x, y), (other_x, other_y) in itertools.combinations(lefts, 2):
        assert abs(y - other_y) > 11.0 or abs(x - other_x) > 6.6 * 14


def test_short_numbers():
    assert [in_short(value) for value in (0.05, 7.0, 5000.0, 20000.0, 2e6)] == ["0.05", "7", "5000", "20k", "2M"]
