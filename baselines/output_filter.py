"""Any model followed by the gain or short linear filter that fits the training rows best.

What a linear stage alone explains must not be counted as compression, so every table holds these rows.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from ddsp_la2a.evaluation.scored_audio import DC_FILTER
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
        wanted = in_order(self._controls, positions)
        output = self._model.process(np.asarray(audio, dtype=np.float32), sample_rate, **positions)
        settings = list(self.filters)
        weights = self.filters[settings[int(distances(self._controls, settings, wanted).argmin())]]
        padding = np.zeros((*output.shape[:-1], self._half))
        taps = weights[: 2 * self._half + 1]
        filtered = lfilter(taps, [1.0], np.concatenate([output, padding], axis=-1))[..., self._half :]
        if len(weights) > len(taps):
            filtered += weights[-1] * _slow(output.astype(np.float64), sample_rate)
        return filtered.astype(output.dtype)


def _slow(signal: NDArray[np.float64], sample_rate: float) -> NDArray[np.float64]:
    """What the pole lets through."""
    coefficient = slow_coefficient(sample_rate)
    return np.asarray(lfilter([coefficient], [1.0, coefficient - 1.0], signal))
