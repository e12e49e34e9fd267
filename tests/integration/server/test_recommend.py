"""What is recommended, over the wire: what was just done counts, and nothing that is excluded is ever shown."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import string
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as models_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.catalog_service_pb2_grpc import CatalogServiceStub
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_core.co_visits import REPEAT_EVENTS
from headwater_core.events import Subject, SubjectKind
from headwater_core.features import FeatureStore
from headwater_core.impressions import ImpressionLog
from headwater_core.text import TextEncoder, text_hash
from headwater_server import fresh
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

ALL = 500
_numbers = itertools.count()


def event(item_id: str, user_id: str = "ada", event_type: str = "like", **changes: Any) -> event_pb2.Event:
    return event_pb2.Event(
        event_id=f"event-{next(_numbers)}", event_type=event_type, user_id=user_id, item_id=item_id, **changes
    )


async def write(events: EventServiceAsyncStub, *written: event_pb2.Event) -> str:
    """Write events, all of which must be accepted; the consistency token."""
    response = await events.WriteEvents(events_pb.WriteEventsRequest(events=written))
    assert {result.outcome for result in response.results} == {event_pb2.EVENT_OUTCOME_ACCEPTED}
    return response.consistency_token


async def upsert(catalog: CatalogServiceAsyncStub, *items: item_pb2.Item, **options: Any) -> None:
    response = await catalog.UpsertItems(catalog_pb.UpsertItemsRequest(items=items, **options))
    assert not response.errors


def ids(response: pb.RecommendResponse | pb.SimilarItemsResponse) -> list[str]:
    return [result.item_id for result in response.results]


def topics(response: pb.RecommendResponse | pb.SimilarItemsResponse) -> set[str]:
    return {item_id.split("-")[0] for item_id in ids(response)}


# --- histories


async def test_an_acknowledged_event_is_in_the_same_users_next_answer(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """After a like the slate is of its topic; after a like in another topic it is of that one."""
    request = pb.RecommendRequest(user_id="ada", page_size=5)
    await write(events, event("space-00"))
    before = await recommendations.Recommend(request)
    assert topics(before) == {"space"}
    await write(events, event("love-00"))
    after = await recommendations.Recommend(request)
    assert topics(after) == {"love"}
    assert [result.rank for result in after.results] == [1, 2, 3, 4, 5]
    assert [result.score for result in after.results] == sorted((r.score for r in after.results), reverse=True)
    assert not after.degraded


async def test_what_the_user_has_seen_is_left_out_unless_asked_for(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Seen items come back with exclude_seen=false; disliked ones never do."""
    await write(events, event("space-00"), event("space-01", event_type="dislike"), event("space-02"))
    slate = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=ALL))
    assert len(slate.results) == 57
    assert not {"space-00", "space-01", "space-02"} & set(ids(slate))
    request = pb.RecommendRequest(user_id="ada", page_size=ALL, exclude_seen=False)
    again = ids(await recommendations.Recommend(request))
    assert {"space-00", "space-02"} <= set(again)
    assert "space-01" not in again


async def test_an_impression_is_not_part_of_the_history(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """What was only shown neither changes the slate nor counts as seen."""
    await write(events, event("space-00"))
    request = pb.RecommendRequest(user_id="ada", page_size=5)
    before = ids(await recommendations.Recommend(request))
    await write(events, event(before[0], event_type="impression"))
    assert ids(await recommendations.Recommend(request)) == before


async def test_inline_events_and_context_items_count_without_being_stored(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """recent_events and context_item_ids steer one answer, and only that one."""
    inline = pb.RecommendRequest(recent_events=[event("crime-00", user_id="", event_type="click")], page_size=5)
    slate = await recommendations.Recommend(inline)
    assert topics(slate) == {"crime"}
    assert "crime-00" not in ids(slate)
    await write(events, event("space-00"))
    looking_at = pb.RecommendRequest(user_id="ada", context_item_ids=["love-03"], page_size=5)
    slate = await recommendations.Recommend(looking_at)
    assert topics(slate) == {"love"}
    assert "love-03" not in ids(slate)
    assert topics(await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=5))) == {"space"}


async def test_a_search_is_part_of_the_history(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """A history of one search has a vector of its own: its query's text is read."""
    await write(events, event("", event_type="search", query="murder detective"))
    embedded = await recommendations.EmbedUser(pb.EmbedUserRequest(user_id="ada"))
    assert embedded.history_length == 1
    assert len(embedded.interests) == 2
    await write(events, event("", "bob", event_type="search", query="rose summer"))
    other = await recommendations.EmbedUser(pb.EmbedUserRequest(user_id="bob"))
    assert other.interests != embedded.interests


async def test_a_search_leaves_no_trace_in_the_database(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Queries are personal: their features stay in memory."""
    store = FeatureStore(server.rooms.database)
    search = event("", user_id="", event_type="search", query="murder detective")
    await recommendations.Recommend(pb.RecommendRequest(recent_events=[search]))
    encoder = TextEncoder(server.rooms.settings.text_encoder_path)
    assert store.get(encoder.id, [text_hash("murder detective")]) == {}
    assert len(store.get(encoder.id, [text_hash(server.rooms.view.items["crime-00"].text())])) == 1


async def test_searches_that_cannot_be_encoded_make_the_answer_degraded(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is read without their words; answers that rest on no search are whole."""

    def fail(_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(server.rooms.query_features, "_encoder", SimpleNamespace(encode=fail))
    searched = [event("", user_id="", event_type="search", query="rose"), event("love-00", user_id="")]
    answer = await recommendations.Recommend(pb.RecommendRequest(recent_events=searched, page_size=5))
    assert list(answer.degraded_reasons) == ["queries unavailable"]
    assert topics(answer) == {"love"}
    whole = await recommendations.Recommend(pb.RecommendRequest(recent_events=searched[1:], page_size=5))
    assert not whole.degraded


async def test_what_others_went_on_to_is_recommended_and_says_so(
    settings: ServerSettings,
    publish: Callable[..., int],
    start_server: Callable[[ServerSettings], Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
) -> None:
    """From the latest event on, in slates, under filters and in scores; what was seen stays out of the slate."""
    publish(settings, follows={"space-00": ["love-04", "crime-04"], "love-04": ["crime-04", "space-00"]})
    channel = connect(await start_server(settings))
    events, recommendations = EventServiceStub(channel), RecommendationServiceStub(channel)
    request = pb.RecommendRequest(user_id="ada", page_size=5, explain=True)
    await write(events, event("space-00"))
    slate = await recommendations.Recommend(request)
    assert set(ids(slate)[:2]) == {"love-04", "crime-04"}
    assert [list(result.sources) for result in slate.results] == [["co_visit"]] * 2 + [["tower"]] * 3
    assert slate.results[0].reasons[-1] == "others went on to this after what you did lately"
    await write(events, event("love-04"))
    slate = await recommendations.Recommend(request)
    assert ids(slate)[0] == "crime-04"
    assert not {"space-00", "love-04"} & set(ids(slate))
    crime = pb.RecommendRequest(user_id="ada", page_size=1, filter=pb.ItemFilter(categories=["crime"]))
    filtered = await recommendations.Recommend(crime)
    assert ids(filtered) == ["crime-04"]
    scores = await recommendations.ScoreItems(pb.ScoreItemsRequest(user_id="ada", item_ids=["crime-04", "love-05"]))
    assert scores.scores[0].score == pytest.approx(slate.results[0].score)
    assert scores.scores[0].score == pytest.approx(filtered.results[0].score)
    assert scores.scores[0].score > scores.scores[1].score
    for_nobody = await recommendations.Recommend(pb.RecommendRequest(user_id="stranger"))
    assert not any("co_visit" in result.sources for result in for_nobody.results)


async def test_a_visitors_events_become_the_users_with_the_first_event_that_names_both(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Before the link two histories, after it one, whoever of the two is asked for."""
    await write(events, event("crime-00", user_id="", visitor_id="cookie"), event("space-00"))
    of_visitor, of_user = pb.RecommendRequest(visitor_id="cookie", page_size=ALL), pb.RecommendRequest(user_id="ada")
    assert ids(await recommendations.Recommend(of_visitor))[0].startswith("crime")
    assert topics(await recommendations.Recommend(of_user)) == {"space"}
    await write(events, event("crime-01", visitor_id="cookie"))
    slate = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=ALL))
    assert not {"crime-00", "crime-01", "space-00"} & set(ids(slate))
    assert ids(await recommendations.Recommend(of_visitor)) == ids(slate)
    embedded = await recommendations.EmbedUser(pb.EmbedUserRequest(visitor_id="cookie"))
    assert embedded.history_length == 3


async def test_nobody_in_particular_is_shown_what_is_popular(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Unknown users, and requests that name nobody, get recent popularity, of available items only."""
    likes = {"love-05": 3, "space-05": 2, "crime-05": 1}
    await write(
        events,
        *(event(item_id, f"fan-{fan}") for item_id, count in likes.items() for fan in range(count)),
        event("love-09", "critic", event_type="dislike"),
        event("not-in-the-catalogue", "fan-0"),
    )
    for request in (pb.RecommendRequest(), pb.RecommendRequest(user_id="stranger")):
        slate = await recommendations.Recommend(request)
        assert ids(slate) == ["love-05", "space-05", "crime-05"]
        assert {source for result in slate.results for source in result.sources} == {"popular"}
        assert not slate.degraded


# --- filters


async def test_filters_hold_on_every_item(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Categories, attributes and exclusions, also against the user's taste."""
    await write(events, event("space-00"), event("love-02", "bob"))
    category = pb.ItemFilter(categories=["love"], attributes={"shelf": "old"})
    slate = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", filter=category, page_size=ALL))
    assert sorted(ids(slate)) == [f"love-{number:02}" for number in range(0, 20, 2)]
    either = pb.ItemFilter(categories=["love", "crime", "cookery"])
    slate = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", filter=either, page_size=ALL))
    assert topics(slate) == {"love", "crime"}
    assert len(slate.results) == 40
    assert slate.notices == ["filter.categories: no item has the category 'cookery'"]
    excluded = [f"space-{number:02}" for number in range(15)]
    slate = await recommendations.Recommend(
        pb.RecommendRequest(user_id="ada", exclude_item_ids=excluded, page_size=ALL)
    )
    assert not set(excluded) & set(ids(slate))


async def test_times_of_publication_are_filtered(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """published_after is inclusive, published_before is not."""
    await upsert(
        catalog,
        item_pb2.Item(item_id="old", title="space", categories=["dated"], publish_time=Timestamp(seconds=100)),
        item_pb2.Item(item_id="new", title="space", categories=["dated"], publish_time=Timestamp(seconds=200)),
    )
    for bounds, expected in (
        ({"published_after": Timestamp(seconds=200)}, ["new"]),
        ({"published_before": Timestamp(seconds=200)}, ["old"]),
        ({"published_after": Timestamp(seconds=101), "published_before": Timestamp(seconds=200)}, []),
    ):
        request = pb.RecommendRequest(
            context_item_ids=["space-00"],
            filter=pb.ItemFilter(categories=["dated"], **bounds),  # type: ignore[arg-type]
        )
        assert ids(await recommendations.Recommend(request)) == expected


async def _hide(catalog: CatalogServiceAsyncStub, item_id: str) -> None:
    await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=[item_id], available=False))


async def _delete(catalog: CatalogServiceAsyncStub, item_id: str) -> None:
    await catalog.DeleteItems(catalog_pb.DeleteItemsRequest(item_ids=[item_id]))


async def _expire(catalog: CatalogServiceAsyncStub, item_id: str) -> None:
    expired = item_pb2.Item(item_id=item_id, expire_time=Timestamp(seconds=int(time.time()) - 1))
    await upsert(catalog, expired, update_mask={"paths": ["expire_time"]})


@pytest.mark.parametrize("take_away", [_hide, _delete, _expire])
async def test_what_is_hidden_deleted_or_expired_is_in_no_answer(
    take_away: Callable[[CatalogServiceAsyncStub, str], Any],
    events: EventServiceAsyncStub,
    catalog: CatalogServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """By taste, by popularity, under a filter, as similar, in scores: gone with the acknowledgement."""
    await write(events, event("space-00"), *(event("space-07", f"fan-{fan}") for fan in range(5)))
    personal = pb.RecommendRequest(user_id="ada", page_size=ALL)
    popular = pb.RecommendRequest(page_size=ALL)
    filtered = pb.RecommendRequest(user_id="ada", filter=pb.ItemFilter(categories=["space"]), page_size=ALL)
    varied = pb.RecommendRequest(user_id="ada", diversity=0.5, page_size=ALL)
    for request in (personal, popular, filtered, varied):
        assert "space-07" in ids(await recommendations.Recommend(request))
    await take_away(catalog, "space-07")
    for request in (personal, popular, filtered, varied):
        assert "space-07" not in ids(await recommendations.Recommend(request))
    similar = await recommendations.SimilarItems(pb.SimilarItemsRequest(item_id="space-00", page_size=ALL))
    assert "space-07" not in ids(similar)
    scores = await recommendations.ScoreItems(pb.ScoreItemsRequest(user_id="ada", item_ids=["space-07", "space-08"]))
    assert [score.item_id for score in scores.scores] == ["space-08"]
    assert scores.missing_item_ids == ["space-07"]


async def test_a_hidden_item_comes_back(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Shown again, it is as it was; with available_only=false it was never gone."""
    request = pb.RecommendRequest(context_item_ids=["space-00"], page_size=ALL)
    before = ids(await recommendations.Recommend(request))
    await _hide(catalog, "space-07")
    hidden_too = pb.RecommendRequest(filter=pb.ItemFilter(available_only=False))
    hidden_too.MergeFrom(request)
    assert ids(await recommendations.Recommend(hidden_too)) == before
    changed = await catalog.SetAvailability(
        catalog_pb.SetAvailabilityRequest(item_ids=["space-07", "nowhere"], available=True)
    )
    assert (changed.changed_count, list(changed.missing_item_ids)) == (1, ["nowhere"])
    assert ids(await recommendations.Recommend(request)) == before


# --- new items


async def test_a_new_item_is_recommended_similar_and_scored_with_its_acknowledgement(
    events: EventServiceAsyncStub, catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Its text alone places it, without any interaction or new generation."""
    await write(events, event("crime-00"))
    await upsert(catalog, item_pb2.Item(item_id="brand-new", title="Crime clue", description="crime " * 6))
    slate = await recommendations.Recommend(
        pb.RecommendRequest(user_id="ada", page_size=21, explain=True, return_items=True)
    )
    [new] = [result for result in slate.results if result.item_id == "brand-new"]
    assert new.sources == ["fresh"]
    assert new.item.title == "Crime clue"
    assert new.reasons
    similar = await recommendations.SimilarItems(pb.SimilarItemsRequest(item_id="brand-new", page_size=5))
    assert topics(similar) == {"crime"}
    similar = await recommendations.SimilarItems(pb.SimilarItemsRequest(item_id="crime-00", page_size=21))
    assert "brand-new" in ids(similar)
    scores = await recommendations.ScoreItems(pb.ScoreItemsRequest(user_id="ada", item_ids=["brand-new", "love-00"]))
    assert not scores.missing_item_ids
    assert scores.scores[0].score > scores.scores[1].score
    await write(events, event("brand-new", "bob"))
    assert topics(await recommendations.Recommend(pb.RecommendRequest(user_id="bob", page_size=5))) == {"crime"}


async def test_a_new_item_is_placed_however_long_its_text_takes(
    server: HeadwaterServer,
    catalog: CatalogServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Acknowledged means recommendable, also when the patience of those who wait in the background has ended."""
    monkeypatch.setattr(fresh, "PATIENCE_S", -1.0)
    await upsert(catalog, item_pb2.Item(item_id="brand-new", title="Crime clue"))
    similar = await recommendations.SimilarItems(pb.SimilarItemsRequest(item_id="brand-new", page_size=5))
    assert topics(similar) == {"crime"}


async def test_an_item_without_any_text_is_kept_and_cannot_be_placed(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """It has no vector: not similar to anything and not scorable, but no error either."""
    await upsert(catalog, item_pb2.Item(item_id="silent"))
    similar = await recommendations.SimilarItems(pb.SimilarItemsRequest(item_id="silent"))
    assert not similar.results
    scores = await recommendations.ScoreItems(pb.ScoreItemsRequest(item_ids=["silent"]))
    assert scores.missing_item_ids == ["silent"]
    slate = await recommendations.Recommend(pb.RecommendRequest(context_item_ids=["silent"]))
    assert not slate.degraded


async def test_a_vector_alone_places_a_new_item(
    settings: ServerSettings,
    publish: Callable[..., int],
    start_server: Callable[[ServerSettings], Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
) -> None:
    """Without any text it is at once near items with like vectors, whatever their scale, and moves with its own."""
    channel = connect(await start_server(settings))
    catalog, recommendations = CatalogServiceStub(channel), RecommendationServiceStub(channel)
    directions = {"space": [1.0, 0.0, 0.0], "love": [0.0, 1.0, 0.0], "crime": [0.0, 0.0, 1.0]}
    for topic, direction in directions.items():
        known = [item_pb2.Item(item_id=f"{topic}-{number:02}", embedding=direction) for number in range(20)]
        await upsert(catalog, *known, update_mask={"paths": ["embedding"]})
    picture = item_pb2.Item(item_id="picture", embedding=[0.0, 0.0, 100.0])
    # The model is from before there were vectors: to it they say nothing.
    await upsert(catalog, picture)
    request = pb.SimilarItemsRequest(item_id="picture", page_size=5)
    assert not (await recommendations.SimilarItems(request)).results
    await catalog.DeleteItems(catalog_pb.DeleteItemsRequest(item_ids=["picture"]))
    publish(settings)
    await ModelServiceStub(channel).Reload(models_pb.ReloadRequest())
    await upsert(catalog, picture)
    assert topics(await recommendations.SimilarItems(request)) == {"crime"}
    await write(EventServiceStub(channel), event("crime-00"))
    slate = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=21, explain=True))
    assert [result.sources for result in slate.results if result.item_id == "picture"] == [["fresh"]]
    picture.embedding[:] = directions["love"]
    await upsert(catalog, picture)
    assert topics(await recommendations.SimilarItems(request)) == {"love"}


async def test_a_new_item_whose_text_changes_moves(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Its place follows its text, with a masked update too."""
    await upsert(catalog, item_pb2.Item(item_id="mover", title="space ship", description="space " * 6))
    request = pb.SimilarItemsRequest(item_id="mover", page_size=3)
    assert topics(await recommendations.SimilarItems(request)) == {"space"}
    changed = item_pb2.Item(item_id="mover", title="love kiss", description="love " * 6)
    await upsert(catalog, changed, update_mask={"paths": ["title", "description"]})
    assert topics(await recommendations.SimilarItems(request)) == {"love"}


# --- pages


async def test_pages_repeat_nothing_and_end(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """All pages together are the whole ranking, each item once, ranks counted on."""
    await write(events, event("space-00"))
    whole = ids(await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=ALL)))
    shown: list[pb.RecommendedItem] = []
    token = ""
    for _ in range(6):
        page = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=12, page_token=token))
        shown += page.results
        token = page.next_page_token
        if not token:
            break
    assert [result.item_id for result in shown] == whole
    assert [result.rank for result in shown] == list(range(1, 60))


async def test_a_page_stays_with_its_generation(
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    models: ModelServiceAsyncStub,
    publish: Callable[..., int],
    settings: ServerSettings,
) -> None:
    """The next page comes from the generation of the first while it is loaded, then from the current one."""
    await write(events, event("space-00"))
    first = await recommendations.Recommend(pb.RecommendRequest(user_id="ada"))
    following = pb.RecommendRequest(user_id="ada", page_token=first.next_page_token)
    for number in (2, 3):
        assert publish(settings, seed=number) == number
        assert (await models.Reload(models_pb.ReloadRequest())).generation == number
        page = await recommendations.Recommend(following)
        assert page.generation == (1 if number == 2 else 3)
        assert not set(ids(first)) & set(ids(page))


async def test_a_token_of_many_long_ids_is_taken_back(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """A page of 500 ids of 256 bytes can be followed by another."""
    dice = random.Random(1)
    long_ids = ["".join(dice.choices(string.ascii_letters + string.digits, k=256)) for _ in range(600)]
    named = [item_pb2.Item(item_id=item_id, title="space", categories=["long"]) for item_id in long_ids]
    await upsert(catalog, *named)
    request = pb.RecommendRequest(context_item_ids=["space-00"], page_size=ALL)
    request.filter.categories.append("long")
    first = await recommendations.Recommend(request)
    request.page_token = first.next_page_token
    second = await recommendations.Recommend(request)
    assert len({*ids(first), *ids(second)}) == len(first.results) + len(second.results) == 600


# --- the other methods


async def test_diversity_varies_the_slate(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """The best item stays first; the rest comes from further away."""
    await write(events, event("space-00"))
    plain = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=10))
    varied = await recommendations.Recommend(pb.RecommendRequest(user_id="ada", page_size=10, diversity=0.9))
    assert ids(varied)[0] == ids(plain)[0]
    assert topics(plain) == {"space"}
    assert len(topics(varied)) > 1
    assert len(set(ids(varied))) == 10


async def test_many_are_answered_as_each_alone(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Embedding histories together changes nothing but the last bits."""
    likes = {"ada": "space-00", "bob": "love-00", "eve": "crime-00"}
    await write(events, *(event(item_id, user_id) for user_id, item_id in likes.items()))
    requests = [pb.RecommendRequest(user_id=user_id, page_size=7) for user_id in likes]
    batch = await recommendations.BatchRecommend(pb.BatchRecommendRequest(requests=requests))
    for request, result in zip(requests, batch.results, strict=True):
        assert ids(result.response) == ids(await recommendations.Recommend(request))


async def test_scores_have_a_probability_per_type_and_a_value(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """In the order of the request, for known items; recent_events count; the reference is stated."""
    await write(events, event("space-00"))
    asked = ["love-01", "nowhere", "space-01"]
    scores = await recommendations.ScoreItems(pb.ScoreItemsRequest(user_id="ada", item_ids=asked))
    assert [score.item_id for score in scores.scores] == ["love-01", "space-01"]
    assert scores.missing_item_ids == ["nowhere"]
    assert scores.scores[1].score > scores.scores[0].score
    assert scores.probability_reference == pb.PROBABILITY_REFERENCE_SAMPLED_EXPOSURE
    for score in scores.scores:
        assert {"click", "like", "purchase"} <= score.probabilities.keys()
        assert all(0.0 <= probability <= 1.0 for probability in score.probabilities.values())
        assert score.HasField("expected_value")
    recent = pb.ScoreItemsRequest(
        user_id="ada", item_ids=asked, recent_events=[event("love-00", user_id="", event_type="click")]
    )
    after = await recommendations.ScoreItems(recent)
    assert after.scores[0].score > after.scores[1].score
    nobody = await recommendations.ScoreItems(pb.ScoreItemsRequest(item_ids=asked))
    assert [score.score for score in nobody.scores] == [0.0, 0.0]


async def test_the_expected_value_is_that_of_the_type_with_most_values(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Ratings around 3.5 here, though purchases, first by name, have values too; none when no type has."""
    await write(events, event("space-00"))
    request = pb.ScoreItemsRequest(user_id="ada", item_ids=["space-01"])
    assert 1.0 < (await recommendations.ScoreItems(request)).scores[0].expected_value < 6.0
    stable = server.rooms.generations.by_label("stable")
    stable.config = dataclasses.replace(stable.config, value_type="")
    assert not (await recommendations.ScoreItems(request)).scores[0].HasField("expected_value")


async def test_scores_stay_with_their_items_whatever_goes_meanwhile(
    server: HeadwaterServer,
    catalog: CatalogServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new item is deleted between the choice of the rows and the scoring of them."""
    await upsert(catalog, item_pb2.Item(item_id="brand-new", title="Crime clue"))
    request = pb.ScoreItemsRequest(
        item_ids=["brand-new", "space-01", "love-01"],
        recent_events=[event("love-00", user_id="", event_type="click")],
    )
    before = await recommendations.ScoreItems(request)
    in_compute = server.rooms.in_compute

    async def delete_first(call: Callable[..., Any], *arguments: Any) -> Any:
        for generation in server.rooms.generations.loaded:
            generation.items = generation.items.without_fresh(["brand-new"])
        return await in_compute(call, *arguments)

    monkeypatch.setattr(server.rooms, "in_compute", delete_first)
    assert list((await recommendations.ScoreItems(request)).scores) == list(before.scores)


async def test_what_is_hidden_while_an_answer_is_made_leaves_its_place_to_another(
    server: HeadwaterServer,
    catalog: CatalogServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page is as long as was asked for, and the hidden item is not on it."""
    await write(events, event("space-00"))
    request = pb.RecommendRequest(user_id="ada", page_size=5, exclude_item_ids=["love-00"])
    first = ids(await recommendations.Recommend(request))[0]
    ask, asked = server.rooms.gathering.ask, 0

    async def hide_after(*arguments: Any) -> Any:
        nonlocal asked
        gathered = await ask(*arguments)
        asked += 1
        if asked == 1:
            await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=[first], available=False))
        return gathered

    monkeypatch.setattr(server.rooms.gathering, "ask", hide_after)
    request.exclude_item_ids[:] = ["love-01"]  # another question, not answered before
    shown = ids(await recommendations.Recommend(request))
    assert len(shown) == 5
    assert first not in shown


async def test_a_similar_item_that_is_hidden_meanwhile_leaves_its_place_to_another(
    server: HeadwaterServer,
    catalog: CatalogServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a slate."""
    request = pb.SimilarItemsRequest(item_id="space-00", page_size=5)
    first = ids(await recommendations.SimilarItems(request))[0]
    recommender = server.rooms.recommender
    compute = recommender._run_in_compute

    async def hide_after(*arguments: Any) -> Any:
        found = await compute(*arguments)
        await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=[first], available=False))
        return found

    monkeypatch.setattr(recommender, "_run_in_compute", hide_after)
    shown = ids(await recommendations.SimilarItems(request))
    assert len(shown) == 5
    assert first not in shown


async def test_a_user_is_embedded_in_the_space_of_the_items(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """K interests of d numbers each; none without a history."""
    empty = await recommendations.EmbedUser(pb.EmbedUserRequest(user_id="stranger"))
    assert (len(empty.interests), empty.history_length, empty.generation) == (0, 0, 1)
    await write(events, event("space-00"), event("space-01"))
    embedded = await recommendations.EmbedUser(pb.EmbedUserRequest(user_id="ada"))
    assert [len(interest.values) for interest in embedded.interests] == [16, 16]
    assert embedded.history_length == 2


async def test_similar_items_are_the_nearest_and_not_the_item_itself(
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Cosines, highest first, within the filter."""
    similar = await recommendations.SimilarItems(
        pb.SimilarItemsRequest(item_id="love-00", page_size=19, exclude_item_ids=["love-01"], return_items=True)
    )
    assert len(similar.results) == 19
    assert not {"love-00", "love-01"} & set(ids(similar))
    scores = [result.score for result in similar.results]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] <= 1.0 + 1e-5
    assert all(result.item.item_id == result.item_id for result in similar.results)
    other = await recommendations.SimilarItems(
        pb.SimilarItemsRequest(item_id="love-00", filter=pb.ItemFilter(categories=["crime"]))
    )
    assert topics(other) == {"crime"}


async def test_what_was_shown_is_logged_with_propensities(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Subject, surface, context, generation, and each item with score, propensity and source, in order."""
    request = pb.RecommendRequest(
        user_id="ada", session_id="visit", surface="home", context={"device": "tv"}, context_item_ids=["space-00"]
    )
    slate = await recommendations.Recommend(request)
    await asyncio.wait_for(server.rooms.impression_writer.flush(), 60)
    assert slate.attribution_token
    log = ImpressionLog(server.rooms.database)
    assert log.count() == 1
    with server.rooms.database.read() as connection:
        [slate_id] = connection.exec_driver_sql("SELECT slate_id FROM impressions").scalars()
    shown = log.get(slate_id)
    assert shown is not None
    assert shown.subject == Subject(SubjectKind.USER, "ada")
    assert (shown.session_id, shown.surface, shown.context) == ("visit", "home", {"device": "tv"})
    assert (shown.generation, shown.strategy != "") == (1, True)
    assert [item.item_id for item in shown.items] == ids(slate)
    assert {item.propensity for item in shown.items} == {1.0}
    assert {source for item in shown.items for source in item.sources} == {"tower"}


async def test_a_tenant_that_is_not_served_is_told_so(recommendations: RecommendationServiceAsyncStub) -> None:
    """FAILED_PRECONDITION; our own tenant's name is welcome."""
    assert await recommendations.Recommend(pb.RecommendRequest(), metadata=(("headwater-tenant", "default"),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recommendations.Recommend(pb.RecommendRequest(), metadata=(("headwater-tenant", "other"),))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "'other'" in (caught.value.details() or "")


async def test_an_empty_catalogue_answers_with_an_empty_slate(
    start_server: Callable[..., Any],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
    empty_settings: ServerSettings,
    publish: Callable[..., int],
) -> None:
    """A generation of no items serves: nothing to show is no error."""
    publish(empty_settings)
    recommendations = RecommendationServiceStub(connect(await start_server(empty_settings)))
    for request in (
        pb.RecommendRequest(),
        pb.RecommendRequest(user_id="ada", diversity=0.5),
        pb.RecommendRequest(recent_events=[event("nowhere", user_id="")]),
    ):
        slate = await recommendations.Recommend(request)
        assert not slate.results
        assert not slate.next_page_token
    assert (await recommendations.ScoreItems(pb.ScoreItemsRequest(item_ids=["a"]))).missing_item_ids == ["a"]


async def test_a_dislike_is_not_forgotten_however_much_happens_after_it(
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
    server: HeadwaterServer,
) -> None:
    """The history that is kept has an end; what is not wanted has none, in memory as read anew."""
    await write(events, event("space-00", event_type="dislike"))
    views = [event("space-01", event_type="view", session_id=str(number)) for number in range(REPEAT_EVENTS + 1)]
    await write(events, *views)
    request = pb.RecommendRequest(user_id="ada", page_size=100, exclude_seen=False)
    assert "space-00" not in ids(await recommendations.Recommend(request))
    server.rooms.states.drop(Subject(SubjectKind.USER, "ada"))
    answer = ids(await recommendations.Recommend(request))
    assert "space-00" not in answer
    assert "space-01" in answer
