"""What a gRPC channel is made with: target, options, service config, credentials. Opens nothing."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from headwater_client._calls.methods import METHODS
from headwater_client._config import KeepAliveConfig, RetryConfig, TlsConfig
from headwater_client.errors import ConfigurationError

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# A server that is replaced is found again before the next one is: gRPC's own longest pause is two minutes.
_RECONNECT_MS, _MAX_RECONNECT_MS = 100, 1_000


def target(address: str | Sequence[str]) -> str:
    """The gRPC target of one or more addresses.

    One `host:port` may be a name: all its addresses are used. Several addresses must be IPs, since gRPC resolves one
    name per channel. Anything with a scheme (`dns:///…`, `unix:…`) is passed on.

    Args:
        address: `host:port`, or several, in a list or with commas between them.

    Raises:
        ConfigurationError: the addresses cannot be used.
    """
    parts = address.split(",") if isinstance(address, str) else list(address)
    parts = [part.strip() for part in parts if part.strip()]
    if not parts:
        raise ConfigurationError("the address is empty; give host:port")
    if len(parts) == 1:
        if ":///" not in parts[0] and not parts[0].startswith(("unix:", "dns:", "ipv4:", "ipv6:")):
            _split(parts[0])
        return parts[0]
    versions = set()
    for part in parts:
        host, _ = _split(part)
        try:
            versions.add(ipaddress.ip_address(host).version)
        except ValueError:
            raise ConfigurationError(
                f"{part!r} is a name; several addresses must be IPs (or give one name that resolves to all of them)"
            ) from None
    if len(versions) > 1:
        raise ConfigurationError("give IPv4 or IPv6 addresses, not both")
    return f"ipv{versions.pop()}:{','.join(parts)}"


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def service_config(retry: RetryConfig) -> str:
    """The service config (JSON): round robin over all addresses, retries for idempotent methods only."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retry.max_attempts > 1:
        policy = {
            "maxAttempts": retry.max_attempts,
            "initialBackoff": f"{retry.initial_backoff_s:.3f}s",
            "maxBackoff": f"{retry.max_backoff_s:.3f}s",
            "backoffMultiplier": retry.backoff_multiplier,
            "retryableStatusCodes": list(retry.status_names),
        }
        names = [{"service": method.service, "method": method.name} for method in METHODS if method.idempotent]
        config["methodConfig"] = [{"name": names, "retryPolicy": policy}]
    return json.dumps(config)


def options(
    retry: RetryConfig, keep_alive: KeepAliveConfig, tls: TlsConfig | None, *, shares_connections: bool = True
) -> list[tuple[str, Any]]:
    """The channel's options. Args: shares_connections: with other channels of this process to the same address."""
    chosen: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # gRPC retries only what fits its buffer, 256 KiB unless told; a batch of events is larger
        ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
        # gRPC waits a second before it connects again; by then all tries of a call have failed
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
        ("grpc.keepalive_time_ms", int(keep_alive.interval_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(keep_alive.timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", int(keep_alive.while_idle)),
        ("grpc.service_config", service_config(retry)),
        ("grpc.service_config_disable_resolution", 1),
    ]
    if not shares_connections:
        chosen.append(("grpc.use_local_subchannel_pool", 1))
    if tls is not None and tls.server_name is not None:
        chosen.append(("grpc.ssl_target_name_override", tls.server_name))
    return chosen


def credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    """The channel's credentials, their files read.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    return grpc.ssl_channel_credentials(
        root_certificates=_read("ca_file", tls.ca_file),
        private_key=_read("key_file", tls.key_file),
        certificate_chain=_read("cert_file", tls.cert_file),
    )


def _read(name: str, path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: {path}: {error.strerror}") from error
