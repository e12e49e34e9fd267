"""Make the tables of strategies, experiments and outcomes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _key(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "documents",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("kind", _key(64), nullable=False),
        sa.Column("name", _key(64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=True),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "kind", "name", "version", name="pk_documents"),
    )
    for name in ("experiment", "arm", "segment"):
        op.add_column("impressions", sa.Column(name, _key(64), nullable=False, server_default=""))
    op.add_column("impressions", sa.Column("propensity", sa.Double(), nullable=True))
    op.create_table(
        "outcomes",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("slate_id", _key(256), nullable=False),
        sa.Column("item_id", _key(256), nullable=False),
        sa.Column("event_type", _key(64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("sources", sa.String(256), nullable=False),
        sa.Column("strategy", sa.String(256), nullable=False),
        sa.Column("experiment", _key(64), nullable=False),
        sa.Column("arm", _key(64), nullable=False),
        sa.Column("surface", sa.String(128), nullable=False),
        sa.Column("reward", sa.Double(), nullable=False),
        sa.Column("shown_time_us", sa.BigInteger(), nullable=False),
        sa.Column("received_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "slate_id", "item_id", "event_type", name="pk_outcomes"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_outcomes_position", "outcomes", ["tenant", "position"])
    op.create_index("ix_outcomes_received_time", "outcomes", ["tenant", "received_time_us"])
    op.create_table(
        "experiment_arms",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("experiment", _key(64), nullable=False),
        sa.Column("segment", _key(64), nullable=False),
        sa.Column("arm", _key(64), nullable=False),
        sa.Column("slates", sa.BigInteger(), nullable=False),
        sa.Column("reward", sa.Double(), nullable=False),
        sa.Column("recent_slates", sa.Double(), nullable=False),
        sa.Column("recent_reward", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "experiment", "segment", "arm", name="pk_experiment_arms"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "experiment_users",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("experiment", _key(64), nullable=False),
        sa.Column("arm", _key(64), nullable=False),
        sa.Column("subject_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("slates", sa.BigInteger(), nullable=False),
        sa.Column("reward", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "experiment", "arm", "subject_hash", name="pk_experiment_users"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_experiment_users_subject", "experiment_users", ["tenant", "subject_hash"])
    if op.get_bind().dialect.name == "sqlite":
        _describe_to_sqlite()


def _describe_to_sqlite() -> None:
    """As in the first release: what the keys select."""
    statistics = sa.table("sqlite_stat1", sa.column("tbl"), sa.column("idx"), sa.column("stat"))
    op.bulk_insert(
        statistics,
        [
            {"tbl": table, "idx": index, "stat": stat}
            for table, index, stat in (
                ("outcomes", "outcomes", "1000000 1000000 2 1 1"),
                ("outcomes", "ix_outcomes_position", "1000000 1000000 1"),
                ("outcomes", "ix_outcomes_received_time", "1000000 1000000 10"),
                ("experiment_users", "experiment_users", "100000 100000 50000 25000 1"),
                ("experiment_users", "ix_experiment_users_subject", "100000 100000 2"),
            )
        ],
    )
    op.execute("ANALYZE sqlite_schema")  # reads them


def downgrade() -> None:
    """Drop them."""
    for name in ("experiment_users", "experiment_arms", "outcomes"):
        op.drop_table(name)
    for name in ("propensity", "segment", "arm", "experiment"):
        op.drop_column("impressions", name)
    op.drop_table("documents")
