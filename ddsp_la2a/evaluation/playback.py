"""What a model makes of a recording: block by block where it can, else in one piece."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ddsp_la2a.data.audio import read_audio, read_blocks

BLOCK_FRAMES = 1 << 18
"""Frames that are read and processed at once: a megabyte, and six seconds at 44.1 kHz."""


class Model(Protocol):
    """What can be scored: anything with this method.

    An optional method ``stream(sample_rate, **positions)`` of its class gives a :class:`BlockStream`, or None where it
    can't. With one, recordings are processed block by block; else as a whole, which has to fit into memory.

    An optional attribute ``info`` (a mapping) may say ``settings_seen`` (tuples of positions in the order of the
    controls), ``parameters`` (how many were fitted), ``train_seconds``, ``converged`` and ``seed``; what it doesn't say
    is left empty.
    """

    def process(self, audio: NDArray[np.float32], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """Processed audio ``(time,)`` for audio ``(time,)`` and positions of the controls by name."""
        ...


class BlockStream(Protocol):
    """A model at one setting, from rest, that carries its state from block to block, as :class:`~ddsp_la2a.Stream`."""

    @property
    def latency_samples(self) -> int:
        """By which its output comes late; that of the model's own ``process`` doesn't."""
        ...

    def process(self, block: NDArray[np.float32]) -> NDArray[np.floating]:
        """Processed audio ``(time,)`` for the next audio ``(time,)``."""
        ...


def stream_of(model: Model, sample_rate: float, setting: Mapping[str, Any]) -> BlockStream | None:
    """A stream of a model at one setting, or None where it has none that does what its ``process`` does."""
    if "process" in getattr(model, "__dict__", {}):  # put in place of its class's: the stream is of another
        return None
    for kind in type(model).__mro__:
        if "stream" in vars(kind):
            stream = model.stream  # type: ignore[attr-defined]
            return None if stream is None else stream(sample_rate, **setting)
        if "process" in vars(kind):  # a class that overrides this alone inherits a stream of something else
            return None
    return None


class Passage(NamedTuple):
    """Frames [first, stop) of a mono recording, and its rate in Hz."""

    path: str
    first: int
    stop: int
    sample_rate: int


class Stopwatch:
    """Adds up the seconds spent in ``with`` blocks.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


def played(
    name: str, model: Model, setting: Mapping[str, Any], passage: Passage, watch: Stopwatch
) -> Iterator[NDArray[np.floating]]:
    """What a model, at rest first, makes of a recording.

    Args:
        name: of the model, for messages.
        model: what plays.
        setting: positions of the controls by name.
        passage: of the recording.
        watch: runs while the model does, not while files are read.

    Returns:
        audio in the order of time, as many frames as the passage has, in blocks of at most :data:`BLOCK_FRAMES`; not
        late.

    Raises:
        ValueError: a recording that isn't finite, or an output of another shape than its input.
    """
    path, first, stop, sample_rate = passage
    with watch:
        stream = stream_of(model, sample_rate, setting)
    process: Callable[[NDArray[np.float32]], NDArray[np.floating]]
    blocks: Iterable[NDArray[np.float32]]
    if stream is None:
        process, late = lambda audio: model.process(audio, sample_rate, **setting), 0
        blocks = (read_audio(path, first, stop)[0] for _ in range(1))  # which nothing but the loop holds
    else:
        process, late = stream.process, stream.latency_samples
        silence = np.zeros((1 if late else 0, late), dtype=np.float32)
        blocks = chain(read_blocks(path, first, stop, BLOCK_FRAMES), silence)
    for audio in blocks:
        if not np.isfinite(audio).all():
            raise ValueError(f"{path}: expected finite samples, got NaN or infinity; export it again")
        with watch:
            output = np.asarray(process(audio))
        if output.shape != audio.shape:
            raise ValueError(f"{name}: expected output of shape {audio.shape}, got {output.shape}")
        del audio  # a whole recording makes room
        dropped = min(late, len(output))
        late -= dropped
        yield from (output[at : at + BLOCK_FRAMES] for at in range(dropped, len(output), BLOCK_FRAMES))
