"""The items a tenant has, each change numbered, so that replicas and the updater can follow."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from headwater_core.database import Database, advance, chunks, current, insert
from headwater_core.errors import InvalidFieldError
from headwater_core.events import check_attributes, check_id
from headwater_core.repeating import repeated
from headwater_core.schema import item_categories, items
from headwater_core.word_index import word_index

MAX_TITLE_CHARS = 1_024
MAX_DESCRIPTION_CHARS = 16_384
MAX_CATEGORIES = 64
MAX_EMBEDDING = 4_096
MAX_FLOAT32 = float(np.finfo(np.float32).max)
MAX_TIME_US = 253_402_300_799_999_999
"""The end of the year 9999, the last a protobuf Timestamp can tell."""

_ANALYSE_AT = 1_000
REVISION = "catalogue_revision"
"""The counter of its changes: who holds it keeps the catalogue as it is."""
_EMBEDDING_LENGTH = "embedding_length"
# The paths of an update mask (the proto's names) and the field each one names.
_MASKABLE = {
    "title": "title",
    "description": "description",
    "categories": "categories",
    "attributes": "attributes",
    "available": "available",
    "publish_time": "publish_time_us",
    "expire_time": "expire_time_us",
    "embedding": "embedding",
}
# Fields of an item that a caller cannot change: naming them does nothing.
_FIXED = frozenset({"item_id", "update_time"})


@dataclass(frozen=True, slots=True)
class Item:
    """Something that can be recommended."""

    item_id: str
    title: str = ""
    description: str = ""
    categories: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    available: bool = True
    publish_time_us: int | None = None
    """None, when written: the time of its first upsert. Always set when read."""
    expire_time_us: int | None = None
    """None: never."""
    embedding: tuple[float, ...] | None = None
    """The caller's own vector, kept as float32; the item tower reads its direction."""
    update_time_us: int = 0
    """When it was last changed; set by the catalogue."""
    revision: int = 0
    """The catalogue's revision of that change; set by the catalogue."""

    def text(self) -> str:
        """The text that the item tower reads: title, categories, description; "" when there is none of them."""
        parts = (self.title, ", ".join(self.categories), self.description)
        return ". ".join(part.strip() for part in parts if part.strip())

    def text_hash(self) -> bytes:
        """sha256 of text() (32 bytes)."""
        return hashlib.sha256(self.text().encode()).digest()


class ItemChange(NamedTuple):
    """The latest change of one item."""

    revision: int
    item_id: str
    item: Item | None
    """None when the item was deleted."""


class Upserted(NamedTuple):
    """What became of an upsert."""

    revision: int
    """The catalogue's revision after it."""
    unknown_ids: list[str]
    """Items that a masked upsert named and the catalogue does not have; they were not written."""


class Deleted(NamedTuple):
    """What became of a deletion."""

    deleted: int
    revision: int


class AvailabilitySet(NamedTuple):
    """What became of a change of availability."""

    changed: int
    missing_ids: list[str]
    revision: int


def check_item(item: Item) -> None:
    """Refuse an item that must not enter the catalogue.

    Raises:
        InvalidFieldError: naming the first field at fault.
    """
    check_id("item_id", item.item_id, required=True)
    for name, text, limit in (
        ("title", item.title, MAX_TITLE_CHARS),
        ("description", item.description, MAX_DESCRIPTION_CHARS),
    ):
        if len(text) > limit:
            raise InvalidFieldError(name, f"is {len(text)} characters; the limit is {limit}")
        if "\x00" in text:
            raise InvalidFieldError(name, "holds a NUL character")
    if len(item.categories) > MAX_CATEGORIES:
        raise InvalidFieldError("categories", f"has {len(item.categories)} entries; the limit is {MAX_CATEGORIES}")
    for index, category in enumerate(item.categories):
        check_id(f"categories[{index}]", category, required=True)
    check_attributes("attributes", item.attributes)
    for name, time_us in (("publish_time", item.publish_time_us), ("expire_time", item.expire_time_us)):
        if time_us is not None and abs(time_us) > MAX_TIME_US:
            raise InvalidFieldError(name, "is out of range")
    if item.embedding is not None:
        if not 0 < len(item.embedding) <= MAX_EMBEDDING:
            raise InvalidFieldError("embedding", f"has {len(item.embedding)} numbers; must have 1 to {MAX_EMBEDDING}")
        # Also false for NaN.
        if not all(abs(number) <= MAX_FLOAT32 for number in item.embedding):
            raise InvalidFieldError("embedding", "must be finite numbers (float32)")


class Catalogue:
    """The items of one tenant."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant
        self._n_written, self._analyse_at = 0, _ANALYSE_AT

    @repeated
    def upsert(self, batch: Sequence[Item], mask: frozenset[str] | None, now_us: int) -> Upserted:
        """Add items or change known ones, in one commit; of an id given twice the last counts.

        Args:
            batch: items that check_item let pass.
            mask: the fields to change on known items, by the proto's names; None or empty: replace whole items.
            now_us: microseconds since 1970 UTC; becomes update_time_us.

        Raises:
            InvalidFieldError: `update_mask` names what is not a field of an item, or `items[i].embedding` has another
                length than the catalogue's embeddings; nothing is written then.
        """
        changing = _masked_fields(mask)
        wanted = {item.item_id: item for item in batch}
        with self._database.write() as connection:
            revision = self._lock(connection)
            self._check_embeddings(connection, batch)
            known = self._rows(connection, wanted)
            unknown = [item_id for item_id in wanted if item_id not in known] if mask else []
            written: list[dict[str, Any]] = []
            for item_id, item in wanted.items():
                row = known.get(item_id)
                if mask:
                    if row is None:
                        continue
                    stored = replace(_item(row), publish_time_us=row.publish_time_us)
                    item = replace(stored, **{name: getattr(item, name) for name in changing})
                revision += 1
                create_time_us = row.create_time_us if row is not None else now_us
                written.append(_values(self._tenant, item, create_time_us, now_us, revision))
            self._write(connection, written)
            upserted = Upserted(self._advance(connection, len(written)), unknown)
        self._wrote(len(written))
        return upserted

    def get(self, item_ids: Collection[str]) -> dict[str, Item]:
        """The items that exist, by id."""
        with self._database.read() as connection:
            return {item_id: _item(row) for item_id, row in self._rows(connection, item_ids).items()}

    def list(self, after_id: str, limit: int, category: str | None = None) -> Sequence[Item]:
        """At most `limit` items with an id after `after_id`, by id; of one category if it is given."""
        statement = select(items).where(
            items.c.tenant == self._tenant, items.c.item_id > after_id, items.c.deleted.is_(False)
        )
        if category is not None:
            statement = statement.join(
                item_categories,
                (item_categories.c.tenant == items.c.tenant) & (item_categories.c.item_id == items.c.item_id),
            ).where(item_categories.c.category == category)
        with self._database.read() as connection:
            return [_item(row) for row in connection.execute(statement.order_by(items.c.item_id).limit(limit))]

    @repeated
    def delete(self, item_ids: Collection[str]) -> Deleted:
        """Delete items, leaving tombstones for those who follow the changes; unknown ids are passed over."""
        with self._database.write() as connection:
            revision = self._lock(connection)
            gone = [
                _values(self._tenant, Item(item_id), 0, 0, revision + count) | {"deleted": True}
                for count, item_id in enumerate(self._rows(connection, item_ids), start=1)
            ]
            self._write(connection, gone)
            return Deleted(len(gone), self._advance(connection, len(gone)))

    @repeated
    def set_availability(
        self, item_ids: Collection[str], available: bool, now_us: int | None = None
    ) -> AvailabilitySet:
        """Show or hide items; those that already are as wanted do not count as changed.

        Args:
            item_ids: which items.
            available: True shows, False hides.
            now_us: becomes update_time_us; None leaves it.
        """
        with self._database.write() as connection:
            revision = self._lock(connection)
            known = self._rows(connection, item_ids)
            changed = [row for row in known.values() if row.available is not available]
            if changed:
                connection.execute(
                    update(items)
                    .where(items.c.tenant == self._tenant, items.c.item_id == bindparam("changed_id"))
                    .values(
                        available=available, revision=bindparam("new_revision"), update_time_us=bindparam("new_time_us")
                    ),
                    [
                        {
                            "changed_id": row.item_id,
                            "new_revision": revision + count,
                            "new_time_us": row.update_time_us if now_us is None else now_us,
                        }
                        for count, row in enumerate(changed, start=1)
                    ],
                )
            missing = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in known]
            return AvailabilitySet(len(changed), missing, self._advance(connection, len(changed)))

    def changes_after(self, revision: int, limit: int) -> Sequence[ItemChange]:
        """The latest change of each item that changed after `revision`, oldest first, at most `limit`.

        Going on from the last change's revision misses nothing and ends: an item changed again moves to the end.
        """
        statement = (
            select(items)
            .where(items.c.tenant == self._tenant, items.c.revision > revision)
            .order_by(items.c.revision)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        return [ItemChange(row.revision, row.item_id, None if row.deleted else _item(row)) for row in rows]

    def changed_after(self, revision: int) -> int:
        """How many items changed after `revision`: what who has read so far has still before them."""
        statement = select(func.count()).where(items.c.tenant == self._tenant, items.c.revision > revision)
        with self._database.read() as connection:
            return connection.execute(statement).scalar_one()

    def revision(self) -> int:
        """The catalogue's revision: it grows with every change; 0 before the first."""
        with self._database.read() as connection:
            return current(connection, self._tenant, REVISION)

    def embedding_length(self) -> int | None:
        """How many numbers every item's own embedding has; None before the first one is written."""
        with self._database.read() as connection:
            return current(connection, self._tenant, _EMBEDDING_LENGTH) or None

    def _wrote(self, count: int) -> None:
        """After an import, and with every doubling of it: else searching it is slow until PostgreSQL has looked."""
        self._n_written += count
        if self._n_written >= self._analyse_at:
            self._analyse_at = 2 * self._n_written
            self._database.analyse("items", "item_categories", "item_words")

    def _lock(self, connection: Connection) -> int:
        # Held to the commit: changes become visible in the order of their revisions.
        return advance(connection, self._tenant, REVISION, 0)

    def _advance(self, connection: Connection, count: int) -> int:
        return advance(connection, self._tenant, REVISION, count)

    def _check_embeddings(self, connection: Connection, batch: Sequence[Item]) -> None:
        length = 0
        for index, item in enumerate(batch):
            if item.embedding is None:
                continue
            if not length:
                length = current(connection, self._tenant, _EMBEDDING_LENGTH)
            if not length:
                length = advance(connection, self._tenant, _EMBEDDING_LENGTH, len(item.embedding))
            if len(item.embedding) != length:
                reason = f"has {len(item.embedding)} numbers; the catalogue's embeddings have {length}"
                raise InvalidFieldError(f"items[{index}].embedding", reason)

    def _rows(self, connection: Connection, item_ids: Iterable[str]) -> dict[str, Row[*tuple[Any, ...]]]:
        """The rows of the items that exist, in the ids' order."""
        wanted = dict.fromkeys(item_ids)
        found: dict[str, Row[*tuple[Any, ...]]] = {}
        for chunk in chunks(wanted):
            statement = select(items).where(
                items.c.tenant == self._tenant, items.c.item_id.in_(chunk), items.c.deleted.is_(False)
            )
            found.update((row.item_id, row) for row in connection.execute(statement))
        return {item_id: found[item_id] for item_id in wanted if item_id in found}

    def _write(self, connection: Connection, written: Sequence[dict[str, Any]]) -> None:
        if not written:
            return
        for chunk in chunks(written):
            connection.execute(
                delete(item_categories).where(
                    item_categories.c.tenant == self._tenant,
                    item_categories.c.item_id.in_([values["item_id"] for values in chunk]),
                )
            )
        statement = insert(connection, items)
        changed = {name: statement.excluded[name] for name in written[0] if name not in ("tenant", "item_id")}
        connection.execute(statement.on_conflict_do_update(index_elements=["tenant", "item_id"], set_=changed), written)
        categories = [
            {"tenant": self._tenant, "category": category, "item_id": values["item_id"]}
            for values in written
            for category in dict.fromkeys(values["categories"])
        ]
        if categories:
            connection.execute(insert(connection, item_categories), categories)
        word_index(connection, self._tenant).put(written)


def _masked_fields(mask: frozenset[str] | None) -> list[str]:
    for path in sorted(mask or ()):
        if path not in _MASKABLE and path not in _FIXED:
            raise InvalidFieldError("update_mask", f"{path[:64]!r} is not a field of an item")
    return [_MASKABLE[path] for path in sorted(mask or ()) if path in _MASKABLE]


def _values(tenant: str, item: Item, create_time_us: int, now_us: int, revision: int) -> dict[str, Any]:
    embedding = item.embedding
    return {
        "tenant": tenant,
        "item_id": item.item_id,
        "title": item.title,
        "description": item.description,
        "categories": list(item.categories),
        "attributes": dict(item.attributes),
        "available": item.available,
        "publish_time_us": item.publish_time_us,
        "expire_time_us": item.expire_time_us,
        "embedding": None if embedding is None else np.asarray(embedding, "<f4").tobytes(),
        "create_time_us": create_time_us,
        "update_time_us": now_us,
        "revision": revision,
        "deleted": False,
    }


def _item(row: Row[*tuple[Any, ...]]) -> Item:
    return Item(
        item_id=row.item_id,
        title=row.title,
        description=row.description,
        categories=tuple(row.categories),
        attributes=row.attributes,
        available=row.available,
        publish_time_us=row.create_time_us if row.publish_time_us is None else row.publish_time_us,
        expire_time_us=row.expire_time_us,
        embedding=None if row.embedding is None else tuple(np.frombuffer(row.embedding, "<f4").tolist()),
        update_time_us=row.update_time_us,
        revision=row.revision,
    )
