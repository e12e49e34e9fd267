"""Which generations stay."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headwater_core.artifact_store import ArtifactStore
from headwater_core.database import Database
from headwater_core.manifest import REQUIRED_FILES, Manifest
from headwater_core.registry import STABLE, GenerationRecord, GenerationRegistry, Lease
from headwater_updater.lease import LEASE_NAME
from headwater_updater.retention import generations_to_keep, retire

NOW_US = 1_700_000_000 * 1_000_000
LONG_AGO_S = 1_000_000_000
GRACE_S = 60.0


def records(*numbers_and_parents: tuple[int, int]) -> list[GenerationRecord]:
    return [GenerationRecord(n, parent, False, 0, 0, 0, 0, 4, 0) for n, parent in sorted(numbers_and_parents)[::-1]]


CHAIN = records(*((n, n - 1) for n in range(1, 10)))
SERVED = range(1, 10)


def test_the_newest_stay() -> None:
    """Without labels and servers the newest stay, as many as are wanted; all when there are fewer."""
    assert generations_to_keep(CHAIN, SERVED, {}, set(), 3) == {9, 8, 7}
    assert generations_to_keep(CHAIN, SERVED, {}, set(), 100) == set(range(1, 10))
    assert generations_to_keep([], (), {}, set(), 3) == set()


def test_labelled_generations_stay_with_their_parents() -> None:
    """What a label names stays, and what it could be rolled back to."""
    assert generations_to_keep(CHAIN, SERVED, {"stable": 9, "canary": 4}, set(), 2) == {9, 8, 4, 3}


def test_what_a_server_holds_stays() -> None:
    """A live server's generation stays however old it is."""
    assert generations_to_keep(CHAIN, SERVED, {"stable": 9}, {1}, 2) == {9, 8, 1}


def test_numbers_without_a_record_are_no_generations() -> None:
    """A held or parent number that is recorded no more is not waited for."""
    assert generations_to_keep(records((5, 2), (9, 8)), {5, 9}, {"stable": 9}, {1, 7}, 1) == {9}


def test_what_no_label_named_takes_no_place() -> None:
    """Of refused generations the two newest stay, beside as many of the others as are wanted."""
    assert generations_to_keep(CHAIN, {1, 2, 3, 5}, {"stable": 5}, (), 3) == {9, 8, 5, 4, 3, 2}


# --- a leader that is suspended


class SuspendedStore(ArtifactStore):
    """A store whose collector is suspended before it begins."""

    def suspend(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile

    def collect_garbage(self, *arguments: object) -> int:
        self._meanwhile()
        return super().collect_garbage(*arguments)  # type: ignore[arg-type]


class SuspendedRegistry(GenerationRegistry):
    """A registry whose caller is suspended before it deletes anything."""

    def suspend(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile

    def held_generations(self, now_us: int) -> set[int]:
        held = super().held_generations(now_us)
        self._meanwhile()
        return held


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SuspendedRegistry]:
    database = Database(f"sqlite:///{tmp_path / 'headwater.db'}")
    database.migrate()
    registry = SuspendedRegistry(database)
    registry.suspend(lambda: None)
    yield registry
    database.close()


@pytest.fixture
def store(tmp_path: Path) -> SuspendedStore:
    store = SuspendedStore(str(tmp_path / "store"))
    store.suspend(lambda: None)
    return store


def acquired(registry: GenerationRegistry, holder: str, now_us: int) -> Lease:
    lease = registry.acquire_lease(LEASE_NAME, holder, 1.0, now_us)
    assert lease is not None
    return lease


def publish(store: ArtifactStore, registry: GenerationRegistry, number: int, written_s: float) -> None:
    """A generation whose files have that age, named by `stable`."""
    files = {name: store.put_blob(f"{name} of {number}".encode()) for name in REQUIRED_FILES}
    manifest = Manifest(
        tenant=store.tenant,
        number=number,
        parent=number - 1,
        full=True,
        publish_time_us=1,
        watermark=0,
        catalogue_revision=0,
        dimension=4,
        item_count=0,
        text_encoder="x/mean",
        tower_config={},
        files=files,
    )
    store.write_manifest(number, manifest)
    registry.record(GenerationRecord(number, number - 1, True, 1, 0, 0, 0, 4, manifest.total_bytes))
    registry.set_label(STABLE, number)
    for entry in files.values():
        os.utime(store.open_blob(entry), (written_s, written_s))
    path = Path(store._manifest_path(number))
    os.utime(path, (written_s, written_s))


def test_what_a_successor_published_stays(store: SuspendedStore, registry: SuspendedRegistry) -> None:
    """Even what is older than the grace when the one before wakes up: that one has not looked at it."""
    lease = acquired(registry, "asleep", NOW_US)
    for number in (1, 2, 3, 4):
        publish(store, registry, number, LONG_AGO_S)
    store.suspend(lambda: publish(store, registry, 5, LONG_AGO_S))
    assert retire(store, registry, 2, GRACE_S, NOW_US, lease=lease) == [2, 1]
    assert store.list_generations() == [3, 4, 5]
    for entry in store.read_manifest(5).files.values():
        store.open_blob(entry)


def test_what_a_successor_is_writing_stays(store: SuspendedStore, registry: SuspendedRegistry) -> None:
    """Files are as old as they were when the one before looked, however long it slept since."""
    lease = acquired(registry, "asleep", NOW_US)
    publish(store, registry, 1, LONG_AGO_S)
    written = store.put_blob(b"a file of a generation that is not written yet")
    path = store.open_blob(written)
    now_s = NOW_US / 1_000_000
    os.utime(path, (now_s - GRACE_S + 1, now_s - GRACE_S + 1))
    retire(store, registry, 2, GRACE_S, NOW_US, lease=lease)
    assert path.exists()
    retire(store, registry, 2, GRACE_S, NOW_US + 2_000_000, lease=lease)
    assert not path.exists()


def test_who_lost_the_lease_lets_nothing_go(store: SuspendedStore, registry: SuspendedRegistry) -> None:
    """It is the one who leads now that knows what is needed."""
    lease = acquired(registry, "asleep", NOW_US)
    for number in (1, 2, 3, 4):
        publish(store, registry, number, LONG_AGO_S)
    registry.suspend(lambda: acquired(registry, "successor", NOW_US + 2_000_000))
    assert retire(store, registry, 2, GRACE_S, NOW_US, lease=lease) == []
    assert store.list_generations() == [1, 2, 3, 4]
    assert len(registry.list(None, 10)) == 4
