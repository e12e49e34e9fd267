"""How a client reaches its servers: retries, keepalive, TLS, tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from headwater_client.errors import ConfigurationError

TokenHook: TypeAlias = Callable[[], str | Awaitable[str]]
"""Gives the bearer token of one call; asked anew for every call, so it may rotate. It must not take long: cache.
Only `AsyncClient` takes a coroutine function."""

DEFAULT_ADDRESS = "127.0.0.1:8980"
DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """When an idempotent call is tried again; a server's own hint (`grpc-retry-pushback-ms`) replaces the backoff."""

    max_attempts: int = 4
    """Tries in all, the first one included; 1 means no retries, and gRPC itself caps it at 5."""
    initial_backoff_s: float = 0.1
    """The longest wait before the first retry; the wait is random from 80 % to 120 % of it. At least 0.01."""
    max_backoff_s: float = 2.0
    """No wait is longer than this."""
    backoff_multiplier: float = 2.0
    """By what the wait grows from one retry to the next."""
    status_names: tuple[str, ...] = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED")
    """The gRPC statuses that are worth another try; a server far past its capacity cancels what it cannot take in."""
    patience_s: float = 30.0
    """So long, and never past its deadline, a call goes on being tried after gRPC's own tries while every server is
    unavailable: one restarts, or its database does. A call that is not idempotent waits so long for a connection, and
    is sent once. 0: gRPC's own tries are all."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 5:
            raise ConfigurationError(f"max_attempts is {self.max_attempts}; gRPC allows 1 to 5")
        # with backoffs of 1 ms gRPC loses its retry timer and the call hangs to its deadline: grpc/grpc issue 41036
        if not 0.01 <= self.initial_backoff_s <= self.max_backoff_s:
            raise ConfigurationError("initial_backoff_s must be at least 0.01 and at most max_backoff_s")
        if self.backoff_multiplier < 1:
            raise ConfigurationError("backoff_multiplier must be at least 1")
        if self.patience_s < 0:
            raise ConfigurationError(f"patience_s is {self.patience_s}; must not be below 0")


@dataclass(frozen=True, slots=True)
class KeepAliveConfig:
    """How a dead connection is noticed while calls are under way."""

    interval_s: float = 330.0
    """How long a connection may be silent before it is pinged. gRPC servers take pings more often than every 300 s for
    abuse and answer GOAWAY `too_many_pings`; go lower only where the server's settings permit it."""
    timeout_s: float = 20.0
    """How long to wait for the answer to a ping before the connection is given up."""
    while_idle: bool = False
    """Whether to ping with no call under way; most servers refuse that."""

    def __post_init__(self) -> None:
        if self.interval_s < 10:
            raise ConfigurationError(f"interval_s is {self.interval_s}; below 10 s gRPC raises it to 10 s anyway")
        if self.timeout_s <= 0:
            raise ConfigurationError("timeout_s must be above 0")


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """How the server is trusted, and how this client shows who it is."""

    ca_file: Path | str | None = None
    """PEM file of the authorities to trust. Default: those of gRPC."""
    cert_file: Path | str | None = None
    """PEM file of the client's certificate chain, for mutual TLS; together with key_file."""
    key_file: Path | str | None = None
    """PEM file of the client's private key."""
    server_name: str | None = None
    """The name to expect in the server's certificate. Default: the host of the address."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigurationError("cert_file and key_file belong together")
