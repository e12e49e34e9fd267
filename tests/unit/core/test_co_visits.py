"""Co-visits: how a history's votes become bonuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headwater_core.co_visits import NO_BONUSES, Blend, Bonuses, Successors, bonuses
from headwater_core.errors import InvalidFieldError

NOWHERE = np.empty(0, np.int64)


def successors(*pairs: tuple[int, float]) -> Successors:
    return Successors(np.array([i for i, _ in pairs], np.int64), np.array([w for _, w in pairs], np.float32))


def test_bonuses_grow_with_the_share_of_the_votes() -> None:
    """Later events count more, an item that several name adds up, and the bonus is the formula's."""
    blend = Blend(strength=2.0, sharpness=10.0, decay=0.5)
    found = bonuses([successors((7, 1.0), (3, 2.0)), successors(), successors((3, 4.0))], NOWHERE, blend)
    total = 1.0 + 2.0 + 4.0 * 0.25
    assert found.items.tolist() == [3, 7]
    expected = [2.0 * math.log1p(10.0 * 3.0 / total), 2.0 * math.log1p(10.0 * 1.0 / total)]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)


def test_what_was_visited_gets_a_bonus_of_its_own() -> None:
    """By its own share of the visits, later ones more where they decay; it is added to what the successors give."""
    blend = Blend(strength=2.0, repeat_strength=3.0, sharpness=10.0, decay=0.5, repeat_decay=0.9)
    latest, visited = [successors((7, 1.0), (3, 1.0))], np.array([3, 9, 3])
    total = 1.0 + 0.9 + 0.81
    repeated = {3: 3.0 * math.log1p(10.0 * (1.0 + 0.81) / total), 9: 3.0 * math.log1p(10 * 0.9 / total)}
    followed = dict.fromkeys((3, 7), 2.0 * math.log1p(5.0))
    alone = bonuses(latest, visited, replace(blend, strength=0.0))
    assert alone.items.tolist() == [3, 9]
    np.testing.assert_allclose(alone.values, [repeated[3], repeated[9]], rtol=1e-6)
    both = bonuses(latest, visited, blend)
    assert both.items.tolist() == [3, 7, 9]
    assert both.values.dtype == np.float32
    np.testing.assert_allclose(both.values, [followed[3] + repeated[3], followed[7], repeated[9]], rtol=1e-6)


@pytest.mark.parametrize(
    ("latest", "visited", "strengths"),
    [
        ([], [], (1.0, 1.0)),
        ([successors()], [], (1.0, 1.0)),
        ([successors((1, 1.0))], [2], (0.0, 0.0)),
        ([successors()], [2], (1.0, 0.0)),
        ([successors((1, 1.0))], [], (0.0, 1.0)),
    ],
    ids=str,
)
def test_where_nothing_speaks_there_are_no_bonuses(
    latest: list[Successors], visited: list[int], strengths: tuple[float, float]
) -> None:
    """No history, no successors, or no strength: nothing is added."""
    blend = Blend(strength=strengths[0], repeat_strength=strengths[1])
    assert not len(bonuses(latest, np.array(visited, np.int64), blend).items)


def test_a_blend_is_active_where_it_adds_something() -> None:
    """Either strength is enough."""
    assert not Blend().is_active
    assert Blend(strength=0.1).is_active
    assert Blend(repeat_strength=0.1).is_active


def test_the_oldest_voice_is_heard_when_it_is_the_only_one() -> None:
    """However small a decay's powers become, shares stay shares."""
    found = bonuses([*[successors()] * 19, successors((1, 1e-10))], NOWHERE, Blend(strength=1.0, decay=0.01))
    assert found.values[0] == pytest.approx(math.log1p(1000.0))


def test_what_has_no_bonus_gets_nothing() -> None:
    """Bonuses are looked up by item, in any order, as often as asked."""
    some = Bonuses(np.array([2, 5]), np.array([0.25, 0.5], np.float32))
    assert some.of(np.array([5, 0, 2, 9, 5, 3])).tolist() == [0.5, 0.0, 0.25, 0.0, 0.5, 0.0]
    assert some.of(np.array([], np.int64)).tolist() == []
    assert NO_BONUSES.of(np.array([1, 2])).tolist() == [0.0, 0.0]


def test_a_blend_comes_back_as_it_was_written() -> None:
    """What is left out takes its default: no bonuses."""
    blend = Blend(strength=0.5, repeat_strength=0.25, sharpness=20.0, decay=0.9)
    assert Blend.from_dict(blend.to_dict()) == blend
    assert Blend.from_dict({}) == Blend()
    assert not Blend.from_dict({}).is_active


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"strength": -1.0}, "strength"),
        ({"strength": math.nan}, "strength"),
        ({"repeat_strength": -1.0}, "repeat_strength"),
        ({"sharpness": 0.5}, "sharpness"),
        ({"decay": 1.5}, "decay"),
        ({"decay": "0.5"}, "decay"),
        ({"strength": True}, "strength"),
        ({"unheard_of": 1.0}, "unheard_of"),
    ],
)
def test_a_blend_that_cannot_work_is_refused(content: dict[str, Any], field: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidFieldError) as caught:
        Blend.from_dict(content)
    assert caught.value.field == field
