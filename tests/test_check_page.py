"""The page of a check: it says what was found, names in it are inert, and it asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from headless import chromium, opened

import ddsp_la2a as la
from ddsp_la2a.data.states import states
from ddsp_la2a.evaluation.check_page import check_page

HOSTILE = ["<script>alert(1)</script>", "\"onload='alert(2)' x=\"", "--></style></title>{{ 7*7 }}", "lone \udcff byte"]


class Page(HTMLParser):
    """Elements with their attributes, and the words between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self._silent = False
        self.feed(self.source)
        self.words = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._silent = tag == "style"

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self._texts.append(data)

    def section(self, name: str) -> str:
        """Words of a section."""
        found = re.search(rf'<section id="{name}">(.*?)</section>', self.source, re.S)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", found[1])).split()) if found else ""


@pytest.fixture(scope="module")
def tree(tmp_path_factory, record):
    """Five pairs: healthy ones, one late, one upside down, one cut short; and a file without a partner."""
    root = tmp_path_factory.mktemp("page") / "my tree"
    for number, (split, setting) in enumerate(
        [("Train", (0, 40)), ("Train", (1, 40)), ("Train", (0, 50)), ("Val", (1, 50)), ("Test", (0, 60))]
    ):
        record(root, split, number, setting, 3.0, truth=(0, 50))
    for split, name, change in (
        ("Train", "target_1_LA2A_3c__1__40", lambda y: np.roll(y, 300)),
        ("Train", "target_2_LA2A_3c__0__50", lambda y: -y),
        ("Val", "target_3_LA2A_3c__1__50", lambda y: y[:-80]),
    ):
        audio, rate = soundfile.read(root / split / f"{name}.wav", dtype="float32")
        soundfile.write(root / split / f"{name}.wav", change(audio), rate, "FLOAT")
    shutil.copy(root / "Train" / "input_0_.wav", root / "Train" / "input_99_.wav")
    return root


@pytest.fixture(scope="module")
def frame(tree):
    return la.index(tree)


@pytest.fixture(scope="module")
def findings(frame):
    return la.check(frame)


@pytest.fixture(scope="module")
def written(frame, findings, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "check.html"
    check_page(findings, frame, path)
    return path


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_states_of_pairs(frame, findings):
    table = states(frame, findings).set_index("track_id").sort_index()
    assert list(table.columns) == [
        *("split", "take", "compress_or_limit", "peak_reduction", "state", "left_out", "lag_samples", "findings")
    ]
    assert table["state"].tolist() == ["good", "error", "error", "warning", "good"]
    assert table["left_out"].tolist() == [False, True, True, False, False]
    assert table["findings"].tolist() == ["", "lag_differs", "polarity_inverted", "length_differs", ""]
    assert table["lag_samples"].to_numpy() == pytest.approx([0, 300, 0, 0, 0], abs=0.2)
    kept = la.apply_findings(frame, findings)
    assert set(kept["track_id"]) == set(table.index[~table["left_out"]])


def test_states_of_stretches_and_of_files_that_are_shared(frame, findings):
    late = frame[frame["track_id"] == 1]
    stretches = pd.concat([late.assign(start_frame=at, stop_frame=at + 8000) for at in (0, 12000)])
    table = states(la.read_frame(stretches), la.check(stretches))
    assert table["lag_samples"].to_numpy() == pytest.approx([300, 300], abs=0.5)
    healthy = la.check(frame.iloc[:1])
    assert states(frame, healthy)["lag_samples"].isna().sum() == 4
    assert set(states(frame, healthy)["state"]) == {"good"}


def test_it_says_what_a_fit_leaves_out(page):
    assert "3 of 5 pairs can be fitted A fit leaves out 2, for an error in their files." in page.words
    assert "1 more has a warning" in page.words
    assert "1 further file in the folder belongs to no pair." in page.words
    assert "1 3c train limit, peak reduction 40 lag_differs" in page.section("left-out")
    assert "2 3c train compress, peak reduction 50 polarity_inverted" in page.section("left-out")
    assert "2 pairs without a fault 1 pairs with a warning 2 pairs with an error" in page.words


def test_pairs_stand_by_knob_and_switch(page):
    words = page.section("pairs")
    assert words.startswith("Pairs by setting peak reduction compress limit 40 ✓ 0 3c train")
    assert re.search(r"50 ✕ 2 3c train [+−]0\.\d\d ! 3 3c val [+−]0\.\d\d 60 ✓ 4 3c test [+−]0\.\d\d – ", words)
    assert re.search(r"✕ 1 3c train \+(299|300)\.", words)


def test_delays_are_drawn_but_for_those_far_off(page):
    assert len(re.findall(r'class="mark" transform="translate\((?!15 6)', page.source)) == 4
    assert re.search(r"Farther off than the picture reaches: 1 \(\+(299|300)\.\d\d\)", page.section("delays"))


def test_every_finding_is_there_with_its_advice(page, findings):
    words = page.section("findings") + page.section("orphans")
    for row in findings[findings["finding"] != "lag"].itertuples():
        assert f"{row.finding} : {row.value} What to do: {row.advice}." in words
    assert words.index("polarity_inverted :") < words.index("length_differs :")  # errors first
    assert "Train/input_99_.wav" in page.section("orphans")


def test_totals(page):
    words = page.section("data")
    for part in ("pairs 5 (test 1, train 3, val 1)", "audio 0.2 min", "files 10, 1.0 MB", "sample rate 8,000 Hz"):
        assert part in words
    assert "source real hardware device LA-2A" in words


def test_it_tells_nothing_of_the_machine(page, tree):
    assert "check · my tree" in page.words
    assert str(tree.parent) not in page.source


def test_of_healthy_pairs_there_is_little_to_say(frame, tmp_path):
    healthy = frame[frame["track_id"].isin([0, 4])].copy()
    healthy.attrs = {}
    check_page(la.check(healthy), healthy, tmp_path / "a.html")
    found = Page(tmp_path / "a.html")
    assert "2 of 2 pairs can be fitted No pair has an error." in found.words
    assert "Nothing but the delay of each pair." in found.words
    assert not found.section("left-out")
    assert not found.section("orphans")


def test_nothing_measured_is_nothing_drawn(tmp_path):
    (tmp_path / "Train").mkdir()
    for name in ("input_1_.wav", "target_1_LA2A_2c__0__50.wav"):
        (tmp_path / "Train" / name).write_bytes(b"RIFF")
    check_page(la.check(tmp_path), tmp_path, tmp_path / "a.html")
    found = Page(tmp_path / "a.html")
    assert "0 of 1 pairs can be fitted" in found.words
    assert "unreadable" in found.section("findings")
    assert not found.section("delays")
    assert "sample rate –" in found.section("data")


def test_another_unit(strip, strip_frame, tmp_path):
    frame = la.read_frame(strip_frame.iloc[:8], strip.controls)
    check_page(la.check(frame, controls=strip.controls), frame, tmp_path / "a.html", controls=strip.controls)
    words = Page(tmp_path / "a.html").section("pairs")
    assert words.startswith("Pairs by setting knobs speed 1 drive 1, ratio 0.1 ✓ 0 train ")


def test_a_unit_without_knobs_or_switches(strip_frame, tmp_path):
    for control in (la.Control("speed", 1.0, 3.0, "switch"), la.Control("drive", 0.0, 10.0)):
        frame = la.read_frame(strip_frame.iloc[:3], [control])
        check_page(la.check(frame, controls=[control]), frame, tmp_path / "a.html", controls=[control])
        found = Page(tmp_path / "a.html")
        assert "3 of 3 pairs can be fitted" in found.words
        assert found.section("pairs").count("✓") == 3 + 1


def test_hostile_names_are_inert(tmp_path, frame):
    folder = tmp_path / "<b>&amp;"
    folder.mkdir()
    healthy = frame[frame["track_id"] == 0]
    rows = []
    for number, name in enumerate(HOSTILE):
        path = folder / f"{name.replace('/', '∕')}.wav"
        shutil.copy(healthy["processed_audio_path"].item(), path)
        row = {"processed_audio_path": str(path), "track_id": number, "take": name, "device": name, "split": name}
        rows.append(healthy.assign(**row))
    hostile = pd.concat(rows, ignore_index=True).assign(split="<i>x</i>")
    found = la.check(hostile).assign(value=HOSTILE[0], severity="error", finding=HOSTILE[1])
    check_page(found, hostile, tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "p", "bdi", "h1", "ul", "li", "b", "nav", "a"),
        *("main", "section", "h2", "div", "table", "thead", "tbody", "tr", "th", "td", "span", "small", "code", "br"),
        *("figure", "figcaption", "svg", "path", "text", "title", "article", "h3", "dl", "dt", "dd"),
    }
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.source.count("</style>") == 1
    assert "<b>&amp;" not in page.source
    assert "alert(1)" in page.words


def test_the_policy_forbids_everything_but_its_style(page):
    policy = next(found["content"] for tag, found in page.elements if "http-equiv" in found)
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    expected = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert policy == expected
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "img", "iframe")
        assert "style" not in attributes
        assert str(attributes.get("href", "#")).startswith("#")
    assert "http:" not in page.source
    assert "https:" not in page.source
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(attributes["href"])[1:] for _, attributes in page.elements if "href" in attributes} <= set(ids)


def test_the_same_findings_give_the_same_bytes(written, frame, findings, tmp_path):
    check_page(findings, frame, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == written.read_bytes()


def test_it_is_written_whole_or_not_at_all(frame, findings, tmp_path):
    with pytest.raises(ValueError, match="existing folder"):
        check_page(findings, frame, tmp_path / "missing" / "a.html")


@pytest.mark.skipif(chromium() is None, reason="no Chromium here: on Debian, apt-get install chromium")
def test_in_a_browser_it_asks_for_nothing_and_fits_a_phone(written, tmp_path):
    with opened(tmp_path / "profile") as tab:
        for width, dark in ((1000, False), (1000, True), (380, False)):
            tab.size(width, 900, dark=dark, phone=width < 500)
            tab.open(written)
            assert tab.run("document.documentElement.scrollWidth") == width
            assert (tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)") is dark
        place = tab.run("document.querySelector('a.state').click(); location.hash")
        assert tab.run(f"document.querySelector('{place} b').textContent") == "lag_differs"
        assert tab.trouble == []
        assert {request.split("#")[0] for request in tab.requests} == {written.resolve().as_uri()}
