"""Physical parameters of a compressor → the numbers that its loops work with, and derivatives there and back.

In numpy and with the derivatives written out, because torch takes longer over a dozen small functions than the loops
take over many a block. ::

    card = threshold_db, ratio, knee_db, attack_ms, release_ms, makeup_db
    coefficients = threshold_db, slope, knee_db, attack, release, six numbers of the stages, makeup

with the slope as in :func:`~ddsp_la2a.dsp.curve.slope_of`, attack and release as in
:func:`~ddsp_la2a.units.rise_time_to_coefficient` and makeup = 10^(makeup_db / 20). Every number comes from one of the
card's, but for those of the stages, which are given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ddsp_la2a.dsp.curve import slope_of
from ddsp_la2a.units import DB_PER_NEPER, db_to_amplitude, rise_time_derivative, rise_time_to_coefficient

Array = NDArray[np.float64]

CARD = ("threshold_db", "ratio", "knee_db", "attack_ms", "release_ms", "makeup_db")

_RATIO, _TIMES = 1, slice(3, 5)
_FIRST, _SLOW_TIMES, STAGES = slice(0, 5), slice(5, 7), slice(5, 11)  # the last column is the make-up, here and there
_STAGES_OFF = (0.0, 1.0, 0.0, 0.0)  # slow_mix and the shelf; the slow cell has the times of the fast one


_AS_TORCH = np.errstate(over="ignore")  # which is silent about what becomes infinite


@_AS_TORCH
def to_coefficients(card: Array, stages: Array, feedback: bool, sample_rate: float) -> Array:
    """The loops' numbers, columns as in :data:`~ddsp_la2a.dsp.kernels.COEFFICIENTS`.

    Args:
        card: the parameters :data:`CARD`.
        stages: coefficients of slow cell and shelf; or none, where those are meant that leave every bit as it is.
        feedback: the detector hears the output.
        sample_rate: in Hz.

    Shape:
        card ``(batch, 6)``, stages ``(batch, 6)`` or ``(batch, 0)``, the result ``(batch, 12)``.
    """
    found = np.empty((len(card), 12))
    found[:, _FIRST] = card[:, _FIRST]
    found[:, _RATIO] = slope_of(card[:, _RATIO], feedback)
    found[:, _TIMES] = found[:, _SLOW_TIMES] = rise_time_to_coefficient(card[:, _TIMES], sample_rate)
    found[:, 7:11] = _STAGES_OFF
    if stages.size:
        found[:, STAGES] = stages
    found[:, -1] = db_to_amplitude(card[:, -1])
    return found


@_AS_TORCH
def coefficients_adjoint(
    asked: Array, card: Array, stages: Array, feedback: bool, sample_rate: float
) -> tuple[Array, Array]:
    """Adjoint of :func:`to_coefficients`: derivatives for card and stages, given those for the coefficients."""
    own = np.empty_like(card)
    own[:, _FIRST], own[:, -1] = asked[:, _FIRST], asked[:, -1]
    if not stages.size:
        own[:, _TIMES] += asked[:, _SLOW_TIMES]
    return own * _derivatives(card, feedback, sample_rate), asked[:, STAGES] if stages.size else stages


@_AS_TORCH
def coefficients_tangent(
    d_card: Array, d_stages: Array, card: Array, stages: Array, feedback: bool, sample_rate: float
) -> Array:
    """Tangent of :func:`to_coefficients`: how the coefficients move where card and stages do."""
    own, moved = d_card * _derivatives(card, feedback, sample_rate), np.zeros((len(d_card), 12))
    moved[:, _FIRST], moved[:, -1] = own[:, _FIRST], own[:, -1]
    moved[:, _SLOW_TIMES] = own[:, _TIMES]
    if stages.size:
        moved[:, STAGES] = d_stages
    return moved


def _derivatives(card: Array, feedback: bool, sample_rate: float) -> Array:
    """Of the coefficients for the one number of the card that each comes from."""
    found = np.ones_like(card)
    if not feedback:
        found[:, _RATIO] = card[:, _RATIO] ** -2.0
    found[:, _TIMES] = rise_time_derivative(card[:, _TIMES], sample_rate)
    found[:, -1] = db_to_amplitude(card[:, -1]) / DB_PER_NEPER
    return found
