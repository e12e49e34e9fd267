"""What the log holds and learning must not see: named rules, pure but for the memory of recent events.

Every event either passes, with its missing fields filled, or is rejected by the first rule that speaks against it:

    unknown_type     its type is not registered (any more)
    incomplete       it names no item, or, being a search, no query
    impossible_time  it lies before 1970, or further ahead of its receipt than clocks differ
    impossible_value its value is no number, or outside what its type allows
    duplicate        the subject said the same a moment ago under another event_id
    contradiction    the subject said the opposite of the same item in the same instant
    burst            the subject keeps at one item faster than interest explains
    robot            the subject acts at a rate no person reaches

Filled: an absent event time is the time of receipt; an event of a visitor who is linked to a user is the user's;
blanks around and within a query are one blank each. Whatever concerns pace (duplicate's window, burst, robot) never
applies to backfill, whose times are often coarse; a backfilled event repeated with the very same time is still a
duplicate.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from headwater_core.errors import InvalidFieldError
from headwater_core.events import MAX_AHEAD_US, SEARCH, Event, EventType, LoggedEvent, Subject
from headwater_core.feedback_log import Rejection

_SECOND_US = 1_000_000


class Rule(StrEnum):
    """Why an event is not learned from."""

    UNKNOWN_TYPE = "unknown_type"
    INCOMPLETE = "incomplete"
    IMPOSSIBLE_TIME = "impossible_time"
    IMPOSSIBLE_VALUE = "impossible_value"
    DUPLICATE = "duplicate"
    CONTRADICTION = "contradiction"
    BURST = "burst"
    ROBOT = "robot"


@dataclass(frozen=True, slots=True)
class CleaningLimits:
    """The numbers in the rules."""

    max_ahead_s: float = MAX_AHEAD_US / _SECOND_US
    """How far after its receipt an event may claim to have happened."""
    duplicate_window_s: float = 1.0
    """Within this time the same said again is a double click or a repeated call, not a second event."""
    burst_events: int = 10
    """More events than this of one subject on one item within burst_window_s are a stuck button or a campaign."""
    burst_window_s: float = 60.0
    robot_events: int = 120
    """More events than this within robot_window_s are no person's: two each second, for a whole minute."""
    robot_window_s: float = 60.0
    remembered_events: int = 50_000
    """How many recent events duplicates and contradictions are looked for among."""
    without: frozenset[Rule] = frozenset()
    """Rules that are switched off. Those of unknown types and incomplete events cannot be: nothing could be learned."""

    def __post_init__(self) -> None:
        """Refuse what cannot be switched off.

        Raises:
            InvalidFieldError: naming the rule.
        """
        for rule in sorted(self.without & {Rule.UNKNOWN_TYPE, Rule.INCOMPLETE}):
            raise InvalidFieldError("without", f"{rule.value} cannot be switched off")

    def applies(self, rejection: Rejection | None) -> Rejection | None:
        """The rejection, unless its rule is switched off."""
        return None if rejection is None or rejection.rule in self.without else rejection


class CleanBatch(NamedTuple):
    """What became of a batch."""

    events: list[LoggedEvent]
    rejections: list[Rejection]


def fill_missing(logged: LoggedEvent, links: Mapping[str, str]) -> LoggedEvent:
    """The event with its missing fields filled.

    Args:
        logged: as the log holds it.
        links: visitor_id → user_id.
    """
    event = logged.event
    changes: dict[str, Any] = {}
    if event.event_time_us is None:
        changes["event_time_us"] = logged.received_time_us
    if not event.user_id and event.visitor_id in links:
        changes["user_id"] = links[event.visitor_id]
    query = " ".join(event.query.split())
    if query != event.query:
        changes["query"] = query
    return logged._replace(event=event._replace(**changes)) if changes else logged


def impossible(logged: LoggedEvent, event_types: Mapping[str, EventType], limits: CleaningLimits) -> Rejection | None:
    """What makes a (filled) event impossible by itself, whatever came before it; None: nothing does."""
    event = logged.event
    event_type = event_types.get(event.event_type)
    if event_type is None:
        return Rejection(logged.position, Rule.UNKNOWN_TYPE, f"type {event.event_type!r} is not registered")
    if event.event_type == SEARCH and not event.query:
        return Rejection(logged.position, Rule.INCOMPLETE, "a search without a query")
    if event.event_type != SEARCH and not event.item_id:
        return Rejection(logged.position, Rule.INCOMPLETE, f"a {event.event_type} without an item")
    assert event.event_time_us is not None
    ahead_s = (event.event_time_us - logged.received_time_us) / _SECOND_US
    if event.event_time_us < 0:
        return Rejection(logged.position, Rule.IMPOSSIBLE_TIME, "happened before 1970")
    if ahead_s > limits.max_ahead_s:
        return Rejection(logged.position, Rule.IMPOSSIBLE_TIME, f"happened {ahead_s:.0f} s after it was received")
    reason = _impossible_value(event.value, event_type)
    return Rejection(logged.position, Rule.IMPOSSIBLE_VALUE, reason) if reason else None


def _impossible_value(value: float | None, event_type: EventType) -> str | None:
    if value is None:
        return None
    if not math.isfinite(value):
        return "value is no finite number"
    if event_type.value_min is not None and value < event_type.value_min:
        return f"value {value:g} is below the type's {event_type.value_min:g}"
    if event_type.value_max is not None and value > event_type.value_max:
        return f"value {value:g} is above the type's {event_type.value_max:g}"
    return None


class _Said(NamedTuple):
    """What a subject said of an item at one instant."""

    position: int
    event_type: str
    negative: bool
    value: float | None


@dataclass(slots=True)
class _Pace:
    """The event times of one subject that lie within the robot window of its newest, ascending."""

    times_us: list[int] = field(default_factory=list)

    def add(self, time_us: int, window_us: int, limit: int) -> int:
        """Count an event; how many lie within the window that ends with it (no more than 2 · limit are told apart)."""
        bisect.insort(self.times_us, time_us)
        outdated = bisect.bisect_right(self.times_us, self.times_us[-1] - 2 * window_us)
        del self.times_us[: max(outdated, len(self.times_us) - 2 * limit)]
        first = bisect.bisect_right(self.times_us, time_us - window_us)
        return bisect.bisect_right(self.times_us, time_us) - first


class Cleaner:
    """Applies the rules to the log, in its order. Not thread-safe; give it every event once."""

    def __init__(self, limits: CleaningLimits | None = None) -> None:
        """Remember nothing yet."""
        self._limits = limits or CleaningLimits()
        self._repeats: dict[tuple[object, ...], tuple[int, int]] = {}  # what was said → (event time, position)
        self._instants: dict[tuple[Subject, str, int], _Said] = {}
        self._bursts: dict[tuple[Subject, str], _Pace] = {}
        self._paces: dict[Subject, _Pace] = {}

    def clean(
        self,
        events: Sequence[LoggedEvent],
        event_types: Mapping[str, EventType],
        links: Mapping[str, str] | None = None,
    ) -> CleanBatch:
        """Sort a batch into what may be learned from and what may not.

        Args:
            events: the next events of the log, by position.
            event_types: the registered types, by name.
            links: visitor_id → user_id.
        """
        batch = CleanBatch([], [])
        for logged in events:
            filled = fill_missing(logged, links or {})
            rejection = self._limits.applies(impossible(filled, event_types, self._limits))
            rejection = rejection or self._against_memory(filled, event_types)
            if rejection is None:
                batch.events.append(filled)
            else:
                batch.rejections.append(rejection)
        self._forget()
        return batch

    def _against_memory(self, logged: LoggedEvent, event_types: Mapping[str, EventType]) -> Rejection | None:
        event_type, applies = event_types[logged.event.event_type], self._limits.applies
        return (
            applies(self._duplicate(logged))
            or applies(self._contradiction(logged, event_type))
            or applies(self._burst(logged, event_type))
            or applies(self._robot(logged, event_type))
        )

    def _duplicate(self, logged: LoggedEvent) -> Rejection | None:
        event, time_us = logged.event, _time_us(logged.event)
        window_us = 0 if event.backfill else int(self._limits.duplicate_window_s * _SECOND_US)
        said = (event.subject, event.event_type, event.item_id, event.query, event.value, event.attribution_token)
        before = self._repeats.pop(said, None)
        if before is not None and abs(time_us - before[0]) <= window_us:
            self._repeats[said] = before
            return Rejection(logged.position, Rule.DUPLICATE, f"repeats position {before[1]}")
        self._repeats[said] = (time_us, logged.position)
        return None

    def _contradiction(self, logged: LoggedEvent, event_type: EventType) -> Rejection | None:
        event = logged.event
        if not event.item_id or not (event_type.is_target or event_type.is_negative):
            return None
        said = _Said(logged.position, event.event_type, event_type.is_negative, event.value)
        before = self._instants.setdefault((event.subject, event.item_id, _time_us(event)), said)
        if before.negative != said.negative:
            reason = f"{said.event_type} and, at position {before.position}, {before.event_type} in the same instant"
            return Rejection(logged.position, Rule.CONTRADICTION, reason)
        if before.event_type == said.event_type and before.value != said.value:
            reason = f"another value than at position {before.position} in the same instant"
            return Rejection(logged.position, Rule.CONTRADICTION, reason)
        return None

    def _burst(self, logged: LoggedEvent, event_type: EventType) -> Rejection | None:
        event, limits = logged.event, self._limits
        if event.backfill or not event_type.in_history or not event.item_id:
            return None
        key = event.subject, event.item_id
        pace = self._bursts.pop(key, None) or _Pace()
        self._bursts[key] = pace
        count = pace.add(_time_us(event), int(limits.burst_window_s * _SECOND_US), limits.burst_events)
        if count <= limits.burst_events:
            return None
        return Rejection(logged.position, Rule.BURST, f"{count} on this item within {limits.burst_window_s:g} s")

    def _robot(self, logged: LoggedEvent, event_type: EventType) -> Rejection | None:
        event, limits = logged.event, self._limits
        # What is not in a history (impressions) is written by a page, many at a time, not by a hand.
        if event.backfill or not event_type.in_history:
            return None
        pace = self._paces.pop(event.subject, None) or _Pace()
        self._paces[event.subject] = pace  # at the end: the longest silent subjects are forgotten first
        count = pace.add(_time_us(event), int(limits.robot_window_s * _SECOND_US), limits.robot_events)
        if count <= limits.robot_events:
            return None
        return Rejection(logged.position, Rule.ROBOT, f"{count} events within {limits.robot_window_s:g} s")

    def _forget(self) -> None:
        for memory in (self._repeats, self._instants, self._bursts, self._paces):
            _keep_latest(memory, self._limits.remembered_events)  # type: ignore[arg-type]


def _keep_latest(memory: dict[object, object], count: int) -> None:
    for key in list(memory)[: max(0, len(memory) - count)]:
        del memory[key]


def count_by_rule(rejections: Iterable[Rejection]) -> dict[str, int]:
    """How many events each rule rejected."""
    counts: dict[str, int] = {}
    for rejection in rejections:
        counts[rejection.rule] = counts.get(rejection.rule, 0) + 1
    return counts


def _time_us(event: Event) -> int:
    assert event.event_time_us is not None
    return event.event_time_us
