"""Programs as models: what they get, what comes back, and what is said when something is wrong."""

from __future__ import annotations

import ast
import shlex
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ddsp_la2a as la
from ddsp_la2a.evaluation.external import External
from ddsp_la2a.evaluation.measure import measure

SETTING = {"compress_or_limit": 1, "peak_reduction": 65}
NAMES = "{input} {output} {compress_or_limit} {peak_reduction}"

PROGRAM = """
import sys
import soundfile
audio, rate = soundfile.read(sys.argv[1], dtype="float32")
switch, knob = sys.argv[3:5]
audio = audio * float(knob) / 100 * (-1 if switch == "1" else 1)
{body}
soundfile.write(sys.argv[2], audio, rate, "FLOAT")
"""


@pytest.fixture
def program(tmp_path: Path) -> Any:
    """Command of a program that turns the knob's share of the audio over, with a line of one's own in it."""

    def written(body: str = "") -> str:
        path = tmp_path / "a program.py"
        path.write_text(PROGRAM.format(body=body), encoding="utf-8")
        return f"{shlex.quote(sys.executable)} {shlex.quote(str(path))}"

    return written


@pytest.fixture
def audio() -> np.ndarray:
    return np.random.default_rng(0).uniform(-2.0, 2.0, 800).astype(np.float32)


def test_audio_goes_there_and_back(program: Any, audio: np.ndarray) -> None:
    model = External(f"{program()} {NAMES}")
    out = model.process(audio, 8000, **SETTING)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, -0.65 * audio, rtol=1e-6)
    batch = np.stack([audio, audio[::-1]]).astype(np.float64)
    both = model.process(batch, 44100.0, compress_or_limit=0, peak_reduction=12.5)
    assert both.dtype == np.float64
    np.testing.assert_allclose(both, 0.125 * batch, rtol=1e-6)


def test_what_the_program_is_called_with(tmp_path: Path, audio: np.ndarray) -> None:
    """Placeholders stay within their words, quotes hold words together, and numbers are plain."""
    heard = tmp_path / "heard.txt"
    script = tmp_path / "listen.py"
    script.write_text(
        f"import sys, shutil; open({str(heard)!r}, 'w').write(repr(sys.argv[1:])); shutil.copy(*sys.argv[1:3])",
        encoding="utf-8",
    )
    rest = "--fs={sample_rate} 'two words; $(date) {{x}}' -k={peak_reduction},{compress_or_limit} `id`"
    model = External(f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{input}} {{output}} {rest}")
    model.process(audio, 8000.0, compress_or_limit=0.0, peak_reduction=0.1)
    words = ast.literal_eval(heard.read_text(encoding="utf-8"))
    assert words[2:] == ["--fs=8000", "two words; $(date) {x}", "-k=0.1,0", "`id`"]
    assert not Path(words[0]).parent.exists()


def test_a_folder_with_a_hostile_name(
    program: Any, audio: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / "a b; touch {peak_reduction} '$(id)'"
    hostile.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(hostile))
    out = External(f"{program()} {NAMES}").process(audio, 8000, **SETTING)
    np.testing.assert_allclose(out, -0.65 * audio, rtol=1e-6)
    assert not list(hostile.iterdir())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "print('x' * 999); sys.exit('knob  fell\\noff')",
            r"got 1; it said last: x+ knob fell off$",
        ),
        ("audio = audio[:-7]", r"expected 800 frames as in its input, got 793; take its latency out$"),
        ("import numpy; audio = numpy.append(audio, 0.0)", r"expected 800 frames as in its input, got 801"),
        ("rate = 44100", r"expected its output at 8000 Hz, got 44100 Hz"),
        ("audio = audio[:, None] * [1, 1]", r"expected one channel in its output, got 2"),
        ("audio[5] = float('nan')", r"expected finite samples in its output, got NaN or infinity"),
        ("sys.exit()", r"output.wav: expected an audio file, but there is nothing at this path"),
        ("open(sys.argv[2], 'w').write('no'); sys.exit()", r"output.wav: expected an audio file that can be read"),
    ],
    ids=["fails", "shorter", "longer", "rate", "stereo", "nan", "nothing", "no audio"],
)
def test_programs_that_go_wrong(program: Any, audio: np.ndarray, body: str, message: str) -> None:
    with pytest.raises(ChildProcessError, match=message) as caught:
        External(f"{program(body)} {NAMES}").process(audio, 8000, **SETTING)
    assert "a program.py" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_program_that_hangs(program: Any, audio: np.ndarray) -> None:
    """Even one that leaves a child behind, which holds whatever the program wrote to."""
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(4)'])"
    body = f"import subprocess, time; {child}; time.sleep(60)"
    began = time.monotonic()
    with pytest.raises(ChildProcessError, match=r"expected an end within 1.5 s, and it was"):
        External(f"{program(body)} {NAMES}", timeout_s=1.5).process(audio, 8000, **SETTING)
    assert time.monotonic() - began < 3.5


def test_a_program_that_is_not_there(audio: np.ndarray) -> None:
    with pytest.raises(ChildProcessError, match=r"no-such-program .*: expected a program that can be run"):
        External(f"no-such-program {NAMES}").process(audio, 8000, **SETTING)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", r"command: expected a program and its arguments, got nothing"),
        ("x {input} {output} {peak_reduction}", r"got none for compress_or_limit"),
        ("x {compress_or_limit} {peak_reduction}", r"got none for input, output"),
        (f"x {NAMES} {{gain}}", r"command: expected placeholders \{input\}, .*, got \{gain\}; write \{\{ for a brace"),
        (f"x {NAMES} {{}}", r"got \{\}"),
        (f"x {NAMES} {{input.name}}", r"got \{input.name\}"),
        (f"x {NAMES} {{input!r}}", r"expected plain placeholders such as \{input\}, got '\{input!r\}'"),
        (f"x {NAMES} {{input:9}}", r"expected plain placeholders"),
        (f"x {NAMES} {{input", r"command: expected '\}' before end of string in '\{input'; write \{\{ and \}\}"),
        (f"x {NAMES} 'open", r"command: No closing quotation in .*; close every quote"),
    ],
)
def test_templates_that_can_not_work(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        External(template)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"peak_reduction": 101}, r"peak_reduction: expected 0 to 100, got 101"),
        ({"peak_reduction": "65; reboot"}, r"peak_reduction: expected 0 to 100, got '65; reboot'"),
        ({"peak_reduction": np.nan}, r"peak_reduction: expected 0 to 100, got nan"),
        ({"compress_or_limit": 0.5}, r"compress_or_limit: expected 0 or 1, got 0.5"),
        ({"gain": 1}, r"controls: expected a position for each of compress_or_limit, peak_reduction"),
        ({"sample_rate": 44100.5}, r"sample_rate: expected whole Hz"),
        ({"audio": np.zeros(5, dtype=np.int16)}, r"audio: expected floating point of shape .* got int16"),
        ({"audio": np.zeros((1, 2, 3))}, r"audio: expected floating point of shape"),
        ({"audio": np.array([np.nan])}, r"audio: expected finite samples"),
    ],
)
def test_what_is_refused_before_anything_runs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        External(f"no-such-program {NAMES}").process(**{"audio": np.zeros(5), "sample_rate": 8000, **SETTING, **given})


def test_controls_are_not_called_like_the_files() -> None:
    with pytest.raises(ValueError, match=r"controls: expected other names than input and output, .* got input"):
        External("x {input} {output}", [la.Control("input")])


def test_a_timeout_is_a_time() -> None:
    with pytest.raises(ValueError, match=r"timeout_s: expected more than 0 s, got 0"):
        External(f"x {NAMES}", timeout_s=0)


@pytest.fixture(scope="module")
def lsp(lv2_device: ModuleType) -> ModuleType:
    """The plug-in, where it is installed."""
    if reason := lv2_device.missing():
        pytest.skip(reason)
    return lv2_device


def as_program(module: ModuleType, **fixed: float) -> External:
    """LSP's compressor as a program with a knob for the threshold's amplitude and one for the ratio."""
    ports = {**module.lsp_feedback(-20.0, 1.0), "sct": 0.0, **fixed}
    stays = " ".join(f"-c {name} {value!r}" for name, value in ports.items() if name not in ("al", "cr"))
    knobs = [la.Control("al", 0.001, 1.0), la.Control("cr", 1.0, 100.0)]
    return External(
        f"lv2apply -i {{input}} -o {{output}} {stays} -c al {{al}} -c cr {{cr}} {module.LSP_COMPRESSOR}", knobs
    )


def test_a_plug_in_as_a_program(lsp: ModuleType, audio: np.ndarray) -> None:
    out = as_program(lsp).process(audio, 22050, al=0.05, cr=4.0)
    ports = {**lsp.lsp_feedback(-20.0, 4.0), "sct": 0.0, "al": 0.05}
    np.testing.assert_array_equal(out, lsp.render(audio, 22050, ports))


@pytest.mark.parametrize(("threshold_db", "ratio"), [(-20.0, 4.0), (-32.0, 2.5)])
def test_threshold_and_ratio_of_a_plug_in_are_measured(lsp: ModuleType, threshold_db: float, ratio: float) -> None:
    """A foreign compressor whose controls say what it does: fed forward, peak detector, hard knee."""
    al = 10.0 ** (threshold_db / 20.0)
    found = measure(as_program(lsp), 16000, waveform="square", al=al, cr=ratio)
    assert found["not_measured"] == ""
    assert found["low_level_gain_db"] == pytest.approx(0.0, abs=1e-3)
    assert found["threshold_1db_dbfs"] == pytest.approx(threshold_db + ratio / (ratio - 1.0), abs=0.02)
    assert found["ratio_measured"] == pytest.approx(ratio, rel=1e-3)
    assert found["knee_width_db"] < 1.0
    assert found["knee_centre_dbfs"] == pytest.approx(threshold_db, abs=0.02)
    for share in (50, 90):  # no memory of the programme
        assert found[f"release_{share}_long_ms"] == pytest.approx(found[f"release_{share}_short_ms"], rel=1e-3)


def test_a_plug_in_hears_less_of_a_sine(lsp: ModuleType) -> None:
    """It smooths the level rather than the gain: a sine is softer to it by the same half dB everywhere."""
    found = measure(as_program(lsp), 16000, al=0.1, cr=4.0)
    assert found["ratio_measured"] == pytest.approx(4.0, rel=1e-3)
    assert found["threshold_1db_dbfs"] - (-20.0 + 4.0 / 3.0) == pytest.approx(0.5, abs=0.1)
