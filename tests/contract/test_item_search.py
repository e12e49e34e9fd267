"""Searching by words: the same is found on both databases, always as the catalogue is now, whatever is typed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config

from headwater_core.catalogue import Catalogue, Item
from headwater_core.database import MIGRATIONS, Database
from headwater_core.item_search import ItemSearch

NOW_US = 1_700_000_000_000_000
FILMS = [
    Item("matrix", "Matrix, The (1999)", "A hacker learns what is real.", ("Sci-Fi", "Action")),
    Item("reloaded", "Matrix Reloaded, The (2003)", "The One returns.", ("Sci-Fi", "Action")),
    Item(
        "heat", "Heat (1995)", "A robbery goes wrong in the matrix of a city.", ("Crime",), {"director": "Michael Mann"}
    ),
    Item("amelie", "Amélie (Fabuleux destin d'Amélie Poulain, Le) (2001)", "", ("Romance",)),
    Item("schindler", "Schindler's List (1993)", "", ("Drama", "War")),
    Item("spirited", "千と千尋の神隠し", "Spirited Away", ("Animation",)),
    Item("siege", "Осада (1998)", "", ("Action",)),
    Item("symbols", "!!! ???", "nothing but signs"),
    Item("silent"),
]


@pytest.fixture
def catalogue(database: Database) -> Catalogue:
    catalogue = Catalogue(database)
    catalogue.upsert(FILMS, None, NOW_US)
    return catalogue


@pytest.fixture
def search(database: Database, catalogue: Catalogue) -> ItemSearch:
    return ItemSearch(database)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("The Matrix (1999)", ["matrix"]),
        ("matrix", ["matrix", "reloaded", "heat"]),
        ("the matrix 1999", ["matrix"]),
        ("Matrix Rel", ["reloaded"]),
        ("matrix hacker", ["matrix"]),
        ("michael mann", ["heat"]),
        ("crime", ["heat"]),
        ("sci-fi", ["matrix", "reloaded"]),
        ("AMELIE", ["amelie"]),
        ("Amélie", ["amelie"]),
        ("ame\u0301lie", ["amelie"]),
        ("le fabuleux destin", ["amelie"]),
        ("schindlers list", ["schindler"]),
        ("schindler", ["schindler"]),
        ("神隠し", ["spirited"]),
        ("осад", ["siege"]),
        ("\uff2d\uff21\uff34\uff32\uff29\uff38\u3000hacker", ["matrix"]),  # full width
    ],
)
def test_what_was_meant_is_found(search: ItemSearch, query: str, expected: list[str]) -> None:
    """By title, description, category and attribute; in any case, with accents or without, the last word unfinished."""
    matches = search.find(query, 10)
    assert matches.have_all_words
    assert sorted(matches.item_ids) == sorted(expected)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("matrx reloaded", "reloaded"),
        ("Schindelr", "schindler"),
        ("mattrix hacker", "matrix"),
        ("xmatrix 1999", "matrix"),
        ("amelieeee", "amelie"),
        ("schindlerrrs", "schindler"),
    ],
)
def test_a_slip_of_the_fingers_is_mended(search: ItemSearch, query: str, expected: str) -> None:
    """One letter wrong anywhere, or more of them after a good beginning."""
    assert search.find(query, 10).item_ids[0] == expected


def test_where_no_item_has_all_words_some_are_enough(search: ItemSearch) -> None:
    """And the answer says so."""
    matches = search.find("schindler heat", 10)
    assert sorted(matches.item_ids) == ["heat", "schindler"]
    assert not matches.have_all_words
    assert search.find("zzzzzz", 10) == ([], False)


def test_the_last_word_is_finished_by_what_follows_it(search: ItemSearch) -> None:
    """`rel` may go on, `rel ` may not: then it is no word that an item has, only a beginning."""
    assert search.find("matrix rel", 10) == (["reloaded"], True)
    assert search.find("reloaded ", 10) == (["reloaded"], True)


def test_titles_of_exactly_these_words_come_first(catalogue: Catalogue, search: ItemSearch) -> None:
    """However many others have the words, however often."""
    catalogue.upsert([Item(f"much-{n}", "Heat heat heat", "heat " * 50) for n in range(50)], None, NOW_US)
    assert search.find("1995 heat", 3).item_ids[0] == "heat"
    catalogue.upsert([Item("zz", "heat")], None, NOW_US)
    assert search.find("HEAT!", 1).item_ids == ["zz"]


def test_a_title_counts_more_than_a_description(catalogue: Catalogue, search: ItemSearch) -> None:
    """Of the same word, in the four fields."""
    catalogue.upsert(
        [
            Item("d", "other", "gold in a text of some length"),
            Item("c", "other", "a text of some length", (), {"metal": "gold"}),
            Item("b", "other", "a text of some length", ("gold",)),
            Item("a", "gold bars", "a text of some length"),
        ],
        None,
        NOW_US,
    )
    assert search.find("gold", 10).item_ids == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "!!!",
        '"',
        "'",
        "\\",
        "' OR '1'='1",
        "'); DROP TABLE items; --",
        "matrix AND",
        "NOT matrix OR NEAR(a b)",
        "title : heat",
        "title_key : x",
        "*",
        "^heat",
        "heat*",
        "{title} : (heat",
        "a & | ! <-> b:*A",
        "=0123456789abcdef",
        "%s :tenant $1 ?",
        "\ud7ff\ue000\ufffd\U0010ffff",
        "é" * 1024,
        "x" * 1024,
        " ".join("ab" for _ in range(341)),
        " ".join(f"w{n}" for n in range(250)),
        "٣ ½ ² Ⅷ ß ŉ ǰ İ ﬃ",
        "নমস্কার สวัสดี 안녕하세요 🎬",
    ],
)
def test_nothing_that_is_typed_is_an_error(search: ItemSearch, query: str) -> None:
    """Operators, quotes and odd letters are words or nothing; nothing but words is found."""
    assert set(search.find(query, 10).item_ids) <= {film.item_id for film in FILMS}
    assert search.find("matrix 1999", 1).item_ids == ["matrix"]


def test_any_title_can_be_found_by_itself(catalogue: Catalogue, search: ItemSearch) -> None:
    """Random letters of all scripts, long titles among them."""
    dice = random.Random(3)
    letters = "aZ09 éßŉǰİ'-.&|!:*()\"\\ 神かガ한 дЖ नि สำ \U0001d518🎬\u0301"
    titles = {f"odd-{n:03}": "".join(dice.choices(letters, k=dice.choice([1, 5, 30, 1024]))) for n in range(150)}
    catalogue.upsert([Item(item_id, title) for item_id, title in titles.items()], None, NOW_US)
    for item_id, title in titles.items():
        found = search.find(title, 200).item_ids
        assert item_id in found or not any(char.isalnum() for char in title), title


def test_the_largest_item_is_searchable(catalogue: Catalogue, search: ItemSearch) -> None:
    """All fields at their limits."""
    dice = random.Random(1)

    def text(chars: int) -> str:
        return "".join(dice.choices("abcdefghij éд ", k=chars))[: chars - 1] + "x"

    item = Item(
        "large",
        text(1_024),
        "lighthouse " + text(16_000),
        tuple(text(100) for _ in range(64)),
        {f"k{n}": text(500) for n in range(64)},
    )
    catalogue.upsert([item, replace(item, item_id="again", description="word " * 3_276)], None, NOW_US)
    assert search.find("lighthouse", 10).item_ids == ["large"]
    assert search.find("word", 10).item_ids == ["again"]
    assert set(search.find(item.title, 10).item_ids) == {"large", "again"}


def test_changes_are_found_at_once(catalogue: Catalogue, search: ItemSearch) -> None:
    """Whole upserts and masked ones, deletions and what comes back after them."""
    catalogue.upsert([Item("heat", "Ronin", "A case.")], None, NOW_US)
    assert search.find("ronin case", 10).item_ids == ["heat"]
    assert search.find("mann", 10).item_ids == []
    catalogue.upsert([Item("heat", "Thief", "not this")], frozenset({"title"}), NOW_US)
    assert search.find("thief case", 10).item_ids == ["heat"]
    assert search.find("ronin", 10).item_ids == []
    catalogue.upsert([Item("heat", categories=("Noir",))], frozenset({"categories"}), NOW_US)
    assert search.find("thief noir", 10).item_ids == ["heat"]
    assert catalogue.delete(["heat", "nowhere"]).deleted == 1
    assert search.find("thief", 10).item_ids == []
    catalogue.upsert([Item("heat", "Thief again")], None, NOW_US)
    assert search.find("thief", 10).item_ids == ["heat"]


def test_hidden_items_are_found(catalogue: Catalogue, search: ItemSearch) -> None:
    """Whether they may be shown is for the caller to say."""
    catalogue.set_availability(["heat"], False)
    assert search.find("heat", 10).item_ids == ["heat"]


def test_what_is_rolled_back_is_not_found(
    database: Database, catalogue: Catalogue, search: ItemSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words are written in the transaction that writes the item."""

    def fail(*_: object) -> int:
        raise RuntimeError("broken")

    monkeypatch.setattr(Catalogue, "_advance", fail)
    with pytest.raises(RuntimeError):
        catalogue.upsert([Item("heat", "Ronin"), Item("new", "Brand new")], None, NOW_US)
    assert search.find("brand", 10).item_ids == []
    assert search.find("heat", 10).item_ids == ["heat"]


def test_tenants_are_kept_apart(database: Database, catalogue: Catalogue, search: ItemSearch) -> None:
    """Items of the same id, too."""
    other = Catalogue(database, "other")
    other.upsert([Item("heat", "Heat of another")], None, NOW_US)
    assert search.find("heat", 10).item_ids == ["heat"]
    assert search.find("another", 10).item_ids == []
    assert ItemSearch(database, "other").find("heat", 10).item_ids == ["heat"]
    other.delete(["heat"])
    assert ItemSearch(database, "other").find("heat", 10).item_ids == []
    assert search.find("heat 1995", 10).item_ids == ["heat"]


def test_many_items(catalogue: Catalogue, search: ItemSearch) -> None:
    """More than one statement takes; the limit holds, and a deeper look goes on in the same order."""
    catalogue.upsert([Item(f"{n:05}", f"Volume {n}", categories=("series",)) for n in range(2_500)], None, NOW_US)
    first = search.find("volume", 10).item_ids
    assert len(first) == 10
    deeper = search.find("volume", 5_000).item_ids
    assert deeper[:10] == first
    assert len(set(deeper)) == 2_500
    assert search.find("volume 1234", 10).item_ids == ["01234"]
    catalogue.delete([f"{n:05}" for n in range(2_500)])
    assert search.find("volume", 10).item_ids == []


def test_items_of_before_become_searchable(database_url: str) -> None:
    """The migration takes in what is there, of every tenant; what is deleted stays out."""
    database = Database(database_url)
    database.migrate()
    for tenant in ("default", "other"):
        catalogue = Catalogue(database, tenant)
        catalogue.upsert([Item(f"{n:04}", f"{tenant} {n}", "", ("old",)) for n in range(1_100)], None, NOW_US)
        catalogue.delete(["0007"])
    _migrate_to(database, "0001")
    with database.read() as connection:
        assert not sqlalchemy.inspect(connection).has_table("item_words")
    database.migrate()
    for tenant in ("default", "other"):
        search = ItemSearch(database, tenant)
        assert len(search.find("old", 5_000).item_ids) == 1_099
        assert search.find(f"{tenant} 1050", 10).item_ids == ["1050"]
        assert "0007" not in search.find(tenant, 5_000).item_ids
    database.close()


def _migrate_to(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
