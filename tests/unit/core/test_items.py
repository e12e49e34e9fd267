"""What makes an item valid, and which text places it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headwater_core.catalogue import MAX_TIME_US, Item, check_item
from headwater_core.errors import InvalidFieldError

FILM = Item("film", title="Heat", description="A robbery goes wrong.", categories=("crime", "drama"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"title": "", "description": "", "categories": ()},
        {"title": "é" * 1_024, "description": "é" * 16_384},
        {"categories": tuple(f"c{n}" for n in range(64))},
        {"publish_time_us": -1, "expire_time_us": MAX_TIME_US},
        {"embedding": (0.0,) * 4_096},
    ],
)
def test_good_items_pass(changes: dict[str, Any]) -> None:
    """Everything on the good side of a limit is accepted."""
    check_item(replace(FILM, **changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"item_id": ""}, "item_id"),
        ({"item_id": "x" * 257}, "item_id"),
        ({"title": "x" * 1_025}, "title"),
        ({"title": "\x00"}, "title"),
        ({"description": "x" * 16_385}, "description"),
        ({"categories": ("c",) * 65}, "categories"),
        ({"categories": ("fine", "")}, "categories[1]"),
        ({"categories": ("x" * 257,)}, "categories[0]"),
        ({"attributes": {"": "v"}}, "attributes"),
        ({"publish_time_us": MAX_TIME_US + 1}, "publish_time"),
        ({"expire_time_us": -MAX_TIME_US - 1}, "expire_time"),
        ({"embedding": ()}, "embedding"),
        ({"embedding": (0.0,) * 4_097}, "embedding"),
        ({"embedding": (float("nan"),)}, "embedding"),
        ({"embedding": (1e39,)}, "embedding"),
    ],
)
def test_bad_items_are_refused_by_field(changes: dict[str, Any], field: str) -> None:
    """Everything just over a limit is refused, naming the field at fault."""
    with pytest.raises(InvalidFieldError) as refused:
        check_item(replace(FILM, **changes))
    assert refused.value.field == field


def test_the_text_is_title_categories_description() -> None:
    """Parts that are missing leave no trace; nothing gives nothing."""
    assert FILM.text() == "Heat. crime, drama. A robbery goes wrong."
    assert Item("a", description=" only this ").text() == "only this"
    assert Item("a").text() == ""


def test_the_text_hash_follows_the_text_alone() -> None:
    """Two items of the same text share their features."""
    assert replace(FILM, item_id="other", available=False).text_hash() == FILM.text_hash()
    assert replace(FILM, title="Cold").text_hash() != FILM.text_hash()
    assert len(FILM.text_hash()) == 32
