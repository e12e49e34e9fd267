"""The artifact store is gone, slow or holds what cannot be served: the old generation answers, and why is seen."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as models_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_core.artifact_store import ArtifactStore
from headwater_core.database import Database
from headwater_core.manifest import USER_TOWER
from headwater_core.registry import GenerationRegistry
from headwater_server import loose_threads, reload
from headwater_server import server as server_module
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from tests.faults.remote_store import UnreliableFileSystem, upload
from tests.integration.conftest import Publish

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
FAILURES = "headwater_generation_load_failures_total"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again after seconds is tried again at once."""
    monkeypatch.setattr(reload, "_FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(reload, "_LONGEST_RETRY_S", 0.1)


@pytest.fixture
def remote(settings: ServerSettings) -> Iterator[ServerSettings]:
    """The installation, its store in a remote one."""
    yield settings.model_copy(update={"store_url": upload(Path(settings.store_url))})
    UnreliableFileSystem.fails.clear()
    UnreliableFileSystem.answers.set()  # or its threads would hang on


async def serving(channel: grpc.aio.Channel) -> int:
    """The generation that answers."""
    return (await RecommendationServiceStub(channel).Recommend(pb.RecommendRequest(user_id="ada"))).generation


async def failure_of(channel: grpc.aio.Channel, number: int) -> str:
    """Why a generation does not serve, as an operator is told."""
    listed = await ModelServiceStub(channel).ListGenerations(models_pb.ListGenerationsRequest())
    return next(each.failure for each in listed.generations if each.number == number)


def count(server: HeadwaterServer) -> float:
    """How many loads have failed."""
    return server.rooms.metrics.registry.get_sample_value(FAILURES) or 0.0


class Damage:
    """Breaks a generation, and mends it."""

    def __init__(self, settings: ServerSettings, number: int) -> None:
        self.store = Path(settings.store_url)
        self.manifest = self.store / "default" / "generations" / str(number) / "manifest.json"
        self._sound = self.manifest.read_bytes()
        entry = ArtifactStore(settings.store_url).read_manifest(number).files[USER_TOWER]
        self._blob = self.store / "default" / "blobs" / entry.sha256

    def cut_manifest(self) -> None:
        self.manifest.write_bytes(self._sound[: len(self._sound) // 2])

    def newer_schema(self) -> None:
        content = json.loads(self._sound)
        content["schema_version"] += 1
        self.manifest.write_text(json.dumps(content))

    def missing_manifest(self) -> None:
        self.manifest.unlink()

    def missing_blob(self) -> None:
        self._blob.rename(self._blob.with_name("elsewhere"))

    def missing_store(self) -> None:
        self.store.rename(self.store.with_name("elsewhere"))

    def mend(self) -> None:
        """Whatever it was."""
        for whole in (self.store, self._blob):
            if whole.with_name("elsewhere").exists():
                whole.with_name("elsewhere").rename(whole)
        self.manifest.write_bytes(self._sound)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("cut_manifest", "manifest.json"),
        ("newer_schema", "schema version"),
        ("missing_manifest", "missing"),
        ("missing_blob", "missing"),
        ("missing_store", "missing"),
    ],
)
async def test_what_cannot_be_loaded_leaves_the_old_one_and_is_loaded_when_it_can(
    quick: None,
    what: str,
    reason: str,
    settings: ServerSettings,
    publish: Publish,
    start_server: StartServer,
    connect: Connect,
    until: Until,
) -> None:
    """The reason is in ListGenerations and in the metric; mended, it serves without being asked to."""
    server = await start_server(settings)
    channel = connect(server)
    database = Database(settings.database_url)
    registry = GenerationRegistry(database)
    number = publish(settings, seed=2, label="stable-to-be")
    registry.drop_label("stable-to-be", expected=number)
    damage = Damage(settings, number)
    getattr(damage, what)()
    registry.set_label("stable", number)
    await until(lambda: count(server) > 1)
    assert reason in await failure_of(channel, number)
    assert await serving(channel) == 1
    damage.mend()
    await until(lambda: server.rooms.generations.by_label("stable").number == number)
    assert await serving(channel) == number
    assert not await failure_of(channel, number)
    database.close()


async def test_a_label_that_names_nothing_leaves_the_old_one(
    quick: None, settings: ServerSettings, start_server: StartServer, connect: Connect, until: Until
) -> None:
    """A generation that is on record and was never stored."""
    server = await start_server(settings)
    channel = connect(server)
    database = Database(settings.database_url)
    registry = GenerationRegistry(database)
    record = registry.get(1)
    assert record is not None
    registry.record(dataclasses.replace(record, number=1000))
    registry.set_label("stable", 1000)
    await until(lambda: count(server) > 0)
    assert "missing" in await failure_of(channel, 1000)
    assert await serving(channel) == 1
    registry.set_label("stable", 1)
    await until(lambda: not server.rooms.generations.failures)
    database.close()


async def test_a_store_that_answers_errors_leaves_the_old_one(
    quick: None,
    settings: ServerSettings,
    remote: ServerSettings,
    publish: Publish,
    start_server: StartServer,
    connect: Connect,
    until: Until,
) -> None:
    """Its words are the reason; when it answers again the new one serves."""
    server = await start_server(remote)
    channel = connect(server)
    UnreliableFileSystem.fails.set()
    number = publish(settings, seed=2)
    await until(lambda: count(server) > 1)
    assert "503" in await failure_of(channel, number)
    assert await serving(channel) == 1
    upload(Path(settings.store_url))
    await until(lambda: server.rooms.generations.by_label("stable").number == number)


async def test_a_store_that_hangs_holds_nothing_up(
    quick: None,
    settings: ServerSettings,
    remote: ServerSettings,
    publish: Publish,
    start_server: StartServer,
    connect: Connect,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers go on and say why it is the old generation that gives them; the label can be moved; all comes back."""
    monkeypatch.setattr(reload, "SLOW_S", 0.1)
    server = await start_server(remote)
    channel = connect(server)
    UnreliableFileSystem.answers.clear()
    number = publish(settings, seed=2)
    await until(lambda: count(server) > 0)
    assert "slow or hangs" in await failure_of(channel, number)
    for _ in range(20):
        assert await serving(channel) == 1
    upload(Path(settings.store_url))
    await until(lambda: server.rooms.generations.by_label("stable").number == number)


async def test_a_server_starts_and_stops_while_the_store_hangs(
    settings: ServerSettings, remote: ServerSettings, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are taken in from the start, and its end waits for nobody."""
    monkeypatch.setattr(server_module, "FIRST_LOAD_S", 0.1)
    monkeypatch.setattr(loose_threads, "_END_S", 0.1)
    UnreliableFileSystem.answers.clear()
    server = HeadwaterServer(remote)
    await asyncio.wait_for(server.start(), 60)
    channel = connect(server)
    event = event_pb2.Event(event_id="1", event_type="like", user_id="ada", item_id="space-00")
    await EventServiceStub(channel).WriteEvents(events_pb.WriteEventsRequest(events=[event]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await serving(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(server.stop(), 60)


async def test_a_server_that_started_without_the_store_serves_when_it_answers(
    settings: ServerSettings,
    remote: ServerSettings,
    start_server: StartServer,
    connect: Connect,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By itself."""
    monkeypatch.setattr(server_module, "FIRST_LOAD_S", 0.1)
    UnreliableFileSystem.answers.clear()
    server = await start_server(remote)
    UnreliableFileSystem.answers.set()
    await until(lambda: server.rooms.generations.stable is not None)
    assert await serving(connect(server)) == 1
