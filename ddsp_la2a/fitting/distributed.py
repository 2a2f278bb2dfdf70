"""Training in several processes, which ``torchrun`` starts: every one does a share, and all come to the same numbers.

torch.distributed carries the sums. Without a process group there is one process, and nothing of this does anything.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ddsp_la2a.interrupts import postponed

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)


class ToldError(ValueError):
    """What the first process has met, in the others: it is said once."""

    told = True


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """Number of this process; 0 is the one that writes and shows how far things are."""
    return dist.get_rank() if _several() else 0


def placed(device: str) -> torch.device:
    """The device of that name, such as ``cuda``; of several processes on a machine each gets one of its own.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        found = torch.device(device)
        if found.type != "cpu" and found.index is None and world() > 1:
            found = torch.device(found.type, int(os.environ.get("LOCAL_RANK", rank())))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device: expected cpu, or one that torch finds here, got {device!r} ({reason})") from error
    return found


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
        _LOG.debug("%s", error)
        raise ConnectionError(
            "processes: expected all of them to take part to the end, but one has ended or isn't reached; "
            "see what it said, and start all of them again: it goes on from its checkpoint"
        ) from error


def summed(value: float) -> float:
    """Sum over all processes."""
    if world() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    together(dist.all_reduce, total)
    return float(total)


def any_of(said: bool) -> bool:
    """Whether any process says so."""
    return summed(float(said)) > 0.0


def gathered(value: _T) -> list[_T]:
    """What every process has, in their order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    together(dist.all_gather_object, values, value)
    return values


def of_first(function: Callable[[], _T]) -> _T:
    """What a function gives in the first process, in all of them; its ValueError or OSError as well.

    Raises:
        ValueError: the first process met one, or an OSError; in the others a :class:`ToldError`.
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
        raise failed or ToldError(result[1])
    first: _T = result[0]
    return first


def start_alike(module: nn.Module) -> None:
    """Give every process the first one's weights."""
    if world() > 1:
        for value in module.state_dict().values():
            together(dist.broadcast, value, 0)


def sum_gradients(module: nn.Module) -> None:
    """Put the sum of all processes' gradients into every one of them; a process that has none adds nothing."""
    if world() == 1:
        return
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    together(dist.all_reduce, whole)
    parts = whole.split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.grad = part.reshape(weight.shape).to(weight.dtype)


def shared_out(items: Sequence[_T], check: Callable[[], None]) -> Iterator[_T]:
    """This process' share of a list: one item a round, and a check before each, in which all take part."""
    for first in range(0, len(items), world()):
        check()
        yield from items[first : first + world()][rank() : rank() + 1]


@contextmanager
def interruptions() -> Iterator[Callable[[], None]]:
    """A function to call now and then, in all processes at the same place: it raises KeyboardInterrupt in all of them.

    One process alone is interrupted wherever it is. Of several each waits for the next call, since the others would
    wait for it in vain.
    """
    if world() == 1:
        yield lambda: None
        return
    with postponed() as came:

        def check() -> None:
            if any_of(bool(came)):
                came.clear()
                raise KeyboardInterrupt

        yield check
