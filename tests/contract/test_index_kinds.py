"""One suite over every kind of index: whatever a shard is searched with, retrieval keeps the same promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headwater_core.indexes import IndexKind
from headwater_core.retrieval import Retriever
from headwater_core.shards import Delta, Shard, VectorTable

DIMENSION = 16
ROWS = 6000  # more than are scored exactly without a search


@pytest.fixture(params=list(IndexKind))
def kind(request: pytest.FixtureRequest) -> IndexKind:
    return IndexKind(request.param)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def saved_and_mapped(tmp_path: Path, kind: IndexKind, counts: list[int]) -> list[Shard]:
    shards = []
    for number, count in enumerate(counts):
        ids = [f"item-{number}-{row}" for row in range(count)]
        shard = Shard.build(ids, vectors(count, seed=number), kind)
        shards.append(Shard.load(*shard.save(tmp_path, f"shards/{number:04d}"), DIMENSION))
    return shards


def retrieval(shards: list[Shard], delta: Delta | None = None) -> tuple[Retriever, VectorTable]:
    delta = delta or Delta.empty(DIMENSION)
    table = VectorTable(shards, delta)
    return Retriever(shards, delta, table), table


def exact_best(table: VectorTable, queries: np.ndarray, k: int, mask: np.ndarray) -> list[int]:
    scores = (table.vectors(np.arange(table.rows)) @ queries.T).max(axis=1)
    scores[~mask] = -np.inf
    return [int(row) for row in np.argsort(-scores, kind="stable")[:k]]


def test_best_rows_over_several_shards_are_found_with_exact_scores(tmp_path: Path, kind: IndexKind) -> None:
    """The best of all shards are found, best first, scored with the exact vectors and the best interest."""
    retriever, table = retrieval(saved_and_mapped(tmp_path, kind, [ROWS, 17, 1]))
    queries = vectors(3, seed=9)
    found = retriever.search(queries, 20)
    assert found.rows.tolist() == exact_best(table, queries, 20, table.alive)
    assert found.scores == pytest.approx((table.vectors(found.rows) @ queries.T).max(axis=1), rel=1e-5)


def test_superseded_and_deleted_rows_are_never_found(tmp_path: Path, kind: IndexKind) -> None:
    """Of an item that the delta supersedes only the new vector is found; of a deleted one nothing is."""
    shards = saved_and_mapped(tmp_path, kind, [ROWS])
    queries = vectors(2, seed=9)
    untouched, table = retrieval(shards)
    best, second = map(table.item_id, untouched.search(queries, 2).rows)
    delta = Delta((best,), -table.vectors(np.array([table.row(best)], dtype=np.int64)), frozenset({second}))
    retriever, table = retrieval(shards, delta)
    found = retriever.search(queries, ROWS)
    ids = [table.item_id(row) for row in found.rows]
    assert second not in ids
    assert ids.count(best) <= 1
    assert ids[0] != best
    assert table.row(second) is None
    assert table.row(best) == ROWS


def test_new_items_of_the_delta_are_found(tmp_path: Path, kind: IndexKind) -> None:
    """An item that only the delta has is retrieved like any other."""
    queries = vectors(1, seed=9)
    delta = Delta(("new",), queries * 10)
    retriever, table = retrieval(saved_and_mapped(tmp_path, kind, [ROWS]), delta)
    assert table.item_id(retriever.search(queries, 1).rows[0]) == "new"


@pytest.mark.parametrize("allowed_count", [0, 1, 50, ROWS - 1000, ROWS])
def test_filters_of_any_strictness_are_answered_in_full(tmp_path: Path, kind: IndexKind, allowed_count: int) -> None:
    """As many results as are wanted, or all that are allowed: never fewer, never one that is not allowed."""
    retriever, table = retrieval(saved_and_mapped(tmp_path, kind, [ROWS]))
    allowed = np.zeros(table.rows, dtype=np.bool_)
    allowed[np.random.default_rng(1).permutation(table.rows)[:allowed_count]] = True
    queries = vectors(2, seed=9)
    found = retriever.search(queries, 30, np.flatnonzero(~allowed)).rows.tolist()
    assert found == exact_best(table, queries, min(30, allowed_count), allowed)


def test_more_wanted_than_there_are(tmp_path: Path, kind: IndexKind) -> None:
    """Asked for more than exist, all living rows come, each once."""
    retriever, table = retrieval(saved_and_mapped(tmp_path, kind, [ROWS, 5]))
    found = retriever.search(vectors(2, seed=9), 3 * ROWS).rows.tolist()
    assert sorted(found) == list(range(table.rows))


def test_the_index_stays_mapped_after_its_file_is_unlinked(tmp_path: Path, kind: IndexKind) -> None:
    """A generation that is collected while a server still serves it goes on answering."""
    retriever, _ = retrieval(saved_and_mapped(tmp_path, kind, [ROWS]))
    before = retriever.search(vectors(1, seed=9), 10)
    for path in tmp_path.rglob("*.*"):
        path.unlink()
    after = retriever.search(vectors(1, seed=9), 10)
    assert [part.tolist() for part in after] == [part.tolist() for part in before]


def test_one_vector_makes_a_shard(tmp_path: Path, kind: IndexKind) -> None:
    """A catalogue of one item can be published and searched."""
    retriever, _ = retrieval(saved_and_mapped(tmp_path, kind, [1]))
    assert retriever.search(vectors(2, seed=9), 10).rows.tolist() == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(kind: IndexKind, value: float) -> None:
    """A NaN or an infinity never gets into an index."""
    broken = vectors(3)
    broken[1, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        Shard.build(["a", "b", "c"], broken, kind)
