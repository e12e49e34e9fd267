"""Histories → training batches: which event is learned from which state, in windows the towers can read.

A target is learned from the state before its whole timestamp block: the order of events that share a time (a basket)
means nothing, and sorted by id it would give the target away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from headwater_core.events import HistoryEvent
from headwater_core.histories import HistoryTensors, TextFeatures, TokenSequence, collate
from headwater_core.towers import TowerConfig


class Example(NamedTuple):
    """One subject's events, oldest first; the last `n_new` are to be scored or learned, the others are context."""

    events: Sequence[HistoryEvent]
    n_new: int


def example_of(events: Sequence[HistoryEvent], index: int, length: int) -> Example:
    """One event of a history, behind the last `length` events before its timestamp."""
    event = events[index]
    start = index
    while start and events[start - 1].event_time_us == event.event_time_us:
        start -= 1
    return Example([*events[max(0, start - length) : start], event], 1)


class Window(NamedTuple):
    """A part of a history that fits the towers, and what is learned from its states."""

    tokens: TokenSequence
    sources: np.ndarray
    """(P,) int64: the event in the window after which target p is predicted."""
    target_rows: np.ndarray
    """(P,) int64."""
    target_types: np.ndarray
    """(P,) int64."""
    target_values: np.ndarray
    """(P,) float32, normalised; NaN = none."""
    target_weights: np.ndarray
    """(P,) float32."""
    target_times_us: np.ndarray
    """(P,) int64."""


class Batch(NamedTuple):
    """Windows as tensors; sources index the (B·T) states laid out in one row."""

    tensors: HistoryTensors
    sources: Tensor
    target_rows: Tensor
    target_types: Tensor
    target_values: Tensor
    target_weights: Tensor
    target_times_us: np.ndarray


def block_starts(event_time_us: np.ndarray) -> np.ndarray:
    """For each event, the index of the first event that shares its time. (T,) in time order → (T,) int64."""
    index = np.arange(len(event_time_us))
    is_start = np.ones(len(event_time_us), bool)
    is_start[1:] = event_time_us[1:] != event_time_us[:-1]
    return np.maximum.accumulate(np.where(is_start, index, 0))


def windows(sequence: TokenSequence, weights: np.ndarray, length: int, offset: int = 0) -> list[Window]:
    """Cut a history into overlapping windows such that every target is learned once.

    From the second window on, the first quarter is only context, so every state that is used has at least a quarter
    of a window behind it.

    Args:
        sequence: the whole history.
        weights: (T,), how much each event counts as a target; 0 = it is none.
        length: of a window, in events.
        offset: how much shorter the first window's own part is, below `length`; drawn anew each epoch it varies
            what the windows see.
    """
    sources = block_starts(sequence.event_time_us) - 1
    targets = np.flatnonzero((weights > 0) & (sources >= 0) & (sequence.item_rows > 0))
    sources = sources[targets]
    stride = max(length - length // 4, 1)
    cut: list[Window] = []
    start, first = 0, 0
    stop = max(length - offset, 1)
    while first < len(sequence) and len(targets):
        stop = min(stop, len(sequence))
        chosen = (sources >= first) & (sources < stop)
        if chosen.any():
            mine = targets[chosen]
            last = int(sources[chosen].max()) + 1  # what comes after the last source is not needed
            cut.append(
                Window(
                    sequence.window(start, last),
                    sources[chosen] - start,
                    sequence.item_rows[mine],
                    sequence.type_index[mine],
                    sequence.value[mine],
                    weights[mine].astype(np.float32),
                    sequence.event_time_us[mine],
                )
            )
        first = stop
        stop = first + stride
        start = max(stop - length, 0)
    return cut


def batches(cut: Sequence[Window], batch_tokens: int, rng: np.random.Generator) -> Iterator[list[Window]]:
    """All windows once, in random order, windows of like length together, at most `batch_tokens` padded tokens each."""
    if not cut:
        return
    # Noise on the length keeps the batches from being the same ones every epoch.
    lengths = np.array([len(window.tokens) for window in cut])
    order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(cut)), kind="stable")
    groups: list[list[Window]] = [[]]
    longest = 0
    for index in order:
        longest = max(longest, int(lengths[index]))
        if groups[-1] and longest * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
            longest = int(lengths[index])
        groups[-1].append(cut[index])
    for index in rng.permutation(len(groups)):
        yield groups[index]


def to_batch(group: Sequence[Window], config: TowerConfig, text_features: TextFeatures | None) -> Batch:
    """Collate windows; their targets follow each other in the windows' order."""
    tensors = collate([window.tokens for window in group], config, text_features)
    t = tensors.item_rows.shape[1]
    sources = [index * t + window.sources for index, window in enumerate(group)]
    return Batch(
        tensors,
        torch.from_numpy(np.concatenate(sources)),
        torch.from_numpy(np.concatenate([window.target_rows for window in group])),
        torch.from_numpy(np.concatenate([window.target_types for window in group])),
        torch.from_numpy(np.concatenate([window.target_values for window in group])),
        torch.from_numpy(np.concatenate([window.target_weights for window in group])),
        np.concatenate([window.target_times_us for window in group]),
    )
