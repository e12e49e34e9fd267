"""Shards, the delta and the table of exact vectors, and files that cannot be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import safetensors.numpy

from headwater_core.errors import ArtifactError
from headwater_core.indexes import IndexKind
from headwater_core.item_files import map_tensors, pack_ids, unpack_ids, write_tensors
from headwater_core.retrieval import Retriever
from headwater_core.shards import Delta, Shard, VectorTable

DIMENSION = 4


def vectors(count: int) -> np.ndarray:
    return np.arange(count * DIMENSION, dtype=np.float32).reshape(count, DIMENSION)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    return Shard.build(["a", "ü", "c" * 256], vectors(3), IndexKind.SQ8).save(tmp_path, "shards/0000")


def test_a_shard_comes_back_as_it_was_saved(saved: tuple[Path, Path]) -> None:
    """Ids of any script and length and the exact vectors survive the way to the file and back."""
    shard = Shard.load(*saved, DIMENSION)
    assert shard.item_ids == ("a", "ü", "c" * 256)
    np.testing.assert_array_equal(shard.vectors, vectors(3))
    assert not shard.vectors.flags.writeable


def test_a_delta_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Superseding vectors and tombstones survive; so does a delta without either."""
    path = Delta(("x", "y"), vectors(2), frozenset({"gone", "ü"})).save(tmp_path, "delta")
    delta = Delta.load(path, DIMENSION)
    assert (delta.item_ids, delta.tombstones) == (("x", "y"), frozenset({"gone", "ü"}))
    np.testing.assert_array_equal(delta.vectors, vectors(2))
    empty = Delta.load(Delta.empty(DIMENSION).save(tmp_path, "empty"), DIMENSION)
    assert (empty.item_ids, empty.tombstones) == ((), frozenset())


def test_an_updated_delta_holds_the_newest_of_everything() -> None:
    """Newer vectors replace older ones, deletions remove and leave tombstones, a returning item loses its own."""
    delta = Delta(("a", "b"), vectors(2), frozenset({"c", "d"}))
    newer = delta.updated(["b", "c", "e"], vectors(3) + 100, deleted=["a", "e"])
    assert newer.item_ids == ("b", "c")
    np.testing.assert_array_equal(newer.vectors, (vectors(3) + 100)[:2])
    assert newer.tombstones == {"a", "d", "e"}
    assert delta.item_ids == ("a", "b")


def test_the_table_masks_what_the_delta_supersedes_or_deletes() -> None:
    """Base rows of superseded and deleted items are dead; every living item has exactly one row."""
    shards = [Shard.build(["a", "b"], vectors(2)), Shard.build(["c"], vectors(1))]
    table = VectorTable(shards, Delta(("b", "d"), vectors(2) + 50, frozenset({"c"})))
    assert [table.row(item_id) for item_id in ("a", "b", "c", "d", "unknown")] == [0, 3, None, 4, None]
    assert table.alive.tolist() == [True, False, False, True, True]
    assert (table.item_count, table.rows, sorted(table.item_ids())) == (3, 5, ["a", "b", "d"])
    np.testing.assert_array_equal(table.vectors([3, 0]), [vectors(2)[0] + 50, vectors(2)[0]])


def test_rows_that_do_not_exist_are_refused() -> None:
    """A row outside the table is an error, not another item's vector."""
    table = VectorTable([Shard.build(["a"], vectors(1))], Delta.empty(DIMENSION))
    for row in (-1, 1):
        with pytest.raises(IndexError):
            table.vectors([row])
    assert table.vectors([]).shape == (0, DIMENSION)


def test_an_item_in_two_shards_is_damage() -> None:
    """Two living rows of one item mean that the files do not belong together."""
    shards = [Shard.build(["a"], vectors(1)), Shard.build(["a"], vectors(1))]
    with pytest.raises(ArtifactError, match="two rows"):
        VectorTable(shards, Delta.empty(DIMENSION))


def test_an_empty_generation_finds_nothing() -> None:
    """Without items there are no candidates, and no error."""
    table = VectorTable([], Delta.empty(DIMENSION))
    assert Retriever([], Delta.empty(DIMENSION), table).search(vectors(2), 10).rows.tolist() == []


def test_shapes_that_do_not_fit_are_refused() -> None:
    """Queries of another length and excluded rows that do not exist are errors of the caller."""
    shards, delta = [Shard.build(["a"], vectors(1))], Delta.empty(DIMENSION)
    retriever = Retriever(shards, delta, VectorTable(shards, delta))
    with pytest.raises(ValueError, match="queries"):
        retriever.search(np.zeros((1, DIMENSION + 1), dtype=np.float32), 1)
    for row in (-1, 1):
        with pytest.raises(IndexError, match="excluded"):
            retriever.search(vectors(1), 1, np.array([row]))
    assert retriever.search(vectors(1), 0).rows.tolist() == []


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(_content: bytes) -> bytes:
    return b""


def garbage(content: bytes) -> bytes:
    return b"\xff" * len(content)


@pytest.mark.parametrize("damage", [cut_short, empty, garbage])
@pytest.mark.parametrize("which", [0, 1])
def test_damaged_files_are_errors_not_crashes(
    saved: tuple[Path, Path], tmp_path: Path, damage: Callable[[bytes], bytes], which: int
) -> None:
    """A shard's file that is cut short, emptied or overwritten is reported as such."""
    damaged = [*saved]
    damaged[which] = tmp_path / "damaged"
    damaged[which].write_bytes(damage(saved[which].read_bytes()))
    with pytest.raises(ArtifactError):
        Shard.load(damaged[0], damaged[1], DIMENSION)


def test_files_of_other_sizes_are_refused(saved: tuple[Path, Path], tmp_path: Path) -> None:
    """An index and items of different counts or lengths are not one shard; nor is an index of another kind."""
    other = Shard.build(["a"], vectors(1)).save(tmp_path, "shards/0001")
    with pytest.raises(ArtifactError, match="for 3 items"):
        Shard.load(other[0], saved[1], DIMENSION)
    with pytest.raises(ArtifactError, match="vectors of shape"):
        Shard.load(*saved, DIMENSION + 1)
    euclidean = faiss.IndexFlatL2(DIMENSION)
    euclidean.add(vectors(3))
    faiss.write_index(euclidean, str(tmp_path / "l2.faiss"))
    with pytest.raises(ArtifactError, match="IxF2"):
        Shard.load(tmp_path / "l2.faiss", saved[1], DIMENSION)


@pytest.mark.parametrize(
    "description",
    [
        {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 31]},
        {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 64]},
        {"dtype": "F32", "shape": [-2, -4], "data_offsets": [0, 32]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 32]},
        {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]},
        {"dtype": "F32", "shape": [2, 4], "data_offsets": [32, 0]},
        {"dtype": "F32", "shape": [True, 8], "data_offsets": [0, 32]},
        {"dtype": "F32", "shape": "24", "data_offsets": [0, 32]},
        {"dtype": "F64", "shape": [2, 2], "data_offsets": [0, 32]},
        {"dtype": "F32", "shape": [2, 4]},
        "nothing",
    ],
)
def test_headers_that_lie_are_not_believed(tmp_path: Path, description: object) -> None:
    """Shapes and offsets of a header are checked against the file before anything is read."""
    header = json.dumps({"vectors": description}).encode()
    path = tmp_path / "lying.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 32)
    with pytest.raises(ArtifactError):
        map_tensors(path, {"vectors": ("F32", 2)})


def test_mapped_tensors_are_what_the_safetensors_package_reads(tmp_path: Path) -> None:
    """The header is read here, so it must be read as its format's own package reads it."""
    tensors = {"vectors": vectors(5), "offsets": np.arange(3, dtype=np.int64)}
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors)
    mapped = map_tensors(path, {"vectors": ("F32", 2), "offsets": ("I64", 1)})
    for name, expected in safetensors.numpy.load_file(path).items():
        np.testing.assert_array_equal(mapped[name], expected)
    with pytest.raises(ArtifactError, match="holds"):
        map_tensors(path, {"vectors": ("F32", 2)})


@pytest.mark.parametrize("offsets", [[], [0], [0, 1], [0, 1, 1, 2], [1, 2], [0, 3], [0, 2, 1, 2], [-1, 2]])
def test_offsets_that_do_not_fit_are_refused(tmp_path: Path, offsets: list[int]) -> None:
    """Ids are cut from their blob only by offsets that cover it."""
    blob, _ = pack_ids(["ab"])
    with pytest.raises(ArtifactError):
        unpack_ids(blob, np.array(offsets, dtype=np.int64), tmp_path)


def test_ids_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are damage."""
    with pytest.raises(ArtifactError, match="UTF-8"):
        unpack_ids(np.array([0xFF], dtype=np.uint8), np.array([0, 1], dtype=np.int64), tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_vectors_that_no_score_can_come_of_are_refused(tmp_path: Path, value: float) -> None:
    """One number that is not finite, or too large to be multiplied, and the shard or the delta is not loaded."""
    wrong = vectors(3)
    wrong[1, 2] = value
    index_path, items_path = Shard.build(["a", "b", "c"], vectors(3)).save(tmp_path, "shards/0000")
    blob, offsets = pack_ids(["a", "b", "c"])
    items_path.unlink()
    write_tensors(items_path, {"item_ids": blob, "offsets": offsets, "vectors": wrong})
    with pytest.raises(ArtifactError, match="not finite"):
        Shard.load(index_path, items_path, DIMENSION)
    gone, gone_offsets = pack_ids([])
    of_delta: dict[str, np.ndarray] = {"item_ids": blob, "offsets": offsets, "vectors": wrong}
    path = tmp_path / "delta.safetensors"
    write_tensors(path, {**of_delta, "tombstone_ids": gone, "tombstone_offsets": gone_offsets})
    with pytest.raises(ArtifactError, match="not finite"):
        Delta.load(path, DIMENSION)


def test_offsets_that_go_round_are_refused(tmp_path: Path) -> None:
    """Differences that overflow look as if offsets only grew."""
    offsets = np.array([0, 1 << 62, (1 << 63) - 1, -(1 << 63) + 5, -(1 << 62), 2], np.int64)
    assert (np.diff(offsets) > 0).all()
    with pytest.raises(ArtifactError, match="offsets"):
        unpack_ids(np.zeros(2, np.uint8), offsets, tmp_path)


def test_a_header_that_lies_too_deep_is_refused(tmp_path: Path) -> None:
    """As any other that is damaged."""
    path = tmp_path / "deep.safetensors"
    path.write_bytes((100_000).to_bytes(8, "little") + b"[" * 100_000)
    with pytest.raises(ArtifactError, match="header"):
        map_tensors(path, {"vectors": ("F32", 2)})
