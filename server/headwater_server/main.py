"""The `headwater-server` command."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Annotated, Any

import structlog
import threadpoolctl
import typer
from pydantic import ValidationError

from headwater_core.errors import HeadwaterError
from headwater_server import garbage
from headwater_server.access import access
from headwater_server.certificates import certificate_files
from headwater_server.exposure import check_exposure
from headwater_server.fellows import Fellows
from headwater_server.preloading import preload
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from headwater_server.workers import GIVE_UP, Workers

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)
log = structlog.get_logger(__name__)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (HEADWATER_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="gRPC port, 0 for a free one (HEADWATER_PORT).")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="HTTP port of /metrics, 0 for a free one (HEADWATER_METRICS_PORT).")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="sqlite:///file or postgresql://… (HEADWATER_DATABASE_URL).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes on the port (HEADWATER_WORKERS).")] = None,
    store_url: Annotated[
        str | None, typer.Option(help="Folder or fsspec URL of the artifact store (HEADWATER_STORE_URL).")
    ] = None,
) -> None:
    """Answer over gRPC until SIGTERM or SIGINT. Every other setting is read from HEADWATER_… variables."""
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "metrics_port": metrics_port,
        "database_url": database_url,
        "store_url": store_url,
        "workers": workers,
    }
    try:
        settings = ServerSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            typer.echo(f"headwater-server: setting {name}: {problem['msg']}", err=True)
        raise typer.Exit(2) from error
    settings.configure_logs()
    try:
        _check(settings)
        if settings.workers > 1:
            raise typer.Exit(Workers(settings, preload(settings), _work).run())
        asyncio.run(_serve(settings))
    except HeadwaterError as error:
        log.error("server_failed", reason=str(error))
        raise typer.Exit(1) from error


def _check(settings: ServerSettings) -> None:
    """Say once, and before anything is read, what every worker would find.

    Raises:
        ConfigurationError: the server may not or cannot listen as it is told to.
    """
    check_exposure(settings)
    certificate_files(settings)
    access(settings)


def _work(settings: ServerSettings, fellows: Fellows, life: int) -> int:
    structlog.contextvars.bind_contextvars(worker=fellows.number)
    try:
        asyncio.run(_serve(settings, fellows, life))
    except HeadwaterError as error:
        log.error("server_failed", reason=str(error))
        return GIVE_UP
    return 0


async def _serve(settings: ServerSettings, fellows: Fellows | None = None, life: int | None = None) -> None:
    # Python lets a thread that wants to run wait for 5 ms by default: as long as a whole answer may take.
    sys.setswitchinterval(0.0005)
    # NumPy's would be as many as there are cores, in each worker: they would fight for them.
    threadpoolctl.threadpool_limits(settings.torch_threads, user_api="blas")
    garbage.take_over()
    collecting = asyncio.create_task(garbage.collect_seldom(), name="collect-garbage")
    server = HeadwaterServer(settings, fellows=fellows)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if ended.is_set():  # whoever presses Ctrl-C again does not want to wait
            server.hurry()
        ended.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    # Of these several may come at once: a worker has its parent's, and perhaps one that went to all processes.
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    if life is not None:  # it can be read when the parent, which never writes, is gone
        loop.add_reader(life, ended.set)
    starting = asyncio.create_task(server.start(), name="start")
    ending = asyncio.create_task(ended.wait(), name="end")
    await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        await starting
        await ending
    else:  # told to end while it still waits for its database
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    if life is not None:
        loop.remove_reader(life)
    collecting.cancel()
    await server.stop()


def main() -> None:
    """Run the command."""
    app(prog_name="headwater-server")


if __name__ == "__main__":
    main()
