"""The page with a knob as a file: one, small, inert whatever a model is called, and with the model in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import exportable_models
from test_export import HOSTILE

import ddsp_la2a as la
from ddsp_la2a.cli import command
from ddsp_la2a.export.description import describe
from ddsp_la2a.export.web import page, write_page
from ddsp_la2a.html import inert_json
from ddsp_la2a.model.grey_box import GreyBox

SCRIPT = re.compile(r"<script( [^>]*)?>(.*?)</script>", re.S)


def text_of(model: GreyBox, name: str = "m") -> str:
    return page(describe(model, name)).decode("utf-8")


def data_of(text: str) -> dict[str, Any]:
    (data,) = (body for how, body in SCRIPT.findall(text) if "application/json" in how)
    return json.loads(data)


def test_the_model_is_in_the_page(exportable: GreyBox) -> None:
    data, described = data_of(text_of(exportable)), describe(exportable, "m").as_dict()
    found, curves = data["model"], described.pop("curves")
    for name, curve in found.pop("curves").items():
        assert curve["scale"] == curves[name]["scale"]
        np.testing.assert_allclose(curve["values"], curves[name]["values"], rtol=1e-9, atol=1e-300)
    assert found == json.loads(json.dumps(described))
    every = {*curves, *described["constants"]}
    assert {*data["drawn"], *data["listed"]} == every == set(data["words"])
    assert all(words[0][:1].isupper() and "_" not in words[0] for words in data["words"].values())
    assert "threshold_db" in data["drawn"] or "sidechain_gain_db" in data["drawn"]


def test_it_is_one_small_file_that_names_no_address(exportable: GreyBox) -> None:
    text = text_of(exportable)
    assert len(text.encode()) < 300_000
    rest = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", re.sub(r"\s//\s.*", "", rest))
    assert not re.search(r"<(link|img|iframe|object|embed|audio|base)\b", text)
    assert not re.search(r"\{\{|\{%|\{#", re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S))
    assert not re.search(r"<[^>]*\s(style|on[a-z]+)=", re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S))


def test_the_policy_allows_the_page_s_own_scripts_and_style(exportable: GreyBox) -> None:
    text = text_of(exportable)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(part.strip().split(" ", 1) for part in html.unescape(policy).split(";"))

    def hashed(body: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"

    bodies = [body for how, body in SCRIPT.findall(text) if "application/json" not in how]
    assert len(bodies) == 6
    assert rules["script-src"].split() == [*map(hashed, bodies), "data:", "blob:"]
    assert rules["style-src"] == hashed(re.findall(r"<style>(.*?)</style>", text, re.S)[0])
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", [HOSTILE, "</script><script>alert(1)</script>", "\u2028\u2029", "\ud800", "{{ 7*7 }}"])
def test_hostile_names_are_inert(name: str) -> None:
    model = la.load("published")
    model.info.update({"device": name, "source": [name, "b"], "citation": name})
    text = text_of(model, name)
    assert len(SCRIPT.findall(text)) == 7
    assert "<script>alert" not in text
    assert "<a>" not in text
    assert data_of(text)["model"]["name"] == name
    assert data_of(text)["model"]["info"]["source"] == f"{name}, b"


def test_json_cannot_end_its_element() -> None:
    nasty = ["</script>", "<!--", "]]>", "\u2028", "&amp;", "\x00"]
    assert not set(inert_json(nasty)) & set("<>&\u2028\x00")
    assert json.loads(inert_json(nasty)) == nasty


def test_what_is_simulated_says_so(exportable: GreyBox) -> None:
    exportable.info.update({"source": ["simulated"]})
    text = text_of(exportable)
    assert "· simulated</p>" in text
    assert "a <b>simulated</b> unit, not to hardware" in text
    exportable.info.update({"source": ["hardware"]})
    assert "simulated" not in re.sub(r"<(script|style)\b.*?</\1>", "", text_of(exportable), flags=re.S)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (page(describe(la.load("published"), "m")) for _ in range(2))
    assert first == second
    (path,) = write_page(describe(la.load("published"), HOSTILE), tmp_path)
    assert path.parent == tmp_path
    assert re.fullmatch(r"[a-z0-9-]+\.html", path.name)


def test_command_writes_one_file(tmp_path: Path) -> None:
    arguments = ["export", "published", "--to", "web", "--name", "My unit", "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert ran.exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["my-unit.html"]


PLAYED = """
const fs = require("fs");
const source = fs.readFileSync(process.argv[1], "utf8");
(0, eval)(source);
const { model, moves, audio } = JSON.parse(fs.readFileSync(0, "utf8"));
const unit = new la2aUnit.Unit(model, 48000, 2);
const output = [[], []], frames = 128;
for (let start = 0; start + frames <= audio[0].length; start += frames) {
  const [place, knob] = moves.filter(([from]) => from <= start).pop();
  unit.move(model.switch.high, knob);
  const block = audio.map((channel) => Float32Array.from(channel.slice(start, start + frames)));
  const played = [new Float32Array(frames), new Float32Array(frames)];
  unit.process(block, played, undefined, false);
  played.forEach((channel, c) => output[c].push(...channel));
}
console.log(JSON.stringify(output));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here; the browser's tests play the same")
@pytest.mark.parametrize("name", ["hardware", "cell"])
def test_the_arithmetic_without_a_browser(name: str) -> None:
    model = exportable_models()[name]
    rng = np.random.default_rng(0)
    audio = (0.3 * rng.standard_normal((2, 64 * 128))).astype(np.float32)
    audio[1] *= 0.5
    moves = [(0, 30.0), (20 * 128, 95.0), (24 * 128, 60.0)]
    given = {"model": describe(model, "m").as_dict(), "moves": moves, "audio": audio.tolist()}
    processor = str(files("ddsp_la2a.export") / "templates" / "processor.js")
    ran = subprocess.run(
        ["node", "-e", PLAYED, processor], input=json.dumps(given), capture_output=True, text=True, check=True
    )  # fmt: skip
    stream = model.stream(48000, channels=2, compress_or_limit=1, peak_reduction=moves[0][1])
    parts = []
    for (start, knob), end in zip(moves, [*(place for place, _ in moves[1:]), audio.shape[1]], strict=True):
        stream.move(peak_reduction=knob)
        parts.append(stream.process(audio[:, start:end].copy()))
    assert np.abs(np.array(json.loads(ran.stdout)) - np.concatenate(parts, axis=1)).max() <= 1e-6
