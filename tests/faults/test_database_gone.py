"""PostgreSQL is killed under a server that answers: reads go on from memory, all says what it lacks, all comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
import pytest
from local_postgresql import Cluster

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as models_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import user_service_pb2 as users_pb
from headwater.v1.catalog_service_pb2_grpc import CatalogServiceStub
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater.v1.user_service_pb2_grpc import UserServiceStub
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from headwater_server.tokens import ConsistencyToken
from tests.faults.conftest import FAULTS, TIMEOUT_S, Report

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]
_RECOVERY_S = 60

pytestmark = [pytest.mark.timeout(TIMEOUT_S)]


class Callers:
    """Every kind of call to one server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.events, self.recommendations = EventServiceStub(channel), RecommendationServiceStub(channel)
        self.catalog, self.models = CatalogServiceStub(channel), ModelServiceStub(channel)
        self.users = UserServiceStub(channel)
        self._written = 0

    async def like(self, user_id: str, item_id: str) -> None:
        """Write one event."""
        self._written += 1
        event = event_pb2.Event(event_id=f"e{self._written}", event_type="like", user_id=user_id, item_id=item_id)
        response = await self.events.WriteEvents(events_pb.WriteEventsRequest(events=[event]))
        assert response.results[0].outcome != event_pb2.EVENT_OUTCOME_REFUSED

    async def recommend(self, **fields: Any) -> pb.RecommendResponse:
        """Ask for a slate."""
        return await self.recommendations.Recommend(pb.RecommendRequest(page_size=5, **fields))

    def that_need_the_database(self) -> list[Awaitable[Any]]:
        """Reads and writes that memory cannot answer."""
        token = ConsistencyToken("default", 1_000_000).seal()
        item = item_pb2.Item(item_id="new", title="space ship")
        return [
            self.like("bob", "space-01"),
            self.recommend(user_id="ada", min_consistency_token=token),
            self.recommendations.EmbedUser(pb.EmbedUserRequest(user_id="never-asked-for")),
            self.events.ListEvents(events_pb.ListEventsRequest()),
            self.events.DeleteEvents(events_pb.DeleteEventsRequest(event_ids=["e1"])),
            self.users.DeleteUser(users_pb.DeleteUserRequest(user_id="nobody-yet")),
            self.catalog.UpsertItems(catalog_pb.UpsertItemsRequest(items=[item], defer_features=True)),
            self.catalog.ListItems(catalog_pb.ListItemsRequest()),
            self.models.ListGenerations(models_pb.ListGenerationsRequest()),
        ]


async def test_a_killed_database_leaves_the_reads(
    cluster: Cluster,
    postgresql_settings: ServerSettings,
    start_server: StartServer,
    connect: Connect,
    report: Report,
) -> None:
    """Killed and shut down in turn; what is known is answered, the rest is UNAVAILABLE with a hint, never INTERNAL."""
    server = await start_server(postgresql_settings)
    callers, chance = Callers(connect(server)), random.Random(12)
    await callers.like("ada", "space-00")
    searched = pb.SearchItemsRequest(query="space ship", page_size=5)
    await _until(lambda: _is_whole(callers, searched))
    before = await callers.recommend(user_id="ada")
    answered, refused, recoveries_s, reads_s = 0, 0, list[float](), list[float]()
    for number in range(FAULTS):
        await asyncio.to_thread(cluster.kill if number % 2 else cluster.stop)
        ends_s = time.monotonic() + chance.uniform(0.5, 2.0)
        while time.monotonic() < ends_s:
            known = await callers.recommend(user_id="ada")
            assert [each.item_id for each in known.results] == [each.item_id for each in before.results]
            stranger = await callers.recommend(user_id=f"stranger-{answered}")
            assert stranger.results
            assert "history unavailable" in stranger.degraded_reasons
            found = await callers.recommendations.SearchItems(searched)
            assert found.results
            assert found.degraded
            similar = pb.SimilarItemsRequest(item_id="space-00", page_size=5)
            assert (await callers.recommendations.SimilarItems(similar)).results
            scored = pb.ScoreItemsRequest(user_id="ada", item_ids=["space-01"])
            assert (await callers.recommendations.ScoreItems(scored)).scores
            got = await asyncio.gather(*callers.that_need_the_database(), return_exceptions=True)
            for failure in got:
                assert isinstance(failure, grpc.aio.AioRpcError), got
                assert failure.code() is grpc.StatusCode.UNAVAILABLE, failure
                assert dict(failure.trailing_metadata())["grpc-retry-pushback-ms"]
            answered, refused = answered + 5, refused + len(got)
        await _until(lambda: _says(callers, "database unavailable"))
        await asyncio.to_thread(cluster.start)
        recoveries_s.append(await _until(lambda: _does(callers.like("bob", "space-01"))))
        reads_s.append(await _until(lambda: _is_whole(callers, searched)))
    report(
        outages=FAULTS,
        answered=answered,
        refused=refused,
        writes_back_longest_s=round(max(recoveries_s), 2),
        reads_whole_after_that_longest_s=round(max(reads_s), 2),
    )


async def _is_whole(callers: Callers, searched: pb.SearchItemsRequest) -> bool:
    """Whether nothing is missing from any answer."""
    answers = await asyncio.gather(
        callers.recommend(user_id="ada"),
        callers.recommend(user_id="nobody-yet"),
        callers.recommendations.SearchItems(searched),
    )
    return not any(answer.degraded for answer in answers)


async def _says(callers: Callers, reason: str) -> bool:
    return reason in (await callers.recommend(user_id="ada")).degraded_reasons


async def _does(call: Coroutine[Any, Any, None]) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return False
    return True


async def _until(condition: Callable[[], Awaitable[bool]]) -> float:
    """Wait for it; how long that took."""
    began_s = time.monotonic()
    while not await condition():
        assert time.monotonic() < began_s + _RECOVERY_S, "it did not come"
        await asyncio.sleep(0.02)
    return time.monotonic() - began_s
