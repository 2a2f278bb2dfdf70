"""The compiled loops of attack and release: one pole that falls at one speed and rises at another.

A kernel with the arguments ``first`` and ``last`` works on those rows of C-contiguous arrays, so that groups of rows
can be handed to threads (``compiling.over_rows``). State, coefficients and everything accumulated is float64, because
a release of seconds has a pole so near one that float32 would stall short of its end.
"""

from __future__ import annotations

import numpy as np

from ddsp_la2a.dsp.compiling import compiled, inlined
from ddsp_la2a.dsp.lanes import WIDTH, first_of, fma, later, load, magnitude, put, store, take, transpose, where

PIECE = 128
"""Samples of a row whose signals stay in the first-level cache from one loop to the next; whole lanes."""

NEXT_TO_NOTHING = 1e-300
"""What is smaller is made zero: a subnormal would linger in silence and take a hundred times as long."""

_ROWS_WORTH_LANES = 3
_LANE = np.arange(float(WIDTH))


@inlined
def follow(gain, target, attack, release):
    """The gain a sample later. Written so that only one product waits for the gain before: that is what takes time."""
    falls = fma(gain, 1.0 - attack, target * attack)
    rises = fma(gain, 1.0 - release, target * release)
    return where(target < gain, falls, rises)


@compiled
def follow_rows(rows, frames, attack, release, gain, signals, tile):
    """Smooth up to ``WIDTH`` rows in place: ``signals`` (WIDTH, PIECE) hold targets, then gains.

    ``attack``, ``release`` and ``gain``, the last before and then after, have a number a lane. ``tile`` is scratch.
    """
    if rows >= _ROWS_WORTH_LANES:
        attacks, releases, g = load(attack, 0), load(release, 0), load(gain, 0)
        for start in range(0, frames, WIDTH):
            transpose(signals, start, PIECE, tile, 0, WIDTH)
            for n in range(0, WIDTH * WIDTH, WIDTH):
                g = follow(g, load(tile, n), attacks, releases)
                store(tile, n, g)
            transpose(tile, 0, WIDTH, signals, start, PIECE)
    else:
        for row in range(rows):
            a, r, gain_before = attack[row], release[row], gain[row]
            for n in range(frames):
                gain_before = follow(gain_before, signals[row, n], a, r)
                signals[row, n] = gain_before
    for row in range(rows):
        last = signals[row, frames - 1]
        gain[row] = 0.0 if abs(last) < NEXT_TO_NOTHING else last


@inlined
def adjoint(keep, drive, carry):
    """b[n] = keep[n] (drive[n] + b[n + 1]) of all lanes, b beyond the last being ``carry``.

    Three rounds, each of which joins neighbouring stretches (Hillis & Steele 1986, "Data parallel algorithms").
    """
    total = keep * drive
    total = fma(keep, later(total, 1, 0.0), total)
    keep = keep * later(keep, 1, 1.0)
    total = fma(keep, later(total, 2, 0.0), total)
    keep = keep * later(keep, 2, 1.0)
    total = fma(keep, later(total, 4, 0.0), total)
    keep = keep * later(keep, 4, 1.0)
    return fma(keep, carry, total)


@compiled
def cell_adjoint(frames, row, target, before, drive, share, attack, release, carry, wanted, sums, place):
    """Adjoint of :func:`follow` over one piece of one row; returns that of the gain before the piece.

    ``drive`` times ``share`` is what the gains are asked for from outside, ``carry`` what the piece after asks for.
    ``wanted`` has what the targets are asked for added to it; lanes number ``place`` of ``sums`` and the next ones the
    same for attack and release. ``target`` is (rows, PIECE), the other signals (PIECE,); what stands there beyond
    ``frames`` doesn't count.
    """
    of_attack, of_release = load(sums, place * WIDTH), load(sums, (place + 1) * WIDTH)
    for start in range((frames - 1) // WIDTH * WIDTH, -1, -WIDTH):
        counts = where(load(_LANE, 0) < float(frames - start), 1.0, 0.0)
        goal, gain = load(target, row * PIECE + start), load(before, start)
        coefficient = where(goal < gain, attack, release) * counts
        asked = load(drive, start) * share
        handed_on = adjoint(1.0 - coefficient, asked, carry)
        total = asked + later(handed_on, 1, carry)
        carry = first_of(handed_on)
        carry = where(magnitude(carry) < NEXT_TO_NOTHING, 0.0, carry)
        moved = total * (goal - gain) * counts
        of_attack = of_attack + where(goal < gain, moved, 0.0)
        of_release = of_release + where(goal < gain, 0.0, moved)
        store(wanted, start, fma(total, coefficient, load(wanted, start)))
    store(sums, place * WIDTH, of_attack)
    store(sums, (place + 1) * WIDTH, of_release)
    return carry


@inlined
def read(source, source_row, start, frames, signal, row):
    """A stretch of audio as float64, silent up to whole lanes."""
    first = source_row * source.shape[1] + start
    for n in range(frames):
        signal[row, n] = take(source, first + n)
    for n in range(frames, min(frames + WIDTH, PIECE)):
        signal[row, n] = 0.0


@compiled
def smooth_forward(first, last, target, attack, release, state, smoothed):
    """:func:`follow` on every row. ``smoothed`` is float64."""
    frames = target.shape[1]
    signals, tile = np.zeros((WIDTH, PIECE)), np.empty(WIDTH * WIDTH)
    attacks, releases, gain = np.ones(WIDTH), np.ones(WIDTH), np.ones(WIDTH)
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        for row in range(rows):
            attacks[row], releases[row], gain[row] = attack[top + row], release[top + row], state[top + row]
        for start in range(0, frames, PIECE):
            length = min(PIECE, frames - start)
            for row in range(rows):
                read(target, top + row, start, length, signals, row)
            follow_rows(rows, length, attacks, releases, gain, signals, tile)
            for row in range(rows):
                here = (top + row) * frames + start
                for n in range(length):
                    put(smoothed, here + n, signals[row, n])


@compiled
def smooth_backward(first, last, target, attack, release, state, smoothed, grad_smoothed, grad_target, grad_params):
    """Adjoint of :func:`smooth_forward`; ``grad_params`` (rows, 3) receives attack, release and first state."""
    frames = target.shape[1]
    goal, drive = np.zeros((2, 1, PIECE))
    before, wanted = np.zeros((2, PIECE))
    for row in range(first, last):
        sums = np.zeros((2, WIDTH))
        carry = 0.0
        for start in range((frames - 1) // PIECE * PIECE, -1, -PIECE):
            length = min(PIECE, frames - start)
            read(target, row, start, length, goal, 0)
            read(grad_smoothed, row, start, length, drive, 0)
            before[0] = smoothed[row, start - 1] if start > 0 else state[row]
            here = row * frames + start
            for n in range(1, length):
                before[n] = take(smoothed, here + n - 1)
            wanted[:] = 0.0
            attack_here, release_here = attack[row], release[row]
            carry = cell_adjoint(length, 0, goal, before, drive, 1.0, attack_here, release_here, carry, wanted, sums, 0)
            for n in range(length):
                put(grad_target, here + n, wanted[n])
        grad_params[row, 0] = sums[0].sum()
        grad_params[row, 1] = sums[1].sum()
        grad_params[row, 2] = carry


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
