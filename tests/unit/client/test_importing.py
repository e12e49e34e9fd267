"""Import files: rows, their meaning, event ids, batches."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headwater.v1.item_pb2 import Item
from headwater_client._importing.events import EventRows
from headwater_client._importing.importer import Importer, Sent
from headwater_client._importing.items import item_of
from headwater_client._importing.rows import BadRow, ImportFileError, Row, RowFile

GOOD = {"user_id": "u", "item_id": "i", "timestamp": "828124615", "event_type": "rating", "value": "4.5"}


def read(path: Path, *required: str) -> list[Row | BadRow]:
    with RowFile(path, required) as rows:
        found = list(rows)
        assert rows.read_bytes == rows.size_bytes
        return found


def test_csv_rows_carry_their_lines(tmp_path: Path) -> None:
    """Quoted newlines, blank lines, a byte order mark: the line is the one the row ends on."""
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffid,text\n1,"two\nlines"\n\n2,é\n3\n'.encode())
    assert read(path, "id") == [
        Row(3, {"id": "1", "text": "two\nlines"}),
        Row(5, {"id": "2", "text": "é"}),
        BadRow(6, "has 1 cells; the header has 2"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "A.JSON"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    """One object a line; anything else is a bad row and the next one is still read."""
    path = tmp_path / name
    data = b'{"id": 1}\n\n[1]\n{"id": \n{"id": "2"}\n'
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    rows = read(path)
    assert [row.line for row in rows] == [1, 3, 4, 5]
    assert [type(row) for row in rows] == [Row, BadRow, BadRow, Row]


def test_bytes_that_are_not_utf8_spoil_their_row_only(tmp_path: Path) -> None:
    """A row in another encoding is bad; its neighbours are good."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"id\n1\n\xff\n2\n"))
    assert read(path) == [Row(2, {"id": "1"}), BadRow(3, "is not UTF-8"), Row(4, {"id": "2"})]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"", "must end in"),
        ("a", b"", "must end in"),
        ("a.csv", b"x\n1\n", "lacks the column id"),
        ("a.csv", b"", "lacks the column id"),
        ("a.csv", b"id,id\n", "twice"),
        ("a.csv", b'id\n"open', "not a CSV file"),
        ("a.csv.gz", b"not gzip", "damaged"),
        ("a.csv.gz", gzip.compress(b"id\n" + b"1\n" * 9999)[:-20], "damaged"),
    ],
)
def test_files_that_cannot_be_imported(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    """What is wrong with a whole file is said with its name."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImportFileError, match=reason):
        read(path, "id")


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an ImportFileError, not a traceback."""
    with pytest.raises(ImportFileError, match="No such file"):
        read(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        ("828124615", datetime(1996, 3, 29, 18, 36, 55, tzinfo=UTC)),
        (828124615, datetime(1996, 3, 29, 18, 36, 55, tzinfo=UTC)),
        ("828124615.25", datetime(1996, 3, 29, 18, 36, 55, 250_000, tzinfo=UTC)),
        ("2019-11-24 00:00:17.004101+00:00", datetime(2019, 11, 24, 0, 0, 17, 4101, tzinfo=UTC)),
        ("2019-11-24T01:00:00+01:00", datetime(2019, 11, 24, tzinfo=UTC)),
        ("2019-11-24", datetime(2019, 11, 24, tzinfo=UTC)),
    ],
)
def test_timestamps(timestamp: str | int, moment: datetime) -> None:
    """Unix seconds and ISO 8601 are both understood."""
    event = EventRows().event({**GOOD, "timestamp": timestamp})
    assert event.event_time.ToDatetime(tzinfo=UTC) == moment


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timestamp": ""}, "timestamp: must not be empty"),
        ({"timestamp": "yesterday"}, "neither Unix seconds nor ISO 8601"),
        ({"timestamp": "828124615000"}, "milliseconds"),
        ({"timestamp": "nan"}, "timestamp"),
        ({"value": "many"}, "value: 'many' is not a number"),
        ({"position": "1.5"}, "position"),
        ({"position": "inf"}, "position"),
        ({"position": "99999999999"}, "range"),
        ({"user_id": ["u"]}, "user_id: must be a single value"),
        ({"attributes": [1]}, "attributes: must be an object"),
        ({"user_id": "\ud800"}, "surrogates"),
    ],
)
def test_bad_event_rows_say_why(change: Mapping[str, Any], reason: str) -> None:
    """A cell that cannot be used is a ValueError that names its column."""
    with pytest.raises(ValueError, match=reason):
        EventRows().event({**GOOD, **change})


def test_unknown_columns_become_attributes() -> None:
    """Other columns, and an attributes object, are kept as text; empty cells are not."""
    event = EventRows().event({**GOOD, "country": "FR", "empty": "", "price": 2.5, "attributes": {"tags": ["a"]}})
    assert dict(event.attributes) == {"country": "FR", "price": "2.5", "tags": '["a"]'}
    assert (event.value, event.HasField("position")) == (4.5, False)


def test_event_ids_are_the_same_in_every_run() -> None:
    """Equal rows get different ids, the same ones in every run and wherever they stand; an id given is kept."""

    def ids(*rows: Mapping[str, Any]) -> list[str]:
        made = EventRows()
        return [made.event(row).event_id for row in rows]

    other = {**GOOD, "value": "1"}
    first = ids(GOOD, GOOD, other)
    assert len(set(first)) == 3
    assert ids(other, GOOD, GOOD) == [first[2], first[0], first[1]]
    assert ids({**GOOD, "value": 4.5}) == first[:1]
    assert ids({**GOOD, "event_id": "mine"}) == ["mine"]


def test_items() -> None:
    """Categories split at |, other columns become attributes, a JSON list is a list."""
    made = item_of({"item_id": "1", "title": "Heat", "categories": "Crime| Drama|", "brand": "W", "available": "false"})
    assert (made.title, list(made.categories), dict(made.attributes)) == ("Heat", ["Crime", "Drama"], {"brand": "W"})
    assert not made.available
    assert list(item_of({"item_id": 1, "categories": ["a|b"]}).categories) == ["a|b"]
    assert item_of({"item_id": "1"}).available
    for bad in ({"available": "maybe"}, {"categories": [1]}, {"publish_time": "then"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            item_of({"item_id": "1", **bad})


class Recorder:
    """A server's side of an import, and the importer's ears."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.bad_rows: list[BadRow] = []

    def send(self, batch: list[Item]) -> Sent:
        self.batches.append([one.item_id for one in batch])
        refused = {index: "item_id: no" for index, one in enumerate(batch) if one.item_id == "refuse"}
        return Sent(len(batch) - len(refused), refused=refused, consistency_token=f"t{len(self.batches)}")

    def importer(self, max_bad_rows: int) -> Importer[Item]:
        return Importer(
            item_of,
            self.send,
            max_bad_rows=max_bad_rows,
            on_bad_row=self.bad_rows.append,
            on_batch=lambda report: None,
            unique=lambda item: item.item_id,
        )


def rows_of(*item_ids: str) -> list[Row | BadRow]:
    return [Row(line, {"item_id": item_id}) for line, item_id in enumerate(item_ids, start=2)]


def test_batches_hold_a_thousand_and_no_id_twice() -> None:
    """A batch ends at 1,000 rows, and before an id that it has already."""
    recorder = Recorder()
    report = recorder.importer(0).run(rows_of("a", "a", *(f"{n}" for n in range(1_000))))
    assert [len(batch) for batch in recorder.batches] == [1, 1_000, 1]
    assert (report.rows, report.written, report.complete, report.consistency_token) == (1_002, 1_002, True, "t3")


def test_bad_rows_are_counted_and_told_with_their_lines() -> None:
    """Rows that do not read, do not convert, or are refused are all bad rows, with a line and a reason."""
    recorder = Recorder()
    rows = [*rows_of("a", "refuse"), BadRow(9, "is not UTF-8"), Row(10, {"item_id": "b", "available": "maybe"})]
    report = recorder.importer(3).run(rows)
    assert (report.written, report.bad_rows, report.complete) == (1, 3, True)
    assert sorted(row.line for row in recorder.bad_rows) == [3, 9, 10]


def test_one_bad_row_too_many_stops() -> None:
    """With more bad rows than allowed the rest of the file is not read, and the report says so."""
    recorder = Recorder()
    report = recorder.importer(0).run([BadRow(2, "bad"), *rows_of("a")])
    assert (report.rows, report.complete, recorder.batches) == (1, False, [])
    late = recorder.importer(0).run(rows_of("refuse"))
    assert not late.complete


def test_large_rows_make_smaller_batches() -> None:
    """A batch stays below the message limit."""
    recorder = Recorder()
    text = "x" * (5 * 1024 * 1024)
    recorder.importer(0).run([Row(n, {"item_id": f"{n}", "description": text}) for n in range(3)])
    assert [len(batch) for batch in recorder.batches] == [1, 1, 1]


def test_json_numbers_are_ids_too(tmp_path: Path) -> None:
    """A JSON number as an id becomes its digits."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**GOOD, "user_id": 7}))
    (row,) = read(path)
    assert isinstance(row, Row) and EventRows().event(row.fields).user_id == "7"
