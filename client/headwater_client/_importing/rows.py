"""Reads CSV and JSON lines files, gzipped or not, row by row, with line numbers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from headwater_client.errors import HeadwaterError

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


class ImportFileError(HeadwaterError):
    """A file cannot be imported at all."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file."""

    line: int
    """The line it ends on, from 1; a CSV's header counts."""
    fields: dict[str, Any]
    """By column; strings from CSV, any JSON value from JSON lines."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be imported."""

    line: int
    """The line it ends on, from 1."""
    reason: str
    """What is wrong with it, for a person to read."""


class RowFile:
    """A file of rows: `.csv`, `.jsonl`, `.ndjson` or `.json` (one object per line), each also with `.gz`."""

    def __init__(self, path: Path, required_columns: Collection[str] = ()) -> None:
        """Opens the file.

        Args:
            path: which file.
            required_columns: what a CSV's header must name.

        Raises:
            ImportFileError: the suffix says nothing we know, or the file cannot be opened.
        """
        suffixes = [suffix.lower() for suffix in path.suffixes]
        self._zipped = suffixes[-1:] == [".gz"]
        kind = suffixes[-2:-1] if self._zipped else suffixes[-1:]
        if kind != [".csv"] and not (kind and kind[0] in _JSON_SUFFIXES):
            raise ImportFileError(f"{path}: the name must end in .csv, .jsonl or .ndjson, or one of them and .gz")
        self._is_csv = kind == [".csv"]
        self._required_columns = required_columns
        self._path = path
        try:
            self._raw: BinaryIO = path.open("rb")
            self.size_bytes = path.stat().st_size
        except OSError as error:
            raise ImportFileError(f"{path}: {error.strerror}") from error

    @property
    def read_bytes(self) -> int:
        """How much of the file is read, for a progress bar; as it lies on disk."""
        return self._raw.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.close()

    def __iter__(self) -> Iterator[Row | BadRow]:
        """The rows in order, bad ones among them.

        Raises:
            ImportFileError: the file is damaged, or its header lacks a column; earlier rows were good.
        """
        binary = gzip.GzipFile(fileobj=self._raw) if self._zipped else self._raw
        # bytes that are not UTF-8 become lone surrogates, so that they spoil their own row only
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
        try:
            yield from self._csv_rows(text) if self._is_csv else _json_rows(text)
        except (OSError, EOFError, zlib.error) as error:
            raise ImportFileError(f"{self._path}: the file is damaged: {error}") from error
        except csv.Error as error:
            raise ImportFileError(f"{self._path}: not a CSV file: {error}") from error
        finally:
            text.detach()  # else the wrapper closes the file when it goes, and read_bytes has nothing to ask

    def _csv_rows(self, text: io.TextIOWrapper) -> Iterator[Row | BadRow]:
        reader = csv.reader(text, strict=True)
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in self._required_columns if name not in header]
        if missing:
            raise ImportFileError(f"{self._path}: the header lacks the column {', '.join(missing)}")
        if len(set(header)) < len(header):
            raise ImportFileError(f"{self._path}: the header names a column twice")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                yield BadRow(reader.line_num, f"has {len(cells)} cells; the header has {len(header)}")
                continue
            yield _checked(reader.line_num, dict(zip(header, cells, strict=True)), "".join(cells))


def _json_rows(text: io.TextIOWrapper) -> Iterator[Row | BadRow]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRow(number, f"is not JSON: {error}")
            continue
        if isinstance(fields, dict):
            yield _checked(number, fields, line)
        else:
            yield BadRow(number, "is not a JSON object")


def _checked(line: int, fields: dict[str, Any], text: str) -> Row | BadRow:
    try:
        text.encode()
    except UnicodeEncodeError:
        return BadRow(line, "is not UTF-8")
    return Row(line, fields)
