"""The physical parameters of a compressor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ddsp_la2a.dsp.checks import known_values
from ddsp_la2a.dsp.output_stage import OutputFilter
from ddsp_la2a.dsp.side_chain import REFERENCE_HZ

_LOWEST = {"ratio": 1.0, "knee_db": 0.0, "slow_factor": 1.0, "slow_mix": 0.0, "shelf_db": -60.0}
_HIGHEST = {"slow_mix": 1.0, "shelf_db": 60.0}
_ABOVE = {"attack_ms": 0.0, "release_ms": 0.0, "shelf_hz": 0.0}
_TOGETHER = (("slow_factor", "slow_mix"), ("shelf_db", "shelf_hz"))
AnyParams = TypeVar("AnyParams", bound="Params")
_OF_STAGES = frozenset(name for pair in _TOGETHER for name in pair)


@dataclass(frozen=True)
class CompressorParams:
    """The physical parameters of a compressor, each a number or a tensor of shape ``()`` or ``(batch,)``.

    Args:
        threshold_db: centre of the knee, dBFS of the absolute sample.
        ratio: input dB per output dB far above the threshold, ≥ 1.
        knee_db: width of the quadratic knee in dB, ≥ 0; 0 is the hard knee.
        attack_ms: 10–90 % time in milliseconds in which the gain falls, > 0.
        release_ms: 10–90 % time in milliseconds in which it rises, > 0; may be shorter than the attack.
        makeup_db: gain after compression in dB.
        slow_factor: by which the times of a second cell are longer, ≥ 1; None: there is no second cell.
        slow_mix: its share in the linear gain, 0 to 1; where there is ``slow_factor``.
        shelf_db: how much better the detector hears high frequencies than low ones, dB; None: equally well. See
            :func:`~ddsp_la2a.dsp.side_chain.shelf_coefficients`.
        shelf_hz: centre of that shelf in Hz; where there is ``shelf_db``.
        feedback: the detector hears the last compressed sample, before make-up, instead of the input. The curve's slope
            is ratio − 1 then, so that the closed loop has that ratio; threshold and knee are levels of the output, and
            around its rest the loop settles ``ratio`` times faster than attack and release say. It is stable while the
            faster coefficient times the ratio is below 2: an attack of 1 ms at 44.1 kHz takes ratios up to 40.
        output_filter: after the gain; it makes the output late by its ``latency``.

    Raises:
        ValueError: a value is not finite or out of range, or one of two that belong together is missing; the message
            names the parameter. Under ``torch.func.vmap`` only the shape is checked.
    """

    threshold_db: Tensor | float
    ratio: Tensor | float
    knee_db: Tensor | float
    attack_ms: Tensor | float
    release_ms: Tensor | float
    makeup_db: Tensor | float = 0.0
    slow_factor: Tensor | float | None = None
    slow_mix: Tensor | float | None = None
    shelf_db: Tensor | float | None = None
    shelf_hz: Tensor | float | None = None
    feedback: bool = False
    output_filter: OutputFilter | None = None

    def __post_init__(self) -> None:
        for pair in _TOGETHER:
            missing = [name for name in pair if getattr(self, name) is None]
            if len(missing) == 1:
                raise ValueError(f"{missing[0]}: expected a number beside {' and '.join(pair)}, got None; give both")
        if not (self.output_filter is None or isinstance(self.output_filter, OutputFilter)):
            raise ValueError(f"output_filter: expected an OutputFilter or None, got {self.output_filter!r}")
        check_numbers(self.numbers(), lowest=_LOWEST, highest=_HIGHEST, above=_ABOVE)

    def numbers(self) -> dict[str, Tensor | float]:
        """Every parameter that is a number, or one a row, by name; those of stages that are off are left out."""
        given = {name: getattr(self, name) for name in _NUMBERS}
        return {name: value for name, value in given.items() if name not in _OF_STAGES or value is not None}

    @property
    def has_reference(self) -> bool:
        """Whether a stage has unit gain at 1 kHz, which the sample rate must hold."""
        return self.shelf_db is not None or self.output_filter is not None

    def slowest_ms(self) -> float:
        """Longest of the 10–90 % times in which it forgets, ms."""
        factor = 1.0 if self.slow_factor is None else self.slow_factor
        times = [torch.as_tensor(time_ms * factor) for time_ms in (self.attack_ms, self.release_ms)]
        return max(float(time_ms.max()) for time_ms in times)

    @property
    def is_plain(self) -> bool:
        """Whether every stage is off."""
        return self.slow_factor is None and self.shelf_db is None and not self.feedback and self.output_filter is None


_NUMBERS = tuple(field.name for field in fields(CompressorParams)[:10])


class Params(Protocol):
    """The physical parameters of a compressor of any family."""

    @property
    def output_filter(self) -> OutputFilter | None: ...

    @property
    def has_reference(self) -> bool: ...

    def numbers(self) -> dict[str, Tensor | float]: ...

    def slowest_ms(self) -> float: ...


def check_numbers(
    numbers: Mapping[str, Tensor | float],
    *,
    lowest: Mapping[str, float],
    highest: Mapping[str, float],
    above: Mapping[str, float],
) -> None:
    """Refuse a parameter that isn't finite or out of range, or of more than one dimension.

    Args:
        numbers: a number or a tensor each, by name.
        lowest, highest, above: what a parameter may be at the least, at the most, and must be more than.

    Raises:
        ValueError: names the first such parameter.
    """
    for name, given in numbers.items():
        try:
            value = given if isinstance(given, Tensor) else torch.as_tensor(given, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{name}: expected a number or shape (batch,), got {given!r}") from None
        if value.ndim > 1 or value.is_complex():
            got = value.dtype if value.is_complex() else f"shape {tuple(value.shape)}"
            raise ValueError(f"{name}: expected a number or shape (batch,), got {got}")
        low, high = lowest.get(name, -math.inf), highest.get(name, math.inf)
        floor = above.get(name, -math.inf)
        for number in known_values(value):
            if low <= number <= high and number > floor and abs(number) < math.inf:
                continue
            expected = "a finite number"
            if name in highest:
                expected = f"{low:g} to {high:g}"
            elif name in lowest:
                expected = f"at least {low:g}"
            elif name in above:
                expected = f"more than {above[name]:g}"
            raise ValueError(f"{name}: expected {expected}, got {number:g}")


def check_reference(params: Params, sample_rate: float) -> None:
    """Refuse shelf and output filter at a rate that doesn't hold the 1 kHz where they have unit gain."""
    if params.has_reference and sample_rate <= 2.0 * REFERENCE_HZ:
        expected = f"more than {2.0 * REFERENCE_HZ:g} Hz for a shelf or output filter"
        raise ValueError(f"sample_rate: expected {expected}, got {sample_rate:g}")


def checked_filter(params: Params, sample_rate: float, rows: int) -> OutputFilter | None:
    """The output filter of this sample rate.

    Raises:
        ValueError: there is neither one filter nor one a row.
    """
    if params.output_filter is None:
        return None
    shape = tuple(params.output_filter.coefficients.shape)
    if shape[:-1] not in ((), (1,), (rows,)):
        expected = f"one filter or {rows} as the audio's batch"
        raise ValueError(f"output_filter: expected {expected}, got coefficients of shape {shape}")
    return params.output_filter.at(sample_rate)


def one_number_each(params: AnyParams, sample_rate: float) -> AnyParams:
    """The same, every parameter a float64 number, the output filter the one of this sample rate.

    Raises:
        ValueError: there are several numbers for one parameter.
    """
    numbers: dict[str, Any] = {name: _number(name, value) for name, value in params.numbers().items()}
    chosen = params.output_filter
    if chosen is not None:
        chosen = chosen.at(sample_rate)
        shape = tuple(chosen.coefficients.shape)
        if len(shape) > 1 and shape[0] != 1:
            raise ValueError(f"output_filter: expected one filter for all channels, got coefficients of shape {shape}")
        chosen = replace(chosen, coefficients=chosen.coefficients.reshape(shape[-1]))
    return replace(params, **numbers, output_filter=chosen)  # type: ignore[type-var]


def _number(name: str, value: torch.Tensor | float) -> float:
    tensor = torch.as_tensor(value, dtype=torch.float64).detach()
    if tensor.numel() != 1:
        raise ValueError(f"{name}: expected a number, one for all channels, got shape {tuple(tensor.shape)}")
    return float(tensor)
