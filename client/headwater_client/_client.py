"""The client for threads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from headwater_client._base import ClientBase, present_as
from headwater_client._calls import catalog, events, experiments, health, models, recommendations, strategies, users
from headwater_client._calls.core import Call
from headwater_client._patience import Patience
from headwater_client._request_id import current_request_id
from headwater_client.errors import ClientClosedError, ConfigurationError, RpcError, from_grpc

P = ParamSpec("P")
Result = TypeVar("Result")


def _method(build: Callable[P, Call[Result]]) -> Callable[Concatenate[Client, P], Result]:
    """The client's method of a call's builder."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return self._make(build(*args, **kwargs))

    present_as(method, build)
    return method


class Client(ClientBase):
    """Asks a Headwater server, one blocking call at a time per thread; safe to share between threads.

    Every call has a deadline. Calls that may be repeated are while the server is unavailable or busy; one that may not
    waits for a connection and is sent once.
    Close it, or use it in a `with`.
    """

    recommend = _method(recommendations.recommend)
    batch_recommend = _method(recommendations.batch_recommend)
    similar_items = _method(recommendations.similar_items)
    score_items = _method(recommendations.score_items)
    embed_user = _method(recommendations.embed_user)
    search_items = _method(recommendations.search_items)

    write = _method(events.write)
    list_events = _method(events.list_events)
    delete_events = _method(events.delete_events)
    list_event_types = _method(events.list_event_types)
    upsert_event_types = _method(events.upsert_event_types)

    upsert_items = _method(catalog.upsert_items)
    get_items = _method(catalog.get_items)
    list_items = _method(catalog.list_items)
    delete_items = _method(catalog.delete_items)
    set_availability = _method(catalog.set_availability)

    get_profile = _method(users.get_profile)
    delete_user = _method(users.delete_user)

    list_generations = _method(models.list_generations)
    get_generation = _method(models.get_generation)
    set_label = _method(models.set_label)
    rollback = _method(models.rollback)
    reload = _method(models.reload)

    put_strategy = _method(strategies.put_strategy)
    get_strategy = _method(strategies.get_strategy)
    list_strategies = _method(strategies.list_strategies)
    list_strategy_versions = _method(strategies.list_strategy_versions)
    delete_strategy = _method(strategies.delete_strategy)
    preview_strategy = _method(strategies.preview_strategy)

    put_experiment = _method(experiments.put_experiment)
    get_experiment = _method(experiments.get_experiment)
    list_experiments = _method(experiments.list_experiments)
    delete_experiment = _method(experiments.delete_experiment)
    get_outcomes = _method(experiments.get_outcomes)

    health = _method(health.health)

    def close(self) -> None:
        """Close the connections; calls under way raise ClientClosedError. Closing twice is harmless."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
            self._channels.clear()
        for channel in channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, call: Call[Result], *, is_patient: bool = True) -> Result:
        """Args: is_patient: False: gRPC's own tries are all, whoever calls has more of its own."""
        patience = self._before(call, is_patient=is_patient)
        while True:
            try:
                return self._try(call, patience)
            except RpcError as error:
                pause_s = patience.pause_s(error, time.monotonic()) if call.method.idempotent else None
                if pause_s is None:
                    raise patience.reason(error) from error.__cause__
                time.sleep(pause_s)

    def _try(self, call: Call[Result], patience: Patience) -> Result:
        token = self._token() if callable(self._token) else self._token
        if token is not None and not isinstance(token, str):
            raise ConfigurationError("the token hook of a Client must give a str; coroutines are for AsyncClient")
        request_id = current_request_id()
        try:
            number = next(self._turns)
            if not call.method.idempotent:
                self._wait_for_connection(number, patience)
            left_s = patience.left_s(time.monotonic())
            response = self._stub(number, call)(
                call.request, timeout=left_s, metadata=self._metadata(token, request_id)
            )
        except grpc.RpcError as error:
            if self._closed and error.code() is grpc.StatusCode.CANCELLED:  # another thread closed the channel
                raise ClientClosedError("the client is closed") from error
            raise from_grpc(error, request_id) from error
        except ValueError as error:
            if self._closed:  # another thread closed the channel just now; gRPC says so with a ValueError
                raise ClientClosedError("the client is closed") from error
            raise
        result = call.read(response)
        self._after(call, result)
        return result

    def _stub(self, number: int, call: Call[Any]) -> Any:
        with self._lock:
            return self._stub_on(number, call, self._open)

    def _open(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self._target, options=self._options)
        return grpc.secure_channel(self._target, self._credentials, options=self._options)

    def _wait_for_connection(self, number: int, patience: Patience) -> None:
        """Wait until a server is there, whatever it says; if none comes, the call made nevertheless says why."""
        wait_s = patience.wait_s(time.monotonic())
        if wait_s > 0:
            check = self._stub(number, health.health())
            with contextlib.suppress(grpc.RpcError):
                check("", timeout=wait_s, wait_for_ready=True)
