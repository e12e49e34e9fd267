"""Make the tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _key(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "counters",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("name", _key(64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_counters"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("event_id", _key(256), nullable=False),
        sa.Column("event_type", _key(64), nullable=False),
        sa.Column("subject_kind", _key(8), nullable=False),
        sa.Column("subject_id", _key(256), nullable=False),
        sa.Column("visitor_id", _key(256), nullable=False),
        sa.Column("session_id", sa.String(256), nullable=False),
        sa.Column("item_id", _key(256), nullable=False),
        sa.Column("query", sa.String(1024), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("event_time_us", sa.BigInteger(), nullable=False),
        sa.Column("received_time_us", sa.BigInteger(), nullable=False),
        sa.Column("attribution_token", sa.Text(), nullable=False),
        sa.Column("slate_position", sa.BigInteger(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=True),
        sa.Column("backfill", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "position", name="pk_events"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_events_event_id", "events", ["tenant", "event_id"])
    op.create_index(
        "ix_events_history", "events", ["tenant", "subject_kind", "subject_id", "event_time_us", "position"]
    )
    op.create_index("ix_events_item", "events", ["tenant", "item_id", "position"])
    op.create_table(
        "event_ids",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("event_id", _key(256), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("received_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "event_id", name="pk_event_ids"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_event_ids_received_time", "event_ids", ["tenant", "received_time_us"])
    op.create_table(
        "visitor_links",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("visitor_id", _key(256), nullable=False),
        sa.Column("user_id", _key(256), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "visitor_id", name="pk_visitor_links"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_visitor_links_user", "visitor_links", ["tenant", "user_id"])
    op.create_table(
        "erasures",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("subject_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("is_whole", sa.Boolean(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("erase_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "number", name="pk_erasures"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_erasures_subject", "erasures", ["tenant", "subject_hash"])
    op.create_table(
        "rejections",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("rule", _key(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "position", name="pk_rejections"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "event_types",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("name", _key(64), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("in_history", sa.Boolean(), nullable=False),
        sa.Column("is_target", sa.Boolean(), nullable=False),
        sa.Column("is_negative", sa.Boolean(), nullable=False),
        sa.Column("value_min", sa.Double(), nullable=True),
        sa.Column("value_max", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_event_types"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "items",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("item_id", _key(256), nullable=False),
        sa.Column("title", sa.String(1024), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("categories", sa.JSON(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("available", sa.Boolean(), nullable=False),
        sa.Column("publish_time_us", sa.BigInteger(), nullable=True),
        sa.Column("expire_time_us", sa.BigInteger(), nullable=True),
        sa.Column("embedding", sa.LargeBinary(), nullable=True),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("update_time_us", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "item_id", name="pk_items"),
    )
    op.create_index("ix_items_revision", "items", ["tenant", "revision"])
    op.create_table(
        "item_categories",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("category", _key(256), nullable=False),
        sa.Column("item_id", _key(256), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "category", "item_id", name="pk_item_categories"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_item_categories_item", "item_categories", ["tenant", "item_id"])
    op.create_table(
        "text_features",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("encoder", _key(128), nullable=False),
        sa.Column("text_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "encoder", "text_hash", name="pk_text_features"),
    )
    op.create_table(
        "impressions",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("slate_id", _key(256), nullable=False),
        sa.Column("subject_kind", _key(8), nullable=True),
        sa.Column("subject_id", _key(256), nullable=True),
        sa.Column("session_id", sa.String(256), nullable=False),
        sa.Column("surface", sa.String(128), nullable=False),
        sa.Column("context", sa.JSON(), nullable=False),
        sa.Column("strategy", sa.String(256), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "slate_id", name="pk_impressions"),
    )
    op.create_index("ix_impressions_subject", "impressions", ["tenant", "subject_kind", "subject_id"])
    op.create_index("ix_impressions_time", "impressions", ["tenant", "time_us"])
    op.create_table(
        "generations",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("parent", sa.BigInteger(), nullable=False),
        sa.Column("is_full", sa.Boolean(), nullable=False),
        sa.Column("publish_time_us", sa.BigInteger(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("catalogue_revision", sa.BigInteger(), nullable=False),
        sa.Column("item_count", sa.BigInteger(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "number", name="pk_generations"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "labels",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("label", _key(64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "label", name="pk_labels"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "label_history",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("label", _key(64), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "label", "step", name="pk_label_history"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("name", _key(64), nullable=False),
        sa.Column("holder", sa.String(256), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expire_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_leases"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "server_leases",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("server_id", _key(256), nullable=False),
        sa.Column("generations", sa.JSON(), nullable=False),
        sa.Column("expire_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "server_id", name="pk_server_leases"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "sqlite":
        _describe_to_sqlite()


def _describe_to_sqlite() -> None:
    """Tell SQLite's planner what the keys select, in the form of its own ANALYZE, which replaces this when it is run.

    Without statistics it takes any first column for a selective one, but the tenant selects everything: it would read
    the whole log to find one user's events.
    """
    op.execute("ANALYZE")
    op.execute("DELETE FROM sqlite_stat1")
    statistics = sa.table("sqlite_stat1", sa.column("tbl"), sa.column("idx"), sa.column("stat"))
    # Rows in all, then rows for a given first column, first two columns, …
    op.bulk_insert(
        statistics,
        [
            {"tbl": table, "idx": index, "stat": stat}
            for table, index, stat in (
                ("events", "events", "1000000 1000000 1"),
                ("events", "ix_events_history", "1000000 1000000 500000 100 2 1"),
                ("events", "ix_events_item", "1000000 1000000 100 1"),
                ("events", "ix_events_event_id", "1000000 1000000 1"),
                ("event_ids", "event_ids", "1000000 1000000 1"),
                ("event_ids", "ix_event_ids_received_time", "1000000 1000000 10"),
                ("visitor_links", "visitor_links", "100000 100000 1"),
                ("visitor_links", "ix_visitor_links_user", "100000 100000 2"),
                ("erasures", "erasures", "10000 10000 1"),
                ("erasures", "ix_erasures_subject", "10000 10000 2"),
                ("items", "sqlite_autoindex_items_1", "100000 100000 1"),
                ("items", "ix_items_revision", "100000 100000 1"),
                ("item_categories", "item_categories", "300000 300000 3000 1"),
                ("item_categories", "ix_item_categories_item", "300000 300000 3"),
                ("impressions", "sqlite_autoindex_impressions_1", "1000000 1000000 1"),
                ("impressions", "ix_impressions_subject", "1000000 1000000 500000 100"),
                ("impressions", "ix_impressions_time", "1000000 1000000 10"),
            )
        ],
    )
    op.execute("ANALYZE sqlite_schema")  # reads them


def downgrade() -> None:
    """Drop every table."""
    for name in (
        "server_leases",
        "leases",
        "label_history",
        "labels",
        "generations",
        "impressions",
        "text_features",
        "item_categories",
        "items",
        "event_types",
        "rejections",
        "erasures",
        "visitor_links",
        "event_ids",
        "events",
        "counters",
    ):
        op.drop_table(name)
