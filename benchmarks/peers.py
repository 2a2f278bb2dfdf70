"""What the compressor is timed against: each takes audio ``(batch, time)`` and :class:`~benchmarks.problem.Parameters`.

Peers keep to their own idea of a compressor; :data:`PEERS` says what that leaves out. torchcomp is an extra:
``pip install torchcomp "torchlpc<0.7"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.problem import RATE, Operator, Parameters
from ddsp_la2a.dsp.curve import static_gain_db
from ddsp_la2a.units import LEVEL_FLOOR, amplitude_to_db, db_to_amplitude, rise_time_to_coefficient

try:
    from torchcomp import compexp_gain
    from torchcomp.core import compressor_core
except ImportError:
    compexp_gain = compressor_core = None

NO_EXPANDER = (-1000.0, 0.5)
"""Threshold in dB and ratio with which the expander in ``compexp_gain`` expands nothing."""


def target_gain(audio: Tensor, given: Parameters) -> Tensor:
    """The gain that the curve asks for, by torch."""
    curve = (parameter[:, None] for parameter in (given.threshold_db, given.ratio, given.knee_db))
    return db_to_amplitude(static_gain_db(amplitude_to_db(audio.abs()), *curve))


def coefficients(given: Parameters) -> tuple[Tensor, Tensor]:
    """Of attack and release."""
    return rise_time_to_coefficient(given.attack_ms, RATE), rise_time_to_coefficient(given.release_ms, RATE)


def behind_torch_curve(smoothed: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Operator:
    """The compressor of this library with other ballistics: target gain, attack and release in, gain out."""

    def operator(audio: Tensor, given: Parameters) -> Tensor:
        gain = smoothed(target_gain(audio, given), *coefficients(given))
        return audio * gain * db_to_amplitude(given.makeup_db)[:, None]

    return operator


def torchcomp_core(target: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """The same attack and release."""
    return compressor_core(target, torch.ones_like(attack), attack, release)


def torchcomp(audio: Tensor, given: Parameters) -> Tensor:
    """``compexp_gain`` as it comes."""
    level = audio.abs().clamp_min(LEVEL_FLOOR)
    gain = compexp_gain(level, given.threshold_db, given.ratio, *NO_EXPANDER, *coefficients(given))
    return audio * gain * db_to_amplitude(given.makeup_db)[:, None]


def dasp(audio: Tensor, given: Parameters) -> Tensor:
    """``dasp_pytorch.functional.compressor`` as it comes."""
    from dasp_pytorch.functional import compressor

    parameters: dict[str, Any] = given._asdict()
    return compressor(audio[:, None], RATE, makeup_gain_db=parameters.pop("makeup_db"), **parameters)[:, 0]


def one_pole(target: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """``torchaudio.functional.lfilter``; it starts from 0 and so is given the distance from 1."""
    from torchaudio.functional import lfilter

    zero, one = torch.zeros_like(attack), torch.ones_like(attack)
    denominator, numerator = torch.stack([one, attack - 1.0], dim=1), torch.stack([attack, zero], dim=1)
    return 1.0 - lfilter(1.0 - target, denominator, numerator, clamp=False)


def loop(target: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """The same attack and release, sample by sample."""
    gain = torch.ones_like(attack)
    gains: list[Tensor] = []
    for now in target.unbind(1):
        gain = gain + torch.where(now < gain, attack, release) * (now - gain)
        gains.append(gain)
    return torch.stack(gains, dim=1)


@cache
def _scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        return torch.jit.script(loop)


def scripted_loop(target: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """:func:`loop` by TorchScript."""
    return _scripted()(target, attack, release)
