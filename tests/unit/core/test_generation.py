"""Loading a generation: whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater_core.artifact_store import ArtifactStore
from headwater_core.co_visit_files import SuccessorList, SuccessorLists
from headwater_core.co_visits import Blend
from headwater_core.errors import ArtifactError
from headwater_core.generation import LoadedGeneration, Shards
from headwater_core.manifest import (
    CHECKPOINT,
    CO_VISITS,
    CO_VISITS_DELTA,
    REQUIRED_FILES,
    Manifest,
    index_file,
    items_file,
)
from headwater_core.shards import Delta, Shard


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def follows(item_id: str, *successors: str) -> SuccessorList:
    return SuccessorList(item_id, successors, np.ones(len(successors), dtype=np.float32))


def publish(store: ArtifactStore, tmp_path: Path, **changes: Any) -> Manifest:
    shard = Shard.build(["a", "b", "c"], np.eye(3, 4, dtype=np.float32))
    delta = Delta(("b", "new"), np.ones((2, 4), dtype=np.float32), frozenset({"c"}))
    visits = SuccessorLists.empty().updated([follows("a", "b", "c"), follows("b", "a")])
    visits_delta = SuccessorLists.empty(visits).updated([follows("b", "new")])
    index_path, items_path = shard.save(tmp_path, "shards/0000")
    files = {
        name: store.put_blob(name.encode())
        for name in (*REQUIRED_FILES, CHECKPOINT, "replay.safetensors", "session.json")
    }
    files |= {
        index_file("shards/0000"): store.put_blob(index_path),
        items_file("shards/0000"): store.put_blob(items_path),
        items_file("delta"): store.put_blob(delta.save(tmp_path, "delta")),
        CO_VISITS: store.put_blob(visits.save(tmp_path / CO_VISITS)),
        CO_VISITS_DELTA: store.put_blob(visits_delta.save(tmp_path / CO_VISITS_DELTA)),
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
        "co_visits": CO_VISITS,
        "co_visits_delta": CO_VISITS_DELTA,
        "blend": {"strength": 2.0, "decay": 0.5},
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
    assert [generation.table.item_id(row) for row in found.rows] == ["b", "new", "a"]
    assert generation.user_tower.read_bytes() == b"user_tower.safetensors"
    assert generation.number == 1


def bonus_items(generation: LoadedGeneration, *history: str) -> list[str]:
    return [generation.table.item_id(int(row)) for row in generation.co_visits.bonuses(history, generation.blend).items]


def test_co_visits_are_loaded_with_their_delta_applied(store: ArtifactStore, tmp_path: Path) -> None:
    """What follows an item is what the delta says, else what the base does, of what can be retrieved."""
    publish(store, tmp_path)
    generation = LoadedGeneration.load(store, 1)
    assert generation.blend == Blend(strength=2.0, decay=0.5)
    assert (bonus_items(generation, "a"), bonus_items(generation, "b")) == (["b"], ["new"])


def test_a_generation_from_before_co_visits_has_no_bonuses(store: ArtifactStore, tmp_path: Path) -> None:
    """A manifest that knows nothing of them is loaded as ever."""
    manifest = publish(store, tmp_path)
    content = json.loads(manifest.to_json())
    for name in ("co_visits", "co_visits_delta", "blend"):
        del content[name]
    Path(tmp_path, "store/default/generations/1/manifest.json").write_text(json.dumps(content))
    generation = LoadedGeneration.load(store, 1)
    assert generation.blend == Blend()
    assert not bonus_items(generation, "a", "b")
    assert not len(generation.co_visits.bonuses(["a", "b"], Blend(strength=1.0)).items)


@pytest.mark.parametrize("blend", [{"strength": -1.0}, {"decay": 7.0}, {"unheard_of": 1.0}])
def test_a_blend_that_cannot_work_keeps_the_generation_from_loading(
    store: ArtifactStore, tmp_path: Path, blend: dict[str, float]
) -> None:
    """The error names the field."""
    publish(store, tmp_path, blend=blend)
    with pytest.raises(ArtifactError, match=f"blend.{next(iter(blend))}"):
        LoadedGeneration.load(store, 1)


def test_what_training_resumes_from_is_not_needed_to_serve(store: ArtifactStore, tmp_path: Path) -> None:
    """Training state may be large; whoever serves neither fetches nor verifies it."""
    manifest = publish(store, tmp_path)
    state = (CHECKPOINT, "replay.safetensors", "session.json")
    for name in state:
        store.open_blob(manifest.files[name]).unlink()
    shard = {index_file("shards/0000"), items_file("shards/0000")}
    assert LoadedGeneration.load(store, 1).files.keys() == manifest.files.keys() - shard - set(state)


def test_a_base_that_is_there_already_is_not_read_again(store: ArtifactStore, tmp_path: Path) -> None:
    """The next generation of the same base shares its shards; another vectors' length is another shard."""
    manifest = publish(store, tmp_path)
    known: Shards = {}
    first = LoadedGeneration.load(store, 1, known)
    for name in (index_file("shards/0000"), items_file("shards/0000")):
        store.open_blob(manifest.files[name]).unlink()
    again = LoadedGeneration.load(store, 1, known)
    assert again.shards[0] is first.shards[0]
    assert list(again.table.item_ids()) == ["a", "b", "new"]
    assert [again.table.row(item_id) for item_id in ("a", "b", "c", "new", "other")] == [0, 3, None, 4, None]
    with pytest.raises(ArtifactError):
        LoadedGeneration.load(store, 1, {})


@pytest.mark.parametrize(
    "name",
    [
        *REQUIRED_FILES,
        "shards/0000.faiss",
        "shards/0000.items.safetensors",
        "delta.items.safetensors",
        CO_VISITS,
        CO_VISITS_DELTA,
    ],
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


@pytest.mark.parametrize(
    "changes", [{"item_count": 4}, {"dimension": 5}, {"delta": None}, {"co_visits": CO_VISITS_DELTA}]
)
def test_parts_that_do_not_fit_the_manifest_are_refused(
    store: ArtifactStore, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Whole files that are not what the manifest says are refused too."""
    if changes == {"delta": None}:
        changes = {"delta": None, "item_count": 4}
    publish(store, tmp_path, **changes)
    with pytest.raises(ArtifactError):
        LoadedGeneration.load(store, 1)
