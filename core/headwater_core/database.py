"""One database, SQLite or PostgreSQL: transactions, migrations, and what an unreachable one looks like.

What differs between the two lives here and, where words are looked up, in `word_index`; nowhere else. On SQLite a write
transaction takes the write lock when it begins (BEGIN IMMEDIATE), the journal is write-ahead, and a commit is on disk
before it returns (synchronous=FULL).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import psycopg.sql
import sqlalchemy
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, ExceptionContext, Table, event, exc, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import UpdateBase

from headwater_core.errors import ConfigurationError, DatabaseUnavailableError, TransactionConflictError
from headwater_core.schema import counters

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 5
POOL_TIMEOUT_S = 10
_CHECKPOINT_PAGES = 4_000
"""So long SQLite's journal grows, 16 MiB: a page that several commits change goes into the database's file once."""

CHUNK = 1_000
"""How many values go into one IN list: both databases limit the parameters of a statement."""

STATEMENT_TIMEOUT_S = 30
"""No statement but a migration's may run longer on PostgreSQL."""
LOCK_TIMEOUT_S = 10
"""So long a statement waits there for a lock that another transaction holds."""
IDLE_IN_TRANSACTION_TIMEOUT_S = 15
"""So long a transaction may do nothing there: a process that was stopped in one must not go on holding its locks."""
POOL_SIZE = 16
"""A server's threads that use the database at once, with a few to spare."""

# A host that is gone without a word is noticed within some 25 s by an idle connection, 10 s by one that has sent.
_CONNECTION_LIMITS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
# SQLSTATEs: connection exceptions, a server going down or coming up, one that has become read-only, a session that it
# ended in the middle of a transaction.
_OUTAGES = ("08", "57P", "25006", "25P03")
# And those of a serialisation failure, a deadlock, a lock that was not to be had in time.
_CONFLICTS = ("40001", "40P01", "55P03")

_REASONS: dict[object, str] = {
    sqlite3.SQLITE_FULL: "the database's disk is full",
    sqlite3.SQLITE_IOERR: "the database's disk is full or fails",
    sqlite3.SQLITE_READONLY: "the database is read-only",
    sqlite3.SQLITE_CANTOPEN: "the database's file cannot be opened",
    "53100": "the database's disk is full",
    "25006": "the database is read-only",
}
"""By SQLite's primary result code and by SQLSTATE."""
_AS_SQLITE_SAYS = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EDQUOT: sqlite3.SQLITE_FULL,
    errno.EROFS: sqlite3.SQLITE_READONLY,
    errno.EIO: sqlite3.SQLITE_IOERR,
}
"""What SQLite calls such an error of its own files; any other of the lock's is that it cannot be opened."""

# Any number will do, so long as every release takes the same one.
_MIGRATION_LOCK_KEY = 0x68656164
# Alembic keeps the environment it runs in in module globals: one migration at a time in a process.
_one_migration = threading.Lock()

_COUNTERS = sqlalchemy.select(counters.c.name, counters.c.value).where(
    counters.c.tenant == sqlalchemy.bindparam("of_tenant")
)
_WRITES = "headwater_writes"
_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class Database:
    """The connection pool of one database; one object serves all threads of a process."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE, application: str = "headwater") -> None:
        """Connects to nothing yet.

        Args:
            url: `sqlite:///relative/file.db`, `sqlite:////absolute/file.db` or `postgresql://user@host/name`.
            pool_size: connections to PostgreSQL, at most.
            application: what PostgreSQL shows its operator these connections to be.

        Raises:
            ConfigurationError: the URL is malformed, names another kind of database, or no file.
        """
        self.url = _parse(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._engine = _sqlite_engine(self.url)
        else:
            self.url = _with_limits(self.url, application)
            self._engine = _postgresql_engine(self.url, pool_size)
        # A lone statement needs no transaction of its own around it: two round trips less.
        self._reading = self._engine if self.is_sqlite else self._engine.execution_options(isolation_level="AUTOCOMMIT")
        # SQLite has one writer. Threads queue here; its own busy timeout polls, which is for other processes.
        self._sqlite_writer = threading.RLock()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Raises:
            TransactionConflictError: another transaction was in the way; nothing was written. Methods that write are
                `repeated`.
            DatabaseUnavailableError: the database cannot be reached or stayed locked; nothing was written, unless the
                connection broke during the commit itself.
        """
        with self._turn(), _unavailable(), self._engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to read from; on PostgreSQL each statement sees what is committed when it starts.

        Raises:
            DatabaseUnavailableError: the database cannot be reached.
        """
        with _unavailable(), self._reading.connect() as connection:
            yield connection

    def connect_apart(self) -> psycopg.Connection[Any]:
        """A connection to PostgreSQL outside the pool, each statement its own transaction; the caller's to close.

        Raises:
            psycopg.OperationalError: the database cannot be reached.
        """
        _, arguments = self._engine.dialect.create_connect_args(self.url)
        return psycopg.connect(**arguments, autocommit=True)

    def counters(self, tenant: str) -> dict[str, int]:
        """Every counter of a tenant, in one cheap read: while none moves, nothing that is numbered was written."""
        with self.read() as connection:
            return {row.name: row.value for row in connection.execute(_COUNTERS, {"of_tenant": tenant})}

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to this release's, making the SQLite file where there is none; safe to run at once from many
        processes.

        Args:
            revision: how far; one that is reached already changes nothing.

        Raises:
            ConfigurationError: the schema is a newer release's, and stays so; or the SQLite file is no database.
            DatabaseUnavailableError: the database cannot be reached, or its file cannot be made or written.
        """

        def upgrade(config: Config) -> None:
            _refuse_newer(_revision(config.attributes["connection"]), _revisions())
            command.upgrade(config, revision)

        self._move(upgrade)

    def migrate_down(self, revision: str) -> None:
        """Take the schema back to an earlier release's; what only later ones know is dropped with its tables.

        For an operator who goes back to an older release. Nothing of Headwater may run meanwhile: whatever starts
        migrates up again.

        Args:
            revision: of `migrations/versions`; `base` leaves no table.

        Raises:
            ConfigurationError: there is no such revision below the present one.
            DatabaseUnavailableError: the database cannot be reached.
        """
        try:
            self._move(lambda config: command.downgrade(config, revision))
        except CommandError as error:
            raise ConfigurationError(f"the schema cannot be taken back to {revision!r}: {error}") from error

    def check_schema(self) -> None:
        """See that the schema is this release's, for those who only read; nothing is made or changed.

        Raises:
            ConfigurationError: there is no such database, or its schema is another release's; says what to do.
            DatabaseUnavailableError: the database cannot be reached.
        """
        file = Path(str(self.url.database)).absolute()
        if self.is_sqlite and not file.exists():
            raise ConfigurationError(f"there is no database {file}; a server makes one when it starts")
        with self.read() as connection:
            found = _revision(connection)
        known = _revisions()
        _refuse_newer(found, known)
        if found is None:
            raise ConfigurationError("the database holds nothing of Headwater yet; a server prepares it when it starts")
        if found != known[0]:
            raise ConfigurationError(
                f"the schema is of an older release (revision {found}, this one's is {known[0]}): ask with that "
                "release, or start a server or an updater of this one, which brings it up"
            )

    def _move(self, move: Callable[[Config], None]) -> None:
        with _one_migration, _unavailable(), self._migration_lock(), self._engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})
            with connection.begin():
                if not self.is_sqlite:
                    for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                        connection.exec_driver_sql(f"SET LOCAL {limit} = 0")
                    connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_MIGRATION_LOCK_KEY)))
                config = Config()
                config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
                config.attributes["connection"] = connection
                move(config)

    def analyse(self, *tables: str) -> None:
        """Have PostgreSQL look at what tables hold now, as it would by itself minutes later; nothing on SQLite.

        What fails is logged: until then it asks as if it knew nothing of them.
        """
        if self.is_sqlite:
            return
        try:
            with self.read() as connection:
                connection.exec_driver_sql(f"ANALYZE {', '.join(tables)}")
        except DatabaseUnavailableError as error:
            _log.warning("not_analysed", tables=tables, reason=str(error))

    def close(self) -> None:
        """Close the pooled connections; the object may be used again."""
        self._engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._sqlite_writer.acquire(timeout=BUSY_TIMEOUT_S):
            raise DatabaseUnavailableError(f"the database was busy for {BUSY_TIMEOUT_S} s")
        try:
            yield
        finally:
            self._sqlite_writer.release()

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        path = Path(str(self.url.database))
        with ExitStack() as held:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(path.with_name(path.name + ".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Lasts in the file. Switching to it is the one thing that no busy timeout covers: hence under the lock.
                with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
            except (OSError, sqlite3.OperationalError) as error:
                raise _outage(error) from error
            except sqlite3.DatabaseError as error:
                raise ConfigurationError(f"{path} is no SQLite database, or a damaged one: {error}") from error
            yield


def insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that knows ON CONFLICT, in the words of the connection's database."""
    return _insert(connection.dialect.name, table)


def insert_rows(connection: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert many rows as the driver takes them: a value for every column in the table's order, JSON as text.

    SQLAlchemy's executemany makes parameters of every row's dict: on SQLite that takes half as long as writing them.

    Raises:
        DatabaseUnavailableError: the connection broke.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_positional_insert(table), list(rows))
    else:
        _copy(connection, table, rows)


def advance(connection: Connection, tenant: str, counter: str, count: int) -> int:
    """Count up by `count` and give the new value; counters start at 0.

    Until the transaction ends nobody else can count: what is numbered inside it becomes visible in the numbers' order.
    With a count of 0 it only takes that lock and reads.
    """
    values = {"tenant": tenant, "name": counter, "value": count}
    return int(connection.execute(_advance(connection.dialect.name), values).scalar_one())


def current(connection: Connection, tenant: str, counter: str) -> int:
    """The counter's last committed value; 0 before its first use."""
    statement = sqlalchemy.select(counters.c.value).where(counters.c.tenant == tenant, counters.c.name == counter)
    return int(connection.execute(statement).scalar() or 0)


# To make a statement takes SQLAlchemy longer than to run it: those of every commit are made once.


@functools.cache
def _insert(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


@functools.cache
def _positional_insert(table: Table) -> str:
    return str(table.insert().compile(dialect=sqlite.dialect()))


@functools.cache
def _copy_statement(table: Table) -> psycopg.sql.Composed:
    columns = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, table.c.keys()))
    return psycopg.sql.SQL("COPY {} ({}) FROM STDIN").format(psycopg.sql.Identifier(table.name), columns)


def _copy(connection: Connection, table: Table, rows: Iterable[tuple[object, ...]]) -> None:
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(_copy_statement(table)) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.OperationalError as error:
        if _is_conflict(error):
            raise _conflict(error) from error
        # SQLAlchemy, which was passed by, must not use the connection again.
        connection.invalidate(error)
        raise _outage(error) from error


@functools.cache
def _advance(dialect: str) -> UpdateBase:
    statement = _insert(dialect, counters)
    return statement.on_conflict_do_update(
        index_elements=["tenant", "name"], set_={"value": counters.c.value + statement.excluded.value}
    ).returning(counters.c.value)


def chunks(values: Iterable[_T], size: int = CHUNK) -> Iterator[Sequence[_T]]:
    """Cut into lists of at most `size`, in order."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk


def _revision(connection: Connection) -> str | None:
    """The schema's; None where nothing of ours is."""
    return MigrationContext.configure(connection).get_current_revision()


def _revisions() -> list[str]:
    """This release's, the newest first."""
    return [each.revision for each in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]


def _refuse_newer(found: str | None, known: Sequence[str]) -> None:
    """Raises: ConfigurationError when the schema is one that this release does not know."""
    if found is not None and found not in known:
        raise ConfigurationError(
            f"the schema is of a newer release (revision {found}, this one's is {known[0]}): use that release, or go "
            "back as docs/runbook.md says under Upgrades"
        )


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except exc.ArgumentError as error:
        raise ConfigurationError(f"the database URL cannot be read: {error}") from error
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigurationError(f"{backend} is not supported: use sqlite:///file or postgresql://…")
    if url.database in (None, "", ":memory:"):
        raise ConfigurationError("an SQLite database needs a file: sqlite:///file")
    return url


def _sqlite_engine(url: URL) -> Engine:
    engine = sqlalchemy.create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        hide_parameters=True,  # an error's text must not carry what callers wrote
        pool_size=8,
        max_overflow=24,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,  # the connection used last has its statements and pages at hand
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGINs come too late and are never IMMEDIATE
        for pragma in ("synchronous=FULL", "foreign_keys=ON", f"wal_autocheckpoint={_CHECKPOINT_PAGES}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _with_limits(url: URL, application: str) -> URL:
    """The URL with all that makes a connection ours; what it says itself counts more."""
    ours = {"application_name": application, **{name: str(value) for name, value in _CONNECTION_LIMITS.items()}}
    return url.update_query_dict({name: value for name, value in ours.items() if name not in url.query})


def _postgresql_engine(url: URL, pool_size: int) -> Engine:
    engine = sqlalchemy.create_engine(
        url,
        # The stores rely on every statement seeing what was committed before it, whatever the server's default is.
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # an error's text must not carry what callers wrote
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,  # the connection used last has its statements and pages at hand
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        chosen = {
            # A plan made while a table was small must not be kept when it is large: looking up a batch's ids would
            # take seconds.
            "plan_cache_mode": "force_custom_plan",
            "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
            "lock_timeout": f"{LOCK_TIMEOUT_S}s",
            "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_S}s",
        }
        connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in chosen.items()))
        connection.commit()

    @event.listens_for(engine, "handle_error")
    def recognise_outage(context: ExceptionContext) -> None:
        # After a failover the old server still answers, only not as wanted: its connections must go.
        state = getattr(context.original_exception, "sqlstate", None) or ""
        if state.startswith(_OUTAGES):
            context.is_disconnect = True

    return engine


@contextmanager
def _unavailable() -> Iterator[None]:
    """The one place where the drivers' errors become ours."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError) as error:
        if _is_mistake(error.orig):
            raise
        if _is_conflict(error.orig):
            raise _conflict(error.orig) from error
        raise _outage(error.orig) from error
    except exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise _outage(error.orig) from error
    except exc.TimeoutError as error:
        raise DatabaseUnavailableError(f"no connection was free for {POOL_TIMEOUT_S} s") from error


def _outage(error: BaseException | None) -> DatabaseUnavailableError:
    """What callers are told; hosts, users and statements are for the log alone."""
    _log.warning("database_unavailable", reason=_told(error))
    return DatabaseUnavailableError(_reason(error))


def _told(error: BaseException | None) -> str:
    """What the driver says, without the row at which a COPY was interrupted: PostgreSQL's context repeats it."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return message or str(error)


def _reason(error: BaseException | None) -> str:
    """What an operator must mend, in words that tell nothing else."""
    if isinstance(error, OSError):
        return _REASONS[_AS_SQLITE_SAYS.get(error.errno or 0, sqlite3.SQLITE_CANTOPEN)]
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    state = getattr(error, "sqlstate", None)
    return _REASONS.get(code) or _REASONS.get(state) or "the database cannot be reached"


def _conflict(error: BaseException | None) -> TransactionConflictError:
    return TransactionConflictError(f"another transaction was in the way ({type(error).__name__})")


def _is_conflict(error: BaseException | None) -> bool:
    return getattr(error, "sqlstate", None) in _CONFLICTS


def _is_mistake(error: BaseException | None) -> bool:
    # SQLite calls a wrong statement an operational error too; its primary code tells.
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_ERROR
