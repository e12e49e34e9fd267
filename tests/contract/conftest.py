"""The databases that every store is tried on: an SQLite file and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_core.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of the test's own, empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/headwater.db"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database of the test's own, migrated."""
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()
