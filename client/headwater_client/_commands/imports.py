"""The commands that import files: import-events, import-items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from headwater.v1.event_pb2 import Event
from headwater.v1.item_pb2 import Item
from headwater_client import Client
from headwater_client._commands.frame import EXIT_FAILED, Session, command, complain
from headwater_client._commands.output import show_json, show_lines
from headwater_client._importing import events, items
from headwater_client._importing.importer import Importer, ImportReport, Sent
from headwater_client._importing.rows import RowFile

T = TypeVar("T", bound=Message)
_CALL_TIMEOUT_S = 120.0

File = Annotated[Path, typer.Argument(help="A .csv, .jsonl or .ndjson file, or one of them with .gz.")]
MaxBadRows = Annotated[int, typer.Option(help="How many bad rows to put up with before stopping.", min=0)]


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @command(app, "import-events")
    def import_events(session: Session, file: File, max_bad_rows: MaxBadRows = 0) -> None:
        """Import past events.

        Columns: user_id (or visitor_id), item_id, timestamp (Unix seconds or ISO 8601), event_type; as wanted value,
        session_id, query, position, attribution_token, event_id; any other becomes an attribute. A row without an
        event_id gets one made of its content, so an import that is run again writes nothing twice.
        """
        timeout_s = session.timeout_s or _CALL_TIMEOUT_S

        def send(batch: list[Event]) -> Sent:
            result = session.client.write(*batch, backfill=True, timeout_s=timeout_s)
            refused = {one.index: f"{one.field}: {one.reason}" for one in result.refused}
            return Sent(result.accepted, result.duplicates, refused, result.consistency_token)

        rows = events.EventRows()
        _import(session, file, events.REQUIRED_COLUMNS, rows.event, send, max_bad_rows)

    @command(app, "import-items")
    def import_items(session: Session, file: File, max_bad_rows: MaxBadRows = 0) -> None:
        """Import items.

        Columns: item_id; as wanted title, categories (| between them), description, available, publish_time,
        expire_time; any other becomes an attribute. Known items are replaced. Texts are embedded later: new items are
        recommended from the next generation on.
        """
        send = _item_sender(session.client, session.timeout_s or _CALL_TIMEOUT_S)
        _import(session, file, items.REQUIRED_COLUMNS, items.item_of, send, max_bad_rows, lambda item: item.item_id)


def _item_sender(client: Client, timeout_s: float) -> Callable[[list[Item]], Sent]:
    def send(batch: list[Item]) -> Sent:
        result = client.upsert_items(batch, defer_features=True, timeout_s=timeout_s)
        return Sent(result.upserted, refused={one.index: f"{one.field}: {one.reason}" for one in result.refused})

    return send


def _import(
    session: Session,
    path: Path,
    required_columns: tuple[str, ...],
    convert: Callable[[Mapping[str, Any]], T],
    send: Callable[[list[T]], Sent],
    max_bad_rows: int,
    unique: Callable[[T], str] | None = None,
) -> None:
    with RowFile(path, required_columns) as rows, _progress_bar() as progress:
        task = progress.add_task(path.name, total=rows.size_bytes, rows=0)

        def on_batch(report: ImportReport) -> None:
            progress.update(task, completed=rows.read_bytes, rows=report.rows)

        importer = Importer(
            convert,
            send,
            max_bad_rows=max_bad_rows,
            on_bad_row=lambda row: complain(f"{path.name}:{row.line}: {row.reason}", progress.console),
            on_batch=on_batch,
            unique=unique,
        )
        report = importer.run(rows)
    if session.as_json:
        show_json(report)
    else:
        show_lines([f"{report.written} written, {report.duplicates} there already, {report.bad_rows} bad rows"])
    if not report.complete:
        complain(f"error: stopped after {report.bad_rows} bad rows; allow more with --max-bad-rows, run it again")
        raise typer.Exit(EXIT_FAILED)


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
