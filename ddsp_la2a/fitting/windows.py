"""Segments as training goes through them: batch by batch in an order that follows from a seed, window by window."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from ddsp_la2a.data.segments import SegmentDataset
from ddsp_la2a.fitting import distributed
from ddsp_la2a.fitting.losses import dc_filter, dc_memory

Window = tuple[Tensor, dict[str, Tensor], tuple[Tensor, Tensor] | None]
"""Estimate of a window, the window, and what the DC filters of error and target remember."""

_KEPT_IN_MEMORY_BYTES = 1 << 30


def _detached(state: Any) -> Any:
    """The same state without its past."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


def windows_of(module: nn.Module, batch: dict[str, Tensor], window_frames: int | None) -> Iterator[Window]:
    """The windows of a batch.

    The state is carried, its past cut off. What is wanted waits for a module that is late. Without gradient where
    nothing counts.
    """
    frames, late = batch["raw"].shape[1], int(module.latency)  # type: ignore[arg-type]
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    batch = {name: values.to(device) for name, values in batch.items()}
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


def counting_windows(
    module: nn.Module, items: Any, batch_size: int, window_frames: int | None, seed: int, first_batch: int
) -> Iterator[tuple[int, float, Window | None]]:
    """Endlessly the windows in which something counts, each with the number of its batch.

    The order of an epoch follows from the seed and its number alone, so that a run can go on at any batch. Several
    processes take equal parts of every batch.

    Returns:
        number of the batch, this process' share of its items, and the window; None where the share is 0.
    """
    per_epoch = -(-len(items) // batch_size)
    frames = items[0]["raw"].shape[0]
    for number in itertools.count(first_batch):
        epoch, place = divmod(number, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(items))
        chosen = order[place * batch_size : (place + 1) * batch_size]
        own = np.array_split(chosen, distributed.world())[distributed.rank()]
        windows: Iterable[Window | None]
        if len(own):
            batch = default_collate([items[int(item)] for item in own])
            windows = windows_of(module, batch, window_frames)
        else:
            windows = itertools.repeat(None, -(-frames // (window_frames or frames)))
        for window in windows:
            if distributed.any_of(window is not None and bool(window[1]["mask"].any())):
                yield number, len(own) / len(chosen), window


def in_memory(dataset: SegmentDataset) -> Any:
    """The dataset itself, or a list of its items where they are small enough to be read once."""
    first = dataset[0]
    size = sum(t.numel() * t.element_size() for t in first.values()) * len(dataset)
    return [dataset[i] for i in range(len(dataset))] if size <= _KEPT_IN_MEMORY_BYTES else dataset


def validation_error(
    module: nn.Module, batches: Iterable[dict[str, Tensor]], window_frames: int | None = None
) -> float:
    """DC-filtered error-to-signal ratio of each recording, Σ m e² / Σ m y², then the mean over recordings.

    Of several processes each gives its share of the batches, and all get the same number.
    """
    energies: dict[int, tuple[float, float]] = {}
    was_training = module.training
    module.eval()
    with torch.no_grad():
        for batch in batches:
            parts = [
                (estimate, part["processed"], part["mask"])
                for estimate, part, _ in windows_of(module, batch, window_frames)
            ]
            estimate, processed, mask = (torch.cat(found, dim=1) for found in zip(*parts, strict=True))
            error = mask * dc_filter(estimate - processed)
            wanted = mask * dc_filter(processed)
            rows = zip(batch["recording"].tolist(), error.square().sum(1), wanted.square().sum(1), strict=True)
            for recording, e, y in rows:
                before = energies.get(recording, (0.0, 0.0))
                energies[recording] = before[0] + float(e), before[1] + float(y)
    module.train(was_training)
    totals: dict[int, tuple[float, float]] = {}
    for share in distributed.gathered(energies):
        for recording, (e, y) in share.items():
            before = totals.get(recording, (0.0, 0.0))
            totals[recording] = before[0] + e, before[1] + y
    ratios = [e / y for e, y in totals.values() if y > 0]
    return sum(ratios) / max(len(ratios), 1)
