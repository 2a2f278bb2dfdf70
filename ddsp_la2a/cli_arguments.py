"""Arguments and options that several commands share, and that need no torch to be understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ddsp_la2a.controls import Control, parse_controls
from ddsp_la2a.data.splits import PROTOCOLS

source_argument = click.argument("source", metavar="ROOT|frame.csv", type=click.Path(path_type=Path))
out_folder_option = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="New folder for the results."
)
seed_option = click.option("--seed", default=0, type=click.IntRange(0), show_default=True)
split_option = click.option(
    "--split", default="shipped", type=click.Choice(PROTOCOLS), show_default=True, help="What is fitted, what scored."
)


def _parsed_controls(_: Any, __: Any, text: str | None) -> tuple[Control, ...] | None:
    return None if text is None else parse_controls(text)


controls_option = click.option(
    "--controls",
    callback=_parsed_controls,
    help="What the unit lets its user set, such as threshold=-60:0,mode=switch:1:3; default: the LA-2A's.",
)


def _parsed_positions(_: Any, __: Any, texts: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, position = text.partition("=")
        try:
            found[name.strip()] = float(position)
        except ValueError:
            raise ValueError(f"set: expected NAME=VALUE, got {text!r}") from None
    return found


positions_option = click.option(
    "--set", "positions", multiple=True, callback=_parsed_positions, metavar="NAME=VALUE", help="A control's position."
)
peak_reduction_option = click.option(
    "--peak-reduction", type=click.FloatRange(0, 100), help="Knob of an LA-2A, 0 to 100."
)
limit_option = click.option("--limit", is_flag=True, help="Limit instead of compress: switch of an LA-2A.")
