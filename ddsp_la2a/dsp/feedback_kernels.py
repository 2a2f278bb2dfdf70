"""The compiled loops of the compressor sample by sample: for a detector that hears the output (feedback), for several
channels with one gain, and for derivatives in any direction.

Conventions and the equations of a sample as in ``kernels``.
"""

from __future__ import annotations

import numpy as np

from ddsp_la2a.dsp.compiling import compiled, inlined
from ddsp_la2a.dsp.elementary import exp2
from ddsp_la2a.dsp.kernels import (
    LN_2,
    curve_constants,
    finite_or_zero,
    gain_exponent,
    level_of,
    over_threshold,
    remembered,
)
from ddsp_la2a.dsp.lanes import WIDTH, fma, load, magnitude, store, transpose, where
from ddsp_la2a.dsp.smoothing_kernels import NEXT_TO_NOTHING, PIECE, follow
from ddsp_la2a.units import DB_PER_OCTAVE, LEVEL_FLOOR

FAST, SLOW, SHELVED = range(3)
"""Rows of the signals that the forward pass keeps: both cells' gains, and what the curve saw."""


@inlined
def _curve(heard, constants):
    """Linear gain, octaves over threshold h, and dh per octave."""
    h, position = over_threshold(level_of(heard), constants)
    return exp2(gain_exponent(h, constants)), h, position


@inlined
def _per_octave(s):
    """Octaves of level per unit of a sample; silence has none."""
    return 1.0 / (s * LN_2) if abs(s) > LEVEL_FLOOR else 0.0


@compiled
def feedback_forward(first, last, audio, coefficients, state, output, signals):
    """Every sample of every row. Updates ``state``; fills ``signals`` (rows, 3, time) where it is not empty. Returns 0,
    or NaN where a sample isn't finite."""
    keep, unfit = signals.shape[2] > 0, 0.0
    for row in range(first, last):
        constants = curve_constants(coefficients, row)
        attack, release, slow_attack, slow_release, mix, b0, b1, a1, makeup = coefficients[row, 3:]
        fast, slow, memory, v = state[row]
        for n in range(audio.shape[1]):
            s = fma(b0, v, memory)
            memory = remembered(b1, v, a1, s)
            target, _, _ = _curve(s, constants)
            fast = follow(fast, target, attack, release)
            slow = follow(slow, target, slow_attack, slow_release)
            x = np.float64(audio[row, n])
            unfit += 0.0 * x
            v = x * fma(mix, slow - fast, fast)
            output[row, n] = v * makeup
            if keep:
                signals[row, FAST, n] = fast
                signals[row, SLOW, n] = slow
                signals[row, SHELVED, n] = s
        state[row, 0], state[row, 1], state[row, 2], state[row, 3] = fast, slow, memory, finite_or_zero(v)
    return unfit


@compiled
def linked_forward(audio, coefficients, feedback, state, output):
    """One gain for all rows, led by the one whose side-chain is loudest; coefficients of row 0."""
    channels = audio.shape[0]
    constants = curve_constants(coefficients, 0)
    attack, release, slow_attack, slow_release, mix, b0, b1, a1, makeup = coefficients[0, 3:]
    fast, slow = state[0, 0], state[0, 1]
    for n in range(audio.shape[1]):
        loudest = 0.0
        for c in range(channels):
            d = state[c, 3] if feedback else np.float64(audio[c, n])
            s = fma(b0, d, state[c, 2])
            state[c, 2] = remembered(b1, d, a1, s)
            loudest = max(loudest, abs(s))
        target, _, _ = _curve(loudest, constants)
        fast = follow(fast, target, attack, release)
        slow = follow(slow, target, slow_attack, slow_release)
        g = fma(mix, slow - fast, fast)
        for c in range(channels):
            state[c, 3] = np.float64(audio[c, n]) * g
            output[c, n] = state[c, 3] * makeup
    for c in range(channels):
        state[c, 0], state[c, 1], state[c, 3] = fast, slow, finite_or_zero(state[c, 3])


@compiled
def feedback_backward(
    first, last, audio, coefficients, state, signals, grad_output, grad_audio, grad_coefficients, grad_state
):
    """Adjoint of :func:`feedback_forward`.

    ``state`` is that before the first sample, ``signals`` what the forward pass kept. ``grad_state`` (rows, 4) holds
    the derivatives for the last state on entry and for the first on return.
    """
    for row in range(first, last):
        constants, slope = curve_constants(coefficients, row), coefficients[row, 1]
        attack, release, slow_attack, slow_release, mix, b0, b1, a1, makeup = coefficients[row, 3:]
        a_fast, a_slow, a_memory, a_v = grad_state[row]
        d_threshold = d_slope = d_knee = d_attack = d_release = d_slow_attack = d_slow_release = 0.0
        d_mix = d_b0 = d_b1 = d_a1 = d_makeup = 0.0
        for n in range(audio.shape[1] - 1, -1, -1):
            x = np.float64(audio[row, n])
            gy = np.float64(grad_output[row, n])
            fast, slow, s = signals[row, FAST, n], signals[row, SLOW, n], signals[row, SHELVED, n]
            fast_before, slow_before, v_before = state[row, 0], state[row, 1], state[row, 3]
            if n > 0:
                fast_before, slow_before = signals[row, FAST, n - 1], signals[row, SLOW, n - 1]
                v_before = np.float64(audio[row, n - 1]) * fma(mix, slow_before - fast_before, fast_before)
            g = fma(mix, slow - fast, fast)

            d_makeup += gy * x * g
            a_v += gy * makeup
            grad_audio[row, n] = a_v * g
            a_g = a_v * x
            a_fast += a_g * (1.0 - mix)
            a_slow += a_g * mix
            d_mix += a_g * (slow - fast)

            target, h, dh = _curve(s, constants)
            fast_falls, slow_falls = target < fast_before, target < slow_before
            fast_moved, slow_moved = a_fast * (target - fast_before), a_slow * (target - slow_before)
            d_attack += fast_moved if fast_falls else 0.0
            d_release += 0.0 if fast_falls else fast_moved
            d_slow_attack += slow_moved if slow_falls else 0.0
            d_slow_release += 0.0 if slow_falls else slow_moved
            of_fast, of_slow = attack if fast_falls else release, slow_attack if slow_falls else slow_release
            of_exponent = LN_2 * target * (of_fast * a_fast + of_slow * a_slow)
            a_fast *= 1.0 - of_fast
            a_slow *= 1.0 - of_slow
            if abs(a_fast) < NEXT_TO_NOTHING:
                a_fast = 0.0
            if abs(a_slow) < NEXT_TO_NOTHING:
                a_slow = 0.0

            of_excess = -slope * of_exponent * dh
            d_slope -= of_exponent * h
            d_threshold -= of_excess
            d_knee += 0.5 * (1.0 - dh) * of_excess
            a_s = of_excess * _per_octave(s)

            a_s -= a1 * a_memory
            d_a1 -= s * a_memory
            d_b1 += v_before * a_memory
            d_b0 += v_before * a_s
            a_v = b1 * a_memory + b0 * a_s
            a_memory = a_s
        found = grad_state[row]
        found[0], found[1], found[2], found[3] = a_fast, a_slow, a_memory, a_v
        found = grad_coefficients[row]
        found[0], found[1], found[2] = d_threshold / DB_PER_OCTAVE, d_slope, d_knee / DB_PER_OCTAVE
        found[3], found[4], found[5], found[6] = d_attack, d_release, d_slow_attack, d_slow_release
        found[7], found[8], found[9], found[10], found[11] = d_mix, d_b0, d_b1, d_a1, d_makeup


@compiled
def tangents_forward(
    first,
    last,
    audio,
    audio_tangents,
    coefficients,
    directions,
    feedback,
    two_cells,
    shelf,
    state,
    state_tangents,
    output,
    tangents,
):
    """Output, and its derivatives in some directions of audio, coefficients and state, carried along in time.

    ``audio_tangents`` (rows, directions, time) is empty where the audio is constant. ``directions`` (rows, 12,
    directions) are those of the coefficients. ``state`` and ``state_tangents`` (rows, 4, directions) are updated.
    ``output`` (rows, time) and ``tangents`` (rows, directions, time) receive what is computed. Piece by piece, first
    the row itself, then its derivatives: the directions lie side by side in lanes, and none of them changes the row.
    """
    samples, count = audio.shape[1], directions.shape[2]
    audio_moves = audio_tangents.shape[2] > 0
    groups = -(-count // WIDTH)
    sides, memories, d_audio = np.zeros((groups, 12, WIDTH)), np.zeros((groups, 4, WIDTH)), np.zeros(WIDTH)
    turned, moved = np.zeros((PIECE, WIDTH)), np.zeros((WIDTH, PIECE))
    sound, detected, heard, gain, apart, v_of = np.zeros((6, PIECE))
    of_excess, of_slope, of_knee, per_heard = np.zeros((4, PIECE))
    to_fast, to_slow, fast_share, slow_share = np.zeros((4, PIECE))
    for row in range(first, last):
        constants, slope = curve_constants(coefficients, row), coefficients[row, 1]
        attack, release, slow_attack, slow_release, mix, b0, b1, a1, makeup = coefficients[row, 3:]
        for direction in range(count):
            group, lane = direction // WIDTH, direction % WIDTH
            sides[group, :, lane] = directions[row, :, direction]
            memories[group, :, lane] = state_tangents[row, :, direction]
        fast, slow, memory, v = state[row]
        for start in range(0, samples, PIECE):
            frames = min(PIECE, samples - start)
            for n in range(frames):
                x = np.float64(audio[row, start + n])
                d = v if feedback else x
                s = d
                if shelf:
                    s = fma(b0, d, memory)
                    memory = remembered(b1, d, a1, s)
                target, h, dh = _curve(s, constants)
                sound[n], detected[n], heard[n], per_heard[n] = x, d, s, _per_octave(s)
                of_excess[n], of_slope[n] = -LN_2 * target * slope * dh, -LN_2 * target * h
                of_knee[n] = 0.5 * (1.0 - dh)
                to_fast[n], to_slow[n] = target - fast, target - slow
                fast_share[n] = attack if target < fast else release
                slow_share[n] = slow_attack if target < slow else slow_release
                fast = follow(fast, target, attack, release)
                apart[n], gain[n] = 0.0, fast
                if two_cells:
                    slow = follow(slow, target, slow_attack, slow_release)
                    apart[n], gain[n] = slow - fast, fma(mix, slow - fast, fast)
                v = x * gain[n]
                v_of[n] = v
                output[row, start + n] = v * makeup
            for group in range(groups):
                at, top, live = group * 12 * WIDTH, group * WIDTH, min(WIDTH, count - group * WIDTH)
                d_threshold, d_slope = load(sides, at) * (1.0 / DB_PER_OCTAVE), load(sides, at + WIDTH)
                d_knee, d_mix = load(sides, at + 2 * WIDTH) * (1.0 / DB_PER_OCTAVE), load(sides, at + 7 * WIDTH)
                d_b0, d_b1 = load(sides, at + 8 * WIDTH), load(sides, at + 9 * WIDTH)
                d_a1, d_makeup = load(sides, at + 10 * WIDTH), load(sides, at + 11 * WIDTH)
                kept = group * 4 * WIDTH
                d_fast, d_slow = load(memories, kept), load(memories, kept + WIDTH)
                d_memory, d_v = load(memories, kept + 2 * WIDTH), load(memories, kept + 3 * WIDTH)
                d_x = load(d_audio, 0) * 0.0
                for n in range(frames):
                    if audio_moves:
                        for lane in range(live):
                            d_audio[lane] = audio_tangents[row, top + lane, start + n]
                        d_x = load(d_audio, 0)
                    ds = d_v if feedback else d_x
                    if shelf:
                        dd, d, s = ds, detected[n], heard[n]
                        ds = fma(d_b0, d, fma(b0, dd, d_memory))
                        d_memory = d_b1 * d + b1 * dd - d_a1 * s - a1 * ds
                    d_excess = fma(of_knee[n], d_knee, ds * per_heard[n]) - d_threshold
                    d_target = fma(of_excess[n], d_excess, of_slope[n] * d_slope)
                    fast_side = 3 if to_fast[n] < 0.0 else 4
                    slow_side = 5 if to_slow[n] < 0.0 else 6
                    own = load(sides, at + fast_side * WIDTH) * to_fast[n]
                    d_fast = fma(1.0 - fast_share[n], d_fast, fma(fast_share[n], d_target, own))
                    d_gain = d_fast
                    if two_cells:
                        own = load(sides, at + slow_side * WIDTH) * to_slow[n]
                        d_slow = fma(1.0 - slow_share[n], d_slow, fma(slow_share[n], d_target, own))
                        d_gain = fma(d_mix, apart[n], fma(mix, d_slow - d_fast, d_fast))
                    d_v = fma(d_x, gain[n], sound[n] * d_gain)
                    store(turned, n * WIDTH, fma(d_makeup, v_of[n], makeup * d_v))
                for place, memory_of in ((0, d_fast), (1, d_slow), (2, d_memory), (3, d_v)):
                    faded = magnitude(memory_of) < NEXT_TO_NOTHING
                    store(memories, kept + place * WIDTH, where(faded, 0.0, memory_of))
                for n in range(0, frames, WIDTH):
                    transpose(turned, n * WIDTH, WIDTH, moved, n, PIECE)
                for lane in range(live):
                    for n in range(frames):
                        tangents[row, top + lane, start + n] = moved[lane, n]
        for direction in range(count):
            state_tangents[row, :, direction] = memories[direction // WIDTH, :, direction % WIDTH]
        state[row, 0], state[row, 1], state[row, 2], state[row, 3] = fast, slow, memory, v
