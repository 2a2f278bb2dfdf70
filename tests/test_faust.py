"""The Faust source, compiled and run, sample by sample against the package."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import ddsp_la2a as la
from ddsp_la2a.cli import command
from ddsp_la2a.export.description import Description, describe
from ddsp_la2a.export.faust import faust_source, number
from ddsp_la2a.model.control_net import ControlNet
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.stages import PLAIN

HERE = Path(__file__).parent
HOSTILE = 'x"; process = _; /* */ // \n\r\t\\ [style:menu] <a> ${HOME} `id` é \u202e' + "long " * 40
KNOBS = (20.0, 65.0, 90.0)
RATES = (44100, 48000, 96000)


def run(*words: str | Path) -> str:
    """What a tool says; skips where it isn't installed."""
    if shutil.which(str(words[0])) is None:
        package = {"c++": "g++"}.get(str(words[0]), str(words[0]))
        pytest.skip(f"expected the command {words[0]}, but it isn't installed; on Debian: apt-get install {package}")
    ran = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


@dataclass(frozen=True)
class Program:
    """A compiled Faust program."""

    path: Path

    def play(
        self, x: np.ndarray, rate: int, *events: tuple[int, str, float], block: int = 512
    ) -> tuple[np.ndarray, float]:
        """Output and what the meter shows; controls by frame, label and value."""
        rows = np.atleast_2d(x)
        words = [self.path, rate, len(rows), block, *(f"{at}={label}={value!r}" for at, label, value in events)]
        ran = subprocess.run(
            list(map(str, words)), input=rows.astype(np.float64).tobytes(), capture_output=True, timeout=300, check=True
        )
        output = np.frombuffer(ran.stdout)
        return output[:-1].reshape(x.shape), float(output[-1])


def compiled(folder: Path, source: str, *, single: bool = False) -> Program:
    """By Faust's C++ backend and the system's compiler, without a warning."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.dsp").write_text(source, encoding="utf-8")
    precision = [] if single else ["-double"]
    words = ["-lang", "cpp", "-a", HERE / "faust_player.cpp", folder / "model.dsp", "-o", folder / "model.cpp"]
    run("faust", *precision, *words)
    real = "float" if single else "double"
    # Of what Faust generates, tables don't use the sample rate that they are given.
    strict = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    run("c++", "-O2", *strict, f"-DFAUSTFLOAT={real}", folder / "model.cpp", "-o", folder / "model")
    return Program(folder / "model")


def programme(rate: int, seconds: float = 1.5) -> np.ndarray:
    """Notes with partials that decay, bursts of noise, a click, and silences."""
    rng, t = np.random.default_rng(0), np.arange(round(1.5 * rate)) / rate
    x = sum(0.4 / k * np.sin(2.0 * np.pi * 110.0 * k * t) * np.exp(-3.0 * (t % 0.4)) for k in range(1, 6))
    for start, length, level in ((0.3, 0.05, 0.9), (0.62, 0.002, 0.99), (0.9, 0.1, 0.01)):
        at = slice(round(start * rate), round((start + length) * rate))
        x[at] += level * rng.uniform(-1.0, 1.0, at.stop - at.start)
    x[round(0.5 * rate) : round(0.6 * rate)] = 0.0
    x[round(1.1 * rate) : round(1.3 * rate)] = 0.0
    return np.asarray(x)[: round(seconds * rate)]


def largest_error(program: Program, model: GreyBox, rate: int, x: np.ndarray, channels: int = 1) -> float:
    worst = 0.0
    for switch in (0, 1):
        for knob in KNOBS:
            stream = model.stream(rate, channels=channels, compress_or_limit=switch, peak_reduction=knob)
            expected = stream.process(x)
            found, meter_db = program.play(x, rate, (0, "Peak Reduction", knob), (0, "Limit", switch))
            worst = max(worst, float(np.abs(found - expected).max()))
            assert meter_db == pytest.approx(stream.gain_reduction_db, abs=1e-3)
    return worst


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Program]]:
    """Compile a source once."""
    known: dict[tuple[str, bool], Program] = {}

    def once(source: str, single: bool = False) -> Program:
        if (source, single) not in known:
            known[source, single] = compiled(tmp_path_factory.mktemp("faust"), source, single=single)
        return known[source, single]

    return once


@pytest.mark.parametrize("exportable", ["hardware", "cell"], indirect=True)
def test_in_double_precision_it_is_the_model(exportable: GreyBox, build: Callable[..., Program]) -> None:
    program = build(faust_source(describe(exportable, "m")))
    assert largest_error(program, exportable, 48000, programme(48000, 0.7)) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_in_double_precision_it_is_any_model(
    exportable: GreyBox, build: Callable[..., Program], rate: int, channels: int
) -> None:
    program = build(faust_source(describe(exportable, "m"), channels))
    x = programme(rate)
    x = x if channels == 1 else np.stack([x, 0.7 * np.roll(x, rate // 3)])
    assert largest_error(program, exportable, rate, x, channels) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("positions", [0, 2, 3])
def test_other_units_with_one_knob(build: Callable[..., Program], positions: int) -> None:
    """Without a switch, with one from 1 to 2, and from 1 to 3."""
    switch = (la.Control("speed", 1, positions, "switch"),) if positions else ()
    model = GreyBox(ControlNet(seed=1, controls=(la.Control("drive", -5.0, 10.0), *switch)), stages=PLAIN)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    program = build(faust_source(describe(model, "m")))
    x = programme(44100)
    for position in range(1, positions + 1) if positions else [0]:
        at = {"speed": position} if positions else {}
        shown = [(0, "Speed", position - 1.0 if positions == 2 else float(position))] if positions else []
        found, _ = program.play(x, 44100, (0, "Drive", 4.0), *shown)
        assert np.abs(found - model.stream(44100, drive=4.0, **at).process(x)).max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("exportable", ["plain", "hardware", "feedback+shelf"], indirect=True)
def test_single_precision_is_close(exportable: GreyBox, build: Callable[..., Program], rate: int) -> None:
    program = build(faust_source(describe(exportable, "m")), single=True)
    assert largest_error(program, exportable, rate, programme(rate)) < 1e-4


@pytest.mark.slow
def test_in_single_precision_the_slowest_release_arrives(build: Callable[..., Program]) -> None:
    """Without 1 − g as its state, and what rounding takes, it would stop 0.08 dB short."""
    card = {"threshold_db": -30.0, "ratio": 4.0, "knee_db": 6.0, "attack_ms": 5.0, "release_ms": 2000.0}
    described = replace(
        describe(la.load("published"), "m"),
        constants={**card, "makeup_db": 0.0, "slow_factor": 300.0, "slow_mix": 1.0},
        curves={},
    )
    rate = 96000
    x = np.concatenate([np.full(4 * rate, 0.9), np.full(8 * rate, 0.1)]) * np.sin(0.1 * np.arange(12 * rate))
    exact, _ = build(faust_source(described)).play(x, rate)
    single, _ = build(faust_source(described), single=True).play(x, rate)
    assert np.abs(single - exact).max() < 1e-6


@pytest.mark.parametrize("exportable", ["cell"], indirect=True)
def test_a_cell_in_single_precision_is_refused_by_faust(exportable: GreyBox, tmp_path: Path) -> None:
    (tmp_path / "model.dsp").write_text(faust_source(describe(exportable, "m")), encoding="utf-8")
    if shutil.which("faust") is None:
        pytest.skip("expected the command faust, but it isn't installed; on Debian: apt-get install faust")
    words = ["faust", "-lang", "cpp", str(tmp_path / "model.dsp"), "-o", str(tmp_path / "model.cpp")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "in_double_precision" in ran.stderr


@pytest.mark.parametrize("exportable", ["hardware"], indirect=True)
def test_a_knob_that_moves_glides_and_arrives(exportable: GreyBox, build: Callable[..., Program]) -> None:
    rate = 44100
    x = 0.5 * np.sin(2.0 * np.pi * 100.0 * np.arange(2 * rate) / rate)
    program = build(faust_source(describe(exportable, "m")))
    moves = ((rate, "Peak Reduction", 90.0), (rate, "Limit", 1.0))
    found, _ = program.play(x, rate, (0, "Peak Reduction", 20.0), *moves, block=rate // 100)
    stream = exportable.stream(rate, compress_or_limit=0, peak_reduction=20.0)
    expected = stream.process(x[:rate])
    stream.move(compress_or_limit=1, peak_reduction=90.0)
    expected = np.concatenate([expected, stream.process(x[rate:])])
    np.testing.assert_allclose(found[:rate], expected[:rate], atol=1e-12)
    assert np.abs(found - expected).max() < 0.01  # glides in samples here, in steps of 16 there
    np.testing.assert_allclose(found[-rate // 10 :], expected[-rate // 10 :], atol=1e-5)


@pytest.mark.parametrize("exportable", ["hardware", "cell"], indirect=True)
def test_a_sample_that_is_not_finite_passes(exportable: GreyBox, build: Callable[..., Program]) -> None:
    x = programme(48000, 0.2)
    x[[100, 200]] = np.nan, np.inf
    found, meter_db = build(faust_source(describe(exportable, "m"))).play(x, 48000)
    assert np.isfinite(found[300:]).all()
    assert np.isfinite(meter_db)


def sources(description: Description) -> list[str]:
    return faust_source(description).splitlines()


def test_a_hostile_name_is_only_a_name() -> None:
    described = replace(describe(la.load("published"), "plain"), info={"source": "here", "citation": "this"})
    info = {"source": HOSTILE, "citation": HOSTILE}
    harmless, hostile = sources(described), sources(replace(described, name=HOSTILE, info=info))
    changed = [line for line in hostile if line not in harmless]
    assert len(hostile) == len(harmless)
    assert [line[:2] for line in changed] == ["//", "//", "//", "de"]
    assert changed[-1].count('"') == 2
    assert changed[-1].startswith('declare name "x__ process _ ')
    assert changed[-1].endswith('";')
    assert all(line.isascii() and line.isprintable() for line in hostile)


def test_a_hostile_control_is_only_a_label() -> None:
    described = describe(la.load("published"), "plain")
    knob, switch = copy(described.knob), copy(described.switch)
    for control in (knob, switch):
        object.__setattr__(control, "name", HOSTILE)  # which only a description made by hand can have
    text = faust_source(replace(described, knob=knob, switch=switch, default={HOSTILE: 40.0}))
    lines = [line for line in text.splitlines() if "hslider" in line or "checkbox" in line]
    assert [line.count('"') for line in lines] == [2, 2]
    assert all("]" not in line.split("] ", 1)[1].split('"')[0] for line in lines)


def test_numbers_are_exact_in_any_locale() -> None:
    for value in (0.1, 1e-300, -1.5, 123456789.125, 5e-324, 0.0):
        assert float(number(value)) == value
        assert "," not in number(value)
    with pytest.raises(ValueError, match=r"^model: expected finite numbers, got inf"):
        number(float("inf"))


def test_command_writes_a_source_named_after_the_model(tmp_path: Path) -> None:
    for stereo in ([], ["--stereo"]):
        out = tmp_path / f"out{len(stereo)}"
        arguments = ["export", "published", "--to", "faust", "--out", str(out), "--name", "My Unit", *stereo]
        ran = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert ran.exit_code == 0
        text = (out / "my-unit.dsp").read_text(encoding="utf-8")
        assert ("compressed(left, right)" in text) == bool(stereo)


@pytest.mark.slow
def test_real_music_through_the_published_settings(
    real_recordings: Callable[[str], Path], build: Callable[..., Program]
) -> None:
    path = sorted(real_recordings("signaltrain_excerpts").rglob("input_*.wav"))[0]
    x, rate = soundfile.read(path)
    model = la.load("published")
    program = build(faust_source(describe(model, "m")))
    for switch, knob in ((0, 65), (1, 55)):
        expected = model.stream(rate, compress_or_limit=switch, peak_reduction=knob).process(x)
        found, _ = program.play(x, rate, (0, "Peak Reduction", float(knob)), (0, "Limit", float(switch)))
        assert np.abs(found - expected).max() < 1e-9
