"""The fake's answers of StrategyService: strategies are kept, and make no difference to slates."""

from __future__ import annotations

import grpc

from headwater.v1 import recommendation_service_pb2 as recommendations
from headwater.v1 import strategy_service_pb2 as strategies
from headwater_client.testing._answers.core import Answers, Refusal, invalid, page_of
from headwater_client.testing._answers.recommendations import recommend
from headwater_client.testing._state import FakeState


def put_strategy(state: FakeState, request: strategies.PutStrategyRequest) -> strategies.PutStrategyResponse:
    if not request.name:
        raise invalid("name: must be 1 to 64 characters of a-z, 0-9, _ and -")
    _check(request.strategy)
    newest = len(state.strategy_versions.get(request.name, ()))
    if request.HasField("expected_version") and request.expected_version != newest:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"strategy {request.name!r} is at version {newest}")
    return strategies.PutStrategyResponse(version=_add(state, request.name, request.strategy))


def get_strategy(state: FakeState, request: strategies.GetStrategyRequest) -> strategies.GetStrategyResponse:
    name = request.name or "default"
    return strategies.GetStrategyResponse(strategy=_newest(state, name))


def list_strategies(state: FakeState, request: strategies.ListStrategiesRequest) -> strategies.ListStrategiesResponse:
    newest = (state.strategy_versions[name][-1] for name in sorted(state.strategy_versions))
    return strategies.ListStrategiesResponse(strategies=[each for each in newest if each.HasField("strategy")])


def list_strategy_versions(
    state: FakeState, request: strategies.ListStrategyVersionsRequest
) -> strategies.ListStrategyVersionsResponse:
    versions = list(reversed(state.strategy_versions.get(request.name, ())))
    page, next_page_token = page_of(versions, request.page_size, request.page_token)
    return strategies.ListStrategyVersionsResponse(versions=page, next_page_token=next_page_token)


def delete_strategy(state: FakeState, request: strategies.DeleteStrategyRequest) -> strategies.DeleteStrategyResponse:
    _newest(state, request.name)
    return strategies.DeleteStrategyResponse(version=_add(state, request.name, None))


def preview_strategy(
    state: FakeState, request: strategies.PreviewStrategyRequest
) -> strategies.PreviewStrategyResponse:
    _check(request.strategy)
    current = recommend(state, request.request)
    preview = recommendations.RecommendResponse.FromString(current.SerializeToString())
    preview.strategy = "preview/0"
    return strategies.PreviewStrategyResponse(current=current, preview=preview)


def _check(strategy: strategies.Strategy) -> None:
    if not strategy.sources:
        raise invalid("strategy.sources: must have at least 1")


def _newest(state: FakeState, name: str) -> strategies.StrategyVersion:
    versions = state.strategy_versions.get(name)
    if not versions or not versions[-1].HasField("strategy"):
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"name: no strategy {name!r}")
    return versions[-1]


def _add(state: FakeState, name: str, strategy: strategies.Strategy | None) -> int:
    versions = state.strategy_versions.setdefault(name, [])
    versions.append(strategies.StrategyVersion(name=name, version=len(versions) + 1, strategy=strategy))
    versions[-1].create_time.GetCurrentTime()
    return len(versions)


ANSWERS: Answers = {
    "/headwater.v1.StrategyService/PutStrategy": put_strategy,
    "/headwater.v1.StrategyService/GetStrategy": get_strategy,
    "/headwater.v1.StrategyService/ListStrategies": list_strategies,
    "/headwater.v1.StrategyService/ListStrategyVersions": list_strategy_versions,
    "/headwater.v1.StrategyService/DeleteStrategy": delete_strategy,
    "/headwater.v1.StrategyService/PreviewStrategy": preview_strategy,
}
