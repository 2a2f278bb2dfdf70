"""What ``benchmarks.kills`` kills: a Gauss–Newton fit that notes every pass at once.

python -m benchmarks.killed_fit RECORDINGS FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import ddsp_la2a as la
from benchmarks.kills import slow_files
from ddsp_la2a.files import replacing
from ddsp_la2a.fitting import gauss_newton, journal
from ddsp_la2a.model.stages import PLAIN


def main(recordings: Path, folder: Path) -> None:
    """Fit, or go on, and write history and weights."""
    torch.set_num_threads(1)
    journal._WRITE_EVERY_S, gauss_newton._NETWORKS = 0.0, 1
    settings = gauss_newton.GaussNewtonSettings(max_steps=3)
    slow_files()
    checkpoint = folder / "checkpoint.safetensors"
    result = la.fit(la.index(recordings), stages=PLAIN, gauss_newton=settings, checkpoint=checkpoint)
    found = {
        "history": result.history.drop(columns="seconds").to_dict("list"),
        "weights": {name: value.numpy().tobytes().hex() for name, value in result.model.state_dict().items()},
    }
    with replacing(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(found), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
