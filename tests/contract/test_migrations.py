"""Migrations make exactly the schema that the code expects, whoever starts first."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from headwater_core.database import MIGRATIONS, Database
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
