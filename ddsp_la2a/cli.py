"""The command line. Errors are one line and exit status 2."""

from __future__ import annotations

from pathlib import Path

import click

import ddsp_la2a as la
from ddsp_la2a import compare as workflow
from ddsp_la2a.cli_capture import capture
from ddsp_la2a.cli_data import check, index
from ddsp_la2a.cli_export import export
from ddsp_la2a.cli_fetch import fetch
from ddsp_la2a.cli_fit import compare, demo, evaluate, fit
from ddsp_la2a.cli_measure import measure as measure_command
from ddsp_la2a.cli_measure import tones
from ddsp_la2a.cli_options import (
    announce_compiling,
    out_folder_option,
    positions_option,
)
from ddsp_la2a.cli_process import process
from ddsp_la2a.console import run_command, say
from ddsp_la2a.files import replacing


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(la.__version__, prog_name="ddsp-la2a")
def command() -> None:
    """Fit, look at and use explicit models of the LA-2A levelling amplifier."""


_LOOKING, _FITTING = (fetch, index, check, capture), (fit, evaluate, compare, demo)
for subcommand in (*_LOOKING, *_FITTING, process, export, measure_command, tones):
    command.add_command(subcommand)


@command.command()
@click.argument("model", type=click.Path(path_type=Path))
@out_folder_option
@positions_option
@click.option(
    "--measure", is_flag=True, help="Also measure it on a tone over the knob: what engineers call its curves."
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A further model in that measurement, of any family.",
)
def curves(model: Path, out: Path, positions: dict[str, float], measure: bool, beside: tuple[Path, ...]) -> None:
    """Write the learned curves of MODEL (or 'published') as table and pictures."""
    loaded = la.load(model)
    others = {path: la.load(path) for path in beside}
    for path, other in others.items():
        if other.controls != loaded.controls:
            raise ValueError(f"beside: expected a model of the same controls, got {path}: measure it on its own")
    stems = [path.stem for path in (model, *beside)]
    boxes = {
        path.stem if stems.count(path.stem) == 1 else str(path): box for path, box in {model: loaded, **others}.items()
    }
    moving = [c.name for c in loaded.controls if c.kind == "continuous" and c.name not in positions]
    if (measure or beside) and len(moving) != 1:
        raise ValueError(
            f"measure: expected one knob that moves, got {', '.join(moving) or 'none'}; hold others by --set"
        )
    table = loaded.curves(**positions)
    with workflow.new_folder(out):
        workflow.write_pictures(loaded, out, **positions)
        with replacing(out / "curves.csv") as temporary:
            table.to_csv(temporary, index=False)
        written = "curves.csv, curves.svg, static_curves.svg, step_response.svg"
        if measure or beside:
            announce_compiling()
            workflow.write_measured(boxes, out, loaded.controls, **positions)
            written += ", measured.csv, measured.svg"
        say(f"{out}: {written}")


def main() -> None:
    """Entry point."""
    run_command(command, "ddsp-la2a")
