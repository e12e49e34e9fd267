"""Find what a subject was reported to have been shown without walking through all its events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the index."""
    is_report = sa.text("event_type = 'impression' AND attribution_token = ''")
    op.create_index(
        "ix_events_reports",
        "events",
        ["tenant", "subject_kind", "subject_id", "event_time_us"],
        sqlite_where=is_report,
        postgresql_where=is_report,
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_events_reports", "events")
