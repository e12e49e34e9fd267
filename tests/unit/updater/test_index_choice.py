"""Which index a base shard gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from headwater_core.indexes import IndexKind, kind_of, n_probes
from headwater_core.retrieval import Retriever
from headwater_core.shards import Delta, Shard, VectorTable
from headwater_updater import index_choice
from headwater_updater.index_choice import choose

D, COUNT = 16, 6_000  # more than are scored exactly without a search
IDS = [str(number) for number in range(COUNT)]
NOBODY = np.empty((0, D), np.float32)


def vectors(count: int = COUNT, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of this size are measured, too."""
    monkeypatch.setattr(index_choice, "MEASURED_ABOVE", 5_000)


def taking(monkeypatch: pytest.MonkeyPatch, took_us: dict[IndexKind, float]) -> None:
    def search_us(_: object, shards: Sequence[Shard]) -> list[float]:
        return [took_us[kind_of(shard.index)] for shard in shards]

    monkeypatch.setattr(index_choice.ShardBench, "search_us", search_us)


def recall_of(shard: Shard, queries: np.ndarray) -> float:
    table = VectorTable([shard], Delta.empty(D))
    retriever = Retriever([shard], Delta.empty(D), table)
    best = np.argsort(-(queries @ shard.vectors.T), axis=1)[:, :100]
    found = [retriever.search(query[None], 100).rows for query in queries]
    return float(np.mean([np.isin(wanted, rows).mean() for wanted, rows in zip(best, found, strict=True)]))


@pytest.mark.parametrize(
    ("wanted", "given"), [(None, IndexKind.FLAT), *((kind, kind) for kind in (IndexKind.FLAT, IndexKind.SQ8))]
)
def test_small_shards_are_not_measured(wanted: IndexKind | None, given: IndexKind) -> None:
    """They are flat unless something else is asked for."""
    chosen = choose(IDS, vectors(), NOBODY, 0.98, wanted)
    assert (chosen.kind, chosen.recall, chosen.search_us) == (given, None, None)


def test_a_small_inverted_file_is_searched_whole() -> None:
    """Nobody measured how many lists would do."""
    index = choose(IDS, vectors(), NOBODY, 0.98, IndexKind.IVF).shard.index
    assert n_probes(index) == index.nlist


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("fastest", [IndexKind.FLAT, IndexKind.IVF])
def test_the_fastest_that_reaches_the_recall_is_chosen(monkeypatch: pytest.MonkeyPatch, fastest: IndexKind) -> None:
    """And what was measured of it is told."""
    taking(monkeypatch, {kind: 1.0 if kind is fastest else 2.0 for kind in IndexKind})
    chosen = choose(IDS, vectors(), vectors(80, seed=1), 0.9)
    assert (chosen.kind, chosen.search_us) == (fastest, 1.0)
    assert chosen.recall == pytest.approx(recall_of(chosen.shard, vectors(80, seed=1)))


@pytest.mark.usefixtures("measured")
def test_lists_are_searched_until_the_recall_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The more is to be found, the more of them."""
    taking(monkeypatch, {IndexKind.FLAT: 2.0, IndexKind.IVF: 1.0})
    queries = vectors(80, seed=1)
    chosen = [choose(IDS, vectors(), queries, recall) for recall in (0.5, 0.9, 0.98)]
    probes = [n_probes(each.shard.index) for each in chosen]
    assert probes == sorted(set(probes))
    assert all(recall_of(each.shard, queries) >= recall for each, recall in zip(chosen, (0.5, 0.9, 0.98), strict=True))
    assert probes[-1] < chosen[-1].shard.index.nlist


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("kind", [None, IndexKind.IVF])
def test_where_no_codes_find_enough_the_shard_is_flat(monkeypatch: pytest.MonkeyPatch, kind: IndexKind | None) -> None:
    """However slow that is: all vectors but one are so near to each other that bytes cannot tell them apart."""
    taking(monkeypatch, {IndexKind.FLAT: 9.0, IndexKind.IVF: 1.0})
    close = vectors() * np.float32(1e-4)
    close[0] = 1.0
    chosen = choose(IDS, close, vectors(80, seed=1), 0.98, kind)
    assert (chosen.kind, chosen.recall, chosen.search_us) == (IndexKind.FLAT, 1.0, 9.0)


def test_what_is_surely_reached_depends_on_how_queries_differ() -> None:
    """An index that finds the same share for all is as sure as exact search."""
    flat = Shard.build(IDS, vectors(), IndexKind.FLAT)
    lists = Shard.build(IDS, vectors(), IndexKind.IVF)
    bench = index_choice.ShardBench(flat, vectors(80, seed=1))
    assert bench.recall(flat) == (1.0, 1.0)
    lists.index.nprobe = 5
    found = bench.recall(lists)
    assert found.mean == pytest.approx(recall_of(lists, vectors(80, seed=1)))
    assert 0.0 < found.at_least < found.mean


def test_item_vectors_make_up_for_few_interests() -> None:
    """Many interests are drawn from."""
    items, interests = vectors(), vectors(500, seed=1)
    few = index_choice._queries(items, interests[:3])
    np.testing.assert_array_equal(few[:3], interests[:3])
    assert len(few) == 64
    assert np.isin(few[3:, 0], items[:, 0]).all()
    many = index_choice._queries(items, interests)
    assert len(many) == len(np.unique(many, axis=0)) == 200
    assert np.isin(many[:, 0], interests[:, 0]).all()
    np.testing.assert_array_equal(index_choice._queries(items, interests[:100]), interests[:100])


def test_steps_end_with_the_last() -> None:
    """Each about half again as long as the one before."""
    assert [list(index_choice._steps(last)) for last in (1, 2, 12, 13)] == [
        [1],
        [1, 2],
        [1, 2, 3, 4, 6, 8, 12],
        [1, 2, 3, 4, 6, 8, 12, 13],
    ]
