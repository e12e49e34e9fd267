"""Answers that are given again: only while nothing that they rest on has changed."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import experiment_service_pb2 as experiments_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import strategy_service_pb2 as strategies_pb
from headwater.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from headwater.v1.strategy_service_pb2_grpc import StrategyServiceStub
from headwater_core.strategies import Strategy
from headwater_server.queries import Audience, RecommendQuery
from headwater_server.recommender import Known
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from headwater_server.slate_maker import Made
from headwater_server.sources.candidate_source import Asked
from tests.integration.conftest import Publish

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

ASK = pb.RecommendRequest(user_id="ada", page_size=5)
_numbers = itertools.count()


async def like(events: EventServiceAsyncStub, item_id: str, user_id: str = "ada") -> None:
    event = event_pb2.Event(event_id=f"kept-{next(_numbers)}", event_type="like", user_id=user_id, item_id=item_id)
    await events.WriteEvents(events_pb.WriteEventsRequest(events=[event]))


def given_again(server: HeadwaterServer) -> float:
    return server.rooms.metrics.registry.get_sample_value("headwater_slates_kept_total") or 0.0


def ids(response: pb.RecommendResponse) -> list[str]:
    return [result.item_id for result in response.results]


async def test_the_same_question_is_answered_alike_and_logged_anew(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Nothing changed: the same items with the same scores, as a slate of its own."""
    await like(events, "space-00")
    first, *others = [await recommendations.Recommend(ASK) for _ in range(4)]
    assert given_again(server) == 3
    for other in others:
        assert list(other.results) == list(first.results)
        assert other.next_page_token == first.next_page_token
    assert len({response.attribution_token for response in (first, *others)}) == 4


async def test_what_is_asked_for_beside_it_is_there(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """The items themselves come with those answers that ask for them, whoever asked without before."""
    await like(events, "space-00")
    with_items = pb.RecommendRequest(user_id="ada", page_size=5, return_items=True)
    for _ in range(3):
        plain, full = await recommendations.Recommend(ASK), await recommendations.Recommend(with_items)
        assert ids(plain) == ids(full)
        assert not any(result.HasField("item") for result in plain.results)
        assert [result.item.item_id for result in full.results] == ids(full)
    assert given_again(server) == 5


async def test_an_event_of_the_user_alone_makes_it_another_question(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """What others do leaves the answer as it is; what the user does changes it at once."""
    await like(events, "space-00")
    first = await recommendations.Recommend(ASK)
    await like(events, "love-00", user_id="grace")
    assert ids(await recommendations.Recommend(ASK)) == ids(first)
    assert given_again(server) == 1
    await like(events, "love-00")
    after = await recommendations.Recommend(ASK)
    assert given_again(server) == 1
    assert {item_id.split("-")[0] for item_id in ids(after)} == {"love"}


@pytest.mark.parametrize(
    "other",
    [
        pb.RecommendRequest(user_id="ada", page_size=6),
        pb.RecommendRequest(user_id="ada", page_size=5, exclude_seen=False),
        pb.RecommendRequest(user_id="ada", page_size=5, diversity=0.5),
        pb.RecommendRequest(user_id="ada", page_size=5, exclude_item_ids=["space-07"]),
        pb.RecommendRequest(user_id="ada", page_size=5, filter=pb.ItemFilter(categories=["love"])),
        pb.RecommendRequest(user_id="ada", page_size=5, context_item_ids=["crime-00"]),
        pb.RecommendRequest(user_id="ada", page_size=5, explain=True),
        pb.RecommendRequest(user_id="grace", page_size=5),
    ],
)
async def test_another_question_is_not_answered_with_it(
    server: HeadwaterServer,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    other: pb.RecommendRequest,
) -> None:
    """Whatever a request asks differently, it is answered for itself."""
    await like(events, "space-00")
    await recommendations.Recommend(ASK)
    await recommendations.Recommend(other)
    assert given_again(server) == 0


async def test_the_next_page_is_another_question(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """A second page is made, and given again as itself."""
    await like(events, "space-00")
    first = await recommendations.Recommend(ASK)
    onward = pb.RecommendRequest(user_id="ada", page_size=5, page_token=first.next_page_token)
    second = await recommendations.Recommend(onward)
    assert not set(ids(first)) & set(ids(second))
    assert ids(await recommendations.Recommend(onward)) == ids(second)
    assert given_again(server) == 1


async def test_a_change_of_the_catalogue_is_in_the_next_answer(
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    catalog: CatalogServiceAsyncStub,
) -> None:
    """An item that is hidden is gone and its place is filled; back again, it is there again."""
    await like(events, "space-00")
    before = ids(await recommendations.Recommend(ASK))
    for available in (False, True):
        request = catalog_pb.SetAvailabilityRequest(item_ids=[before[0]], available=available)
        await catalog.SetAvailability(request)
        after = ids(await recommendations.Recommend(ASK))
        assert len(after) == 5
        assert (before[0] in after) is available


async def test_an_item_that_ends_is_replaced_when_its_time_comes(
    server: HeadwaterServer,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    catalog: CatalogServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time alone takes an item away: the answer is made anew, and full."""
    await like(events, "space-00")
    first = ids(await recommendations.Recommend(ASK))[0]
    listed = await catalog.GetItems(catalog_pb.GetItemsRequest(item_ids=[first]))
    item = item_pb2.Item()
    item.CopyFrom(listed.items[0])
    end_s = int(time.time()) + 3600
    item.expire_time.CopyFrom(Timestamp(seconds=end_s))
    await catalog.UpsertItems(catalog_pb.UpsertItemsRequest(items=[item]))
    assert ids(await recommendations.Recommend(ASK))[0] == first
    assert ids(await recommendations.Recommend(ASK))[0] == first
    assert given_again(server) == 1
    monkeypatch.setattr(server.rooms.recommender, "_now_us", lambda: (end_s + 1) * 1_000_000)
    after = ids(await recommendations.Recommend(ASK))
    assert first not in after
    assert len(after) == 5


async def test_a_new_generation_and_a_new_strategy_answer_themselves(
    settings: ServerSettings,
    server: HeadwaterServer,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    channel: grpc.aio.Channel,
    publish: Publish,
) -> None:
    """After a swap, and after another default strategy is written, nothing of before is given again."""
    await like(events, "space-00")
    assert (await recommendations.Recommend(ASK)).generation == 1
    number = publish(settings, seed=2)
    await server.rooms.generations.refresh()
    assert (await recommendations.Recommend(ASK)).generation == number
    tower = strategies_pb.StrategySource(name="tower")
    only_love = strategies_pb.Strategy(sources=[tower], only=strategies_pb.StrategyOnly(categories=["love"]))
    await StrategyServiceStub(channel).PutStrategy(strategies_pb.PutStrategyRequest(name="default", strategy=only_love))
    after = await recommendations.Recommend(ASK)
    assert {item_id.split("-")[0] for item_id in ids(after)} == {"love"}
    assert given_again(server) == 0


async def test_a_type_that_speaks_against_items_from_now_on_does_so_at_once(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Registering it changes what the history says."""

    async def register(*, is_negative: bool) -> None:
        kind = event_pb2.EventType(name="boo", weight=1.0, in_history=True, is_negative=is_negative)
        await events.UpsertEventTypes(events_pb.UpsertEventTypesRequest(event_types=[kind]))

    await register(is_negative=False)
    await like(events, "love-00")
    await like(events, "space-00")
    boo = event_pb2.Event(event_id="boo", event_type="boo", user_id="ada", item_id="space-01")
    await events.WriteEvents(events_pb.WriteEventsRequest(events=[boo]))
    request = pb.RecommendRequest(user_id="ada", page_size=500)
    before = {result.item_id: result.score for result in (await recommendations.Recommend(request)).results}
    await register(is_negative=True)
    after = {result.item_id: result.score for result in (await recommendations.Recommend(request)).results}
    assert given_again(server) == 0
    assert after["space-07"] == pytest.approx(before["space-07"] - 4.0 * 0.3, abs=1e-3)
    assert after["crime-07"] == pytest.approx(before["crime-07"], abs=1e-3)


async def test_what_others_make_popular_is_never_kept(
    server: HeadwaterServer,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Somebody without a history is shown what is popular at this moment, however often they ask."""
    for _ in range(3):
        await recommendations.Recommend(ASK)
    await like(events, "crime-03", user_id="grace")
    assert ids(await recommendations.Recommend(ASK))[0] == "crime-03"
    assert given_again(server) == 0


async def co_visits_lead(settings: ServerSettings, server: HeadwaterServer, publish: Publish) -> None:
    """From here on the first item says which was the last event that an answer heard of."""
    publish(settings, seed=2, follows={"space-00": ["crime-07"], "love-00": ["crime-08"]})
    await server.rooms.generations.refresh()


async def test_what_is_made_once_more_of_an_older_history_is_not_kept_for_a_newer_one(
    settings: ServerSettings,
    server: HeadwaterServer,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    catalog: CatalogServiceAsyncStub,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An item goes and an event comes while an answer is made: the answer after the event is the event's."""
    await co_visits_lead(settings, server, publish)
    await like(events, "space-00")
    maker = server.rooms.recommender._maker
    make = maker.make

    async def make_meanwhile(query: RecommendQuery, strategy: Strategy, asked: Asked) -> Made:
        made = await make(query, strategy, asked)
        monkeypatch.undo()
        gone = [made.candidates[-1].item_id]
        await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=gone, available=False))
        await like(events, "love-00")
        return made

    monkeypatch.setattr(maker, "make", make_meanwhile)
    assert ids(await recommendations.Recommend(ASK))[0] == "crime-07"
    for _ in range(2):
        assert ids(await recommendations.Recommend(ASK))[0] == "crime-08"
    assert given_again(server) == 1


async def test_arms_that_begin_after_an_event_keep_nothing_of_the_history_before_it(
    settings: ServerSettings,
    server: HeadwaterServer,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    channel: grpc.aio.Channel,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of an interleaved answer each arm's slate begins a moment after the history was taken."""
    await co_visits_lead(settings, server, publish)
    strategy = strategies_pb.Strategy(
        sources=[strategies_pb.StrategySource(name=name) for name in ("tower", "co_visit")]
    )
    arms = [experiments_pb.ExperimentArm(name=name, strategy=name) for name in ("one", "two")]
    for each in arms:
        put = strategies_pb.PutStrategyRequest(name=each.strategy, strategy=strategy)
        await StrategyServiceStub(channel).PutStrategy(put)
    experiment = experiments_pb.Experiment(arms=arms, allocation="interleaved", rewards={"click": 1.0})
    await ExperimentServiceStub(channel).PutExperiment(
        experiments_pb.PutExperimentRequest(name="alike", experiment=experiment)
    )
    await like(events, "space-00")
    recommender = server.rooms.recommender
    known = recommender.known

    async def known_before(audience: Audience) -> Known:
        found = await known(audience)
        monkeypatch.undo()
        await like(events, "love-00")
        return found

    monkeypatch.setattr(recommender, "known", known_before)
    first = await recommendations.Recommend(ASK)
    assert first.experiment_arm == "alike/interleaved"
    assert ids(first)[0] == "crime-07"
    for _ in range(2):
        assert ids(await recommendations.Recommend(ASK))[0] == "crime-08"
    assert given_again(server) == 1
