"""Numbers read from a static curve and from gain over time; NaN where there is no such number, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import median_filter
from scipy.optimize import least_squares

Array = NDArray[np.float64]

RATIO_SPAN_DB = (6.0, 18.0)
"""Where above the 1 dB threshold the ratio is read."""

WIDEST_KNEE_DB = 40.0

SILENT_DB = -100.0
"""A gain below this is none."""

_LEAST_RATIO_SPAN_DB = 4.0
_FALLING_DB = 0.1  # what an output may fall while the input rises by 1 dB
_LINEAR_DB = 0.25  # what the gain may change by over the lowest 3 dB
_MISFIT_DB = 0.5
_LEAST_REDUCTION_DB = 1.0
UNREAD_PERIODS = 3  # after a fall of the level, while an output filter still rings with the loud tone


class Reading(NamedTuple):
    """A number, or NaN and the reason."""

    value: float
    reason: str = ""


def none(reason: str) -> Reading:
    """There is no such number."""
    return Reading(math.nan, reason)


def reasons_in_words(reasons: Mapping[str, str]) -> str:
    """Each reason once, behind the names of the numbers that are missing for it; empty ones are none."""
    missing: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            missing.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in missing.items())


def reasons_by_name(text: str) -> dict[str, str]:
    """Why each number is missing, from what :func:`reasons_in_words` made of it."""
    found: dict[str, str] = {}
    for part in text.split("; "):
        names, _, reason = part.partition(": ")
        found |= dict.fromkeys(names.split(", "), reason)
    return {name: reason for name, reason in found.items() if reason}


def low_level_gain_db(input_dbfs: Array, output_dbfs: Array) -> Reading:
    """Gain at the lowest level, where it is the same at the next levels."""
    gain = output_dbfs - input_dbfs
    if gain[0] < SILENT_DB:
        return none("there is no tone in the output")
    if abs(gain[3] - gain[0]) > _LINEAR_DB:
        return none(f"the gain still depends on the level at {input_dbfs[0]:g} dBFS")
    return Reading(float(gain[0]))


def threshold_dbfs(input_dbfs: Array, output_dbfs: Array, rest_db: float) -> Reading:
    """Lowest level at which the gain is 1 dB below its rest, on a monotone cubic through the static curve."""
    if math.isnan(rest_db):
        return none("no gain at low level to compare with")
    fine = np.linspace(input_dbfs[0], input_dbfs[-1], 100 * (len(input_dbfs) - 1) + 1)
    reduction = rest_db + fine - PchipInterpolator(input_dbfs, output_dbfs)(fine)
    reached = int(np.argmax(reduction >= 1.0))
    if reduction[reached] < 1.0:
        return none(f"no gain reduction of 1 dB up to {input_dbfs[-1]:g} dBFS")
    return Reading(float(np.interp(1.0, reduction[reached - 1 : reached + 1], fine[reached - 1 : reached + 1])))


def falls(input_dbfs: Array, output_dbfs: Array) -> str:
    """Why a static curve has neither ratio nor knee: it falls somewhere; else an empty text."""
    steps = np.diff(output_dbfs)
    if steps.min() >= -_FALLING_DB:
        return ""
    return f"the static curve falls at {input_dbfs[int(steps.argmin())]:g} dBFS"


def ratio(input_dbfs: Array, output_dbfs: Array, threshold: float) -> Reading:
    """Inverse slope of the line through the static curve 6 to 18 dB above the 1 dB threshold."""
    if math.isnan(threshold):
        return none("no threshold")
    if why := falls(input_dbfs, output_dbfs):
        return none(why)
    above = input_dbfs - threshold
    chosen = (above >= RATIO_SPAN_DB[0]) & (above <= RATIO_SPAN_DB[1])
    if not chosen.any() or np.ptp(input_dbfs[chosen]) < _LEAST_RATIO_SPAN_DB:
        return none(f"full scale lies less than {RATIO_SPAN_DB[0] + _LEAST_RATIO_SPAN_DB:g} dB above the threshold")
    slope = float(np.polyfit(input_dbfs[chosen], output_dbfs[chosen], 1)[0])
    return Reading(1.0 / slope if slope > 0.0 else math.inf)


class Knee(NamedTuple):
    """The quadratic knee nearest to a static curve."""

    width: Reading
    centre: Reading
    error_db: float
    """Root mean square of what is left."""


def knee(input_dbfs: Array, output_dbfs: Array, rest_db: float, threshold: float) -> Knee:
    """Width w and centre T of the quadratic knee whose curve lies nearest to the static curve, by least squares."""
    why = "no threshold" if math.isnan(threshold) else falls(input_dbfs, output_dbfs)
    if why:
        return Knee(none(why), none(why), math.nan)
    reduction = rest_db + input_dbfs - output_dbfs

    def left(centre_and_width: Array) -> Array:
        # The slope is linear in the curve, so for any centre and width the best one is known.
        into = _knee_shape(input_dbfs - centre_and_width[0], centre_and_width[1])
        power = float(into @ into)
        return np.asarray(reduction - into * ((into @ reduction) / power if power > 0.0 else 0.0))

    limits = ([input_dbfs[0], 0.0], [input_dbfs[-1], WIDEST_KNEE_DB])
    fits = []
    for width in (0.5, 4.0, 12.0, 24.0):
        centre = float(np.clip(threshold - 1.0, input_dbfs[0] + 0.5, input_dbfs[-1] - 0.5))
        fits.append(least_squares(left, [centre, width], bounds=limits, x_scale=[1.0, 3.0]))
    best = min(fits, key=lambda fit: float(fit.cost))
    centre, width = (float(value) for value in best.x)
    remains = left(best.x)
    error_db = float(np.sqrt(np.mean(np.square(remains))))
    if np.abs(remains).max() > _MISFIT_DB:
        why = f"the static curve has no quadratic knee, the nearest is {np.abs(remains).max():.1f} dB off"
    elif centre + 0.5 * width > input_dbfs[-1]:
        why = "the knee reaches beyond full scale"
    if why:
        return Knee(none(why), none(why), error_db)
    return Knee(Reading(width), Reading(centre), error_db)


def _knee_shape(above: Array, width: float) -> Array:
    """Gain reduction over level for a slope of one."""
    if width <= 0.0:
        return np.maximum(above, 0.0)
    into = np.clip(above + 0.5 * width, 0.0, width)
    return np.asarray(into**2 / (2.0 * width) + np.maximum(above - 0.5 * width, 0.0))


def attack_ms(gain: Array, rest: float, sample_rate: float, period: int) -> Reading:
    """Time in which the linear gain goes from 10 to 90 % of the way from rest to its end in the passage.

    Args:
        gain: sample by sample from the step on, linear.
        rest: gain before.
        sample_rate: in Hz.
        period: of the tone in samples.
    """
    end = float(gain[-20 * period :].mean())
    if why := _unmoved(rest, end):
        return none(why)
    # A median over a quarter of a period leaves whatever falls steadily, and takes the corners of a square wave away.
    way = (rest - median_filter(gain, period // 4 | 1, mode="nearest")) / (rest - end)
    begin, arrive = (_crossing(np.arange(len(way)) + 1.0, way, share) for share in (0.1, 0.9))
    milliseconds = 1000.0 * (arrive - begin) / sample_rate
    half_ms = 500.0 * len(gain) / sample_rate
    if not milliseconds <= half_ms:
        return none(f"it takes longer than {half_ms / 1000.0:.2g} s")
    return Reading(milliseconds)


def release_ms(gain: Array, rest: float, loud: float, share: float, sample_rate: float, period: int) -> Reading:
    """Time from the end of a loud passage until the linear gain has gone that share of its way back.

    Args:
        gain: period by period from the end of the passage on, linear.
        rest: gain before the passage.
        loud: gain at its end.
        share: 0 to 1.
        sample_rate: in Hz.
        period: of the tone in samples.
    """
    if why := _unmoved(rest, loud):
        return none(why)
    way = (smoothed(gain) - loud) / (rest - loud)
    at = 1000.0 * period / sample_rate * (np.arange(len(gain)) + 0.5)
    milliseconds = _crossing(at[UNREAD_PERIODS:], way[UNREAD_PERIODS:], share)
    if math.isnan(milliseconds):
        seconds = len(gain) * period / sample_rate
        return none(f"not back by {100.0 * share:g} % within {seconds:.0f} s")
    return Reading(milliseconds)


def smoothed(gain: Array) -> Array:
    """Mean over a twentieth of the time that has passed to either side: less noise, and hardly another exponential.

    NaN where one of these values is, and nowhere else.
    """
    number = np.arange(len(gain))
    half = np.minimum(number // 20, len(gain) - 1 - number)
    total, missing = (
        np.concatenate([[0.0], np.cumsum(part)]) for part in (np.where(np.isnan(gain), 0.0, gain), np.isnan(gain))
    )
    first, last = number - half, number + half + 1
    return np.where(missing[last] > missing[first], np.nan, (total[last] - total[first]) / (2 * half + 1))


def _unmoved(rest: float, loud: float) -> str:
    if not rest > 0.0 or not loud > 0.0:
        return "there is no output"
    if 20.0 * math.log10(rest / loud) < _LEAST_REDUCTION_DB:
        return "the loud passage reduces the gain by less than 1 dB"
    return ""


def _crossing(at: NDArray[np.floating], way: NDArray[np.floating], share: float) -> float:
    """Where a way that begins with 0 at 0 first reaches a share; NaN where it never does."""
    reached = np.flatnonzero(way >= share)
    if not len(reached):
        return math.nan
    first = int(reached[0])
    before = (0.0, 0.0) if first == 0 else (float(at[first - 1]), float(way[first - 1]))
    return before[0] + (at[first] - before[0]) * (share - before[1]) / (float(way[first]) - before[1])
