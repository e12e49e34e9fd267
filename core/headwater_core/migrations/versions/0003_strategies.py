"""Make the table of strategies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"


def _key(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Make it."""
    op.create_table(
        "strategies",
        sa.Column("tenant", _key(64), nullable=False),
        sa.Column("name", _key(64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=True),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", "version", name="pk_strategies"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("strategies")
