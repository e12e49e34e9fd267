"""What one generation can retrieve, with the items that came after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headwater_core.shards import Delta, IndexKind, Retriever, Shard, Vectors, VectorTable
from headwater_server.item_space import ItemSpace

D = 4


def vectors(*rows: tuple[float, ...]) -> Vectors:
    return np.array([(*row, *[0.0] * (D - len(row))) for row in rows], dtype=np.float32)


def everything(_: str) -> bool:
    return True


def without(*item_ids: str) -> Callable[[str], bool]:
    return lambda item_id: item_id not in item_ids


@pytest.fixture
def space() -> ItemSpace:
    """Items a … e of falling first component; b is superseded by the delta and c is deleted by it."""
    shard = Shard.build(
        ["a", "b", "c", "d", "e"], vectors((5.0,), (4.0,), (3.0,), (2.0, 1.0), (1.0, 2.0)), IndexKind.FLAT
    )
    delta = Delta(("b",), vectors((0.5,)), frozenset({"c"}))
    table = VectorTable([shard], delta)
    return ItemSpace(table, Retriever([shard], delta, table))


ONE = vectors((1.0,))


def found(space: ItemSpace, k: int, passes: Callable[[str], bool] = everything, **options: object) -> list[str]:
    return [item.item_id for item in space.retrieve(ONE, k, passes, **options)]  # type: ignore[arg-type]


def test_the_best_that_pass_are_found_in_order(space: ItemSpace) -> None:
    """The delta's vectors count, deleted items do not."""
    assert found(space, 10) == ["a", "d", "e", "b"]
    assert found(space, 2) == ["a", "d"]
    assert found(space, 2, without("a", "d")) == ["e", "b"]


def test_the_best_interest_decides(space: ItemSpace) -> None:
    """An item's score is its highest inner product with any interest."""
    items = space.retrieve(vectors((0.1,), (0.0, 1.0)), 2, everything)
    assert [(item.item_id, item.score) for item in items] == [("e", 2.0), ("d", 1.0)]


def test_a_selective_filters_matches_are_scored_exactly(space: ItemSpace) -> None:
    """Only they can be found, items without a vector are passed over."""
    assert found(space, 10, only=["e", "b", "unknown", "c"]) == ["e", "b"]
    assert found(space, 1, only=["e", "b"]) == ["e"]
    assert found(space, 10, only=[]) == []


def test_nobodys_interests_find_nothing(space: ItemSpace) -> None:
    """Whether there are newer items or not, and whatever is asked for."""
    newer = space.with_fresh(["new"], vectors((2.5,)))
    for each in (space, newer):
        assert each.retrieve(each.no_interests(), 10, everything) == []
        assert each.retrieve(each.no_interests(), 10, everything, only=["a", "new"]) == []


def test_newer_items_are_found_among_the_others(space: ItemSpace) -> None:
    """In their place by score, marked as fresh; what the generation knows is not replaced."""
    newer = space.with_fresh(["new", "a"], vectors((2.5,), (-9.0,)))
    items = newer.retrieve(ONE, 10, everything)
    assert [(item.item_id, item.is_fresh) for item in items] == [
        ("a", False),
        ("new", True),
        ("d", False),
        ("e", False),
        ("b", False),
    ]
    assert found(newer, 10, only=["new", "e"]) == ["new", "e"]
    assert found(newer, 10, without("new")) == ["a", "d", "e", "b"]
    assert (newer.fresh_count, newer.item_count, space.fresh_count) == (1, 5, 0)


def test_a_space_is_never_changed(space: ItemSpace) -> None:
    """Who holds the old one goes on seeing it."""
    newer = space.with_fresh(["new"], vectors((9.0,)))
    moved = newer.with_fresh(["new"], vectors((0.1,)))
    gone = moved.without_fresh(["new", "a", "unknown"])
    assert [len(found(each, 10)) for each in (space, newer, moved, gone)] == [4, 5, 5, 4]
    assert found(newer, 1) == ["new"]
    assert found(moved, 10)[-1] == "new"
    assert gone.row("new") is None
    assert gone.without_fresh(["new"]) is gone
    back = gone.with_fresh(["new"], vectors((9.0,)))
    assert found(back, 1) == ["new"]


def test_rows_and_vectors_belong_together(space: ItemSpace) -> None:
    """Over the generation's rows and the fresh ones."""
    newer = space.with_fresh(["n1", "n2"], vectors((7.0,), (8.0,)))
    rows = [newer.row(item_id) for item_id in ("n2", "a", "b", "n1")]
    assert None not in rows
    assert newer.vectors(np.array(rows))[:, 0].tolist() == [8.0, 5.0, 0.5, 7.0]
    assert [newer.is_fresh(row) for row in rows if row is not None] == [True, False, False, True]
    assert newer.row("c") is None
    assert newer.knows("a")
    assert not newer.knows("n1")
    assert space.vectors([]).shape == (0, D)


def test_similar_items_are_ranked_by_cosine(space: ItemSpace) -> None:
    """Length does not count, the item itself is left out, fresh ones take part on both sides."""
    newer = space.with_fresh(["new"], vectors((0.01, 0.02)))
    items = newer.similar("e", 10, everything)
    assert items[0].item_id == "new"
    assert items[0].score == pytest.approx(1.0)
    assert {item.item_id for item in items} == {"new", "a", "b", "d"}
    assert [item.item_id for item in newer.similar("new", 1, without("e"))] == ["d"]
    assert newer.similar("unknown", 10, everything) == []
    assert newer.similar("c", 10, everything) == []


def test_a_new_item_fits_by_its_direction_however_short_its_vector_is(space: ItemSpace) -> None:
    """It fits among the best by cosine; one that points elsewhere or is refused does not, and nobody fits nobody."""
    newer = space.with_fresh(["near", "far"], vectors((0.001,), (0.0, 9.0)))
    assert [item.item_id for item in newer.fitting_fresh(ONE, 0.5, everything)] == ["near"]
    assert newer.fitting_fresh(ONE, 0.5, without("near")) == []
    assert [item.item_id for item in newer.fitting_fresh(ONE, 1.0, everything)] == ["near"]
    assert space.no_interests().shape == (0, D)
    assert newer.fitting_fresh(space.no_interests(), 0.5, everything) == []


def test_many_refused_items_do_not_shorten_the_answer() -> None:
    """The search goes deeper until enough pass, over more rows than are scored exactly."""
    count = 6_000
    ids = [f"item-{number}" for number in range(count)]
    rows = np.zeros((count, D), dtype=np.float32)
    rows[:, 0] = np.linspace(1.0, 2.0, count)
    shard = Shard.build(ids, rows, IndexKind.SQ8)
    table = VectorTable([shard], Delta.empty(D))
    space = ItemSpace(table, Retriever([shard], Delta.empty(D), table))
    low = {f"item-{number}" for number in range(100)}
    assert set(found(space, 50, low.__contains__)) <= low
    assert len(found(space, 50, low.__contains__)) == 50
    assert len(found(space, 500, low.__contains__)) == 100
