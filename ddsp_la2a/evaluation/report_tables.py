"""What a report says in numbers: one summary for each source and protocol, never one across sources."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.data.frame import SOURCES
from ddsp_la2a.evaluation.bootstrap import BLOCK_COLUMNS, paired_intervals
from ddsp_la2a.evaluation.evaluate import columns, missing_rows, summary

WITHOUT_A_COMPRESSOR = ("identity", "identity-filter")
"""What every table on real recordings holds, whatever the unit."""

SOURCE_WORDS = {
    "hardware": "real hardware",
    "hardware-postprocessed": "real hardware, post-processed",
    "simulated": "simulated",
    "plug-in": "plug-in",
}

_PROTOCOLS = {
    "in-sample": "Scored on the very seconds that were fitted. It shows how far the form can follow, not what it "
    "guesses.",
    "later-in-time": "Fitted to the beginning of each recording, scored on its end.",
    "unseen-recording": "Scored on recordings that were not used in training, validation or selection.",
    "unseen-knob": "Scored at knob positions that occur in no training, validation or selection data.",
    "shipped": "The data set’s own split.",
}

_SHIPPED_ON_HARDWARE = (
    " Of SignalTrain, all test settings occur in training, and its 3c recordings share one stimulus: this split proves "
    "little about knobs or programme."
)


@dataclass(frozen=True)
class Summary:
    """What one model did on the recordings of one source and protocol; errors are ratios (0.01 is 1 %)."""

    model: str
    recordings: int
    seeds: int
    mean: float
    worst: float
    best_gain: float
    lowest_seed: float
    highest_seed: float
    parameters: float
    real_time_factor: float
    train_seconds: float
    converged: bool | None


@dataclass(frozen=True)
class Compared:
    """The difference of mean errors to the reference with its interval; ratios."""

    difference: float
    low: float
    high: float
    distinguishable: bool


@dataclass(frozen=True)
class Group:
    """All that a report says of one source and protocol."""

    source: str
    protocol: str
    scores: pd.DataFrame
    rows: list[Summary]
    best: str | None
    reference: str
    compared: Mapping[str, Compared]
    missing: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """Source and protocol in words."""
        return f"{SOURCE_WORDS[self.source].capitalize()} – {self.protocol}"

    @property
    def most_seeds(self) -> int:
        """Of any model."""
        return max(row.seeds for row in self.rows)

    @property
    def cut_short(self) -> list[str]:
        """Models that a budget ended."""
        return [row.model for row in self.rows if row.converged is False]


def checked_scores(scores: pd.DataFrame | str | Path, controls: Sequence[Control], split: str) -> pd.DataFrame:
    """The rows of one split, once all that a report reads is known to be there.

    Raises:
        ValueError: no such file, missing columns, no rows, or a source or number that can't be.
    """
    table = _read(scores) if isinstance(scores, (str, Path)) else scores
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"scores: expected a DataFrame or the path of a scores.csv, got {type(table).__name__}")
    refuse_missing("scores", table, columns(controls), "use what evaluate() gives")
    rows = table[table["split"] == split].reset_index(drop=True)
    if rows.empty:
        got = ", ".join(sorted({str(value) for value in table["split"]})) or "no rows at all"
        raise ValueError(f"scores: expected rows whose split is {split!r}, got {got}; say which split= to report")
    for column in ("model", "protocol"):
        # As Python's own strings: pandas' can't hold all of them.
        names = [checked_name("scores", value, "names in the columns model and protocol") for value in rows[column]]
        rows[column] = pd.Series(names, dtype=object)
    unknown = sorted({str(source) for source in rows["source"]} - set(SOURCES))
    if unknown:
        raise ValueError(f"scores: expected source to be one of {', '.join(SOURCES)}, got {', '.join(unknown)}")
    numbers = ("esr_dc_filtered", "esr_best_gain", "parameters", "real_time_factor", "train_seconds", "seed")
    for column in (*numbers, *(control.name for control in controls)):
        rows[column] = numbers_in("scores", rows[column])
    for column in ("converged", "setting_seen"):
        rows[column] = pd.Series([yes_no(value) for value in rows[column]], dtype=object)
    return rows


def _read(path: str | Path) -> pd.DataFrame:
    if not Path(path).is_file():
        raise ValueError(f"scores: expected a DataFrame or the path of a scores.csv, but there is no file at {path}")
    try:
        return pd.read_csv(path, keep_default_na=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a scores.csv, got: {error}") from error


def refuse_missing(name: str, table: pd.DataFrame, needed: Iterable[str], advice: str) -> None:
    """Refuse a table without some columns.

    Raises:
        ValueError: names those that are missing.
    """
    missing = [column for column in needed if column not in table.columns]
    if missing:
        got = ", ".join(map(str, table.columns)) or "none"
        raise ValueError(f"{name}: expected also the columns {', '.join(missing)}, got {got}; {advice}")


def checked_name(table: str, value: Any, expected: str) -> str:
    """The name that a cell holds.

    Raises:
        ValueError: it holds something else.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{table}: expected {expected}, got {value!r}")
    return value


def numbers_in(table: str, values: pd.Series) -> pd.Series:
    """A column as float64.

    Raises:
        ValueError: it holds something else than numbers; names the column.
    """
    try:
        return pd.to_numeric(values).astype(np.float64)
    except (TypeError, ValueError):
        text = next((value for value in values if isinstance(value, str)), values.iloc[0])
        raise ValueError(f"{table}, column {values.name}: expected numbers, got {text!r}") from None


def yes_no(value: Any) -> bool | None:
    """True, False or nothing known, from a cell that may have been through a file."""
    text = str(value).lower()
    return True if text in ("true", "1", "1.0") else False if text in ("false", "0", "0.0") else None


def _summaries(part: pd.DataFrame) -> list[Summary]:
    """Of every model of one source and protocol, best first; a model without a defined error comes last."""
    rows = summary(part).reset_index().to_dict("records")
    found = [
        Summary(
            model=str(row["model"]),
            recordings=int(row["recordings"]),
            seeds=int(row["seeds"]),
            mean=float(row["esr_dc_filtered"]),
            worst=float(row["worst"]),
            best_gain=float(row["esr_best_gain"]),
            lowest_seed=float(row["best_seed"]),
            highest_seed=float(row["worst_seed"]),
            parameters=float(row["parameters"]),
            real_time_factor=float(row["real_time_factor"]),
            train_seconds=float(row["train_seconds"]),
            converged=yes_no(row["converged"]),
        )
        for row in rows
    ]
    return sorted(found, key=lambda row: (math.inf if math.isnan(row.mean) else row.mean, row.model))


def groups(
    scores: pd.DataFrame, reference: str, blocks: pd.DataFrame | None, controls: Sequence[Control]
) -> list[Group]:
    """One :class:`Group` for each source and protocol, in the order of :data:`SOURCES` and of the names."""
    if blocks is not None:
        refuse_missing("blocks", blocks, BLOCK_COLUMNS, "use the block energies that go with the scores")
    found = []
    intervals = paired_intervals(blocks, reference) if blocks is not None and len(blocks) else None
    order = sorted(set(zip(scores["source"], scores["protocol"], strict=True)), key=_rank)
    for source, protocol in order:
        part = scores[(scores["source"] == source) & (scores["protocol"] == protocol)]
        rows = _summaries(part)
        eligible = [row.model for row in rows if row.converged is not False and not math.isnan(row.mean)]
        there = {row.model for row in rows}
        real, published = source.startswith("hardware"), tuple(controls) == LA2A_CONTROLS
        missing = [name for name in missing_rows(part) if real and (published or name in WITHOUT_A_COMPRESSOR)]
        compared = _compared(intervals, source, protocol, there)
        notes = _notes(part, source, protocol)
        best = eligible[0] if eligible and len(rows) > 1 else None
        found.append(Group(source, protocol, part, rows, best, reference, compared, missing, notes))
    return found


def _rank(group: tuple[str, str]) -> tuple[int, str]:
    return SOURCES.index(group[0]), group[1]


def _notes(part: pd.DataFrame, source: str, protocol: str) -> list[str]:
    note = _PROTOCOLS.get(protocol, "")
    if protocol == "shipped" and source == "hardware":
        note += _SHIPPED_ON_HARDWARE
    notes = [note] if note else []
    known = part[[value is not None for value in part["setting_seen"]]]
    seen = known.groupby("track_id")["setting_seen"].agg(any)
    if len(seen):
        count = int(seen.sum())
        none = "None of them is at a setting that occurs in training."
        every = "All of them are at settings that occur in training."
        some = f"{count} of {len(seen)} are at settings that occur in training."
        notes.append(none if not count else every if count == len(seen) else some)
    if source == "simulated":
        notes.append("Simulated: it shows how well a fit works, not how well a form suits hardware.")
    if len({frozenset(rows["track_id"]) for _, rows in part.groupby("model")}) > 1:
        notes.append("Not every model was scored on all of them, so the means are not of the same recordings.")
    lost = int(part["esr_dc_filtered"].isna().sum())
    if lost:
        notes.append(f"{lost} scores aren’t defined (a silent target) and are in no mean.")
    return notes


def _compared(intervals: pd.DataFrame | None, source: str, protocol: str, models: set[str]) -> dict[str, Compared]:
    if intervals is None:
        return {}
    mine = intervals[(intervals["source"] == source) & (intervals["protocol"] == protocol)]
    return {
        row["model"]: Compared(row["difference"], row["low"], row["high"], bool(row["distinguishable"]))
        for row in mine.to_dict("records")
        if row["model"] in models and row["model"] != row["reference"]
    }


def reference_of(names: Sequence[str], explicit: Iterable[str]) -> str:
    """Which model the others are compared with: one that has curves, one called grey box, or the first."""
    explicit = list(explicit)
    called = [name for name in names if name.lower().replace("-", " ").replace("_", " ").strip() == "grey box"]
    return next((name for name in [*called, *explicit] if name in names), names[0])
