"""Base shards, the delta over them, and the table of exact vectors.

Row space of a generation: the base shards' rows one after another, then the delta's. A base row whose item the delta
supersedes or deletes is dead: masked in FAISS and in the table alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headwater_core.errors import ArtifactError
from headwater_core.indexes import IndexKind, build_index, read_index, write_index
from headwater_core.item_files import Layout, map_tensors, pack_ids, unpack_ids, write_tensors
from headwater_core.manifest import index_file, items_file

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SHARD_LAYOUT: Layout = {"item_ids": ("U8", 1), "offsets": ("I64", 1), "vectors": ("F32", 2)}
_DELTA_LAYOUT: Layout = {**_SHARD_LAYOUT, "tombstone_ids": ("U8", 1), "tombstone_offsets": ("I64", 1)}


@dataclass(frozen=True, eq=False)
class Shard:
    """One FAISS part of a generation's base, with its items' ids and exact vectors; many generations may share it."""

    index: Any
    item_ids: tuple[str, ...]
    vectors: Vectors  # (n, d)

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """Each item's row.

        Raises:
            ArtifactError: when an item has two.
        """
        return _row_of(self.item_ids)

    @cached_property
    def lengths(self) -> Vectors:
        """(n,), the vectors' lengths; read once, for whoever asks first."""
        return lengths(self.vectors)

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
        write_index(self.index, index_path)
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
        shard = cls(read_index(index_path, len(item_ids), dimension), item_ids, vectors)
        _refuse_infinite(shard.lengths, items_path)
        return shard


@dataclass(frozen=True, eq=False)
class Delta:
    """What changed since the base was built: superseding or new vectors, and items that are gone."""

    item_ids: tuple[str, ...]
    vectors: Vectors  # (n, d)
    tombstones: frozenset[str] = frozenset()

    @cached_property
    def lengths(self) -> Vectors:
        """(n,), the vectors' lengths; read once, for whoever asks first."""
        return lengths(self.vectors)

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
        delta = cls(item_ids, vectors, frozenset(tombstones))
        _refuse_infinite(delta.lengths, path)
        return delta


def _checked_items(tensors: dict[str, npt.NDArray[Any]], path: Path, dimension: int) -> tuple[tuple[str, ...], Vectors]:
    item_ids = unpack_ids(tensors["item_ids"], tensors["offsets"], path)
    vectors = tensors["vectors"]
    if vectors.shape != (len(item_ids), dimension):
        reason = f"has vectors of shape {vectors.shape} for {len(item_ids)} items of {dimension}"
        raise ArtifactError("map", str(path), reason)
    return item_ids, vectors


def _refuse_infinite(lengths: Vectors, path: Path) -> None:
    """Refuse vectors by their lengths: one number tells of the whole vector, and the lengths are needed anyhow."""
    if not np.isfinite(lengths).all():
        raise ArtifactError("map", str(path), "has a vector that is not finite, or too long to be multiplied")


def _row_of(item_ids: Sequence[str], first: int = 0) -> dict[str, int]:
    row_of = {item_id: row for row, item_id in enumerate(item_ids, start=first)}
    if len(row_of) < len(item_ids):
        twice = next(item_id for row, item_id in enumerate(item_ids, start=first) if row_of[item_id] != row)
        raise ArtifactError("map", "item vectors", f"item {twice!r} has two rows")
    return row_of


def lengths(vectors: Vectors) -> Vectors:
    """(n,), of vectors (n, d), which are not copied."""
    found: Vectors = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return found


def cosines(vectors: Vectors, lengths: Vectors, vector: Vectors) -> Vectors:
    """(n,), the cosines of vectors (n, d) of these lengths (n,) with one (d,); 0 where one has no length."""
    found: Vectors = vectors @ vector
    found /= np.maximum(lengths * np.linalg.norm(vector), 1e-12)
    return found


class VectorTable:
    """A generation's exact vectors by row and by item. To make one takes as long as its delta is, not its base."""

    def __init__(self, shards: Sequence[Shard], delta: Delta) -> None:
        """Lay the shards' rows and the delta's rows one after another.

        Raises:
            ArtifactError: when an item has two living rows.
        """
        self._shards, self._delta = tuple(shards), delta
        sizes = [*(len(shard.item_ids) for shard in shards), len(delta.item_ids)]
        self._starts = np.cumsum([0, *sizes])  # (parts + 1,)
        self.rows = int(self._starts[-1])
        """How many rows there are, dead ones included."""
        self.base_rows = int(self._starts[-2])
        self._vectors = [*(shard.vectors for shard in shards), delta.vectors]
        self._dimension: int = delta.vectors.shape[1]
        for number, shard in enumerate(shards):
            for other in self._shards[:number]:
                if not shard.row_of.keys().isdisjoint(other.row_of):
                    twice = min(shard.row_of.keys() & other.row_of.keys())
                    raise ArtifactError("map", "item vectors", f"item {twice!r} has two rows")
        starts: list[int] = self._starts.tolist()
        self._base = [(shard.row_of, start) for shard, start in zip(shards, starts, strict=False)]
        self._delta_row = _row_of(delta.item_ids, self.base_rows)
        dead = [row for item_id in delta.tombstones.union(delta.item_ids) if (row := self._base_row(item_id)) >= 0]
        alive = np.ones(self.rows, dtype=np.bool_)
        alive[dead] = False
        alive.setflags(write=False)
        self.alive: Mask = alive
        """(rows,): False for base rows that the delta supersedes or deletes."""
        self.item_count = self.rows - len(dead)
        """How many items have a living row."""

    @property
    def added_rows(self) -> Rows:
        """The delta's rows of items that the base does not have, in the delta's order."""
        return np.array([row for item_id, row in self._delta_row.items() if self._base_row(item_id) < 0], np.int64)

    @property
    def dimension(self) -> int:
        """The vectors' length."""
        return self._dimension

    def __contains__(self, item_id: str) -> bool:
        """Whether an item has a living row."""
        return self.row(item_id) is not None

    def row(self, item_id: str) -> int | None:
        """The living row of an item; None when the generation does not know it."""
        row = self._delta_row.get(item_id)
        if row is not None:
            return row
        row = self._base_row(item_id)
        return None if row < 0 or item_id in self._delta.tombstones else row

    def rows_of(self, item_ids: Iterable[str]) -> list[int]:
        """The living rows of those of the items that the generation knows, in their order."""
        return [row for row in map(self.row, item_ids) if row is not None]

    def item_id(self, row: int) -> str:
        """Whose vector a row holds."""
        if row >= self.base_rows:
            return self._delta.item_ids[row - self.base_rows]
        number = 0 if len(self._shards) == 1 else int(np.searchsorted(self._starts, row, side="right")) - 1
        shard, (_, start) = self._shards[number], self._base[number]
        return shard.item_ids[row - start]

    def item_ids(self) -> Iterator[str]:
        """The items that have a living row, in the order of their rows."""
        parts = (*(shard.item_ids for shard in self._shards), self._delta.item_ids)
        return itertools.compress(itertools.chain(*parts), self.alive.tolist())

    def _base_row(self, item_id: str) -> int:
        """The item's row in the base, dead or alive; -1 when the base does not have it."""
        for row_of, start in self._base:
            row = row_of.get(item_id)
            if row is not None:
                return start + row
        return -1

    def cosines(self, vector: Vectors) -> Vectors:
        """(rows,), how near each row lies to a vector (d,) by direction; minus infinity for rows that are not alive."""
        parts = [cosines(shard.vectors, shard.lengths, vector) for shard in self._shards]
        found = np.concatenate([*parts, cosines(self._delta.vectors, self._delta.lengths, vector)])
        found[~self.alive] = -np.inf
        return found

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
