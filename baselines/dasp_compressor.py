"""What the usual approximation costs: the compressor of dasp-pytorch behind the grey box's kind of knob network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from baselines.black_box import BlackBox
from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.fitting.gradient import AdamSettings
from ddsp_la2a.model.control_net import ControlNet
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP
from ddsp_la2a.units import LEVEL_FLOOR

DASP_ADAM = AdamSettings(learning_rate=0.03, batch_size=8, max_steps=10**6, validate_every=10, patience=10)

_SILENCE_S = 1.0
_SMALLEST_KNEE_DB = 0.01
"""At 0 dB dasp divides by zero, and every gradient is NaN."""


class DaspCompressor(BlackBox):
    """ControlNet → threshold, ratio, knee and attack → ``dasp_pytorch.functional.compressor``, and one make-up.

    dasp smooths the gain in dB by one one-pole, so attack and release are the same time: it takes ``release_ms`` and
    ignores it, and the network here doesn't give any. The filter is a division of spectra, at rest before the audio and
    wrapped around at its end. Neither is to be measured here, so a second of silence follows the audio (at the longest
    attack of 300 ms 4e-7 of it wraps around), and what is left of the gain before is added to the next block: with
    smoothed gain g in dB,

    ::

        g[n] = (dasp's, from rest)[n] + αⁿ⁺¹ g[−1],   α = exp(−ln 9 · 1000 / (attack_ms · fs))

    so blocks give what the whole gives, and memory is bounded.

    Args:
        sample_rate: rate it is trained at, Hz; audio at another rate is resampled there and back.
        seed: of the first weights; 133 for a switch and a knob.
        controls: of the unit.

    References:
        Steinmetz, Bryan & Reiss 2022, "Style transfer of audio effects with differentiable signal processing", JAES
        70(9); dasp-pytorch 0.0.1.
    """

    def __init__(self, sample_rate: int, seed: int = 0, controls: Sequence[Control] = LA2A_CONTROLS) -> None:
        super().__init__(sample_rate, controls)
        given = tuple(p for p in CARD_PARAMETERS if p.name != "release_ms")
        self.card = ControlNet(parameters=given, seed=seed, controls=controls)
        start = torch.tensor(MAKEUP.start, dtype=torch.float64)
        self.makeup = nn.Parameter(MAKEUP.to_unconstrained(start))
        self.count_parameters()

    def prior_energy(self) -> Tensor:
        """Half the squared weights (not the biases) of the network, as of the grey box."""
        weights = [w for name, w in self.card.named_parameters() if name.endswith("weight")]
        return 0.5 * torch.stack([w.square().sum() for w in weights]).sum()

    def params(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Physical parameters as dasp calls them, each ``(batch,)`` and of the audio's type."""
        found = self.card(self.positions(batch))
        found["knee_db"] = found["knee_db"].clamp(min=_SMALLEST_KNEE_DB)
        found["release_ms"] = found["attack_ms"]
        found["makeup_gain_db"] = MAKEUP.to_physical(self.makeup).expand(len(batch["raw"]))
        return {name: value.to(batch["raw"].dtype) for name, value in found.items()}

    def forward(self, batch: dict[str, Tensor], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Estimate ``(batch, time)``, and the smoothed gain in dB ``(batch,)`` after it."""
        from dasp_pytorch.functional import compressor

        raw, params = batch["raw"], self.params(batch)
        frames = raw.shape[1]
        silence = raw.new_full((len(raw), round(_SILENCE_S * self.sample_rate)), LEVEL_FLOOR)
        output = compressor(torch.cat([raw, silence], dim=1)[:, None], self.sample_rate, **params)[:, 0]
        per_frame = -math.log(9.0) * 1000.0 / (params["attack_ms"] * self.sample_rate)
        if state is not None:
            elapsed = torch.arange(1, output.shape[1] + 1, dtype=raw.dtype)
            left_db = state[:, None] * torch.exp(per_frame[:, None] * elapsed)
            output = output * 10.0 ** (left_db / 20.0)
        # The curve leaves the first silent sample alone: its gain is α g[N − 1], beside the make-up.
        heard_db = 20.0 * torch.log10(output[:, frames] / LEVEL_FLOOR) - params["makeup_gain_db"]
        return output[:, :frames], heard_db * torch.exp(-per_frame)
