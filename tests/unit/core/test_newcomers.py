"""New items inherit the bonuses of the learned items that they are most like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core import newcomers
from headwater_core.co_visits import NO_BONUSES, Bonuses
from headwater_core.newcomers import NEIGHBOURS, Heritage, inherit


def bonuses(**values: float) -> Bonuses:
    items = sorted(int(name[1:]) for name in values)
    return Bonuses(np.array(items), np.array([values[f"i{item}"] for item in items], np.float32))


def table(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_the_nearer_leaves_more() -> None:
    """A mean of the neighbours' bonuses, by their cosines; what points away leaves nothing."""
    learned = table((2.0, 0.0), (1.0, 1.0), (-1.0, 0.0))
    heritage = inherit(table((0.1, 0.0)), np.arange(3), learned.__getitem__)
    found = heritage.of(bonuses(i0=1.0, i2=5.0), np.array([7]))
    assert found.items.tolist() == [0, 2, 7]
    assert found.values[2] == pytest.approx(1.0 / (1.0 + 0.5**2), rel=1e-5)


def test_whoever_has_more_keeps_it() -> None:
    """The bonus of a new item that the user already had, say; inherited bonuses are not inherited on."""
    learned = table((1.0, 0.0))
    one = inherit(table((1.0, 0.0)), np.array([0]), lambda _: learned)
    found = one.joined(one).joined(one).of(bonuses(i0=1.0, i3=9.0, i4=0.5), np.array([3, 4, 5]))
    assert dict(zip(found.items.tolist(), found.values.tolist(), strict=True)) == {0: 1.0, 3: 9.0, 4: 1.0, 5: 1.0}


def test_without_bonuses_or_new_items_nothing_changes() -> None:
    """Nor where nothing was learned."""
    nothing = inherit(table((1.0,)), np.empty(0, np.int64), lambda rows: table()[rows])
    given_ = bonuses(i0=1.0)
    assert nothing.shares.sum() == 0.0
    assert nothing.of(given_, np.array([5])).items.tolist() == [0]
    assert Heritage.none(0).of(given_, np.empty(0, np.int64)) is given_
    one = inherit(table((1.0,)), np.array([0]), lambda _: table((1.0,)))
    assert one.of(NO_BONUSES, np.array([1])) is NO_BONUSES


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), m=st.integers(0, 5), chunk=st.integers(1, 70))
def test_the_nearest_are_found_in_chunks(seed: int, n: int, m: int, chunk: int) -> None:
    """Whatever is held at a time, those that inherit do so from the best by cosine."""
    rng = np.random.default_rng(seed)
    learned, new = rng.normal(size=(n, 3)).astype(np.float32), rng.normal(size=(m, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newcomers, "_CHUNK", chunk)
        patch.setattr(newcomers, "_NEWCOMERS_CHUNK", 2)
        found = inherit(new, np.arange(n), learned.__getitem__)
    cosines = newcomers.unit_vectors(new) @ newcomers.unit_vectors(learned).T
    for row in range(m):
        best = set(np.argsort(-cosines[row])[:NEIGHBOURS].tolist()) & set(np.flatnonzero(cosines[row] > 0).tolist())
        assert set(found.neighbours[row][found.shares[row] > 0].tolist()) == best
        assert found.shares[row].sum() == pytest.approx(1.0 if best else 0.0, abs=1e-5)
