"""Where a training run was: all it needs to go on, bit by bit, as if it had never ended.

One safetensors file with JSON metadata (nothing in it can run): weights, best weights, Adam's moments, the numbers of
scheduler, order and history, and what the run was made of. No state of random numbers: the order of the segments
follows from seed and position, and nothing else is drawn. It is written whole or not at all, and belongs to certain
recordings and settings. The one before stays beside it, for when the disk damages what was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddsp_la2a.data.frame import data_hash
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.model.tensor_file import read_tensors, write_tensors

FORMAT_VERSION = 1

_LOG = logging.getLogger(__name__)
_FAMILY = "training"
_HOW_FAR = ("budget_s", "max_steps")
"""Settings that say how far to go, not how: a run goes on under other ones."""


@dataclass(frozen=True)
class Position:
    """Where a run is, but for tensors.

    Args:
        batches: done, of all epochs together; the next one follows from it and the seed.
        step: steps done.
        seconds: wall-clock time of all runs so far.
        losses: of the steps since the last look.
        history: a row a look.
        best_error: of all looks.
        converged: there is nothing more to do.
    """

    batches: int
    step: int
    seconds: float
    losses: list[float]
    history: list[dict[str, float]]
    best_error: float
    converged: bool


@dataclass(frozen=True)
class Run:
    """What a run's weights follow from.

    Args:
        fingerprint: hash of all of it.
        configuration: what it was made of, to be read: settings, module and hashes of the recordings.
    """

    fingerprint: str
    configuration: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """A copy of a run between two batches.

    Args:
        position: where it is.
        numbers: of optimiser and scheduler.
        tensors: weights, best weights and moments, by name.
    """

    position: Position
    numbers: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        position: Position,
        module: nn.Module,
        best: dict[str, Tensor],
        optimiser: torch.optim.Optimizer,
        plateau: torch.optim.lr_scheduler.ReduceLROnPlateau,
    ) -> Snapshot:
        """Copy of all that later steps change."""
        tensors = {f"weights/{name}": value for name, value in module.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in best.items()}
        for number, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"adam/{number}/{name}": value for name, value in moments.items()}
        numbers = {
            "learning_rate": optimiser.param_groups[0]["lr"],
            "best": plateau.best,
            "num_bad_epochs": plateau.num_bad_epochs,
            "last_epoch": plateau.last_epoch,
        }
        return cls(position, numbers, {name: value.detach().clone() for name, value in tensors.items()})

    def restore(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        plateau: torch.optim.lr_scheduler.ReduceLROnPlateau,
    ) -> dict[str, Tensor]:
        """Put everything back where it was.

        Returns:
            the best weights so far.
        """
        of: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "adam": {}}
        for path, value in self.tensors.items():
            part, _, name = path.partition("/")
            of[part][name] = value
        module.load_state_dict(of["weights"])
        moments: dict[int, dict[str, Tensor]] = {}
        for path, value in of["adam"].items():
            number, _, name = path.partition("/")
            moments.setdefault(int(number), {})[name] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        optimiser.param_groups[0]["lr"] = self.numbers["learning_rate"]
        for name in ("best", "num_bad_epochs", "last_epoch"):
            setattr(plateau, name, self.numbers[name])
        return of["best"]

    def write(self, path: Path, run: Run) -> None:
        """Write it, see :func:`write_kept`.

        Raises:
            ValueError: no such folder.
            UnwritableError: the disk is full or read-only.
        """
        described = {
            "format_version": FORMAT_VERSION,
            "family": _FAMILY,
            **asdict(run),
            "position": asdict(self.position),
            "numbers": self.numbers,
        }
        write_kept(path, described, self.tensors)


def write_kept(path: Path, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a file of tensors and keep the one before: at every moment at least one of them is there, whole.

    Args:
        path: in an existing folder; ``checkpoint.safetensors`` becomes ``checkpoint.previous.safetensors``.
        description: plain data, with a ``format_version``.
        tensors: by name; finite.

    Raises:
        ValueError: a tensor that isn't finite, or no such folder.
        UnwritableError: the disk is full or read-only; both files are as they were.
    """
    for unfinished in path.parent.glob(f".{escape(path.stem)}.????????{path.suffix}"):  # a killed process left it
        with suppress(OSError):
            unfinished.unlink()
    # A damaged file doesn't take the place of a whole one.
    whole = path.exists() and _is_whole(path, description["format_version"])
    write_tensors(path, description, tensors, _previous(path) if whole else None)


def read_kept(path: Path, what: str, versions: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Description and tensors of a file that :func:`write_kept` wrote, or where it is damaged of the one before.

    Args:
        path: of the newest.
        what: what it should be, for messages.
        versions: formats that the caller can read, the newest last.

    Returns:
        None where there is neither.

    Raises:
        ValueError: none of those that are there can be read.
    """
    present = kept_files(path)
    problems = []
    for each in present:
        try:
            found = read_tensors(each, what, versions)
        except ValueError as error:
            problems.append(str(error))
            continue
        if each != path:
            why = problems[0] if problems else f"{path} isn't there"
            _LOG.warning("%s: going on from the one before, %s", why, each)
        return found
    if problems:
        raise ValueError(f"{'; '.join(problems)}; delete {_names(present)} to begin anew")
    return None


def kept_files(path: Path) -> list[Path]:
    """Those that :func:`write_kept` has left, the newest first."""
    return [each for each in (path, _previous(path)) if each.exists()]


def _names(paths: list[Path]) -> str:
    return " and ".join(path.name for path in paths)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _is_whole(path: Path, version: int) -> bool:
    try:
        read_tensors(path, "checkpoint", (version,))
    except ValueError:
        return False
    return True


def read_snapshot(path: Path, run: Run) -> Snapshot | None:
    """The snapshot in a file, or in the one before where that is damaged; None where there is neither.

    Args:
        path: of the file.
        run: that wants to go on, see :func:`describe_run`.

    Raises:
        ValueError: it is no checkpoint, damaged, or of other recordings or settings; names the file.
    """
    kept = read_kept(path, "checkpoint", (FORMAT_VERSION,))
    if kept is None:
        return None
    described, tensors = kept
    try:
        if described["family"] != _FAMILY:
            raise ValueError(f"family {described['family']!r}")
        found, position = described["fingerprint"], Position(**described["position"])
        numbers, configuration = dict(described["numbers"]), dict(described.get("configuration", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a checkpoint of a training run, got something else ({error})") from error
    refuse_others(path, run.fingerprint, str(found), _differences(run.configuration, configuration))
    return Snapshot(position, numbers, tensors)


def refuse_others(path: Path, fingerprint: str, found: str, differences: str = "") -> None:
    """Refuse a checkpoint whose fingerprint isn't that of the run that wants to go on.

    Raises:
        ValueError: names the file, and what differs.
    """
    if found != fingerprint:
        raise ValueError(
            f"{path}: expected a checkpoint of these recordings and settings ({fingerprint[:12]}…), got one of others "
            f"({found[:12]}…{differences}); name another folder, or delete {_names(kept_files(path))} to begin anew"
        )


def _differences(here: dict[str, Any], there: dict[str, Any]) -> str:
    """What differs between two configurations, in words."""
    names = [name for name in here if name in there and name not in _HOW_FAR and here[name] != there[name]]
    return "".join(f", {name} {there[name]} instead of {here[name]}" for name in names)


def describe_run(module: nn.Module, training: SegmentDataset, validation: SegmentDataset | None, settings: Any) -> Run:
    """What a run's weights follow from: recordings, how they are cut, settings, and the module's weights.

    Args:
        module: as it starts, before the first step.
        training, validation: segments.
        settings: a dataclass; how far the run goes (``budget_s``, ``max_steps``) isn't part of the fingerprint.
    """
    configuration: dict[str, Any] = {"module": type(module).__name__, **asdict(settings)}
    how = {name: value for name, value in asdict(settings).items() if name not in _HOW_FAR}
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode("utf-8"))
    for name, dataset in (("training", training), ("validation", validation)):
        if dataset is not None:
            recordings = data_hash(dataset.frame, dataset.controls)
            configuration[f"{name}_sha256"] = recordings
            digest.update(recordings.encode("utf-8"))
            digest.update(f"{dataset.controls} {dataset.skip_frames.tolist()}".encode())
            digest.update(dataset.segments.to_csv(index=False).encode("utf-8"))
    digest.update(type(module).__name__.encode("utf-8"))
    for name, value in module.state_dict().items():
        digest.update(name.encode("utf-8"))
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return Run(digest.hexdigest(), configuration)
