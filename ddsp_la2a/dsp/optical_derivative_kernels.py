"""The compiled loops of the optical cell's derivatives: adjoint, and derivatives in any direction.

Both go through the audio once more, piece by piece, and keep a film of it that stays in the second-level cache.
Conventions and the equations of a sample as in ``optical_kernels``; in the adjoint the rows of a batch lie side by side
in SIMD lanes, else the directions of a row.
"""

from __future__ import annotations

import numpy as np

from ddsp_la2a.dsp.compiling import compiled, inlined
from ddsp_la2a.dsp.kernels import LN_2
from ddsp_la2a.dsp.lanes import WIDTH, fma, load, magnitude, put, smaller, store, take, transpose, where
from ddsp_la2a.dsp.optical_kernels import (
    COUNT,
    LOUDEST,
    STATE_COUNT,
    next_sample,
    numbers_of,
    read_turned,
    remember,
    side_by_side,
)
from ddsp_la2a.dsp.smoothing_kernels import FILM, PIECE

_N, _GLOW, _M1, _M2, _X, _INVERSE, _H, _LIGHT, _ROOT, _STEEP, _PER_N, _PER_M1 = range(0, 12 * FILM, FILM)
"""Where in what is called ``film`` the signals begin that derivatives need: the first four before every sample and
after the last, then input, inverse of the divider's denominator, what drives the panel, light, 1/√w, light per drive,
and the inverse denominators of n and m1."""


@compiled
def _filmed(frames, sides, memory, sound, film):
    """As :func:`_play`, keeping what derivatives need instead of the output."""
    k = numbers_of(sides)
    n, glow, m1, m2 = load(memory, 0), load(memory, WIDTH), load(memory, 2 * WIDTH), load(memory, 3 * WIDTH)
    low = load(memory, 4 * WIDTH)
    end = frames * WIDTH
    for at in range(0, end, WIDTH):
        x = load(sound, at)
        store(film, _N + at, n)
        store(film, _GLOW + at, glow)
        store(film, _M1 + at, m1)
        store(film, _M2 + at, m2)
        _, n, glow, m1, m2, low, inverse, h, light, root, steep, per_n, per_m1 = next_sample(x, k, n, glow, m1, m2, low)
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
    remember(memory, n, glow, m1, m2, low)


@inlined
def _add(sums, number, a, b):
    store(sums, number * WIDTH, fma(a, b, load(sums, number * WIDTH)))


@compiled
def _adjoint(frames, sides, film, asked, memory, sums):
    """Adjoint of one piece of all lanes.

    ``asked`` (PIECE, WIDTH) of the output becomes that of the input. ``memory`` (5, WIDTH) of the states after becomes
    that of those before. ``sums`` (15, WIDTH), of the coefficients, are added to.
    """
    k = numbers_of(sides)
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
        _add(sums, 4, of_light * light, LN_2 * (1.0 - root))
        loud = magnitude(h)
        u = smaller(k[0] * loud, LOUDEST)
        _add(sums, 3, -0.5 * of_light * steep * u, fma(u, u, -1.0))
        of_u = where(u < LOUDEST, of_light * steep * (1.0 - k[3]), 0.0)
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
    remember(memory, of_n, of_glow, of_m1, of_m2, of_low)


@compiled
def cell_backward(first, last, audio, coefficients, passed, grad_output, grad_audio, grad_coefficients, grad_state):
    """Adjoint of :func:`cell_forward`, which is gone through again piece by piece, to the same bits.

    ``passed`` is what it passed through. ``grad_state`` (rows, 5) holds the derivatives for the last state on entry and
    for the first on return.
    """
    samples = audio.shape[1]
    sides, sums = np.zeros((2, COUNT, WIDTH))
    memory, carried = np.zeros((2, STATE_COUNT, WIDTH))
    turned, asked = np.zeros((2, PIECE * WIDTH))
    sound, wanted, turned_back = np.zeros((3, WIDTH, PIECE))
    film = np.zeros(12 * FILM)
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        side_by_side(top, rows, coefficients, sides)
        memory[:], carried[:], sums[:] = 0.0, 0.0, 0.0
        for row in range(rows):
            carried[:, row] = grad_state[top + row]
        for start in range((samples - 1) // PIECE * PIECE, -1, -PIECE):
            frames = min(PIECE, samples - start)
            for row in range(rows):
                memory[:, row] = passed[top + row, start // PIECE]
            read_turned(audio, top, rows, start, frames, sound, turned)
            _filmed(frames, sides, memory, turned, film)
            read_turned(grad_output, top, rows, start, frames, wanted, asked)
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
    d = numbers_of(sides)
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
        u = min(drive * loud, LOUDEST)
        per_u = steep * (1.0 - k[3]) if u < LOUDEST else 0.0
        d_light = fma(d_h, per_u * (drive if h > 0.0 else -drive), d[0] * (per_u * loud))
        d_light = fma(d[3], -0.5 * steep * u * (u * u - 1.0), fma(d[4], light * LN_2 * (1.0 - root), d_light))
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
    remember(memory, d_n, d_glow, d_m1, d_m2, d_low)


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
    sides, memory = np.zeros((COUNT, WIDTH)), np.zeros((STATE_COUNT, WIDTH))
    turned, moved, d_sound = np.zeros((3, PIECE * WIDTH))
    sound, turned_back = np.zeros((2, WIDTH, PIECE))
    film = np.zeros(12 * FILM)
    of_sides, of_memory = np.zeros((WIDTH, groups, COUNT, WIDTH)), np.zeros((WIDTH, groups, STATE_COUNT, WIDTH))
    for top in range(first, last, WIDTH):
        rows = min(WIDTH, last - top)
        side_by_side(top, rows, coefficients, sides)
        memory[:] = 0.0
        for row in range(rows):
            memory[:, row] = state[top + row]
            for direction in range(count):
                group, lane = direction // WIDTH, direction % WIDTH
                of_sides[row, group, :, lane] = directions[top + row, :, direction]
                of_memory[row, group, :, lane] = state_tangents[top + row, :, direction]
        for start in range(0, samples, PIECE):
            frames = min(PIECE, samples - start)
            read_turned(audio, top, rows, start, frames, sound, turned)
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
