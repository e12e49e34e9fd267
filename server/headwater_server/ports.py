"""A gRPC port: its options, its services, and who may connect to it."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from headwater.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    recommendation_service_pb2,
    recommendation_service_pb2_grpc,
    strategy_service_pb2,
    strategy_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)
from headwater_core.errors import ConfigurationError
from headwater_server.admission import MAX_STREAMS
from headwater_server.health_service import MAX_WATCHERS, HealthService
from headwater_server.named_calls import make_server
from headwater_server.rooms import Rooms
from headwater_server.services.catalog_service import CatalogService
from headwater_server.services.event_service import EventService
from headwater_server.services.experiment_service import ExperimentService
from headwater_server.services.model_service import ModelService
from headwater_server.services.recommendation_service import RecommendationService
from headwater_server.services.strategy_service import StrategyService
from headwater_server.services.user_service import UserService
from headwater_server.settings import ServerSettings

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
ALWAYS_SERVING = (
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"].full_name,
    catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name,
    user_service_pb2.DESCRIPTOR.services_by_name["UserService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    strategy_service_pb2.DESCRIPTOR.services_by_name["StrategyService"].full_name,
    experiment_service_pb2.DESCRIPTOR.services_by_name["ExperimentService"].full_name,
)
RECOMMENDATION = recommendation_service_pb2.DESCRIPTOR.services_by_name["RecommendationService"].full_name
_MAX_CONCURRENT_STREAMS = 1024
"""Calls of one connection at once; a client sends more when some of them have ended."""
_CALLS_FOR_A_PLACE = 4
"""For each place among the calls in flight, so many calls may be there: answered, refused, or still being received."""
_PENDING_S = 1
"""A call that nobody has taken in after so long is cancelled."""


def make_port(
    settings: ServerSettings,
    rooms: Rooms,
    health_service: HealthService,
    interceptor: grpc.aio.ServerInterceptor,
    *,
    is_shared: bool,
) -> grpc.aio.Server:
    """A gRPC server with all services; it listens nowhere yet. Args: is_shared: other processes listen there too."""
    options = [*_fixed_options(settings.max_in_flight), *_connection_options(settings)]
    options.append(("grpc.so_reuseport", int(is_shared)))
    server = make_server([interceptor], options, _most_calls(settings.max_in_flight))
    event_service_pb2_grpc.add_EventServiceServicer_to_server(EventService(rooms), server)
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogService(rooms), server)
    user_service_pb2_grpc.add_UserServiceServicer_to_server(UserService(rooms), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(rooms), server)
    experiment_service_pb2_grpc.add_ExperimentServiceServicer_to_server(ExperimentService(rooms), server)
    strategy_service_pb2_grpc.add_StrategyServiceServicer_to_server(StrategyService(rooms), server)
    recommendation_service_pb2_grpc.add_RecommendationServiceServicer_to_server(RecommendationService(rooms), server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    names = (*ALWAYS_SERVING, RECOMMENDATION, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server


def listen(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    """Listen there; the port, which is another where 0 was asked for.

    Raises:
        ConfigurationError: the address is taken or cannot be listened on.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # of IPv6
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigurationError(f"cannot listen on {address}: {error}") from error


def _most_calls(max_in_flight: int) -> int:
    """How many calls of all kinds a port may have, those whose requests are still being received among them.

    Admission sees a call once its request is there, and refuses it with a hint; this sees it from its beginning. It is
    above all that admission and health let in, so that it meets those alone whose requests do not end.
    """
    return MAX_STREAMS + MAX_WATCHERS + _CALLS_FOR_A_PLACE * max_in_flight


def _fixed_options(max_in_flight: int) -> list[tuple[str, int]]:
    """What gRPC itself does with calls that come faster than Python can take them in: cancel some, then all.

    To refuse a call in Python takes a third of what it takes to answer one, so past a certain load only this helps.
    """
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A client may ask every 10 s whether the connection lives without being sent away.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_concurrent_streams", _MAX_CONCURRENT_STREAMS),
        ("grpc.server.max_pending_requests", max_in_flight),
        ("grpc.server.max_pending_requests_hard_limit", max_in_flight + max_in_flight // 2 + 1),
        ("grpc.server_max_unrequested_time_in_server", _PENDING_S),
    ]


def _connection_options(settings: ServerSettings) -> list[tuple[str, int]]:
    seconds = {
        "grpc.keepalive_time_ms": settings.keepalive_interval_s,
        "grpc.keepalive_timeout_ms": settings.keepalive_timeout_s,
        "grpc.max_connection_age_ms": settings.max_connection_age_s,
        "grpc.max_connection_age_grace_ms": settings.max_connection_age_grace_s,
        "grpc.max_connection_idle_ms": settings.max_connection_idle_s,
    }
    return [(name, round(1000 * value)) for name, value in seconds.items() if value is not None]
