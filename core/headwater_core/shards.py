"""Base shards, the delta over them, the table of exact vectors and the retrieval over all of it.

Row space of a generation: the base shards' rows one after another, then the delta's. A base row whose item the delta
supersedes or deletes is dead: masked in FAISS and in the table alike.
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from headwater_core.errors import ArtifactError
from headwater_core.item_files import Layout, map_tensors, pack_ids, unpack_ids, write_tensors
from headwater_core.manifest import index_file, items_file

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SHARD_LAYOUT: Layout = {"item_ids": ("U8", 1), "offsets": ("I64", 1), "vectors": ("F32", 2)}
_DELTA_LAYOUT: Layout = {**_SHARD_LAYOUT, "tombstone_ids": ("U8", 1), "tombstone_offsets": ("I64", 1)}

_OVERSAMPLING = 2
"""Candidates taken from a quantised shard for each that is wanted, before exact re-scoring."""
_EXACT_BELOW = 4096
"""With no more allowed rows than this, all of them are scored exactly: faster than a search, and never short."""


class IndexKind(StrEnum):
    """How a base shard stores its vectors for searching; both by inner product."""

    FLAT = "flat"
    SQ8 = "sq8"


def build_index(vectors: Vectors, kind: IndexKind) -> Any:
    """A FAISS index over vectors (n, d), row i being vector i.

    Raises:
        ValueError: when there are no vectors or one is not finite.
    """
    if vectors.ndim != 2 or not len(vectors):
        raise ValueError(f"vectors has shape {vectors.shape}; (n, d) with n ≥ 1 is needed")
    if not np.isfinite(vectors).all():
        raise ValueError("a vector is not finite")
    dimension = vectors.shape[1]
    index: Any
    if kind is IndexKind.FLAT:
        index = faiss.IndexFlatIP(dimension)
    else:
        index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    faiss.omp_set_num_threads(1)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    index.train(vectors)
    index.add(vectors)
    return index


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """One FAISS part of a generation's base, with its items' ids and exact vectors."""

    index: Any
    item_ids: tuple[str, ...]
    vectors: Vectors  # (n, d)

    @classmethod
    def build(cls, item_ids: Sequence[str], vectors: Vectors, kind: IndexKind = IndexKind.SQ8) -> Shard:
        """A shard of these items, in this order."""
        if len(item_ids) != len(vectors):
            raise ValueError(f"{len(item_ids)} ids for {len(vectors)} vectors")
        return cls(build_index(vectors, kind), tuple(item_ids), vectors)

    def save(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write the index file and the items file of the shard `name` below `directory`; their paths."""
        index_path, items_path = directory / index_file(name), directory / items_file(name)
        index_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            faiss.write_index(self.index, str(index_path))
        except RuntimeError as error:
            raise ArtifactError("write", str(index_path), str(error)) from error
        blob, offsets = pack_ids(self.item_ids)
        write_tensors(items_path, {"item_ids": blob, "offsets": offsets, "vectors": self.vectors})
        return index_path, items_path

    @classmethod
    def load(cls, index_path: Path, items_path: Path, dimension: int) -> Shard:
        """Map a saved shard.

        Raises:
            ArtifactError: when a file is damaged, or the two do not belong together.
        """
        tensors = map_tensors(items_path, _SHARD_LAYOUT)
        item_ids, vectors = _checked_items(tensors, items_path, dimension)
        try:
            # IO_FLAG_MMAP would copy a flat index into memory; this one maps it.
            index = faiss.read_index(str(index_path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ArtifactError("map", str(index_path), str(error).splitlines()[0][:300]) from error
        if not isinstance(index, (faiss.IndexFlatIP, faiss.IndexScalarQuantizer)):
            raise ArtifactError("map", str(index_path), f"is a {type(index).__name__}")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT or index.d != dimension or index.ntotal != len(item_ids):
            reason = f"has {index.ntotal} vectors of length {index.d} for {len(item_ids)} items of {dimension}"
            raise ArtifactError("map", str(index_path), reason)
        return cls(index, item_ids, vectors)


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What changed since the base was built: superseding or new vectors, and items that are gone."""

    item_ids: tuple[str, ...]
    vectors: Vectors  # (n, d)
    tombstones: frozenset[str] = frozenset()

    @classmethod
    def empty(cls, dimension: int) -> Delta:
        """No change."""
        return cls((), np.zeros((0, dimension), dtype=np.float32))

    def updated(self, item_ids: Sequence[str], vectors: Vectors, deleted: Iterable[str] = ()) -> Delta:
        """This delta with newer vectors (n, d) in place of older ones, and with more items gone.

        An item that is both given a vector and deleted is gone.
        """
        gone = frozenset(deleted)
        newer = {item_id: row for row, item_id in enumerate(item_ids) if item_id not in gone}
        kept = [row for row, item_id in enumerate(self.item_ids) if item_id not in newer and item_id not in gone]
        return Delta(
            (*(self.item_ids[row] for row in kept), *newer),
            np.concatenate([self.vectors[kept], vectors[list(newer.values())]]).astype(np.float32, copy=False),
            (self.tombstones | gone) - newer.keys(),
        )

    def save(self, directory: Path, name: str) -> Path:
        """Write the delta's items file below `directory`; its path."""
        if not np.isfinite(self.vectors).all():
            raise ValueError("a vector is not finite")
        path = directory / items_file(name)
        blob, offsets = pack_ids(self.item_ids)
        tombstones, tombstone_offsets = pack_ids(sorted(self.tombstones))
        tensors: dict[str, npt.NDArray[Any]] = {
            "item_ids": blob,
            "offsets": offsets,
            "vectors": self.vectors,
            "tombstone_ids": tombstones,
            "tombstone_offsets": tombstone_offsets,
        }
        write_tensors(path, tensors)
        return path

    @classmethod
    def load(cls, path: Path, dimension: int) -> Delta:
        """Map a saved delta.

        Raises:
            ArtifactError: when the file is damaged.
        """
        tensors = map_tensors(path, _DELTA_LAYOUT)
        item_ids, vectors = _checked_items(tensors, path, dimension)
        tombstones = unpack_ids(tensors["tombstone_ids"], tensors["tombstone_offsets"], path)  # type: ignore[arg-type]
        return cls(item_ids, vectors, frozenset(tombstones))


def _checked_items(tensors: dict[str, npt.NDArray[Any]], path: Path, dimension: int) -> tuple[tuple[str, ...], Vectors]:
    item_ids = unpack_ids(tensors["item_ids"], tensors["offsets"], path)
    vectors = tensors["vectors"]
    if vectors.shape != (len(item_ids), dimension):
        reason = f"has vectors of shape {vectors.shape} for {len(item_ids)} items of {dimension}"
        raise ArtifactError("map", str(path), reason)
    return item_ids, vectors


class VectorTable:
    """A generation's exact vectors by row and by item."""

    def __init__(self, shards: Sequence[Shard], delta: Delta) -> None:
        """Lay the shards' rows and the delta's rows one after another.

        Raises:
            ArtifactError: when an item has two living rows.
        """
        parts = [(shard.item_ids, shard.vectors) for shard in shards] + [(delta.item_ids, delta.vectors)]
        self._ids: tuple[str, ...] = tuple(item_id for ids, _ in parts for item_id in ids)
        self._starts = np.cumsum([0, *(len(ids) for ids, _ in parts)])  # (parts + 1,)
        self._vectors = [vectors for _, vectors in parts]
        self._dimension: int = delta.vectors.shape[1]
        self.base_rows = int(self._starts[-2])
        dead = delta.tombstones.union(delta.item_ids)
        alive = np.ones(len(self._ids), dtype=np.bool_)
        self._row_of: dict[str, int] = {}
        for row, item_id in enumerate(self._ids):
            if row < self.base_rows and item_id in dead:
                alive[row] = False
            elif item_id in self._row_of:
                raise ArtifactError("map", "item vectors", f"item {item_id!r} has two rows")
            else:
                self._row_of[item_id] = row
        alive.setflags(write=False)
        self.alive: Mask = alive
        """(rows,): False for base rows that the delta supersedes or deletes."""

    @property
    def rows(self) -> int:
        """How many rows there are, dead ones included."""
        return len(self._ids)

    @property
    def added_rows(self) -> Rows:
        """The delta's rows of items that the base does not have, in the delta's order."""
        base = {self._ids[row] for row in np.flatnonzero(~self.alive[: self.base_rows]).tolist()}
        return np.array([row for row in range(self.base_rows, self.rows) if self._ids[row] not in base], np.int64)

    @property
    def item_count(self) -> int:
        """How many items have a living row."""
        return len(self._row_of)

    @property
    def dimension(self) -> int:
        """The vectors' length."""
        return self._dimension

    def row(self, item_id: str) -> int | None:
        """The living row of an item; None when the generation does not know it."""
        return self._row_of.get(item_id)

    def rows_of(self, item_ids: Iterable[str]) -> list[int]:
        """The living rows of those of the items that the generation knows, in their order."""
        return [row for row in map(self._row_of.get, item_ids) if row is not None]

    def item_id(self, row: int) -> str:
        """Whose vector a row holds."""
        return self._ids[row]

    def item_ids(self) -> KeysView[str]:
        """The items that have a living row."""
        return self._row_of.keys()

    def vectors(self, rows: npt.ArrayLike) -> Vectors:
        """The exact vectors (n, d) of rows (n,), copied.

        Raises:
            IndexError: when a row does not exist.
        """
        wanted: Rows = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.rows):
            raise IndexError(f"rows reach from {wanted.min()} to {wanted.max()}; there are {self.rows}")
        found = np.empty((len(wanted), self._dimension), dtype=np.float32)
        for start, vectors in zip(self._starts[:-1].tolist(), self._vectors, strict=True):
            chosen = (wanted >= start) & (wanted < start + len(vectors))
            if chosen.all():
                found[:] = vectors[wanted - start]
                break
            found[chosen] = vectors[wanted[chosen] - start]
        return found


class Candidates(NamedTuple):
    """The rows that retrieval found, best first."""

    rows: Rows
    """(n,)."""
    scores: npt.NDArray[np.float32]
    """(n,), exact."""


class Retriever:
    """Finds the best rows for a user's interests over all shards and the delta. Safe to call from many threads."""

    def __init__(self, shards: Sequence[Shard], delta: Delta, table: VectorTable) -> None:
        """Search these shards and this delta; `table` must be made of the same."""
        self._shards = tuple(shards)
        self._delta_rows = np.arange(table.base_rows, table.base_rows + len(delta.item_ids), dtype=np.int64)
        self._table = table

    def search(self, queries: Vectors, k: int, *, allowed: Mask | None = None) -> Candidates:
        """The k best allowed living rows, best first (ties: the lower row); fewer only when fewer are allowed.

        Args:
            queries: (Q, d) one vector per interest; a row's score is its best interest's inner product.
            k: how many.
            allowed: (rows,) False for rows that must not be returned; None: all may be.

        Raises:
            ValueError: when a shape does not fit.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._table.dimension:
            raise ValueError(f"queries has shape {queries.shape}; (Q, {self._table.dimension}) is needed")
        mask = self._table.alive
        if allowed is not None:
            if allowed.shape != mask.shape:
                raise ValueError(f"allowed has shape {allowed.shape}; {mask.shape} is needed")
            mask = mask & allowed
        if k < 1 or not len(queries):
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        living = int(np.count_nonzero(mask))
        rows: Rows
        if living <= max(_EXACT_BELOW, k):
            rows = np.flatnonzero(mask)
        else:
            found = [self._search_shard(number, queries, k, mask) for number in range(len(self._shards))]
            rows = np.concatenate([*found, self._delta_rows])
            if len(queries) > 1:  # one row may be near several
                rows = np.unique(rows)
            # FAISS has been seen to return -1 and to overlook a selector: whatever it says is checked again.
            rows = rows[rows >= 0]
            rows = rows[mask[rows]]
        return self._best(rows, queries, k)

    def _search_shard(self, number: int, queries: Vectors, k: int, mask: Mask) -> Rows:
        index = self._shards[number].index
        start = sum(len(shard.item_ids) for shard in self._shards[:number])
        part = mask[start : start + index.ntotal]
        parameters = None
        if not part.all():
            # The selector reads the bits in place, so both must live until the search is done.
            bits = np.packbits(part, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        # OpenMP keeps this number per calling thread, so it is set where the search is called:
        # else callers × cores threads fight for the cores.
        faiss.omp_set_num_threads(1)
        # A flat index is exact already.
        count = min(index.ntotal, k if isinstance(index, faiss.IndexFlat) else k * _OVERSAMPLING)
        _, labels = index.search(queries, count, params=parameters)  # (Q, count)
        found: Rows = labels[labels >= 0].astype(np.int64)
        return found + start

    def _best(self, rows: Rows, queries: Vectors, k: int) -> Candidates:
        scores = (self._table.vectors(rows) @ queries.T).max(axis=1, initial=-np.inf)  # (n, Q) -> (n,)
        order = np.lexsort((rows, -scores))[:k]
        return Candidates(rows[order], scores[order])
