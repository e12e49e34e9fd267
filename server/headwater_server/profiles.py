"""What a user's recommendations rest on, for people to read. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from headwater_core.catalogue import Item
from headwater_core.events import EventType, HistoryEvent, LoggedEvent

_HALF_LIFE_EVENTS = 20
MAX_RECENT_EVENTS = 20
MAX_AFFINITIES = 20
MAX_STRONGEST = 3
CATEGORY = ""
"""The key of categories; no attribute has an empty one."""
_DAY_US = 24 * 3600 * 1_000_000


class Affinity(NamedTuple):
    """What a user turns to, or turns away from, and what that rests on."""

    key: str
    """CATEGORY, or an attribute's name."""
    value: str
    share: float
    """Of the weight of all values of the key."""
    last_event_time_us: int
    event_count: int
    strongest_item_ids: list[str]
    """The items of the events that count most, strongest first."""


class Activity(NamedTuple):
    """How much happened when."""

    last_day: int
    last_week: int
    last_30_days: int
    active_days: int
    """Different days, UTC."""
    sessions: int
    """Different ones that events name."""
    by_hour: list[int]
    """Events in each hour of the day, UTC: 24 counts."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A summary of one history."""

    affinities: list[Affinity]
    """What speaks for items turns to: at most MAX_AFFINITIES categories and as many attributes, strongest first."""
    aversions: list[Affinity]
    """The same of what speaks against items."""
    event_counts: dict[str, int]
    activity: Activity | None
    """None without events."""
    first_event_time_us: int | None
    last_event_time_us: int | None
    recent_events: list[LoggedEvent]
    """Newest first."""


class _Voice(NamedTuple):
    """An event that says something of its item."""

    weight: float
    time_us: int
    item: Item


@dataclass(slots=True)
class _Sum:
    """What events say of one category or attribute value."""

    weight: float = 0.0
    last_event_time_us: int = 0
    event_count: int = 0
    by_item: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def make_profile(
    history: Sequence[LoggedEvent], items: Mapping[str, Item], event_types: Mapping[str, EventType], now_us: int
) -> Profile:
    """Summarise a history.

    An event gives its type's weight to each attribute of its item, and to its categories in equal parts; twenty events
    later it counts half. Events that speak against their item are summed up apart: they take nothing from what
    others speak for, as they take nothing from what the server recommends by category. Items that are gone say nothing.

    Args:
        history: oldest event first.
        items: the catalogue.
        event_types: the registered types.
        now_us: the clock, microseconds since 1970 UTC.
    """
    voices: dict[bool, list[_Voice]] = {False: [], True: []}  # by whether they speak against their item
    for age, logged in enumerate(reversed(history)):
        event_type, item = event_types.get(logged.event.event_type), items.get(logged.event.item_id)
        if event_type is not None and event_type.weight > 0 and item is not None:
            weight = event_type.weight * faded(age)
            voices[event_type.is_negative].append(_Voice(weight, _time_us(logged), item))
    times_us = [_time_us(logged) for logged in history]
    return Profile(
        affinities=_affinities(voices[False]),
        aversions=_affinities(voices[True]),
        event_counts=dict(Counter(logged.event.event_type for logged in history)),
        activity=_activity(history, now_us) if history else None,
        first_event_time_us=min(times_us, default=None),
        last_event_time_us=max(times_us, default=None),
        recent_events=list(reversed(history))[:MAX_RECENT_EVENTS],
    )


def faded(age: int) -> float:
    """What an event still counts after so many later ones, where it is asked what a user turns to."""
    return float(0.5 ** (age / _HALF_LIFE_EVENTS))


def category_weights(
    history: Sequence[HistoryEvent], event_weights: Mapping[str, float], items: Mapping[str, Item]
) -> dict[str, float]:
    """How much a user turns to each category: each event's weight, faded, in equal parts.

    Args:
        history: oldest event first.
        event_weights: by type; 0 for what speaks against its item.
        items: the catalogue.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for age, event in enumerate(reversed(history)):
        item = items.get(event.item_id)
        weight = event_weights.get(event.event_type, 0.0) * faded(age)
        categories = item.categories if item is not None and weight else ()
        for category in categories:
            found[category] += weight / len(categories)
    return found


def _affinities(voices: Iterable[_Voice]) -> list[Affinity]:
    """Args: voices: the newest first."""
    sums: defaultdict[tuple[str, str], _Sum] = defaultdict(_Sum)
    totals: defaultdict[str, float] = defaultdict(float)
    for voice in voices:
        categories = dict.fromkeys(voice.item.categories)  # an item may name one twice
        told = [(CATEGORY, category, len(categories)) for category in categories]
        told += [(*each, 1) for each in voice.item.attributes.items()]
        for key, value, parts in told:
            weight, found = voice.weight / parts, sums[key, value]
            if not found.event_count:
                found.last_event_time_us = voice.time_us
            totals[key] += weight
            found.weight += weight
            found.event_count += 1
            found.by_item[voice.item.item_id] += weight
    strongest = sorted(sums, key=lambda at: (-sums[at].weight, at))
    kept = [at for at in strongest if at[0] == CATEGORY][:MAX_AFFINITIES]
    kept += [at for at in strongest if at[0] != CATEGORY][:MAX_AFFINITIES]
    return [
        Affinity(
            key,
            value,
            (found := sums[key, value]).weight / totals[key],
            found.last_event_time_us,
            found.event_count,
            sorted(found.by_item, key=lambda item_id: (-found.by_item[item_id], item_id))[:MAX_STRONGEST],
        )
        for key, value in kept
    ]


def _activity(history: Sequence[LoggedEvent], now_us: int) -> Activity:
    times_us = [_time_us(logged) for logged in history]
    by_hour = Counter(time_us % _DAY_US // (_DAY_US // 24) for time_us in times_us)
    last_day, last_week, last_30_days = (
        sum(time_us > now_us - days * _DAY_US for time_us in times_us) for days in (1, 7, 30)
    )
    return Activity(
        last_day,
        last_week,
        last_30_days,
        active_days=len({time_us // _DAY_US for time_us in times_us}),
        sessions=len({logged.event.session_id for logged in history} - {""}),
        by_hour=[by_hour[hour] for hour in range(24)],
    )


def _time_us(logged: LoggedEvent) -> int:
    time_us = logged.event.event_time_us
    return logged.received_time_us if time_us is None else time_us
