"""Training with Adam: the same loop for the grey box and for whatever it is compared with."""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.fitting import distributed
from ddsp_la2a.fitting.checkpoint import Position, Snapshot, describe_run, read_snapshot
from ddsp_la2a.fitting.losses import SegmentLoss
from ddsp_la2a.fitting.windows import counting_windows, in_memory, validation_error
from ddsp_la2a.interrupts import postponed

_LOG = logging.getLogger(__name__)
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

    With a checkpoint a run goes on where it ended, by budget, steps, Ctrl-C or a power cut, to the same weights and
    history as if it had not. One that converged isn't trained again. The file is written between batches, at most every
    30 s, and at the end; the one before stays beside it and stands in for a damaged one.

    In a process group of torch.distributed every process calls this with the same arguments. They share out each batch
    and come to what one process comes to, but for rounding; the first alone writes the checkpoint and shows a bar.

    Args:
        module: ``module(batch, state=None)`` maps stacked :class:`SegmentDataset` items to the estimate
            ``(batch, time)``, ``module.latency`` samples late, and the state after it (a tensor or a tuple of them).
            It is trained on the device that its weights are on.
        training: segments to fit.
        validation: segments to watch, or None.
        settings: how.
        description: beside the progress bar.
        progress: show one.
        checkpoint: file to resume from, if it is there, and to write to; None: nothing is written.

    Raises:
        ValueError: the checkpoint is damaged, or of other recordings, settings or first weights; or several processes
            with an STFT loss, which is no mean over segments.
        UnwritableError: the disk is full or read-only; the last checkpoint is still there.
        ConnectionError: another process has ended.
    """
    if settings.stft_weight and distributed.world() > 1:
        raise ValueError(f"stft_weight: expected 0 in several processes, got {settings.stft_weight}; start one alone")
    loss_function = SegmentLoss(settings.stft_weight)
    distributed.start_alike(module)
    optimiser = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=settings.patience, threshold=2e-3
    )
    best, start = copy.deepcopy(module.state_dict()), Position(0, 0, 0.0, [], [], float("inf"), False)
    if checkpoint is not None:
        path, run = checkpoint, describe_run(module, training, validation, settings)
        found = distributed.of_first(lambda: read_snapshot(path, run))
        if found is not None:
            best, start = found.restore(module, optimiser, plateau), found.position
    if start.converged:
        module.load_state_dict(best)
        return Training(pd.DataFrame(start.history), True, False, start.seconds)
    keeps = checkpoint is not None and distributed.rank() == 0
    windows = counting_windows(
        module, in_memory(training), settings.batch_size, settings.window_frames, settings.seed, start.batches
    )
    watched = None
    if validation is not None:
        # A generator of its own: without one the loader draws a number from the global one.
        watched = list(DataLoader(in_memory(validation), settings.batch_size, generator=torch.Generator()))
        if not any(bool((batch["mask"] * batch["processed"]).any()) for batch in watched):
            _LOG.warning("the validation rows are silent: the training loss says when to stop")
            watched = None

    frames = training.segments["stop_frame"] - training.segments["start_frame"]
    prior = settings.weight_prior_s * training.sample_rate / float(frames.sum()) / distributed.world()

    rows, losses, best_error = list(start.history), list(start.losses), start.best_error
    converged = interrupted = False
    started = written = time.monotonic()
    between_batches: Snapshot | None = None
    bar = tqdm(
        total=settings.max_steps,
        initial=start.step,
        desc=description,
        unit="step",
        disable=not progress or distributed.rank() > 0,
    )

    def seconds() -> float:
        return start.seconds + time.monotonic() - started

    def snapshot(batches: int, step: int) -> Snapshot:
        position = Position(batches, step, seconds(), list(losses), list(rows), best_error, converged)
        return Snapshot.of(position, module, best, optimiser, plateau)

    def out_of_time() -> bool:
        if settings.budget_s is None:
            return False
        budget_s = settings.budget_s
        return distributed.of_first(lambda: seconds() > budget_s)

    try:
        with distributed.interruptions() as check:
            for step in range(start.step + 1, settings.max_steps + 1):
                number, share, window = next(windows)
                check()
                loss = torch.zeros(())
                if window is not None:
                    estimate, part, memory = window
                    loss = share * loss_function(estimate, part["processed"], part["mask"], memory)
                training_loss = distributed.summed(loss.item())
                if not math.isfinite(training_loss):
                    _LOG.warning("the training loss is no longer finite: the best weights so far are kept")
                    break
                if keeps and (between_batches is None or number > between_batches.position.batches):
                    between_batches = snapshot(number, step - 1)
                    if time.monotonic() - written > _CHECKPOINT_S:
                        between_batches.write(path, run)
                        written = time.monotonic()
                losses.append(training_loss)
                if prior:
                    loss = loss + prior * module.prior_energy()  # type: ignore[operator]
                optimiser.zero_grad()
                if loss.requires_grad:
                    loss.backward()
                distributed.sum_gradients(module)
                if settings.clip_norm is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
                optimiser.step()
                bar.update()
                is_last = out_of_time()
                if step % settings.validate_every and step != settings.max_steps and not is_last:
                    continue
                mean_loss = sum(losses) / len(losses)
                error = mean_loss
                if watched is not None:
                    error = validation_error(module, distributed.shared_out(watched, check), settings.window_frames)
                error = distributed.of_first(partial(float, error))
                losses.clear()
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
                if converged and keeps:
                    between_batches = snapshot(number + 1, step)
                if converged or is_last:
                    break
    except KeyboardInterrupt:
        interrupted = True
        _LOG.warning("interrupted: the best weights so far are kept")
    finally:
        with postponed() as late:
            bar.close()
            module.load_state_dict(best)
            if between_batches is not None:
                at = replace(between_batches.position, seconds=seconds())
                replace(between_batches, position=at).write(path, run)
            interrupted = interrupted or bool(late)
            late.clear()
    interrupted = distributed.any_of(interrupted)
    return Training(pd.DataFrame(rows), converged, interrupted, seconds())
