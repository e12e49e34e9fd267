"""Why an item is in an answer, and what is known of a user, over the wire."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import strategy_service_pb2 as strategies_pb
from headwater.v1 import user_service_pb2 as users_pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater.v1.strategy_service_pb2_grpc import StrategyServiceStub
from headwater_server.explanations import removal
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub
    from headwater.v1.user_service_pb2_grpc import UserServiceAsyncStub

HISTORY = ("space-00", "love-00", "space-01", "crime-00", "love-01", "space-02")
EVENT, CONTEXT, SOURCE = (
    pb.EXPLANATION_KIND_EVENT,
    pb.EXPLANATION_KIND_CONTEXT,
    pb.EXPLANATION_KIND_SOURCE,
)
_numbers = itertools.count()


def event(item_id: str, user_id: str = "ada", event_type: str = "like", **changes: Any) -> event_pb2.Event:
    number = next(_numbers)
    return event_pb2.Event(
        event_id=f"event-{number}",
        event_type=event_type,
        user_id=user_id,
        item_id=item_id,
        event_time=Timestamp(seconds=1_700_000_000 + number),
        **changes,
    )


async def write(events: EventServiceAsyncStub, *written: event_pb2.Event) -> None:
    response = await events.WriteEvents(events_pb.WriteEventsRequest(events=written))
    assert {result.outcome for result in response.results} == {event_pb2.EVENT_OUTCOME_ACCEPTED}


async def score(
    recommendations: RecommendationServiceAsyncStub, item_id: str, history: Sequence[event_pb2.Event]
) -> float:
    """The item's score for somebody who did just this."""
    request = pb.ScoreItemsRequest(item_ids=[item_id], recent_events=history)
    return (await recommendations.ScoreItems(request)).scores[0].score


def of_kind(result: pb.RecommendedItem, kind: int) -> list[pb.Explanation]:
    return [each for each in result.explanations if each.kind == kind]


async def test_without_the_named_event_the_item_scores_lower(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """By just as much as the answer says, and by as much as without no other event."""
    history = [event(item_id) for item_id in HISTORY]
    await write(events, *history)
    slate = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=8, explain=True))
    named = 0
    for result in slate.results:
        whole = await score(recommendations, result.item_id, history)
        falls = {
            left_out.item_id: whole
            - await score(recommendations, result.item_id, [each for each in history if each is not left_out])
            for left_out in history
        }
        told = of_kind(result, EVENT)
        assert len(result.reasons) == len(result.explanations)
        assert bool(told) is (max(falls.values()) > removal.NOISE)
        for each in told:
            named += 1
            assert each.score_fall == pytest.approx(falls[each.item_id], abs=2e-4)
            assert each.score_fall > 0
        if told:
            assert falls[told[0].item_id] == pytest.approx(max(falls.values()), abs=2e-4)
            raising = sum(fall for fall in falls.values() if fall > removal.NOISE)
            assert told[0].share == pytest.approx(told[0].score_fall / raising, abs=1e-2)
            times = {each.item_id: each.event_time for each in history}
            assert told[0].event_time == times[told[0].item_id]
    assert named > 4


async def test_what_co_visits_add_is_part_of_it(
    settings: ServerSettings,
    publish: Callable[..., int],
    start_server: Callable[[ServerSettings], Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
) -> None:
    """An item that others went on to after an old event is there because of that event, not because of the newest."""
    publish(settings, follows={"space-00": ["love-04"]})
    channel = connect(await start_server(settings))
    await write(EventServiceStub(channel), *map(event, ("space-00", "crime-00", "crime-01")))
    request = pb.RecommendRequest(user_id="ada", page_size=3, explain=True)
    first = (await RecommendationServiceStub(channel).Recommend(request)).results[0]
    assert first.item_id == "love-04"
    assert [each.item_id for each in of_kind(first, EVENT)][:1] == ["space-00"]
    assert of_kind(first, EVENT)[0].share > 0.9
    assert first.reasons[-1] == "others went on to this after what you did lately"


async def test_shared_categories_and_attributes_are_told(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """With the named event's item, in the sentence and for programs."""
    await write(events, event("space-00", event_type="purchase"))
    request = pb.RecommendRequest(user_id="ada", page_size=5, explain=True, return_items=True)
    slate = await recommendations.Recommend(request)
    for result in slate.results:
        [told] = of_kind(result, EVENT)
        assert (told.item_id, told.share) == ("space-00", 1.0)
        assert list(told.shared_categories) == ["space"]
        assert dict(told.shared_attributes) == ({"shelf": "old"} if int(result.item_id[-1]) % 2 == 0 else {})
        assert result.reasons[0].startswith("because you bought “ship robot” (both: space")
        assert list(result.reasons[1:]) == ["close to what you did lately"]


async def test_titles_mean_nothing_to_the_sentences(
    catalog: CatalogServiceAsyncStub, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Braces, dollar signs and placeholders of a title come out as they went in."""
    odd = "space {0} {} $what ${what} %s $"
    item = item_pb2.Item(item_id="space-00", title=odd, categories=["$shared"])
    await catalog.UpsertItems(catalog_pb.UpsertItemsRequest(items=[item]))
    await write(events, event("space-00"))
    slate = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=3, explain=True))
    assert slate.results
    assert {result.reasons[0] for result in slate.results} == {f"because you liked “{odd}”"}


async def test_nobody_is_told_what_they_did_not_do(
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    channel: grpc.aio.Channel,
) -> None:
    """What is popular or pinned names its source and no event, for strangers and for users with a history."""
    await write(events, event("love-05", "fan"), event("space-00"))
    stranger = await recommendations.Recommend(pb.RecommendRequest(user_id="stranger", explain=True))
    assert [list(result.reasons) for result in stranger.results] == [["popular now"]] * 2
    assert {each.source for each in stranger.results[0].explanations} == {"popular"}
    strategy = strategies_pb.Strategy(
        sources=[strategies_pb.StrategySource(name="tower")],
        pins=[strategies_pb.StrategyPin(place=1, item_id="crime-09")],
    )
    await StrategyServiceStub(channel).PutStrategy(strategies_pb.PutStrategyRequest(name="pins", strategy=strategy))
    request = pb.RecommendRequest(user_id="ada", explain=True, strategy="pins", page_size=2)
    pinned, other = (await recommendations.Recommend(request)).results
    assert (pinned.item_id, list(pinned.reasons)) == ("crime-09", ["chosen for everybody"])
    assert of_kind(other, EVENT)


async def test_recent_events_context_and_searches_are_named_as_what_they_are(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """An inline event is an event, what is looked at now is not past, and a search is told by its words."""
    await write(events, event("space-00"))
    inline = pb.RecommendRequest(
        user_id="ada", recent_events=[event("crime-00", event_type="click")], page_size=3, explain=True
    )
    for result in (await recommendations.Recommend(inline)).results:
        assert of_kind(result, EVENT)[0].item_id == "crime-00"
        assert result.reasons[0].startswith("because you clicked on “")
    looking_at = pb.RecommendRequest(user_id="ada", context_item_ids=["nowhere", "love-03"], page_size=3, explain=True)
    for result in (await recommendations.Recommend(looking_at)).results:
        assert of_kind(result, CONTEXT)[0].item_id == "love-03"
        assert result.reasons[0].startswith("because you are looking at “")
        assert {each.item_id for each in of_kind(result, EVENT)} <= {"space-00"}
    search = event("", user_id="", event_type="search", query="murder detective")
    searched = pb.RecommendRequest(recent_events=[search], page_size=3, explain=True)
    told = [of_kind(result, EVENT) for result in (await recommendations.Recommend(searched)).results]
    assert {each.query for each in itertools.chain(*told)} == {"murder detective"}


async def test_a_batch_is_explained_each_in_its_language(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """One in German, one without reasons, and one whose locale is none: that alone is refused."""
    await write(events, event("space-00"))
    requests = [
        pb.RecommendRequest(user_id="ada", page_size=3, explain=True, locale="de-CH"),
        pb.RecommendRequest(user_id="ada", page_size=3),
        pb.RecommendRequest(user_id="ada", page_size=3, explain=True, locale="de_CH"),
    ]
    german, plain, refused = (await recommendations.BatchRecommend(pb.BatchRecommendRequest(requests=requests))).results
    for result in german.response.results:
        assert result.reasons[0].startswith("weil Ihnen „ship robot“ gefällt (beide: space")
        assert result.reasons[-1] == "passt zu dem, womit Sie sich zuletzt beschäftigt haben"
    assert not german.response.notices
    assert not any(result.reasons or result.explanations for result in plain.response.results)
    assert (refused.error.code, refused.error.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "locale")


async def test_a_locale_without_sentences_falls_back_and_says_so(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """English, with a notice."""
    await write(events, event("space-00"))
    request = pb.RecommendRequest(user_id="ada", page_size=1, explain=True, locale="fr-CA")
    answer = await recommendations.Recommend(request)
    assert answer.results[0].reasons[0].startswith("because you liked")
    assert answer.notices == ["locale: there are no sentences in 'fr-CA'; they are in 'en'"]


async def test_who_asks_for_no_reasons_pays_for_none(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `explain` no event is left out to see what would be; the answer's order is the same with and without."""
    await write(events, *map(event, HISTORY))
    explained = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", explain=True))
    looked: list[Sequence[str]] = []

    def look(_generation: object, _items: object, _history: object, item_ids: Sequence[str], *_: object) -> Any:
        looked.append(item_ids)
        return {}

    monkeypatch.setattr("headwater_server.recommender.raisers", look)
    plain = await recommendations.Recommend(pb.RecommendRequest(user_id="ada"))
    assert not looked
    assert [each.item_id for each in plain.results] == [each.item_id for each in explained.results]
    await recommendations.Recommend(pb.RecommendRequest(user_id="ada", explain=True))
    assert looked


async def test_a_profile_says_what_it_rests_on(events: EventServiceAsyncStub, users: UserServiceAsyncStub) -> None:
    """Categories and attributes with their last events and items, aversions apart, and the activity."""
    last = event("love-01", session_id="b")
    await write(
        events,
        event("space-00", event_type="purchase", session_id="a"),
        event("space-02", session_id="a"),
        last,
        event("crime-01", event_type="dislike"),
    )
    profile = await users.GetProfile(users_pb.GetProfileRequest(user_id="ada"))
    space, love = profile.interests
    assert (space.category, list(space.strongest_item_ids), space.event_count) == ("space", ["space-00", "space-02"], 2)
    assert (love.category, love.last_event_time) == ("love", last.event_time)
    assert space.share + love.share == pytest.approx(1.0)
    assert [(each.key, each.value, each.event_count) for each in profile.attributes] == [
        ("shelf", "old", 2),
        ("shelf", "new", 1),
    ]
    assert [(each.category, each.event_count) for each in profile.aversions] == [("crime", 1)]
    assert [(each.key, each.value) for each in profile.attribute_aversions] == [("shelf", "new")]
    activity = profile.activity
    assert (activity.sessions, activity.events_last_30_days, sum(activity.events_by_hour)) == (2, 0, 4)
