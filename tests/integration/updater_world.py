"""An installation on a real database and store, in which updaters come and go."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater_core.catalogue import Item
from headwater_core.events import Event
from headwater_core.generation import LoadedGeneration
from headwater_core.manifest import CHECKPOINT, CHECKPOINT_DELTA, Manifest
from headwater_core.registry import STABLE
from headwater_updater.daemon import Updater
from headwater_updater.learner import Learner
from headwater_updater.lease import Leadership
from headwater_updater.metrics import UpdaterMetrics
from headwater_updater.resources import Resources
from headwater_updater.session import TrainingSession
from headwater_updater.settings import UpdaterSettings

START_US = 1_700_000_000 * 1_000_000
N_ITEMS = 40
N_USERS = 12


class HashEncoder:
    """Stands in for the BERT: features that depend on the text alone."""

    id = "hash/mean"
    dimension = 8

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        digests = [hashlib.sha256(text.encode()).digest()[: self.dimension] for text in texts]
        raw = np.array([list(digest) for digest in digests], dtype=np.float32).reshape(-1, self.dimension) - 127.5
        unit: np.ndarray = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)
        return unit


@dataclass
class World:
    """One installation, in which processes come and go."""

    settings: UpdaterSettings
    resources: Resources
    written: int = 0

    def items(self, *numbers: int, title: str = "Item") -> None:
        batch = [Item(f"item-{n}", title=f"{title} {n}") for n in numbers]
        self.resources.catalogue.upsert(batch, None, START_US)

    def events(self, count: int, *, user: str | None = None, item: str | None = None, **fields: Any) -> None:
        """Users who each go round the catalogue in steps of their own."""
        batch = []
        for _ in range(count):
            n = self.written = self.written + 1
            event = Event(
                event_id=f"e{n}",
                event_type="click",
                user_id=user or f"user-{n % N_USERS}",
                item_id=item or f"item-{(n * (1 + n % N_USERS % 3)) % N_ITEMS}",
                event_time_us=START_US + n * 60_000_000,
            )
            batch.append(event._replace(**fields))
        self.resources.log.append(batch, START_US + self.written * 60_000_000)

    def resume(self) -> TrainingSession:
        session = TrainingSession.resume(self.resources, self.settings, UpdaterMetrics())
        assert session is not None
        return session

    def lead(self) -> Leadership:
        leadership = Leadership.acquire(self.resources.registry, "test", 60.0)
        assert leadership is not None
        return leadership

    def bootstrap(self) -> None:
        with self.lead() as leadership:
            TrainingSession.bootstrap(self.resources, self.settings, UpdaterMetrics(), leadership)

    def round(self) -> None:
        """A process that starts, learns what is new, publishes and ends."""
        session = self.resume()
        while session.learn():
            pass
        with self.lead() as leadership:
            session.publish(leadership.lease)

    @property
    def stable(self) -> int:
        return self.resources.registry.labels()[STABLE]

    @property
    def manifest(self) -> Manifest:
        return self.resources.store.read_manifest(self.stable)

    def loaded(self) -> LoadedGeneration:
        return LoadedGeneration.load(self.resources.store, self.stable)

    def checkpoint(self) -> bytes:
        """The whole state that a process would resume from."""
        names = [name for name in (CHECKPOINT, CHECKPOINT_DELTA) if name in self.manifest.files]
        contents = [self.resources.store.open_blob(self.manifest.files[name]).read_bytes() for name in names]
        return Learner.load_state(contents[0], delta=contents[1] if len(contents) > 1 else None).state()


def make_world(folder: Path, **settings: Any) -> World:
    small = {"dimension": 8, "n_layers": 1, "history_length": 10, "bootstrap_epochs": 2, "garbage_grace_s": 0.0}
    urls = {"database_url": f"sqlite:///{folder / 'headwater.db'}", "store_url": str(folder / "artifacts")}
    chosen = UpdaterSettings(**{**small, **urls, **settings})
    return World(chosen, Resources.open(chosen, HashEncoder()))


@contextmanager
def running(world: World, metrics: UpdaterMetrics) -> Iterator[None]:
    """A daemon in a thread."""
    updater = Updater(world.resources, world.settings, metrics)
    thread = threading.Thread(target=updater.run)
    thread.start()
    try:
        yield
    finally:
        updater.stop()
        thread.join(120)
    assert not thread.is_alive()
