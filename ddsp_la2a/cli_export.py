"""``ddsp-la2a export``: a fitted model as numbers, as source, as a plug-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

import ddsp_la2a as la
from ddsp_la2a.cli_arguments import out_folder_option
from ddsp_la2a.compare import new_folder
from ddsp_la2a.console import say
from ddsp_la2a.export.description import Description, describe, write_json
from ddsp_la2a.export.faust import write_faust
from ddsp_la2a.export.lv2 import write_lv2
from ddsp_la2a.export.web import write_page

_WRITERS: dict[str, Callable[[Description, Path, int], list[Path]]] = {
    "json": write_json,
    "faust": write_faust,
    "lv2": write_lv2,
    "web": write_page,
}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(list(_WRITERS)), help="What it becomes.")
@out_folder_option
@click.option("--stereo", is_flag=True, help="Two channels with one gain instead of one channel.")
@click.option("--name", help="What it is called; default: as the file, or its folder where that is only 'model'.")
def export(model: Path, kind: str, out: Path, stereo: bool, name: str | None) -> None:
    """Write MODEL (or 'published') as JSON for programs, Faust source, an LV2 plug-in or a page with a knob."""
    loaded = la.load(model)
    stem = model.resolve().parent.name if model.stem == "model" and model.is_file() else model.stem
    description = describe(loaded, name or stem)
    with new_folder(out):
        written = _WRITERS[kind](description, out, 2 if stereo else 1)
    say(f"{out}: {', '.join(path.name for path in written)}")
