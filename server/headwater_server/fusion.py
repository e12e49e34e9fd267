"""Several rankings of items into one, by reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

K = 60
"""The paper's constant: how little the first few places count more than those after them."""


class Ranking(NamedTuple):
    """What one source says of items."""

    item_ids: Sequence[str]
    """Best first, each once."""
    weight: float = 1.0
    """How much it counts beside others."""


class Fused(NamedTuple):
    """An item that at least one of the rankings holds."""

    item_id: str
    score: float
    """Σ weight / (K + rank) over the rankings that hold it."""
    sources: tuple[str, ...]
    """The names of those rankings."""


def fuse(rankings: Mapping[str, Ranking]) -> list[Fused]:
    """The items of all rankings, highest score first; of equals the one found first."""
    scores: dict[str, float] = {}
    sources: dict[str, list[str]] = {}
    for source, ranking in rankings.items():
        for rank, item_id in enumerate(ranking.item_ids, start=1):
            scores[item_id] = scores.get(item_id, 0.0) + ranking.weight / (K + rank)
            sources.setdefault(item_id, []).append(source)
    fused = [Fused(item_id, score, tuple(sources[item_id])) for item_id, score in scores.items()]
    return sorted(fused, key=lambda item: -item.score)
