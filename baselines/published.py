"""The published 4A-2A parameters as a baseline."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ddsp_la2a as la
from ddsp_la2a.controls import LA2A_CONTROLS


class Published:
    """The 26 published settings (Yu & Fazekas 2025), interpolated; below peak reduction 40 held at 40.

    Raises:
        ValueError: for the controls of another unit.
    """

    def __init__(self, controls: Sequence[la.Control] = LA2A_CONTROLS) -> None:
        if tuple(controls) != LA2A_CONTROLS:
            raise ValueError(
                f"published: expected the LA-2A's controls, got {', '.join(map(str, controls))}; leave published-gain "
                "and published-filter out"
            )
        self._model = la.load("published")
        # Fitted by its authors to the 3c takes, five numbers (make-up among them, no knee) for each of 26 settings.
        self.info: dict[str, Any] = {"parameters": 5 * len(self._model.card.state_dict()["rows"])}

    def process(self, audio: NDArray[np.floating], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """Processed audio ``(time,)`` or ``(batch, time)``."""
        with _known_to_be_held():
            return np.asarray(self._model.process(audio, sample_rate, **positions))

    def stream(self, sample_rate: float, **positions: Any) -> la.Stream:
        """The same, block by block."""
        with _known_to_be_held():
            return self._model.stream(sample_rate, **positions)


@contextmanager
def _known_to_be_held() -> Iterator[None]:
    """In a table of scores it is known that the low settings are held; the README and the docstring say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
