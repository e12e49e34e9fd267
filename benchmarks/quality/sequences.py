"""Users' events as flat arrays, and how well a way of scoring foresees the validation blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from division import Division

from headwater_core.events import HistoryEvent

MAX_VALIDATION_USERS = 2_000
_CUT = 10
_CHUNK_ELEMENTS = 4_000_000


@dataclass(frozen=True, slots=True)
class Sequences:
    """Events of U users, each user's together, oldest first. Items are places among the N candidates."""

    starts: np.ndarray  # (U + 1,) int64, where each user's events begin
    items: np.ndarray  # (E,) int64
    times_us: np.ndarray  # (E,) int64

    @property
    def users(self) -> np.ndarray:
        """(E,) int64: whose event it is."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @property
    def blocks(self) -> np.ndarray:
        """(E,) int64: events of one user that share a time have the same number; it rises from block to block."""
        if not len(self.items):
            return np.empty(0, np.int64)
        is_new = np.r_[False, (np.diff(self.users) != 0) | (np.diff(self.times_us) != 0)]
        return np.cumsum(is_new)

    def part(self, start: int, stop: int) -> Sequences:
        """Users start to stop alone."""
        first, last = self.starts[start], self.starts[min(stop, len(self.starts) - 1)]
        return Sequences(self.starts[start : stop + 1] - first, self.items[first:last], self.times_us[first:last])


def encode(
    histories: Iterable[Sequence[HistoryEvent]],
    places: Mapping[str, int],
    is_target: Callable[[HistoryEvent], bool],
) -> Sequences:
    """The events that count as targets; items without a place are left out."""
    starts, items, times_us = [0], [], []
    for events in histories:
        for event in events:
            place = places.get(event.item_id)
            if place is not None and is_target(event):
                items.append(place)
                times_us.append(event.event_time_us)
        starts.append(len(items))
    return Sequences(np.array(starts, np.int64), np.array(items, np.int64), np.array(times_us, np.int64))


Score = Callable[[Sequences], np.ndarray]
"""From B users' sequences to (B, N) float32 scores of all candidates, higher is better."""


class Validation:
    """Asks for the validation blocks of up to 2,000 users, given what comes before them."""

    def __init__(self, division: Division, places: Mapping[str, int], seed: int = 0) -> None:
        """Args: division: of the data; places: of the candidates; seed: of which users are asked."""
        users = [user for user in division.users if user.validation_targets]
        if len(users) > MAX_VALIDATION_USERS:
            chosen = np.random.default_rng(seed).choice(len(users), MAX_VALIDATION_USERS, replace=False)
            users = [users[index] for index in sorted(chosen)]
        self._asked = encode([user.learned for user in users], places, division.is_target)
        self._seen = [[places[event.item_id] for event in user.learned if event.item_id in places] for user in users]
        self._targets = [np.array([places.get(item, -1) for item in user.validation_targets]) for user in users]
        self._allow_repeats = division.allow_repeats
        self._step = max(1, _CHUNK_ELEMENTS // len(places))

    def ndcg_at_10(self, score: Score) -> float:
        """Mean over users of the mean over their targets; what was seen is left out unless repeats are allowed."""
        gains: list[float] = []
        for start in range(0, len(self._targets), self._step):
            scores = np.array(score(self._asked.part(start, start + self._step)), np.float32)  # (B, N)
            if not self._allow_repeats:
                for row, seen in enumerate(self._seen[start : start + self._step]):
                    scores[row, seen] = -np.inf
            best = _best(scores, _CUT)  # (B, 10)
            discounts = 1.0 / np.log2(np.arange(best.shape[1]) + 2.0)
            for row, targets in enumerate(self._targets[start : start + self._step]):
                gains.append(float(np.isin(best[row], targets) @ discounts) / len(targets))
        return float(np.mean(gains)) if gains else 0.0


def _best(scores: np.ndarray, length: int) -> np.ndarray:
    """The places of the highest scores of each row, best first, equal ones by place. (B, length) int64."""
    length = min(length, scores.shape[1])
    found = np.sort(np.argpartition(-scores, length - 1, axis=1)[:, :length], axis=1)
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    ordered: np.ndarray = np.take_along_axis(found, order, axis=1)
    return ordered
