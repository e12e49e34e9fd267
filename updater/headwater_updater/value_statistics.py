"""What values are usual for each event type, followed as they come: a rating of 4 means what it means of late.

Full training finds mean and deviation of all that was there. From then on they move with each value, the slower the
more were seen, never slower than 1 in _MEMORY: what the towers learned of normalised values stays true, because where
values drift, the numbers drift as slowly as the weights can follow. They are part of the towers' configuration, so a
generation is served with those that it was learned with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from headwater_core.events import HistoryEvent
from headwater_core.histories import MAX_ABS_VALUE, bounded
from headwater_core.towers import TowerConfig

_MEMORY = 10_000
_TRUSTED = 100
"""From so many values on, a far one is cut as the towers cut it: one quantity of thousands moves no mean."""


def count_values(config: TowerConfig, histories: Iterable[Sequence[HistoryEvent]]) -> np.ndarray:
    """How many values each event type has in these histories, (n types,) int64."""
    index = {name: at for at, name in enumerate(config.event_types)}
    counts = np.zeros(len(index), np.int64)
    for events in histories:
        for event in events:
            if event.value is not None and event.event_type in index:
                counts[index[event.event_type]] += 1
    return counts


def follow_values(config: TowerConfig, counts: np.ndarray, events: Iterable[HistoryEvent]) -> TowerConfig:
    """The configuration after these events.

    Args:
        config: of before.
        counts: (n types,) how many values of each type there were; counted on.
        events: in the order in which they are learned.
    """
    index = {name: at for at, name in enumerate(config.event_types)}
    means, stds = list(config.value_mean), list(config.value_std)
    for event in events:
        at = index.get(event.event_type)
        if at is None or event.value is None:
            continue
        counts[at] += 1
        if counts[at] == 1:
            means[at] = bounded(float(event.value))
            continue
        distance = bounded(event.value) - means[at]
        if counts[at] > _TRUSTED:
            distance = max(-MAX_ABS_VALUE * stds[at], min(MAX_ABS_VALUE * stds[at], distance))
        weight = 1.0 / min(int(counts[at]), _MEMORY)
        means[at] += weight * distance
        variance = (1.0 - weight) * (stds[at] ** 2 + weight * distance**2)
        stds[at] = math.sqrt(variance) if variance > 1e-9 else 1.0
    return replace(config, value_mean=tuple(means), value_std=tuple(stds))
