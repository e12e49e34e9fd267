"""Histories → tensors: the one code for tokens, truncation and padding, in training and in serving."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from headwater_core.co_visits import REPEAT_EVENTS

if TYPE_CHECKING:
    from headwater_core.events import HistoryEvent
    from headwater_core.towers import TowerConfig

MAX_ABS_VALUE = 4.0
"""Normalised values are clipped to ± this: one absurd quantity must not drown a history."""
LARGEST_VALUE = 1e12
"""No value counts as larger in the statistics: the square of one of 1e200 is no number any more."""

FIRST_GAP = 0
"""The gap bucket of an event that nothing precedes, and of a query whose time is not known."""

MAX_VOCABULARY = 1_000
"""Event types that a model tells apart."""

TextFeatures: TypeAlias = Callable[[Sequence[str]], np.ndarray]
"""Texts → features (n, F); see `headwater_core.text`."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """One history as arrays of equal length T, oldest event first."""

    item_rows: np.ndarray
    """int64; 0 = no item (a search)."""
    type_index: np.ndarray
    """int64."""
    value: np.ndarray
    """float32, normalised per type and clipped; NaN = none."""
    gap: np.ndarray
    """int64, the bucket of the time since the event before."""
    event_time_us: np.ndarray
    """int64."""
    queries: tuple[str, ...]
    """As long as the arrays, "" for events that are no search; empty when none is one."""
    query_gap: int = FIRST_GAP
    """The bucket of the time from the last event to when the user is asked."""

    def __len__(self) -> int:
        """The number of events."""
        return len(self.item_rows)

    def window(self, start: int, stop: int) -> TokenSequence:
        """Events start to stop, as if nothing had come before them: what serving sees of a long history.

        It is asked when the event after it happens, where there is one.
        """
        gap = self.gap[start:stop].copy()
        gap[:1] = FIRST_GAP
        return TokenSequence(
            self.item_rows[start:stop],
            self.type_index[start:stop],
            self.value[start:stop],
            gap,
            self.event_time_us[start:stop],
            self.queries[start:stop],
            int(self.gap[stop]) if stop < len(self) else self.query_gap,
        )


class HistoryTensors(NamedTuple):
    """A batch of B histories, padded on the right to the T of the longest."""

    item_rows: Tensor
    """(B, T) int64; 0 = no item."""
    type_index: Tensor
    """(B, T) int64."""
    value: Tensor
    """(B, T) float32, NaN = none."""
    gap: Tensor
    """(B, T) int64."""
    query_features: Tensor | None
    """(B, T, F) float32, 0 where there is no query; None when the batch has none."""
    lengths: Tensor
    """(B,) int64, at least 1 each."""
    query_gap: Tensor | None = None
    """(B, T) int64, the bucket of the time from each event to the one after it, from the last one to the query; None
    where the towers do not read it."""


def tokens(
    events: Sequence[HistoryEvent],
    config: TowerConfig,
    item_row: Callable[[str], int],
    query_time_us: int | None = None,
) -> TokenSequence:
    """Turn a history into arrays; events on items without a row are dropped, searches stay.

    Args:
        events: oldest first.
        config: holds the type vocabulary and how values are normalised.
        item_row: an item's row, from 1; 0 when it has none.
        query_time_us: when the user is asked; None when that is not known.
    """
    type_index = {name: index for index, name in enumerate(config.event_types, start=1)}
    kept = [(event, item_row(event.item_id) if event.item_id else 0) for event in events]
    kept = [(event, row) for event, row in kept if row or event.query]
    types = np.fromiter((type_index.get(event.event_type, 0) for event, _ in kept), np.int64, len(kept))
    times_us = np.fromiter((event.event_time_us for event, _ in kept), np.int64, len(kept))
    raw = np.fromiter((math.nan if event.value is None else event.value for event, _ in kept), np.float64, len(kept))
    # A type outside the vocabulary has no statistics, so its values mean nothing.
    mean = np.array((math.nan, *config.value_mean))
    std = np.array((1.0, *config.value_std))
    value = np.clip((raw - mean[types]) / std[types], -MAX_ABS_VALUE, MAX_ABS_VALUE).astype(np.float32)
    has_query = any(event.query for event, _ in kept)
    query_gap = FIRST_GAP
    if query_time_us is not None and kept:
        query_gap = int(gap_buckets(np.array([times_us[-1], query_time_us]), config.n_gap_buckets)[1])
    return TokenSequence(
        np.fromiter((row for _, row in kept), np.int64, len(kept)),
        types,
        value,
        gap_buckets(times_us, config.n_gap_buckets),
        times_us,
        tuple(event.query for event, _ in kept) if has_query else (),
        query_gap,
    )


def gap_buckets(event_time_us: np.ndarray, n_buckets: int) -> np.ndarray:
    """The bucket of each event's time since the one before. (T,) int64 µs → (T,) int64.

    0: nothing before; 1: under a second (or out of order); b: 2^(b-2) to 2^(b-1) seconds; the last takes the rest.
    """
    gaps = np.full(len(event_time_us), FIRST_GAP, np.int64)
    seconds = np.maximum(np.diff(event_time_us) // 1_000_000, 0)
    gaps[1:] = np.minimum(np.floor(np.log2(np.maximum(seconds, 0.5))).astype(np.int64) + 2, n_buckets - 1)
    return gaps


def collate(
    sequences: Sequence[TokenSequence],
    config: TowerConfig,
    text_features: TextFeatures | None = None,
    read_before: Sequence[int] | None = None,
) -> HistoryTensors:
    """Batch histories: each one's last `history_length` events, padded on the right with zeros.

    Args:
        sequences: none of them empty.
        config: of the towers.
        text_features: for the queries of searches; without it a search's token says only that there was one.
        read_before: how many of each one's first events are left out, since they were read before; None: none.

    Raises:
        ValueError: when a sequence is empty: such a user has no vector, and the caller must answer otherwise.
    """
    before = read_before if read_before is not None else [0] * len(sequences)
    unread = (len(sequence) - count for sequence, count in zip(sequences, before, strict=True))
    lengths = [min(count, config.history_length) for count in unread]
    if not lengths or min(lengths) == 0:
        raise ValueError("every sequence of a batch needs at least one event")
    shape = (len(lengths), max(lengths))
    item_rows, type_index, gap = (np.zeros(shape, np.int64) for _ in range(3))
    value = np.full(shape, np.nan, np.float32)
    queries: list[tuple[int, int, str]] = []
    for b, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
        start = len(sequence) - length
        item_rows[b, :length] = sequence.item_rows[start:]
        type_index[b, :length] = sequence.type_index[start:]
        value[b, :length] = sequence.value[start:]
        gap[b, :length] = sequence.gap[start:]
        if not before[b]:
            gap[b, 0] = FIRST_GAP
        queries += [(b, t, query) for t, query in enumerate(sequence.queries[start:]) if query]
    query_gap = None
    if config.reads_query_time:
        query_gap = torch.full(shape, FIRST_GAP)
        for b, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            query_gap[b, : length - 1] = torch.from_numpy(gap[b, 1:length])
            query_gap[b, length - 1] = sequence.query_gap
    query_features = None
    if queries and text_features is not None:
        query_features = torch.zeros(*shape, config.text_dimension)
        features = text_features([query for _, _, query in queries])  # (Q, F)
        b_index, t_index = [b for b, _, _ in queries], [t for _, t, _ in queries]
        query_features[b_index, t_index] = torch.from_numpy(np.asarray(features, np.float32))
    return HistoryTensors(
        torch.from_numpy(item_rows),
        torch.from_numpy(type_index),
        torch.from_numpy(value),
        torch.from_numpy(gap),
        query_features,
        torch.tensor(lengths),
        query_gap,
    )


def kept_length(config: TowerConfig) -> int:
    """How many events of a history are kept to answer from: twice what the towers read, and what repeats are read from.

    Events on items that a generation does not know are left out first.
    """
    return max(REPEAT_EVENTS, 2 * config.history_length)


def bounded(value: float) -> float:
    """The value as statistics take it."""
    return max(-LARGEST_VALUE, min(LARGEST_VALUE, value))


def fit_vocabulary(
    config: TowerConfig,
    histories: Collection[Sequence[HistoryEvent]],
    registered: Iterable[str] = (),
    negative: Container[str] = (),
) -> TowerConfig:
    """The configuration with the event types of these histories and their values' means and deviations.

    Of more than MAX_VOCABULARY types the most frequent are kept; the others read as the unknown type.

    Args:
        config: its vocabulary is replaced.
        histories: what training will see.
        registered: names of further types, which may turn up later. A type whose values are all alike, or that has
            none, gets deviation 1.
        negative: the types that speak against their item.
    """
    met = Counter(event.event_type for events in histories for event in events)
    frequent = sorted({*met, *registered}, key=lambda name: (-met[name], name))[:MAX_VOCABULARY]
    values: dict[str, list[float]] = {name: [] for name in sorted(frequent)}
    for events in histories:
        for event in events:
            if event.value is not None and event.event_type in values:
                values[event.event_type].append(bounded(event.value))
    means = tuple(math.fsum(of_type) / max(len(of_type), 1) for of_type in values.values())
    variances = (
        math.fsum((value - mean) ** 2 for value in of_type) / max(len(of_type), 1)
        for of_type, mean in zip(values.values(), means, strict=True)
    )
    stds = tuple(math.sqrt(variance) if variance > 1e-9 else 1.0 for variance in variances)
    most_values = max(values, key=lambda name: len(values[name]), default="")
    value_type = most_values if values.get(most_values) else ""
    return replace(
        config,
        event_types=tuple(values),
        negative_types=tuple(name for name in values if name in negative),
        value_mean=means,
        value_std=stds,
        value_type=value_type,
    )
