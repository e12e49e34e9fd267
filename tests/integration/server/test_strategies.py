"""Strategies over the wire: written, checked, used, compared, taken back."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as recommendations_pb
from headwater.v1 import strategy_service_pb2 as pb
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater.v1.strategy_service_pb2_grpc import StrategyServiceStub
from headwater_core.impressions import ImpressionLog
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from headwater_server.sources.context import ContextSource

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub
    from headwater.v1.strategy_service_pb2_grpc import StrategyServiceAsyncStub

TOWER = pb.StrategySource(name="tower")
_numbers = itertools.count()


@pytest.fixture
def strategies(channel: grpc.aio.Channel) -> StrategyServiceAsyncStub:
    return StrategyServiceStub(channel)


async def put(strategies: StrategyServiceAsyncStub, name: str, *sources: str, **fields: Any) -> int:
    uses = [pb.StrategySource(name=source) for source in sources or ("tower", "popular")]
    request = pb.PutStrategyRequest(name=name, strategy=pb.Strategy(sources=uses, **fields))
    return (await strategies.PutStrategy(request)).version


async def like(events: EventServiceAsyncStub, *item_ids: str, user_id: str = "ada", event_type: str = "like") -> None:
    written = [
        event_pb2.Event(event_id=f"like-{next(_numbers)}", event_type=event_type, user_id=user_id, item_id=item_id)
        for item_id in item_ids
    ]
    response = await events.WriteEvents(events_pb.WriteEventsRequest(events=written))
    assert {result.outcome for result in response.results} == {event_pb2.EVENT_OUTCOME_ACCEPTED}


async def slate(
    recommendations: RecommendationServiceAsyncStub, strategy: str = "", page_size: int = 10, **fields: Any
) -> recommendations_pb.RecommendResponse:
    request = recommendations_pb.RecommendRequest(user_id="ada", strategy=strategy, page_size=page_size, **fields)
    return await recommendations.Recommend(request)


def ids(response: recommendations_pb.RecommendResponse) -> list[str]:
    return [result.item_id for result in response.results]


async def test_a_strategy_answers_as_soon_as_it_is_written(
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """By its name, and for everybody when that is `default`; answers say what made them."""
    await like(events, "space-00")
    assert (await slate(recommendations)).strategy == "default/0"
    assert await put(strategies, "no-space", only=pb.StrategyOnly(without_categories=["space"])) == 1
    answer = await slate(recommendations, "no-space")
    assert answer.strategy == "no-space/1"
    assert answer.results
    assert not any(item_id.startswith("space") for item_id in ids(answer))
    assert any(item_id.startswith("space") for item_id in ids(await slate(recommendations)))
    await put(strategies, "default", only=pb.StrategyOnly(without_categories=["space"]))
    answer = await slate(recommendations)
    assert answer.strategy == "default/1"
    assert not any(item_id.startswith("space") for item_id in ids(answer))
    await strategies.DeleteStrategy(pb.DeleteStrategyRequest(name="default"))
    assert (await slate(recommendations)).strategy == "default/0"


async def test_versions_are_kept_and_told(strategies: StrategyServiceAsyncStub) -> None:
    """What was written can be read; who relied on another version is refused."""
    await put(strategies, "home", diversity=0.1)
    await put(strategies, "home", diversity=0.2)
    listed = await strategies.ListStrategies(pb.ListStrategiesRequest())
    assert [(each.name, each.version) for each in listed.strategies] == [("default", 0), ("home", 2)]
    assert [source.name for source in listed.strategies[0].strategy.sources][:2] == ["tower", "co_visit"]
    got = (await strategies.GetStrategy(pb.GetStrategyRequest(name="home"))).strategy
    assert (got.version, got.strategy.diversity) == (2, 0.2)
    assert got.HasField("create_time")
    page = await strategies.ListStrategyVersions(pb.ListStrategyVersionsRequest(name="home", page_size=1))
    assert [each.version for each in page.versions] == [2]
    rest = pb.ListStrategyVersionsRequest(name="home", page_token=page.next_page_token)
    assert [each.version for each in (await strategies.ListStrategyVersions(rest)).versions] == [1]
    stale = pb.PutStrategyRequest(name="home", strategy=got.strategy, expected_version=1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await strategies.PutStrategy(stale)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    for request in (strategies.GetStrategy(pb.GetStrategyRequest(name="x")),
                    strategies.DeleteStrategy(pb.DeleteStrategyRequest(name="x"))):  # fmt: skip
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await request
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "strategy", "reason"),
    [
        ("", pb.Strategy(sources=[TOWER]), "name: must be"),
        ("home", pb.Strategy(), "strategy.sources: "),
        ("home", pb.Strategy(sources=[pb.StrategySource(name="magic")]), "strategy.sources[0].name: "),
        ("home", pb.Strategy(sources=[TOWER], ranking="magic"), "strategy.ranking: "),
        ("home", pb.Strategy(sources=[TOWER], boosts=[pb.StrategyBoost(key="attributes.brand", value="a", factor=2)]),
         "strategy.boosts[0].key: no item has 'attributes.brand'"),
        ("home", pb.Strategy(sources=[TOWER], caps=[pb.StrategyCap(key="attributes.brand", at_most=1)]),
         "strategy.caps[0].key: no item has 'attributes.brand'"),
        ("home", pb.Strategy(sources=[TOWER], only=pb.StrategyOnly(attributes={"brand": "a"})),
         "strategy.only.attributes['brand']: no item has"),
        ("home", pb.Strategy(sources=[TOWER], only=pb.StrategyOnly(categories=["space", "poetry"])),
         "strategy.only.categories[1]: no item has the category 'poetry'"),
        ("home", pb.Strategy(sources=[TOWER], pins=[pb.StrategyPin(place=1, item_id="nowhere")]),
         "strategy.pins[0].item_id: no item 'nowhere'"),
        ("home", pb.Strategy(sources=[TOWER], event_weights={"yodel": 1.0}),
         "strategy.event_weights['yodel']: is not a registered event type"),
        ("home", pb.Strategy(sources=[TOWER], boosts=[pb.StrategyBoost(key="category", value="space")]),
         "strategy.boosts[0].factor: "),
    ],
)  # fmt: skip
async def test_what_cannot_work_is_refused_when_it_is_written(
    strategies: StrategyServiceAsyncStub, name: str, strategy: pb.Strategy, reason: str
) -> None:
    """With the field and the reason; nothing is stored, and a dry run of it is refused alike."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await strategies.PutStrategy(pb.PutStrategyRequest(name=name, strategy=strategy))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in str(refused.value.details())
    assert len((await strategies.ListStrategies(pb.ListStrategiesRequest())).strategies) == 1
    if name:
        with pytest.raises(grpc.aio.AioRpcError, match="strategy"):
            await strategies.PreviewStrategy(pb.PreviewStrategyRequest(strategy=strategy))


async def test_a_request_for_an_unknown_strategy_is_refused(
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Silently answering with another one would hide a typing mistake."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await slate(recommendations, "hoem")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "strategy: no strategy 'hoem'" in str(refused.value.details())


async def test_a_dry_run_shows_both_and_leaves_no_trace(
    server: HeadwaterServer, strategies: StrategyServiceAsyncStub, events: EventServiceAsyncStub
) -> None:
    """The same user's slate now and as it would be; nothing is stored, logged or given a token."""
    await like(events, "space-00")
    new = pb.Strategy(sources=[TOWER], only=pb.StrategyOnly(categories=["crime"]))
    request = pb.PreviewStrategyRequest(
        request=recommendations_pb.RecommendRequest(user_id="ada", page_size=5), strategy=new
    )
    answer = await strategies.PreviewStrategy(request)
    assert answer.current.strategy == "default/0"
    assert answer.preview.strategy == "preview/0"
    assert all(item_id.startswith("crime") for item_id in ids(answer.preview))
    assert not all(item_id.startswith("crime") for item_id in ids(answer.current))
    assert not answer.current.attribution_token
    assert not answer.preview.attribution_token
    await server.rooms.impression_writer.flush()
    assert ImpressionLog(server.rooms.database).count() == 0
    request.request.page_size = -1
    with pytest.raises(grpc.aio.AioRpcError, match=r"request\.page_size"):
        await strategies.PreviewStrategy(request)


async def test_sources_of_a_fusion_are_all_told(
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Every source can stand in a strategy; an item names all that proposed it."""
    await like(events, "space-00", "space-01", "crime-02")
    await like(events, "space-02", "space-02", "crime-03", user_id="bob")
    everything = ("tower", "co_visit", "repeat", "popular", "category", "context", "fresh")
    await put(strategies, "all", *everything, ranking="ranks")
    answer = await slate(recommendations, "all", context_item_ids=["space-04"], exclude_seen=False, page_size=50)
    told = {source for result in answer.results for source in result.sources}
    assert {"tower", "repeat", "popular", "category", "context"} <= told
    assert any(len(result.sources) > 2 for result in answer.results)
    scores = [result.score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    assert len(set(ids(answer))) == len(answer.results)


async def test_a_short_page_is_fused_as_a_long_one(
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """What two sources propose far down is first on a page of one, as it is on a page of thirty."""
    await like(events, "space-00")
    await put(strategies, "both", "tower", "context", ranking="ranks")
    asked = {"context_item_ids": ["love-01"], "exclude_seen": False}
    long = await slate(recommendations, "both", page_size=30, **asked)
    assert len(long.results[0].sources) == 2
    assert ids(await slate(recommendations, "both", page_size=1, **asked)) == ids(long)[:1]


@pytest.mark.parametrize("source", ["co_visit", "repeat", "popular", "category", "context", "tower", "text"])
async def test_each_source_proposes_alone(
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    publish: Callable[..., int],
    settings: ServerSettings,
    server: HeadwaterServer,
    source: str,
) -> None:
    """What one source finds for a user of space is what that source is for."""
    publish(settings, seed=1, follows={"space-00": ["crime-07", "crime-08"]})
    await server.rooms.generations.refresh()
    await like(events, "space-00")
    await like(events, "crime-01", "crime-01", "space-05", user_id="bob")
    await put(strategies, source, source, ranking="ranks")
    answer = await slate(recommendations, source, context_item_ids=["love-01"], exclude_seen=False, page_size=3)
    expected = {
        "co_visit": {"crime-07", "crime-08"},
        "repeat": {"space-00"},
        "popular": {"crime-01", "space-05", "space-00"},
        "category": {"space-05", "space-00"},
    }
    if source in expected:
        assert set(ids(answer)) == expected[source]
    elif source == "context":
        assert {item_id.split("-")[0] for item_id in ids(answer)} == {"love"}
    else:
        assert len(answer.results) == 3
    assert all(list(result.sources) == [source] for result in answer.results)


async def test_a_source_that_fails_is_left_out_and_said(
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer is there, marked degraded, and names what is missing."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(ContextSource, "propose", fail)
    await like(events, "space-00")
    await put(strategies, "both", "tower", "context", ranking="ranks")
    answer = await slate(recommendations, "both")
    assert len(answer.results) == 10
    assert answer.degraded
    assert list(answer.degraded_reasons) == ["context unavailable"]
    assert not (await slate(recommendations)).degraded


async def test_boosts_caps_and_pins_change_a_slate(
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Each as its name says, together with all others; scores stay sorted apart from pins."""
    await like(events, "space-00")
    plain = await slate(recommendations, page_size=4)
    assert {item_id.split("-")[0] for item_id in ids(plain)} == {"space"}
    await put(strategies, "capped", caps=[pb.StrategyCap(key="category", at_most=2)])
    capped = ids(await slate(recommendations, "capped", page_size=6))
    assert len(capped) == 6
    assert [sum(item_id.startswith(topic) for item_id in capped) for topic in ("space", "crime", "love")] == [2, 2, 2]
    boosted = [pb.StrategyBoost(key="attributes.shelf", value="old", factor=100.0)]
    await put(strategies, "boosted", boosts=boosted)
    assert all(int(item_id[-2:]) % 2 == 0 for item_id in ids(await slate(recommendations, "boosted", page_size=4)))
    await put(strategies, "pinned", pins=[pb.StrategyPin(place=2, item_id="crime-05")])
    first = await slate(recommendations, "pinned", page_size=3)
    assert ids(first)[1] == "crime-05"
    assert list(first.results[1].sources) == ["pinned"]
    second = await slate(recommendations, "pinned", page_size=3, page_token=first.next_page_token)
    assert not set(ids(first)) & set(ids(second))


async def test_what_is_hidden_or_disliked_is_not_shown_even_when_pinned(
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    catalog: CatalogServiceAsyncStub,
) -> None:
    """A pin gives a place, not a right."""
    pins = [pb.StrategyPin(place=place, item_id=f"crime-0{place}") for place in (1, 2, 3, 4)]
    await put(strategies, "pinned", pins=pins)
    await like(events, "crime-01", event_type="dislike")
    await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=["crime-02"]))
    shown = ids(await slate(recommendations, "pinned", exclude_item_ids=["crime-03"], exclude_seen=False))
    assert not {"crime-01", "crime-02", "crime-03"} & set(shown)
    assert "crime-04" in shown


async def test_every_server_follows(
    settings: ServerSettings,
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
) -> None:
    """What is written to one server answers on another after its next look at the database."""
    first, second = await start_server(settings), await start_server(settings, tail_interval_ms=3_600_000)
    await put(StrategyServiceStub(connect(first)), "home", only=pb.StrategyOnly(categories=["crime"]))
    await second.rooms.follow()
    answer = await slate(RecommendationServiceStub(connect(second)), "home")
    assert answer.strategy == "home/1"


async def test_a_look_that_began_before_takes_nothing_back(
    server: HeadwaterServer, strategies: StrategyServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """What an acknowledged call wrote answers at once, even if a look at the database is under way that read before."""
    has_read, may_go_on = threading.Event(), threading.Event()
    read_all = server.rooms.strategy_store.all

    def slowly() -> Any:
        found = read_all()
        has_read.set()
        may_go_on.wait(60)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.rooms.strategy_store, "all", slowly)
        looking = asyncio.create_task(server.rooms.refresh_documents())
        await asyncio.to_thread(has_read.wait, 60)
        patch.undo()
        putting = asyncio.create_task(put(strategies, "home"))
        await asyncio.wait({putting}, timeout=1.0)  # it should not end before the look that began first
        may_go_on.set()
        await asyncio.gather(looking, putting)
    assert (await slate(recommendations, "home")).strategy == "home/1"


async def test_what_is_like_a_disliked_item_is_lowered_until_it_is_liked_again(
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """In the very next answer, by as much as the strategy says; other items keep their scores."""
    await put(strategies, "mild", "tower", dislikes=1.0)
    await put(strategies, "deaf", "tower", dislikes=0.0)

    async def fall() -> dict[str, float]:
        deaf, mild = [await slate(recommendations, name, page_size=500) for name in ("deaf", "mild")]
        scores = {result.item_id: result.score for result in mild.results}
        return {result.item_id: result.score - scores[result.item_id] for result in deaf.results}

    await like(events, "space-00", "love-00")
    assert set((await fall()).values()) == {0.0}
    await like(events, "space-01", event_type="dislike")
    lowered = await fall()
    assert "space-01" not in lowered
    for item_id, by in lowered.items():
        assert by == pytest.approx(0.3 if item_id.startswith("space") else 0.0, abs=1e-4)
    await like(events, "space-01")
    assert set((await fall()).values()) == {0.0}
