"""Migrations keep what is in the database, on the way up and on the way down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData

from headwater_core.catalogue import Catalogue, Item
from headwater_core.database import MIGRATIONS, Database
from headwater_core.document_store import DocumentStore
from headwater_core.errors import ConfigurationError
from headwater_core.event_types import EventTypes
from headwater_core.events import Event, EventType, Subject, SubjectKind
from headwater_core.feedback_log import FeedbackLog, Rejection
from headwater_core.impressions import Impression, ImpressionLog, ShownItem
from headwater_core.item_search import ItemSearch
from headwater_core.log_writing import AppendOutcome
from headwater_core.outcomes import OutcomeLog
from headwater_core.registry import STABLE, GenerationRecord, GenerationRegistry
from headwater_core.strategies import KIND, Strategy
from headwater_core.word_index import word_index

REVISIONS = [each.revision for each in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]
NOW_US = 1_700_000_000_000_000
BY_REVISION = {
    "0002": ["item_words"],
    "0003": ["documents", "outcomes", "experiment_arms", "experiment_users"],
}
"""The tables that a revision brings, but the first."""

Rows = dict[str, list[dict[str, Any]]]


def rows_of(connection: Connection) -> Rows:
    """Every row of every table that is there, under the columns that are there; the words of items are looked up."""
    found = MetaData()
    found.reflect(connection, only=lambda name, _: not name.startswith(("item_words", "alembic", "sqlite")))
    return {
        name: sorted((dict(row) for row in connection.execute(sqlalchemy.select(table)).mappings()), key=repr)
        for name, table in found.tables.items()
    }


def known_to(earlier: Rows, of: Rows) -> Rows:
    """What of some rows the tables and columns of an earlier revision can hold."""
    return {
        name: sorted(({column: row[column] for column in earlier[name][0]} for row in of[name]), key=repr)
        for name in earlier
        if earlier[name]
    }


def fill(database: Database) -> None:
    """A row at least in every table, written by the code of today, so at the newest revision."""
    log, catalogue = FeedbackLog(database), Catalogue(database)
    catalogue.upsert(
        [
            Item("lamp", title="A blue lamp", categories=("home",), attributes={"colour": "blue"}),
            Item("gone", title="Gone"),
            Item("art", title="Œuvre d'été", description="ein Bild", embedding=(0.5, 1.0)),
        ],
        None,
        NOW_US,
    )
    catalogue.delete(["gone"])
    EventTypes(database).upsert([EventType("hover", weight=0.5, in_history=False)])
    log.append(
        [
            Event(
                "login", "click", "ann", "cookie", item_id="lamp", event_time_us=NOW_US, attributes={"ключ": "värde"}
            ),
            Event("shown", "impression", "ann", item_id="art", event_time_us=NOW_US, slate_position=1),
            Event("late", "click", "ann", item_id="art", event_time_us=NOW_US + 1, value=2.5),
            Event("bens", "like", "ben", item_id="lamp", event_time_us=NOW_US),
        ],
        NOW_US,
    )
    log.delete_subject(Subject(SubjectKind.USER, "ben"), NOW_US)
    log.reject([Rejection(1, "robot", "200 in a minute")])
    ImpressionLog(database).append(
        [Impression("slate", Subject(SubjectKind.USER, "ann"), items=(ShownItem("lamp", 1.0, 1.0, ("tower",)),))]
    )
    OutcomeLog(database).attribute({}, NOW_US + 10, window_us=1_000_000, grace_us=0)
    registry = GenerationRegistry(database)
    number = registry.allocate()
    registry.record(GenerationRecord(number, 0, True, NOW_US, 2, 1, 2, 8, 1000, {"recall@10": 0.5}))
    registry.set_label(STABLE, number)
    registry.acquire_lease("updater", "me", 60.0, NOW_US)
    registry.heartbeat("server", [number], 60.0, NOW_US)
    DocumentStore(database, KIND, Strategy).put("home", Strategy.model_validate({"sources": [{"name": "tower"}]}))
    with database.write() as connection:
        for statement in (
            "INSERT INTO experiment_arms VALUES ('default', 'colours', '', 'red', 3, 0.5, 3, 0.5)",
            "INSERT INTO experiment_users VALUES ('default', 'colours', 'red', {}, 3, 0.5)".format(
                "x'00ff'" if database.is_sqlite else r"'\x00ff'"
            ),
            "INSERT INTO text_features VALUES ('default', 'encoder', {0}, {0})".format(
                "x'00ff'" if database.is_sqlite else r"'\x00ff'"
            ),
        ):
            connection.exec_driver_sql(statement)


def works(database: Database) -> None:
    """The code of today finds what was written, and writes on."""
    log, ann = FeedbackLog(database), Subject(SubjectKind.USER, "ann")
    assert [each.event.event_id for each in log.history(ann, 10)] == ["login", "late"]
    assert log.read_after(0, 10)[0].event.attributes == {"ключ": "värde"}
    assert log.links() == {"cookie": "ann"}
    [again] = log.append([Event("login", "click", "ann", "cookie", item_id="lamp", event_time_us=NOW_US)], NOW_US)
    assert again.outcome is not AppendOutcome.ACCEPTED
    head = log.head()
    [new] = log.append([Event(f"after-{head}", "hover", "cem", event_time_us=NOW_US)], NOW_US)
    assert new.position == head + 1
    assert set(Catalogue(database).get(["lamp", "gone", "art"])) == {"lamp", "art"}
    assert ItemSearch(database).find("ete", 5).item_ids == ["art"]
    assert GenerationRegistry(database).labels() == {STABLE: 1}
    assert ImpressionLog(database).get("slate") is not None
    assert "hover" in EventTypes(database).all()
    log.delete_events([f"after-{head}"])


@pytest.fixture
def unmigrated(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def read(database: Database) -> Rows:
    with database.read() as connection:
        return rows_of(connection)


def put(database: Database, rows: Rows) -> None:
    """Write rows as they are into the tables that are there, and the words of items where they have a place."""
    found = MetaData()
    with database.write() as connection:
        found.reflect(connection, only=sorted(rows))
        for name, theirs in rows.items():
            if theirs:
                connection.execute(found.tables[name].insert(), theirs)
        if sqlalchemy.inspect(connection).has_table("item_words"):
            word_index(connection, "default").put(rows["items"])


def test_every_table_gets_a_row(database: Database) -> None:
    """What the tests below carry up and down leaves nothing out."""
    fill(database)
    assert [name for name, rows in read(database).items() if not rows] == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_an_earlier_release_wrote_is_there_after_the_upgrade(unmigrated: Database, revision: str) -> None:
    """Rows that a database of an earlier revision holds come up unchanged, and today's code works with them."""
    unmigrated.migrate()
    fill(unmigrated)
    at_head = read(unmigrated)
    unmigrated.migrate_down(revision)
    then = read(unmigrated)
    unmigrated.migrate_down("base")
    assert read(unmigrated) == {}
    unmigrated.migrate(revision)
    assert {name: [] for name in then} == read(unmigrated)
    put(unmigrated, then)
    unmigrated.migrate()
    now = read(unmigrated)
    assert known_to(then, of=now) == then == known_to(then, of=at_head)
    works(unmigrated)


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_an_earlier_release_writes_beside_the_newest_is_taken_in(unmigrated: Database, revision: str) -> None:
    """While servers are replaced one by one the older ones go on: each statement of theirs, with the columns that they
    know, still does what it did."""
    unmigrated.migrate()
    fill(unmigrated)
    unmigrated.migrate_down(revision)
    then = read(unmigrated)
    unmigrated.migrate_down("base")
    unmigrated.migrate()
    put(unmigrated, then)
    assert known_to(then, of=read(unmigrated)) == {name: rows for name, rows in then.items() if rows}
    works(unmigrated)


def test_down_and_up_step_by_step(database: Database) -> None:
    """Each step down drops what its revision brought and nothing else, whatever was dropped before."""
    fill(database)
    before = read(database)
    for revision in reversed(REVISIONS[:-1]):
        database.migrate_down(revision)
        left = read(database)
        gone = {name for later, names in BY_REVISION.items() if later > revision for name in names}
        assert before.keys() - left.keys() == gone - {"item_words"}
        assert known_to(left, of=before) == left
        with database.read() as connection:
            assert sqlalchemy.inspect(connection).has_table("item_words") is ("item_words" not in gone)
    database.migrate()
    after = read(database)
    assert after.keys() == before.keys()
    assert known_to(left, of=after) == left
    assert [name for name in BY_REVISION["0003"] if after[name]] == []
    works(database)


@pytest.mark.parametrize("revision", ["nonsense", "0099"])
def test_an_unknown_revision_is_refused(database: Database, revision: str) -> None:
    """And nothing changes."""
    with pytest.raises(ConfigurationError):
        database.migrate_down(revision)
    assert FeedbackLog(database).head() == 0
