"""Checkpoints hold all of a learner, its co-visits and how they count included."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from headwater_core.co_visits import Blend
from headwater_core.errors import ArtifactError
from headwater_core.events import HistoryEvent
from headwater_core.towers import TowerConfig
from headwater_updater import checkpoint
from headwater_updater.examples import Example
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig

N_ITEMS = 12
CONFIG = LearnerConfig(
    TowerConfig(dimension=8, n_layers=1, text_dimension=2, event_types=("click",), value_mean=(0.0,), value_std=(1.0,)),
    {"click": 1.0},
    exclude_seen=False,
)
BLEND = Blend(strength=0.3, repeat_strength=1.7, sharpness=12.5, decay=0.9)


def history(seed: int, length: int = 9) -> list[HistoryEvent]:
    items = np.random.default_rng(seed).integers(0, N_ITEMS, length)
    return [HistoryEvent(n, n * 10**6, "click", f"i{i}") for n, i in enumerate(items, start=1)]


@pytest.fixture
def learner() -> Learner:
    learner = Learner.create(CONFIG, 0)
    learner.add_items([f"i{i}" for i in range(N_ITEMS)], np.zeros((N_ITEMS, 2)))
    learner.fit([history(seed) for seed in range(20)], Budget(epochs=1))
    learner.blend = BLEND
    return learner


def test_co_visits_and_their_blend_come_back(learner: Learner) -> None:
    """To the last bit; and they go on being counted as if nothing had happened."""
    resumed = Learner.load_state(learner.state())
    assert resumed.blend == BLEND
    assert (resumed.successors.counts > 0).any()
    for _ in range(2):
        np.testing.assert_array_equal(resumed.successors.rows, learner.successors.rows)
        np.testing.assert_array_equal(resumed.successors.counts, learner.successors.counts)
        assert resumed.state() == learner.state()
        asked = learner.tokens(history(99))
        for found, wanted in zip(resumed.bonuses(asked, BLEND), learner.bonuses(asked, BLEND), strict=True):
            np.testing.assert_array_equal(found, wanted)
        for each in (resumed, learner):
            each.add_items(["late"], np.ones((1, 2)))
            each.remove_items(["i3"])
            each.step([Example([*history(50), HistoryEvent(99, 10**9, "click", "late")], 4)], [Example(history(1), 5)])
        assert resumed.score([Example(history(7), 3)]) == learner.score([Example(history(7), 3)])


def changed(content: bytes, edit: dict[str, Any] | None = None, without: str = "") -> bytes:
    """The file with other metadata, or without a tensor."""
    tensors = {name: tensor for name, tensor in safetensors.torch.load(content).items() if name != without}
    metadata = checkpoint.metadata(content, "learner") | (edit or {})
    return safetensors.torch.save(tensors, {"learner": json.dumps(metadata)})


def test_what_does_not_hold_all_of_it_is_refused(learner: Learner) -> None:
    """An earlier schema, a blend that cannot work, successors that are missing or of other items."""
    content = learner.state()
    assert Learner.load_state(changed(content)).state() == content
    for damaged in (
        changed(content, {"schema_version": 1}),
        changed(content, {"blend": {"strength": -1.0}}),
        changed(content, {"blend": {"unheard_of": 1.0}}),
        changed(content, without="successors.rows"),
    ):
        with pytest.raises(ArtifactError):
            Learner.load_state(damaged)
    for width in (1, 3):
        tensors = safetensors.torch.load(content) | {"item_features": torch.zeros(N_ITEMS + 1, width).half()}
        metadata = {"learner": json.dumps(checkpoint.metadata(content, "learner"))}
        with pytest.raises(ArtifactError, match="item_features"):
            Learner.load_state(safetensors.torch.save(tensors, metadata))
    other = Learner.create(CONFIG, 0)
    other.add_items(["i0"], np.zeros((1, 2)))
    tensors = safetensors.torch.load(content) | {
        f"successors.{name}": tensor for name, tensor in other.successors.state(np.arange(2)).items()
    }
    metadata = {"learner": json.dumps(checkpoint.metadata(content, "learner"))}
    with pytest.raises(ArtifactError, match="successors"):
        Learner.load_state(safetensors.torch.save(tensors, metadata))


@pytest.mark.parametrize(
    ("name", "value"),
    [("id_embedding", math.nan), ("counts", math.inf), ("successors.rows", 999), ("successors.rows", -1)],
)
def test_numbers_that_learning_never_gives_are_refused(learner: Learner, name: str, value: float) -> None:
    """What is not finite, and rows that no item has."""
    content = learner.state()
    tensors = safetensors.torch.load(content)
    tensors[name].view(-1)[-1] = value
    metadata = {"learner": json.dumps(checkpoint.metadata(content, "learner"))}
    with pytest.raises(ArtifactError, match=name):
        Learner.load_state(safetensors.torch.save(tensors, metadata))


def test_a_delta_over_a_whole_checkpoint_is_the_whole(learner: Learner) -> None:
    """To the last bit, however much was learned, added and removed since; and it is far smaller."""
    base, n_base = learner.state(), len(learner.item_ids)
    learner.moved[:] = False
    for turn in range(3):
        learner.add_items([f"late-{turn}"], np.ones((1, 2)))
        learner.remove_items([f"i{turn}"])
        new = Example([*history(50 + turn), HistoryEvent(99, 10**9, "click", f"late-{turn}")], 4)
        learner.step([new], [Example(history(turn), 5)])
        delta = learner.state_delta(n_base)
        resumed = Learner.load_state(base, delta=delta)
        assert resumed.state() == learner.state()
        np.testing.assert_array_equal(resumed.moved, learner.moved)
        learner = resumed
    learner.add_items(["i0"], np.ones((1, 2)))  # an item that was removed before comes back
    assert Learner.load_state(base, delta=learner.state_delta(n_base)).state() == learner.state()


def test_a_delta_over_another_checkpoint_is_refused(learner: Learner) -> None:
    """They would not belong together."""
    learner.moved[:] = False
    delta = learner.state_delta(len(learner.item_ids) + 1)
    with pytest.raises(ArtifactError, match="delta"):
        Learner.load_state(learner.state(), delta=delta)
