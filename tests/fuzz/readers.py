"""Reads files that nobody vouches for, as server and updater read them. For a process of its own: it may be killed."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headwater_core.artifact_store import ArtifactStore
from headwater_core.errors import ArtifactError, HeadwaterError
from headwater_core.events import HistoryEvent
from headwater_core.generation import LoadedGeneration
from headwater_core.manifest import CHECKPOINT, CHECKPOINT_DELTA, Manifest
from headwater_server.serving_generation import ServingGeneration
from headwater_updater.learner import Learner
from headwater_updater.session_state import SessionState

NUMBER = 7
MORE_BYTES = 1 << 30
"""How much more memory than before a reader may take."""


def limit_memory() -> None:
    """Let this process have so much more memory and no more: what would take it all gets a MemoryError."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MORE_BYTES, taken + MORE_BYTES))


def manifest_path(store: Path) -> Path:
    """Where the generation's manifest is."""
    return store / f"default/generations/{NUMBER}/manifest.json"


def put_consistently(store: Path, name: str, content: bytes) -> None:
    """Give a file of the generation other content, as a hostile writer would: the manifest names its hash and size."""
    sha256 = hashlib.sha256(content).hexdigest()
    (store / "default/blobs" / sha256).write_bytes(content)
    path = manifest_path(store)
    manifest = Manifest.from_json(path.read_bytes(), str(path))
    entry = manifest.files[name].model_copy(update={"sha256": sha256, "bytes": len(content)})
    path.write_bytes(manifest.model_copy(update={"files": {**manifest.files, name: entry}}).to_json())


def serve(store: Path) -> str:
    """Load the generation and answer from it; why it was refused, or "" when it answered.

    Raises:
        AssertionError: an answer is none.
    """
    try:
        loaded = LoadedGeneration.load(ArtifactStore(str(store)), NUMBER)
        serving = ServingGeneration(loaded, _no_features)
    except HeadwaterError as error:
        return f"{type(error).__name__}: {error}"
    assert loaded.table.item_count == loaded.manifest.item_count
    assert loaded.table.dimension == loaded.manifest.dimension
    known = list(loaded.table.item_ids())
    history = [HistoryEvent(n, n * 10**6, "click", item_id, 1.0) for n, item_id in enumerate(known[:5], start=1)]
    (interests,) = serving.embed([history])
    assert np.isfinite(interests).all()
    found = loaded.retriever.search(interests, 10) if len(interests) else None
    if found is not None:
        assert np.isfinite(found.scores).all()
        assert len(found.rows) == min(10, loaded.table.item_count)
        assert all(loaded.table.item_id(int(row)) in loaded.table for row in found.rows)
    rows = loaded.table.rows_of(known[:10])
    scores = serving.score(serving.items, interests, rows, history)
    assert len(scores.ranking) == len(rows)
    assert np.isfinite(scores.ranking).all()
    assert np.isfinite(scores.probabilities).all()
    serving.place(np.zeros((2, serving.config.feature_dimension), np.float16))
    return ""


def serve_with(store: Path, name: str, content: bytes) -> str:
    """What comes of the generation with another file in a file's place; see `serve`."""
    before = manifest_path(store).read_bytes()
    try:
        if name == "manifest.json":
            manifest_path(store).write_bytes(content)
        else:
            put_consistently(store, name, content)
        return serve(store)
    finally:
        manifest_path(store).write_bytes(before)


def resume_with(files: Mapping[str, bytes], name: str, content: bytes) -> str:
    """What comes of a training state with another file in a file's place: why it was refused, or "" when it goes on."""
    changed = {**files, name: content}
    try:
        learner = Learner.load_state(changed[CHECKPOINT], None, changed[CHECKPOINT_DELTA])
        SessionState.load(changed, 1)
    except ArtifactError as error:
        return str(error)
    learner.item_vectors()
    learner.state()
    return ""


def _no_features(texts: Any) -> Any:
    return np.zeros((len(texts), 32), np.float32)


READERS: dict[str, Callable[..., str]] = {"serve": serve_with, "resume": resume_with}


def read_all(reader: str, source: Any, name: str, contents: list[bytes]) -> list[str]:
    """What came of each of them, in this process."""
    return [READERS[reader](source, name, content) for content in contents]
