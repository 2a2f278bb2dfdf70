"""The command line. Errors are one line and exit status 2."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import soundfile
from tqdm import tqdm

import ddsp_la2a as la
from ddsp_la2a import compare as workflow
from ddsp_la2a.cli_capture import capture
from ddsp_la2a.console import bar as _bar
from ddsp_la2a.console import run_command
from ddsp_la2a.console import say as _say
from ddsp_la2a.controls import LA2A_CONTROLS, parse_controls
from ddsp_la2a.data.audio import audio_info
from ddsp_la2a.data.index import write_frame
from ddsp_la2a.data.splits import PROTOCOLS, split_by
from ddsp_la2a.dsp.staged_kernels import needs_compiling
from ddsp_la2a.evaluation.evaluate import summary
from ddsp_la2a.files import replacing
from ddsp_la2a.fitting.fit import METHODS
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.fitting.gradient import AdamSettings
from ddsp_la2a.model.stages import HARDWARE, parse_stages, stages_text

_BLOCK_FRAMES = 1 << 17
_NOT_WRITTEN = {"RAW", "SD2"}  # one without a header, one with a second file beside it
_VORBIS_HZ = 192000  # libvorbis ends the process at 300 kHz

_source = click.argument("source", metavar="ROOT|frame.csv", type=click.Path(path_type=Path))
_out_folder = click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder for the results.")
_seed = click.option("--seed", default=0, type=click.IntRange(0), show_default=True)
_split = click.option(
    "--split", default="shipped", type=click.Choice(PROTOCOLS), show_default=True, help="What is fitted, what scored."
)


def _parsed_controls(_: Any, __: Any, text: str | None) -> tuple[la.Control, ...] | None:
    return None if text is None else parse_controls(text)


_controls = click.option(
    "--controls",
    callback=_parsed_controls,
    help="What the unit lets its user set, such as threshold=-60:0,mode=switch:1:3; default: the LA-2A's.",
)


def _parsed_stages(_: Any, __: Any, text: str) -> la.Stages:
    return parse_stages(text)


_stages = click.option(
    "--stages",
    default=stages_text(HARDWARE),
    callback=_parsed_stages,
    show_default=True,
    help="What the model has beside the compressor: some of output-filter, slow-release, shelf, feedback; or none.",
)


def _parsed_positions(_: Any, __: Any, texts: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, position = text.partition("=")
        try:
            found[name.strip()] = float(position)
        except ValueError:
            raise ValueError(f"set: expected NAME=VALUE, got {text!r}") from None
    return found


_positions = click.option(
    "--set", "positions", multiple=True, callback=_parsed_positions, metavar="NAME=VALUE", help="A control's position."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(la.__version__, prog_name="ddsp-la2a")
def command() -> None:
    """Fit, look at and use explicit models of the LA-2A levelling amplifier."""


command.add_command(capture)


def _announce_compiling() -> None:
    if needs_compiling():
        _say("compiling once (some seconds; later runs start at once)")


def _checked(source: Path, controls: Sequence[la.Control]) -> pd.DataFrame:
    frame, findings = workflow.clean_frame(source, _bar("check", "pair"), controls)
    errors = findings[findings["severity"] == "error"]
    for found in errors.itertuples(index=False):
        _say(f"left out: {found.path}: {found.finding}")
    return frame


def _print_summary(scored: pd.DataFrame) -> None:
    table = summary(scored).reset_index()
    for name in ("esr_dc_filtered", "worst", "esr_best_gain"):
        table[name] = (100.0 * table[name]).map("{:.2f} %".format)
    names = {"esr_dc_filtered": "mean error", "worst": "worst error", "esr_best_gain": "at best gain"}
    shown = table.rename(columns=names).drop(columns=["ldr_difference_db", "lufs_difference"])
    shown = shown.astype({"parameters": "Int64"})
    formats = {
        "gain_offset_db": "{:+.2f}",
        "mr_stft": "{:.3f}",
        "real_time_factor": "{:.0f}",
        "train_seconds": "{:.0f}",
    }
    for name, form in formats.items():
        shown[name] = [form.format(value) if pd.notna(value) else "" for value in shown[name]]
    with pd.option_context("display.width", 200, "display.max_columns", None):
        click.echo(shown.astype(object).where(shown.notna(), "").to_string(index=False))
    click.echo("error: DC-filtered error-to-signal ratio, nothing adapted to the scored seconds but in 'at best gain'")


@command.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="CSV file to write.")
def index(root: Path, out: Path | None) -> None:
    """List the pairs of recordings below ROOT."""
    frame = la.index(root)
    if out is None:
        click.echo(frame.to_csv(index=False), nl=False)
    else:
        write_frame(frame, out)
        _say(f"{out}: {len(frame)} pairs")


@command.command()
@_source
@click.option("--out", type=click.Path(path_type=Path), help="CSV file for all findings.")
@_controls
def check(source: Path, out: Path | None, controls: tuple[la.Control, ...] | None) -> None:
    """Look for wrong, shifted or damaged recordings."""
    with replacing(out) if out is not None else nullcontext() as temporary:
        findings = la.check(source, controls=controls or LA2A_CONTROLS, progress=_bar("check", "pair"))
        if temporary is not None:
            findings.to_csv(temporary, index=False)
    serious = findings[findings["severity"] != "information"]
    for found in serious.itertuples(index=False):
        click.echo(f"{found.severity}: {found.path}: {found.finding} ({found.value}); {found.advice}")
    counts = findings["severity"].value_counts()
    click.echo(", ".join(f"{counts.get(name, 0)} {name}" for name in ("error", "warning", "information")))


@command.command()
@_source
@_out_folder
@click.option("--method", default=METHODS[0], type=click.Choice(METHODS), show_default=True)
@click.option("--per-setting", is_flag=True, help="Fit every setting on its own, without the network.")
@_controls
@_stages
@_split
@_seed
@click.option("--max-steps", type=click.IntRange(1), help="Of every stage; default 40, and 1500 for adam.")
@click.option("--stft-weight", type=click.FloatRange(0.0), help="Spectral loss beside the error, for adam.")
def fit(
    source: Path,
    out: Path,
    method: str,
    per_setting: bool,
    controls: tuple[la.Control, ...] | None,
    stages: la.Stages,
    split: str,
    seed: int,
    max_steps: int | None,
    stft_weight: float | None,
) -> None:
    """Fit the grey box; score it where the split leaves test rows."""
    given = {"max_steps": max_steps, "stft_weight": stft_weight}
    given = {name: value for name, value in given.items() if value is not None}
    if method == "adam":
        settings: dict[str, Any] = {"adam": AdamSettings(**given)}  # type: ignore[arg-type]
    elif stft_weight is not None:
        raise ValueError("stft-weight: expected --method adam, got gauss-newton: a spectral loss is no sum of squares")
    else:
        settings = {"gauss_newton": GaussNewtonSettings(**given)}  # type: ignore[arg-type]
    unit = controls or LA2A_CONTROLS
    with workflow.new_folder(out):
        frame = split_by(_checked(source, unit), split, unit)
        how = {"method": method, "per_setting": per_setting, "controls": unit, "stages": stages, "seed": seed}
        result = _fitted(frame, out, **how, **settings)
        _say(f"{out / 'model.safetensors'}: {'converged' if result.converged else 'not converged'}")
        if (frame["split"] == "test").any() and not result.interrupted:
            names = workflow.suitable(workflow.LINEAR_ROWS, unit)
            _scored(result, frame, out, names, protocol=split, budget_s=0.0, seed=seed)


def _fitted(frame: pd.DataFrame, out: Path, **how: Any) -> la.FitResult:
    _announce_compiling()
    result = la.fit(frame, progress=True, **how)
    result.save(out)
    workflow.write_pictures(result.model, out)
    return result


def _scored(result: la.FitResult, frame: pd.DataFrame, out: Path, names: Any, **how: Any) -> dict[str, Any]:
    """Score grey box and baselines on the test rows, write and print the table; all models by name."""
    scored, models = workflow.score_test_rows(result, frame, names, **how)
    workflow.write_scores(scored, out)
    workflow.write_gain_reduction(models, frame, out, result.model.controls)
    _print_summary(scored)
    return models


@command.command()
@click.argument("model", type=click.Path(path_type=Path))
@_source
@_out_folder
@_controls
@_split
@click.option("--rows", default="test", show_default=True, help="Which rows of the split column are scored.")
def evaluate(
    model: Path, source: Path, out: Path, controls: tuple[la.Control, ...] | None, split: str, rows: str
) -> None:
    """Score a model file (or the word 'published') on recordings."""
    loaded = la.load(model)
    unit = controls or loaded.controls
    with workflow.new_folder(out):
        frame = split_by(_checked(source, unit), split, unit)
        _announce_compiling()
        scored = la.evaluate({model.stem: loaded}, frame, controls=unit, split=rows, protocol=split, progress=True)
        workflow.write_scores(scored, out)
        _print_summary(scored)


@command.command()
@_source
@_out_folder
@click.option("--models", help="Comma-separated; default: all that are installed and know the unit.")
@_controls
@_stages
@_split
@_seed
@click.option("--budget", default=600.0, type=click.FloatRange(0.0), show_default=True, help="Seconds a black box.")
def compare(
    source: Path,
    out: Path,
    models: str | None,
    controls: tuple[la.Control, ...] | None,
    stages: la.Stages,
    split: str,
    seed: int,
    budget: float,
) -> None:
    """Fit the grey box and its rivals on the same rows and score them all."""
    unit = controls or LA2A_CONTROLS
    all_names = workflow.suitable(workflow.baseline_names(), unit)
    names = [name.strip() for name in models.split(",")] if models else all_names
    workflow.refuse_unknown(names)
    with workflow.new_folder(out):
        _compare(_checked(source, unit), out, names, unit, stages, split, seed, budget)


def _compare(
    frame: pd.DataFrame,
    out: Path,
    names: Any,
    unit: Sequence[la.Control],
    stages: la.Stages,
    split: str,
    seed: int,
    budget: float,
) -> None:
    frame = split_by(frame, split, unit)
    if not (frame["split"] == "test").any():
        splits = ", ".join(sorted(set(frame["split"])))
        raise ValueError(f"frame: expected rows whose split is 'test', got {splits}; or use --split later-in-time")
    result = _fitted(frame, out, controls=unit, stages=stages, seed=seed)
    models = _scored(result, frame, out, names, protocol=split, budget_s=budget, seed=seed, progress=True)
    slow = [name for name, model in models.items() if getattr(model, "info", {}).get("converged") is False]
    if slow:
        click.echo(f"not converged within its budget, so not a verdict: {', '.join(slow)}")


@command.command()
@click.option("--out", default="ddsp_la2a_demo", type=click.Path(path_type=Path), show_default=True)
@_seed
@click.option("--budget", default=45.0, type=click.FloatRange(0.0), show_default=True, help="Seconds for the LSTM.")
def demo(out: Path, seed: int, budget: float) -> None:
    """The whole job on a set rendered by a simulated unit: data, check, fit, curves, comparison."""
    with workflow.new_folder(out):
        _announce_compiling()
        root = la.render_demo(out / "recordings", seed=seed, progress=_bar("render", "recording"))
        frame = _checked(root, LA2A_CONTROLS)
        _compare(frame, out, workflow.DEMO_ROWS, LA2A_CONTROLS, HARDWARE, "shipped", seed, budget)
        click.echo(f"all numbers are from a simulated device; curves, scores and pictures are in {out}")


@command.command()
@click.argument("model", type=click.Path(path_type=Path))
@_out_folder
@_positions
def curves(model: Path, out: Path, positions: dict[str, float]) -> None:
    """Write the learned curves of MODEL (or 'published') as table and pictures."""
    loaded = la.load(model)
    table = loaded.curves(**positions)
    with workflow.new_folder(out):
        workflow.write_pictures(loaded, out, **positions)
        with replacing(out / "curves.csv") as temporary:
            table.to_csv(temporary, index=False)
        _say(f"{out}: curves.csv, curves.svg, static_curves.svg, step_response.svg")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what libsndfile complains about into an error that names the file."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(". ")
        raise ValueError(f"{path}: expected audio that can be read and written, got: {reason}") from error


def _blocks(reader: Any, path: Path) -> Iterator[Any]:
    with _named(path):
        yield from reader.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True)


@command.command()
@click.argument("source", metavar="IN.wav", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT.wav", type=click.Path(path_type=Path))
@click.option("--peak-reduction", type=click.FloatRange(0, 100), help="Knob of an LA-2A, 0 to 100.")
@click.option("--limit", is_flag=True, help="Limit instead of compress: switch of an LA-2A.")
@_positions
@click.option("--model", default="published", show_default=True, help="Model file, or 'published'.")
@click.option("--dual-mono", is_flag=True, help="Each channel by itself instead of one gain for all.")
def process(
    source: Path,
    destination: Path,
    peak_reduction: float | None,
    limit: bool,
    positions: dict[str, float],
    model: str,
    dual_mono: bool,
) -> None:
    """Compress IN.wav into OUT.wav, block by block; any rate, any number of channels."""
    loaded = la.load(model)
    info = audio_info(source)
    if source.resolve() == destination.resolve():
        raise ValueError(f"{destination}: expected another file than the input; name another OUT.wav")
    if destination.suffix[1:].upper() not in soundfile.available_formats().keys() - _NOT_WRITTEN:
        raise ValueError(f"{destination}: expected an ending such as .wav or .flac, got {destination.suffix!r}")
    if destination.suffix.lower() == ".ogg" and info.sample_rate > _VORBIS_HZ:
        raise ValueError(f"{destination}: expected at most {_VORBIS_HZ} Hz, got {info.sample_rate}; write a .wav")
    if loaded.controls == LA2A_CONTROLS:
        if peak_reduction is None:
            raise click.UsageError("Missing option '--peak-reduction'.")
        positions = {"compress_or_limit": int(limit), "peak_reduction": peak_reduction, **positions}
    elif peak_reduction is not None or limit:
        names = " ".join(f"--set {control.name}=…" for control in loaded.controls)
        raise ValueError(f"{model}: expected {names}, got an LA-2A's option; the model is of another unit")
    stream = loaded.stream(info.sample_rate, channels=info.channels, linked=not dual_mono, **positions)
    _announce_compiling()
    peak, done = 0.0, 0
    with replacing(destination) as temporary, _named(source), soundfile.SoundFile(source) as reader:
        subtype = reader.subtype if soundfile.check_format(temporary.suffix[1:], reader.subtype) else None
        with (
            _named(destination),
            soundfile.SoundFile(temporary, "w", info.sample_rate, info.channels, subtype) as writer,
            tqdm(total=info.frames, desc="process", unit="frame", unit_scale=True) as bar,
        ):
            late = stream.latency_samples  # made good: that much of the beginning goes, and silence is played after
            end = np.zeros((late, info.channels), dtype=np.float32)
            for block in itertools.chain(_blocks(reader, source), [end]):
                output = stream.process(block.T)
                bad = ~np.isfinite(output).all(axis=0)
                if bad.any():
                    at = (done + int(bad.argmax())) / info.sample_rate
                    raise ValueError(f"{source}: expected finite samples, got NaN or infinity at {at:.3f} s")
                peak = max(peak, float(abs(output).max(initial=0.0)))
                writer.write(output[:, max(0, late - done) :].T)
                done += block.shape[0]
                bar.update(block.shape[0])
    if peak > 1.0 and not (subtype or "").startswith(("FLOAT", "DOUBLE")):
        _say(f"warning: {destination}: clipped, the peak was {peak:.2f} of full scale; lower the input")


def main() -> None:
    """Entry point."""
    run_command(command, "ddsp-la2a")
