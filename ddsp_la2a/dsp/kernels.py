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
from ddsp_la2a.dsp.lanes import WIDTH, anywhere, fma, larger, load, magnitude, put, smaller, store, where
from ddsp_la2a.dsp.smoothing_kernels import FILM, NEXT_TO_NOTHING, PIECE, adjoint_rows, follow_rows, read, unfit_in
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
_JUST_BELOW = 1.0 - 1e-9  # further from one than any rounding
LN_2 = math.log(2.0)

_CONSTANTS = 5
_NOTHING, _ONES = np.zeros(WIDTH), np.ones(WIDTH)

_SUMS = 5
_OF_SUMS = np.array([(11, 1), (7, 1), (0, DB_PER_OCTAVE), (1, 1), (2, DB_PER_OCTAVE)], dtype=np.float64)
"""What the adjoint sums up in lanes: column of the coefficients, and what to divide by."""


@inlined
def curve_constants(coefficients, row):
    """In octaves where the knee begins, its width, and the inverse of that or 0; the negative slope; and an amplitude
    that is still below the knee."""
    threshold, knee = coefficients[row, 0] / DB_PER_OCTAVE, coefficients[row, 2] / DB_PER_OCTAVE
    onset = threshold - 0.5 * knee
    per_knee = 1.0 / knee if knee > NEXT_TO_NOTHING else 0.0
    return onset, knee, per_knee, 0.0 - coefficients[row, 1], _JUST_BELOW * exp2(min(max(onset, -500.0), 500.0))


@inlined
def level_of(heard):
    """Amplitude."""
    return larger(magnitude(heard), LEVEL_FLOOR)


@inlined
def over_threshold(level, constants):
    """Octaves h by which the quadratic knee says a level is over the threshold, and dh per octave of it."""
    onset, knee, per_knee, _, _ = constants
    over = larger(log2(level) - onset, 0.0)
    within = smaller(over, knee)
    above = over - within
    position = within * per_knee
    return fma(0.5 * position, within, above), where(above > 0.0, 1.0, position)


@inlined
def gain_exponent(h, constants):
    """Binary logarithm of the curve's gain."""
    return larger(h * constants[3], _DEEPEST)


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


@inlined
def _constants_in(curves, row):
    return curves[row, 0], curves[row, 1], curves[row, 2], curves[row, 3], curves[row, 4]


@compiled
def _exponentials(rows, frames, targets):
    """Binary logarithms of the curve's gain over one piece become the gain."""
    for row in range(rows):
        for n in range(row * PIECE, row * PIECE + frames, WIDTH):
            exponent = load(targets, n)
            store(targets, n, exp2(exponent) if anywhere(exponent < 0.0) else load(_ONES, 0))


@compiled
def _targets(rows, frames, heard, curves, targets):
    """The curve's gain over one piece. In two loops: a processor can't look ahead over both at once."""
    for row in range(rows):
        constants, start = _constants_in(curves, row), row * PIECE
        for n in range(start, start + frames, WIDTH):
            level, exponent = level_of(load(heard, n)), load(_NOTHING, 0)
            if anywhere(level > constants[4]):
                h, _ = over_threshold(level, constants)
                exponent = gain_exponent(h, constants)
            store(targets, n, exponent)
    _exponentials(rows, frames, targets)


@compiled
def compress_forward(first, last, audio, coefficients, two_cells, shelf, state, output, passed, signals):
    """Every sample of every row. Updates ``state``; returns 0, or NaN where a sample isn't finite.

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
    curves, goals, gains = np.empty((WIDTH, _CONSTANTS)), np.empty(FILM), np.empty(FILM)
    heard = shelved if shelf else sound
    unfit = 0.0
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        _of_rows(top, rows, coefficients, fast_times, slow_times, curves)
        for start in range(0, samples, PIECE):
            frames = min(PIECE, samples - start)
            for row in range(rows):
                here = top + row
                fast_before[row], slow_before[row] = state[here, 0], state[here, 1]
                if keep:
                    for n in range(4):
                        passed[here, start // PIECE, n] = state[here, n]
                read(audio, here, start, frames, sound, row)
                unfit += unfit_in(frames, sound, row)
                if shelf:
                    b0, b1, a1 = coefficients[here, 8], coefficients[here, 9], coefficients[here, 10]
                    state[here, 2] = _shelved(frames, row, sound, b0, b1, a1, state[here, 2], shelved)
            _targets(rows, frames, heard, curves, fast)
            if two_cells:
                follow_rows(rows, frames, slow_times[0], slow_times[1], slow_before, fast, slow, goals, gains)
            follow_rows(rows, frames, fast_times[0], fast_times[1], fast_before, fast, fast, goals, gains)
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
    return unfit


@inlined
def _of_rows(top, rows, coefficients, fast_times, slow_times, curves):
    """Attack and release of both cells, a row a lane, and the curves' constants."""
    for row in range(rows):
        here = top + row
        for n in range(2):
            fast_times[n, row] = coefficients[here, 3 + n]
            slow_times[n, row] = coefficients[here, 5 + n]
        constants = curve_constants(coefficients, here)
        for n in range(_CONSTANTS):
            curves[row, n] = constants[n]


@compiled
def _over_thresholds(rows, frames, heard, curves, over, position, target):
    """As :func:`_targets`, and what :func:`_curve_adjoint` needs."""
    for row in range(rows):
        constants, start = _constants_in(curves, row), row * PIECE
        for n in range(start, start + frames, WIDTH):
            level, exponent = level_of(load(heard, n)), load(_NOTHING, 0)
            h, steep = exponent, exponent
            if anywhere(level > constants[4]):
                h, steep = over_threshold(level, constants)
                exponent = gain_exponent(h, constants)
            store(target, n, exponent)
            store(over, n, h)
            store(position, n, steep)
    _exponentials(rows, frames, target)


@compiled
def _curve_adjoint(rows, frames, heard, target, over, position, curves, asked, sums):
    """Adjoint of the curve over one piece: ``asked`` of the targets becomes that of what was heard.

    ``sums`` of a row, from the third on, have the derivatives for threshold, slope and knee added, per octave but for
    the slope.
    """
    for row in range(rows):
        place, start, negative_slope = (row * _SUMS + 2) * WIDTH, row * PIECE, curves[row, 3]
        of_threshold, of_slope, of_knee = load(sums, place), load(sums, place + WIDTH), load(sums, place + 2 * WIDTH)
        for n in range(start, start + frames, WIDTH):
            steep, of_heard = load(position, n), load(_NOTHING, 0)
            if anywhere(steep > 0.0):
                s = load(heard, n)
                of_exponent = LN_2 * load(asked, n) * load(target, n)
                of_slope = of_slope - of_exponent * load(over, n)
                of_excess = negative_slope * of_exponent * steep
                of_threshold = of_threshold - of_excess
                of_knee = fma(0.5 * (1.0 - steep), of_excess, of_knee)
                of_heard = where(magnitude(s) > LEVEL_FLOOR, of_excess / (s * LN_2), 0.0)
            store(asked, n, of_heard)
        store(sums, place, of_threshold)
        store(sums, place + WIDTH, of_slope)
        store(sums, place + 2 * WIDTH, of_knee)


@compiled
def _shelf_adjoint(frames, row, audio, heard, b0, b1, a1, asked, memory_asked, found):
    """Adjoint of :func:`_shelved`: ``asked`` of what was heard becomes that of the audio; b0, b1, a1 are added to."""
    for n in range(frames - 1, -1, -1):
        of_heard = asked[row, n] - a1 * memory_asked
        found[row, 8] += audio[row, n] * of_heard
        found[row, 9] += audio[row, n] * memory_asked
        found[row, 10] -= heard[row, n] * memory_asked
        asked[row, n] = b1 * memory_asked + b0 * of_heard
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
    fast, slow, asked, asked_by_slow = np.zeros((4, WIDTH, PIECE))
    fast_times, slow_times = np.ones((2, 2, WIDTH))
    fast_before, slow_before, fast_carry, slow_carry = np.ones((4, WIDTH))
    curves, tile = np.empty((WIDTH, _CONSTANTS)), np.empty(WIDTH * WIDTH)
    fast_goals, fast_gains, slow_goals, slow_gains = np.empty((4, FILM))
    asked_of_output, asked_of_last = np.zeros((2, 1, PIECE))
    heard = shelved if shelf else sound
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        sums = np.zeros((WIDTH, _SUMS, WIDTH))
        asked_of_times = np.zeros((2, 2, WIDTH))
        grad_coefficients[top : top + rows] = 0.0
        _of_rows(top, rows, coefficients, fast_times, slow_times, curves)
        for row in range(rows):
            fast_carry[row], slow_carry[row] = grad_state[top + row, 0], grad_state[top + row, 1]
        for start in range((samples - 1) // PIECE * PIECE, -1, -PIECE):
            piece, frames = start // PIECE, min(PIECE, samples - start)
            for row in range(rows):
                here = top + row
                fast_before[row], slow_before[row] = passed[here, piece, 0], passed[here, piece, 1]
                read(audio, here, start, frames, sound, row)
                if shelf:
                    b0, b1, a1 = coefficients[here, 8], coefficients[here, 9], coefficients[here, 10]
                    _shelved(frames, row, sound, b0, b1, a1, passed[here, piece, 2], shelved)
            _over_thresholds(rows, frames, heard, curves, over, position, target)
            attack, release = fast_times[0], fast_times[1]
            follow_rows(rows, frames, attack, release, fast_before, target, fast, fast_goals, fast_gains)
            if two_cells:
                attack, release = slow_times[0], slow_times[1]
                follow_rows(rows, frames, attack, release, slow_before, target, slow, slow_goals, slow_gains)
            for row in range(rows):
                here, place = top + row, row * _SUMS * WIDTH
                mix, makeup = coefficients[here, 7], coefficients[here, 11]
                read(grad_output, here, start, frames, asked_of_output, 0)
                asked_of_last[0, frames - 1] = grad_state[here, 3] if start + frames == samples else 0.0
                of_makeup, of_mix = load(sums, place), load(sums, place + WIDTH)
                for n in range(0, frames, WIDTH):
                    at = row * PIECE + n
                    x, g, of_output = load(sound, at), load(fast, at), load(asked_of_output, n)
                    of_v = fma(of_output, makeup, load(asked_of_last, n))  # the last v is a state, too
                    of_g = of_v * x
                    if two_cells:
                        apart = load(slow, at) - g
                        g = fma(mix, apart, g)
                        of_mix = fma(of_g, apart, of_mix)
                        store(asked_by_slow, at, of_g * mix)
                        of_g = of_g * (1.0 - mix)
                    of_makeup = fma(of_output * x, g, of_makeup)
                    store(asked, at, of_g)
                    store(fast, at, of_v * g)  # from here on what the audio is asked for directly
                asked_of_last[0, frames - 1] = 0.0
                store(sums, place, of_makeup)
                store(sums, place + WIDTH, of_mix)
            attack, release, of_times = fast_times[0], fast_times[1], asked_of_times[0]
            adjoint_rows(rows, frames, attack, release, fast_carry, asked, fast_goals, fast_gains, of_times, tile)
            if two_cells:
                attack, release, of_times = slow_times[0], slow_times[1], asked_of_times[1]
                adjoint_rows(
                    rows, frames, attack, release, slow_carry, asked_by_slow, slow_goals, slow_gains, of_times, tile
                )
                for row in range(rows):
                    for n in range(frames):
                        asked[row, n] += asked_by_slow[row, n]
            _curve_adjoint(rows, frames, heard, target, over, position, curves, asked, sums)
            for row in range(rows):
                here = top + row
                if shelf:
                    b0, b1, a1 = coefficients[here, 8], coefficients[here, 9], coefficients[here, 10]
                    of_memory, found = grad_state[here, 2], grad_coefficients[top : top + rows]
                    grad_state[here, 2] = _shelf_adjoint(frames, row, sound, heard, b0, b1, a1, asked, of_memory, found)
                for n in range(frames):
                    put(grad_audio, here * samples + start + n, fast[row, n] + asked[row, n])
        for row in range(rows):
            here = top + row
            grad_state[here, 0], grad_state[here, 1], grad_state[here, 3] = fast_carry[row], slow_carry[row], 0.0
            for cell in range(2):
                for n in range(2):
                    grad_coefficients[here, 3 + 2 * cell + n] = asked_of_times[cell, n, row]
            for n in range(_SUMS):
                column, unit = _OF_SUMS[n]
                grad_coefficients[here, int(column)] += sums[row, n].sum() / unit
