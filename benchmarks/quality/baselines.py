"""The baselines that need no gradient, each with all of its options chosen on validation by NDCG@10."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from division import Division
from item_neighbours import ItemNeighbours, Recency, co_visits, cosine_neighbours, damped, nearest, rank_in_row
from scipy import sparse
from sequences import Score, Sequences, Validation, encode
from tuning import Options, climb

from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.ranked_lists import ranked_lists

_DAY_US = 86_400_000_000
_EVERYTHING = 1_000_000
_TINY = np.float32(1e-12)


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a baseline made of the data."""

    lists: list[list[str]]
    options: Options
    validation_ndcg_at_10: float


@dataclass(frozen=True, slots=True)
class _Learned:
    """What a baseline counts in."""

    events: Sequences
    popularity: np.ndarray  # (N,) float32
    has_times: bool
    allow_repeats: bool
    has_ties: bool
    """Whether any user has blocks of several events."""


Make = Callable[[_Learned], Callable[[Options], Score]]
"""Given what may be counted, gives for options a way of scoring."""


def popular(learned: _Learned) -> Callable[[Options], Score]:
    """Items by their number of events."""
    return lambda _: lambda asked: np.tile(learned.popularity, (len(asked.starts) - 1, 1))


def recent_popular(learned: _Learned) -> Callable[[Options], Score]:
    """Items by their number of events in a window of time; equal ones by all of their events.

    The window ends where the data does or, for each user, at the last event of their history: never later, as the
    target's own time is not to be known. Without times it is the last share of each user's events.
    """
    events = learned.events
    order = np.argsort(events.times_us, kind="stable")
    times_us, items = events.times_us[order], events.items[order]
    ties = learned.popularity / (learned.popularity.sum() + 1.0)  # below 1 together
    n_items = len(learned.popularity)

    def with_times(options: Options) -> Score:
        def score(asked: Sequences) -> np.ndarray:
            ends_us = np.full(len(asked.starts) - 1, times_us[-1] if len(times_us) else 0)
            known = np.flatnonzero(np.diff(asked.starts))
            if options["until"] == "last event":
                ends_us[known] = asked.times_us[asked.starts[known + 1] - 1]
            found = np.empty((len(ends_us), n_items), np.float32)
            last = np.searchsorted(times_us, ends_us, "right")
            first = np.searchsorted(times_us, ends_us - round(options["days"] * _DAY_US), "right")
            windows, users = np.unique(np.stack([first, last], 1), axis=0, return_inverse=True)
            for index, (start, stop) in enumerate(windows):
                found[users.ravel() == index] = np.bincount(items[start:stop], minlength=n_items) + ties
            return found

        return score

    def without_times(options: Options) -> Score:
        lengths = np.diff(events.starts)
        from_end = events.starts[events.users + 1] - np.arange(len(events.items))  # (E,) 1 for a user's last event
        kept = from_end <= np.ceil(options["share"] * lengths[events.users])
        counts = (np.bincount(events.items[kept], minlength=n_items) + ties).astype(np.float32)
        return lambda asked: np.tile(counts, (len(asked.starts) - 1, 1))

    return with_times if learned.has_times else without_times


def item_knn(learned: _Learned) -> Callable[[Options], Score]:
    """Cosine of binary columns, each item's k nearest alone, summed over the user's last items."""
    n_items = len(learned.popularity)
    cosines = cosine_neighbours(learned.events, n_items)
    ranks = rank_in_row(cosines)
    matrix = lru_cache(maxsize=8)(lambda k: nearest(cosines, ranks, k))
    return lambda options: ItemNeighbours(matrix(options["k"]), Recency(options["last"], binary=True)).score


def co_visitation(learned: _Learned) -> Callable[[Options], Score]:
    """Which item follows which within a window, by 1 / distance; damped by popularity, summed over the last items.

    Where repeats are allowed, the user's own items join in: both scores as shares of the user's highest.
    """
    n_items = len(learned.popularity)
    own_score = own_items(learned)

    @lru_cache(maxsize=2)
    def counts(window: int, by_block: bool, pairs_in_block: bool) -> sparse.csr_array:
        return co_visits(learned.events, n_items, window, by_block=by_block, pairs_in_block=pairs_in_block)

    @lru_cache(maxsize=2)
    def matrix(window: int, by_block: bool, pairs_in_block: bool, exponent: float) -> sparse.csr_array:
        return damped(counts(window, by_block, pairs_in_block), learned.popularity, exponent)

    def with_options(options: Options) -> Score:
        strengths = matrix(*(options[name] for name in ("window", "by_block", "pairs_in_block", "exponent")))
        recency = Recency(options["last"], options["decay"], by_block=options["decay_by_block"])
        visits = ItemNeighbours(strengths, recency).score
        if not options["own"]:
            return visits
        own = own_score({"by_block": options["decay_by_block"], "decay": options["own_decay"]})
        return lambda asked: _shares(visits(asked)) + options["own"] * _shares(own(asked))

    return with_options


def own_items(learned: _Learned) -> Callable[[Options], Score]:
    """The user's own items by decayed count; after them what is popular."""
    itself = sparse.eye_array(len(learned.popularity), dtype=np.float32, format="csr")

    def with_options(options: Options) -> Score:
        return ItemNeighbours(itself, Recency(_EVERYTHING, options["decay"], by_block=options["by_block"])).score

    return with_options


def _shares(scores: np.ndarray) -> np.ndarray:
    """(B, N) scores as shares of each row's highest."""
    found: np.ndarray = scores / np.maximum(scores.max(1, keepdims=True), _TINY)
    return found


def _grid(name: str, learned: _Learned) -> tuple[dict[str, Sequence[object]], Options]:
    """What to try and where to begin."""
    yes_no = (False, True) if learned.has_ties else (False,)
    if name == "recent-popular":
        if not learned.has_times:
            return {"share": (0.1, 0.2, 0.3, 0.5, 1.0)}, {"share": 0.2}
        days = (1, 3, 7, 14, 30, 90, 180, 365, 730, 1825)
        return {"until": ("end of data", "last event"), "days": days}, {"until": "last event", "days": 30}
    if name == "item-knn":
        return (
            {"last": (3, 5, 10, 20, 50, _EVERYTHING), "k": (10, 20, 50, 100, 200, 500, _EVERYTHING)},
            {"last": 10, "k": 100},
        )
    if name == "co-visitation":
        start: Options = {
            "window": 5,
            "by_block": False,
            "pairs_in_block": False,
            "decay_by_block": False,
            "decay": 0.6,
            "last": 20,
            "exponent": 0.25,
            "own": 0.0,
            "own_decay": 0.9,
        }
        grid: dict[str, Sequence[object]] = {
            "window": (1, 2, 3, 5, 7, 10) if learned.has_ties else (3, 5, 7, 10),
            "by_block": yes_no,
            "pairs_in_block": yes_no,
            "decay_by_block": yes_no,
            "decay": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
            "last": (5, 10, 20, 50, 100),
            "exponent": (0.0, 0.125, 0.25, 0.375, 0.5, 0.75),
        }
        if learned.allow_repeats:
            grid |= {"own": (0.0, 0.3, 1.0, 2.0, 4.0, 8.0), "own_decay": (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)}
        return grid, start
    if name == "own-items":
        return (
            {"by_block": yes_no, "decay": (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)},
            {"by_block": False, "decay": 0.9},
        )
    return {}, {}


BASELINES: dict[str, Make] = {
    "popular": popular,
    "recent-popular": recent_popular,
    "item-knn": item_knn,
    "co-visitation": co_visitation,
    "own-items": own_items,
}


def rank_with(name: str, division: Division) -> Ranked:
    """Choose the baseline's options on validation, count in all that may be learned, and make the lists."""
    places = {item_id: place for place, item_id in enumerate(division.candidates)}
    tuned_on = _learned([user.learned for user in division.users], division, places)
    make = BASELINES[name]
    with_options = make(tuned_on)
    validation = Validation(division, places)
    grid, start = _grid(name, tuned_on)
    options, value = climb(grid, start, lambda each: validation.ndcg_at_10(with_options(each)))
    if division.learn_validation:
        with_options = make(_learned(division.training(), division, places))
    scorer = _Scorer(division, places, with_options(options))
    lists = ranked_lists(scorer, [user.history for user in division.asked], allow_repeats=division.allow_repeats)
    return Ranked(lists, options, value)


class _Scorer:
    """A way of scoring, as `ranked_lists` asks for it."""

    def __init__(self, division: Division, places: dict[str, int], score: Score) -> None:
        self.item_ids = division.candidates
        self._is_target = division.is_target
        self._places = places
        self._score = score

    def score_batch(
        self,
        histories: Sequence[Sequence[HistoryEvent]],
        query_times_us: Sequence[int] | None = None,
    ) -> np.ndarray:
        """(B, N) float32; no baseline reads when it is asked."""
        return self._score(encode(histories, self._places, self._is_target))


def _learned(histories: Sequence[Sequence[HistoryEvent]], division: Division, places: dict[str, int]) -> _Learned:
    events = encode(histories, places, division.is_target)
    blocks = events.blocks
    popularity = np.bincount(events.items, minlength=len(places)).astype(np.float32)
    has_ties = len(np.unique(blocks)) < len(blocks)
    return _Learned(events, popularity, division.has_times, division.allow_repeats, has_ties)
