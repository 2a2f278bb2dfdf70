"""A black box: a conditioned recurrent network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddsp_la2a.controls import LA2A_CONTROLS, Control, in_order
from ddsp_la2a.data.frame import settings_of
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.fitting.gradient import AdamSettings, train
from ddsp_la2a.model.control_net import network_inputs

_BLOCK_S = 5.0


class ConditionedLSTM(nn.Module):
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

    latency = 0

    def __init__(
        self, sample_rate: int, hidden: int = 32, seed: int = 0, controls: Sequence[Control] = LA2A_CONTROLS
    ) -> None:
        super().__init__()
        self.controls = tuple(controls)
        inputs = 1 + network_inputs(self.controls, torch.zeros(len(self.controls))).shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
            self.read_out = nn.Linear(hidden, 1)
        self.sample_rate = sample_rate
        self.info: dict[str, Any] = {"parameters": sum(p.numel() for p in self.parameters())}

    def forward(
        self, batch: dict[str, Tensor], state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Estimate ``(batch, time)`` and state for ``raw`` ``(batch, time)`` and controls ``(batch,)``."""
        raw = batch["raw"]
        positions = torch.stack([batch[control.name].float() for control in self.controls], dim=-1)
        inputs = network_inputs(self.controls, positions)
        steps = torch.cat([raw[..., None], inputs[:, None].expand(-1, raw.shape[1], -1)], dim=-1)
        hidden, state = self.lstm(steps, state)
        return raw + self.read_out(hidden)[..., 0], state

    def process(self, audio: NDArray[np.floating], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """Processed audio ``(time,)`` or ``(batch, time)``, block by block with the state carried."""
        raw = torch.from_numpy(np.atleast_2d(np.asarray(audio, dtype=np.float32)))
        frames = raw.shape[1]
        raw = _resampled(raw, sample_rate, self.sample_rate)
        outputs, state = [], None
        wanted = zip(self.controls, in_order(self.controls, positions), strict=True)
        at = {control.name: torch.full((len(raw),), float(position)) for control, position in wanted}
        with torch.no_grad():
            for block in raw.split(round(_BLOCK_S * self.sample_rate), dim=1):
                output, state = self({"raw": block, **at}, state)
                outputs.append(output)
        output = _resampled(torch.cat(outputs, dim=1), self.sample_rate, sample_rate)[:, :frames]
        return output.numpy().reshape(np.shape(audio))


def _resampled(audio: Tensor, rate: float, wanted: float) -> Tensor:
    if rate == wanted:
        return audio
    try:
        from torchaudio.functional import resample
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"torchaudio is needed to resample {rate:g} Hz to {wanted:g} Hz and doesn't load here ({error}); "
            "install a torchaudio that matches torch, or give audio at the rate of the model"
        ) from error
    return resample(audio, round(rate), round(wanted))


def train_lstm(
    frame: pd.DataFrame,
    *,
    controls: Sequence[Control] = LA2A_CONTROLS,
    budget_s: float,
    seed: int = 0,
    progress: bool = False,
) -> ConditionedLSTM:
    """Train an LSTM-32 on the same rows, with the same loss and stopping rule as the grey box.

    Truncated back-propagation over windows of 2048 frames, 32 segments at a time.

    Args:
        frame: rows whose split is ``train`` and, to stop by, ``val``.
        controls: of the unit.
        budget_s: wall-clock seconds; ``info["converged"]`` says whether they sufficed.
        seed: of weights and order.
        progress: show a bar.
    """
    training = SegmentDataset(frame[frame["split"] == "train"], length_s=3.0, warmup_s=1.0, controls=controls)
    watched = frame[frame["split"] == "val"]
    validation = SegmentDataset(watched, length_s=3.0, warmup_s=1.0, controls=controls) if len(watched) else None
    module = ConditionedLSTM(training.sample_rate, seed=seed, controls=controls)
    settings = AdamSettings(
        learning_rate=0.005,
        batch_size=32,
        max_steps=10**6,
        window_frames=2048,
        validate_every=100,
        patience=10,
        budget_s=budget_s,
        weight_prior_s=0.0,
        seed=seed,
    )
    ran = train(module, training, validation, settings, "lstm-32", progress)
    module.info |= {
        "settings_seen": settings_of(training.frame, controls),
        "train_seconds": round(ran.seconds, 2),
        "budget_s": budget_s,
        "converged": ran.converged,
        "seed": seed,
    }
    return module.eval()
