"""What is timed: the compressor of this library, and the audio and parameters that everything gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import ddsp_la2a as la
from ddsp_la2a.units import db_to_amplitude

RATE = 44100

_PIECE, _LOUDEST_DB, _SOFTEST_DB = 256, -10.0, -50.0


class Parameters(NamedTuple):
    """Those of a plain compressor, each ``(batch,)``."""

    threshold_db: Tensor
    ratio: Tensor
    knee_db: Tensor
    attack_ms: Tensor
    release_ms: Tensor
    makeup_db: Tensor


SETTING = Parameters(*map(torch.tensor, (-30.0, 4.0, 6.0, 5.0, 250.0, 3.0)))
"""What everything is timed with; a soft knee."""


class Problem(NamedTuple):
    """What an operator is timed on.

    ``audio`` and ``weight``, the derivative for the output, are ``(batch, time)``.
    """

    audio: Tensor
    parameters: Parameters
    weight: Tensor


def problem(batch: int, samples: int, dtype: torch.dtype = torch.float32) -> Problem:
    """Noise at a new level every 256 samples, on both sides of the threshold, so that any stretch is like any other."""
    generator = torch.Generator().manual_seed(1)
    pieces = torch.rand((batch, -(-samples // _PIECE)), generator=generator)
    level_db = _SOFTEST_DB + (_LOUDEST_DB - _SOFTEST_DB) * pieces.repeat_interleave(_PIECE, dim=1)[:, :samples]
    audio = db_to_amplitude(level_db) * torch.randn((batch, samples), generator=generator)
    parameters = Parameters(*(number.to(dtype).repeat(batch) for number in SETTING))
    return Problem(audio.to(dtype), parameters, torch.randn((batch, samples), generator=generator).to(dtype))


Operator = Callable[[Tensor, Parameters], Tensor]
"""Audio and parameters in, output out."""


def forward(operator: Operator, given: Problem) -> Tensor:
    """Output, without a graph."""
    with torch.no_grad():
        return operator(given.audio, given.parameters)


def forward_backward(operator: Operator, given: Problem) -> tuple[Tensor | None, ...]:
    """Gradients for the audio and for every parameter that the operator knows."""
    audio = given.audio.detach().requires_grad_()
    parameters = Parameters(*(p.detach().requires_grad_() for p in given.parameters))
    return torch.autograd.grad(operator(audio, parameters), (audio, *parameters), given.weight, allow_unused=True)


def fused(audio: Tensor, parameters: Parameters) -> Tensor:
    """This library's compressor, its checks of the parameters included."""
    return la.compressor(audio, la.CompressorParams(*parameters), RATE)
