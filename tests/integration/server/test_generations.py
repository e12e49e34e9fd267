"""Generations come, go and fail while requests are answered."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as pb
from headwater.v1 import recommendation_service_pb2 as recommend_pb
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_core.artifact_store import ArtifactStore
from headwater_core.manifest import ITEM_TOWER, USER_TOWER, index_file
from headwater_server.server import HeadwaterServer
from headwater_server.serving_generation import ServingGeneration
from headwater_server.settings import ServerSettings

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

NEVER_MS = 3_600_000
Publish = Callable[..., int]
StartServer = Callable[[ServerSettings], Awaitable[HeadwaterServer]]


@pytest.fixture
def settings(settings: ServerSettings) -> ServerSettings:
    """The labels are looked at only when a test says so."""
    return settings.model_copy(update={"label_interval_ms": NEVER_MS})


def blob(settings: ServerSettings, generation: int, name: str) -> Path:
    """The path of one file of a generation."""
    entry = ArtifactStore(settings.store_url).read_manifest(generation).files[name]
    return Path(settings.store_url) / "default" / "blobs" / entry.sha256


def replace(path: Path, content: bytes) -> None:
    """Put other bytes in a file's place; the file that is mapped stays what it was."""
    path.unlink()
    path.write_bytes(content)


async def serving(recommendations: RecommendationServiceAsyncStub) -> int:
    """The generation that answers."""
    return (await recommendations.Recommend(recommend_pb.RecommendRequest(user_id="ada"))).generation


async def state(models: ModelServiceAsyncStub, number: int) -> pb.GenerationState.ValueType:
    return (await models.GetGeneration(pb.GetGenerationRequest(number=number))).generation.state


async def test_a_generation_is_described(models: ModelServiceAsyncStub) -> None:
    """Everything its record has, its labels and where it stands on this server; 0 asks for the serving one."""
    response = await models.GetGeneration(pb.GetGenerationRequest())
    generation = response.generation
    assert (generation.number, generation.parent, generation.full) == (1, 0, True)
    assert (list(generation.labels), generation.state) == (["stable"], pb.GENERATION_STATE_SERVING)
    assert (generation.item_count, generation.dimension) == (60, 16)
    assert generation.total_bytes > 10_000
    assert generation.metrics == {"prequential_hr_at_10": 0.25}
    assert generation.publish_time.seconds == 1_700_000_000
    assert await models.GetGeneration(pb.GetGenerationRequest(number=1)) == response


async def test_generations_are_listed_newest_first(
    models: ModelServiceAsyncStub, settings: ServerSettings, publish: Publish
) -> None:
    """Page by page, with their labels and states."""
    publish(settings, seed=2)
    publish(settings, seed=3, label="canary")
    await models.Reload(pb.ReloadRequest())
    first = await models.ListGenerations(pb.ListGenerationsRequest(page_size=2))
    second = await models.ListGenerations(pb.ListGenerationsRequest(page_size=2, page_token=first.next_page_token))
    assert second.next_page_token == ""
    listed = [*first.generations, *second.generations]
    assert [(each.number, list(each.labels)) for each in listed] == [(3, ["canary"]), (2, ["stable"]), (1, [])]
    assert [each.state for each in listed] == [
        pb.GENERATION_STATE_SERVING,
        pb.GENERATION_STATE_SERVING,
        pb.GENERATION_STATE_PUBLISHED,
    ]


async def test_a_reload_takes_up_what_the_labels_name(
    models: ModelServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    settings: ServerSettings,
    publish: Publish,
) -> None:
    """A published generation serves with Reload's answer; the one before can still be asked for by number."""
    assert await serving(recommendations) == 1
    publish(settings, seed=2)
    assert await serving(recommendations) == 1
    reloaded = await models.Reload(pb.ReloadRequest())
    assert (reloaded.generation, list(reloaded.failures)) == (2, [])
    assert await serving(recommendations) == 2
    before = recommend_pb.RecommendRequest(user_id="ada", generation=1)
    assert (await recommendations.Recommend(before)).generation == 1


async def test_labels_are_watched_in_the_background(
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    settings: ServerSettings,
    publish: Publish,
) -> None:
    """Watchers hear at once what serves, and then of every swap."""
    server = await start_server(settings, label_interval_ms=10)
    watch = ModelServiceStub(connect(server)).WatchGenerations(pb.WatchGenerationsRequest())
    told: list[int] = []
    for seed in (2, 3):
        told.append(await next_number(watch))
        publish(settings, seed=seed)
    told.append(await next_number(watch))
    assert told == [1, 2, 3]
    watch.cancel()


async def next_number(watch: grpc.aio.UnaryStreamCall[pb.WatchGenerationsRequest, pb.WatchGenerationsResponse]) -> int:
    response = await asyncio.wait_for(watch.read(), 60)
    assert isinstance(response, pb.WatchGenerationsResponse)
    return response.generation.number


async def test_a_label_is_set_and_rolled_back(
    models: ModelServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    settings: ServerSettings,
    publish: Publish,
) -> None:
    """Both tell what the label named before, and this server follows before it answers."""
    publish(settings, seed=2)
    await models.Reload(pb.ReloadRequest())
    back = await models.Rollback(pb.RollbackRequest())
    assert (back.generation, back.previous_generation) == (1, 2)
    assert await serving(recommendations) == 1
    forth = await models.SetLabel(pb.SetLabelRequest(label="stable", generation=2, expected_generation=1))
    assert forth.previous_generation == 1
    assert await serving(recommendations) == 2
    canary = await models.SetLabel(pb.SetLabelRequest(label="canary", generation=1))
    assert canary.previous_generation == 0
    answer = await recommendations.Recommend(recommend_pb.RecommendRequest(label="canary"))
    assert answer.generation == 1


async def test_a_label_is_mirrored_beside_the_generations(
    models: ModelServiceAsyncStub, settings: ServerSettings, publish: Publish
) -> None:
    """So that a server that finds the database away loads what was chosen by hand."""
    publish(settings, seed=2)
    store = ArtifactStore(settings.store_url)
    await models.SetLabel(pb.SetLabelRequest(label="canary", generation=1))
    assert store.read_label("canary") == 1
    await models.Rollback(pb.RollbackRequest())
    assert store.read_label("stable") == 1


async def test_a_rollback_by_two_loads_what_came_before(
    models: ModelServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    settings: ServerSettings,
    publish: Publish,
) -> None:
    """Users seen last are warmed up in it, though vectors of two newer generations are kept for them."""
    await serving(recommendations)
    for seed in (2, 3):
        publish(settings, seed=seed)
        await models.Reload(pb.ReloadRequest())
        await serving(recommendations)
    await models.SetLabel(pb.SetLabelRequest(label="stable", generation=1))
    assert await serving(recommendations) == 1


async def test_a_generation_loads_beside_users_without_a_history(
    models: ModelServiceAsyncStub,
    catalog: CatalogServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    settings: ServerSettings,
    publish: Publish,
) -> None:
    """Also when it has newer items to place, which nobody's interests rank."""
    assert await serving(recommendations) == 1
    publish(settings, seed=2)
    new = item_pb2.Item(item_id="brand-new", title="Crime clue")
    await catalog.UpsertItems(catalog_pb.UpsertItemsRequest(items=[new]))
    assert list((await models.Reload(pb.ReloadRequest())).failures) == []
    assert await serving(recommendations) == 2


async def test_histories_are_kept_as_long_as_the_generations_read(server: HeadwaterServer) -> None:
    """Twice as long, since events on unknown items are left out first; never shorter than before."""
    stable = server.rooms.generations.by_label("stable")
    for length, kept in ((50, 200), (300, 600), (100, 600)):
        stable.config = dataclasses.replace(stable.config, history_length=length)
        await asyncio.wait_for(server.rooms._prepare(stable), 60)
        assert server.rooms.states.history_length == kept


async def test_a_lease_names_what_is_being_loaded(
    server: HeadwaterServer, models: ModelServiceAsyncStub, settings: ServerSettings, publish: Publish
) -> None:
    """Before its first file is read: nothing of it is deleted under the load."""
    held: list[set[int]] = []
    load_files = server.rooms.generations._load_files

    def load(number: int) -> ServingGeneration:
        held.append(server.rooms.registry.held_generations(server.rooms.now_us()))
        return load_files(number)

    server.rooms.generations._load_files = load  # type: ignore[method-assign]
    publish(settings, seed=2)
    await models.Reload(pb.ReloadRequest())
    assert held == [{1, 2}]


async def test_a_lease_tells_the_updater_what_is_loaded(
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    settings: ServerSettings,
    publish: Publish,
    until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    """From the start, and anew after a swap, not only when the lease is to be renewed."""
    server = await start_server(settings, label_interval_ms=10, lease_ttl_s=3600.0)

    def held() -> set[int]:
        return server.rooms.registry.held_generations(server.rooms.now_us())

    await until(lambda: held() == {1})
    publish(settings, seed=2)
    await ModelServiceStub(connect(server)).Reload(pb.ReloadRequest())
    await until(lambda: held() == {1, 2})


def _cut(path: Path) -> None:
    replace(path, path.read_bytes()[:-100])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("harm", "reason"),
    [(_cut, "the manifest says"), (_flip_a_bit, "hashes to"), (_remove, "is missing")],
    ids=["cut", "one bit", "missing"],
)
@pytest.mark.parametrize("name", [index_file("shards/0000"), USER_TOWER])
async def test_a_damaged_generation_is_reported_and_the_old_one_serves_on(
    harm: Callable[[Path], None],
    reason: str,
    name: str,
    server: HeadwaterServer,
    models: ModelServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    settings: ServerSettings,
    publish: Publish,
) -> None:
    """FAILED with the reason in ListGenerations, Reload and the metric; a repaired one is taken up when asked to."""
    number = publish(settings, seed=2)
    path = blob(settings, number, name)
    sound = path.read_bytes()
    harm(path)
    reloaded = await models.Reload(pb.ReloadRequest())
    assert reloaded.generation == 1
    assert len(reloaded.failures) == 1
    assert reason in reloaded.failures[0]
    assert await serving(recommendations) == 1
    listed = (await models.ListGenerations(pb.ListGenerationsRequest())).generations
    assert [each.state for each in listed] == [pb.GENERATION_STATE_FAILED, pb.GENERATION_STATE_SERVING]
    assert reason in listed[0].failure
    failures = "headwater_generation_load_failures_total"
    assert server.rooms.metrics.registry.get_sample_value(failures) == 1
    await asyncio.wait_for(server.rooms.generations.refresh(), 60)  # the patient look: not tried again so soon
    assert server.rooms.metrics.registry.get_sample_value(failures) == 1
    path.write_bytes(sound)
    assert (await models.Reload(pb.ReloadRequest())).generation == number
    assert await serving(recommendations) == number
    assert await state(models, number) == pb.GENERATION_STATE_SERVING


@pytest.mark.faults
async def test_a_broken_manifest_is_reported(
    models: ModelServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    settings: ServerSettings,
    publish: Publish,
) -> None:
    """A manifest that is none harms nobody, and a rollback ends the failure."""
    number = publish(settings, seed=2)
    path = Path(settings.store_url) / "default" / "generations" / str(number) / "manifest.json"
    path.write_text("{}")
    reloaded = await models.Reload(pb.ReloadRequest())
    assert reloaded.generation == 1
    assert f"generation {number}" in reloaded.failures[0]
    assert await serving(recommendations) == 1
    await models.Rollback(pb.RollbackRequest())
    assert (await models.Reload(pb.ReloadRequest())).failures == []
    assert await state(models, number) == pb.GENERATION_STATE_PUBLISHED


@pytest.mark.faults
async def test_weights_of_other_shapes_are_reported(
    models: ModelServiceAsyncStub, settings: ServerSettings, publish: Publish
) -> None:
    """Files may be sound and still not belong to the configuration."""
    number = publish(settings, seed=2)
    manifest = Path(settings.store_url) / "default" / "generations" / str(number) / "manifest.json"
    files = ArtifactStore(settings.store_url).read_manifest(number).files
    swapped = manifest.read_text().replace(files[USER_TOWER].sha256, "0" * 64)
    swapped = swapped.replace(files[ITEM_TOWER].sha256, files[USER_TOWER].sha256)
    swapped = swapped.replace(f'"bytes": {files[ITEM_TOWER].bytes}', f'"bytes": {files[USER_TOWER].bytes}')
    swapped = swapped.replace("0" * 64, files[USER_TOWER].sha256)
    manifest.write_text(swapped)
    reloaded = await models.Reload(pb.ReloadRequest())
    assert reloaded.generation == 1
    assert "tensors missing or unknown" in reloaded.failures[0]


async def test_no_call_fails_while_generations_swap_under_load(
    events: EventServiceAsyncStub,
    models: ModelServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    settings: ServerSettings,
    publish: Publish,
) -> None:
    """Eight callers ask on and on while generations follow one another; every answer is whole, none goes back."""
    names = [f"user-{number}" for number in range(8)]
    likes = [event_pb2.Event(event_id=name, event_type="like", user_id=name, item_id="space-00") for name in names]
    await events.WriteEvents(events_pb.WriteEventsRequest(events=likes))
    is_over = asyncio.Event()

    async def ask(name: str) -> AsyncIterator[int]:
        while not is_over.is_set():
            answer = await recommendations.Recommend(recommend_pb.RecommendRequest(user_id=name))
            assert len(answer.results) == 10
            assert not answer.degraded
            yield answer.generation

    async def collect(name: str) -> list[int]:
        return [generation async for generation in ask(name)]

    callers = [asyncio.create_task(collect(name)) for name in names]
    for seed in range(2, 5):
        await asyncio.to_thread(publish, settings, seed=seed)
        assert (await models.Reload(pb.ReloadRequest())).generation == seed
        assert await serving(recommendations) == seed
    is_over.set()
    for answered_by in await asyncio.wait_for(asyncio.gather(*callers), 60):
        assert answered_by == sorted(answered_by)


async def test_a_server_without_a_generation_waits_for_the_first(
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    empty_settings: ServerSettings,
    publish: Publish,
) -> None:
    """FAILED_PRECONDITION until one is published, then it serves; the events of before count."""
    server = await start_server(empty_settings)
    channel = connect(server)
    recommendations = RecommendationServiceStub(channel)
    for call in (
        recommendations.Recommend(recommend_pb.RecommendRequest()),
        recommendations.ScoreItems(recommend_pb.ScoreItemsRequest(item_ids=["a"])),
        recommendations.EmbedUser(recommend_pb.EmbedUserRequest(user_id="ada")),
        ModelServiceStub(channel).GetGeneration(pb.GetGenerationRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "bootstrap" in (caught.value.details() or "")
    watch = ModelServiceStub(channel).WatchGenerations(pb.WatchGenerationsRequest())
    assert await next_number(watch) == 0
    publish(empty_settings)
    assert await next_number(watch) == 1
    watch.cancel()
    assert await serving(recommendations) == 1


@pytest.fixture
def canary_settings(settings: ServerSettings) -> ServerSettings:
    return settings.model_copy(update={"canary_share": 0.3})


async def test_a_share_of_users_is_answered_by_the_canary(
    canary_settings: ServerSettings,
    publish: Publish,
    start_server: Callable[[ServerSettings], Awaitable[HeadwaterServer]],
) -> None:
    """By their ids, the same ones on every server and in every call; nobody in particular is never among them."""
    canary = publish(canary_settings, label="canary")
    answered: list[dict[str, int]] = []
    for _ in range(2):
        server = await start_server(canary_settings)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub: RecommendationServiceAsyncStub = RecommendationServiceStub(channel)
            found: dict[str, int] = {}
            for number in range(100):
                request = recommend_pb.RecommendRequest(user_id=f"user-{number}")
                found[request.user_id] = (await stub.Recommend(request)).generation
                assert (await stub.Recommend(request)).generation == found[request.user_id]
            answered.append(found)
            assert (await stub.Recommend(recommend_pb.RecommendRequest())).generation == 1
            asked = recommend_pb.ScoreItemsRequest(user_id="user-1", item_ids=["space-1"])
            assert (await stub.ScoreItems(asked)).generation == found["user-1"]
            by_label = recommend_pb.RecommendRequest(user_id="user-1", label="stable")
            assert (await stub.Recommend(by_label)).generation == 1
    assert answered[0] == answered[1]
    assert 15 <= list(answered[0].values()).count(canary) <= 45


async def test_without_a_canary_stable_answers_all(
    canary_settings: ServerSettings,
    publish: Publish,
    start_server: Callable[[ServerSettings], Awaitable[HeadwaterServer]],
) -> None:
    """Also when the label is gone again."""
    publish(canary_settings, label="canary")
    server = await start_server(canary_settings)
    server.rooms.registry.drop_label("canary", expected=2)
    await server.rooms.generations.refresh()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: RecommendationServiceAsyncStub = RecommendationServiceStub(channel)
        for number in range(30):
            assert (await stub.Recommend(recommend_pb.RecommendRequest(user_id=f"user-{number}"))).generation == 1
