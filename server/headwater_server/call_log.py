"""A log line for each call that failed, and at debug for each; not more of them than somebody could read."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import structlog

from headwater_server.arrivals import Arrival
from headwater_server.scopes import Scope
from headwater_server.token_bucket import TokenBucket

_LINES_PER_S = 50.0
_OURS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN})
"""What a caller cannot help."""
_STRANGERS = grpc.StatusCode.UNAUTHENTICATED
log = structlog.get_logger(__name__)


class CallLog:
    """Tells how calls ended. What a caller sent is not repeated: it may name people."""

    def __init__(
        self, *, tells_all: bool, per_s: float = _LINES_PER_S, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: tells_all: also what was answered; per_s: lines a second about calls that failed; more are counted."""
        self.tells_all = tells_all
        self._budget = TokenBucket(per_s, now_s)
        self._strangers_budget = TokenBucket(per_s, now_s)
        """Of their own: a flood of them must not keep the calls of those who were let in out of the log."""
        self._left_out = 0

    def tell(self, method: str, code: grpc.StatusCode, took_s: float, arrival: Arrival) -> None:
        """Tell it; of calls that failed, as many as there is room for. Who administers is told of at info."""
        if code is grpc.StatusCode.OK:
            is_admins = arrival.scope is Scope.ADMIN and arrival.caller is not None
            self._write(log.info if is_admins else log.debug, method, code, took_s, arrival)
        elif self.tells_all or not (self._strangers_budget if code is _STRANGERS else self._budget).take():
            self._write(log.warning if code in _OURS else log.info, method, code, took_s, arrival)
        else:
            self._left_out += 1

    def _write(
        self, write: Callable[..., None], method: str, code: grpc.StatusCode, took_s: float, arrival: Arrival
    ) -> None:
        details: dict[str, object] = {
            "method": method,
            "code": code.name,
            "took_ms": round(1000 * took_s, 3),
            "request_id": arrival.request_id,
        }
        if arrival.caller is not None:
            details["caller"] = arrival.caller.name
        if self._left_out:
            details["lines_left_out"] = self._left_out
            self._left_out = 0
        write("call_ended", **details)
