"""``ddsp-la2a fit``, ``evaluate``, ``compare`` and ``demo``: models fitted to recordings, and how good they are."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pandas as pd

import ddsp_la2a as la
from ddsp_la2a import compare as workflow
from ddsp_la2a.cli_arguments import controls_option, out_folder_option, seed_option, source_argument, split_option
from ddsp_la2a.cli_options import announce_compiling, checked, family_option, stages_option
from ddsp_la2a.console import bar, say
from ddsp_la2a.controls import LA2A_CONTROLS, parse_controls
from ddsp_la2a.data.demo import DemoUnit
from ddsp_la2a.data.splits import split_by
from ddsp_la2a.evaluation.evaluate import PROTOCOL_ROWS, Model, summary
from ddsp_la2a.evaluation.external import External
from ddsp_la2a.evaluation.report import report
from ddsp_la2a.fitting.distributed import of_first, rank
from ddsp_la2a.fitting.fit import METHODS
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.fitting.gradient import AdamSettings
from ddsp_la2a.model.stages import HARDWARE, AnyStages, parse_stages, stages_text
from ddsp_la2a.run_folder import RunFolder

_ON_COMMAND_LINE = click.core.ParameterSource.COMMANDLINE


def _print_summary(scored: pd.DataFrame) -> None:
    table = summary(scored).reset_index()
    for name in ("esr_dc_filtered", "worst", "esr_best_gain"):
        table[name] = (100.0 * table[name]).map("{:.2f} %".format)
    names = {"esr_dc_filtered": "mean error", "worst": "worst error", "esr_best_gain": "at best gain"}
    hidden = ["ldr_difference_db", "lufs_difference", "best_seed", "worst_seed"]
    if (table["seeds"] == 1).all():
        hidden.append("seeds")
    shown = table.rename(columns=names).drop(columns=hidden)
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


@click.command()
@click.argument("source", metavar="ROOT|frame.csv", type=click.Path(path_type=Path), required=False)
@click.option("--out", type=click.Path(path_type=Path), help="New folder for the results.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with an interrupted fit, named by its --out.",
)
@click.option("--method", default=METHODS[0], type=click.Choice(METHODS), show_default=True)
@click.option("--per-setting", is_flag=True, help="Fit every setting on its own, without the network.")
@family_option
@controls_option
@stages_option
@split_option
@seed_option
@click.option("--max-steps", type=click.IntRange(1), help="Of every stage; default 40, and 1500 for adam.")
@click.option("--stft-weight", type=click.FloatRange(0.0), help="Spectral loss beside the error, for adam.")
@click.pass_context
def fit(context: click.Context, source: Path | None, out: Path | None, resume: Path | None, **options: Any) -> None:
    """Fit the grey box; score it where the split leaves test rows.

    Interrupted, by Ctrl-C, SIGTERM or a power cut, it goes on with --resume RUN alone.
    """
    if resume is not None:
        given = [n for n in context.params if n != "resume" and context.get_parameter_source(n) is _ON_COMMAND_LINE]
        if given:
            names = ", ".join(name.replace("_", "-") for name in given)
            raise ValueError(f"resume: expected nothing else, got {names}; {resume} knows its recordings and options")
        _resumed(RunFolder(resume))
        return
    if source is None or out is None:
        raise click.UsageError("Missing " + ("argument ROOT|frame.csv." if source is None else "option '--out'."))
    controls, stages = options["controls"], options["stages"]
    said = options | {
        "controls": None if controls is None else ",".join(map(str, controls)),
        "stages": stages_text(stages),
    }
    run, unit = RunFolder(out), controls or LA2A_CONTROLS
    settings = _settings(said)

    with ExitStack() as folder:

        def prepared() -> pd.DataFrame:
            folder.enter_context(run.begun())
            frame = split_by(checked(source, unit), said["split"], unit)
            run.write(frame, said)
            return frame

        _run(run, of_first(prepared), said, unit, stages, settings)


def _resumed(run: RunFolder) -> None:
    def kept() -> tuple[dict[str, Any], tuple[la.Control, ...], AnyStages, dict[str, Any], pd.DataFrame]:
        said = run.read()
        try:
            unit = LA2A_CONTROLS if said["controls"] is None else parse_controls(said["controls"])
            stages, settings = parse_stages(said["stages"], said["family"]), _settings(said)
            said = {name: said[name] for name in ("method", "per_setting", "family", "seed", "split", "finished")}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{run.path}: expected the options of a fit, got others ({error!r}); fit anew") from error
        return said, unit, stages, settings, run.frame(unit)

    said, unit, stages, settings, frame = of_first(kept)
    if not said["finished"]:
        _run(run, frame, said, unit, stages, settings)
    elif rank() == 0:
        say(f"{run.model}: finished; nothing to go on with")


def _settings(said: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: said[name] for name in ("max_steps", "stft_weight") if said[name] is not None}
    if said["method"] == "adam":
        return {"adam": AdamSettings(**given)}
    if "stft_weight" in given:
        raise ValueError("stft-weight: expected --method adam, got gauss-newton: a spectral loss is no sum of squares")
    return {"gauss_newton": GaussNewtonSettings(**given)}


def _run(
    run: RunFolder,
    frame: pd.DataFrame,
    said: Mapping[str, Any],
    unit: tuple[la.Control, ...],
    stages: AnyStages,
    settings: Mapping[str, Any],
) -> None:
    """Fit, from where the run was; of several processes the first one writes."""
    how = {name: said[name] for name in ("method", "per_setting", "family", "seed")} | dict(settings)
    if rank() == 0:
        announce_compiling()
    result = la.fit(frame, controls=unit, stages=stages, checkpoint=run.checkpoint, progress=rank() == 0, **how)
    if rank():
        return
    result.save(run.path)
    say(f"{run.model}: {'converged' if result.converged else 'not converged'}")
    if result.interrupted:
        say(f"interrupted; to go on: ddsp-la2a fit --resume {run.path}")
    workflow.write_pictures(result.model, run.path)
    if result.interrupted:
        sys.exit(130)
    if (frame["split"] == "test").any():
        seed, names = said["seed"], workflow.suitable(PROTOCOL_ROWS, unit)
        models = _with_baselines(result, frame, names, budget_s=0.0, seeds=(seed,))
        _scored(models, frame, run.path, unit, said["split"])
    run.finish()


def _fitted(frame: pd.DataFrame, out: Path, **how: Any) -> la.FitResult:
    announce_compiling()
    result = la.fit(frame, progress=True, **how)
    result.save(out)
    workflow.write_pictures(result.model, out)
    return result


def _with_baselines(
    result: la.FitResult, frame: pd.DataFrame, names: Sequence[str], **how: Any
) -> dict[str, list[Any]]:
    controls = result.model.controls
    baselines = workflow.build_baselines(frame, names, controls=controls, progress=True, **how)
    return {workflow.GREY_BOX: [result.model], **baselines}


def _scored(
    models: Mapping[str, list[Any]], frame: pd.DataFrame, out: Path, unit: Sequence[la.Control], protocol: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score models on the test rows, write and print the tables; scores and energies of every second."""
    scored, blocks = la.evaluate(models, frame, controls=unit, protocol=protocol, return_blocks=True, progress=True)
    workflow.write_table(scored, out / "scores.csv")
    workflow.write_table(blocks, out / "blocks.csv")
    workflow.write_gain_reduction({name: several[0] for name, several in models.items()}, frame, out, unit)
    _print_summary(scored)
    return scored, blocks


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@source_argument
@out_folder_option
@controls_option
@split_option
@click.option("--rows", default="test", show_default=True, help="Which rows of the split column are scored.")
def evaluate(
    model: Path, source: Path, out: Path, controls: tuple[la.Control, ...] | None, split: str, rows: str
) -> None:
    """Score a model file (or the word 'published') on recordings."""
    loaded = la.load(model)
    unit = controls or loaded.controls
    with workflow.new_folder(out):
        frame = split_by(checked(source, unit), split, unit)
        announce_compiling()
        scored = la.evaluate({model.stem: loaded}, frame, controls=unit, split=rows, protocol=split, progress=True)
        workflow.write_table(scored, out / "scores.csv")
        _print_summary(scored)


def _parsed_programs(_: Any, __: Any, texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, template = text.partition("=")
        if not (name.strip() and equals and template.strip()):
            raise ValueError(f"program: expected NAME=COMMAND, got {text!r}")
        found[name.strip()] = template
    return found


@click.command()
@source_argument
@out_folder_option
@click.option(
    "--models",
    help="Comma-separated, beside identity and published; default: all that are installed and know the unit.",
)
@click.option(
    "--program",
    "programs",
    multiple=True,
    callback=_parsed_programs,
    metavar="NAME=COMMAND",
    help="An external program with {input}, {output} and, if it wants it, {sample_rate} and every control's name.",
)
@controls_option
@stages_option
@split_option
@seed_option
@click.option("--seeds", default=1, type=click.IntRange(1), show_default=True, help="Runs of every black box.")
@click.option(
    "--budget", default=600.0, type=click.FloatRange(0.0), show_default=True, help="Seconds a black box and seed."
)
@click.option("--trained", type=click.Path(path_type=Path), help="Where black boxes are kept, found again and resumed.")
def compare(
    source: Path,
    out: Path,
    models: str | None,
    programs: dict[str, str],
    controls: tuple[la.Control, ...] | None,
    stages: AnyStages,
    split: str,
    seed: int,
    seeds: int,
    budget: float,
    trained: Path | None,
) -> None:
    """Fit the grey box and its rivals on the same rows, score them all, and write a report."""
    unit = controls or LA2A_CONTROLS
    all_names = workflow.suitable(workflow.baseline_names(), unit)
    wanted = [name.strip() for name in models.split(",")] if models else all_names
    names = [*dict.fromkeys([*workflow.suitable(PROTOCOL_ROWS, unit), *wanted])]
    workflow.refuse_unknown(names)
    workflow.refuse_unsuitable(names, unit)
    if taken := sorted({workflow.GREY_BOX, *names} & programs.keys()):
        raise ValueError(f"program: expected a name of its own, got {', '.join(taken)}; call it something else")
    foreign = {name: External(template, unit) for name, template in programs.items()}
    with workflow.new_folder(out):
        how: dict[str, Any] = {
            "budget_s": budget,
            "seeds": range(seed, seed + seeds),
            "folder": trained or out / "trained",
        }
        _compare(checked(source, unit), out, names, foreign, unit, stages, split, seed, **how)


def _compare(
    frame: pd.DataFrame,
    out: Path,
    names: Sequence[str],
    programs: Mapping[str, External],
    unit: Sequence[la.Control],
    stages: AnyStages,
    split: str,
    seed: int,
    *,
    device: Model | None = None,
    **how: Any,
) -> None:
    """Fit, score, measure and report; the device behind the recordings is measured where it is at hand."""
    frame = split_by(frame, split, unit)
    if not (frame["split"] == "test").any():
        splits = ", ".join(sorted(set(frame["split"])))
        raise ValueError(f"frame: expected rows whose split is 'test', got {splits}; or use --split later-in-time")
    result = _fitted(frame, out, controls=unit, stages=stages, seed=seed)
    models = _with_baselines(result, frame, names, **how) | {name: [one] for name, one in programs.items()}
    scored, blocks = _scored(models, frame, out, unit, split)
    table = summary(scored).reset_index()
    slow = table.loc[table["converged"].eq(False), "model"].tolist()
    if slow:
        click.echo(f"not converged within its budget, so not a verdict: {', '.join(slow)}")
    boxes = {name: several[0] for name, several in models.items()}
    measured = workflow.measured_on_tones(
        ({"target": device} if device else {}) | boxes, frame[frame["split"] == "test"], unit, bar("measure", "tone")
    )
    for name, part in zip(("measured", "measured_static_curves", "measured_steps"), measured, strict=True):
        workflow.write_table(part, out / f"{name}.csv")
    histories = {name: box.history for name, box in boxes.items() if hasattr(box, "history")}
    fit_of_it = {name: result.config[name] for name in ("data_sha256", "fit", "train_seconds", "seed")}
    about = {
        "versions": workflow.versions(),
        "grey box": fit_of_it,
        "black boxes": {"seconds a seed": how["budget_s"], "seeds": list(how["seeds"])},
        "programs": {name: program.command_template for name, program in programs.items()},
    }
    report(
        scored,
        out / "report.html",
        blocks=blocks,
        models=boxes,
        frame=frame,
        controls=unit,
        histories={workflow.GREY_BOX: result.history, **histories},
        measured=measured.numbers,
        static_curves=measured.static_curves,
        steps=measured.steps,
        about={name: said for name, said in about.items() if said},
        pages=workflow.write_pages(boxes, out),
    )
    say(f"{out / 'report.html'}: to read, look at and listen to")


@click.command()
@click.option("--out", default="ddsp_la2a_demo", type=click.Path(path_type=Path), show_default=True)
@seed_option
@click.option(
    "--budget", default=30.0, type=click.FloatRange(0.0), show_default=True, help="Seconds for each black box."
)
def demo(out: Path, seed: int, budget: float) -> None:
    """The whole job on a set rendered by a simulated unit: data, check, fit, curves, comparison, report."""
    with workflow.new_folder(out):
        announce_compiling()
        root = la.render_demo(out / "recordings", seed=seed, progress=bar("render", "recording"))
        frame = checked(root, LA2A_CONTROLS)
        how: dict[str, Any] = {
            "budget_s": budget,
            "seeds": (seed,),
            "folder": out / "trained",
            "device": DemoUnit(seed),
        }
        _compare(frame, out, workflow.DEMO_ROWS, {}, LA2A_CONTROLS, HARDWARE, "shipped", seed, **how)
        click.echo(f"all numbers are from a simulated device; report, curves, scores and pictures are in {out}")
