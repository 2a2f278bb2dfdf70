"""The compiled loops of a compressor with stages: side-chain shelf, feedback detection, second cell.

One sample, with x the input and the rest as in :data:`COEFFICIENTS` and :data:`STATES`::

    d = u, or with feedback the fed-back sample v          what is detected (u is x)
    s = b0 d + memory;   memory = b1 d − a1 s              side-chain shelf
    target = curve(|s|)
    fast += α (target − fast);   slow += α_slow (target − slow)
    g = fast + mix (slow − fast)
    v = x g;   output = v · makeup

A stage that is off has coefficients that leave every bit as it was: b0 = 1, b1 = a1 = 0; mix = 0.

Conventions as in ``kernels``.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ddsp_la2a.dsp.compiling import FUSED, compiled, inlined
from ddsp_la2a.dsp.kernels import knee, static_gain_tangents
from ddsp_la2a.units import DB_PER_NEPER, LEVEL_FLOOR

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

FAST, SLOW, SHELVED = range(3)
"""Rows of the signals that the forward pass keeps: both cells' gains, and what the curve saw."""

_NEXT_TO_NOTHING = 1e-300


@inlined
def _curve(shelved, knee_foot, threshold_db, slope, knee_db):
    """Return linear gain, dB over the curve's foot h, and dh per dB, of what the side-chain gives."""
    level = max(abs(shelved), LEVEL_FLOOR)
    if not level > knee_foot:  # nor where it is no number
        return 1.0, 0.0, 0.0
    h, dh = knee(DB_PER_NEPER * math.log(level) - threshold_db, knee_db)
    return math.exp(-slope / DB_PER_NEPER * h), h, dh


@inlined
def _memory(b1, d, a1, s):
    """Of the shelf. What isn't finite is forgotten, so that one bad sample spoils only itself; what is next to nothing,
    too: a subnormal would linger in silence and take several times as long.
    """
    memory = b1 * d - a1 * s
    return memory if _NEXT_TO_NOTHING < abs(memory) < math.inf else 0.0


@inlined
def _knee_foot(threshold_db, knee_db):
    """Amplitude from which on the curve acts."""
    return math.exp((threshold_db - 0.5 * knee_db) / DB_PER_NEPER)


@compiled
def staged_forward(first, last, audio, coefficients, feedback, state, output, signals):
    """Every sample of every row. Updates ``state``; fills ``signals`` (rows, 3, time) where it is not empty."""
    keep = signals.shape[2] > 0
    for row in range(first, last):
        threshold_db, slope, knee_db, attack, release = coefficients[row, :5]
        knee_foot = _knee_foot(threshold_db, knee_db)
        slow_attack, slow_release, mix, b0, b1, a1, makeup = coefficients[row, 5:]
        fast, slow, memory, fed_back = state[row]
        for n in range(audio.shape[1]):
            x = np.float64(audio[row, n])
            d = fed_back if feedback else x
            s = b0 * d + memory
            memory = _memory(b1, d, a1, s)
            target, _, _ = _curve(s, knee_foot, threshold_db, slope, knee_db)
            fast += (attack if target < fast else release) * (target - fast)
            slow += (slow_attack if target < slow else slow_release) * (target - slow)
            g = fast + mix * (slow - fast)
            fed_back = x * g
            output[row, n] = fed_back * makeup
            if keep:
                signals[row, FAST, n] = fast
                signals[row, SLOW, n] = slow
                signals[row, SHELVED, n] = s
        state[row, 0], state[row, 1], state[row, 2], state[row, 3] = fast, slow, memory, fed_back


@compiled
def staged_linked(audio, coefficients, feedback, state, output):
    """The same with one gain for all rows, led by the one whose side-chain is loudest; coefficients of row 0."""
    channels = audio.shape[0]
    threshold_db, slope, knee_db, attack, release = coefficients[0, :5]
    knee_foot = _knee_foot(threshold_db, knee_db)
    slow_attack, slow_release, mix, b0, b1, a1, makeup = coefficients[0, 5:]
    fast, slow = state[0, 0], state[0, 1]
    for n in range(audio.shape[1]):
        loudest = 0.0
        for c in range(channels):
            d = state[c, 3] if feedback else np.float64(audio[c, n])
            s = b0 * d + state[c, 2]
            state[c, 2] = _memory(b1, d, a1, s)
            loudest = max(loudest, abs(s))
        target, _, _ = _curve(loudest, knee_foot, threshold_db, slope, knee_db)
        fast += (attack if target < fast else release) * (target - fast)
        slow += (slow_attack if target < slow else slow_release) * (target - slow)
        g = fast + mix * (slow - fast)
        for c in range(channels):
            state[c, 3] = np.float64(audio[c, n]) * g
            output[c, n] = state[c, 3] * makeup
    state[:, 0], state[:, 1] = fast, slow


@compiled
def staged_backward(
    first, last, audio, coefficients, feedback, state, signals, grad_output, grad_audio, grad_coefficients, grad_state
):
    """Adjoint of :func:`staged_forward`.

    ``state`` is that before the first sample, ``signals`` what the forward pass kept. ``grad_state`` (rows, 4) holds
    the derivatives for the last state on entry and for the first on return.
    """
    for row in range(first, last):
        threshold_db, slope, knee_db, attack, release = coefficients[row, :5]
        knee_foot = _knee_foot(threshold_db, knee_db)
        slow_attack, slow_release, mix, b0, b1, a1, makeup = coefficients[row, 5:]
        fast_0, slow_0, _, fed_back_0 = state[row]
        a_fast, a_slow, a_memory, a_fed_back = grad_state[row]
        d_threshold = d_slope = d_knee = d_attack = d_release = d_slow_attack = d_slow_release = 0.0
        d_mix = d_b0 = d_b1 = d_a1 = d_makeup = 0.0
        for n in range(audio.shape[1] - 1, -1, -1):
            x = np.float64(audio[row, n])
            gy = np.float64(grad_output[row, n])
            fast, slow, s = signals[row, FAST, n], signals[row, SLOW, n], signals[row, SHELVED, n]
            fast_before, slow_before, d = fast_0, slow_0, fed_back_0
            if n > 0:
                fast_before, slow_before = signals[row, FAST, n - 1], signals[row, SLOW, n - 1]
                d = np.float64(audio[row, n - 1]) * (fast_before + mix * (slow_before - fast_before))
            if not feedback:
                d = x
            g = fast + mix * (slow - fast)

            d_makeup += gy * x * g
            a_v = gy * makeup + a_fed_back
            dx = a_v * g
            a_g = a_v * x
            a_fast += a_g * (1.0 - mix)
            a_slow += a_g * mix
            d_mix += a_g * (slow - fast)

            target, h, dh = _curve(s, knee_foot, threshold_db, slope, knee_db)
            a_target = 0.0
            if target < fast_before:
                coefficient = attack
                d_attack += a_fast * (target - fast_before)
            else:
                coefficient = release
                d_release += a_fast * (target - fast_before)
            a_target += coefficient * a_fast
            a_fast *= 1.0 - coefficient
            if target < slow_before:
                coefficient = slow_attack
                d_slow_attack += a_slow * (target - slow_before)
            else:
                coefficient = slow_release
                d_slow_release += a_slow * (target - slow_before)
            a_target += coefficient * a_slow
            a_slow *= 1.0 - coefficient

            a_nepers = a_target * target
            a_excess = -a_nepers * slope / DB_PER_NEPER * dh
            d_slope -= a_nepers * h / DB_PER_NEPER
            d_threshold -= a_excess
            d_knee += 0.5 * (1.0 - dh) * a_excess
            a_s = a_excess * DB_PER_NEPER / s if abs(s) > LEVEL_FLOOR else 0.0

            a_s -= a1 * a_memory
            d_a1 -= s * a_memory
            d_b1 += d * a_memory
            d_b0 += d * a_s
            a_d = b1 * a_memory + b0 * a_s
            a_memory = a_s
            a_fed_back = 0.0
            if feedback:
                a_fed_back = a_d
            else:
                dx += a_d
            grad_audio[row, n] = dx
        grad_state[row, 0], grad_state[row, 1], grad_state[row, 2], grad_state[row, 3] = (
            a_fast,
            a_slow,
            a_memory,
            a_fed_back,
        )
        found = grad_coefficients[row]
        found[0], found[1], found[2], found[3], found[4] = d_threshold, d_slope, d_knee, d_attack, d_release
        found[5], found[6], found[7] = d_slow_attack, d_slow_release, d_mix
        found[8], found[9], found[10], found[11] = d_b0, d_b1, d_a1, d_makeup


@compiled
def staged_tangents(
    first, last, audio, audio_tangents, coefficients, directions, feedback, state, state_tangents, output, tangents
):
    """Output, and its derivatives in some directions of audio, coefficients and state, carried along in time.

    ``audio_tangents`` (rows, directions, time) is empty where the audio is constant. ``directions`` (rows, 12,
    directions) are those of the coefficients. ``state`` and ``state_tangents`` (rows, 4, directions) are updated.
    ``output`` (rows, time) and ``tangents`` (rows, directions, time) receive what is computed.
    """
    audio_moves = audio_tangents.shape[2] > 0
    count = directions.shape[2]
    for row in range(first, last):
        threshold_db, slope, knee_db, attack, release = coefficients[row, :5]
        knee_foot = _knee_foot(threshold_db, knee_db)
        slow_attack, slow_release, mix, b0, b1, a1, makeup = coefficients[row, 5:]
        fast, slow, memory, fed_back = state[row]
        d_fast, d_slow, d_memory, d_fed_back = state_tangents[row]
        d_x = np.zeros(count)
        d_v = np.zeros(count)
        direction = directions[row]
        for n in range(audio.shape[1]):
            x = np.float64(audio[row, n])
            if audio_moves:
                for i in range(count):
                    d_x[i] = audio_tangents[row, i, n]
            d = fed_back if feedback else x
            s = b0 * d + memory
            memory = _memory(b1, d, a1, s)
            target, h, dh = _curve(s, knee_foot, threshold_db, slope, knee_db)
            per_s = DB_PER_NEPER / s if abs(s) > LEVEL_FLOOR else 0.0
            to_fast, to_slow = target - fast, target - slow
            fast_column, slow_column = (3 if to_fast < 0.0 else 4), (5 if to_slow < 0.0 else 6)
            alpha = attack if to_fast < 0.0 else release
            alpha_slow = slow_attack if to_slow < 0.0 else slow_release
            fast += alpha * to_fast
            slow += alpha_slow * to_slow
            g = fast + mix * (slow - fast)
            v = x * g
            of_knee, of_excess = 0.5 * (1.0 - dh), -target / DB_PER_NEPER * slope * dh
            of_slope = -target / DB_PER_NEPER * h
            for i in range(count):
                dd = d_fed_back[i] if feedback else d_x[i]
                ds = direction[8, i] * d + b0 * dd + d_memory[i]
                d_memory[i] = direction[9, i] * d + b1 * dd - direction[10, i] * s - a1 * ds
                d_excess = of_knee * direction[2, i] - direction[0, i] + per_s * ds
                d_target = of_excess * d_excess + of_slope * direction[1, i]
                d_fast[i] += alpha * (d_target - d_fast[i]) + direction[fast_column, i] * to_fast
                d_slow[i] += alpha_slow * (d_target - d_slow[i]) + direction[slow_column, i] * to_slow
                dg = d_fast[i] + mix * (d_slow[i] - d_fast[i]) + direction[7, i] * (slow - fast)
                d_v[i] = d_x[i] * g + x * dg
                d_fed_back[i] = d_v[i]
            for i in range(count):
                tangents[row, i, n] = makeup * d_v[i] + direction[11, i] * v
            fed_back = v
            output[row, n] = v * makeup
        state[row, 0], state[row, 1], state[row, 2], state[row, 3] = fast, slow, memory, fed_back


@compiled(fastmath=FUSED)
def two_cell_tangents(audio, curve, times, mix, makeup, per_ms, state, signals, output, tangents):
    """Output of one row with two cells that hear the input, and its derivatives, carried along in time.

    Faster than :func:`staged_tangents`, because the curve depends on no sample before. ``curve`` holds threshold, slope
    and knee; ``times`` the coefficients of attack, release, slow attack, slow release; ``per_ms`` the derivatives of
    the first and third for the attack, of the second and fourth for the release, of the third and fourth for the
    factor. ``state`` (2, 6) holds each cell's gain and its derivatives for the curve and its own two coefficients; it
    is updated. ``signals`` (4, time) is scratch. ``tangents`` (8, time) receives the derivatives for threshold, slope,
    knee, attack, release, make-up, factor and mix.
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
    state[0, :] = f, f_threshold, f_slope, f_knee, f_attack, f_release
    state[1, :] = s, s_threshold, s_slope, s_knee, s_attack, s_release


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
        state[row, memory] = after


@compiled(fastmath=FUSED)
def _add_taps(taps, known, slow, filtered):
    memory = len(known) - len(slow)
    for n in range(len(slow)):
        filtered[n] = taps[memory + 1] * slow[n]
    for k in range(memory + 1):
        late = known[memory - k :]
        for n in range(len(slow)):
            filtered[n] += taps[k] * late[n]


def needs_compiling() -> bool:
    """Whether the first call will wait for the compiler: nothing compiled in this process and nothing in the cache."""
    if staged_forward.signatures:
        return False
    folder = staged_forward.stats.cache_path
    return folder is None or not any(Path(folder).glob("staged_kernels.staged_forward-*.nbi"))
