"""Migrations make exactly the schema that the code expects, whoever starts first."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from headwater_core.database import MIGRATIONS, Database
from headwater_core.errors import ConfigurationError
from headwater_core.feedback_log import FeedbackLog
from headwater_core.schema import metadata

MIGRATE = "import sys; from headwater_core.database import Database; Database(sys.argv[1]).migrate()"


def test_the_migrated_schema_is_the_metadata(database: Database) -> None:
    """Autogenerate finds no difference, and every primary key has the columns that the tables say.

    The words of items are kept by each database in its own way, which the metadata does not know.
    """

    def is_ours(name: str | None, kind: str, _: object) -> bool:
        return kind != "table" or not (name or "").startswith("item_words")

    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": is_ours})
        assert compare_metadata(context, metadata) == []
        inspector = sqlalchemy.inspect(connection)
        for table in metadata.tables.values():
            key = inspector.get_pk_constraint(table.name)["constrained_columns"]
            assert key == [column.name for column in table.primary_key.columns], table.name


def test_every_table_and_key_carries_the_tenant() -> None:
    """The tenant is the first column of every primary key and of every index."""
    for table in metadata.tables.values():
        assert next(iter(table.primary_key.columns)).name == "tenant"
        assert all(next(iter(index.columns)).name == "tenant" for index in table.indexes)


def test_migrating_again_changes_nothing(database: Database) -> None:
    """A second migrate() finds nothing to do, and what was written stays."""
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO counters (tenant, name, value) VALUES ('default', 'log_position', 7)")
    database.migrate()
    assert FeedbackLog(database).head() == 7


def test_the_schema_of_a_newer_release_is_left_alone(database: Database) -> None:
    """An older process that starts after the upgrade says so, be it to serve or to ask; nothing changes."""
    become(database, "9999")
    for call in (database.migrate, database.check_schema):
        with pytest.raises(ConfigurationError, match="of a newer release \\(revision 9999"):
            call()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "9999"


def test_who_only_reads_does_not_migrate(database: Database) -> None:
    """This release's schema is as it should be; an older one stays so, and what to do is said."""
    database.check_schema()
    database.migrate_down("0004")
    with pytest.raises(ConfigurationError, match="of an older release \\(revision 0004"):
        database.check_schema()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "0004"


def test_who_only_reads_makes_nothing(database_url: str) -> None:
    """An empty PostgreSQL stays empty; of SQLite no file is made, and the one that is missing is named."""
    database = Database(database_url)
    missing = "there is no database /.*headwater.db" if database.is_sqlite else "holds nothing of Headwater"
    with pytest.raises(ConfigurationError, match=missing):
        database.check_schema()
    if database.is_sqlite:
        file = Path(str(database.url.database))
        assert not list(file.parent.iterdir())
        file.touch()
        with pytest.raises(ConfigurationError, match="holds nothing of Headwater"):
            database.check_schema()
    with database.read() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
    database.close()


def become(database: Database, revision: str) -> None:
    """Let the schema be of a revision that may be unknown here."""
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")


def test_threads_may_migrate_at_once(database_url: str) -> None:
    """Several Database objects of one process migrate the same empty database at the same time."""
    databases = [Database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Database.migrate, databases))
    assert [FeedbackLog(database).head() for database in databases] == [0] * 4
    for database in databases:
        database.close()


def test_processes_may_migrate_at_once(database_url: str) -> None:
    """Two servers and the updater start together on an empty database."""
    processes = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, database_url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    database = Database(database_url)
    assert FeedbackLog(database).head() == 0
    database.close()


def test_the_migrations_lie_inside_the_package() -> None:
    """They are found by the package's own path, as in an installed wheel."""
    assert (MIGRATIONS / "env.py").is_file()
    assert list((MIGRATIONS / "versions").glob("0001_*.py"))
