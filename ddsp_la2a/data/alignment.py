"""How a target lies against its input: delay, polarity, likeness, and which of the two was compressed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

LAG_RANGE = 16384
"""Largest delay looked for, in samples, either way."""

STRETCH_FRAMES = 65536
"""Length of the stretches that are correlated."""

_PEAK_WIDTH = 64
_STEPS = 16
_ACTIVE_RANGE_DB = 40.0
_FEWEST_LEVELS = 50


@dataclass(frozen=True)
class Alignment:
    """Delay of a target against its input.

    Args:
        lag_samples: positive where the target is late, with a fraction.
        polarity: 1, or −1 where the target is upside down.
        likeness: 0 to 1, height of the whitened correlation's peak; 1 is a plain delay.
        ambiguity: 0 to 1, the next highest peak against the highest; near 1 for periodic signals.
    """

    lag_samples: float
    polarity: int
    likeness: float
    ambiguity: float


def alignment(stretches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Alignment | None:
    """Delay of a target against its input from several stretches of both.

    The cross-spectra S_xy of the stretches, each scaled to the same energy, are summed. Their whitened correlation,
    the inverse transform of S_xy / √(S_xx S_yy) (Knapp & Carter 1976, "SCOT"), has a peak one sample wide even
    for bass-heavy music; a compressor, whose gain hardly moves within a period, leaves it where it is. It gives the
    whole sample and, by its sign, the polarity. The fraction is where the plain correlation is highest within one
    sample of there: band-limited interpolation at sixteenths of a sample, then a parabola.

    Args:
        stretches: (input, target) from the same place of both files; silent ones are left out. All of the same length.

    Shape:
        each ``(time,)``, longer than the largest lag of interest; at most :data:`LAG_RANGE` is looked for.

    Returns:
        :class:`Alignment`, or None where nothing sounds.
    """
    size = reach = 0
    power_x, power_y, cross, window = np.zeros(1), np.zeros(1), np.zeros(1, dtype=complex), np.zeros(0)
    for x, y in stretches:
        x, y = (np.nan_to_num(z.astype(np.float64), posinf=0.0, neginf=0.0) for z in (x, y))
        energy = np.sqrt(np.sum(x * x)), np.sqrt(np.sum(y * y))
        if min(energy) < 1e-4 * np.sqrt(len(x)):
            continue
        if not size:
            size = 2 << (len(x) - 1).bit_length()
            reach = min(LAG_RANGE, len(x) - 1)
            # It keeps the stretch's edges, which stand at the same place in both, from being taken for sound.
            window = np.hanning(len(x))
        spectrum_x, spectrum_y = np.fft.rfft(window * x / energy[0], size), np.fft.rfft(window * y / energy[1], size)
        power_x = power_x + np.abs(spectrum_x) ** 2
        power_y = power_y + np.abs(spectrum_y) ** 2
        cross = cross + spectrum_y * spectrum_x.conj()
    if not size:
        return None
    power = np.sqrt(power_x * power_y)
    # Bins 60 dB below the strongest hold noise only and get no say.
    floored = power + 1e-6 * power.max()
    correlation = np.fft.irfft(cross / floored, size)
    correlation = np.concatenate([correlation[-reach:], correlation[: reach + 1]]) if reach else correlation[:1]
    best = int(np.abs(correlation).argmax())
    height = correlation[best]
    aside = np.abs(np.arange(len(correlation)) - best) > _PEAK_WIDTH
    return Alignment(
        lag_samples=_refined(cross * np.sign(height), size, best - reach),
        polarity=1 if height > 0 else -1,
        likeness=float(np.abs(height) * size / (2.0 * np.sum(power / floored))),
        ambiguity=float(np.abs(correlation[aside]).max(initial=0.0) / np.abs(height)),
    )


def _refined(cross: np.ndarray, size: int, whole: int) -> float:
    """Highest point of the plain correlation within one sample of a whole lag."""
    steps = np.arange(-_STEPS, _STEPS + 1) / _STEPS
    turn = 2j * np.pi * np.arange(len(cross)) / size
    turned = cross * np.exp(turn * whole)
    values = np.array([np.sum(turned * np.exp(turn * step)).real for step in steps])
    best = int(values.argmax())
    if not 0 < best < len(steps) - 1:  # phase shifts of bass may move it further; then the whitened peak's edge stands
        return whole + float(steps[best])
    before, top, after = values[best - 1 : best + 2]
    return whole + float(steps[best] + 0.5 * (before - after) / (before - 2.0 * top + after) / _STEPS)


def expansion(raw_levels_db: np.ndarray, processed_levels_db: np.ndarray) -> tuple[float, float] | None:
    """Whether a target looks expanded (above 0) or compressed (below 0) against its input.

    With g = L_y − L_x the gain and m = (L_x + L_y) / 2 the level of short frames in dB, the score is

        corr(g, m) + corr(Δg, m)

    Where it is loud, a compressor's gain is low, and it is falling. The first alone isn't enough: short drum hits
    pass before the attack is over and the gain is low only after them. Exchanging input and target changes the sign of
    both terms. Only frames within 40 dB of the loudest in both files count, so neither noise floor has a say.

    Args:
        raw_levels_db: level of the input, one a frame.
        processed_levels_db: of the target, aligned.

    Shape:
        ``(levels,)`` both.

    Returns:
        the score, −2 to 2, and the standard deviation of the gain in dB; None where too little sounds.
    """
    length = min(len(raw_levels_db), len(processed_levels_db))
    x, y = raw_levels_db[:length], processed_levels_db[:length]
    if not length:
        return None
    active = (x > x.max() - _ACTIVE_RANGE_DB) & (y > y.max() - _ACTIVE_RANGE_DB)
    gain, level = y - x, 0.5 * (x + y)
    steady = active[1:] & active[:-1]
    if steady.sum() < _FEWEST_LEVELS:
        return None
    change, between = np.diff(gain)[steady], (0.5 * (level[1:] + level[:-1]))[steady]
    score = _correlation(gain[active], level[active]) + _correlation(change, between)
    return score, float(np.std(gain[active]))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if min(np.std(a), np.std(b)) < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
