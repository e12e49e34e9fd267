"""RecBole's atomic files as the two-file form."""

from __future__ import annotations

import zipfile
from pathlib import Path

import ml_100k
import pytest

from headwater_updater.evaluation.events_file import read_events
from headwater_updater.evaluation.items_file import read_items

RATINGS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n2\t7\t4\t20\n1\t7\t5\t10\n2\t8\t1\t20\n"
FILMS = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n7\tAlien\t1979\tHorror Sci-Fi\n"


def test_events_come_in_the_order_of_time() -> None:
    """Equal times stay as published."""
    rows = ml_100k.event_rows(ml_100k.atomic_rows(RATINGS))
    assert [tuple(row) for row in rows] == [
        ("1", "7", "10", "rating", "5"),
        ("2", "7", "20", "rating", "4"),
        ("2", "8", "20", "rating", "1"),
    ]


def test_the_files_are_what_evaluate_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of a wheel, both files; titles carry the year."""
    wheel = tmp_path / "recbole.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", RATINGS)
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.item", FILMS)
    monkeypatch.setattr("sys.argv", ["ml_100k.py", str(wheel), str(tmp_path / "out")])
    assert ml_100k.main() == 0
    assert set(read_events(tmp_path / "out" / "events.csv.gz").histories) == {"1", "2"}
    assert "Alien (1979)" in read_items(tmp_path / "out" / "items.csv.gz").texts["7"]
