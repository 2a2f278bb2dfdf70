"""A black box: a conditioned recurrent network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from baselines.black_box import BlackBox
from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.fitting.gradient import AdamSettings
from ddsp_la2a.model.control_net import network_inputs

LSTM_ADAM = AdamSettings(
    learning_rate=0.005,
    batch_size=32,
    max_steps=10**6,
    window_frames=2048,
    validate_every=100,
    patience=20,
    weight_prior_s=0.0,
    clip_norm=0.3,
)
"""Truncated back-propagation over windows of 2048 frames, 32 segments at a time, as by Wright et al. 2019.

Clipped, because now and then a window threw it back a thousand steps: on the held-out end of the excerpts it came to
4.9 % without, to 3.3 % with a norm of 1 and to 2.9 % with 0.3."""


class ConditionedLSTM(BlackBox):
    """One LSTM layer on the sample and the controls, and a linear read-out added to the input sample.

    ::

        h[n] = LSTM(x[n], controls; h[n−1]),   y[n] = x[n] + w · h[n] + b

    Args:
        sample_rate: rate it is trained at, Hz; audio at another rate is resampled there and back.
        hidden: units; 32 make 4,769 weights for a switch and a knob.
        seed: of the first weights.
        controls: of the unit.

    References:
        Wright, Damskägg & Välimäki 2019, "Real-time black-box modelling with recurrent neural networks", DAFx; as
        LSTM-32 in Steinmetz & Reiss 2022, "Efficient neural networks for real-time modeling of analog dynamic range
        compression", AES 152.
    """

    def __init__(
        self, sample_rate: int, hidden: int = 32, seed: int = 0, controls: Sequence[Control] = LA2A_CONTROLS
    ) -> None:
        super().__init__(sample_rate, controls)
        inputs = 1 + network_inputs(self.controls, torch.zeros(len(self.controls))).shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
            self.read_out = nn.Linear(hidden, 1)
        self.count_parameters()

    def forward(
        self, batch: dict[str, Tensor], state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Estimate ``(batch, time)`` and state for ``raw`` ``(batch, time)`` and controls ``(batch,)``."""
        raw = batch["raw"]
        steps = torch.cat([raw[..., None], self.conditions(batch)[:, None].expand(-1, raw.shape[1], -1)], dim=-1)
        hidden, state = self.lstm(steps, state)
        return raw + self.read_out(hidden)[..., 0], state
