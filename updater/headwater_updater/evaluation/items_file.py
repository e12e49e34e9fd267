"""The file of items: what is known of them beside the events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headwater_core.catalogue import MAX_EMBEDDING, MAX_FLOAT32, Item
from headwater_core.events import check_id
from headwater_updater.evaluation.csv_rows import OnShare, read_rows

_Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ItemData:
    """What a file of items says."""

    texts: dict[str, str]
    """By item, what the item tower reads of it; "" where there is no text."""
    n_bad_rows: int = 0
    vectors: dict[str, _Vector] = field(default_factory=dict)
    """By item, the caller's own; all of one length. Items without one are left out."""


def read_items(path: Path, max_bad_rows: int = 0, on_share: OnShare | None = None) -> ItemData:
    """Read `item_id` and where there are such columns `title`, `categories`, `description` and `vector`.

    Between categories stands `|`, between the numbers of a vector a space or `;`. An item's second row is a bad row,
    and so is one whose vector is not as long as the file's first.

    Args:
        path: CSV, gzipped when its name ends in .gz.
        max_bad_rows: how many rows that cannot be used are put up with.
        on_share: told how far it is.

    Raises:
        DataFileError: the file cannot be used.
    """
    first_line: dict[str, int] = {}

    first_vector: tuple[int, int] | None = None

    def convert(line: int, fields: Mapping[str, str]) -> tuple[str, str, _Vector | None]:
        nonlocal first_vector
        item_id = fields["item_id"]
        check_id("item_id", item_id, required=True)
        if item_id in first_line:
            raise ValueError(f"item {item_id!r} is a duplicate of line {first_line[item_id]}")
        vector = _vector(fields.get("vector", ""))
        if vector is not None:
            first_vector = first_vector or (line, len(vector))
            if len(vector) != first_vector[1]:
                raise ValueError(
                    f"vector has {len(vector)} numbers; that of line {first_vector[0]} has {first_vector[1]}"
                )
        first_line[item_id] = line
        categories = tuple(name.strip() for name in fields.get("categories", "").split("|") if name.strip())
        item = Item(item_id, fields.get("title", ""), fields.get("description", ""), categories)
        return item_id, item.text(), vector

    rows = read_rows(path, ("item_id",), convert, max_bad_rows, on_share)
    return ItemData(
        {item_id: text for item_id, text, _ in rows.values},
        rows.n_bad,
        {item_id: vector for item_id, _, vector in rows.values if vector is not None},
    )


def _vector(cell: str) -> _Vector | None:
    """The numbers of a cell; None when it is empty.

    Raises:
        ValueError: they are no vector.
    """
    words = cell.replace(";", " ").split()
    if not words:
        return None
    if len(words) > MAX_EMBEDDING:
        raise ValueError(f"vector has {len(words)} numbers; the limit is {MAX_EMBEDDING}")
    numbers = np.empty(len(words), np.float64)
    for index, word in enumerate(words):
        try:
            numbers[index] = float(word)
        except ValueError:
            raise ValueError(f"vector holds {word[:32]!r}, which is not a number") from None
    if not (np.abs(numbers) <= MAX_FLOAT32).all():  # also false for NaN
        raise ValueError("vector holds a number that is not finite (float32)")
    return numbers.astype(np.float32)
