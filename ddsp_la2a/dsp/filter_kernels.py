"""The compiled loops of the output filter: a few taps and a slow pole on every row.

::

    y[n] = Σ_k c_k x[n − k] + c_p slow[n],   k = 0 … 2 L
    slow[n] = slow[n − 1] + α (x[n − L] − slow[n − 1])

``taps`` (rows, 2 L + 2) are c_0 … c_2L, c_p; ``state`` (rows, 2 L + 1) the last 2 L samples, oldest first, then slow.
Conventions as in ``smoothing_kernels``.
"""

from __future__ import annotations

import math

import numpy as np

from ddsp_la2a.dsp.compiling import compiled, inlined
from ddsp_la2a.dsp.lanes import WIDTH, fma, load, magnitude, put, store, take, where
from ddsp_la2a.dsp.smoothing_kernels import NEXT_TO_NOTHING, PIECE


@inlined
def _slower(slow, x, coefficient):
    """A sample later. The pole never forgets, so it isn't given what isn't finite."""
    return fma(1.0 - coefficient, slow, coefficient * x if abs(x) < math.inf else 0.0)


@compiled
def filter_forward(first, last, signal, taps, coefficient, state, output):
    """Every sample of every row. Updates ``state``."""
    samples, memory = signal.shape[1], taps.shape[1] - 2
    known, slow, filtered = np.zeros(memory + PIECE), np.zeros(PIECE), np.zeros(PIECE)
    for row in range(first, last):
        s = state[row, memory]
        for n in range(memory):
            known[n] = state[row, n]
        for start in range(0, samples, PIECE):
            frames, here = min(PIECE, samples - start), row * samples + start
            for n in range(frames):
                known[memory + n] = take(signal, here + n)
            for n in range(frames):
                s = _slower(s, known[memory // 2 + n], coefficient)
                slow[n] = s
            for n in range(0, frames, WIDTH):
                # Where a call ends decides when next to nothing is forgotten, so it isn't heard before that either.
                own = load(slow, n)
                total = taps[row, memory + 1] * where(magnitude(own) < NEXT_TO_NOTHING, 0.0, own)
                for k in range(memory + 1):
                    total = fma(taps[row, k], load(known, memory - k + n), total)
                store(filtered, n, total)
            for n in range(frames):
                put(output, here + n, filtered[n])
            for n in range(memory):
                known[n] = known[frames + n]
            s = 0.0 if abs(s) < NEXT_TO_NOTHING else s
        for n in range(memory):
            state[row, n] = known[n]
        state[row, memory] = s


@compiled
def filter_backward(first, last, signal, taps, coefficient, state, grad_output, grad_signal, grad_taps, grad_state):
    """Adjoint of :func:`filter_forward`.

    ``state`` is that before the first sample. ``grad_state`` holds the derivatives for the last state on entry and for
    the first on return.
    """
    samples, memory = signal.shape[1], taps.shape[1] - 2
    middle = memory // 2
    whole = -(-(samples + memory) // WIDTH) * WIDTH
    # What was known, from the first remembered sample on; what is asked of the output, between silences, so that no tap
    # reaches beyond an end; and what is asked of the slow pole, the same.
    known, asked, slow_asked = np.zeros((3, whole + memory + WIDTH))
    slow, found = np.zeros(whole + WIDTH), np.zeros(whole)
    for row in range(first, last):
        for n in range(memory):
            known[n] = state[row, n]
        for n in range(samples):
            known[memory + n] = take(signal, row * samples + n)
            asked[memory + n] = take(grad_output, row * samples + n)
        s, carry = state[row, memory], grad_state[row, memory]
        for n in range(samples):
            s = _slower(s, known[middle + n], coefficient)
            slow[n] = s
        for n in range(samples - 1, -1, -1):
            carry = fma(taps[row, memory + 1], asked[memory + n], carry)
            slow_asked[middle + n] = carry
            carry *= 1.0 - coefficient
            carry = 0.0 if abs(carry) < NEXT_TO_NOTHING else carry
        for n in range(0, whole, WIDTH):
            total = coefficient * load(slow_asked, n)
            for k in range(memory + 1):
                total = fma(taps[row, k], load(asked, n + k), total)
            store(found, n, total)
        for n in range(memory):
            found[samples + n] += grad_state[row, n]
        for n in range(samples):
            put(grad_signal, row * samples + n, found[memory + n])
        for n in range(memory):
            grad_state[row, n] = found[n]
        grad_state[row, memory] = carry
        for k in range(memory + 1):
            grad_taps[row, k] = _product(samples, asked, memory, known, memory - k)
        grad_taps[row, memory + 1] = _product(samples, asked, memory, slow, 0)


@compiled
def _product(samples, left, left_start, right, right_start):
    """Σ left[left_start + n] right[right_start + n]; beyond the samples ``left`` is silent up to whole lanes."""
    total = load(left, left_start) * 0.0
    for n in range(0, samples, WIDTH):
        total = fma(load(left, left_start + n), load(right, right_start + n), total)
    lanes = np.empty(WIDTH)
    store(lanes, 0, total)
    return lanes.sum()
