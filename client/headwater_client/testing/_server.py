"""The fake server: real gRPC on a free port of 127.0.0.1, answering from memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message_factory import GetMessageClass

from headwater.v1 import (
    catalog_service_pb2,
    event_service_pb2,
    experiment_service_pb2,
    model_service_pb2,
    recommendation_service_pb2,
    strategy_service_pb2,
    user_service_pb2,
)
from headwater.v1.event_pb2 import Event
from headwater.v1.item_pb2 import Item
from headwater_client.testing._answers import ANSWERS, Refusal
from headwater_client.testing._state import FakeState

_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse.status
_CONTRACT = (
    catalog_service_pb2,
    event_service_pb2,
    experiment_service_pb2,
    model_service_pb2,
    recommendation_service_pb2,
    strategy_service_pb2,
    user_service_pb2,
)


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call that the fake server received, whatever became of it."""

    method: str
    """The method's name, for example `Recommend`."""
    request: Any
    """The request message; for health checks the service's name."""
    metadata: Mapping[str, str | bytes]
    """What was sent beside the request, keys in lower case."""
    peer: str = ""
    """The connection by which it came, as gRPC names it."""


@dataclass(slots=True)
class _Failure:
    status: grpc.StatusCode
    message: str
    method: str | None
    times: int
    pushback_ms: int | None


class FakeServer:
    """A Headwater server that lives in the test's process.

    Use it in a `with` or an `async with`; `address` is where clients find it.
    """

    def __init__(self, port: int = 0) -> None:
        """Args: port: to listen on, once it is started; 0 takes a free one."""
        self._port = port
        self.calls: list[RecordedCall] = []
        """Every call received, oldest first; retries count."""
        self.serving = True
        """What health checks are answered."""
        self.address = ""
        """`host:port`, once it is started."""
        self._state = FakeState()
        self._failures: list[_Failure] = []
        self._lock = threading.Lock()
        self._answering = threading.Event()
        self._answering.set()
        self._server: grpc.Server | None = None

    def start(self) -> Self:
        """Listen on 127.0.0.1."""
        server = grpc.server(
            ThreadPoolExecutor(max_workers=8, thread_name_prefix="fake-headwater"),
            options=[
                ("grpc.max_receive_message_length", 16 * 1024 * 1024),
                ("grpc.max_send_message_length", 16 * 1024 * 1024),
            ],
        )
        server.add_generic_rpc_handlers((_Handler(self._handlers()),))
        self.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{self._port}')}"
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """Cancel calls under way and close the port; what was remembered stays readable."""
        self._answering.set()
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def events(self) -> list[Event]:
        """The events that are kept, in the order they were committed."""
        with self._lock:
            return [stored.event for stored in self._state.events]

    @property
    def items(self) -> dict[str, Item]:
        """The catalogue, by item id."""
        with self._lock:
            return dict(self._state.items)

    def calls_of(self, method: str) -> list[Any]:
        """The requests that one method received, oldest first."""
        return [call.request for call in self.calls if call.method == method]

    def publish(self) -> int:
        """Make a new generation and point `stable` at it; gives its number. The fake starts with generation 1."""
        with self._lock:
            return self._state.publish()

    def fail_next(
        self,
        status: grpc.StatusCode,
        message: str = "told to fail",
        *,
        method: str | None = None,
        times: int = 1,
        pushback_ms: int | None = None,
    ) -> None:
        """Answer the next calls with an error instead; clients retry some, and each try counts.

        Args:
            status: the error's status.
            message: the error's words.
            method: only calls of this method, for example `WriteEvents`. Default: all.
            times: how many calls.
            pushback_ms: sent as `grpc-retry-pushback-ms`: when to retry; negative forbids it.
        """
        with self._lock:
            self._failures.append(_Failure(status, message, method, times, pushback_ms))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Answer nothing inside the `with`: calls are received, recorded, and wait, to their deadlines if need be."""
        self._answering.clear()
        try:
            yield
        finally:
            self._answering.set()

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            _HEALTH_CHECK: grpc.unary_unary_rpc_method_handler(
                self._wrap("Check", lambda state, service: _SERVING if self.serving else _NOT_SERVING),
                request_deserializer=lambda data: data[2:].decode(),
                response_serializer=lambda data: data,
            )
        }
        for file in _CONTRACT:
            for service in file.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    path = f"/{service.full_name}/{method.name}"
                    if path in ANSWERS:
                        handlers[path] = grpc.unary_unary_rpc_method_handler(
                            self._wrap(method.name, ANSWERS[path]),
                            request_deserializer=GetMessageClass(method.input_type).FromString,
                            response_serializer=GetMessageClass(method.output_type).SerializeToString,
                        )
        return handlers

    def _wrap(self, name: str, answer: Callable[[FakeState, Any], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            metadata = {key.lower(): value for key, value in context.invocation_metadata()}
            with self._lock:
                self.calls.append(RecordedCall(name, request, metadata, context.peer()))
            self._answering.wait()
            with self._lock:
                failure = self._next_failure(name)
                if failure is None:
                    try:
                        return answer(self._state, request)
                    except Refusal as refusal:
                        failure = _Failure(refusal.status, refusal.message, None, 1, None)
            if failure.pushback_ms is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", str(failure.pushback_ms)),))
            return context.abort(failure.status, failure.message)

        return handle

    def _next_failure(self, method: str) -> _Failure | None:
        for failure in self._failures:
            if failure.method in (None, method):
                failure.times -= 1
                if failure.times <= 0:
                    self._failures.remove(failure)
                return failure
        return None


class _Handler(grpc.GenericRpcHandler):
    """Finds a method's handler; a method that the fake lacks is answered UNIMPLEMENTED by gRPC."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)
