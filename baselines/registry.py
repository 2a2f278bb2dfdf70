"""The baselines by name, as the entry-point group ``ddsp_la2a.models`` lists them.

An entry point of that group is a function ``build(frame, *, controls, budget_s, seed, progress, folder)`` that fits on
the rows whose split is ``train`` (and may watch ``val``) and returns something with ``process`` (and ``stream``, if it
can: see :class:`ddsp_la2a.evaluation.playback.Model`). What it doesn't need it takes as ``**_``. One that names
``folder`` is a model that is trained for a while: there (``Path`` or None) it keeps ``seed-0`` and so on, each with a
checkpoint, the model, its history and how it came about. What is finished there for the same recordings and settings is
loaded, what isn't is resumed. Such a model also gets the ``device`` to train on; its ``history`` is a DataFrame, and
its ``info`` has ``parameters``, ``settings_seen``, ``train_seconds``, ``budget_s``,
``converged`` and ``seed``.

A package of yours can register its own; ``ddsp-la2a compare`` and ``python -m baselines`` find it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import ddsp_la2a as la
from baselines.black_box import BlackBox, train_black_box
from baselines.dasp_compressor import DASP_ADAM, DaspCompressor
from baselines.identity import Identity
from baselines.lstm import LSTM_ADAM, ConditionedLSTM
from baselines.numpy_compressor import NumpyCompressor
from baselines.output_filter import Filtered
from baselines.published import Published
from baselines.tcn import SMALL_TCN_ADAM, TCN_ADAM, ConditionedTCN
from ddsp_la2a.controls import LA2A_CONTROLS
from ddsp_la2a.fitting.gauss_newton import GaussNewtonSettings
from ddsp_la2a.model.stages import PLAIN

FILTER_TAPS = 33

Controls = Sequence[la.Control]


def _train_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] == "train"]


def identity(frame: pd.DataFrame, **_: Any) -> Identity:
    """No processing."""
    return Identity()


def identity_filter(frame: pd.DataFrame, *, controls: Controls = LA2A_CONTROLS, **_: Any) -> Filtered:
    """No processing but the output filter, 33 taps and a pole a setting."""
    return Filtered(Identity(), _train_rows(frame), FILTER_TAPS, controls)


def published_gain(frame: pd.DataFrame, *, controls: Controls = LA2A_CONTROLS, **_: Any) -> Filtered:
    """The published parameters of the LA-2A with one gain a setting."""
    return Filtered(Published(controls), _train_rows(frame), 1, controls)


def published_filter(frame: pd.DataFrame, *, controls: Controls = LA2A_CONTROLS, **_: Any) -> Filtered:
    """The published parameters of the LA-2A with the output filter, 33 taps and a pole a setting."""
    return Filtered(Published(controls), _train_rows(frame), FILTER_TAPS, controls)


def numpy_single(
    frame: pd.DataFrame, *, controls: Controls = LA2A_CONTROLS, seed: int = 0, progress: bool = False, **_: Any
) -> NumpyCompressor:
    """The numpy reference at the one static setting that fits all training rows best, whatever the controls say.

    Best by the error-to-signal ratio, for which too loud is worse than too soft: so it leans to the deepest setting.
    """
    anywhere = {control.name: control.low for control in controls}
    one_setting = _train_rows(frame).assign(**anywhere)
    # One setting for many is far from all of them, and the last digits of its attack and ratio take long.
    steps = GaussNewtonSettings(max_steps=200)
    how: dict[str, Any] = {"controls": controls, "stages": PLAIN, "seed": seed, "progress": progress}
    fitted = la.fit(one_setting, per_setting=True, gauss_newton=steps, **how)
    with torch.no_grad():
        parameters = {name: float(value) for name, value in fitted.model.params(*anywhere.values()).numbers().items()}
    return NumpyCompressor(**parameters, info={"parameters": len(parameters), **_how(fitted)})


def nearest_setting(
    frame: pd.DataFrame, *, controls: Controls = LA2A_CONTROLS, seed: int = 0, progress: bool = False, **_: Any
) -> la.GreyBox:
    """A compressor fitted to every training setting on its own; other settings take the nearest one's."""
    fitted = la.fit(_train_rows(frame), per_setting=True, controls=controls, seed=seed, progress=progress)
    return fitted.model


def optical_cell(
    frame: pd.DataFrame, *, controls: Controls = LA2A_CONTROLS, seed: int = 0, progress: bool = False, **_: Any
) -> la.GreyBox:
    """The other grey box: one optical cell for all settings, whose side-chain gain the knob turns."""
    rows = _train_rows(frame)
    return la.fit(rows, family="optical-cell", controls=controls, seed=seed, progress=progress).model


def tcn_300_c(frame: pd.DataFrame, *, folder: Path | None = None, **how: Any) -> BlackBox:
    """A causal TCN conditioned by FiLM, 32 channels, receptive field 302 ms (TCN-300-C): 50,737 weights."""
    return train_black_box("tcn-300-c", ConditionedTCN, TCN_ADAM, frame, folder=folder, **how)


def tcn_small(frame: pd.DataFrame, *, folder: Path | None = None, **how: Any) -> BlackBox:
    """The same TCN with 16 channels, receptive field 302 ms: 16,209 weights, less than half the time."""
    build = partial(ConditionedTCN, channels=16)
    return train_black_box("tcn-small", build, SMALL_TCN_ADAM, frame, folder=folder, **how)


def lstm_32(frame: pd.DataFrame, *, folder: Path | None = None, **how: Any) -> BlackBox:
    """A conditioned LSTM with 32 units: 4,769 weights."""
    return train_black_box("lstm-32", ConditionedLSTM, LSTM_ADAM, frame, folder=folder, **how)


def dasp(frame: pd.DataFrame, *, folder: Path | None = None, **how: Any) -> BlackBox:
    """The compressor of dasp-pytorch behind a knob network, attack smoothing only: 133 weights."""
    return train_black_box("dasp", DaspCompressor, DASP_ADAM, frame, folder=folder, **how)


def _how(fitted: la.FitResult) -> dict[str, Any]:
    return {name: fitted.config.get(name) for name in ("train_seconds", "converged", "seed")}
