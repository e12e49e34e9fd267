"""The updater on a real database and store: bootstrap → events → round → publish → resume, and being killed anywhere.

"Killed" is an exception that nothing in the updater catches, raised out of the store or the registry at a chosen step;
everything in memory is then thrown away, as it is with a process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from headwater_core.artifact_store import ArtifactStore
from headwater_core.catalogue import Item
from headwater_core.database import advance
from headwater_core.errors import ArtifactError, ConflictError, DatabaseUnavailableError, LeaseLostError, NotFoundError
from headwater_core.events import Event, LoggedEvent, Subject, SubjectKind
from headwater_core.features import FeatureStore
from headwater_core.feedback_log import FeedbackLog
from headwater_core.generation import LoadedGeneration
from headwater_core.impressions import Impression
from headwater_core.log_pruning import LogPruning
from headwater_core.manifest import CHECKPOINT, FileEntry, Manifest
from headwater_core.outcomes import OFFSET
from headwater_core.registry import STABLE, GenerationRecord, GenerationRegistry, Lease
from headwater_core.text import text_hash
from headwater_updater import heap
from headwater_updater.daemon import Updater
from headwater_updater.gate import GATE, CandidateRefusedError, Verdict
from headwater_updater.held_out import is_held_out_user
from headwater_updater.learner import Learner
from headwater_updater.lease import LEASE_NAME, now_us
from headwater_updater.metrics import UpdaterMetrics
from headwater_updater.resources import Resources
from headwater_updater.session import TrainingSession
from headwater_updater.session_state import REPLAY
from headwater_updater.status import read_status
from tests.integration.updater_world import N_ITEMS, N_USERS, START_US, HashEncoder, World, make_world


class Killed(BaseException):
    """The process died here."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = make_world(tmp_path)
    world.items(*range(N_ITEMS))
    world.events(200)
    yield world
    world.resources.close()


@pytest.fixture
def bootstrapped(world: World) -> World:
    world.bootstrap()
    return world


def test_bootstrap_publishes_a_whole_generation(bootstrapped: World) -> None:
    """The first generation is full, has learned the whole log, holds every item, and loads."""
    manifest, generation = bootstrapped.manifest, bootstrapped.loaded()
    assert (manifest.full, manifest.parent, manifest.watermark, manifest.item_count) == (True, 0, 200, N_ITEMS)
    assert sorted(generation.table.item_ids()) == sorted(f"item-{n}" for n in range(N_ITEMS))
    record = bootstrapped.resources.registry.get(bootstrapped.stable)
    assert record is not None
    assert (record.watermark, record.total_bytes) == (200, manifest.total_bytes)
    assert bootstrapped.resources.store.read_label(STABLE) == bootstrapped.stable
    assert {"validation_hr_at_10", "validation_ndcg_at_10"} <= manifest.metrics.keys()


def test_a_round_publishes_a_delta_over_the_same_base(bootstrapped: World) -> None:
    """New events move the user tower and a few vectors; the base shards are the very same blobs."""
    before, old = bootstrapped.manifest, bootstrapped.loaded()
    bootstrapped.events(2)
    bootstrapped.round()
    manifest, generation = bootstrapped.manifest, bootstrapped.loaded()
    assert (manifest.full, manifest.parent, manifest.watermark) == (False, before.number, 202)
    assert manifest.shards == before.shards
    assert all(manifest.files[name] == before.files[name] for name in before.files if name.startswith("shards/"))
    assert manifest.files["item_tower.safetensors"] == before.files["item_tower.safetensors"]
    assert manifest.files["user_tower.safetensors"] != before.files["user_tower.safetensors"]
    assert len(generation.delta.item_ids) > 0
    for item_id in old.table.item_ids():
        row, old_row = generation.table.row(item_id), old.table.row(item_id)
        assert row is not None
        assert old_row is not None
        same = np.array_equal(generation.table.vectors([row]), old.table.vectors([old_row]))
        assert same or item_id in generation.delta.item_ids


def test_published_vectors_are_the_learners_own(bootstrapped: World) -> None:
    """After fast and full publishes, every served vector is what the checkpoint's learner computes for its item."""
    # Without replay a round of 5 events touches 5 items at most, so that a few deltas come before they are folded.
    world = replace(
        bootstrapped, settings=bootstrapped.settings.model_copy(update={"replay_ratio": 0.0, "fold_share": 0.3})
    )
    for _ in range(6):
        world.events(5)
        world.round()
        table = world.loaded().table
        learner = Learner.load_state(world.checkpoint())
        ids = sorted(table.item_ids())
        rows = np.array([table.row(item_id) for item_id in ids], dtype=np.int64)
        expected = learner.item_vectors(np.array([learner.row(item_id) for item_id in ids], dtype=np.int64))
        np.testing.assert_allclose(table.vectors(rows), expected, rtol=1e-5, atol=1e-7)  # rounding is the processor's
    kinds = {record.full for record in world.resources.registry.list(None, 5)}
    assert kinds == {True, False}


def test_without_news_nothing_is_trained_or_published(bootstrapped: World) -> None:
    """A round with nothing new does nothing, and says so."""
    session = bootstrapped.resume()
    assert not session.learn()
    assert not session.has_news


def test_a_round_of_refused_events_moves_the_watermark(bootstrapped: World) -> None:
    """Events that cannot be learned are read all the same: a generation says so, or staleness would grow for ever."""
    bootstrapped.events(3, item="unheard-of", event_type="impression")
    session = bootstrapped.resume()
    assert session.learn()
    assert session.has_news
    with bootstrapped.lead() as leadership:
        session.publish(leadership.lease)
    assert not session.has_news
    assert bootstrapped.manifest.watermark == 203


def test_every_event_is_scored_before_it_is_learned(bootstrapped: World) -> None:
    """Generations after the first carry the rolling prequential metrics."""
    bootstrapped.events(30)
    bootstrapped.round()
    metrics = bootstrapped.manifest.metrics
    assert metrics["prequential_targets"] == 30
    assert 0 <= metrics["prequential_ndcg_at_10"] <= metrics["prequential_hr_at_10"] <= 1


def test_new_and_deleted_items_follow_the_catalogue(bootstrapped: World) -> None:
    """A new item gets a vector from its text, a deleted one is gone, one that returns is back; a hidden one stays."""
    bootstrapped.items(100)
    bootstrapped.resources.catalogue.delete(["item-3"])
    bootstrapped.round()
    generation = bootstrapped.loaded()
    assert generation.table.row("item-100") is not None
    assert generation.table.row("item-3") is None
    assert bootstrapped.manifest.item_count == N_ITEMS
    assert "item-3" in generation.delta.tombstones
    bootstrapped.items(3)
    bootstrapped.resources.catalogue.delete(["item-100"])
    bootstrapped.round()
    generation = bootstrapped.loaded()
    assert generation.table.row("item-3") is not None
    assert generation.table.row("item-100") is None


def test_an_import_has_a_length_and_an_end(bootstrapped: World) -> None:
    """How many items wait is in the status; a round takes some of them, and the next generation holds them."""

    def waiting() -> int:
        return read_status(bootstrapped.resources.database, "default", now_us()).items_waiting

    assert waiting() == 0
    bootstrapped.items(*range(100, 130))
    assert waiting() == 30
    world = replace(bootstrapped, settings=bootstrapped.settings.model_copy(update={"batch_items": 20}))
    session = world.resume()
    assert session.learn()
    with world.lead() as leadership:
        session.publish(leadership.lease)
    assert waiting() == 10
    bootstrapped.round()
    assert waiting() == 0


def test_a_change_that_moves_no_vector_is_no_news(bootstrapped: World) -> None:
    """Hiding an item is the servers' affair; a new title is published."""
    session = bootstrapped.resume()
    bootstrapped.resources.catalogue.set_availability(["item-1"], False)
    assert session.learn()
    assert not session.has_news
    bootstrapped.items(2, title="Quite another")
    assert session.learn()
    assert session.has_news


def test_the_callers_vectors_join_the_texts(world: World) -> None:
    """A bootstrap takes their length; new items and those whose vector alone changes are placed by it."""
    catalogue = world.resources.catalogue
    catalogue.upsert([Item(f"item-{n}", embedding=(n % 2, 1.0 - n % 2, 0.0)) for n in range(30)], None, START_US)
    world.bootstrap()
    assert world.manifest.tower_config["vector_dimension"] == 3
    catalogue.upsert([Item("item-100", embedding=(5.0, 0.0, 0.0)), Item("item-101")], None, START_US)
    session = world.resume()
    assert session.learn()
    with world.lead() as leadership:
        session.publish(leadership.lease)
    generation, learner = world.loaded(), Learner.load_state(world.checkpoint())
    assert learner.item_features.shape[1] == HashEncoder.dimension + 3
    assert learner.item_features[learner.row("item-100")].tolist() == [0.0] * HashEncoder.dimension + [1.0, 0.0, 0.0]
    rows = [generation.table.row(item_id) for item_id in ("item-100", "item-101")]
    placed, silent = generation.table.vectors(np.array(rows, np.int64))
    assert placed.any()
    assert not silent.any()
    catalogue.set_availability(["item-1"], False)
    assert session.learn()
    assert not session.has_news
    catalogue.upsert([Item("item-100", embedding=(0.0, 0.0, 1.0))], None, START_US)
    assert session.learn()
    assert session.has_news


def test_vectors_wait_for_the_next_bootstrap(bootstrapped: World) -> None:
    """A model from before there were any goes on without them and says so once; the next one reads them."""
    session = bootstrapped.resume()
    with capture_logs() as logs:
        for n in (1, 2):
            vector = (0.5, float(n))
            bootstrapped.resources.catalogue.upsert([Item(f"item-{n}", f"Item {n}", embedding=vector)], None, START_US)
            assert session.learn()
    assert not session.has_news
    [told] = [entry for entry in logs if entry["event"] == "item_vectors_not_read"]
    assert (told["catalogue_length"], told["model_length"]) == (2, 0)
    assert bootstrapped.manifest.tower_config["vector_dimension"] == 0
    bootstrapped.bootstrap()
    assert bootstrapped.manifest.tower_config["vector_dimension"] == 2


def test_events_on_unknown_items_are_learned_once_the_item_is_known(bootstrapped: World) -> None:
    """An event before its item is kept, and learned when the item comes, though the offset is past it."""
    bootstrapped.events(3, item="not-yet")
    bootstrapped.round()
    assert Learner.load_state(bootstrapped.checkpoint()).row("not-yet") == 0
    bootstrapped.resources.catalogue.upsert([Item("not-yet", title="Here now")], None, START_US)
    session = bootstrapped.resume()
    assert session.learn()
    with bootstrapped.lead() as leadership:
        session.publish(leadership.lease)
    learner = Learner.load_state(bootstrapped.checkpoint())
    assert learner.counts[learner.row("not-yet")] == 3
    assert not session.learn()


def test_events_on_a_deleted_item_teach_nothing(bootstrapped: World) -> None:
    """As in serving; a restart does not forget it, and when the item returns nothing is learned a second time."""
    bootstrapped.resources.catalogue.delete(["item-3"])
    bootstrapped.round()
    learner = Learner.load_state(bootstrapped.checkpoint())
    row = learner.item_ids.index("item-3") + 1
    before = learner.counts[row]
    assert before > 0
    bootstrapped.events(4, item="item-3")
    bootstrapped.round()
    bootstrapped.items(3)
    bootstrapped.round()
    learner = Learner.load_state(bootstrapped.checkpoint())
    assert (learner.row("item-3"), learner.counts[row]) == (row, before)


def test_what_people_search_for_is_not_stored(bootstrapped: World) -> None:
    """Queries are learned from, but their features stay in memory: erasing the event erases all there is of it."""
    bootstrapped.events(3, event_type="search", query="red boots", item="")
    bootstrapped.events(3)
    bootstrapped.round()
    bootstrapped.bootstrap()
    store = FeatureStore(bootstrapped.resources.database)
    assert store.get(HashEncoder.id, [text_hash("red boots")]) == {}
    assert len(store.get(HashEncoder.id, [text_hash("Item 3")])) == 1


def test_a_bootstrap_has_its_number_before_it_reads(world: World) -> None:
    """Whoever is erased while it trains is told a higher number than its own: it may know them."""

    class WatchedLog(FeedbackLog):
        def head(self) -> int:
            seen.append(world.resources.registry.last_allocated())
            return super().head()

    seen: list[int] = []
    watched = replace(world, resources=replace(world.resources, log=WatchedLog(world.resources.database)))
    watched.bootstrap()
    assert seen[0] == world.stable == world.resources.registry.last_allocated()


def test_each_publish_logs_how_well_was_foreseen(bootstrapped: World) -> None:
    """The log tells the rolling HR@10 and NDCG@10 beside the generation's number."""
    bootstrapped.events(30)
    with capture_logs() as logs:
        bootstrapped.round()
    line = next(each for each in logs if each["event"] == "generation_published")
    metrics = bootstrapped.manifest.metrics
    for name in ("prequential_hr_at_10", "prequential_ndcg_at_10"):
        assert line[name] == round(metrics[name], 4)


def test_rejected_events_are_recorded_and_not_learned(bootstrapped: World) -> None:
    """A robot's burst is refused by name, counted in the status, and the log keeps it."""
    at = START_US + 10_000 * 60_000_000
    batch = [
        Event(f"r{n}", "click", user_id="robot", item_id=f"item-{n % N_ITEMS}", event_time_us=at + n * 100_000)
        for n in range(300)
    ]
    bootstrapped.resources.log.append(batch, at + 60_000_000)
    bootstrapped.round()
    status = read_status(bootstrapped.resources.database, "default", now_us())
    assert status.rejections == {"robot": 180}
    assert (status.offset, status.head, status.lag) == (500, 500, 0)


def test_imported_bursts_are_learned(bootstrapped: World) -> None:
    """The robot rule never applies to backfill."""
    bootstrapped.events(300, user="importer", backfill=True, event_time_us=START_US)
    bootstrapped.round()
    assert "robot" not in bootstrapped.resources.log.rejection_counts()


def test_generations_name_no_user(bootstrapped: World) -> None:
    """No file of a generation names a user, so that erasing one in the log is enough; training goes on after it."""
    bootstrapped.events(20, user="user-to-erase")
    bootstrapped.round()
    for entry in bootstrapped.manifest.files.values():
        assert b"user-to-erase" not in bootstrapped.resources.store.open_blob(entry).read_bytes()
    bootstrapped.resources.log.delete_subject(Subject(SubjectKind.USER, "user-to-erase"))
    bootstrapped.events(1)
    bootstrapped.round()
    assert bootstrapped.manifest.watermark == 221


LEARNED = next(f"user-{n}" for n in range(N_USERS) if not is_held_out_user(f"user-{n}"))


def test_a_session_forgets_whom_it_cleaned(bootstrapped: World) -> None:
    """Who returns after being erased is a new user, who repeats nothing."""
    session = bootstrapped.resume()
    same: dict[str, Any] = {"user": "gone", "item": "item-1", "event_time_us": START_US + 200 * 60_000_000}
    bootstrapped.events(1, **same)
    assert session.learn()
    bootstrapped.resources.log.delete_subject(Subject(SubjectKind.USER, "gone"))
    bootstrapped.events(1, **same)
    assert session.learn()
    assert bootstrapped.resources.log.rejection_counts() == {}


def test_a_session_judges_by_no_erased_event(bootstrapped: World) -> None:
    """A single one: neither as a target nor in the history of another."""
    session = bootstrapped.resume()
    bootstrapped.events(4, user=next(name for name in map(str, range(1000)) if is_held_out_user(name)))
    assert session.learn()
    with bootstrapped.lead() as leadership:
        session.publish(leadership.lease)
        assert bootstrapped.manifest.metrics["gate_new_targets"] == 4
        bootstrapped.resources.log.delete_events(["e202"])
        bootstrapped.events(1, user=LEARNED)
        assert session.learn()
        session.publish(leadership.lease)
    assert bootstrapped.manifest.metrics["gate_new_targets"] == 3
    assert 202 not in {event.position for each in session._gatekeeper.examples for event in each.events}


def test_an_event_erased_after_it_was_read_is_not_learned(bootstrapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether with its user or by itself."""
    log = bootstrapped.resources.log
    bootstrapped.events(2, user=LEARNED)
    bootstrapped.events(1, user="gone")
    read_after = log.read_after

    def read_then_erase(position: int, limit: int) -> list[LoggedEvent]:
        read = read_after(position, limit)
        log.delete_events(["e201"])
        log.delete_subject(Subject(SubjectKind.USER, "gone"))
        return read

    session = bootstrapped.resume()
    monkeypatch.setattr(log, "read_after", read_then_erase)
    assert session.learn()
    assert session._learned == [202]


def state_bytes(world: World, name: str) -> bytes:
    return world.resources.store.open_blob(world.manifest.files[name]).read_bytes()


def test_the_offset_passes_erased_events_at_the_logs_end(bootstrapped: World) -> None:
    """When the last events are gone, the updater is not behind for ever."""
    bootstrapped.events(5, user="gone")
    bootstrapped.resources.log.delete_subject(Subject(SubjectKind.USER, "gone"))
    session = bootstrapped.resume()
    assert not session.learn()
    assert session.offset == 205
    assert session.has_news, "else the watermark would stay behind for ever"


def test_old_generations_go_and_named_ones_stay(bootstrapped: World) -> None:
    """The newest, the labelled, their parents, the watch's and a server's stay; the rest leaves nothing behind."""
    world = replace(bootstrapped, settings=bootstrapped.settings.model_copy(update={"keep_generations": 2}))
    registry = world.resources.registry
    reference = world.stable
    world.events(3)
    world.round()
    world.events(3)
    world.round()
    held = world.stable
    registry.heartbeat("server", [held], 3600.0, now_us())
    for _ in range(4):
        world.events(3)
        world.round()
    registry.set_label("canary", world.stable)
    kept = [record.number for record in registry.list(None, 100)]
    assert kept == [world.stable, world.stable - 1, held, reference]
    assert world.resources.store.list_generations() == sorted(kept)
    assert reference + 1 not in kept
    for number in kept:
        LoadedGeneration.load(world.resources.store, number)


def refuse_candidate(world: World, monkeypatch: pytest.MonkeyPatch, store: ArtifactStore | None = None) -> None:
    """A process that learns what is new, which the gate does not let pass."""
    session = replace(world, resources=replace(world.resources, store=store or world.resources.store)).resume()
    monkeypatch.setattr(session._gatekeeper, "verdict", lambda: Verdict([], "worse"))
    session.learn()
    with world.lead() as leadership, pytest.raises(CandidateRefusedError):
        session.publish(leadership.lease)


def test_refused_candidates_go_and_what_served_stays(bootstrapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the gate keeps refusing, the store does not grow, and what can be gone back to is not pushed out of it."""
    world = replace(bootstrapped, settings=bootstrapped.settings.model_copy(update={"keep_generations": 3}))
    for _ in range(3):
        world.events(3)
        world.round()
    served = world.stable
    for _ in range(5):
        world.events(3)
        refuse_candidate(world, monkeypatch)
    kept = [record.number for record in world.resources.registry.list(None, 100)]
    assert kept == [served + 5, served + 4, served, served - 1, served - 2, served - 3]  # the last: the watch's
    assert world.resources.store.list_generations() == sorted(kept)
    LoadedGeneration.load(world.resources.store, served)


class FullStore(ArtifactStore):
    """A store whose disk is full by the time when the manifest is written."""

    def write_manifest(self, number: int, manifest: Manifest) -> None:
        raise ArtifactError("write", str(number), "No space left on device")


def full_store(world: World) -> FullStore:
    return FullStore(world.settings.store_url, world.settings.tenant)


def test_what_was_refused_is_on_record_though_the_store_is_full(
    bootstrapped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the same events would be learned and refused for ever; what the candidate left half-written goes."""
    blobs = set((Path(bootstrapped.settings.store_url) / "default" / "blobs").iterdir())
    bootstrapped.events(20)
    with capture_logs() as logs:
        refuse_candidate(bootstrapped, monkeypatch, full_store(bootstrapped))
    assert set((Path(bootstrapped.settings.store_url) / "default" / "blobs").iterdir()) == blobs
    assert [each["reason"] for each in logs if each["event"] == "candidate_not_kept"]
    rejections = read_status(bootstrapped.resources.database, "default", now_us()).rejections
    assert rejections[GATE] > 0
    bootstrapped.round()
    learner = Learner.load_state(bootstrapped.checkpoint())
    assert (bootstrapped.manifest.watermark, float(np.sum(learner.counts))) == (220, 200.0)


def test_what_could_not_be_published_leaves_no_files(bootstrapped: World) -> None:
    """A store that fills up gets room again by itself, without a publication that succeeds."""
    folder = Path(bootstrapped.settings.store_url) / "default" / "blobs"
    before = set(folder.iterdir())
    bootstrapped.events(20)
    full = replace(bootstrapped, resources=replace(bootstrapped.resources, store=full_store(bootstrapped)))
    session = full.resume()
    session.learn()
    with bootstrapped.lead() as leadership, pytest.raises(ArtifactError, match="No space"):
        session.publish(leadership.lease)
    assert set(folder.iterdir()) == before
    bootstrapped.round()
    assert bootstrapped.manifest.watermark == 220


def test_a_rolled_back_label_is_respected(bootstrapped: World) -> None:
    """When an operator moves the label, a publish on top of another generation is refused; training resumes from it."""
    first = bootstrapped.stable
    bootstrapped.events(5)
    bootstrapped.round()
    session = bootstrapped.resume()
    bootstrapped.events(5)
    session.learn()
    assert bootstrapped.resources.registry.rollback(STABLE)[0] == first
    with bootstrapped.lead() as leadership, pytest.raises(ConflictError):
        session.publish(leadership.lease)
    assert bootstrapped.stable == first
    assert bootstrapped.resume().offset == 200


def test_a_lost_lease_publishes_nothing(bootstrapped: World) -> None:
    """An updater whose lease went to another one cannot move the label."""
    session = bootstrapped.resume()
    before = bootstrapped.stable
    bootstrapped.events(5)
    session.learn()
    registry = bootstrapped.resources.registry
    lease = registry.acquire_lease(LEASE_NAME, "old", 1.0, now_us())
    assert lease is not None
    assert registry.acquire_lease(LEASE_NAME, "new", 60.0, now_us() + 10_000_000) is not None
    with pytest.raises(LeaseLostError):
        session.publish(lease)
    assert bootstrapped.stable == before


def test_who_lost_the_lease_refuses_nothing(bootstrapped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that was suspended while another took over: what its gate refuses, that one may still learn."""
    asleep = bootstrapped.resume()
    monkeypatch.setattr(asleep._gatekeeper, "verdict", lambda: Verdict([], "worse"))
    registry = bootstrapped.resources.registry
    lease = registry.acquire_lease(LEASE_NAME, "asleep", 1.0, now_us() - 10_000_000)
    assert lease is not None
    bootstrapped.events(50)
    with bootstrapped.lead() as leadership:
        asleep.learn()
        with pytest.raises(LeaseLostError):
            asleep.publish(lease)
        assert GATE not in read_status(bootstrapped.resources.database, "default", now_us()).rejections
        successor = bootstrapped.resume()
        successor.learn()
        successor.publish(leadership.lease)
    learner = Learner.load_state(bootstrapped.checkpoint())
    assert (bootstrapped.manifest.watermark, float(np.sum(learner.counts))) == (250, 250.0)


def test_a_damaged_generation_is_passed_over(bootstrapped: World) -> None:
    """When stable's checkpoint is damaged, training goes on from the one before, and learns again what that lacks."""
    bootstrapped.events(5)
    bootstrapped.round()
    expected = bootstrapped.checkpoint()
    bootstrapped.resources.store.open_blob(bootstrapped.manifest.files[CHECKPOINT]).write_bytes(b"damaged")
    session = bootstrapped.resume()
    assert session.offset == 200
    session.learn()
    with bootstrapped.lead() as leadership:
        session.publish(leadership.lease)
    assert bootstrapped.checkpoint() == expected


def test_another_text_encoder_is_refused(bootstrapped: World) -> None:
    """Features of two encoders must not be mixed: a checkpoint of the other one does not load."""

    class OtherEncoder(HashEncoder):
        id = "other/mean"

    resources = Resources.open(bootstrapped.settings, OtherEncoder())
    with pytest.raises(ArtifactError, match="text encoder"):
        TrainingSession.resume(resources, bootstrapped.settings, UpdaterMetrics())
    resources.close()


@pytest.mark.parametrize("missing", ["events", "items"])
def test_there_is_no_bootstrap_from_nothing(tmp_path: Path, missing: str) -> None:
    """Without events, or without items, bootstrap says what is missing and publishes nothing."""
    world = make_world(tmp_path)
    if missing == "events":
        world.items(1)
    else:
        world.events(5)
    with pytest.raises(NotFoundError, match=missing):
        world.bootstrap()
    assert world.resources.registry.labels() == {}
    world.resources.close()


# --- killed at every step


class DyingStore(ArtifactStore):
    """A store in whose `step`-th write the process dies, before or after the write."""

    def arm(self, step: int, *, after: bool) -> None:
        self._step, self._after, self.steps = step, after, 0

    def _survive(self, write: Callable[[], Any]) -> Any:
        self.steps += 1
        dies = self.steps == self._step
        if dies and not self._after:
            raise Killed
        result = write()
        if dies:
            raise Killed
        return result

    def put_blob(self, content: Path | bytes) -> FileEntry:
        return self._survive(lambda: super(DyingStore, self).put_blob(content))  # type: ignore[no-any-return]

    def write_manifest(self, number: int, manifest: Manifest) -> None:
        self._survive(lambda: super(DyingStore, self).write_manifest(number, manifest))

    def mirror_label(self, label: str, number: int) -> None:
        self._survive(lambda: super(DyingStore, self).mirror_label(label, number))

    def collect_garbage(self, *arguments: Any) -> int:
        return self._survive(lambda: super(DyingStore, self).collect_garbage(*arguments))  # type: ignore[no-any-return]


class DyingRegistry(GenerationRegistry):
    """A registry in which the process dies around `record` or `set_label`."""

    dies_at = ""

    def record(self, generation: GenerationRecord) -> None:
        self._maybe_die("before record")
        super().record(generation)
        self._maybe_die("after record")

    def set_label(self, label: str, number: int, *, expected: int | None = None, lease: Lease | None = None) -> int:
        self._maybe_die("before set_label")
        previous = super().set_label(label, number, expected=expected, lease=lease)
        self._maybe_die("after set_label")
        return previous

    def _maybe_die(self, at: str) -> None:
        if self.dies_at == at:
            raise Killed


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bootstrapped installation with a round of news waiting, to be copied."""
    folder = tmp_path_factory.mktemp("waiting")
    world = make_world(folder)
    world.items(*range(N_ITEMS))
    world.events(200)
    world.bootstrap()
    world.events(20)
    world.items(77)
    world.resources.close()
    return folder


def copied(waiting: Path, folder: Path, *, full: bool = False) -> World:
    """The waiting installation again; its round will be published as a delta or in full."""
    shutil.copytree(waiting, folder)
    return make_world(folder, fold_share=0.001 if full else 1.0)


def uninterrupted(waiting: Path, folder: Path, *, full: bool = False) -> World:
    """What becomes of it where nobody dies."""
    world = copied(waiting, folder, full=full)
    world.round()
    return world


def die_in_publish(world: World, store: ArtifactStore, registry: GenerationRegistry) -> None:
    mortal = replace(world, resources=replace(world.resources, store=store, registry=registry))
    session = mortal.resume()
    while session.learn():
        pass
    lease = world.resources.registry.acquire_lease(LEASE_NAME, "mortal", 0.001, now_us() - 1_000_000)
    assert lease is not None
    with pytest.raises(Killed):
        session.publish(lease)


def assert_whole_and_continues(world: World, expected: World) -> None:
    """The store is intact, and one more process ends where an uninterrupted one would have: no event twice or lost."""
    loaded = world.loaded()
    assert loaded.manifest.watermark in (200, 220)
    session = world.resume()
    while session.learn():
        pass
    if session.has_news:
        with world.lead() as leadership:
            session.publish(leadership.lease)
    assert world.checkpoint() == expected.checkpoint()
    assert state_bytes(world, REPLAY) == state_bytes(expected, REPLAY)
    ours, theirs = world.loaded().table, expected.loaded().table
    assert sorted(ours.item_ids()) == sorted(theirs.item_ids())
    for item_id in theirs.item_ids():
        mine, other = (table.vectors(np.array([table.row(item_id)], dtype=np.int64)) for table in (ours, theirs))
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("full", [False, True], ids=["fast", "full"])
def test_killed_at_any_write_of_the_store(waiting: Path, tmp_path: Path, full: bool) -> None:
    """Whichever write of a publish is the last, before or after it: the store is whole and nothing is learned twice."""
    expected = uninterrupted(waiting, tmp_path / "uninterrupted", full=full)
    step, survived = 0, False
    while not survived:
        step += 1
        for after in (False, True):
            world = copied(waiting, tmp_path / f"{step}-{after}", full=full)
            store = DyingStore(world.settings.store_url)
            store.arm(step, after=after)
            try:
                die_in_publish(world, store, world.resources.registry)
            except pytest.fail.Exception:
                survived = True  # there is no such step any more
            assert_whole_and_continues(world, expected)
            world.resources.close()
    assert step > 8
    expected.resources.close()


@pytest.mark.parametrize("at", ["before record", "after record", "before set_label", "after set_label"])
def test_killed_around_the_registry(waiting: Path, tmp_path: Path, at: str) -> None:
    """A manifest without a record, a record without the label, a label without its mirror: all are gone on from."""
    expected = uninterrupted(waiting, tmp_path / "uninterrupted")
    world = copied(waiting, tmp_path / "killed")
    registry = DyingRegistry(world.resources.database)
    registry.dies_at = at
    die_in_publish(world, world.resources.store, registry)
    assert_whole_and_continues(world, expected)
    for each in (world, expected):
        each.resources.close()


def test_killed_while_learning(waiting: Path, tmp_path: Path) -> None:
    """What was learned but not published is learned again by a learner that never saw it, with the same result."""
    expected = uninterrupted(waiting, tmp_path / "uninterrupted")
    world = copied(waiting, tmp_path / "killed")
    world.resume().learn()
    assert_whole_and_continues(world, expected)
    for each in (world, expected):
        each.resources.close()


# --- the daemon


def run_until(world: World, done: Callable[[], bool], **settings: Any) -> UpdaterMetrics:
    """Run a daemon whose sleeps are moments to look whether it is done."""
    metrics = UpdaterMetrics()
    chosen = world.settings.model_copy(update={"publish_interval_s": 0.0, **settings})
    slept = 0

    def wait(_seconds: float) -> None:
        nonlocal slept
        slept += 1
        assert slept < 200, "the daemon never got there"
        if done():
            updater.stop()

    updater = Updater(world.resources, chosen, metrics, wait)
    updater.run()
    return metrics


def test_the_daemon_bootstraps_learns_publishes_and_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty store: it waits for enough events, bootstraps, learns what comes, and releases its lease.

    What a publication freed is given back.
    """
    wrote = False
    given_back_at: list[int] = []
    monkeypatch.setattr(heap, "give_back", lambda: given_back_at.append(world.manifest.watermark))

    def done() -> bool:
        nonlocal wrote
        if STABLE not in world.resources.registry.labels():
            return False
        if not wrote:
            wrote = True
            world.events(7)
            return False
        return world.manifest.watermark == 207

    metrics = run_until(world, done, bootstrap_when_events=100)
    assert metrics.registry.get_sample_value("headwater_updater_watermark") == 207
    assert given_back_at[-1] == 207
    assert metrics.registry.get_sample_value("headwater_updater_leading") == 0
    assert read_status(world.resources.database, "default", now_us()).leader is None


def test_the_daemon_waits_for_a_bootstrap(world: World) -> None:
    """With too few events, or none wanted, it publishes nothing and goes on when somebody bootstraps."""
    looks = 0

    def done() -> bool:
        nonlocal looks
        looks += 1
        return looks == 5

    run_until(world, done, bootstrap_when_events=201)
    run_until(world, lambda: True)
    assert world.resources.registry.labels() == {}


def test_the_daemon_stands_by_while_another_one_leads(bootstrapped: World) -> None:
    """Without the lease it neither learns nor publishes; when the lease is free it takes over."""
    before = bootstrapped.stable
    bootstrapped.events(5)
    registry = bootstrapped.resources.registry
    lease = registry.acquire_lease(LEASE_NAME, "another", 3600.0, now_us())
    assert lease is not None
    run_until(bootstrapped, lambda: True)
    assert bootstrapped.stable == before
    assert read_status(bootstrapped.resources.database, "default", now_us()).leader == "another"
    registry.release(lease)
    run_until(bootstrapped, lambda: bootstrapped.manifest.watermark == 205)


def test_stopping_publishes_what_was_learned(bootstrapped: World) -> None:
    """Asked to stop between two publishes, the daemon publishes what it has before it goes."""
    bootstrapped.events(5)
    run_until(bootstrapped, lambda: True, publish_interval_s=3600.0)
    assert bootstrapped.manifest.watermark == 205


class FlakyRegistry(GenerationRegistry):
    """Finds the database away, so many times."""

    failures = 3

    def allocate(self) -> int:
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailableError("gone for a while")
        return super().allocate()


def test_the_daemon_outlives_a_database_outage(bootstrapped: World) -> None:
    """While the database is away it waits; afterwards nothing is missing or learned twice."""

    registry = FlakyRegistry(bootstrapped.resources.database)
    world = replace(bootstrapped, resources=replace(bootstrapped.resources, registry=registry))
    world.events(5)
    metrics = run_until(world, lambda: world.manifest.watermark == 205)
    failed = metrics.registry.get_sample_value("headwater_updater_failures_total", {"kind": "DatabaseUnavailableError"})
    assert failed == 3


def test_the_daemon_outlives_what_nobody_thought_of(bootstrapped: World) -> None:
    """Any other failure is counted and tried again from stable, not the end of the process."""

    class BuggyRegistry(GenerationRegistry):
        failures = 2

        def allocate(self) -> int:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("a bug")
            return super().allocate()

    registry = BuggyRegistry(bootstrapped.resources.database)
    world = replace(bootstrapped, resources=replace(bootstrapped.resources, registry=registry))
    world.events(5)
    with capture_logs() as logs:
        metrics = run_until(world, lambda: world.manifest.watermark == 205)
    assert metrics.registry.get_sample_value("headwater_updater_failures_total", {"kind": "RuntimeError"}) == 2
    assert [each["exc_info"] for each in logs if each["event"] == "trying_again"] == [True, True]


def test_the_daemon_does_not_wait_for_its_own_lease(bootstrapped: World) -> None:
    """What it could not release for want of a database it takes again, long before it runs out."""

    class GoneRegistry(GenerationRegistry):
        failures = 1
        is_gone = False

        def allocate(self) -> int:
            if self.failures:
                self.failures, self.is_gone = 0, True
                raise DatabaseUnavailableError("killed")
            return super().allocate()

        def release(self, lease: Lease) -> None:
            if self.is_gone:
                self.is_gone = False
                raise DatabaseUnavailableError("not back yet")
            super().release(lease)

    registry = GoneRegistry(bootstrapped.resources.database)
    world = replace(bootstrapped, resources=replace(bootstrapped.resources, registry=registry))
    world.events(5)
    with capture_logs() as logs:
        run_until(world, lambda: world.manifest.watermark == 205, updater_lease_ttl_s=3600.0)
    epochs = [each["epoch"] for each in logs if each["event"] == "leading"]
    assert epochs == [epochs[0], epochs[0] + 1]
    assert "lease_not_released" in [each["event"] for each in logs]


def test_an_outage_that_is_over_does_not_count_for_the_next_one(bootstrapped: World) -> None:
    """Once all is published, the first failure is a first one again, though the daemon led all the time."""

    registry = FlakyRegistry(bootstrapped.resources.database)
    world = replace(bootstrapped, resources=replace(bootstrapped.resources, registry=registry))
    world.events(5)

    def done() -> bool:
        if world.manifest.watermark == 205 and world.written == 205:
            registry.failures = 2
            world.events(5)
        return world.manifest.watermark == 210

    with capture_logs() as logs:
        run_until(world, done)
    assert [each["failures"] for each in logs if each["event"] == "trying_again"] == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(
    ("error", "longest_s"),
    [
        (DatabaseUnavailableError("gone for good"), 3.0),
        (ArtifactError("read", "a manifest", "gone for good"), 3.0),
        (RuntimeError("a bug"), 30.0),
    ],
    ids=["database", "store", "bug"],
)
def test_a_long_outage_is_waited_out(world: World, error: Exception, longest_s: float) -> None:
    """However often it failed, the next try is seconds away: half a minute where nobody knows why."""

    class DeadRegistry(GenerationRegistry):
        def acquire_lease(self, name: str, holder: str, ttl_s: float, now_us: int) -> Lease | None:
            raise error

    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1100:
            updater.stop()

    registry = DeadRegistry(world.resources.database)
    updater = Updater(replace(world.resources, registry=registry), world.settings, wait=wait)
    with capture_logs():
        updater.run()
    assert waits[0] < waits[1] < waits[-1] == longest_s


class CountingLog(FeedbackLog):
    """A log that counts how often it is read from its beginning."""

    whole_reads = 0

    def read_after(self, position: int, limit: int) -> list[LoggedEvent]:
        self.whole_reads += position == 0
        return super().read_after(position, limit)


@pytest.mark.parametrize(("items", "whole_reads"), [(False, 0), (True, 3)])
def test_the_daemon_does_not_read_the_log_for_nothing_all_the_time(
    tmp_path: Path, items: bool, whole_reads: int
) -> None:
    """Without items it does not read the log at all; where all events are refused it waits longer each time."""
    world = make_world(tmp_path)
    world.events(20, event_type="impression")
    if items:
        world.items(1)
    log = CountingLog(world.resources.database)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            updater.stop()

    settings = world.settings.model_copy(update={"bootstrap_when_events": 10})
    updater = Updater(replace(world.resources, log=log), settings, wait=wait)
    updater.run()
    assert log.whole_reads == whole_reads
    assert waits == ([1.0, 2.0, 4.0] if items else [0.5, 0.5, 0.5])
    world.resources.close()


def test_a_bootstrap_of_the_daemon_can_be_stopped(world: World) -> None:
    """Asked to stop while it trains the first generation, the daemon ends soon, publishes nothing and lets go."""

    class StoppingEncoder(HashEncoder):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            updater.stop()
            return super().encode(texts)

    resources = Resources.open(world.settings, StoppingEncoder())
    updater = Updater(resources, world.settings.model_copy(update={"bootstrap_when_events": 10}))
    updater.run()
    assert world.resources.registry.labels() == {}
    assert read_status(world.resources.database, "default", now_us()).leader is None
    resources.close()


def test_the_leading_daemon_prunes(bootstrapped: World) -> None:
    """What is past its retention goes while it works: these events were received years ago."""
    bootstrapped.resources.impressions.append([Impression("slate", None, time_us=START_US)])
    run_until(bootstrapped, lambda: True)
    assert bootstrapped.resources.impressions.count() == 0
    assert bootstrapped.resources.log.prune_event_ids(now_us(), 1) == 0


def test_learning_goes_on_with_a_pruned_log(bootstrapped: World) -> None:
    """What is replayed, resumed from and bootstrapped from is what is kept."""
    world = bootstrapped
    world.events(50)
    world.round()
    with world.resources.database.write() as connection:
        advance(connection, "default", OFFSET, world.resources.log.head())
    pruning = LogPruning(world.resources.database)
    learned = pruning.read_by_all()
    assert learned >= 200
    assert pruning.prune(now_us(), 10_000, now_us()) == learned
    assert world.resources.log.read_after(0, 1)[0].position == learned + 1
    world.events(60)
    world.round()
    assert world.manifest.watermark == world.resources.log.head() == 310
    assert not world.resume().learn()
    world.bootstrap()
    assert world.manifest.watermark == 310


def test_status_before_anything_happened(tmp_path: Path) -> None:
    """An empty installation has a status too."""
    world = make_world(tmp_path)
    status = read_status(world.resources.database, "default", now_us())
    assert (status.generation, status.offset, status.head, status.lag, status.leader) == (None, 0, 0, 0, None)
    world.resources.close()


def test_a_rebuild_after_an_erasure_is_as_if_the_user_had_never_been(tmp_path: Path) -> None:
    """Weights, counts and vectors to the last bit: what was learned of them is in none of the new files."""
    states: list[dict[str, Any]] = []
    for was_there in (True, False):
        folder = tmp_path / str(was_there)
        folder.mkdir()
        world = make_world(folder)
        world.items(*range(N_ITEMS))
        world.events(100)
        if was_there:
            gone = [
                Event(f"gone-{n}", "click", "gone", item_id=f"item-{n}", event_time_us=START_US + n * 90_000_000)
                for n in range(30)
            ]
            world.resources.log.append(gone, START_US + 100 * 90_000_000)
            world.bootstrap()
            world.resources.log.delete_subject(Subject(SubjectKind.USER, "gone"))
        world.events(60)
        world.bootstrap()
        learner = Learner.load_state(world.checkpoint())
        counted = {"counts": learner.counts, "successors": learner.successors.counts, "trends": learner.trends.weights}
        states.append({**learner.snapshot(), "vectors": learner.item_vectors(), **counted})
        world.resources.close()
    for name, found in states[0].items():
        np.testing.assert_array_equal(np.asarray(found), np.asarray(states[1][name]), err_msg=name)
