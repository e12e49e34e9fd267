"""The errors that the client raises.

HeadwaterError
├── ConfigurationError        the client was set up in a way that cannot work
├── ClientClosedError         the client or the writer was closed, before the call or during it
├── EventsRefusedError        the server refused events, one by one; the others are written
└── RpcError                  a call failed as a whole; `status` says how
    ├── InvalidArgumentError      the request is at fault; `violations` name the fields
    ├── NotFoundError             what was asked for does not exist
    ├── AlreadyExistsError        the id is taken by something else
    ├── FailedPreconditionError   not now: no generation is loaded, a label moved, …
    ├── UnauthenticatedError      no token, or one that is not accepted
    ├── PermissionDeniedError     the token does not allow this
    ├── UnimplementedError        the server does not offer this
    ├── ResourceExhaustedError    the server is at its limit, or the message is too large
    ├── UnavailableError          the server cannot be reached, or cannot answer now
    ├── DeadlineExceededError     no answer in time
    └── InternalError             the server has a bug

Every other status is a plain `RpcError`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from headwater_client._request_id import REQUEST_ID_KEY

if TYPE_CHECKING:
    from headwater_client._results import RefusedEvent

_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that the server refused."""

    field: str
    """The path to the value, for example `filter.categories[3]`."""
    reason: str
    """What is wrong with it, for a person to read."""


class HeadwaterError(Exception):
    """The root of every error that the client raises on purpose."""


class ConfigurationError(HeadwaterError):
    """The client was set up in a way that cannot work."""


class ClientClosedError(HeadwaterError):
    """The client or the writer was closed, before the call or during it."""


class EventsRefusedError(HeadwaterError):
    """The server refused some events of a call; the others are written."""

    def __init__(self, refused: Sequence[RefusedEvent]) -> None:
        """Args: refused: the events that were refused, at least one."""
        first = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        super().__init__(f"event {first.event_id or first.index} was refused: {first.field}: {first.reason}{more}")
        self.refused = tuple(refused)


class RpcError(HeadwaterError):
    """A call failed as a whole."""

    def __init__(
        self,
        status: grpc.StatusCode,
        message: str,
        *,
        violations: Iterable[FieldViolation] = (),
        retry_after_s: float | None = None,
        request_id: str = "",
        is_final: bool = False,
    ) -> None:
        """Args: status: what the call ended with; message: the server's words; violations: the fields at fault, where
        the server named them; retry_after_s: how long the server asks to wait before the next try, where it said so;
        request_id: what the call goes by in the server's log; is_final: whether it asked for no other try."""
        super().__init__(f"{status.name}: {message}" if message else status.name)
        self.status = status
        self.message = message
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.is_final = is_final


class InvalidArgumentError(RpcError):
    """The request is at fault; `violations` name the fields where the server did."""


class NotFoundError(RpcError):
    """What was asked for does not exist."""


class AlreadyExistsError(RpcError):
    """The id is taken by something else."""


class FailedPreconditionError(RpcError):
    """The server's state does not allow this now: no generation is loaded, a label moved, …"""


class UnauthenticatedError(RpcError):
    """The call carried no token, or one that is not accepted."""


class PermissionDeniedError(RpcError):
    """The token does not allow this."""


class UnimplementedError(RpcError):
    """The server does not offer this."""


class ResourceExhaustedError(RpcError):
    """The server is at its limit, or a message is larger than 16 MiB.

    A server with no time even to say so cancels what waits: a CANCELLED call that nobody here cancelled means the same.
    """


class UnavailableError(RpcError):
    """The server cannot be reached, or cannot answer now; trying again may help."""


class DeadlineExceededError(RpcError):
    """No answer came in time; a write may or may not have been done."""


class InternalError(RpcError):
    """The server has a bug."""


_ERROR_OF_STATUS: dict[grpc.StatusCode, type[RpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.CANCELLED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.INTERNAL: InternalError,
}
_STATUS_OF_NUMBER: dict[int, grpc.StatusCode] = {status.value[0]: status for status in grpc.StatusCode}


def rpc_error(status: grpc.StatusCode | int, message: str, **details: Any) -> RpcError:
    """The error class of a status, made; an unknown number counts as UNKNOWN."""
    if isinstance(status, int):
        status = _STATUS_OF_NUMBER.get(status, grpc.StatusCode.UNKNOWN)
    return _ERROR_OF_STATUS.get(status, RpcError)(status, message, **details)


def from_grpc(error: Any, request_id: str = "") -> RpcError:
    """What a failed grpc or grpc.aio call means.

    Args:
        error: a `grpc.RpcError` that came out of a call: it has code(), details() and trailing_metadata().
        request_id: what the call was sent with; the server may have another name for it.
    """
    trailers = dict(error.trailing_metadata() or ())
    violations, retry_after_s = _read_details(trailers.get(_DETAILS_KEY))
    pushback_ms = _read_pushback(trailers.get(_PUSHBACK_KEY))
    is_final = pushback_ms is not None and pushback_ms < 0
    if retry_after_s is None and pushback_ms is not None and not is_final:
        retry_after_s = pushback_ms / 1000
    return rpc_error(
        error.code(),
        error.details() or "",
        violations=violations,
        retry_after_s=retry_after_s,
        request_id=str(trailers.get(REQUEST_ID_KEY, request_id)),
        is_final=is_final,
    )


def _read_pushback(text: Any) -> int | None:
    """What gRPC itself heeds, in milliseconds: negative forbids another try; None where nothing was said."""
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _read_details(packed: Any) -> tuple[list[FieldViolation], float | None]:
    """BadRequest and RetryInfo of the status details; nothing where googleapis-common-protos is not installed."""
    violations: list[FieldViolation] = []
    retry_after_s: float | None = None
    if not isinstance(packed, bytes):
        return violations, retry_after_s
    try:
        status_pb2 = importlib.import_module("google.rpc.status_pb2")
        details_pb2 = importlib.import_module("google.rpc.error_details_pb2")
    except ImportError:
        return violations, retry_after_s  # optional: the message says the same in words
    bad_request, retry_info = details_pb2.BadRequest(), details_pb2.RetryInfo()
    try:
        for detail in status_pb2.Status.FromString(packed).details:
            if detail.Unpack(bad_request):
                violations.extend(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
            elif detail.Unpack(retry_info):
                retry_after_s = retry_info.retry_delay.ToTimedelta().total_seconds()
    except DecodeError:
        return violations, retry_after_s  # damaged details must not hide the error that they belong to
    return violations, retry_after_s
