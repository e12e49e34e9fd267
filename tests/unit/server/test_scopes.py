"""Every method of every service has a scope."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import headwater.v1
from headwater_server.scopes import SCOPES, Scope, scope_of


def methods() -> set[str]:
    """The path of every method in the contract, whatever file it is in."""
    names = [module.name for module in pkgutil.iter_modules(headwater.v1.__path__) if module.name.endswith("_pb2")]
    files = [import_module(f"headwater.v1.{name}").DESCRIPTOR for name in names]
    services = [service for file in files for service in file.services_by_name.values()]
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def test_every_method_is_in_the_table_and_nothing_else() -> None:
    """A new one cannot be forgotten."""
    assert set(SCOPES) == methods()
    assert len(SCOPES) > 30


def test_what_decides_or_erases_needs_admin() -> None:
    """Every method of ModelService, every deletion, every change of strategies, experiments and event types."""
    admin = {path for path, scope in SCOPES.items() if scope is Scope.ADMIN}
    for path in SCOPES:
        service, method = path.removeprefix("/headwater.v1.").split("/")
        decides = method.startswith("Put") or method == "UpsertEventTypes"
        assert (path in admin) == (service == "ModelService" or method.startswith("Delete") or decides), path


def test_nothing_that_changes_anything_is_open_to_readers() -> None:
    """By their names: what a reader may call asks."""
    asking = ("Get", "List", "Recommend", "BatchRecommend", "Similar", "Score", "Embed", "Search", "Preview")
    readable = [path.rsplit("/", 1)[1] for path, scope in SCOPES.items() if scope is Scope.READ]
    assert [method for method in readable if not method.startswith(asking)] == []


def test_probes_need_no_token_and_what_is_unknown_needs_the_most() -> None:
    """Reflection tells the contract alone, to whoever may read."""
    assert scope_of("/grpc.health.v1.Health/Check") is None
    assert scope_of("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") is Scope.READ
    assert scope_of("/headwater.v1.EventService/Invented") is Scope.ADMIN
