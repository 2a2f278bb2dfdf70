"""Names that say a setting: ``<anything>_threshold=-20_ratio=4.wav``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ddsp_la2a.controls import Control


def named_settings(
    folder: Path, controls: tuple[Control, ...], stimulus_path: Path
) -> list[tuple[Path, dict[str, float | int]]]:
    """The WAV files of a folder with the settings in their names.

    Args:
        folder: holds recordings, and nothing else with that ending but the stimulus.
        controls: of the unit.
        stimulus_path: what was played, left out.

    Returns:
        (file, setting) ordered by setting, controls in their own order.

    Raises:
        ValueError: no recordings; names that say no setting, or one setting twice: all of them listed.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
    recordings = [folder / name for name in names if name.lower().endswith(".wav") and folder / name != stimulus_path]
    if not recordings:
        name = "_".join(["<anything>", *(f"{control.name}={control.low:g}" for control in controls)])
        raise ValueError(f"{folder}: expected recordings named such as {name}.wav, found none")
    errors: list[str] = []
    seen: dict[tuple[float | int, ...], Path] = {}
    settings = []
    for path in recordings:
        try:
            setting = setting_of(path, controls)
            key = tuple(setting.values())
            if key in seen:
                raise ValueError(f"{path}: expected every setting once, got that of {seen[key].name}; remove one")
        except ValueError as error:
            errors.append(str(error))
            continue
        seen[key] = path
        settings.append((path, setting))
    refuse_all(errors, folder)
    return sorted(settings, key=lambda named: tuple(named[1].values()))


def setting_of(path: Path, controls: tuple[Control, ...]) -> dict[str, float | int]:
    """Position of every control from a name; control names may hold underscores, values may not.

    Args:
        path: a recording; only its name is looked at.
        controls: of the unit.

    Returns:
        positions by name in the order of the controls; switches as int.

    Raises:
        ValueError: a control is missing, unknown, twice in the name, or at a position that it doesn't have.
    """
    known = sorted((control.name for control in controls), key=len, reverse=True)
    found: dict[str, float | int] = {}
    for match in re.finditer(r"([^=]*)=([^_=]*)", path.stem):
        before, value = match.groups()
        # The longest name first: with controls reduction and peak_reduction, "_peak_reduction=5" is the latter.
        name = next((name for name in known if before == name or before.endswith(f"_{name}")), None)
        if name is None:
            unknown = before.rpartition("_")[2]
            raise ValueError(
                f"{path}: expected positions of {', '.join(c.name for c in controls)}, got {unknown}={value}; "
                "add the control or rename the file"
            )
        control = next(control for control in controls if control.name == name)
        if name in found:
            raise ValueError(f"{path}: expected {name} once in the name, got it twice; rename the file")
        try:
            position = float(value)
        except ValueError:
            position = float("nan")
        if not control.holds(position):
            raise ValueError(
                f"{path}: expected a position of {control}, got {name}={value}; rename the file or correct the range"
            )
        found[name] = int(position) if control.kind == "switch" else position
    missing = [control.name for control in controls if control.name not in found]
    if missing:
        raise ValueError(
            f"{path}: expected {' and '.join(f'{name}=<value>' for name in missing)} in the name; rename the file"
        )
    return {control.name: found[control.name] for control in controls}


def refuse_all(errors: list[str], folder: Path) -> None:
    """Raise one ValueError for all recordings that can't be used, if there are any."""
    if len(errors) == 1:
        raise ValueError(errors[0])
    if errors:
        listed = "\n- ".join(["", *errors])
        raise ValueError(f"{folder}: {len(errors)} recordings can't be used, nothing was written:{listed}")
