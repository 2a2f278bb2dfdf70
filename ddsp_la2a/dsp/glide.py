"""From one setting to another over a short while, so that a knob that moves doesn't click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddsp_la2a.dsp.compressor import stage_coefficients
from ddsp_la2a.dsp.optical_cell import OpticalCellParams, cell_coefficients
from ddsp_la2a.dsp.params import CompressorParams

Array = NDArray[np.float64]

GLIDE_MS = 30.0
"""Time after which parameters are where a move puts them."""

GLIDE_STEP = 16
"""Samples for which they stand still meanwhile, counted from the move: so blocks make no difference."""

IN_RATIOS = frozenset({"ratio", "attack_ms", "release_ms", "slow_factor", "shelf_hz"})
"""What glides by equal ratios, as tables go between settings; so the product of ratio and coefficient, which says how
stable a loop with feedback is, stays near that of the ends. All else glides by equal steps."""


def coefficients_of(params: CompressorParams | OpticalCellParams, sample_rate: float) -> Array:
    """The kernel's numbers ``(coefficients,)``, or ``(batch, coefficients)``."""
    if isinstance(params, CompressorParams):
        return stage_coefficients(params, sample_rate)
    return np.asarray(cell_coefficients(params, sample_rate).numpy())


def taps_of(params: CompressorParams | OpticalCellParams) -> Array:
    """Of the output filter ``(taps,)``; none where there is no filter."""
    return np.empty(0) if params.output_filter is None else params.output_filter.taps.detach().numpy()


class Glide:
    """Straight lines from where parameters are to where they shall be, in steps.

    Args:
        numbers: parameters where it starts, by name.
        taps: of the output filter, where it starts.
        end: parameters with the same names, each a number.
        end_taps: as many as it starts with.
        sample_rate: in Hz.
    """

    def __init__(
        self,
        numbers: Mapping[str, Any],
        taps: Array,
        end: CompressorParams | OpticalCellParams,
        end_taps: Array,
        sample_rate: float,
    ) -> None:
        count = max(1, round(1e-3 * GLIDE_MS * sample_rate / GLIDE_STEP))
        shares = np.arange(1, count) / count
        self._numbers = {name: _line(name, numbers[name], goal, shares) for name, goal in end.numbers().items()}
        self._taps = taps + shares[:, None] * (end_taps - taps)
        path: dict[str, Any] = {name: torch.from_numpy(line) for name, line in self._numbers.items()}
        self._coefficients = coefficients_of(replace(end, **path, output_filter=None), sample_rate)
        self._place, self._samples = 0, GLIDE_STEP * len(shares)

    @property
    def is_over(self) -> bool:
        """Whether the parameters are at their end."""
        return self._place >= self._samples

    @property
    def samples_left(self) -> int:
        """In this step."""
        return GLIDE_STEP - self._place % GLIDE_STEP

    def advance(self, samples: int) -> None:
        """By as many as are left in this step, or fewer."""
        self._place += samples

    @property
    def coefficients(self) -> Array:
        """The kernel's numbers in this step."""
        return np.asarray(self._coefficients[self._place // GLIDE_STEP])

    @property
    def taps(self) -> Array:
        """Those of the output filter in this step."""
        return np.asarray(self._taps[self._place // GLIDE_STEP])

    @property
    def numbers(self) -> dict[str, float]:
        """The parameters in this step."""
        return {name: float(line[self._place // GLIDE_STEP]) for name, line in self._numbers.items()}


def _line(name: str, start: Any, end: Any, shares: Array) -> Array:
    line = start * (end / start) ** shares if name in IN_RATIOS else start + shares * (end - start)
    return np.clip(line, min(start, end), max(start, end))  # rounding may step over an end
