"""Keep the words of items where they can be looked up, those of items that are there already too."""

from __future__ import annotations

import itertools

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

from headwater_core.word_index import word_index

revision = "0002"
down_revision = "0001"

_READ_AT_ONCE = 1_000


def upgrade() -> None:
    """Make the table and fill it."""
    if op.get_bind().dialect.name == "sqlite":
        # ascii: whatever is not ASCII belongs to words. Folding and splitting are done before, by `search_words`.
        op.execute(
            "CREATE VIRTUAL TABLE item_words USING fts5(tenant UNINDEXED, item_id UNINDEXED, title_key, title, "
            "categories, attributes, description, tokenize = 'ascii', prefix = '1 2 3')"
        )
    else:
        op.create_table(
            "item_words",
            sa.Column("tenant", sa.String(64, collation="C"), nullable=False),
            sa.Column("item_id", sa.String(256, collation="C"), nullable=False),
            sa.Column("words", TSVECTOR(), nullable=False),
            sa.PrimaryKeyConstraint("tenant", "item_id", name="pk_item_words"),
        )
        # What fastupdate puts off, every look into the index would read through until the next vacuum: mending a word
        # takes hundreds of looks, and seconds after an import.
        without_delay = {"fastupdate": "off"}
        op.create_index(
            "ix_item_words_words", "item_words", ["words"], postgresql_using="gin", postgresql_with=without_delay
        )
    _fill()


def _fill() -> None:
    connection = op.get_bind()
    items = sa.table(
        "items",
        *(sa.column(name) for name in ("tenant", "item_id", "title", "description", "deleted")),
        sa.column("categories", sa.JSON()),
        sa.column("attributes", sa.JSON()),
    )
    key = sa.tuple_(items.c.tenant, items.c.item_id)
    statement = sa.select(items).where(sa.not_(items.c.deleted)).order_by(items.c.tenant, items.c.item_id)
    last = ("", "")
    while rows := connection.execute(statement.where(key > last).limit(_READ_AT_ONCE)).mappings().all():
        for tenant, of_tenant in itertools.groupby(map(dict, rows), key=lambda row: str(row["tenant"])):
            word_index(connection, tenant).put(list(of_tenant))
        last = (rows[-1]["tenant"], rows[-1]["item_id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("item_words")
