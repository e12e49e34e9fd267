"""One suite over both clients and both event writers: the same calls give the same answers."""

from __future__ import annotations

import asyncio
import inspect
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from headwater_client import (
    AsyncClient,
    AsyncEventWriter,
    Client,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    EventsRefusedError,
    EventWriter,
    ExplanationKind,
    FailedPreconditionError,
    HealthStatus,
    InvalidArgumentError,
    NotFoundError,
    Recommendations,
    RecommendRequest,
    ResourceExhaustedError,
    RetryConfig,
    RpcError,
    UnavailableError,
    UnimplementedError,
    WriteFailure,
    WriterConfig,
    event,
    item,
    request_id,
)
from headwater_client.testing import FakeServer

Until = Callable[[Callable[[], bool]], Coroutine[Any, Any, None]]

KINDS = ("sync", "async")
FAST = RetryConfig(initial_backoff_s=0.01, max_backoff_s=0.02, patience_s=0.0)


class Awaitable:
    """Shows a synchronous object as an asynchronous one: its methods run in a thread."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if not inspect.ismethod(value):
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(value, *args, **kwargs)

        return call


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@pytest.fixture
async def connect(kind: str, server: FakeServer) -> AsyncIterator[Callable[..., Any]]:
    opened: list[Any] = []

    def connect(**options: Any) -> Any:
        options = {"retry": FAST, **options}
        client = (
            AsyncClient(server.address, **options) if kind == "async" else Awaitable(Client(server.address, **options))
        )
        opened.append(client)
        return client

    yield connect
    for client in opened:
        await client.close()


@pytest.fixture
async def client(connect: Callable[..., Any]) -> Any:
    client = connect()
    await client.upsert_items(
        [
            item("heat", title="Heat", categories=["Crime", "Drama"], attributes={"decade": "90s"}),
            item("ronin", title="Ronin", categories=["Crime"]),
            item("up", title="Up", categories=["Animation"], publish_time=datetime(2009, 5, 29, tzinfo=UTC)),
        ]
    )
    return client


@pytest.fixture
def writer_of(kind: str) -> Callable[..., Any]:
    def writer_of(client: Any, config: WriterConfig, on_failure: Callable[[WriteFailure], None] | None = None) -> Any:
        if kind == "async":
            return AsyncEventWriter(client, config, on_failure=on_failure)
        return Awaitable(EventWriter(client.target, config, on_failure=on_failure))

    return writer_of


def like(item_id: str, user_id: str = "ada") -> Any:
    return event("like", user_id=user_id, item_id=item_id)


def is_writing() -> bool:
    """Whether an event writer's thread or task goes on."""
    names = [thread.name for thread in threading.enumerate()] + [task.get_name() for task in asyncio.all_tasks()]
    return "headwater-event-writer" in names


async def test_a_written_event_is_in_the_next_answer(client: Any) -> None:
    """What a user has seen is left out of the answer that follows the write."""
    written = await client.write(like("heat"))
    assert (written.accepted, written.duplicates, written.refused) == (1, 0, ())
    answer = await client.recommend(user_id="ada", min_consistency_token=written.consistency_token)
    assert answer.item_ids == ["ronin", "up"]
    assert [one.rank for one in answer] == [1, 2]
    assert answer.generation == 1


async def test_writing_the_same_event_again_is_harmless(client: Any, server: FakeServer) -> None:
    """The same event is a duplicate; the same id with other content is refused with ALREADY_EXISTS."""
    first = like("heat")
    await client.write(first)
    assert (await client.write(first)).duplicates == 1
    other = event("like", user_id="ada", item_id="up", event_id=first.event_id)
    refused = (await client.write(other)).refused
    assert [(one.field, one.status) for one in refused] == [("event_id", grpc.StatusCode.ALREADY_EXISTS)]
    assert len(server.events) == 1


async def test_bad_events_are_reported_one_by_one(client: Any, server: FakeServer) -> None:
    """A batch with a bad event writes the good ones and says what is wrong with the other."""
    result = await client.write(like("heat"), event("teleport", user_id="ada", item_id="up"))
    assert result.accepted == 1
    assert [(one.index, one.field) for one in result.refused] == [(1, "event_type")]
    with pytest.raises(EventsRefusedError, match="not registered"):
        result.raise_for_refused()
    assert len(server.events) == 1


async def test_recommend_sends_what_it_is_given(client: Any, server: FakeServer) -> None:
    """Every keyword reaches its field; what is not given stays unset."""
    after = datetime(2000, 1, 1, tzinfo=UTC)
    await client.recommend(
        user_id="ada", page_size=3, categories=["Animation"], published_after=after, exclude_item_ids=["heat"],
        exclude_seen=False, context={"device": "tv"}, surface="home", diversity=0.5, label="stable",
    )  # fmt: skip
    request = server.calls_of("Recommend")[-1]
    assert request.filter.categories == ["Animation"]
    assert request.filter.published_after.ToDatetime(tzinfo=UTC) == after
    assert (request.user_id, request.page_size, request.surface, request.label) == ("ada", 3, "home", "stable")
    assert request.HasField("exclude_seen") and not request.exclude_seen
    assert not request.HasField("exploration") and not request.filter.HasField("available_only")


async def test_filters_pages_and_items(client: Any) -> None:
    """Filters, page tokens and return_items do what they say."""
    assert (await client.recommend(categories=["Crime"])).item_ids == ["heat", "ronin"]
    assert (await client.recommend(attributes={"decade": "90s"})).item_ids == ["heat"]
    first = await client.recommend(page_size=2, return_items=True)
    second = await client.recommend(page_size=2, page_token=first.next_page_token)
    assert [one.item.title for one in first] == ["Heat", "Ronin"]
    assert (second.item_ids, second.items[0].rank, second.next_page_token) == (["up"], 3, "")


async def test_batch_answers_and_errors_stand_alone(client: Any) -> None:
    """One bad request of a batch is an error in its place; the others are answered."""
    good, bad = await client.batch_recommend([RecommendRequest(user_id="ada"), RecommendRequest(page_size=-1)])
    assert isinstance(good, Recommendations) and len(good) == 3
    assert isinstance(bad, InvalidArgumentError) and "page_size" in bad.message


async def test_similar_scores_and_vectors(client: Any) -> None:
    """SimilarItems, ScoreItems and EmbedUser are read into plain values."""
    assert (await client.similar_items("heat")).item_ids[0] == "ronin"
    await client.write(like("up"))
    scores = await client.score_items(["up", "heat", "none"], user_id="ada")
    assert scores.items[0].score > scores.items[1].score and scores.items[0].expected_value is None
    assert (scores.missing_item_ids, scores.from_impressions) == (("none",), False)
    assert (await client.embed_user(user_id="ada")).history_length == 1


async def test_items_are_searched(client: Any, server: FakeServer) -> None:
    """By their words, within the filter; what was asked for arrives as it was sent."""
    answer = await client.search_items("heat crime", user_id="ada", return_items=True)
    assert (answer.item_ids, answer.degraded) == (["heat", "ronin"], False)
    assert (answer.items[0].sources, answer.items[0].item.title) == (("text",), "Heat")
    assert (await client.search_items("crime", categories=["Drama"])).item_ids == ["heat"]
    assert (await client.search_items("crime", exclude_item_ids=["heat"], page_size=1)).item_ids == ["ronin"]
    assert len(await client.search_items("nothing")) == 0
    assert server.calls_of("SearchItems")[0].user_id == "ada"
    with pytest.raises(InvalidArgumentError):
        await client.search_items(" ")


async def test_the_catalogue(client: Any) -> None:
    """Items are changed by mask, hidden, listed and deleted."""
    result = await client.upsert_items([item("up", title="Up!"), item("none", title="x")], update_mask=["title"])
    assert (result.upserted, result.refused[0].status) == (1, grpc.StatusCode.NOT_FOUND)
    assert {k: list(v.categories) for k, v in (await client.get_items(["up", "x"])).items()} == {"up": ["Animation"]}
    assert (await client.set_availability(["heat", "x"], available=False)).missing_item_ids == ["x"]
    assert "heat" not in (await client.recommend()).item_ids
    assert [one.item_id for one in (await client.list_items(category="Crime")).items] == ["heat", "ronin"]
    assert await client.delete_items(["heat", "x"]) == 1


async def test_events_are_listed_and_erased(client: Any) -> None:
    """Stored events can be listed by user and time, and erased by id; event types can be registered."""
    early = event("like", user_id="ada", item_id="up", event_time=datetime(2020, 1, 1, tzinfo=UTC))
    await client.write(early, like("heat"))
    listed = await client.list_events(user_id="ada", event_time_to=datetime(2021, 1, 1, tzinfo=UTC))
    assert [one.event for one in listed.events] == [early]
    assert await client.delete_events([early.event_id]) == 1
    assert [one.name for one in (await client.list_event_types(page_size=1)).event_types] == ["bookmark"]


async def test_reasons_are_asked_for_in_a_language(client: Any, server: FakeServer) -> None:
    """Sentences, and beside each what it says; a locale that is none is refused."""
    [first, *_] = await client.recommend(user_id="ada", explain=True, locale="de-CH")
    assert server.calls_of("Recommend")[-1].locale == "de-CH"
    assert len(first.reasons) == len(first.explanations) == 1
    assert first.explanations[0].kind == ExplanationKind.EXPLANATION_KIND_SOURCE
    assert first.explanations[0].source == "popular"
    [plain, *_] = await client.recommend(user_id="ada")
    assert (plain.reasons, plain.explanations) == ((), ())
    with pytest.raises(InvalidArgumentError, match="locale"):
        await client.recommend(locale="de_CH")


async def test_users(client: Any, server: FakeServer) -> None:
    """A profile shows what answers rest on; an erasure takes the linked visitor along."""
    await client.write(
        event("view", visitor_id="cookie", item_id="up"),
        event("view", visitor_id="cookie", user_id="ada", item_id="heat"),
    )
    profile = await client.get_profile(user_id="ada")
    assert dict(profile.event_counts) == {"view": 2}
    assert {each.category: list(each.strongest_item_ids) for each in profile.interests}["Animation"] == ["up"]
    assert [(each.key, each.value, each.share) for each in profile.attributes] == [("decade", "90s", 1.0)]
    assert (profile.activity.events_last_day, sum(profile.activity.events_by_hour)) == (2, 2)
    assert not profile.aversions
    with pytest.raises(FailedPreconditionError):
        await client.delete_user(visitor_id="cookie")
    erased = await client.delete_user(user_id="ada")
    assert (erased.events_deleted, list(erased.linked_visitor_ids)) == (2, ["cookie"])
    assert server.events == []


async def test_generations_and_labels(client: Any, server: FakeServer) -> None:
    """Generations are listed newest first; labels move, and move back."""
    server.publish()
    assert [one.number for one in (await client.list_generations()).generations] == [2, 1]
    assert (await client.get_generation()).number == 2
    assert (await client.rollback()).generation == 1
    assert await client.set_label("stable", 2, expected_generation=1) == 1
    assert (await client.reload()).generation == 2
    with pytest.raises(FailedPreconditionError):
        await client.set_label("stable", 1, expected_generation=1)
    with pytest.raises(NotFoundError):
        await client.get_generation(99)


async def test_strategies(client: Any) -> None:
    """Strategies are written as JSON or as a message, read, compared, deleted; answers name theirs."""
    written = {"sources": [{"name": "tower", "weight": 2.0}], "diversity": 0.5}
    assert await client.put_strategy("home", written, expected_version=0) == 1
    found = await client.get_strategy("home")
    assert (found.version, found.strategy.diversity, found.strategy.sources[0].weight) == (1, 0.5, 2.0)
    assert await client.put_strategy("home", found.strategy) == 2
    assert [one.name for one in await client.list_strategies()] == ["home"]
    assert [one.version for one in (await client.list_strategy_versions("home")).versions] == [2, 1]
    assert (await client.recommend(strategy="home")).strategy == "home/2"
    answer = await client.preview_strategy(RecommendRequest(user_id="ada", strategy="home"), written)
    assert (answer.current.strategy, answer.preview.strategy) == ("home/2", "preview/0")
    with pytest.raises(FailedPreconditionError):
        await client.put_strategy("home", written, expected_version=1)
    with pytest.raises(ValueError, match="surprise"):
        await client.put_strategy("home", {"surprise": 1})
    with pytest.raises(InvalidArgumentError, match="sources"):
        await client.put_strategy("home", {})
    assert await client.delete_strategy("home") == 3
    for missing in (client.get_strategy("home"), client.delete_strategy("home")):
        with pytest.raises(NotFoundError):
            await missing
    with pytest.raises(InvalidArgumentError, match="strategy"):
        await client.recommend(strategy="home")


async def test_experiments_and_outcomes(client: Any) -> None:
    """Experiments are started, told, ended; outcomes are added up."""
    halves = {"arms": [{"name": name, "share": 0.5} for name in "ab"], "rewards": {"click": 1.0}}
    assert await client.put_experiment("home", halves, expected_version=0) == 1
    found = await client.get_experiment("home")
    assert [(one.arm, one.share) for one in found.arms] == [("a", 0.5), ("b", 0.5)]
    assert await client.put_experiment("home", found.experiment.experiment) == 2
    assert [one.name for one in await client.list_experiments()] == ["home"]
    with pytest.raises(FailedPreconditionError):
        await client.put_experiment("home", halves, expected_version=1)
    with pytest.raises(ValueError, match="experiment: "):
        await client.put_experiment("home", {"surprise": 1})
    assert await client.delete_experiment("home") == 3
    with pytest.raises(NotFoundError):
        await client.get_experiment("home")
    await client.upsert_items([item("heat")])
    answer = await client.recommend(user_id="ada")
    await client.write(event("click", user_id="ada", item_id="heat", attribution_token=answer.attribution_token))
    since = datetime(2020, 1, 1, tzinfo=UTC)
    assert [dict(row.events) for row in await client.get_outcomes("source", start_time=since)] == [{"click": 1}]


async def test_health(client: Any, server: FakeServer) -> None:
    """Health is read without the health checking package."""
    assert await client.health() is HealthStatus.SERVING
    server.serving = False
    assert await client.health("headwater.v1.EventService") is HealthStatus.NOT_SERVING


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgumentError),
        (grpc.StatusCode.UNIMPLEMENTED, UnimplementedError),
        (grpc.StatusCode.ABORTED, RpcError),
    ],
)
async def test_statuses_become_typed_errors(
    client: Any, server: FakeServer, status: grpc.StatusCode, error: type[RpcError]
) -> None:
    """A failed call raises the class of its status, with the server's words."""
    server.fail_next(status, "because")
    with pytest.raises(error) as raised:
        await client.recommend()
    assert (type(raised.value), raised.value.status, raised.value.message) == (error, status, "because")


async def test_idempotent_calls_are_retried_with_the_same_request(client: Any, server: FakeServer) -> None:
    """A write that fails in passing is sent again, event ids and all; one too many failures is an error."""
    server.fail_next(grpc.StatusCode.UNAVAILABLE, times=2)
    assert (await client.write(like("heat"))).accepted == 1
    sent = server.calls_of("WriteEvents")
    assert len(sent) == 3 and sent[0] == sent[2]
    server.fail_next(grpc.StatusCode.UNAVAILABLE, times=9, method="Recommend")
    with pytest.raises(UnavailableError):
        await client.recommend()
    assert len(server.calls_of("Recommend")) == FAST.max_attempts


async def test_calls_that_are_not_idempotent_are_never_retried(client: Any, server: FakeServer) -> None:
    """A rollback that failed is left alone: a second one might go back twice."""
    server.fail_next(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        await client.rollback()
    assert len(server.calls_of("Rollback")) == 1


async def test_a_server_that_is_away_is_waited_for(connect: Callable[..., Any], server: FakeServer) -> None:
    """Past gRPC's own tries, as long as patience and deadline last; then the reason is that nobody answered."""
    patient = connect(retry=RetryConfig(initial_backoff_s=0.01, max_backoff_s=0.02))
    server.fail_next(grpc.StatusCode.UNAVAILABLE, times=FAST.max_attempts * 3, method="Recommend")
    assert (await patient.recommend(timeout_s=30)).generation == 1
    assert len(server.calls_of("Recommend")) == FAST.max_attempts * 3 + 1
    server.fail_next(grpc.StatusCode.UNAVAILABLE, times=1_000_000, method="Recommend")
    with pytest.raises(UnavailableError):
        await patient.recommend(timeout_s=5)
    less = connect(retry=RetryConfig(initial_backoff_s=0.01, max_backoff_s=0.02, patience_s=0.2))
    with pytest.raises(UnavailableError):
        await less.recommend(timeout_s=30)


async def test_a_server_that_asks_for_no_other_try_gets_none(connect: Callable[..., Any], server: FakeServer) -> None:
    """However patient the client is."""
    server.fail_next(grpc.StatusCode.UNAVAILABLE, pushback_ms=-1)
    with pytest.raises(UnavailableError) as raised:
        await connect(retry=RetryConfig()).recommend()
    assert raised.value.is_final
    assert len(server.calls_of("Recommend")) == 1


async def test_a_call_that_is_not_idempotent_waits_for_a_connection(kind: str) -> None:
    """It is sent once, to a server that began after the call; nobody at all is UNAVAILABLE."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    address = f"127.0.0.1:{port}"

    def connect(**options: Any) -> Any:
        return AsyncClient(address, **options) if kind == "async" else Awaitable(Client(address, **options))

    client, impatient = connect(), connect(retry=RetryConfig(patience_s=0.3))
    with pytest.raises(UnavailableError):
        await impatient.delete_items(["up"], timeout_s=30)
    await impatient.close()
    deleting = asyncio.create_task(client.delete_items(["up"], timeout_s=30))
    await asyncio.sleep(0.3)  # that it is tried with nobody there; sooner or later, it must end well
    async with FakeServer(port=port) as server:
        assert await asyncio.wait_for(deleting, 30) == 0
        assert len(server.calls_of("DeleteItems")) == 1
    await client.close()


async def test_the_servers_pushback_is_respected(client: Any, server: FakeServer) -> None:
    """A negative grpc-retry-pushback-ms forbids the retry; another one is a hint when to do it."""
    server.fail_next(grpc.StatusCode.RESOURCE_EXHAUSTED, pushback_ms=-1)
    with pytest.raises(ResourceExhaustedError):
        await client.recommend()
    server.fail_next(grpc.StatusCode.RESOURCE_EXHAUSTED, pushback_ms=20)
    await client.recommend()
    assert len(server.calls_of("Recommend")) == 3


async def test_what_a_busy_server_cancels_is_tried_again(client: Any, server: FakeServer) -> None:
    """CANCELLED, where nobody here cancelled, is a server that had no time to refuse; in the end it is called so."""
    server.fail_next(grpc.StatusCode.CANCELLED)
    await client.recommend()
    assert len(server.calls_of("Recommend")) == 2
    server.fail_next(grpc.StatusCode.CANCELLED, times=FAST.max_attempts)
    with pytest.raises(ResourceExhaustedError):
        await client.recommend()


async def test_several_connections_are_used_in_turn(connect: Callable[..., Any], server: FakeServer) -> None:
    """Each makes its share of the calls; none at all is refused."""
    client = connect(connections=3)
    for _ in range(6):
        await client.recommend()
    assert sorted(Counter(call.peer for call in server.calls if call.method == "Recommend").values()) == [2, 2, 2]
    with pytest.raises(ConfigurationError):
        connect(connections=0)


async def test_a_batch_above_the_default_limits_is_written_and_retried(client: Any, server: FakeServer) -> None:
    """10,000 events with attributes pass gRPC's default limits (4 MiB, 256 KiB to retry) and still work."""
    server.fail_next(grpc.StatusCode.UNAVAILABLE)
    events = [event("like", user_id="ada", item_id="up", attributes={"note": "x" * 500}) for _ in range(10_000)]
    assert (await client.write(*events)).accepted == 10_000


async def test_several_addresses_are_used_in_turn(kind: str) -> None:
    """With two addresses both servers get calls; with one of them gone every call is still answered."""
    async with FakeServer() as one, FakeServer() as other:
        addresses = [one.address, other.address]
        client = AsyncClient(addresses) if kind == "async" else Awaitable(Client(addresses))
        while not (one.calls and other.calls):
            await client.recommend()
        other.stop()
        for _ in range(10):
            await client.recommend()
        await client.close()


async def test_deadlines(connect: Callable[..., Any], server: FakeServer) -> None:
    """A call ends at its deadline, which is the call's own, else the client's."""
    client = connect(timeout_s=0.05)
    with server.hold(), pytest.raises(DeadlineExceededError):
        await client.recommend()
    with server.hold(), pytest.raises(DeadlineExceededError):
        await connect().recommend(timeout_s=0.05)
    assert (await client.recommend(timeout_s=30)).generation == 1


async def test_token_and_tenant_travel_as_metadata(connect: Callable[..., Any], server: FakeServer) -> None:
    """The token hook is asked for every call; the default tenant is not sent."""
    tokens = iter(["one", "two"])
    client = connect(token=lambda: next(tokens), tenant="acme")
    await client.recommend()
    await client.recommend()
    sent = [(call.metadata["authorization"], call.metadata["headwater-tenant"]) for call in server.calls]
    assert sent == [("Bearer one", "acme"), ("Bearer two", "acme")]
    await connect().recommend()
    assert not {"authorization", "headwater-tenant"} & set(server.calls[-1].metadata)


async def test_every_call_has_a_request_id(connect: Callable[..., Any], server: FakeServer) -> None:
    """A new one each, or the caller's own; retries keep it, and so does the error when no server is there."""
    client = connect()
    await client.recommend()
    await client.recommend()
    server.fail_next(grpc.StatusCode.UNAVAILABLE)
    with request_id("web-17"):
        await client.recommend()
    sent = [call.metadata["headwater-request-id"] for call in server.calls]
    assert len(set(sent[:2])) == 2 and sent[2:] == ["web-17"] * 2
    server.fail_next(grpc.StatusCode.NOT_FOUND)
    with request_id("web-18"), pytest.raises(NotFoundError) as caught:
        await client.recommend()
    assert caught.value.request_id == "web-18"
    with pytest.raises(ValueError, match="request id"), request_id("a b"):
        pass


async def test_read_your_writes_carries_tokens(connect: Callable[..., Any], server: FakeServer) -> None:
    """With read_your_writes a user's questions carry the token of the user's last write; others' do not."""
    client = connect(read_your_writes=True)
    written = await client.write(like("heat"))
    for user_id in ("ada", "bob"):
        await client.recommend(user_id=user_id)
    await client.search_items("heat", user_id="ada")
    await client.batch_recommend([RecommendRequest(user_id="ada")])
    sent = [request.min_consistency_token for request in server.calls_of("Recommend")]
    assert sent == [written.consistency_token, ""]
    assert server.calls_of("SearchItems")[0].min_consistency_token == written.consistency_token
    batch = server.calls_of("BatchRecommend")[0]
    assert batch.requests[0].min_consistency_token == written.consistency_token
    await connect().recommend(user_id="ada")
    assert server.calls_of("Recommend")[-1].min_consistency_token == ""


async def test_a_closed_client_says_so(connect: Callable[..., Any]) -> None:
    """After close every call raises ClientClosedError, and closing again is harmless."""
    client = connect()
    await client.recommend()
    await client.close()
    with pytest.raises(ClientClosedError):
        await client.recommend()
    await client.close()


async def test_a_call_under_way_is_told_that_its_client_was_closed(
    connect: Callable[..., Any], server: FakeServer, until: Until
) -> None:
    """Not that the server was busy or the caller was cancelled: it was the caller's own who closed the client."""
    client = connect()
    with server.hold():
        under_way = asyncio.create_task(client.recommend())
        await until(lambda: bool(server.calls_of("Recommend")))
        await client.close()
        with pytest.raises(ClientClosedError):
            await under_way


async def test_a_call_that_waits_for_a_connection_is_told_that_its_client_was_closed(kind: str) -> None:
    """One that is not idempotent waits for it before it is sent."""
    asked = threading.Event()

    def token() -> str:
        asked.set()
        return "token"

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens, and nobody else can
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        client = AsyncClient(address, token=token) if kind == "async" else Awaitable(Client(address, token=token))
        under_way = asyncio.create_task(client.rollback(timeout_s=30))
        assert await asyncio.to_thread(asked.wait, 30)
        await client.close()
        with pytest.raises(ClientClosedError):
            await under_way


async def test_a_cancelled_call_is_cancelled_though_its_client_is_closed(server: FakeServer, until: Until) -> None:
    """Who cancels a task waits for it to end so."""
    client = AsyncClient(server.address)
    with server.hold():
        under_way = asyncio.create_task(client.recommend())
        await until(lambda: bool(server.calls_of("Recommend")))
        under_way.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await under_way


async def test_a_writer_batches_and_flushes_on_close(
    client: Any, server: FakeServer, writer_of: Callable[..., Any]
) -> None:
    """Events leave in batches of max_batch, in order; what is left leaves at close."""
    writer = writer_of(client, WriterConfig(max_batch=10, max_wait_ms=60_000))
    events = [like("heat") for _ in range(25)]
    for one in events:
        assert await writer.write(one)
    await writer.close()
    assert [len(request.events) for request in server.calls_of("WriteEvents")] == [10, 10, 5]
    assert [one.event_id for one in server.events] == [one.event_id for one in events]
    assert (writer.written, writer.failed, writer.dropped) == (25, 0, 0)
    with pytest.raises(ClientClosedError):
        await writer.write(like("heat"))


async def test_a_writer_flushes_on_demand_and_by_time(
    client: Any, server: FakeServer, writer_of: Callable[..., Any]
) -> None:
    """flush() returns when all is written; without it events leave after max_wait_ms."""
    writer = writer_of(client, WriterConfig(max_wait_ms=60_000))
    await writer.write(like("heat"))
    await writer.flush(timeout_s=30)
    assert len(server.events) == 1
    await writer.close()
    arrived = threading.Event()
    writer = writer_of(client, WriterConfig(max_wait_ms=1), on_failure=lambda failure: arrived.set())
    await writer.write(event("teleport", user_id="ada", item_id="up"))
    assert await asyncio.to_thread(arrived.wait, 30)
    await writer.close()


async def test_a_writer_retries_with_the_same_ids(
    client: Any, server: FakeServer, writer_of: Callable[..., Any]
) -> None:
    """A batch outlives more failures than the client's own retries, and nothing is written twice."""
    writer = writer_of(client, WriterConfig(initial_backoff_s=0.001, max_backoff_s=0.002))
    server.fail_next(grpc.StatusCode.UNAVAILABLE, times=FAST.max_attempts * 2, method="WriteEvents")
    one = like("heat")
    await writer.write(one)
    await writer.close()
    assert [stored.event_id for stored in server.events] == [one.event_id]
    assert (writer.written, writer.failures) == (1, [])


async def test_a_writer_reports_what_it_cannot_write(
    client: Any, server: FakeServer, writer_of: Callable[..., Any]
) -> None:
    """Refused events, and batches that fail for good, are told to on_failure and kept in failures."""
    told: list[WriteFailure] = []
    writer = writer_of(client, WriterConfig(max_wait_ms=0), told.append)
    bad = event("teleport", user_id="ada", item_id="up")
    await writer.write(bad)
    await writer.flush(timeout_s=30)
    server.fail_next(grpc.StatusCode.UNAUTHENTICATED, "who are you", method="WriteEvents")
    await writer.write(like("heat"))
    await writer.close()
    assert [(one.event, one.field, one.status.name) for one in told[:1]] == [(bad, "event_type", "INVALID_ARGUMENT")]
    assert told[1].status is grpc.StatusCode.UNAUTHENTICATED
    assert (writer.failures, writer.failed, writer.written) == (told, 2, 0)


async def test_a_full_writer_drops_and_counts(
    client: Any, server: FakeServer, writer_of: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """With when_full="drop" an event that finds no room is dropped; write(), on_failure and the log say so."""
    told: list[WriteFailure] = []
    config = WriterConfig(max_batch=2, max_queue=2, max_wait_ms=60_000, when_full="drop", initial_backoff_s=5)
    writer = writer_of(client, config, told.append)
    server.fail_next(grpc.StatusCode.UNAVAILABLE, times=1000, method="WriteEvents")
    events = [like("heat") for _ in range(4)]
    assert [await writer.write(one) for one in events] == [True, True, False, False]
    assert [(failure.event, failure.status) for failure in told] == [
        (one, grpc.StatusCode.RESOURCE_EXHAUSTED) for one in events[2:]
    ]
    assert "2 events are dropped" in told[1].reason
    await writer.close(timeout_s=0)
    assert (writer.dropped, writer.failed) == (2, 2)
    assert writer.failures == told
    said = [record.getMessage() for record in caplog.records if record.name == "headwater_client"]
    assert [line for line in said if "places are taken" in line] == [
        "all 2 places are taken: new events are dropped, 0 before this"  # once in a while, not for every event
    ]
    assert any(line.startswith("2 events are not written") for line in said)


async def test_a_full_writer_blocks_until_there_is_room(
    client: Any, server: FakeServer, writer_of: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """With when_full="block" every event is written, however small the queue; that write() waits is in the log."""
    writer = writer_of(client, WriterConfig(max_batch=2, max_queue=2, max_wait_ms=0, initial_backoff_s=0.01))
    server.fail_next(grpc.StatusCode.UNAVAILABLE, times=FAST.max_attempts * 2, method="WriteEvents")
    for _ in range(20):
        assert await writer.write(like("heat"))
    await writer.close()
    assert (len(server.events), writer.dropped) == (20, 0)
    assert [record.getMessage() for record in caplog.records if record.name == "headwater_client"] == [
        "all 2 places are taken: write() waits until some of them are written"
    ]


async def test_a_writer_survives_its_callers_mistakes(client: Any, writer_of: Callable[..., Any]) -> None:
    """An on_failure that raises costs nothing but a log line."""

    def raising(failure: WriteFailure) -> None:
        raise RuntimeError("a bug of the caller")

    writer = writer_of(client, WriterConfig(max_wait_ms=0), raising)
    await writer.write(event("teleport", user_id="ada", item_id="up"))
    await writer.flush(timeout_s=30)
    await writer.write(like("heat"))
    await writer.close()
    assert (writer.written, writer.failed) == (1, 1)


@pytest.mark.parametrize("kind", ["sync"])
async def test_a_writer_does_not_wait_for_itself(client: Any, server: FakeServer) -> None:
    """An on_failure that writes again while the queue is full is answered False; one that flushes is told off."""
    told: list[WriteFailure] = []
    answers: list[bool] = []
    is_full = threading.Event()

    def write_again(failure: WriteFailure) -> None:
        told.append(failure)
        assert is_full.wait(30)
        answers.append(writer.write(failure.event))
        with pytest.raises(RuntimeError, match="would wait for itself"):
            writer.flush(timeout_s=30)
        answers.append(True)

    bad = event("teleport", user_id="ada", item_id="up")
    writer = EventWriter(client.target, WriterConfig(max_batch=1, max_queue=2, max_wait_ms=0), on_failure=write_again)
    for one in (bad, like("heat"), like("up")):
        writer.write(one)
    is_full.set()
    writer.flush(timeout_s=30)
    writer.close()
    assert ([failure.event for failure in told], answers) == ([bad], [False, True])
    assert (len(server.events), writer.written, writer.failed, writer.dropped) == (2, 2, 1, 1)
    assert [failure.event for failure in writer.failures] == [bad, bad]


@pytest.mark.parametrize("kind", ["sync"])
async def test_an_event_that_is_dropped_twice_is_told_once(client: Any, server: FakeServer) -> None:
    """on_failure writes it again at once, and write() answers it False."""
    told: list[WriteFailure] = []

    def write_again(failure: WriteFailure) -> None:
        told.append(failure)
        assert not writer.write(failure.event)

    config = WriterConfig(max_batch=1, max_queue=1, max_wait_ms=0, when_full="drop")
    writer = EventWriter(client.target, config, on_failure=write_again)
    with server.hold():
        assert [writer.write(one) for one in (like("heat"), like("up"), like("ronin"))] == [True, False, False]
    writer.close()
    assert [failure.event.item_id for failure in told] == ["up", "ronin"]
    assert (writer.written, writer.dropped) == (1, 4)


@pytest.mark.parametrize("kind", ["async"])
async def test_an_on_failure_may_start_a_task_that_writes_again(client: Any, server: FakeServer) -> None:
    """It waits for room as any other does."""
    again: list[asyncio.Task[bool]] = []
    bad, *others = event("teleport", user_id="ada", item_id="up"), like("heat"), like("up")

    def write_again(failure: WriteFailure) -> None:
        if not again:
            again.append(asyncio.create_task(writer.write(failure.event)))

    writer = AsyncEventWriter(client, WriterConfig(max_batch=1, max_queue=1, max_wait_ms=0), on_failure=write_again)
    for one in (bad, *others):
        await writer.write(one)
    await writer.flush(timeout_s=30)
    assert await again[0]
    await writer.close()
    assert (writer.written, writer.failed, writer.dropped) == (2, 2, 0)


async def test_a_close_that_is_given_up_loses_nothing(
    client: Any, server: FakeServer, writer_of: Callable[..., Any]
) -> None:
    """A caller who does not wait for it to end leaves the writer going on, and can close it again."""
    writer = writer_of(client, WriterConfig(max_batch=1, max_wait_ms=0))
    with server.hold():
        await writer.write(like("heat"))
        await writer.write(like("up"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.close(), 0.05)
    await writer.close()
    assert (writer.written, writer.failed, len(server.events)) == (2, 0, 2)


async def test_a_close_gives_up_loudly_at_its_limit(
    client: Any, server: FakeServer, writer_of: Callable[..., Any], until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """The call under way, which was sent with a longer deadline, and what waits; an answer that comes later is none."""
    told: list[WriteFailure] = []
    writer = writer_of(client, WriterConfig(max_batch=1, max_wait_ms=0), told.append)
    events = [like("heat"), like("up"), like("ronin")]
    with server.hold():
        for one in events:
            await writer.write(one)
        await until(lambda: bool(server.calls_of("WriteEvents")))
        await writer.close(timeout_s=0.1)
        reason = "the event writer was closed and had no more time"
        assert [(failure.event, failure.reason) for failure in told] == [(one, reason) for one in events]
        await writer.flush(timeout_s=0)
        await writer.close()
    await until(lambda: not is_writing())
    assert (writer.failures, writer.failed, writer.written) == (told, 3, 0)
    assert len(server.calls_of("WriteEvents")) == 1
    assert f"3 events are not written, 3 in all: {reason}" in caplog.messages


async def test_a_writer_whose_client_is_closed_tells_what_it_cannot_write(
    client: Any, server: FakeServer, writer_of: Callable[..., Any], until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch under way and what waits; nobody waits for them any more."""
    told: list[WriteFailure] = []
    writer = writer_of(client, WriterConfig(max_batch=1, max_queue=2, max_wait_ms=0), told.append)
    events = [like("heat"), like("up")]
    with server.hold():
        for one in events:
            await writer.write(one)
        await until(lambda: bool(server.calls_of("WriteEvents")))
        await client.close()
        await writer.flush(timeout_s=30)
    await writer.close()
    assert [(failure.event, failure.reason) for failure in told] == [(one, "the client is closed") for one in events]
    assert (writer.failures, writer.failed, writer.written) == (told, 2, 0)
    assert "1 events are not written, 2 in all: the client is closed" in caplog.messages


async def test_a_writer_whose_task_is_cancelled_tells_what_it_cannot_write(
    server: FakeServer, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch under way and what waits are given up loudly; nobody waits for the writer any more."""
    told: list[WriteFailure] = []
    events = [like("heat"), like("up")]
    async with AsyncClient(server.address) as client:
        writer = AsyncEventWriter(client, WriterConfig(max_batch=1, max_queue=2, max_wait_ms=0), on_failure=told.append)
        with server.hold():
            for one in events:
                await writer.write(one)
            await until(lambda: bool(server.calls_of("WriteEvents")))
            blocked, flushing = asyncio.create_task(writer.write(like("ronin"))), asyncio.create_task(writer.flush())
            await asyncio.sleep(0)  # they wait now
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == "headwater-event-writer"]
            task.cancel()
            await flushing
            with pytest.raises(ClientClosedError):
                await blocked
            await writer.close()
    assert [failure.event for failure in told] == events
    assert (writer.failures, writer.failed, writer.written) == (told, 2, 0)
    assert "2 events are not written, 2 in all: the event writer was not closed before its task" in caplog.text


@pytest.mark.parametrize("begins", [True, False])
def test_a_writer_that_its_event_loop_ends_tells_what_it_has_not_written(begins: bool) -> None:
    """However early: a task that is cancelled before it begins, too."""
    told: list[WriteFailure] = []
    one = like("heat")

    async def forget_to_close() -> None:
        writer = AsyncEventWriter(AsyncClient(), WriterConfig(max_wait_ms=60_000), on_failure=told.append)
        writing = asyncio.create_task(writer.write(one))
        if begins:
            await writing

    asyncio.run(forget_to_close())
    assert [failure.event for failure in told] == [one]


def test_a_writer_that_its_process_ends_tells_what_it_has_not_written() -> None:
    """A script that forgets to close it reads so in its log, and does not wait for a server that does not answer."""
    script = """
import sys
from headwater_client import Client, EventWriter, WriterConfig, event

writer = EventWriter(Client(sys.argv[1]), WriterConfig(max_batch=1), on_failure=lambda one: print(one.event.item_id))
for item_id in ("heat", "up"):
    writer.write(event("like", user_id="ada", item_id=item_id))
"""
    with FakeServer() as server, server.hold():
        ended = subprocess.run(
            [sys.executable, "-c", script, server.address], capture_output=True, text=True, timeout=60, check=True
        )
    assert ended.stdout.split() == ["heat", "up"]
    assert "2 events are not written, 2 in all: the event writer was not closed before the process" in ended.stderr


def test_a_writer_belongs_to_the_process_that_made_it() -> None:
    """In a fork it takes nothing in and says so, even where another thread was at work in it; its owner goes on."""
    script = """
import os, signal, sys, threading
from headwater_client import Client, ClientClosedError, EventWriter, WriterConfig, event

one = event("like", user_id="ada", item_id="heat")
at_work, forked = threading.Event(), threading.Event()

def work():
    with writer._changed:
        at_work.set()
        forked.wait(30)

with EventWriter(Client(sys.argv[1]), WriterConfig(max_wait_ms=60_000), on_failure=print) as writer:
    writer.write(one)
    threading.Thread(target=work, daemon=True).start()
    at_work.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # a child that hangs ends nevertheless
        for call in (lambda: writer.write(one), writer.flush, lambda: writer.failures):
            try:
                print(call(), flush=True)
            except ClientClosedError as error:
                print(error, flush=True)
    else:
        forked.set()
        print("ended with", os.waitpid(child, 0)[1], flush=True)
"""
    with FakeServer() as server:
        ended = subprocess.run(
            [sys.executable, "-c", script, server.address], capture_output=True, text=True, timeout=60, check=True
        )
        assert len(server.events) == len(server.calls_of("WriteEvents")) == 1
    refusal = "the event writer was made in another process: make one in each"
    assert ended.stdout.splitlines() == [refusal] * 3 + ["ended with 0"]


@pytest.mark.parametrize("kind", ["sync"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_whose_thread_ends_tells_what_it_cannot_write(
    connect: Callable[..., Any], writer_of: Callable[..., Any]
) -> None:
    """A token hook that ends the thread ends nobody else's waiting."""
    told: list[WriteFailure] = []

    def leave() -> str:
        raise SystemExit

    writer = writer_of(connect(token=leave), WriterConfig(max_batch=1, max_wait_ms=0), told.append)
    await writer.write(like("heat"))
    await writer.flush(timeout_s=30)
    with pytest.raises(ClientClosedError):
        await writer.write(like("heat"))
    await writer.close()
    assert (len(told), writer.failed) == (1, 1)


def test_both_clients_offer_the_same_methods() -> None:
    """Client and AsyncClient have the same public names, with the same signatures and docstrings."""
    names = {name for name in vars(Client) if not name.startswith("_")}
    assert names == {name for name in vars(AsyncClient) if not name.startswith("_")}
    for name in names:
        one, other = getattr(Client, name), getattr(AsyncClient, name)
        assert one.__doc__ == other.__doc__
        assert inspect.signature(one) == inspect.signature(other)
