"""What a token must allow for each method: one table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from headwater.v1 import (
    catalog_service_pb2,
    event_service_pb2,
    experiment_service_pb2,
    model_service_pb2,
    recommendation_service_pb2,
    strategy_service_pb2,
    user_service_pb2,
)


class Scope(StrEnum):
    """What a token may allow. None contains another."""

    READ = "read"
    """Ask: recommendations, and whatever else changes nothing."""
    WRITE = "write"
    """Tell what happened and what there is: events and items."""
    ADMIN = "admin"
    """Decide what is served, and erase."""


_READ, _WRITE, _ADMIN = Scope.READ, Scope.WRITE, Scope.ADMIN
_SCOPES = {
    recommendation_service_pb2: {
        "Recommend": _READ,
        "BatchRecommend": _READ,
        "SimilarItems": _READ,
        "ScoreItems": _READ,
        "EmbedUser": _READ,
        "SearchItems": _READ,
    },
    event_service_pb2: {
        "WriteEvents": _WRITE,
        "StreamEvents": _WRITE,
        "ListEvents": _READ,
        "DeleteEvents": _ADMIN,
        "ListEventTypes": _READ,
        "UpsertEventTypes": _ADMIN,
    },
    catalog_service_pb2: {
        "UpsertItems": _WRITE,
        "GetItems": _READ,
        "ListItems": _READ,
        "DeleteItems": _ADMIN,
        "SetAvailability": _WRITE,
    },
    user_service_pb2: {"GetProfile": _READ, "DeleteUser": _ADMIN},
    model_service_pb2: {
        "ListGenerations": _ADMIN,
        "GetGeneration": _ADMIN,
        "SetLabel": _ADMIN,
        "Rollback": _ADMIN,
        "Reload": _ADMIN,
        "WatchGenerations": _ADMIN,
    },
    strategy_service_pb2: {
        "PutStrategy": _ADMIN,
        "GetStrategy": _READ,
        "ListStrategies": _READ,
        "ListStrategyVersions": _READ,
        "DeleteStrategy": _ADMIN,
        "PreviewStrategy": _READ,
    },
    experiment_service_pb2: {
        "PutExperiment": _ADMIN,
        "GetExperiment": _READ,
        "ListExperiments": _READ,
        "DeleteExperiment": _ADMIN,
        "GetOutcomes": _READ,
    },
}
SCOPES: Mapping[str, Scope] = {
    f"/{service.full_name}/{method}": scope
    for module, methods in _SCOPES.items()
    for service in module.DESCRIPTOR.services_by_name.values()
    for method, scope in methods.items()
}
"""By the method's path, as HTTP/2 names it."""
_OPEN = "/grpc.health."
"""Probes have no tokens."""
_REFLECTION = "/grpc.reflection."


def scope_of(path: str) -> Scope | None:
    """What a token must allow for a method; None: no token is needed."""
    scope = SCOPES.get(path)
    if scope is None and not path.startswith(_OPEN):
        return Scope.READ if path.startswith(_REFLECTION) else Scope.ADMIN
    return scope
