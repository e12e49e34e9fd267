"""Keep with an impression what the ranker read of its items."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the column, and the index of those that have it."""
    op.add_column("impressions", sa.Column("features", sa.LargeBinary(), nullable=True))
    op.create_index(
        "ix_impressions_features",
        "impressions",
        ["tenant", "time_us"],
        sqlite_where=sa.text("features IS NOT NULL"),
        postgresql_where=sa.text("features IS NOT NULL"),
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_index("ix_impressions_features", "impressions")
    op.drop_column("impressions", "features")
