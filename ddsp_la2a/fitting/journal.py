"""What the passes of a least-squares fit have found, kept so that an interrupted fit goes on where it was.

A fit that is told the same answers asks the same questions. So answers are kept, not the state of every search: a
resumed fit runs through all its decisions anew, which takes a moment, and reads audio again only where it has to.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsp_la2a.fitting.checkpoint import read_kept, refuse_others, write_kept
from ddsp_la2a.fitting.least_squares import Quadratic
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.interrupts import postponed

Array = NDArray[np.float64]

FORMAT_VERSION = 1

_LOG = logging.getLogger(__name__)
_FAMILY = "least-squares"
_WRITE_EVERY_S = 30.0


class Answer(NamedTuple):
    """What a pass over one recording finds at one point.

    Args:
        quadratic: of what is minimised.
        covariance: of its gradient, ``(n, n)``.
    """

    quadratic: Quadratic
    covariance: Array


class _Pass(NamedTuple):
    question: str
    seconds: float
    answers: list[Answer]


class Journal:
    """Answers of all passes so far, in their order, and the file they are kept in.

    Args:
        path: of the file; None: nothing is kept.
        fingerprint: of recordings and settings.

    Raises:
        ValueError: the file is damaged, and the one before as well; or of other recordings or settings.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._passes = [] if path is None else _read(path, fingerprint)
        self._next = 0
        self._written = time.monotonic()
        self._changed = False

    @property
    def seconds(self) -> float:
        """Wall-clock seconds from the fit's beginning to the end of the latest pass that was asked for."""
        return self._passes[self._next - 1].seconds if self._next else 0.0

    def known(self, question: str) -> list[Answer] | None:
        """Answers to the next question, or None where they have to be found.

        Args:
            question: see :func:`question_hash`.
        """
        if self._next == len(self._passes):
            return None
        if self._passes[self._next].question != question:
            # Another processor may round otherwise; what was found from here on answers other questions.
            _LOG.warning(
                "%s: from pass %d on the fit takes another way, and goes on from there", self._path, self._next
            )
            del self._passes[self._next :]
            return None
        self._next += 1
        return self._passes[self._next - 1].answers

    def add(self, question: str, seconds: float, answers: list[Answer]) -> None:
        """Keep what was found; the file is written at most every 30 s."""
        if self._path is None:
            return
        self._passes.append(_Pass(question, seconds, answers))
        self._next += 1
        self._changed = True
        if time.monotonic() - self._written > _WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Bring the file up to date, and keep the one before; an interruption waits until that is done.

        On a disk that is full or read-only the old files stay as they are and the log says so: what is found is worth
        more than its checkpoint.

        Raises:
            ValueError: no such folder.
        """
        if self._path is None or not self._changed:
            return
        tensors, rows = {}, []
        for number, (question, seconds, answers) in enumerate(self._passes):
            # One tensor a pass: value, gradient, Gauss–Newton matrix and covariance of every answer in a row.
            packed = np.stack([np.concatenate([np.ravel(part) for part in (*q, c)]) for q, c in answers])
            astray = np.flatnonzero(~np.isfinite(packed[:, 0]))
            packed[astray, 0] = 0.0
            rows.append(
                {"question": question, "seconds": seconds, "astray": astray.tolist(), "size": len(answers[0][1])}
            )
            tensors[str(number)] = torch.from_numpy(packed)
        described = {
            "format_version": FORMAT_VERSION,
            "family": _FAMILY,
            "fingerprint": self._fingerprint,
            "passes": rows,
        }
        self._written = time.monotonic()
        try:
            with postponed():
                write_kept(self._path, described, tensors)
                self._changed = False
        except OSError as error:
            _LOG.warning("%s", error)


def question_hash(recordings: Recordings, points: Sequence[tuple[int, Array]]) -> str:
    """Hash of which stretches of which rows are asked for, at which points; to the last bit."""
    digest = hashlib.sha256()
    for row, point in points:
        digest.update(repr(recordings.described(row)).encode("utf-8"))
        digest.update(point.tobytes())
    return digest.hexdigest()


def _read(path: Path, fingerprint: str) -> list[_Pass]:
    found = read_kept(path, "checkpoint", (FORMAT_VERSION,))
    if found is None:
        return []
    described, tensors = found
    try:
        if described["family"] != _FAMILY:
            raise ValueError(f"family {described['family']!r}")
        whose = str(described["fingerprint"])
        passes = [_pass(row, tensors[str(number)]) for number, row in enumerate(described["passes"])]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path}: expected a checkpoint of a least-squares fit, got something else ({error})"
        ) from error
    refuse_others(path, fingerprint, whose)
    return passes


def _pass(row: dict[str, Any], packed: Tensor) -> _Pass:
    size, table = int(row["size"]), packed.numpy().copy()
    table[row["astray"], 0] = np.inf
    answers = []
    for value, gradient, *matrices in (np.split(line, np.cumsum([1, size, size**2])) for line in table):
        hessian, covariance = (matrix.reshape(size, size) for matrix in matrices)
        answers.append(Answer(Quadratic(float(value[0]), gradient, hessian), covariance))
    return _Pass(str(row["question"]), float(row["seconds"]), answers)
