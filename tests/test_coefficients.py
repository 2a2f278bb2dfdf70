"""The numbers that the compressor's loops work with, and their derivatives, against torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddsp_la2a.dsp.coefficients import coefficients_adjoint, coefficients_tangent, to_coefficients
from ddsp_la2a.dsp.kernels import COEFFICIENTS

RATE = 44100.0
CARDS = np.array(
    [[-30.0, 4.0, 6.0, 5.0, 250.0, 3.0], [0.0, 1.0, 0.0, 1e-9, 1e7, -20.0], [-60.0, 40.0, 20.0, 90.0, 2.0, 0]]
)
STAGES = np.random.default_rng(0).uniform(0.1, 0.9, (3, 6))


def expected(card: Tensor, stages: Tensor, feedback: bool) -> Tensor:
    """The numbers by their definitions, ``(12,)``."""
    threshold, ratio, knee, attack_ms, release_ms, makeup_db = card
    attack, release = (1.0 - torch.exp(-2.0 * math.log(3.0) / (t * 1e-3 * RATE)) for t in (attack_ms, release_ms))
    slope = ratio - 1.0 if feedback else (ratio - 1.0) / ratio
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    off = attack, release, zero, one, zero, zero
    card_numbers = threshold, slope, knee, attack, release
    return torch.stack([*card_numbers, *(stages if len(stages) else off), 10.0 ** (makeup_db / 20.0)])


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("stages", [STAGES, STAGES[:, :0]], ids=["on", "off"])
def test_numbers_and_derivatives(stages: np.ndarray, feedback: bool) -> None:
    found = to_coefficients(CARDS, stages, feedback, RATE)
    assert found.shape == (3, len(COEFFICIENTS))
    rng = np.random.default_rng(1)
    d_card, d_stages, asked = (
        rng.standard_normal((3, 6)),
        rng.standard_normal(stages.shape),
        rng.standard_normal((3, 12)),
    )
    moved = coefficients_tangent(d_card, d_stages, CARDS, stages, feedback, RATE)
    of_card, of_stages = coefficients_adjoint(asked, CARDS, stages, feedback, RATE)
    for row in range(3):
        at = torch.from_numpy(CARDS[row]), torch.from_numpy(stages[row])
        numbers, pull = torch.func.vjp(lambda card, given: expected(card, given, feedback), *at)
        np.testing.assert_allclose(found[row], numbers, rtol=1e-10, atol=1e-15)
        for got, wanted in zip((of_card[row], of_stages[row]), pull(torch.from_numpy(asked[row])), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-15)
        assert moved[row] @ asked[row] == pytest.approx(d_card[row] @ of_card[row] + d_stages[row] @ of_stages[row])


def test_what_becomes_infinite_is_no_warning() -> None:
    """As with torch; the tests take warnings for errors."""
    card = np.array([[-30.0, 4.0, 6.0, 5e-324, 250.0, 1e5]])
    found = to_coefficients(card, STAGES[:1, :0], False, RATE)
    assert found[0, 3] == 1.0
    assert found[0, 11] == math.inf
