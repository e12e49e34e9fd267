"""grpc.aio's server, but that it never reads the name of a method that it does not know.

A name that is no UTF-8 ends grpc.aio's serving loop (1.85), and with it the port, before anybody is asked for a token;
what comes in at that moment is written to freed memory. Such names belong to no method of ours, so nobody needs them:
calls that core gives to no method are taken in under one name, that of a method which is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import grpc
import structlog
from grpc._cython import cygrpc
from grpc.aio import _server

_SERVICE, _METHOD = "headwater.NoService", "NoMethod"
NO_METHOD = f"/{_SERVICE}/{_METHOD}"
"""The path of every call of a method that is not there."""
_USED = ("_make_request_call_future", "_request_call", "add_registered_method_handlers")
log = structlog.get_logger(__name__)


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Asks for calls of no method where it would ask for those of `NO_METHOD`, whose name needs no decoding."""

    def _make_request_call_future(self, method: bytes | None) -> Any:
        if method is None:
            return asyncio.get_running_loop().create_future()  # of a call whose name would be decoded: none comes
        if method == NO_METHOD.encode():
            return asyncio.ensure_future(self._request_call())
        return super()._make_request_call_future(method)


class _Server(_server.Server):
    """Not initialised as its base is, which would make a core of gRPC's own."""

    def __init__(
        self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]], most_calls: int
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, (), interceptors, tuple(options), most_calls)
        self.add_registered_method_handlers(_SERVICE, {_METHOD: grpc.stream_stream_rpc_method_handler(_refuse)})


async def _refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def make_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]], most_calls: int
) -> grpc.aio.Server:
    """A server without services. Args: as `grpc.aio.server` takes them; most_calls: at once."""
    if all(hasattr(cygrpc.AioServer, name) for name in _USED):
        return cast(grpc.aio.Server, _Server(interceptors, options, most_calls))
    log.error("names_of_methods_decoded", reason="this grpcio is not known: whoever reaches a port can close it")
    return grpc.aio.server(interceptors=interceptors, options=options, maximum_concurrent_rpcs=most_calls)
