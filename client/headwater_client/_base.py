"""What both clients are made of, apart from I/O: settings, deadlines, metadata, and how a method is made of a call."""

from __future__ import annotations

import inspect
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from headwater_client import _channel
from headwater_client._calls.core import Call
from headwater_client._config import DEFAULT_ADDRESS, DEFAULT_TENANT, KeepAliveConfig, RetryConfig, TlsConfig, TokenHook
from headwater_client._memory import TokenMemory
from headwater_client._patience import Patience
from headwater_client._request_id import REQUEST_ID_KEY
from headwater_client.errors import ClientClosedError, ConfigurationError

P = ParamSpec("P")


class ClientBase:
    """The settings of a client, checked."""

    def __init__(
        self,
        address: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        token: str | TokenHook | None = None,
        tenant: str = DEFAULT_TENANT,
        tls: TlsConfig | None = None,
        retry: RetryConfig | None = None,
        keep_alive: KeepAliveConfig | None = None,
        timeout_s: float | None = None,
        read_your_writes: bool = False,
        connections: int = 1,
    ) -> None:
        """Nothing is connected yet: the first call does that.

        Args:
            address: `host:port`; several (IPs) in a list or with commas between them are used in turn.
            token: sent as `authorization: Bearer …`: the token, or a function that gives it, asked for every call.
                Without TLS it crosses the network readable.
            tenant: whose events and items; sent as `headwater-tenant`.
            tls: how to trust the server. Default: no TLS.
            retry: when calls are tried again, and how long a server that is away is waited for.
            keep_alive: how a dead connection is noticed.
            timeout_s: the deadline of calls that name none. Default: each method's own.
            read_your_writes: True: the client remembers the last consistency token of up to 10,000 users it wrote
                events of, and sends it along when it asks for them. False: it remembers nothing.
            connections: to each address, used in turn. A server of several workers gives each connection to one of
                them by chance: with two or three connections a worker, nearly all of them are reached.

        Raises:
            ConfigurationError: the settings cannot work.
        """
        if timeout_s is not None and timeout_s <= 0:
            raise ConfigurationError(f"timeout_s is {timeout_s}; must be above 0")
        if connections < 1:
            raise ConfigurationError(f"connections is {connections}; must be at least 1")
        self._target = _channel.target(address)
        self._retry = retry or RetryConfig()
        self._options = _channel.options(
            self._retry, keep_alive or KeepAliveConfig(), tls, shares_connections=connections == 1
        )
        self._turns = itertools.cycle(range(connections))
        self._credentials = _channel.credentials(tls) if tls is not None else None
        self._token = token
        self._tenant = tenant
        self._timeout_s = timeout_s
        self._memory = TokenMemory() if read_your_writes else None
        self._stubs: dict[tuple[int, str], Any] = {}
        """By connection and method."""
        self._channels: dict[int, Any] = {}
        self._closed = False
        self._lock = threading.Lock()

    def _before(self, call: Call[Any], *, is_patient: bool) -> Patience:
        """Make the call ready to be sent, and say how long it may go on."""
        if self._closed:
            raise ClientClosedError("the client is closed")
        if self._memory is not None:
            self._memory.apply(call.request)
        given = (timeout_s for timeout_s in (call.timeout_s, self._timeout_s) if timeout_s is not None)
        timeout_s = next(given, call.method.timeout_s)
        is_patient = is_patient and call.method.is_patient and self._retry.max_attempts > 1
        return Patience(self._retry, timeout_s, time.monotonic(), is_patient=is_patient)

    def _stub_on(self, number: int, call: Call[Any], open_channel: Callable[[], Any]) -> Any:
        """What makes the call. Args: number: of the connection.

        Raises:
            ClientClosedError: the client is closed.
        """
        if self._closed:
            raise ClientClosedError("the client is closed")
        method = call.method
        if number not in self._channels:
            self._channels[number] = open_channel()
        key = number, method.path
        if key not in self._stubs:
            self._stubs[key] = self._channels[number].unary_unary(
                method.path, request_serializer=method.serialize, response_deserializer=method.deserialize
            )
        return self._stubs[key]

    def _after(self, call: Call[Any], result: Any) -> None:
        """Learn what there is to learn from an answered call."""
        if self._memory is not None:
            self._memory.remember(call.request, result)

    def _metadata(self, token: str | None, request_id: str) -> tuple[tuple[str, str], ...]:
        metadata: tuple[tuple[str, str], ...] = ((REQUEST_ID_KEY, request_id),)
        if self._tenant != DEFAULT_TENANT:
            metadata += (("headwater-tenant", self._tenant),)
        if token:
            metadata += (("authorization", f"Bearer {token}"),)
        return metadata


def present_as(method: Any, build: Callable[..., Call[Any]]) -> None:
    """Let help() show a client's method as its builder was written: name, docstring, signature with `self`."""
    signature = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    returns = str(signature.return_annotation).removeprefix("Call[").removesuffix("]")
    method.__signature__ = signature.replace(
        parameters=[own, *signature.parameters.values()], return_annotation=returns
    )
    method.__name__ = build.__name__
    method.__qualname__ = build.__name__
    method.__doc__ = build.__doc__
