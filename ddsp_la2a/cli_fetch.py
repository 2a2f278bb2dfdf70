"""``ddsp-la2a fetch``: the SignalTrain LA2A data set, downloaded, compared with its checksum and unpacked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

import ddsp_la2a as la
from ddsp_la2a.console import say
from ddsp_la2a.fetching.fetch import URL, FetchPlan, plan_fetch
from ddsp_la2a.fetching.fetch import fetch as fetch_planned


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--url", help=f"Of the .tgz.  [default: {URL}]")
@click.option("--checksum", metavar="ALGORITHM:HEX", help="Of the .tgz.  [default: what the data set's record says]")
@click.option("--yes", is_flag=True, help="Don't ask before the download.")
def fetch(folder: Path, url: str | None, checksum: str | None, yes: bool) -> None:
    """Get the SignalTrain LA2A data set (20 GB, CC-BY-4.0) as FOLDER.

    Run it again to go on after an interruption. The archive is deleted once it is unpacked; one that lies beside FOLDER
    already is used in place of a download, and kept.
    """
    if folder.is_dir() and (pairs := _pairs_there(folder)):
        say(f"{folder}: {pairs} pairs are there already, nothing to fetch; next: ddsp-la2a check {folder}")
        return
    plan = plan_fetch(folder, url=url, checksum=checksum)
    _announce(plan)
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError("yes: expected --yes where nobody can be asked; add it to go on")
        click.confirm("Go on?", abort=True, err=True)
    bars = _Bars()
    try:
        with logging_redirect_tqdm():
            fetched = fetch_planned(plan, progress=bars)
    finally:
        bars.close()
    say(f"{fetched.sha256}  (also in {fetched.folder / 'fetched.json'})")
    say(f"{folder}: {fetched.pairs} pairs; next: ddsp-la2a check {folder}")
    if url in (None, URL):
        say("Hawley, Colburn & Mimilakis, SignalTrain LA2A Dataset 1.1, CC-BY-4.0: name them where you use it")


def _pairs_there(folder: Path) -> int:
    try:
        return len(la.index(folder))
    except ValueError:
        return 0


def _announce(plan: FetchPlan) -> None:
    packed, kept, unpacked, free = (
        f"{count / 1e9:.1f} GB" for count in (plan.size, plan.kept, plan.unpacked, plan.free)
    )
    if plan.remote is None:
        say(f"{plan.archive}: {packed}, taken in place of a download")
    else:
        say(f"{plan.remote.url}: {packed}" + (f", {kept} of it here already" if plan.kept else ""))
    say(f"about {unpacked} unpacked; {free} free")
    if plan.checksum is not None:
        say(f"to be compared with {plan.checksum}, says {plan.checksum_source}")
    else:
        say("no checksum to compare with; give --checksum if you know it. That of what came will be recorded")


class _Bars:
    """A bar a step, in bytes; what was there before doesn't count as speed."""

    def __init__(self) -> None:
        self.drawn: Any = None

    def __call__(self, step: str, done: int, total: int) -> None:
        if self.drawn is None or self.drawn.desc != step:
            self.close()
            self.drawn = tqdm(total=total, initial=done, desc=step, unit="B", unit_scale=True)
        self.drawn.update(done - self.drawn.n)

    def close(self) -> None:
        if self.drawn is not None:
            self.drawn.close()
