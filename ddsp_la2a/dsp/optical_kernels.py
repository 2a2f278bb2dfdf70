"""The compiled loops of the optical cell.

Every sample waits for the one before, so the rows of a batch lie side by side in SIMD lanes. Conventions as in
``smoothing_kernels``; audio is float32 or float64. With x the input, the columns of :data:`COEFFICIENTS` and
:data:`STATES`, and what is on the left of an arrow becoming what is on its right, one sample is ::

    v = x (1 + n / most) / (1 + n / most + n)                       divider
    s = v + tap (x − v);   h = s − low;   low ← low + corner h      side-chain, high-passed
    u = drive |h|;   w = u / √(1 + (u² − 1) / limit²)               drive, limited; 1 stays 1
    φ = 2^(exponent (1 − 1 / √w)), 0 where u < 0.001                light of the panel, 1 at a drive of 1
    glow ← glow + rise (φ − glow)
    n  ← (n + (decay + pair) glow + r1 m1 + r2 m2) / (1 + decay + pair n + k1 (M − m1) + k2)    carriers
    m1 ← (m1 + k1 M n) / (1 + k1 n + r1);   m2 ← (m2 + k2 n) / (1 + r2)                         trapped
    output = v · makeup

where rates are per sample. The scheme is linearly implicit: whatever is divided is positive and whatever is added is
too, so that no rate and no step makes it unstable.
"""

from __future__ import annotations

import math

import numpy as np

from ddsp_la2a.dsp.compiling import compiled, inlined
from ddsp_la2a.dsp.elementary import exp2
from ddsp_la2a.dsp.kernels import LN_2
from ddsp_la2a.dsp.lanes import WIDTH, fma, larger, load, magnitude, put, smaller, sqrt, store, transpose, where
from ddsp_la2a.dsp.smoothing_kernels import NEXT_TO_NOTHING, PIECE, read, unfit_in

COEFFICIENTS = (
    "drive",
    "tap",
    "corner",
    "per_limit_squared",
    "exponent",
    "rise",
    "decay",
    "pair",
    "capture_1",
    "capacity_1",
    "release_1",
    "capture_2",
    "release_2",
    "per_most",
    "makeup",
)
"""Columns of what the kernels call ``coefficients`` (rows, 15), float64."""

STATES = ("carriers", "glow", "trapped_1", "trapped_2", "low")
"""Columns of what the kernels call ``state`` (rows, 5), float64; all zero in the dark."""

COUNT, STATE_COUNT = len(COEFFICIENTS), len(STATES)
_DARK, LOUDEST = 1e-3, 1e9  # drives between which the panel's light is computed
_FAINTEST, _BRIGHTEST = -1000.0, 500.0  # binary logarithms


@inlined
def numbers_of(sides):
    """The coefficients of all lanes."""
    return (
        load(sides, 0 * WIDTH),
        load(sides, 1 * WIDTH),
        load(sides, 2 * WIDTH),
        load(sides, 3 * WIDTH),
        load(sides, 4 * WIDTH),
        load(sides, 5 * WIDTH),
        load(sides, 6 * WIDTH),
        load(sides, 7 * WIDTH),
        load(sides, 8 * WIDTH),
        load(sides, 9 * WIDTH),
        load(sides, 10 * WIDTH),
        load(sides, 11 * WIDTH),
        load(sides, 12 * WIDTH),
        load(sides, 13 * WIDTH),
        load(sides, 14 * WIDTH),
    )


@inlined
def _light(h, drive, per_limit_squared, exponent):
    """Light, 1/√w, and what it rises by with √w: with w = u/√q and this called a,
    dφ/du = a (1 − 1/limit²), dφ/d(1/limit²) = −a u (u² − 1) / 2."""
    u = smaller(larger(drive * magnitude(h), _DARK), LOUDEST)
    q = fma(per_limit_squared, fma(u, u, -1.0), 1.0)
    root = sqrt(sqrt(q) / u)
    light = exp2(smaller(larger(exponent * (1.0 - root), _FAINTEST), _BRIGHTEST))
    light = where(u > _DARK, light, 0.0)
    return light, root, (0.5 * LN_2) * exponent * light * root / (u * q)


@inlined
def _cell(light, k, n, glow, m1, m2):
    """The cell a sample later, and the inverse denominators of carriers and fast traps."""
    glow = fma(k[5], light - glow, glow)
    per_n = 1.0 / (fma(k[7], n, fma(k[8], k[9] - m1, k[11])) + (k[6] + 1.0))
    n = fma(k[6] + k[7], glow, fma(k[10], m1, fma(k[12], m2, n))) * per_n
    per_m1 = 1.0 / fma(k[8], n, k[10] + 1.0)
    m1 = fma(k[8] * k[9], n, m1) * per_m1
    m2 = fma(k[11], n, m2) / (k[12] + 1.0)
    return n, glow, m1, m2, per_n, per_m1


@inlined
def next_sample(x, k, n, glow, m1, m2, low):
    """One sample: gain of the divider, states after it, and what derivatives need."""
    inverse = 1.0 / fma(n, k[13] + 1.0, 1.0)
    gain = fma(n, k[13], 1.0) * inverse
    heard = where(magnitude(x) < math.inf, x, 0.0)  # one bad sample spoils only itself
    v = heard * gain
    h = fma(k[1], heard - v, v) - low
    low = fma(k[2], h, low)
    light, root, steep = _light(h, k[0], k[3], k[4])
    n, glow, m1, m2, per_n, per_m1 = _cell(light, k, n, glow, m1, m2)
    return gain, n, glow, m1, m2, low, inverse, h, light, root, steep, per_n, per_m1


@compiled
def _play(frames, sides, memory, sound, output):
    """One piece of all lanes: ``sound`` and ``output`` (PIECE, WIDTH)."""
    k = numbers_of(sides)
    n, glow, m1, m2 = load(memory, 0), load(memory, WIDTH), load(memory, 2 * WIDTH), load(memory, 3 * WIDTH)
    low = load(memory, 4 * WIDTH)
    for at in range(0, frames * WIDTH, WIDTH):
        x = load(sound, at)
        gain, n, glow, m1, m2, low, _, _, _, _, _, _, _ = next_sample(x, k, n, glow, m1, m2, low)
        store(output, at, x * gain * k[14])
    remember(memory, n, glow, m1, m2, low)


@inlined
def settled(value):
    return where(magnitude(value) < NEXT_TO_NOTHING, 0.0, value)


@inlined
def remember(memory, n, glow, m1, m2, low):
    store(memory, 0, settled(n))
    store(memory, WIDTH, settled(glow))
    store(memory, 2 * WIDTH, settled(m1))
    store(memory, 3 * WIDTH, settled(m2))
    store(memory, 4 * WIDTH, settled(low))


@inlined
def side_by_side(top, rows, coefficients, sides):
    """Coefficients of some rows, a row a lane; lanes that are left over get the last row's."""
    for lane in range(WIDTH):
        for number in range(COUNT):
            sides[number, lane] = coefficients[top + min(lane, rows - 1), number]


@inlined
def read_turned(audio, top, rows, start, frames, sound, turned):
    """A piece of some rows ``(PIECE, WIDTH)``."""
    for row in range(rows):
        read(audio, top + row, start, frames, sound, row)
    for n in range(0, frames, WIDTH):
        transpose(sound, n, PIECE, turned, n * WIDTH, WIDTH)


@compiled
def cell_forward(first, last, audio, coefficients, state, output, passed):
    """Every sample of every row. Updates ``state``; returns 0, or NaN where a sample isn't finite.

    ``passed`` (rows, pieces, 5) is empty, or receives the state before every piece: all that the adjoint needs.
    """
    samples = audio.shape[1]
    keep = passed.shape[1] > 0
    sides, memory = np.zeros((COUNT, WIDTH)), np.zeros((STATE_COUNT, WIDTH))
    turned, played = np.zeros((2, PIECE * WIDTH))
    sound, turned_back = np.zeros((2, WIDTH, PIECE))
    unfit = 0.0
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        side_by_side(top, rows, coefficients, sides)
        memory[:] = 0.0
        for row in range(rows):
            memory[:, row] = state[top + row]
        for start in range(0, samples, PIECE):
            frames = min(PIECE, samples - start)
            if keep:
                for row in range(rows):
                    passed[top + row, start // PIECE] = memory[:, row]
            read_turned(audio, top, rows, start, frames, sound, turned)
            for row in range(rows):
                unfit += unfit_in(frames, sound, row)
            _play(frames, sides, memory, turned, played)
            for n in range(0, frames, WIDTH):
                transpose(played, n * WIDTH, WIDTH, turned_back, n, PIECE)
            for row in range(rows):
                for n in range(frames):
                    put(output, (top + row) * samples + start + n, turned_back[row, n])
        for row in range(rows):
            state[top + row] = memory[:, row]
    return unfit


@compiled
def cell_linked(audio, coefficients, state, output):
    """One cell for all rows, driven by the one whose side-chain is loudest; coefficients of row 0."""
    channels, k = audio.shape[0], coefficients[0]
    n, glow, m1, m2 = state[0, 0], state[0, 1], state[0, 2], state[0, 3]
    for at in range(audio.shape[1]):
        gain, h = fma(n, k[13], 1.0) / fma(n, k[13] + 1.0, 1.0), 0.0
        for c in range(channels):
            x = np.float64(audio[c, at])
            output[c, at] = x * gain * k[14]
            heard = x if abs(x) < math.inf else 0.0
            own = heard * (gain + k[1] * (1.0 - gain)) - state[c, 4]
            state[c, 4] += k[2] * own
            h = max(h, abs(own))
        light, _, _ = _light(h, k[0], k[3], k[4])
        n, glow, m1, m2, _, _ = _cell(light, k, n, glow, m1, m2)
        if at % PIECE == 0:
            n, glow, m1, m2 = settled(n), settled(glow), settled(m1), settled(m2)
            for c in range(channels):
                state[c, 4] = settled(state[c, 4])
    for c in range(channels):
        state[c, 0], state[c, 1], state[c, 2], state[c, 3] = settled(n), settled(glow), settled(m1), settled(m2)
        state[c, 4] = settled(state[c, 4])
