"""How a learner trains, and for how long."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from headwater_core.events import EventType, HistoryEvent
from headwater_core.towers import TowerConfig

_REPEAT_SHARE = 0.02
"""Above it repeats are habit, below it accident."""


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """How to train; the towers' own configuration is part of it."""

    tower: TowerConfig
    target_weights: Mapping[str, float]
    """Event type → how much its events count as targets of the next-item loss; types left out are no targets."""
    exclude_seen: bool = True
    """Whether items of the user's history are left out when targets are ranked; False where users repeat items."""
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    gradient_norm: float = 1.0
    """The user tower's, heads' and shared weights' gradient is cut to this length."""
    batch_tokens: int = 2048
    """Padded events in a batch."""
    warm_up: float = 0.05
    """Share of the budget over which the learning rate rises; a cosine then takes it to a hundredth."""
    patience: int = 4
    """After so many validations without a better one full training lets the learning rate fall, and ends."""
    max_validation_users: int = 2000
    full_softmax_limit: int = 20_000
    """Up to so many candidates the softmax is full, beyond it is sampled."""
    n_negatives: int = 1024
    softmax_without_seen: bool = True
    """Whether, with `exclude_seen`, what a user has met is left out of the softmax, too."""
    value_loss_weight: float = 0.2
    type_loss_weight: float = 0.05
    head_targets: int = 512
    """How many targets of a batch the heads learn from."""
    head_references: int = 9
    """Items drawn for each of them; they stand for `reference_exposure`."""
    reference_exposure: int = 99
    """Among how many items drawn by popularity a target is taken to have been shown."""
    type_dropout: float = 0.05
    """How often full training hides an event's type, so that types it never meets are read sensibly too."""
    query_gap_dropout: float = 0.1
    """How often training hides from towers that read it when they are asked, so that they can do without."""
    co_visitation_scale: float = 4.0
    """How much of the id embeddings' start is co-visitation, relative to noise; 0 starts them at random."""
    text_ridge: float = 1.0
    """How strongly the projection of texts is kept small, in mean item weights."""
    online_history_length: int = 32
    """How many events before a target an incremental step reads: fewer than serving does, to keep steps short."""
    online_learning_rate: float = 2e-4
    """Of the user tower and the heads in incremental steps."""
    online_id_learning_rate: float = 2e-3
    new_item_boost: float = 20.0
    """By how much more than that an item's id moves in its first incremental step, falling with its steps."""
    replay_share: float = 0.5
    """How much of an incremental step's loss is on replayed examples."""
    touched_replay_rows: int = 100
    """How many items of replayed targets may move in one incremental step, beside those of the new ones."""

    def scheduled_rate(self, share: float) -> float:
        """The learning rate of full training once `share` (0 to 1) of the budget is used."""
        if share < self.warm_up:
            return self.learning_rate * max(share / self.warm_up, 0.02)
        return self.learning_rate * falling((share - self.warm_up) / max(1.0 - self.warm_up, 1e-9))


def falling(progress: float) -> float:
    """A cosine from 1 to a hundredth. Args: progress: 0 to 1."""
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def target_weights(event_types: Mapping[str, EventType]) -> dict[str, float]:
    """What each registered type counts as a target: its weight; negative types and non-targets are left out."""
    return {name: event_type.target_weight for name, event_type in event_types.items() if event_type.target_weight > 0}


def negative_types(event_types: Mapping[str, EventType]) -> frozenset[str]:
    """The registered types that speak against their item."""
    return frozenset(name for name, event_type in event_types.items() if event_type.is_negative)


def users_repeat(histories: Iterable[Sequence[HistoryEvent]], target_types: Container[str]) -> bool:
    """Whether users come back to items (shops, music) or hardly ever do (ratings): decides `exclude_seen`."""
    targets, repeats = 0, 0
    for events in histories:
        items = [event.item_id for event in events if event.item_id and event.event_type in target_types]
        targets += len(items)
        repeats += len(items) - len(set(items))
    return repeats > _REPEAT_SHARE * targets


@dataclass(frozen=True, slots=True)
class Budget:
    """When full training ends, whichever comes first. With epochs alone, a seed fixes the result."""

    seconds: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        """Refuse a budget without end.

        Raises:
            ValueError: when neither is given.
        """
        if not self.seconds and not self.epochs:
            raise ValueError("a budget needs seconds, epochs or both")

    def share(self, elapsed_s: float, epochs: float) -> float:
        """How much of the budget is used, 0 to 1."""
        by_time = elapsed_s / self.seconds if self.seconds else 0.0
        by_epochs = epochs / self.epochs if self.epochs else 0.0
        return min(max(by_time, by_epochs), 1.0)
