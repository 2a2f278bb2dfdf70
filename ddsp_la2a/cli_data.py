"""Commands that look at recordings before anything is fitted to them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

import ddsp_la2a as la
from ddsp_la2a.cli_arguments import controls_option, source_argument
from ddsp_la2a.console import audio_bar, say
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.data.index import write_frame
from ddsp_la2a.files import replacing


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="CSV file to write.")
def index(root: Path, out: Path | None) -> None:
    """List the pairs of recordings below ROOT."""
    frame = la.index(root)
    if out is None:
        click.echo(frame.to_csv(index=False), nl=False)
    else:
        write_frame(frame, out)
        say(f"{out}: {len(frame)} pairs")


@click.command()
@source_argument
@click.option("--out", type=click.Path(path_type=Path), help="CSV file for all findings.")
@click.option("--page", type=click.Path(path_type=Path), help="HTML file for all findings, to be read.")
@controls_option
def check(source: Path, out: Path | None, page: Path | None, controls: tuple[la.Control, ...] | None) -> None:
    """Look for wrong, shifted or damaged recordings.

    Files that were checked before and haven't changed since aren't read again.
    """
    unit = controls or LA2A_CONTROLS
    with ExitStack() as files:
        table, html = (None if path is None else files.enter_context(replacing(path)) for path in (out, page))
        frame = la.read_frame(source, unit)
        findings = la.check(frame, controls=unit, progress=audio_bar("check"))
        if table is not None:
            findings.to_csv(table, index=False)
        if html is not None:
            from ddsp_la2a.evaluation.check_page import check_page

            check_page(findings, frame, html, controls=unit)
    serious = findings[findings["severity"] != "information"]
    for found in serious.itertuples(index=False):
        click.echo(f"{found.severity}: {found.path}: {found.finding} ({found.value}); {found.advice}")
    counts = findings["severity"].value_counts()
    click.echo(", ".join(f"{counts.get(name, 0)} {name}" for name in ("error", "warning", "information")))
