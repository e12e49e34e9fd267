"""Errors: statuses, violations, retry hints."""

from __future__ import annotations

import sys
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from headwater_client import FieldViolation, InvalidArgumentError, RpcError
from headwater_client.errors import from_grpc, rpc_error


class FailedCall:
    """What grpc raises, as far as the client looks at it."""

    def __init__(self, status: grpc.StatusCode, details: str | None, trailers: Any = None) -> None:
        self.code = lambda: status
        self.details = lambda: details
        self.trailing_metadata = lambda: trailers


def packed(*messages: Any) -> tuple[tuple[str, bytes], ...]:
    details = []
    for message in messages:
        detail = AnyMessage()
        detail.Pack(message)
        details.append(detail)
    return (("grpc-status-details-bin", status_pb2.Status(code=3, details=details).SerializeToString()),)


BAD_REQUEST = error_details_pb2.BadRequest(
    field_violations=[error_details_pb2.BadRequest.FieldViolation(field="page_size", description="is -1")]
)


def test_field_violations_and_retry_hints_are_read() -> None:
    """BadRequest becomes violations, RetryInfo retry_after_s."""
    hint = error_details_pb2.RetryInfo()
    hint.retry_delay.FromMilliseconds(250)
    error = from_grpc(FailedCall(grpc.StatusCode.INVALID_ARGUMENT, "page_size: is -1", packed(BAD_REQUEST, hint)))
    assert isinstance(error, InvalidArgumentError)
    assert error.violations == (FieldViolation("page_size", "is -1"),)
    assert error.retry_after_s == 0.25
    assert str(error) == "INVALID_ARGUMENT: page_size: is -1"


def test_without_googleapis_the_message_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where google.rpc is not installed the details are passed over, and nothing breaks."""
    trailers = packed(BAD_REQUEST)
    monkeypatch.setitem(sys.modules, "google.rpc.status_pb2", None)
    error = from_grpc(FailedCall(grpc.StatusCode.INVALID_ARGUMENT, "page_size: is -1", trailers))
    assert (error.violations, error.message) == ((), "page_size: is -1")


def test_damaged_details_do_not_hide_the_error() -> None:
    """Details that do not decode leave the status and the words."""
    error = from_grpc(FailedCall(grpc.StatusCode.NOT_FOUND, "no", (("grpc-status-details-bin", b"\xff\xff"),)))
    assert (error.status, error.violations) == (grpc.StatusCode.NOT_FOUND, ())


def test_calls_without_words_or_trailers() -> None:
    """No details and no trailing metadata are fine."""
    assert str(from_grpc(FailedCall(grpc.StatusCode.CANCELLED, None))) == "CANCELLED"


def test_unknown_numbers_are_unknown() -> None:
    """A status number that gRPC does not have becomes UNKNOWN."""
    error = rpc_error(99, "what")
    assert type(error) is RpcError and error.status is grpc.StatusCode.UNKNOWN
