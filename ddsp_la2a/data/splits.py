"""Which stretch of which recording is fitted and which is scored, by the protocols' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.data.frame import stretch
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.units import seconds_to_frames

PROTOCOLS = ("shipped", "later-in-time")
"""``shipped``: the split column as it is. ``later-in-time``: all but the last seconds of every recording is ``train``,
the rest ``test``."""

LATER_SECONDS = 4.0
"""How much of the end of every recording ``later-in-time`` scores."""


def split_by(
    frame: pd.DataFrame | str | Path, protocol: str, controls: Sequence[Control] = LA2A_CONTROLS
) -> pd.DataFrame:
    """The frame with ``split`` and stretches set as a protocol says.

    Args:
        frame: a folder, a saved ``frame.csv`` or a DataFrame.
        protocol: one of :data:`PROTOCOLS`.
        controls: of the unit.

    Returns:
        for ``later-in-time`` two rows a recording, with ``start_frame`` and ``stop_frame``.

    Raises:
        ValueError: unknown protocol, or a recording too short to be split.
    """
    rows = read_frame(frame, controls)
    if protocol not in PROTOCOLS:
        raise ValueError(f"split: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if protocol == "shipped":
        return rows
    starts, edges, stops = [], [], []
    for row in rows.to_dict("records"):
        start, stop, sample_rate = stretch(row)
        edge = stop - seconds_to_frames(LATER_SECONDS, sample_rate)
        if edge - start < seconds_to_frames(2.0, sample_rate):
            seconds = (stop - start) / sample_rate
            raise ValueError(
                f"{row['processed_audio_path']}: expected at least {LATER_SECONDS + 2:g} s to hold "
                f"{LATER_SECONDS:g} s out, got {seconds:.2f} s; leave it out or use --split shipped"
            )
        starts.append(start)
        edges.append(edge)
        stops.append(stop)
    beginnings = rows.assign(split="train", start_frame=starts, stop_frame=edges)
    ends = rows.assign(split="test", start_frame=edges, stop_frame=stops)
    return pd.concat([beginnings, ends], ignore_index=True)
