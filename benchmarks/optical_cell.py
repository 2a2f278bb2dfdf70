"""What does the optical cell cost, and what does its step from sample to sample leave out?

    python -m benchmarks.optical_cell

Nanoseconds a sample and × real time, one thread, beside the compressor with the stages that a fit has by default; the
last column is a pass of a least-squares fit, with all derivatives. Then the gain at usual sample rates against
eight-fold oversampling, on the simulated unit's programme at three side-chain gains, where the input is above −40 dBFS.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.signal import resample_poly

import ddsp_la2a as la
from benchmarks.blocks import STAGED
from benchmarks.problem import RATE, problem
from benchmarks.timing import announce, print_table, shown, taking_turns
from ddsp_la2a.dsp.normal_equations import error_products
from ddsp_la2a.dsp.params import AnyParams
from ddsp_la2a.simulated_unit.programme import render_programme

CELL = la.OpticalCellParams(20.0, output_filter=STAGED.output_filter)
BATCHES, SAMPLES, SECONDS = (1, 8, 32), 65536, 60.0
RATES, OVERSAMPLED, GAINS_DB, AUDIBLE = (44100, 48000, 88200, 96000, 192000), 8, (12.0, 22.0, 32.0), 0.01


def forward(process: Callable[..., torch.Tensor], params: AnyParams, audio: torch.Tensor) -> Callable[[], object]:
    """A call without derivatives."""

    def job() -> torch.Tensor:
        with torch.no_grad():
            return process(audio, params, RATE)

    return job


def both_ways(process: Callable[..., torch.Tensor], params: AnyParams, audio: torch.Tensor) -> Callable[[], object]:
    """A call and the derivatives of audio and one parameter, which takes the loops of all."""
    makeup = torch.zeros((), dtype=torch.float64, requires_grad=True)
    leaves = audio.clone().requires_grad_(), makeup
    given = type(params)(**{**vars(params), "makeup_db": makeup})
    return lambda: torch.autograd.grad(process(leaves[0], given, RATE).sum(), leaves)


def discretisation(rate: int) -> tuple[float, float]:
    """Root mean square and largest error of the gain in dB."""
    programme = render_programme(6.0, rate, seed=[3, 0], pause_s=0.0)
    finer = resample_poly(programme, OVERSAMPLED, 1)
    heard = np.abs(programme) > AUDIBLE
    errors = []
    for gain_db in GAINS_DB:
        gains = []
        for audio, step in ((programme, 1), (finer, OVERSAMPLED)):
            output = la.optical_cell(torch.from_numpy(audio)[None], la.OpticalCellParams(gain_db), rate * step)[0]
            gains.append((output.numpy() / np.where(audio == 0.0, 1.0, audio))[::step][heard])
        errors.append(20.0 * np.log10(gains[0] / gains[1]))
    return float(np.sqrt(np.mean(np.square(errors)))), float(np.abs(errors).max())


def main() -> None:
    """Print both tables."""
    announce()
    jobs = {}
    for batch in BATCHES:
        audio = problem(batch, SAMPLES).audio
        for name, process, params in (("compressor", la.compressor, STAGED), ("optical cell", la.optical_cell, CELL)):
            jobs[name, batch, 0] = forward(process, params, audio), 1
            jobs[name, batch, 1] = both_ways(process, params, audio), 1
            if batch == 1:
                row = audio[0].numpy()
                jobs[name, batch, 2] = (lambda row=row, params=params: error_products([(row, row)], params, RATE)), 1
    taken = taking_turns(jobs, SECONDS)
    rows = []
    for name, batch, _ in [key for key in taken if key[2] == 0]:
        per_sample = [1e9 * taken.get((name, batch, n), np.nan) / (batch * SAMPLES) for n in range(3)]
        told = [f"{shown(ns)} ({shown(1e9 / (ns * RATE))} ×)" if np.isfinite(ns) else "" for ns in per_sample]
        rows.append((f"{name}, {batch} × {SAMPLES:,}", *told))
    print_table(("ns a sample (× real time)", "forward", "forward + backward", "pass of a fit"), rows)
    print()
    found = [(rate, *discretisation(rate)) for rate in RATES]
    rows = [(f"{rate:,} Hz", f"{rms:.4f}", f"{largest:.3f}") for rate, rms, largest in found]
    print_table(("error of the gain, dB", "rms", "largest"), rows)


if __name__ == "__main__":
    main()
