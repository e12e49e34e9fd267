"""Around every call: admission, tenant, decoding, errors to statuses, metrics, logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import structlog

from headwater_core.errors import HeadwaterError, InvalidFieldError
from headwater_server.errors import NotReadyError, OverloadedError, shown
from headwater_server.metrics import ServerMetrics
from headwater_server.statuses import refusal

TENANT_KEY = "headwater-tenant"
_OURS = "/headwater.v1."
MAX_STREAMS = 1000
"""Streams open at once: they mostly wait, so they take no places from calls, but each costs memory."""
log = structlog.get_logger(__name__)


class _Undecodable:
    """Stands in for a request whose bytes are no message: grpc.aio would answer UNKNOWN."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """What every method of ours has in common. Health and reflection pass through untouched."""

    def __init__(self, metrics: ServerMetrics, tenant: str, max_in_flight: int, retry_after_ms: int) -> None:
        """Make the interceptor.

        Args:
            metrics: where calls are counted.
            tenant: the one tenant served here.
            max_in_flight: calls answered at once, over all methods; of a stream only the batch being written counts.
            retry_after_ms: the hint given to refused ones.
        """
        self._metrics = metrics
        self._tenant = tenant
        self._max_in_flight = max_in_flight
        self._retry_after_ms = retry_after_ms
        self._in_flight = 0
        self._streams = 0
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of one of our methods, at its first call."""
        path = handler_call_details.method
        handler = self._handlers.get(path)
        if handler is None and (handler := await continuation(handler_call_details)) is not None:
            handler = self._handlers[path] = self._wrapped(path, handler)
        return handler

    def _wrapped(self, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        if not path.startswith(_OURS):
            return handler
        method = path.rsplit("/", 1)[-1]
        assert handler.request_deserializer is not None  # generated code always gives one
        deserializer = _forgiving(handler.request_deserializer)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary), deserializer, handler.response_serializer
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream), deserializer, handler.response_serializer
            )
        return grpc.stream_stream_rpc_method_handler(
            self._streaming(method, handler.stream_stream), deserializer, handler.response_serializer
        )

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with _Watch(self, method, context, _Place(self)) as watch:
                _refuse_undecodable(request)
                response = await behaviour(request, context)
                watch.code = grpc.StatusCode.OK
                return response

        return call

    def _streaming(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            batch = _Place(self)
            try:
                async with _Watch(self, method, context, _Stream(self)) as watch:
                    _refuse_undecodable(request)
                    incoming = _admitted(request, batch) if hasattr(request, "__aiter__") else request
                    async for response in behaviour(incoming, context):
                        batch.give_back()  # a caller who is slow to read holds nothing
                        yield response
                    watch.code = grpc.StatusCode.OK
            finally:
                batch.give_back()

        return call

    def check_tenant(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Refuse calls for others.

        Raises:
            NotReadyError: the call is for a tenant that is not served here.
        """
        for key, value in context.invocation_metadata() or ():
            if key == TENANT_KEY and value != self._tenant:
                raise NotReadyError(f"tenant {shown(str(value))} is not served here")

    def count_call(self, change: int) -> None:
        """Take (1) a place among the calls in flight, or give it back (-1).

        Raises:
            OverloadedError: there is none.
        """
        self._check_room(self._in_flight + change, self._max_in_flight, "calls are being answered")
        self._in_flight += change
        self._metrics.in_flight.set(self._in_flight)

    def count_stream(self, change: int) -> None:
        """Take (1) a place among the open streams, or give it back (-1).

        Raises:
            OverloadedError: there is none.
        """
        self._check_room(self._streams + change, MAX_STREAMS, "streams are open")
        self._streams += change
        self._metrics.streams.set(self._streams)

    def _check_room(self, count: int, limit: int, what: str) -> None:
        if count > limit:
            raise OverloadedError(f"{limit} {what} already", self._retry_after_ms)

    def observe(self, method: str, code: grpc.StatusCode, seconds: float | None) -> None:
        """Count a call that ended, and how long it took to answer it if it was no stream."""
        self._metrics.calls.labels(method, code.name).inc()
        if seconds is not None:
            self._metrics.call_seconds.labels(method).observe(seconds)


class _Place:
    """A place among the calls in flight, taken and given back once each."""

    def __init__(self, interceptor: CallInterceptor) -> None:
        self._count = interceptor.count_call
        self._is_taken = False

    def take(self) -> None:
        if not self._is_taken:
            self._count(1)
            self._is_taken = True

    def give_back(self) -> None:
        if self._is_taken:
            self._count(-1)
            self._is_taken = False


class _Stream(_Place):
    """A place among the open streams."""

    def __init__(self, interceptor: CallInterceptor) -> None:
        super().__init__(interceptor)
        self._count = interceptor.count_stream


class _Watch:
    """One call, from admission to its status."""

    def __init__(
        self,
        interceptor: CallInterceptor,
        method: str,
        context: grpc.aio.ServicerContext[Any, Any],
        place: _Place,
    ) -> None:
        self._interceptor = interceptor
        self._method = method
        self._context = context
        self._place = place
        self._began = time.perf_counter()
        self.code = grpc.StatusCode.CANCELLED

    async def __aenter__(self) -> _Watch:
        try:
            self._interceptor.check_tenant(self._context)
            self._place.take()
        except HeadwaterError as error:
            try:
                await self._abort(error)
            finally:
                self._end()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if isinstance(error, HeadwaterError):
                await self._abort(error)
            if error is not None and not isinstance(
                error, (asyncio.CancelledError, GeneratorExit, grpc.aio.AbortError)
            ):
                self.code = grpc.StatusCode.INTERNAL
                log.error("call_failed", method=self._method, exc_info=error)
                # What went wrong inside is for the log, not for the caller.
                await self._context.abort(grpc.StatusCode.INTERNAL, "internal error; see the server's log")
        finally:
            self._end()

    def _end(self) -> None:
        self._place.give_back()
        seconds = None if isinstance(self._place, _Stream) else time.perf_counter() - self._began
        self._interceptor.observe(self._method, self.code, seconds)

    async def _abort(self, error: HeadwaterError) -> NoReturn:
        ending = refusal(error)
        self.code = ending.code
        if ending.code is grpc.StatusCode.INTERNAL:
            log.error("call_failed", method=self._method, exc_info=error)
        await self._context.abort(ending.code, ending.message, ending.trailers)
        raise AssertionError("abort returned")  # it raises; this tells the type checker


def _forgiving(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode(content: bytes) -> Any:
        try:
            return deserializer(content)
        except Exception:  # noqa: BLE001 - whatever a decoder raises means the same: no message
            return _Undecodable()

    return decode


def _refuse_undecodable(request: Any) -> None:
    if isinstance(request, _Undecodable):
        raise InvalidFieldError("request", "its bytes are not the message that this method takes")


async def _admitted(requests: AsyncIterator[Any], place: _Place) -> AsyncIterator[Any]:
    async for request in requests:
        _refuse_undecodable(request)
        place.take()
        yield request
