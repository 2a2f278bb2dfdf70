"""``ddsp-la2a capture``: a stimulus to record through one's own unit, and the frame from what came back."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from ddsp_la2a.console import bar, say
from ddsp_la2a.controls import parse_controls
from ddsp_la2a.data.capture import index_captures, write_stimulus
from ddsp_la2a.data.frame import SOURCES, with_relative_paths
from ddsp_la2a.files import replacing


@click.group()
def capture() -> None:
    """Measure your own unit: what to play through it, and what to do with the recordings."""


@capture.command()
@click.option("--seconds", default=120.0, type=float, show_default=True, help="Length of the whole.")
@click.option("--out", default="stimulus.wav", type=click.Path(path_type=Path), show_default=True)
@click.option("--sample-rate", default=44100, type=int, show_default=True, help="Hz.")
def stimulus(seconds: float, out: Path, sample_rate: int) -> None:
    """Write what is to be played through the unit: sync bursts, test signals, programme."""
    write_stimulus(out, seconds, sample_rate)
    say(f"{out}: {seconds:g} s; record it through the unit once a setting, and touch no level in between")


@capture.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--controls", required=True, help="Such as threshold=-60:0,ratio=1:20,mode=switch:0:1.")
@click.option("--stimulus", type=click.Path(path_type=Path), help="What was played.  [default: FOLDER/stimulus.wav]")
@click.option("--device", help="Name of the unit.  [default: the folder's]")
@click.option("--source", default=SOURCES[0], type=click.Choice(SOURCES), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="CSV file to write.")
def index(
    folder: Path, controls: str, stimulus: Path | None, device: str | None, source: str, out: Path | None
) -> None:
    """Align the recordings in FOLDER, named such as unit_threshold=-20_ratio=4.wav, and list them."""
    with replacing(out) if out is not None else nullcontext() as temporary:
        frame = index_captures(
            folder,
            parse_controls(controls),
            stimulus_path=stimulus,
            device=device,
            source=source,
            progress=bar("align", "recording"),
        )
        if out is None or temporary is None:
            click.echo(frame.to_csv(index=False), nl=False)
        else:
            with_relative_paths(frame, out).to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")
            say(f"{out}: {len(frame)} recordings, aligned in {folder / 'aligned'}")
