"""Indexes as they are built, and index files that cannot be trusted."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from headwater_core.errors import ArtifactError
from headwater_core.indexes import IndexKind, build_index, kind_of, n_probes, read_index, search_index, write_index

COUNT, D = 300, 8


def vectors(count: int = COUNT, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def written(index: Any, folder: Path) -> Path:
    path = folder / "written.faiss"
    write_index(index, path)
    return path


@pytest.mark.parametrize("kind", list(IndexKind))
def test_an_index_comes_back_as_it_was_written(tmp_path: Path, kind: IndexKind) -> None:
    """Its kind, how many lists it searches, and what it finds."""
    index = build_index(vectors(), kind)
    if kind is IndexKind.IVF:
        index.nprobe = 3
    mapped = read_index(written(index, tmp_path), COUNT, D)
    assert kind_of(mapped) is kind
    assert n_probes(mapped) == (3 if kind is IndexKind.IVF else 1)
    queries = vectors(4, seed=1)
    for there, here in zip(search_index(index, queries, 10), search_index(mapped, queries, 10), strict=True):
        np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize(("count", "distinct"), [(2, 1), (2_000, 100), (2_000, 2_000)])
def test_lists_may_be_empty(tmp_path: Path, count: int, distinct: int) -> None:
    """Where many items have the same vector, as those that nobody met, most lists hold nothing."""
    few = np.resize(vectors(distinct), (count, D))
    index = build_index(few, IndexKind.IVF)
    mapped = read_index(written(index, tmp_path), count, D)
    queries = vectors(4, seed=1)
    for there, here in zip(search_index(index, queries, 1), search_index(mapped, queries, 1), strict=True):
        np.testing.assert_array_equal(there, here)


def test_all_lists_are_searched_until_told_otherwise() -> None:
    """What was not measured overlooks nothing; nobody else holds the lists' centres."""
    index = build_index(vectors(), IndexKind.IVF)
    gc.collect()
    assert n_probes(index) == index.nlist > 1
    queries = vectors(4, seed=1)
    best = np.argsort(-(queries @ vectors().T), axis=1)[:, :10]
    found = search_index(index, queries, 10).rows
    assert all(np.isin(wanted, row).all() for wanted, row in zip(best, found, strict=True))


def test_stretching_never_searches_more_lists_than_there_are() -> None:
    """However far it goes; an index without lists has nothing to stretch."""
    index = build_index(vectors(), IndexKind.IVF)
    index.nprobe = 2
    assert [n_probes(index, stretch) for stretch in (1.0, 1.2, 4.0, 1e9)] == [2, 3, 8, index.nlist]
    assert n_probes(build_index(vectors(), IndexKind.SQ8), 4.0) == 1


@pytest.mark.parametrize("kind", list(IndexKind))
def test_rows_without_their_bit_are_not_found(kind: IndexKind) -> None:
    """Places that stay empty have no row, and no score."""
    allowed = np.zeros(COUNT, np.bool_)
    allowed[[0, 7, 8, 299]] = True
    hits = search_index(build_index(vectors(), kind), vectors(2), 10, np.packbits(allowed, bitorder="little"))
    for rows, scores in zip(*hits, strict=True):
        assert sorted(rows[rows >= 0]) == [0, 7, 8, 299]
        assert np.isneginf(scores[rows < 0]).all()


def with_trained(index: Any, values: list[float]) -> Any:
    faiss.copy_array_to_vector(np.array(values, np.float32), index.sq.trained)
    return index


def probing(n: int) -> Any:
    index = build_index(vectors(), IndexKind.IVF)
    index.nprobe = n
    return index


def inverted(kind: int, metric: int = faiss.METRIC_INNER_PRODUCT, centres: Any = None) -> Any:
    index = faiss.IndexIVFScalarQuantizer(centres or faiss.IndexFlatIP(D), D, 4, kind, metric)
    index.cp.min_points_per_centroid = 1
    return filled(index)


def filled(index: Any) -> Any:
    index.train(vectors())
    index.add(vectors())
    return index


@pytest.mark.parametrize(
    "make",
    [
        lambda: filled(faiss.IndexFlatL2(D)),
        lambda: filled(faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)),
        lambda: filled(faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)),
        lambda: inverted(faiss.ScalarQuantizer.QT_4bit),
        lambda: inverted(faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2),
        lambda: inverted(faiss.ScalarQuantizer.QT_8bit, centres=faiss.IndexFlatL2(D)),
        lambda: inverted(faiss.ScalarQuantizer.QT_8bit, centres=faiss.IndexHNSWFlat(D, 4, faiss.METRIC_INNER_PRODUCT)),
        lambda: filled(faiss.IndexIVFFlat(faiss.IndexFlatIP(D), D, 4, faiss.METRIC_INNER_PRODUCT)),
        lambda: filled(faiss.IndexHNSWFlat(D, 4, faiss.METRIC_INNER_PRODUCT)),
        lambda: faiss.IndexIDMap2(faiss.IndexFlatIP(D)),
        lambda: faiss.IndexFlatIP(D),
        lambda: probing(0),
        lambda: probing(10**6),
        lambda: with_trained(build_index(vectors(), IndexKind.SQ8), [0.0] * D),
        lambda: with_trained(build_index(vectors(), IndexKind.IVF), []),
    ],
)
def test_only_what_is_built_here_is_read(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Other classes, metrics and codes, parts that do not fit together, and lists that nobody could search."""
    path = written(make(), tmp_path)
    with pytest.raises(ArtifactError):
        read_index(path, COUNT, D)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Of the artifact, like any other damage."""
    with pytest.raises(ArtifactError):
        read_index(tmp_path / "nothing", COUNT, D)


@pytest.mark.parametrize("value", [0, 1, 10_000, 2**31, 2**40, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("kind", list(IndexKind))
def test_damaged_numbers_neither_crash_nor_name_rows_that_there_are_not(
    tmp_path: Path, kind: IndexKind, value: int
) -> None:
    """Wherever in the file a number is another one: it is refused, or what is searched is within the shard."""
    content = written(build_index(vectors(), kind), tmp_path).read_bytes()
    path = tmp_path / "damaged.faiss"
    # Vectors, codes and centres may hold any bytes: of them a part will do.
    places = [*range(0, min(700, len(content) - 8), 4), *range(700, len(content) - 8, 52)]
    for place in places:
        path.write_bytes(content[:place] + value.to_bytes(8, "little") + content[place + 8 :])
        try:
            index = read_index(path, COUNT, D)
        except ArtifactError:
            continue
        rows = search_index(index, vectors(2), 20, np.full(COUNT // 8 + 1, 255, np.uint8)).rows
        assert rows.max() < COUNT
        path.unlink()  # it is mapped: the next one is another file
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            read_index(path, COUNT, D)


def test_a_row_that_two_lists_name_is_refused(tmp_path: Path) -> None:
    """Another row would be in none of them."""
    index = build_index(vectors(), IndexKind.IVF)
    content = bytearray(written(index, tmp_path).read_bytes())
    content[-8:] = content[-16:-8]  # the last list's last two ids
    path = tmp_path / "twice.faiss"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="names a row twice"):
        read_index(path, COUNT, D)
