"""A generation in service: whose successors speak, and what they add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from headwater_core.artifact_store import ArtifactStore
from headwater_core.co_visit_files import SuccessorList, SuccessorLists
from headwater_core.co_visits import HISTORY_EVENTS, Blend
from headwater_core.events import HistoryEvent
from headwater_core.generation import LoadedGeneration
from headwater_core.indexes import IndexKind
from headwater_core.manifest import CO_VISITS, ITEM_TOWER, JOINT_HEADS, USER_TOWER, Manifest, index_file, items_file
from headwater_core.shards import Shard
from headwater_core.towers import ItemFeatureTower, JointHeads, TowerConfig, UserTower, save_state
from headwater_server.item_space import ItemSpace
from headwater_server.serving_generation import ServingGeneration

BLEND = Blend(strength=1.0, sharpness=10.0, decay=0.5)
N_ITEMS = HISTORY_EVENTS + 10


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedGeneration:
    """Numbered items, each followed by the next one, the last by nothing."""
    folder = tmp_path_factory.mktemp("generation")
    store = ArtifactStore(str(folder / "store"))
    torch.manual_seed(0)
    config = TowerConfig(8, n_layers=1, text_dimension=4, event_types=("click",), value_mean=(0.0,), value_std=(1.0,))
    ids = [str(number) for number in range(N_ITEMS)]
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 8)).astype(np.float32)
    index_path, items_path = Shard.build(ids, vectors, IndexKind.FLAT).save(folder, "shards/0000")
    one = np.ones(1, np.float32)
    visits = SuccessorLists.empty().updated(SuccessorList(ids[n], [ids[n + 1]], one) for n in range(N_ITEMS - 1))
    files = {
        USER_TOWER: store.put_blob(save_state(UserTower(config))),
        ITEM_TOWER: store.put_blob(save_state(ItemFeatureTower(config))),
        JOINT_HEADS: store.put_blob(save_state(JointHeads(config))),
        index_file("shards/0000"): store.put_blob(index_path),
        items_file("shards/0000"): store.put_blob(items_path),
        CO_VISITS: store.put_blob(visits.save(Path(folder, CO_VISITS))),
    }
    manifest = Manifest(
        number=1,
        parent=0,
        full=True,
        publish_time_us=1,
        watermark=0,
        catalogue_revision=0,
        dimension=8,
        item_count=N_ITEMS,
        text_encoder="x",
        tower_config=config.to_dict(),
        files=files,
        shards=("shards/0000",),
        co_visits=CO_VISITS,
        blend=BLEND.to_dict(),
    )
    store.write_manifest(1, manifest)
    return LoadedGeneration.load(store, 1)


@pytest.fixture(scope="module")
def generation(loaded: LoadedGeneration) -> ServingGeneration:
    return ServingGeneration(loaded, lambda texts: np.zeros((len(texts), 4)))


def history(*item_ids: str) -> list[HistoryEvent]:
    """Oldest first."""
    return [HistoryEvent(n, n, "click", item_id) for n, item_id in enumerate(item_ids, start=1)]


def gains(generation: ServingGeneration, events: Sequence[HistoryEvent]) -> dict[int, float]:
    found = generation.bonuses(events)
    return dict(zip(found.items.tolist(), found.values.tolist(), strict=True))


def test_the_latest_events_speak_loudest(generation: ServingGeneration) -> None:
    """A history is read from its end, and each earlier event counts less."""
    found = gains(generation, history("4", "7"))
    assert found == pytest.approx({8: np.log1p(10 * 1 / 1.5), 5: np.log1p(10 * 0.5 / 1.5)})


def test_only_the_last_events_on_known_items_speak(generation: ServingGeneration) -> None:
    """Searches and items that the generation does not know take no place among them."""
    search = HistoryEvent(99, 99, "search", "", query="space")
    known = [str(number) for number in range(HISTORY_EVENTS + 2)]
    events = [*history(*known), search, *history("unknown")]
    assert sorted(gains(generation, events)) == list(range(3, HISTORY_EVENTS + 3))
    assert not gains(generation, [search, *history("unknown", str(N_ITEMS - 1))])
    assert not gains(generation, [])


def test_given_items_are_scored_with_their_bonuses(generation: ServingGeneration) -> None:
    """What ranks a slate ranks given items; nothing else of their scores changes."""
    items, events = generation.items, history("7")
    interests = generation.embed([events])[0]
    plain, scored = generation.score(items, interests, [3, 8]), generation.score(items, interests, [3, 8], events)
    np.testing.assert_allclose(scored.ranking - plain.ranking, [0.0, np.log1p(10.0)], rtol=1e-5)
    np.testing.assert_array_equal(scored.probabilities, plain.probabilities)


@pytest.mark.parametrize(
    "changed",
    [
        lambda items: items.without_fresh(["first"]),
        lambda items: items.with_fresh(["first"], np.ones((1, 8), np.float32)),
    ],
    ids=["fewer", "in another order"],
)
def test_a_history_is_read_in_one_state_of_the_items(
    loaded: LoadedGeneration, changed: Callable[[ItemSpace], ItemSpace]
) -> None:
    """New items may go, or be placed anew, between the look at their rows and that at their vectors."""

    def meanwhile(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        changing.items = changed(changing.items)
        return np.zeros((len(texts), 4), np.float32)

    changing = ServingGeneration(loaded, meanwhile)
    vectors = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
    placed = changing.items.with_fresh(["first", "second"], vectors)
    events = [HistoryEvent(9, 9, "search", "", query="space"), *history("1", "second")]
    still = ServingGeneration(loaded, lambda texts: np.zeros((len(texts), 4), np.float32))
    changing.items = still.items = placed
    np.testing.assert_array_equal(changing.embed([events])[0], still.embed([events])[0])
    assert changing.items is not placed
