"""The compiled loops of least-squares fits: output and derivatives of one row, carried along, and their products.

Conventions as in ``kernels``.
"""

from __future__ import annotations

import numpy as np

from ddsp_la2a.dsp.compiling import FUSED, REORDERED, compiled, inlined
from ddsp_la2a.dsp.elementary import exp2, log2
from ddsp_la2a.units import DB_PER_NEPER, DB_PER_OCTAVE, LEVEL_FLOOR

_FORGOTTEN = 1e-200


@inlined
def _settled(memory):
    """What is carried to the next block. In silence it fades, and before a block later it were subnormal it is zero."""
    return 0.0 if abs(memory) < _FORGOTTEN else memory


@compiled(fastmath=FUSED)
def static_gain_tangents(audio, threshold_db, slope, knee_db, gain, tangents):
    """The curve's linear gain, and its derivatives for threshold, slope and knee: no sample depends on another."""
    half = 0.5 * knee_db
    per_knee = 1.0 / knee_db if knee_db > 0.0 else 0.0
    slope_per_neper = slope / DB_PER_NEPER
    for n in range(audio.shape[0]):
        excess = DB_PER_OCTAVE * log2(max(abs(np.float64(audio[n])), LEVEL_FLOOR)) - threshold_db
        within = min(max(excess + half, 0.0), knee_db)  # how far into the knee
        position = 1.0 if excess > half else within * per_knee
        h = 0.5 * within * within * per_knee + max(excess - half, 0.0)
        target = exp2(-slope / DB_PER_OCTAVE * h)
        gain[n] = target
        tangents[0, n] = target * slope_per_neper * position
        tangents[1, n] = -target / DB_PER_NEPER * h
        tangents[2, n] = -target * slope_per_neper * 0.5 * position * (1.0 - position)


@compiled(fastmath=FUSED)
def compress_tangents(audio, threshold_db, slope, knee_db, attack, release, makeup, state, output, tangents):
    """Output of one row, and its derivatives for every parameter, carried along in time.

    ``state`` (6,) holds the gain and its derivatives for threshold, slope, knee, attack and release; it is updated.
    ``output`` (time,) and ``tangents`` (6, time), float64, receive output and derivatives, make-up last.
    """
    static_gain_tangents(audio, threshold_db, slope, knee_db, output, tangents)
    g, g_threshold, g_slope, g_knee, g_attack, g_release = state
    for n in range(audio.shape[0]):
        difference = output[n] - g
        falling = difference < 0.0
        coefficient = attack if falling else release
        keep = 1.0 - coefficient
        g += coefficient * difference
        g_threshold = keep * g_threshold + coefficient * tangents[0, n]
        g_slope = keep * g_slope + coefficient * tangents[1, n]
        g_knee = keep * g_knee + coefficient * tangents[2, n]
        g_attack = keep * g_attack + (difference if falling else 0.0)
        g_release = keep * g_release + (0.0 if falling else difference)
        x = np.float64(audio[n])
        louder = x * makeup
        output[n] = louder * g
        tangents[0, n] = louder * g_threshold
        tangents[1, n] = louder * g_slope
        tangents[2, n] = louder * g_knee
        tangents[3, n] = louder * g_attack
        tangents[4, n] = louder * g_release
        tangents[5, n] = x * g
    state[0], state[1], state[2] = g, _settled(g_threshold), _settled(g_slope)
    state[3], state[4], state[5] = _settled(g_knee), _settled(g_attack), _settled(g_release)


@compiled(fastmath=FUSED)
def filter_signals(zero, pole, state, signals):
    """(1 − zero z⁻¹) / (1 − pole z⁻¹) on every row, in place; ``state`` (rows, 2): last input and last output.

    The recursion jumps four samples at a time, so that it isn't held up by its own latency.
    """
    samples = signals.shape[1]
    whole = samples - samples % 4
    pole_2, pole_3, pole_4 = pole * pole, pole * pole * pole, pole * pole * pole * pole
    for row in range(signals.shape[0]):
        before, after = state[row]
        for n in range(0, whole, 4):
            a, b, c, d = signals[row, n], signals[row, n + 1], signals[row, n + 2], signals[row, n + 3]
            p = a - zero * before
            q = b - zero * a + pole * p
            r = c - zero * b + pole * q
            s = d - zero * c + pole * r
            signals[row, n] = p + pole * after
            signals[row, n + 1] = q + pole_2 * after
            signals[row, n + 2] = r + pole_3 * after
            after = s + pole_4 * after
            signals[row, n + 3] = after
            before = d
        for n in range(whole, samples):
            x = signals[row, n]
            after = x - zero * before + pole * after
            before = x
            signals[row, n] = after
        state[row, 0], state[row, 1] = before, _settled(after)


@compiled(fastmath=REORDERED)
def add_products(signals, products):
    """Add every sum over time of two rows' product to ``products`` (rows, rows), lower triangle."""
    for i in range(signals.shape[0]):
        for j in range(i + 1):
            total = 0.0
            for n in range(signals.shape[1]):
                total += signals[i, n] * signals[j, n]
            products[i, j] += total


@compiled(fastmath=FUSED)
def two_cell_tangents(audio, curve, times, mix, makeup, per_ms, state, signals, output, tangents):
    """Output of one row with two cells that hear the input, and its derivatives, carried along in time.

    Faster than :func:`~ddsp_la2a.dsp.feedback_kernels.tangents_forward`, because the curve depends on no sample before.
    ``curve`` holds threshold, slope and knee; ``times`` the coefficients of attack, release, slow attack, slow release;
    ``per_ms`` the derivatives of the first and third for the attack, of the second and fourth for the release, of the
    third and fourth for the factor. ``state`` (2, 6) holds each cell's gain and its derivatives for the curve and its
    own two coefficients; it is updated. ``signals`` (4, time) is scratch. ``tangents`` (8, time) receives the
    derivatives for threshold, slope, knee, attack, release, make-up, factor and mix.
    """
    static_gain_tangents(audio, curve[0], curve[1], curve[2], signals[0], signals[1:])
    f, f_threshold, f_slope, f_knee, f_attack, f_release = state[0]
    s, s_threshold, s_slope, s_knee, s_attack, s_release = state[1]
    attack, release, slow_attack, slow_release = times
    share = 1.0 - mix
    for n in range(audio.shape[0]):
        target, d_threshold, d_slope, d_knee = signals[0, n], signals[1, n], signals[2, n], signals[3, n]
        difference = target - f
        falling = difference < 0.0
        coefficient = attack if falling else release
        keep = 1.0 - coefficient
        f += coefficient * difference
        f_threshold = keep * f_threshold + coefficient * d_threshold
        f_slope = keep * f_slope + coefficient * d_slope
        f_knee = keep * f_knee + coefficient * d_knee
        f_attack = keep * f_attack + (difference if falling else 0.0)
        f_release = keep * f_release + (0.0 if falling else difference)
        difference = target - s
        falling = difference < 0.0
        coefficient = slow_attack if falling else slow_release
        keep = 1.0 - coefficient
        s += coefficient * difference
        s_threshold = keep * s_threshold + coefficient * d_threshold
        s_slope = keep * s_slope + coefficient * d_slope
        s_knee = keep * s_knee + coefficient * d_knee
        s_attack = keep * s_attack + (difference if falling else 0.0)
        s_release = keep * s_release + (0.0 if falling else difference)
        x = np.float64(audio[n])
        louder = x * makeup
        g = f + mix * (s - f)
        output[n] = louder * g
        tangents[0, n] = louder * (share * f_threshold + mix * s_threshold)
        tangents[1, n] = louder * (share * f_slope + mix * s_slope)
        tangents[2, n] = louder * (share * f_knee + mix * s_knee)
        tangents[3, n] = louder * (share * f_attack * per_ms[0] + mix * s_attack * per_ms[1])
        tangents[4, n] = louder * (share * f_release * per_ms[2] + mix * s_release * per_ms[3])
        tangents[5, n] = x * g
        tangents[6, n] = louder * mix * (s_attack * per_ms[4] + s_release * per_ms[5])
        tangents[7, n] = louder * (s - f)
    state[0, 0], state[0, 1], state[0, 2] = f, _settled(f_threshold), _settled(f_slope)
    state[0, 3], state[0, 4], state[0, 5] = _settled(f_knee), _settled(f_attack), _settled(f_release)
    state[1, 0], state[1, 1], state[1, 2] = s, _settled(s_threshold), _settled(s_slope)
    state[1, 3], state[1, 4], state[1, 5] = _settled(s_knee), _settled(s_attack), _settled(s_release)


@compiled(fastmath=FUSED)
def filter_rows(taps, slow_coefficient, state, signals, filtered):
    """Output filter on every row; ``state`` (rows, 2 L + 1) as of :class:`~ddsp_la2a.dsp.output_stage.OutputFilter`.

    ``filtered`` (rows, time) receives the result; it may be ``signals``. The slow pole jumps four samples at a time.
    """
    samples = signals.shape[1]
    memory = state.shape[1] - 1
    known, slow = np.empty(memory + samples), np.empty(samples)
    whole = samples - samples % 4
    keep = 1.0 - slow_coefficient
    keep_2, keep_3, keep_4 = keep * keep, keep * keep * keep, keep * keep * keep * keep
    for row in range(signals.shape[0]):
        for n in range(memory):
            known[n] = state[row, n]
        for n in range(samples):
            known[memory + n] = signals[row, n]
        late = known[memory // 2 :]
        after = state[row, memory]
        for n in range(0, whole, 4):
            p = slow_coefficient * late[n]
            q = slow_coefficient * late[n + 1] + keep * p
            r = slow_coefficient * late[n + 2] + keep * q
            s = slow_coefficient * late[n + 3] + keep * r
            slow[n] = p + keep * after
            slow[n + 1] = q + keep_2 * after
            slow[n + 2] = r + keep_3 * after
            after = s + keep_4 * after
            slow[n + 3] = after
        for n in range(whole, samples):
            after = slow_coefficient * late[n] + keep * after
            slow[n] = after
        _add_taps(taps, known, slow, filtered[row])
        for n in range(memory):
            state[row, n] = known[samples + n]
        state[row, memory] = _settled(after)


@compiled(fastmath=FUSED)
def _add_taps(taps, known, slow, filtered):
    memory = len(known) - len(slow)
    for n in range(len(slow)):
        filtered[n] = taps[memory + 1] * slow[n]
    for k in range(memory + 1):
        late = known[memory - k :]
        for n in range(len(slow)):
            filtered[n] += taps[k] * late[n]
