"""The tables, as SQLAlchemy Core sees them; migrations/ makes them, and `item_words`, which is `word_index`'s alone.

Every table and every key carries the tenant. Times are microseconds since 1970 UTC. What is counted (log positions,
catalogue revisions, generation numbers) comes from `counters`: the row that is counted up stays locked to the commit,
so the numbers grow in commit order, have no gaps and are never given twice, on SQLite as on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    literal,
    text,
)

metadata = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_N_name)s"},
)


def _key(length: int) -> String:
    """Text that is looked up and sorted: byte by byte on both databases, so that both list in the same order."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _table(
    name: str, columns: Sequence[Column[Any]], primary_key: Sequence[str], *rest: Index, wide: bool = False
) -> Table:
    # Without a rowid the primary key is the table on SQLite: one B-tree less to write for every row. Not for wide rows.
    tenant = Column("tenant", _key(64), nullable=False)
    key = PrimaryKeyConstraint("tenant", *primary_key)
    return Table(name, metadata, tenant, *columns, key, *rest, sqlite_with_rowid=wide)


def _column(name: str, type_: Any, *, nullable: bool = False) -> Column[Any]:
    return Column(name, type_, nullable=nullable)


counters = _table("counters", [_column("name", _key(64)), _column("value", BigInteger)], ["name"])

events = _table(
    "events",
    [
        _column("position", BigInteger),
        _column("event_id", _key(256)),
        _column("event_type", _key(64)),
        _column("subject_kind", _key(8)),
        _column("subject_id", _key(256)),
        _column("visitor_id", _key(256)),
        _column("session_id", String(256)),
        _column("item_id", _key(256)),
        _column("query", String(1024)),
        _column("value", Double, nullable=True),
        _column("event_time_us", BigInteger),
        _column("received_time_us", BigInteger),
        _column("attribution_token", Text),
        _column("slate_position", BigInteger, nullable=True),
        # NULL when there are none, as for most events: nothing to encode, nothing to decode.
        _column("attributes", JSON(none_as_null=True), nullable=True),
        _column("backfill", Boolean),
    ],
    ["position"],
    # Serves a subject's history newest first, and, without touching the table, the history's version; on PostgreSQL
    # what was seen, too.
    Index(
        "ix_events_history",
        *("tenant", "subject_kind", "subject_id", "event_time_us", "position"),
        postgresql_include=["event_type", "item_id"],
    ),
    Index("ix_events_item", "tenant", "item_id", "position"),
    # Erasing by id must work for events whose row in event_ids has been pruned.
    Index("ix_events_event_id", "tenant", "event_id"),
)
# Written out in statements: with parameters in its place SQLite does not see that the index serves them.
REPORTS = (
    events.c.event_type == literal("impression", literal_execute=True),
    events.c.attribution_token == literal("", literal_execute=True),
)
"""What makes an event a caller's report of what it showed."""
_REPORTS = text("event_type = 'impression' AND attribution_token = ''")
Index(
    "ix_events_reports",
    *(events.c[name] for name in ("tenant", "subject_kind", "subject_id", "event_time_us")),
    sqlite_where=_REPORTS,
    postgresql_where=_REPORTS,
)

event_ids = _table(
    "event_ids",
    [
        _column("event_id", _key(256)),
        _column("content_hash", LargeBinary(32)),
        _column("position", BigInteger),
        _column("received_time_us", BigInteger),
    ],
    ["event_id"],
    Index("ix_event_ids_received_time", "tenant", "received_time_us"),
)

visitor_links = _table(
    "visitor_links",
    [_column("visitor_id", _key(256)), _column("user_id", _key(256)), _column("position", BigInteger)],
    ["visitor_id"],
    Index("ix_visitor_links_user", "tenant", "user_id"),
)

erasures = _table(
    "erasures",
    [
        _column("number", BigInteger),
        _column("subject_hash", LargeBinary(32)),
        _column("is_whole", Boolean),
        _column("position", BigInteger),
        _column("erase_time_us", BigInteger),
    ],
    ["number"],
    Index("ix_erasures_subject", "tenant", "subject_hash"),
)

rejections = _table(
    "rejections",
    [_column("position", BigInteger), _column("rule", _key(64)), _column("reason", Text)],
    ["position"],
)

event_types = _table(
    "event_types",
    [
        _column("name", _key(64)),
        _column("weight", Double),
        _column("in_history", Boolean),
        _column("is_target", Boolean),
        _column("is_negative", Boolean),
        _column("value_min", Double, nullable=True),
        _column("value_max", Double, nullable=True),
    ],
    ["name"],
)

items = _table(
    "items",
    [
        _column("item_id", _key(256)),
        _column("title", String(1024)),
        _column("description", Text),
        _column("categories", JSON),
        _column("attributes", JSON),
        _column("available", Boolean),
        _column("publish_time_us", BigInteger, nullable=True),
        _column("expire_time_us", BigInteger, nullable=True),
        _column("embedding", LargeBinary, nullable=True),
        _column("create_time_us", BigInteger),
        _column("update_time_us", BigInteger),
        _column("revision", BigInteger),
        _column("deleted", Boolean),
    ],
    ["item_id"],
    Index("ix_items_revision", "tenant", "revision"),
    wide=True,
)

item_categories = _table(
    "item_categories",
    [_column("category", _key(256)), _column("item_id", _key(256))],
    ["category", "item_id"],
    Index("ix_item_categories_item", "tenant", "item_id"),
)

text_features = _table(
    "text_features",
    [_column("encoder", _key(128)), _column("text_hash", LargeBinary(32)), _column("features", LargeBinary)],
    ["encoder", "text_hash"],
    wide=True,
)

impressions = _table(
    "impressions",
    [
        _column("slate_id", _key(256)),
        _column("subject_kind", _key(8), nullable=True),
        _column("subject_id", _key(256), nullable=True),
        _column("session_id", String(256)),
        _column("surface", String(128)),
        _column("context", JSON),
        _column("strategy", String(256)),
        _column("generation", BigInteger),
        _column("time_us", BigInteger),
        _column("items", JSON),
        _column("experiment", _key(64)),
        _column("arm", _key(64)),
        _column("segment", _key(64)),
        _column("propensity", Double, nullable=True),
        _column("features", LargeBinary, nullable=True),
    ],
    ["slate_id"],
    Index("ix_impressions_subject", "tenant", "subject_kind", "subject_id"),
    Index("ix_impressions_time", "tenant", "time_us"),
    Index(
        "ix_impressions_features",
        "tenant",
        "time_us",
        sqlite_where=text("features IS NOT NULL"),
        postgresql_where=text("features IS NOT NULL"),
    ),
    wide=True,
)

generations = _table(
    "generations",
    [
        _column("number", BigInteger),
        _column("parent", BigInteger),
        _column("is_full", Boolean),
        _column("publish_time_us", BigInteger),
        _column("watermark", BigInteger),
        _column("catalogue_revision", BigInteger),
        _column("item_count", BigInteger),
        _column("dimension", Integer),
        _column("total_bytes", BigInteger),
        _column("metrics", JSON),
    ],
    ["number"],
)

labels = _table("labels", [_column("label", _key(64)), _column("generation", BigInteger)], ["label"])

label_history = _table(
    "label_history",
    [_column("label", _key(64)), _column("step", BigInteger), _column("generation", BigInteger)],
    ["label", "step"],
)

leases = _table(
    "leases",
    [
        _column("name", _key(64)),
        _column("holder", String(256)),
        _column("epoch", BigInteger),
        _column("expire_time_us", BigInteger),
    ],
    ["name"],
)

server_leases = _table(
    "server_leases",
    [_column("server_id", _key(256)), _column("generations", JSON), _column("expire_time_us", BigInteger)],
    ["server_id"],
)

documents = _table(
    "documents",
    [
        _column("kind", _key(64)),
        _column("name", _key(64)),
        _column("version", BigInteger),
        # NULL when the version is a deletion.
        _column("content", JSON(none_as_null=True), nullable=True),
        _column("create_time_us", BigInteger),
    ],
    ["kind", "name", "version"],
    wide=True,
)

outcomes = _table(
    "outcomes",
    [
        _column("slate_id", _key(256)),
        _column("item_id", _key(256)),
        _column("event_type", _key(64)),
        _column("position", BigInteger),
        _column("place", BigInteger),
        _column("sources", String(256)),
        _column("strategy", String(256)),
        _column("experiment", _key(64)),
        _column("arm", _key(64)),
        _column("surface", String(128)),
        _column("reward", Double),
        _column("shown_time_us", BigInteger),
        _column("received_time_us", BigInteger),
    ],
    # What an item brought counts once, however often the event was written.
    ["slate_id", "item_id", "event_type"],
    Index("ix_outcomes_position", "tenant", "position"),  # to erase a user's
    Index("ix_outcomes_received_time", "tenant", "received_time_us"),
)
REPORTED = "reported"
"""The strategy of the outcomes of what callers say they showed themselves; their slate is the report's event."""

experiment_arms = _table(
    "experiment_arms",
    [
        _column("experiment", _key(64)),
        _column("segment", _key(64)),
        _column("arm", _key(64)),
        _column("slates", BigInteger),
        _column("reward", Double),
        _column("recent_slates", Double),
        _column("recent_reward", Double),
    ],
    ["experiment", "segment", "arm"],
)

experiment_users = _table(
    "experiment_users",
    [
        _column("experiment", _key(64)),
        _column("arm", _key(64)),
        _column("subject_hash", LargeBinary(32)),
        _column("slates", BigInteger),
        _column("reward", Double),
    ],
    ["experiment", "arm", "subject_hash"],
    Index("ix_experiment_users_subject", "tenant", "subject_hash"),
)
