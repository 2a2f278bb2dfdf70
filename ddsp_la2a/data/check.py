"""What is wrong with which pair of recordings, how badly, and what to do.

===================== ====================== ==============================================================
finding               severity               meaning
===================== ====================== ==============================================================
missing_partner       error                  an input without target or a target without input
name_not_understood   warning                a WAV file whose name says neither input nor target
unreadable            error                  not an audio file, or cut within its header
header_length         error, warning         the header promises another length than the file holds
header_fields         error                  rate, channels and sample size of the header contradict one another
sample_rate_differs   error                  within the pair, or from most of the data set
channels_differ       error                  within the pair
not_mono              error                  both have several channels
stretch_outside_file  error                  start_frame, stop_frame reach beyond an end
too_short             error                  less than a second in common
length_differs        warning, error         an end is missing (can be repaired), or a beginning (can't)
not_finite            error                  NaN or infinite samples
silence               error, warning,        a whole file; one file where the other sounds;
                      information            more than half of both
clipping              warning, information   runs at full scale in the target; in the input
lag                   information            delay of the target in samples, for every pair that allows it
lag_differs           error, warning         more than two samples from the data set's median; from zero
lag_ambiguous         warning                the recording repeats itself, its delay can't be told
unrelated             error                  the target wasn't made from this input
polarity_inverted     error                  the target is upside down
swapped_pair          error, warning         the target has more dynamics than the input: clearly; a little
duplicate_id          warning                one number, several targets or inputs
across_splits         information            input and target lie in different folders
known_erratum         information            the data set's authors know of it
===================== ====================== ==============================================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ddsp_la2a.controls import LA2A_CONTROLS, Control, unique
from ddsp_la2a.data.audio import audio_info
from ddsp_la2a.data.frame import STRETCH_COLUMNS, columns
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.data.judgements import (
    Pair,
    identity_columns,
    judge_identity,
    judge_lags_and_lengths,
    judge_measurement,
    judge_rates,
    without_partner,
)
from ddsp_la2a.data.measurements import Recording, measured
from ddsp_la2a.data.wav_header import header_faults

logger = logging.getLogger(__name__)

_FINDING_COLUMNS = ("finding", "severity", "value", "advice", "path")
"""Columns of what :func:`check` returns, beside those that say which pair it is about."""


def check(
    frame: pd.DataFrame | str | Path,
    *,
    controls: Sequence[Control] = LA2A_CONTROLS,
    progress: Callable[[int, int], object] | None = None,
) -> pd.DataFrame:
    """Look for everything that can be wrong with a data set; the table is in the module's docstring.

    Files are read in blocks and by several threads, so memory doesn't grow with their length. What was measured is kept
    in the user's cache folder: files that haven't changed since aren't read again, but for their headers.

    Args:
        frame: frame, CSV file or data set folder, see :func:`~ddsp_la2a.data.index.read_frame`. Files without a
            partner are known only of a folder or of what ``index`` gave.
        controls: of the unit.
        progress: called with whole seconds of audio that are done and their total: first with those of pairs that are
            known already, then after each pair that was measured.

    Returns:
        one row a finding: what identifies the pair (``track_id``, ``split``, ``take``, the controls), ``finding``,
        ``severity`` (error, warning, information), ``value`` (number or text), ``advice``, ``path`` of the file
        meant, the target's for what concerns both. Every pair whose delay can be measured has a row ``lag``.

    Raises:
        FileNotFoundError, ValueError: the frame itself isn't valid.
    """
    controls = unique(controls)
    frame = read_frame(frame, controls)
    pairs = [_described(Pair(row, controls)) for row in frame.itertuples(index=False)]
    audible = [(pair, pair.recording) for pair in pairs if pair.recording is not None]
    measurements = measured([recording for _, recording in audible], progress)
    for (pair, _), measurement in zip(audible, measurements, strict=True):
        judge_measurement(pair, measurement)
    judge_rates(pairs)
    judge_lags_and_lengths(pairs)
    judge_identity(pairs)
    found = [finding for pair in pairs for finding in pair.findings]
    found.extend(finding for file in frame.attrs.get("unpaired", []) for finding in without_partner(file))
    findings = pd.DataFrame(found, columns=[*identity_columns(controls), *_FINDING_COLUMNS])
    # Files without a partner may have no number, take or setting; integers stay integers beside them.
    whole = [name for name in ("track_id", *(c.name for c in controls)) if frame[name].dtype == np.int64]
    return findings.astype({**dict.fromkeys(whole, "Int64"), "value": object})


def apply_findings(
    frame: pd.DataFrame | str | Path, findings: pd.DataFrame, controls: Sequence[Control] = LA2A_CONTROLS
) -> pd.DataFrame:
    """Frame without the pairs that have an error, and limited to the common stretch where an end is missing.

    Args:
        frame: what was given to :func:`check`.
        findings: what it returned; rows may have been taken out by hand.
        controls: of the unit.

    Returns:
        a new frame; with ``start_frame`` and ``stop_frame`` where one was limited. What was left out is logged.

    Raises:
        FileNotFoundError, ValueError: the frame isn't valid, or no pair is left.
    """
    frame = read_frame(frame, controls)
    errors = findings[findings["severity"] == "error"]
    wrong = left_out(frame, findings)
    for row in frame[wrong].itertuples(index=False):
        mine = errors[errors["path"].isin([row.raw_audio_path, row.processed_audio_path])]
        logger.warning("left out %s: %s", row.processed_audio_path, ", ".join(mine["finding"].unique()))
    if wrong.all():
        raise ValueError(
            "frame: expected a pair without an error, got none; look at the findings and correct the files"
        )
    clean = frame[~wrong].reset_index(drop=True)
    clean.attrs = {}
    uneven = set(findings.loc[findings["finding"] == "length_differs", "path"])
    if not clean["processed_audio_path"].isin(uneven).any():
        return clean
    stops = []
    for row in clean.itertuples(index=False):
        shortest = min(audio_info(str(path)).frames for path in (row.raw_audio_path, row.processed_audio_path))
        stops.append(min(shortest, getattr(row, "stop_frame", shortest)))
        if row.processed_audio_path in uneven:
            logger.warning("limited %s to its first %d frames", row.processed_audio_path, stops[-1])
    starts = clean["start_frame"] if "start_frame" in clean.columns else 0
    clean = clean.assign(start_frame=starts, stop_frame=np.array(stops, dtype=np.int64))
    first = (*columns(controls), *STRETCH_COLUMNS)
    return clean[[*first, *(name for name in clean if name not in first)]]


def left_out(frame: pd.DataFrame, findings: pd.DataFrame) -> pd.Series:
    """Which rows of a frame have an error, in one of their files or both, so that :func:`apply_findings` drops them."""
    wrong = set(findings.loc[findings["severity"] == "error", "path"])
    return frame[["raw_audio_path", "processed_audio_path"]].isin(wrong).any(axis=1)


def _described(pair: Pair) -> Pair:
    """A pair with all that its headers say, and what of it is to be measured."""
    row, infos = pair.row, []
    for path in (row.raw_audio_path, row.processed_audio_path):
        faults = header_faults(path)
        for finding, severity, value, advice in faults:
            pair.add(finding, severity, value, advice, path)
        if any(fault[1] == "error" for fault in faults):
            continue
        try:
            infos.append(audio_info(str(path)))
        except ValueError as error:
            pair.add("unreadable", "error", str(error), "copy or record the file again", path)
    if len(infos) < 2:
        return pair
    pair.raw, pair.processed = raw, processed = infos
    if raw.channels != processed.channels:
        pair.add("channels_differ", "error", f"{raw.channels} and {processed.channels}", "export both as mono")
    elif raw.channels != 1:
        pair.add("not_mono", "error", raw.channels, "export both as mono")
    if raw.sample_rate != processed.sample_rate:
        value = f"{raw.sample_rate} Hz and {processed.sample_rate} Hz"
        pair.add("sample_rate_differs", "error", value, "resample one of the two, and measure its delay again")
    if raw.channels == processed.channels == 1 and raw.sample_rate == processed.sample_rate:
        common = min(raw.frames, processed.frames)
        start, stop = getattr(row, "start_frame", 0), getattr(row, "stop_frame", common)
        if stop > common:
            value = f"{start} to {stop} of {common} frames"
            pair.add("stretch_outside_file", "error", value, "change start_frame and stop_frame")
        elif stop - start < raw.sample_rate:
            pair.add("too_short", "error", stop - start, "drop it, less than a second tells nothing")
        else:
            paths = row.raw_audio_path, row.processed_audio_path
            pair.recording = Recording(*paths, int(start), int(stop), raw.sample_rate)
    return pair
