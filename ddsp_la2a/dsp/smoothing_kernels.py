"""The compiled loops of attack and release: one pole that falls at one speed and rises at another.

A kernel with the arguments ``first`` and ``last`` works on those rows of C-contiguous arrays, so that groups of rows
can be handed to threads (``compiling.over_rows``). State, coefficients and everything accumulated is float64, because
a release of seconds has a pole so near one that float32 would stall short of its end.
"""

from __future__ import annotations

import numpy as np

from ddsp_la2a.dsp.compiling import compiled, inlined
from ddsp_la2a.dsp.lanes import WIDTH, fma, load, put, store, sum_of, take, transpose, where

PIECE = 128
"""Samples of a row whose signals stay in the first-level cache from one loop to the next; whole lanes."""

NEXT_TO_NOTHING = 1e-300
"""What is smaller is made zero: a subnormal would linger in silence and take a hundred times as long."""

FILM = (PIECE + 1) * WIDTH
"""Numbers of a signal of all rows with the rows side by side, and one sample more."""

_ROWS_WORTH_LANES = 3
_NOTHING = np.zeros(WIDTH)


def pieces(samples):
    """Into how many pieces so many samples are cut."""
    return -(-samples // PIECE)


@inlined
def follow(gain, target, attack, release):
    """The gain a sample later. Written so that only one product waits for the gain before: that is what takes time."""
    falls = fma(gain, 1.0 - attack, target * attack)
    rises = fma(gain, 1.0 - release, target * release)
    return where(target < gain, falls, rises)


@compiled
def follow_rows(rows, frames, attack, release, gain, targets, signals, goals, gains):
    """Smooth up to ``WIDTH`` rows of ``targets`` into ``signals``, (WIDTH, PIECE) both and maybe the same.

    ``attack``, ``release`` and ``gain``, the last before and then after, have a number a lane. ``goals`` and ``gains``,
    both of :data:`FILM` numbers, receive the targets and the gains before them, for :func:`adjoint_rows`.
    """
    if rows >= _ROWS_WORTH_LANES:
        attacks, releases, g = load(attack, 0), load(release, 0), load(gain, 0)
        store(gains, 0, g)
        for start in range(0, frames, WIDTH):
            first = start * WIDTH
            transpose(targets, start, PIECE, goals, first, WIDTH)
            for n in range(first, first + WIDTH * WIDTH, WIDTH):
                g = follow(g, load(goals, n), attacks, releases)
                store(gains, n + WIDTH, g)
            transpose(gains, first + WIDTH, WIDTH, signals, start, PIECE)
    else:
        for row in range(rows):
            a, r, g, first = attack[row], release[row], gain[row], row * PIECE
            for n in range(frames):
                goals[first + n], gains[first + n] = targets[row, n], g
                g = follow(g, targets[row, n], a, r)
                signals[row, n] = g
    for row in range(rows):
        last = signals[row, frames - 1]
        gain[row] = 0.0 if abs(last) < NEXT_TO_NOTHING else last


@inlined
def adjoint(goal, gain, drive, carry, attack, release):
    """Adjoint of :func:`follow`, whose result is asked for ``drive`` from outside and ``carry`` by the sample after.

    What the gain and the target are asked for, and attack and release.
    """
    falls = goal < gain
    coefficient = where(falls, attack, release)
    keep, total = 1.0 - coefficient, drive + carry
    moved = total * (goal - gain)
    # Only one product waits for the sample after, as in `follow`.
    return fma(keep, carry, keep * drive), total * coefficient, where(falls, moved, 0.0), where(falls, 0.0, moved)


@compiled
def adjoint_rows(rows, frames, attack, release, carry, signals, goals, gains, asked_of_times, tile):
    """Adjoint of :func:`follow_rows`: ``signals`` hold what the gains are asked for, then what the targets are.

    ``carry`` is what the piece after asks of the last gain, then what this one asks of the gain before it.
    ``asked_of_times`` (2, WIDTH), of attack and release, are added to. ``tile`` is scratch.
    """
    if rows >= _ROWS_WORTH_LANES:
        attacks, releases, c = load(attack, 0), load(release, 0), load(carry, 0)
        of_attack, of_release = load(asked_of_times, 0), load(asked_of_times, WIDTH)
        for start in range((frames - 1) // WIDTH * WIDTH, -1, -WIDTH):
            transpose(signals, start, PIECE, tile, 0, WIDTH)
            for n in range(min(WIDTH, frames - start) - 1, -1, -1):
                at, here = (start + n) * WIDTH, n * WIDTH
                goal, gain, drive = load(goals, at), load(gains, at), load(tile, here)
                c, wanted, a, r = adjoint(goal, gain, drive, c, attacks, releases)
                of_attack, of_release = of_attack + a, of_release + r
                store(tile, here, wanted)
            transpose(tile, 0, WIDTH, signals, start, PIECE)
        store(carry, 0, c)
        store(asked_of_times, 0, of_attack)
        store(asked_of_times, WIDTH, of_release)
    else:
        for row in range(rows):
            first, c, of_attack, of_release = row * PIECE, carry[row], asked_of_times[0, row], asked_of_times[1, row]
            for n in range(frames - 1, -1, -1):
                goal, gain = goals[first + n], gains[first + n]
                c, wanted, a, r = adjoint(goal, gain, signals[row, n], c, attack[row], release[row])
                of_attack, of_release = of_attack + a, of_release + r
                signals[row, n] = wanted
            carry[row] = c
            asked_of_times[0, row], asked_of_times[1, row] = of_attack, of_release
    for row in range(rows):
        carry[row] = 0.0 if abs(carry[row]) < NEXT_TO_NOTHING else carry[row]


@inlined
def read(source, source_row, start, frames, signal, row):
    """A stretch of audio as float64, silent up to whole lanes."""
    first = source_row * source.shape[1] + start
    for n in range(frames):
        signal[row, n] = take(source, first + n)
    for n in range(frames, min(frames + WIDTH, PIECE)):
        signal[row, n] = 0.0


@compiled
def unfit_in(frames, signal, row):
    """NaN if a sample that :func:`read` has read isn't finite, else 0."""
    total = load(_NOTHING, 0)
    for n in range(row * PIECE, row * PIECE + frames, WIDTH):
        total = fma(load(signal, n), 0.0, total)
    return sum_of(total)


@compiled
def smooth_forward(first, last, target, attack, release, state, smoothed, passed):
    """:func:`follow` on every row. Updates ``state``.

    ``passed`` (rows, pieces) is empty, or receives the gain before every piece: all that the adjoint needs.
    """
    samples = target.shape[1]
    signals, times, gain = np.zeros((WIDTH, PIECE)), np.ones((2, WIDTH)), np.ones(WIDTH)
    goals, gains = np.empty((2, FILM))
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        for row in range(rows):
            times[0, row], times[1, row], gain[row] = attack[top + row], release[top + row], state[top + row]
        for start in range(0, samples, PIECE):
            frames = min(PIECE, samples - start)
            for row in range(rows):
                if passed.shape[1] > 0:
                    passed[top + row, start // PIECE] = gain[row]
                read(target, top + row, start, frames, signals, row)
            follow_rows(rows, frames, times[0], times[1], gain, signals, signals, goals, gains)
            for row in range(rows):
                here = (top + row) * samples + start
                for n in range(frames):
                    put(smoothed, here + n, signals[row, n])
        for row in range(rows):
            state[top + row] = gain[row]


@compiled
def smooth_backward(first, last, target, attack, release, passed, grad_smoothed, grad_target, grad_params):
    """Adjoint of :func:`smooth_forward`, which is gone through again piece by piece, to the same bits.

    ``passed`` is what it passed through. ``grad_params`` (rows, 3), of attack, release and state, holds the derivative
    for the last state on entry and for the first on return.
    """
    samples = target.shape[1]
    signals, times, gain, carry = np.zeros((WIDTH, PIECE)), np.ones((2, WIDTH)), np.ones(WIDTH), np.zeros(WIDTH)
    goals, gains = np.empty((2, FILM))
    tile = np.empty(WIDTH * WIDTH)
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        asked_of_times = np.zeros((2, WIDTH))
        for row in range(rows):
            times[0, row], times[1, row], carry[row] = attack[top + row], release[top + row], grad_params[top + row, 2]
        for start in range((samples - 1) // PIECE * PIECE, -1, -PIECE):
            frames = min(PIECE, samples - start)
            for row in range(rows):
                gain[row] = passed[top + row, start // PIECE]
                read(target, top + row, start, frames, signals, row)
            follow_rows(rows, frames, times[0], times[1], gain, signals, signals, goals, gains)
            for row in range(rows):
                read(grad_smoothed, top + row, start, frames, signals, row)
            adjoint_rows(rows, frames, times[0], times[1], carry, signals, goals, gains, asked_of_times, tile)
            for row in range(rows):
                here = (top + row) * samples + start
                for n in range(frames):
                    put(grad_target, here + n, signals[row, n])
        for row in range(rows):
            grad_params[top + row, 0] = asked_of_times[0, row]
            grad_params[top + row, 1] = asked_of_times[1, row]
            grad_params[top + row, 2] = carry[row]


@compiled
def smooth_jvp(first, last, target, attack, release, state, target_tangent, tangents, smoothed_tangent):
    """Derivative of :func:`smooth_forward` in one direction a row, carried along in time.

    ``target_tangent`` is empty where the target is constant. ``tangents`` (rows, 3) are those of attack, release and
    state; the last is updated.
    """
    target_moves = target_tangent.shape[1] > 0
    for row in range(first, last):
        g, dg = state[row], tangents[row, 2]
        for n in range(target.shape[1]):
            goal = np.float64(target[row, n])
            moved = np.float64(target_tangent[row, n]) if target_moves else 0.0
            falls = goal < g
            coefficient, change = (attack[row], tangents[row, 0]) if falls else (release[row], tangents[row, 1])
            dg = fma(1.0 - coefficient, dg, coefficient * moved + change * (goal - g))
            g = follow(g, goal, attack[row], release[row])
            if abs(dg) < NEXT_TO_NOTHING:
                dg = 0.0
            if abs(g) < NEXT_TO_NOTHING:
                g = 0.0
            smoothed_tangent[row, n] = dg
        tangents[row, 2] = dg


@compiled
def high_pass(first, last, signal, pole, backwards, filtered):
    """DC blocker (1 − z⁻¹) / (1 − pole z⁻¹) from rest; ``backwards`` in time it is its own adjoint."""
    samples = signal.shape[1]
    for row in range(first, last):
        before = after = 0.0
        for i in range(samples):
            n = samples - 1 - i if backwards else i
            x = float(signal[row, n])
            after = x - before + pole * after
            if abs(after) < NEXT_TO_NOTHING:
                after = 0.0
            before = x
            filtered[row, n] = after
