"""What is searched for, over the wire: by words and by meaning, in the user's order, and nothing that is hidden."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import event_pb2, item_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1.catalog_service_pb2_grpc import CatalogServiceStub
from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from headwater_core.catalogue import Catalogue, Item
from headwater_core.database import Database
from headwater_core.errors import DatabaseUnavailableError
from headwater_core.features import FeatureStore
from headwater_core.text import CachedTextEncoder, TextEncoder
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

PATIENCE_S = 60.0
_numbers = itertools.count()


@pytest.fixture
async def server(start_server: Callable[..., Any], settings: ServerSettings) -> HeadwaterServer:
    """A server whose text encoder is there."""
    server: HeadwaterServer = await start_server(settings)
    await meanings_of(server)
    return server


async def meanings_of(server: HeadwaterServer) -> None:
    """Wait until texts can be searched by meaning."""
    async with asyncio.timeout(PATIENCE_S):
        while server.rooms.text_keeper.space is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def write(events: EventServiceAsyncStub, item_id: str, event_type: str = "like", **changes: Any) -> None:
    event = event_pb2.Event(
        **{"event_id": f"e{next(_numbers)}", "event_type": event_type, "user_id": "ada", "item_id": item_id, **changes}
    )
    response = await events.WriteEvents(events_pb.WriteEventsRequest(events=[event]))
    assert response.results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED


async def upsert(catalog: CatalogServiceAsyncStub, *items: item_pb2.Item, **options: Any) -> None:
    response = await catalog.UpsertItems(catalog_pb.UpsertItemsRequest(items=items, **options))
    assert not response.errors


def ids(response: pb.SearchItemsResponse | pb.RecommendResponse) -> list[str]:
    return [result.item_id for result in response.results]


def topics(response: pb.SearchItemsResponse | pb.RecommendResponse) -> set[str]:
    return {item_id.split("-")[0] for item_id in ids(response)}


def search(query: str, **changes: Any) -> pb.SearchItemsRequest:
    return pb.SearchItemsRequest(query=query, **changes)


# --- what is found


async def test_words_and_meaning_are_both_searched(recommendations: RecommendationServiceAsyncStub) -> None:
    """An item that has the words says `text`, one that is like them `vector`; ranks and scores are in order."""
    answer = await recommendations.SearchItems(search("detective knife", page_size=60))
    assert ids(answer)[0].startswith("crime")
    assert {source for result in answer.results for source in result.sources} == {"text", "vector"}
    assert [result.rank for result in answer.results] == list(range(1, len(answer.results) + 1))
    scores = [result.score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    assert (answer.degraded, list(answer.notices), answer.generation) == (False, [], 1)


async def test_a_new_item_is_found_with_its_acknowledgement(
    server: HeadwaterServer, catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """By its words and by its meaning, without any generation; a changed text moves it, a deletion ends it."""
    item = item_pb2.Item(
        item_id="new", title="Zanzibar", description="murder detective " * 3, attributes={"by": "Quux"}
    )
    await upsert(catalog, item)
    for query, expected in (("zanzibar", ["text"]), ("quux", ["text"]), ("detective murder murder", ["vector"])):
        found = (await recommendations.SearchItems(search(query, page_size=60))).results
        [new] = [result for result in found if result.item_id == "new"]
        assert set(expected) <= set(new.sources)
    item.description = "rose summer " * 3
    await upsert(catalog, item, update_mask=FieldMask(paths=["description"]))
    near = await recommendations.SearchItems(search("rose summer", page_size=5))
    assert "new" in ids(near)
    assert "new" not in ids(await recommendations.SearchItems(search("murder detective", page_size=5)))
    await catalog.DeleteItems(catalog_pb.DeleteItemsRequest(item_ids=["new"]))
    assert "new" not in ids(await recommendations.SearchItems(search("zanzibar rose summer", page_size=500)))


async def test_texts_that_are_encoded_elsewhere_are_found_soon(
    server: HeadwaterServer, catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """An import leaves the encoding to the updater; the words are found at once."""
    item = item_pb2.Item(item_id="deferred", title="Zanzibar clue")
    await upsert(catalog, item, defer_features=True)
    found = {result.item_id: result for result in (await recommendations.SearchItems(search("zanzibar"))).results}
    assert found["deferred"].sources == ["text"]
    rooms = server.rooms
    encoder = CachedTextEncoder(TextEncoder(rooms.settings.text_encoder_path), FeatureStore(rooms.database))
    encoder.features([rooms.view.items["deferred"].text()])
    async with asyncio.timeout(PATIENCE_S):
        while found["deferred"].sources != ["text", "vector"]:
            await asyncio.sleep(0.05)
            found = {each.item_id: each for each in (await recommendations.SearchItems(search("zanzibar"))).results}


async def test_search_needs_no_generation(
    empty_settings: ServerSettings, start_server: Callable[..., Any], connect: Callable[..., grpc.aio.Channel]
) -> None:
    """The first day's catalogue can be searched before anything is learned."""
    server = await start_server(empty_settings)
    await meanings_of(server)
    channel = connect(server)
    await upsert(CatalogServiceStub(channel), item_pb2.Item(item_id="heat", title="Heat", description="crime night"))
    answer = await RecommendationServiceStub(channel).SearchItems(search("heat", user_id="ada"))
    assert (ids(answer), answer.generation, answer.degraded) == (["heat"], 0, False)
    assert answer.results[0].sources == ["text", "vector"]


async def test_what_was_there_at_start_is_found(recommendations: RecommendationServiceAsyncStub) -> None:
    """Both ways, with the item if it is asked for."""
    answer = await recommendations.SearchItems(search("space robot", page_size=3, return_items=True))
    assert topics(answer) == {"space"}
    assert answer.results[0].item.categories == ["space"]
    assert answer.results[0].sources == ["text", "vector"]


async def test_a_query_of_no_words_finds_nothing_and_says_so(recommendations: RecommendationServiceAsyncStub) -> None:
    """There is nothing to look for; words beyond the limit are named, too."""
    answer = await recommendations.SearchItems(search("?! ..."))
    assert (ids(answer), list(answer.notices)) == ([], ["query: has no letter and no digit"])
    long = await recommendations.SearchItems(search(" ".join(f"w{number}" for number in range(40))))
    assert list(long.notices) == ["query: only the first 32 of its words are looked up"]


# --- filters


async def test_filters_hold_on_every_item(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Categories, attributes, exclusions, times; a category that nothing has is noticed."""
    request = search("crime", page_size=500, filter=pb.ItemFilter(categories=["crime"], attributes={"shelf": "old"}))
    request.exclude_item_ids.append("crime-00")
    answer = await recommendations.SearchItems(request)
    assert sorted(ids(answer)) == [f"crime-{number:02}" for number in range(2, 20, 2)]
    answer = await recommendations.SearchItems(search("crime", filter=pb.ItemFilter(categories=["cookery"])))
    assert (ids(answer), list(answer.notices)) == ([], ["filter.categories: no item has the category 'cookery'"])
    late = pb.ItemFilter(published_after=Timestamp(seconds=int(time.time()) + 1000))
    assert ids(await recommendations.SearchItems(search("crime", filter=late))) == []


async def test_a_filter_that_refuses_nearly_all_is_looked_behind(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """The one that passes is found among many that have the word just as well."""
    many = [item_pb2.Item(item_id=f"many-{number:03}", title="Zebra") for number in range(700)]
    many[-1].categories.append("only")
    await upsert(catalog, *many)
    answer = await recommendations.SearchItems(search("zebra", filter=pb.ItemFilter(categories=["only"])))
    assert ids(answer) == ["many-699"]
    assert answer.results[0].sources == ["text", "vector"]


async def _hide(catalog: CatalogServiceAsyncStub) -> None:
    await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=["gone"], available=False))


async def _delete(catalog: CatalogServiceAsyncStub) -> None:
    await catalog.DeleteItems(catalog_pb.DeleteItemsRequest(item_ids=["gone"]))


async def _expire(catalog: CatalogServiceAsyncStub) -> None:
    expired = item_pb2.Item(item_id="gone", expire_time=Timestamp(seconds=int(time.time()) - 1))
    await upsert(catalog, expired, update_mask=FieldMask(paths=["expire_time"]))


@pytest.mark.parametrize("take_away", [_hide, _delete, _expire])
async def test_what_is_hidden_deleted_or_expired_is_not_found(
    take_away: Callable[[CatalogServiceAsyncStub], Any],
    catalog: CatalogServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Neither by its words nor by its meaning, with the acknowledgement."""
    await upsert(catalog, item_pb2.Item(item_id="gone", title="Zanzibar", description="space ship " * 6))
    for query in ("zanzibar", "space ship"):
        assert "gone" in ids(await recommendations.SearchItems(search(query, page_size=500)))
    await take_away(catalog)
    for query in ("zanzibar", "space ship"):
        assert "gone" not in ids(await recommendations.SearchItems(search(query, page_size=500)))


async def test_a_hidden_item_comes_back(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """And was never gone for those who ask for hidden ones, too."""
    before = await recommendations.SearchItems(search("space robot"))
    first = ids(before)[0]
    await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=[first], available=False))
    assert first not in ids(await recommendations.SearchItems(search("space robot")))
    all_items = pb.ItemFilter(available_only=False)
    assert ids(await recommendations.SearchItems(search("space robot", filter=all_items))) == ids(before)
    await catalog.SetAvailability(catalog_pb.SetAvailabilityRequest(item_ids=[first], available=True))
    assert await recommendations.SearchItems(search("space robot")) == before


async def test_an_item_hidden_while_the_answer_is_made_is_not_shown(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The final list is checked against the newest catalogue."""
    first = ids(await recommendations.SearchItems(search("space robot")))[0]
    by_taste = server.rooms.recommender.by_taste

    async def hide_first(*arguments: Any) -> Any:
        await server.rooms.in_writing(server.rooms.catalogue.set_availability, [first], False)
        await server.rooms.catalogue_tail.catch_up()
        return await by_taste(*arguments)

    monkeypatch.setattr(server.rooms.recommender, "by_taste", hide_first)
    assert first not in ids(await recommendations.SearchItems(search("space robot")))


# --- the user


async def test_the_order_is_the_users(
    events: EventServiceAsyncStub, catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """Of what fits alike, what is to the user's taste comes first; what was seen is not left out."""
    await upsert(
        catalog,
        item_pb2.Item(item_id="one", title="Zanzibar love", description="love rose"),
        item_pb2.Item(item_id="two", title="Zanzibar space", description="space robot"),
    )
    mean_rank = {}
    for user, liked in (("ada", "love-00"), ("bob", "crime-00")):
        await write(events, liked, user_id=user)
        answer = await recommendations.SearchItems(search("new", user_id=user, page_size=30))  # on their shelf: half
        for topic in ("love", "crime"):
            ranks = [rank for rank, item_id in enumerate(ids(answer), 1) if item_id.startswith(topic)]
            mean_rank[user, topic] = sum(ranks) / len(ranks)
    assert mean_rank["ada", "love"] < mean_rank["bob", "love"]
    assert mean_rank["bob", "crime"] < mean_rank["ada", "crime"]
    await write(events, "", "search", user_id="", visitor_id="cookie", query="space robot")
    visitor = await recommendations.SearchItems(search("zanzibar", visitor_id="cookie"))
    assert set(ids(visitor)[:2]) == {"one", "two"}
    await write(events, "two", user_id="bob")
    assert "two" in ids(await recommendations.SearchItems(search("zanzibar", user_id="bob")))[:2]


async def test_an_exact_title_comes_first_whatever_the_taste(
    events: EventServiceAsyncStub, catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """The same words in any order, with any signs between them."""
    await upsert(
        catalog,
        item_pb2.Item(item_id="exact", title="Robot, The", description="love kiss rose"),
        *(item_pb2.Item(item_id=f"near-{n}", title=f"The Robot {n}", description="space robot") for n in range(30)),
    )
    for _ in range(3):
        await write(events, "space-00")
        await write(events, "near-1")
    for query in ("the robot", "Robot, The", "ROBOT THE"):
        answer = await recommendations.SearchItems(search(query, user_id="ada"))
        assert ids(answer)[0] == "exact"
        assert answer.results[0].score > 1.0 > answer.results[1].score


async def test_a_user_without_a_history_gets_the_order_of_everybody(
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Nothing is known of their taste."""
    everybody = await recommendations.SearchItems(search("night"))
    assert await recommendations.SearchItems(search("night", user_id="stranger")) == everybody


async def test_a_search_changes_the_next_recommendation(
    server: HeadwaterServer, events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """A search event is a token of the history, read by its words: the same events but for the query differ."""
    slates = {}
    for user, query in (("ada", "murder detective"), ("bob", "kiss wedding")):
        await write(events, "space-00", user_id=user)
        before = await recommendations.Recommend(pb.RecommendRequest(user_id=user, page_size=20))
        await write(events, "", "search", user_id=user, query=query)
        after = await recommendations.Recommend(pb.RecommendRequest(user_id=user, page_size=20))
        assert ids(after) != ids(before)
        slates[user] = [(result.item_id, result.score) for result in after.results]
    assert slates["ada"] != slates["bob"]


async def test_the_token_of_a_write_is_honoured(
    events: EventServiceAsyncStub, recommendations: RecommendationServiceAsyncStub
) -> None:
    """The answer has seen the write."""
    event = event_pb2.Event(event_id="token", event_type="like", user_id="ada", item_id="space-00")
    token = (await events.WriteEvents(events_pb.WriteEventsRequest(events=[event]))).consistency_token
    answer = await recommendations.SearchItems(search("robot", user_id="ada", min_consistency_token=token))
    assert ids(answer)


# --- parts that are missing


async def test_without_the_database_the_meaning_is_searched(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the answer says what is missing; it is counted."""

    async def away(*_: object) -> None:
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(server.rooms.searcher, "_find", away)
    answer = await recommendations.SearchItems(search("space robot", page_size=5))
    assert topics(answer) == {"space"}
    assert list(answer.degraded_reasons) == ["text unavailable"]
    value = server.rooms.metrics.registry.get_sample_value("headwater_degraded_answers_total", {"part": "text"})
    assert value == 1.0


async def test_a_slow_database_counts_as_away(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer without the words beats none."""

    async def slow(*_: object) -> None:
        await asyncio.sleep(PATIENCE_S)

    monkeypatch.setattr(server.rooms.searcher, "_find", slow)
    monkeypatch.setattr(server.rooms.searcher, "_text_limit_s", 0.01)
    answer = await recommendations.SearchItems(search("space robot"))
    assert list(answer.degraded_reasons) == ["text unavailable"]
    assert answer.results


async def test_without_the_encoder_the_words_are_searched(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the answer says what is missing."""

    def fail(_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(server.rooms.query_features, "_encoder", SimpleNamespace(encode=fail))
    answer = await recommendations.SearchItems(search("robot ship"))
    assert ids(answer)
    assert {source for result in answer.results for source in result.sources} == {"text"}
    assert list(answer.degraded_reasons) == ["vector unavailable"]


async def test_without_either_there_is_no_answer(
    server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UNAVAILABLE, to be tried again."""

    async def away(*_: object) -> None:
        raise DatabaseUnavailableError("away")

    def fail(_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(server.rooms.searcher, "_find", away)
    monkeypatch.setattr(server.rooms.query_features, "_encoder", SimpleNamespace(encode=fail))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recommendations.SearchItems(search("robot"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_another_server_finds_what_was_written_here(
    settings: ServerSettings,
    server: HeadwaterServer,
    catalog: CatalogServiceAsyncStub,
    start_server: Callable[..., Any],
    connect: Callable[..., grpc.aio.Channel],
) -> None:
    """Soon, both ways."""
    other = await start_server(settings, tail_interval_ms=20)
    await meanings_of(other)
    recommendations = RecommendationServiceStub(connect(other))
    await upsert(catalog, item_pb2.Item(item_id="new", title="Zanzibar", description="crime clue"))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await recommendations.SearchItems(search("zanzibar"))
            if ids(answer)[:1] == ["new"] and list(answer.results[0].sources) == ["text", "vector"]:
                break
            await asyncio.sleep(0.02)


async def test_items_written_past_the_server_are_never_shown_before_it_knows_them(
    settings: ServerSettings, server: HeadwaterServer, recommendations: RecommendationServiceAsyncStub
) -> None:
    """The words are in the database before this server's catalogue has the item: it is not answered half known."""
    async with server.rooms.catalogue_tail.turn:
        database = Database(settings.database_url)
        Catalogue(database).upsert([Item("ahead", "Zanzibar")], None, 1)
        database.close()
        assert "ahead" not in ids(await recommendations.SearchItems(search("zanzibar")))
