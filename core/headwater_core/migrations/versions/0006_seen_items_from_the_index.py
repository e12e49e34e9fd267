"""Let PostgreSQL find all that a subject has seen in the index alone: who has done much has events on as many pages."""

from __future__ import annotations

from typing import Any

from alembic import op

revision = "0006"
down_revision = "0005"

_COLUMNS = ["tenant", "subject_kind", "subject_id", "event_time_us", "position"]


def _replace(**options: Any) -> None:
    """Make the new one beside the old, which goes on serving reads: a drop shuts everybody out until the commit."""
    op.create_index("ix_events_history_new", "events", _COLUMNS, **options)
    op.drop_index("ix_events_history", "events")
    op.execute("ALTER INDEX ix_events_history_new RENAME TO ix_events_history")


def upgrade() -> None:
    """Make the index anew, with the columns that are read; and have its pages known for visible to all before long."""
    if op.get_bind().dialect.name == "postgresql":
        _replace(postgresql_include=["event_type", "item_id"])
        op.execute("ALTER TABLE events SET (autovacuum_vacuum_insert_scale_factor = 0.02)")


def downgrade() -> None:
    """As it was."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE events RESET (autovacuum_vacuum_insert_scale_factor)")
        _replace()
