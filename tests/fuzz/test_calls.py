"""Whatever is sent to whatever method: answered or refused by the contract, and the server goes on as before."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st

from headwater.v1 import (
    catalog_service_pb2,
    event_pb2,
    event_service_pb2,
    experiment_service_pb2,
    model_service_pb2,
    recommendation_service_pb2,
    strategy_service_pb2,
    user_service_pb2,
)
from tests.fuzz.conftest import fuzzing
from tests.fuzz.messages import FOREIGN_TENANTS, METADATA, damaged, messages
from tests.fuzz.served import MAX_GROWTH, Served

FILES = (
    catalog_service_pb2,
    event_service_pb2,
    experiment_service_pb2,
    model_service_pb2,
    recommendation_service_pb2,
    strategy_service_pb2,
    user_service_pb2,
    health_pb2,
    reflection_pb2,
)
METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
WRITING = [
    name
    for name in METHODS
    if name.startswith(("Write", "Stream", "Upsert", "Delete", "Put", "Set", "Rollback", "Reload"))
]
READING = [name for name in METHODS if name not in WRITING]
USER = "ada"
PLAIN = recommendation_service_pb2.RecommendRequest(user_id=USER, page_size=20)
LOOKS: list[tuple[str, Message]] = [
    ("Recommend", PLAIN),
    ("ListEvents", event_service_pb2.ListEventsRequest()),
    ("ListEventTypes", event_service_pb2.ListEventTypesRequest()),
    ("ListItems", catalog_service_pb2.ListItemsRequest()),
    ("SearchItems", recommendation_service_pb2.SearchItemsRequest(query="space ship", user_id=USER)),
    ("SimilarItems", recommendation_service_pb2.SimilarItemsRequest(item_id="space-00")),
    ("ScoreItems", recommendation_service_pb2.ScoreItemsRequest(user_id=USER, item_ids=["love-00", "crime-01"])),
    ("GetProfile", user_service_pb2.GetProfileRequest(user_id=USER)),
    ("ListStrategies", strategy_service_pb2.ListStrategiesRequest()),
    ("ListExperiments", experiment_service_pb2.ListExperimentsRequest()),
    ("GetExperiment", experiment_service_pb2.GetExperimentRequest(name="mix")),
    ("GetOutcomes", experiment_service_pb2.GetOutcomesRequest()),
    ("ListGenerations", model_service_pb2.ListGenerationsRequest()),
    ("Recommend", recommendation_service_pb2.RecommendRequest(user_id=USER, explain=True, return_items=True)),
]
"""What is looked at again and again while others write."""


def install(make_installation: Callable[..., Any], publish: Callable[..., int], folder: Any) -> Served:
    """A server over two generations, with a user, two strategies and an experiment."""
    settings = make_installation(folder)
    publish(settings, seed=2, label="canary")
    # Its loops would read what a fuzz wrote at times of their own.
    served = Served(settings.model_copy(update={"label_interval_ms": 3_600_000}))
    clicks = [
        event_pb2.Event(event_id=f"first-{item_id}", event_type="click", user_id=USER, item_id=item_id)
        for item_id in ("space-00", "space-01", "love-02")
    ]
    by_towers, by_ranks = (
        strategy_service_pb2.Strategy(sources=[strategy_service_pb2.StrategySource(name=source)], ranking=ranking)
        for source, ranking in (("tower", "blend"), ("popular", "ranks"))
    )
    arms = [experiment_service_pb2.ExperimentArm(name=name, strategy=name, share=0.5) for name in ("one", "other")]
    experiment = experiment_service_pb2.Experiment(arms=arms, surfaces=["mixed"], rewards={"click": 1.0})
    for name, request in (
        ("WriteEvents", event_service_pb2.WriteEventsRequest(events=clicks)),
        ("PutStrategy", strategy_service_pb2.PutStrategyRequest(name="one", strategy=by_towers)),
        ("PutStrategy", strategy_service_pb2.PutStrategyRequest(name="other", strategy=by_ranks)),
        ("PutExperiment", experiment_service_pb2.PutExperimentRequest(name="mix", experiment=experiment)),
    ):
        ended = served.check(METHODS[name], [request.SerializeToString()])
        assert ended.code is grpc.StatusCode.OK, ended
    return served


@pytest.fixture(scope="module")
def read_from(
    make_installation: Callable[..., Any], publish: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server that nobody writes to."""
    served = install(make_installation, publish, tmp_path_factory.mktemp("read"))
    yield served
    served.close()


@pytest.fixture(scope="module")
def written_to(
    make_installation: Callable[..., Any], publish: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server that is written to."""
    served = install(make_installation, publish, tmp_path_factory.mktemp("written"))
    yield served
    served.close()


def slate(served: Served) -> list[str]:
    """What the user is recommended."""
    ended = served.check(METHODS["Recommend"], [PLAIN.SerializeToString()])
    assert ended.code is grpc.StatusCode.OK, ended
    return [result.item_id for result in ended.responses[0].results]


def assert_small(served: Served, tried: Counter[str], name: str) -> None:
    """The process is not much larger than it was."""
    grown = served.grown()
    tried[f"{name}: MiB grown so far"] = grown >> 20
    assert grown < MAX_GROWTH


@pytest.mark.parametrize("name", READING)
def test_any_request_is_answered_or_refused(read_from: Served, tried: Counter[str], name: str) -> None:
    """By a status that the contract has; and what is recommended afterwards is what was before."""
    method = METHODS[name]
    before = slate(read_from)
    read_from.grown()

    @fuzzing()
    @given(messages(method.input_type), METADATA)
    def ask(request: Message, metadata: list[Any]) -> None:
        tried[f"{name}: messages"] += 1
        ended = read_from.check(method, [request.SerializeToString()], metadata)
        tried[f"{name}: messages answered"] += ended.code is grpc.StatusCode.OK
        assert slate(read_from) == before

    @fuzzing(15)
    @given(damaged(method.input_type), METADATA)
    def ask_in_bytes(content: bytes, metadata: list[Any]) -> None:
        tried[f"{name}: bytes"] += 1
        read_from.check(method, [content], metadata)
        assert slate(read_from) == before

    ask()
    ask_in_bytes()
    assert_small(read_from, tried, name)


@pytest.mark.parametrize("tenant", FOREIGN_TENANTS)
def test_no_request_of_another_tenant_is_read(read_from: Served, tenant: str) -> None:
    """Whatever it is and whichever method it is for; health is no tenant's."""
    for method in METHODS.values():
        ended = read_from.check(method, [b"\xff" * 100], [("headwater-tenant", tenant)])
        is_health = method.containing_service.file is health_pb2.DESCRIPTOR
        refused_as = grpc.StatusCode.INVALID_ARGUMENT if is_health else grpc.StatusCode.FAILED_PRECONDITION
        assert ended.code is refused_as, (method.full_name, ended)


@pytest.mark.parametrize("name", WRITING)
def test_whatever_was_written_can_be_lived_with(written_to: Served, tried: Counter[str], name: str) -> None:
    """It is written or refused by a status that the contract has; every look at what is there afterwards succeeds."""
    method = METHODS[name]
    several = 3 if method.client_streaming else 1
    looks = itertools.cycle(LOOKS)
    written_to.grown()

    def write(requests: list[bytes], metadata: list[Any]) -> None:
        ended = written_to.check(method, requests, metadata)
        tried[f"{name}: answered"] += ended.code is grpc.StatusCode.OK
        slate(written_to)
        look, request = next(looks)
        written_to.check(METHODS[look], [request.SerializeToString()])

    @fuzzing()
    @given(st.lists(messages(method.input_type), min_size=1, max_size=several), METADATA, st.data())
    def write_messages(requests: list[Message], metadata: list[Any], data: st.DataObject) -> None:
        tried[f"{name}: messages"] += 1
        write([request.SerializeToString() for request in requests], metadata)
        other = METHODS[data.draw(st.sampled_from(READING))]
        written_to.check(other, [data.draw(messages(other.input_type)).SerializeToString()])

    @fuzzing(15)
    @given(st.lists(damaged(method.input_type), min_size=1, max_size=several), METADATA)
    def write_bytes(requests: list[bytes], metadata: list[Any]) -> None:
        tried[f"{name}: bytes"] += 1
        write(requests, metadata)

    write_messages()
    write_bytes()
    assert_small(written_to, tried, name)
