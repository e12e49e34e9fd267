"""The strategies of a tenant, version by version."""

from __future__ import annotations

import time
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select

from headwater_core.database import Database, advance
from headwater_core.errors import ConflictError, InvalidFieldError, NotFoundError
from headwater_core.schema import strategies
from headwater_core.strategies import Strategy, check_name

MAX_STRATEGIES = 200
"""How many a tenant may have: every server holds all."""
REVISION = "strategies_revision"
"""The counter that every change advances."""


class StoredStrategy(NamedTuple):
    """One version of a strategy."""

    name: str
    version: int
    """From 1; a deletion is a version too."""
    strategy: Strategy | None
    """None: deleted."""
    create_time_us: int


class StrategyStore:
    """Writes strategies, and never changes a version that was written."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant

    def put(self, name: str, strategy: Strategy, expected_version: int | None = None) -> int:
        """Write the next version of a strategy; gives its number.

        Args:
            name: 1 to 64 characters of a-z, 0-9, _ and -.
            strategy: what it is from now on.
            expected_version: only if this is its newest version; 0: only if there is none.

        Raises:
            InvalidFieldError: the name cannot be one, or there would be too many strategies.
            ConflictError: the newest version is another one.
        """
        check_name(name)
        with self._database.write() as connection:
            version = self._next(connection, name, expected_version)
            others = {each.name for each in _newest(connection, self._tenant) if each.strategy is not None} - {name}
            if len(others) >= MAX_STRATEGIES:
                raise InvalidFieldError("name", f"would be one too many: at most {MAX_STRATEGIES} strategies")
            self._add(connection, name, version, strategy)
        return version

    def delete(self, name: str) -> int:
        """Delete a strategy; its versions can still be read. Gives the number of the version that says so.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._database.write() as connection:
            version = self._next(connection, name, None)
            if all(each.name != name or each.strategy is None for each in _newest(connection, self._tenant)):
                raise NotFoundError(f"name: no strategy {name!r}")
            self._add(connection, name, version, None)
        return version

    def all(self) -> list[StoredStrategy]:
        """The newest version of each strategy that is not deleted, by name."""
        with self._database.read() as connection:
            return [each for each in _newest(connection, self._tenant) if each.strategy is not None]

    def versions(self, name: str, before: int | None = None, limit: int = 1000) -> list[StoredStrategy]:
        """The versions of a strategy below `before`, the newest first, at most `limit`."""
        columns = (strategies.c.name, strategies.c.version, strategies.c.document, strategies.c.create_time_us)
        statement = select(*columns).where(strategies.c.tenant == self._tenant, strategies.c.name == name)
        if before is not None:
            statement = statement.where(strategies.c.version < before)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(strategies.c.version.desc()).limit(limit)).all()
        return [_stored(*row) for row in rows]

    def _next(self, connection: Connection, name: str, expected_version: int | None) -> int:
        advance(connection, self._tenant, REVISION, 1)  # first: nobody else changes strategies until this one ends
        newest = select(func.max(strategies.c.version)).where(
            strategies.c.tenant == self._tenant, strategies.c.name == name
        )
        version = connection.execute(newest).scalar() or 0
        if expected_version is not None and version != expected_version:
            raise ConflictError(f"strategy {name!r} is at version {version}, not {expected_version}")
        return int(version) + 1

    def _add(self, connection: Connection, name: str, version: int, strategy: Strategy | None) -> None:
        row = {
            "tenant": self._tenant,
            "name": name,
            "version": version,
            "document": None if strategy is None else strategy.to_dict(),
            "create_time_us": time.time_ns() // 1000,
        }
        connection.execute(insert(strategies), [row])


def _newest(connection: Connection, tenant: str) -> list[StoredStrategy]:
    columns = (strategies.c.name, strategies.c.version, strategies.c.document, strategies.c.create_time_us)
    latest = (
        select(strategies.c.name, func.max(strategies.c.version).label("version"))
        .where(strategies.c.tenant == tenant)
        .group_by(strategies.c.name)
        .subquery()
    )
    same = (strategies.c.name == latest.c.name) & (strategies.c.version == latest.c.version)
    statement = select(*columns).join(latest, same).where(strategies.c.tenant == tenant).order_by(strategies.c.name)
    return [_stored(*row) for row in connection.execute(statement)]


def _stored(name: str, version: int, document: dict[str, object] | None, create_time_us: int) -> StoredStrategy:
    strategy = None if document is None else Strategy.from_dict(document)
    return StoredStrategy(name, version, strategy, create_time_us)
