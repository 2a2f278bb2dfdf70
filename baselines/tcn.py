"""A black box: a causal temporal convolutional network, modulated by the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines.black_box import BlackBox
from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.fitting.gradient import AdamSettings
from ddsp_la2a.model.control_net import network_inputs

_CONDITION = (16, 32, 32)
"""Units of the layers that make the controls into what modulates every block."""

TCN_ADAM = AdamSettings(
    learning_rate=0.003,
    batch_size=4,
    max_steps=10**6,
    window_frames=48_600,
    validate_every=25,
    patience=10,
    weight_prior_s=0.0,
    clip_norm=1.0,
)
"""For a processor: a window is a third of a segment of 3 s and its warm-up at 44.1 kHz, and a batch 4.4 s of audio.
Steinmetz & Reiss took 47 s of audio a step on a graphics card (32 segments of 65,536 frames)."""

SMALL_TCN_ADAM = replace(TCN_ADAM, batch_size=8, validate_every=50)


class _DilatedConvolution(torch.autograd.Function):
    """``conv1d`` with a derivative that takes a third of the time of torch's on a processor.

    What flows back to the input is again a convolution, and the gradient of a tap one product of matrices.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(signal, weight)
        ctx.dilation = dilation
        return nn.functional.conv1d(signal, weight, dilation=dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        signal, weight = ctx.saved_tensors
        frames, step = grad.shape[-1], ctx.dilation
        span = (weight.shape[-1] - 1) * step
        to_signal = None
        if ctx.needs_input_grad[0]:
            padded = nn.functional.pad(grad, (span, span))
            to_signal = nn.functional.conv1d(padded, weight.flip(-1).transpose(0, 1), dilation=step)
        heard = (signal[..., start : start + frames].transpose(1, 2) for start in range(0, span + 1, step))
        return to_signal, torch.stack([(grad @ tap).sum(0) for tap in heard], dim=-1), None


class _Block(nn.Module):
    """Dilated convolution, modulation, PReLU, and what came in times a weight a channel."""

    def __init__(self, inputs: int, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.span = (kernel - 1) * dilation
        self.dilation = dilation
        bound = (inputs * kernel) ** -0.5
        self.weight = nn.Parameter(torch.empty(channels, inputs, kernel).uniform_(-bound, bound))
        self.modulation = nn.Linear(_CONDITION[-1], 2 * channels)
        with torch.no_grad():
            self.modulation.bias[:channels] = 1.0  # gains start around one, shifts around zero
            self.modulation.bias[channels:] = 0.0
        self.activation = nn.PReLU(channels)
        self.residual = nn.Parameter(2.0 * torch.rand(channels, 1) - 1.0)

    def forward(self, signal: Tensor, condition: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if context is None:
            context = signal.new_zeros(len(signal), self.inputs, self.span)
        heard = torch.cat([context, signal], dim=-1)
        gain, shift = self.modulation(condition)[..., None].chunk(2, dim=1)
        convolved = _DilatedConvolution.apply(heard, self.weight, self.dilation)
        modulated = self.activation(torch.addcmul(shift, convolved, gain))
        return torch.addcmul(modulated, signal, self.residual), heard[..., heard.shape[-1] - self.span :]


class ConditionedTCN(BlackBox):
    """Four causal dilated convolutions, each modulated by the controls (FiLM), and a linear read-out.

    Block b with dilation 10ᵇ, kernel K and C channels, v₀ = x::

        v_{b+1} = PReLU(γ_b(controls) ⊙ (W_b ∗ v_b) + β_b(controls)) + r_b ⊙ v_b,   y = w · v₄ + c

    γ and β are affine in what a small perceptron makes of the controls. The receptive field is 1 + 1111 (K − 1) frames,
    13,333 or 302 ms at 44.1 kHz with a kernel of 13. The state is the left context of every convolution, so that blocks
    give what the whole gives.

    Two things are otherwise than in the reference. There is no batch normalisation: its running statistics would make
    training and use two different models, and γ and β do the scaling. The read-out has no tanh, which would bend what
    is linear.

    Args:
        sample_rate: rate it is trained at, Hz; audio at another rate is resampled there and back.
        channels: C; 32 make 50,737 weights for a switch and a knob (TCN-300-C), 16 make 16,209.
        kernel: K.
        seed: of the first weights.
        controls: of the unit.

    References:
        Steinmetz & Reiss 2022, "Efficient neural networks for real-time modeling of analog dynamic range compression",
        AES 152; Perez et al. 2018, "FiLM: Visual reasoning with a general conditioning layer", AAAI.
    """

    def __init__(
        self,
        sample_rate: int,
        channels: int = 32,
        kernel: int = 13,
        seed: int = 0,
        controls: Sequence[Control] = LA2A_CONTROLS,
    ) -> None:
        super().__init__(sample_rate, controls)
        inputs = network_inputs(self.controls, torch.zeros(len(self.controls))).shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for fan_in, fan_out in zip((inputs, *_CONDITION), _CONDITION, strict=False):
                layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
            self.condition = nn.Sequential(*layers)
            self.blocks = nn.ModuleList(
                _Block(channels if number else 1, channels, kernel, 10**number) for number in range(4)
            )
            self.read_out = nn.Conv1d(channels, 1, 1)
        self.receptive_field = 1 + sum(block.span for block in self.blocks)  # type: ignore[misc]
        self.warmup_s = (self.receptive_field - 1) / sample_rate
        self.count_parameters()

    def forward(
        self, batch: dict[str, Tensor], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Estimate ``(batch, time)`` and state for ``raw`` ``(batch, time)`` and controls ``(batch,)``."""
        condition = self.condition(self.conditions(batch))
        signal, contexts = batch["raw"][:, None], []
        for block, context in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            signal, context = block(signal, condition, context)
            contexts.append(context)
        return self.read_out(signal)[:, 0], tuple(contexts)
