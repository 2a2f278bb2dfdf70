"""Training with Adam: the same loop for the grey box and for whatever it is compared with."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.fitting.checkpoint import Position, Snapshot, read_snapshot, run_fingerprint
from ddsp_la2a.fitting.losses import SegmentLoss, dc_filter, dc_memory

_Window = tuple[Tensor, dict[str, Tensor], tuple[Tensor, Tensor] | None]

_LOG = logging.getLogger(__name__)
_KEPT_IN_MEMORY_BYTES = 1 << 30
_HALVINGS = 4
_CHECKPOINT_S = 30.0
"""Least time between two writings of a checkpoint."""

WEIGHT_PRIOR_S = 0.02
"""Default strength of the Gaussian prior on the network's weights; see :class:`AdamSettings`.

A compromise of two looks at rows that are scored nowhere, both by Gauss–Newton. On three SignalTrain excerpts (fit on
the first 4 s, error on the next 2 s): 0.83, 0.68 and 0.59 % at 0.006, 0.02 and 0.06 s. On the demo set's validation
rows: 0.91, 0.92 and 1.02 %."""


@dataclass(frozen=True)
class AdamSettings:
    """How to train. Most users need none of these.

    Args:
        learning_rate: of the first steps; halved each time the watched error stalls.
        batch_size: segments a step.
        max_steps: the end, converged or not.
        window_frames: cut every segment into windows of so many frames, one step each, with the state carried from
            window to window (truncated back-propagation through time), as is that of the loss's DC filter; None: one
            step a segment.
        validate_every: steps between two looks at the validation rows.
        patience: looks without an improvement of 0.2 % of the error before the rate is halved; training ends after
            four halvings.
        budget_s: wall-clock seconds, those of resumed runs together, after which it ends, converged or not; None for no
            limit.
        stft_weight: weight of the multi-resolution STFT loss beside the DC-filtered error-to-signal ratio.
        weight_prior_s: strength of the Gaussian prior whose energy the module's ``prior_energy()`` gives, in seconds:
            the loss gets that energy times ``weight_prior_s`` over the seconds of training audio, because evidence
            grows with the audio and a prior doesn't. 0 leaves it out.
        clip_norm: largest norm of the gradient of all weights together; a longer one is scaled down, so that one window
            of near silence can't undo what the others taught. None: no limit.
        seed: of the order of the segments.
    """

    learning_rate: float = 0.03
    batch_size: int = 8
    max_steps: int = 1500
    window_frames: int | None = None
    validate_every: int = 10
    patience: int = 8
    budget_s: float | None = None
    stft_weight: float = 0.0
    weight_prior_s: float = WEIGHT_PRIOR_S
    clip_norm: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """What a training run leaves beside the weights, which are the best ones seen.

    Args:
        history: one row a look: ``step``, ``seconds``, ``loss`` (training, mean since the last look),
            ``validation_esr`` (DC-filtered, mean over recordings), ``learning_rate``.
        converged: the watched error stopped falling; False where steps, budget or Ctrl-C ended it.
        interrupted: ended by Ctrl-C.
        seconds: wall-clock time of all runs that it was resumed from.
    """

    history: pd.DataFrame
    converged: bool
    interrupted: bool
    seconds: float


def _detached(state: Any) -> Any:
    """The same state without its past."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


def _windows(module: nn.Module, batch: dict[str, Tensor], window_frames: int | None) -> Iterator[_Window]:
    """Estimate of each window of a batch, the window, and what the DC filters of error and target remember.

    The state is carried, its past cut off. What is wanted waits for a module that is late. Without gradient where
    nothing counts.
    """
    frames, late = batch["raw"].shape[1], int(module.latency)  # type: ignore[arg-type]
    if late:
        wanted = ("processed", "mask")
        batch = {**batch, **{n: nn.functional.pad(batch[n], (late, 0))[:, :frames] for n in wanted}}
    window = window_frames or frames
    state, memory = None, None
    for start in range(0, frames, window):
        part = {n: t[:, start : start + window] if t.ndim == 2 else t for n, t in batch.items()}
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(part["mask"].any())):
            estimate, state = module(part, state)
        state = _detached(state)
        yield estimate, part, memory
        if start + window < frames:
            of_error, of_target = (None, None) if memory is None else memory
            error, target = estimate.detach() - part["processed"], part["processed"]
            memory = dc_memory(error, dc_filter(error, of_error)), dc_memory(target, dc_filter(target, of_target))


def _counting_windows(
    module: nn.Module, items: Any, settings: AdamSettings, first_batch: int
) -> Iterator[tuple[int, _Window]]:
    """Endlessly the windows in which something counts, each with the number of its batch.

    The order of an epoch follows from the seed and its number alone, so that a run can go on at any batch.
    """
    per_epoch = -(-len(items) // settings.batch_size)
    for number in itertools.count(first_batch):
        epoch, place = divmod(number, per_epoch)
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(items))
        chosen = order[place * settings.batch_size : (place + 1) * settings.batch_size]
        batch = default_collate([items[int(item)] for item in chosen])
        for window in _windows(module, batch, settings.window_frames):
            if bool(window[1]["mask"].any()):
                yield number, window


def _in_memory(dataset: SegmentDataset) -> Any:
    """The dataset itself, or a list of its items where they are small enough to be read once."""
    first = dataset[0]
    size = sum(t.numel() * t.element_size() for t in first.values()) * len(dataset)
    return [dataset[i] for i in range(len(dataset))] if size <= _KEPT_IN_MEMORY_BYTES else dataset


def validation_error(module: nn.Module, batches: Any, window_frames: int | None = None) -> float:
    """DC-filtered error-to-signal ratio of each recording, Σ m e² / Σ m y², then the mean over recordings."""
    errors: dict[int, float] = {}
    energies: dict[int, float] = {}
    was_training = module.training
    module.eval()
    with torch.no_grad():
        for batch in batches:
            parts = [
                (estimate, part["processed"], part["mask"])
                for estimate, part, _ in _windows(module, batch, window_frames)
            ]
            estimate, processed, mask = (torch.cat(found, dim=1) for found in zip(*parts, strict=True))
            error = mask * dc_filter(estimate - processed)
            wanted = mask * dc_filter(processed)
            rows = zip(batch["recording"].tolist(), error.square().sum(1), wanted.square().sum(1), strict=True)
            for recording, e, y in rows:
                errors[recording] = errors.get(recording, 0.0) + float(e)
                energies[recording] = energies.get(recording, 0.0) + float(y)
    module.train(was_training)
    ratios = [errors[r] / energies[r] for r in errors if energies[r] > 0]
    return sum(ratios) / max(len(ratios), 1)


def train(
    module: nn.Module,
    training: SegmentDataset,
    validation: SegmentDataset | None,
    settings: AdamSettings,
    description: str = "fit",
    progress: bool = False,
    checkpoint: Path | None = None,
) -> Training:
    """Minimise :class:`SegmentLoss` with Adam; leaves the best weights in the module.

    The validation error decides which weights are best, when the rate falls and when to stop. Without validation rows
    the training loss does. Ctrl-C ends the training early and keeps the best weights; so does a loss that is no longer
    finite.

    With a checkpoint a run goes on where it ended, by budget, steps or Ctrl-C, to the same weights and history as if it
    had not. One that converged isn't trained again. The file is written between batches, at most every 30 s, and at the
    end.

    Args:
        module: ``module(batch, state=None)`` maps stacked :class:`SegmentDataset` items to the estimate
            ``(batch, time)``, ``module.latency`` samples late, and the state after it (a tensor or a tuple of them).
        training: segments to fit.
        validation: segments to watch, or None.
        settings: how.
        description: beside the progress bar.
        progress: show one.
        checkpoint: file to resume from, if it is there, and to write to; None: nothing is written.

    Raises:
        ValueError: the checkpoint is damaged, or of other recordings, settings or first weights.
    """
    loss_function = SegmentLoss(settings.stft_weight)
    optimiser = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=settings.patience, threshold=2e-3
    )
    best, start = copy.deepcopy(module.state_dict()), Position(0, 0, 0.0, [], [], float("inf"), False)
    fingerprint = "" if checkpoint is None else run_fingerprint(module, training, validation, settings)
    found = None if checkpoint is None else read_snapshot(checkpoint, fingerprint)
    if found is not None:
        best, start = found.restore(module, optimiser, plateau), found.position
        if start.converged:
            module.load_state_dict(best)
            return Training(pd.DataFrame(start.history), True, False, start.seconds)
    windows = _counting_windows(module, _in_memory(training), settings, start.batches)
    watched = None
    if validation is not None:
        # A generator of its own: without one the loader draws a number from the global one.
        watched = list(DataLoader(_in_memory(validation), settings.batch_size, generator=torch.Generator()))
        if not any(bool((batch["mask"] * batch["processed"]).any()) for batch in watched):
            _LOG.warning("the validation rows are silent: the training loss says when to stop")
            watched = None

    frames = training.segments["stop_frame"] - training.segments["start_frame"]
    prior = settings.weight_prior_s * training.sample_rate / float(frames.sum())

    rows, losses, best_error = list(start.history), list(start.losses), start.best_error
    converged = interrupted = False
    started = written = time.monotonic()
    between_batches: Snapshot | None = None
    bar = tqdm(total=settings.max_steps, initial=start.step, desc=description, unit="step", disable=not progress)

    def seconds() -> float:
        return start.seconds + time.monotonic() - started

    def snapshot(batches: int, step: int) -> Snapshot:
        position = Position(batches, step, seconds(), list(losses), list(rows), best_error, converged)
        return Snapshot.of(position, module, best, optimiser, plateau)

    try:
        for step in range(start.step + 1, settings.max_steps + 1):
            number, (estimate, window, memory) = next(windows)
            loss = loss_function(estimate, window["processed"], window["mask"], memory)
            if not math.isfinite(loss.item()):
                _LOG.warning("the training loss is no longer finite: the best weights so far are kept")
                break
            if checkpoint is not None and (between_batches is None or number > between_batches.position.batches):
                between_batches = snapshot(number, step - 1)
                if time.monotonic() - written > _CHECKPOINT_S:
                    between_batches.write(checkpoint, fingerprint)
                    written = time.monotonic()
            losses.append(loss.item())
            if prior:
                loss = loss + prior * module.prior_energy()  # type: ignore[operator]
            optimiser.zero_grad()
            loss.backward()
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
            optimiser.step()
            bar.update()
            out_of_time = settings.budget_s is not None and seconds() > settings.budget_s
            if step % settings.validate_every and step != settings.max_steps and not out_of_time:
                continue
            mean_loss = sum(losses) / len(losses)
            losses.clear()
            error = mean_loss if watched is None else validation_error(module, watched, settings.window_frames)
            rate = optimiser.param_groups[0]["lr"]
            rows.append(
                {
                    "step": step,
                    "seconds": seconds(),
                    "loss": mean_loss,
                    "validation_esr": float("nan") if watched is None else error,
                    "learning_rate": rate,
                }
            )
            if error < best_error:
                best, best_error = copy.deepcopy(module.state_dict()), error
            plateau.step(error)
            bar.set_postfix_str(f"error {100 * error:.3g} %, best {100 * best_error:.3g} %")
            converged = rate <= settings.learning_rate * 0.5**_HALVINGS and optimiser.param_groups[0]["lr"] < rate
            if converged:
                between_batches = None if checkpoint is None else snapshot(number + 1, step)
            if converged or out_of_time:
                break
    except KeyboardInterrupt:
        interrupted = True
        _LOG.warning("interrupted: the best weights so far are kept")
    finally:
        bar.close()
        module.load_state_dict(best)
    if checkpoint is not None and between_batches is not None:
        at = replace(between_batches.position, seconds=seconds())
        replace(between_batches, position=at).write(checkpoint, fingerprint)
    return Training(pd.DataFrame(rows), converged, interrupted, seconds())
