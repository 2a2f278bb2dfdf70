"""Training in several processes, which ``torchrun`` starts: every one does a share, and all come to the same numbers.

torch.distributed carries the sums. Without a process group there is one process, and nothing of this does anything.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

_T = TypeVar("_T")


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """Number of this process; 0 is the one that writes and shows how far things are."""
    return dist.get_rank() if _several() else 0


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def joined() -> Iterator[None]:
    """Take part in what torchrun started, if it did; the others than the first keep their warnings to themselves.

    Raises:
        ConnectionError: the others can't be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ or _several():
        yield
        return
    together(dist.init_process_group, "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if rank():
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        dist.destroy_process_group()


def together(collective: Callable[..., Any], *arguments: Any, **more: Any) -> None:
    """Do something that takes all processes; where one has died there is no waiting for it."""
    try:
        collective(*arguments, **more)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"processes: expected all of them to take part to the end, but one has ended or isn't reached ({reason}); "
            "see what it said, and start all of them again: training goes on from its checkpoint"
        ) from error


def of_first(function: Callable[[], _T]) -> _T:
    """What a function gives in the first process, in all of them; its ValueError or OSError as well.

    Raises:
        ValueError: the first process met one, or an OSError.
    """
    if world() == 1:
        return function()
    result: list[Any] = [None, None]
    failed = None
    if rank() == 0:
        try:
            result[0] = function()
        except (ValueError, OSError) as error:
            failed, result[1] = error, str(error)
    together(dist.broadcast_object_list, result)
    if result[1] is not None:
        raise failed or ValueError(result[1])
    first: _T = result[0]
    return first
