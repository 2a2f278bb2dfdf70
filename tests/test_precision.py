"""Mixed precision of what is around it never reaches the recursion: a grey box is the same under autocast."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import ddsp_la2a as la
from ddsp_la2a.fitting.losses import SegmentLoss
from ddsp_la2a.model.stages import CellStages, Stages
from ddsp_la2a.model.taper import Taper

RATE = 8000
MODELS = {
    "plain": la.GreyBox,
    "stages": lambda: la.GreyBox(stages=Stages(), sample_rate=RATE),
    "optical cell": lambda: la.GreyBox(Taper(), stages=CellStages(), sample_rate=RATE),
}


def results(build, dtype, autocast):
    """Output, state, loss and every gradient."""
    generator = torch.Generator().manual_seed(0)
    audio = (0.3 * torch.randn(2, 2000, generator=generator)).to(dtype).requires_grad_()
    model, positions = build(), torch.tensor([[0.0, 50.0], [1.0, 65.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        output, state = model(audio, positions, RATE, return_state=True)
        loss = SegmentLoss()(output, torch.roll(audio.detach(), 1), torch.ones_like(audio))
    loss.backward()
    weights = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return [output, state, loss, audio.grad, *weights]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_autocast_changes_no_bit(name, dtype):
    plain, mixed = results(MODELS[name], dtype, False), results(MODELS[name], dtype, True)
    assert len(plain) == len(mixed) > 5
    for one, other in zip(plain, mixed, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_autocast_is_on_there():
    """A float32 layer beside it does compute in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
