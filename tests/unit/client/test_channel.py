"""Targets, service config, settings: what a channel is made with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater_client import Client, ConfigurationError, KeepAliveConfig, RetryConfig, TlsConfig, WriterConfig
from headwater_client import _channel as channel
from headwater_client._calls.methods import METHODS


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:8980", "127.0.0.1:8980"),
        ("recommender.internal:8980", "recommender.internal:8980"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
        ("dns:///a:1", "dns:///a:1"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
    ],
)
def test_addresses_become_targets(address: str | list[str], target: str) -> None:
    """One address may be a name, several are IPs, schemes are passed on."""
    assert channel.target(address) == target


@pytest.mark.parametrize(
    "address", ["", "host", "host:0", "host:70000", "host:x", ":1", "a:1,b:2", "1.1.1.1:1,[::1]:1"]
)
def test_addresses_that_cannot_work_are_refused(address: str) -> None:
    """A bad address is a ConfigurationError when the client is made, not a failing call."""
    with pytest.raises(ConfigurationError):
        Client(address)


def test_only_idempotent_methods_are_retried() -> None:
    """The service config names every idempotent method, and none that would do something twice."""
    config = json.loads(channel.service_config(RetryConfig(max_attempts=3, initial_backoff_s=0.25)))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    (entry,) = config["methodConfig"]
    assert entry["retryPolicy"]["maxAttempts"] == 3 and entry["retryPolicy"]["initialBackoff"] == "0.250s"
    retried = {name["method"] for name in entry["name"]}
    assert {"WriteEvents", "Recommend", "UpsertItems", "Check"} <= retried
    assert (
        not {"Rollback", "SetLabel", "PutStrategy", "DeleteStrategy", "DeleteUser", "DeleteEvents", "DeleteItems"}
        & retried
    )
    assert "methodConfig" not in json.loads(channel.service_config(RetryConfig(max_attempts=1)))


def test_every_method_has_a_deadline() -> None:
    """No method may wait for ever."""
    assert len(METHODS) == 35
    assert all(method.timeout_s > 0 for method in METHODS)


def test_pings_are_not_faster_than_servers_allow() -> None:
    """gRPC servers take pings more often than every 300 s for abuse."""
    assert KeepAliveConfig().interval_s >= 300 and not KeepAliveConfig().while_idle


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (RetryConfig, {"max_attempts": 0}),
        (RetryConfig, {"initial_backoff_s": 0.001}),  # gRPC loses calls at such backoffs
        (RetryConfig, {"initial_backoff_s": 2, "max_backoff_s": 1}),
        (RetryConfig, {"backoff_multiplier": 0.5}),
        (KeepAliveConfig, {"interval_s": 1}),
        (KeepAliveConfig, {"timeout_s": 0}),
        (TlsConfig, {"cert_file": "a.pem"}),
        (WriterConfig, {"max_batch": 0}),
        (WriterConfig, {"max_batch": 20_000, "max_queue": 20_000}),
        (WriterConfig, {"max_queue": 1}),
        (WriterConfig, {"max_wait_ms": -1}),
        (WriterConfig, {"when_full": "explode"}),
        (WriterConfig, {"initial_backoff_s": 0}),
    ],
)
def test_settings_that_cannot_work_are_refused(config: type, options: dict[str, object]) -> None:
    """Settings are checked when they are made."""
    with pytest.raises(ConfigurationError):
        config(**options)


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    """The error says which setting names a file that cannot be read."""
    with pytest.raises(ConfigurationError, match="ca_file"):
        Client("127.0.0.1:1", tls=TlsConfig(ca_file=tmp_path / "none.pem"))


def test_a_timeout_that_is_no_time_is_refused() -> None:
    """A deadline of zero would fail every call."""
    with pytest.raises(ConfigurationError):
        Client("127.0.0.1:1", timeout_s=0)
