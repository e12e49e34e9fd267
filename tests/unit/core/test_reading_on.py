"""A history that is read on is read as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from headwater_core.events import HistoryEvent
from headwater_core.histories import collate, tokens
from headwater_core.reading_on import read_on
from headwater_core.towers import TowerConfig, UserTower

CONFIG = TowerConfig(
    dimension=16,
    n_layers=2,
    n_heads=2,
    n_interests=2,
    history_length=20,
    text_dimension=4,
    event_types=("click", "rating"),
    value_mean=(0.0, 3.0),
    value_std=(1.0, 1.0),
)
N_ITEMS = 50
VECTORS = torch.randn(N_ITEMS + 1, 16, generator=torch.Generator().manual_seed(1)) * 0.1


def tower(**changes: int) -> UserTower:
    torch.manual_seed(0)
    made = UserTower(TowerConfig(**{**CONFIG.to_dict(), **changes})).eval()
    with torch.no_grad():  # as far from its start as training takes it
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def history(n: int, seed: int) -> list[HistoryEvent]:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(0, 10**9, n))
    return [
        HistoryEvent(k, int(times[k]), "search", query="train")
        if rng.random() < 0.2
        else HistoryEvent(k, int(times[k]), str(rng.choice(["click", "rating"])), str(rng.integers(1, N_ITEMS)), 4.0)
        for k in range(n)
    ]


def features(texts: Sequence[str]) -> np.ndarray:
    return np.array([[text.count(letter) for letter in "aeir"] for text in texts], np.float16)


def whole(model: UserTower, events: Sequence[Sequence[HistoryEvent]]) -> torch.Tensor:
    batch = collate([tokens(each, model.config, int) for each in events], model.config, features)
    interests: torch.Tensor = model(batch, VECTORS[batch.item_rows])
    return interests


def read(
    model: UserTower, events: Sequence[Sequence[HistoryEvent]], before: Sequence[int], memories: Sequence[Any]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Read what comes after the first events of each, of which only the last is there to tell the gap."""
    after = [each[max(0, count - 1) :] for each, count in zip(events, before, strict=True)]
    sequences = [tokens(each, model.config, int) for each in after]
    batch = collate(sequences, model.config, features, read_before=[min(1, count) for count in before])
    return read_on(model, batch, VECTORS[batch.item_rows], memories)


@pytest.mark.parametrize("n_interests", [1, 2])
@torch.inference_mode()
def test_what_is_read_in_parts_is_read_as_a_whole(n_interests: int) -> None:
    """In any parts, in batches with others that are shorter, longer or new."""
    model = tower(n_interests=n_interests)
    lengths, cuts = [20, 7, 12, 1, 15], [[3, 4, 19], [0, 1, 6], [0, 11, 11], [0, 0, 0], [1, 2, 3]]
    events = [history(length, seed) for seed, length in enumerate(lengths)]
    memories: list[Any] = [None] * len(events)
    before = [0] * len(events)
    for step in range(4):
        up_to = [cut[step] if step < 3 else length for cut, length in zip(cuts, lengths, strict=True)]
        moving = [at for at in range(len(events)) if up_to[at] > before[at]]
        parts = [events[at][: up_to[at]] for at in moving]
        found, kept = read(model, parts, [before[at] for at in moving], [memories[at] for at in moving])
        assert found.shape == (len(moving), n_interests, 16)
        assert torch.allclose(found, whole(model, parts), atol=2e-5)
        for at, memory in zip(moving, kept, strict=True):
            memories[at], before[at] = memory, up_to[at]
            assert memory.shape == (3, 2, 2, up_to[at], 8)


@torch.inference_mode()
def test_reading_for_the_first_time_remembers_as_reading_bit_by_bit() -> None:
    """The memories are the same, too, to rounding."""
    model = tower()
    events = [history(10, seed=9)]
    _, [at_once] = read(model, events, [0], [None])
    _, [half] = read(model, [events[0][:6]], [0], [None])
    _, [twice] = read(model, events, [6], [half])
    assert torch.allclose(at_once, twice, atol=2e-5)
