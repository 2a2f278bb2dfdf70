"""From a folder shaped like the SignalTrain LA2A data set, or a table of one's own, to a frame with one row a pair."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.data.frame import SOURCES, columns, validated, with_relative_paths
from ddsp_la2a.files import replacing

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
"""Names of the folders in lower case; in the tree their case doesn't matter."""

_INPUT = re.compile(r"input_([0-9]{1,15})_\.wav", re.IGNORECASE)
_TARGET = re.compile(r"target_([0-9]{1,15})_LA2A_(.+?)__([01])__([0-9]{1,3})\.wav", re.IGNORECASE)
_EXPECTED = "input_<id>_.wav and target_<id>_LA2A_<take>__<0 or 1>__<0 to 100>.wav"


def index(root: str | Path) -> pd.DataFrame:
    """Frame of all pairs below a folder with ``Train``, ``Val`` and ``Test``.

    A target is paired with the input of the same number in its own folder. Where a number has a lone input in one
    folder and lone targets in another, they are paired across folders and belong to the target's split (245 of version
    1.1). An input that has a target in its own folder is never lent to another folder (235). What is left over is
    logged and listed in ``frame.attrs["unpaired"]``: dictionaries with the keys path, split, kind (input, target,
    unknown), track_id, take, compress_or_limit, peak_reduction (None where unknown) and reason.

    ``source`` is ``hardware`` and ``device`` is ``LA-2A`` unless a ``dataset.json`` in the folder says otherwise:
    ``{"source": "simulated", "device": "simulated LA-2A"}``.

    Args:
        root: the folder; its own name doesn't matter.

    Returns:
        one row a target, columns :func:`~ddsp_la2a.data.frame.columns` of the LA-2A, ordered by split, number, take,
        switch and knob; absolute posix paths.

    Raises:
        FileNotFoundError: nothing at this path.
        ValueError: no folder, no pair in it, or a ``dataset.json`` that can't be understood.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(
            f"{root}: expected a folder with Train, Val and Test, but there is nothing at this path"
        )
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder with Train, Val and Test, got a file; give the folder above")
    root = root.resolve()
    origin = _origin(root)
    files = [_parsed(path, folder.name.lower()) for folder in _folders(root) for path in _wav_files(folder)]
    pairs, unpaired = _paired(files)
    if not pairs:
        raise ValueError(
            f"{root}: expected pairs of {_EXPECTED} in Train, Val or Test, found {len(files)} WAV files "
            "there and no pair; give the folder that holds Train, Val and Test"
        )
    rows = [{**target, "raw_audio_path": raw["path"], "processed_audio_path": target["path"]} for raw, target in pairs]
    frame = pd.DataFrame(rows).assign(**origin)[list(columns())]
    order = ["split", "track_id", "take", "compress_or_limit", "peak_reduction", "processed_audio_path"]
    frame = frame.sort_values(order, ignore_index=True)
    frame = validated(frame, str(root), root)
    frame.attrs["unpaired"] = unpaired
    if unpaired:
        listed = "; ".join(f"{file['split']}/{Path(file['path']).name} ({file['reason']})" for file in unpaired)
        logger.warning("%s: %d files left without a partner: %s", root, len(unpaired), listed)
    return frame


def read_frame(source: str | Path | pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS) -> pd.DataFrame:
    """Frame from a data set folder, a saved CSV file or a DataFrame of one's own, checked in any case.

    Args:
        source: a folder for :func:`index`; a CSV file, whose relative paths start at its own folder; or a DataFrame,
            whose relative paths start at the working directory. What columns it needs and what is filled in says
            :func:`~ddsp_la2a.data.frame.validated`; the optional columns ``start_frame`` and ``stop_frame``
            (exclusive) limit a row to a stretch.
        controls: of the unit; each is a column.

    Returns:
        a new frame with the :func:`~ddsp_la2a.data.frame.columns` first and a fresh index.

    Raises:
        FileNotFoundError: nothing at this path.
        ValueError: names file, row and column, what was expected, what was found and what to do.
    """
    if isinstance(source, pd.DataFrame):
        return validated(source, "frame", Path.cwd(), controls=controls)
    path = Path(source)
    if path.is_dir():
        if tuple(controls) != LA2A_CONTROLS:
            names = ", ".join(control.name for control in controls)
            raise ValueError(f"{path}: expected a CSV file with the columns {names}, got a folder, which is an LA-2A's")
        return index(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a data set folder or a CSV file, but there is nothing at this path")
    try:
        # Text first: so a wrong cell is quoted as it stands in the file, and a take named NA stays a name.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: expected a CSV file in UTF-8 as index() gives it, got something else") from error
    return validated(table, str(path), path.resolve().parent, first_line=2, controls=controls)


def write_frame(frame: pd.DataFrame, path: str | Path, controls: Sequence[Control] = LA2A_CONTROLS) -> None:
    """Save a frame as CSV (UTF-8), in one move.

    Files below the CSV's folder are written relative to it, so that the folder can be moved; others stay absolute.

    Args:
        frame: as :func:`read_frame` gives it.
        path: the file to write; its folder must exist.
        controls: of the unit.

    Raises:
        ValueError: the frame isn't valid, or there is no such folder.
    """
    path = Path(path)
    table = with_relative_paths(read_frame(frame, controls), path)
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def _origin(root: Path) -> dict[str, str]:
    """``source`` and ``device`` of a data set."""
    path = root / "dataset.json"
    if not path.is_file():
        return {"source": "hardware", "device": "LA-2A"}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f'{path}: expected JSON such as {{"source": "simulated"}}, got: {error}') from error
    source = content.get("source") if isinstance(content, dict) else None
    if source not in SOURCES:
        raise ValueError(f"{path}: expected a source among {', '.join(SOURCES)}, got {source!r}; correct or delete it")
    return {"source": str(source), "device": str(content.get("device", "LA-2A"))}


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name.lower() in SPLITS)


def _wav_files(folder: Path) -> list[Path]:
    """WAV files of a folder; names with a leading dot are what macOS and unfinished copies leave behind."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    return [folder / name for name in sorted(names) if name.lower().endswith(".wav") and not name.startswith(".")]


def _parsed(path: Path, split: str) -> dict[str, Any]:
    """What a file name says. Only the name is looked at, and only as a whole: 13 isn't found in 130."""
    file: dict[str, Any] = {"path": path.as_posix(), "split": split, "kind": "unknown", "track_id": None, "take": None}
    file |= {"compress_or_limit": None, "peak_reduction": None, "reason": f"expected names such as {_EXPECTED}"}
    if match := _INPUT.fullmatch(path.name):
        file |= {"kind": "input", "track_id": int(match[1])}
    elif (match := _TARGET.fullmatch(path.name)) and int(match[4]) <= 100:
        file |= {"kind": "target", "track_id": int(match[1]), "take": match[2]}
        file |= {"compress_or_limit": int(match[3]), "peak_reduction": int(match[4])}
    return file


def _paired(files: list[dict[str, Any]]) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], list[dict[str, Any]]]:
    """Pairs (input, target) and the files that are left over, with the reason."""
    unpaired = [file for file in files if file["kind"] == "unknown"]
    inputs: dict[tuple[str, int], dict[str, Any]] = {}
    for file in files:
        if file["kind"] == "input":
            place = (file["split"], file["track_id"])
            if place in inputs:  # input_13_.wav beside input_013_.wav
                first = Path(inputs[place]["path"]).name
                unpaired.append(file | {"reason": f"a second input with this number beside {first}"})
            else:
                inputs[place] = file | {"reason": "no target with this number"}

    pairs = []
    lone_targets: dict[int, list[dict[str, Any]]] = {}
    for file in files:
        if file["kind"] == "target":
            place = (file["split"], file["track_id"])
            if place in inputs:
                pairs.append((inputs[place], file))
            else:
                lone_targets.setdefault(file["track_id"], []).append(file | {"reason": "no input with this number"})
    taken = {raw["path"] for raw, _ in pairs}
    lone_inputs: dict[int, list[dict[str, Any]]] = {}
    for raw in inputs.values():
        if raw["path"] not in taken:
            lone_inputs.setdefault(raw["track_id"], []).append(raw)

    for track_id in sorted(lone_inputs.keys() | lone_targets.keys()):
        raws, targets = lone_inputs.get(track_id, []), lone_targets.get(track_id, [])
        # Only where it is plain which belong together: one input, and targets in one other folder.
        if len(raws) == 1 and len({target["split"] for target in targets}) == 1:
            pairs.extend((raws[0], target) for target in targets)
            logger.info("paired across folders: %s and %s", raws[0]["path"], targets[0]["path"])
        else:
            unpaired.extend([*raws, *targets])
    return pairs, sorted(unpaired, key=lambda file: file["path"])
