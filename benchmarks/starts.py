"""Is the optical cell found, or remembered? Ten starts, their constants drawn within a factor of three of generic ones.

    python -m benchmarks.starts

Fitted to all but the last 4 s of the three SignalTrain excerpts; error-to-signal ratio on what was fitted, in per cent.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import recordings
from ddsp_la2a.fitting.coordinates import Coordinates
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.fitting.optical import fit_taper
from ddsp_la2a.fitting.passes import Array, Passes
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.model.parameters import CELL, TRAPS
from ddsp_la2a.model.stages import CellStages
from ddsp_la2a.model.taper import Taper

STARTS, FACTOR, WITHIN = 10, 3.0, 0.05


def drawn(coordinates: Coordinates, rng: np.random.Generator) -> Array:
    """The device's coordinates at a start."""
    start = coordinates.start.copy()
    for parameter in (*CELL, *TRAPS):
        value = parameter.start * FACTOR ** rng.uniform(-1.0, 1.0)
        inside = np.clip(value, 1.01 * parameter.low, 0.99 * parameter.high)
        at = torch.tensor(inside, dtype=torch.float64)
        start[coordinates.parameters.index(parameter)] = float(parameter.to_unconstrained(at))
    return start[coordinates.card :]


def main() -> None:
    """Print an error a start."""
    frame = recordings.excerpts()[0].frame
    heard = Recordings(frame[frame["split"] == "train"])
    coordinates, rng = Coordinates(CellStages(), heard.sample_rate), np.random.default_rng(7)
    settings, values = GaussNewtonSettings(), []
    for number in range(STARTS):
        passes = Passes(settings.error_filter, False)
        how = {"prior_s": settings.weight_prior_s, "start": drawn(coordinates, rng)}
        joint = fit_taper(passes, heard, coordinates, [Taper()], max_steps=settings.max_steps, **how)[2]  # type: ignore[arg-type]
        values.append(100.0 * passes.history[-1]["error"])
        print(f"start {number}: {values[-1]:.4f} % after {len(passes.history)} passes, {joint.minimum.converged=}")
    near = sum(value <= (1.0 + WITHIN) * min(values) for value in values)
    print(f"{near} of {STARTS} end within {WITHIN:.0%} of the least error")


if __name__ == "__main__":
    main()
