"""How /metrics is served to whoever connects: each has a thread, so nobody may keep one by saying nothing."""

from __future__ import annotations

import contextlib
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, start_http_server


class MetricsServer:
    """Serves /metrics over HTTP from threads of its own until closed."""

    def __init__(self, registry: CollectorRegistry, port: int, host: str = "127.0.0.1") -> None:
        """Listen on `port`, 0 being any free one, of an address of this machine.

        Raises:
            OSError: when the port is taken.
        """
        self._server, self._thread = start_http_server(port, host, registry)
        self._server.RequestHandlerClass = ImpatientHandler
        address, found, *_ = self._server.server_address
        self.host, self.port = str(address), int(found)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class ImpatientHandler(WSGIRequestHandler):
    """Answers an HTTP request, and ends a connection that is silent; quietly, for anybody may open one."""

    timeout = 10.0
    """Seconds."""

    def handle(self) -> None:
        """Answer, unless nothing is asked in time."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
        """Log nothing."""
