"""The command line: what it writes, and that every mistake is one clear line, status 2, and nothing left behind."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from commands import PREFIX, Ran

import ddsp_la2a as la
from baselines.numpy_compressor import compressor
from ddsp_la2a import compare
from ddsp_la2a.controls import parse_controls
from ddsp_la2a.evaluation.evaluate import PROTOCOL_ROWS, columns
from ddsp_la2a.evaluation.measure import MEASURED, measure, measured_curves
from ddsp_la2a.evaluation.report_measured import checked_measured
from ddsp_la2a.model.stages import CellStages
from ddsp_la2a.model.taper import Taper

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
PCM_16, PCM_24 = 2.0**-15, 2.0**-23


def in_a_fresh_process(*arguments: object, cwd: Path, **environment: str) -> Ran:
    ran = subprocess.run(
        [sys.executable, "-m", "ddsp_la2a", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def audio(programme):
    return programme(1, 1.0, 44100)


@pytest.fixture
def wav(tmp_path, audio):
    path = tmp_path / "in.wav"
    soundfile.write(path, audio, 44100, "PCM_16")
    return path


@pytest.fixture
def few_steps(monkeypatch, quick):
    """Fits end after a few steps, whatever the command asks for."""
    whole = la.fit

    def fit(*arguments, **options):
        quickly = {"method": "adam", "adam": quick(5), "segment_s": 3.0, "warmup_s": 0.0, "gauss_newton": None}
        return whole(*arguments, **{**options, **quickly})

    monkeypatch.setattr(la, "fit", fit)


def published(switch: int, knob: float) -> dict[str, float]:
    return {name: value.item() for name, value in la.load("published").params(switch, knob).numbers().items()}


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def here(run, tmp_path, recordings, wav, frame):
    """A working folder with one of everything that can be named by mistake."""
    work = Path.cwd()
    (work / "in.wav").write_bytes(wav.read_bytes())
    (work / "text.wav").write_text("RIFF? no", encoding="utf-8")
    (work / "empty").mkdir()
    (work / "full").mkdir()
    (work / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    (work / "good").symlink_to(recordings, target_is_directory=True)
    content = wav.read_bytes()
    (work / "cut.wav").write_bytes(content[:30])
    samples, _ = soundfile.read(wav, dtype="float32")
    for name, bad in (("nan", np.nan), ("inf", np.inf)):
        samples[30000] = bad
        soundfile.write(work / f"{name}.wav", samples, 44100, "FLOAT")
    soundfile.write(work / "nine.wav", np.zeros((100, 9), np.float32), 44100)
    soundfile.write(work / "fast.wav", np.zeros(100, np.float32), 300000)
    soundfile.write(work / "whole.flac", samples[:30000], 44100)
    flac = (work / "whole.flac").read_bytes()
    (work / "cut.flac").write_bytes(flac[: len(flac) // 2])
    (work / "headless.raw").write_bytes(content)
    (work / "old.wav").write_bytes(b"what was here before")
    frame.rename(columns={"take": "Take"}).to_csv(work / "columns.csv", index=False)
    frame.assign(peak_reduction=101).to_csv(work / "values.csv", index=False)
    frame[frame["split"] != "test"].to_csv(work / "no_test.csv", index=False)
    frame[frame["split"] != "train"].to_csv(work / "no_train.csv", index=False)
    frame.to_csv(work / "good.csv", index=False)
    la.GreyBox().save(work / "good.safetensors")
    damaged = bytearray((work / "good.safetensors").read_bytes())
    damaged[-3] ^= 1
    (work / "damaged.safetensors").write_bytes(damaged)
    (work / "cut.safetensors").write_bytes(damaged[: len(damaged) // 2])
    return work


def refused(arguments: str, message: str, *, name: str | None = None):
    return pytest.param(arguments, message, id=name or arguments or "nothing")


P = "--peak-reduction 65"

MISTAKES = [
    refused("nonsense", "No such command 'nonsense'"),
    refused("--nonsense", "No such option.*--nonsense"),
    refused("process", "Missing argument 'IN.wav'"),
    refused("process in.wav", "Missing argument 'OUT.wav'"),
    refused("process in.wav out.wav", "Missing option '--peak-reduction'"),
    refused(f"process in.wav out.wav {P} --nonsense", "No such option.*--nonsense"),
    refused("process in.wav out.wav --peak-reduction 101", "--peak-reduction.*101.* is not in the range 0<=x<=100"),
    refused("process in.wav out.wav --peak-reduction -1", "--peak-reduction.*-1.* is not in the range"),
    refused("process in.wav out.wav --peak-reduction abc", "--peak-reduction.*'abc' is not a valid float"),
    refused("process in.wav out.wav --peak-reduction nan", "peak_reduction: expected 0 to 100, got nan"),
    refused(f"process missing.wav out.wav {P}", "missing.wav: expected an audio file, but there is nothing"),
    refused(f"process empty out.wav {P}", "empty: expected an audio file, got a folder"),
    refused(f"process text.wav out.wav {P}", "text.wav: expected an audio file that can be read, got: "),
    refused(f"process cut.wav out.wav {P}", "cut.wav: expected an audio file that can be read, got: "),
    refused(f"process good.csv out.wav {P}", "good.csv: expected an audio file that can be read, got: "),
    refused(f"process in.wav in.wav {P}", "in.wav: expected another file than the input"),
    refused(f"process in.wav empty/../in.wav {P}", "expected another file than the input"),
    refused(f"process in.wav full {P}", "full: expected an ending such as .wav or .flac, got ''"),
    refused(f"process in.wav out.xyz {P}", "out.xyz: expected an ending such as .wav or .flac, got '.xyz'"),
    refused(f"process in.wav missing/out.wav {P}", "expected a file name in an existing folder; create missing first"),
    refused(f"process in.wav out.wav {P} --model missing", "missing: expected a model file.* got no file"),
    refused(f"process in.wav out.wav {P} --model empty", "empty: expected a model file.* got no file"),
    refused(f"process in.wav out.wav {P} --model in.wav", "in.wav: expected a ddsp_la2a model file"),
    refused(f"process in.wav out.wav {P} --model damaged.safetensors", "damaged.*expected content hash"),
    refused(f"process in.wav out.wav {P} --model cut.safetensors", "cut.safetensors: expected a ddsp_la2a model file"),
    refused(f"process nan.wav out.wav {P}", r"nan.wav: expected finite samples, got NaN or infinity at 0\.680 s"),
    refused(
        f"process inf.wav out.wav {P}",
        r"inf.wav: expected finite samples, got NaN or infinity at 0\.680 s",
    ),
    refused(f"process nan.wav old.wav {P}", "nan.wav: expected finite samples"),
    refused(f"process nine.wav out.flac {P}", "out.flac: "),
    refused(f"process fast.wav out.mp3 {P}", "out.mp3: "),
    refused(f"process cut.flac out.wav {P}", "cut.flac: "),
    refused(
        f"process headless.raw out.wav {P}",
        "headless.raw: ",
    ),
    refused("curves missing --out run", "missing: expected a model file"),
    refused("curves published", "Missing option '--out'"),
    refused("curves published --out full", "full: expected a new or empty folder, got one with something in it"),
    refused("curves published --out in.wav", "in.wav: expected a new or empty folder"),
    refused("curves damaged.safetensors --out run", "expected content hash"),
    refused("index missing", "missing: expected a folder with Train, Val and Test, but there is nothing"),
    refused("index empty", "empty: expected pairs of input_.* found 0 WAV files"),
    refused("index good.csv", "good.csv: expected a folder.* got a file"),
    refused("index good --out missing/frame.csv", "expected a file name in an existing folder; create missing first"),
    refused("index good --out full", "full: expected a file name, got a folder"),
    refused("check missing", "missing: expected a data set folder or a CSV file, but there is nothing"),
    refused("check empty", "empty: expected pairs of"),
    refused("check columns.csv", "columns.csv: expected the columns track_id, .*; add take"),
    refused("check values.csv", "values.csv, line 2, column peak_reduction: expected 0 to 100"),
    refused("check in.wav", "in.wav: expected a CSV file"),
    refused("check good --out missing/f.csv", "expected a file name in an existing folder"),
    refused("check good --page missing/f.html", "expected a file name in an existing folder"),
    refused("fit good", "Missing option '--out'"),
    refused("fit missing --out run", "missing: expected a data set folder or a CSV"),
    refused("fit empty --out run", "empty: expected pairs of"),
    refused("fit columns.csv --out run", "columns.csv: expected the columns"),
    refused("fit good --out run --split later-in-time", "expected at least 6 s to hold 4 s out"),
    refused("fit no_train.csv --out run", "expected rows whose split is 'train', got test, val"),
    refused("fit good --out full", "full: expected a new or empty folder"),
    refused("fit good --out run --method newton", "--method.*'newton' is not"),
    refused("fit good --out run --split random", "--split.*'random' is not one of 'shipped', 'later-in-time'"),
    refused("fit good --out run --max-steps 0", "--max-steps.*0 is not in the range"),
    refused("fit good --out run --seed -1", "--seed.*-1 is not in the range"),
    refused("fit good --out run --stft-weight -1", "--stft-weight.*-1.* is not in the range"),
    refused("fit good --out run --stages tube", "stages: expected none, or some of output-filter, .* got 'tube'"),
    refused("compare good --out run --stages none,shelf", "stages: expected none, or some of .* got 'none'"),
    refused("evaluate missing good --out run", "missing: expected a model file"),
    refused("evaluate published missing --out run", "missing: expected a data set"),
    refused(
        "evaluate published good --out run --rows later",
        "expected rows whose split is 'later', got test, train, val",
    ),
    refused("evaluate published good --out full", "full: expected a new or empty folder"),
    refused("compare good --out full", "full: expected a new or empty folder"),
    refused("compare missing --out run", "missing: expected a data set"),
    refused(
        "compare good --out run --models identity,magic",
        "models: expected some of dasp, identity, .*, got magic",
    ),
    refused(
        "compare no_test.csv --out run --models identity",
        "expected rows whose split is 'test', got train, val",
    ),
    refused("compare good --out run --budget -1", "--budget.*-1.* is not in the range"),
    refused("capture stimulus --seconds 60", "seconds: expected at least 75 for test signals and programme, got 60"),
    refused("capture stimulus --sample-rate 4000", "sample_rate: expected 8000 to 192000 Hz, got 4000"),
    refused("capture stimulus --out stimulus.xyz", "expected an audio file ending such as .wav or .flac, got '.xyz'"),
    refused("capture stimulus --out missing/s.wav", "expected a file name in an existing folder; create missing first"),
    refused("capture index empty", "Missing option '--controls'"),
    refused("capture index empty --controls ratio", "controls: expected name=low:high .* got 'ratio'"),
    refused("capture index missing --controls ratio=1:20", "missing: expected a folder with recordings"),
    refused("capture index empty --controls ratio=1:20", "empty/stimulus.wav: expected the stimulus that was played"),
    refused("capture index empty --controls r=1:20 --stimulus in.wav", "in.wav: expected the file that .* wrote, got"),
    refused("capture index empty --controls ratio=1:20 --source tape", "--source.*'tape' is not one of 'hardware'"),
    refused("capture index empty --controls ratio=1:20 --out missing/f.csv", "in an existing folder; create missing"),
    refused("tones", "Missing argument 'OUT.wav'"),
    refused("tones t.wav --sample-rate 4000", "--sample-rate.*4000 is not in the range 8000<=x<=192000"),
    refused("tones t.xyz", "t.xyz: expected an audio file ending such as .wav or .flac, got '.xyz'"),
    refused("tones missing/t.wav", "expected a file name in an existing folder; create missing first"),
    refused("tones full", "full: expected an audio file ending"),
    refused("measure", "Expected either MODEL or --recording"),
    refused("measure published --recording in.wav", "Expected either MODEL or --recording"),
    refused("measure published", "Missing option '--peak-reduction'"),
    refused("measure published --limit", "Missing option '--peak-reduction'"),
    refused("measure published --peak-reduction 101", "--peak-reduction.*101.* is not in the range"),
    refused(f"measure published {P} --set gain=1", "expected .* compress_or_limit, peak_reduction, got"),
    refused(f"measure missing {P}", "missing: expected a model file.* got no file"),
    refused(f"measure damaged.safetensors {P}", "damaged.*expected content hash"),
    refused(f"measure published {P} --out missing/m.csv", "expected a file name in an existing folder"),
    refused(f"measure published {P} --out full", "full: expected a file name, got a folder"),
    refused("measure --recording missing.wav", "missing.wav: expected an audio file, but there is nothing"),
    refused("measure --recording text.wav", "text.wav: expected an audio file that can be read, got: "),
    refused("measure --recording in.wav", "in.wav: expected .* all of the test signal, at least 68.5 s, got 1.0 s"),
    refused("measure --recording nan.wav", "nan.wav: expected finite samples, got NaN or infinity"),
    refused("measure --recording nine.wav", "nine.wav: expected one channel, got 9"),
    refused("measure --recording in.wav --limit", "Missing option '--peak-reduction'"),
    refused("measure --recording in.wav --set model=1", "expected a name of its own, got model"),
    refused("demo --out full", "full: expected a new or empty folder"),
    refused("demo --seed x", "--seed.*'x' is not a valid integer"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run, here, few_steps, arguments, message):
    before = files_of(here)
    ran = run(*arguments.split())
    assert re.search(message, ran.error), ran.error
    assert len(ran.error) < 700
    assert ran.out == ""
    assert files_of(here) == before
    assert (here / "old.wav").read_bytes() == b"what was here before"


WORKS_FIRST = (  # and shows a bar before it can know
    "process nan.wav",
    "process inf.wav",
    "process cut.flac",
    "fit good --out run --split later-in-time",
    "fit no_train.csv",
    "evaluate published good --out run --rows later",
    "compare no_test.csv",
)
IMMEDIATE = [m for m in MISTAKES if not str(m.id).startswith(WORKS_FIRST)]


@pytest.mark.parametrize(("arguments", "message"), IMMEDIATE)
def test_what_is_refused_before_any_work_says_nothing_else(run, here, arguments, message):
    ran = run(*arguments.split())
    assert ran.err == f"{PREFIX}{ran.error}\n"


def test_check_looks_first_where_it_shall_write(run, here, monkeypatch):
    def unexpected(*_, **__):
        raise AssertionError("hours of work for nothing")

    monkeypatch.setattr(la, "check", unexpected)
    for option in ("--out", "--page"):
        assert "existing folder" in run("check", "good", option, "missing/f.csv").error


@pytest.mark.parametrize(
    "arguments",
    ["process in.wav out.wav --peak-reduction 101", "check columns.csv", f"process text.wav out.wav {P}"],
)
def test_the_same_in_a_process_of_its_own(here, arguments):
    before = files_of(here)
    ran = in_a_fresh_process(*arguments.split(), cwd=here)
    assert ran.err == f"{PREFIX}{ran.error}\n"
    assert ran.out == ""
    assert files_of(here) == before


def test_no_command_shows_the_help(run):
    ran = run()
    shown = ran.out + ran.err
    assert "Commands:\n" in shown
    assert PREFIX not in shown


@pytest.mark.parametrize("switch", ["-h", "--help"])
def test_help(run, switch):
    ran = run(switch)
    assert ran.status == 0
    names = ("capture", "check", "compare", "curves", "demo", "evaluate", "fit", "index", "measure", "process", "tones")
    for name in names:
        assert f"\n  {name} " in ran.out, name
    assert run("process", switch).status == 0


def test_version(run, tmp_path):
    expected = f"ddsp-la2a, version {version('ddsp-la2a')}\n"
    assert run("--version") == (0, expected, "")
    assert in_a_fresh_process("--version", cwd=tmp_path) == (0, expected, "")


def test_ctrl_c_is_no_traceback(run, wav, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(la.Stream, "process", interrupted)
    ran = run("process", wav, "out.wav", "--peak-reduction", 65)
    assert ran.status == 130
    assert ran.err.splitlines()[-1] == "interrupted"
    assert not list(Path.cwd().iterdir())


# --- process --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "switch", "knob"), [((), 0, 65), (("--limit",), 1, 72.5)])
def test_process_mono(run, wav, options, switch, knob):
    ran = run("process", wav, "out.wav", "--peak-reduction", knob, *options)
    assert ran.status == 0
    assert ran.out == ""
    assert files_of(Path.cwd()) == {"out.wav"}
    before, _ = soundfile.read(wav, dtype="float32")
    after, rate = soundfile.read("out.wav", dtype="float64")
    assert rate == 44100
    assert soundfile.info("out.wav").subtype == "PCM_16"
    expected = compressor(before, 44100, **published(switch, knob)).output
    np.testing.assert_allclose(after, expected, rtol=0, atol=PCM_16)
    by_the_library = la.load("published").process(before, 44100, compress_or_limit=switch, peak_reduction=knob)
    np.testing.assert_allclose(after, by_the_library, rtol=0, atol=PCM_16)


@pytest.fixture
def stereo(tmp_path, programme):
    """Three seconds, more than one block, with a side that is soft where the other is loud."""
    both = np.stack([programme(1, 3.2, 48000), 0.2 * programme(2, 3.2, 48000)], axis=1)
    assert len(both) > 1 << 17
    soundfile.write(tmp_path / "stereo.wav", both, 48000, "PCM_24")
    return tmp_path / "stereo.wav"


@pytest.mark.parametrize("options", [(), ("--dual-mono",)])
def test_process_stereo_at_48_khz_with_24_bits(run, stereo, options):
    assert run("process", stereo, "out.wav", "--peak-reduction", 80, *options).status == 0
    before, _ = soundfile.read(stereo, dtype="float32")
    after, rate = soundfile.read("out.wav", dtype="float64")
    assert rate == 48000
    assert soundfile.info("out.wav").subtype == "PCM_24"
    assert after.shape == before.shape
    parameters = published(0, 80)
    if options:
        expected = [compressor(channel, 48000, **parameters).output for channel in before.T]
    else:
        loudest = compressor(np.abs(before).max(axis=1), 48000, **parameters)
        makeup = 10.0 ** (parameters["makeup_db"] / 20.0)
        expected = [makeup * loudest.gain * channel for channel in before.T]
    # Samples were float32 on the way.
    np.testing.assert_allclose(after.T, expected, rtol=1e-6, atol=2 * PCM_24)


def test_linked_channels_keep_the_image(run, stereo):
    run("process", stereo, "linked.wav", "--peak-reduction", 80)
    run("process", stereo, "dual.wav", "--peak-reduction", 80, "--dual-mono")
    linked, dual = soundfile.read("linked.wav")[0], soundfile.read("dual.wav")[0]
    before, _ = soundfile.read(stereo)
    audible = (np.abs(before) > 1e-3).all(axis=1)
    gains = linked[audible] / before[audible]
    np.testing.assert_allclose(gains[:, 0], gains[:, 1], rtol=1e-3)
    assert np.abs(dual[:, 1]).sum() > 1.05 * np.abs(linked[:, 1]).sum()


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("out.wav", "FLOAT"), ("out.flac", "PCM_16"), ("out.aiff", "FLOAT"), ("out.WAV", "FLOAT")],
)
def test_process_keeps_the_sample_format_where_it_can(run, tmp_path, audio, name, subtype):
    soundfile.write(tmp_path / "in.wav", audio, 44100, "FLOAT")
    assert run("process", tmp_path / "in.wav", name, "--peak-reduction", 65).status == 0
    assert soundfile.info(name).subtype == subtype
    after, _ = soundfile.read(name, dtype="float64")
    expected = la.load("published").process(audio, 44100, compress_or_limit=0, peak_reduction=65)
    np.testing.assert_allclose(after, expected, atol=1e-7 if subtype == "FLOAT" else PCM_16)


def test_process_with_a_model_of_ones_own(run, wav, tmp_path):
    model = la.GreyBox(la.ControlNet(seed=1))
    model.save(tmp_path / "mine.safetensors")
    assert run("process", wav, "out.wav", "--peak-reduction", 10, "--model", tmp_path / "mine.safetensors").status == 0
    before, _ = soundfile.read(wav, dtype="float32")
    after, _ = soundfile.read("out.wav", dtype="float64")
    expected = model.process(before, 44100, compress_or_limit=0, peak_reduction=10)
    np.testing.assert_allclose(after, expected, rtol=0, atol=PCM_16)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_process_with_an_output_filter_is_not_late(run, tmp_path, stereo, programme, rate):
    model = la.GreyBox(la.ControlNet(seed=1), stages=la.Stages())
    with torch.no_grad():
        model.device[-5:] = 0.1 * torch.tensor([0.2, -0.4, 0.8, -0.3, -0.9])
    model.save(tmp_path / "mine.safetensors")
    both = np.stack([programme(1, 3.2, rate), programme(2, 3.2, rate)], axis=1)
    soundfile.write("in.wav", both, rate, "FLOAT")
    options = ("--peak-reduction", 10, "--model", tmp_path / "mine.safetensors", "--dual-mono")
    assert run("process", "in.wav", "out.wav", *options).status == 0
    after, _ = soundfile.read("out.wav", dtype="float32")
    expected = model.process(both.T.copy(), rate, compress_or_limit=0, peak_reduction=10)
    assert after.shape == both.shape
    np.testing.assert_allclose(after, expected.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_process_of_hardly_anything_with_an_output_filter(run, tmp_path, frames):
    la.GreyBox(stages=la.Stages()).save(tmp_path / "mine.safetensors")
    soundfile.write("in.wav", np.full(frames, 1e-3, np.float32), 44100, "FLOAT")
    ran = run("process", "in.wav", "out.wav", "--peak-reduction", 65, "--model", tmp_path / "mine.safetensors")
    assert ran.status == 0, ran.err
    np.testing.assert_allclose(soundfile.read("out.wav")[0], np.full(frames, 1e-3), rtol=1e-5)


def test_process_replaces_what_was_there(run, wav):
    Path("out.wav").write_bytes(b"old")
    assert run("process", wav, "out.wav", "--peak-reduction", 65).status == 0
    assert soundfile.info("out.wav").frames == soundfile.info(wav).frames


def test_process_an_empty_file(run, tmp_path):
    soundfile.write(tmp_path / "in.wav", np.zeros(0, np.float32), 44100)
    assert run("process", tmp_path / "in.wav", "out.wav", "--peak-reduction", 65).status == 0
    assert soundfile.info("out.wav").frames == 0


def test_below_forty_the_setting_at_forty_is_held_aloud(run, wav):
    ran = run("process", wav, "low.wav", "--peak-reduction", 20)
    assert ran.status == 0
    said = [line for line in ran.err.splitlines() if line.startswith("warning: ")]
    assert said == ["warning: peak_reduction 20 lies outside the table (40–100): the setting at 40 is held"]
    again = run("process", wav, "forty.wav", "--peak-reduction", 40)
    assert "warning" not in again.err
    assert Path("low.wav").read_bytes() == Path("forty.wav").read_bytes()


@pytest.mark.parametrize(("subtype", "warned"), [("PCM_16", True), ("FLOAT", False)])
def test_clipping_is_said_where_it_happens(run, tmp_path, subtype, warned):
    """Make-up lifts the first sample of a burst above full scale before the attack has begun."""
    burst = np.zeros(4000, dtype=np.float32)
    burst[1000:] = 0.9999
    soundfile.write(tmp_path / "in.wav", burst, 44100, subtype)
    ran = run("process", tmp_path / "in.wav", "out.wav", "--peak-reduction", 40)
    assert ran.status == 0
    assert ("warning: out.wav: clipped, the peak was 1.08 of full scale; lower the input" in ran.err) == warned
    after, _ = soundfile.read("out.wav")
    assert after[1000] == pytest.approx(1.0 if warned else 1.0823, abs=1e-3)  # not wrapped around


# --- index, check, curves -------------------------------------------------------------------------------------------


def test_index_prints_the_frame(run, recordings, frame):
    ran = run("index", recordings)
    assert ran.status == 0
    assert ran.err == ""
    pd.testing.assert_frame_equal(la.read_frame(pd.read_csv(io.StringIO(ran.out))), frame, check_like=False)


def test_index_writes_the_frame(run, recordings, frame):
    ran = run("index", recordings, "--out", "frame.csv")
    assert ran == (0, "", "frame.csv: 5 pairs\n")
    pd.testing.assert_frame_equal(la.read_frame("frame.csv"), frame)


def test_check_of_a_sound_tree(run, recordings):
    ran = run("check", recordings, "--out", "findings.csv")
    assert ran.status == 0
    assert ran.out.splitlines()[-1] == "0 error, 0 warning, 5 information"
    assert (pd.read_csv("findings.csv")["finding"] == "lag").all()


def test_check_writes_a_page(run, recordings):
    ran = run("check", recordings, "--page", "check.html", "--out", "findings.csv")
    assert ran.status == 0
    assert "5 of 5 pairs can be fitted" in Path("check.html").read_text(encoding="utf-8")
    assert files_of(Path()) == {"check.html", "findings.csv"}


def test_check_shows_how_far_it_is_unless_all_is_known(run, recordings, tmp_path):
    root = shutil.copytree(recordings, tmp_path / "tree")
    for path in root.rglob("*.wav"):
        os.utime(path, (1e9, 1e9))
    first, again = run("check", root), run("check", root)
    assert "min of audio" in first.err
    assert again == (0, first.out, "")


def test_check_says_what_is_wrong_and_what_to_do(run, tmp_path, record):
    record(tmp_path / "tree", "Train", 1, (0, 50), 2.0)
    record(tmp_path / "tree", "Train", 2, (0, 55), 2.0, truth=(0, 50))
    target = tmp_path / "tree" / "Train" / "target_2_LA2A_3c__0__55.wav"
    audio, rate = soundfile.read(target, dtype="float32")
    soundfile.write(target, -audio, rate, "FLOAT")
    ran = run("check", tmp_path / "tree")
    assert ran.status == 0
    first, last = ran.out.splitlines()
    assert first.startswith("error: ")
    assert "target_2_LA2A_3c__0__55.wav: polarity_inverted (-1.0); multiply the target by -1" in first
    assert last.startswith("1 error, 0 warning")


TONE_FILES = {"measured.csv", "measured_static_curves.csv", "measured_steps.csv"}
MEASURED_FILES = {"measured.csv", "measured.svg"}
CURVE_FILES = {"curves.csv", "curves.svg", "static_curves.svg", "step_response.svg"}


def test_curves(run, tmp_path, recwarn):
    model = la.GreyBox(la.ControlNet(seed=1))
    model.save(tmp_path / "mine.safetensors")
    ran = run("curves", tmp_path / "mine.safetensors", "--out", "a/new/folder")
    assert ran == (0, "", "a/new/folder: curves.csv, curves.svg, static_curves.svg, step_response.svg\n")
    folder = Path("a/new/folder")
    assert files_of(folder) == CURVE_FILES
    pd.testing.assert_frame_equal(pd.read_csv(folder / "curves.csv"), model.curves())
    assert all("<text" in (folder / name).read_text(encoding="utf-8") for name in CURVE_FILES - {"curves.csv"})


def test_curves_beside_another_family(run, monkeypatch):
    """What engineers measure, of two models of two families, at the ends of the knob."""
    monkeypatch.setattr(compare, "_MEASURED_POSITIONS", 2)
    for name, model in (("cell", la.GreyBox(Taper(), stages=CellStages())), ("classical", la.GreyBox())):
        model.save(f"{name}.safetensors")
    ran = run("curves", "cell.safetensors", "--out", "out", "--beside", "classical.safetensors")
    assert ran.status == 0, ran.err
    assert {path.name for path in Path("out").iterdir()} == {*CURVE_FILES, "output_stage.svg", *MEASURED_FILES}
    measured = pd.read_csv("out/measured.csv")
    settings = measured[["model", "compress_or_limit", "peak_reduction"]].to_numpy().tolist()
    assert settings == [[name, *at] for name in ("cell", "classical") for at in ((0, 0), (0, 100), (1, 0), (1, 100))]
    direct = measured_curves({"cell": la.load("cell.safetensors")}, 44100.0, compress_or_limit=1, peak_reduction=100)
    assert measured["threshold_1db_dbfs"][3] == pytest.approx(direct["threshold_1db_dbfs"][0])
    assert "90 % release after 5 s, ms" in Path("out/measured.svg").read_text(encoding="utf-8")


def test_curves_beside_a_model_of_the_same_name(run, monkeypatch):
    """Every fit writes a model.safetensors."""
    monkeypatch.setattr(compare, "_MEASURED_POSITIONS", 2)
    paths = [Path(folder) / "model.safetensors" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        la.GreyBox().save(path)
    assert run("curves", paths[0], "--out", "out", "--beside", paths[1]).status == 0
    assert pd.read_csv("out/measured.csv")["model"].unique().tolist() == list(map(str, paths))


def test_measured_curves_of_several_knobs_are_refused_before_anything_is_written(run, strip_model):
    ran = run("curves", strip_model, "--out", "out", "--measure")
    assert ran.status == 2
    assert "measure: expected one knob that moves, got drive, ratio; hold others by --set" in ran.err
    assert not Path("out").exists()


def test_compare_refuses_a_cell_for_several_knobs_before_anything_is_fitted(run, strip_csv):
    ran = run("compare", strip_csv, "--out", "out", "--controls", STRIP, "--models", "optical-cell")
    assert ran.status == 2
    assert "models: expected a unit with one knob for optical-cell, got " in ran.err
    assert not Path("out").exists()


def test_curves_beside_another_unit(run, strip_model):
    ran = run("curves", "published", "--out", "out", "--beside", strip_model)
    assert ran.status == 2
    assert "beside: expected a model of the same controls, got " in ran.err
    assert not Path("out").exists()


def test_curves_of_the_published_settings(run):
    Path("out").mkdir()
    assert run("curves", "published", "--out", "out").status == 0
    assert files_of(Path("out")) == CURVE_FILES
    table = pd.read_csv("out/curves.csv").set_index(["compress_or_limit", "peak_reduction"])
    assert table.loc[(0, 40), "threshold_db"] == pytest.approx(-13.07595)
    assert table.loc[(0, 10), "threshold_db"] == table.loc[(0, 40), "threshold_db"]


# --- fit, evaluate, compare -----------------------------------------------------------------------------------------

RUN_FILES = {"output_stage.svg", "model.safetensors", "history.csv", "config.json"}
FIT_FILES = CURVE_FILES | RUN_FILES | {"frame.csv", "fit.json"}
SCORE_FILES = {"scores.csv", "blocks.csv", "gain_reduction.svg"}


def test_fit_scores_what_the_split_leaves(run, recordings):
    ran = run("fit", recordings, "--out", "run", "--method", "adam", "--max-steps", 3, "--seed", 5)
    assert ran.status == 0, ran.err
    assert files_of(Path("run")) == FIT_FILES | SCORE_FILES
    assert "run/model.safetensors: not converged" in ran.err
    scored = pd.read_csv("run/scores.csv")
    assert list(scored.columns) == list(columns())
    assert set(scored["model"]) == {compare.GREY_BOX, *PROTOCOL_ROWS}
    assert set(scored["protocol"]) == {"shipped"}
    assert set(scored["track_id"]) == {121, 122}
    grey = scored[scored["model"] == compare.GREY_BOX]
    assert set(grey["seed"]) == {5}
    assert grey.set_index("track_id")["setting_seen"].astype(bool).to_dict() == {121: True, 122: False}
    info = la.load("run/model.safetensors").info
    assert (info["seed"], info["fit"]["adam"]["max_steps"]) == (5, 3)
    assert "mean error" in ran.out
    assert "hardware" in ran.out
    assert "nothing adapted to the scored seconds" in ran.out


def test_fit_leaves_wrong_recordings_out_aloud(run, tmp_path, record, few_steps):
    for track_id, knob in ((1, 50), (2, 55), (3, 60)):
        record(tmp_path / "tree", "Train", track_id, (0, knob), 3.0, truth=(0, 50))
    target = tmp_path / "tree" / "Train" / "target_2_LA2A_3c__0__55.wav"
    audio, rate = soundfile.read(target, dtype="float32")
    soundfile.write(target, -audio, rate, "FLOAT")
    ran = run("fit", tmp_path / "tree", "--out", "run")
    assert ran.status == 0, ran.err
    assert "left out: " in ran.err
    assert "polarity_inverted" in ran.err
    assert la.load("run/model.safetensors").info["settings_seen"] == [[0, 50], [0, 60]]
    assert files_of(Path("run")) == FIT_FILES  # there is nothing to score


def test_fit_and_score_later_in_time(run, tmp_path, record, few_steps):
    record(tmp_path / "tree", "Train", 1, (0, 50), 6.5)
    ran = run("fit", tmp_path / "tree", "--out", "run", "--split", "later-in-time", "--per-setting")
    assert ran.status == 0, ran.err
    scored = pd.read_csv("run/scores.csv")
    assert set(scored["protocol"]) == {"later-in-time"}
    assert set(scored["scored_from_s"]) == {2.5}


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ((), la.Stages()),
        (("--stages", "none"), la.Stages(False, False)),
        (("--stages", "feedback, shelf"), la.Stages(False, False, True, True)),
    ],
)
def test_fit_with_stages(run, recordings, few_steps, options, stages):
    ran = run("fit", recordings, "--out", "run", *options)
    assert ran.status == 0, ran.err
    assert la.load("run/model.safetensors").stages == stages


def test_compare_with_stages(run, recordings, few_steps):
    ran = run("compare", recordings, "--out", "out", "--models", "identity", "--stages", "slow-release")
    assert ran.status == 0, ran.err
    assert la.load("out/model.safetensors").stages == la.Stages(output_filter=False)


def test_an_interrupted_fit_leaves_the_model(run, recordings, monkeypatch):
    from ddsp_la2a.fitting import gradient

    steps = []

    class Interrupted(gradient.SegmentLoss):
        def forward(self, *signals):
            steps.append(1)
            if len(steps) > 12:
                raise KeyboardInterrupt
            return super().forward(*signals)

    monkeypatch.setattr(gradient, "SegmentLoss", Interrupted)
    ran = run("fit", recordings, "--out", "run", "--method", "adam", "--max-steps", 100)
    assert ran.status == 130, ran.err
    assert files_of(Path("run")) == FIT_FILES | {"checkpoint.safetensors"}
    assert "not converged" in ran.err
    assert ran.err.splitlines()[-1] == "interrupted; to go on: ddsp-la2a fit --resume run"
    assert la.load("run/model.safetensors").info["validation_esr"] is not None


@pytest.fixture
def interrupted_run(run, recordings, monkeypatch):
    """A Gauss–Newton fit into the folder ``run``, ended by Ctrl-C in a pass of the middle; and what that pass is."""
    from ddsp_la2a.fitting import gauss_newton
    from ddsp_la2a.fitting.recordings import Recordings

    monkeypatch.setattr(gauss_newton, "_NETWORKS", 1)
    products, passes, last = Recordings.products, [], [5]

    def limited(*arguments):
        if len(passes) == last[0]:
            raise KeyboardInterrupt
        passes.append(1)
        return products(*arguments)

    monkeypatch.setattr(Recordings, "products", limited)
    options = ("--method", "gauss-newton", "--stages", "none", "--max-steps", 3, "--seed", 1)
    ran = run("fit", recordings, "--out", "run", *options)
    assert ran.status == 130, ran.err
    assert la.load("run/model.safetensors").info["converged"] is False
    last[0] = -1
    yield options
    passes.clear()


def test_fit_goes_on(run, recordings, interrupted_run):
    ran = run("fit", "--resume", "run")
    assert ran.status == 0, ran.err
    assert files_of(Path("run")) - {"output_stage.svg"} == (FIT_FILES | SCORE_FILES) - {"output_stage.svg"}
    assert run("fit", recordings, "--out", "whole", *interrupted_run).status == 0
    found, expected = (la.load(f"{name}/model.safetensors") for name in ("run", "whole"))
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    histories = (pd.read_csv(f"{name}/history.csv").drop(columns="seconds") for name in ("run", "whole"))
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    again = run("fit", "--resume", "run")
    assert again.status == 0
    assert "finished; nothing to go on with" in again.err


def test_an_interrupted_fit_is_not_begun_over(run, recordings, interrupted_run):
    ran = run("fit", recordings, "--out", "run", *interrupted_run)
    assert ran.status == 2
    assert "to go on with that: ddsp-la2a fit --resume run" in ran.error


def test_a_killed_fit_begins_anew_where_nothing_was_kept(run, recordings, interrupted_run):
    for name in ("checkpoint.safetensors", "model.safetensors"):
        Path("run", name).unlink()
    ran = run("fit", "--resume", "run")
    assert ran.status == 0, ran.err
    assert la.load("run/model.safetensors").info["seed"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--resume nowhere", "nowhere: expected the --out of a fit, got a folder without fit.json"),
        ("--resume run --seed 2", "resume: expected nothing else, got seed; run knows its recordings and options"),
        ("--resume run --out other", "resume: expected nothing else, got out"),
        ("--out other", "Missing argument ROOT|frame.csv"),
    ],
)
def test_mistakes_about_going_on(run, here, arguments, message):
    ran = run("fit", *arguments.split())
    assert ran.status == 2
    assert message in ran.error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run/fit.json: expected the options of a fit, got something else"),
        ("[1]", "run/fit.json: expected the options of a fit, got something else"),
        ("{}", "run/fit.json: expected the options of a fit, got something else"),
        ('{"format_version": 9}', "run/fit.json: expected format version 1, got 9"),
        ('{"format_version": 1}', "run: expected the options of a fit, got others"),
        ('{"format_version": 1, "controls": 3}', "run: expected the options of a fit, got others"),
    ],
)
def test_damaged_options_of_a_run(run, text, message):
    Path("run").mkdir()
    Path("run/fit.json").write_text(text, encoding="utf-8")
    ran = run("fit", "--resume", "run")
    assert ran.status == 2
    assert message in ran.error


def test_evaluate(run, recordings, tmp_path):
    la.GreyBox().save(tmp_path / "mine.safetensors")
    ran = run("evaluate", tmp_path / "mine.safetensors", recordings, "--out", "out", "--rows", "val")
    assert ran.status == 0, ran.err
    assert files_of(Path("out")) == {"scores.csv"}
    scored = pd.read_csv("out/scores.csv")
    assert list(scored.columns) == list(columns())
    assert scored[["model", "track_id", "split"]].to_numpy().tolist() == [["mine", 111, "val"]]
    assert "mine" in ran.out


def test_evaluate_published(run, recordings):
    ran = run("evaluate", "published", recordings, "--out", "out")
    assert ran.status == 0, ran.err
    assert set(pd.read_csv("out/scores.csv")["model"]) == {"published"}


def test_compare_writes_one_table_of_all(run, recordings, few_steps):
    """With the rows that no table may leave out, whatever models are asked for; and a report of it all."""
    ran = run("compare", recordings, "--out", "out", "--models", "identity,lstm-32", "--budget", 1, "--seeds", 2)
    assert ran.status == 0, ran.err
    found = {name for name in files_of(Path("out")) if not name.startswith("trained")}
    assert found == CURVE_FILES | RUN_FILES | SCORE_FILES | TONE_FILES | {"report.html", "grey-box.html"}
    assert sorted(path.name for path in Path("out/trained/lstm-32").iterdir()) == ["seed-0", "seed-1"]
    scored = pd.read_csv("out/scores.csv")
    assert set(scored["model"]) == {"grey-box", "lstm-32", *PROTOCOL_ROWS}
    assert len(scored) == 2 * 7
    assert scored[scored["model"] == "lstm-32"]["seed"].tolist() == [0, 1] * 2
    blocks = pd.read_csv("out/blocks.csv")
    assert set(blocks["model"]) == set(scored["model"])
    measured = pd.read_csv("out/measured.csv")
    models = ["grey-box", "published-gain", "published-filter", "lstm-32"]
    assert sorted(measured["model"]) == sorted(models * 2)
    for name in TONE_FILES:
        assert set(pd.read_csv(Path("out", name))["model"]) == set(models)
    assert sorted(set(zip(measured["compress_or_limit"], measured["peak_reduction"], strict=True))) == [
        (0, 50),
        (1, 80),
    ]
    report = Path("out/report.html").read_text(encoding="utf-8")
    for words in ("Measured on a tone", "Static curves", "Step response"):
        assert words in report
    assert "not distinguishable" in report
    assert "lstm-32" in report
    lines = ran.out.splitlines()
    assert sum("hardware" in line for line in lines) == 6
    assert lines[-1] == "not converged within its budget, so not a verdict: grey-box, lstm-32"
    picture = Path("out/gain_reduction.svg").read_text(encoding="utf-8")
    for words in ("target", "grey-box", "lstm-32", "(hardware)"):
        assert words in picture


def program(factor: str) -> str:
    """A command that turns the input up, and would tell if it were given anything else."""
    code = (
        "import sys, soundfile as s; x, r = s.read(sys.argv[1], dtype='float32'); "
        f"s.write(sys.argv[2], {factor} * x, r, 'FLOAT')"
    )
    words = (sys.executable, "-c", code, "{input}", "{output}", "{peak_reduction}", "{compress_or_limit}")
    return shlex.join(words)


def test_compare_with_a_program(run, recordings, few_steps):
    ran = run("compare", recordings, "--out", "out", "--models", "identity", "--program", f"twice={program('2')}")
    assert ran.status == 0, ran.err
    scored = pd.read_csv("out/scores.csv").set_index(["track_id", "model"])
    for track in (121, 122):
        offset = scored.loc[(track, "identity"), "gain_offset_db"] - scored.loc[(track, "twice"), "gain_offset_db"]
        assert offset == pytest.approx(20.0 * np.log10(2.0), abs=1e-6)
    assert "twice" in Path("out/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("twice", "program: expected NAME=COMMAND, got 'twice'"),
        ("grey-box=x {input} {output}", "program: expected a name of its own, got grey-box"),
        ("mine=x {input}", "command: expected "),
    ],
)
def test_programs_that_cannot_be(run, recordings, said, message):
    ran = run("compare", recordings, "--out", "out", "--program", said)
    assert ran.status == 2
    assert message in ran.err
    assert not Path("out").exists()


def test_a_program_that_fails_is_one_line(run, recordings, few_steps):
    failing = shlex.join([sys.executable, "-c", "raise SystemExit('no licence')", "{input}", "{output}"])
    both = failing + " {peak_reduction} {compress_or_limit}"
    ran = run("compare", recordings, "--out", "out", "--models", "identity", "--program", f"mine={both}")
    assert ran.status == 2
    assert "no licence" in ran.err
    assert "Traceback" not in ran.err


# --- other units ----------------------------------------------------------------------------------------------------

STRIP = "speed=switch:1:3,drive=0:10,ratio=0:1"


@pytest.fixture
def strip_csv(strip, tmp_path):
    path = tmp_path / "strip.csv"
    frame = strip.record(tmp_path, [(1, 2.0, 0.2), (3, 8.0, 0.9), (3, 4.0, 0.5)], 4.0)
    frame.assign(split=["train", "train", "test"]).to_csv(path, index=False)
    return path


@pytest.fixture
def strip_model(strip, tmp_path):
    path = tmp_path / "strip.safetensors"
    la.GreyBox(la.ControlNet(seed=1, controls=strip.controls)).save(path)
    return path


def test_fit_and_evaluate_another_unit(run, strip_csv, few_steps):
    ran = run("fit", strip_csv, "--out", "run", "--controls", STRIP)
    assert ran.status == 0, ran.err
    assert files_of(Path("run")) == FIT_FILES | SCORE_FILES
    scored = pd.read_csv("run/scores.csv")
    assert list(scored.columns) == list(columns(parse_controls(STRIP)))
    assert set(scored["model"]) == {"grey-box", "identity", "identity-filter"}
    assert "speed 3, drive 4, ratio 0.5" in Path("run/gain_reduction.svg").read_text(encoding="utf-8")
    assert la.load("run/model.safetensors").controls == parse_controls(STRIP)
    for options in ([], ["--controls", STRIP]):
        again = run("evaluate", "run/model.safetensors", strip_csv, "--out", f"again{len(options)}", *options)
        assert again.status == 0, again.err
        scores = pd.read_csv(f"again{len(options)}/scores.csv")["esr"]
        assert scores.tolist() == pytest.approx(scored.loc[scored["model"] == "grey-box", "esr"].tolist())


@pytest.mark.slow
def test_compare_leaves_out_what_knows_the_la2a_only(run, strip_csv, few_steps):
    ran = run("compare", strip_csv, "--out", "out", "--controls", STRIP, "--budget", 1)
    assert ran.status == 0, ran.err
    assert set(pd.read_csv("out/scores.csv")["model"]) == {
        *("grey-box", "identity", "identity-filter", "nearest-setting", "numpy-single"),
        *("dasp", "lstm-32", "tcn-300-c", "tcn-small"),
    }


def test_check_another_unit(run, strip_csv):
    ran = run("check", strip_csv, "--controls", STRIP)
    assert ran.out.splitlines()[-1] == "0 error, 0 warning, 3 information"


def test_process_and_curves_of_another_unit(run, wav, strip_model):
    at = ["--set", "speed=2", "--set", "drive=3.5", "--set", "ratio=0.5"]
    assert run("process", wav, "out.wav", "--model", strip_model, *at).status == 0
    samples, _ = soundfile.read(wav, dtype="float32")
    expected = la.load(strip_model).process(samples, 44100, speed=2, drive=3.5, ratio=0.5)
    np.testing.assert_allclose(soundfile.read("out.wav")[0], expected, atol=PCM_16)
    assert run("curves", strip_model, "--out", "all").status == 0
    assert set(pd.read_csv("all/curves.csv")["swept"]) == {"drive", "ratio"}
    assert run("curves", strip_model, "--out", "one", "--set", "drive=2").status == 0
    assert set(pd.read_csv("one/curves.csv")["drive"]) == {2}
    assert files_of(Path("one")) == CURVE_FILES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "process {wav} o.wav --model {model}",
            "controls: expected a position for each of speed, drive, ratio, got none",
        ),
        ("process {wav} o.wav --model {model} --set drive=1", "got drive"),
        ("process {wav} o.wav --model {model} --set drive", "set: expected NAME=VALUE, got 'drive'"),
        ("process {wav} o.wav --model {model} --limit", "expected --set speed=… .*, got an LA-2A's option"),
        ("process {wav} o.wav --model {model} --peak-reduction 5", "expected --set speed=… .*, got an LA-2A's option"),
        ("process {wav} o.wav --peak-reduction 5 --set gain=1", "expected .* compress_or_limit, peak_reduction, got"),
        ("curves {model} --out o --set gain=1", "curves: expected positions of speed, drive, ratio, got gain"),
        ("curves {model} --out o --set drive=1 --set ratio=0", "expected one knob that moves"),
        ("fit {csv} --out o", "expected the columns track_id, .* add track_id, take, compress_or_limit"),
        ("fit {csv} --out o --controls drive", "controls: expected name=low:high or name=switch:low:high, got 'drive'"),
        ("fit {csv} --out o --controls drive=0:1", "column drive: expected 0 to 1, got '2.0'"),
        (
            "compare {csv} --out o --models published-gain --controls " + STRIP,
            "published: expected the LA-2A's controls",
        ),
    ],
)
def test_mistakes_with_controls(run, wav, strip_model, strip_csv, few_steps, arguments, message):
    ran = run(*(word.format(wav=wav, model=strip_model, csv=strip_csv) for word in arguments.split()))
    assert re.search(message, ran.error), ran.error
    if not arguments.startswith("compare"):  # what was fitted before is kept
        assert files_of(Path.cwd()) == set()


# --- capture --------------------------------------------------------------------------------------------------------


def test_capture_from_stimulus_to_frame(run, caplog):
    """Two settings through the reference compressor, one of them noisy; then one that stopped too early."""
    ran = run("capture", "stimulus", "--seconds", 75, "--sample-rate", 8000, "--out", "stimulus.wav")
    assert (ran.status, ran.out) == (0, "")
    assert ran.err.startswith("stimulus.wav: 75 s; record it through the unit once a setting")
    played, rate = soundfile.read("stimulus.wav")
    assert (rate, len(played), soundfile.info("stimulus.wav").subtype) == (8000, 600000, "PCM_24")
    Path("unit").mkdir()
    how = {"knee_db": 6.0, "attack_ms": 5.0, "release_ms": 200.0}
    for ratio, noise in ((2, 1e-5), (4, 1e-2)):
        output = compressor(played, rate, threshold_db=-30.0, ratio=ratio, **how).output
        output = np.concatenate([np.zeros(321), output, np.zeros(rate)])
        output += noise * np.random.default_rng(ratio).standard_normal(len(output))
        soundfile.write(f"unit/a_ratio={ratio}.wav", output, rate, "PCM_24")

    ratios = ("--controls", "ratio=1:20", "--stimulus", "stimulus.wav", "--device", "reference")
    ran = run("capture", "index", "unit", *ratios, "--source", "simulated", "--out", "frame.csv")
    assert ran.status == 0, ran.err
    assert re.search(r"unit/a_ratio=4\.wav: noise floor at -40\.\d dBFS", caplog.text)
    assert ran.err.splitlines()[-1] == f"frame.csv: 2 recordings, aligned in {Path('unit/aligned')}"
    frame = pd.read_csv("frame.csv")
    assert frame["processed_audio_path"].tolist() == ["unit/aligned/a_ratio=2.wav", "unit/aligned/a_ratio=4.wav"]
    assert frame["raw_audio_path"].tolist() == ["stimulus.wav"] * 2
    assert frame["offset_samples"].tolist() == [321, 321]
    assert set(frame["device"]) == {"reference"}

    ran = run("capture", "index", "unit", *ratios)
    assert ran.status == 0
    assert len(pd.read_csv(io.StringIO(ran.out))) == 2

    soundfile.write("unit/a_ratio=3.wav", played[:-80000], rate, "PCM_24")
    soundfile.write("unit/a_ratio=5.wav", np.stack([played, played], axis=1), rate, "PCM_24")
    before = files_of(Path())
    ran = run("capture", "index", "unit", *ratios, "--out", "other.csv")
    assert "2 recordings can't be used, nothing was written: - " in ran.error
    assert "a_ratio=3.wav: expected all of the stimulus, got a recording that lacks 10.00 s at its end" in ran.error
    assert "a_ratio=5.wav: expected one channel, got 2" in ran.error
    assert files_of(Path()) == before


# --- measure --------------------------------------------------------------------------------------------------------


def printed(ran: Ran) -> dict[str, str]:
    assert ran.status == 0, ran.err
    return {line[:20].rstrip(): line[21:] for line in ran.out.splitlines()}


def test_measure_prints_what_the_library_measures(run):
    numbers = printed(run("measure", "published", "--peak-reduction", 72, "--limit"))
    expected = measure(la.load("published"), compress_or_limit=1, peak_reduction=72)
    assert list(numbers) == ["model", "compress_or_limit", "peak_reduction", *MEASURED]
    assert [numbers.pop(name) for name in ("model", "compress_or_limit", "peak_reduction")] == ["published", "1", "72"]
    assert numbers == {name: f"{expected[name]:.4g}" for name in MEASURED}


def test_measure_writes_a_table_that_the_report_takes(run):
    assert run("measure", "published", "--peak-reduction", 72, "--out", "m.csv").out == ""
    table = pd.read_csv("m.csv")
    assert len(table) == 1
    assert checked_measured(table, la.load("published").controls)["model"].tolist() == ["published"]
    expected = measure(la.load("published"), compress_or_limit=0, peak_reduction=72)
    assert table[list(MEASURED)].iloc[0].to_dict() == pytest.approx({name: expected[name] for name in MEASURED})


def test_a_number_that_is_missing_has_its_reason(run):
    assert run("tones", "tones.wav", "--sample-rate", 8000).status == 0
    numbers = printed(run("measure", "--recording", "tones.wav"))
    assert list(numbers) == ["model", *MEASURED]
    assert numbers["threshold_1db_dbfs"] == "none: no gain reduction of 1 dB up to 0 dBFS"
    assert numbers["release_90_long_ms"] == "none: the loud passage reduces the gain by less than 1 dB"
    assert "not_measured" not in numbers


def test_measure_another_unit(run, strip_model):
    at = ["--set", "speed=2", "--set", "drive=3.5", "--set", "ratio=0.5"]
    assert printed(run("measure", strip_model, *at))["drive"] == "3.5"
    assert "expected --set speed=… " in run("measure", strip_model, "--peak-reduction", 5).error


@pytest.mark.parametrize("late", [0, 100000])
def test_tones_out_and_back(run, late):
    """What a recording of the tones measures is what the model measures, whenever the recorder was started."""
    ran = run("tones", "tones.wav", "--sample-rate", 16000)
    assert (ran.status, ran.out) == (0, "")
    assert ran.err.startswith("tones.wav: 69 s; record it through the unit at one setting")
    assert run("process", "tones.wav", "unit.wav", "--peak-reduction", 80).status == 0
    output, rate = soundfile.read("unit.wav")
    assert rate == 16000
    output = np.concatenate([np.zeros(late), -0.5 * output, np.zeros(late)])
    soundfile.write("unit.wav", output, rate, "PCM_24")
    numbers = printed(run("measure", "--recording", "unit.wav", "--peak-reduction", 80))
    expected = measure(la.load("published"), 16000, compress_or_limit=0, peak_reduction=80)
    expected["low_level_gain_db"] -= 20.0 * np.log10(2.0)
    assert (numbers["model"], numbers["peak_reduction"]) == ("unit", "80")
    for name in MEASURED:
        assert float(numbers[name]) == pytest.approx(expected[name], rel=0.01, abs=0.05), name


def test_a_recording_of_something_else(run, programme):
    soundfile.write("long.wav", programme(1, 80.0, 8000), 8000)
    assert "long.wav: expected a recording of the test signal, found none of its steps" in run(
        "measure", "--recording", "long.wav"
    ).error  # fmt: skip


# --- from a wheel ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(tmp_path, wav):
    """Built without a network, installed beside nothing but its dependencies, run where there is no checkout."""
    if find_spec("build") is None or find_spec("hatchling") is None:
        pytest.skip("build and hatchling are needed to build a wheel without a network")

    def call(*arguments: object, **more: str) -> Ran:
        ran = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=empty,
            env={**os.environ, "OMP_NUM_THREADS": "1", **more},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    empty = tmp_path / "empty"
    empty.mkdir()
    call("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "ddsp_la2a/cli.py",
        "ddsp_la2a/py.typed",
        "ddsp_la2a/model/published_4a2a.json",
        "baselines/registry.py",
        "baselines/numpy_compressor.py",
    ):
        assert name in names, name
    assert any(name.endswith("entry_points.txt") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ddsp_la2a", "baselines"}
    assert not [name for name in names if "__pycache__" in name]

    target = tmp_path / "installed"
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    call(*pip, "--target", target, wheel)
    environment = {"PYTHONPATH": str(target)}
    where = "import ddsp_la2a, baselines; print(ddsp_la2a.__file__); print(baselines.__file__)"
    located = call("-c", where, **environment).out.splitlines()
    assert all(Path(line).is_relative_to(target) for line in located)

    processed = call("-m", "ddsp_la2a", "process", wav, "out.wav", "--peak-reduction", 65, **environment)
    assert "compiling once" in processed.err
    assert soundfile.info(empty / "out.wav").frames == soundfile.info(wav).frames
    call("-m", "ddsp_la2a", "curves", "published", "--out", "curves", **environment)
    assert files_of(empty) == {"out.wav", "curves", *(f"curves/{name}" for name in CURVE_FILES)}

    demo = call("-m", "ddsp_la2a", "demo", "--out", "demo", "--budget", 5, **environment)
    assert "all numbers are from a simulated device" in demo.out
    assert set(pd.read_csv(empty / "demo" / "measured.csv")["model"]) > {"target", "grey-box"}
    scored = pd.read_csv(empty / "demo" / "scores.csv")
    assert set(scored["source"]) == {"simulated"}
    errors = scored.groupby("model")["esr_dc_filtered"].mean()
    assert errors["grey-box"] < 0.01
    assert (errors["grey-box"] < errors[["numpy-single", "lstm-32", "identity-filter", "identity"]]).all()
