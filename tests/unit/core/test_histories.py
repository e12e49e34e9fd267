"""Histories → tensors: tokens, gaps, truncation, padding."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from headwater_core.events import Event, HistoryEvent, LoggedEvent, history_event
from headwater_core.histories import (
    FIRST_GAP,
    MAX_ABS_VALUE,
    MAX_VOCABULARY,
    collate,
    fit_vocabulary,
    gap_buckets,
    tokens,
)
from headwater_core.towers import TowerConfig

CONFIG = TowerConfig(
    dimension=16,
    history_length=4,
    text_dimension=3,
    event_types=("click", "rating"),
    value_mean=(0.0, 3.0),
    value_std=(1.0, 0.5),
)
ROWS = {"a": 1, "b": 2, "c": 3}


def event(item_id: str, second: int = 0, *, kind: str = "click", value: float | None = None) -> HistoryEvent:
    return HistoryEvent(second + 1, second * 1_000_000, kind, item_id, value)


def row(item_id: str) -> int:
    return ROWS.get(item_id, 0)


def test_unknown_items_are_dropped_and_searches_stay() -> None:
    """An event on an item without a row vanishes; a search has row 0 and keeps its query."""
    search = HistoryEvent(2, 1_000_000, "search", query="boots")
    found = tokens([event("a"), search, event("unheard of", 2), event("b", 3)], CONFIG, row)
    assert found.item_rows.tolist() == [1, 0, 2]
    assert found.queries == ("", "boots", "")
    assert found.type_index.tolist() == [1, 0, 1]


def test_values_are_normalised_per_type_and_clipped() -> None:
    """Each type has its own mean and deviation; an absurd value is clipped, a missing one or one of an unknown type
    is NaN."""
    events = [
        event("a", kind="rating", value=4.0),
        event("a", kind="rating", value=1e30),
        event("a", kind="click", value=-0.5),
        event("a", kind="rating"),
        event("a", kind="never seen", value=3.0),
    ]
    value = tokens(events, CONFIG, row).value
    assert value[:3].tolist() == [2.0, MAX_ABS_VALUE, -0.5]
    assert np.isnan(value[3:]).all()


def test_gaps_are_bucketed_by_doubling() -> None:
    """Bucket 0 has nothing before, 1 is under a second, then each bucket doubles; the last takes the rest."""
    seconds = np.array([0, 0, 1, 3, 3 + 7, 10 + 86_400, 10**9])
    buckets = gap_buckets(seconds * 1_000_000, 20)
    assert buckets.tolist() == [FIRST_GAP, 1, 2, 3, 4, 18, 19]


def test_a_gap_backwards_counts_as_none() -> None:
    """An event that is timed before the one it follows is in the lowest bucket, and nothing breaks."""
    assert gap_buckets(np.array([5_000_000, 1_000_000]), 32).tolist() == [FIRST_GAP, 1]


def test_a_query_is_as_long_after_the_last_event_that_is_read() -> None:
    """Its gap is bucketed as events' gaps are; events without a row do not count, and without a time it is unknown."""
    events = [event("a"), event("b", 10), event("unheard of", 17)]
    assert tokens(events, CONFIG, row, 20_000_000).query_gap == gap_buckets(np.array([10, 20]) * 1_000_000, 32)[1] == 5
    assert tokens(events, CONFIG, row).query_gap == FIRST_GAP
    assert tokens([event("unheard of")], CONFIG, row, 20_000_000).query_gap == FIRST_GAP


def test_query_gaps_are_collated_only_where_they_are_read() -> None:
    """Each event is asked when the next one happens, the last one when the query says; padding is unknown."""
    long = tokens([event("abc"[i % 3], i * i) for i in range(6)], CONFIG, row, 10**9)
    short = tokens([event("c"), event("a", 2)], CONFIG, row)
    assert collate([long, short], CONFIG).query_gap is None
    tensors = collate([long, short.window(0, 1)], replace(CONFIG, reads_query_time=True))
    assert tensors.query_gap is not None
    assert tensors.query_gap.tolist() == [[*long.gap[3:], long.query_gap], [short.gap[1], 0, 0, 0]]
    assert tensors.query_gap[0, -1] > tensors.query_gap[1, 0] > FIRST_GAP


def test_collate_keeps_the_latest_events_and_pads_on_the_right() -> None:
    """Of a long history the last `history_length` events are read; a short one is followed by zeros."""
    long = tokens([event("abc"[i % 3], i) for i in range(6)], CONFIG, row)
    short = tokens([event("c")], CONFIG, row)
    tensors = collate([long, short], CONFIG)
    assert tensors.item_rows.tolist() == [[3, 1, 2, 3], [3, 0, 0, 0]]
    assert tensors.lengths.tolist() == [4, 1]
    assert tensors.gap[0, 0] == FIRST_GAP
    assert torch.isnan(tensors.value[1, 1:]).all()
    assert tensors.query_features is None


def test_a_window_equals_the_history_cut_there() -> None:
    """A window of a history is collated as the history's last events are: training and serving see the same."""
    events = [event("abc"[i % 3], i * i) for i in range(9)]
    whole = tokens(events, CONFIG, row)
    cut = collate([whole.window(5, 9)], CONFIG)
    for left, right in zip(cut, collate([whole], CONFIG), strict=True):
        if left is not None:
            torch.testing.assert_close(left, right, equal_nan=True)


def test_queries_are_read_in_their_places() -> None:
    """Each query's features stand where its search stands; other places hold zeros."""
    events = [event("a"), HistoryEvent(2, 1, "search", query="x"), HistoryEvent(3, 2, "search", query="yy")]
    tensors = collate(
        [tokens([event("b")], CONFIG, row), tokens(events, CONFIG, row)],
        CONFIG,
        lambda texts: np.array([[len(text)] * 3 for text in texts], np.float16),
    )
    assert tensors.query_features is not None
    assert tensors.query_features[..., 0].tolist() == [[0, 0, 0], [0, 1, 2]]


def test_an_empty_history_is_refused() -> None:
    """A user without usable events has no vector; collate says so instead of inventing one."""
    with pytest.raises(ValueError, match="at least one event"):
        collate([tokens([event("unheard of")], CONFIG, row)], CONFIG)
    with pytest.raises(ValueError, match="at least one event"):
        collate([], CONFIG)


def test_vocabulary_is_made_from_the_histories() -> None:
    """Types are named in order with the mean and deviation of their values; a type without spread has deviation 1."""
    histories = [
        [event("a", kind="rating", value=2.0), event("b", kind="rating", value=4.0)],
        [event("a", kind="click"), event("c", kind="buy", value=3.0)],
    ]
    config = fit_vocabulary(TowerConfig(), histories)
    assert config.event_types == ("buy", "click", "rating")
    assert config.value_mean == (3.0, 0.0, 3.0)
    assert config.value_std == (1.0, 1.0, 1.0)
    assert config.type_index("rating") == 3
    assert config.type_index("unheard of") == 0


def test_vocabulary_has_room_for_registered_types() -> None:
    """A type that is registered but was not met yet has a place, with values taken as they are."""
    config = fit_vocabulary(TowerConfig(), [[event("a", kind="rating", value=2.0)]], ["like", "rating"])
    assert config.event_types == ("like", "rating")
    assert (config.value_mean, config.value_std) == ((0.0, 2.0), (1.0, 1.0))


def test_the_vocabulary_has_an_end() -> None:
    """An import may bring any number of types: the most frequent are told apart, and the towers can be built."""
    rare = [event("a", kind=f"rare-{n}") for n in range(MAX_VOCABULARY)]
    config = fit_vocabulary(TowerConfig(), [[event("a", kind="zeta"), event("b", kind="zeta")], rare], ["never-met"])
    assert len(config.event_types) == MAX_VOCABULARY
    assert config.type_index("zeta")
    assert config.type_index(f"rare-{MAX_VOCABULARY - 1}") == config.type_index("never-met") == 0


def test_values_are_told_in_the_type_that_carries_them_most() -> None:
    """The most frequent type of those with values; none when there are no values."""
    clicks = [event("a", kind="click")] * 9
    ratings = [event("a", kind="rating", value=2.0)] * 2
    config = fit_vocabulary(TowerConfig(), [clicks, [event("a", kind="buy", value=9.0), *ratings]])
    assert config.value_type == "rating"
    assert TowerConfig.from_dict(config.to_dict()) == config
    assert fit_vocabulary(TowerConfig(), [clicks]).value_type == ""
    assert fit_vocabulary(config, []).value_type == ""


def test_a_logged_event_without_time_was_received_then() -> None:
    """The time of receipt stands in for a missing event time."""
    logged = LoggedEvent(7, 42, Event("e", "click", user_id="u", item_id="a", value=1.5))
    assert history_event(logged) == HistoryEvent(7, 42, "click", "a", 1.5, "")


def test_empty_values_never_become_numbers() -> None:
    """A sequence without values holds NaN, which the towers read as the type's mean."""
    assert math.isnan(float(tokens([event("a")], CONFIG, row).value[0]))
