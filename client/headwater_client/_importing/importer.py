"""Sends the rows of a file in batches, and keeps account of the bad ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from headwater_client._importing.rows import BadRow, Row

MAX_BATCH = 1_000
MAX_BATCH_BYTES = 8 * 1024 * 1024

T = TypeVar("T", bound=Message)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a server said of one batch."""

    written: int
    duplicates: int = 0
    refused: Mapping[int, str] = field(default_factory=dict)
    """The reasons, by place in the batch."""
    consistency_token: str = ""


@dataclass(slots=True)
class ImportReport:
    """What became of a file."""

    rows: int = 0
    """Rows read, bad ones included."""
    written: int = 0
    """Rows written now."""
    duplicates: int = 0
    """Rows that had been written before."""
    bad_rows: int = 0
    """Rows that could not be used."""
    complete: bool = False
    """False: there were more bad rows than allowed, and the rest of the file was not read."""
    consistency_token: str = ""
    """Of the last write."""


class Importer(Generic[T]):
    """Imports one file."""

    def __init__(
        self,
        convert: Callable[[Mapping[str, Any]], T],
        send: Callable[[list[T]], Sent],
        *,
        max_bad_rows: int,
        on_bad_row: Callable[[BadRow], None],
        on_batch: Callable[[ImportReport], None],
        unique: Callable[[T], str] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            convert: makes a message of a row's fields, or raises ValueError.
            send: writes up to 1,000 messages.
            max_bad_rows: how many bad rows are put up with.
            on_bad_row: told of every bad row, in time.
            on_batch: told how far it is, after every batch.
            unique: what must differ between the messages of one batch.
        """
        self._convert = convert
        self._send = send
        self._max_bad_rows = max_bad_rows
        self._on_bad_row = on_bad_row
        self._on_batch = on_batch
        self._unique = unique
        self._batch: list[T] = []
        self._lines: list[int] = []
        self._keys: set[str] = set()
        self._size_bytes = 0
        self.report = ImportReport()

    def run(self, rows: Iterable[Row | BadRow]) -> ImportReport:
        """Import all rows, or as many as come before there is one bad row too many.

        Raises:
            HeadwaterError: the file is damaged or a call failed; `report` says how far it came.
        """
        for row in rows:
            self.report.rows += 1
            if isinstance(row, BadRow):
                self._refuse(row)
            else:
                self._take(row)
            if self.report.bad_rows > self._max_bad_rows:
                return self.report
        self._flush()
        self.report.complete = self.report.bad_rows <= self._max_bad_rows
        return self.report

    def _take(self, row: Row) -> None:
        try:
            message = self._convert(row.fields)
        except ValueError as error:
            self._refuse(BadRow(row.line, str(error)))
            return
        key = self._unique(message) if self._unique is not None else ""
        size_bytes = message.ByteSize()
        if len(self._batch) >= MAX_BATCH or self._size_bytes + size_bytes > MAX_BATCH_BYTES or key in self._keys:
            self._flush()
        self._batch.append(message)
        self._lines.append(row.line)
        self._size_bytes += size_bytes
        if key:
            self._keys.add(key)

    def _flush(self) -> None:
        if not self._batch:
            return
        sent = self._send(self._batch)
        self.report.written += sent.written
        self.report.duplicates += sent.duplicates
        self.report.consistency_token = sent.consistency_token or self.report.consistency_token
        for index, reason in sent.refused.items():
            self._refuse(BadRow(self._lines[index], reason))
        self._batch, self._lines, self._size_bytes = [], [], 0
        self._keys.clear()
        self._on_batch(self.report)

    def _refuse(self, row: BadRow) -> None:
        self.report.bad_rows += 1
        self._on_bad_row(row)
