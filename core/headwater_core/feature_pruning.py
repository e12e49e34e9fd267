"""Forgets the features of texts that no item has any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, delete, select, tuple_

from headwater_core.catalogue import REVISION, Catalogue, Item
from headwater_core.database import Database, advance, chunks
from headwater_core.repeating import repeated
from headwater_core.schema import items, text_features

_Marks = NDArray[np.uint64]
_TEXT = items.c.item_id, items.c.title, items.c.description, items.c.categories


class PruningStep(NamedTuple):
    """What a step came to."""

    gone: int
    """How many rows went."""
    is_last: bool
    """Whether that was all there is to prune now."""


class FeaturePruning:
    """Prunes the text features of one tenant, a little at a time. Use it from one thread.

    Which texts are in use only the catalogue's items tell: first all of them are read, then all that is stored is held
    against them. What items have become meanwhile is read before anything goes, while nobody can change them: a text
    that comes back later finds its features gone and they are computed anew.
    """

    def __init__(self, database: Database, tenant: str = "default") -> None:
        """Nothing is read yet."""
        self._database, self._tenant = database, tenant
        self._catalogue = Catalogue(database, tenant)
        self._begin()

    def _begin(self) -> None:
        self._revision: int | None = None  # up to where changes of items are known; None: no item was read
        self._item_id = ""  # the last that was read
        self._found: list[_Marks] = []
        self._used: _Marks | None = None  # of all items, sorted; None: they are still being read
        self._row = ("", b"")  # the last encoder and hash that was held against them

    def step(self, limit: int) -> PruningStep:
        """Read so many items, or look at so many stored features and delete those that no item has.

        Raises:
            DatabaseUnavailableError: when the database cannot be reached; the next step goes on from here.
        """
        if self._used is None:
            self._read_items(limit)
            return PruningStep(0, is_last=False)
        if self._follow(limit):
            return PruningStep(0, is_last=False)
        rows, gone = self._delete(self._used, limit)
        if len(rows) < limit:
            self._begin()
            return PruningStep(gone, is_last=True)
        self._row = rows[-1]
        return PruningStep(gone, is_last=False)

    def _read_items(self, limit: int) -> None:
        if self._revision is None:
            self._revision = self._catalogue.revision()
        statement = (
            select(*_TEXT)
            .where(items.c.tenant == self._tenant, items.c.item_id > self._item_id, items.c.deleted.is_(False))
            .order_by(items.c.item_id)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        self._found.append(_marks(_text_hash(row) for row in rows))
        if len(rows) < limit:
            self._used, self._found = np.unique(np.concatenate(self._found)), []
        else:
            self._item_id = rows[-1].item_id

    def _follow(self, limit: int) -> bool:
        """Read what items have become; whether there may be more than a page of it."""
        assert self._revision is not None
        assert self._used is not None
        changes = self._catalogue.changes_after(self._revision, limit)
        if changes:
            texts = _marks(change.item.text_hash() for change in changes if change.item is not None)
            self._used, self._revision = np.union1d(self._used, texts), changes[-1].revision
        return len(changes) == limit

    @repeated
    def _delete(self, used: _Marks, limit: int) -> tuple[Sequence[tuple[str, bytes]], int]:
        """The next rows that were looked at, and how many of them went."""
        key = text_features.c.encoder, text_features.c.text_hash
        ours = text_features.c.tenant == self._tenant
        after = tuple_(*key) > tuple_(*self._row)
        with self._database.write() as connection:
            # From here to the commit the catalogue is as it is.
            if advance(connection, self._tenant, REVISION, 0) > (self._revision or 0):
                used = np.union1d(used, self._changed(connection))
            found = connection.execute(select(*key).where(ours, after).order_by(*key).limit(limit))
            rows = [(row.encoder, row.text_hash) for row in found]
            is_used = _holds(used, _marks(text_hash for _, text_hash in rows))
            doomed = [row for row, kept in zip(rows, is_used, strict=True) if not kept]
            for chunk in chunks(doomed):
                connection.execute(delete(text_features).where(ours, tuple_(*key).in_(chunk)))
        return rows, len(doomed)

    def _changed(self, connection: Connection) -> _Marks:
        statement = select(*_TEXT).where(
            items.c.tenant == self._tenant, items.c.revision > self._revision, items.c.deleted.is_(False)
        )
        return _marks(_text_hash(row) for row in connection.execute(statement))


def _text_hash(row: Row[*tuple[Any, ...]]) -> bytes:
    return Item(row.item_id, row.title, row.description, tuple(row.categories)).text_hash()


def _marks(hashes: Iterable[bytes]) -> _Marks:
    """The first eight bytes of each: millions of texts are held in little memory, and two alike only keep a row."""
    return np.frombuffer(b"".join(text_hash[:8] for text_hash in hashes), "<u8")


def _holds(marks: _Marks, asked: _Marks) -> NDArray[np.bool_]:
    """Which of those asked for are among the marks, which are sorted."""
    places = np.searchsorted(marks, asked)
    is_inside = places < len(marks)
    is_inside[is_inside] = marks[places[is_inside]] == asked[is_inside]
    return is_inside
