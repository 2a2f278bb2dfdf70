"""The report in a browser: it asks for nothing, complains of nothing, fits a phone, and its players stay in step."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from headless import chromium, opened
from test_report import (  # noqa: F401 - a fixture among them
    HOSTILE,
    Gain,
    blocks_of,
    history,
    intervals,
    measured_of,
    scores_of,
    static_curves_of,
    steps_of,
)

import ddsp_la2a as la

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: on Debian, apt-get install chromium")

NAMES = ["input", "target", "grey-box", "half", "<b>loud</b>"]
PLAYER = "la2aReport.players[0]"
FADED = 0.15
"""Seconds after which a switch is over: a dozen of its time constants and more."""


@pytest.fixture(scope="module")
def page(recordings, tmp_path_factory):
    frame = la.index(recordings)
    models = {"grey-box": la.GreyBox(la.ControlNet(seed=3)), "half": Gain(0.5), "<b>loud</b>": Gain(3.0)}
    scores = scores_of({"grey-box": 0.01, "half": 0.2, "<b>loud</b>": 0.3})
    path = tmp_path_factory.mktemp("page") / "report.html"
    more = {"histories": {"half": history()}, "measured": measured_of([*models, "the unit"]), "about": {"seed": 0}}
    more |= {"static_curves": static_curves_of([*models, "the unit"]), "steps": steps_of([*models, "the unit"])}
    la.report(scores, path, models=models, frame=frame, **more)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser, page):
    """The page, freshly loaded; whatever a test does, the page must not complain or ask for anything."""
    browser.trouble.clear()
    browser.requests.clear()
    browser.size(1000, 900)
    browser.open(page)
    yield browser
    assert browser.trouble == []
    assert browser.requests == [page.resolve().as_uri()]


def state(tab):
    return tab.run(f"{PLAYER}.inspect()")


def play(tab):
    """Play by the keyboard, and wait until it sounds."""
    tab.run(f"{PLAYER}.play.focus()")
    tab.key(" ")
    tab.wait_for(f"{PLAYER}.inspect().playing && {PLAYER}.inspect().clock > {PLAYER}.when + {FADED}")


def later(tab, seconds=FADED):
    """Wait by the audio clock."""
    tab.run(f"globalThis.from = {PLAYER}.inspect().clock")
    tab.wait_for(f"{PLAYER}.inspect().clock > from + {seconds}")


def is_heard(found, number):
    assert found["chosen"] == number
    assert found["levels"][number] > 0.0
    assert found["gains"] == pytest.approx(found["levels"], abs=1e-4)
    assert [other for other, level in enumerate(found["levels"]) if level] == [number]


def in_step(before, after, seconds):
    """The place went on as the clock did, round and round, and nothing was started anew."""
    gone = after["clock"] - before["clock"]
    assert after["starts"] == before["starts"]
    apart = (after["position"] - before["position"] - gone) % seconds
    assert min(apart, seconds - apart) < 1e-6


def test_it_loads_without_a_complaint_or_a_request(tab):
    assert tab.run("la2aReport.players.length") == 2
    assert tab.run("document.querySelectorAll('[data-part=controls][hidden]').length") == 0
    assert state(tab)["decoded"] == 0  # nothing is decoded before it is asked for


def test_the_policy_is_enforced(browser, page):
    """What would leave the page is stopped, so that a request seen nowhere above isn't for want of trying."""
    browser.size(1000, 900)
    browser.open(page)
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


def test_audio_is_decoded_sample_by_sample(tab, recordings):
    play(tab)
    found = state(tab)
    assert found["decoded"] == len(NAMES)
    raw, rate = soundfile.read(recordings / "Test" / "input_121_.wav")
    target, _ = soundfile.read(recordings / "Test" / "target_121_LA2A_3c__0__50.wav")
    assert tab.run(f"{PLAYER}.buffers.every((buffer) => buffer.sampleRate === {rate})")
    for number, expected in ((0, raw), (1, target), (3, 0.5 * raw), (4, 3.0 * raw)):
        scale = tab.run(f"{PLAYER}.data.signals[{number}].scale")
        decoded = tab.run(f"Array.from({PLAYER}.buffers[{number}].getChannelData(0))")
        assert len(decoded) == 2 * rate
        # Two steps: Chromium takes 32767 for full scale above zero.
        assert np.abs(scale * np.array(decoded) - expected[rate:]).max() <= 2 * scale / 32768


def test_switching_stays_in_step(tab):
    play(tab)
    seconds = tab.run(f"{PLAYER}.data.seconds")
    before = state(tab)
    is_heard(before, 2)
    for number in (0, 1, 4, 3):
        tab.run(f"document.querySelectorAll('.player')[0].querySelectorAll('.signal')[{number}].click()")
        later(tab)
        after = state(tab)
        is_heard(after, number)
        assert after["clock"] > before["clock"]
        in_step(before, after, seconds)
        before = after


def test_a_switch_has_no_gap_and_keeps_the_place(tab):
    """The page's own graph, rendered without the clock: before and after a switch it gives the very samples."""
    play(tab)
    found = tab.run(
        f"""(async () => {{
            const buffers = {PLAYER}.buffers, rate = buffers[0].sampleRate;
            const audio = new OfflineAudioContext(1, rate, rate), at = rate / 2;
            const heard = (number) => buffers.map((_, other) => Number(other === number));
            const nodes = la2aReport.graph(audio, buffers, heard(1), 0, 0.25, true, audio.destination);
            audio.suspend(0.512).then(() => {{ la2aReport.fade(nodes, heard(3), 0.512); audio.resume(); }});
            const output = (await audio.startRendering()).getChannelData(0);
            const from = (number) => Array.from(buffers[number].getChannelData(0).slice(rate / 4, rate / 4 + rate));
            return {{ output: Array.from(output), target: from(1), half: from(3), rate }};
        }})()"""
    )
    output, target, half = (np.array(found[name]) for name in ("output", "target", "half"))
    rate = found["rate"]
    switched = round(0.512 * rate)
    faded_in, faded = round(0.1 * rate), switched + round(0.1 * rate)
    assert output[faded_in:switched] == pytest.approx(target[faded_in:switched], abs=1e-6)
    assert output[faded:] == pytest.approx(half[faded:], abs=1e-6)
    share = 1.0 - np.exp(-np.arange(faded - switched) / rate / 0.004)
    between = (1.0 - share) * target[switched:faded] + share * half[switched:faded]
    assert output[switched:faded] == pytest.approx(between, abs=0.02)


def test_the_keyboard_does_it_all(tab):
    play(tab)
    assert tab.run("document.activeElement.textContent") == "Stop"
    for key, number in (("ArrowRight", 3), ("ArrowRight", 4), ("ArrowRight", 0), ("ArrowLeft", 4), ("ArrowUp", 3)):
        tab.key(key)
        assert state(tab)["chosen"] == number, key
    assert tab.run("document.activeElement.type") == "radio"
    tab.key("2")
    later(tab)
    is_heard(state(tab), 1)
    tab.key("9")  # there are but five
    assert state(tab)["chosen"] == 1
    matched = state(tab)["levels"][1]
    tab.key("4")
    tab.key("l")
    assert not tab.run(f"{PLAYER}.match.checked")
    tab.key("L")
    assert tab.run(f"{PLAYER}.match.checked")
    assert state(tab)["starts"] == 1
    tab.key(" ")
    assert not state(tab)["playing"]
    stopped = state(tab)["position"]
    assert tab.run(f"{PLAYER}.play.textContent") == "Play"
    tab.key(" ")
    tab.wait_for(f"{PLAYER}.inspect().playing")
    assert state(tab)["starts"] == 2
    assert tab.run(f"{PLAYER}.offset") == pytest.approx(stopped, abs=1e-9)
    assert matched > 0.0


def test_the_slider_seeks(tab):
    tab.run(f"{PLAYER}.slider.focus()")
    for key, place in (("ArrowRight", 0.5), ("ArrowUp", 1.0), ("ArrowLeft", 0.5), ("End", 1.99), ("Home", 0.0)):
        tab.key(key)
        assert state(tab)["position"] == pytest.approx(place), key
    assert tab.run(f"{PLAYER}.slider.getAttribute('role')") == "slider"
    assert tab.run(f"{PLAYER}.slider.getAttribute('aria-valuenow')") == "0.0"
    assert state(tab)["chosen"] == 2


@pytest.mark.parametrize("playing", [False, True], ids=["at rest", "playing"])
def test_a_click_on_a_waveform_goes_there(tab, playing):
    if playing:
        play(tab)
    tab.run(f"{PLAYER}.root.scrollIntoView({{behavior: 'instant'}})")
    drawing = f"{PLAYER}.wave.parentNode.getBoundingClientRect()"
    left, top, width, height = (tab.run(f"{drawing}.{side}") for side in ("left", "top", "width", "height"))
    tab.click(left + 0.75 * width, top + height / 2)
    found = state(tab)
    assert tab.run(f"{PLAYER}.offset") == pytest.approx(1.5, abs=0.01)
    assert found["playing"] == playing
    if playing:
        later(tab)
        is_heard(state(tab), 2)


def test_level_matching_changes_the_gains_as_stated(tab):
    play(tab)
    for number in range(len(NAMES)):
        tab.run(f"{PLAYER}.choose({number})")
        signal = tab.run(f"{PLAYER}.data.signals[{number}]")
        volume = tab.run(f"{PLAYER}.data.volume")
        later(tab)
        is_heard(state(tab), number)
        assert state(tab)["gains"][number] == pytest.approx(signal["scale"] * signal["matched"] * volume, abs=1e-4)
        drawn = tab.run(f"{PLAYER}.residual.getAttribute('d')")
        tab.run(f"{PLAYER}.match.click()")
        later(tab)
        is_heard(state(tab), number)
        assert state(tab)["gains"][number] == pytest.approx(signal["scale"] * volume, abs=1e-4)
        if number != 1:
            assert tab.run(f"{PLAYER}.residual.getAttribute('d')") != drawn
        tab.run(f"{PLAYER}.match.click()")


def test_it_loops_until_told_otherwise(tab):
    play(tab)
    tab.wait_for(f"{PLAYER}.inspect().clock > {PLAYER}.when + 2.2")
    assert state(tab)["playing"]
    assert state(tab)["loop"]
    before = state(tab)
    tab.run(f"{PLAYER}.loop.click()")
    after = state(tab)
    assert not after["loop"]
    in_step(before, after, 2.0)
    tab.wait_for(f"!{PLAYER}.inspect().playing")
    assert state(tab)["starts"] == 1
    assert state(tab)["position"] == 0.0


def test_one_passage_at_a_time(tab):
    play(tab)
    tab.run("la2aReport.players[1].play.click()", by_user=True)
    tab.wait_for("la2aReport.players[1].inspect().playing")
    assert not state(tab)["playing"]
    assert tab.run("document.querySelectorAll('.player.playing').length") == 1


def test_names_are_text(tab):
    labels = tab.run(f"Array.from({PLAYER}.root.querySelectorAll('.signal bdi'), (each) => each.textContent)")
    assert labels == NAMES
    play(tab)
    tab.key("5")
    assert tab.run(f"{PLAYER}.status.textContent") == "Playing <b>loud</b>"
    assert tab.run("document.querySelectorAll('bdi b').length") == 0


def test_what_can_be_heard_is_named_for_those_who_do_not_see(tab):
    tree = tab("Accessibility.getFullAXTree")["nodes"]
    found = {(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in tree}
    assert ("slider", "Place in the passage") in found
    assert ("button", "Play") in found
    assert ("checkbox", "Level-matched") in found
    assert ("group", "What is heard") in found
    radios = {name.split(" ")[0] for role, name in found if role == "radio"}
    assert radios == set(NAMES)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 1000])
def test_it_fits_any_width(tab, page, width, dark):
    tab.size(width, 800, dark=dark, phone=width < 500)
    assert tab.run("innerWidth") == width
    assert tab.run("document.documentElement.scrollWidth") <= width
    wide = tab.run(
        """Array.from(document.querySelectorAll("main *"))
            .filter((each) => !each.closest(".scroll") && !each.closest("svg"))
            .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
            .map((each) => each.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    paper, ink = tab.run("((s) => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (light[0] < light[1]) == dark


def test_measurements_scroll_in_their_own_box_and_keep_the_names(tab):
    tab.size(390, 800, phone=True)
    tab.run("document.querySelector('#measured .scroll').scrollLeft = 1000")
    where = "document.querySelector('#measured {}').getBoundingClientRect()"
    assert tab.run("document.querySelector('#measured .scroll').scrollLeft") > 100
    assert tab.run(f"{where.format('tbody th.name')}.left") == pytest.approx(tab.run(f"{where.format('h2')}.left"))
    assert tab.run(f"{where.format('tbody tr:last-child td:last-child')}.right") <= 390
    assert tab.run("document.querySelector('#measured tbody bdi').textContent") == "the unit"


def test_hostile_names_do_nothing(browser, recordings, tmp_path, intervals):  # noqa: F811 - the fixture
    scores = scores_of({"grey-box": 0.01, **dict.fromkeys(HOSTILE, 0.02)}, protocol=HOSTILE[0])
    models = {"grey-box": la.GreyBox(la.ControlNet(seed=3)), **{name: Gain() for name in HOSTILE}}
    how = {"models": models, "frame": la.index(recordings), "histories": dict.fromkeys(HOSTILE, history())}
    how["measured"] = measured_of(HOSTILE, ratio_measured=np.nan, not_measured=f"ratio_measured: {HOSTILE[0]}")
    how |= {"static_curves": static_curves_of(HOSTILE), "steps": steps_of(HOSTILE)}
    about = {name: [name] for name in HOSTILE}
    la.report(scores, tmp_path / "x.html", blocks=blocks_of(scores), about=about, **how)
    browser.trouble.clear()
    browser.requests.clear()
    browser.size(360, 800, phone=True)
    browser.open(tmp_path / "x.html")
    assert browser.run("la2aReport.players.length") == 2
    assert browser.run("document.documentElement.scrollWidth") <= 360
    titles = browser.run("Array.from(document.querySelectorAll('.mark title'), (e) => e.textContent).join()")
    assert json.dumps(HOSTILE[0])[1:-1] in titles
    assert browser.run("document.scripts.length") == browser.run("document.querySelectorAll('body > script').length")
    assert browser.trouble == []
    assert len(browser.requests) == 1
