"""What the fake server remembers, and the simple things it computes from it. No gRPC."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from headwater.v1.event_pb2 import (
    EVENT_OUTCOME_ACCEPTED,
    EVENT_OUTCOME_DUPLICATE,
    EVENT_OUTCOME_REFUSED,
    Event,
    EventError,
    EventResult,
    EventType,
)
from headwater.v1.event_service_pb2 import StoredEvent
from headwater.v1.experiment_service_pb2 import ExperimentVersion
from headwater.v1.item_pb2 import Item
from headwater.v1.model_service_pb2 import Generation
from headwater.v1.recommendation_service_pb2 import ItemFilter
from headwater.v1.strategy_service_pb2 import StrategyVersion

HALF_LIFE_S = 7 * 24 * 3600.0
_WEIGHTS = {"view": 0.5, "click": 1, "search": 0.5, "like": 2, "rating": 2, "cart": 3, "purchase": 5, "bookmark": 2}
_NEUTRAL = ("cancel", "dislike", "hide", "impression", "comment", "follow", "share")
_WORD = re.compile(r"\w+")
_INVALID_ARGUMENT, _ALREADY_EXISTS = 3, 6


class FakeState:
    """Events, items, generations, in memory. Not safe in threads: the server holds a lock around every call."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []
        self.items: dict[str, Item] = {}
        self.event_types = {
            name: EventType(name=name, weight=_WEIGHTS.get(name, 0)) for name in sorted((*_WEIGHTS, *_NEUTRAL))
        }
        self.generations: dict[int, Generation] = {}
        self.label_history: dict[str, list[int]] = {}
        self.experiment_versions: dict[str, list[ExperimentVersion]] = {}
        self.strategy_versions: dict[str, list[StrategyVersion]] = {}
        self.revision = 0
        self._by_id: dict[str, Event] = {}
        self._user_of_visitor: dict[str, str] = {}
        self._next_position = 1
        self.publish()

    # events

    @property
    def head(self) -> int:
        """The position of the last event that was ever written; 0 for none."""
        return self._next_position - 1

    def write(self, index: int, event: Event, *, backfill: bool) -> EventResult:
        """Keep one event, or say why not."""
        if backfill and event.event_type:
            self.event_types.setdefault(event.event_type, EventType(name=event.event_type, weight=1))
        known = self._by_id.get(event.event_id)
        if known is not None and known == event:
            return EventResult(outcome=EVENT_OUTCOME_DUPLICATE)
        if known is not None:
            return _refused(index, event, "event_id", "is taken by an event with other content", _ALREADY_EXISTS)
        fault = self._fault(event)
        if fault is not None:
            return _refused(index, event, *fault, _INVALID_ARGUMENT)
        stored = StoredEvent(event=event, log_position=self._next_position)
        stored.received_time.GetCurrentTime()
        if not event.HasField("event_time"):
            stored.event.event_time.CopyFrom(stored.received_time)
        self._next_position += 1
        self._by_id[event.event_id] = Event.FromString(event.SerializeToString())
        self.events.append(stored)
        if event.user_id and event.visitor_id:
            self._user_of_visitor[event.visitor_id] = event.user_id
        return EventResult(outcome=EVENT_OUTCOME_ACCEPTED)

    def _fault(self, event: Event) -> tuple[str, str] | None:
        if not event.event_id:
            return "event_id", "must not be empty"
        if event.event_type not in self.event_types:
            return "event_type", f"{event.event_type!r} is not registered"
        if not event.user_id and not event.visitor_id:
            return "user_id", "one of user_id and visitor_id is required"
        if event.event_type == "search" and not event.query:
            return "query", "is required for a search"
        if event.event_type != "search" and not event.item_id:
            return "item_id", "must not be empty"
        if event.HasField("value") and not math.isfinite(event.value):
            return "value", "must be a finite number"
        return None

    def history(self, user_id: str, visitor_id: str) -> list[StoredEvent]:
        """The subject's events, oldest first; a user's include those of linked visitors."""
        user_id = user_id or self._user_of_visitor.get(visitor_id, "")
        if user_id:
            return [
                stored
                for stored in self.events
                if (stored.event.user_id or self._user_of_visitor.get(stored.event.visitor_id)) == user_id
            ]
        return [stored for stored in self.events if visitor_id and stored.event.visitor_id == visitor_id]

    def linked_visitors(self, user_id: str) -> list[str]:
        """The visitors whose events belong to the user."""
        return sorted(visitor for visitor, user in self._user_of_visitor.items() if user == user_id)

    def is_linked(self, visitor_id: str) -> bool:
        """Whether the visitor's events belong to a user."""
        return visitor_id in self._user_of_visitor

    def forget(self, event_ids: Collection[str]) -> int:
        """Erase events (their ids stay used); gives how many there were."""
        before = len(self.events)
        self.events = [stored for stored in self.events if stored.event.event_id not in event_ids]
        return before - len(self.events)

    def forget_subject(self, user_id: str, visitor_id: str) -> tuple[int, list[str]]:
        """Erase a subject's events and links; gives how many events, and the linked visitors."""
        count = self.forget({stored.event.event_id for stored in self.history(user_id, visitor_id)})
        visitors = self.linked_visitors(user_id) if user_id else []
        for visitor in visitors:
            del self._user_of_visitor[visitor]
        return count, visitors

    # recommendations

    def popularity(self, item_ids: Iterable[str]) -> dict[str, float]:
        """The decayed weight of the events on each item; an event counts half after a week."""
        scores = dict.fromkeys(item_ids, 0.0)
        now_s = time.time()
        for stored in self.events:
            if stored.event.item_id in scores:
                age_s = max(0.0, now_s - stored.event.event_time.ToNanoseconds() / 1e9)
                weight = self.event_types[stored.event.event_type].weight
                scores[stored.event.item_id] += weight * 0.5 ** (age_s / HALF_LIFE_S)
        return scores

    def matching(self, wanted: ItemFilter) -> list[str]:
        """The ids of the items that pass the filter."""
        now_ns = time.time_ns()
        return [item_id for item_id, item in self.items.items() if _passes(item, wanted, now_ns)]

    def similarity(self, item_id: str, other_id: str) -> float:
        """0..1: the share of categories, and of users, that two items have in common, averaged."""
        users: dict[str, set[str]] = {item_id: set(), other_id: set()}
        for stored in self.events:
            if stored.event.item_id in users:
                users[stored.event.item_id].add(stored.event.user_id or stored.event.visitor_id)
        categories = (set(self.items[item_id].categories), set(self.items[other_id].categories))
        return (_overlap(*categories) + _overlap(users[item_id], users[other_id])) / 2

    def words_in_common(self, query: str, item_id: str) -> float:
        """0..1: the share of the query's words that the item's title, description or categories hold."""
        item = self.items[item_id]
        theirs = set(_WORD.findall(" ".join((item.title, item.description, *item.categories)).lower()))
        wanted = set(_WORD.findall(query.lower()))
        return len(wanted & theirs) / len(wanted) if wanted else 0.0

    def category_shares(self, events: Iterable[Event]) -> Mapping[str, float]:
        """Each category's share of what the events are about, largest first."""
        counts = Counter(
            category
            for event in events
            if event.item_id in self.items
            for category in self.items[event.item_id].categories
        )
        total = counts.total()
        return {category: count / total for category, count in counts.most_common()}

    # generations

    def publish(self) -> int:
        """Make a new generation that has learned from everything, and point `stable` at it; gives its number."""
        number = max(self.generations, default=0) + 1
        generation = Generation(
            number=number, parent=number - 1, watermark=self.head, item_count=len(self.items), full=True
        )
        generation.publish_time.GetCurrentTime()
        self.generations[number] = generation
        self.label_history.setdefault("stable", []).append(number)
        return number

    def stable(self) -> Generation:
        """The generation that `stable` names."""
        return self.generations[self.label_history["stable"][-1]]


def _refused(index: int, event: Event, field: str, reason: str, code: int) -> EventResult:
    error = EventError(index=index, event_id=event.event_id, field=field, reason=reason, code=code)
    return EventResult(outcome=EVENT_OUTCOME_REFUSED, error=error)


def _passes(item: Item, wanted: ItemFilter, now_ns: int) -> bool:
    if not wanted.HasField("available_only") or wanted.available_only:
        if item.HasField("available") and not item.available:
            return False
        if item.HasField("expire_time") and item.expire_time.ToNanoseconds() <= now_ns:
            return False
    if wanted.categories and not set(wanted.categories) & set(item.categories):
        return False
    if any(item.attributes.get(key) != value for key, value in wanted.attributes.items()):
        return False
    published_ns = item.publish_time.ToNanoseconds()
    if wanted.HasField("published_after") and published_ns < wanted.published_after.ToNanoseconds():
        return False
    return not wanted.HasField("published_before") or published_ns < wanted.published_before.ToNanoseconds()


def _overlap(left: set[str], right: set[str]) -> float:
    return len(left & right) / len(left | right) if left | right else 0.0
