"""Experiments over the wire: who is answered by what, what is learned from it, and what is told of it."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import experiment_service_pb2 as pb
from headwater.v1 import recommendation_service_pb2 as recommendations_pb
from headwater.v1 import strategy_service_pb2 as strategies_pb
from headwater.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from headwater.v1.strategy_service_pb2_grpc import StrategyServiceStub
from headwater_core import outcome_report
from headwater_core.experiments import Assignment
from headwater_core.impressions import Impression, ImpressionLog
from headwater_core.outcome_report import OutcomeRow
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

if TYPE_CHECKING:
    from headwater.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from headwater.v1.experiment_service_pb2_grpc import ExperimentServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub
    from headwater.v1.strategy_service_pb2_grpc import StrategyServiceAsyncStub

NEVER_MS = 3_600_000
_numbers = itertools.count()


@pytest.fixture
def settings(settings: ServerSettings) -> ServerSettings:
    """Attribution runs when a test says so."""
    return settings.model_copy(update={"attribution_interval_ms": NEVER_MS})


@pytest.fixture
def experiments(channel: grpc.aio.Channel) -> ExperimentServiceAsyncStub:
    return ExperimentServiceStub(channel)


@pytest.fixture
async def strategies(channel: grpc.aio.Channel) -> StrategyServiceAsyncStub:
    """`crime` and `love` show nothing else."""
    stub: StrategyServiceAsyncStub = StrategyServiceStub(channel)
    sources = [strategies_pb.StrategySource(name=name) for name in ("tower", "popular", "category")]
    for name in ("crime", "love"):
        only = strategies_pb.StrategyOnly(categories=[name])
        strategy = strategies_pb.Strategy(sources=sources, only=only)
        await stub.PutStrategy(strategies_pb.PutStrategyRequest(name=name, strategy=strategy))
    return stub


def arm(name: str, **fields: Any) -> pb.ExperimentArm:
    return pb.ExperimentArm(name=name, strategy=name, **fields)


async def put(experiments: ExperimentServiceAsyncStub, name: str, *arms: pb.ExperimentArm, **fields: Any) -> None:
    fields = {"rewards": {"click": 1.0}, **fields}
    request = pb.PutExperimentRequest(name=name, experiment=pb.Experiment(arms=arms, **fields))
    await experiments.PutExperiment(request)


async def write(events: EventServiceAsyncStub, event_type: str, user_id: str, item_id: str, token: str = "") -> None:
    event = event_pb2.Event(
        event_id=f"e-{next(_numbers)}",
        event_type=event_type,
        user_id=user_id,
        item_id=item_id,
        attribution_token=token,
    )
    response = await events.WriteEvents(events_pb.WriteEventsRequest(events=[event]))
    assert response.results[0].outcome == event_pb2.EVENT_OUTCOME_ACCEPTED


async def slate(
    recommendations: RecommendationServiceAsyncStub, user_id: str, **fields: Any
) -> recommendations_pb.RecommendResponse:
    request = recommendations_pb.RecommendRequest(user_id=user_id, page_size=3, **fields)
    return await recommendations.Recommend(request)


async def attribute(server: HeadwaterServer) -> None:
    """As the server's loops do it, some time later."""
    await server.rooms.impression_writer.flush()
    now_us = server.rooms.now_us() + 10_000_000
    server.rooms.attributor._now_us = lambda: now_us
    await server.rooms.attributor.step()
    await server.rooms.follow()


async def test_fixed_shares_are_sticky_and_told(
    server: HeadwaterServer,
    experiments: ExperimentServiceAsyncStub,
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """A user keeps the arm; each arm answers with its strategy; impressions say which; nobody leads at once."""
    for item_id in ("space-01", "crime-01", "love-01"):
        await write(events, "like", "ben", item_id)
    await put(experiments, "topics", arm("crime", share=0.5), arm("love", share=0.5))
    users = [f"user-{number}" for number in range(40)]
    first = {user: await slate(recommendations, user) for user in users}
    again = {user: await slate(recommendations, user) for user in users}
    arms = Counter(answer.experiment_arm for answer in first.values())
    assert set(arms) == {"topics/crime", "topics/love"}
    assert min(arms.values()) > 8
    for user in users:
        assert first[user].experiment_arm == again[user].experiment_arm
        topic = first[user].experiment_arm.removeprefix("topics/")
        assert first[user].strategy.startswith(f"{topic}/")
        assert all(result.item_id.startswith(topic) for result in first[user].results)
    await attribute(server)
    logged = {each.assignment for each in ImpressionLog(server.rooms.database).between(0, 2**62)}
    assert {(each.arm, each.propensity) for each in logged if each} == {("crime", 0.5), ("love", 0.5)}
    told = await experiments.GetExperiment(pb.GetExperimentRequest(name="topics"))
    assert {one.arm: (one.users, one.slates) for one in told.arms} == {
        name: (arms[f"topics/{name}"], 2 * arms[f"topics/{name}"]) for name in ("crime", "love")
    }
    assert (told.leader, told.has_mismatch) == ("", False)


async def test_a_much_better_arm_leads(
    server: HeadwaterServer,
    experiments: ExperimentServiceAsyncStub,
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """When the users of one arm click and those of the other never do, it is said, with an interval."""
    await write(events, "like", "ben", "crime-01")
    await write(events, "like", "ben", "love-01")
    await put(experiments, "topics", arm("crime", share=0.5), arm("love", share=0.5))
    for number in range(120):
        answer = await slate(recommendations, f"user-{number}")
        if answer.experiment_arm == "topics/love":
            await write(events, "click", f"user-{number}", answer.results[0].item_id, answer.attribution_token)
    await attribute(server)
    told = await experiments.GetExperiment(pb.GetExperimentRequest(name="topics"))
    love = next(one for one in told.arms if one.arm == "love")
    assert love.rate == 1.0
    assert love.half_width < 0.5
    assert told.leader == "love"


async def test_an_experiment_that_learns_shows_more_of_what_is_clicked(
    server: HeadwaterServer,
    experiments: ExperimentServiceAsyncStub,
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Clicks on one arm's items raise its share, within the operator's bounds; frozen, it stays as it is."""
    await write(events, "like", "ben", "crime-01")
    await write(events, "like", "ben", "love-01")
    arms = arm("crime", min_share=0.1), arm("love")
    await put(experiments, "topics", *arms, allocation="thompson", half_life_slates=1000)
    chance = random.Random(1)
    for number in range(120):
        answer = await slate(recommendations, f"user-{number}")
        if answer.experiment_arm == "topics/love" and chance.random() < 0.5:
            await write(events, "click", f"user-{number}", answer.results[0].item_id, answer.attribution_token)
    await attribute(server)
    told = await experiments.GetExperiment(pb.GetExperimentRequest(name="topics"))
    shares = {one.arm: one.share for one in told.arms}
    assert shares["crime"] == pytest.approx(0.1)
    assert shares["love"] == pytest.approx(0.9)
    later = Counter([(await slate(recommendations, f"later-{number}")).experiment_arm for number in range(60)])
    assert later["topics/love"] > 40
    await put(experiments, "topics", *arms, allocation="thompson", half_life_slates=1000, frozen=True)
    for number in range(40):
        answer = await slate(recommendations, f"late-{number}")
        if answer.experiment_arm == "topics/crime":
            await write(events, "click", f"late-{number}", answer.results[0].item_id, answer.attribution_token)
    await attribute(server)
    frozen = await experiments.GetExperiment(pb.GetExperimentRequest(name="topics"))
    assert frozen.experiment.version == 2
    assert {one.arm: one.share for one in frozen.arms}["crime"] == pytest.approx(0.1)


async def test_arms_share_a_slate_and_each_item_earns_for_its_own(
    server: HeadwaterServer,
    experiments: ExperimentServiceAsyncStub,
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """Both topics stand in one slate; clicks on one raise its share within bounds; every item has its propensity."""
    for number in range(1, 5):
        await write(events, "like", "ben", f"crime-0{number}")
        await write(events, "like", "ben", f"love-0{number}")
    arms = arm("crime", min_share=0.1), arm("love")
    await put(experiments, "topics", *arms, allocation="interleaved", half_life_slates=1000)
    n_mixed = n_clicks = 0
    for number in range(60):
        answer = await slate(recommendations, f"user-{number}")
        assert answer.experiment_arm == "topics/interleaved"
        assert [result.score for result in answer.results] == sorted((r.score for r in answer.results), reverse=True)
        n_mixed += len({result.item_id.partition("-")[0] for result in answer.results}) == 2
        for result in answer.results:
            if result.item_id.startswith("love"):
                n_clicks += 1
                await write(events, "click", f"user-{number}", result.item_id, answer.attribution_token)
    assert n_mixed > 20
    await attribute(server)
    later = [await slate(recommendations, f"later-{number}") for number in range(30)]
    topics = Counter(result.item_id.partition("-")[0] for answer in later for result in answer.results)
    assert topics["love"] > 4 * topics["crime"]  # the server follows by itself, before anybody asks how it stands
    await server.rooms.impression_writer.flush()
    told = await experiments.GetExperiment(pb.GetExperimentRequest(name="topics"))
    standing = {one.arm: one for one in told.arms}
    assert standing["crime"].share == pytest.approx(0.1)
    assert standing["love"].share == pytest.approx(0.9)
    assert standing["crime"].slates + standing["love"].slates == 3 * (60 + 30)
    assert (standing["crime"].reward, standing["love"].reward) == (0.0, n_clicks)
    for each in ImpressionLog(server.rooms.database).between(0, 2**62):
        assert each.assignment is not None
        assert (each.assignment.arm, each.assignment.propensity) == ("", None)
        assert [item.item_id.partition("-")[0] for item in each.items] == [item.arm for item in each.items]
        shares = {item.arm: item.propensity or 0.0 for item in each.items}
        assert len(shares) == 1 or sum(shares.values()) == pytest.approx(1.0)
        assert shares.get("crime", 0.1) >= 0.1
    with pytest.raises(grpc.aio.AioRpcError, match="has counted places so far; delete it first"):
        await put(experiments, "topics", *arms, allocation="thompson")
    again = await slate(recommendations, "ben")
    more = await slate(recommendations, "ben", page_token=again.next_page_token)
    assert not {result.item_id for result in more.results} & {result.item_id for result in again.results}
    assert not more.experiment_arm
    explained = await slate(recommendations, "ben", explain=True)
    assert all(result.reasons for result in explained.results)


async def test_who_says_what_answers_takes_no_part(
    server: HeadwaterServer,
    experiments: ExperimentServiceAsyncStub,
    strategies: StrategyServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """A named strategy, label or generation wins, other surfaces too; a second page goes on by what made the first."""
    await write(events, "like", "ben", "crime-01")
    await put(experiments, "topics", arm("crime", share=0.999), arm("love", share=0.001), surfaces=["home"])
    assert (await slate(recommendations, "ada", surface="home")).experiment_arm == "topics/crime"
    own: tuple[dict[str, Any], ...] = ({"strategy": "love"}, {"label": "stable"}, {"generation": 1})
    for fields in own:
        assert not (await slate(recommendations, "ada", surface="home", **fields)).experiment_arm
    assert not (await slate(recommendations, "ada")).experiment_arm
    first = await slate(recommendations, "ben", surface="home")
    second = await slate(recommendations, "ben", surface="home", page_token=first.next_page_token)
    assert second.strategy == first.strategy
    assert not second.experiment_arm


async def test_what_cannot_work_is_refused_when_it_is_written(
    experiments: ExperimentServiceAsyncStub, strategies: StrategyServiceAsyncStub
) -> None:
    """With the field and the reason; a strategy that an arm needs cannot be deleted before the experiment."""
    good: dict[str, Any] = {"arms": [arm("crime", share=0.5), arm("love", share=0.5)], "rewards": {"click": 1.0}}
    for changes, reason in (
        (
            {"arms": [arm("crime", share=0.5), arm("lvoe", share=0.5)]},
            "experiment.arms[1].strategy: no strategy 'lvoe'",
        ),
        ({"rewards": {"yodel": 1.0}}, "experiment.rewards['yodel']: is not a registered event type"),
        ({"arms": [arm("crime", share=0.5), arm("love", share=0.4)]}, "experiment.arms: the shares add up to 0.9"),
    ):
        request = pb.PutExperimentRequest(name="topics", experiment=pb.Experiment(**{**good, **changes}))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await experiments.PutExperiment(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in str(refused.value.details())
    await put(experiments, "topics", *good["arms"])
    with pytest.raises(grpc.aio.AioRpcError, match="would both take every surface"):
        await put(experiments, "other", *good["arms"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await strategies.DeleteStrategy(strategies_pb.DeleteStrategyRequest(name="love"))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert [each.name for each in (await experiments.ListExperiments(pb.ListExperimentsRequest())).experiments] == [
        "topics"
    ]
    await experiments.DeleteExperiment(pb.DeleteExperimentRequest(name="topics"))
    await strategies.DeleteStrategy(strategies_pb.DeleteStrategyRequest(name="love"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await experiments.GetExperiment(pb.GetExperimentRequest(name="topics"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_outcomes_are_added_up_and_counted(
    server: HeadwaterServer,
    experiments: ExperimentServiceAsyncStub,
    events: EventServiceAsyncStub,
    recommendations: RecommendationServiceAsyncStub,
) -> None:
    """By source and by place, over the wire and as metrics; of a bad question the field is named."""
    await write(events, "like", "ada", "space-01")
    answer = await slate(recommendations, "ada")
    for _ in range(2):
        await write(events, "click", "ada", answer.results[1].item_id, answer.attribution_token)
    await write(events, "click", "ada", "space-01", answer.attribution_token)
    await attribute(server)
    by_place = (await experiments.GetOutcomes(pb.GetOutcomesRequest(group_by="place"))).rows
    assert {row.key: (row.shown, dict(row.events)) for row in by_place} == {
        "1": (1, {}),
        "2": (1, {"click": 1}),
        "3": (1, {}),
    }
    by_source = (await experiments.GetOutcomes(pb.GetOutcomesRequest())).rows
    assert sum(row.shown for row in by_source) == 3
    source = answer.results[1].sources[0]
    labels = {"event_type": "click", "strategy": "default", "source": source, "place": "2"}
    assert server.rooms.metrics.registry.get_sample_value("headwater_outcomes_total", labels) == 1
    unmatched = server.rooms.metrics.registry.get_sample_value(
        "headwater_outcomes_unmatched_total", {"reason": "other_item"}
    )
    assert unmatched == 1
    with pytest.raises(grpc.aio.AioRpcError, match="group_by"):
        await experiments.GetOutcomes(pb.GetOutcomesRequest(group_by="mood"))
    late = Timestamp()
    late.FromDatetime(late.ToDatetime() + timedelta(days=40_000))
    with pytest.raises(grpc.aio.AioRpcError, match="start_time"):
        await experiments.GetOutcomes(pb.GetOutcomesRequest(start_time=late))


async def test_reports_keep_no_other_read_waiting(
    server: HeadwaterServer,
    experiments: ExperimentServiceAsyncStub,
    until: Callable[[Callable[[], bool]], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many are asked for; one is made at a time, and who gives up before its turn is passed over."""
    gate = threading.Event()
    begun: list[int] = []

    def in_flight() -> float | None:
        return server.rooms.metrics.registry.get_sample_value("headwater_calls_in_flight")

    def wait(*_: object) -> list[OutcomeRow]:
        begun.append(1)
        gate.wait(60)
        return []

    monkeypatch.setattr(outcome_report, "report", wait)
    calls = [experiments.GetOutcomes(pb.GetOutcomesRequest()) for _ in range(20)]
    asked = [asyncio.ensure_future(each) for each in calls]
    try:
        await until(lambda: in_flight() == 20)
        await asyncio.wait_for(experiments.ListExperiments(pb.ListExperimentsRequest()), 20)
        await server.rooms.follow()
        assert not server.rooms.database_is_away
        assert not any(each.done() for each in asked)
        for call in calls[2:]:
            call.cancel()
        await until(lambda: in_flight() == 2)
    finally:
        gate.set()
    await asyncio.gather(*asked[:2])
    assert len(begun) <= 3


async def test_every_server_learns(
    settings: ServerSettings,
    start_server: Callable[..., Awaitable[HeadwaterServer]],
    connect: Callable[[HeadwaterServer], grpc.aio.Channel],
) -> None:
    """What one server was told and has joined moves the shares of another."""
    first, second = await start_server(settings), await start_server(settings, tail_interval_ms=NEVER_MS)
    both = [pb.ExperimentArm(name=name) for name in "ab"]
    await put(ExperimentServiceStub(connect(first)), "ways", *both, allocation="thompson")
    await second.rooms.follow()
    assert second.rooms.experiments.shares("ways", "") == pytest.approx([0.5, 0.5], abs=0.02)
    log = ImpressionLog(first.rooms.database)
    for number in range(30):
        log.append([Impression(f"s-{number}", None, assignment=Assignment("ways", "a", "", 0.5, 10_000.0))])
    await second.rooms.follow()
    shares = second.rooms.experiments.shares("ways", "")
    assert shares[0] < 0.1
