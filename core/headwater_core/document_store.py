"""What operators write to change how slates are made: named documents, version by version."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection, Row, Select, func, insert, select

from headwater_core.database import Database, advance
from headwater_core.documents import Document
from headwater_core.errors import ConflictError, InvalidFieldError, NotFoundError
from headwater_core.names import check_name
from headwater_core.repeating import repeated
from headwater_core.schema import documents

MAX_DOCUMENTS = 200
"""How many of a kind a tenant may have: every server holds all."""
REVISION = "documents_revision"
"""The counter that every change advances."""


Content = TypeVar("Content", bound=Document)


class Version(NamedTuple, Generic[Content]):
    """One version of a document."""

    name: str
    number: int
    """From 1; a deletion is a version too."""
    content: Content | None
    """None: deleted."""
    create_time_us: int


class DocumentStore(Generic[Content]):
    """The documents of one kind; a version that was written never changes."""

    def __init__(
        self,
        database: Database,
        kind: str,
        document: type[Content],
        tenant: str = "default",
        fit_together: Callable[[Mapping[str, Content]], None] | None = None,
    ) -> None:
        """Connects to nothing yet.

        Args:
            database: where they are.
            kind: for example `strategy`.
            document: what its documents are.
            tenant: whose.
            fit_together: raises InvalidFieldError when all documents, by name, cannot be there together.
        """
        self._database = database
        self._kind, self._document, self._tenant = kind, document, tenant
        self._fit_together = fit_together

    @repeated
    def put(self, name: str, content: Content, expected_version: int | None = None) -> int:
        """Write the next version of a document; gives its number.

        Args:
            name: 1 to 64 characters of a-z, 0-9, _ and -.
            content: what it says from now on.
            expected_version: only if this is its newest version; 0: only if there never was one.

        Raises:
            InvalidFieldError: the name cannot be one, there would be too many, or it does not fit the others.
            ConflictError: the newest version is another one.
        """
        check_name(name)
        with self._database.write() as connection:
            version = self._next(connection, name, expected_version)
            contents = {each.name: each.content for each in self._newest(connection) if each.content is not None}
            contents[name] = content
            if len(contents) > MAX_DOCUMENTS:
                raise InvalidFieldError("name", f"would be one too many: at most {MAX_DOCUMENTS}")
            if self._fit_together is not None:
                self._fit_together(contents)
            self._add(connection, name, version, content)
        return version

    @repeated
    def delete(self, name: str) -> int:
        """Delete a document; its versions can still be read. Gives the number of the version that says so.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._database.write() as connection:
            version = self._next(connection, name, None)
            if all(each.name != name for each in self._newest(connection)):
                raise NotFoundError(f"name: no {self._kind} {name!r}")
            self._add(connection, name, version, None)
        return version

    def all(self) -> list[Version[Content]]:
        """The newest version of each document that is not deleted, by name."""
        with self._database.read() as connection:
            return self._newest(connection)

    def versions(self, name: str, before: int | None = None, limit: int = 1000) -> list[Version[Content]]:
        """The versions of a document below `before`, the newest first, at most `limit`."""
        statement = self._select().where(documents.c.name == name)
        if before is not None:
            statement = statement.where(documents.c.version < before)
        with self._database.read() as connection:
            return self._versions(connection.execute(statement.order_by(documents.c.version.desc()).limit(limit)))

    def _select(self) -> Select[Any]:
        columns = (documents.c.name, documents.c.version, documents.c.content, documents.c.create_time_us)
        return select(*columns).where(documents.c.tenant == self._tenant, documents.c.kind == self._kind)

    def _newest(self, connection: Connection) -> list[Version[Content]]:
        latest = (
            select(documents.c.name, func.max(documents.c.version).label("version"))
            .where(documents.c.tenant == self._tenant, documents.c.kind == self._kind)
            .group_by(documents.c.name)
            .subquery()
        )
        same = (documents.c.name == latest.c.name) & (documents.c.version == latest.c.version)
        rows = connection.execute(self._select().join(latest, same).order_by(documents.c.name))
        return [each for each in self._versions(rows) if each.content is not None]

    def _versions(self, rows: Iterable[Row[Any]]) -> list[Version[Content]]:
        return [
            Version(
                row.name,
                row.version,
                None if row.content is None else self._document.from_dict(row.content),
                row.create_time_us,
            )
            for row in rows
        ]

    def _next(self, connection: Connection, name: str, expected_version: int | None) -> int:
        advance(connection, self._tenant, REVISION, 1)  # first: nobody else changes documents until this one ends
        mine = (documents.c.tenant == self._tenant, documents.c.kind == self._kind, documents.c.name == name)
        version = int(connection.execute(select(func.max(documents.c.version)).where(*mine)).scalar() or 0)
        if expected_version is not None and version != expected_version:
            raise ConflictError(f"{self._kind} {name!r} is at version {version}, not {expected_version}")
        return version + 1

    def _add(self, connection: Connection, name: str, version: int, content: Content | None) -> None:
        row = {
            "tenant": self._tenant,
            "kind": self._kind,
            "name": name,
            "version": version,
            "content": None if content is None else content.to_dict(),
            "create_time_us": time.time_ns() // 1000,
        }
        connection.execute(insert(documents), [row])
