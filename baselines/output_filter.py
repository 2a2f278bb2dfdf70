"""Any model followed by the gain or short linear filter that fits the training rows best.

What a linear stage alone explains must not be counted as compression, so every table holds these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.signal import correlate, lfilter

from ddsp_la2a.controls import LA2A_CONTROLS, Control, distances, in_order
from ddsp_la2a.data.audio import read_audio
from ddsp_la2a.data.frame import Setting, positions_of, stretch
from ddsp_la2a.dsp.output_stage import slow_coefficient
from ddsp_la2a.evaluation.evaluate import SKIP_S, Model
from ddsp_la2a.evaluation.playback import BlockStream, stream_of
from ddsp_la2a.evaluation.scored_audio import DC_FILTER, Filter
from ddsp_la2a.units import seconds_to_frames

_RIDGE = 1e-9
_LONGEST_S = 60.0


class Filtered:
    """A model and, for every training setting, one gain (``taps=1``) or one short filter after it.

    Least squares on the DC-filtered signals of the training rows, the first second left out. The filter has all that
    the grey box's output filter has: taps, (taps − 1) / 2 to either side, because targets lead their inputs by up to a
    sample (that latency is compensated), and the pole at 10 Hz, beside more taps. A setting that wasn't trained gets
    the filter of the nearest one, see :func:`ddsp_la2a.controls.distances`.

    Args:
        model: anything with ``process``.
        frame: rows to fit; of each at most the first minute is used.
        taps: odd number of coefficients; from 3 on the pole comes with them.

    Attributes:
        filters: of every setting, the taps and, where there is a pole, its share last.
        controls: of the unit.
    """

    def __init__(
        self, model: Model, frame: pd.DataFrame, taps: int, controls: Sequence[Control] = LA2A_CONTROLS
    ) -> None:
        self._model = model
        self._controls = controls
        self._half = taps // 2
        sums: dict[Setting, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for row in frame.to_dict("records"):
            setting = tuple(positions_of(row, controls).values())
            auto, cross = self._products(row, taps)
            before = sums.get(setting, (0.0 * auto, 0.0 * cross))
            sums[setting] = (before[0] + auto, before[1] + cross)
        self.filters: dict[Setting, NDArray[np.float64]] = {}
        for setting, (auto, cross) in sums.items():
            matrix = auto + _RIDGE * auto[0, 0] * np.eye(len(auto))
            self.filters[setting] = np.linalg.solve(matrix, cross) if auto[0, 0] > 0 else np.eye(len(auto))[self._half]
        inner = dict(getattr(model, "info", {}))
        self.info: dict[str, Any] = {
            **inner,
            "parameters": (inner.get("parameters") or 0) + sum(map(len, self.filters.values())),
            "settings_seen": sorted(self.filters),
        }

    def _products(self, row: Any, taps: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Products of what the filter sums up of the model's output, and of that with the target."""
        start, stop, sample_rate = stretch(row)
        stop = min(stop, start + seconds_to_frames(_LONGEST_S, sample_rate))
        raw, _ = read_audio(row["raw_audio_path"], start, stop)
        target, _ = read_audio(row["processed_audio_path"], start, stop)
        output = self._model.process(raw, sample_rate, **positions_of(row, self._controls))
        skip = seconds_to_frames(SKIP_S, sample_rate)
        a = lfilter(*DC_FILTER, output.astype(np.float64))[skip:]
        b = lfilter(*DC_FILTER, target.astype(np.float64))[skip:]
        middle = len(a) - 1
        lags = slice(middle - self._half, middle + self._half + 1)
        auto = toeplitz(correlate(a, a, method="fft")[middle : middle + taps])
        cross = correlate(b, a, method="fft")[lags]
        if taps == 1:
            return auto, cross
        slow = _slow(lfilter(*DC_FILTER, output.astype(np.float64)), sample_rate)[skip:]
        between = correlate(slow, a, method="fft")[lags]
        return np.block([[auto, between[:, None]], [between, slow @ slow]]), np.append(cross, slow @ b)

    def process(self, audio: NDArray[np.floating], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """Output of the model through the filter, latency compensated; ``(time,)`` or ``(batch, time)``."""
        numerator, denominator = self._filter(sample_rate, positions)
        output = self._model.process(np.asarray(audio, dtype=np.float32), sample_rate, **positions)
        padding = np.zeros((*output.shape[:-1], self._half))
        filtered = lfilter(numerator, denominator, np.concatenate([output, padding], axis=-1))[..., self._half :]
        return filtered.astype(output.dtype)

    def stream(self, sample_rate: float, **positions: Any) -> FilteredStream | None:
        """The same, block by block and late by half the taps more; None where the model can't."""
        inner = stream_of(self._model, sample_rate, positions)
        return None if inner is None else FilteredStream(inner, self._filter(sample_rate, positions), self._half)

    def _filter(self, sample_rate: float, positions: Mapping[str, Any]) -> tuple[Sequence[float], Sequence[float]]:
        """Numerator and denominator of taps and pole together, late by half the taps."""
        wanted, settings = in_order(self._controls, positions), list(self.filters)
        weights = self.filters[settings[int(distances(self._controls, settings, wanted).argmin())]]
        taps = weights[: 2 * self._half + 1]
        if len(weights) == len(taps):
            return taps.tolist(), [1.0]
        coefficient = slow_coefficient(sample_rate)
        denominator = [1.0, coefficient - 1.0]
        numerator = np.convolve(taps, denominator)
        numerator[self._half] += weights[-1] * coefficient
        return numerator.tolist(), denominator


class FilteredStream:
    """A stream through a filter.

    Args:
        inner: what plays.
        numerator_and_denominator: of the filter.
        late: samples that the filter's output comes late.
    """

    def __init__(
        self, inner: BlockStream, numerator_and_denominator: tuple[Sequence[float], Sequence[float]], late: int
    ) -> None:
        self._inner = inner
        self._filter = Filter(*numerator_and_denominator, signals=1)
        self.latency_samples = inner.latency_samples + late

    def process(self, block: NDArray[np.float32]) -> NDArray[np.floating]:
        """The next block, filtered."""
        output = self._inner.process(block)
        return self._filter(output[None])[0].astype(output.dtype)


def _slow(signal: NDArray[np.float64], sample_rate: float) -> NDArray[np.float64]:
    """What the pole lets through."""
    coefficient = slow_coefficient(sample_rate)
    return np.asarray(lfilter([coefficient], [1.0, coefficient - 1.0], signal))
