"""Training losses: auraloss behind one adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ddsp_la2a.dsp import smoothing_kernels
from ddsp_la2a.dsp.compiling import over_rows
from ddsp_la2a.dsp.normal_equations import ERROR_FILTERS

_, _DC_POLE = ERROR_FILTERS["dc"]
_FLOOR_DBFS = -60.0


class _HighPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, backwards: bool = False) -> Tensor:
        ctx.backwards = backwards
        array = signal.detach().cpu().contiguous()
        filtered = torch.empty_like(array)
        arguments = (array.numpy(), _DC_POLE, backwards, filtered.numpy())
        over_rows(smoothing_kernels.high_pass, *array.shape, *arguments)
        return filtered.to(signal.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _HighPass.apply(grad, not ctx.backwards), None


def dc_filter(signal: Tensor, memory: Tensor | None = None) -> Tensor:
    """High-pass (1 − z⁻¹) / (1 − 0.995 z⁻¹) along the last axis; differentiable any number of times.

    Args:
        signal: to be filtered.
        memory: of the filter, see :func:`dc_memory`; None: it is at rest.

    Shape:
        ``(batch, time)`` in and out; ``memory`` is ``(batch, 1)``.
    """
    filtered: Tensor = _HighPass.apply(signal)
    if memory is None:
        return filtered
    decay = _DC_POLE ** torch.arange(signal.shape[1], dtype=torch.float64, device=signal.device)
    return filtered + memory * decay.to(signal.dtype)


def dc_memory(signal: Tensor, filtered: Tensor) -> Tensor:
    """What :func:`dc_filter` remembers after a window: 0.995 y[N − 1] − x[N − 1], without its past.

    In the next window y[n] = (response from rest)[n] + 0.995ⁿ · memory.

    Shape:
        both ``(batch, time)`` → ``(batch, 1)``.
    """
    return (_DC_POLE * filtered[:, -1:] - signal[:, -1:]).detach()


class SegmentLoss(nn.Module):
    """Error of an estimate where it counts: DC-filtered error-to-signal ratio, and a spectral part if asked for.

    ::

        loss = mean over items of Σ m e² / (Σ m y² + floor)  +  stft_weight · multi-resolution STFT loss

    e and y are filtered before the mask m cuts the warm-up off, so that no edge is heard by the filter. The floor
    (−60 dBFS over the segment) keeps silent targets from ruling the sum.

    Args:
        stft_weight: weight of auraloss' multi-resolution STFT loss; 0 leaves it out.

    References:
        Steinmetz & Reiss 2020, "auraloss: Audio-focused loss functions in PyTorch"; Wright & Välimäki 2020,
        "Perceptual loss function for neural modeling of audio systems" (pre-filtered error-to-signal ratio).
    """

    def __init__(self, stft_weight: float = 0.0) -> None:
        super().__init__()
        if not stft_weight >= 0:
            raise ValueError(f"stft_weight: expected 0 or more, got {stft_weight}")
        self.stft_weight = stft_weight
        if stft_weight:
            from auraloss.freq import MultiResolutionSTFTLoss

            self._stft = MultiResolutionSTFTLoss()

    def forward(
        self, estimate: Tensor, target: Tensor, mask: Tensor, memory: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Scalar loss of ``(batch, time)`` signals; ``mask`` is 1 where the error counts.

        ``memory`` is what the DC filters of error and target remember of the window before, None: they are at rest.
        """
        from auraloss.time import ESRLoss

        of_error, of_target = (None, None) if memory is None else memory
        filtered_target = dc_filter(target, of_target)
        filtered_error = dc_filter(estimate - target, of_error)
        floor = target.shape[1] * 10.0 ** (_FLOOR_DBFS / 10.0)
        # auraloss takes (batch, channel, time), the estimate first, and computes its difference itself.
        wanted = (mask * filtered_target)[:, None]
        loss = ESRLoss(eps=floor)(wanted + (mask * filtered_error)[:, None], wanted)
        if self.stft_weight:
            loss = loss + self.stft_weight * self._stft((mask * estimate)[:, None], (mask * target)[:, None])
        return torch.as_tensor(loss)
