"""Sums over blocks that the errors in the time domain are made of.

Conventions as in :mod:`~ddsp_la2a.evaluation.metrics`, whose functions say what each error is.
"""

from __future__ import annotations

import math

import numpy as np

from ddsp_la2a.evaluation.scored_audio import Array, Energies, WithoutDc

_ESTIMATE, _TARGET, _ERROR = range(3)

_LEAST_ENERGY = 1e-200
"""Of a block that a gain is fitted to: in digital silence a filter rings on, until no digits are left."""


class Errors:
    """Errors of an estimate in the time domain, plain and DC-filtered.

    Attributes are called as the functions of :mod:`~ddsp_la2a.evaluation.metrics`.
    """

    def __init__(self) -> None:
        self._plain, self._without_dc = Energies(3), WithoutDc(3)
        self._deviation = 0.0
        self._best = _BestGain()

    def add(self, audio: Array, skip: int) -> None:
        """Take the next frames of estimate and target."""
        estimate, target = audio
        signals = np.stack([estimate, target, estimate - target])
        self._plain.add(signals[:, skip:])
        self._deviation += float(np.abs(signals[_ERROR, skip:]).sum())
        filtered = self._without_dc.add(signals, skip)
        self._best.add(filtered[_ESTIMATE], filtered[_TARGET])

    @property
    def esr(self) -> float:
        energies, silent = self._plain.sums, self._plain.silent
        return math.nan if silent[_TARGET] else float(energies[_ERROR] / energies[_TARGET])

    @property
    def esr_dc_filtered(self) -> float:
        return self._share(self._without_dc.energies[_ERROR])

    @property
    def esr_best_gain(self) -> float:
        rest = self._without_dc.energies[_TARGET] if self._without_dc.silent[_ESTIMATE] else self._best.residual
        return self._share(rest)

    @property
    def gain_offset_db(self) -> float:
        product = self._product
        return 20.0 * math.log10(abs(product / self._without_dc.energies[_ESTIMATE])) if product else math.nan

    @property
    def mae(self) -> float:
        return self._deviation / self._plain.frames

    @property
    def polarity(self) -> float:
        return float(np.sign(self._product))

    @property
    def _product(self) -> float:
        """Of estimate and target, DC-filtered; zero where either is silent."""
        return 0.0 if self._without_dc.silent[[_ESTIMATE, _TARGET]].any() else self._best.product

    def _share(self, energy: float) -> float:
        """Of the target's energy, DC-filtered."""
        wanted = self._without_dc.energies[_TARGET]
        return float(energy / wanted) if wanted else math.nan


class _BestGain:
    """Least squares in one unknown over blocks: y ≈ g ŷ.

    Two fits a and b, of gains g and energies E of ŷ, make one whose residual is a sum of what can't be negative, so
    that nothing cancels however small it is::

        R = R_a + R_b + E_a E_b / (E_a + E_b) (g_a − g_b)²

    Attributes:
        product: ⟨ŷ, y⟩.
        residual: min_g ‖g ŷ − y‖².

    References:
        T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979.
    """

    def __init__(self) -> None:
        self.product = self.residual = 0.0
        self._energy = 0.0

    def add(self, y_hat: Array, y: Array) -> None:
        """Take the next frames."""
        energy, product, gain = float(y_hat @ y_hat), float(y_hat @ y), 0.0
        if energy > _LEAST_ENERGY:
            gain = product / energy
            if self._energy:
                between = gain - self.product / self._energy
                self.residual += self._energy / (self._energy + energy) * energy * between**2
            self._energy += energy
            self.product += product
        rest = gain * y_hat - y
        self.residual += float(rest @ rest)
