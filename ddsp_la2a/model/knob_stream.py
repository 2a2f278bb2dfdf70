"""A model block by block, with knobs and switches that may move meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddsp_la2a.controls import Control, in_order
from ddsp_la2a.dsp.stream import Stream


class KnobStream(Stream):
    """A :class:`~ddsp_la2a.Stream` of a model, whose controls may move from block to block.

    Args:
        controls: of the unit.
        params_at: physical parameters at positions in their order.
        positions: of all controls by name, at the start.
        sample_rate: in Hz.
        channels, linked: as those of a stream.
    """

    def __init__(
        self,
        controls: Sequence[Control],
        params_at: Callable[..., Any],
        positions: Mapping[str, Any],
        sample_rate: float,
        channels: int = 1,
        linked: bool = True,
    ) -> None:
        self._controls, self._params_at = controls, params_at
        super().__init__(params_at(*in_order(controls, positions)), sample_rate, channels, linked)
        self._positions = dict(positions)

    @property
    def positions(self) -> dict[str, Any]:
        """Of all controls, where the last move puts them."""
        return dict(self._positions)

    def move(self, **positions: Any) -> None:
        """Move controls, such as ``peak_reduction=70``; those that aren't named stay.

        The parameters glide to those of the new positions from the next sample on: see :meth:`glide`.

        Raises:
            ValueError: a control that the unit doesn't have, or a position that the control doesn't.
        """
        wanted = self._positions | positions
        self.glide(self._params_at(*in_order(self._controls, wanted)))
        self._positions = wanted
