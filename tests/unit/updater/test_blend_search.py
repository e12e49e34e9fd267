"""The blend follows what ranks better, and stays where nothing does."""

from __future__ import annotations

import json

import numpy as np

from headwater_core.co_visits import Blend
from headwater_core.trends import HALF_LIVES
from headwater_updater.blend_search import BlendSearch, neighbours
from headwater_updater.prequential import ScoredTarget


def targets(search: BlendSearch, best: Blend, n: int, seed: int = 0, share: float = 0.1) -> list[ScoredTarget]:
    """A tenth of them rank first under one blend only, the others equally under all."""
    rng = np.random.default_rng(seed)
    found = []
    for position in range(n):
        rank = int(rng.integers(1, 30))
        lucky = rng.random() < share
        ranks = tuple(1 if lucky and blend == best else rank for blend in search.blends)
        found.append(ScoredTarget(position, ranks[0], False, False, ranks_under=ranks))
    return found


def test_a_neighbour_that_ranks_better_takes_over() -> None:
    """After enough targets; its own neighbours are on trial from then on."""
    search = BlendSearch(Blend(strength=1.0), with_repeats=False)
    better = Blend(strength=1.5)
    assert better in search.blends
    assert not search.observe(targets(search, better, 90))
    assert search.observe(targets(search, better, 300, seed=1))
    assert search.blend == better
    assert Blend(strength=2.0) in search.blends


def test_without_a_difference_it_stays() -> None:
    """And where nothing was known of a user, blends say nothing."""
    search = BlendSearch(Blend(strength=1.0), with_repeats=True)
    for seed in range(20):
        assert not search.observe(targets(search, Blend(strength=99.0), 500, seed))
    assert not search.observe([ScoredTarget(1, 1, False, True)] * 1000)
    assert search.blend == Blend(strength=1.0)


def test_what_was_better_long_ago_counts_less() -> None:
    """The search follows drift: a neighbour that is better from now on wins against a past of equality."""
    search = BlendSearch(Blend(strength=1.0), with_repeats=False)
    for seed in range(20):
        search.observe(targets(search, Blend(strength=99.0), 1000, seed))
    better = Blend(strength=0.6)
    moved = [search.observe(targets(search, better, 500, seed)) for seed in range(4)]
    assert any(moved)


def test_neighbours_differ_in_one_respect() -> None:
    """Of a blend without a trend, by which trend there would be."""
    for blend in (Blend(), Blend(strength=1.0, repeat_strength=0.8, trend_strength=0.3)):
        for other in neighbours(blend, with_repeats=True):
            changed = {name for name, value in other.to_dict().items() if value != blend.to_dict()[name]}
            assert len({"trend" if name.startswith("trend") else name for name in changed}) == 1
    assert {n.trend_half_life for n in neighbours(Blend(), with_repeats=False) if n.trend_strength} == set(HALF_LIVES)
    assert not any(n.repeat_strength for n in neighbours(Blend(strength=1.0), with_repeats=False))


def test_it_goes_on_where_it_was() -> None:
    """Through JSON, to the same decisions."""
    search = BlendSearch(Blend(strength=1.0), with_repeats=False)
    search.observe(targets(search, Blend(strength=1.5), 90))
    resumed = BlendSearch.load_state(json.loads(json.dumps(search.state())))
    rest = targets(search, Blend(strength=1.5), 300, seed=1)
    assert resumed.observe(rest) == search.observe(rest)
    assert (resumed.blend, resumed.state()) == (search.blend, search.state())
    other = BlendSearch.load_state({**search.state(), "sums": [1.0]})
    assert (other.blend, other.state()["n"]) == (search.blend, 0.0)
