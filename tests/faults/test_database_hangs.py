"""PostgreSQL is stopped where it is: its connections stay, and nobody answers on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from local_postgresql import Cluster

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_core.database import chunks
from headwater_core.events import Subject, SubjectKind
from headwater_server.recommender import STATE_LIMIT_S
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from headwater_server.user_states import FEW_READINGS
from tests.faults.conftest import TIMEOUT_S, Report
from tests.integration.server_process import ServerProcess

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

pytestmark = [pytest.mark.timeout(TIMEOUT_S)]


@pytest.fixture
def history_limit_s() -> float:
    """As users have it: histories do not come, and answers are to be made without them."""
    return STATE_LIMIT_S


@pytest.fixture
def hanging(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that a test may suspend; it goes on in the end."""
    yield cluster
    cluster.resume()


def like(event_id: str) -> events_pb.WriteEventsRequest:
    event = event_pb2.Event(event_id=event_id, event_type="like", user_id="ada", item_id="space-00")
    return events_pb.WriteEventsRequest(events=[event])


async def test_what_its_callers_gave_up_holds_nothing_up_when_it_is_back(
    postgresql_settings: ServerSettings, start_server: StartServer, connect: Connect, until: Until, hanging: Cluster
) -> None:
    """Few histories of strangers are left waiting, and no writes; then all is answered as before."""
    server = await start_server(postgresql_settings)
    channel = connect(server)
    recommendations, events = RecommendationServiceStub(channel), EventServiceStub(channel)
    await events.WriteEvents(like("1"))
    hanging.suspend()
    strangers = [pb.RecommendRequest(user_id=f"stranger-{number}", page_size=5) for number in range(3 * FEW_READINGS)]
    for at_once in chunks(strangers, 30):
        answers = await asyncio.gather(*map(recommendations.Recommend, at_once))
        assert all("history unavailable" in answer.degraded_reasons for answer in answers)
    writes = [events.WriteEvents(like(f"given-up-{number}"), timeout=1) for number in range(20)]
    for outcome in await asyncio.gather(*writes, return_exceptions=True):
        assert isinstance(outcome, grpc.aio.AioRpcError)
    names = {request.user_id for request in strangers}
    assert len(names.intersection(subject.id for subject in server.rooms.states.subjects())) <= FEW_READINGS
    await until(lambda: server.rooms.committer.waiting_events == 0)
    hanging.resume()
    await events.WriteEvents(like("2"))
    await until(lambda: not server.rooms.database_is_away)
    await server.rooms.states.get(Subject(SubjectKind.USER, strangers[0].user_id))


async def test_a_server_ends_while_its_database_hangs(
    hanging: Cluster, postgresql_settings: ServerSettings, tmp_path: Path, report: Report
) -> None:
    """SIGTERM is enough, though writes, readings of histories and the listening connection are under way."""
    server = ServerProcess(postgresql_settings, tmp_path / "server.log", HEADWATER_DRAIN_S="1")
    try:
        address = await asyncio.to_thread(lambda: server.address)
        async with grpc.aio.insecure_channel(address) as channel:
            recommendations, events = RecommendationServiceStub(channel), EventServiceStub(channel)
            await events.WriteEvents(like("1"), timeout=60)
            known = pb.RecommendRequest(user_id="ada", page_size=5)
            assert (await recommendations.Recommend(known, timeout=60)).results
            hanging.suspend()
            assert (await recommendations.Recommend(known, timeout=60)).results
            stranger = await recommendations.Recommend(pb.RecommendRequest(user_id="bob", page_size=5), timeout=60)
            assert "history unavailable" in stranger.degraded_reasons
            with pytest.raises(grpc.aio.AioRpcError):
                await events.WriteEvents(like("2"), timeout=1)
        began_s = time.monotonic()
        assert await asyncio.to_thread(server.end) == 0
        report(ended_s=round(time.monotonic() - began_s, 2))
        assert server.said("lease_not_returned")
    finally:
        server.process.kill()
        server.process.wait()
