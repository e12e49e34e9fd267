"""Failed calls are logged, no more of them than somebody could read, and nothing of what was sent."""

from __future__ import annotations

import grpc
import structlog

from headwater_server.arrivals import Arrival
from headwater_server.call_log import CallLog

ARRIVAL = Arrival("web-17", None, "Bearer S3cr3t", has_own_id=True, wants_timing=False)


def test_failed_calls_are_told_and_a_flood_of_them_is_counted() -> None:
    """Who is at fault decides the level; the next line says how many were left out."""
    now_s = 0.0
    log = CallLog(tells_all=False, per_s=2, now_s=lambda: now_s)
    with structlog.testing.capture_logs() as lines:
        for _ in range(10):
            log.tell("Recommend", grpc.StatusCode.RESOURCE_EXHAUSTED, 0.001, ARRIVAL)
        now_s += 10.0
        log.tell("Recommend", grpc.StatusCode.UNAVAILABLE, 0.0015, ARRIVAL)
    assert [line["log_level"] for line in lines] == ["info", "info", "warning"]
    assert lines[2] == {
        "event": "call_ended",
        "log_level": "warning",
        "method": "Recommend",
        "code": "UNAVAILABLE",
        "took_ms": 1.5,
        "request_id": "web-17",
        "lines_left_out": 8,
    }
    assert "S3cr3t" not in str(lines)


def test_whoever_wants_all_gets_all() -> None:
    """At debug nothing is left out."""
    log = CallLog(tells_all=True, per_s=1)
    with structlog.testing.capture_logs() as lines:
        for code in (grpc.StatusCode.OK, *[grpc.StatusCode.NOT_FOUND] * 5):
            log.tell("GetItems", code, 0.0, ARRIVAL)
    assert [line["code"] for line in lines] == ["OK", *["NOT_FOUND"] * 5]
    assert lines[0]["log_level"] == "debug"


def test_a_flood_of_strangers_hides_nobody_elses_calls() -> None:
    """Whoever is not let in has a budget of their own."""
    log = CallLog(tells_all=False, per_s=2, now_s=lambda: 0.0)
    with structlog.testing.capture_logs() as lines:
        for _ in range(10):
            log.tell("Recommend", grpc.StatusCode.UNAUTHENTICATED, 0.0, ARRIVAL)
        log.tell("SetLabel", grpc.StatusCode.PERMISSION_DENIED, 0.0, ARRIVAL)
    assert [line["code"] for line in lines] == ["UNAUTHENTICATED", "UNAUTHENTICATED", "PERMISSION_DENIED"]
    assert lines[2]["lines_left_out"] == 8
