"""What numbers are read from: the static curve and the step response of anything with ``process``, on a tone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ddsp_la2a.evaluation import readings, tones
from ddsp_la2a.evaluation.evaluate import Model
from ddsp_la2a.evaluation.tones import LEVELS_DBFS, Part, Waveform
from ddsp_la2a.units import LEVEL_FLOOR, amplitude_to_db

Array = NDArray[np.float64]

STEPS = {"up": tones.LONG, "back after short": tones.SHORT_RECOVERY, "back after long": tones.LONG_RECOVERY}
"""Steps of the level, and the passages that begin with them: up from −40 to −6 dBFS, and back after 0.05 s or 5 s."""

_A_DECADE = 24
"""Rows of a step's table for ten times the time."""


def static_curve(
    model: Model, sample_rate: float = 44100.0, *, waveform: Waveform = "sine", **positions: Any
) -> pd.DataFrame:
    """Output over input level of the steady state, from −60 to 0 dBFS.

    Peak levels of the tone; each sounds for half a second and is read between 50 and 90 % of that. The unit has rested
    before, while in :func:`~ddsp_la2a.evaluation.measure.measure` the levels come 15 s after the long loud passage.

    Args:
        model, sample_rate, waveform, positions: as in :func:`~ddsp_la2a.evaluation.measure.measure`.

    Returns:
        ``input_dbfs`` and ``output_dbfs``, 61 rows; NaN where the output isn't finite.

    Raises:
        ValueError: as :func:`~ddsp_la2a.evaluation.measure.measure`.
    """
    part = tones.levels(sample_rate, waveform)
    output = processed(model, part.audio, sample_rate, positions)
    return static_table(output, part)


def step_response(
    model: Model, sample_rate: float = 44100.0, *, waveform: Waveform = "sine", **positions: Any
) -> pd.DataFrame:
    """Gain over time around a short and a long loud passage, from −40 to −6 dBFS and back.

    Args:
        model, sample_rate, waveform, positions: as in :func:`~ddsp_la2a.evaluation.measure.measure`.

    Returns:
        One row a period of the tone (a millisecond) and passage: ``passage`` (short, long), ``time_s`` from the
        beginning of the loud passage, which ends at 0.05 or 5 s, and ``gain_db``; from half a second before it to the
        end of the recovery; NaN where the output is silent or not finite, and within 3 ms after a step back.

    Raises:
        ValueError: as :func:`~ddsp_la2a.evaluation.measure.measure`.
    """
    part = tones.passages(sample_rate, waveform)
    output = processed(model, part.audio, sample_rate, positions)
    gain_db = _audible_db(_gain(output, part, sample_rate))
    tables = []
    for name, loud in (("short", tones.SHORT), ("long", tones.LONG)):
        start, end, recovered = part.passages[loud].start, part.passages[loud].stop, part.passages[loud + 1].stop
        gain_db[end : end + readings.UNREAD_PERIODS] = np.nan
        rows = np.arange(start - round(0.5 * sample_rate / part.period), recovered)
        times = (rows - start + 0.5) * part.period / sample_rate
        tables.append(pd.DataFrame({"passage": name, "time_s": times, "gain_db": gain_db[rows]}))
    return pd.concat(tables, ignore_index=True)


def static_table(output: Array, part: Part) -> pd.DataFrame:
    """Static curve from what a unit made of :func:`~ddsp_la2a.evaluation.tones.levels`."""
    return pd.DataFrame({"input_dbfs": LEVELS_DBFS, "output_dbfs": static_output_dbfs(output, part)})


def steps_table(output: Array, part: Part, sample_rate: float) -> pd.DataFrame:
    """Gain after each of :data:`STEPS`, in rows that lie farther apart the more time has passed.

    Nothing is read within 3 ms after a step back, while an output filter still rings with the loud tone, nor within
    3 ms before the next step, of which an output filter may know. The more time has passed, the longer is the mean
    that a row holds, as in what is measured.

    Args:
        output: what a unit made of :func:`~ddsp_la2a.evaluation.tones.passages`.
        part: these.
        sample_rate: in Hz.

    Returns:
        ``level_step``, ``time_s`` from the step on, and ``tone_gain_db``; NaN where the output is silent or not finite.
    """
    gain = _gain(output, part, sample_rate)
    tables = []
    for step, passage in STEPS.items():
        start, stop = part.passages[passage].start, part.passages[passage].stop - readings.UNREAD_PERIODS
        first = 0 if step == "up" else readings.UNREAD_PERIODS
        decades = np.log10((stop - start) / (first + 0.5))
        several = np.geomspace(first + 0.5, stop - start - 0.5, round(_A_DECADE * decades))
        rows = np.unique(several.astype(int))
        times = (rows + 0.5) * part.period / sample_rate
        gain_db = _audible_db(readings.smoothed(gain[start:stop])[rows])
        tables.append(pd.DataFrame({"level_step": step, "time_s": times, "tone_gain_db": gain_db}))
    return pd.concat(tables, ignore_index=True)


def static_output_dbfs(output: Array, part: Part) -> Array:
    """Output level of the steady state at each of :data:`~ddsp_la2a.evaluation.tones.LEVELS_DBFS`."""
    gain = tones.gains(output, part)
    steady = [np.abs(gain[tones.steady(passage)].mean()) for passage in part.passages[1:]]
    return LEVELS_DBFS + np.asarray(amplitude_to_db(np.array(steady)))


def processed(model: Model, audio: Array, sample_rate: float, positions: Mapping[str, Any]) -> Array:
    """What a model makes of a test signal; NaN where that isn't finite.

    Raises:
        ValueError: an output of another length than the input.
    """
    output = np.asarray(model.process(audio.astype(np.float32), sample_rate, **positions))
    if output.shape != audio.shape:
        raise ValueError(f"model: expected output of shape {audio.shape}, got {output.shape}")
    return np.where(np.isfinite(output), output, np.nan).astype(np.float64)


def _gain(output: Array, part: Part, sample_rate: float) -> Array:
    """Gain in each period of the tone."""
    late = tones.latency(np.nan_to_num(output), part, sample_rate)
    return np.asarray(np.abs(tones.gains(output, part, late)))


def _audible_db(gain: Array) -> Array:
    """NaN where the output is silent or not finite."""
    return np.where(gain > LEVEL_FLOOR, amplitude_to_db(gain), np.nan)
