"""How commands answer: a table or a few lines for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    Console(soft_wrap=True).print(
        json.dumps(plain(value), ensure_ascii=False, indent=2), markup=False, highlight=False, soft_wrap=True
    )


def show_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout, as they are."""
    console = Console(soft_wrap=True)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout; numbers stand to the right, a column that is empty in every row is left out."""
    rows = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    kept = [place for place in range(len(columns)) if not rows or any(row[place] not in ("", None) for row in rows)]
    for place in kept:
        numeric = all(isinstance(row[place], int | float) for row in rows) and bool(rows)
        table.add_column(columns[place], justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(row[place])) for place in kept))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)


def plain(value: Any) -> Any:
    """A value in JSON's types: messages and dataclasses become objects with every field, times ISO 8601."""
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Duration):
        return value.ToTimedelta().total_seconds()
    if isinstance(value, Message):
        return {field.name: _field(value, field) for field in value.DESCRIPTOR.fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, grpc.StatusCode | Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in value}
    if isinstance(value, str | bytes | int | float | None):
        return value
    return [plain(one) for one in value]


def _field(message: Message, field: Any) -> Any:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if field.enum_type is not None and isinstance(value, int):
        return field.enum_type.values_by_number[value].name
    return plain(value)
