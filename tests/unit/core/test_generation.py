"""Loading a generation: whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater_core.artifact_store import ArtifactStore
from headwater_core.errors import ArtifactError
from headwater_core.generation import LoadedGeneration
from headwater_core.manifest import CHECKPOINT, REQUIRED_FILES, Manifest, index_file, items_file
from headwater_core.shards import Delta, Shard


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def publish(store: ArtifactStore, tmp_path: Path, **changes: Any) -> Manifest:
    shard = Shard.build(["a", "b", "c"], np.eye(3, 4, dtype=np.float32))
    delta = Delta(("b", "new"), np.ones((2, 4), dtype=np.float32), frozenset({"c"}))
    index_path, items_path = shard.save(tmp_path, "shards/0000")
    files = {
        name: store.put_blob(name.encode())
        for name in (*REQUIRED_FILES, CHECKPOINT, "replay.safetensors", "session.json")
    }
    files |= {
        index_file("shards/0000"): store.put_blob(index_path),
        items_file("shards/0000"): store.put_blob(items_path),
        items_file("delta"): store.put_blob(delta.save(tmp_path, "delta")),
    }
    content: dict[str, Any] = {
        "number": 1,
        "parent": 0,
        "full": False,
        "publish_time_us": 1,
        "watermark": 5,
        "catalogue_revision": 0,
        "dimension": 4,
        "item_count": 3,
        "text_encoder": "x/mean",
        "tower_config": {},
        "files": files,
        "shards": ("shards/0000",),
        "delta": "delta",
    }
    manifest = Manifest(**{**content, **changes})
    store.write_manifest(1, manifest)
    return manifest


def test_a_generation_is_loaded_with_its_delta_applied(store: ArtifactStore, tmp_path: Path) -> None:
    """Base and delta become one table and one retrieval, and the modules' files lie ready."""
    publish(store, tmp_path)
    generation = LoadedGeneration.load(store, 1)
    assert sorted(generation.table.item_ids()) == ["a", "b", "new"]
    found = generation.retriever.search(np.ones((1, 4), dtype=np.float32), 10)
    assert [generation.table.item_id(candidate.row) for candidate in found] == ["b", "new", "a"]
    assert generation.user_tower.read_bytes() == b"user_tower.safetensors"
    assert generation.number == 1


def test_what_training_resumes_from_is_not_needed_to_serve(store: ArtifactStore, tmp_path: Path) -> None:
    """Training state may be large; whoever serves neither fetches nor verifies it."""
    manifest = publish(store, tmp_path)
    state = (CHECKPOINT, "replay.safetensors", "session.json")
    for name in state:
        store.open_blob(manifest.files[name]).unlink()
    assert LoadedGeneration.load(store, 1).files.keys() == manifest.files.keys() - set(state)


@pytest.mark.parametrize(
    "name", [*REQUIRED_FILES, "shards/0000.faiss", "shards/0000.items.safetensors", "delta.items.safetensors"]
)
def test_any_damaged_file_keeps_the_generation_from_loading(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    """One wrong byte anywhere and the generation is refused before it is used."""
    manifest = publish(store, tmp_path)
    path = store.open_blob(manifest.files[name])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="hashes to"):
        LoadedGeneration.load(store, 1)


@pytest.mark.parametrize("changes", [{"item_count": 4}, {"dimension": 5}, {"delta": None}])
def test_parts_that_do_not_fit_the_manifest_are_refused(
    store: ArtifactStore, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Whole files that are not what the manifest says are refused too."""
    if changes == {"delta": None}:
        changes = {"delta": None, "item_count": 4}
    publish(store, tmp_path, **changes)
    with pytest.raises(ArtifactError):
        LoadedGeneration.load(store, 1)
