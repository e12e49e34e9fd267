"""MovieLens 100K in the two-file form, out of the RecBole package, which ships it as an example.

`python benchmarks/quality/ml_100k.py recbole-1.2.1-py3-none-any.whl FOLDER` after
`pip download --no-deps recbole==1.2.1` writes FOLDER/events.csv.gz and FOLDER/items.csv.gz.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

_INSIDE = "recbole/dataset_example/ml-100k/ml-100k"


def main() -> int:
    """Write both files; the events alone where the package holds no items."""
    parser = argparse.ArgumentParser(description="MovieLens 100K as events and items")
    parser.add_argument("wheel", type=Path, help="RecBole's wheel")
    parser.add_argument("folder", type=Path, help="where to write events.csv.gz and items.csv.gz")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(arguments.wheel) as wheel:
        ratings = atomic_rows(wheel.read(f"{_INSIDE}.inter").decode("utf-8"))
        columns = ("user_id", "item_id", "timestamp", "event_type", "value")
        _write(arguments.folder / "events.csv.gz", columns, event_rows(ratings))
        if f"{_INSIDE}.item" in wheel.namelist():
            films = atomic_rows(wheel.read(f"{_INSIDE}.item").decode("utf-8"))
            _write(arguments.folder / "items.csv.gz", ("item_id", "title", "categories"), item_rows(films))
    return 0


def atomic_rows(text: str) -> list[dict[str, str]]:
    """The rows of a RecBole file: tabs between cells, columns named `name:type`."""
    header, *lines = (line.split("\t") for line in text.splitlines() if line.strip())
    names = [cell.split(":")[0] for cell in header]
    return [dict(zip(names, cells, strict=True)) for cells in lines]


def event_rows(ratings: Iterable[dict[str, str]]) -> list[Sequence[str]]:
    """user_id, item_id, timestamp, event_type, value; in the order of time, as published where times are equal."""
    ordered = sorted(ratings, key=lambda row: float(row["timestamp"]))
    return [(row["user_id"], row["item_id"], row["timestamp"], "rating", row["rating"]) for row in ordered]


def item_rows(films: Iterable[dict[str, str]]) -> list[Sequence[str]]:
    """item_id, title with its year, genres between bars."""
    rows: list[Sequence[str]] = []
    for film in films:
        year = film["release_year"].strip()
        title = f"{film['movie_title']} ({year})" if year else film["movie_title"]
        rows.append((film["item_id"], title, "|".join(film["class"].split())))
    return rows


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


if __name__ == "__main__":
    sys.exit(main())
