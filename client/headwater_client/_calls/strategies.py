"""The calls of StrategyService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.v1 import recommendation_service_pb2 as recommendations_pb
from headwater.v1 import strategy_service_pb2 as pb
from headwater_client._calls.core import Call, as_is, call, method
from headwater_client._messages import message_of

_SERVICE = "StrategyService"
# with expected_version a repetition would be refused although the first one was done
PUT_STRATEGY = method(
    _SERVICE, "PutStrategy", pb.PutStrategyRequest, pb.PutStrategyResponse, timeout_s=5, idempotent=False
)
GET_STRATEGY = method(_SERVICE, "GetStrategy", pb.GetStrategyRequest, pb.GetStrategyResponse, timeout_s=5)
LIST_STRATEGIES = method(_SERVICE, "ListStrategies", pb.ListStrategiesRequest, pb.ListStrategiesResponse, timeout_s=5)
LIST_STRATEGY_VERSIONS = method(
    _SERVICE, "ListStrategyVersions", pb.ListStrategyVersionsRequest, pb.ListStrategyVersionsResponse, timeout_s=5
)
# a repetition would not find what the first one deleted
DELETE_STRATEGY = method(
    _SERVICE, "DeleteStrategy", pb.DeleteStrategyRequest, pb.DeleteStrategyResponse, timeout_s=5, idempotent=False
)
PREVIEW_STRATEGY = method(
    _SERVICE, "PreviewStrategy", pb.PreviewStrategyRequest, pb.PreviewStrategyResponse, timeout_s=5
)


def put_strategy(
    name: str,
    strategy: pb.Strategy | Mapping[str, Any],
    *,
    expected_version: int | None = None,
    timeout_s: float | None = None,
) -> Call[int]:
    """Writes the next version of a strategy and gives its number; it answers on every server within a second.

    Args:
        name: `default` answers requests that name none.
        strategy: what it is from now on, as a message or as what its JSON says.
        expected_version: only if this is its newest version; 0: only if there never was one.
        timeout_s: the deadline. Default 5 s.

    Raises:
        ValueError: the JSON does not fit the message.
        InvalidArgumentError: it cannot work; the field and the reason are told.
        FailedPreconditionError: its newest version is another one than expected.
        RpcError: any other failure of the call.
    """
    request = pb.PutStrategyRequest(
        name=name, strategy=message_of(pb.Strategy, strategy, "strategy"), expected_version=expected_version
    )
    return call(PUT_STRATEGY, request, lambda response: response.version, timeout_s)


def get_strategy(name: str = "", *, timeout_s: float | None = None) -> Call[pb.StrategyVersion]:
    """Gets the newest version of a strategy.

    Args:
        name: which. Default `default`.
        timeout_s: the deadline. Default 5 s.

    Raises:
        NotFoundError: there is none of that name.
        RpcError: any other failure of the call.
    """
    return call(GET_STRATEGY, pb.GetStrategyRequest(name=name), lambda response: response.strategy, timeout_s)


def list_strategies(*, timeout_s: float | None = None) -> Call[list[pb.StrategyVersion]]:
    """Lists the strategies that can answer now, by name.

    Args:
        timeout_s: the deadline. Default 5 s.

    Raises:
        RpcError: the call failed.
    """
    return call(LIST_STRATEGIES, pb.ListStrategiesRequest(), lambda response: list(response.strategies), timeout_s)


def list_strategy_versions(
    name: str, *, page_size: int = 0, page_token: str = "", timeout_s: float | None = None
) -> Call[pb.ListStrategyVersionsResponse]:
    """Lists the versions of a strategy, newest first, deletions among them.

    Args:
        name: which.
        page_size: how many; 0 means 100, at most 1,000.
        page_token: the next_page_token of the page before.
        timeout_s: the deadline. Default 5 s.

    Raises:
        RpcError: the call failed.
    """
    request = pb.ListStrategyVersionsRequest(name=name, page_size=page_size, page_token=page_token)
    return call(LIST_STRATEGY_VERSIONS, request, as_is, timeout_s)


def delete_strategy(name: str, *, timeout_s: float | None = None) -> Call[int]:
    """Deletes a strategy and gives the number of the version that says so; `default` is the built-in one then.

    Args:
        name: which.
        timeout_s: the deadline. Default 5 s.

    Raises:
        NotFoundError: there is none of that name.
        RpcError: any other failure of the call.
    """
    return call(DELETE_STRATEGY, pb.DeleteStrategyRequest(name=name), lambda response: response.version, timeout_s)


def preview_strategy(
    request: recommendations_pb.RecommendRequest,
    strategy: pb.Strategy | Mapping[str, Any],
    *,
    timeout_s: float | None = None,
) -> Call[pb.PreviewStrategyResponse]:
    """Makes one slate as it is made now and as a strategy would; nothing is written or logged.

    Args:
        request: for whom and what; its own `strategy` names what the new one is compared with.
        strategy: the new one, as for `put_strategy`.
        timeout_s: the deadline. Default 5 s.

    Raises:
        ValueError: the JSON does not fit the message.
        InvalidArgumentError: it cannot work; the field and the reason are told.
        RpcError: any other failure of the call.
    """
    asked = pb.PreviewStrategyRequest(request=request, strategy=message_of(pb.Strategy, strategy, "strategy"))
    return call(PREVIEW_STRATEGY, asked, as_is, timeout_s)
