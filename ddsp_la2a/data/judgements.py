"""The judgements behind :mod:`ddsp_la2a.data.check`: from what was measured to findings, one pair or all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ddsp_la2a.controls import LA2A_CONTROLS, Control
from ddsp_la2a.data.audio import AudioInfo
from ddsp_la2a.data.index import SPLITS
from ddsp_la2a.data.levels import Levels
from ddsp_la2a.data.measurements import Measurement, Recording
from ddsp_la2a.data.scan import LEVELS_PER_SECOND, Sound

LAG_TOLERANCE_SAMPLES = 2.0
"""Farthest a pair's delay may lie from the data set's median."""

_SILENT_PEAK = 1e-4
_GAP_SECONDS = 0.5
_LIKENESS_FLOOR = 0.1
_NO_PEAK, _AMBIGUOUS = 0.5, 0.8
_SWAP_SURE, _SWAP_LIKELY = (0.5, 0.7), (0.3, 0.3)  # score of expansion(); spread of the gain in dB

# Version 1.1 of the SignalTrain LA2A data set. Recordings this long aren't the demonstration's or a test's.
_ERRATA_SECONDS = 600.0
_DELAYED = "its target was once delayed by 8583 samples and is shorter, with the start of the input cut"
_MOVED = "its input was shipped in Train and belongs in Val, beside its target"
_ERRATA_PAIRS: dict[tuple[Any, ...], str] = {
    (148, "3c", 0, 50): _DELAYED,
    (149, "3c", 0, 55): _DELAYED,
    (150, "3c", 0, 60): _DELAYED,
    (152, "3c", 0, 70): _DELAYED,
    (245, "2c", 1, 10): _MOVED,
}
_ERRATA_FILES = (
    re.compile(r".*/train/target_235_LA2A_2c__0__70\.wav", re.I),
    re.compile(r".*/val/input_236_\.wav", re.I),
)


def identity_columns(controls: Sequence[Control]) -> tuple[str, ...]:
    """Columns that say which pair a finding is about."""
    return "track_id", "split", "take", *(control.name for control in controls)


@dataclass
class Pair:
    """A row of the frame while it is looked at."""

    row: Any
    controls: Sequence[Control]
    raw: AudioInfo | None = None
    processed: AudioInfo | None = None
    recording: Recording | None = None
    lag: float | None = None
    findings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, finding: str, severity: str, value: Any, advice: str, path: str = "") -> None:
        identity = {column: getattr(self.row, column) for column in identity_columns(self.controls)}
        path = path or self.row.processed_audio_path
        self.findings.append(
            identity | {"finding": finding, "severity": severity, "value": value, "advice": advice, "path": path}
        )


def judge_measurement(pair: Pair, measured: Measurement | ValueError) -> None:
    """Findings from the samples of a pair, whose headers agree."""
    if isinstance(measured, ValueError):
        pair.add("unreadable", "error", str(measured), "copy or record the file again")
        return
    if judge_samples(pair, measured.raw, measured.processed):
        return
    aligned = measured.alignment
    if aligned is None:
        pair.add(
            "silence", "warning", "too little sounds to measure the delay", "leave the pair out or record it again"
        )
        return
    # A noisy recording may be little like its input and still have one clear peak.
    if aligned.likeness < _LIKENESS_FLOOR and aligned.ambiguity > _NO_PEAK:
        advice = "look for its input; or its delay is beyond what is looked for"
        pair.add("unrelated", "error", round(aligned.likeness, 4), advice)
        return
    if aligned.ambiguity > _AMBIGUOUS:
        pair.add("lag_ambiguous", "warning", round(aligned.ambiguity, 3), "use a recording that doesn't repeat itself")
        return
    pair.lag = aligned.lag_samples
    pair.add("lag", "information", round(aligned.lag_samples, 3), "nothing")
    if aligned.polarity < 0:
        pair.add("polarity_inverted", "error", -1, "multiply the target by -1")
    if measured.levels is not None:
        judge_levels(pair, measured.levels)


def judge_samples(pair: Pair, x: Sound, y: Sound) -> bool:
    """Findings on single files; True where one of them is silent."""
    silent = False
    for result, path, is_target in ((x, pair.row.raw_audio_path, False), (y, pair.row.processed_audio_path, True)):
        if result.not_finite:
            advice = "copy or export the file again; a single such sample spoils a fit"
            pair.add("not_finite", "error", result.not_finite, advice, path)
        if result.clipped:
            severity = "warning" if is_target else "information"
            advice = "record again with less gain" if is_target else "harmless if the unit was fed with it"
            pair.add("clipping", severity, result.clipped, advice, path)
        if result.peak < _SILENT_PEAK:
            silent = True
            pair.add("silence", "error", "the whole file", "nothing was recorded; record again", path)
    return silent


def judge_levels(pair: Pair, levels: Levels) -> None:
    """Findings from the levels over time."""
    for missing, path in (
        (levels.processed_gaps, pair.row.processed_audio_path),
        (levels.raw_gaps, pair.row.raw_audio_path),
    ):
        if missing >= _GAP_SECONDS * LEVELS_PER_SECOND:
            value = f"{missing / LEVELS_PER_SECOND:.1f} s where the partner sounds"
            pair.add("silence", "warning", value, "a gap in the recording; limit the row to a stretch without it", path)
    if levels.paused > 0.5:
        pair.add("silence", "information", "more than half of both files", "little is learned from it")
    score, spread_db = levels.expansion, levels.spread_db
    if score is None or spread_db is None:
        return
    if score > _SWAP_SURE[0] and spread_db > _SWAP_SURE[1]:
        severity, advice = "error", "exchange the two files"
    elif score > _SWAP_LIKELY[0] and spread_db > _SWAP_LIKELY[1]:
        severity, advice = "warning", "listen which of the two is compressed"
    else:
        return
    value = f"the gain rises with the level (score {score:.2f} of 2), its standard deviation is {spread_db:.1f} dB"
    pair.add("swapped_pair", severity, value, advice)


def judge_rates(pairs: list[Pair]) -> None:
    """Pairs whose rate isn't that of most."""
    rates = Counter(pair.raw.sample_rate for pair in pairs if pair.raw and pair.processed)
    for pair in pairs:
        if pair.raw and pair.processed and pair.raw.sample_rate == pair.processed.sample_rate:
            usual = rates.most_common(1)[0][0]
            if pair.raw.sample_rate != usual:
                value = f"{pair.raw.sample_rate} Hz, most have {usual} Hz"
                pair.add("sample_rate_differs", "error", value, "resample the pair or use it on its own")


def judge_lags_and_lengths(pairs: list[Pair]) -> None:
    """Delays against the median, and which end is missing where lengths differ."""
    lags = np.sort([pair.lag for pair in pairs if pair.lag is not None])
    # Of an even number the middle one nearer to zero: the mean of both may be a delay that no pair has.
    middle = lags[(len(lags) - 1) // 2 : len(lags) // 2 + 1]
    median = float(middle[np.abs(middle).argmin()]) if len(middle) else 0.0
    for pair in pairs:
        away = 0.0 if pair.lag is None else pair.lag - median
        if abs(away) > LAG_TOLERANCE_SAMPLES:
            value = f"{pair.lag:.2f} samples, median {median:.2f}"
            cut = "target" if away > 0 else "input"
            advice = f"cut the first {abs(round(away))} samples of the {cut}, and what is too long at the other's end"
            pair.add("lag_differs", "error", value, advice)
        elif pair.lag is not None and abs(pair.lag) > LAG_TOLERANCE_SAMPLES:
            advice = "all targets are late or early by about as much; move them by the median"
            pair.add("lag_differs", "warning", f"{pair.lag:.2f} samples, as the median", advice)
        if pair.raw is None or pair.processed is None or pair.raw.sample_rate != pair.processed.sample_rate:
            continue
        missing = pair.raw.frames - pair.processed.frames
        if not missing or hasattr(pair.row, "stop_frame"):
            continue
        shorter = "target" if missing > 0 else "input"
        if abs(away) <= LAG_TOLERANCE_SAMPLES:
            value = f"the last {abs(missing)} samples of the {shorter} are missing"
            pair.add("length_differs", "warning", value, "apply_findings limits the row to what both have")
        else:
            late = round(away)
            lacking = f"the target lacks the first {-late} samples"
            head = f"the target starts {late} samples late" if late > 0 else lacking
            tail = missing + late  # where the input ends in the target, against the target's end
            end = f"the {'target' if tail > 0 else 'input'} lacks the last {abs(tail)}" if tail else "both end together"
            pair.add("length_differs", "error", f"{head}, {end}", "cut the beginnings alike; cutting the ends won't do")


def judge_identity(pairs: list[Pair]) -> None:
    """Numbers that stand for several targets, pairs across folders, and what the authors know of."""
    files: dict[int, set[str]] = {}
    for pair in pairs:
        files.setdefault(pair.row.track_id, set()).add(pair.row.processed_audio_path)
    for pair in pairs:
        row = pair.row
        if len(files[row.track_id]) > 1:
            advice = "make sure that each was made from its input, and give each a number of its own"
            pair.add("duplicate_id", "warning", f"{len(files[row.track_id])} targets", advice)
        folders = [Path(path).parent.as_posix() for path in (row.raw_audio_path, row.processed_audio_path)]
        across = folders[0].lower() != folders[1].lower() and Path(folders[1]).name.lower() == row.split
        long = pair.processed is not None and pair.processed.seconds > _ERRATA_SECONDS
        setting = tuple(getattr(row, control.name) for control in pair.controls)
        erratum = _ERRATA_PAIRS.get((row.track_id, row.take, *setting))
        if erratum and long and (across or erratum != _MOVED):
            pair.add("known_erratum", "information", erratum, "nothing, unless there is an error beside it")
        if across and Path(folders[0]).name.lower() in SPLITS:
            advice = f"nothing; the pair counts as {row.split}"
            pair.add("across_splits", "information", f"the input lies in {Path(folders[0]).name}", advice)


def without_partner(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Findings on a file that :func:`~ddsp_la2a.data.index.index` left over."""
    finding = {column: file[column] for column in identity_columns(LA2A_CONTROLS)} | {"path": file["path"]}
    finding["take"] = file["take"] or ""
    if file["kind"] == "unknown":
        advice = "rename the file if it is one of the recordings"
        finding |= {"finding": "name_not_understood", "severity": "warning"}
        yield finding | {"value": file["reason"], "advice": advice}
        return
    advice = "find its partner or delete it; it isn't used"
    yield finding | {"finding": "missing_partner", "severity": "error", "value": file["reason"], "advice": advice}
    if any(pattern.fullmatch(file["path"]) for pattern in _ERRATA_FILES):
        value = "shipped without a partner"
        yield finding | {"finding": "known_erratum", "severity": "information", "value": value, "advice": "delete it"}
