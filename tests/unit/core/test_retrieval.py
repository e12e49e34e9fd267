"""What is found where lists are searched and rows are left out: never too few, never what must not be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_core.indexes import Hits, IndexKind
from headwater_core.retrieval import NO_ROWS, Retriever
from headwater_core.shards import Delta, Shard, VectorTable

D, ROWS, CLUSTERS = 8, 9_000, 30


@pytest.fixture(scope="module")
def clustered() -> tuple[Retriever, VectorTable, np.ndarray]:
    """Two shards of clusters that lie far apart, one list of each searched, a delta over them; row → cluster."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, D))
    cluster = rng.integers(CLUSTERS, size=ROWS)
    vectors = (centres[cluster] + 0.05 * rng.normal(size=(ROWS, D))).astype(np.float32)
    parts = [(0, 6_000), (6_000, ROWS)]
    shards = [Shard.build([str(row) for row in range(*part)], vectors[slice(*part)], IndexKind.IVF) for part in parts]
    for shard in shards:
        shard.index.nprobe = 1
    changed = rng.choice(ROWS, 200, replace=False)
    delta = Delta(tuple(map(str, changed[:150])), vectors[changed[:150]] * 1.01, frozenset(map(str, changed[150:])))
    table = VectorTable(shards, delta)
    return Retriever(shards, delta, table), table, np.concatenate([cluster, cluster[changed[:150]]])


def best(table: VectorTable, queries: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    scores = (table.vectors(np.arange(table.rows)) @ queries.T).max(axis=1)
    scores[~table.alive] = -np.inf
    scores[excluded] = -np.inf
    order = np.argsort(-scores, kind="stable")
    living: np.ndarray = order[scores[order] > -np.inf]
    return living


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kept_share=st.sampled_from([0.001, 0.02, 0.5, 0.6, 0.99]),
    by_cluster=st.booleans(),
    k=st.sampled_from([1, 30, 300, 2_000]),
    n_queries=st.integers(1, 3),
)
def test_a_filter_never_shortens_the_answer(
    clustered: tuple[Retriever, VectorTable, np.ndarray],
    seed: int,
    kept_share: float,
    by_cluster: bool,
    k: int,
    n_queries: int,
) -> None:
    """Whether it keeps rows at random or whole clusters, the farthest ones: all places are filled, best first, and
    what a selective one keeps is ranked exactly."""
    retriever, table, cluster = clustered
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(n_queries, D)).astype(np.float32)
    kept = rng.random(table.rows) < kept_share
    if by_cluster:
        everything = best(table, queries, NO_ROWS)
        nearest = list(dict.fromkeys(cluster[everything].tolist()))
        kept = np.isin(cluster, nearest[int((1.0 - kept_share) * len(nearest)) :])
    excluded = np.flatnonzero(~kept)

    found = retriever.search(queries, k, rng.permutation(excluded))

    wanted = best(table, queries, excluded)
    assert len(found.rows) == min(k, len(wanted))
    assert len(set(found.rows.tolist())) == len(found.rows)
    assert kept[found.rows].all()
    assert table.alive[found.rows].all()
    exact = (table.vectors(found.rows) @ queries.T).max(axis=1, initial=-np.inf)
    np.testing.assert_allclose(found.scores, exact, rtol=1e-5, atol=1e-6)
    assert (np.diff(found.scores) <= 0).all()
    if len(wanted) <= 4_096:
        assert found.rows.tolist() == wanted[:k].tolist()


def test_equal_scores_are_in_the_order_of_their_rows() -> None:
    """Over the base and the delta alike."""
    vectors = np.ones((5_000, D), np.float32)
    shard = Shard.build([str(row) for row in range(5_000)], vectors * np.float32(0.5), IndexKind.FLAT)
    delta = Delta(tuple(f"new-{row}" for row in range(100)), vectors[:100])
    table = VectorTable([shard], delta)
    found = Retriever([shard], delta, table).search(vectors[:1], 10)
    assert found.rows.tolist() == list(range(5_000, 5_010))


def test_what_an_index_overlooks_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep it is searched it names one row; then all that may be found are scored."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6_000, D)).astype(np.float32)
    shard = Shard.build([str(row) for row in range(6_000)], vectors, IndexKind.IVF)
    shard.index.nprobe = 1
    delta = Delta.empty(D)
    table = VectorTable([shard], delta)
    stretches: list[float] = []

    def blind(_index: object, _queries: object, _k: int, _allowed: object, stretch: float) -> Hits:
        stretches.append(stretch)
        return Hits(np.array([[7, -1]]), np.array([[1.0, -np.inf]], np.float32))

    monkeypatch.setattr("headwater_core.retrieval.search_index", blind)
    found = Retriever([shard], delta, table).search(vectors[:1], 20, np.array([3, 4]))
    assert found.rows.tolist() == best(table, vectors[:1], np.array([3, 4]))[:20].tolist()
    assert stretches == sorted(set(stretches))
    assert stretches[-1] >= shard.index.nlist


def test_depth_and_exclusions_search_more_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """What recall was measured for is the best hundred of all rows; what lies deeper is spread over more lists."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6_000, D)).astype(np.float32)
    shard = Shard.build([str(row) for row in range(6_000)], vectors, IndexKind.FLAT)
    table = VectorTable([shard], Delta.empty(D))
    retriever = Retriever([shard], Delta.empty(D), table)
    stretches: list[float] = []

    def noting(_index: object, _queries: object, k: int, _allowed: object, stretch: float) -> Hits:
        stretches.append(stretch)
        return Hits(np.arange(k)[None], np.zeros((1, k), np.float32))

    monkeypatch.setattr("headwater_core.retrieval.search_index", noting)
    for k, n_excluded in ((10, 0), (100, 0), (400, 0), (100, 300)):
        retriever.search(vectors[:1], k, np.arange(5_000, 5_000 + n_excluded))
    assert stretches == [1.0, 1.0, 2.0, 2.0]
