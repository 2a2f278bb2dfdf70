"""Passes over recordings, shared out over the processes of ``torchrun``: the first one leads, the others answer.

Only the first decides: where processors differ in the last bit, two that decide would part sooner or later. A row's
answer is the same whoever gives it, and answers are summed in the order of the rows: the fit is that of one process, to
the last bit.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.distributed import ToldError, rank, together, world
from ddsp_la2a.fitting.journal import Answer
from ddsp_la2a.fitting.passes import Array, Ask, answered
from ddsp_la2a.fitting.recordings import Recordings

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)


def led(lead: Callable[[Ask], _T]) -> _T:
    """What a function gives in the first process, in all of them; meanwhile the others answer what it asks.

    Args:
        lead: is given what to ask for passes: :func:`~ddsp_la2a.fitting.passes.answered`, or the same shared out. Where
            one of the others is lost, that raises KeyboardInterrupt: what is known then is worth keeping.

    Raises:
        ValueError: the first process met one, or an OSError.
        ConnectionError: in the others, where the first is lost.
    """
    if world() == 1:
        return lead(answered)
    if rank():
        return _followed()
    shared = _Shared()
    try:
        result = lead(shared)
    except (ValueError, OSError) as error:
        if not shared.alone:
            with suppress(ConnectionError):
                _to_all((str(error),))
        raise
    if not shared.alone:
        try:
            _to_all((None, result))
        except ConnectionError as error:  # what was found is no worse for it
            _LOG.warning("%s", error)
    return result


class _Shared:
    """Asks all processes, this one included."""

    def __init__(self) -> None:
        self.alone = False

    def __call__(
        self,
        recordings: Recordings,
        points: Sequence[tuple[int, Array]],
        coordinates: Coordinates,
        error_filter: str,
        progress: Callable[[float], object],
    ) -> list[Answer]:
        if self.alone:
            raise KeyboardInterrupt("the passes were shared with processes that have ended")
        shares = dealt(recordings.seconds[[row for row, _ in points]], world())
        asked = [[points[number] for number in share] for share in shares]
        found: list[Any] = [None] * world()
        try:
            _to_all(*((recordings, part, coordinates, error_filter) for part in asked))
            together(dist.gather_object, _tried(recordings, asked[0], coordinates, error_filter, progress), found)
        except (ConnectionError, KeyboardInterrupt) as error:
            self.alone = True  # the others are ending as well, or find out that this one does
            if isinstance(error, ConnectionError):
                _LOG.error("%s", error)
            raise KeyboardInterrupt("the passes were shared with processes that have ended") from error
        for part in found:
            if isinstance(part, str):
                raise ValueError(part)
        progress(float(sum(recordings.seconds[row] for part in asked[1:] for row, _ in part)))
        by_number = {
            n: answer for share, part in zip(shares, found, strict=True) for n, answer in zip(share, part, strict=True)
        }
        return [by_number[number] for number in range(len(points))]


def _to_all(*messages: tuple[Any, ...]) -> None:
    """Send each process its message, or all the same."""
    several = messages if len(messages) > 1 else messages * world()
    together(dist.scatter_object_list, [None], several)


def _followed() -> Any:
    """Answer until there is a result."""
    while True:
        received: list[Any] = [None]
        together(dist.scatter_object_list, received)
        message = received[0]
        if isinstance(message[0], str):
            raise ToldError(message[0])
        if message[0] is None:
            return message[1]
        together(dist.gather_object, _tried(*message))


def _tried(*asked: Any) -> list[Answer] | str:
    """Answers, or what went wrong: a process that doesn't send anything would be waited for."""
    try:
        return answered(*asked)
    except (ValueError, OSError) as error:
        return str(error)


def dealt(costs: NDArray[np.float64], hands: int) -> list[list[int]]:
    """Numbers of items, each dealt to who has least so far, the costliest first.

    References:
        Graham 1969, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2).
    """
    shares: list[list[int]] = [[] for _ in range(hands)]
    loads = [(0.0, hand) for hand in range(hands)]
    for number in np.argsort(-costs, kind="stable").tolist():
        load, hand = heapq.heappop(loads)
        shares[hand].append(number)
        heapq.heappush(loads, (load + float(costs[number]), hand))
    return [sorted(share) for share in shares]
