"""Options of models that several commands share, and what all of them do with recordings first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

import ddsp_la2a as la
from ddsp_la2a import compare as workflow
from ddsp_la2a.console import audio_bar, say
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.dsp.compiling import needs_compiling
from ddsp_la2a.dsp.kernels import compress_forward
from ddsp_la2a.model.stages import FAMILIES, AnyStages, CellStages, Stages, parse_stages, stages_text


def _parsed_stages(context: Any, __: Any, text: str | None) -> AnyStages:
    family = context.params.get("family", Stages.family)
    return FAMILIES[family]() if text is None else parse_stages(text, family)


family_option = click.option(
    "--family",
    default=Stages.family,
    type=click.Choice(list(FAMILIES)),
    show_default=True,
    is_eager=True,  # stages are read as the family's
    help="A classical compressor, whose parameters follow the controls; or one optical cell for all settings.",
)
stages_option = click.option(
    "--stages",
    callback=_parsed_stages,
    help=f"What the model has beside what makes it one of its family, or none. Default: {stages_text(Stages())} of "
    f"output-filter, slow-release, shelf, feedback; {stages_text(CellStages())} of an optical cell.",
)


def positions_at(
    loaded: la.GreyBox, name: str, peak_reduction: float | None, limit: bool, positions: dict[str, float]
) -> dict[str, float]:
    """Positions of a model's controls, said with an LA-2A's options or with ``--set``.

    Raises:
        click.UsageError: an LA-2A's knob has no position.
        ValueError: an LA-2A's options for another unit.
    """
    if loaded.controls == LA2A_CONTROLS:
        return la2a_positions(peak_reduction, limit) | positions
    if peak_reduction is not None or limit:
        names = " ".join(f"--set {control.name}=…" for control in loaded.controls)
        raise ValueError(f"{name}: expected {names}, got an LA-2A's option; the model is of another unit")
    return positions


def la2a_positions(peak_reduction: float | None, limit: bool) -> dict[str, float]:
    """Positions said with an LA-2A's options.

    Raises:
        click.UsageError: its knob has none.
    """
    if peak_reduction is None:
        raise click.UsageError("Missing option '--peak-reduction'.")
    return {"compress_or_limit": int(limit), "peak_reduction": peak_reduction}


def announce_compiling() -> None:
    """Say so where the first pass over audio will take some seconds more."""
    if needs_compiling(compress_forward):
        say("compiling once (some seconds; later runs start at once)")


def checked(source: Path, controls: Sequence[la.Control]) -> pd.DataFrame:
    """The frame without the pairs that ``check`` finds an error in, which are named."""
    frame, findings = workflow.clean_frame(source, audio_bar("check"), controls)
    errors = findings[findings["severity"] == "error"]
    for found in errors.itertuples(index=False):
        say(f"left out: {found.path}: {found.finding}")
    return frame
