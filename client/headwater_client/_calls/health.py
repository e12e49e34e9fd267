"""The call of grpc.health.v1, written by hand: two fields are not worth a dependency."""

from __future__ import annotations

from headwater_client._calls.core import Call, Method, as_is, call
from headwater_client._results import HealthStatus

_SERVICE_TAG = 0x0A  # HealthCheckRequest.service: field 1, length-delimited
_STATUS_TAG = 0x08  # HealthCheckResponse.status: field 1, varint


def encode_request(service: str) -> bytes:
    """A HealthCheckRequest.

    Raises:
        ValueError: the name is over 127 bytes.
    """
    name = service.encode()
    if len(name) > 127:  # so that its length is a varint of one byte
        raise ValueError(f"the service's name is {len(name)} bytes; the limit is 127")
    return bytes([_SERVICE_TAG, len(name)]) + name if name else b""


def decode_response(data: bytes) -> HealthStatus:
    """The status of a HealthCheckResponse; what cannot be understood is UNKNOWN, never SERVING."""
    if len(data) == 2 and data[0] == _STATUS_TAG and data[1] in {status.value for status in HealthStatus}:
        return HealthStatus(data[1])
    return HealthStatus.UNKNOWN


CHECK: Method[str, HealthStatus] = Method(
    service="grpc.health.v1.Health",
    name="Check",
    timeout_s=2,
    idempotent=True,
    serialize=encode_request,
    deserialize=decode_response,
    is_patient=False,  # that nobody answers is an answer
)


def health(service: str = "", *, timeout_s: float | None = None) -> Call[HealthStatus]:
    """Asks a server for its health: SERVING once a generation is warm.

    Args:
        service: one service, for example `headwater.v1.RecommendationService`. Default: the server as a whole.
        timeout_s: the deadline. Default 2 s.

    Raises:
        NotFoundError: the server has no such service.
        RpcError: any other failure of the call.
    """
    return call(CHECK, service, as_is, timeout_s)
