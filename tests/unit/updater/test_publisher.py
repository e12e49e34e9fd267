"""What is published of the co-visits: a base, deltas over it, a new base when they have grown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from headwater_core.artifact_store import ArtifactStore
from headwater_core.co_visits import Blend
from headwater_core.database import Database
from headwater_core.generation import LoadedGeneration
from headwater_core.manifest import CO_VISITS, CO_VISITS_DELTA, Manifest
from headwater_core.registry import STABLE, GenerationRegistry
from headwater_core.towers import ItemTower, JointHeads, TowerConfig, UserTower
from headwater_updater import index_choice
from headwater_updater.examples import Example
from headwater_updater.learner import Learner
from headwater_updater.lease import Leadership
from headwater_updater.publisher import Draft, Published, Publisher

CONFIG = TowerConfig(4, n_layers=1, text_dimension=4, event_types=("click",), value_mean=(0.0,), value_std=(1.0,))
N_ITEMS = 40


class FakeLearner:
    """What a publisher asks of a learner; each item is followed by those that `follows` names."""

    def __init__(self, n_items: int) -> None:
        self.item_ids = [str(number) for number in range(n_items)]
        self.follows: dict[str, dict[str, float]] = {}
        self.blend = Blend(strength=1.0, sharpness=10.0, decay=0.5)
        self.trend: list[tuple[str, float]] = []
        self.moved = np.ones(n_items + 1, np.bool_)
        torch.manual_seed(0)
        self.user_tower, self.item_tower, self.heads = UserTower(CONFIG), ItemTower(CONFIG), JointHeads(CONFIG)

    def row(self, item_id: str) -> int:
        return int(item_id) + 1

    def item_vectors(self, rows: np.ndarray) -> np.ndarray:
        return np.ones((len(rows), CONFIG.dimension), np.float32)

    def interests(self, examples: Sequence[Example]) -> np.ndarray:
        return np.ones((len(examples), CONFIG.dimension), np.float32)

    def state(self) -> bytes:
        return b"checkpoint"

    def state_delta(self, n_base_items: int) -> bytes:
        return f"what moved of {n_base_items} items".encode()

    def trending(self) -> list[tuple[str, float]]:
        return self.trend

    def successors_of(self, item_ids: Sequence[str]) -> list[tuple[list[str], np.ndarray]]:
        lists = [self.follows.get(item_id, {}) for item_id in item_ids]
        return [(list(each), np.array(list(each.values()), np.float32)) for each in lists]


class World:
    """A store and a registry, and what was published last."""

    def __init__(self, folder: Path, registry: GenerationRegistry, leadership: Leadership) -> None:
        self.store = ArtifactStore(str(folder / "artifacts"))
        self.leadership = leadership
        self.publisher = Publisher(self.store, registry, fold_share=0.5)
        self.learner = FakeLearner(N_ITEMS)
        self.published: Published | None = None
        self.labelled = 0

    def publish(self, moved: Collection[str] = (), items: Collection[str] | None = None) -> Manifest:
        draft = Draft(
            learner=cast(Learner, self.learner),
            text_encoder="x",
            items=self.learner.item_ids if items is None else items,
            changed=(),
            moved_visits=moved,
            watermark=0,
            catalogue_revision=0,
            metrics={},
            training_state={},
        )
        expected = self.labelled
        lease = self.leadership.lease
        self.published = self.publisher.publish(draft, self.published, label=STABLE, expected=expected, lease=lease)
        self.labelled = self.published.manifest.number
        return self.published.manifest

    def resume(self) -> None:
        """Another process goes on from what lies in the store."""
        self.published = Published.of(self.loaded())

    def loaded(self) -> LoadedGeneration:
        assert self.published is not None
        return LoadedGeneration.load(self.store, self.published.manifest.number)

    def bonuses(self, *item_ids: str) -> dict[str, float]:
        """What the generation published last, as a server loads it, gives to a history."""
        generation = self.loaded()
        rows, values = generation.co_visits.bonuses(item_ids, generation.blend)
        return {
            generation.table.item_id(int(row)): round(float(value), 4) for row, value in zip(rows, values, strict=True)
        }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database(f"sqlite:///{tmp_path / 'headwater.db'}")
    database.migrate()
    registry = GenerationRegistry(database)
    leadership = Leadership.acquire(registry, "test", 60.0)
    assert leadership is not None
    with leadership:
        world = World(tmp_path, registry, leadership)
        world.learner.follows = {str(n): {str((n + 1) % N_ITEMS): 1.0, str((n + 2) % N_ITEMS): 1.0} for n in range(30)}
        yield world
    database.close()


def share(*shares: float) -> Any:
    return [round(float(np.log1p(10.0 * each)), 4) for each in shares]


def going_on(world: World) -> None:
    """The same process publishes next."""


@pytest.mark.parametrize("between", [going_on, World.resume])
def test_after_a_fast_publish_the_bonus_of_moved_items_is_the_new_one(
    world: World, between: Callable[[World], None]
) -> None:
    """Of the items named as moved and of no others, publish after publish, whichever process publishes."""
    first = world.publish()
    assert (first.full, first.co_visits, first.co_visits_delta) == (True, CO_VISITS, None)
    assert world.bonuses("3") == dict(zip(["4", "5"], share(0.5, 0.5), strict=True))
    assert world.bonuses("35") == {}

    between(world)
    world.learner.follows |= {"3": {"4": 1.0, "35": 3.0}, "35": {"1": 2.0}, "7": {"1": 5.0}}
    second = world.publish(moved=["3", "35"])
    assert (second.full, second.co_visits_delta) == (False, CO_VISITS_DELTA)
    assert second.files[CO_VISITS] == first.files[CO_VISITS]
    assert world.bonuses("3") == dict(zip(["4", "35"], share(0.25, 0.75), strict=True))
    assert world.bonuses("35") == dict(zip(["1"], share(1.0), strict=True))
    assert world.bonuses("7").keys() == {"8", "9"}

    between(world)
    world.learner.follows |= {"3": {"9": 1.0}, "4": {}}
    world.publish(moved=["3", "4"])
    assert world.bonuses("3") == dict(zip(["9"], share(1.0), strict=True))
    assert world.bonuses("4") == {}
    assert world.bonuses("35") == dict(zip(["1"], share(1.0), strict=True))


def test_only_what_can_be_retrieved_follows(world: World) -> None:
    """A deleted successor is left out at once; an item that comes is published with what follows it."""
    without = [item_id for item_id in world.learner.item_ids if item_id not in ("3", "5")]
    world.publish(items=without)
    assert "5" not in world.loaded().co_visits.base.numbers
    assert world.bonuses("4") == dict(zip(["6"], share(1.0), strict=True))
    with_five = [*without, "5"]
    world.publish(items=with_five, moved=["3"])
    assert world.bonuses("5").keys() == {"6", "7"}
    assert world.bonuses("3") == {}
    assert "3" not in world.loaded().co_visits.delta.numbers
    world.publish(items=without)
    assert world.bonuses("6").keys() == {"7", "8"}


def test_a_delta_that_has_grown_is_folded_into_a_new_base(world: World) -> None:
    """By its own size: the item vectors' base stays."""
    first = world.publish()
    moved = [str(number) for number in range(20)]
    world.learner.follows |= {item_id: {"39": 1.0, "38": 1.0} for item_id in moved}
    second = world.publish(moved=moved)
    assert (second.full, second.co_visits_delta) == (False, None)
    assert second.files[CO_VISITS] != first.files[CO_VISITS]
    assert world.bonuses("19").keys() == {"38", "39"}
    world.learner.follows["19"] = {"1": 1.0}
    assert world.publish(moved=["19"]).co_visits_delta == CO_VISITS_DELTA
    assert world.bonuses("19").keys() == {"1"}


def test_what_was_measured_of_base_shards_travels_with_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over publications that share them; what was not measured says nothing."""
    world.learner = FakeLearner(2 * N_ITEMS)
    monkeypatch.setattr(index_choice, "MEASURED_ABOVE", 2 * N_ITEMS - 1)
    first, second = world.publish(), world.publish(moved=["3"])
    assert (first.full, second.full) == (True, False)
    assert first.indexes == second.indexes
    assert first.indexes.keys() == set(first.shards)
    assert first.metrics["index_recall_at_100"] == second.metrics["index_recall_at_100"] == 1.0
    monkeypatch.setattr(index_choice, "MEASURED_ABOVE", 2 * N_ITEMS)
    world.published = None
    third = world.publish()
    assert (third.indexes, "index_recall_at_100" in third.metrics) == ({}, False)


def test_a_generation_from_before_co_visits_is_gone_on_from(world: World) -> None:
    """The next one has a base of its own."""
    world.publish()
    assert world.published is not None
    old = world.published.manifest.model_copy(update={"co_visits": None, "blend": {}})
    world.published = Published(old, world.published.base_items, world.published.delta, 0, world.published.visits_delta)
    manifest = world.publish(moved=["1"])
    assert (manifest.full, manifest.co_visits, manifest.co_visits_delta) == (False, CO_VISITS, None)
    assert world.bonuses("3").keys() == {"4", "5"}


def test_the_blend_travels_in_the_manifest(world: World) -> None:
    """The one that the learner has when it publishes; with no strength there are no bonuses."""
    world.publish()
    world.learner.blend = Blend()
    world.publish()
    assert world.loaded().blend == Blend()
    assert world.bonuses("3") == {}


def test_the_trend_is_of_what_can_be_retrieved(world: World) -> None:
    """By row, in every publication; what was taken out of the catalogue does not trend."""
    world.learner.trend = [("7", 2.0), ("39", 1.0)]
    world.publish(items=[str(number) for number in range(39)])
    generation = world.loaded()
    assert generation.trend.items.tolist() == [generation.table.row("7")]
    assert generation.trend.weights.tolist() == [2.0]
