"""How well does the knob network guess settings that it never saw?

On the (simulated) demo set, whose test knob positions and programmes occur nowhere else: the joint grey box, a
compressor fitted to every test recording directly (in-sample, make-up free as well: a lower bound), and the parameters
of the nearest trained setting.

    python -m benchmarks.unseen_knob
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import ddsp_la2a as la
from ddsp_la2a.evaluation.evaluate import summary


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        frame = la.index(la.render_demo(Path(scratch) / "demo"))
        joint = la.fit(frame, progress=True)
        alone = la.fit(frame[frame["split"] == "train"], per_setting=True, progress=True)
        directly = la.fit(frame[frame["split"] == "test"].assign(split="train"), per_setting=True, progress=True)
        models = {"grey box": joint.model, "fitted directly": directly.model, "nearest setting": alone.model}
        scored = la.evaluate(models, frame, protocol="unseen-knob")
    table = summary(scored).reset_index()[["source", "model", "recordings", "esr_dc_filtered", "worst", "converged"]]
    print(table.to_string(index=False, float_format="{:.5f}".format))
    means = table.set_index("model")["esr_dc_filtered"]
    for other in ("fitted directly", "nearest setting"):
        print(f"grey box / {other}: {means['grey box'] / means[other]:.3f}")


if __name__ == "__main__":
    main()
