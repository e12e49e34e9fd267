"""The cells of a log and of a policy that both read."""

from __future__ import annotations

from headwater_updater.evaluation.csv_rows import number


def to_place(name: str, shown: str) -> int:
    """A place in an answer, from 1.

    Raises:
        ValueError: it is none.
    """
    text = shown.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0):
        raise ValueError(f"{name}: {shown[:40]!r} is no place; places count from 1")
    return int(text)


def to_probability(name: str, shown: str) -> float:
    """A number from 0 to 1.

    Raises:
        ValueError: it is none; names the column.
    """
    value = number(name, shown)
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: {value:g} is no probability")
    return value
