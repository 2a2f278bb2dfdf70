"""The description of a model: played by a plain loop that follows the page on its format, it is the model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import ddsp_la2a as la
from ddsp_la2a.cli import command
from ddsp_la2a.controls import Control
from ddsp_la2a.export.description import POINTS, describe, write_json
from ddsp_la2a.export.names import label, one_line, slug
from ddsp_la2a.model.control_net import ControlNet, ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.stages import PLAIN, Stages

HOSTILE = 'x"; process = _; /* */ // \n\r\t\\ [style:menu] <a> ${HOME} `id` é \u202e \x00' + "long " * 40
"""A name that tries whatever an unescaped one could do to code, Turtle, a shell or a path."""


def at_position(model: dict[str, Any], switch: int, knob: float) -> dict[str, float]:
    """Parameters, by the page on the format."""
    found = dict(model["constants"])
    row = 0 if model["switch"] is None else round(switch - model["switch"]["low"])
    for name, curve in model["curves"].items():
        v = curve["values"][row]
        p = (len(v) - 1) * (knob - model["knob"]["low"]) / (model["knob"]["high"] - model["knob"]["low"])
        i = min(math.floor(p), len(v) - 2)
        f = p - i
        found[name] = v[i] * (v[i + 1] / v[i]) ** f if curve["scale"] == "log" else v[i] + f * (v[i + 1] - v[i])
    return found


def gain(db: float) -> float:
    return 10.0 ** (db / 20.0)


def compressor(p: dict[str, float], feedback: bool, x: np.ndarray, rate: float) -> np.ndarray:
    """By the page on the format."""

    def alpha(ms: float) -> float:
        return 1.0 - math.exp(-math.log(9.0) * 1000.0 / (ms * rate))

    b0, b1, a1 = 1.0, 0.0, 0.0
    if "shelf_db" in p:
        r, t = gain(p["shelf_db"] / 2.0), math.tan(math.pi * p["shelf_hz"] / rate)
        c = math.cos(2.0 * math.pi * 1000.0 / rate)

        def m(first: float, second: float) -> float:
            return math.sqrt(first**2 + second**2 + 2.0 * c * first * second)

        a0, k = t + 1.0 / r, m(t + r, t - r) / m(t + 1.0 / r, t - 1.0 / r)
        b0, b1, a1 = (t + r) / (a0 * k), (t - r) / (a0 * k), (t - 1.0 / r) / a0
    slope = p["ratio"] - 1.0 if feedback else 1.0 - 1.0 / p["ratio"]
    factor, mix, w = p.get("slow_factor", 1.0), p.get("slow_mix", 0.0), p["knee_db"]
    fast, slow, memory, v, output = 1.0, 1.0, 0.0, 0.0, np.empty_like(x)
    for n, sample in enumerate(x):
        d = v if feedback else sample
        s = b0 * d + memory
        memory = b1 * d - a1 * s
        o = 20.0 * math.log10(max(abs(s), 1e-8)) - p["threshold_db"]
        over = 0.0 if o <= -w / 2 else o if o >= w / 2 else (o + w / 2) ** 2 / (2 * w)
        target = gain(-slope * over)
        fast += alpha(p["attack_ms"] if target < fast else p["release_ms"]) * (target - fast)
        slow += alpha(factor * p["attack_ms"] if target < slow else factor * p["release_ms"]) * (target - slow)
        v = sample * (fast + mix * (slow - fast))
        output[n] = v * gain(p["makeup_db"])
    return output


def cell(p: dict[str, float], x: np.ndarray, rate: float) -> np.ndarray:
    """By the page on the format."""
    drive, most = gain(p["sidechain_gain_db"]), gain(p["largest_reduction_db"]) - 1.0
    corner = 1.0 - math.exp(-2.0 * math.pi * p["highpass_hz"] / rate)
    rise = 1.0 - math.exp(-math.log(9.0) * 1000.0 / (p["light_ms"] * rate))
    decay, pair = p["recombination_per_s"] / rate, p["pair_recombination_per_s"] / rate
    capacity = p.get("fast_trap_capacity", 1.0)
    k1, r1 = p.get("fast_trap_capture_per_s", 0.0) / (capacity * rate), p.get("fast_trap_release_per_s", 0.0) / rate
    k2, r2 = p.get("slow_trap_capture_per_s", 0.0) / rate, p.get("slow_trap_release_per_s", 0.0) / rate
    n = glow = m1 = m2 = low = 0.0
    output = np.empty_like(x)
    for at, sample in enumerate(x):
        v = sample * (1.0 + n / most) / (1.0 + n / most + n)
        h = v + p["input_tap"] * (sample - v) - low
        low += corner * h
        u = min(max(drive * abs(h), 0.001), 1e9)
        q = 1.0 + (u**2 - 1.0) / p["drive_limit"] ** 2
        light = math.exp(p["light_exponent"] * (1.0 - math.sqrt(math.sqrt(q) / u))) if u > 0.001 else 0.0
        glow += rise * (light - glow)
        n = (n + (decay + pair) * glow + r1 * m1 + r2 * m2) / (1.0 + decay + pair * n + k1 * (capacity - m1) + k2)
        m1 = (m1 + k1 * capacity * n) / (1.0 + k1 * n + r1)
        m2 = (m2 + k2 * n) / (1.0 + r2)
        output[at] = v * gain(p["makeup_db"])
    return output


def filtered(model: dict[str, Any], z: np.ndarray, rate: float) -> np.ndarray:
    """By the page on the format."""
    if model["output_filter"] is None:
        return z
    *c, share = model["output_filter"]["taps"][f"{rate:g}"]
    alpha, slow, output = 1.0 - math.exp(-2.0 * math.pi * 10.0 / rate), 0.0, np.convolve(z, c)[: len(z)]
    late = np.concatenate([np.zeros(len(c) // 2), z])
    for n in range(len(z)):
        slow += alpha * (late[n] - slow)
        output[n] += share * slow
    return output


def played(path: Path, x: np.ndarray, rate: float, switch: int, knob: float) -> np.ndarray:
    model = json.loads(path.read_text(encoding="utf-8"))
    assert model["format_version"] == 1
    p = at_position(model, switch, knob)
    core = cell(p, x, rate) if model["family"] == "optical-cell" else compressor(p, model["feedback"], x, rate)
    return filtered(model, core, rate)


def programme(frames: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        0.3 * rng.standard_normal(frames) * 10.0 ** np.repeat(rng.uniform(-2.0, 0.5, frames // 400 + 1), 400)[:frames]
    )


@pytest.mark.parametrize("knob", [0.0, 42.7, 100.0])
@pytest.mark.parametrize("rate", [44100.0, 48000.0, 96000.0])
def test_what_the_page_says_is_the_model(exportable: GreyBox, tmp_path: Path, rate: float, knob: float) -> None:
    x = programme(2500)
    (path,) = write_json(describe(exportable, "m"), tmp_path)
    for switch in (0, 1):
        stream = exportable.stream(rate, compress_or_limit=switch, peak_reduction=knob)
        np.testing.assert_allclose(played(path, x, rate, switch, knob), stream.process(x), rtol=1e-9, atol=1e-13)


def test_between_the_points_it_is_close(exportable: GreyBox, tmp_path: Path) -> None:
    x = programme(2500)
    (path,) = write_json(describe(exportable, "m"), tmp_path)
    expected = exportable.stream(44100.0, compress_or_limit=1, peak_reduction=61.8034).process(x)
    np.testing.assert_allclose(played(path, x, 44100.0, 1, 61.8034), expected, rtol=2e-5, atol=1e-7)


def test_published_settings_and_where_they_are_from(tmp_path: Path) -> None:
    model = la.load("published")
    (path,) = write_json(describe(model, HOSTILE), tmp_path)
    described = json.loads(path.read_text(encoding="utf-8"))
    assert described["name"] == HOSTILE
    assert "2509.10706" in described["info"]["citation"]
    assert set(described["curves"]) | set(described["constants"]) == set(model.params(0, 65).numbers())
    assert described["constants"]["knee_db"] == pytest.approx(0.0, abs=1e-9)
    x = programme(2000)
    for switch, knob in ((0, 65), (1, 55)):
        expected = model.process(x, 44100, compress_or_limit=switch, peak_reduction=knob)
        np.testing.assert_allclose(played(path, x, 44100.0, switch, knob), expected, rtol=1e-9)


def test_a_unit_of_one_knob_or_with_a_switch_of_three(tmp_path: Path) -> None:
    x = programme(500)
    for controls in ((Control("drive", -5.0, 10.0),), (Control("drive", -5.0, 10.0), Control("speed", 1, 3, "switch"))):
        model = GreyBox(ControlNet(seed=1, controls=controls), stages=PLAIN)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        described = describe(model, "m").as_dict()
        rows = {len(curve["values"]) for curve in described["curves"].values()}
        assert rows == ({1} if len(controls) == 1 else {3})
        at = {"drive": 3.1, "speed": 3}
        stream = model.stream(44100, **{control.name: at[control.name] for control in controls})
        found = compressor(at_position(described, 3, 3.1), False, x, 44100)
        np.testing.assert_allclose(found, stream.process(x), rtol=1e-9, atol=1e-13)


def test_what_has_no_curve_over_one_knob_is_refused() -> None:
    for controls in ((Control("speed", 0, 1, "switch"),), (Control("a"), Control("b"))):
        with pytest.raises(ValueError, match=r"^model: expected one knob and at most one switch, got "):
            describe(GreyBox(ControlNet(controls=controls)), "m")
    card = {"threshold_db": -20.0, "ratio": 4.0, "knee_db": 6.0, "attack_ms": 5.0, "release_ms": 200.0}
    settings = pd.DataFrame([{"compress_or_limit": 0, "peak_reduction": knob, **card} for knob in (20, 80)])
    taps = dict.fromkeys(("tap_lead_2", "tap_lead_1", "tap_late_1", "tap_late_2", "tap_slow"), 0.0)
    own = GreyBox(ParameterTable(settings.assign(slow_factor=2.0, slow_mix=0.1, **taps)), stages=Stages())
    with pytest.raises(ValueError, match=r"^model: expected one output filter for all settings, got one for each"):
        describe(own, "m")
    with pytest.raises(ValueError, match=r"^model: expected curves over the knob, got a table that takes the nearest"):
        describe(GreyBox(ParameterTable(settings, nearest=True)), "m")


def test_points_are_a_tenth_of_an_la2a_scale_apart() -> None:
    assert 100.0 / (POINTS - 1) == 0.1


@pytest.mark.parametrize("text", [HOSTILE, "", "...", "§$%", "My Unit v1.2+b", "../../etc/passwd"])
def test_names_are_harmless(text: str) -> None:
    assert set(label(text)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._+-")
    assert 1 <= len(label(text)) <= 48
    assert set(slug(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert slug(text).strip("-")
    for ends in ("*/", "//", '"', "\\", "\n", "\r", "<", "["):
        assert ends not in one_line(text)


def test_names_that_are_harmless_stay() -> None:
    assert label("My Unit v1.2+b") == "My Unit v1.2+b"
    assert slug("My Unit v1.2+b") == "my-unit-v1-2-b"


def test_command_writes_the_description_and_names_it_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "drums").mkdir()
    la.load("published").save(tmp_path / "drums" / "model.safetensors")
    for name, more in (("drums", []), ("Unit 7", ["--name", "Unit 7"])):
        arguments = ["export", str(tmp_path / "drums" / "model.safetensors"), "--to", "json", *more]
        ran = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / name / "out")], catch_exceptions=False)
        assert ran.exit_code == 0
        assert json.loads((tmp_path / name / "out" / "model.json").read_text(encoding="utf-8"))["name"] == name
