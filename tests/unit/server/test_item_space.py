"""What one generation can retrieve, with the items that came after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_core.co_visits import Bonuses
from headwater_core.indexes import IndexKind
from headwater_core.retrieval import Retriever
from headwater_core.shards import Delta, Shard, Vectors, VectorTable
from headwater_core.strategies import CO_VISIT, FRESH, TOWER
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
    assert [(item.item_id, item.source) for item in items] == [
        ("a", TOWER),
        ("new", FRESH),
        ("d", TOWER),
        ("e", TOWER),
        ("b", TOWER),
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


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.sampled_from([1, 20, 500]),
    passing_share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_the_most_similar_that_pass_are_found(large_space: ItemSpace, seed: int, k: int, passing_share: float) -> None:
    """What comparing every living item and sorting finds, dead rows and the item itself left out."""
    rng = np.random.default_rng(seed)
    ids = [
        *(f"item-{row}" for row in range(6_000) if row not in range(1, 60, 2)),
        *(f"fresh-{row}" for row in range(30)),
    ]
    rows = np.array([large_space.row(item_id) for item_id in ids], np.int64)
    directions = large_space.vectors(rows)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    anchor = int(rng.integers(len(ids)))
    cosines = directions @ directions[anchor]
    passing = rng.random(len(ids)) < passing_share
    allowed = {item_id for item_id, passes in zip(ids, passing, strict=True) if passes}
    passing[anchor] = False

    items = large_space.similar(ids[anchor], k, allowed.__contains__)

    np.testing.assert_allclose([item.score for item in items], np.sort(cosines[passing])[::-1][:k], atol=1e-5)
    assert {item.item_id for item in items} <= allowed - {ids[anchor]}
    assert len({item.item_id for item in items}) == len(items)


def test_equally_similar_items_are_in_the_order_of_their_rows() -> None:
    """However many they are."""
    rows = np.tile(np.array([[1.0, 2.0, 0.0, 0.0]], np.float32), (300, 1))
    items = flat_space(rows, rows[:5]).similar("item-7", 299, everything)
    assert [item.item_id for item in items] == [f"item-{row}" for row in range(300) if row != 7]


def test_a_new_item_fits_by_its_direction_however_short_its_vector_is(space: ItemSpace) -> None:
    """It fits among the best by cosine; one that points elsewhere or is refused does not, and nobody fits nobody."""
    newer = space.with_fresh(["near", "far"], vectors((0.001,), (0.0, 9.0)))
    assert [item.item_id for item in newer.fitting_new(ONE, 9, 0.5, everything)] == ["near"]
    assert newer.fitting_new(ONE, 9, 0.5, without("near")) == []
    assert [item.item_id for item in newer.fitting_new(ONE, 9, 1.0, everything)] == ["near"]
    assert space.no_interests().shape == (0, D)
    assert newer.fitting_new(space.no_interests(), 9, 0.5, everything) == []


@pytest.mark.parametrize("kind", list(IndexKind))
def test_many_refused_items_do_not_shorten_the_answer(kind: IndexKind) -> None:
    """The search goes deeper until enough pass, over more rows than are scored exactly."""
    count = 6_000
    ids = [f"item-{number}" for number in range(count)]
    rows = np.zeros((count, D), dtype=np.float32)
    rows[:, 0] = np.linspace(1.0, 2.0, count)
    shard = Shard.build(ids, rows, kind)
    if kind is IndexKind.IVF:
        shard.index.nprobe = 1
    table = VectorTable([shard], Delta.empty(D))
    space = ItemSpace(table, Retriever([shard], Delta.empty(D), table))
    low = {f"item-{number}" for number in range(100)}
    assert set(found(space, 50, low.__contains__)) <= low
    assert len(found(space, 50, low.__contains__)) == 50
    assert len(found(space, 500, low.__contains__)) == 100


def bonuses(space: ItemSpace, **values: float) -> Bonuses:
    by_row = sorted((space.row(item_id), value) for item_id, value in values.items())
    return Bonuses(np.array([row for row, _ in by_row], np.int64), np.array([v for _, v in by_row], np.float32))


def test_a_bonus_is_added_to_the_vectors_score(space: ItemSpace) -> None:
    """Wherever the item stands: in a search, among a filter's matches, beside newer items; refused items stay out."""
    newer = space.with_fresh(["new"], vectors((2.5,)))
    gains = bonuses(space, b=3.0, e=1.5)
    items = newer.retrieve(ONE, 10, everything, bonuses=gains)
    assert [(item.item_id, item.score) for item in items] == [
        ("a", 5.0),
        ("b", 3.5),
        ("e", 2.5),
        ("new", 2.5),
        ("d", 2.0),
    ]
    assert found(newer, 2, without("a"), bonuses=gains) == ["b", "e"]
    assert found(newer, 2, without("b"), excluded=["b"], bonuses=gains) == ["a", "e"]
    assert found(newer, 10, only=["d", "b", "a"], bonuses=gains) == ["a", "b", "d"]
    assert newer.retrieve(newer.no_interests(), 10, everything, bonuses=gains) == []


def heirs(table: VectorTable, shard: Shard, delta: Delta) -> ItemSpace:
    """A space whose base items were met and whose added ones were not."""
    met = np.arange(len(shard.item_ids))
    return ItemSpace(table, Retriever([shard], delta, table), met=met, unmet=table.added_rows)


def test_new_items_inherit_the_bonuses_of_what_they_are_like() -> None:
    """By the power of the cosine; after others came and went, each still has its own heritage."""
    shard = Shard.build(["a", "b"], vectors((5.0,), (3.0, 4.0)), IndexKind.FLAT)
    delta = Delta.empty(D)
    space = heirs(VectorTable([shard], delta), shard, delta)
    new = vectors((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0))
    newer = space.with_fresh(["n1", "n2", "n3"], new, space.heritage(new)).without_fresh(["n1"])
    newer = newer.with_fresh(["n4"], new[:1], space.heritage(new[:1]))
    gains = newer.inherited(bonuses(space, a=2.0))
    scores = {item.item_id: item.score for item in newer.retrieve(ONE, 10, everything, bonuses=gains)}
    inherited = 2.0 / (1.0 + 0.6**4)
    assert scores == pytest.approx({"a": 7.0, "b": 3.0, "n2": 0.0, "n3": 0.0, "n4": 1.0 + inherited}, rel=1e-5)
    assert newer.fitting_new(ONE, 9, 1.0, everything, gains)[0].score == pytest.approx(scores["n4"])


def test_items_that_nobody_met_stay_new_when_a_generation_brings_them() -> None:
    """They inherit and are marked as new; what supersedes an item of the base is no new one."""
    shard = Shard.build(["a", "b"], vectors((5.0,), (0.0, 4.0)), IndexKind.FLAT)
    delta = Delta(("b", "new"), vectors((0.0, 3.0), (3.0,)))
    table = VectorTable([shard], delta)
    space = ItemSpace(table, Retriever([shard], delta, table), met=np.array([0, 2]), unmet=table.added_rows)
    gains = space.inherited(bonuses(space, a=2.0))
    items = space.retrieve(ONE, 4, everything, bonuses=gains)
    assert [(item.item_id, item.source, item.score) for item in items[:2]] == [("a", TOWER, 7.0), ("new", FRESH, 5.0)]
    assert [item.item_id for item in space.fitting_new(ONE, 9, 1.0, everything)] == ["new"]
    assert space.fitting_new(ONE, 9, 1.0, without("new")) == []


def test_what_only_its_bonus_brought_says_so(space: ItemSpace) -> None:
    """Its vector alone scores below all that was found; a bonus that only moved an item up changes nothing of that."""
    gains = bonuses(space, b=3.0, a=1.0)
    items = space.retrieve(ONE, 3, everything, bonuses=gains)
    assert [(item.item_id, item.source) for item in items] == [("a", TOWER), ("b", CO_VISIT), ("d", TOWER)]
    items = space.retrieve(ONE, 3, everything, only=["a", "b", "d"], bonuses=gains)
    assert [item.source for item in items] == [TOWER, CO_VISIT, TOWER]


def test_no_more_items_are_asked_about_than_are_needed() -> None:
    """Of many with a bonus only those before the k-th that passes, and none twice, however deep the search goes."""
    count = 6_000
    rows = np.zeros((count, D), dtype=np.float32)
    rows[:, 0] = np.linspace(1.0, 0.0, count)
    space = flat_space(rows)
    gains = Bonuses(np.arange(count - 2_000, count), np.full(2_000, 0.5, np.float32))
    asked: list[str] = []

    def passes(item_id: str) -> bool:
        asked.append(item_id)
        return len(asked) > refused

    for refused in (7, 700):
        asked.clear()
        assert len(space.retrieve(ONE, 10, passes, bonuses=gains)) == 10
        assert len(asked) == len(set(asked)) == refused + 10


def flat_space(rows: Vectors, fresh: Vectors | None = None, delta: Delta | None = None) -> ItemSpace:
    shard = Shard.build([f"item-{number}" for number in range(len(rows))], rows, IndexKind.FLAT)
    delta = delta if delta is not None else Delta.empty(rows.shape[1])
    table = VectorTable([shard], delta)
    space = ItemSpace(table, Retriever([shard], delta, table))
    return space if fresh is None else space.with_fresh([f"fresh-{number}" for number in range(len(fresh))], fresh)


@pytest.fixture(scope="module")
def large_space() -> ItemSpace:
    """More rows than are scored without a search: base rows, some of them dead, a delta's, and newer items'."""
    rng = np.random.default_rng(0)
    base, newer, fresh = (rng.normal(size=(count, D)).astype(np.float32) for count in (6_000, 40, 30))
    delta = Delta(
        (*(f"item-{number}" for number in range(0, 60, 2)), *(f"new-{number}" for number in range(10))),
        newer,
        frozenset(f"item-{number}" for number in range(1, 60, 2)),
    )
    return flat_space(base, fresh, delta)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_interests=st.integers(1, 3),
    n_bonuses=st.integers(0, 2_500),
    strength=st.sampled_from([0.01, 0.5, 3.0, 100.0]),
    passing_share=st.sampled_from([0.002, 0.1, 1.0]),
    k=st.sampled_from([1, 11, 300]),
    is_excluded=st.booleans(),
)
def test_nothing_better_is_overlooked(
    large_space: ItemSpace,
    seed: int,
    n_interests: int,
    n_bonuses: int,
    strength: float,
    passing_share: float,
    k: int,
    is_excluded: bool,
) -> None:
    """What is found is what scoring every living item and sorting finds."""
    rng = np.random.default_rng(seed)
    living = {f"item-{number}" for number in range(6_000) if number not in range(1, 60, 2)}
    ids = sorted(living | {f"new-{number}" for number in range(10)} | {f"fresh-{number}" for number in range(30)})
    rows = np.array([large_space.row(item_id) for item_id in ids], np.int64)
    gaining = np.flatnonzero([not large_space.is_fresh(int(row)) for row in rows])
    gaining = rng.choice(gaining, n_bonuses, replace=False)
    gaining = gaining[np.argsort(rows[gaining])]
    gains = Bonuses(rows[gaining], (strength * rng.random(n_bonuses)).astype(np.float32))
    passing = rng.random(len(ids)) < passing_share
    interests = rng.normal(size=(n_interests, D)).astype(np.float32)
    scores = (large_space.vectors(rows) @ interests.T).max(axis=1)
    scores[gaining] += gains.values
    by_id = dict(zip(ids, scores, strict=True))
    allowed = {item_id for item_id, passes in zip(ids, passing, strict=True) if passes}
    excluded = sorted(by_id.keys() - allowed) if is_excluded else []

    items = large_space.retrieve(interests, k, allowed.__contains__, excluded=excluded, bonuses=gains)

    best = np.sort(scores[passing])[::-1][:k]
    np.testing.assert_allclose([item.score for item in items], best, rtol=1e-4, atol=1e-5)
    assert len({item.item_id for item in items}) == len(items)
    for item in items:
        assert item.item_id in allowed
        assert item.score == pytest.approx(by_id[item.item_id], rel=1e-4, abs=1e-5)
