"""What a strategy may say, and how one that cannot work is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.errors import InvalidFieldError
from headwater_core.names import check_name
from headwater_core.strategies import SOURCES, SourceUse, Strategy

TOWER = {"name": "tower"}


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        ({}, "sources", "required"),
        ({"sources": []}, "sources", "at least 1"),
        ({"sources": [{"name": "magic"}]}, "sources[0].name", "'tower'"),
        ({"sources": [TOWER, {"name": "fresh", "weight": -1}]}, "sources[1].weight", "greater than or equal to 0"),
        ({"sources": [TOWER, TOWER]}, "sources", "tower is there more than once"),
        ({"sources": [{"name": "popular"}]}, "ranking", "needs the source `tower`"),
        ({"sources": [{"name": "tower", "weight": 0}]}, "ranking", "needs the source `tower`"),
        ({"sources": [TOWER], "ranking": "magic"}, "ranking", "'blend', 'ranks' or 'learned'"),
        ({"sources": [{**TOWER, "every": 2}, {"name": "fresh", "every": 2}, {"name": "popular", "every": 3}]},
         "sources", "of every place more is given away than there is (1.33)"),
        ({"sources": [{**TOWER, "every": 4, "every_below": 1}, {"name": "fresh", "every": 2}]},
         "sources", "of every_below place more is given away than there is (1.50)"),
        ({"sources": [{**TOWER, "every_below": 3}]}, "sources", "tower has every_below without every"),
        ({"sources": [TOWER], "boosts": [{"key": "brand", "value": "a", "factor": 2}]}, "boosts[0].key", "pattern"),
        ({"sources": [TOWER], "boosts": [{"key": "category", "value": "a", "factor": 0}]},
         "boosts[0].factor", "greater than or equal to 0.01"),
        ({"sources": [TOWER], "boosts": [{"key": "category", "value": "a", "factor": f} for f in (2, 0.5)]},
         "boosts", "category 'a' is there more than once"),
        ({"sources": [TOWER], "boosts": [{"key": "category", "value": "a", "factor": 2}],
          "only": {"without_categories": ["a"]}}, "boosts", "category 'a' is left out"),
        ({"sources": [TOWER], "boosts": [{"key": "attributes.brand", "value": "a", "factor": 2}],
          "only": {"attributes": {"brand": "b"}}}, "boosts", "attributes.brand 'a' never passes"),
        ({"sources": [TOWER], "only": {"categories": ["a"], "without_categories": ["a"]}},
         "only", "category 'a' is both asked for and left out"),
        ({"sources": [TOWER], "caps": [{"key": "category", "at_most": 0}]}, "caps[0].at_most", "greater than"),
        ({"sources": [TOWER], "caps": [{"key": "category", "at_most": n} for n in (1, 2)]},
         "caps", "category is there more than once"),
        ({"sources": [TOWER], "pins": [{"place": 1, "item_id": i} for i in "ab"]}, "pins", "place 1"),
        ({"sources": [TOWER], "pins": [{"place": n, "item_id": "a"} for n in (1, 2)]}, "pins", "item 'a'"),
        ({"sources": [TOWER], "diversity": 1.5}, "diversity", "less than or equal to 1"),
        ({"sources": [TOWER], "diversity": float("nan")}, "diversity", "finite number"),
        ({"sources": [TOWER], "event_weights": {"view": -1}}, "event_weights", "view is -1"),
        ({"sources": [TOWER], "budget_ms": 0}, "budget_ms", "greater than or equal to 1"),
        ({"sources": [TOWER], "surprise": 1}, "surprise", "not permitted"),
        ({"sources": [TOWER], "boosts": [{"key": "category", "value": str(n), "factor": 2} for n in range(101)]},
         "boosts", "at most 100"),
        ({"sources": [TOWER], "caps": [{"key": f"attributes.{n}", "at_most": 1} for n in range(101)]},
         "caps", "at most 100"),
        ({"sources": [TOWER], "pins": [{"place": n, "item_id": str(n)} for n in range(1, 102)]}, "pins", "at most 100"),
        ({"sources": [TOWER], "only": {"categories": [str(n) for n in range(101)]}}, "only.categories", "at most 100"),
        ({"sources": [TOWER], "event_weights": {str(n): 1 for n in range(101)}}, "event_weights", "at most 100"),
        ({"sources": [TOWER], "boosts": [{"key": "category", "value": "x" * 1025, "factor": 2}]},
         "boosts[0].value", "at most 1024"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_field_and_the_reason(
    content: dict[str, Any], field: str, reason: str
) -> None:
    """Each mistake an operator can make in a document, told as the place in it and why."""
    with pytest.raises(InvalidFieldError) as refused:
        Strategy.from_dict(content)
    assert refused.value.field == field
    assert reason in refused.value.reason


@pytest.mark.parametrize("name", ["", "A", "a b", "a" * 65, "ä"])
def test_a_name_is_short_and_plain(name: str) -> None:
    """It is part of commands, metrics and impressions."""
    with pytest.raises(InvalidFieldError, match="name"):
        check_name(name)
    check_name("home-page_2")


def test_places_below_are_as_above_when_nothing_is_said() -> None:
    """`every` alone holds all the way down."""
    assert SourceUse(name="fresh", every=10).places == (10, 10)
    assert SourceUse(name="fresh", every=10, every_below=3).places == (10, 3)


@given(
    st.lists(st.sampled_from(SOURCES), unique=True, min_size=1),
    st.floats(0.5, 10),
    st.integers(20, 500),
    st.floats(0, 1),
)
def test_a_document_is_read_back_as_it_was(names: list[str], weight: float, every: int, diversity: float) -> None:
    """What is stored is what was checked, and only what differs from the defaults."""
    written = Strategy.from_dict(
        {
            "sources": [{"name": name, "weight": weight, "every": every} for name in names],
            "ranking": "ranks",
            "diversity": diversity,
        }
    )
    assert Strategy.from_dict(written.to_dict()) == written
    assert "caps" not in written.to_dict()
