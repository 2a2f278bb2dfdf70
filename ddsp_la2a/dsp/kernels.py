"""The compiled loops.

A kernel with the arguments ``first`` and ``last`` works on those rows of C-contiguous arrays, so that groups of rows
can be handed to threads (``compiling.over_rows``). Audio is float32 or float64; state, parameters and everything
accumulated is float64, because a release of seconds has a pole so near one that float32 would stall short of its end.
"""

from __future__ import annotations

import math

import numpy as np

from ddsp_la2a.dsp.compiling import FUSED, REORDERED, compiled, exp2, inlined, log2
from ddsp_la2a.units import DB_PER_NEPER, DB_PER_OCTAVE, LEVEL_FLOOR


@inlined
def knee(excess_db: float, knee_db: float) -> tuple[float, float]:
    """Return h(d) and dh/dd of the quadratic knee for d > −w/2; the curve's gain is −slope · h."""
    if excess_db >= 0.5 * knee_db:
        return excess_db, 1.0
    if excess_db <= -0.5 * knee_db:  # the logarithm rounded a level just above the foot to below it
        return 0.0, 0.0
    position = (excess_db + 0.5 * knee_db) / knee_db
    return 0.5 * knee_db * position * position, position


@compiled
def compress_forward(first, last, audio, threshold_db, slope, knee_db, attack, release, makeup, state, output, gain):
    """Level → curve → smoothing → gain → make-up. Updates ``state``; keeps the gain where ``gain`` is not empty."""
    keep_gain = gain.shape[1] > 0
    for row in range(first, last):
        knee_foot = math.exp((threshold_db[row] - 0.5 * knee_db[row]) / DB_PER_NEPER)
        g = state[row]
        for n in range(audio.shape[1]):
            level = max(abs(np.float64(audio[row, n])), LEVEL_FLOOR)
            target = 1.0
            if level > knee_foot:
                h, _ = knee(DB_PER_NEPER * math.log(level) - threshold_db[row], knee_db[row])
                target = math.exp(-slope[row] / DB_PER_NEPER * h)
            coefficient = attack[row] if target < g else release[row]
            g += coefficient * (target - g)
            output[row, n] = audio[row, n] * g * makeup[row]
            if keep_gain:
                gain[row, n] = g
        state[row] = g


@compiled
def compress_backward(
    first,
    last,
    audio,
    threshold_db,
    slope,
    knee_db,
    attack,
    release,
    makeup,
    state,
    gain,
    grad_output,
    grad_audio,
    grad_params,
    grad_state,
):
    """Adjoint of :func:`compress_forward`.

    ``gain`` is what the forward pass kept, in float64, so that attack and release are told apart exactly as they were
    there. ``grad_state`` holds the derivative for the last state on entry and for the first on return; ``grad_params``
    (rows, 6) receives threshold, slope, knee, attack, release and make-up.
    """
    for row in range(first, last):
        knee_foot = math.exp((threshold_db[row] - 0.5 * knee_db[row]) / DB_PER_NEPER)
        adjoint = grad_state[row]
        d_threshold = d_slope = d_knee = d_attack = d_release = d_makeup = 0.0
        for n in range(audio.shape[1] - 1, -1, -1):
            x = np.float64(audio[row, n])
            gy = np.float64(grad_output[row, n])
            g = gain[row, n]
            g_before = gain[row, n - 1] if n > 0 else state[row]
            d_makeup += gy * x * g
            dx = gy * g * makeup[row]
            adjoint += gy * x * makeup[row]

            level = max(abs(x), LEVEL_FLOOR)
            target = 1.0
            h = 0.0
            dh = 0.0
            if level > knee_foot:
                h, dh = knee(DB_PER_NEPER * math.log(level) - threshold_db[row], knee_db[row])
                target = math.exp(-slope[row] / DB_PER_NEPER * h)
            if target < g_before:
                coefficient = attack[row]
                d_attack += adjoint * (target - g_before)
            else:
                coefficient = release[row]
                d_release += adjoint * (target - g_before)
            d_gain_np = adjoint * coefficient * target  # derivative for the curve's gain in nepers
            adjoint *= 1.0 - coefficient

            if level > knee_foot:
                d_excess = -d_gain_np * slope[row] / DB_PER_NEPER * dh
                d_slope -= d_gain_np * h / DB_PER_NEPER
                d_threshold -= d_excess
                d_knee += 0.5 * (1.0 - dh) * d_excess
                if level > LEVEL_FLOOR:
                    dx += d_excess * DB_PER_NEPER / x
            grad_audio[row, n] = dx
        grad_state[row] = adjoint
        grad_params[row, 0] = d_threshold
        grad_params[row, 1] = d_slope
        grad_params[row, 2] = d_knee
        grad_params[row, 3] = d_attack
        grad_params[row, 4] = d_release
        grad_params[row, 5] = d_makeup


@compiled
def compress_jvp(
    first,
    last,
    audio,
    threshold_db,
    slope,
    knee_db,
    attack,
    release,
    makeup,
    state,
    audio_tangent,
    tangents,
    output_tangent,
):
    """Derivative of :func:`compress_forward` in one direction a row, carried along in time.

    ``audio_tangent`` is empty where the audio is constant. ``tangents`` (rows, 7) are those of threshold, slope, knee,
    attack, release, make-up and state; the last is updated.
    """
    audio_moves = audio_tangent.shape[1] > 0
    for row in range(first, last):
        knee_foot = math.exp((threshold_db[row] - 0.5 * knee_db[row]) / DB_PER_NEPER)
        d_threshold, d_slope, d_knee = tangents[row, 0], tangents[row, 1], tangents[row, 2]
        d_attack, d_release, d_makeup = tangents[row, 3], tangents[row, 4], tangents[row, 5]
        g = state[row]
        dg = tangents[row, 6]
        for n in range(audio.shape[1]):
            x = np.float64(audio[row, n])
            dx = np.float64(audio_tangent[row, n]) if audio_moves else 0.0
            level = max(abs(x), LEVEL_FLOOR)
            target = 1.0
            d_target = 0.0
            if level > knee_foot:
                h, dh = knee(DB_PER_NEPER * math.log(level) - threshold_db[row], knee_db[row])
                target = math.exp(-slope[row] / DB_PER_NEPER * h)
                d_excess = 0.5 * (1.0 - dh) * d_knee - d_threshold
                if level > LEVEL_FLOOR:
                    d_excess += DB_PER_NEPER * dx / x
                d_target = -target / DB_PER_NEPER * (d_slope * h + slope[row] * dh * d_excess)
            difference = target - g
            coefficient, d_coefficient = (attack[row], d_attack) if target < g else (release[row], d_release)
            g += coefficient * difference
            dg += coefficient * (d_target - dg) + d_coefficient * difference
            output_tangent[row, n] = makeup[row] * (dx * g + x * dg) + d_makeup * x * g
        tangents[row, 6] = dg


@compiled
def smooth_forward(first, last, target, attack, release, state, smoothed):
    """One pole that falls with ``attack`` and rises with ``release``. ``smoothed`` is float64."""
    for row in range(first, last):
        g = state[row]
        for n in range(target.shape[1]):
            t = np.float64(target[row, n])
            g += (attack[row] if t < g else release[row]) * (t - g)
            smoothed[row, n] = g


@compiled
def smooth_backward(first, last, target, attack, release, state, smoothed, grad_smoothed, grad_target, grad_params):
    """Adjoint of :func:`smooth_forward`; ``grad_params`` (rows, 3) receives attack, release and first state."""
    for row in range(first, last):
        adjoint = d_attack = d_release = 0.0
        for n in range(target.shape[1] - 1, -1, -1):
            g_before = smoothed[row, n - 1] if n > 0 else state[row]
            difference = np.float64(target[row, n]) - g_before
            adjoint += np.float64(grad_smoothed[row, n])
            if difference < 0.0:
                coefficient = attack[row]
                d_attack += adjoint * difference
            else:
                coefficient = release[row]
                d_release += adjoint * difference
            grad_target[row, n] = adjoint * coefficient
            adjoint *= 1.0 - coefficient
        grad_params[row, 0] = d_attack
        grad_params[row, 1] = d_release
        grad_params[row, 2] = adjoint


@compiled
def smooth_jvp(first, last, target, attack, release, state, target_tangent, tangents, smoothed_tangent):
    """Derivative of :func:`smooth_forward` in one direction a row, carried along in time.

    ``target_tangent`` is empty where the target is constant. ``tangents`` (rows, 3) are those of attack, release and
    state; the last is updated.
    """
    target_moves = target_tangent.shape[1] > 0
    for row in range(first, last):
        d_attack, d_release = tangents[row, 0], tangents[row, 1]
        g = state[row]
        dg = tangents[row, 2]
        for n in range(target.shape[1]):
            difference = np.float64(target[row, n]) - g
            d_target = np.float64(target_tangent[row, n]) if target_moves else 0.0
            coefficient, d_coefficient = (attack[row], d_attack) if difference < 0.0 else (release[row], d_release)
            g += coefficient * difference
            dg += coefficient * (d_target - dg) + d_coefficient * difference
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
            before = x
            filtered[row, n] = after


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
    state[:] = g, g_threshold, g_slope, g_knee, g_attack, g_release


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
        state[row, 0], state[row, 1] = before, after


@compiled(fastmath=REORDERED)
def add_products(signals, products):
    """Add every sum over time of two rows' product to ``products`` (rows, rows), lower triangle."""
    for i in range(signals.shape[0]):
        for j in range(i + 1):
            total = 0.0
            for n in range(signals.shape[1]):
                total += signals[i, n] * signals[j, n]
            products[i, j] += total
