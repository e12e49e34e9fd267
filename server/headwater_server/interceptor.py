"""Around every call: who calls, admission, decoding, errors to statuses, metrics, logs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import structlog

from headwater_core.errors import HeadwaterError, InvalidFieldError
from headwater_server.admission import Admission
from headwater_server.arrivals import REQUEST_ID_KEY, Arrival, Reception, arrived
from headwater_server.call_log import CallLog
from headwater_server.errors import LeavingError
from headwater_server.first_requests import FirstRequests
from headwater_server.metrics import ServerMetrics
from headwater_server.named_calls import NO_METHOD
from headwater_server.scopes import SCOPES, Scope, scope_of
from headwater_server.stages import ADMISSION, SERIALISATION, Stages, begin, server_timing, timed
from headwater_server.statuses import refusal

TIMING_TRAILER = "server-timing"
_NO_METHOD_OF_OURS = "(other)"
log = structlog.get_logger(__name__)


class _Undecodable:
    """Stands in for a request whose bytes are no message: grpc.aio would answer UNKNOWN."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """What every method of ours has in common. Of health only the request is checked: it has no tokens."""

    def __init__(
        self,
        metrics: ServerMetrics,
        admission: Admission,
        reception: Reception,
        call_log: CallLog,
        leaving: asyncio.Event,
    ) -> None:
        """Make the interceptor of one port.

        Args:
            metrics: where calls are counted.
            admission: how many are answered at once; of a stream only the batch being written counts.
            reception: who is let in.
            call_log: where it is told how they end.
            leaving: set when streams are to end, after the batch that they are at.
        """
        self._metrics = metrics
        # Looking up labels takes as long as counting, several times a call.
        self._calls = functools.cache(metrics.calls.labels)
        self._call_seconds = functools.cache(metrics.call_seconds.labels)
        self._stage_seconds = functools.cache(metrics.stage_seconds.labels)
        self.admission = admission
        self._reception = reception
        self.call_log = call_log
        self._leaving = leaving
        self._incoming = FirstRequests()
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Let the call in or refuse it; wrap the handler of one of our methods, at its first call."""
        path: str = handler_call_details.method
        if path == NO_METHOD:
            self.observe(_NO_METHOD_OF_OURS, grpc.StatusCode.UNIMPLEMENTED, None, {})
            return await continuation(handler_call_details)
        if (scope := scope_of(path)) is not None:
            arrival = self._reception.read(handler_call_details.invocation_metadata or ())
            try:
                self._reception.let_in(arrival, scope)
            except HeadwaterError as error:
                return self._refusing(path, error, arrival)
            arrived.set(arrival)
        handler = self._handlers.get(path)
        if handler is None and (handler := await continuation(handler_call_details)) is not None:
            handler = self._handlers[path] = self._wrapped(path, handler)
        return handler

    def _wrapped(self, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        if scope_of(path) is None:
            return _checked(handler, self._incoming)
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

    def _refusing(self, path: str, error: HeadwaterError, arrival: Arrival) -> grpc.RpcMethodHandler[Any, Any]:
        """Ends the call without reading its request. As a stream's handler: others are called with a request read."""
        # A name that anybody can think of must not become a metric's label or a log's word.
        method = path.rsplit("/", 1)[-1] if path in SCOPES else _NO_METHOD_OF_OURS

        async def refuse(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            ending = refusal(error)
            self.observe(method, ending.code, None, {})
            self.call_log.tell(method, ending.code, 0.0, arrival)
            await context.abort(ending.code, ending.message, (*ending.trailers, (REQUEST_ID_KEY, arrival.request_id)))

        return grpc.stream_stream_rpc_method_handler(refuse)

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
                    takes_batches = hasattr(request, "__aiter__")
                    incoming = self._admitted(request, batch, watch.arrival) if takes_batches else request
                    async for response in behaviour(incoming, context):
                        batch.give_back()  # a caller who is slow to read holds nothing
                        if not takes_batches:
                            watch.arrival.check_still_allowed()
                        yield response
                    watch.code = grpc.StatusCode.OK
            finally:
                batch.give_back()

        return call

    async def _admitted(self, requests: AsyncIterator[Any], place: _Place, arrival: Arrival) -> AsyncGenerator[Any]:
        """The batches of a stream, each once it may be worked on."""
        async with contextlib.aclosing(_until(self._leaving, requests)) as coming:
            async for request in coming:
                _refuse_undecodable(request)
                arrival.check_still_allowed()
                while arrival.caller is not None and (wait_s := arrival.caller.wait_s()):
                    with contextlib.suppress(TimeoutError):  # gRPC's flow control makes the caller wait too
                        async with asyncio.timeout(wait_s):
                            await self._leaving.wait()
                    _check_stays(self._leaving)
                    arrival.check_still_allowed()
                place.take()
                yield request

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
        self.arrival = arrived.get()
        self._has_entered = False
        self.code = grpc.StatusCode.CANCELLED

    async def __aenter__(self) -> _Watch:
        try:
            with timed(ADMISSION):
                if (caller := self.arrival.caller) is not None:
                    caller.enter(self._interceptor.admission.retry_after_ms)
                    self._has_entered = True
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
                message = "internal error; see the server's log"
                await self._context.abort(grpc.StatusCode.INTERNAL, message, (self._id_trailer,))
        finally:
            self._end()

    def _end(self) -> None:
        took_s = time.perf_counter() - self._began
        self._place.give_back(took_s if self.code is grpc.StatusCode.OK else None)
        seconds = None if isinstance(self._place, _Stream) else took_s
        self._interceptor.observe(self._method, self.code, seconds, self._stages)
        arrival = self.arrival
        if self._has_entered and arrival.caller is not None:
            arrival.caller.leave()
        call_log = self._interceptor.call_log
        if self.code is not grpc.StatusCode.OK or call_log.tells_all or arrival.scope is Scope.ADMIN:
            call_log.tell(self._method, self.code, took_s, arrival)
        if self.code is grpc.StatusCode.OK and (arrival.has_own_id or arrival.wants_timing):
            trailers = [(REQUEST_ID_KEY, arrival.request_id)]
            if arrival.wants_timing:
                trailers.append((TIMING_TRAILER, server_timing(self._stages)))
            self._context.set_trailing_metadata(tuple(trailers))

    @property
    def _id_trailer(self) -> tuple[str, str]:
        return REQUEST_ID_KEY, self.arrival.request_id

    async def _abort(self, error: HeadwaterError) -> NoReturn:
        ending = refusal(error)
        self.code = ending.code
        if ending.code is grpc.StatusCode.INTERNAL:
            log.error("call_failed", method=self._method, exc_info=error)
        await self._context.abort(ending.code, ending.message, (*ending.trailers, self._id_trailer))
        raise AssertionError("abort returned")  # it raises; this tells the type checker


def _checked(handler: grpc.RpcMethodHandler[Any, Any], incoming: FirstRequests) -> grpc.RpcMethodHandler[Any, Any]:
    """A method of health, whose request is not waited for as long as strangers like.

    Bytes that are no message are refused: grpc.aio would log a traceback for each.
    """
    behaviour: Any = handler.unary_unary or handler.unary_stream

    async def answer(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            request = await incoming.first(requests)
            _refuse_undecodable(request)
        except HeadwaterError as error:
            ending = refusal(error)
            await context.abort(ending.code, ending.message, ending.trailers)
        if handler.unary_unary is not None:
            yield await behaviour(request, context)
        else:
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    assert handler.request_deserializer is not None  # generated code always gives one
    return grpc.stream_stream_rpc_method_handler(
        answer, _forgiving(handler.request_deserializer), handler.response_serializer
    )


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


async def _until(leaving: asyncio.Event, requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    """The requests that come before this server leaves.

    Raises:
        LeavingError: it leaves.
    """
    leaves = asyncio.ensure_future(leaving.wait())
    following = aiter(requests)
    coming = None
    try:
        while True:
            coming = asyncio.ensure_future(_next(following))
            await asyncio.wait({coming, leaves}, return_when=asyncio.FIRST_COMPLETED)
            _check_stays(leaving)
            request = coming.result()
            if request is None:
                return
            yield request
    finally:
        leaves.cancel()
        if coming is not None:
            coming.cancel()


def _check_stays(leaving: asyncio.Event) -> None:
    if leaving.is_set():
        raise LeavingError("the server is about to end; send again what was not acknowledged")


async def _next(requests: AsyncIterator[Any]) -> Any:
    return await anext(requests, None)
