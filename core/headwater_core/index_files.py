"""What an index file is made of, checked to its last byte before FAISS reads it.

FAISS reads some sixty kinds of index by what a file says of itself, and takes the memory that it says. Here only the
kinds that `indexes` builds are let through, and only where every length in the file is the one that follows from the
number of vectors, their length and the number of lists; nothing is read into memory but the ids of lists.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headwater_core.errors import ArtifactError

_INNER_PRODUCT = 0
_BYTE_CODES = 0
_MIN_MAX = 0
_MAX_LISTS = 1 << 24
_HEADER = struct.Struct("<4siqqqBi")  # kind, d, ntotal, unused, unused, is_trained, metric
_QUANTISER = struct.Struct("<iifQQ")  # kind of code, how the range was found, its argument, d, code size


def check_index_file(path: Path, count: int, dimension: int) -> None:
    """Refuse everything but a whole index file of `count` vectors of a length.

    Raises:
        ArtifactError: saying what is wrong.
    """
    try:
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise ArtifactError("map", str(path), str(error)) from error
    _Reader(content, str(path)).check(count, dimension)


class _Reader:
    """A place in a file, and what is expected there."""

    def __init__(self, content: npt.NDArray[np.uint8], shown: str) -> None:
        self._content, self._shown = content, shown
        self._at = 0

    def check(self, count: int, dimension: int) -> None:
        kind = self._header(count, dimension)
        if kind == b"IxFI":
            self._floats(count * dimension)
        elif kind == b"IxSQ":
            self._quantiser(dimension)
            self._sized(count * dimension)
        elif kind == b"IwSq":
            self._lists(count, dimension)
        else:
            raise self._damaged(f"is of kind {kind!r}")
        self._expect(self._at == len(self._content), "goes on after its end")

    def _lists(self, count: int, dimension: int) -> None:
        n_lists, n_probes = self._number(), self._number()
        self._expect(1 <= n_probes <= n_lists <= min(count, _MAX_LISTS), "has lists that do not fit its vectors")
        self._expect(self._header(n_lists, dimension) == b"IxFI", "has centres of another kind")
        self._floats(n_lists * dimension)
        self._expect(self._take(1)[0] == 0 and self._number() == 0, "has a map of its lists")
        self._quantiser(dimension)
        self._expect(self._number() == dimension and self._take(1)[0] == 0, "has codes that are no bytes")
        self._expect(self._take(4).tobytes() == b"ilar", "has lists of another kind")
        self._expect((self._number(), self._number()) == (n_lists, dimension), "has lists that do not fit its centres")
        sizes = self._sizes(n_lists)
        self._expect(sum(sizes) == count, "has lists that do not fit its vectors")
        seen = np.zeros(count, np.bool_)
        for size in sizes:
            self._take(size * dimension)
            ids = self._take(size * 8).view("<u8")
            self._expect(bool(np.all(ids < count)), "names a row that there is not")
            seen[ids] = True
        self._expect(bool(seen.all()), "names a row twice")

    def _sizes(self, n_lists: int) -> list[int]:
        """Of the lists: FAISS writes them all, or the lists that are not empty with their sizes where they are few."""
        kind, n_numbers = self._take(4).tobytes(), self._number()
        if kind == b"full":
            self._expect(n_numbers == n_lists, "has sizes of more or fewer lists")
            return [int(size) for size in self._take(8 * n_lists).view("<u8")]
        self._expect(kind == b"sprs" and n_numbers <= 2 * n_lists and n_numbers % 2 == 0, "has sizes of another kind")
        pairs = self._take(8 * n_numbers).view("<u8").reshape(-1, 2)
        places = pairs[:, 0]
        self._expect(bool(np.all(places < n_lists) and np.all(np.diff(places.astype(np.int64)) > 0)), "names no list")
        sizes = [0] * n_lists
        for place, size in pairs:
            sizes[int(place)] = int(size)
        return sizes

    def _header(self, count: int, dimension: int) -> bytes:
        kind, d, n, _, _, is_trained, metric = _HEADER.unpack(self._take(_HEADER.size).tobytes())
        self._expect((d, n) == (dimension, count), f"has {n} vectors of length {d} for {count} items of {dimension}")
        self._expect(is_trained == 1 and metric == _INNER_PRODUCT, f"of kind {kind!r} is not for inner products")
        return bytes(kind)

    def _quantiser(self, dimension: int) -> None:
        kind, found_by, _, d, code_size = _QUANTISER.unpack(self._take(_QUANTISER.size).tobytes())
        is_whole = (kind, found_by, d, code_size) == (_BYTE_CODES, _MIN_MAX, dimension, dimension)
        self._expect(is_whole, "has codes of another kind than a byte for each number")
        self._floats(2 * dimension)

    def _floats(self, count: int) -> None:
        """So many finite numbers, and how many they are."""
        self._expect(self._number() == count, "has numbers more or less than its vectors")
        self._expect(bool(np.isfinite(self._take(4 * count).view("<f4")).all()), "has a number that is not finite")

    def _sized(self, count: int) -> None:
        """So many bytes, and how many they are."""
        self._expect(self._number() == count, "has codes more or less than its vectors")
        self._take(count)

    def _number(self) -> int:
        return int(self._take(8).view("<u8")[0])

    def _take(self, size: int) -> npt.NDArray[np.uint8]:
        self._expect(size <= len(self._content) - self._at, "is cut short")
        part = self._content[self._at : self._at + size]
        self._at += size
        return part

    def _expect(self, holds: bool, reason: str) -> None:
        if not holds:
            raise self._damaged(reason)

    def _damaged(self, reason: str) -> ArtifactError:
        return ArtifactError("map", self._shown, reason)
