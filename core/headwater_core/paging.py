"""Reads of much, page by page: few rows are held, and no statement takes long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, tuple_

from headwater_core.database import Database

PAGE = 1_000
"""Rows read at once."""


def read_pages(
    database: Database, statement: Select[*tuple[Any, ...]], keys: Sequence[ColumnElement[Any]], first: object
) -> Iterator[Row[*tuple[Any, ...]]]:
    """A statement's rows in the order of `keys`, from where the first of these is `first`.

    What is written or erased meanwhile may be there or not.

    Args:
        database: where they are.
        statement: selects the keys, too.
        keys: columns, unique together; an index begins with the first.
        first: the least value of the first key.

    Raises:
        DatabaseUnavailableError: the database cannot be reached.
    """
    ordered = statement.order_by(*keys).limit(PAGE)
    page = ordered.where(keys[0] >= first)
    while True:
        with database.read() as connection:
            rows = connection.execute(page).all()
        yield from rows
        if len(rows) < PAGE:
            return
        place = tuple(getattr(rows[-1], str(key.key)) for key in keys)
        # The first condition alone is what the index serves.
        page = ordered.where(keys[0] >= place[0], tuple_(*keys) > place)
