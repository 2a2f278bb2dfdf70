"""Where a training run was: all it needs to go on, bit by bit, as if it had never ended.

One safetensors file with JSON metadata (nothing in it can run): weights, best weights, Adam's moments, and the numbers
of scheduler, order and history. It is written whole or not at all, and belongs to certain recordings and settings.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddsp_la2a.data.frame import data_hash
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.model.tensor_file import read_tensors, write_tensors

FORMAT_VERSION = 1

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

    def write(self, path: Path, fingerprint: str) -> None:
        """Write it, whole or not at all.

        Raises:
            ValueError: no such folder.
        """
        described = {
            "format_version": FORMAT_VERSION,
            "family": _FAMILY,
            "fingerprint": fingerprint,
            "position": asdict(self.position),
            "numbers": self.numbers,
        }
        write_tensors(path, described, self.tensors)


def read_snapshot(path: Path, fingerprint: str) -> Snapshot:
    """The snapshot in a file.

    Args:
        path: of the file.
        fingerprint: of the run that wants to go on, see :func:`run_fingerprint`.

    Raises:
        ValueError: it is no checkpoint, damaged, or of other recordings or settings; names the file.
    """
    described, tensors = read_tensors(path, "checkpoint", (FORMAT_VERSION,))
    try:
        if described["family"] != _FAMILY:
            raise ValueError(f"family {described['family']!r}")
        found, position = described["fingerprint"], Position(**described["position"])
        numbers = dict(described["numbers"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a checkpoint of a training run, got something else ({error})") from error
    if found != fingerprint:
        raise ValueError(
            f"{path}: expected a checkpoint of these recordings and settings ({fingerprint[:12]}…), got one of others "
            f"({str(found)[:12]}…); name another folder, or delete it to begin anew"
        )
    return Snapshot(position, numbers, tensors)


def run_fingerprint(
    module: nn.Module, training: SegmentDataset, validation: SegmentDataset | None, settings: Any
) -> str:
    """Hash of what a run's weights follow from: recordings, how they are cut, settings, and the module's weights.

    Args:
        module: as it starts, before the first step.
        training, validation: segments.
        settings: a dataclass; how far the run goes (``budget_s``, ``max_steps``) isn't part of it.
    """
    how = {name: value for name, value in asdict(settings).items() if name not in _HOW_FAR}
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode("utf-8"))
    for dataset in (training, validation):
        if dataset is not None:
            digest.update(data_hash(dataset.frame, dataset.controls).encode("utf-8"))
            digest.update(f"{dataset.controls} {dataset.skip_frames.tolist()}".encode())
            digest.update(dataset.segments.to_csv(index=False).encode("utf-8"))
    digest.update(type(module).__name__.encode("utf-8"))
    for name, value in module.state_dict().items():
        digest.update(name.encode("utf-8"))
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
