"""The whole job: fit, look, compare. What the command line's ``fit``, ``compare`` and ``demo`` are made of."""

from __future__ import annotations

import inspect
import itertools
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.data.audio import audio_info, read_audio
from ddsp_la2a.data.check import apply_findings, check
from ddsp_la2a.data.frame import Setting, positions_of, settings_of
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.evaluation import figures
from ddsp_la2a.evaluation.evaluate import PROTOCOL_ROWS, Model
from ddsp_la2a.evaluation.measure import measure_traced, measured_curves
from ddsp_la2a.evaluation.style import in_words
from ddsp_la2a.evaluation.tones import LOWEST_SAMPLE_RATE
from ddsp_la2a.export.description import describe
from ddsp_la2a.export.names import slug
from ddsp_la2a.export.web import write_page
from ddsp_la2a.files import replacing
from ddsp_la2a.model.grey_box import GreyBox

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "ddsp_la2a.models"
GREY_BOX = "grey-box"

_OPTICAL_CELL = "optical-cell"
_LA2A_ROWS = ("published-gain", "published-filter")

_MEASURED_POSITIONS = 11

MOST_MEASURED = 6
"""Settings at which models are measured on a tone."""

DEMO_ROWS = (*PROTOCOL_ROWS, "numpy-single", _OPTICAL_CELL, "lstm-32", "tcn-small")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write results to: made if it isn't there, refused if it holds anything.

    If an error comes before anything was written to it, what was made is taken away again.

    Raises:
        ValueError: it isn't empty, or a file stands in its place.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: expected a new or empty folder, got one with something in it; name another --out")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    except BaseException:
        for folder in made:
            if any(folder.iterdir()):
                break
            folder.rmdir()
        raise


def clean_frame(
    source: pd.DataFrame | str | Path,
    progress: Callable[[int, int], object] | None = None,
    controls: Sequence[Control] = LA2A_CONTROLS,
) -> Any:
    """Frame without the pairs that ``check`` finds an error in, and the findings."""
    frame = read_frame(source, controls)
    findings = check(frame, controls=controls, progress=progress)
    return apply_findings(frame, findings, controls), findings


def baseline_names() -> list[str]:
    """Names of all models that installed packages offer in the entry-point group ``ddsp_la2a.models``."""
    return sorted(entry_points(group=ENTRY_POINT_GROUP).names)


def suitable(names: Sequence[str], controls: Sequence[Control]) -> list[str]:
    """Those of the names that can be built for a unit with these controls.

    Others than the LA-2A weren't published, and an optical cell is turned by one knob.
    """
    left_out = set() if tuple(controls) == LA2A_CONTROLS else set(_LA2A_ROWS)
    if len([control for control in controls if control.kind == "continuous"]) != 1:
        left_out.add(_OPTICAL_CELL)
    return [name for name in names if name not in left_out]


def refuse_unknown(names: Sequence[str]) -> None:
    """Refuse names that no installed package offers, before anything is fitted.

    Raises:
        ValueError: names them and those there are.
    """
    known = baseline_names()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"models: expected some of {', '.join(known)}, got {', '.join(unknown)}")


def refuse_unsuitable(names: Sequence[str], controls: Sequence[Control]) -> None:
    """Refuse a cell for a unit without one knob, before anything is fitted.

    Raises:
        ValueError: it is asked for.
    """
    if _OPTICAL_CELL in names and _OPTICAL_CELL not in suitable([_OPTICAL_CELL], controls):
        raise ValueError(
            f"models: expected a unit with one knob for {_OPTICAL_CELL}, got {', '.join(map(str, controls))}"
        )


def is_trained(build: Any) -> bool:
    """Whether a builder trains for a while: it takes a folder to keep what it has, and seeds make a difference."""
    return "folder" in inspect.signature(build).parameters


def build_baselines(
    frame: pd.DataFrame,
    names: Sequence[str],
    *,
    controls: Sequence[Control] = LA2A_CONTROLS,
    budget_s: float,
    seeds: Sequence[int] = (0,),
    progress: bool = False,
    folder: Path | None = None,
) -> dict[str, list[Model]]:
    """Fit the named baselines on the ``train`` rows of a frame.

    Args:
        frame: with ``train`` and ``test`` rows.
        names: of the entry-point group ``ddsp_la2a.models``.
        controls: of the unit.
        budget_s: wall-clock seconds that each trained black box and seed may take.
        seeds: a trained model for each of them; what is fitted takes the first.
        progress: show bars.
        folder: where trained models are kept and found again, each below its name; None: nowhere.

    Returns:
        by name, one model or one a seed.

    Raises:
        ValueError: a name that no installed package offers, or a model that doesn't know these controls.
    """
    refuse_unknown(names)
    how = {"controls": controls, "budget_s": budget_s, "progress": progress}
    known = {point.name: point.load() for point in entry_points(group=ENTRY_POINT_GROUP) if point.name in names}
    found: dict[str, list[Model]] = {}
    for name in names:
        build, place = known[name], None if folder is None else folder / name
        if is_trained(build):
            found[name] = [build(frame, **how, seed=seed, folder=place) for seed in seeds]
        else:
            found[name] = [build(frame, **how, seed=seeds[0])]
    return found


def settings_to_measure(frame: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS) -> list[Setting]:
    """A few of the settings of a frame: at each position of the switches the lowest and the highest of the knobs.

    Of several knobs the first counts before the second and so on. Four settings of an LA-2A, and at most
    :data:`MOST_MEASURED` of any unit, evenly spread: on each, every model has a minute of tones to process.
    """
    switches = [number for number, control in enumerate(controls) if control.kind == "switch"]
    by_switch = sorted(settings_of(frame, controls), key=lambda setting: [setting[number] for number in switches])
    found: list[Setting] = []
    for _, group in itertools.groupby(by_switch, key=lambda setting: [setting[number] for number in switches]):
        several = list(group)
        found += dict.fromkeys([several[0], several[-1]])
    kept = np.linspace(0, len(found) - 1, min(len(found), MOST_MEASURED)).round().astype(int)
    return [found[number] for number in kept]


class OnTones(NamedTuple):
    """What was measured, each table with a column ``model`` and one for every control."""

    numbers: pd.DataFrame
    """As :func:`~ddsp_la2a.evaluation.measure.measured_curves` gives them."""
    static_curves: pd.DataFrame
    """``input_dbfs`` and ``output_dbfs``."""
    steps: pd.DataFrame
    """``level_step``, ``time_s`` and ``tone_gain_db``; see :func:`~ddsp_la2a.evaluation.traces.steps_table`."""


def measured_on_tones(
    models: Mapping[str, Model],
    frame: pd.DataFrame,
    controls: Sequence[Control] = LA2A_CONTROLS,
    progress: Callable[[int, int], object] | None = None,
) -> OnTones:
    """Threshold, ratio, knee, attack and release of models at :func:`settings_to_measure`, and their curves, on a tone.

    External programs, too: they have been run on all recordings already, which as a rule are longer than the tones.
    One that fails on a tone is left out, with a warning in the log.

    Args:
        models: by name; identity and identity with a filter are left out, for they have none of it.
        frame: rows that were scored; the first one's sample rate is that of the tones.
        controls: of the unit.
        progress: called with the number of tones done and their total after each.

    Returns:
        setting by setting.

    Raises:
        ValueError: none of the models could be measured, or one gave another length than it got.
    """
    settings = settings_to_measure(frame, controls)
    chosen = [(name, model) for name, model in models.items() if not name.startswith("identity")]
    rate = max(audio_info(frame["raw_audio_path"].iloc[0]).sample_rate, LOWEST_SAMPLE_RATE)
    parts, failed = [], set()
    for done, (setting, (name, model)) in enumerate(itertools.product(settings, chosen), start=1):
        at: dict[str, Any] = dict(zip((control.name for control in controls), setting, strict=True))
        if name not in failed:
            try:
                numbers, *curves = measure_traced(model, rate, **at)
                parts.append([each.assign(model=name, **at) for each in (pd.DataFrame([numbers]), *curves)])
            except ChildProcessError as error:
                failed.add(name)
                logger.warning("%s: not measured on a tone: %s", name, error)
        if progress is not None:
            progress(done, len(settings) * len(chosen))
    if not parts:
        raise ValueError(f"models: expected one that can be measured on a tone, got {', '.join(models) or 'none'}")
    first = ["model", *(control.name for control in controls)]
    tables = [pd.concat(several, ignore_index=True) for several in zip(*parts, strict=True)]
    return OnTones(*(table[[*first, *table.columns.difference(first, sort=False)]] for table in tables))


def versions() -> dict[str, str]:
    """What a table was made with."""
    packages = ("ddsp-la2a", "torch", "numpy", "scipy", "numba", "pandas")
    return {"Python": platform.python_version(), **{name: version(name) for name in packages}}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A CSV file, whole or not at all."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def write_pictures(model: GreyBox, folder: Path, **positions: Any) -> None:
    """``curves.svg`` (see :meth:`GreyBox.curves` for positions), ``static_curves.svg``, ``step_response.svg``.

    A unit without knobs has no curves. If the device has an output filter, ``output_stage.svg`` as well.
    """
    seen, source = model.info.get("settings_seen", ()), model.info.get("source", "")
    title = source if isinstance(source, str) else "fitted to recordings: " + ", ".join(source)
    if any(control.kind == "continuous" for control in model.controls):
        curves = figures.learned_curves(model.curves(**positions), seen, title=title, controls=model.controls)
        figures.save(curves, folder / "curves.svg")
    figures.save(figures.static_curves(model, title=title), folder / "static_curves.svg")
    figures.save(figures.step_response(model, title=title), folder / "step_response.svg")
    if model.has_one_output_filter:
        figures.save(figures.output_stage(model.output_filter(), title=title), folder / "output_stage.svg")


def write_measured(models: Mapping[str, Model], folder: Path, controls: Sequence[Control], **positions: Any) -> None:
    """``measured.csv`` and ``measured.svg``: what engineers measure on a tone, of models of any family, over the knob.

    Args:
        models: by name, of one unit.
        folder: to write to.
        controls: of the unit.
        positions: of controls by name, one or several each; a switch that isn't given takes all of its, a knob eleven.

    Raises:
        ValueError: several knobs move, or none.
    """
    everywhere = {
        control.name: np.linspace(control.low, control.high, _MEASURED_POSITIONS)
        if control.kind == "continuous"
        else range(round(control.low), round(control.high) + 1)
        for control in controls
    }
    measured = measured_curves(models, 44100.0, **everywhere | positions)
    drawn = figures.measured_curves(measured, title="measured on a tone", controls=controls)
    write_table(measured, folder / "measured.csv")
    figures.save(drawn, folder / "measured.svg")


def write_pages(models: Mapping[str, Model], folder: Path) -> dict[str, str]:
    """A page with a knob for every model that has curves over one; by name, what the page is called.

    Args:
        models: by name.
        folder: to write to.
    """
    written: dict[str, str] = {}
    for name, model in models.items():
        if not isinstance(model, GreyBox):
            continue
        try:
            description = describe(model, name)
        except ValueError as error:
            logger.info("%s: no page with a knob: %s", name, error)
            continue
        if slug(name) in ("report", *(Path(other).stem for other in written.values())):
            logger.info("%s: no page with a knob: another file is called so", name)
            continue
        (path,) = write_page(description, folder)
        written[name] = path.name
    return written


def write_gain_reduction(
    models: dict[str, Model], frame: pd.DataFrame, folder: Path, controls: Sequence[Control] = LA2A_CONTROLS
) -> None:
    """``gain_reduction.svg``: target and up to three models on the first test row."""
    row = frame[frame["split"] == "test"].iloc[0].to_dict()
    stop = int(row["stop_frame"]) if "stop_frame" in row else None
    raw, rate = read_audio(row["raw_audio_path"], 0, stop)
    target, _ = read_audio(row["processed_audio_path"], 0, stop)
    at = positions_of(row, controls)
    shown = [name for name in (GREY_BOX, "lstm-32", "published-gain") if name in models]
    tracks = {name: models[name].process(raw, rate, **at) for name in shown}
    setting = ", ".join(in_words(name, position) for name, position in at.items())
    title = f"track {row['track_id']}, {setting} ({row['source']})"
    figure = figures.gain_reduction(raw, {"target": target, **tracks}, rate, title)
    figures.save(figure, folder / "gain_reduction.svg")
