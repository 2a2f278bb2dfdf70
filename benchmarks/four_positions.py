"""Four knob positions, and what becomes of those between them: both families, and the nearest position.

    python -m benchmarks.four_positions [--picture FILE]

On the (simulated) demo set, fitted to the training recordings at peak reduction 40, 60, 80 and 100, scored at 52, 62,
72 and 82. The picture measures unit and models on a tone, over the knob. The unit is richer than the optical cell
(three trap levels, drift, tube, noise), but shares its physics: that it is right only real recordings can show.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ddsp_la2a as la
from ddsp_la2a.data.demo import DemoUnit
from ddsp_la2a.evaluation import figures
from ddsp_la2a.evaluation.measure import measured_curves

POSITIONS = (40, 60, 80, 100)
MODELS: dict[str, dict[str, Any]] = {
    "optical cell": {"family": "optical-cell"},
    "optical cell without traps": {"family": "optical-cell", "stages": la.CellStages(traps=False)},
    "compressor": {},
    "nearest position": {"per_setting": True},
}
PICTURED = ("optical cell", "compressor")


def main() -> None:
    """Print the table, draw the picture."""
    parser = argparse.ArgumentParser(description="What becomes of knob positions between four that were fitted?")
    parser.add_argument("--picture", type=Path)
    picture = parser.parse_args().picture
    with tempfile.TemporaryDirectory() as scratch:
        frame = la.index(la.render_demo(Path(scratch) / "demo"))
        fitted = (frame["split"] == "train") & frame["peak_reduction"].isin(POSITIONS)
        frame = frame[fitted | (frame["split"] == "test")].reset_index(drop=True)
        results = {name: la.fit(frame, **how) for name, how in MODELS.items()}
        models = {name: result.model for name, result in results.items()}
        scored = la.evaluate(models, frame, protocol="unseen-knob")
    at = ["compress_or_limit", "peak_reduction"]
    table = scored.pivot_table(index=at, columns="model", values="esr_dc_filtered", sort=False) * 100.0
    print(table.round(3).to_string())
    told = scored.groupby("model", sort=False).agg(
        mean=("esr_dc_filtered", "mean"), worst=("esr_dc_filtered", "max"), numbers=("parameters", "max")
    )
    told[["mean", "worst"]] *= 100.0
    told["seconds"] = [results[str(name)].config["train_seconds"] for name in told.index]
    print(told.round(3).to_string())
    if picture is not None:
        boxes = {"unit (simulated)": DemoUnit()} | {name: models[name] for name in PICTURED}
        measured = measured_curves(boxes, 44100.0, compress_or_limit=0, peak_reduction=np.arange(40, 101, 5))
        words = f"fitted to peak reduction {', '.join(map(str, POSITIONS))} of a simulated unit; measured on a tone"
        figures.save(figures.measured_curves(measured, title=words), picture)


if __name__ == "__main__":
    main()
