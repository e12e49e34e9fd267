"""Reading files of events, items and users, and what is said of wrong ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from headwater_updater.evaluation.csv_rows import DataFileError
from headwater_updater.evaluation.events_file import ORDER_STEP_US, Ordering, read_events, read_users
from headwater_updater.evaluation.items_file import read_items

GOOD = "user_id,item_id,timestamp\na,x,1\nb,y,2\n"


def written(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["events.csv", "events.csv.gz"])
def test_events_are_sorted_by_time_then_order_then_line(tmp_path: Path, name: str) -> None:
    """Timestamps are Unix seconds or ISO; `order` sorts equal ones; other columns are ignored."""
    content = (
        "user_id,item_id,timestamp,order,event_type,value,colour\n"
        "a,late,1970-01-01T00:00:09Z,0,rating,4.5,red\n"
        "a,second,5,2,Rating,,red\n"
        "a,first,5,1,rating,-1,red\n"
        "b,x,1.5,1,,,\n"
    )
    data = read_events(written(tmp_path / name, content))
    assert data.ordering is Ordering.TIMESTAMP
    assert [(e.item_id, e.event_time_us, e.event_type, e.value) for e in data.histories["a"]] == [
        ("first", 5_000_000, "rating", -1.0),
        ("second", 5_000_000, "rating", None),
        ("late", 9_000_000, "rating", 4.5),
    ]
    assert [(e.event_time_us, e.event_type) for e in data.histories["b"]] == [(1_500_000, "click")]


@pytest.mark.parametrize(
    ("content", "ordering"),
    [
        ("user_id,item_id,order\na,y,2\na,x,1\nb,x,1\n", Ordering.ORDER),
        ("user_id,item_id\na,x\nb,x\na,y\n", Ordering.FILE),
    ],
)
def test_without_timestamps_every_event_is_a_block_of_its_own(tmp_path: Path, content: str, ordering: Ordering) -> None:
    """`order`, else the file, sorts a user's events; their times are equally far apart and say nothing more."""
    data = read_events(written(tmp_path / "events.csv", content))
    assert data.ordering is ordering
    assert [(e.item_id, e.event_time_us) for e in data.histories["a"]] == [("x", 0), ("y", ORDER_STEP_US)]


def test_types_decide_what_is_a_target(tmp_path: Path) -> None:
    """Negative types are history only, impressions are left out, unknown types are plain targets; values are free."""
    content = (
        "user_id,item_id,event_type,value,query\n"
        "a,x,purchase,-7,\na,x,cancel,-3,\na,y,impression,,\na,z,listened,,\na,,search,,red shoes\nb,x,view,-1,\n"
    )
    data = read_events(written(tmp_path / "events.csv", content))
    found = [(e.event_type, data.is_target(e)) for e in data.histories["a"]]
    assert found == [("purchase", True), ("cancel", False), ("listened", True), ("search", False)]
    assert data.n_left_out == 1
    assert data.histories["a"][3].query == "red shoes"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("user_id,item_id,timestamp\n", "no rows"),
        ("user,item_id\na,x\n", "lacks the column user_id; its header is user,item_id"),
        ("time\n1\n", "lacks the column user_id, item_id"),
        ("user_id,item_id,item_id\na,x,y\n", "names a column twice"),
        ("user_id,item_id\na,x\na,y\n", "only one user"),
        ("user_id,item_id\na,x\nb,x\n", "only one item"),
        (GOOD + "a,x\n", "1 rows cannot be used, --max-bad-rows allows 0: line 4: has 2 cells; the header has 3"),
        (GOOD + ",x,1\n", "line 4: user_id: must not be empty"),
        (GOOD + "a,,1\n", "line 4: item_id: must not be empty"),
        (GOOD + "a,x,\n", "line 4: timestamp: '' is neither Unix seconds nor ISO 8601"),
        (GOOD + "a,x,nan\n", "line 4: timestamp: nan is too far off"),
        (GOOD + "a,x,828124615000\n", "is it milliseconds?"),
        (GOOD + 'a,"x"y,3\n', "line 4: is no CSV"),
        (GOOD + "a,x,4\na,x,soon\n\na,x,5\nb,y,then\n", "2 rows cannot be used, --max-bad-rows allows 0: line 5: "),
        ("user_id,item_id,value\na,x,inf\n", "line 2: value: 'inf' is not a number"),
        ("user_id,item_id,order\na,x,first\n", "line 2: order: 'first' is not a number"),
        ("user_id,item_id,event_type\na,x,no type\n", "line 2: name: must be 1 to 64 characters"),
        (b"user_id,item_id\na,\xff\n", "line 2: is not UTF-8"),
    ],
)
def test_a_wrong_file_of_events_says_what_is_wrong(tmp_path: Path, content: str | bytes, reason: str) -> None:
    """Every error names the file, and the line where there is one."""
    path = written(tmp_path / "events.csv", content)
    with pytest.raises(DataFileError) as error:
        read_events(path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)


def test_some_bad_rows_can_be_put_up_with(tmp_path: Path) -> None:
    """They are left out and counted; one more than allowed is an error that counts them all and shows the first."""
    bad = "a,x,soon\n" * 7
    path = written(tmp_path / "events.csv", GOOD + bad)
    data = read_events(path, max_bad_rows=7)
    assert data.n_bad_rows == 7
    assert {user_id: len(events) for user_id, events in data.histories.items()} == {"a": 1, "b": 1}
    with pytest.raises(DataFileError, match=r"7 rows cannot be used.*line 4: .*line 8: .*and 2 more"):
        read_events(path, max_bad_rows=6)


def test_a_file_that_cannot_be_opened_or_unzipped(tmp_path: Path) -> None:
    """A missing file, one that is no gzip and one that was cut off are told apart."""
    with pytest.raises(DataFileError, match="No such file"):
        read_events(tmp_path / "none.csv")
    (tmp_path / "plain.csv.gz").write_text(GOOD)
    with pytest.raises(DataFileError, match="damaged"):
        read_events(tmp_path / "plain.csv.gz")
    (tmp_path / "short.csv.gz").write_bytes(gzip.compress(GOOD.encode())[:-12])
    with pytest.raises(DataFileError, match="damaged"):
        read_events(tmp_path / "short.csv.gz")


def test_items_become_texts(tmp_path: Path) -> None:
    """Title, categories and description make the text; all are optional."""
    content = "item_id,title,categories,description\nx,Heat,Crime | Drama,A heist.\ny,,,\n"
    assert read_items(written(tmp_path / "items.csv.gz", content)).texts == {
        "x": "Heat. Crime, Drama. A heist.",
        "y": "",
    }
    assert read_items(written(tmp_path / "items.csv", "item_id\nx\n")).texts == {"x": ""}


def test_a_duplicate_item_is_a_bad_row(tmp_path: Path) -> None:
    """Its line and the first one's are named; where it is put up with, the first one counts."""
    path = written(tmp_path / "items.csv", "item_id,title\nx,Heat\ny,Up\nx,Cold\n")
    with pytest.raises(DataFileError, match="line 4: item 'x' is a duplicate of line 2"):
        read_items(path)
    found = read_items(path, max_bad_rows=1)
    assert (found.texts, found.n_bad_rows) == ({"x": "Heat", "y": "Up"}, 1)


def test_items_may_have_vectors(tmp_path: Path) -> None:
    """Numbers separated by spaces or semicolons; an empty cell is none, and so is a file without the column."""
    content = "item_id,title,vector\nx,Heat,0.5 -1e2\ny,,; 3;4 ;\nz,Up,\n"
    found = read_items(written(tmp_path / "items.csv", content))
    assert found.texts == {"x": "Heat", "y": "", "z": "Up"}
    assert {item_id: vector.tolist() for item_id, vector in found.vectors.items()} == {"x": [0.5, -100], "y": [3, 4]}
    assert not read_items(written(tmp_path / "items.csv", "item_id\nx\n")).vectors


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("1 2 3", "vector has 3 numbers; that of line 2 has 2"),
        ("1", "vector has 1 numbers; that of line 2 has 2"),
        ("1 x", "vector holds 'x', which is not a number"),
        ("[1 2]", r"vector holds '\[1', which is not a number"),
        ("1 nan", "vector holds a number that is not finite"),
        ("1;-inf", "vector holds a number that is not finite"),
        ("1 1e39", "vector holds a number that is not finite"),
        ("1 " * 4097, "vector has 4097 numbers; the limit is 4096"),
    ],
)
def test_a_wrong_vector_is_a_bad_row(tmp_path: Path, cell: str, reason: str) -> None:
    """It is told with its line and reason; where it is put up with, the row is left out."""
    path = written(tmp_path / "items.csv", f"item_id,vector\nx,1 2\ny,{cell}\nz,3 4\n")
    with pytest.raises(DataFileError, match=f"line 3: {reason}"):
        read_items(path)
    found = read_items(path, max_bad_rows=1)
    assert (list(found.texts), list(found.vectors), found.n_bad_rows) == (["x", "z"], ["x", "z"], 1)


def test_items_need_an_id(tmp_path: Path) -> None:
    """A file of items without the column is refused."""
    with pytest.raises(DataFileError, match="lacks the column item_id"):
        read_items(written(tmp_path / "items.csv", "id,title\nx,Heat\n"))


def test_users_are_read_once_each(tmp_path: Path) -> None:
    """In the file's order, other columns ignored."""
    path = written(tmp_path / "users.csv", "age,user_id\n3,b\n4,a\n5,b\n")
    assert read_users(path) == ["b", "a"]
