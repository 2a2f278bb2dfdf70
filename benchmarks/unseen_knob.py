"""How well does the knob network guess settings that it never saw?

On the (simulated) demo set, whose test knob positions and programmes occur nowhere else, the joint grey box is compared
with compressors that were fitted to those very settings: from a recording of the same unit as long as a training
recording, with another programme than the scored one; and from the scored recording itself, which no model of unseen
programme can reach. The parameters of the nearest trained setting show what guessing is worth.

    python -m benchmarks.unseen_knob
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
import soundfile

import ddsp_la2a as la
from ddsp_la2a.data.frame import settings_of
from ddsp_la2a.evaluation.evaluate import summary
from ddsp_la2a.simulated_unit import SimulatedLA2A, UnitConstants
from ddsp_la2a.simulated_unit.programme import render_programme

_RATE, _SECONDS, _PAUSE_S = 44100, 12.0, 3.0


def recorded_again(test: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The demo's unit at the settings of the test rows, another programme each."""
    folder.mkdir()
    rows = []
    for number, (switch, knob) in enumerate(settings_of(test)):
        audio = render_programme(_SECONDS, _RATE, seed=[1, number], pause_s=_PAUSE_S)
        recorded = SimulatedLA2A(UnitConstants.sampled(0), seed=5000 + number).record(audio, _RATE, switch, knob)
        paths = [folder / f"{number}_{name}.wav" for name in ("raw", "processed")]
        for path, signal in zip(paths, (audio, recorded), strict=True):
            soundfile.write(path, signal, _RATE, "PCM_16")
        row = {"track_id": number, "split": "train", "take": "4c", "source": "simulated"}
        controls = {"compress_or_limit": switch, "peak_reduction": knob}
        rows.append(row | controls | {"raw_audio_path": str(paths[0]), "processed_audio_path": str(paths[1])})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        frame = la.index(la.render_demo(Path(scratch) / "demo"))
        test = frame[frame["split"] == "test"]
        fitted = {
            "grey box": la.fit(frame, progress=True),
            "fitted to those settings": la.fit(recorded_again(test, Path(scratch) / "again"), per_setting=True),
            "fitted to the scored audio": la.fit(test.assign(split="train"), per_setting=True),
            "nearest setting": la.fit(frame[frame["split"] == "train"], per_setting=True),
        }
        scored = la.evaluate({name: result.model for name, result in fitted.items()}, frame, protocol="unseen-knob")
    table = summary(scored).reset_index()[
        ["source", "model", "recordings", "esr_dc_filtered", "worst", "converged", "train_seconds"]
    ]
    print(table.to_string(index=False, float_format="{:.5f}".format))
    means = table.set_index("model")["esr_dc_filtered"]
    for other in list(fitted)[1:]:
        print(f"grey box / {other}: {means['grey box'] / means[other]:.3f}")


if __name__ == "__main__":
    main()
