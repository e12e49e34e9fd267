"""What alembic runs: Database.migrate() hands over its connection, already in a transaction and under the lock."""

from __future__ import annotations

from alembic import context

from headwater_core.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
