"""What users turned away from: it casts no vote for anything, and what is like it counts for less.

The latest event on an item says how a user stands to it: who dislikes what they once liked dislikes it, and who likes
it again does not. The same functions serve, validate and evaluate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

DISLIKES = 20
"""So many of a user's latest dislikes are looked at."""
_SHARE = 0.3
"""How much of what can be taken off at most one dislike of something just alike takes."""
_HALF_LIFE = 20
"""After so many later dislikes one takes half as much."""
_SHARPNESS = 4
"""Likeness counts to this power: what shares one category of four is hardly alike."""


def voters(items: Sequence[Hashable], against: Sequence[bool]) -> list[int]:
    """The places of the events that speak for their items: those on items that the user does not dislike now.

    Args:
        items: of the history's events, the last event first.
        against: whether each event speaks against its item.
    """
    latest: dict[Hashable, bool] = {}
    for item, is_against in zip(items, against, strict=True):
        latest.setdefault(item, is_against)
    return [at for at, item in enumerate(items) if not (latest[item] or against[at])]


def disliked(items: Iterable[Key], against: Iterable[bool]) -> Iterator[Key]:
    """The different items that the user dislikes now, the latest dislike first. Args: as `voters`."""
    met: set[Key] = set()
    for item, is_against in zip(items, against, strict=True):
        if is_against and item not in met:
            yield item
        met.add(item)


def aversion(categories: Collection[str], averse: Sequence[frozenset[str]]) -> float:
    """How much speaks against an item of these categories: 0, nothing, to 1.

    Each dislike says no with a probability of its own (noisy or): the more categories both items share (cosine) and
    the fresher it is, the higher. Categories tell better than vectors, which follow what is watched together, liked or
    not (docs/strategy.md has the figures).

    Args:
        categories: the item's.
        averse: the categories of each disliked item, the latest dislike first.
    """
    own = frozenset(categories)
    kept = 1.0
    for age, theirs in enumerate(averse):
        if shared := len(own & theirs):
            likeness = shared / math.sqrt(len(own) * len(theirs))
            kept *= 1.0 - _SHARE * 0.5 ** (age / _HALF_LIFE) * likeness**_SHARPNESS
    return 1.0 - kept
