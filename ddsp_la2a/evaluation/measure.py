"""What engineers measure: threshold, ratio, knee, attack and release, read from test tones.

Of anything with ``process``, black boxes and programs too, or of a recording of :func:`tone_signal`; a model's own
parameters are not looked at. A unit may be late (up to 50 ms), turned over in polarity and coloured behind its gain:
what counts is how the ratio of output to input changes, at the tone.

**Sine or square?** Standards and data sheets measure with a sine. A detector that hears the absolute sample then sees
a level that moves between nothing and the peak all the time, and the gain settles where attack and release balance:
with t(φ) = 10^(G(L + 20 log₁₀ |sin φ|) / 20), what the static curve G asks for at a peak level of L,

    α_attack E[max(g − t, 0)] = α_release E[max(t − g, 0)]

over the phase φ: an expectile of t, near the deepest t where the attack is much quicker than the release. So a sine
is compressed less than the curve says. A hard knee and a ratio of 4 measure as follows:

============================== ====== ====== ====== ======
attack time : release time     1:200  1:50   1:10   1:1
1 dB threshold, dB higher by   0.1    0.2    0.6    2.5
ratio                          3.9    3.7    3.3    2.3
============================== ====== ====== ====== ======

The knee looks wider, too, and the attack, which works on the peaks only, takes longer; the release to a quiet tone
doesn't change. This is what such a compressor does to tones, and hardware is measured in the same way: compare sine
with sine. With ``waveform="square"`` the absolute sample stands still, and the parameters of a textbook compressor come
back as they are; it is for detectors that hear a peak, and for units with little colour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ddsp_la2a.evaluation import readings, tones
from ddsp_la2a.evaluation.evaluate import Model
from ddsp_la2a.evaluation.tones import LEVELS_DBFS, Part, Waveform, cut_to_tone, tone_signal
from ddsp_la2a.evaluation.traces import (
    processed,
    static_curve,
    static_output_dbfs,
    static_table,
    step_response,
    steps_table,
)
from ddsp_la2a.units import LEVEL_FLOOR, db_to_amplitude

__all__ = [
    "cut_to_tone",
    "measure",
    "measure_recording",
    "measure_traced",
    "measured_curves",
    "static_curve",
    "step_response",
    "tone_signal",
]

Array = NDArray[np.float64]

MEASURED = (
    "low_level_gain_db",
    "threshold_1db_dbfs",
    "ratio_measured",
    "knee_width_db",
    "knee_centre_dbfs",
    "knee_error_db",
    "attack_10_90_ms",
    "release_50_short_ms",
    "release_90_short_ms",
    "release_50_long_ms",
    "release_90_long_ms",
)
"""What is measured; see :func:`measure`."""

_OF_PASSAGES = MEASURED[-5:]

_TONE = 0.5
"""Least length of the mean of periods' phasors against the mean of their lengths: 1 for a tone, near 0 for noise."""

_STEP = 1.4
"""Least factor by which the output has to rise where the input rises by 34 dB."""

_END_PERIODS = 2
"""Of a loud passage, in which the gain at its end is read."""


class Traced(NamedTuple):
    """What was measured, and what it was read from."""

    numbers: dict[str, Any]
    """As :func:`measure` gives them."""
    static_curve: pd.DataFrame
    """As :func:`static_curve` gives it, but 15 s after the long loud passage."""
    steps: pd.DataFrame
    """As :func:`~ddsp_la2a.evaluation.traces.steps_table` gives them."""


def measure(
    model: Model, sample_rate: float = 44100.0, *, waveform: Waveform = "sine", **positions: Any
) -> dict[str, Any]:
    """Measure a model at one setting.

    ======================== ==========================================================================================
    ``low_level_gain_db``    gain at −60 dBFS: the make-up
    ``threshold_1db_dbfs``   lowest input level with 1 dB less gain than that. A quadratic knee of width w around T has
                             it at T + 1/s for w ≤ 2/s, else at T − w/2 + sqrt(2 w / s), with s = 1 − 1/ratio
    ``ratio_measured``       1 / slope of the line, by least squares, through the static curve 6 to 18 dB above this
                             threshold, or up to full scale where that is nearer; infinite where the line doesn't rise
    ``knee_width_db``        w of the gain curve −s q(L − T) nearest to the static one, by least squares over T, w, s:
                             q(d) = 0, (d + w/2)² / (2w) and d below, in and above the knee; below 1 dB it is hard
    ``knee_centre_dbfs``     its T
    ``knee_error_db``        root mean square of what this curve leaves
    ``attack_10_90_ms``      from 10 to 90 % of the change of linear gain in a step from −40 to −6 dBFS; 100 % is the
                             gain at the end of 0.5 s. Resolved to a quarter of a millisecond
    ``release_50_short_ms``  after 0.05 s at −6 dBFS: from the step back to −40 dBFS until the linear gain has gone 50 %
                             of its way, 0 % being the gain at the end of the passage and 100 % the one before all
                             passages; anything below 4 ms is at once
    ``release_90_short_ms``  the same for 90 %
    ``release_50_long_ms``   after 5 s at −6 dBFS: longer than after 0.05 s where the programme has been remembered
    ``release_90_long_ms``   the same for 90 %
    ``not_measured``         which numbers are NaN, and why; else an empty text
    ======================== ==========================================================================================

    A number is NaN where there is none: the gain depends on the level at −60 dBFS already (low-level gain, and all that
    compares with it); no level up to full scale loses 1 dB (threshold, and with it ratio and knee); the static curve
    falls by more than 0.1 dB from one dB to the next (ratio, knee); full scale lies less than 10 dB above the threshold
    (ratio); the knee reaches beyond full scale, or no quadratic knee is nearer than 0.5 dB everywhere (knee); the loud
    passage takes less than 1 dB (attack, release); the attack takes longer than 0.25 s; the gain isn't back by that
    share within 5 s after the short and 10 s after the long passage (release); the tone, or its step
    from −40 to −6 dBFS, doesn't come out; NaN or infinity does.

    Shares of linear gain, since that is what attack and release of a textbook compressor smooth: with a 10–90 % time
    of t it has 50 % after t ln 2 / ln 9 and 90 % after t ln 10 / ln 9, however deep the reduction was, so that a
    difference between short and long is memory and nothing else.

    Returns:
        :data:`MEASURED` and ``not_measured``.

    Raises:
        ValueError: a sample rate or waveform that isn't possible, or an output of another length than the input.

    References:
        D. Giannoulis, M. Massberg, J. D. Reiss, "Digital dynamic range compressor design", JAES 60(6), 2012, eq. 4.
        IEC 60268-8: attack and recovery time of automatic gain control. AES17-2020: dBFS.
    """
    output = processed(model, tone_signal(sample_rate, waveform), sample_rate, positions)
    return measure_recording(output, sample_rate, waveform=waveform)


def measure_recording(output: Any, sample_rate: float, *, waveform: Waveform = "sine") -> dict[str, Any]:
    """Measure a unit by what it made of :func:`tone_signal`.

    Args:
        output: recorded with nothing before it, at most 5 ms early or 50 ms late (:func:`cut_to_tone` finds it in
            what was recorded). Its gain doesn't matter but to the low-level gain, its polarity not at all.
        sample_rate: in Hz, of the test signal and the recording.
        waveform: of the test signal.

    Shape:
        ``(time,)``, as long as the test signal.

    Returns:
        as :func:`measure`.

    Raises:
        ValueError: another length or shape than the test signal's.
    """
    first, second = tones.passages(sample_rate, waveform), tones.levels(sample_rate, waveform)
    expected = (len(first.audio) + len(second.audio),)
    output = np.asarray(output)
    if output.shape != expected:
        raise ValueError(
            f"output: expected the shape of the test signal, {expected}, got {output.shape}; use cut_to_tone"
        )
    if not np.isfinite(output).all():
        return _row(dict.fromkeys(MEASURED, readings.none("the output isn't finite")))
    if np.abs(output).max() <= LEVEL_FLOOR:
        return _row(dict.fromkeys(MEASURED, readings.none("the output is silent")))
    before, behind = np.split(output.astype(np.float64), [len(first.audio)])
    return _row(_of_levels(static_output_dbfs(behind, second)) | _of_passages(before, first, sample_rate))


def measure_traced(
    model: Model, sample_rate: float = 44100.0, *, waveform: Waveform = "sine", **positions: Any
) -> Traced:
    """Measure a model at one setting, and keep the curves that the numbers are read from; the tone is played once.

    Args:
        model, sample_rate, waveform, positions: as in :func:`measure`.

    Raises:
        ValueError: as :func:`measure`.
    """
    first, second = tones.passages(sample_rate, waveform), tones.levels(sample_rate, waveform)
    output = processed(model, tone_signal(sample_rate, waveform), sample_rate, positions)
    before, behind = np.split(output, [len(first.audio)])
    numbers = measure_recording(output, sample_rate, waveform=waveform)
    return Traced(numbers, static_table(behind, second), steps_table(before, first, sample_rate))


def measured_curves(
    models: Mapping[str, Model], sample_rate: float = 44100.0, *, waveform: Waveform = "sine", **positions: Any
) -> pd.DataFrame:
    """Measure several models over positions of their controls.

    Args:
        models: name → anything with ``process``.
        sample_rate, waveform: as in :func:`measure`.
        positions: of all controls by name, one or several each, such as ``compress_or_limit=(0, 1),
            peak_reduction=range(0, 101, 5)``; every combination is measured.

    Returns:
        One row a model and setting: ``model``, a column a control and those of :func:`measure`.

    Raises:
        ValueError: no models, or as :func:`measure`.
    """
    if not models:
        raise ValueError("models: expected at least one, got none")
    each = [list(given) if isinstance(given, Iterable) else [given] for given in positions.values()]
    settings = [dict(zip(positions, at, strict=True)) for at in itertools.product(*each)]
    return pd.DataFrame(
        {"model": name, **at, **measure(model, sample_rate, waveform=waveform, **at)}
        for name, model in models.items()
        for at in settings
    )


def _of_levels(output_dbfs: Array) -> dict[str, readings.Reading]:
    curve = (LEVELS_DBFS, output_dbfs)
    rest = readings.low_level_gain_db(*curve)
    threshold = readings.threshold_dbfs(*curve, rest.value)
    knee = readings.knee(*curve, rest.value, threshold.value)
    return {
        "low_level_gain_db": rest,
        "threshold_1db_dbfs": threshold,
        "ratio_measured": readings.ratio(*curve, threshold.value),
        "knee_width_db": knee.width,
        "knee_centre_dbfs": knee.centre,
        "knee_error_db": readings.Reading(knee.error_db),
    }


def _of_passages(output: Array, part: Part, sample_rate: float) -> dict[str, readings.Reading]:
    late, passages = tones.latency(output, part, sample_rate), part.passages
    phasors = tones.gains(output, part, late)
    at_rest, gain = phasors[tones.steady(passages[tones.REST])], np.abs(phasors)
    rest = float(np.abs(at_rest).mean())
    if rest < db_to_amplitude(readings.SILENT_DB) or abs(at_rest.mean()) < _TONE * rest:
        return dict.fromkeys(_OF_PASSAGES, readings.none("there is no tone in the output"))
    around = tones.envelope(output, part, late - part.period, late + part.period)
    if around[part.period :].mean() < _STEP * around[: part.period].mean():
        return dict.fromkeys(_OF_PASSAGES, readings.none("the output doesn't step up with the input"))
    step = (passages[tones.STEP].stop - passages[tones.STEP].start) * part.period
    attack = tones.envelope(output, part, late, late + step)
    found = {"attack_10_90_ms": readings.attack_ms(attack, rest, sample_rate, part.period)}
    for name, recovery in (("short", tones.SHORT_RECOVERY), ("long", tones.LONG_RECOVERY)):
        start, stop = passages[recovery].start, passages[recovery].stop
        loud = float(gain[start - _END_PERIODS : start].mean())
        for share in (0.5, 0.9):
            found[f"release_{100 * share:.0f}_{name}_ms"] = readings.release_ms(
                gain[start:stop], rest, loud, share, sample_rate, part.period
            )
    return found


def _row(found: Mapping[str, readings.Reading]) -> dict[str, Any]:
    """The numbers, and why some are missing."""
    numbers = {name: float(found[name].value) for name in MEASURED}
    return numbers | {"not_measured": readings.reasons_in_words({name: found[name].reason for name in MEASURED})}
