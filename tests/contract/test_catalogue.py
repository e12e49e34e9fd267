"""The catalogue: whole and masked upserts, tombstones, and changes that can be followed."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from headwater_core.catalogue import Catalogue, Item, ItemChange
from headwater_core.database import Database
from headwater_core.errors import InvalidFieldError

NOW_US = 1_700_000_000_000_000
FILM = Item(
    "film",
    title="Heat",
    description="A robbery goes wrong.",
    categories=("crime", "drama"),
    attributes={"year": "1995"},
    available=False,
    publish_time_us=-5,
    expire_time_us=NOW_US * 2,
    embedding=(0.5, -1.25),
)


@pytest.fixture
def catalogue(database: Database) -> Catalogue:
    return Catalogue(database)


def test_an_item_comes_back_whole(catalogue: Catalogue) -> None:
    """Every field is kept; time and revision of the change are set."""
    assert catalogue.upsert([FILM], None, NOW_US) == (1, [])
    assert catalogue.get(["film", "unknown"]) == {"film": replace(FILM, update_time_us=NOW_US, revision=1)}


def test_an_embedding_is_kept_as_float32(catalogue: Catalogue) -> None:
    """The numbers that come back are the nearest float32."""
    catalogue.upsert([Item("a", embedding=(0.1, 1 / 3))], None, NOW_US)
    assert catalogue.get(["a"])["a"].embedding == (float(np.float32(0.1)), float(np.float32(1 / 3)))


def test_publish_time_defaults_to_the_first_upsert(catalogue: Catalogue) -> None:
    """Later upserts without one do not move it; a deleted item begins anew."""
    catalogue.upsert([Item("a")], None, NOW_US)
    catalogue.upsert([Item("a", title="later")], None, NOW_US + 9)
    catalogue.upsert([Item("a", title="masked")], frozenset({"title"}), NOW_US + 10)
    assert catalogue.get(["a"])["a"].publish_time_us == NOW_US
    catalogue.delete(["a"])
    catalogue.upsert([Item("a")], None, NOW_US + 11)
    assert catalogue.get(["a"])["a"].publish_time_us == NOW_US + 11


def test_without_a_mask_the_whole_item_is_replaced(catalogue: Catalogue) -> None:
    """Fields that are not given fall back to their defaults."""
    catalogue.upsert([FILM], None, NOW_US)
    catalogue.upsert([Item("film", title="New")], frozenset(), NOW_US + 1)
    item = catalogue.get(["film"])["film"]
    assert item == Item("film", title="New", publish_time_us=NOW_US, update_time_us=NOW_US + 1, revision=2)


def test_a_mask_changes_only_what_it_names(catalogue: Catalogue) -> None:
    """Known items are changed in those fields; unknown ones are not written and named."""
    catalogue.upsert([FILM], None, NOW_US)
    changed = Item("film", title="New", description="not this", available=True, categories=("war",))
    mask = frozenset({"title", "available", "categories", "publish_time", "item_id"})
    assert catalogue.upsert([changed, Item("unknown")], mask, NOW_US + 1) == (2, ["unknown"])
    expected = replace(FILM, title="New", available=True, categories=("war",), publish_time_us=NOW_US)
    assert catalogue.get(["film", "unknown"]) == {"film": replace(expected, update_time_us=NOW_US + 1, revision=2)}
    assert [item.item_id for item in catalogue.list("", 10, "war")] == ["film"]
    assert catalogue.list("", 10, "crime") == []


def test_a_mask_of_what_cannot_be_changed_changes_nothing(catalogue: Catalogue) -> None:
    """Naming only the id is not a replacement of the item."""
    catalogue.upsert([FILM], None, NOW_US)
    catalogue.upsert([Item("film")], frozenset({"item_id"}), NOW_US)
    assert catalogue.get(["film"])["film"].title == "Heat"


def test_a_mask_of_an_unknown_field_is_refused(catalogue: Catalogue) -> None:
    """Nothing is written then."""
    with pytest.raises(InvalidFieldError) as refused:
        catalogue.upsert([FILM], frozenset({"titel"}), NOW_US)
    assert refused.value.field == "update_mask"
    assert catalogue.revision() == 0


def test_every_embedding_has_the_same_length(catalogue: Catalogue) -> None:
    """The first one decides; another length is refused with its place, in the same batch and later."""
    assert catalogue.embedding_length() is None
    for _ in range(2):
        with pytest.raises(InvalidFieldError) as refused:
            catalogue.upsert([FILM, Item("other", embedding=(1.0, 2.0, 3.0))], None, NOW_US)
        assert refused.value.field == "items[1].embedding"
        assert catalogue.get(["film"]) == {}
    catalogue.upsert([FILM], None, NOW_US)
    assert catalogue.embedding_length() == 2


def test_of_an_id_given_twice_the_last_counts(catalogue: Catalogue) -> None:
    """One batch may name an item twice."""
    assert catalogue.upsert([Item("a", title="1"), Item("a", title="2")], None, NOW_US) == (1, [])
    assert catalogue.get(["a"])["a"].title == "2"


def test_items_are_listed_by_id_byte_by_byte(catalogue: Catalogue) -> None:
    """Both databases give the same order; pages go on after the last id; a category narrows."""
    names = ["b", "B", "a-1", "a_1", "ä", "Z", "a"]
    catalogue.upsert([Item(name, categories=("odd",) if n % 2 else ()) for n, name in enumerate(names)], None, NOW_US)
    expected = sorted(names, key=str.encode)
    assert [item.item_id for item in catalogue.list("", 100)] == expected
    page = catalogue.list("", 3)
    rest = catalogue.list(page[-1].item_id, 100)
    assert [item.item_id for item in [*page, *rest]] == expected
    odd = [name for name in expected if name in ("B", "a_1", "Z")]
    assert [item.item_id for item in catalogue.list("", 100, "odd")] == odd
    assert catalogue.list("", 100, "no such category") == []


def test_deleted_items_are_gone_and_leave_tombstones(catalogue: Catalogue) -> None:
    """They are neither found nor listed nor masked; those who follow the changes are told."""
    catalogue.upsert([FILM, Item("other")], None, NOW_US)
    assert catalogue.delete(["film", "unknown", "film"]) == (1, 3)
    assert catalogue.delete(["film"]) == (0, 3)
    assert catalogue.get(["film"]) == {}
    assert [item.item_id for item in catalogue.list("", 10)] == ["other"]
    assert catalogue.list("", 10, "crime") == []
    assert catalogue.upsert([Item("film", title="x")], frozenset({"title"}), NOW_US) == (3, ["film"])
    assert catalogue.changes_after(2, 10) == [ItemChange(3, "film", None)]


def test_availability(catalogue: Catalogue) -> None:
    """Only items whose state differs change; unknown ids are named once."""
    catalogue.upsert([Item("a"), Item("b"), Item("c", available=False)], None, NOW_US)
    assert catalogue.set_availability(["a", "c", "x", "x"], False, NOW_US + 1) == (1, ["x"], 4)
    assert {name: item.available for name, item in catalogue.get(["a", "b", "c"]).items()} == {
        "a": False,
        "b": True,
        "c": False,
    }
    assert catalogue.get(["a"])["a"].update_time_us == NOW_US + 1
    assert catalogue.set_availability(["a"], False) == (0, [], 4)
    assert catalogue.set_availability(["a", "c"], True) == (2, [], 6)
    assert catalogue.get(["a"])["a"].update_time_us == NOW_US + 1


def test_changes_can_be_followed(catalogue: Catalogue) -> None:
    """Every item appears once, at its latest change, in the order of the revisions; small pages lose nothing."""
    catalogue.upsert([Item("a"), Item("b"), Item("c")], None, NOW_US)
    catalogue.set_availability(["a"], False)
    seen: list[str] = []
    revision = 0
    while page := catalogue.changes_after(revision, 2):
        seen += [change.item_id for change in page]
        revision = page[-1].revision
    assert seen == ["b", "c", "a"]
    assert revision == catalogue.revision() == 4


def test_followers_miss_nothing_while_many_write(database_url: str, catalogue: Catalogue) -> None:
    """Revisions become visible in their order."""
    databases = [Database(database_url) for _ in range(3)]

    def write(number: int) -> None:
        for batch in range(8):
            Catalogue(databases[number]).upsert([Item(f"{number}-{batch}-{n}") for n in range(3)], None, NOW_US)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    while True:
        finished = not any(writer.is_alive() for writer in writers)
        page = catalogue.changes_after(seen[-1] if seen else 0, 5)
        seen += [change.revision for change in page]
        if finished and not page:
            break
    assert seen == list(range(1, 73))
    for own in databases:
        own.close()


def test_many_items(catalogue: Catalogue) -> None:
    """More items than one statement takes parameters for."""
    items = [Item(f"{n:05}", categories=("all",)) for n in range(2_500)]
    assert catalogue.upsert(items, None, NOW_US) == (2_500, [])
    assert list(catalogue.get([item.item_id for item in items])) == [item.item_id for item in items]
    assert catalogue.set_availability([item.item_id for item in items], False).changed == 2_500
    assert catalogue.delete([item.item_id for item in items]).deleted == 2_500


def test_tenants_are_kept_apart(database: Database, catalogue: Catalogue) -> None:
    """Another tenant sees nothing and counts its own revisions."""
    catalogue.upsert([FILM], None, NOW_US)
    other = Catalogue(database, "other")
    assert other.get(["film"]) == {}
    assert other.revision() == 0
    assert other.list("", 10, "crime") == []
    assert other.delete(["film"]) == (0, 0)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_import_is_looked_at_without_delay(database: Database) -> None:
    """PostgreSQL knows what the words of a thousand new items are like before it would look by itself."""
    known = "SELECT count(*) FROM pg_stats WHERE tablename = 'item_words'"
    catalogue = Catalogue(database)
    for first in range(0, 1_000, 500):
        with database.read() as connection:
            assert connection.exec_driver_sql(known).scalar() == 0
        catalogue.upsert([Item(f"item-{number}", f"lamp {number}") for number in range(first, first + 500)], None, 1)
    with database.read() as connection:
        assert (connection.exec_driver_sql(known).scalar() or 0) > 0
