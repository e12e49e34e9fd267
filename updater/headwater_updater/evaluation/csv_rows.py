"""Reads CSV files, gzipped or not, row by row; what cannot be used is counted and told with its line."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar

from headwater_core.errors import HeadwaterError, InvalidFieldError

_SHOWN_BAD_ROWS = 5
_PROGRESS_ROWS = 10_000

T = TypeVar("T")

OnShare = Callable[[float], None]
"""Told what share is done, 0 to 1."""


class DataFileError(HeadwaterError):
    """A file cannot be evaluated on."""

    def __init__(self, path: Path, reason: str) -> None:
        """Args: path: which file; reason: what is wrong with it."""
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class _Reader(Protocol):
    """What `csv.reader(…)` is; the standard library does not name it."""

    @property
    def line_num(self) -> int: ...

    def __next__(self) -> list[str]: ...


@dataclass(slots=True)
class Rows(Generic[T]):
    """What a file holds."""

    columns: frozenset[str]
    values: list[T] = field(default_factory=list)
    """Of the good rows, in the file's order."""
    n_bad: int = 0


def read_rows(
    path: Path,
    required: Collection[str],
    convert: Callable[[int, Mapping[str, str]], T],
    max_bad_rows: int,
    on_share: OnShare | None = None,
) -> Rows[T]:
    """Read a CSV file with a header; a name that ends in .gz is a gzipped one.

    Args:
        path: which file.
        required: columns that the header must name.
        convert: makes a value of a row's line (the one it ends on, from 1) and cells by column; ValueError or
            InvalidFieldError says why it cannot.
        max_bad_rows: how many rows that cannot be used are put up with.
        on_share: told how far it is.

    Raises:
        DataFileError: the file cannot be read, lacks a column, has too many bad rows, or no good one.
    """
    bad: list[str] = []
    n_bad = 0
    try:
        with path.open("rb") as raw:
            size_bytes = max(path.stat().st_size, 1)
            reader = csv.reader(_text(path, raw), strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, required)
            rows: Rows[T] = Rows(frozenset(header))
            for index, (line, cells) in enumerate(_lines(reader)):
                if on_share is not None and index % _PROGRESS_ROWS == 0:
                    on_share(min(raw.tell() / size_bytes, 1.0))
                try:
                    rows.values.append(convert(line, _fields(header, cells)))
                except (ValueError, InvalidFieldError) as error:
                    n_bad += 1
                    if len(bad) < _SHOWN_BAD_ROWS:
                        bad.append(f"line {line}: {error}")
    except csv.Error as error:
        raise DataFileError(path, f"its header is no CSV: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"is damaged: {error}"
        raise DataFileError(path, reason) from error
    if n_bad > max_bad_rows:
        more = "" if n_bad == len(bad) else f"; and {n_bad - len(bad)} more"
        shown = "; ".join(bad) + more
        raise DataFileError(path, f"{n_bad} rows cannot be used, --max-bad-rows allows {max_bad_rows}: {shown}")
    if not rows.values:
        raise DataFileError(path, "holds no rows that can be used" if n_bad else "holds a header and no rows")
    rows.n_bad = n_bad
    return rows


def number(name: str, shown: str) -> float:
    """The finite number that a cell shows.

    Raises:
        ValueError: it shows none; names the column.
    """
    try:
        value = float(shown)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: {shown[:40]!r} is not a number")
    return value


def _text(path: Path, raw: BinaryIO) -> io.TextIOWrapper:
    binary = gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw
    # Bytes that are not UTF-8 become lone surrogates, so that they spoil their own row only.
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _check_header(path: Path, header: list[str], required: Collection[str]) -> None:
    if not any(header):
        raise DataFileError(path, "is empty: not even a header")
    missing = [name for name in required if name not in header]
    if missing:
        raise DataFileError(path, f"lacks the column {', '.join(missing)}; its header is {','.join(header)[:200]}")
    if len(set(header)) < len(header):
        raise DataFileError(path, "its header names a column twice")


def _lines(reader: _Reader) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """The rows and their lines; where quotes do not match, the error instead of the row. Empty lines are skipped."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, error
            continue
        if cells:
            yield reader.line_num, cells


def _fields(header: list[str], cells: list[str] | csv.Error) -> Mapping[str, str]:
    """The cells by column.

    Raises:
        ValueError: they cannot be read.
    """
    if isinstance(cells, csv.Error):
        raise ValueError(f"is no CSV: {cells}")
    if len(cells) != len(header):
        raise ValueError(f"has {len(cells)} cells; the header has {len(header)}")
    joined = "".join(cells)
    if not joined.isascii():
        try:
            joined.encode()
        except UnicodeEncodeError:
            raise ValueError("is not UTF-8") from None
    return dict(zip(header, cells, strict=True))
