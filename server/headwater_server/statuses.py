"""From errors to gRPC statuses with google.rpc details: the one place that knows."""

from __future__ import annotations

from typing import NamedTuple

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from headwater_core.errors import (
    ArtifactError,
    ConflictError,
    DatabaseUnavailableError,
    HeadwaterError,
    InvalidFieldError,
    LeaseLostError,
    NotFoundError,
)
from headwater_server.errors import (
    ForbiddenError,
    LeavingError,
    LoadingError,
    NotBuiltError,
    NotReadyError,
    OverloadedError,
    UnknownCallerError,
)

_CODES: dict[type[HeadwaterError], grpc.StatusCode] = {
    InvalidFieldError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ConflictError: grpc.StatusCode.FAILED_PRECONDITION,
    LeaseLostError: grpc.StatusCode.ABORTED,
    DatabaseUnavailableError: grpc.StatusCode.UNAVAILABLE,
    ArtifactError: grpc.StatusCode.UNAVAILABLE,
    LoadingError: grpc.StatusCode.UNAVAILABLE,
    NotReadyError: grpc.StatusCode.FAILED_PRECONDITION,
    NotBuiltError: grpc.StatusCode.UNIMPLEMENTED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnknownCallerError: grpc.StatusCode.UNAUTHENTICATED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    LeavingError: grpc.StatusCode.UNAVAILABLE,
}
_DATABASE_RETRY_MS = 500
_LOADING_RETRY_MS = 500
_LEAVING_RETRY_MS = 100
"""Whoever connects anew finds another."""
_MAX_TOLD_BYTES = 768
"""Of a message or a field's name. Both travel as metadata, twice, encoded; clients take no more than 8 KiB of it."""


class Refusal(NamedTuple):
    """How a call ends that is not answered."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]


def code_of(error: HeadwaterError) -> grpc.StatusCode:
    """The status of an error raised on purpose."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.INTERNAL)


def refusal(error: HeadwaterError) -> Refusal:
    """The status, message and trailers that an error is answered with."""
    code = code_of(error)
    message = _short(str(error))
    details: list[Any] = []
    trailers: list[tuple[str, str | bytes]] = []
    if isinstance(error, InvalidFieldError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_short(error.field), description=_short(error.reason)
        )
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    retry_after_ms = 0
    if isinstance(error, OverloadedError):
        retry_after_ms = error.retry_after_ms
    elif isinstance(error, DatabaseUnavailableError):
        retry_after_ms = _DATABASE_RETRY_MS
    elif isinstance(error, LoadingError):
        retry_after_ms = _LOADING_RETRY_MS
    elif isinstance(error, LeavingError):
        retry_after_ms = _LEAVING_RETRY_MS
    if retry_after_ms:
        delay = Duration(nanos=retry_after_ms % 1000 * 1_000_000, seconds=retry_after_ms // 1000)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        trailers.append(("grpc-retry-pushback-ms", str(retry_after_ms)))
    if details:
        status = status_pb2.Status(code=code.value[0], message=message, details=details)
        trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    return Refusal(code, message, tuple(trailers))


def _short(text: str) -> str:
    content = text.encode(errors="replace")
    return text if len(content) <= _MAX_TOLD_BYTES else content[:_MAX_TOLD_BYTES].decode(errors="ignore") + "…"


def _packed(detail: error_details_pb2.BadRequest | error_details_pb2.RetryInfo) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed
