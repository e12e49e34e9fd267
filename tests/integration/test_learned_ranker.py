"""From slates and clicks over the wire to a ranker that puts what users click on first."""

from __future__ import annotations

import itertools
import random
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import strategy_service_pb2 as strategies_pb
from headwater.v1.strategy_service_pb2_grpc import StrategyServiceStub
from headwater_core.impressions import ImpressionLog
from headwater_core.ranker import FEATURES, Ranker, Weight, unpack
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from headwater_updater.ranker_learning import RankerLearning
from headwater_updater.resources import Resources
from headwater_updater.settings import UpdaterSettings
from tests.integration.conftest import Publish
from tests.integration.updater_world import HashEncoder, make_world

if TYPE_CHECKING:
    from pathlib import Path

    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

N_USERS, N_ROUNDS, PAGE = 40, 6, 10
CLICKS_BY_PLACE = 0.9
_numbers = itertools.count()


async def write(events: EventServiceAsyncStub, event_type: str, user_id: str, item_id: str, token: str = "") -> None:
    event = event_pb2.Event(
        event_id=f"r-{next(_numbers)}",
        event_type=event_type,
        user_id=user_id,
        item_id=item_id,
        attribution_token=token,
    )
    response = await events.WriteEvents(events_pb.WriteEventsRequest(events=[event]))
    assert response.results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED


async def age_items(catalog: CatalogServiceAsyncStub) -> set[str]:
    """Publish every second item long ago; those."""
    listed = await catalog.ListItems(catalog_pb.ListItemsRequest(page_size=1000))
    old: set[str] = set()
    changed: list[item_pb2.Item] = []
    now_s = int(time.time())
    for number, item in enumerate(listed.items):
        is_old = number % 2 == 0
        item.publish_time.CopyFrom(Timestamp(seconds=now_s - (900 * 86_400 if is_old else 60)))
        changed.append(item)
        if is_old:
            old.add(item.item_id)
    await catalog.UpsertItems(catalog_pb.UpsertItemsRequest(items=changed))
    return old


def learning(settings: ServerSettings) -> tuple[Resources, RankerLearning]:
    chosen = UpdaterSettings(
        database_url=settings.database_url,
        store_url=settings.store_url,
        ranker_wait_s=0,
        ranker_min_actions=50,
    )
    resources = Resources.open(chosen, HashEncoder())
    return resources, RankerLearning(resources, chosen)


@pytest.fixture
async def learned_strategy(channel: grpc.aio.Channel) -> None:
    sources = [strategies_pb.StrategySource(name=name) for name in ("tower", "popular", "category")]
    strategy = strategies_pb.Strategy(sources=sources, ranking="learned")
    await StrategyServiceStub(channel).PutStrategy(strategies_pb.PutStrategyRequest(name="default", strategy=strategy))


async def test_what_users_click_on_comes_first(
    settings: ServerSettings,
    server: HeadwaterServer,
    learned_strategy: None,
    events: EventServiceAsyncStub,
    catalog: CatalogServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    publish: Publish,
) -> None:
    """They click on old items, the more the higher up: the ranker learns the one from the other."""
    old = await age_items(catalog)
    chance = random.Random(0)
    users = [f"user-{number}" for number in range(N_USERS)]
    for user in users:
        await write(events, "like", user, f"{chance.choice(['space', 'love', 'crime'])}-{chance.randrange(20):02}")
    shares: list[float] = []
    for _ in range(N_ROUNDS):
        for user in users:
            answer = await recommendations.Recommend(pb.RecommendRequest(user_id=user, page_size=PAGE))
            assert list(answer.notices) == ["strategy.ranking: no ranker is learned yet; by ranks until then"]
            shares.append(sum(result.item_id in old for result in answer.results) / PAGE)
            for place, result in enumerate(answer.results):
                if result.item_id in old and chance.random() < CLICKS_BY_PLACE * 0.8**place:
                    await write(events, "click", user, result.item_id, answer.attribution_token)
    await server.rooms.impression_writer.flush()
    now_us = server.rooms.now_us() + 10_000_000
    server.rooms.attributor._now_us = lambda: now_us
    await server.rooms.attributor.step()
    resources, learns = learning(settings)
    ranker = learns.step(now_us)
    assert ranker is not None
    assert ranker.weights["age"].weight > 0.3
    assert learns.step(now_us) is None  # it is not time yet
    resources.database.close()

    publish(settings, ranker=ranker)
    await server.rooms.generations.refresh()
    after: list[float] = []
    for user in users:
        answer = await recommendations.Recommend(pb.RecommendRequest(user_id=user, page_size=PAGE))
        assert not answer.notices
        scores = [result.score for result in answer.results]
        assert scores == sorted(scores, reverse=True)
        after.append(sum(result.item_id in old for result in answer.results) / PAGE)
    before = sum(shares[:N_USERS]) / N_USERS
    assert sum(after) / N_USERS > before + 0.2


async def test_features_are_kept_with_what_was_shown(
    settings: ServerSettings,
    server: HeadwaterServer,
    learned_strategy: None,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """A row for each item, as the sources proposed it; too few actions make no ranker."""
    await write(events, "like", "ada", "space-00")
    answer = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=PAGE))
    await server.rooms.impression_writer.flush()
    [slate] = ImpressionLog(server.rooms.database).with_features(2**62, 10)
    assert [item.item_id for item in slate.items] == [result.item_id for result in answer.results]
    features = unpack(slate.features, PAGE)
    assert features is not None
    for row, item in zip(features, slate.items, strict=True):
        by_source = dict(zip(FEATURES, row.tolist(), strict=True))
        assert {name for name in ("tower", "popular", "category") if by_source[name] > 0} == set(item.sources)
    resources, learns = learning(settings)
    assert learns.step(server.rooms.now_us() + 10_000_000) is None
    resources.database.close()


def test_a_ranker_goes_from_generation_to_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is news that is published, and whoever goes on from there keeps it."""
    world = make_world(tmp_path)
    world.items(*range(40))
    world.events(400)
    world.bootstrap()
    found = [Ranker({"popularity": Weight(0.5, 0.0, 3.0)})]
    monkeypatch.setattr(RankerLearning, "step", lambda *_: found.pop() if found else None)
    session = world.resume()
    while session.learn():
        pass
    session.learn_ranking()
    assert session.has_news
    with world.lead() as leadership:
        session.publish(leadership.lease)
    assert world.manifest.ranker == {"popularity": (0.5, 0.0, 3.0)}
    assert world.loaded().ranker
    world.events(20)
    world.round()
    assert world.manifest.ranker == {"popularity": (0.5, 0.0, 3.0)}
    world.resources.database.close()
