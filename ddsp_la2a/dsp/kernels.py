"""The compiled loops of the compressor whose detector hears the input: any stage but feedback.

The samples of a row are worked on in pieces that stay in the first-level cache, loop by loop: what the detector hears,
the curve's gain, attack and release, output. Only attack and release have to go sample by sample; there the rows of a
batch lie side by side in SIMD lanes. Everywhere else it is neighbouring samples of one row that do.

Conventions as in ``smoothing_kernels``; audio is float32 or float64. With x the input and the rest as in
:data:`COEFFICIENTS` and :data:`STATES`, one sample is ::

    d = x, or with feedback v, the compressed sample before     what is detected
    s = b0 d + memory;   memory = b1 d − a1 s                   side-chain shelf
    target = curve(|s|)
    fast += α (target − fast);   slow += α_slow (target − slow)
    g = fast + mix (slow − fast)
    v = x g;   output = v · makeup

A stage that is off is skipped, or has coefficients that leave every bit as it was: b0 = 1, b1 = a1 = 0; mix = 0.
"""

from __future__ import annotations

import math

import numpy as np

from ddsp_la2a.dsp.compiling import compiled, inlined
from ddsp_la2a.dsp.elementary import exp2, log2
from ddsp_la2a.dsp.lanes import WIDTH, fma, larger, load, magnitude, put, smaller, store, where
from ddsp_la2a.dsp.smoothing_kernels import NEXT_TO_NOTHING, PIECE, cell_adjoint, follow_rows, read
from ddsp_la2a.units import DB_PER_OCTAVE, LEVEL_FLOOR

COEFFICIENTS = (
    "threshold_db",
    "slope",
    "knee_db",
    "attack",
    "release",
    "slow_attack",
    "slow_release",
    "slow_mix",
    "shelf_b0",
    "shelf_b1",
    "shelf_a1",
    "makeup",
)
"""Columns of what the kernels call ``coefficients`` (rows, 12), float64."""

STATES = ("fast", "slow", "shelf_memory", "fed_back")
"""Columns of what the kernels call ``state`` (rows, 4), float64; 1, 1, 0, 0 for a unit at rest."""

_DEEPEST = -1000.0  # binary logarithm of a gain; beyond, exp2 has no number
LN_2 = math.log(2.0)

_SUMS = 9
_OF_SUMS = np.array(
    [(11, 1), (7, 1), (3, 1), (4, 1), (5, 1), (6, 1), (0, DB_PER_OCTAVE), (1, 1), (2, DB_PER_OCTAVE)], dtype=np.float64
)
"""What the adjoint sums up in lanes: column of the coefficients, and what to divide by."""


def pieces(samples):
    """Into how many pieces so many samples are cut."""
    return -(-samples // PIECE)


@inlined
def curve_constants(coefficients, row):
    """Threshold, half and whole knee width in octaves, the inverse of the width or 0, and the negative slope."""
    threshold, knee = coefficients[row, 0] / DB_PER_OCTAVE, coefficients[row, 2] / DB_PER_OCTAVE
    return threshold, 0.5 * knee, knee, 1.0 / knee if knee > NEXT_TO_NOTHING else 0.0, 0.0 - coefficients[row, 1]


@inlined
def over_threshold(heard, constants):
    """Octaves h by which the quadratic knee says a sample is over the threshold, and dh per octave of its level."""
    threshold, half, knee, per_knee, _ = constants
    excess = log2(larger(magnitude(heard), LEVEL_FLOOR)) - threshold
    within = smaller(larger(excess + half, 0.0), knee)
    above = excess - half
    position = where(above > 0.0, 1.0, within * per_knee)
    return fma(0.5 * within * per_knee, within, larger(above, 0.0)), position


@inlined
def gain_exponent(h, constants):
    """Binary logarithm of the curve's gain."""
    return larger(h * constants[4], _DEEPEST)


@inlined
def remembered(b1, d, a1, s):
    """Of the shelf. What isn't finite is forgotten, so that one bad sample spoils only itself; what is next to nothing,
    too."""
    memory = b1 * d - a1 * s
    return memory if NEXT_TO_NOTHING < abs(memory) < math.inf else 0.0


@inlined
def finite_or_zero(v):
    """What is remembered of a sample."""
    return v if abs(v) < math.inf else 0.0


@compiled
def _shelved(frames, row, audio, b0, b1, a1, memory, heard):
    """Side-chain shelf over one piece of one row; returns its memory after it."""
    for n in range(frames):
        x = audio[row, n]
        s = fma(b0, x, memory)
        memory = remembered(b1, x, a1, s)
        heard[row, n] = s
    return memory


@compiled
def _targets(frames, row, heard, constants, targets):
    """The curve's gain over one piece of one row. Two loops: a processor can't look ahead over both at once."""
    start = row * PIECE
    for n in range(start, start + frames, WIDTH):
        h, _ = over_threshold(load(heard, n), constants)
        store(targets, n, gain_exponent(h, constants))
    for n in range(start, start + frames, WIDTH):
        store(targets, n, exp2(load(targets, n)))


@compiled
def compress_forward(first, last, audio, coefficients, two_cells, shelf, state, output, passed, signals):
    """Every sample of every row. Updates ``state``.

    Without ``two_cells`` and ``shelf`` their coefficients aren't looked at and their states are left alone.
    ``passed`` (rows, pieces, 4) is empty, or receives the state before every piece: all that the adjoint needs.
    ``signals`` (rows, 3, time) is empty, or receives the gain of both cells and what the curve heard.
    """
    samples = audio.shape[1]
    keep, show = passed.shape[1] > 0, signals.shape[2] > 0
    sound, shelved = np.zeros((2, WIDTH, PIECE))
    fast, slow = np.zeros((2, WIDTH, PIECE))
    fast_times, slow_times = np.ones((2, 2, WIDTH))
    fast_before, slow_before = np.ones((2, WIDTH))
    tile = np.empty(WIDTH * WIDTH)
    heard = shelved if shelf else sound
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        _side_by_side(top, rows, coefficients, fast_times, slow_times)
        for start in range(0, samples, PIECE):
            frames = min(PIECE, samples - start)
            for row in range(rows):
                here = top + row
                fast_before[row], slow_before[row] = state[here, 0], state[here, 1]
                if keep:
                    for n in range(4):
                        passed[here, start // PIECE, n] = state[here, n]
                read(audio, here, start, frames, sound, row)
                if shelf:
                    b0, b1, a1 = coefficients[here, 8], coefficients[here, 9], coefficients[here, 10]
                    state[here, 2] = _shelved(frames, row, sound, b0, b1, a1, state[here, 2], shelved)
                _targets(frames, row, heard, curve_constants(coefficients, here), fast)
                if two_cells:
                    for n in range(frames):
                        slow[row, n] = fast[row, n]
            follow_rows(rows, frames, fast_times[0], fast_times[1], fast_before, fast, tile)
            if two_cells:
                follow_rows(rows, frames, slow_times[0], slow_times[1], slow_before, slow, tile)
            for row in range(rows):
                here, at = top + row, (top + row) * samples + start
                mix, makeup = coefficients[here, 7], coefficients[here, 11]
                if two_cells:
                    for n in range(frames):
                        g = fma(mix, slow[row, n] - fast[row, n], fast[row, n])
                        put(output, at + n, sound[row, n] * g * makeup)
                    state[here, 1] = slow_before[row]
                else:
                    for n in range(frames):
                        put(output, at + n, sound[row, n] * fast[row, n] * makeup)
                state[here, 0] = fast_before[row]
                g = fma(mix, slow_before[row] - fast_before[row], fast_before[row]) if two_cells else fast_before[row]
                state[here, 3] = finite_or_zero(sound[row, frames - 1] * g)
                if show:
                    for n in range(frames):
                        signals[here, 0, start + n] = fast[row, n]
                        signals[here, 1, start + n] = slow[row, n] if two_cells else fast[row, n]
                        signals[here, 2, start + n] = heard[row, n]


@inlined
def _side_by_side(top, rows, coefficients, fast_times, slow_times):
    """Attack and release of both cells, a row a lane."""
    for row in range(rows):
        for n in range(2):
            fast_times[n, row] = coefficients[top + row, 3 + n]
            slow_times[n, row] = coefficients[top + row, 5 + n]


@compiled
def _over_thresholds(frames, row, heard, constants, over, position, exponents, target, fast, slow):
    """As :func:`_targets` for both cells, and what :func:`_curve_adjoint` needs."""
    start = row * PIECE
    for n in range(0, frames, WIDTH):
        h, steep = over_threshold(load(heard, start + n), constants)
        store(exponents, n, gain_exponent(h, constants))
        store(over, start + n, h)
        store(position, start + n, steep)
    for n in range(0, frames, WIDTH):
        goal = exp2(load(exponents, n))
        store(target, start + n, goal)
        store(fast, start + n, goal)
        store(slow, start + n, goal)


@compiled
def _curve_adjoint(frames, row, heard, target, over, position, asked, slope, sums, place):
    """Adjoint of the curve over one piece of one row: ``asked`` of the targets becomes that of what was heard.

    Lanes number ``place`` of ``sums`` and the next ones have the derivatives for threshold, slope and knee added, per
    octave but for the slope.
    """
    of_threshold, of_slope = load(sums, place * WIDTH), load(sums, (place + 1) * WIDTH)
    of_knee = load(sums, (place + 2) * WIDTH)
    start = row * PIECE
    for n in range(0, frames, WIDTH):
        s, steep = load(heard, start + n), load(position, start + n)
        of_exponent = LN_2 * load(asked, n) * load(target, start + n)
        of_slope = of_slope - of_exponent * load(over, start + n)
        of_excess = (0.0 - slope) * of_exponent * steep
        of_threshold = of_threshold - of_excess
        of_knee = fma(0.5 * (1.0 - steep), of_excess, of_knee)
        store(asked, n, where(magnitude(s) > LEVEL_FLOOR, of_excess / (s * LN_2), 0.0))
    store(sums, place * WIDTH, of_threshold)
    store(sums, (place + 1) * WIDTH, of_slope)
    store(sums, (place + 2) * WIDTH, of_knee)


@compiled
def _shelf_adjoint(frames, row, audio, heard, b0, b1, a1, asked, memory_asked, found):
    """Adjoint of :func:`_shelved`: ``asked`` of what was heard becomes that of the audio; b0, b1, a1 are added to."""
    for n in range(frames - 1, -1, -1):
        of_heard = asked[n] - a1 * memory_asked
        found[row, 8] += audio[row, n] * of_heard
        found[row, 9] += audio[row, n] * memory_asked
        found[row, 10] -= heard[row, n] * memory_asked
        asked[n] = b1 * memory_asked + b0 * of_heard
        memory_asked = of_heard
    return memory_asked


@compiled
def compress_backward(
    first,
    last,
    audio,
    coefficients,
    two_cells,
    shelf,
    passed,
    grad_output,
    grad_audio,
    grad_coefficients,
    grad_state,
):
    """Adjoint of :func:`compress_forward`, which is gone through again piece by piece, to the same bits.

    ``passed`` is what it passed through. ``grad_state`` (rows, 4) holds the derivatives for the last state on entry and
    for the first on return.
    """
    samples = audio.shape[1]
    sound, shelved, over, position, target = np.zeros((5, WIDTH, PIECE))
    fast, slow = np.zeros((2, WIDTH, PIECE))
    fast_times, slow_times = np.ones((2, 2, WIDTH))
    fast_before, slow_before = np.ones((2, WIDTH))
    tile = np.empty(WIDTH * WIDTH)
    exponents, asked_of_gain, asked_of_sound, asked, before = np.zeros((5, PIECE))
    asked_of_output = np.zeros((1, PIECE))
    heard = shelved if shelf else sound
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        sums = np.zeros((WIDTH, _SUMS, WIDTH))
        grad_coefficients[top : top + rows] = 0.0
        _side_by_side(top, rows, coefficients, fast_times, slow_times)
        for start in range((samples - 1) // PIECE * PIECE, -1, -PIECE):
            piece, frames = start // PIECE, min(PIECE, samples - start)
            for row in range(rows):
                here = top + row
                fast_before[row], slow_before[row] = passed[here, piece, 0], passed[here, piece, 1]
                b0, b1, a1 = coefficients[here, 8], coefficients[here, 9], coefficients[here, 10]
                read(audio, here, start, frames, sound, row)
                if shelf:
                    _shelved(frames, row, sound, b0, b1, a1, passed[here, piece, 2], shelved)
                constants = curve_constants(coefficients, here)
                _over_thresholds(frames, row, heard, constants, over, position, exponents, target, fast, slow)
            follow_rows(rows, frames, fast_times[0], fast_times[1], fast_before, fast, tile)
            if two_cells:
                follow_rows(rows, frames, slow_times[0], slow_times[1], slow_before, slow, tile)
            for row in range(rows):
                here, place = top + row, row * _SUMS
                slope, mix, makeup = coefficients[here, 1], coefficients[here, 7], coefficients[here, 11]
                read(grad_output, here, start, frames, asked_of_output, 0)
                of_makeup, of_mix = load(sums, place * WIDTH), load(sums, (place + 1) * WIDTH)
                for n in range(0, frames, WIDTH):
                    x, g = load(sound, row * PIECE + n), load(fast, row * PIECE + n)
                    asked_of_v = load(asked_of_output, n) * makeup
                    if two_cells:
                        apart = load(slow, row * PIECE + n) - g
                        g = fma(mix, apart, g)
                        of_mix = fma(asked_of_v * x, apart, of_mix)
                    of_makeup = fma(load(asked_of_output, n) * x, g, of_makeup)
                    store(asked_of_sound, n, asked_of_v * g)
                    store(asked_of_gain, n, asked_of_v * x)
                    store(asked, n, 0.0)
                store(sums, place * WIDTH, of_makeup)
                store(sums, (place + 1) * WIDTH, of_mix)
                if start + frames == samples:  # the last v is a state, too
                    end, of_v = frames - 1, grad_state[here, 3]
                    apart_there = slow[row, end] - fast[row, end] if two_cells else 0.0
                    asked_of_sound[end] += of_v * fma(mix, apart_there, fast[row, end])
                    asked_of_gain[end] += of_v * sound[row, end]
                    grad_coefficients[here, 7] += of_v * sound[row, end] * apart_there
                before[0] = passed[here, piece, 0]
                for n in range(1, frames):
                    before[n] = fast[row, n - 1]
                attack, release, share = coefficients[here, 3], coefficients[here, 4], 1.0 - mix if two_cells else 1.0
                grad_state[here, 0] = cell_adjoint(
                    frames, row, target, before, asked_of_gain, share, attack, release, grad_state[here, 0], asked,
                    sums, place + 2,
                )  # fmt: skip
                if two_cells:
                    before[0] = passed[here, piece, 1]
                    for n in range(1, frames):
                        before[n] = slow[row, n - 1]
                    attack, release = coefficients[here, 5], coefficients[here, 6]
                    grad_state[here, 1] = cell_adjoint(
                        frames, row, target, before, asked_of_gain, mix, attack, release, grad_state[here, 1], asked,
                        sums, place + 4,
                    )  # fmt: skip
                _curve_adjoint(frames, row, heard, target, over, position, asked, slope, sums, place + 6)
                if shelf:
                    b0, b1, a1 = coefficients[here, 8], coefficients[here, 9], coefficients[here, 10]
                    of_memory, found = grad_state[here, 2], grad_coefficients[top : top + rows]
                    grad_state[here, 2] = _shelf_adjoint(frames, row, sound, heard, b0, b1, a1, asked, of_memory, found)
                for n in range(frames):
                    put(grad_audio, here * samples + start + n, asked_of_sound[n] + asked[n])
        for row in range(rows):
            grad_state[top + row, 3] = 0.0
            for n in range(_SUMS):
                column, unit = _OF_SUMS[n]
                grad_coefficients[top + row, int(column)] += sums[row, n].sum() / unit
