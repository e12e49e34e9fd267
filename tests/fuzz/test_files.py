"""Files of the store that are not what they should be: refused by a reason, or harmless; never a crash."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.v1 import model_service_pb2, recommendation_service_pb2
from headwater_core.artifact_store import ArtifactStore
from headwater_core.co_visit_files import SuccessorList, SuccessorLists
from headwater_core.co_visits import Blend
from headwater_core.database import Database
from headwater_core.errors import ArtifactError
from headwater_core.events import HistoryEvent
from headwater_core.generation import LoadedGeneration
from headwater_core.indexes import IndexKind
from headwater_core.manifest import (
    CHECKPOINT,
    CHECKPOINT_DELTA,
    CO_VISITS,
    CO_VISITS_DELTA,
    ITEM_TOWER,
    JOINT_HEADS,
    TREND,
    USER_TOWER,
    Manifest,
    index_file,
    items_file,
)
from headwater_core.registry import GenerationRecord, GenerationRegistry
from headwater_core.shards import Delta, Shard
from headwater_core.towers import TowerConfig
from headwater_core.trends import save_trend
from headwater_core.verified_files import VerifiedFiles
from headwater_server.settings import ServerSettings
from headwater_updater.blend_search import BlendSearch
from headwater_updater.gate import Gate
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig
from headwater_updater.pacing import Pacing
from headwater_updater.prequential import Prequential
from headwater_updater.replay import ReplayBuffer
from headwater_updater.session_state import REPLAY, SESSION, SessionState
from headwater_updater.watch import Watch
from tests.fuzz.conftest import EXAMPLES
from tests.fuzz.damage import Damaged, damages, json_damages
from tests.fuzz.readers import NUMBER, limit_memory, manifest_path, read_all, serve
from tests.fuzz.served import Served
from tests.fuzz.test_calls import METHODS

SHARDS = {f"shards/{number:04}": kind for number, kind in enumerate(IndexKind)}
MANIFEST = "manifest.json"
SERVED = [
    MANIFEST,
    USER_TOWER,
    ITEM_TOWER,
    JOINT_HEADS,
    *(index_file(name) for name in SHARDS),
    items_file("shards/0000"),
    items_file("delta"),
    CO_VISITS,
    CO_VISITS_DELTA,
    TREND,
]
TRAINED = [CHECKPOINT, CHECKPOINT_DELTA, REPLAY, SESSION]
TRIES = EXAMPLES or 25


@pytest.fixture(scope="module")
def settings(
    make_installation: Callable[..., ServerSettings], tmp_path_factory: pytest.TempPathFactory
) -> ServerSettings:
    """An installation with one more generation, which has a file of every kind and no label."""
    settings = make_installation(tmp_path_factory.mktemp("files"))
    store = ArtifactStore(settings.store_url)
    base = LoadedGeneration.load(store, 1)
    folder = tmp_path_factory.mktemp("made")
    ids, vectors = list(base.table.item_ids()), base.table.vectors(range(base.table.rows))
    files = {name: base.manifest.files[name] for name in (USER_TOWER, ITEM_TOWER, JOINT_HEADS)}
    for number, (name, kind) in enumerate(SHARDS.items()):
        part = slice(number * 20, number * 20 + 20)
        index_path, items_path = Shard.build(ids[part], vectors[part], kind).save(folder, name)
        files |= {index_file(name): store.put_blob(index_path), items_file(name): store.put_blob(items_path)}
    delta = Delta((ids[3], "new"), vectors[:2] + 1, frozenset({ids[4]}))
    lists = SuccessorLists.empty().updated([follows(ids[0], ids[1], ids[2]), follows(ids[1], ids[0])])
    later = SuccessorLists.empty(lists).updated([follows(ids[1], "new")])
    files |= {
        items_file("delta"): store.put_blob(delta.save(folder, "delta")),
        CO_VISITS: store.put_blob(lists.save(folder / CO_VISITS)),
        CO_VISITS_DELTA: store.put_blob(later.save(folder / CO_VISITS_DELTA)),
        TREND: store.put_blob(save_trend(ids[:5], [1.0, 2.0, 3.0, 4.0, 5.0])),
    }
    manifest = base.manifest.model_copy(
        update={
            "number": NUMBER,
            "full": False,
            "item_count": 60,
            "files": files,
            "shards": tuple(SHARDS),
            "delta": "delta",
            "co_visits": CO_VISITS,
            "co_visits_delta": CO_VISITS_DELTA,
            "trend": TREND,
            "blend": Blend(strength=1.0, repeat_strength=1.0, trend_strength=1.0).to_dict(),
            "ranker": {"score": (1.0, 0.0, 1.0)},
        }
    )
    store.write_manifest(NUMBER, manifest)
    return settings


def follows(item_id: str, *successors: str) -> SuccessorList:
    return SuccessorList(item_id, successors, np.ones(len(successors), np.float32))


@pytest.fixture(scope="module")
def training() -> dict[str, bytes]:
    """What training resumes from."""
    towers = TowerConfig(
        dimension=8, n_layers=1, text_dimension=2, event_types=("click",), value_mean=(0.0,), value_std=(1.0,)
    )
    learner = Learner.create(LearnerConfig(towers, {"click": 1.0}, exclude_seen=False), 0)
    learner.add_items([f"i{n}" for n in range(12)], np.zeros((12, 2)))
    chance = np.random.default_rng(0)
    histories = [
        [HistoryEvent(n, n * 10**6, "click", f"i{chance.integers(12)}") for n in range(1, 9)] for _ in range(10)
    ]
    learner.fit(histories, Budget(epochs=1))
    whole = learner.state()
    learner = Learner.load_state(whole)
    learner.add_items(["later"], np.zeros((1, 2)))
    state = SessionState(
        ReplayBuffer(20), Prequential(10), BlendSearch(learner.blend, with_repeats=True), Gate(), Pacing(1), Watch(0.1)
    )
    state.replay.add(range(1, 31))
    return {CHECKPOINT: whole, CHECKPOINT_DELTA: learner.state_delta(12), **state.files()}


class Apart:
    """A process of its own, with so much memory and no more; another one after it died."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def read_all(self, *arguments: Any) -> list[str]:
        """See `readers.read_all`; a process that died shows itself as BrokenProcessPool."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=limit_memory)
        try:
            return self._pool.submit(read_all, *arguments).result()
        except BrokenProcessPool:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SOURCES)  # it takes over where to import from, not what pytest imported
        apart = Apart()
        yield apart
        apart.close()


def ways(name: str, content: bytes) -> list[Damaged]:
    """How a file of that name is damaged."""
    return list((json_damages if name.endswith(".json") else damages)(content, TRIES))


def read(apart: Apart, tried: Counter[str], reader: str, source: Any, name: str, content: bytes) -> list[str]:
    """What came of the file, damaged in every way."""
    damaged = [each for each in ways(name, content) if each.content != content]
    outcomes = apart.read_all(reader, source, name, [each.content for each in damaged])
    tried[f"{name}: damaged"] += len(outcomes)
    tried[f"{name}: damaged, refused"] += sum(outcome != "" for outcome in outcomes)
    return outcomes


@pytest.mark.parametrize("name", SERVED)
def test_a_hostile_file_is_refused_or_harmless(
    settings: ServerSettings, apart: Apart, tried: Counter[str], tmp_path: Path, name: str
) -> None:
    """Its hash and size are as its manifest says: what is loaded all the same fits together and answers."""
    shutil.copytree(settings.store_url, store := tmp_path / "store")
    manifest = Manifest.from_json(manifest_path(store).read_bytes(), name)
    content = (
        manifest_path(store).read_bytes()
        if name == MANIFEST
        else (store / "default/blobs" / manifest.files[name].sha256).read_bytes()
    )
    assert serve(store) == ""
    outcomes = read(apart, tried, "serve", store, name, content)
    assert sum(outcome != "" for outcome in outcomes) >= 15


@pytest.mark.parametrize("name", TRAINED)
def test_a_hostile_training_state_is_refused_or_harmless(
    training: dict[str, bytes], apart: Apart, tried: Counter[str], name: str
) -> None:
    """The updater goes on from it or says why it cannot; then an earlier generation takes its place."""
    outcomes = read(apart, tried, "resume", training, name, training[name])
    assert sum(outcome != "" for outcome in outcomes) >= 15


def of_every_class(content: bytes) -> Iterable[bytes]:
    """The file with one thing wrong at a time: at its ends, in the middle, cut, longer, empty."""
    return (each.content for each in damages(content, 0) if each.content != content)


@pytest.mark.parametrize("name", [name for name in SERVED if name != MANIFEST])
def test_damage_at_rest_is_found_by_its_hash(
    settings: ServerSettings, tried: Counter[str], tmp_path: Path, name: str
) -> None:
    """At whatever place of the file: the generation is refused, and the reason names the blob."""
    shutil.copytree(settings.store_url, folder := tmp_path / "store")
    store = ArtifactStore(str(folder))
    entry = store.read_manifest(NUMBER).files[name]
    blob = folder / "default/blobs" / entry.sha256
    for content in of_every_class(blob.read_bytes()):
        blob.write_bytes(content)
        with pytest.raises(ArtifactError, match=entry.sha256):
            LoadedGeneration.load(store, NUMBER)
        tried[f"{name}: damaged at rest"] += 1


def test_the_old_generation_serves_on_whatever_file_of_the_new_one_is_damaged(settings: ServerSettings) -> None:
    """And `ListGenerations` and `Reload` say which one and why."""
    store = ArtifactStore(settings.store_url)
    manifest = store.read_manifest(NUMBER)
    database = Database(settings.database_url)
    registry = GenerationRegistry(database)
    copied = manifest.model_dump(include=GenerationRecord.__dataclass_fields__.keys() - {"total_bytes"})
    registry.record(GenerationRecord(total_bytes=manifest.total_bytes, **copied))
    registry.set_label("stable", NUMBER)
    ask = recommendation_service_pb2.RecommendRequest(context_item_ids=["space-00"]).SerializeToString()
    reload = model_service_pb2.ReloadRequest().SerializeToString()
    listing = model_service_pb2.ListGenerationsRequest().SerializeToString()
    registry.set_label("stable", 1)
    served = Served(settings.model_copy(update={"label_interval_ms": 3_600_000}))
    try:
        registry.set_label("stable", NUMBER)
        for name in SERVED[1:]:
            blob = Path(settings.store_url, "default/blobs", manifest.files[name].sha256)
            whole = blob.read_bytes()
            blob.unlink()  # what is mapped stays what it was
            blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            gc.collect()  # a shard that an earlier try mapped whole is used again while it lives
            [reloaded] = served.check(METHODS["Reload"], [reload]).responses
            assert reloaded.generation == 1
            assert manifest.files[name].sha256 in reloaded.failures[0]
            [answer] = served.check(METHODS["Recommend"], [ask]).responses
            assert answer.generation == 1
            assert answer.results
            [listed] = served.check(METHODS["ListGenerations"], [listing]).responses
            assert manifest.files[name].sha256 in listed.generations[0].failure
            blob.unlink()
            blob.write_bytes(whole)
        [reloaded] = served.check(METHODS["Reload"], [reload]).responses
        assert (reloaded.generation, list(reloaded.failures)) == (NUMBER, [])
    finally:
        served.close()
        database.close()


def test_a_damaged_label_is_refused(tried: Counter[str], tmp_path: Path) -> None:
    """The labels' mirror, which is read while the database is away."""
    store = ArtifactStore(str(tmp_path))
    store.mirror_label("stable", 3)
    path = tmp_path / "default/labels/stable.json"
    for each in json_damages(path.read_bytes(), TRIES):
        path.write_bytes(each.content)
        try:
            number = store.read_label("stable")
        except ArtifactError:
            tried["label: refused"] += 1
        else:
            assert number is not None
            assert 1 <= number < 1 << 63
        tried["label: damaged"] += 1


def test_a_damaged_note_has_its_file_verified_again(tried: Counter[str], tmp_path: Path) -> None:
    """Notes of verified files say one thing; whatever else they say is nothing."""
    notes, file = VerifiedFiles(tmp_path), tmp_path / "file"
    file.write_text("content")
    verified: list[int] = []

    def verify() -> Path:
        verified.append(1)
        return file

    notes.once("name", verify, file)
    path = tmp_path / "name.verified"
    content = path.read_bytes()
    for each in itertools.islice(damages(content, TRIES), 200):
        if each.content != content:
            path.write_bytes(each.content)
            verified.clear()
            notes.once("name", verify, file)
            assert verified, each
            assert path.read_bytes() == content
            tried["verified file: damaged"] += 1


SOURCES = Path(__file__).parents[2]
CAN_RUN_CODE = re.compile(
    r"\b(pickle|cloudpickle|dill|joblib|shelve|marshal)\b|(?<!safetensors\.)\btorch\.load\(|\byaml\.(load|unsafe_load)\(|allow_pickle"
    r"|(?<![.\w])(eval|exec|compile|__import__)\(|trust_remote_code|weights_only|os\.system\(|shell=True"
)


@pytest.mark.parametrize("folder", ["core", "server", "updater", "client"])
def test_nothing_that_is_read_can_run_code(folder: str) -> None:
    """What could run code out of a file is used nowhere."""
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in sorted((SOURCES / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if CAN_RUN_CODE.search(line.partition("#")[0]) and not line.lstrip().startswith('"""')
    ]
    assert found == []
