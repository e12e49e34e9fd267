"""The lists that users would be served: every candidate scored, the best taken. The one place where they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.csv_rows import OnShare

LIST_LENGTH = 100
_CHUNK_ELEMENTS = 8_000_000
_MAX_BATCH = 256


class Scorer(Protocol):
    """Scores every candidate for some users. What else finds items (co-visitation, text neighbours) joins behind it.

    Attributes:
        item_ids: the N candidates.
    """

    @property
    def item_ids(self) -> Sequence[str]: ...

    def score_batch(
        self, histories: Sequence[Sequence[HistoryEvent]], query_times_us: Sequence[int] | None = None
    ) -> np.ndarray:
        """(B, N) float32, higher is better, for users with these histories (oldest event first, some may be empty).

        With `query_times_us`, (B,), each is asked at that time; without, nobody says when.
        """
        ...


def ranked_lists(
    scorer: Scorer,
    histories: Sequence[Sequence[HistoryEvent]],
    *,
    allow_repeats: bool,
    length: int = LIST_LENGTH,
    query_times_us: Sequence[int] | None = None,
    on_share: OnShare | None = None,
) -> list[list[str]]:
    """For each history the best candidates, best first; equal scores in the candidates' order.

    Args:
        scorer: scores all candidates; none is sampled away.
        histories: oldest event first; an empty one is a user of whom nothing is known.
        allow_repeats: whether items of the history may be in the list; else it is shorter where few others are left.
        length: of a list.
        query_times_us: when each is asked, for a scorer that may know it.
        on_share: told how far it is.
    """
    item_ids = scorer.item_ids
    place = {item_id: index for index, item_id in enumerate(item_ids)}
    lists: list[list[str]] = [[] for _ in histories]
    order = sorted(range(len(histories)), key=lambda index: len(histories[index]))  # like lengths: less padding
    batch = min(_MAX_BATCH, max(1, _CHUNK_ELEMENTS // max(1, len(item_ids))))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        times_us = None if query_times_us is None else [query_times_us[index] for index in part]
        found = scorer.score_batch([histories[index] for index in part], times_us)
        scores = np.array(found, np.float32)  # (B, N), ours to change
        if not allow_repeats:
            for row, index in enumerate(part):
                seen = {place[event.item_id] for event in histories[index] if event.item_id in place}
                scores[row, list(seen)] = -np.inf
        for row, index in enumerate(part):
            lists[index] = [item_ids[best] for best in best_places(scores[row], length)]
        if on_share is not None:
            on_share((start + len(part)) / len(order))
    return lists


def best_places(scores: np.ndarray, length: int) -> np.ndarray:
    """The places of the highest of (N,) scores, best first, ties by place; −inf is never among them."""
    count = min(length, int(np.isfinite(scores).sum()))
    if not count:
        return np.empty(0, np.int64)
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    places = np.flatnonzero(scores >= threshold)  # count of them, or more where scores are equal
    ordered: np.ndarray = places[np.argsort(-scores[places], kind="stable")][:count]
    return ordered
