"""Which of a user's events raised an item: those without which it would score lower, found by leaving each out in turn.

This is exact. What attention or gradients say of an event is an estimate of it, and names the wrong event often enough:
docs/reasons.md has the figures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.events import HistoryEvent
from headwater_core.shards import Vectors
from headwater_core.strategies import TOWER
from headwater_server.item_space import ItemSpace
from headwater_server.serving_generation import ServingGeneration

LATEST_EVENTS = 50
"""So many of a history's latest readable events are left out in turn; of earlier ones those on the answer's items."""
_BATCH_EVENTS = 4096
"""Events of the histories that are embedded together."""
NOISE = 1e-3
"""Scores may differ by so much, relative to 1, between batches of different shapes."""


class Raiser(NamedTuple):
    """An event that raised an item."""

    event: HistoryEvent
    is_context: bool
    """Whether the event is only that the user looks at the item just now."""
    fall: float
    """By how much the item's score is lower without the event; above 0."""
    share: float
    """The fall as a share of the falls of all events that raise the item."""


def raisers(
    generation: ServingGeneration,
    items: ItemSpace,
    history: Sequence[HistoryEvent],
    item_ids: Sequence[str],
    weights: Mapping[str, float],
    n_context: int = 0,
) -> dict[str, list[Raiser]]:
    """For each item the events that raised it, strongest first; items that no event raised are left out.

    For the compute threads.

    Args:
        generation: what scores.
        items: the space, as it was, that the answer came from.
        history: the user's, oldest event first.
        item_ids: the answer's.
        weights: how much each source counts.
        n_context: so many events at the history's end are what the user looks at just now.
    """
    rows = {item_id: row for item_id in item_ids if (row := items.row(item_id)) is not None}
    places = examined(items, history, rows)
    if not rows or not places:
        return {}
    by_event = falls(generation, items, history, places, list(rows.values()), weights)  # (m, n)
    found: dict[str, list[Raiser]] = {}
    for item_id, of_item in zip(rows, by_event.T, strict=True):
        raising = np.flatnonzero(of_item > NOISE)
        total = float(of_item[raising].sum())
        strongest = raising[np.argsort(-of_item[raising], kind="stable")].tolist()
        if strongest:
            found[item_id] = [
                Raiser(
                    history[places[at]],
                    places[at] >= len(history) - n_context,
                    float(of_item[at]),
                    float(of_item[at]) / total,
                )
                for at in strongest
            ]
    return found


def examined(items: ItemSpace, history: Sequence[HistoryEvent], item_ids: Collection[str]) -> list[int]:
    """The places of the events that are left out in turn, oldest first.

    The latest ones, and the latest on each of the answer's own items: users come back to what they had long ago.
    """
    places = readable(items, history)
    latest_on = {history[at].item_id: at for at in places}
    own = {at for item_id in item_ids if (at := latest_on.get(item_id)) is not None}
    return sorted(own.union(places[-LATEST_EVENTS:]))


def readable(items: ItemSpace, history: Sequence[HistoryEvent]) -> list[int]:
    """The places of the events that a model can read: searches, and events on items that have a vector."""
    return [at for at, event in enumerate(history) if event.query or items.row(event.item_id) is not None]


def falls(
    generation: ServingGeneration,
    items: ItemSpace,
    history: Sequence[HistoryEvent],
    places: Sequence[int],
    rows: Sequence[int],
    weights: Mapping[str, float],
) -> npt.NDArray[np.float32]:
    """By how much the scores of n rows fall when one of the events at m places of the history is left out, (m, n)."""
    histories = [history, *([*history[:at], *history[at + 1 :]] for at in places)]
    vectors, wanted = items.vectors(rows), np.asarray(rows, np.int64)
    size = max(1, _BATCH_EVENTS // len(history))
    scores: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(histories), size):
        part = histories[start : start + size]
        for events, interests in zip(part, generation.embed(part), strict=True):
            # The trend is left out: it is the same with and without an event.
            bonuses = items.inherited(generation.bonuses(events, weights))
            scores.append(_towers(interests, vectors) * np.float32(weights.get(TOWER, 1.0)) + bonuses.of(wanted))
    return scores[0] - np.stack(scores[1:])


def _towers(interests: Vectors, vectors: Vectors) -> npt.NDArray[np.float32]:
    """Each item's inner product with the interest that suits it best; 0 for nobody in particular. → (n,)."""
    if not len(interests):
        return np.zeros(len(vectors), np.float32)
    best: npt.NDArray[np.float32] = (vectors @ interests.T).max(axis=1)
    return best
