"""From what sources propose to a slate: fill, lower, boost, vary, give places, cap. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from headwater_core.catalogue import Item
from headwater_core.dislikes import aversion
from headwater_core.strategies import ATTRIBUTE_PREFIX, CATEGORY_KEY, Boost, Cap, Pin, SourceUse
from headwater_server.item_space import Found

PINNED = "pinned"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that may be shown."""

    item_id: str
    score: float
    sources: tuple[str, ...]
    """What proposed it, the first to do so first."""
    arm: str = ""
    """Of an interleaved slate: the experiment's arm whose place it has."""


def fill(slate: Sequence[Candidate], proposals: Iterable[Found], size: int) -> list[Candidate]:
    """The slate, filled up with what else is proposed when it is too short.

    Args:
        slate: best first.
        proposals: best first; their scores are replaced by ones below the slate's, in the same order.
        size: how many at most.
    """
    filled = list(slate[:size])
    taken = {candidate.item_id for candidate in filled}
    floor = min((candidate.score for candidate in filled), default=0.0)
    for each in proposals:
        if len(filled) >= size:
            break
        if each.item_id in taken:
            continue
        taken.add(each.item_id)
        score = floor - 1.0 - 0.01 * (len(filled) - len(slate)) if slate else each.score
        filled.append(Candidate(each.item_id, score, (each.source,)))
    return filled


def boost(
    slate: Sequence[Candidate], boosts: Sequence[Boost], items: Mapping[str, Item], *, is_log: bool
) -> list[Candidate]:
    """The slate in the order that boosts give it; an item of several gets the product.

    Args:
        slate: best first.
        boosts: what counts for more or for less.
        items: the catalogue.
        is_log: whether scores are logarithms of what is to be multiplied, as the scores of a softmax are.
    """

    def factor(item: Item) -> float:
        return math.prod(each.factor for each in boosts if each.value in values(item, each.key))

    return _rescaled(slate, factor, items, is_log=is_log)


def lower(
    slate: Sequence[Candidate], disliked: Sequence[Item], strength: float, items: Mapping[str, Item], *, is_log: bool
) -> list[Candidate]:
    """The slate with what is like disliked items further down.

    Args:
        slate: best first.
        disliked: the latest dislike first.
        strength: an item counts e^-strength times as much at the least.
        items: the catalogue.
        is_log: as in `boost`.
    """
    averse = [frozenset(item.categories) for item in disliked]
    return _rescaled(slate, lambda item: math.exp(-strength * aversion(item.categories, averse)), items, is_log=is_log)


def _rescaled(
    slate: Sequence[Candidate], factor: Callable[[Item], float], items: Mapping[str, Item], *, is_log: bool
) -> list[Candidate]:
    scaled = []
    for candidate in slate:
        item = items.get(candidate.item_id)
        times = 1.0 if item is None else factor(item)
        score = candidate.score + math.log(times) if is_log else candidate.score * times
        scaled.append(replace(candidate, score=score))
    return sorted(scaled, key=lambda candidate: -candidate.score)


def give_places(
    slate: Sequence[Candidate],
    uses: Sequence[SourceUse],
    proposals: Mapping[str, Sequence[Found]],
    before: int = 0,
) -> list[Candidate]:
    """Give sources places of their own: at each, the best of the source's items that is not in the slate yet.

    A place costs others theirs, the more the higher up it is. So of the first places a source gets one of `every`, the
    last of them, and below, the last of each `every_below`; none where one of its items stands in between already. Of
    two sources that are due at one place the first gets it, the other the next one.

    Args:
        slate: best first.
        uses: those of sources that have places.
        proposals: by source, best first.
        before: how many places earlier pages had.
    """
    placed = list(slate)
    present = {candidate.item_id for candidate in slate}
    turns = [_Turn(use, proposals.get(use.name, ()), before) for use in uses if use.every]
    for place, candidate in enumerate(slate, start=before + 1):
        is_given = False
        for turn in turns:
            newcomer = turn.at(place, candidate, present, may_take=not is_given)
            if newcomer is not None:
                is_given = True
                present.add(newcomer.item_id)
                # The displaced candidate's score keeps the answer sorted by score.
                placed[place - before - 1] = Candidate(newcomer.item_id, candidate.score, (newcomer.source,))
    return placed


@dataclass(slots=True)
class _Turn:
    """Where a source stands with its places."""

    use: SourceUse
    proposed: Sequence[Found]
    before: int
    is_met: bool = False
    """Whether one of its items stands between its last place and here."""
    due: int = field(init=False)
    """Its next place."""
    _next: Iterator[Found] = field(init=False)

    def __post_init__(self) -> None:
        every, below = self.use.places
        self.due = every if self.before < every else every + -(-(self.before + 1 - every) // below) * below
        self._next = iter(self.proposed)

    def at(self, place: int, there: Candidate, present: set[str], *, may_take: bool) -> Found | None:
        """What the source puts at a place in the stead of what is there; None: nothing."""
        self.is_met = self.is_met or self.use.name in there.sources
        if place < self.due or not (may_take or self.is_met):
            return None
        own = None if self.is_met else next((each for each in self._next if each.item_id not in present), None)
        below = self.use.places[1]
        self.due += below * max(1, -(-(place + 1 - self.due) // below))
        self.is_met = False
        return own


def pin(slate: Sequence[Candidate], pins: Sequence[Pin]) -> list[Candidate]:
    """The slate with pinned items at their places, or last where it is shorter; others move down."""
    pinned = {each.item_id for each in pins}
    scores = {candidate.item_id: candidate.score for candidate in slate}
    rest = [candidate for candidate in slate if candidate.item_id not in pinned]
    for each in sorted(pins, key=lambda each: each.place):
        at = min(each.place - 1, len(rest))
        neighbour = rest[at - 1].score if at else (rest[0].score if rest else 0.0)
        rest.insert(at, Candidate(each.item_id, min(neighbour, scores.get(each.item_id, neighbour)), (PINNED,)))
    return rest


def cap(slate: Iterable[Candidate], caps: Sequence[Cap], items: Mapping[str, Item], size: int) -> list[Candidate]:
    """The first of the slate that no cap refuses, at most `size`; what is pinned counts and is never refused."""
    counts: Counter[tuple[str, str]] = Counter()
    kept: list[Candidate] = []
    for candidate in slate:
        item = items.get(candidate.item_id)
        named = [(each, (each.key, value)) for each in caps for value in (values(item, each.key) if item else ())]
        if PINNED not in candidate.sources and any(counts[key] >= each.at_most for each, key in named):
            continue
        counts.update(key for _, key in named)
        kept.append(candidate)
        if len(kept) == size:
            break
    return kept


def values(item: Item, key: str) -> Sequence[str]:
    """What an item has under a strategy's key: its categories, or the attribute's value when it has one."""
    if key == CATEGORY_KEY:
        return item.categories
    value = item.attributes.get(key.removeprefix(ATTRIBUTE_PREFIX))
    return () if value is None else (value,)


def diversify(
    candidates: Sequence[Candidate], alike: npt.NDArray[np.float32], diversity: float, size: int
) -> list[Candidate]:
    """Re-order by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998).

    Args:
        candidates: best first, n of them.
        alike: how alike they are in pairs, at most 1, shape (n, n).
        diversity: 0 keeps the order, 1 looks at nothing but dissimilarity to what is already chosen.
        size: how many to choose.
    """
    if diversity <= 0.0 or len(candidates) <= 2:
        return list(candidates[:size])
    scores = np.array([candidate.score for candidate in candidates], dtype=np.float32)
    spread = float(scores.max() - scores.min()) or 1.0
    relevance = (scores - scores.min()) / spread  # (n,), 0..1
    nearest = np.full(len(candidates), -1.0, dtype=np.float32)  # most alike to anything chosen
    chosen: list[int] = []
    open_ = np.ones(len(candidates), dtype=bool)
    while len(chosen) < min(size, len(candidates)):
        gain = (1.0 - diversity) * relevance - (diversity * nearest if chosen else 0.0)
        best = int(np.argmax(np.where(open_, gain, -np.inf)))
        chosen.append(best)
        open_[best] = False
        nearest = np.maximum(nearest, alike[best])
    return [candidates[index] for index in chosen]
