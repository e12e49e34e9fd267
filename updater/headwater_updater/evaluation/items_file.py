"""The file of items: what is known of them beside the events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater_core.catalogue import Item
from headwater_core.events import check_id
from headwater_updater.evaluation.csv_rows import OnShare, read_rows


@dataclass(frozen=True, slots=True)
class ItemData:
    """What a file of items says."""

    texts: dict[str, str]
    """By item, what the item tower reads of it; "" where there is no text."""
    n_bad_rows: int = 0


def read_items(path: Path, max_bad_rows: int = 0, on_share: OnShare | None = None) -> ItemData:
    """Read `item_id` and where there are such columns `title`, `categories` (`|` between them) and `description`.

    An item's second row is a bad row.

    Args:
        path: CSV, gzipped when its name ends in .gz.
        max_bad_rows: how many rows that cannot be used are put up with.
        on_share: told how far it is.

    Raises:
        DataFileError: the file cannot be used.
    """
    first_line: dict[str, int] = {}

    def convert(line: int, fields: Mapping[str, str]) -> tuple[str, str]:
        item_id = fields["item_id"]
        check_id("item_id", item_id, required=True)
        if item_id in first_line:
            raise ValueError(f"item {item_id!r} is a duplicate of line {first_line[item_id]}")
        first_line[item_id] = line
        categories = tuple(name.strip() for name in fields.get("categories", "").split("|") if name.strip())
        item = Item(item_id, fields.get("title", ""), fields.get("description", ""), categories)
        return item_id, item.text()

    rows = read_rows(path, ("item_id",), convert, max_bad_rows, on_share)
    return ItemData(dict(rows.values), rows.n_bad)
