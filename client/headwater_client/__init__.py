"""The Headwater client: write what users do, ask what to show next.

    from headwater_client import Client, event

    with Client("127.0.0.1:8980") as client:
        written = client.write(event("like", user_id="ada", item_id="42")).raise_for_refused()
        for item in client.recommend(user_id="ada", min_consistency_token=written.consistency_token):
            print(item.rank, item.item_id, item.score)

`AsyncClient` has the same methods, awaited. `EventWriter` and `AsyncEventWriter` write events in batches.
`headwater_client.testing` has a fake server for tests. The library needs grpcio and protobuf only.
"""

from headwater.v1.event_pb2 import Event, EventType
from headwater.v1.item_pb2 import Item
from headwater.v1.recommendation_service_pb2 import Explanation, ExplanationKind, RecommendRequest
from headwater_client._async_client import AsyncClient
from headwater_client._async_writer import AsyncEventWriter
from headwater_client._client import Client
from headwater_client._config import KeepAliveConfig, RetryConfig, TlsConfig
from headwater_client._messages import event, item
from headwater_client._request_id import request_id
from headwater_client._results import (
    HealthStatus,
    Recommendation,
    Recommendations,
    RefusedEvent,
    RefusedItem,
    ScoredItem,
    ScoredItems,
    UpsertResult,
    WriteResult,
)
from headwater_client._uuid7 import uuid7
from headwater_client._writer import EventWriter
from headwater_client._writer_state import WriteFailure, WriterConfig
from headwater_client.errors import (
    AlreadyExistsError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    EventsRefusedError,
    FailedPreconditionError,
    FieldViolation,
    HeadwaterError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    RpcError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)

__all__ = [
    "AlreadyExistsError",
    "AsyncClient",
    "AsyncEventWriter",
    "Client",
    "ClientClosedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "Event",
    "EventType",
    "EventWriter",
    "EventsRefusedError",
    "Explanation",
    "ExplanationKind",
    "FailedPreconditionError",
    "FieldViolation",
    "HeadwaterError",
    "HealthStatus",
    "InternalError",
    "InvalidArgumentError",
    "Item",
    "KeepAliveConfig",
    "NotFoundError",
    "PermissionDeniedError",
    "RecommendRequest",
    "Recommendation",
    "Recommendations",
    "RefusedEvent",
    "RefusedItem",
    "ResourceExhaustedError",
    "RetryConfig",
    "RpcError",
    "ScoredItem",
    "ScoredItems",
    "TlsConfig",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UpsertResult",
    "WriteFailure",
    "WriteResult",
    "WriterConfig",
    "event",
    "item",
    "request_id",
    "uuid7",
]
