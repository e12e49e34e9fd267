"""Around every call: admission, tenant, decoding, errors to statuses, metrics, logs."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import structlog

from headwater_core.errors import HeadwaterError, InvalidFieldError
from headwater_server.admission import Admission
from headwater_server.errors import NotReadyError, shown
from headwater_server.metrics import ServerMetrics
from headwater_server.stages import ADMISSION, SERIALISATION, Stages, begin, server_timing, timed
from headwater_server.statuses import refusal

TENANT_KEY = "headwater-tenant"
TIMING_KEY = "headwater-timing"
"""A caller that sends it, with whatever value, is told how long the stages took."""
TIMING_TRAILER = "server-timing"
_OURS = "/headwater.v1."
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
            retry_after_ms: the least hint given to refused ones.
        """
        self._metrics = metrics
        # Looking up labels takes as long as counting, several times a call.
        self._calls = functools.cache(metrics.calls.labels)
        self._call_seconds = functools.cache(metrics.call_seconds.labels)
        self._stage_seconds = functools.cache(metrics.stage_seconds.labels)
        self._tenant = tenant
        self.admission = Admission(max_in_flight, retry_after_ms)
        metrics.in_flight.set_function(lambda: self.admission.in_flight)
        metrics.streams.set_function(lambda: self.admission.streams)
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
                self._unary(method, handler.unary_unary, handler.response_serializer), deserializer, _as_it_is
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream), deserializer, handler.response_serializer
            )
        return grpc.stream_stream_rpc_method_handler(
            self._streaming(method, handler.stream_stream), deserializer, handler.response_serializer
        )

    def _unary(self, method: str, behaviour: Any, serializer: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            async with _Watch(self, method, context, _Place(self.admission, method)) as watch:
                _refuse_undecodable(request)
                response = await behaviour(request, context)
                with timed(SERIALISATION):
                    content: bytes = serializer(response)
                watch.code = grpc.StatusCode.OK
                return content

        return call

    def _streaming(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            batch = _Place(self.admission, method)
            try:
                async with _Watch(self, method, context, _Stream(self.admission, method)) as watch:
                    _refuse_undecodable(request)
                    incoming = _admitted(request, batch) if hasattr(request, "__aiter__") else request
                    async for response in behaviour(incoming, context):
                        batch.give_back()  # a caller who is slow to read holds nothing
                        yield response
                    watch.code = grpc.StatusCode.OK
            finally:
                batch.give_back()

        return call

    def read_metadata(self, context: grpc.aio.ServicerContext[Any, Any]) -> bool:
        """Whether the caller wants to know how long the stages take.

        Raises:
            NotReadyError: the call is for a tenant that is not served here.
        """
        wants_timing = False
        for key, value in context.invocation_metadata() or ():
            if key == TENANT_KEY and value != self._tenant:
                raise NotReadyError(f"tenant {shown(str(value))} is not served here")
            wants_timing = wants_timing or key == TIMING_KEY
        return wants_timing

    def observe(self, method: str, code: grpc.StatusCode, seconds: float | None, stages: Stages) -> None:
        """Count a call that ended, and how long it and its stages took; of a stream neither."""
        self._calls(method, code.name).inc()
        if seconds is not None:
            self._call_seconds(method).observe(seconds)
            for stage, stage_s in stages.items():
                self._stage_seconds(method, stage).observe(stage_s)


class _Place:
    """A place among the calls in flight, taken and given back once each."""

    def __init__(self, admission: Admission, method: str) -> None:
        self._admission = admission
        self._method = method
        self._is_taken = False

    def take(self, left_s: float | None = None) -> None:
        if not self._is_taken:
            self._enter(left_s)
            self._is_taken = True

    def give_back(self, took_s: float | None = None) -> None:
        if self._is_taken:
            self._leave(took_s)
            self._is_taken = False

    def _enter(self, left_s: float | None) -> None:
        self._admission.enter(self._method, left_s)

    def _leave(self, took_s: float | None) -> None:
        self._admission.leave(self._method, took_s)


class _Stream(_Place):
    """A place among the open streams."""

    def _enter(self, left_s: float | None) -> None:
        self._admission.open_stream()

    def _leave(self, took_s: float | None) -> None:
        self._admission.close_stream()


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
        self._stages = begin()
        self._wants_timing = False
        self.code = grpc.StatusCode.CANCELLED

    async def __aenter__(self) -> _Watch:
        try:
            with timed(ADMISSION):
                self._wants_timing = self._interceptor.read_metadata(self._context)
                self._place.take(self._context.time_remaining())
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
        took_s = time.perf_counter() - self._began
        self._place.give_back(took_s if self.code is grpc.StatusCode.OK else None)
        seconds = None if isinstance(self._place, _Stream) else took_s
        self._interceptor.observe(self._method, self.code, seconds, self._stages)
        if self._wants_timing and self.code is grpc.StatusCode.OK:
            self._context.set_trailing_metadata(((TIMING_TRAILER, server_timing(self._stages)),))

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


def _as_it_is(content: bytes) -> bytes:
    return content


def _refuse_undecodable(request: Any) -> None:
    if isinstance(request, _Undecodable):
        raise InvalidFieldError("request", "its bytes are not the message that this method takes")


async def _admitted(requests: AsyncIterator[Any], place: _Place) -> AsyncIterator[Any]:
    async for request in requests:
        _refuse_undecodable(request)
        place.take()
        yield request
