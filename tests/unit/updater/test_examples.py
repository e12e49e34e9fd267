"""Histories → windows and batches: every target once, from a state that may know it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headwater_core.events import HistoryEvent
from headwater_core.histories import TokenSequence, gap_buckets, tokens
from headwater_core.towers import TowerConfig
from headwater_updater.examples import batches, block_starts, to_batch, windows

CONFIG = TowerConfig(dimension=16, history_length=8, event_types=("click",), value_mean=(0.0,), value_std=(1.0,))


def sequence(seconds: list[int]) -> TokenSequence:
    """Event i is on item row i + 1, at the given second."""
    events = [HistoryEvent(i, second * 1_000_000, "click", str(i + 1)) for i, second in enumerate(seconds)]
    return tokens(events, CONFIG, int)


def test_block_starts_are_the_first_events_of_their_time() -> None:
    """Events of one time share the index of the first of them."""
    assert block_starts(np.array([1, 1, 2, 3, 3, 3])).tolist() == [0, 0, 2, 3, 3, 3]
    assert block_starts(np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("n", [2, 7, 8, 9, 40])
@pytest.mark.parametrize("offset", [0, 3, 7])
def test_every_target_is_learned_once_from_the_event_before(n: int, offset: int) -> None:
    """Over all windows each event but the first is a target once, and its source is the event before it."""
    cut = windows(sequence(list(range(n))), np.ones(n), 8, offset)
    pairs = [
        (int(window.tokens.item_rows[source]), int(target))
        for window in cut
        for source, target in zip(window.sources, window.target_rows, strict=True)
    ]
    assert sorted(pairs) == [(row, row + 1) for row in range(1, n)]
    assert all(len(window.tokens) <= 8 for window in cut)


def test_later_windows_have_context() -> None:
    """From the second window on, every source has at least a quarter of a window before it."""
    for window in windows(sequence(list(range(60))), np.ones(60), 8)[1:]:
        assert window.sources.min() >= 2


def test_no_target_is_learned_from_its_own_block() -> None:
    """All items of a basket are learned from the state before it; the first block from nothing, so not at all."""
    cut = windows(sequence([0, 0, 5, 5, 5, 9]), np.ones(6), 8)
    assert len(cut) == 1
    assert cut[0].sources.tolist() == [1, 1, 1, 4]
    assert cut[0].target_rows.tolist() == [3, 4, 5, 6]


def test_only_weighted_events_are_targets() -> None:
    """An event of weight 0 is context only; a history without targets gives no window."""
    weights = np.array([1.0, 0.0, 2.0, 0.0])
    cut = windows(sequence([0, 1, 2, 3]), weights, 8)
    assert [window.target_rows.tolist() for window in cut] == [[3]]
    assert cut[0].target_weights.tolist() == [2.0]
    assert windows(sequence([0, 1, 2, 3]), np.zeros(4), 8) == []


def test_batches_hold_all_windows_within_the_limit() -> None:
    """Every window is in one batch, and no batch's padded size passes the limit unless it is one window alone."""
    cut = [window for n in range(2, 9) for window in windows(sequence(list(range(n))), np.ones(n), 8)] * 3
    groups = list(batches(cut, 20, np.random.default_rng(0)))
    assert sum(len(group) for group in groups) == len(cut)
    assert all(len(group) * max(len(window.tokens) for window in group) <= 20 for group in groups)
    assert list(batches([], 20, np.random.default_rng(0))) == []


def test_a_batchs_sources_point_at_the_right_states() -> None:
    """Flattened over the batch, each source is the event before its target."""
    group = [window for n in (3, 6) for window in windows(sequence(list(range(n))), np.ones(n), 8)]
    batch = to_batch(group, CONFIG, None)
    sources = batch.tensors.item_rows.flatten()[batch.sources]
    assert (sources + 1).tolist() == batch.target_rows.tolist()


def test_a_target_is_asked_for_when_its_block_happens() -> None:
    """Each source's query gap is the time from it to its target, where windows end as well as inside them."""
    seconds = [0, 0, 5, 5, 5, 9, 1000, 1000, 1001, 90_000, 90_003, 91_000]
    group = windows(sequence(seconds), np.ones(len(seconds)), 4)
    assert len(group) > 1
    batch = to_batch(group, replace(CONFIG, reads_query_time=True), None)
    assert batch.tensors.query_gap is not None
    found = batch.tensors.query_gap.flatten()[batch.sources].tolist()
    sources = batch.tensors.item_rows.flatten()[batch.sources].tolist()
    pairs = zip(sources, batch.target_rows.tolist(), strict=True)
    times_us = [np.array([seconds[source - 1], seconds[target - 1]]) * 1_000_000 for source, target in pairs]
    assert found == [gap_buckets(pair, CONFIG.n_gap_buckets)[1] for pair in times_us]
