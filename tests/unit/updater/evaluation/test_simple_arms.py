"""The simple recommenders of a prequential report do what their names say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.simple_arms import CountingArm, OwnItemsArm, PairArm, PopularArm
from headwater_updater.evaluation.streams import Round
from headwater_updater.examples import Example

SECOND_US = 1_000_000


def history(*items: str, start: int = 0, basket: bool = False) -> list[HistoryEvent]:
    """An event a second, or all at once."""
    times = [start] * len(items) if basket else range(start, start + len(items))
    return [
        HistoryEvent(1000 * start + place, second * SECOND_US, "click", item)
        for place, (second, item) in enumerate(zip(times, items, strict=True))
    ]


def is_target(event: HistoryEvent) -> bool:
    return event.event_type == "click"


def ranks(arm: CountingArm, *examples: Example) -> list[int]:
    asked = frozenset(e.position for x in examples for e in x.events[len(x.events) - x.n_new :])
    users = [str(number) for number in range(len(examples))]
    return [target.rank for target in arm.judge(Round(list(examples), users, asked, 0, 10**12, []))]


def learned(arm: CountingArm, *histories: list[HistoryEvent]) -> CountingArm:
    arm.learn_examples(Example(events, len(events)) for events in histories)
    return arm


def pairs(**options: object) -> PairArm:
    defaults: dict[str, object] = {
        "allow_repeats": False,
        "reach": 1,
        "n_last": 1,
        "is_directed": True,
        "popularity_power": 0.0,
    }
    return PairArm("pairs", is_target, **(defaults | options))  # type: ignore[arg-type]


def test_popular_counts_and_recent_popular_forgets() -> None:
    """What was seen is left out where users do not repeat; what nobody had is a miss."""
    past = history(*"aaaaabb"), history(*"cc", start=100)
    allow = {"allow_repeats": True}
    assert ranks(learned(PopularArm("p", is_target, **allow), *past), Example(history("b", start=200), 1)) == [3]
    recent = learned(PopularArm("p", is_target, half_life=1.0, **allow), *past)
    assert ranks(recent, Example(history("c", start=200), 1)) == [1]
    unseen = learned(PopularArm("p", is_target, allow_repeats=False), *past)
    asked = Example([*history(*"a", start=200), *history("b", "a", "z", start=300)], 3)
    assert ranks(unseen, asked) == [2, 0, 0]  # b and c are level, ties count against; a was seen; z is new


def test_a_long_stream_does_not_overflow() -> None:
    """However short the memory."""
    arm = PopularArm("p", is_target, allow_repeats=True, half_life=1.0)
    learned(arm, history(*"ab" * 1000))
    assert np.isfinite(arm.scores(())).all()


def test_own_items_fade() -> None:
    """The latest first, others not at all."""
    arm = learned(OwnItemsArm("o", is_target, decay=0.5), history(*"abc"))
    theirs = history(*"ab", start=100)
    assert ranks(arm, Example([*theirs, *history(*"b", start=200)], 1)) == [1]
    assert ranks(arm, Example([*theirs, *history(*"a", start=200)], 1)) == [2]
    assert ranks(arm, Example([*theirs, *history(*"c", start=200)], 1)) == [0]


def test_what_followed_the_last_item_is_foreseen() -> None:
    """In this direction alone, and not inside a basket."""
    arm = learned(pairs(), history(*"ab"), history(*"ab", start=10), history(*"ac", start=20))
    assert ranks(arm, Example([*history("a", start=100), *history("b", start=200)], 1)) == [1]
    assert ranks(arm, Example([*history("a", start=100), *history("c", start=200)], 1)) == [2]
    assert ranks(arm, Example([*history("b", start=100), *history("a", start=200)], 1)) == [0]
    assert ranks(
        learned(pairs(), history(*"ab", basket=True)), Example([*history("a", start=9), *history("b", start=99)], 1)
    ) == [0]


def test_neighbours_know_no_direction() -> None:
    """Baskets count, and popularity takes away."""
    arm = learned(pairs(is_directed=False, reach=20, n_last=20), history(*"ab", basket=True), history(*"bc"))
    assert ranks(arm, Example([*history("b", start=100), *history("a", start=200)], 1)) == [2]
    damped = pairs(is_directed=False, reach=20, n_last=20, popularity_power=1.0)
    learned(damped, history(*"xa"), history(*"xb"), history(*"b"), history(*"b"))
    assert ranks(damped, Example([*history("x", start=100), *history("a", start=200)], 1)) == [1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PopularArm("p", is_target, allow_repeats=True, half_life=10.0),
        lambda: pairs(reach=3, n_last=3, popularity_power=0.5),
    ],
    ids=["popular", "pairs"],
)
def test_a_round_teaches_as_the_whole_does(make: Callable[[], CountingArm]) -> None:
    """Event by event or all at once: the same scores."""
    events = history(*"abcabdacbd")
    whole, parts = learned(make(), events), make()
    for stop in range(1, len(events) + 1):
        parts.learn_examples([Example(events[:stop], 1)])
    asked = history(*"ab", start=100)
    np.testing.assert_allclose(parts.scores(asked), whole.scores(asked))
