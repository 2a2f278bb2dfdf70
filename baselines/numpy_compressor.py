"""The compressor in plain numpy and float64, with its derivative worked out by hand: the oracle of the tests.

Slow but simple: the curve is a few array operations, the one recursion a Python loop. It imports nothing of
``ddsp_la2a``, so that agreement between the two means something. :class:`NumpyCompressor` puts it into comparison
tables as a model that knows neither the knob nor the switch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVEL_FLOOR = 1e-8
NEPER_PER_DB = math.log(10.0) / 20.0

_BLOCK = 1_000_000
"""Frames handled at once: Python floats take 32 bytes each, so a long recording is never a list as a whole."""


class Reference(NamedTuple):
    """What :func:`compressor` computed, all float64; arrays have shape (time,)."""

    output: Array
    """Compressed audio."""
    gain: Array
    """Smoothed linear gain, make-up not included."""
    state: float
    """Last gain, to go on from in the next block."""
    level_db: Array
    """Detected level in dB, at least −160."""
    target_gain: Array
    """Linear gain that the static curve asks for."""


def amplitude_compressor(x: ArrayLike, threshold: float, ratio: float) -> Array:
    """Divide the amplitude above a threshold by the ratio: the minimal compressor that this project grew from.

        y = sign(x) (T + (|x| − T) / R) where |x| > T, else x

    It divides *amplitude* above the threshold, not decibels, and it has no memory: a waveshaper, which distorts every
    cycle, and whose curve in dB has no constant slope above the threshold. The notebook this project comes from had
    this one; it is kept as the point of departure.

    Args:
        x: Audio, full scale 1.
        threshold: Amplitude T, at least 0 (linear, not dB).
        ratio: R, greater than 0.

    Shape: any; the output has the shape of ``x``.

    Returns:
        Audio in float64.

    Raises:
        ValueError: a threshold or ratio out of range.
    """
    if not threshold >= 0.0:
        raise ValueError(f"threshold: expected a linear amplitude of at least 0, got {threshold}")
    _require_positive("ratio", ratio)
    x = np.asarray(x, dtype=np.float64)
    magnitude = np.abs(x)
    return np.where(magnitude > threshold, np.sign(x) * (threshold + (magnitude - threshold) / ratio), x)


def static_gain_db(level_db: ArrayLike, threshold_db: float, ratio: float, knee_db: float) -> Array:
    """Gain in dB of the static curve, with a quadratic knee.

    With d = level − threshold, s = 1 − 1/ratio and knee width w:

        G = 0                          for d ≤ −w/2
        G = −s (d + w/2)² / (2 w)      between
        G = −s d                       for d ≥ w/2

    Args:
        level_db: Level in dB relative to full scale.
        threshold_db: Threshold in dB relative to full scale.
        ratio: dB in per dB out above the threshold, greater than 0.
        knee_db: Knee width w in dB, at least 0; 0 is the hard knee.

    Shape: any; the output has the shape of ``level_db``.

    Returns:
        Gain in dB, float64.

    Raises:
        ValueError: a ratio or knee out of range.

    References:
        D. Giannoulis, M. Massberg, J. D. Reiss, "Digital dynamic range compressor design", JAES 60(6), 2012, eq. 4.
    """
    _require_positive("ratio", ratio)
    if not knee_db >= 0.0:
        raise ValueError(f"knee_db: expected a width of at least 0 dB, got {knee_db}")
    slope = 1.0 - 1.0 / ratio
    above = np.asarray(level_db, dtype=np.float64) - threshold_db
    gain_db = -slope * np.maximum(above, 0.0)
    if knee_db > 0.0:
        in_knee = np.abs(above) < 0.5 * knee_db
        gain_db = np.where(in_knee, -slope * (above + 0.5 * knee_db) ** 2 / (2.0 * knee_db), gain_db)
    return gain_db


def compressor(
    x: ArrayLike,
    sample_rate: float,
    threshold_db: float,
    ratio: float,
    knee_db: float,
    attack_ms: float,
    release_ms: float,
    makeup_db: float = 0.0,
    state: float = 1.0,
) -> Reference:
    """Feed-forward peak compressor that smooths the linear gain.

        t[n] = 10^(G(20 log10 max(|x[n]|, 1e−8)) / 20)
        g[n] = g[n−1] + α (t[n] − g[n−1]),   α = α_attack where t[n] < g[n−1], else α_release
        y[n] = 10^(makeup / 20) g[n] x[n],   α = 1 − exp(−ln 9 · 1000 / (t_ms · fs))

    Args:
        x: Mono audio, full scale 1.
        sample_rate: Sampling rate in Hz.
        threshold_db: Threshold in dB relative to full scale.
        ratio: dB in per dB out above the threshold, greater than 0.
        knee_db: Knee width in dB, at least 0.
        attack_ms: 10–90 % rise time while the gain falls, in ms, greater than 0.
        release_ms: 10–90 % rise time while the gain recovers, in ms, greater than 0.
        makeup_db: Gain after compression in dB.
        state: Linear gain g[−1] before the first frame; the ``state`` of the block before, or 1.

    Shape: ``x`` is (time,), and so is every array returned.

    Returns:
        A :class:`Reference`.

    Raises:
        ValueError: audio that isn't mono, or a parameter out of range.

    References:
        D. Giannoulis, M. Massberg, J. D. Reiss, "Digital dynamic range compressor design", JAES 60(6), 2012.
        C.-Y. Yu, G. Fazekas, "Sound matching an analogue levelling amplifier using the Newton-Raphson method",
        AES AIMLA 2025 (ballistics on the linear gain).
    """
    x = _mono("x", x)
    alpha_attack = _coefficient("attack_ms", attack_ms, sample_rate)
    alpha_release = _coefficient("release_ms", release_ms, sample_rate)
    makeup = math.exp(NEPER_PER_DB * makeup_db)
    state = float(state)
    output, gain, level_db, target_gain = (np.empty_like(x) for _ in range(4))
    for block in _blocks(len(x)):
        level_db[block] = np.log(np.maximum(np.abs(x[block]), LEVEL_FLOOR)) / NEPER_PER_DB
        target_gain[block] = np.exp(NEPER_PER_DB * static_gain_db(level_db[block], threshold_db, ratio, knee_db))
        gain[block], state = _smooth(target_gain[block], state, alpha_attack, alpha_release)
        output[block] = makeup * gain[block] * x[block]
    return Reference(output, gain, state, level_db, target_gain)


def compressor_gradient(
    x: ArrayLike,
    sample_rate: float,
    threshold_db: float,
    ratio: float,
    knee_db: float,
    attack_ms: float,
    release_ms: float,
    makeup_db: float = 0.0,
    *,
    grad_output: ArrayLike,
    grad_state: float = 0.0,
    state: float = 1.0,
) -> dict[str, Any]:
    """Exact derivative of Σ grad_output · output + grad_state · (last gain), by reverse accumulation.

    With the adjoint gain λ[n] = ∂L/∂g[n] and m the make-up as a factor:

        λ[n] = m x[n] ∂L/∂y[n] + (1 − α[n+1]) λ[n+1]
        ∂L/∂t[n] = α[n] λ[n],   ∂L/∂α = Σ λ[n] (t[n] − g[n−1]) over the frames that use this α

    and from t on the chain rule along the static curve. Where the function has a corner the derivative is: 0 for |x| at
    x = 0, 0 for the level at or below its floor, that of the uncompressed side at the threshold of a hard knee, 0 with
    respect to the width of a hard knee, and that of the release where t[n] = g[n−1] (so with respect to a state of 1
    before a sample below the threshold).

    Args:
        x, sample_rate, threshold_db, ratio, knee_db, attack_ms, release_ms, makeup_db, state: as :func:`compressor`.
        grad_output: Weight of every output frame, ∂L/∂y.
        grad_state: Weight of the last gain, ∂L/∂g[N−1].

    Shape: ``x`` and ``grad_output`` are (time,).

    Returns:
        ``x`` with shape (time,), and floats ``threshold_db, ratio, knee_db, attack_ms, release_ms, makeup_db, state``:
        the derivative with respect to each argument, per its own unit.

    Raises:
        ValueError: as :func:`compressor`, or a ``grad_output`` of another length than ``x``.
    """
    x = _mono("x", x)
    grad_output = _mono("grad_output", grad_output)
    if len(grad_output) != len(x):
        raise ValueError(f"grad_output: expected {len(x)} frames as in x, got {len(grad_output)}")
    parameters = (threshold_db, ratio, knee_db)
    forward = compressor(x, sample_rate, *parameters, attack_ms, release_ms, makeup_db, state)
    alpha_attack = _coefficient("attack_ms", attack_ms, sample_rate)
    alpha_release = _coefficient("release_ms", release_ms, sample_rate)
    makeup = math.exp(NEPER_PER_DB * makeup_db)

    grad_x = np.empty_like(x)
    grad_curve = np.zeros(3)
    grad_alpha_attack = grad_alpha_release = grad_makeup_db = 0.0
    carry = float(grad_state)  # (1 − α[n+1]) λ[n+1]
    for block in reversed(_blocks(len(x))):
        gain, target = forward.gain[block], forward.target_gain[block]
        previous = np.concatenate([[forward.gain[block.start - 1] if block.start else float(state)], gain[:-1]])
        attacking = target < previous
        alpha = np.where(attacking, alpha_attack, alpha_release)
        adjoint, carry = _smooth_adjoint(makeup * x[block] * grad_output[block], alpha, carry)

        step = adjoint * (target - previous)
        grad_alpha_attack += step[attacking].sum()
        grad_alpha_release += step[~attacking].sum()
        grad_makeup_db += NEPER_PER_DB * (grad_output[block] @ forward.output[block])

        grad_gain_db = NEPER_PER_DB * target * alpha * adjoint
        by_level, by_ratio, by_knee = _static_gain_derivatives(forward.level_db[block], *parameters)
        grad_curve += [-(grad_gain_db @ by_level), grad_gain_db @ by_ratio, grad_gain_db @ by_knee]
        above_floor = np.abs(x[block]) > LEVEL_FLOOR
        level_by_x = np.divide(1.0 / NEPER_PER_DB, x[block], out=np.zeros_like(target), where=above_floor)
        grad_x[block] = makeup * gain * grad_output[block] + grad_gain_db * by_level * level_by_x

    return {
        "x": grad_x,
        "threshold_db": float(grad_curve[0]),
        "ratio": float(grad_curve[1]),
        "knee_db": float(grad_curve[2]),
        "attack_ms": float(grad_alpha_attack) * _coefficient_derivative(attack_ms, sample_rate),
        "release_ms": float(grad_alpha_release) * _coefficient_derivative(release_ms, sample_rate),
        "makeup_db": float(grad_makeup_db),
        "state": carry,
    }


@dataclass(frozen=True)
class NumpyCompressor:
    """One static setting of :func:`compressor` as a model for comparison tables: it knows no controls.

    Args:
        threshold_db, ratio, knee_db, attack_ms, release_ms, makeup_db: as :func:`compressor`.
        info: what a table of scores says about it, such as how it was fitted.
    """

    threshold_db: float = -20.0
    ratio: float = 4.0
    knee_db: float = 6.0
    attack_ms: float = 5.0
    release_ms: float = 250.0
    makeup_db: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def process(self, audio: ArrayLike, sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """Compress audio with the one setting there is.

        Args:
            audio: Audio, full scale 1.
            sample_rate: Sampling rate in Hz.
            positions: Of the controls; ignored, here so that every model is called alike.

        Shape: (time,) or (batch, time), and the same out; every row starts from gain 1.

        Returns:
            Compressed audio: float32 for float32, else float64.

        Raises:
            ValueError: audio of another number of dimensions.
        """
        audio = np.asarray(audio)
        if audio.ndim not in (1, 2):
            raise ValueError(f"audio: expected shape (time,) or (batch, time), got {audio.shape}")
        output = np.empty(audio.shape, dtype=np.float32 if audio.dtype == np.float32 else np.float64)
        for row_in, row_out in zip(np.atleast_2d(audio), np.atleast_2d(output), strict=True):
            row_out[:] = self.stream(sample_rate).process(row_in)
        return output

    def stream(self, sample_rate: float, **positions: Any) -> NumpyStream:
        """The same, block by block; positions as in :meth:`process`."""
        return NumpyStream(self, sample_rate)


class NumpyStream:
    """A :class:`NumpyCompressor` that carries its gain from block to block, starting from 1.

    Args:
        model: what plays.
        sample_rate: Sampling rate in Hz.
    """

    latency_samples = 0

    def __init__(self, model: NumpyCompressor, sample_rate: float) -> None:
        self._model, self._sample_rate = model, sample_rate
        self._state = 1.0

    def process(self, block: NDArray[np.floating]) -> NDArray[np.floating]:
        """Compressed audio for the next audio, both (time,): float32 for float32, else float64."""
        model = self._model
        found = compressor(
            block,
            self._sample_rate,
            model.threshold_db,
            model.ratio,
            model.knee_db,
            model.attack_ms,
            model.release_ms,
            model.makeup_db,
            self._state,
        )
        self._state = found.state
        return found.output.astype(np.float32 if block.dtype == np.float32 else np.float64)


def _smooth(target: Array, state: float, alpha_attack: float, alpha_release: float) -> tuple[Array, float]:
    """One-pole with a coefficient for falling and one for rising gain; returns the gain and its last value."""
    gain = target.tolist()  # Python floats: indexing numpy scalars one by one takes ten times as long
    for n, wanted in enumerate(gain):
        state += (alpha_attack if wanted < state else alpha_release) * (wanted - state)
        gain[n] = state
    return np.array(gain), state


def _smooth_adjoint(source: Array, alpha: Array, carry: float) -> tuple[Array, float]:
    """λ[n] = source[n] + carry, carry = (1 − α[n]) λ[n], from the last frame to the first."""
    adjoint = []
    for value, keep in zip(source[::-1].tolist(), (1.0 - alpha[::-1]).tolist(), strict=True):
        value += carry
        adjoint.append(value)
        carry = keep * value
    return np.array(adjoint)[::-1], carry


def _static_gain_derivatives(
    level_db: Array, threshold_db: float, ratio: float, knee_db: float
) -> tuple[Array, Array, Array]:
    """Derivatives of :func:`static_gain_db` with respect to level (minus that to threshold), ratio and knee."""
    slope = 1.0 - 1.0 / ratio
    above = level_db - threshold_db
    by_level = np.where(above > 0.0, -slope, 0.0)
    by_slope = -np.maximum(above, 0.0)
    by_knee = np.zeros_like(above)
    if knee_db > 0.0:
        in_knee = np.abs(above) < 0.5 * knee_db
        into = above + 0.5 * knee_db
        by_level = np.where(in_knee, -slope * into / knee_db, by_level)
        by_slope = np.where(in_knee, -(into**2) / (2.0 * knee_db), by_slope)
        by_knee = np.where(in_knee, -slope * into * (knee_db - into) / (2.0 * knee_db**2), by_knee)
    return by_level, by_slope / ratio**2, by_knee


def _coefficient(name: str, time_ms: float, sample_rate: float) -> float:
    _require_positive("sample_rate", sample_rate)
    _require_positive(name, time_ms)
    return -math.expm1(-math.log(9.0) * 1000.0 / (time_ms * sample_rate))


def _coefficient_derivative(time_ms: float, sample_rate: float) -> float:
    rate = math.log(9.0) * 1000.0 / sample_rate
    return -math.exp(-rate / time_ms) * rate / time_ms**2


def _blocks(frames: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, frames)) for start in range(0, frames, _BLOCK)]


def _mono(name: str, audio: ArrayLike) -> Array:
    audio = np.asarray(audio, dtype=np.float64)
    if audio.ndim != 1:
        raise ValueError(f"{name}: expected mono audio of shape (time,), got shape {audio.shape}")
    return audio


def _require_positive(name: str, value: float) -> None:
    if not value > 0.0:
        raise ValueError(f"{name}: expected a value above 0, got {value}")
