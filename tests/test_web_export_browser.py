"""The page in a browser: its worklet plays what the model does; it asks for nothing and complains of nothing."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from conftest import exportable_models
from headless import chromium, opened
from test_export import HOSTILE
from test_report import scores_of

import ddsp_la2a as la
from ddsp_la2a import compare
from ddsp_la2a.controls import Control
from ddsp_la2a.export.description import describe
from ddsp_la2a.export.web import write_page
from ddsp_la2a.model.control_net import ControlNet
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.stages import PLAIN

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: on Debian, apt-get install chromium")

SECONDS = 5.0
QUANTUM = 128
RENDERED = """(async () => {
    const {rate, channels, at, moves, name} = %s;
    const coded = (samples) => {
        const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
        let text = "";
        for (let n = 0; n < bytes.length; n += 8192) text += String.fromCharCode(...bytes.subarray(n, n + 8192));
        return btoa(text);
    };
    const loop = la2aMaterial[name](rate), frames = Math.round(%s * rate);
    const played = Array.from({length: channels}, (_, c) => Float32Array.from({length: frames}, (_, n) =>
        loop[(n + 9000 * c) %% loop.length] * (c ? 0.7 : 1)));
    const audio = new OfflineAudioContext(channels + 3, frames, rate);
    const buffer = audio.createBuffer(channels, frames, rate);
    played.forEach((samples, c) => buffer.copyToChannel(samples, c));
    const source = audio.createBufferSource();
    source.buffer = buffer;
    const unit = await la2aSound.unitNode(la2aPage.model, audio, channels, at);
    for (const [control, value, frame] of moves) unit.parameters.get(control).setValueAtTime(value, frame / rate);
    source.connect(unit);
    const split = [audio.createChannelSplitter(channels), audio.createChannelSplitter(3)];
    const merge = audio.createChannelMerger(channels + 3);
    split.forEach((each, output) => unit.connect(each, output));
    for (let c = 0; c < channels; c += 1) split[0].connect(merge, c, c);
    for (let c = 0; c < 3; c += 1) split[1].connect(merge, c, channels + c);
    merge.connect(audio.destination);
    source.start();
    const output = await audio.startRendering();
    return {
        played: played.map(coded),
        output: Array.from({length: channels}, (_, c) => coded(output.getChannelData(c))),
        meters: Array.from({length: 3}, (_, c) => coded(output.getChannelData(channels + c))),
    };
})()"""


@pytest.fixture(scope="module")
def models():
    return {"published": la.load("published"), **exportable_models()}


@pytest.fixture(scope="module")
def pages(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {name: write_page(describe(model, name), folder)[0] for name, model in models.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser, pages):
    """Opens pages; whatever a test does, they must not complain or ask for anything."""
    browser.trouble.clear()
    browser.requests.clear()
    browser.size(1000, 900)
    browser.open(pages["published"])
    yield browser
    assert browser.trouble == []
    assert set(browser.requests) <= {path.resolve().as_uri() for path in pages.values()}


def rendered(tab, rate, at, moves=(), channels=1, name="Drums and bass", seconds=SECONDS):
    """What was played, what came out and what the meters read, ``(channels, time)`` float32."""
    how = {"rate": rate, "channels": channels, "at": at, "moves": list(moves), "name": name}
    found = tab.run(RENDERED % (json.dumps(how), seconds))
    return [
        np.stack([np.frombuffer(base64.b64decode(each), dtype=np.float32) for each in found[part]])
        for part in ("played", "output", "meters")
    ]


def late(model, rate):
    return model.stream(rate, **model.middle()).latency_samples


QUICK = [("hardware", 44100), ("cell", 48000)]
ALL = itertools.product(
    ("published", "plain", "hardware", "feedback+shelf", "cell", "cell without traps"), (44100, 48000, 96000)
)


@pytest.mark.parametrize(
    ("name", "rate"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in ALL if each not in QUICK)]
)
def test_the_worklet_plays_what_the_model_does(tab, models, pages, name, rate):
    tab.open(pages[name])
    model, lag = models[name], late(models[name], rate)
    for switch, knob in ((0, 52.5), (1, 87.5)):
        seconds = SECONDS if rate < 96000 else 1.0
        played, output, meters = rendered(tab, rate, {"switch": switch, "knob": knob}, seconds=seconds)
        expected = model.process(played[0], rate, compress_or_limit=switch, peak_reduction=knob)
        assert np.abs(played).max() > 0.3
        assert np.abs(output[0, lag:] - expected[: len(expected) - lag]).max() <= 1e-6
        assert meters[0].min() < 0.97  # there is something to compare
        np.testing.assert_array_equal(meters[1], np.abs(played[0]))
        np.testing.assert_array_equal(meters[2], np.abs(output[0]))


@pytest.mark.parametrize(
    "name", ["hardware", *(pytest.param(name, marks=pytest.mark.slow) for name in ("feedback+shelf", "cell"))]
)
def test_two_channels_are_linked_and_moves_glide_as_in_python(tab, models, pages, name):
    tab.open(pages[name])
    rate, frames = 48000, 2 * 48000
    # Three moves: of the knob, of the switch before the knob has arrived, and of both.
    moves = [(100, {"knob": 90.0}), (104, {"switch": 1}), (400, {"knob": 20.0, "switch": 0})]
    commands = [(control, value, QUANTUM * block) for block, move in moves for control, value in move.items()]
    played, output, meters = rendered(tab, rate, {"switch": 0, "knob": 40.0}, commands, channels=2, seconds=2.0)
    stream = models[name].stream(rate, channels=2, compress_or_limit=0, peak_reduction=40.0)
    parts, start, reductions = [], 0, []
    for block, move in [*moves, (None, {})]:
        end = frames if block is None else QUANTUM * block
        parts.append(stream.process(played[:, start:end]))
        reductions.append((end, stream.gain_reduction_db))
        names = {"knob": "peak_reduction", "switch": "compress_or_limit"}
        stream.move(**{names[control]: value for control, value in move.items()})
        start = end
    assert np.abs(output - np.concatenate(parts, axis=1)).max() <= 1e-6
    if name != "cell":  # whose gain of a sample is that before it
        for end, reduction_db in reductions:
            assert -20.0 * np.log10(meters[0, end - 1]) == pytest.approx(reduction_db, abs=1e-5)


def test_bypass_is_the_input_as_late_as_the_output(tab, models, pages):
    tab.open(pages["hardware"])
    lag = late(models["hardware"], 48000)
    at = {"switch": 0, "knob": 90.0, "bypass": 1}
    played, output, _ = rendered(tab, 48000, at, [("bypass", 0, 64 * QUANTUM)], seconds=1.0)
    assert lag > 0
    np.testing.assert_array_equal(output[0, lag : 64 * QUANTUM], played[0, : 64 * QUANTUM - lag])
    expected = models["hardware"].process(played[0], 48000, compress_or_limit=0, peak_reduction=90.0)
    after = 64 * QUANTUM + 480 + 1  # the fade of 10 ms is over
    assert np.abs(output[0, after:] - expected[after - lag : -lag]).max() <= 1e-6


def test_the_knob_turns_by_keyboard_and_changes_curves_and_sound(tab, pages):
    tab.open(pages["hardware"])

    def seen():
        return tab.run(
            """({
                now: document.getElementById("knob").getAttribute("aria-valuenow"),
                position: document.getElementById("position").textContent,
                values: la2aPage.panels.map((panel) => panel.value.textContent),
                marks: la2aPage.panels.map((panel) => panel.marks[0].getAttribute("cx")),
                line: document.querySelector("#inout .line").getAttribute("d"),
            })"""
        )

    tab.run("document.getElementById('knob').focus()")
    before, sounds = seen(), []
    default = float(before["now"])
    for key, value in (
        ("ArrowUp", default + 1), ("ArrowLeft", default), ("PageUp", default + 10), ("PageDown", default), ("End", 100),
        ("ArrowRight", 100), ("Home", 0),
    ):  # fmt: skip
        tab.key(key)
        assert float(seen()["now"]) == value, key
        if key in ("End", "Home"):
            after = seen()
            assert after["position"] == f"{value:g}"
            assert after["line"] != before["line"]
            assert after["values"] != before["values"]
            assert all(one != other for one, other in zip(after["marks"], before["marks"], strict=True))
            sounds.append(rendered(tab, 44100, tab.run("la2aPage.at"), seconds=0.5)[1])
    assert np.abs(sounds[0] - sounds[1]).max() > 0.01
    tab.run("document.querySelectorAll('#switch input')[1].click()")
    assert tab.run("la2aPage.at.switch") == 1
    assert tab.run("document.querySelector('#inout .line').classList.contains('s1')")


def test_the_knob_turns_by_drag_wheel_and_double_click(tab):
    left, top, width, height = (
        tab.run(f"document.getElementById('knob').getBoundingClientRect().{side}")
        for side in ("left", "top", "width", "height")
    )
    x, y, default = left + width / 2, top + height / 2, tab.run("la2aPage.at.knob")
    tab("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100)
    assert tab.run("la2aPage.at.knob") == default  # not focused, so the page scrolls
    for kind, dy in (("mousePressed", 0), ("mouseMoved", -30), ("mouseMoved", -60), ("mouseReleased", -60)):
        tab("Input.dispatchMouseEvent", type=kind, x=x, y=y + dy, button="left", buttons=1, clickCount=1)
    assert tab.run("la2aPage.at.knob") == default + 30
    tab.run("scrollTo(0, 0); document.getElementById('knob').focus()")
    tab("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100)
    tab.wait_for(f"la2aPage.at.knob === {default + 31}")
    tab.run("document.getElementById('knob').dispatchEvent(new MouseEvent('dblclick'))")
    assert tab.run("la2aPage.at.knob") == default
    tab("Emulation.setTouchEmulationEnabled", enabled=True)
    tab("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    for dy in (10, 20, 40):
        tab("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x, "y": y + dy}])
    tab("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    tab("Emulation.setTouchEmulationEnabled", enabled=False)
    tab.wait_for(f"la2aPage.at.knob === {default - 20}")


def play(tab):
    """By the keyboard; until the meters move."""
    tab.run("document.getElementById('play').focus()")
    tab.key(" ")
    tab.wait_for("la2aPage.player.playing && la2aPage.player.read().input_db > -60")


def test_it_plays_meters_and_stops(tab):
    tab.run("la2aPage.knob.turn(100)")
    assert tab.run("la2aPage.player.context") is None  # nothing before it is asked for
    play(tab)
    assert tab.run("document.getElementById('play').textContent") == "Stop"
    tab.wait_for("Number(document.getElementById('reduction').textContent) > 3")
    tab.wait_for("la2aPage.inOut.dot.getAttribute('visibility') === 'visible'")
    tab.run("document.querySelectorAll('#sources input')[2].click()")
    tab.wait_for("document.getElementById('status').textContent === 'Playing Bass'")
    tab.run("document.getElementById('level').value = 12")
    tab.run("document.getElementById('level').dispatchEvent(new Event('input'))")
    assert tab.run("document.getElementById('level-text').textContent") == "+12 dB"
    tab.wait_for("Math.abs(la2aPage.player.level.gain.value - 3.981) < 0.01")
    tab.run("document.getElementById('knob').focus()")
    tab.key("b")
    assert tab.run("document.getElementById('bypass').getAttribute('aria-pressed')") == "true"
    tab.key(" ")
    assert not tab.run("la2aPage.player.playing")
    tab.wait_for("Number(document.getElementById('in-peak').textContent.startsWith('–'))")  # silence


WAV = """(() => {
    const frames = 22050, view = new DataView(new ArrayBuffer(44 + 2 * frames));
    const text = (at, letters) => [...letters].forEach((letter, n) => view.setUint8(at + n, letter.charCodeAt(0)));
    text(0, "RIFF"); view.setUint32(4, 36 + 2 * frames, true); text(8, "WAVEfmt ");
    view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
    view.setUint32(24, 22050, true); view.setUint32(28, 44100, true); view.setUint16(32, 2, true);
    view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, 2 * frames, true);
    for (let n = 0; n < frames; n += 1) view.setInt16(44 + 2 * n, 8000 * Math.sin(n / 5), true);
    return view.buffer;
})()"""


def test_a_dropped_file_is_played_whatever_it_is_called(tab):
    tab.run(
        f"""globalThis.drop = (content, name) => {{
            const transfer = new DataTransfer();
            transfer.items.add(new File([content], name));
            document.dispatchEvent(new DragEvent("drop", {{ dataTransfer: transfer, cancelable: true }}));
        }};
        drop({WAV}, "<img src=x onerror=alert(1)>.wav")""",
        by_user=True,
    )
    tab.wait_for("document.getElementById('status').textContent === 'Playing <img src=x onerror=alert(1)>.wav'")
    assert tab.run("document.querySelector('#sources img')") is None
    assert tab.run("document.querySelector('#sources :checked').value") == "<img src=x onerror=alert(1)>.wav"
    tab.wait_for("Math.abs(la2aPage.player.read().input_db + 12.2) < 0.5")
    tab.run("drop(new Uint8Array(100), 'notes.txt')")
    tab.wait_for("document.getElementById('status').textContent === 'This browser can’t read that file as audio.'")


@pytest.mark.parametrize("name", ["cell", "cell without traps"])
@pytest.mark.slow
def test_the_curve_of_a_cell_is_where_a_long_tone_rests(tab, models, pages, name):
    tab.open(pages[name])
    model, rate = models[name], 16000
    for knob in (50, 100):
        tab.run(f"la2aPage.knob.turn({knob})")
        curve = np.array(tab.run("la2aCurves.staticCurve(la2aPage.model, la2aPage.numbers[1])"))
        for level_db in (-30.0, -10.0):
            tone = 10.0 ** (level_db / 20.0) * np.sin(2 * np.pi * 1000 * np.arange(20 * rate) / rate)
            stream = model.stream(rate, compress_or_limit=1, peak_reduction=knob)
            stream.process(tone)
            rests_db = level_db - stream.gain_reduction_db + tab.run("la2aPage.numbers[1].makeup_db")
            assert np.interp(level_db, *curve.T) == pytest.approx(rests_db, abs=0.3)


@pytest.mark.parametrize("name", ["plain", "feedback+shelf"])
def test_the_curve_of_a_compressor_is_its_static_curve(tab, models, pages, name):
    tab.open(pages[name])
    tab.run("la2aPage.knob.turn(80)")
    curve = np.array(tab.run("la2aCurves.staticCurve(la2aPage.model, la2aPage.numbers[0])"))
    assert (np.diff(curve[:, 0]) >= 0).all()
    # Of a signal that stands still, which a shelf would take for the lowest of lows.
    numbers = {key: value for key, value in tab.run("la2aPage.numbers[0]").items() if not key.startswith("shelf")}
    params = la.CompressorParams(**numbers, feedback=models[name].stages.feedback)
    still = torch.full((1, 20 * 8000), 10.0 ** (-12.0 / 20.0), dtype=torch.float64)
    rests_db = 20.0 * np.log10(float(la.compressor(still, params, 8000)[0, -1]))
    assert np.interp(-12.0, *curve.T) == pytest.approx(rests_db, abs=1e-2)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("name", "width"), [("hardware", 360), ("hardware", 1000), ("cell", 320), ("cell", 760)])
def test_it_fits_any_width(tab, pages, tmp_path, name, width, dark):
    tab.size(width, 800, dark=dark, phone=width < 500)
    tab.open(pages[name])
    assert tab.run("document.documentElement.scrollWidth") <= width
    wide = tab.run(
        """Array.from(document.querySelectorAll("main *"))
            .filter((each) => !each.closest("svg"))
            .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
            .map((each) => each.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    paper, ink = tab.run("((s) => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (light[0] < light[1]) == dark
    tab.screenshot(tmp_path / "page.png", whole=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_what_can_be_operated_is_named_for_those_who_do_not_see(tab):
    tree = tab("Accessibility.getFullAXTree")["nodes"]
    found = {(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in tree}
    expected = {
        ("slider", "Peak reduction"), ("slider", "Input level 0 dB"), ("meter", "Gain reduction"), ("button", "Play"),
        ("button", "Bypass"), ("group", "Compress or limit"), ("radio", "Compress"), ("radio", "Limit"),
        ("radio", "Drums and bass"), ("group", "What is played"),
    }  # fmt: skip
    assert expected - found <= {("slider", "Input level 0 dB")}
    assert any(role == "slider" and str(name).startswith("Input level") for role, name in found)


def test_a_unit_of_its_own_with_a_hostile_name(browser, tmp_path):
    controls = (Control("drive", -5.0, 10.0), Control("speed", 1, 3, "switch"))
    model = GreyBox(ControlNet(seed=1, controls=controls), {"device": HOSTILE, "source": "</script><b>"}, stages=PLAIN)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    name = "</script><script>globalThis.hurt = true</script>\u2028" + HOSTILE
    (path,) = write_page(describe(model, name), tmp_path)
    browser.trouble.clear()
    browser.requests.clear()
    browser.open(path)
    assert browser.run("globalThis.hurt") is None
    assert browser.run("document.querySelectorAll('h1 script, h1 b, dd b, dd a').length") == 0
    assert browser.run("document.querySelector('h1').textContent").startswith("</script><script>globalThis.hurt")
    assert browser.run("document.getElementById('knob').getAttribute('aria-label')") == "Drive"
    switches = browser.run("Array.from(document.querySelectorAll('#switch span'), (each) => each.textContent)")
    assert switches == ["1", "2", "3"]
    browser.run("document.querySelectorAll('#switch input')[2].click(); la2aPage.knob.turn(7.5)")
    assert browser.run("la2aPage.at") == {"knob": 7.5, "switch": 3, "bypass": 0}
    played, output, _ = rendered(browser, 44100, browser.run("la2aPage.at"), seconds=1.0)
    assert np.abs(output[0] - model.process(played[0], 44100, drive=7.5, speed=3)).max() <= 1e-6
    assert browser.trouble == []
    assert browser.requests == [path.resolve().as_uri()]


def test_the_report_leads_to_the_page(browser, models, tmp_path):
    (tmp_path / "report of it").mkdir()
    boxes = {"grey-box": models["published"], "half & <b>": models["plain"]}
    pages = compare.write_pages(boxes, tmp_path / "report of it")
    report = tmp_path / "report of it" / "report.html"
    la.report(scores_of(dict.fromkeys(boxes, 0.1)), report, models=boxes, pages=pages)
    for link, name in enumerate(boxes):
        browser.open(report)
        address = browser.run(f"document.querySelectorAll('#curves p a')[{link}].href")
        browser.open(Path(unquote(urlsplit(address).path)))
        assert browser.run("document.querySelector('h1').textContent") == name


def test_the_policy_is_enforced(browser, pages):
    """What would leave the page is stopped, so that a request seen nowhere above isn't for want of trying."""
    browser.open(pages["published"])
    blocked = browser.run(
        """new Promise((done) => {
            const seen = new Set();
            document.addEventListener("securitypolicyviolation", (event) => {
                seen.add(event.effectiveDirective);
                if (seen.size === 4) done([...seen].sort());
            });
            fetch("https://example.org/").catch(() => 0);
            new Image().src = "https://example.org/a.png";
            const script = document.createElement("script");
            script.textContent = "globalThis.hurt = true";
            document.body.append(script);
            document.body.setAttribute("style", "color: red");
            setTimeout(() => done([...seen].sort()), 5000);
        })"""
    )
    assert blocked == ["connect-src", "img-src", "script-src-elem", "style-src-attr"]
    assert browser.run("globalThis.hurt") is None
