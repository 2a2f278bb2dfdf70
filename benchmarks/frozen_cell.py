"""Does one cell hold for recordings that it wasn't fitted to? Constants from the excerpts, a post-processed clip each.

    python -m benchmarks.frozen_cell

The optical cell is fitted to all but the last 4 s of the three SignalTrain excerpts. Then its constants are frozen, and
only side-chain gain, make-up and output filter (delay and colour: the clips were filtered after recording) are fitted
to all but the last 4 s of every clip; those are scored. Beside it the rows that every table holds, and both families
with all of their numbers fitted to the clip.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import ddsp_la2a as la
from benchmarks import recordings
from benchmarks.ablation import references
from ddsp_la2a.controls import Control
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.least_squares import Quadratic, levenberg_marquardt, minimised
from ddsp_la2a.fitting.passes import Passes
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.fitting.search import FINE
from ddsp_la2a.model.control_net import ParameterTable
from ddsp_la2a.model.grey_box import GreyBox
from ddsp_la2a.model.parameters import INPUT_TAP, MAKEUP, SIDECHAIN_GAIN, TAPS
from ddsp_la2a.model.stages import CellStages

FREE = (SIDECHAIN_GAIN, MAKEUP, *TAPS)
GAINS_DB = np.arange(0.0, 41.0, 5.0)


def frozen(cell: GreyBox, frame: pd.DataFrame, controls: tuple[Control, ...]) -> GreyBox:
    """The cell with its constants, and gain, make-up and output filter fitted to every recording of a frame."""
    heard = Recordings(frame[frame["split"] == "train"], controls=controls)
    coordinates, passes = Coordinates(CellStages(), heard.sample_rate), Passes("dc", False)
    free = np.array([coordinates.parameters.index(parameter) for parameter in FREE])
    constants = dict(zip((p.name for p in cell.device_parameters), cell.device.tolist(), strict=True))
    start = coordinates.start.copy()
    for number, parameter in enumerate(coordinates.parameters):
        if parameter.name in constants and parameter not in FREE:
            start[number] = constants[parameter.name]
    start[coordinates.parameters.index(INPUT_TAP)] = -30.0  # whether the clips were limited isn't known

    def fitted(row: int) -> dict[str, float]:
        def at(values: np.ndarray) -> tuple[Quadratic, np.ndarray]:
            point = start.copy()
            point[free] = values
            quadratic, _ = passes.quadratics(heard, [(row, point)], coordinates)[0]
            return Quadratic(quadratic.value, quadratic.gradient[free], quadratic.hessian[np.ix_(free, free)]), point

        found = []
        for gain_db in GAINS_DB:
            values = start[free]
            values[0] = float(SIDECHAIN_GAIN.to_unconstrained(torch.tensor(gain_db, dtype=torch.float64)))
            steps = levenberg_marquardt(values, max_steps=40, tolerance=FINE, longest_step=1.0)
            found.append(minimised(steps, at))
        return coordinates.values(min(found, key=lambda minimum: minimum.quadratic.value).found)

    rows = pd.DataFrame([fitted(row) for row in range(len(heard.frame))])
    names = [control.name for control in controls]
    card = ParameterTable(heard.frame[names].join(rows), controls, nearest=True)
    info = {"parameters": len(FREE) * len(rows)}
    return GreyBox(card, info, CellStages(), heard.sample_rate).eval()


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        excerpts, clips = recordings.excerpts()[0], recordings.clips(Path(scratch))[0]
        cell = la.fit(excerpts.frame, family="optical-cell").model
        how: dict[str, Any] = {"controls": clips.controls, "per_setting": True}
        models = references(replace(clips, data="clips")) | {
            "optical cell, constants of the excerpts": frozen(cell, clips.frame, tuple(clips.controls)),
            "optical cell, all fitted": la.fit(clips.frame, family="optical-cell", **how).model,
            "compressor, all fitted": la.fit(clips.frame, **how).model,
        }
        scored = la.evaluate(models, clips.frame, controls=clips.controls, protocol="later-in-time")
    table = scored.pivot_table(index="model", columns="clip", values="esr_dc_filtered", sort=False) * 100.0
    print(table.assign(numbers=scored.groupby("model")["parameters"].max()).round(3).to_string())


if __name__ == "__main__":
    main()
