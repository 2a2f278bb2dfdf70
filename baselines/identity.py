"""The floor of every table: what comes in goes out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Identity:
    """No processing at all."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {"parameters": 0}

    def process(self, audio: NDArray[np.floating], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """The audio itself."""
        return np.array(audio, copy=True)

    def stream(self, sample_rate: float, **positions: Any) -> Wire:
        """The same, block by block."""
        return Wire()


class Wire:
    """What comes in goes out, block by block."""

    latency_samples = 0

    def process(self, block: NDArray[np.floating]) -> NDArray[np.floating]:
        """The block itself."""
        return np.array(block, copy=True)
