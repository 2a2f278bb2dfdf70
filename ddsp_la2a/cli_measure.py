"""``ddsp-la2a measure`` and ``tones``: what engineers measure, of a model or of a unit that played the tones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

import ddsp_la2a as la
from ddsp_la2a.cli_arguments import limit_option, peak_reduction_option, positions_option
from ddsp_la2a.cli_options import announce_compiling, la2a_positions, positions_at
from ddsp_la2a.compare import write_table
from ddsp_la2a.console import say
from ddsp_la2a.data.audio import read_audio, write_audio
from ddsp_la2a.evaluation import measure as measurement
from ddsp_la2a.evaluation.readings import reasons_by_name
from ddsp_la2a.evaluation.tones import LOWEST_SAMPLE_RATE, cut_to_tone, tone_signal

_HIGHEST_SAMPLE_RATE = 192000


@click.command()
@click.argument("out", metavar="OUT.wav", type=click.Path(path_type=Path))
@click.option(
    "--sample-rate",
    default=44100,
    type=click.IntRange(LOWEST_SAMPLE_RATE, _HIGHEST_SAMPLE_RATE),
    show_default=True,
    help="Hz.",
)
def tones(out: Path, sample_rate: int) -> None:
    """Write the tones to play through a unit, for 'measure --recording'."""
    audio = tone_signal(sample_rate)
    write_audio(out, audio, sample_rate)
    say(f"{out}: {len(audio) / sample_rate:.0f} s; record it through the unit at one setting, and touch no level")


@click.command()
@click.argument("model", required=False)
@click.option("--recording", type=click.Path(path_type=Path), help="Of what 'tones' wrote, in place of MODEL.")
@peak_reduction_option
@limit_option
@positions_option
@click.option("--out", type=click.Path(path_type=Path), help="CSV file to write.")
def measure(
    model: str | None,
    recording: Path | None,
    peak_reduction: float | None,
    limit: bool,
    positions: dict[str, float],
    out: Path | None,
) -> None:
    """Measure threshold, ratio, knee, attack and release of MODEL (or 'published') on tones.

    With --recording the positions only say what it was recorded at.
    """
    row: dict[str, Any]
    if model is not None and recording is None:
        loaded = la.load(model)
        at: dict[str, Any] = positions_at(loaded, model, peak_reduction, limit, positions)
        announce_compiling()
        row = {"model": Path(model).stem, **at, **measurement.measure(loaded, **at)}
    elif recording is not None and model is None:
        if peak_reduction is not None or limit:
            positions = la2a_positions(peak_reduction, limit) | positions
        for name in positions:
            la.Control(name)  # refuses what other columns are called
        row = {"model": recording.stem, **positions, **_recorded(recording)}
    else:
        raise click.UsageError("Expected either MODEL or --recording.")
    if out is None:
        _print(row)
    else:
        write_table(pd.DataFrame([row]), out)
        say(f"{out}: {', '.join(row)}")


def _print(row: dict[str, Any]) -> None:
    """A line a number, with the reason where there is none."""
    reasons = reasons_by_name(row["not_measured"])
    for name, value in row.items():
        if name in reasons:
            click.echo(f"{name:20} none: {reasons[name]}")
        elif name != "not_measured":
            click.echo(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")


def _recorded(path: Path) -> dict[str, Any]:
    """What was measured on a recording of the tones."""
    audio, sample_rate = read_audio(path)
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: expected finite samples, got NaN or infinity; export it again")
    try:
        return measurement.measure_recording(cut_to_tone(audio.astype(np.float64), sample_rate), sample_rate)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
