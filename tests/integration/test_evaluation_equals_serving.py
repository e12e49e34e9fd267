"""What is measured is what is served: a learner's own lists and those of a server over what it published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headwater_core.artifact_store import ArtifactStore
from headwater_core.co_visits import Blend
from headwater_core.database import Database
from headwater_core.events import HistoryEvent
from headwater_core.generation import LoadedGeneration
from headwater_core.histories import fit_vocabulary
from headwater_core.indexes import IndexKind
from headwater_core.registry import STABLE, GenerationRegistry
from headwater_core.towers import TowerConfig
from headwater_server.serving_generation import ServingGeneration
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.ranked_lists import best_places
from headwater_updater.examples import Example
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig
from headwater_updater.lease import Leadership
from headwater_updater.publisher import Draft, Published, Publisher

N_ITEMS = 300
F = 8
K = 20
TOWER = TowerConfig(dimension=16, n_layers=1, history_length=16, text_dimension=F)
BLENDS = {
    "towers": Blend(),
    "successors": Blend(strength=0.6, decay=0.8),
    "repeats": Blend(strength=0.6, repeat_strength=1.2, decay=0.95),
    "trend": Blend(strength=0.6, trend_strength=0.6, trend_half_life=100, trend_sharpness=1e5),
}


def text_features(texts: Sequence[str]) -> np.ndarray:
    """Of a text, its letters."""
    return np.array([[text.count(letter) for letter in "aceinrst"] for text in texts], np.float16)


def histories(n_users: int, seed: int, longest: int = 30) -> list[list[HistoryEvent]]:
    """Clicks, ratings, dislikes and searches, several at a time now and then, on items that are near each other."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n_users):
        events: list[HistoryEvent] = []
        second, item = 0, int(rng.integers(N_ITEMS))
        for position in range(1, int(rng.integers(2, longest))):
            second += int(rng.integers(0, 4))
            item = int(item + rng.integers(0, 6)) % N_ITEMS
            kind = rng.random()
            if kind < 0.1:
                events.append(HistoryEvent(position, second * 10**6, "search", "", query="a nice train"))
            elif kind < 0.2:
                events.append(HistoryEvent(position, second * 10**6, "dislike", f"i{item}"))
            elif kind < 0.4:
                events.append(HistoryEvent(position, second * 10**6, "rating", f"i{item}", float(rng.integers(1, 6))))
            else:
                events.append(HistoryEvent(position, second * 10**6, "click", f"i{item}"))
        made.append(events)
    return made


TRAINING = histories(150, seed=0)


@pytest.fixture(scope="module", params=[1, 2], ids=["one interest", "two interests"])
def trained(request: pytest.FixtureRequest) -> bytes:
    tower = fit_vocabulary(replace(TOWER, n_interests=request.param), TRAINING, negative={"dislike"})
    config = LearnerConfig(tower, {"click": 1.0, "rating": 2.0}, exclude_seen=False)
    learner = Learner.create(config, 0, text_features)
    learner.add_items([f"i{i}" for i in range(N_ITEMS)], np.random.default_rng(0).normal(size=(N_ITEMS, F)))
    learner.fit(TRAINING, Budget(epochs=2))
    return learner.state()


class Installation:
    """Publishes to a real store, and serves from it."""

    def __init__(self, folder: Path, registry: GenerationRegistry, leadership: Leadership) -> None:
        self._store = ArtifactStore(str(folder / "artifacts"))
        self._publisher = Publisher(self._store, registry, index_kind=IndexKind.SQ8, shard_items=120)
        self._leadership = leadership
        self._published: Published | None = None

    def publish(
        self, learner: Learner, changed: Sequence[str] = (), moved_visits: Sequence[str] = ()
    ) -> ServingGeneration:
        draft = Draft(
            learner=learner,
            text_encoder="letters",
            items=[item_id for item_id in learner.item_ids if learner.row(item_id)],
            changed=changed,
            moved_visits=moved_visits,
            watermark=0,
            catalogue_revision=0,
            metrics={},
            training_state={},
        )
        before = self._published
        expected = 0 if before is None else before.manifest.number
        lease = self._leadership.lease
        self._published = self._publisher.publish(draft, before, label=STABLE, expected=expected, lease=lease)
        number = self._published.manifest.number
        return ServingGeneration(LoadedGeneration.load(self._store, number), text_features)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    database = Database(f"sqlite:///{tmp_path / 'headwater.db'}")
    database.migrate()
    registry = GenerationRegistry(database)
    leadership = Leadership.acquire(registry, "test", 60.0)
    assert leadership is not None
    with leadership:
        yield Installation(tmp_path, registry, leadership)
    database.close()


Scored = list[tuple[str, float]]


def served(generation: ServingGeneration, events: Sequence[HistoryEvent], *, exclude_seen: bool) -> Scored:
    excluded = {event.item_id for event in events} if exclude_seen else set()
    interests = generation.embed([events])[0]
    bonuses = generation.gains(generation.items, events)
    found = generation.items.retrieve(interests, K, lambda item_id: item_id not in excluded, None, excluded, bonuses)
    return [(item.item_id, item.score) for item in found]


def evaluated(learner: Learner, events: Sequence[HistoryEvent], *, exclude_seen: bool) -> Scored:
    item_ids = [item_id for item_id in learner.item_ids if learner.row(item_id)]
    scores = LearnerScorer(learner, item_ids).score_batch([events])[0]
    scores += learner.trend(learner.blend).of(np.array([learner.row(item_id) for item_id in item_ids]))
    if exclude_seen:
        seen = {event.item_id for event in events}
        scores[[place for place, item_id in enumerate(item_ids) if item_id in seen]] = -np.inf
    return [(item_ids[place], float(scores[place])) for place in best_places(scores, K).tolist()]


def assert_same(
    learner: Learner, generation: ServingGeneration, asked: Sequence[Sequence[HistoryEvent]], *, exclude_seen: bool
) -> None:
    for events in asked:
        wanted = evaluated(learner, events, exclude_seen=exclude_seen)
        found = served(generation, events, exclude_seen=exclude_seen)
        assert [item_id for item_id, _ in found] == [item_id for item_id, _ in wanted]
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=1e-4)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("blend", BLENDS.values(), ids=BLENDS)
def test_a_published_generation_serves_what_the_learner_ranks(
    trained: bytes, installation: Installation, blend: Blend, *, exclude_seen: bool
) -> None:
    """The same items in the same order with the same scores, also for histories longer than the towers read."""
    learner = Learner.load_state(trained, text_features)
    learner.blend = blend
    generation = installation.publish(learner)
    asked = histories(25, seed=1, longest=45)
    assert max(map(len, asked)) > 2 * TOWER.history_length
    assert_same(learner, generation, asked, exclude_seen=exclude_seen)


def test_events_on_unknown_items_take_no_place(trained: bytes, installation: Installation) -> None:
    """Neither in what the towers read nor in what speaks for other items, however many there are."""
    learner = Learner.load_state(trained, text_features)
    learner.blend = BLENDS["repeats"]
    generation = installation.publish(learner)
    strange = [
        [event if n % 5 else event._replace(item_id=f"strange-{n}", query="") for n, event in enumerate(events)]
        for events in histories(10, seed=2, longest=45)
    ]
    assert_same(learner, generation, strange, exclude_seen=False)


@pytest.mark.parametrize("is_published_before", [False, True])
def test_items_that_are_gone_take_no_share(
    trained: bytes, installation: Installation, *, is_published_before: bool
) -> None:
    """Whether a generation held them or not, they neither come back nor speak, and others have their votes."""
    learner = Learner.load_state(trained, text_features)
    learner.blend = BLENDS["repeats"]
    if is_published_before:
        installation.publish(learner)
    learner.remove_items([f"i{i}" for i in range(0, N_ITEMS, 10)])
    generation = installation.publish(learner)
    assert generation.manifest.full != is_published_before
    assert_same(learner, generation, histories(25, seed=1), exclude_seen=False)


def test_after_a_fast_publish_too(trained: bytes, installation: Installation) -> None:
    """With new items, moved vectors and successors that were counted since."""
    learner = Learner.load_state(trained, text_features)
    learner.blend = BLENDS["repeats"]
    installation.publish(learner)
    learner.add_items(["new"], np.ones((1, F)))
    late = HistoryEvent(99, 10**10, "click", "new")
    result = learner.step([Example([*events, late], 1) for events in histories(3, seed=3)])
    changed, moved = (
        [learner.item_ids[row - 1] for row in rows] for rows in (result.touched_rows, result.touched_sources)
    )
    generation = installation.publish(learner, changed, moved)
    assert not generation.manifest.full
    assert_same(learner, generation, histories(25, seed=1), exclude_seen=False)
