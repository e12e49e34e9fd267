"""Whatever strategy answers, whatever changes meanwhile: what is hidden, expired, excluded or disliked is not shown.

`HEADWATER_TEST_REQUESTS=100000 make test PYTEST_ARGS=tests/integration/server/test_never_shown.py` asks that often.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import recommendation_service_pb2 as pb
from headwater_core.catalogue import Item
from headwater_core.errors import InvalidFieldError
from headwater_core.events import Event
from headwater_core.experiments import Experiment
from headwater_core.strategies import SOURCES, Strategy
from headwater_server import queries
from headwater_server.server import HeadwaterServer
from headwater_server.strategy_book import NamedStrategy
from tests.integration.conftest import ITEMS_PER_TOPIC, TOPICS

REQUESTS = int(os.environ.get("HEADWATER_TEST_REQUESTS", "3000"))
AT_ONCE = 10
_ITEMS = [f"{topic}-{number:02}" for topic in TOPICS for number in range(ITEMS_PER_TOPIC)]
_USERS = [f"user-{number}" for number in range(8)]
_OF_THE_EXPERIMENT = 0.2
_KEYS = (("category", tuple(TOPICS)), ("attributes.shelf", ("old", "new")))


@dataclass
class Forbidden:
    """What must not be shown now: to nobody, and to single users."""

    to_all: set[str] = field(default_factory=set)
    to_user: dict[str, set[str]] = field(default_factory=lambda: {user: set() for user in _USERS})


def any_strategy(chance: random.Random) -> Strategy:
    """A strategy out of everything that one can say."""
    while True:
        names = chance.sample(SOURCES, chance.randint(1, len(SOURCES)))
        sources = [
            {"name": name, "weight": chance.choice([0.0, 0.5, 1.0, 3.0]), "every": chance.choice([0, 0, 2, 5])}
            for name in names
        ]
        key, values = chance.choice(_KEYS)
        content: dict[str, Any] = {"sources": sources, "ranking": chance.choice(["blend", "ranks"])}
        if chance.random() < 0.3:
            content["boosts"] = [{"key": key, "value": chance.choice(values), "factor": chance.choice([0.1, 10.0])}]
        if chance.random() < 0.3:
            content["caps"] = [{"key": key, "at_most": chance.randint(1, 4)}]
        if chance.random() < 0.4:
            pinned = chance.sample(_ITEMS, 3)
            content["pins"] = [{"place": place, "item_id": item_id} for place, item_id in enumerate(pinned, 1)]
        if chance.random() < 0.3:
            content["diversity"] = chance.random()
        if chance.random() < 0.3:
            content["only"] = {"without_categories": [chance.choice(list(TOPICS))]}
        try:
            return Strategy.from_dict(content)
        except InvalidFieldError:
            continue  # it contradicts itself


async def change(chance: random.Random, server: HeadwaterServer, forbidden: Forbidden, number: int) -> None:
    """One change: of the catalogue, or a user dislikes something."""
    rooms = server.rooms
    item_id, user = chance.choice(_ITEMS), chance.choice(_USERS)
    what = chance.choice(["hide", "show", "delete", "restore", "expire", "dislike"])
    if what in {"show", "restore"}:
        forbidden.to_all.discard(item_id)  # from here on either is right, until it is known what came of it
    if what in {"hide", "show"}:
        await rooms.in_writing(rooms.catalogue.set_availability, [item_id], what == "show", rooms.now_us())
    elif what == "delete":
        await rooms.in_writing(rooms.catalogue.delete, [item_id])
    elif what in {"restore", "expire"}:
        topic = item_id.split("-")[0]
        expire_us = rooms.now_us() - 1 if what == "expire" else None
        item = Item(item_id, topic, "", (topic,), {"shelf": "old"}, expire_time_us=expire_us)
        await rooms.in_writing(rooms.catalogue.upsert, [item], None, rooms.now_us())
    else:
        event = Event(f"dislike-{number}", chance.choice(["dislike", "hide"]), user, item_id=item_id)
        await rooms.committer.append([event])
        forbidden.to_user[user].add(item_id)
    await rooms.catalogue_tail.catch_up()
    present = rooms.view.items.get(item_id)
    is_there = present is not None and present.available and present.expire_time_us is None
    (forbidden.to_all.discard if is_there else forbidden.to_all.add)(item_id)


async def ask(chance: random.Random, server: HeadwaterServer, strategy: Strategy, forbidden: Forbidden) -> None:
    """One request, which must not show what is forbidden from its beginning to its end.

    The strategy answers it, or the arms of the experiment together.
    """
    rooms = server.rooms
    user = chance.choice(_USERS)
    excluded = chance.sample(_ITEMS, chance.randint(0, 5))
    request = pb.RecommendRequest(
        user_id=user,
        page_size=chance.choice([1, 5, 20, 60]),
        exclude_item_ids=excluded,
        exclude_seen=chance.random() < 0.5,
        context_item_ids=chance.sample(_ITEMS, chance.randint(0, 2)),
    )
    if chance.random() < 0.2:
        request.filter.categories.append(chance.choice(list(TOPICS)))
    if chance.random() < 0.1:
        request.filter.published_after.CopyFrom(Timestamp(seconds=1))
    query = queries.recommend_query(request, rooms.event_types, rooms.tenant, rooms.now_us(), rooms.max_ahead_us)
    before = forbidden.to_all | forbidden.to_user[user] | set(excluded)
    named = None if chance.random() < _OF_THE_EXPERIMENT else NamedStrategy("any", 1, strategy)
    slate = await rooms.recommender.recommend(query, named)
    after = forbidden.to_all | forbidden.to_user[user] | set(excluded)
    shown = [candidate.item_id for candidate in slate.candidates]
    assert len(shown) == len(set(shown)) <= request.page_size
    assert not set(shown) & before & after, (strategy, request)
    assert not slate.degraded_parts


@pytest.mark.timeout(max(180, REQUESTS // 20))
async def test_what_is_forbidden_is_never_shown(server: HeadwaterServer) -> None:
    """Thousands of requests by hundreds of strategies and by an experiment that mixes some, with changes among them."""
    chance, forbidden = random.Random(20_331), Forbidden()
    for number, user in enumerate(_USERS):
        liked = chance.sample(_ITEMS, 6)
        likes = [Event(f"like-{number}-{item_id}", "like", user, item_id=item_id) for item_id in liked]
        await server.rooms.committer.append(likes)
    arms = [{"name": name, "strategy": name} for name in ("one", "other", "third")]
    for arm in arms:
        await server.rooms.in_writing(server.rooms.strategy_store.put, arm["name"], any_strategy(chance), None)
    mix = Experiment.from_dict({"arms": arms, "allocation": "interleaved", "rewards": {"click": 1.0}})
    await server.rooms.in_writing(server.rooms.experiment_store.put, "mix", mix, None)
    await server.rooms.refresh_documents()
    for number in range(REQUESTS // AT_ONCE):
        strategy = any_strategy(chance)
        asked = (ask(chance, server, strategy, forbidden) for _ in range(AT_ONCE))
        await asyncio.gather(change(chance, server, forbidden, number), *asked)
    assert forbidden.to_all
    assert len(forbidden.to_all) < len(_ITEMS)
