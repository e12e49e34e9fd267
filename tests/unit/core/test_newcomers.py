"""New items inherit the bonuses of the learned items that they are most like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core import newcomers
from headwater_core.co_visits import NO_BONUSES, Bonuses
from headwater_core.newcomers import NEIGHBOURS, NOBODY, inherit


def bonuses(**values: float) -> Bonuses:
    items = sorted(int(name[1:]) for name in values)
    return Bonuses(np.array(items), np.array([values[f"i{item}"] for item in items], np.float32))


def table(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_the_nearer_leaves_more() -> None:
    """A mean of the neighbours' bonuses, by their cosines; what points away leaves nothing."""
    learned = table((2.0, 0.0), (1.0, 1.0), (-1.0, 0.0))
    found = inherit(np.array([7]), table((0.1, 0.0)), np.arange(3), learned.__getitem__).of(bonuses(i0=1.0, i2=5.0))
    assert found.items.tolist() == [0, 2, 7]
    assert found.values[2] == pytest.approx(1.0 / (1.0 + 0.5**2), rel=1e-5)


def test_a_bonus_of_ones_own_makes_way() -> None:
    """Who is new is told by whoever asks; inherited bonuses are not inherited on."""
    learned = table((1.0, 0.0))
    first = inherit(np.array([3]), table((1.0, 0.0)), np.array([0]), lambda _: learned)
    both = first.joined(inherit(np.array([5]), table((1.0, 0.0)), np.array([0]), lambda _: learned))
    found = both.of(bonuses(i0=1.0, i3=9.0))
    assert dict(zip(found.items.tolist(), found.values.tolist(), strict=True)) == {0: 1.0, 3: 1.0, 5: 1.0}


def test_without_bonuses_or_new_items_nothing_changes() -> None:
    """Nor where nothing was learned."""
    assert inherit(np.array([1]), table((1.0,)), np.empty(0, np.int64), lambda rows: table()[rows]) is NOBODY
    given_ = bonuses(i0=1.0)
    assert NOBODY.of(given_) is given_
    one = inherit(np.array([1]), table((1.0,)), np.array([0]), lambda _: table((1.0,)))
    assert one.of(NO_BONUSES) is NO_BONUSES
    assert NOBODY.joined(one) is one and one.joined(NOBODY) is one


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), m=st.integers(1, 5), chunk=st.integers(1, 70))
def test_the_nearest_are_found_in_chunks(seed: int, n: int, m: int, chunk: int) -> None:
    """Whatever is held at a time, the neighbours are the best by cosine."""
    rng = np.random.default_rng(seed)
    learned, new = rng.normal(size=(n, 3)).astype(np.float32), rng.normal(size=(m, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newcomers, "_CHUNK", chunk)
        found = inherit(np.arange(n, n + m), new, np.arange(n), learned.__getitem__)
    cosines = newcomers.unit_vectors(new) @ newcomers.unit_vectors(learned).T
    best = np.sort(cosines, axis=1)[:, ::-1][:, :NEIGHBOURS]
    taken = np.take_along_axis(cosines, found.neighbours, 1)
    np.testing.assert_allclose(np.sort(taken, axis=1)[:, ::-1], best, atol=1e-6)
    assert np.all((found.shares >= 0) & (found.shares.sum(1, keepdims=True) <= 1 + 1e-5))
