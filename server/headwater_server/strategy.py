"""From candidates to a slate: merge, fill, give new items a place, vary. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOWER = "tower"
CO_VISIT = "co_visit"
POPULAR = "popular"
FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that a source proposes."""

    item_id: str
    score: float
    source: str


def make_slate(personal: Sequence[Candidate], popular: Iterable[Candidate], size: int) -> list[Candidate]:
    """The best personal candidates, filled up with popular ones when they are too few.

    Args:
        personal: scored for the user, best first.
        popular: best first, read only as far as needed; their scores are replaced by ones below every personal score,
            in the same order.
        size: how many at most.
    """
    slate = list(personal[:size])
    taken = {candidate.item_id for candidate in slate}
    floor = min((candidate.score for candidate in slate), default=0.0)
    if len(slate) == size:
        return slate
    filling = (candidate for candidate in popular if candidate.item_id not in taken)
    for rank, candidate in enumerate(itertools.islice(filling, size - len(slate))):
        slate.append(Candidate(candidate.item_id, floor - 1.0 - 0.01 * rank if personal else candidate.score, POPULAR))
    return slate


def place_fresh(
    slate: list[Candidate], fresh: Sequence[Candidate], every: int, below: int, before: int = 0
) -> list[Candidate]:
    """Give new items their first impressions: at fixed places, the best one that is not yet in the slate.

    Room for new items costs others theirs, the more the higher up it is. So the first places give one of `every`, the
    last of them; what is below gives more, the last of each `below`. None is given where a new item stands already.

    Args:
        slate: best first.
        fresh: new items that fit the user well enough, best first.
        every: slates shorter than this are left as they are.
        below: how often there is a place after the first `every`.
        before: how many places earlier pages had.
    """
    placed = list(slate)
    present = {candidate.item_id for candidate in slate}
    newcomers = (candidate for candidate in fresh if candidate.item_id not in present)
    start = 0
    for place in range(len(placed)):
        beyond = before + place + 1 - every
        if beyond < 0 or beyond % below:
            continue
        window, start = placed[start : place + 1], place + 1
        if any(candidate.source == FRESH for candidate in window):
            continue
        newcomer = next(newcomers, None)
        if newcomer is None:
            break
        # The displaced candidate's score keeps the answer sorted by score.
        placed[place] = Candidate(newcomer.item_id, placed[place].score, FRESH)
    return placed


def diversify(
    candidates: Sequence[Candidate], vectors: npt.NDArray[np.float32], diversity: float, size: int
) -> list[Candidate]:
    """Re-order by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998).

    Args:
        candidates: best first, n of them.
        vectors: their item vectors, shape (n, d).
        diversity: 0 keeps the order, 1 looks at nothing but dissimilarity to what is already chosen.
        size: how many to choose.
    """
    if diversity <= 0.0 or len(candidates) <= 2:
        return list(candidates[:size])
    scores = np.array([candidate.score for candidate in candidates], dtype=np.float32)
    spread = float(scores.max() - scores.min()) or 1.0
    relevance = (scores - scores.min()) / spread  # (n,), 0..1
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    nearest = np.full(len(candidates), -1.0, dtype=np.float32)  # highest cosine to anything chosen
    chosen: list[int] = []
    open_ = np.ones(len(candidates), dtype=bool)
    while len(chosen) < min(size, len(candidates)):
        gain = (1.0 - diversity) * relevance - (diversity * nearest if chosen else 0.0)
        best = int(np.argmax(np.where(open_, gain, -np.inf)))
        chosen.append(best)
        open_[best] = False
        nearest = np.maximum(nearest, unit @ unit[best])
    return [candidates[index] for index in chosen]
