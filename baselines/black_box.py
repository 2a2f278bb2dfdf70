"""What all black boxes share: ``process``, and one training with the grey box's data, loss and stopping rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddsp_la2a.controls import LA2A_CONTROLS, Control, in_order, unique
from ddsp_la2a.data.frame import settings_of, stretch
from ddsp_la2a.data.index import read_frame
from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.files import replacing
from ddsp_la2a.fitting import distributed
from ddsp_la2a.fitting.checkpoint import describe_run
from ddsp_la2a.fitting.gradient import AdamSettings, train
from ddsp_la2a.interrupts import postponed
from ddsp_la2a.model.control_net import network_inputs
from ddsp_la2a.model.tensor_file import read_tensors, write_tensors

FORMAT_VERSION = 1

HELD_OUT = 0.2
"""Share of every training row, at its end, that says when to stop where there are no ``val`` rows."""

_FAMILY = "black-box"
_BLOCK_S = 6.0
_SEGMENT_S = 3.0
_SKIP_S = 1.0
_MODEL = "model.safetensors"


class BlackBox(nn.Module):
    """A causal network at one sample rate; a subclass has ``forward(batch, state=None)``.

    Args:
        sample_rate: rate it is trained at, Hz; audio at another rate is resampled there and back.
        controls: of the unit.

    Attributes:
        warmup_s: audio before a segment in which its state settles, seconds.
        info: ``parameters``, and how it was trained: ``settings_seen``, ``train_seconds``, ``budget_s``, ``converged``,
            ``interrupted``, ``seed`` and ``validation`` (what said when to stop).
        history: of the training, see :class:`~ddsp_la2a.fitting.gradient.Training`; empty before.
    """

    latency = 0

    def __init__(self, sample_rate: int, controls: Sequence[Control]) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.controls = unique(controls)
        self.warmup_s = 1.0
        self.history = pd.DataFrame()
        self.info: dict[str, Any] = {}

    def count_parameters(self) -> None:
        """Put the number of weights into ``info``."""
        self.info["parameters"] = sum(p.numel() for p in self.parameters())

    def positions(self, batch: dict[str, Tensor]) -> Tensor:
        """Positions of the controls ``(batch, controls)`` of stacked segments."""
        return torch.stack([batch[control.name].float() for control in self.controls], dim=-1)

    def conditions(self, batch: dict[str, Tensor]) -> Tensor:
        """The controls as a network takes them, ``(batch, inputs)``, each from −1 to 1."""
        return network_inputs(self.controls, self.positions(batch))

    def process(self, audio: NDArray[np.floating], sample_rate: float, **positions: Any) -> NDArray[np.floating]:
        """Processed audio ``(time,)`` or ``(batch, time)``, block by block with the state carried."""
        raw = torch.from_numpy(np.asarray(audio, dtype=np.float32))
        at_own_rate = _resampled(raw, sample_rate, self.sample_rate).numpy()
        output = torch.from_numpy(BoxStream(self, positions).process(at_own_rate))
        return _resampled(output, self.sample_rate, sample_rate)[..., : raw.shape[-1]].numpy()

    def stream(self, sample_rate: float, **positions: Any) -> BoxStream | None:
        """The same, block by block; None at another rate, because resampling takes the whole."""
        return BoxStream(self, positions) if sample_rate == self.sample_rate else None


class BoxStream:
    """A black box at its own rate that carries its state from block to block.

    Args:
        box: what plays.
        positions: of all controls by name.
    """

    latency_samples = 0

    def __init__(self, box: BlackBox, positions: Mapping[str, Any]) -> None:
        self._box = box
        self._wanted = dict(zip(box.controls, in_order(box.controls, positions), strict=True))
        self._state: Any = None

    def process(self, block: NDArray[np.floating]) -> NDArray[np.floating]:
        """Processed audio for the next audio ``(time,)`` or ``(batch, time)``."""
        raw = torch.from_numpy(np.atleast_2d(np.asarray(block, dtype=np.float32)))
        at = {control.name: torch.full((len(raw),), float(position)) for control, position in self._wanted.items()}
        outputs = []
        with torch.no_grad():
            for part in raw.split(round(_BLOCK_S * self._box.sample_rate), dim=1):
                output, self._state = self._box({"raw": part, **at}, self._state)
                outputs.append(output)
        return torch.cat(outputs, dim=1).numpy().reshape(np.shape(block))


def _resampled(audio: Tensor, rate: float, wanted: float) -> Tensor:
    if rate == wanted:
        return audio
    try:
        from torchaudio.functional import resample
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"torchaudio is needed to resample {rate:g} Hz to {wanted:g} Hz and doesn't load here ({error}); "
            "install a torchaudio that matches torch, or give audio at the rate of the model"
        ) from error
    return resample(audio, round(rate), round(wanted))


class Builder(Protocol):
    """An untrained black box for a rate and a unit."""

    def __call__(self, sample_rate: int, *, seed: int, controls: Sequence[Control]) -> BlackBox: ...


def train_black_box(
    name: str,
    build: Builder,
    settings: AdamSettings,
    frame: pd.DataFrame,
    *,
    controls: Sequence[Control] = LA2A_CONTROLS,
    budget_s: float,
    seed: int = 0,
    progress: bool = False,
    folder: Path | None = None,
    device: str = "cpu",
) -> BlackBox:
    """Train a black box on the same rows, with the same loss and stopping rule as the grey box by Adam.

    It is trained until the DC-filtered error of the ``val`` rows stops falling: ``settings.patience`` looks without an
    improvement of 0.2 % of it, after four halvings of the learning rate. Without ``val`` rows the last 20 % of every
    training row are held out to decide that, warmed up by what is before them: a black box that watched its training
    loss would learn a few seconds by heart. ``info["validation"]`` says which it was.

    Args:
        name: beside the progress bar.
        build: gives the untrained module.
        settings: how; ``budget_s`` and ``seed`` are put in.
        frame: rows whose split is ``train`` and ``val``; others are never looked at.
        controls: of the unit.
        budget_s: wall-clock seconds, those of resumed runs together; ``info["converged"]`` says whether they sufficed.
        seed: of weights and order.
        progress: show a bar.
        folder: where ``seed-0`` (or another seed) keeps ``checkpoint.safetensors``, ``model.safetensors``,
            ``history.csv`` and ``config.json``. What converged there, or took its budget, is loaded, else resumed.
            None: nothing is kept.
        device: to train on, such as ``cuda``; the module is back on the CPU afterwards.

    Raises:
        ValueError: no rows to train on, no such device, or the folder holds a model of other recordings or settings.
    """
    where = distributed.placed(device)
    rows = read_frame(frame[frame["split"].isin(["train", "val"])], controls)
    fitted = rows[rows["split"] == "train"]
    if fitted.empty:
        raise ValueError("frame: expected rows whose split is 'train', got none; set the split column")
    module = build(stretch(fitted.iloc[0].to_dict())[2], seed=seed, controls=controls)
    training, validation, watched = _datasets(rows, module)
    settings = replace(settings, budget_s=budget_s, seed=seed)
    place = None if folder is None else Path(folder) / f"seed-{seed}"
    fingerprint = describe_run(module, training, validation, settings).fingerprint
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        if _loaded(module, place, fingerprint, budget_s):
            return module.eval()
    checkpoint = None if place is None else place / "checkpoint.safetensors"
    ran = train(module.to(where), training, validation, settings, name, progress, checkpoint)
    module.cpu()
    module.history = ran.history
    module.info |= {
        "settings_seen": settings_of(training.frame, controls),
        "train_seconds": round(ran.seconds, 2),
        "budget_s": budget_s,
        "converged": ran.converged,
        "interrupted": ran.interrupted,
        "seed": seed,
        "validation": watched,
    }
    if place is not None and distributed.rank() == 0:
        _keep(module, place, fingerprint, {"name": name, **module.info, "adam": asdict(settings)})
    return module.eval()


def _datasets(rows: pd.DataFrame, module: BlackBox) -> tuple[SegmentDataset, SegmentDataset, str]:
    """Segments to train and to watch, and in words what is watched."""
    fitted, watched = (rows[rows["split"] == split].reset_index(drop=True) for split in ("train", "val"))
    told, skips = "val rows", [_SKIP_S] * len(watched)
    if watched.empty:
        told = f"the last {HELD_OUT:.0%} of every training row"
        spans = [stretch(row) for row in fitted.to_dict("records")]
        starts, stops = [start for start, _, _ in spans], [stop for _, stop, _ in spans]
        edges = [stop - round(HELD_OUT * (stop - start)) for start, stop, _ in spans]
        watched = fitted.assign(start_frame=starts, stop_frame=stops)
        fitted = fitted.assign(start_frame=starts, stop_frame=edges)
        skips = [max(_SKIP_S, (edge - start) / rate) for (start, _, rate), edge in zip(spans, edges, strict=True)]
    how = (_SEGMENT_S, module.warmup_s)
    training = SegmentDataset(fitted, *how, _SKIP_S, module.controls)
    return training, SegmentDataset(watched, *how, skips, module.controls), told


def _keep(module: BlackBox, place: Path, fingerprint: str, config: dict[str, Any]) -> None:
    """Write the trained model beside its checkpoint, the model file last: what it belongs to is there before it."""
    texts = {
        "history.csv": module.history.to_csv(index=False, lineterminator="\n"),
        "config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
    }
    described = {
        "format_version": FORMAT_VERSION,
        "family": _FAMILY,
        "fingerprint": fingerprint,
        "info": module.info,
        "history": module.history.to_dict("records"),
    }
    with postponed():
        for name, text in texts.items():
            with replacing(place / name) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
        write_tensors(place / _MODEL, described, module.state_dict())


def _loaded(module: BlackBox, place: Path, fingerprint: str, budget_s: float) -> bool:
    """Whether a model was finished there; if so the module has its weights, information and history."""
    path = place / _MODEL
    found_there = distributed.of_first(
        lambda: read_tensors(path, "model file", (FORMAT_VERSION,)) if path.exists() else None
    )
    if found_there is None:
        return False
    described, tensors = found_there
    try:
        found, info = described["fingerprint"], dict(described["info"])
        if found != fingerprint:
            raise ValueError("it was trained on other recordings or with other settings")
        if not (info["converged"] or (info["train_seconds"] >= budget_s and not info["interrupted"])):
            return False
        module.load_state_dict(tensors)
        module.history = pd.DataFrame(described["history"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a model of these recordings and settings, got another ({error}); name another folder, "
            "or delete this one to begin anew"
        ) from error
    module.info = {**info, "settings_seen": [tuple(setting) for setting in info["settings_seen"]]}
    return True
