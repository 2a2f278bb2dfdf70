"""The compiled loops. The only module that knows how they are compiled.

A kernel works on rows ``first … last − 1`` of C-contiguous arrays, so that :func:`over_rows` can hand groups of rows to
threads. Audio is float32 or float64; state, parameters and everything accumulated is float64, because a release of
seconds has a pole so near one that float32 would stall short of its end.

numba's ``parallel=True`` is not used: its OpenMP pool kills forked DataLoader workers. The kernels release the GIL and
:func:`over_rows` starts its few threads for the length of one call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from ddsp_la2a.units import DB_PER_NEPER, LEVEL_FLOOR

_SAMPLES_WORTH_A_THREAD = 100_000


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use, and keep the machine code on disk where some cache folder is writable."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no folder to cache in
        return numba.njit(nogil=True, error_model="numpy")(function)


@numba.njit(inline="always")
def _knee(excess_db: float, knee_db: float) -> tuple[float, float]:
    """Return h(d) and dh/dd of the quadratic knee for d > −w/2; the curve's gain is −slope · h."""
    if excess_db >= 0.5 * knee_db:
        return excess_db, 1.0
    if excess_db <= -0.5 * knee_db:  # the logarithm rounded a level just above the foot to below it
        return 0.0, 0.0
    position = (excess_db + 0.5 * knee_db) / knee_db
    return 0.5 * knee_db * position * position, position


@_compiled
def compress_forward(
    first, last, audio, detector, threshold_db, slope, knee_db, attack, release, makeup, state, output, gain
):
    """Level → curve → smoothing → gain → make-up. Updates ``state``; keeps the gain where ``gain`` is not empty."""
    keep_gain = gain.shape[1] > 0
    for row in range(first, last):
        knee_foot = math.exp((threshold_db[row] - 0.5 * knee_db[row]) / DB_PER_NEPER)
        g = state[row]
        for n in range(audio.shape[1]):
            level = max(abs(np.float64(detector[row, n])), LEVEL_FLOOR)
            target = 1.0
            if level > knee_foot:
                h, _ = _knee(DB_PER_NEPER * math.log(level) - threshold_db[row], knee_db[row])
                target = math.exp(-slope[row] / DB_PER_NEPER * h)
            coefficient = attack[row] if target < g else release[row]
            g += coefficient * (target - g)
            output[row, n] = audio[row, n] * g * makeup[row]
            if keep_gain:
                gain[row, n] = g
        state[row] = g


@_compiled
def compress_backward(
    first,
    last,
    audio,
    threshold_db,
    slope,
    knee_db,
    attack,
    release,
    makeup,
    state,
    gain,
    grad_output,
    grad_audio,
    grad_params,
    grad_state,
):
    """Adjoint of :func:`compress_forward` with ``detector = audio``.

    ``gain`` is what the forward pass kept, in float64, so that attack and release are told apart exactly as they were
    there. ``grad_state`` holds the derivative for the last state on entry and for the first on return; ``grad_params``
    (rows, 6) receives threshold, slope, knee, attack, release and make-up.
    """
    for row in range(first, last):
        knee_foot = math.exp((threshold_db[row] - 0.5 * knee_db[row]) / DB_PER_NEPER)
        adjoint = grad_state[row]
        d_threshold = d_slope = d_knee = d_attack = d_release = d_makeup = 0.0
        for n in range(audio.shape[1] - 1, -1, -1):
            x = np.float64(audio[row, n])
            gy = np.float64(grad_output[row, n])
            g = gain[row, n]
            g_before = gain[row, n - 1] if n > 0 else state[row]
            d_makeup += gy * x * g
            dx = gy * g * makeup[row]
            adjoint += gy * x * makeup[row]

            level = max(abs(x), LEVEL_FLOOR)
            target = 1.0
            h = 0.0
            dh = 0.0
            if level > knee_foot:
                h, dh = _knee(DB_PER_NEPER * math.log(level) - threshold_db[row], knee_db[row])
                target = math.exp(-slope[row] / DB_PER_NEPER * h)
            if target < g_before:
                coefficient = attack[row]
                d_attack += adjoint * (target - g_before)
            else:
                coefficient = release[row]
                d_release += adjoint * (target - g_before)
            d_gain_np = adjoint * coefficient * target  # derivative for the curve's gain in nepers
            adjoint *= 1.0 - coefficient

            if level > knee_foot:
                d_excess = -d_gain_np * slope[row] / DB_PER_NEPER * dh
                d_slope -= d_gain_np * h / DB_PER_NEPER
                d_threshold -= d_excess
                d_knee += 0.5 * (1.0 - dh) * d_excess
                if level > LEVEL_FLOOR:
                    dx += d_excess * DB_PER_NEPER / x
            grad_audio[row, n] = dx
        grad_state[row] = adjoint
        grad_params[row, 0] = d_threshold
        grad_params[row, 1] = d_slope
        grad_params[row, 2] = d_knee
        grad_params[row, 3] = d_attack
        grad_params[row, 4] = d_release
        grad_params[row, 5] = d_makeup


@_compiled
def smooth_forward(first, last, target, attack, release, state, smoothed):
    """One pole that falls with ``attack`` and rises with ``release``. ``smoothed`` is float64."""
    for row in range(first, last):
        g = state[row]
        for n in range(target.shape[1]):
            t = np.float64(target[row, n])
            g += (attack[row] if t < g else release[row]) * (t - g)
            smoothed[row, n] = g


@_compiled
def smooth_backward(first, last, target, attack, release, state, smoothed, grad_smoothed, grad_target, grad_params):
    """Adjoint of :func:`smooth_forward`; ``grad_params`` (rows, 3) receives attack, release and first state."""
    for row in range(first, last):
        adjoint = d_attack = d_release = 0.0
        for n in range(target.shape[1] - 1, -1, -1):
            g_before = smoothed[row, n - 1] if n > 0 else state[row]
            difference = np.float64(target[row, n]) - g_before
            adjoint += np.float64(grad_smoothed[row, n])
            if difference < 0.0:
                coefficient = attack[row]
                d_attack += adjoint * difference
            else:
                coefficient = release[row]
                d_release += adjoint * difference
            grad_target[row, n] = adjoint * coefficient
            adjoint *= 1.0 - coefficient
        grad_params[row, 0] = d_attack
        grad_params[row, 1] = d_release
        grad_params[row, 2] = adjoint


@_compiled
def high_pass(first, last, signal, pole, backwards, filtered):
    """DC blocker (1 − z⁻¹) / (1 − pole z⁻¹) from rest; ``backwards`` in time it is its own adjoint."""
    samples = signal.shape[1]
    for row in range(first, last):
        before = after = 0.0
        for i in range(samples):
            n = samples - 1 - i if backwards else i
            x = float(signal[row, n])
            after = x - before + pole * after
            before = x
            filtered[row, n] = after


def over_rows(kernel: Any, rows: int, samples: int, *arguments: Any) -> None:
    """Run ``kernel(first, last, *arguments)`` on groups of rows, in as many threads as torch may use."""
    threads = min(rows, torch.get_num_threads(), 1 + rows * samples // _SAMPLES_WORTH_A_THREAD)
    if threads <= 1:
        kernel(0, rows, *arguments)
        return
    edges = [rows * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(kernel, a, b, *arguments) for a, b in itertools.pairwise(edges)]:
            done.result()


def needs_compiling() -> bool:
    """Whether the first call will wait for the compiler: nothing compiled in this process and nothing in the cache."""
    if compress_forward.signatures:
        return False
    folder = compress_forward.stats.cache_path
    return folder is None or not any(Path(folder).glob("kernels.compress_forward-*.nbi"))
