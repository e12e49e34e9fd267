"""What every command has in common: how to reach the server, how errors end it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, ParamSpec

import typer
from rich.console import Console

from headwater_client import (
    Client,
    ConfigurationError,
    DeadlineExceededError,
    HeadwaterError,
    TlsConfig,
    UnavailableError,
)
from headwater_client._config import DEFAULT_ADDRESS
from headwater_client._importing.rows import ImportFileError

EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 2, 3, 130

P = ParamSpec("P")
_PANEL = "Connection and output"


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command."""

    client: Client
    """Connected to the server of --address."""
    as_json: bool
    """Whether the answer goes out as JSON."""
    timeout_s: float | None
    """--timeout, None when it was not given."""


def _connection_options(
    address: Annotated[
        str,
        typer.Option(envvar="HEADWATER_ADDRESS", help="host:port; several IPs with commas.", rich_help_panel=_PANEL),
    ] = DEFAULT_ADDRESS,
    token: Annotated[
        str | None, typer.Option(envvar="HEADWATER_TOKEN", help="Bearer token.", rich_help_panel=_PANEL)
    ] = None,
    tenant: Annotated[
        str, typer.Option(envvar="HEADWATER_TENANT", help="Whose data.", rich_help_panel=_PANEL)
    ] = "default",
    tls_ca: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWATER_TLS_CA",
            help="PEM file of the authorities to trust; turns TLS on. `system`: gRPC's own.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    tls_cert: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWATER_TLS_CLIENT_CERT",
            help="PEM file of this client's certificate, where the server asks for one.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(envvar="HEADWATER_TLS_CLIENT_KEY", help="PEM file of its key.", rich_help_panel=_PANEL),
    ] = None,
    tls_server_name: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWATER_TLS_SERVER_NAME",
            help="Name in the server's certificate, if not that of the address.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for each answer.", min=0.001, rich_help_panel=_PANEL)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.", rich_help_panel=_PANEL)] = False,
) -> Session:
    ca_file = None if tls_ca == "system" else tls_ca
    tls = (
        TlsConfig(ca_file, tls_cert, tls_key, tls_server_name)
        if tls_ca or tls_cert or tls_key or tls_server_name
        else None
    )
    client = Client(address, token=token, tenant=tenant, tls=tls, timeout_s=timeout)
    return Session(client, as_json, timeout)


_CONNECTION = inspect.signature(_connection_options, eval_str=True).parameters


def command(app: typer.Typer, name: str) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[..., None]]:
    """Register a function as a command: it gets a Session first, its options gain those of the connection.

    Whatever the client raises on purpose ends the command with one line on stderr and an exit code, never a traceback.
    """

    def register(function: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        @functools.wraps(function)
        def run(**options: Any) -> None:
            connection = {key: options.pop(key) for key in _CONNECTION}
            try:
                session = _connection_options(**connection)
                with session.client:
                    function(session, **options)  # type: ignore[call-arg]
            except (HeadwaterError, ValueError) as error:
                fail(error, address=connection["address"])
            except KeyboardInterrupt:
                raise typer.Exit(EXIT_INTERRUPTED) from None
            except BrokenPipeError:
                sys.stderr.close()  # else Python complains at exit that stdout cannot be flushed
                raise typer.Exit(EXIT_FAILED) from None

        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *_CONNECTION.values())
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return app.command(name)(run)

    return register


def fail(error: Exception, *, address: str) -> None:
    """End the command: say in one line what went wrong.

    Raises:
        typer.Exit: always.
    """
    message = str(error)
    code = EXIT_FAILED
    if isinstance(error, UnavailableError | DeadlineExceededError):
        message, code = f"{address} does not answer ({message})", EXIT_UNREACHABLE
    elif isinstance(error, ConfigurationError | ImportFileError | ValueError):
        code = EXIT_USAGE
    complain(f"error: {message}")
    raise typer.Exit(code) from None


def complain(message: str, console: Console | None = None) -> None:
    """Say something on stderr, in one line; on the console of a progress bar while one is shown."""
    line = " ".join(message.split())
    (console or Console(stderr=True)).print(line, markup=False, highlight=False, soft_wrap=True)
