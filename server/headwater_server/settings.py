"""The server's settings. Command line > environment (`HEADWATER_…`) > default; checked once, at start."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from headwater_core.settings import CoreSettings


class ServerSettings(CoreSettings):
    """How one server answers."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """The address to listen on."""
    port: int = Field(default=8980, ge=0, le=65535)
    """The gRPC port; 0 takes a free one."""
    metrics_port: int | None = Field(default=8981, ge=0, le=65535)
    """The HTTP port of /metrics; 0 takes a free one, none (an empty variable) serves none."""
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    """The address of /metrics, which has neither TLS nor tokens."""
    admin_port: int | None = Field(default=None, ge=0, le=65535)
    """A gRPC port beside the other; set: methods of scope admin are answered there alone."""
    tls_cert_file: Path | None = None
    """PEM file of the server's certificate chain, read again when it changes; none: no TLS."""
    tls_key_file: Path | None = None
    """PEM file of its private key."""
    tls_client_ca_file: Path | None = None
    """PEM file of authorities; set: clients must show a certificate of one of them."""
    tokens_file: Path | None = None
    """Who may call, as JSON (docs/security.md), read again when it changes."""
    tokens: SecretStr | None = None
    """The same in the variable itself; none, and no file: every caller may do everything."""
    token_calls_per_s: float | None = Field(default=None, gt=0)
    """Calls a second, to each worker, of a token that has no limit of its own; none: no limit."""
    token_max_in_flight: int | None = Field(default=None, ge=1)
    """Calls and streams under way at once, in each worker, of a token that has no limit of its own; none: no limit."""
    allow_insecure: bool = False
    """Listen beyond this machine even without TLS or without authentication."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that answer on the port, a core each; each serves its metrics 10 ports above the one before."""
    max_in_flight: int = Field(default=64, ge=1)
    """Calls answered at once by a worker; more are refused with RESOURCE_EXHAUSTED and a hint when to try again."""
    retry_after_ms: int = Field(default=100, ge=1)
    """The hint, when to try again; longer where answers take longer than that."""
    tail_interval_ms: int = Field(default=40, ge=1)
    """How often the database is asked whether other processes wrote anything."""
    label_interval_ms: int = Field(default=200, ge=10)
    """How often the labels are read for new generations."""
    canary_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """The share of users, by their ids, whom the generation labelled `canary` answers while there is one."""
    lease_ttl_s: float = Field(default=30.0, gt=0)
    """How long what this server has loaded is kept from deletion after it was last heard of."""
    state_capacity: int = Field(default=100_000, ge=1)
    """User histories kept in memory."""
    batch_tokens: int = Field(default=4096, ge=1)
    """History events embedded in one batch, at most."""
    reading_memory_mib: int = Field(default=256, ge=0)
    """What the user tower made of histories is remembered up to this size, so that only new events are read."""
    torch_threads: int = Field(default=1, ge=1)
    """Threads of one embedding."""
    popularity_half_life_events: int = Field(default=20_000, ge=1)
    """After how many further events an old one counts half in what is popular."""
    fresh_every: int = Field(default=10, ge=2)
    """Of the first places, one in so many goes to a new item that fits the user."""
    fresh_every_below: int = Field(default=3, ge=2)
    """Below them, one in so many: there it costs less."""
    fresh_top_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """A new item fits when its direction is among this share of the catalogue's best for the user."""
    attribution_interval_ms: int = Field(default=1000, ge=10)
    """How often events are joined to what was shown."""
    attribution_window_s: float = Field(default=86_400.0, gt=0)
    """How long after something was shown the events on it count."""
    drain_s: float = Field(default=10.0, ge=0)
    """How long calls under way may take after SIGTERM."""
    drain_delay_s: float = Field(default=1.0, ge=0)
    """How long calls are still taken after SIGTERM, NOT_SERVING being told already, so that load balancers notice."""
    max_connection_age_s: float | None = Field(default=600.0, gt=0)
    """Clients are asked to connect anew after about so long, and so find servers that were added; none: never."""
    max_connection_age_grace_s: float | None = Field(default=None, gt=0)
    """How long calls and streams may go on over a connection that has aged; none: to their end."""
    max_connection_idle_s: float | None = Field(default=None, gt=0)
    """A connection without calls is closed after so long; none: never."""
    keepalive_interval_s: float = Field(default=60.0, ge=1)
    """How long a connection may be silent before the client is asked whether it lives."""
    keepalive_timeout_s: float = Field(default=20.0, ge=1)
    """How long to wait for its answer before the connection is given up."""
    max_ahead_s: float = Field(default=300.0, ge=0)
    """How far ahead of the server's clock an event_time may lie."""
