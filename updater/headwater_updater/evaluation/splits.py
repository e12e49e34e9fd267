"""What is learned and what is asked: the two protocols, never mixed. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import TypeAlias

from headwater_core.errors import InvalidFieldError
from headwater_core.events import HistoryEvent

MIN_EVENTS = 3
"""Leave-one-out drops users with fewer."""
TEST_SHARE = 0.2
"""Of all events, how many come after the cut of global time."""

Histories: TypeAlias = dict[str, list[HistoryEvent]]
IsTarget: TypeAlias = Callable[[HistoryEvent], bool]


class Protocol(StrEnum):
    """How events are divided into what is learned and what is asked."""

    LEAVE_ONE_OUT = "leave-one-out"
    GLOBAL_TIME = "global-time"
    PREQUENTIAL = "prequential"


@dataclass(frozen=True, slots=True)
class AskedUser:
    """One user who is asked about."""

    user_id: str
    history: Sequence[HistoryEvent]
    """All that is known when the list is made; empty for a new user."""
    targets: Mapping[str, tuple[str, ...]]
    """What the user met next: different items, in order, by the name of the target set."""
    query_time_us: int
    """When the first block of targets happened; only `--query-time` tells the model."""


@dataclass(frozen=True, slots=True)
class Split:
    """A data set, divided."""

    training: list[list[HistoryEvent]]
    """What `Learner.fit` is given: it keeps each last block for validation where at least two come before it."""
    candidates: list[str]
    """The items with a training event, by first appearance; any other target is a miss."""
    test: list[AskedUser]
    target_sets: tuple[str, ...]
    """Names of the target sets, the main one first."""
    facts: dict[str, int] = field(default_factory=dict)
    """What the report says of the division."""


def k_core(histories: Histories, k: int) -> Histories:
    """What is left when users and items with fewer than k events on items are taken out until there are none.

    Raises:
        InvalidFieldError: fewer than two users or two items are left.
    """
    left = histories
    while True:
        of_item = Counter(event.item_id for event in chain.from_iterable(left.values()) if event.item_id)
        kept: Histories = {}
        for user_id, events in left.items():
            theirs = [event for event in events if not event.item_id or of_item[event.item_id] >= k]
            if sum(bool(event.item_id) for event in theirs) >= k:
                kept[user_id] = theirs
        if sum(map(len, kept.values())) == sum(map(len, left.values())):
            break
        left = kept
    if len(kept) < 2 or len(of_item) < 2:
        raise InvalidFieldError("min_core", f"{k} leaves {len(kept)} users and {len(of_item)} items")
    return kept


def leave_one_out(histories: Histories, is_target: IsTarget, *, learn_validation: bool = False) -> Split:
    """Per user: the last block that holds a target is the test, the block with a target before it validation.

    A block is the events that share a time. Every item of the test block that is a target counts as one; the history
    is everything before the block, and what comes after it is left out. Users with fewer than three events on items
    are dropped. A user whose first block is the test has no history to rank by: their events are training.

    Args:
        histories: by user, oldest event first.
        is_target: which events count as targets.
        learn_validation: whether the validation blocks are part of training. Else no item is a candidate because of
            them; where only one block comes before a validation block, `fit` could not hold it out, and it is left
            out of training unscored.
    """
    training: list[list[HistoryEvent]] = []
    test: list[AskedUser] = []
    candidates: dict[str, None] = {}
    facts = Counter(dropped_users=0, users_without_history=0)
    for user_id, events in histories.items():
        if sum(bool(event.item_id) for event in events) < MIN_EVENTS:
            facts["dropped_users"] += 1
            continue
        start, stop = last_target_block(events, is_target)
        if start == 0:
            facts["users_without_history"] += 1
            training.append(list(events))
            _add_items(candidates, events)
            continue
        history = list(events[:start])
        asked = {"last": _target_items(events[start:stop], is_target)}
        test.append(AskedUser(user_id, history, asked, events[start].event_time_us))
        learned, n_blocks_before = history, 0
        if not learn_validation:
            start, stop = last_target_block(history, is_target)
            n_blocks_before = len({event.event_time_us for event in history[:start]})
            if n_blocks_before == 1:
                learned = history[:start]
            elif n_blocks_before:
                learned = history[:stop]
                facts["validation_users"] += 1
        training.append(learned)
        _add_items(candidates, history[:start] if n_blocks_before else learned)
    return Split(training, list(candidates), test, ("last",), dict(facts))


def global_time(histories: Histories, is_target: IsTarget, test_share: float = TEST_SHARE) -> Split:
    """One cut in time for everybody: what is before it is learned, what is from it on is asked.

    The cut is the time of the first of the last `test_share` of all events; events at that very time are asked. Each
    user with a target from the cut on is asked once, by what they did before it: target set `first` is their first
    block with a target, `all` is all of their targets. Who did nothing before the cut is a new user, and counted.

    Raises:
        InvalidFieldError: all events share one time.
    """
    times_us = sorted(event.event_time_us for events in histories.values() for event in events)
    cut_us = times_us[int(len(times_us) * (1 - test_share))]
    if cut_us == times_us[0]:
        raise InvalidFieldError("protocol", "global-time finds no event before its cut in time")
    training: list[list[HistoryEvent]] = []
    test: list[AskedUser] = []
    candidates: dict[str, None] = {}
    facts = Counter(new_users=0)
    for user_id, events in histories.items():
        before = [event for event in events if event.event_time_us < cut_us]
        targets = [event for event in events[len(before) :] if is_target(event)]
        if before:
            training.append(before)
            _add_items(candidates, before)
        if targets:
            first = [event for event in targets if event.event_time_us == targets[0].event_time_us]
            asked = {"first": _target_items(first, is_target), "all": _target_items(targets, is_target)}
            test.append(AskedUser(user_id, before, asked, targets[0].event_time_us))
            facts["new_users"] += not before
    return Split(training, list(candidates), test, ("first", "all"), {"cut_time_us": cut_us, **facts})


def last_target_block(events: Sequence[HistoryEvent], is_target: IsTarget) -> tuple[int, int]:
    """Where the last block that holds a target begins and ends; (0, 0) when none does."""
    last = next((index for index in range(len(events) - 1, -1, -1) if is_target(events[index])), None)
    if last is None:
        return 0, 0
    time_us = events[last].event_time_us
    start, stop = last, last + 1
    while start and events[start - 1].event_time_us == time_us:
        start -= 1
    while stop < len(events) and events[stop].event_time_us == time_us:
        stop += 1
    return start, stop


def _target_items(events: Sequence[HistoryEvent], is_target: IsTarget) -> tuple[str, ...]:
    return tuple(dict.fromkeys(event.item_id for event in events if is_target(event)))


def _add_items(candidates: dict[str, None], events: Sequence[HistoryEvent]) -> None:
    candidates.update((event.item_id, None) for event in events if event.item_id)
