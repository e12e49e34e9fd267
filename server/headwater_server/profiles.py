"""What a user's recommendations rest on, for people to read. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headwater_core.catalogue import Item
from headwater_core.events import EventType, LoggedEvent

_HALF_LIFE_EVENTS = 20
MAX_RECENT_EVENTS = 20
MAX_INTERESTS = 20


@dataclass(frozen=True, slots=True)
class Profile:
    """A summary of one history."""

    interests: list[tuple[str, float]]
    """Categories and their shares of the history's weight, strongest first."""
    event_counts: dict[str, int]
    first_event_time_us: int | None
    last_event_time_us: int | None
    recent_events: list[LoggedEvent]
    """Newest first."""


def make_profile(
    history: Sequence[LoggedEvent], items: Mapping[str, Item], event_types: Mapping[str, EventType]
) -> Profile:
    """Summarise a history.

    An event gives its type's weight to each category of its item, in equal parts; twenty events later it counts half.
    Events that speak against their item and items that are gone give nothing.

    Args:
        history: oldest event first.
        items: the catalogue.
        event_types: the registered types.
    """
    weights: defaultdict[str, float] = defaultdict(float)
    for age, logged in enumerate(reversed(history)):
        event_type = event_types.get(logged.event.event_type)
        item = items.get(logged.event.item_id)
        if event_type is None or event_type.is_negative or item is None or not item.categories:
            continue
        weight = event_type.weight * 0.5 ** (age / _HALF_LIFE_EVENTS) / len(item.categories)
        for category in item.categories:
            weights[category] += weight
    total = sum(weights.values())
    strongest = sorted(weights.items(), key=lambda entry: (-entry[1], entry[0]))
    times_us = [logged.event.event_time_us or logged.received_time_us for logged in history]
    return Profile(
        interests=[(name, weight / total) for name, weight in strongest[:MAX_INTERESTS] if weight > 0],
        event_counts=dict(Counter(logged.event.event_type for logged in history)),
        first_event_time_us=min(times_us, default=None),
        last_event_time_us=max(times_us, default=None),
        recent_events=list(reversed(history))[:MAX_RECENT_EVENTS],
    )
