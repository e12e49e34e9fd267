"""Our own log: impressions, joined by the attribution token with what users did afterwards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from headwater_core.attribution import attributed_slate
from headwater_core.database import Database
from headwater_core.errors import InvalidFieldError, NotFoundError
from headwater_core.event_types import EventTypes
from headwater_core.feedback_log import EventQuery, FeedbackLog
from headwater_core.impressions import Impression, ImpressionLog
from headwater_updater.ope.log import BanditLog, ShownRow, bandit_log

_EVENTS = 10_000
"""Events read at once."""


class OwnRewards(NamedTuple):
    """What counts as a reward: 1 when one of these events on a shown item carries its slate's token in time, else 0."""

    event_types: Collection[str]
    window_us: int
    """How long after the showing it counts."""


def read_own_log(database: Database, tenant: str, rewards: OwnRewards, from_us: int, now_us: int) -> BanditLog:
    """What was shown from `from_us` on, and long enough ago for its window to be over.

    A row's position is the item's place in its answer, from 1, on later pages too. Rows of one subject belong
    together; those of nobody by slate. Items without a known propensity are left out and counted.

    Raises:
        InvalidFieldError: an event type is not registered.
        NotFoundError: nothing is left to evaluate on.
    """
    known = EventTypes(database, tenant).all()
    for name in rewards.event_types:
        if name not in known:
            raise InvalidFieldError("reward", f"{name!r} is no event type; there are {', '.join(sorted(known))}")
    actions = _first_actions(FeedbackLog(database, tenant), tenant, rewards.event_types, from_us)
    shown: list[Impression] = []
    n_open = n_unknown = n_joined = 0
    for impression in ImpressionLog(database, tenant).between(from_us, now_us):
        if impression.time_us + rewards.window_us > now_us:
            n_open += 1
        else:
            shown.append(impression)
    keys = sorted({key for each in shown for key in each.context})
    rows: list[ShownRow] = []
    for each in shown:
        cluster = each.slate_id if each.subject is None else f"{each.subject.kind.value} {each.subject.id}"
        context = (each.surface, *(each.context.get(key, "") for key in keys))
        for place, item in enumerate(each.items, start=1):
            acted_us = actions.first_us.get((each.slate_id, item.item_id))
            if not item.propensity:
                n_unknown += 1
                continue
            # An event cannot come before the answer that it names: one that says so has another clock.
            rewarded = acted_us is not None and acted_us < each.time_us + rewards.window_us
            n_joined += rewarded
            rows.append(ShownRow(item.item_id, place, float(rewarded), item.propensity, cluster, context))
    if not rows:
        raise NotFoundError(
            f"nothing to evaluate on: {len(shown)} impressions whose window is over, {n_open} whose window is open, "
            f"{n_unknown} items without a known propensity"
        )
    facts = {
        "impressions": len(shown),
        "impressions_with_an_open_window": n_open,
        "items_without_a_propensity": n_unknown,
        "rewarded_items": n_joined,
        "events_of_the_reward": actions.n_events,
        "events_without_a_token": actions.n_without_token,
        "events_with_a_foreign_token": actions.n_foreign,
    }
    return bandit_log(rows, "subject", ["surface", *(f"context.{key}" for key in keys)], facts)


@dataclass(slots=True)
class _Actions:
    """Events that count, by what they were on."""

    first_us: dict[tuple[str, str], int] = field(default_factory=dict)
    """When the first one happened, by slate and item."""
    n_events: int = 0
    n_without_token: int = 0
    n_foreign: int = 0
    """Their token is not one of this tenant."""


def _first_actions(log: FeedbackLog, tenant: str, event_types: Collection[str], from_us: int) -> _Actions:
    found = _Actions()
    query = EventQuery(event_types=event_types, event_time_from_us=from_us)
    position = 0
    while batch := log.list_events(query, position, _EVENTS):
        position = batch[-1].position
        found.n_events += len(batch)
        for event in (each.event for each in batch):
            if not event.attribution_token:
                found.n_without_token += 1
                continue
            try:
                slate_id = attributed_slate(event.attribution_token, tenant)
            except InvalidFieldError:
                found.n_foreign += 1
                continue
            key = slate_id, event.item_id
            time_us = event.event_time_us or 0
            found.first_us[key] = min(time_us, found.first_us.get(key, time_us))
    return found
