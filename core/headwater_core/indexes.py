"""The FAISS indexes that base shards are searched with: the kinds there are, how one is built, read and searched."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from headwater_core.errors import ArtifactError
from headwater_core.index_files import check_index_file

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]

MEASURED_DEPTH = 100
"""How many of the best rows recall is measured over."""
OVERSAMPLING = 2
"""Candidates taken from quantised codes for each that is wanted, before exact re-scoring."""
_LISTS_BY_ROOT = 2
"""Lists of an inverted file, in square roots of its vectors."""
_LIST_SAMPLE, _LIST_ROUNDS = 256, 4
"""Vectors that each list's centre is learned from, and for how many rounds."""
_SEED = 0


class IndexKind(StrEnum):
    """How a base shard is searched; always by inner product."""

    FLAT = "flat"
    """All vectors as they are: exact."""
    SQ8 = "sq8"
    """All vectors, a byte for each number."""
    IVF = "ivf"
    """The same codes in lists of vectors that lie together; the lists nearest to a query are searched."""


class Hits(NamedTuple):
    """What an index found for Q queries; places that stayed empty have row -1 and score minus infinity."""

    rows: Rows
    """(Q, n)."""
    scores: Vectors
    """(Q, n), by the index's codes."""


def build_index(vectors: Vectors, kind: IndexKind) -> Any:
    """A FAISS index over vectors (n, d), row i being vector i; one with lists is searched whole until told otherwise.

    Raises:
        ValueError: when there are no vectors or one is not finite.
    """
    if vectors.ndim != 2 or not len(vectors):
        raise ValueError(f"vectors has shape {vectors.shape}; (n, d) with n ≥ 1 is needed")
    if not np.isfinite(vectors).all():
        raise ValueError("a vector is not finite")
    n, dimension = vectors.shape
    index: Any
    if kind is IndexKind.FLAT:
        index = faiss.IndexFlatIP(dimension)
    elif kind is IndexKind.SQ8:
        index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    else:
        index = _empty_inverted_file(n, dimension)
    faiss.omp_set_num_threads(1)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    index.train(vectors)
    index.add(vectors)
    return index


def _empty_inverted_file(n: int, dimension: int) -> Any:
    n_lists = max(1, min(n, round(_LISTS_BY_ROOT * math.sqrt(n))))
    index: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimension),
        dimension,
        n_lists,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
        False,  # what is left after the centre costs time to put together and gains nothing once re-scored exactly
    )
    index.nprobe = n_lists
    index.cp.niter, index.cp.seed = _LIST_ROUNDS, _SEED
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _LIST_SAMPLE
    return index


def kind_of(index: Any) -> IndexKind:
    """Which kind an index is."""
    if isinstance(index, faiss.IndexIVF):
        return IndexKind.IVF
    return IndexKind.FLAT if isinstance(index, faiss.IndexFlat) else IndexKind.SQ8


def n_lists(index: Any) -> int:
    """How many lists an index has; 1 for one that is always searched whole."""
    return int(index.nlist) if isinstance(index, faiss.IndexIVF) else 1


def n_probes(index: Any, stretch: float = 1.0) -> int:
    """How many lists are searched, `stretch` times those that the index was built for; 1 for one without lists."""
    return min(n_lists(index), math.ceil(index.nprobe * stretch)) if isinstance(index, faiss.IndexIVF) else 1


def search_index(index: Any, queries: Vectors, k: int, allowed: Bits | None = None, stretch: float = 1.0) -> Hits:
    """The best rows of an index for each query, enough of them to hold the k best by the exact vectors.

    Args:
        index: one that `build_index` or `read_index` gave.
        queries: (Q, d).
        k: how many are wanted.
        allowed: a bit for each row, the lowest of a byte first; None: all are.
        stretch: so many times the lists are searched that the index was built for.
    """
    # The selector reads the bits in place, so both must live until the search is done.
    selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)  # type: ignore[call-arg, arg-type]
    parameters: Any = None
    if isinstance(index, faiss.IndexIVF):
        parameters = faiss.SearchParametersIVF(nprobe=n_probes(index, stretch), sel=selector)  # type: ignore[call-arg]
    elif selector is not None:
        parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
    # OpenMP keeps this number per calling thread, so it is set where the search is called:
    # else callers × cores threads fight for the cores.
    faiss.omp_set_num_threads(1)
    count = min(index.ntotal, k if isinstance(index, faiss.IndexFlat) else k * OVERSAMPLING)
    scores, rows = index.search(queries, count, params=parameters)  # (Q, count) each
    # FAISS has been seen to overlook a selector, and a file may name rows that there are not.
    rows = np.where(rows < index.ntotal, rows, -1)
    if allowed is not None:
        rows = np.where(allowed[rows >> 3] >> (rows & 7).astype(np.uint8) & 1, rows, -1)
    return Hits(rows, np.where(rows >= 0, scores, -np.inf))


def write_index(index: Any, path: Path) -> None:
    """Write an index; `path` must not exist yet.

    Raises:
        ArtifactError: when it cannot be written.
    """
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise ArtifactError("write", str(path), str(error)) from error


def read_index(path: Path, count: int, dimension: int) -> Any:
    """Map the index of `count` vectors of a length from its file, which may come from anywhere.

    Raises:
        ArtifactError: when it is damaged or anything else than `build_index` makes.
    """
    check_index_file(path, count, dimension)
    try:
        # IO_FLAG_MMAP would copy what is not an inverted file into memory; this one maps every kind.
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ArtifactError("map", str(path), str(error).splitlines()[0][:300]) from error
