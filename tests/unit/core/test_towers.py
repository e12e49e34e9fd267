"""The towers: what they compute, and that training and serving compute the same."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from headwater_core.errors import ArtifactError, InvalidFieldError
from headwater_core.histories import HistoryTensors, TokenSequence, collate, gap_buckets
from headwater_core.towers import (
    ItemFeatureTower,
    ItemTower,
    JointHeads,
    TowerConfig,
    UserTower,
    check_size,
    load_state,
    save_state,
    score,
)

CONFIG = TowerConfig(
    dimension=16,
    n_interests=3,
    history_length=12,
    text_dimension=8,
    event_types=("click", "rating"),
    value_mean=(0.0, 3.5),
    value_std=(1.0, 1.1),
)


def sequence(n: int, seed: int = 0) -> TokenSequence:
    rng = np.random.default_rng(seed)
    times_us = np.cumsum(rng.integers(0, 10**9, n))
    return TokenSequence(
        rng.integers(1, 20, n),
        rng.integers(0, 3, n),
        rng.normal(size=n).astype(np.float32),
        gap_buckets(times_us, CONFIG.n_gap_buckets),
        times_us,
        (),
    )


TOLD = replace(CONFIG, reads_query_time=True)


def towers(seed: int = 0, config: TowerConfig = CONFIG) -> tuple[UserTower, torch.Tensor]:
    """A user tower in evaluation mode, and a table of item vectors with row 0 empty."""
    torch.manual_seed(seed)
    table = torch.randn(20, config.dimension)
    table[0] = 0
    tower = UserTower(config).eval()
    for embedding in (tower.type_embedding, tower.value_direction, tower.gap_embedding):
        torch.nn.init.normal_(embedding.weight)  # large enough to matter beside the items
    return tower, table


@torch.inference_mode()
def interests(tower: UserTower, table: torch.Tensor, tensors: HistoryTensors) -> torch.Tensor:
    found: torch.Tensor = tower(tensors, table[tensors.item_rows])
    return found


def test_padding_does_not_change_a_users_vectors() -> None:
    """A history gives the same interests alone and beside longer ones."""
    tower, table = towers()
    short, long = sequence(4), sequence(12, 1)
    together = interests(tower, table, collate([short, long], CONFIG))
    alone = interests(tower, table, collate([short], CONFIG))
    assert together.shape == (2, CONFIG.n_interests, CONFIG.dimension)
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize("config", [CONFIG, TOLD], ids=["plain", "told"])
def test_training_and_serving_agree_at_every_position(config: TowerConfig) -> None:
    """What training sees after event t is what serving computes from the history up to t."""
    tower, table = towers(config=config)
    history = sequence(9)
    tensors = collate([history], config)
    with torch.inference_mode():
        everywhere = tower.forward_all(tensors, table[tensors.item_rows])  # (1, T, K, d)
    for t in range(len(history)):
        then = interests(tower, table, collate([history.window(0, t + 1)], config))
        torch.testing.assert_close(everywhere[:, t], then)


def test_no_position_sees_a_later_event() -> None:
    """Changing the last event changes the interests after it and no others."""
    tower, table = towers()
    tensors = collate([sequence(8)], CONFIG)
    changed = tensors.item_rows.clone()
    changed[0, -1] = changed[0, -1] % 19 + 1
    with torch.inference_mode():
        before = tower.forward_all(tensors, table[tensors.item_rows])
        after = tower.forward_all(tensors._replace(item_rows=changed), table[changed])
    torch.testing.assert_close(before[:, :-1], after[:, :-1], rtol=0, atol=0)
    assert not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize("field", ["type_index", "value", "gap"])
def test_every_part_of_an_event_counts(field: str) -> None:
    """An event's type, value and time each change the interests."""
    tower, table = towers()
    tensors = collate([sequence(5)], CONFIG)
    part = getattr(tensors, field).clone()
    part[0, 3] = part[0, 3] + 1 if field != "type_index" else (part[0, 3] + 1) % CONFIG.n_types
    changed = tensors._replace(**{field: part})
    assert not torch.allclose(interests(tower, table, tensors), interests(tower, table, changed))


def test_when_it_is_asked_changes_that_answer_and_no_other() -> None:
    """The query's time joins the decoder's queries, not the states that other positions read."""
    tower, table = towers(config=TOLD)
    tensors = collate([sequence(5)], TOLD)
    assert tensors.query_gap is not None
    changed = tensors.query_gap.clone()
    changed[0, 2] += 3
    with torch.inference_mode():
        before = tower.forward_all(tensors, table[tensors.item_rows])
        after = tower.forward_all(tensors._replace(query_gap=changed), table[tensors.item_rows])
    torch.testing.assert_close(before[:, [0, 1, 3, 4]], after[:, [0, 1, 3, 4]])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_a_tower_that_is_not_told_the_time_is_as_it_always_was() -> None:
    """It has no weight for it, every other weight starts alike, and manifests from before the option are read."""
    weights = []
    for config in (CONFIG, TOLD):
        torch.manual_seed(0)
        weights.append(UserTower(config).state_dict())
    plain, told = weights
    assert told.keys() - plain.keys() == {"query_gap_embedding.weight"}
    assert all(torch.equal(tensor, told[name]) for name, tensor in plain.items())
    content = CONFIG.to_dict()
    del content["reads_query_time"]
    assert TowerConfig.from_dict(content) == CONFIG


def test_the_order_of_events_counts() -> None:
    """The same items in another order give other interests."""
    tower, table = towers()
    tensors = collate([sequence(6)], CONFIG)
    flipped = tensors._replace(item_rows=tensors.item_rows.flip(1))
    assert not torch.allclose(interests(tower, table, tensors), interests(tower, table, flipped))


def test_a_search_is_read_by_its_querys_features() -> None:
    """Two searches with other queries give other interests, though neither has an item."""
    tower, table = towers()
    searched = replace(sequence(3), item_rows=np.array([4, 5, 0]), queries=("", "", "red shoes"))
    one = collate([searched], CONFIG, lambda texts: np.ones((len(texts), 8), np.float16))
    other = collate([searched], CONFIG, lambda texts: -np.ones((len(texts), 8), np.float16))
    assert not torch.allclose(interests(tower, table, one), interests(tower, table, other))


@pytest.mark.parametrize("config", [CONFIG, TOLD], ids=["plain", "told"])
def test_gradients_reach_every_parameter(config: TowerConfig) -> None:
    """No weight of the user tower is left out of training."""
    tower, table = towers(config=config)
    searched = replace(sequence(3), item_rows=np.array([4, 5, 0]), queries=("", "", "red shoes"))
    tensors = collate([searched], config, lambda texts: np.ones((len(texts), 8), np.float16))
    tower.train()
    tower.forward_all(tensors, table[tensors.item_rows]).square().sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []


def test_score_is_the_best_interests() -> None:
    """An item scores what its most fitting interest gives it."""
    users = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    items = torch.tensor([[2.0, 1.0], [-1.0, 3.0]])
    assert score(users, items).tolist() == [[2.0, 3.0]]


def test_a_new_item_is_placed_by_its_text() -> None:
    """A row that grow appended has the vector that the text alone gives; row 0 without text stays 0."""
    tower = ItemTower(CONFIG, n_items=2).eval()
    torch.nn.init.normal_(tower.id_embedding[1:].detach())
    before = tower.id_embedding.detach().clone()
    tower.grow(2)
    assert tower.n_items == 4
    torch.testing.assert_close(tower.id_embedding[:3].detach(), before)
    features = torch.randn(2, CONFIG.text_dimension)
    with torch.inference_mode():
        vectors = tower(torch.tensor([3, 4]), features)
        torch.testing.assert_close(vectors, tower.item_vectors_from_features(features))
        assert tower(torch.tensor([0]), torch.zeros(1, CONFIG.text_dimension)).abs().sum() == 0


def test_training_hides_ids_of_items_with_text_only() -> None:
    """With id dropout some items are placed by text alone; an item without text always keeps its id."""
    tower = ItemTower(replace(CONFIG, id_dropout=0.5), n_items=200).train()
    tower.id_embedding.data[1:] = 1.0
    features = torch.zeros(200, CONFIG.text_dimension)
    features[100:] = 0.5
    torch.manual_seed(0)
    rows = torch.arange(1, 201)
    hidden = (tower(rows, features) - tower.shared(features)).abs().sum(-1) < 1e-6
    assert not hidden[:100].any()
    assert 20 < int(hidden[100:].sum()) < 80


def test_heads_answer_for_every_pair() -> None:
    """Heads give a logit per event type and one value, whatever the leading shape."""
    heads = JointHeads(CONFIG)
    logits, value = heads(torch.randn(2, 5, 16), torch.randn(2, 5, 16))
    assert logits.shape == (2, 5, CONFIG.n_types)
    assert value.shape == (2, 5)


def test_config_survives_json() -> None:
    """What to_dict writes, from_dict reads."""
    assert TowerConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def test_a_config_from_before_there_were_vectors_reads_none() -> None:
    """Its towers are those that its weights were saved from."""
    content = CONFIG.to_dict()
    del content["vector_dimension"]
    assert TowerConfig.from_dict(content) == CONFIG
    assert CONFIG.feature_dimension == CONFIG.text_dimension


def test_items_have_features_beside_the_text_and_queries_do_not() -> None:
    """The caller's vectors lengthen what the item tower reads, and nothing else."""
    config = replace(CONFIG, vector_dimension=5)
    assert ItemFeatureTower(config).projection.weight.shape == (16, 13)
    assert UserTower(config).query_projection.weight.shape == (16, 8)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dimension": 10**9}, "dimension"),
        ({"dimension": "64"}, "dimension"),
        ({"dimension": True}, "dimension"),
        ({"n_heads": 3}, "n_heads"),
        ({"n_layers": 0}, "n_layers"),
        ({"dropout": 1.5}, "dropout"),
        ({"vector_dimension": -1}, "vector_dimension"),
        ({"vector_dimension": 4097}, "vector_dimension"),
        ({"surprise": 1}, "surprise"),
        ({"reads_query_time": 1}, "reads_query_time"),
        ({"event_types": "click"}, "event_types"),
        ({"event_types": ["a", "a"]}, "event_types"),
        ({"value_std": [0.0, 1.0]}, "value_std"),
        ({"value_mean": [float("nan"), 1.0]}, "value_mean"),
        ({"value_mean": [1.0]}, "value_mean"),
    ],
)
def test_config_refuses_what_cannot_work(change: dict[str, object], field: str) -> None:
    """A manifest with a bad tower configuration is refused, and the field is named."""
    with pytest.raises(InvalidFieldError) as caught:
        TowerConfig.from_dict({**CONFIG.to_dict(), **change})
    assert caught.value.field == field


def test_weights_survive_a_file(tmp_path: Path) -> None:
    """A tower filled from the file of another answers as that one."""
    tower, table = towers(0)
    other, _ = towers(1)
    path = tmp_path / "user_tower.safetensors"
    path.write_bytes(save_state(tower))
    load_state(other, path)
    tensors = collate([sequence(7)], CONFIG)
    torch.testing.assert_close(interests(tower, table, tensors), interests(other, table, tensors), rtol=0, atol=0)


def test_shared_part_of_the_item_tower_stands_alone() -> None:
    """A server places new items with the shared weights and no id table."""
    trained = ItemTower(CONFIG, n_items=50)
    served = ItemFeatureTower(CONFIG)
    load_state(served, save_state(trained.shared))
    features = torch.randn(3, CONFIG.text_dimension)
    torch.testing.assert_close(served(features), trained.item_vectors_from_features(features))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not safetensors at all", id="garbage"),
        pytest.param(save_state(UserTower(CONFIG))[:-8], id="cut off"),
        pytest.param(save_state(UserTower(replace(CONFIG, dimension=32))), id="other shape"),
        pytest.param(save_state(UserTower(CONFIG).double()), id="other dtype"),
        pytest.param(save_state(JointHeads(CONFIG)), id="other module"),
    ],
)
def test_weights_that_do_not_fit_are_refused(content: bytes) -> None:
    """A damaged or foreign file raises ArtifactError and leaves the tower as it was."""
    tower, _ = towers()
    before = save_state(tower)
    with pytest.raises(ArtifactError):
        load_state(tower, content)
    assert save_state(tower) == before


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e30])
def test_weights_that_no_training_gives_are_refused(value: float) -> None:
    """One is enough; the tower stays as it was."""
    tower, _ = towers()
    before = save_state(tower)
    tensors = safetensors.torch.load(before)
    next(iter(tensors.values())).view(-1)[0] = value
    with pytest.raises(ArtifactError, match="no training gives"):
        load_state(tower, safetensors.torch.save(tensors))
    assert save_state(tower) == before


def test_a_configuration_far_larger_than_its_weights_is_refused() -> None:
    """Before its tower takes the memory: this one would take tens of gigabytes."""
    content = save_state(towers()[0])
    check_size(CONFIG, len(content), "small")
    with pytest.raises(ArtifactError, match="large"):
        check_size(replace(CONFIG, dimension=4096, n_layers=48), len(content), "large")


def test_a_missing_file_is_an_artifact_error(tmp_path: Path) -> None:
    """A path that does not exist raises ArtifactError."""
    with pytest.raises(ArtifactError):
        load_state(JointHeads(CONFIG), tmp_path / "gone.safetensors")
