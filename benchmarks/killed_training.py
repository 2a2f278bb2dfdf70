"""What ``benchmarks.kills`` kills: training that checkpoints after every batch.

python -m benchmarks.killed_training RECORDINGS FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import ddsp_la2a as la
from baselines.lstm import ConditionedLSTM
from benchmarks.kills import slow_files
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.files import replacing
from ddsp_la2a.fitting import gradient

SETTINGS = gradient.AdamSettings(
    learning_rate=0.01, batch_size=1, max_steps=48, window_frames=9000, validate_every=5, patience=3, weight_prior_s=0.0
)


def main(recordings: Path, folder: Path) -> None:
    """Train, or go on, and write losses and weights."""
    torch.set_num_threads(1)
    gradient._CHECKPOINT_S = 0.0
    frame = la.index(recordings)
    training, validation = (SegmentDataset(frame[frame["split"] == split], 3.0, 1.0) for split in ("train", "val"))
    module = ConditionedLSTM(training.sample_rate, hidden=3)
    slow_files()
    ran = gradient.train(module, training, validation, SETTINGS, checkpoint=folder / "checkpoint.safetensors")
    result = {
        "history": ran.history.drop(columns="seconds").to_dict("list"),
        "weights": {name: value.numpy().tobytes().hex() for name, value in module.state_dict().items()},
    }
    with replacing(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(result), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
