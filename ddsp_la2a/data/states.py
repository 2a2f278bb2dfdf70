"""Findings turned round: what state each pair of a frame is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.data.check import left_out
from ddsp_la2a.data.judgements import identity_columns

SEVERITIES = ("error", "warning", "information")
"""From the worst on."""

GOOD = "good"


def states(frame: pd.DataFrame, findings: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS) -> pd.DataFrame:
    """One row for each row of a frame: how it is, and whether a fit leaves it out.

    Args:
        frame: as :func:`~ddsp_la2a.data.index.read_frame` gives it.
        findings: what :func:`~ddsp_la2a.data.check.check` found in it.
        controls: of the unit.

    Returns:
        ``track_id``, ``split``, ``take``, the controls, ``state`` (error, warning, good), ``left_out``,
        ``lag_samples`` (NaN where it couldn't be measured; of several stretches of one target the farthest from zero)
        and ``findings``: names of errors and warnings.
    """
    names = list(identity_columns(controls))
    table = frame[names].reset_index(drop=True)
    mine = [findings.iloc[rows] for rows in findings_of(frame, findings, controls)]
    worst = [next((each for each in SEVERITIES[:2] if each in set(rows["severity"])), GOOD) for rows in mine]
    serious = [rows.loc[rows["severity"] != "information", "finding"] for rows in mine]
    return table.assign(
        state=worst,
        left_out=left_out(frame, findings).to_numpy(),
        lag_samples=[_lag(rows) for rows in mine],
        findings=[", ".join(dict.fromkeys(found)) for found in serious],
    )


def findings_of(
    frame: pd.DataFrame, findings: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS
) -> list[list[int]]:
    """Places of the findings that are about each row of a frame."""
    names = list(identity_columns(controls))
    by_file: dict[Any, list[int]] = {}
    identities = list(findings[names].itertuples(index=False, name=None))
    for place, (identity, path) in enumerate(zip(identities, findings["path"], strict=True)):
        if not any(value is None or value is pd.NA for value in identity):  # of a pair
            by_file.setdefault((*identity, path), []).append(place)
    rows = frame[[*names, "raw_audio_path", "processed_audio_path"]].itertuples(index=False, name=None)
    return [
        sorted({place for path in paths for place in by_file.get((*identity, path), [])})
        for *identity, raw, processed in rows
        for paths in [(raw, processed)]
    ]


def _lag(rows: pd.DataFrame) -> float:
    lags = rows.loc[rows["finding"] == "lag", "value"].to_numpy(dtype=float)
    return float(lags[np.abs(lags).argmax()]) if len(lags) else np.nan
