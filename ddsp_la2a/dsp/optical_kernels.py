"""The compiled loops of the optical cell: forward, adjoint, and derivatives in any direction.

Every sample waits for the one before, so the rows of a batch lie side by side in SIMD lanes, or, for derivatives, the
directions of a row. Work goes in pieces that stay in the second-level cache. Conventions as in ``smoothing_kernels``;
audio is float32 or float64. With x the input, the columns of :data:`COEFFICIENTS` and :data:`STATES`, and what is on
the left of an arrow being of the sample before, one sample is ::

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
from ddsp_la2a.dsp.lanes import WIDTH, fma, larger, load, magnitude, put, smaller, sqrt, store, take, transpose, where
from ddsp_la2a.dsp.smoothing_kernels import NEXT_TO_NOTHING, PIECE, read

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

_K, _S = len(COEFFICIENTS), len(STATES)
_DARK, _LOUDEST = 1e-3, 1e9  # drives between which the panel's light is computed
_FAINTEST, _BRIGHTEST = -1000.0, 500.0  # binary logarithms
_LN_2 = math.log(2.0)

_FILM = (PIECE + 1) * WIDTH
_N, _GLOW, _M1, _M2, _X, _INVERSE, _H, _LIGHT, _ROOT, _STEEP, _PER_N, _PER_M1 = range(0, 12 * _FILM, _FILM)
"""Where in what is called ``film`` the signals begin that derivatives need: the first four before every sample and
after the last, then input, inverse of the divider's denominator, what drives the panel, light, 1/√w, light per drive,
and the inverse denominators of n and m1."""


@inlined
def _numbers(sides):
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
    u = smaller(larger(drive * magnitude(h), _DARK), _LOUDEST)
    q = fma(per_limit_squared, fma(u, u, -1.0), 1.0)
    root = sqrt(sqrt(q) / u)
    light = exp2(smaller(larger(exponent * (1.0 - root), _FAINTEST), _BRIGHTEST))
    light = where(u > _DARK, light, 0.0)
    return light, root, (0.5 * _LN_2) * exponent * light * root / (u * q)


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
def _next(x, k, n, glow, m1, m2, low):
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
    k = _numbers(sides)
    n, glow, m1, m2 = load(memory, 0), load(memory, WIDTH), load(memory, 2 * WIDTH), load(memory, 3 * WIDTH)
    low = load(memory, 4 * WIDTH)
    for at in range(0, frames * WIDTH, WIDTH):
        x = load(sound, at)
        gain, n, glow, m1, m2, low, _, _, _, _, _, _, _ = _next(x, k, n, glow, m1, m2, low)
        store(output, at, x * gain * k[14])
    _remember(memory, n, glow, m1, m2, low)


@compiled
def _filmed(frames, sides, memory, sound, film):
    """As :func:`_play`, keeping what derivatives need instead of the output."""
    k = _numbers(sides)
    n, glow, m1, m2 = load(memory, 0), load(memory, WIDTH), load(memory, 2 * WIDTH), load(memory, 3 * WIDTH)
    low = load(memory, 4 * WIDTH)
    end = frames * WIDTH
    for at in range(0, end, WIDTH):
        x = load(sound, at)
        store(film, _N + at, n)
        store(film, _GLOW + at, glow)
        store(film, _M1 + at, m1)
        store(film, _M2 + at, m2)
        _, n, glow, m1, m2, low, inverse, h, light, root, steep, per_n, per_m1 = _next(x, k, n, glow, m1, m2, low)
        store(film, _X + at, x)
        store(film, _INVERSE + at, inverse)
        store(film, _H + at, h)
        store(film, _LIGHT + at, light)
        store(film, _ROOT + at, root)
        store(film, _STEEP + at, steep)
        store(film, _PER_N + at, per_n)
        store(film, _PER_M1 + at, per_m1)
    store(film, _N + end, n)
    store(film, _GLOW + end, glow)
    store(film, _M1 + end, m1)
    store(film, _M2 + end, m2)
    _remember(memory, n, glow, m1, m2, low)


@inlined
def _settled(value):
    return where(magnitude(value) < NEXT_TO_NOTHING, 0.0, value)


@inlined
def _remember(memory, n, glow, m1, m2, low):
    store(memory, 0, _settled(n))
    store(memory, WIDTH, _settled(glow))
    store(memory, 2 * WIDTH, _settled(m1))
    store(memory, 3 * WIDTH, _settled(m2))
    store(memory, 4 * WIDTH, _settled(low))


@inlined
def _side_by_side(top, rows, coefficients, sides):
    """Coefficients of some rows, a row a lane; lanes that are left over get the last row's."""
    for lane in range(WIDTH):
        for number in range(_K):
            sides[number, lane] = coefficients[top + min(lane, rows - 1), number]


@inlined
def _read_turned(audio, top, rows, start, frames, sound, turned):
    """A piece of some rows ``(PIECE, WIDTH)``."""
    for row in range(rows):
        read(audio, top + row, start, frames, sound, row)
    for n in range(0, frames, WIDTH):
        transpose(sound, n, PIECE, turned, n * WIDTH, WIDTH)


@compiled
def cell_forward(first, last, audio, coefficients, state, output, passed):
    """Every sample of every row. Updates ``state``.

    ``passed`` (rows, pieces, 5) is empty, or receives the state before every piece: all that the adjoint needs.
    """
    samples = audio.shape[1]
    keep = passed.shape[1] > 0
    sides, memory = np.zeros((_K, WIDTH)), np.zeros((_S, WIDTH))
    turned, played = np.zeros((2, PIECE * WIDTH))
    sound, turned_back = np.zeros((2, WIDTH, PIECE))
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        _side_by_side(top, rows, coefficients, sides)
        memory[:] = 0.0
        for row in range(rows):
            memory[:, row] = state[top + row]
        for start in range(0, samples, PIECE):
            frames = min(PIECE, samples - start)
            if keep:
                for row in range(rows):
                    passed[top + row, start // PIECE] = memory[:, row]
            _read_turned(audio, top, rows, start, frames, sound, turned)
            _play(frames, sides, memory, turned, played)
            for n in range(0, frames, WIDTH):
                transpose(played, n * WIDTH, WIDTH, turned_back, n, PIECE)
            for row in range(rows):
                for n in range(frames):
                    put(output, (top + row) * samples + start + n, turned_back[row, n])
        for row in range(rows):
            state[top + row] = memory[:, row]


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
            n, glow, m1, m2 = _settled(n), _settled(glow), _settled(m1), _settled(m2)
            for c in range(channels):
                state[c, 4] = _settled(state[c, 4])
    for c in range(channels):
        state[c, 0], state[c, 1], state[c, 2], state[c, 3] = _settled(n), _settled(glow), _settled(m1), _settled(m2)
        state[c, 4] = _settled(state[c, 4])


@inlined
def _add(sums, number, a, b):
    store(sums, number * WIDTH, fma(a, b, load(sums, number * WIDTH)))


@compiled
def _adjoint(frames, sides, film, asked, memory, sums):
    """Adjoint of one piece of all lanes.

    ``asked`` (PIECE, WIDTH) of the output becomes that of the input. ``memory`` (5, WIDTH) of the states after becomes
    that of those before. ``sums`` (15, WIDTH), of the coefficients, are added to.
    """
    k = _numbers(sides)
    of_n, of_glow, of_m1 = load(memory, 0), load(memory, WIDTH), load(memory, 2 * WIDTH)
    of_m2, of_low = load(memory, 3 * WIDTH), load(memory, 4 * WIDTH)
    per_m2 = 1.0 / (k[12] + 1.0)
    for at in range((frames - 1) * WIDTH, -1, -WIDTH):
        n, n_after = load(film, _N + at), load(film, _N + at + WIDTH)
        m1, m1_after = load(film, _M1 + at), load(film, _M1 + at + WIDTH)
        m2, m2_after = load(film, _M2 + at), load(film, _M2 + at + WIDTH)
        glow, glow_after = load(film, _GLOW + at), load(film, _GLOW + at + WIDTH)
        x, inverse, h = load(film, _X + at), load(film, _INVERSE + at), load(film, _H + at)
        light, root, steep = load(film, _LIGHT + at), load(film, _ROOT + at), load(film, _STEEP + at)
        per_n, per_m1 = load(film, _PER_N + at), load(film, _PER_M1 + at)

        pull = of_m2 * per_m2
        of_m2 = pull
        of_n = fma(pull, k[11], of_n)
        _add(sums, 11, pull, n_after)
        _add(sums, 12, pull, 0.0 - m2_after)

        pull = of_m1 * per_m1
        of_m1 = pull
        free = k[9] - m1_after
        of_n = fma(pull * k[8], free, of_n)
        _add(sums, 8, pull * n_after, free)
        _add(sums, 9, pull * k[8], n_after)
        _add(sums, 10, pull, 0.0 - m1_after)

        pull = of_n * per_n
        free = k[9] - m1
        gone = pull * n_after
        of_n = pull - gone * k[7]
        of_glow = fma(pull, k[6] + k[7], of_glow)
        of_m1 = fma(pull, k[10], fma(gone, k[8], of_m1))
        of_m2 = fma(pull, k[12], of_m2)
        _add(sums, 6, pull, glow_after - n_after)
        _add(sums, 7, pull, glow_after - n_after * n)
        _add(sums, 8, 0.0 - gone, free)
        _add(sums, 9, 0.0 - gone, k[8])
        _add(sums, 10, pull, m1)
        _add(sums, 11, 0.0 - pull, n_after)
        _add(sums, 12, pull, m2)

        _add(sums, 5, of_glow, light - glow)
        of_light = of_glow * k[5]
        of_glow = of_glow - of_light
        _add(sums, 4, of_light * light, _LN_2 * (1.0 - root))
        loud = magnitude(h)
        u = smaller(k[0] * loud, _LOUDEST)
        _add(sums, 3, -0.5 * of_light * steep * u, fma(u, u, -1.0))
        of_u = where(u < _LOUDEST, of_light * steep * (1.0 - k[3]), 0.0)
        _add(sums, 0, of_u, loud)
        of_h = where(h < 0.0, 0.0 - of_u, of_u) * k[0]

        _add(sums, 2, of_low, h)
        of_h = fma(of_low, k[2], of_h)
        of_low = of_low - of_h
        gain = fma(n, k[13], 1.0) * inverse
        v = x * gain
        _add(sums, 1, of_h, x - v)
        of_v = fma(load(asked, at), k[14], of_h * (1.0 - k[1]))
        _add(sums, 14, load(asked, at), v)
        store(asked, at, fma(of_v, gain, of_h * k[1]))
        of_gain = of_v * x * inverse * inverse
        of_n = of_n - of_gain
        _add(sums, 13, of_gain * n, n)
    _remember(memory, of_n, of_glow, of_m1, of_m2, of_low)


@compiled
def cell_backward(first, last, audio, coefficients, passed, grad_output, grad_audio, grad_coefficients, grad_state):
    """Adjoint of :func:`cell_forward`, which is gone through again piece by piece, to the same bits.

    ``passed`` is what it passed through. ``grad_state`` (rows, 5) holds the derivatives for the last state on entry and
    for the first on return.
    """
    samples = audio.shape[1]
    sides, sums = np.zeros((2, _K, WIDTH))
    memory, carried = np.zeros((2, _S, WIDTH))
    turned, asked = np.zeros((2, PIECE * WIDTH))
    sound, wanted, turned_back = np.zeros((3, WIDTH, PIECE))
    film = np.zeros(12 * _FILM)
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        _side_by_side(top, rows, coefficients, sides)
        memory[:], carried[:], sums[:] = 0.0, 0.0, 0.0
        for row in range(rows):
            carried[:, row] = grad_state[top + row]
        for start in range((samples - 1) // PIECE * PIECE, -1, -PIECE):
            frames = min(PIECE, samples - start)
            for row in range(rows):
                memory[:, row] = passed[top + row, start // PIECE]
            _read_turned(audio, top, rows, start, frames, sound, turned)
            _filmed(frames, sides, memory, turned, film)
            _read_turned(grad_output, top, rows, start, frames, wanted, asked)
            _adjoint(frames, sides, film, asked, carried, sums)
            for n in range(0, frames, WIDTH):
                transpose(asked, n * WIDTH, WIDTH, turned_back, n, PIECE)
            for row in range(rows):
                for n in range(frames):
                    put(grad_audio, (top + row) * samples + start + n, turned_back[row, n])
        for row in range(rows):
            grad_coefficients[top + row] = sums[:, row]
            grad_state[top + row] = carried[:, row]


@compiled
def _moved(frames, row, k, film, sides, memory, sound_moves, d_sound, moved):
    """Derivatives of one piece of one row in the directions that lie in lanes.

    ``k`` (15,) are the row's coefficients, ``sides`` (15, WIDTH) and ``memory`` (5, WIDTH) the directions of those and
    of the state, ``d_sound`` (PIECE, WIDTH) of the input; ``moved`` (PIECE, WIDTH) receives those of the output.
    """
    d = _numbers(sides)
    d_n, d_glow, d_m1 = load(memory, 0), load(memory, WIDTH), load(memory, 2 * WIDTH)
    d_m2, d_low = load(memory, 3 * WIDTH), load(memory, 4 * WIDTH)
    drive, tap, corner, rise, pair = k[0], k[1], k[2], k[5], k[7]
    capture, capacity, release, slow_release, per_most, makeup = k[8], k[9], k[10], k[12], k[13], k[14]
    per_m2, slow_capture, brought = 1.0 / (k[12] + 1.0), k[11], k[6] + k[7]
    for at in range(0, frames * WIDTH, WIDTH):
        here = at + row
        n, n_after = take(film, _N + here), take(film, _N + here + WIDTH)
        m1, m1_after = take(film, _M1 + here), take(film, _M1 + here + WIDTH)
        m2, m2_after = take(film, _M2 + here), take(film, _M2 + here + WIDTH)
        glow, glow_after = take(film, _GLOW + here), take(film, _GLOW + here + WIDTH)
        x, inverse, h = take(film, _X + here), take(film, _INVERSE + here), take(film, _H + here)
        light, root, steep = take(film, _LIGHT + here), take(film, _ROOT + here), take(film, _STEEP + here)
        per_n, per_m1 = take(film, _PER_N + here), take(film, _PER_M1 + here)
        gain = fma(n, per_most, 1.0) * inverse
        v, bend = x * gain, x * inverse * inverse
        d_v = fma(d[13], bend * n * n, d_n * (0.0 - bend))
        d_h = fma(d_v, 1.0 - tap, d[1] * (x - v))
        if sound_moves:
            d_x = load(d_sound, at)
            d_v = fma(d_x, gain, d_v)
            d_h = fma(d_x, gain + tap * (1.0 - gain), d_h)
        d_h = d_h - d_low
        d_low = fma(corner, d_h, fma(d[2], h, d_low))
        loud = abs(h)
        u = min(drive * loud, _LOUDEST)
        per_u = steep * (1.0 - k[3]) if u < _LOUDEST else 0.0
        d_light = fma(d_h, per_u * (drive if h > 0.0 else -drive), d[0] * (per_u * loud))
        d_light = fma(d[3], -0.5 * steep * u * (u * u - 1.0), fma(d[4], light * _LN_2 * (1.0 - root), d_light))
        d_glow = fma(rise, d_light, fma(1.0 - rise, d_glow, d[5] * (light - glow)))
        free, gone = capacity - m1, n_after
        d_more = fma(d[6], glow_after - n_after, d[7] * (glow_after - n_after * n))
        d_more = fma(d[8], -gone * free, fma(d[9], -gone * capture, d_more))
        d_more = fma(d[10], m1, fma(d[11], -gone, fma(d[12], m2, d_more)))
        d_more = fma(d_m1, release + gone * capture, fma(d_m2, slow_release, d_more))
        d_n = per_n * fma(brought, d_glow, fma(1.0 - gone * pair, d_n, d_more))
        free = capacity - m1_after
        d_more = fma(d[8], n_after * free, fma(d[9], capture * n_after, fma(d[10], -m1_after, d_m1)))
        d_m1 = per_m1 * fma(capture * free, d_n, d_more)
        d_more = fma(d[11], n_after, fma(d[12], -m2_after, d_m2))
        d_m2 = per_m2 * fma(slow_capture, d_n, d_more)
        store(moved, at, fma(d[14], v, d_v * makeup))
    _remember(memory, d_n, d_glow, d_m1, d_m2, d_low)


@compiled
def cell_tangents(
    first, last, audio, audio_tangents, coefficients, directions, state, state_tangents, output, tangents
):
    """Output, and its derivatives in some directions of audio, coefficients and state, carried along in time.

    ``audio_tangents`` (rows, directions, time) is empty where the audio is constant. ``directions`` (rows, 15,
    directions) are those of the coefficients. ``state`` and ``state_tangents`` (rows, 5, directions) are updated.
    ``output`` (rows, time) and ``tangents`` (rows, directions, time) receive what is computed.
    """
    samples, count = audio.shape[1], directions.shape[2]
    sound_moves, groups = audio_tangents.shape[2] > 0, -(-count // WIDTH)
    sides, memory = np.zeros((_K, WIDTH)), np.zeros((_S, WIDTH))
    turned, moved, d_sound = np.zeros((3, PIECE * WIDTH))
    sound, turned_back = np.zeros((2, WIDTH, PIECE))
    film = np.zeros(12 * _FILM)
    of_sides, of_memory = np.zeros((WIDTH, groups, _K, WIDTH)), np.zeros((WIDTH, groups, _S, WIDTH))
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        _side_by_side(top, rows, coefficients, sides)
        memory[:] = 0.0
        for row in range(rows):
            memory[:, row] = state[top + row]
            for direction in range(count):
                group, lane = direction // WIDTH, direction % WIDTH
                of_sides[row, group, :, lane] = directions[top + row, :, direction]
                of_memory[row, group, :, lane] = state_tangents[top + row, :, direction]
        for start in range(0, samples, PIECE):
            frames = min(PIECE, samples - start)
            _read_turned(audio, top, rows, start, frames, sound, turned)
            _filmed(frames, sides, memory, turned, film)
            for row in range(rows):
                here, k = top + row, coefficients[top + row]
                for n in range(frames):
                    at = n * WIDTH + row
                    gain = fma(film[_N + at], k[13], 1.0) * film[_INVERSE + at]
                    output[here, start + n] = film[_X + at] * gain * k[14]
                for group in range(groups):
                    live = min(WIDTH, count - group * WIDTH)
                    if sound_moves:
                        for n in range(frames):
                            for lane in range(live):
                                d_sound[n * WIDTH + lane] = audio_tangents[here, group * WIDTH + lane, start + n]
                    _moved(
                        frames, row, k, film, of_sides[row, group], of_memory[row, group], sound_moves, d_sound, moved
                    )
                    for n in range(0, frames, WIDTH):
                        transpose(moved, n * WIDTH, WIDTH, turned_back, n, PIECE)
                    for lane in range(live):
                        for n in range(frames):
                            tangents[here, group * WIDTH + lane, start + n] = turned_back[lane, n]
        for row in range(rows):
            state[top + row] = memory[:, row]
            for direction in range(count):
                state_tangents[top + row, :, direction] = of_memory[row, direction // WIDTH, :, direction % WIDTH]
