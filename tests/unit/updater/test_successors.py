"""Counting co-visits, against the definition written out pair by pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_core.co_visits import SUCCESSORS
from headwater_core.histories import TokenSequence
from headwater_updater import successors
from headwater_updater.successors import MAX_DISTANCE, REACH, SuccessorTable, blocks

N_ITEMS = 9

Event = tuple[int, int, float]
"""Second, item row (0: a search) and what the event counts as a target."""
Counts = dict[int, dict[int, float]]
"""Source → target → count."""


def history(events: Sequence[Event]) -> tuple[TokenSequence, np.ndarray]:
    ordered = sorted(events, key=lambda event: event[0])
    n = len(ordered)
    sequence = TokenSequence(
        np.array([row for _, row, _ in ordered], np.int64),
        np.ones(n, np.int64),
        np.full(n, np.nan, np.float32),
        np.zeros(n, np.int64),
        np.array([second * 1_000_000 for second, _, _ in ordered], np.int64),
        (),
    )
    return sequence, np.array([weight if row else 0.0 for _, row, weight in ordered])


def in_order(*rows: int) -> tuple[TokenSequence, np.ndarray]:
    """One event a second, each a target."""
    return history([(second, row, 1.0) for second, row in enumerate(rows)])


def by_definition(histories: Sequence[tuple[TokenSequence, np.ndarray]], *, keeps_repeats: bool) -> Counts:
    counts: Counts = defaultdict(lambda: defaultdict(float))
    for sequence, weights in histories:
        on_items = [place for place in range(len(sequence)) if sequence.item_rows[place]]
        times = [int(sequence.event_time_us[place]) for place in on_items]
        order = sorted(set(times))
        for later in range(len(on_items)):
            for earlier in range(max(0, later - MAX_DISTANCE), later):
                distance = order.index(times[later]) - order.index(times[earlier])
                source, target = (int(sequence.item_rows[on_items[at]]) for at in (earlier, later))
                weight = float(weights[on_items[later]])
                if 1 <= distance <= REACH and weight and (keeps_repeats or source != target):
                    counts[source][target] += weight / (distance * times.count(times[earlier]))
    return {source: dict(targets) for source, targets in counts.items()}


def table(n_items: int = N_ITEMS, *, keeps_repeats: bool = True) -> SuccessorTable:
    made = SuccessorTable(keeps_repeats=keeps_repeats)
    made.grow(n_items)
    return made


def counted(found: SuccessorTable) -> Counts:
    """All that a table holds; no row names a successor twice."""
    counts: Counts = {}
    for source in range(len(found.rows)):
        used = found.counts[source] > 0
        targets = found.rows[source, used].tolist()
        assert len(set(targets)) == len(targets)
        assert not found.rows[source, ~used].any()
        if targets:
            counts[source] = dict(zip(targets, found.counts[source, used].tolist(), strict=True))
    return counts


def assert_same(found: Counts, wanted: Counts) -> None:
    assert found.keys() == wanted.keys()
    for source in found:
        assert found[source] == pytest.approx(wanted[source], rel=1e-4)


EVERYTHING = np.ones(N_ITEMS + 1)
HISTORIES = st.lists(
    st.lists(
        st.tuples(st.integers(0, 25), st.integers(0, N_ITEMS), st.sampled_from([0.0, 0.5, 1.0, 5.0])), max_size=60
    ).map(history),
    max_size=4,
)


@settings(deadline=None)
@given(HISTORIES, st.booleans(), st.sampled_from([0, 30, 10**6]))
def test_fitting_counts_what_the_definition_says(
    histories: list[tuple[TokenSequence, np.ndarray]], keeps_repeats: bool, at_once: int
) -> None:
    """However many pairs are summed at a time, and whatever was counted before."""
    found = table(keeps_repeats=keeps_repeats)
    found.fit([in_order(1, 2, 3)], EVERYTHING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(successors, "_CONSOLIDATE_AT", at_once)
        found.fit(iter(histories), EVERYTHING)
    assert_same(counted(found), by_definition(histories, keeps_repeats=keeps_repeats))


@settings(deadline=None)
@given(HISTORIES, st.booleans(), st.data())
def test_adding_later_events_is_fitting_on_all(
    histories: list[tuple[TokenSequence, np.ndarray]], keeps_repeats: bool, data: st.DataObject
) -> None:
    """As long as no row is full; and the rows said to have changed are those that have."""
    starts = [data.draw(st.integers(0, len(sequence))) for sequence, _ in histories]
    found = table(keeps_repeats=keeps_repeats)
    earlier = [
        (sequence.window(0, start), weights[:start])
        for (sequence, weights), start in zip(histories, starts, strict=True)
    ]
    found.fit(earlier, EVERYTHING)
    for (sequence, weights), start in zip(histories, starts, strict=True):
        before = counted(found)
        changed = found.add(sequence, weights, start)
        after = counted(found)
        assert changed.tolist() == sorted(row for row in after if after[row] != before.get(row))
    assert_same(counted(found), by_definition(histories, keeps_repeats=keeps_repeats))


def test_events_that_share_a_time_do_not_follow_each_other() -> None:
    """A basket is no sequence, and its items share what one item alone would say."""
    found = table()
    found.fit([history([(0, 1, 1.0), (0, 2, 1.0), (5, 3, 1.0), (5, 4, 1.0)])], EVERYTHING)
    assert counted(found) == {1: {3: 0.5, 4: 0.5}, 2: {3: 0.5, 4: 0.5}}


def test_nearer_and_weightier_events_count_more() -> None:
    """One over the distance in blocks, times the target's weight; searches are no step, what is no target no target."""
    found = table()
    found.fit([history([(0, 1, 1.0), (1, 0, 0.0), (2, 2, 4.0), (3, 3, 0.0), (4, 4, 1.0)])], EVERYTHING)
    counts = counted(found)
    assert counts[1] == pytest.approx({2: 4.0, 4: 1 / 3})
    assert counts[2] == {4: 0.5}
    assert counts[3] == {4: 1.0}


@pytest.mark.parametrize("keeps_repeats", [True, False])
def test_an_item_follows_itself_where_repeats_are_kept(*, keeps_repeats: bool) -> None:
    """Elsewhere it only follows others."""
    found = table(keeps_repeats=keeps_repeats)
    found.fit([in_order(1, 2, 1)], EVERYTHING)
    found.add(*in_order(3, 3), start=1)
    assert counted(found) == {1: {2: 1.0} | ({1: 0.5} if keeps_repeats else {}), 2: {1: 1.0}} | (
        {3: {3: 1.0}} if keeps_repeats else {}
    )


def test_of_too_many_successors_the_strongest_are_kept() -> None:
    """Strong is what is counted often for how popular it is."""
    n = SUCCESSORS + 10
    popularity = np.ones(n + 2)
    popularity[-1] = 100.0  # met after the first item twice as often as any other, but met everywhere
    found = table(n + 1)
    last = n + 1
    twice = [in_order(1, row) for row in (*range(2, 12), last) for _ in range(2)]
    found.fit([*(in_order(1, row) for row in range(12, n + 1)), *twice], popularity)
    kept = counted(found)[1]
    assert len(kept) == SUCCESSORS
    assert set(range(2, 12)) <= kept.keys()
    assert last not in kept
    strongest = found.of(1, popularity)
    assert strongest.items[:10].tolist() == list(range(2, 12))
    assert strongest.weights[:11].tolist() == [2.0] * 10 + [1.0]


def test_a_full_row_gives_up_its_weakest_successor() -> None:
    """A newcomer starts from nothing; the others stay as they were."""
    n = SUCCESSORS + 2
    found = table(n)
    weakest = 50
    others = [row for row in range(2, n) if row != weakest]
    found.fit([*(in_order(1, row) for row in range(2, n)), *(in_order(1, row) for row in others)], np.ones(n + 1))
    assert len(counted(found)[1]) == SUCCESSORS
    assert found.add(*in_order(1, n), start=1).tolist() == [1]
    assert counted(found)[1] == dict.fromkeys(others, 2.0) | {n: 1.0}


def test_weights_are_damped_by_popularity() -> None:
    """A count over the root of the popularity; what was never a target counts as met once."""
    found = table(3)
    found.fit([in_order(1, 2), in_order(1, 2), in_order(1, 3)], np.ones(4))
    follows = found.of(1, np.array([0.0, 0.0, 16.0, 0.0]))
    assert dict(zip(follows.items.tolist(), follows.weights.tolist(), strict=True)) == {2: 0.5, 3: 1.0}
    assert follows.weights.dtype == np.float32
    assert not len(found.of(3, np.ones(4)).items)


def test_items_that_come_later_have_their_own_rows() -> None:
    """What was counted stays; what comes is followed by nothing yet."""
    found = table(2)
    found.fit([in_order(1, 2)], np.ones(3))
    found.grow(2)
    assert counted(found) == {1: {2: 1.0}}
    found.add(*in_order(4, 3), start=1)
    assert counted(found) == {1: {2: 1.0}, 4: {3: 1.0}}


@settings(deadline=None)
@given(HISTORIES, HISTORIES)
def test_a_state_comes_back_as_it_was(
    fitted: list[tuple[TokenSequence, np.ndarray]], added: list[tuple[TokenSequence, np.ndarray]]
) -> None:
    """To the last bit and place, so that whoever goes on from it counts the same."""
    found = table()
    found.fit(fitted, EVERYTHING)
    for sequence, weights in added:
        found.add(sequence, weights, 0)
    again = table()
    again.fit([in_order(1, 2, 3)], EVERYTHING)
    again.load_state(found.state(np.arange(N_ITEMS + 1)), np.arange(N_ITEMS + 1))
    np.testing.assert_array_equal(again.rows, found.rows)
    np.testing.assert_array_equal(again.counts, found.counts)
    assert found.state(np.arange(N_ITEMS + 1))["rows"].dtype == torch.int32


@pytest.mark.parametrize("damage", ["lengths", "rows", "counts"])
def test_a_state_that_does_not_fit_is_refused(damage: str) -> None:
    """Of another number of items, or with something missing."""
    found = table()
    found.fit([in_order(1, 2, 3)], EVERYTHING)
    state = found.state(np.arange(N_ITEMS + 1))
    state[damage] = state[damage][:-1]
    with pytest.raises(ValueError, match="successors"):
        table().load_state(state, np.arange(N_ITEMS + 1))


def test_blocks_are_numbered_by_time() -> None:
    """Events that share a time share a number."""
    assert blocks(np.array([5, 5, 7, 9, 9])).tolist() == [0, 0, 1, 2, 2]
    assert blocks(np.array([3])).tolist() == [0]
    assert blocks(np.empty(0, np.int64)).tolist() == []
