"""How fast do ways to fit a compressor to a recording of one setting come to the answer?

All but ``la.fit`` start where the published fits did (threshold −36 dB, ratio 4, attack 1 ms, release 200 ms, no
make-up); all minimise Σ e² / Σ y², DC-filtered, without the first second, in the same unconstrained coordinates:

- Gauss–Newton: Levenberg–Marquardt steps with a hard knee (five parameters) and with a free one from 6 dB (six);
- ``la.fit(per_setting=True)`` as a user calls it, but without stages: 64 spread starts, all reading and the covariance
  are in its time;
- Newton as in Yu & Fazekas 2025 (arXiv 2509.10706): Hessian through torchcomp's ``compexp_gain``, row by row (a second
  backward pass for every parameter), on chunks of 12 s whose first second is a warm-up. It gets the damping and limits
  of Gauss–Newton, its indefinite Hessian the absolute eigenvalues; a step that fails costs no Hessian;
- Adam and SGD with momentum 0.9 on segments of 5 s after 2 s of warm-up, four a step, with the gradient of
  ``compressor()``; each at the best of three learning rates, tried for a few seconds that are not counted.

    python -m benchmarks.fit [minutes of audio for the time of one pass, 20]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from timeit import repeat
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from torch import Tensor

import ddsp_la2a as la
from benchmarks.peers import NO_EXPANDER, compexp_gain
from ddsp_la2a.data.audio import read_audio, read_blocks
from ddsp_la2a.dsp.normal_equations import ERROR, FIRST_TANGENT, TARGET
from ddsp_la2a.fitting.least_squares import Quadratic, levenberg_marquardt
from ddsp_la2a.fitting.losses import dc_filter
from ddsp_la2a.fitting.recordings import Recordings
from ddsp_la2a.model.parameters import CARD_PARAMETERS, MAKEUP, Parameter
from ddsp_la2a.model.stages import PLAIN
from ddsp_la2a.simulated_unit import SimulatedLA2A
from ddsp_la2a.simulated_unit.programme import render_programme
from ddsp_la2a.units import db_to_amplitude, rise_time_to_coefficient

RATE, SKIP, CHUNK, HOP = 44100, 44100, 12 * 44100, 11 * 44100
SECONDS, CAP_S, MOMENTS_S = 60.0, 60.0, (1, 3, 10, 30, 60)
TRUE, NOISE_DBFS = la.CompressorParams(-30.0, 3.0, 0.0, 8.0, 300.0, 3.0), -60.0
START = la.CompressorParams(-36.0, 4.0, 6.0, 1.0, 200.0, 0.0)
LIMITS = {"max_steps": 1000, "tolerance": 1e-4, "longest_step": 2.0, "limit": 12.0}  # as la.fit has them
LEARNING_RATES, BATCH, TRIAL_S = (0.03, 0.1, 0.3), 4, 4.0
PATHS, NAMES = ["raw_audio_path", "processed_audio_path"], list(START.numbers())

Coordinates = tuple[Parameter, ...]
SIX = (*CARD_PARAMETERS, MAKEUP)
FIVE = tuple(p for p in SIX if p.name != "knee_db")
Trail = list[tuple[float, Tensor]]  # points of a fit, and after how many seconds each was known
Result = dict[str, Any]  # a row of the tables, with errors at moments


def samples(take: pd.DataFrame) -> Iterator[Tensor]:
    """Input and target ``(1, time)`` of a frame of one row."""
    return (torch.from_numpy(read_audio(path)[0])[None] for path in take[PATHS].iloc[0])


def physical(points: Tensor, coordinates: Coordinates) -> la.CompressorParams:
    """Parameters of points ``(..., coordinates)``; the knee is hard unless it is one of them."""
    found: dict[str, Any] = {p.name: p.to_physical(points[..., i]) for i, p in enumerate(coordinates)}
    return la.CompressorParams(**{"knee_db": 0.0, **found})


def start_of(coordinates: Coordinates) -> Tensor:
    return torch.stack([p.to_unconstrained(torch.tensor(getattr(START, p.name)).double()) for p in coordinates])


@torch.no_grad()
def errors_of(take: pd.DataFrame, params: la.CompressorParams) -> np.ndarray:
    """DC-filtered error-to-signal ratio of every row of parameters, without the first second."""
    audio, target = samples(take)
    error = la.compressor(audio.expand(torch.as_tensor(params.ratio).numel(), -1), params, RATE) - target
    of_error, of_target = (dc_filter(s)[:, SKIP:].double().square().sum(1) for s in (error, target))
    return (of_error / of_target).numpy()


def scored(take: pd.DataFrame, method: str, coordinates: Coordinates, trail: Trail) -> Result:
    """Errors along a trail, once the clock has stopped: of the next point at each of 200 moments, and of the last."""
    seconds = np.array([time_s for time_s, _ in trail])
    kept = np.unique(np.searchsorted(seconds, np.geomspace(0.01, seconds[-1], 200)).clip(max=len(trail) - 1))
    points = torch.stack([trail[i][1] for i in kept])
    errors = np.concatenate([errors_of(take, physical(some, coordinates)) for some in points.split(8)])
    best = {name: float(value) for name, value in physical(points[errors.argmin()], coordinates).numbers().items()}
    row = {"method": method, "parameters": len(coordinates), "steps": len(trail) - 1} | best
    return row | {"seconds": seconds[kept], "errors": errors}


def follow(coordinates: Coordinates, cap_s: float, quadratic_at: Callable[[Tensor, float], Quadratic]) -> Trail:
    """Levenberg–Marquardt steps; ``quadratic_at`` is told a point and the least value until then."""
    began, trail, least = time.monotonic(), [(0.0, start_of(coordinates))], np.inf
    steps = levenberg_marquardt(trail[0][1].numpy(), **LIMITS)
    point = next(steps)
    with suppress(StopIteration):
        while trail[-1][0] < cap_s:
            quadratic = quadratic_at(torch.from_numpy(point), least)
            least = min(least, quadratic.value)
            trail.append((time.monotonic() - began, torch.from_numpy(point)))
            point = steps.send((quadratic, None))
    return trail


def gauss_newton(take: pd.DataFrame, cap_s: float, coordinates: Coordinates) -> Result:
    recordings, rows = Recordings(take), [FIRST_TANGENT + NAMES.index(p.name) for p in coordinates]

    def quadratic_at(point: Tensor, _: float) -> Quadratic:
        found = physical(at := point.clone().requires_grad_(), coordinates).numbers()
        slopes = torch.autograd.grad(sum(found[p.name] for p in coordinates), at)[0].numpy()
        sums = next(recordings.products([(0, physical(point, coordinates))])).sum(axis=0)
        sums /= sums[TARGET, TARGET]
        hessian = sums[np.ix_(rows, rows)] * slopes[:, None] * slopes
        return Quadratic(0.5 * sums[ERROR, ERROR], sums[rows, ERROR] * slopes, hessian)

    return scored(take, "Gauss–Newton", coordinates, follow(coordinates, cap_s, quadratic_at))


def as_user(take: pd.DataFrame) -> Result:
    began, fit = time.monotonic(), la.fit(take, per_setting=True, stages=PLAIN)
    row = {"method": "la.fit(per_setting=True)", "parameters": len(SIX), "steps": len(fit.history)}
    row["seconds"] = np.array([time.monotonic() - began])
    best = {name: value.item() for name, value in fit.model.params(0, 70).numbers().items()}
    return row | {"errors": errors_of(take, la.CompressorParams(**best))} | best


def newton(take: pd.DataFrame, cap_s: float) -> Result:
    if compexp_gain is None:
        row = {"method": "Newton, torchcomp: not installed", "parameters": len(FIVE), "steps": 0}
        return row | {"seconds": np.array([np.inf]), "errors": np.array([np.nan])}
    padded = (torch.nn.functional.pad(signal[0], (0, HOP - 1)) for signal in samples(take))
    raw, wanted = (signal.unfold(0, CHUNK, HOP).clone() for signal in padded)
    energy, level = dc_filter(wanted)[:, SKIP:].square().sum(), raw.abs().clamp_min(1e-8)

    def quadratic_at(point: Tensor, least: float) -> Quadratic:
        found = physical(at := point.clone().requires_grad_(), FIVE)
        coefficients = (rise_time_to_coefficient(t, RATE) for t in (found.attack_ms, found.release_ms))
        gain = compexp_gain(level, found.threshold_db, found.ratio, *NO_EXPANDER, *coefficients)
        error = dc_filter(raw * gain * db_to_amplitude(found.makeup_db).float() - wanted)
        value = 0.5 * error[:, SKIP:].square().sum() / energy
        if not value < least:
            return Quadratic(value.item(), np.zeros(len(FIVE)), np.eye(len(FIVE)))
        gradient = torch.autograd.grad(value, at, create_graph=True)[0]
        rows = [torch.autograd.grad(slope, at, retain_graph=True)[0] for slope in gradient]
        curvatures, axes = np.linalg.eigh(torch.stack(rows).numpy())
        return Quadratic(value.item(), gradient.detach().numpy(), (axes * np.abs(curvatures)) @ axes.T)

    return scored(take, "Newton, torchcomp", FIVE, follow(FIVE, cap_s, quadratic_at))


def descend(take: pd.DataFrame, cap_s: float, method: str, rate: float) -> Result:
    began, trail, batches = time.monotonic(), [(0.0, start_of(FIVE))], []
    point, order = start_of(FIVE).requires_grad_(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam([point], rate) if method == "Adam" else torch.optim.SGD([point], rate, momentum=0.9)
    items = list(la.SegmentDataset(take))
    raw, wanted, mask = (torch.stack([item[name] for item in items]) for name in ("raw", "processed", "mask"))
    energy = (mask * dc_filter(wanted)).square().sum() / len(items)
    while trail[-1][0] < cap_s:
        batches = batches or list(torch.randperm(len(items), generator=order).split(BATCH))
        batch = batches.pop()
        error = dc_filter(la.compressor(raw[batch], physical(point, FIVE), RATE) - wanted[batch])
        optimiser.zero_grad()
        ((mask[batch] * error).square().sum() / (len(batch) * energy)).backward()
        optimiser.step()
        trail.append((time.monotonic() - began, point.detach().clone()))
    return scored(take, f"{method}, learning rate {rate:g}", FIVE, trail)


def results(take: pd.DataFrame, cap_s: float, trial_s: float) -> Iterator[Result]:
    yield from (gauss_newton(take, cap_s, FIVE), gauss_newton(take, cap_s, SIX), as_user(take), newton(take, cap_s))
    for method in ("Adam", "SGD"):
        trials = {rate: descend(take, trial_s, method, rate)["errors"].min() for rate in LEARNING_RATES}
        yield descend(take, cap_s, method, min(trials, key=trials.__getitem__))


def table(found: list[Result]) -> pd.DataFrame:
    """The least errors until then, per cent: blank before the first, and once a fit had ended by the moment before."""
    for row in found:
        best = np.nanmin([other["errors"].min() for other in found if other["parameters"] == row["parameters"]])
        errors, seconds = row["errors"], row["seconds"]
        for before, moment in zip((0, *MOMENTS_S[:-1]), MOMENTS_S, strict=True):
            known = errors[seconds <= moment]
            row[f"{moment} s"] = f"{100 * known.min():.4f}" if len(known) and seconds[-1] > before else ""
        row |= {"final": f"{100 * errors.min():.4f}", "ended": f"{seconds[-1]:.2f} s"}
        row["within 1 % after"] = next((f"{time_s:.2f} s" for time_s in seconds[errors <= 1.01 * best]), "")
    return pd.DataFrame(found).drop(columns=["errors", "seconds"]).replace({"nan": "", "inf s": ""})


def recorded(folder: Path, name: str, raw: np.ndarray, processed: np.ndarray) -> pd.DataFrame:
    row = dict(track_id=1, split="train", take="3c", compress_or_limit=0, peak_reduction=70, source="simulated")
    for column, audio in zip(PATHS, (raw, processed), strict=True):
        row[column] = str(folder / f"{name}_{column}.wav")
        soundfile.write(row[column], audio, RATE, "FLOAT")
    return pd.DataFrame([row])


def takes(folder: Path, seconds: float) -> Iterator[tuple[str, pd.DataFrame]]:
    programme = render_programme(seconds, RATE, seed=1)
    noise = db_to_amplitude(NOISE_DBFS) * np.random.default_rng(1).standard_normal(len(programme))
    output = la.compressor(torch.from_numpy(programme)[None], TRUE, RATE)[0].numpy()
    yield f"{TRUE} and noise at {NOISE_DBFS:g} dBFS", recorded(folder, "known", programme, output + noise)
    unit = SimulatedLA2A().record(programme, RATE, 0, 70)
    yield "Simulated unit, compress, peak reduction 70", recorded(folder, "unit", programme, unit)


def one_pass(folder: Path, minutes: int) -> None:
    """Time of a pass for error, gradient and Gauss–Newton matrix, and of one for the gradient."""
    audio = torch.from_numpy(np.tile(render_programme(60.0, RATE, seed=1), minutes)).float().reshape(8, -1)
    take = recorded(folder, "long", audio.flatten().numpy(), la.compressor(audio, TRUE, RATE).flatten().numpy())
    recordings, weight, point = Recordings(take), torch.ones_like(audio), start_of(SIX).requires_grad_()
    jobs = {
        "Gauss–Newton": lambda: list(recordings.products([(0, START)])),
        "forward + backward": lambda: la.compressor(audio, physical(point, SIX), RATE).backward(weight),
        "reading": lambda: [list(map(len, read_blocks(p, 0, audio.numel(), 1 << 16))) for p in take[PATHS].iloc[0]],
    }
    times = pd.DataFrame({name: repeat(job, number=1, repeat=5) for name, job in jobs.items()})
    print(f"\nOne pass over {minutes} min of audio, seconds; reading alone is on one thread:")
    print(times.agg(["min", "median"]).assign(ratio=times["Gauss–Newton"].min() / times["forward + backward"].min()))


def main() -> None:
    """Print the tables."""
    packages = [f"{name} {version(name)}" for name in ("torch", "numba", *["torchcomp"] * bool(compexp_gain))]
    print(*packages, f"{torch.get_num_threads()} threads of {os.cpu_count()}", sep=", ")
    with tempfile.TemporaryDirectory() as scratch:
        for _, take in takes(Path(scratch), 15.0):
            list(results(take, 0.5, 0.1))  # compiles
        for name, take in takes(Path(scratch), SECONDS):
            found = table(list(results(take, CAP_S, TRIAL_S)))
            print(f"\n{name}, {SECONDS:g} s. Error in per cent after:")
            print(found.drop(columns=NAMES).to_string(index=False))
            print(found[["method", *NAMES]].to_string(index=False, float_format="{:.3f}".format), flush=True)
        one_pass(Path(scratch), int(sys.argv[1]) if len(sys.argv) > 1 else 20)


if __name__ == "__main__":
    main()
