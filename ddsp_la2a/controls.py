"""What a unit lets its user set: knobs and switches, each a column of a frame with a stated range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from keyword import iskeyword
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TAKEN = """
    track_id split take raw_audio_path processed_audio_path source device start_frame stop_frame raw processed mask
    recording self audio sample_rate channels linked model protocol setting_seen scored_from_s esr esr_dc_filtered
    esr_best_gain gain_offset_db gain_error_db mae mr_stft lufs_difference ldr_difference_db polarity parameters
    real_time_factor train_seconds converged seed swept extrapolated waveform input_dbfs output_dbfs level_step time_s
    tone_gain_db
""".split()  # noqa: SIM905 - forty lines otherwise
"""What columns and arguments beside the controls are called."""


_MOST_POSITIONS = 10_000
"""Of all switches together: curves run along a knob at each."""


@dataclass(frozen=True)
class Control:
    """A knob or a switch of a unit.

    Args:
        name: column of a frame, keyword of ``process``; a Python identifier without a leading underscore.
        low, high: range of its positions, in whatever the unit's panel says.
        kind: ``continuous`` for a knob; ``switch`` for whole positions from ``low`` to ``high``, which are not on the
            way to one another.

    Raises:
        ValueError: the name is no identifier or means something else already, or the range is empty, infinite or (for a
            switch) not whole.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    kind: Literal["continuous", "switch"] = "continuous"

    def __post_init__(self) -> None:
        usable = isinstance(self.name, str) and self.name.isidentifier() and not iskeyword(self.name)
        if not usable or self.name.startswith("_"):
            raise ValueError(
                f"control: expected a name that is a Python identifier without a leading underscore, got {self.name!r}"
            )
        if self.name in _TAKEN:
            raise ValueError(
                f"control: expected a name of its own, got {self.name}, which means something else already"
            )
        if self.kind not in ("continuous", "switch"):
            raise ValueError(f"control {self.name}: expected kind continuous or switch, got {self.kind!r}")
        if not (-math.inf < self.low < self.high < math.inf and self.high - self.low < math.inf):
            raise ValueError(f"control {self.name}: expected low below high, got {self.low!r} and {self.high!r}")
        if self.kind == "switch" and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"control {self.name}: expected whole positions, got {self.low!r} to {self.high!r}")

    def holds(self, position: float) -> bool:
        """Whether the unit has this position."""
        return self.low <= position <= self.high and (self.kind == "continuous" or float(position).is_integer())

    @property
    def positions(self) -> str:
        """What positions there are, in words."""
        if self.kind == "continuous":
            return f"{self.low:g} to {self.high:g}"
        two = self.high - self.low == 1
        return f"{self.low:g} or {self.high:g}" if two else f"a whole number from {self.low:g} to {self.high:g}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a model file."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name}={'switch:' if self.kind == 'switch' else ''}{self.low:g}:{self.high:g}"


LA2A_CONTROLS = (
    Control("compress_or_limit", 0.0, 1.0, "switch"),
    Control("peak_reduction", 0.0, 100.0),
)
"""The switch (0 compress, 1 limit) and the knob of the LA-2A, as SignalTrain names them."""


def parse_controls(text: str) -> tuple[Control, ...]:
    """Controls from text such as ``threshold=-60:0,ratio=1:20,mode=switch:0:1``; the inverse of ``str`` of each.

    Raises:
        ValueError: shows the part that isn't ``name=low:high`` or ``name=switch:low:high``.
    """
    return unique(_parsed(part.strip()) for part in text.split(","))


def _parsed(part: str) -> Control:
    name, _, limits = part.partition("=")
    kind: Literal["continuous", "switch"] = "switch" if limits.startswith("switch:") else "continuous"
    try:
        low, high = map(float, limits.removeprefix("switch:").split(":"))
    except ValueError:
        raise ValueError(f"controls: expected name=low:high or name=switch:low:high, got {part!r}") from None
    return Control(name.strip(), low, high, kind)


def unique(controls: Iterable[Control]) -> tuple[Control, ...]:
    """The controls of one unit.

    Raises:
        ValueError: there is none, something else than a :class:`Control`, one name twice, or switches of more positions
            than anyone could look at.
    """
    found = tuple(controls)
    for control in found:
        if not isinstance(control, Control):
            raise ValueError(f"controls: expected ddsp_la2a.Control, got {control!r}")
    names = [control.name for control in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"controls: expected at least one, each name once, got {', '.join(names) or 'none'}")
    switches = (round(control.high) - round(control.low) + 1 for control in found if control.kind == "switch")
    if (positions := math.prod(switches)) > _MOST_POSITIONS:
        raise ValueError(
            f"controls: expected at most {_MOST_POSITIONS} positions of all switches together, got {positions:g}; "
            "take a knob for what has many"
        )
    return found


def in_order(controls: Sequence[Control], positions: Mapping[str, Any]) -> list[Any]:
    """Positions by name in the order of the controls.

    Raises:
        ValueError: one is missing or unknown; names those there are.
    """
    names = [control.name for control in controls]
    if set(positions) != set(names):
        got = ", ".join(positions) or "none"
        raise ValueError(f"controls: expected a position for each of {', '.join(names)}, got {got}")
    return [positions[name] for name in names]


def whole_or_not(positions: NDArray[np.float64]) -> NDArray[Any]:
    """Positions as int64 where all are whole, as those of an LA-2A in the names of its recordings are."""
    return positions.astype(np.int64) if bool((positions == np.floor(positions)).all()) else positions


def distances(controls: Sequence[Control], settings: ArrayLike, position: ArrayLike) -> NDArray[np.float64]:
    """How far settings lie from a position.

    Euclidean over the knobs, each as a share of its range; another position of a switch is farther than any knob.

    Args:
        controls: of the unit.
        settings, position: in the order of the controls.

    Shape:
        settings ``(settings, controls)``, position ``(controls,)``.

    Returns:
        ``(settings,)``.
    """
    ranges = np.array([control.high - control.low for control in controls])
    is_switch = np.array([control.kind == "switch" for control in controls], dtype=bool)
    apart = np.abs(np.asarray(settings, dtype=np.float64) - np.asarray(position, dtype=np.float64)) / ranges
    knobs = np.sqrt(np.square(apart[:, ~is_switch]).sum(axis=1))
    farthest = 1.0 + np.sqrt(np.count_nonzero(~is_switch))
    return np.asarray(knobs + farthest * np.count_nonzero(apart[:, is_switch], axis=1))
