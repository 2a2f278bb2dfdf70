"""The frame: one row a pair of recordings, and what has to hold for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique, whole_or_not
from ddsp_la2a.data.audio import audio_info
from ddsp_la2a.data.contents import content_hash

Setting = tuple[float, ...]
"""Positions of all controls, in their order."""

STRETCH_COLUMNS = ("start_frame", "stop_frame")
"""Optional columns that limit a row to a stretch of its two files; the stop is exclusive."""

SOURCES = ("hardware", "hardware-postprocessed", "simulated", "plug-in")
"""Where a recording may come from; no mean runs across sources."""

_FEWEST = {"track_id": 0, "start_frame": 0, "stop_frame": 1}
_LARGEST = 2**53
_PATHS = ("raw_audio_path", "processed_audio_path")


def columns(controls: Sequence[Control] = LA2A_CONTROLS) -> tuple[str, ...]:
    """Columns of every frame of a unit with these controls, in this order."""
    return "track_id", "split", "take", *(control.name for control in controls), *_PATHS, "source", "device"


def _defaults(rows: int, controls: Sequence[Control]) -> dict[str, Any]:
    """What columns that may be missing are filled with."""
    if controls == LA2A_CONTROLS:  # its frames come from index(), which knows everything but what came later
        return {"source": "hardware", "device": "LA-2A"}
    return {"track_id": np.arange(rows), "split": "train", "take": "", "source": "hardware"}


def validated(
    frame: pd.DataFrame,
    name: str,
    folder: Path,
    first_line: int | None = None,
    controls: Sequence[Control] = LA2A_CONTROLS,
) -> pd.DataFrame:
    """Copy of a frame with every type, range and path checked.

    Args:
        frame: at least ``raw_audio_path``, ``processed_audio_path``, ``device`` and a column for every control. Of the
            other :func:`columns`, ``track_id`` is the row's number unless given, ``split`` is ``train``, ``take`` is
            empty and ``source`` is ``hardware``; but for the LA-2A all are needed except ``source`` and ``device``.
            Either both :data:`STRETCH_COLUMNS` or none; further columns are kept.
        name: what to call the frame in messages.
        folder: where relative paths start.
        first_line: line of the first row in a CSV file; None: rows are counted from 0.
        controls: of the unit.

    Returns:
        numbers and str columns, absolute posix paths, a fresh index. Positions are int64 where all of a column are
        whole, else float64.

    Raises:
        ValueError: names row and column, what was expected, what was found.
    """

    def row_name(row: int) -> str:
        return f"{name}, row {row}" if first_line is None else f"{name}, line {row + first_line}"

    controls = unique(controls)
    ordered, defaults = columns(controls), _defaults(len(frame), controls)
    missing = [column for column in ordered if column not in frame.columns and column not in defaults]
    if missing:
        raise ValueError(
            f"{name}: expected the columns {', '.join(ordered)}, got {', '.join(map(str, frame.columns))}; "
            f"add {', '.join(missing)}" + (", or let index() make the frame" if controls == LA2A_CONTROLS else "")
        )
    limits = [column for column in STRETCH_COLUMNS if column in frame.columns]
    if len(limits) == 1:
        raise ValueError(f"{name}: expected both start_frame and stop_frame or neither, got {limits[0]} alone")
    if frame.empty:
        raise ValueError(f"{name}: expected at least one pair of recordings, got a frame without rows")

    clean = frame.reset_index(drop=True)
    clean = clean.assign(**{column: value for column, value in defaults.items() if column not in clean.columns})
    for column in ["track_id", *limits]:
        clean[column] = _whole_numbers(clean[column], column, row_name)
    for control in controls:
        clean[control.name] = _positions(clean[control.name], control, row_name)
    for column in ("split", "take", *_PATHS, "source", "device"):
        clean[column] = _texts(clean[column], column, row_name)
    for row, split in enumerate(clean["split"]):
        if not split or split != split.strip().lower():
            raise ValueError(
                f"{row_name(row)}, column split: expected a lower-case name such as 'train', got {split!r}"
            )
    for row, source in enumerate(clean["source"]):
        if source not in SOURCES:
            raise ValueError(f"{row_name(row)}, column source: expected one of {', '.join(SOURCES)}, got {source!r}")
    for row, device in enumerate(clean["device"]):
        if not device.strip():
            raise ValueError(f"{row_name(row)}, column device: expected the name of a unit, got {device!r}")
    for column in _PATHS:
        clean[column] = _paths(clean[column], column, folder, row_name)
    _refuse_overlap(clean, row_name)
    others = [column for column in clean.columns if column not in (*ordered, *STRETCH_COLUMNS)]
    clean = clean[[*ordered, *limits, *others]]
    clean.attrs = dict(frame.attrs)
    return clean


def with_relative_paths(frame: pd.DataFrame, csv_path: str | Path) -> pd.DataFrame:
    """The frame with the paths below a CSV file's folder relative to it, so that the folder can be moved."""
    folder = Path(csv_path).resolve().parent
    table = frame.copy()
    for column in _PATHS:
        files = [Path(value) for value in table[column]]
        table[column] = [
            (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix() for file in files
        ]
    return table


def stretch(row: Mapping[Any, Any]) -> tuple[int, int, int]:
    """What a row of a frame covers: its stretch, or all that its two files have in common.

    Args:
        row: a row as a dictionary.

    Returns:
        first frame, frame after the last, and the sample rate in Hz.

    Raises:
        FileNotFoundError, ValueError: a file is missing or unreadable, or the two have different rates.
    """
    raw, processed = audio_info(row["raw_audio_path"]), audio_info(row["processed_audio_path"])
    if raw.sample_rate != processed.sample_rate:
        raise ValueError(
            f"{processed.path}: expected {raw.sample_rate} Hz as {raw.path}, got {processed.sample_rate} Hz; "
            "resample it"
        )
    start, stop = row.get("start_frame", 0), row.get("stop_frame", min(raw.frames, processed.frames))
    return int(start), int(stop), processed.sample_rate


def positions_of(row: Mapping[Any, Any], controls: Sequence[Control] = LA2A_CONTROLS) -> dict[str, Any]:
    """Positions of the controls in a row of a frame, by name: keywords of ``process``."""
    return {control.name: row[control.name] for control in controls}


def rows_by_setting(frame: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS) -> dict[Setting, list[int]]:
    """Row numbers of every setting that occurs in a frame, in the order of the settings."""
    found: dict[Setting, list[int]] = {}
    positions = (frame[control.name].tolist() for control in controls)
    for row, setting in enumerate(zip(*positions, strict=True)):
        found.setdefault(setting, []).append(row)
    return dict(sorted(found.items()))


def settings_of(frame: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS) -> list[Setting]:
    """The settings that occur in a frame, sorted; each a tuple in the order of the controls."""
    return list(rows_by_setting(frame, controls))


def refuse_several_devices(frame: pd.DataFrame) -> None:
    """Refuse recordings of more than one unit, which no model is of.

    Raises:
        ValueError: names the units.
    """
    devices = sorted(frame["device"].unique())
    if len(devices) > 1:
        raise ValueError(
            f"frame: expected recordings of one device, got {', '.join(devices)}; a model belongs to one: "
            "select its rows"
        )


def linked_takes(frame: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS) -> NDArray[np.int64] | None:
    """Number of each row's take, or None where a gain per take could not be told from parameters per setting.

    It can where there are several takes and all of them hang together through settings they share.
    """
    takes, take_names = pd.factorize(frame["take"], sort=True)
    settings = frame.groupby([control.name for control in controls]).ngroup().to_numpy()
    if len(take_names) < 2:
        return None
    size = len(take_names) + int(settings.max()) + 1
    edges = coo_array((np.ones(len(frame)), (takes, len(take_names) + settings)), shape=(size, size))
    linked = connected_components(edges, directed=False)[0] == 1
    return takes.astype(np.int64) if linked else None


def data_hash(frame: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS) -> str:
    """Hash of which recordings a frame names: their settings, stretches, file names and contents.

    Contents, not times of change: a copied data set is the same data set, and what was trained on it can go on. Files
    that were read before and haven't changed since aren't read again.
    """
    digest = hashlib.sha256()
    names = ["split", "take", *(c.name for c in controls), *(c for c in STRETCH_COLUMNS if c in frame.columns)]
    for row in frame.itertuples(index=False):
        described = [str(getattr(row, name)) for name in names]
        for path in (Path(str(row.raw_audio_path)), Path(str(row.processed_audio_path))):
            described += [path.name, content_hash(path)]
        digest.update("\x1f".join(described).encode("utf-8") + b"\n")
    return digest.hexdigest()


def _whole_numbers(values: pd.Series, column: str, row_name: Callable[[int], str]) -> pd.Series:
    numbers = _numbers(values)
    right = (numbers >= _FEWEST[column]) & (numbers <= _LARGEST) & (numbers == np.floor(numbers))
    _refuse_cell(values, right, column, f"a whole number from {_FEWEST[column]} on", row_name)
    return pd.Series(numbers.astype("int64"), index=values.index)


def _positions(values: pd.Series, control: Control, row_name: Callable[[int], str]) -> pd.Series:
    numbers = _numbers(values)
    right = np.array([control.holds(number) for number in numbers])
    _refuse_cell(values, right, control.name, control.positions, row_name)
    return pd.Series(whole_or_not(numbers), index=values.index)


def _numbers(values: pd.Series) -> NDArray[np.float64]:
    return np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)


def _refuse_cell(
    values: pd.Series, right: NDArray[np.bool_], column: str, expected: str, row_name: Callable[[int], str]
) -> None:
    if not right.all():
        row = int((~right).argmax())
        got = values.tolist()[row]
        raise ValueError(f"{row_name(row)}, column {column}: expected {expected}, got {got!r}; correct the value")


def _texts(values: pd.Series, column: str, row_name: Callable[[int], str]) -> pd.Series:
    # Paths of one's own frame may well be pathlib's.
    texts: list[Any] = [value.as_posix() if isinstance(value, Path) else value for value in values.tolist()]
    for row, value in enumerate(texts):
        if not isinstance(value, str):
            raise ValueError(f"{row_name(row)}, column {column}: expected text, got {value!r}; fill the cell")
    return pd.Series(texts, index=values.index).astype(str)


def _paths(values: pd.Series, column: str, folder: Path, row_name: Callable[[int], str]) -> pd.Series:
    paths = [(folder / value).resolve() for value in values]
    for row, path in enumerate(paths):
        if not path.is_file():
            raise ValueError(f"{row_name(row)}, column {column}: expected an audio file, but there is none at {path}")
    return pd.Series([path.as_posix() for path in paths], index=values.index).astype(str)


def _refuse_overlap(frame: pd.DataFrame, row_name: Callable[[int], str]) -> None:
    """No second of a target may occur twice: within a split it would count double, across splits it would leak."""
    if "start_frame" not in frame.columns:
        repeated = frame["processed_audio_path"].duplicated().to_numpy()
        if repeated.any():
            row = int(repeated.argmax())
            path = frame["processed_audio_path"].iloc[row]
            raise ValueError(f"{row_name(row)}: expected every target once, got {path} again; drop one of the rows")
        return
    empty = (frame["start_frame"] >= frame["stop_frame"]).to_numpy()
    if empty.any():
        row = int(empty.argmax())
        start, stop = frame["start_frame"].iloc[row], frame["stop_frame"].iloc[row]
        raise ValueError(f"{row_name(row)}: expected start_frame below stop_frame, got {start} and {stop}")
    for _, rows in frame.groupby("processed_audio_path"):
        ordered = rows.sort_values(["start_frame", "stop_frame"])
        overlap = ordered["start_frame"].to_numpy()[1:] < ordered["stop_frame"].to_numpy()[:-1]
        if overlap.any():
            first, second = ordered.index.to_numpy()[[overlap.argmax(), overlap.argmax() + 1]]
            raise ValueError(
                f"{row_name(int(second))}: expected stretches of a target that don't overlap, but this one shares "
                f"frames of {ordered['processed_audio_path'].iloc[0]} with row {first}; change its start or stop"
            )
