"""The TCN against loops in plain numpy; that it is causal, that blocks are the whole, and how many weights it has."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from baselines.registry import tcn_300_c, tcn_small
from baselines.tcn import ConditionedTCN, _DilatedConvolution
from ddsp_la2a.model.control_net import network_inputs

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 8000


def batch_of(raw: np.ndarray, *settings: tuple[float, float]) -> dict[str, torch.Tensor]:
    switch, knob = torch.tensor(settings).T
    return {"raw": torch.from_numpy(raw.astype(np.float32)), "compress_or_limit": switch, "peak_reduction": knob}


def by_loops(module: ConditionedTCN, raw: np.ndarray, setting: tuple[float, float]) -> np.ndarray:
    """The formula of the docstring, sample by sample, in float64."""
    weights = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
    condition = network_inputs(module.controls, torch.tensor([setting]))[0].double().numpy()
    for layer in (0, 2, 4):
        condition = np.maximum(
            weights[f"condition.{layer}.weight"] @ condition + weights[f"condition.{layer}.bias"], 0.0
        )
    signal = raw[None].astype(np.float64)
    for block in range(4):
        kernel = weights[f"blocks.{block}.weight"]
        channels, _, taps = kernel.shape
        modulation = (
            weights[f"blocks.{block}.modulation.weight"] @ condition + weights[f"blocks.{block}.modulation.bias"]
        )
        slope = weights[f"blocks.{block}.activation.weight"]
        residual = weights[f"blocks.{block}.residual"][:, 0]
        output = np.empty((channels, raw.size))
        for n in range(raw.size):
            total = np.zeros(channels)
            for tap in range(taps):
                at = n - (taps - 1 - tap) * 10**block
                if at >= 0:
                    total += kernel[:, :, tap] @ signal[:, at]
            total = modulation[:channels] * total + modulation[channels:]
            output[:, n] = np.where(total > 0, total, slope * total) + residual * signal[:, n]
        signal = output
    return weights["read_out.weight"][0, :, 0] @ signal + weights["read_out.bias"]


def test_it_is_its_formula(programme):
    """2,500 frames: longer than the widest dilation, so that every block hears taps of the past."""
    module = ConditionedTCN(RATE, channels=3, kernel=3, seed=1)
    raw = np.stack([programme(1, 2500 / RATE), programme(2, 2500 / RATE)])
    settings = ((1.0, 65.0), (0.0, 20.0))
    with torch.no_grad():
        output = module(batch_of(raw, *settings))[0].numpy()
    for row, setting, found in zip(raw, settings, output, strict=True):
        np.testing.assert_allclose(found, by_loops(module, row, setting), atol=1e-5)
    assert np.ptp(output[0] - raw[0]) > 1e-3


@pytest.mark.parametrize(("channels", "kernel"), [(32, 13), (16, 13), (4, 3)])
def test_number_of_weights(channels, kernel):
    perceptron = (2 + 1) * 16 + (16 + 1) * 32 + (32 + 1) * 32
    convolutions = channels * kernel * (1 + 3 * channels)
    blocks = 4 * ((32 + 1) * 2 * channels + channels + channels)  # modulation, PReLU, residual
    module = ConditionedTCN(44100, channels=channels, kernel=kernel)
    assert module.info["parameters"] == perceptron + convolutions + blocks + channels + 1
    assert module.info["parameters"] == sum(p.numel() for p in module.parameters())


def test_numbers_that_are_told():
    large, small = ConditionedTCN(44100), ConditionedTCN(44100, channels=16)
    assert (large.info["parameters"], small.info["parameters"]) == (50737, 16209)
    for number in ("50,737", "16,209", "13,333", "302 ms"):
        assert number in inspect.getdoc(ConditionedTCN)
    assert "50,737" in inspect.getdoc(tcn_300_c)
    assert "16,209" in inspect.getdoc(tcn_small)
    assert large.receptive_field == small.receptive_field == 13333
    assert pytest.approx(0.302, abs=5e-4) == 13333 / 44100


def test_what_it_hears():
    """By gradient: no sample of the future, and of the past exactly the receptive field."""
    module = ConditionedTCN(RATE, channels=2, kernel=3, seed=3)
    assert module.receptive_field == 2223
    batch = batch_of(np.random.default_rng(0).standard_normal((1, 2600)), (1.0, 50.0))
    batch["raw"].requires_grad_()
    module(batch)[0][0, 2400].backward()
    heard = batch["raw"].grad[0].nonzero()[:, 0]
    assert (int(heard[0]), int(heard[-1])) == (2400 - 2222, 2400)


@pytest.mark.parametrize("block", [1, 700, 2223, 5000])
def test_blocks_are_the_whole(block):
    """Blocks shorter and longer than the contexts that are carried."""
    frames = 50 if block == 1 else 6000
    module = ConditionedTCN(RATE, channels=3, kernel=3, seed=2)
    raw = np.random.default_rng(1).standard_normal((2, frames)) * 0.1
    batch = batch_of(raw, (0.0, 30.0), (1.0, 80.0))
    with torch.no_grad():
        whole = module(batch)[0]
        state, parts = None, []
        for part in batch["raw"].split(block, dim=1):
            output, state = module({**batch, "raw": part}, state)
            parts.append(output)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=0)
    assert [tuple(context.shape) for context in state] == [(2, 1, 2), (2, 3, 20), (2, 3, 200), (2, 3, 2000)]


def test_process_carries_the_state_over_its_blocks(programme):
    """12 s at 200 Hz are three blocks; each starts where the receptive field still hears the one before."""
    module, audio = ConditionedTCN(200, channels=3, kernel=3), programme(2, 0.3)
    assert len(audio) == 2400
    output = module.process(audio, 200, compress_or_limit=1, peak_reduction=65)
    with torch.no_grad():
        whole = module(batch_of(audio[None], (1.0, 65.0)))[0][0].numpy()
    np.testing.assert_allclose(output, whole, atol=1e-6)
    alone = module.process(audio[1000:], 200, compress_or_limit=1, peak_reduction=65)
    assert np.abs(alone - whole[1000:]).max() > 1e-4


def test_the_state_settles_within_the_warm_up():
    """After a receptive field of other audio the past has no say, so a warm-up of that length is all there need be."""
    module = ConditionedTCN(RATE, channels=3, kernel=3)
    assert module.warmup_s * RATE == pytest.approx(2222)
    rng = np.random.default_rng(2)
    common = rng.standard_normal(3000)
    rows = np.stack([np.concatenate([rng.standard_normal(500) * gain, common]) for gain in (0.0, 1.0)])
    with torch.no_grad():
        output = module(batch_of(rows, (1.0, 50.0), (1.0, 50.0)))[0]
    torch.testing.assert_close(output[0, 2722:], output[1, 2722:], atol=1e-6, rtol=0)
    assert (output[0, 2700:2722] - output[1, 2700:2722]).abs().max() > 1e-6


def test_gradient_of_the_convolution():
    """By finite differences, and torch's own for all that may need one."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(2, 3, 40, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    for needs in ((True, True), (False, True), (True, False)):
        inputs = [t.clone().requires_grad_(n) for t, n in zip((signal, weight), needs, strict=True)]
        assert torch.autograd.gradcheck(lambda s, w: _DilatedConvolution.apply(s, w, 7), inputs)


def test_seed_and_global_random_state():
    before = torch.get_rng_state()
    one, same, other = (ConditionedTCN(RATE, channels=2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["blocks.1.weight"], other["blocks.1.weight"])


def test_it_hears_every_control(strip, programme):
    module, audio = ConditionedTCN(RATE, channels=2, kernel=3, controls=strip.controls), programme(2, 0.1)
    settings = [(1, 5.0, 0.5), (2, 5.0, 0.5), (3, 5.0, 0.5), (1, 6.0, 0.5), (1, 5.0, 0.6)]
    names = [control.name for control in strip.controls]
    outputs = [module.process(audio, RATE, **dict(zip(names, setting, strict=True))) for setting in settings]
    assert len({output.tobytes() for output in outputs}) == len(settings)
