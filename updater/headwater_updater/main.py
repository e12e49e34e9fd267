"""The command `headwater-updater`: `run` the daemon, `bootstrap` the first generation, ask for the `status`.

`evaluate` and `rank` measure the product on files and need no database; they are in `evaluation.commands`. `ope` asks a
log what another policy would have earned; it is in `ope.command`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated

import structlog
import torch
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from headwater_core.database import Database
from headwater_core.errors import ConflictError, HeadwaterError
from headwater_core.feedback_log import FeedbackLog
from headwater_core.metrics_server import MetricsServer
from headwater_core.registry import STABLE
from headwater_updater.bootstrap import OnProgress
from headwater_updater.daemon import Updater
from headwater_updater.evaluation.commands import evaluate, rank
from headwater_updater.lease import Leadership, holder_name, now_us
from headwater_updater.metrics import UpdaterMetrics
from headwater_updater.ope.command import ope
from headwater_updater.resources import Resources
from headwater_updater.session import TrainingSession
from headwater_updater.settings import UpdaterSettings
from headwater_updater.status import Status, read_status

main = typer.Typer(
    help="Learns from the feedback log and publishes generations. Settings: environment variables HEADWATER_….",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DatabaseUrl = Annotated[str | None, typer.Option(help="SQLite or PostgreSQL [env: HEADWATER_DATABASE_URL]")]
StoreUrl = Annotated[str | None, typer.Option(help="The artifact store [env: HEADWATER_STORE_URL]")]
Tenant = Annotated[str | None, typer.Option(help="Whose data [env: HEADWATER_TENANT]")]


@main.command()
def run(database_url: DatabaseUrl = None, store_url: StoreUrl = None, tenant: Tenant = None) -> None:
    """Learn what is new and publish it, until SIGTERM or SIGINT; stands by while another updater leads."""
    with _errors_shown():
        settings = _settings(database_url=database_url, store_url=store_url, tenant=tenant)
        metrics = UpdaterMetrics()
        server = None
        if settings.updater_metrics_port is not None:
            server = MetricsServer(metrics.registry, settings.updater_metrics_port, settings.updater_metrics_host)
        resources = Resources.open(settings)
        updater = Updater(resources, settings, metrics)

        def stop(number: int, _frame: FrameType | None) -> None:
            structlog.get_logger(__name__).info("stopping", signal=signal.Signals(number).name)
            updater.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        structlog.get_logger(__name__).info("started", metrics_port=None if server is None else server.port)
        try:
            updater.run()
        finally:
            resources.close()
            if server is not None:
                server.close()


@main.command()
def bootstrap(
    database_url: DatabaseUrl = None,
    store_url: StoreUrl = None,
    tenant: Tenant = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="[env: HEADWATER_BOOTSTRAP_EPOCHS]")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="[env: HEADWATER_BOOTSTRAP_SECONDS]")] = None,
    again: Annotated[bool, typer.Option("--again", help="Train anew though there is a generation already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train the first generation on the whole log and publish it."""
    with _errors_shown():
        settings = _settings(
            database_url=database_url,
            store_url=store_url,
            tenant=tenant,
            bootstrap_epochs=epochs,
            bootstrap_seconds=seconds,
        )
        torch.set_num_threads(settings.bootstrap_threads or os.cpu_count() or 1)
        resources = Resources.open(settings)
        try:
            if not again and STABLE in resources.registry.labels():
                raise ConflictError("there is a generation already; --again trains a new one from nothing")
            leadership = Leadership.acquire(resources.registry, holder_name(), settings.updater_lease_ttl_s)
            if leadership is None:
                raise ConflictError("an updater is running; stop it first")
            with leadership, _progress_bar() as report:
                TrainingSession.bootstrap(resources, settings, UpdaterMetrics(), leadership, report)
            _show(read_status(resources.database, settings.tenant, now_us()), as_json=as_json)
        finally:
            resources.close()


@main.command()
def status(
    database_url: DatabaseUrl = None,
    tenant: Tenant = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show offset, lag, generation, metrics, rejections and who leads."""
    with _errors_shown():
        settings = _settings(database_url=database_url, tenant=tenant)
        with _database(settings) as database:
            _show(read_status(database, settings.tenant, now_us()), as_json=as_json)


@main.command()
def rejected(
    database_url: DatabaseUrl = None,
    tenant: Tenant = None,
    rule: Annotated[str, typer.Option(help="Only what this rule refused; `gate`: events of refused candidates.")] = "",
    after: Annotated[int, typer.Option(min=0, help="Only events after this position of the log.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each.")] = False,
) -> None:
    """List events that were kept but not learned, with the rule and the reason."""
    with _errors_shown():
        settings = _settings(database_url=database_url, tenant=tenant)
        with _database(settings) as database:
            log = FeedbackLog(database, settings.tenant)
            found = log.list_rejections(rule, after, limit)
            events = {each.position: each.event for each in log.read_at([each.position for each in found])}
            table = Table("position", "rule", "reason", "event", box=None)
            for each in found:
                event = events.get(each.position)
                said = "erased" if event is None else f"{event.event_type} {event.item_id or event.query}"
                line = {**each._asdict(), "event_id": event and event.event_id, "event": said}
                if as_json:
                    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
                table.add_row(str(each.position), each.rule, each.reason, said)
            if not as_json:
                Console().print(table)


@contextmanager
def _database(settings: UpdaterSettings) -> Iterator[Database]:
    """The database as it is: who only asks must not migrate it under servers of an older release."""
    database = Database(settings.database_url)
    try:
        database.check_schema()
        yield database
    finally:
        database.close()


def _settings(**given: object) -> UpdaterSettings:
    """The settings, the command line's over the environment's; logs and threads are set up by them."""
    settings = UpdaterSettings.model_validate({name: value for name, value in given.items() if value is not None})
    settings.configure_logs()
    torch.set_num_threads(settings.training_threads)
    return settings


@contextmanager
def _errors_shown() -> Iterator[None]:
    """What the caller can mend is one line and exit status 1."""
    try:
        yield
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        typer.echo(f"error: settings: {problems}", err=True)
        raise typer.Exit(1) from None
    except (HeadwaterError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _progress_bar() -> Iterator[OnProgress]:
    columns = TextColumn("{task.description:<15}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        tasks: dict[str, int] = {}

        def report(stage: str, share: float) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    progress.update(task, completed=1.0)  # type: ignore[arg-type]
                tasks[stage] = progress.add_task(stage, total=1.0)
            progress.update(tasks[stage], completed=share)  # type: ignore[arg-type]

        yield report


def _show(found: Status, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found.to_dict()) + "\n")
        return
    table = Table(show_header=False, box=None)
    published = "never"
    if found.publish_time_us is not None:
        published = datetime.fromtimestamp(found.publish_time_us / 1_000_000, UTC).isoformat(timespec="seconds")
    rows = {
        "generation": "none yet" if found.generation is None else str(found.generation),
        "canary": "none" if found.canary is None else str(found.canary),
        "published": published,
        "items": f"{found.item_count or 0}, {found.items_waiting} waiting for the next generation",
        "offset": f"{found.offset} of {found.head}, {found.lag} behind",
        "leader": found.leader or "none: no updater is running",
        **{name: f"{value:.4g}" for name, value in sorted(found.metrics.items())},
        **{f"rejected: {rule}": str(count) for rule, count in sorted(found.rejections.items())},
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


for command in (evaluate, rank, ope):
    main.command()(_errors_shown()(command))
