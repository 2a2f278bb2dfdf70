"""Is one model better than another, or did it only meet the better seconds? A paired block bootstrap."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ddsp_la2a.evaluation.scored_audio import Array, PieceEnergies, WithoutDc
from ddsp_la2a.units import seconds_to_frames

BLOCK_COLUMNS = ("model", "source", "protocol", "recording", "seed", "second", "error", "target")
"""Columns of ``blocks.csv``: what :class:`BlockEnergies` gives and which model and recording it belongs to."""

BLOCK_S = 1.0
FEWEST_BLOCKS = 8
"""Fewer seconds in all say nothing about others, so there is no interval."""

_DRAWS = 4000
_LEVEL = 0.95


class BlockEnergies:
    """Energies of error and target in blocks of a second, DC-filtered; their sums make the error-to-signal ratio.

    An :class:`~ddsp_la2a.evaluation.scored_audio.Accumulator` of estimate and target.

    Args:
        sample_rate: in Hz.
    """

    def __init__(self, sample_rate: float) -> None:
        block = seconds_to_frames(BLOCK_S, sample_rate)
        self._without_dc = WithoutDc(2)
        self._energies = PieceEnergies(lambda number: number * block, 2)

    def add(self, audio: Array, skip: int) -> None:
        """Take the next frames of both."""
        estimate, target = audio
        self._energies.add(self._without_dc.add(np.stack([estimate - target, target]), skip))

    @property
    def table(self) -> pd.DataFrame:
        """``second`` (from 0, the first scored frame's; the last one may be shorter), ``error``, ``target``.

        Zeros for what is silent or constant on the scored frames.
        """
        energies = np.where(self._without_dc.silent[:, None], 0.0, self._energies.all)
        return pd.DataFrame({"second": np.arange(energies.shape[1]), "error": energies[0], "target": energies[1]})


def paired_intervals(blocks: pd.DataFrame, reference: str, seed: int = 0) -> pd.DataFrame:
    """By how much every other model's mean error differs from the reference's, with a 95 % interval.

        d = mean_r (Σ_b e_m² / Σ_b y²  −  Σ_b e_ref² / Σ_b y²)

    Seconds b are drawn with replacement within every recording r, the same ones for both models (which is what makes
    the comparison sharp), 4,000 times; the interval holds the middle 95 % of the differences. It is about these
    recordings: that others may differ more than their seconds do isn't in it. Of several seeds the mean error counts.

    Args:
        blocks: with :data:`BLOCK_COLUMNS`, several models, sources and protocols.
        reference: model to compare with; a source and protocol without it is left out.
        seed: of the draws.

    Returns:
        one row a source, protocol and model: ``source, protocol, model, reference, difference, low, high,
        distinguishable`` (the interval doesn't hold zero). With fewer than eight seconds in all, or where model and
        reference are the same, there is no interval and ``distinguishable`` is false.

    Raises:
        ValueError: a column is missing, no model of that name, or models scored on different seconds.

    References:
        B. Efron, R. J. Tibshirani, "An introduction to the bootstrap", 1993, chapters 8 and 13.
    """
    missing = [name for name in BLOCK_COLUMNS if name not in blocks.columns]
    if missing:
        raise ValueError(f"blocks: expected the columns {', '.join(BLOCK_COLUMNS)}, got none named {missing[0]}")
    if reference not in set(blocks["model"]):
        known = ", ".join(dict.fromkeys(blocks["model"]))
        raise ValueError(f"reference: expected one of {known}, got {reference!r}")
    rows = []
    for (source, protocol), part in blocks.groupby(["source", "protocol"], sort=False):
        if reference not in set(part["model"]):
            continue
        names = list(dict.fromkeys(part["model"]))
        means, draws = _errors(part, names, np.random.default_rng(seed))
        enough = len(part[["recording", "second"]].drop_duplicates()) >= FEWEST_BLOCKS
        at = names.index(reference)
        for number, name in enumerate(names):
            if name == reference:
                continue
            difference = draws[number] - draws[at]
            low, high = np.nanquantile(difference, [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2])
            sure = enough and low < high
            rows.append(
                {
                    "source": source,
                    "protocol": protocol,
                    "model": name,
                    "reference": reference,
                    "difference": means[number] - means[at],
                    "low": low if sure else np.nan,
                    "high": high if sure else np.nan,
                    "distinguishable": bool(sure and (low > 0.0 or high < 0.0)),
                }
            )
    columns = ["source", "protocol", "model", "reference", "difference", "low", "high", "distinguishable"]
    return pd.DataFrame(rows, columns=columns)


def _errors(
    blocks: pd.DataFrame, names: list[str], random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean error over recordings of every model ``(models,)``, and of every draw of seconds ``(models, draws)``."""
    means, draws, counted = np.zeros(len(names)), np.zeros((len(names), _DRAWS)), 0
    for recording, part in blocks.groupby("recording", sort=False):
        error = part.pivot_table(index="model", columns="second", values="error", aggfunc="mean").reindex(names)
        target = part.pivot_table(index="model", columns="second", values="target", aggfunc="mean").reindex(names)
        apart = (target - target.iloc[0]).abs() > 1e-9 * target.iloc[0].sum()
        if error.isna().to_numpy().any() or apart.to_numpy().any():
            raise ValueError(
                f"blocks: expected all models scored on the same seconds of {recording}, got some on others; "
                "evaluate them together"
            )
        wanted = target.to_numpy()[0]
        if not wanted.any():
            continue  # of silence there is no ratio
        counted += 1
        share = np.full(len(wanted), 1.0 / len(wanted))
        times = random.multinomial(len(wanted), share, size=_DRAWS).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            draws += (error.to_numpy() @ times.T) / (times @ wanted)
        means += error.to_numpy().sum(axis=1) / wanted.sum()
    return means / max(counted, 1), np.where(np.isfinite(draws), draws, np.nan) / max(counted, 1)
