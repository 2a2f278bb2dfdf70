"""``python -m baselines``: what there is to compare with, and training of what takes hours, before a comparison."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

import ddsp_la2a as la
from ddsp_la2a.cli_arguments import controls_option, source_argument, split_option
from ddsp_la2a.cli_options import checked
from ddsp_la2a.compare import ENTRY_POINT_GROUP, is_trained
from ddsp_la2a.console import run_command
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.data.splits import split_by
from ddsp_la2a.fitting import distributed


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def command() -> None:
    """Models that the grey box is compared with."""


def _builders() -> dict[str, Any]:
    """What installed packages offer, by name."""
    return {point.name: point.load() for point in sorted(entry_points(group=ENTRY_POINT_GROUP))}


@command.command("list")
def list_models() -> None:
    """Name, how it comes about (trained: see train; fitted: by compare, in seconds), and what it is."""
    builders = _builders()
    width = max(map(len, builders))
    for name, build in builders.items():
        first_line = (inspect.getdoc(build) or "").partition("\n")[0]
        click.echo(f"{name:{width}}  {'trained' if is_trained(build) else 'fitted '}  {first_line}")


@command.command()
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@source_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the models; found again there.")
@split_option
@click.option(
    "--budget", default=36000.0, type=click.FloatRange(0.0), show_default=True, help="Seconds a model and seed."
)
@click.option("--seeds", default=3, type=click.IntRange(1), show_default=True, help="How many, from 0 on.")
@click.option("--device", default="cpu", show_default=True, help="Where to train, such as cuda.")
@controls_option
def train(
    names: tuple[str, ...],
    source: Path,
    out: Path,
    split: str,
    budget: float,
    seeds: int,
    device: str,
    controls: tuple[la.Control, ...] | None,
) -> None:
    """Train models, each into OUT/NAME/seed-0 and so on. What was begun there goes on; Ctrl-C leaves a checkpoint.

    Several processes share out the work: torchrun --nproc-per-node 2 -m baselines train …
    """
    builders = {name: build for name, build in _builders().items() if is_trained(build)}
    if unknown := [name for name in names if name not in builders]:
        raise ValueError(f"names: expected some of {', '.join(builders)}, got {', '.join(unknown)}")
    distributed.placed(device)
    unit = controls or LA2A_CONTROLS
    frame = split_by(checked(source, unit), split, unit)
    for seed in range(seeds):
        for name in names:
            how = {"controls": unit, "budget_s": budget, "seed": seed, "progress": True, "device": device}
            info = builders[name](frame, **how, folder=out / name).info
            ended = "converged" if info["converged"] else "not converged"
            if distributed.rank() == 0:
                click.echo(f"{out / name / f'seed-{seed}'}: {ended} after {info['train_seconds']:.0f} s")
            if info.get("interrupted"):
                raise click.Abort


if __name__ == "__main__":
    run_command(command, "python -m baselines")
