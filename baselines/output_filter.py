"""Any model followed by the gain or short linear filter that fits the training rows best.

What a linear stage alone explains must not be counted as compression, so every table holds these rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import solve_toeplitz
from scipy.signal import correlate, lfilter

from ddsp_la2a.controls import LA2A_CONTROLS, Control, distances, in_order
from ddsp_la2a.data.audio import read_audio
from ddsp_la2a.data.frame import Setting, positions_of, stretch
from ddsp_la2a.evaluation.evaluate import SKIP_S, Model
from ddsp_la2a.evaluation.metrics import DC_FILTER
from ddsp_la2a.units import seconds_to_frames

_RIDGE = 1e-9
_LONGEST_S = 60.0


class Filtered:
    """A model and, for every training setting, one gain (``taps=1``) or one symmetric-span FIR filter after it.

    Least squares on the DC-filtered signals of the training rows, the first second left out. The filter spans
    (taps − 1) / 2 samples to either side, because targets lead their inputs by up to a sample; that latency is
    compensated. A setting that wasn't trained gets the filter of the nearest one, see
    :func:`ddsp_la2a.controls.distances`.

    Args:
        model: anything with ``process``.
        frame: rows to fit; of each at most the first minute is used.
        taps: odd number of coefficients.
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
            before = sums.get(setting, (np.zeros(taps), np.zeros(taps)))
            sums[setting] = (before[0] + auto, before[1] + cross)
        self.filters: dict[Setting, NDArray[np.float64]] = {}
        for setting, (auto, cross) in sums.items():
            auto[0] *= 1.0 + _RIDGE
            self.filters[setting] = solve_toeplitz(auto, cross) if auto[0] > 0 else np.eye(taps)[self._half]
        inner = dict(getattr(model, "info", {}))
        self.info: dict[str, Any] = {
            **inner,
            "parameters": (inner.get("parameters") or 0) + taps * len(self.filters),
            "settings_seen": sorted(self.filters),
        }

    def _products(self, row: Any, taps: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Auto- and cross-correlation of the model's output with the target, lags −half … half."""
        start, stop, sample_rate = stretch(row)
        stop = min(stop, start + seconds_to_frames(_LONGEST_S, sample_rate))
        raw, _ = read_audio(row["raw_audio_path"], start, stop)
        target, _ = read_audio(row["processed_audio_path"], start, stop)
        output = self._model.process(raw, sample_rate, **positions_of(row, self._controls))
        skip = seconds_to_frames(SKIP_S, sample_rate)
        a = lfilter(*DC_FILTER, output.astype(np.float64))[skip:]
        b = lfilter(*DC_FILTER, target.astype(np.float64))[skip:]
        middle = len(a) - 1
        auto = correlate(a, a, method="fft")[middle : middle + taps]
        cross = correlate(b, a, method="fft")[middle - self._half : middle + self._half + 1]
        return auto, cross

    def process(self, audio: NDArray[np.floating], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """Output of the model through the filter, latency compensated; ``(time,)`` or ``(batch, time)``."""
        wanted = in_order(self._controls, positions)
        output = self._model.process(np.asarray(audio, dtype=np.float32), sample_rate, **positions)
        settings = list(self.filters)
        taps = self.filters[settings[int(distances(self._controls, settings, wanted).argmin())]]
        padding = np.zeros((*output.shape[:-1], self._half))
        filtered = lfilter(taps, [1.0], np.concatenate([output, padding], axis=-1))
        return filtered[..., self._half :].astype(output.dtype)
