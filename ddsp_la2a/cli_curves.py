"""``ddsp-la2a curves``: what a model has learned, as table and pictures."""

from __future__ import annotations

from pathlib import Path

import click

import ddsp_la2a as la
from ddsp_la2a import compare as workflow
from ddsp_la2a.cli_arguments import out_folder_option, positions_option
from ddsp_la2a.cli_options import announce_compiling
from ddsp_la2a.console import say
from ddsp_la2a.files import replacing


@click.command()
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
