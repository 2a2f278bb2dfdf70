"""The training loss against its formula, and the one adapter around auraloss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from ddsp_la2a.fitting.losses import SegmentLoss, dc_filter, dc_memory

NUMERATOR, DENOMINATOR = [1.0, -1.0], [1.0, -0.995]
FLOOR = 1e-6  # −60 dBFS, as a power


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype) * 0.1


def by_formula(estimate: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> float:
    e, y, m = (t.double().numpy() for t in (estimate - target, target, mask))
    e, y = lfilter(NUMERATOR, DENOMINATOR, e), lfilter(NUMERATOR, DENOMINATOR, y)
    return float(np.mean((m * e**2).sum(1) / ((m * y**2).sum(1) + FLOOR * y.shape[1])))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-7)])
def test_dc_filter_is_scipys(dtype, tolerance):
    signal = noise(3, 5000, dtype=dtype) + 0.3
    filtered = dc_filter(signal)
    assert filtered.dtype == dtype
    expected = lfilter(NUMERATOR, DENOMINATOR, signal.double().numpy())
    np.testing.assert_allclose(filtered.double().numpy(), expected, rtol=0, atol=tolerance)


def test_dc_filter_takes_an_offset_away():
    assert abs(dc_filter(torch.full((1, 4000), 0.5, dtype=torch.float64))[0, -1]) < 1e-8


def test_dc_filter_of_a_view_and_of_rows_one_by_one():
    signal = noise(4, 600).T.contiguous().T  # not contiguous
    together = dc_filter(signal[:, ::2])
    one_by_one = torch.cat([dc_filter(row[None, ::2].contiguous()) for row in signal])
    assert torch.equal(together, one_by_one)


def test_dc_filter_rows_in_threads_as_without():
    signal = noise(4, 120_000, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = dc_filter(signal)
        torch.set_num_threads(2)
        assert torch.equal(alone, dc_filter(signal))
    finally:
        torch.set_num_threads(before)


def test_dc_filter_gradient():
    signal = noise(2, 40).requires_grad_()
    assert torch.autograd.gradcheck(dc_filter, (signal,))
    assert torch.autograd.gradgradcheck(dc_filter, (signal,))


def test_dc_filter_gradient_is_the_filter_backwards_in_time():
    signal, weight = noise(1, 300).requires_grad_(), noise(1, 300, seed=1)
    (dc_filter(signal) * weight).sum().backward()
    expected = lfilter(NUMERATOR, DENOMINATOR, weight.numpy()[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(signal.grad.numpy(), expected, atol=1e-14)


def test_dc_filter_window_by_window_is_scipys():
    signal = noise(2, 900) + 0.3
    memory, parts = None, []
    for window in signal.split([1, 400, 250, 249], dim=1):
        filtered = dc_filter(window, memory)
        memory = dc_memory(window, filtered)
        parts.append(filtered)
    expected = lfilter(NUMERATOR, DENOMINATOR, signal.numpy())
    np.testing.assert_allclose(torch.cat(parts, dim=1).numpy(), expected, rtol=0, atol=1e-14)


def test_dc_filter_memory_has_no_gradient():
    first, second = noise(2, 40).requires_grad_(), noise(2, 40, seed=1).requires_grad_()
    memory = dc_memory(first, dc_filter(first))
    assert not memory.requires_grad
    assert torch.autograd.gradcheck(lambda signal: dc_filter(signal, memory), (second,))


def test_loss_of_a_window_is_that_of_the_whole():
    estimate, target = noise(2, 3000, seed=1) + 0.2, noise(2, 3000, seed=2) - 0.1
    mask = torch.zeros(2, 3000, dtype=torch.float64)
    mask[:, 1000:] = 1.0
    memory = tuple(dc_memory(t[:, :1000], dc_filter(t[:, :1000])) for t in (estimate - target, target))
    window = [t[:, 1000:] for t in (estimate, target, mask)]
    expected = by_formula(estimate, target, mask)
    # The floor grows with the frames of a window.
    assert float(SegmentLoss()(*window, memory)) == pytest.approx(expected, rel=1e-4)
    assert float(SegmentLoss()(*window)) != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_is_its_formula(dtype):
    estimate, target = noise(3, 2000, seed=1, dtype=dtype), noise(3, 2000, seed=2, dtype=dtype)
    target[1] *= 1e-3  # below the floor: what it would rule without one
    mask = torch.ones(3, 2000, dtype=dtype)
    mask[:, :500] = 0.0
    mask[2, 1500:] = 0.0
    loss = SegmentLoss()(estimate, target, mask)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(
        by_formula(estimate, target, mask), rel=1e-5 if dtype == torch.float32 else 1e-9
    )


def test_loss_gradient():
    target, mask = noise(2, 60, seed=2), torch.ones(2, 60, dtype=torch.float64)
    mask[:, :20] = 0.0
    estimate = noise(2, 60, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: SegmentLoss()(x, target, mask), (estimate,))


def test_the_estimate_comes_first():
    """Half the target has a quarter of its energy as error; the other way round it would be all of it."""
    target = noise(1, 4000)
    target *= 10.0  # well above the floor
    mask = torch.ones_like(target)
    assert float(SegmentLoss()(0.5 * target, target, mask)) == pytest.approx(0.25, rel=1e-4)
    assert float(SegmentLoss()(target, 0.5 * target, mask)) == pytest.approx(1.0, rel=1e-4)


def test_items_count_alike_whatever_their_level():
    target = noise(2, 4000)
    target[0] *= 10.0
    estimate = target.clone()
    estimate[0] *= 0.5
    together = float(SegmentLoss()(estimate, target, torch.ones_like(target)))
    alone = [float(SegmentLoss()(estimate[i : i + 1], target[i : i + 1], torch.ones(1, 4000))) for i in (0, 1)]
    assert together == pytest.approx(sum(alone) / 2, rel=1e-12)


def test_what_comes_after_the_mask_changes_nothing_at_all():
    estimate, target = noise(1, 1000, seed=1), noise(1, 1000, seed=2)
    mask = torch.ones_like(target)
    mask[:, 700:] = 0.0
    before = SegmentLoss()(estimate, target, mask)
    estimate[:, 700:] = 9.0
    target[:, 700:] = -3.0
    assert torch.equal(SegmentLoss()(estimate, target, mask), before)


def test_what_comes_before_the_mask_is_heard_only_through_the_filters_tail():
    """An error of a at frame k leaves −0.005 · 0.995^(n−k−1) · a at the later frame n, and nothing else."""
    target = noise(1, 1000, seed=2)
    mask = torch.ones_like(target)
    mask[:, :400] = 0.0
    estimate = target.clone()
    estimate[0, 390] += 0.7
    tail = 0.7 * -0.005 * 0.995 ** (np.arange(400, 1000) - 390 - 1)
    wanted = lfilter(NUMERATOR, DENOMINATOR, target.numpy())[0, 400:]
    expected = (tail**2).sum() / ((wanted**2).sum() + FLOOR * 1000)
    assert float(SegmentLoss()(estimate, target, mask)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("stft_weight", [0.0, 0.5])
@pytest.mark.parametrize("sounds", [True, False])
def test_silent_target_gives_finite_loss_and_gradient(stft_weight, sounds):
    target = torch.zeros(2, 4000)
    estimate = (noise(2, 4000, dtype=torch.float32) * float(sounds)).requires_grad_()
    loss = SegmentLoss(stft_weight)(estimate, target, torch.ones_like(target))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(estimate.grad).all()
    assert (float(loss.detach()) > 1e-6) == sounds


def test_one_silent_item_does_not_rule_the_batch():
    target = noise(2, 4000, dtype=torch.float32)
    target[1] = 0.0
    estimate = target + 1e-4 * noise(2, 4000, seed=5, dtype=torch.float32)
    assert float(SegmentLoss()(estimate, target, torch.ones_like(target))) < 1e-3


def test_nothing_that_counts_is_no_error():
    estimate = noise(1, 500).requires_grad_()
    loss = SegmentLoss()(estimate, noise(1, 500, seed=3), torch.zeros(1, 500, dtype=torch.float64))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not estimate.grad.any()


def test_spectral_part_is_added_with_its_weight():
    estimate, target = (noise(2, 6000, seed=s, dtype=torch.float32).requires_grad_() for s in (1, 2))
    mask = torch.ones(2, 6000)
    plain, once, twice = (float(SegmentLoss(w)(estimate, target, mask).detach()) for w in (0.0, 1.0, 2.0))
    assert once > plain
    assert twice - plain == pytest.approx(2.0 * (once - plain), rel=1e-5)
    SegmentLoss(1.0)(estimate, target.detach(), mask).backward()
    assert torch.isfinite(estimate.grad).all()
    assert estimate.grad.abs().sum() > 0


def test_spectral_part_is_that_of_the_metric():
    """The order of arguments matters to auraloss: the target divides."""
    from ddsp_la2a.evaluation.metrics import mr_stft

    estimate, target = (noise(1, 6000, seed=s, dtype=torch.float32) for s in (1, 2))
    estimate *= 0.5
    mask = torch.ones(1, 6000)
    part = float(SegmentLoss(1.0)(estimate, target, mask) - SegmentLoss()(estimate, target, mask))
    assert part == pytest.approx(mr_stft(estimate[0].numpy(), target[0].numpy()), rel=1e-4)
    assert part != pytest.approx(mr_stft(target[0].numpy(), estimate[0].numpy()), rel=1e-2)


def test_spectral_part_hears_nothing_outside_the_mask():
    estimate, target = (noise(1, 6000, seed=s, dtype=torch.float32) for s in (1, 2))
    mask = torch.ones(1, 6000)
    mask[:, 4000:] = 0.0
    before = SegmentLoss(1.0)(estimate, target, mask)
    estimate[:, 4000:] = 1.0
    assert torch.equal(SegmentLoss(1.0)(estimate, target, mask), before)


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_bad_weight(weight):
    with pytest.raises(ValueError, match="stft_weight: expected 0 or more, got"):
        SegmentLoss(weight)


def test_what_is_no_number_stays_none() -> None:
    signal = torch.ones((1, 50))
    signal[0, 20] = torch.nan
    assert bool(torch.isnan(dc_filter(signal)[0, 20:]).all())
    estimate, target, mask = torch.full((1, 50), torch.nan), torch.ones((1, 50)), torch.ones((1, 50))
    assert bool(torch.isnan(SegmentLoss()(estimate, target, mask)))
