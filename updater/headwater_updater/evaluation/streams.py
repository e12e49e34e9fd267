"""A file of events as a stream: what comes first is learned, then every event is foreseen before it is learned. Pure.

Events that share a time have no order: none of them is in the history that another of them is foreseen from, and none
is learned before all of them have been.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from headwater_core.errors import InvalidFieldError
from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.splits import Histories, IsTarget
from headwater_updater.examples import Example

WARM_UP_SHARE, TUNING_SHARE = 0.6, 0.2
"""Of all events; the rest is the stream that nothing was tuned on."""


class UserEvent(NamedTuple):
    """An event and whose it is."""

    user_id: str
    event: HistoryEvent


@dataclass(frozen=True, slots=True)
class Timeline:
    """All events in the order of their times, cut between timestamps."""

    warm_up: list[UserEvent]
    tuning: list[UserEvent]
    stream: list[UserEvent]

    @property
    def before_stream(self) -> list[UserEvent]:
        """What is known when the stream begins."""
        return self.warm_up + self.tuning


class Round(NamedTuple):
    """Some events that follow each other: all are foreseen, then all may be learned."""

    examples: list[Example]
    """One for each user with an event in it: the whole history up to the round's end, its last `n_new` events new."""
    user_ids: list[str]
    """Of the examples."""
    asked: frozenset[int]
    """Positions of the targets that are to be foreseen."""
    start_us: int
    """When its first event happened …"""
    end_us: int
    """… and its last."""
    new_item_ids: list[str]
    """Items that no earlier round had."""


def timeline(histories: Histories) -> Timeline:
    """Cut a file's events in time.

    Raises:
        InvalidFieldError: two of the three parts would be empty.
    """
    merged = [UserEvent(user_id, event) for user_id, events in histories.items() for event in events]
    merged.sort(key=lambda each: (each.event.event_time_us, each.event.position))
    times_us = np.array([each.event.event_time_us for each in merged], np.int64)
    cuts = [
        int(np.searchsorted(times_us, times_us[int(len(times_us) * share)]))
        for share in (WARM_UP_SHARE, WARM_UP_SHARE + TUNING_SHARE)
    ]
    if not 0 < cuts[0] < cuts[1]:
        raise InvalidFieldError("protocol", "prequential finds too few different times to divide the events by")
    return Timeline(merged[: cuts[0]], merged[cuts[0] : cuts[1]], merged[cuts[1] :])


def by_user(events: Sequence[UserEvent]) -> Histories:
    """The events of each user, in order."""
    found: Histories = {}
    for user_id, event in events:
        found.setdefault(user_id, []).append(event)
    return found


def sampled_targets(events: Sequence[UserEvent], is_target: IsTarget, limit: int) -> frozenset[int]:
    """The positions of the targets among these events; of more than `limit`, so many evenly spread over them."""
    positions = [event.position for _, event in events if is_target(event)]
    if len(positions) > limit:
        positions = [positions[int(index)] for index in np.linspace(0, len(positions) - 1, limit)]
    return frozenset(positions)


class Rounds:
    """The events in rounds of at least `size`, the last one excepted; no timestamp is in two of them.

    Made anew whenever they are gone through: together they would hold every history as often as it grew.
    """

    def __init__(
        self,
        before: Mapping[str, Sequence[HistoryEvent]],
        events: Sequence[UserEvent],
        size: int,
        asked: frozenset[int],
    ) -> None:
        """Find where rounds begin.

        Args:
            before: the histories that the events continue.
            events: in the order of their times.
            size: events in a round.
            asked: positions of the targets that are to be foreseen.
        """
        self._before, self._events, self._asked = before, events, asked
        self._starts = [0]
        while (stop := self._starts[-1] + size) < len(events):
            while stop < len(events) and events[stop].event.event_time_us == events[stop - 1].event.event_time_us:
                stop += 1
            if stop == len(events):
                break
            self._starts.append(stop)

    def __len__(self) -> int:
        """How many rounds there are."""
        return len(self._starts)

    def __iter__(self) -> Iterator[Round]:
        """The rounds, in order."""
        histories = {user_id: list(theirs) for user_id, theirs in self._before.items()}
        known = {event.item_id for theirs in self._before.values() for event in theirs}
        for start, stop in zip(self._starts, [*self._starts[1:], len(self._events)], strict=True):
            part = self._events[start:stop]
            n_new: dict[str, int] = {}
            new_items: dict[str, None] = {}
            for user_id, event in part:
                histories.setdefault(user_id, []).append(event)
                n_new[user_id] = n_new.get(user_id, 0) + 1
                if event.item_id and event.item_id not in known:
                    known.add(event.item_id)
                    new_items[event.item_id] = None
            yield Round(
                [Example(list(histories[user_id]), count) for user_id, count in n_new.items()],
                list(n_new),
                frozenset(event.position for _, event in part if event.position in self._asked),
                part[0].event.event_time_us,
                part[-1].event.event_time_us,
                list(new_items),
            )
