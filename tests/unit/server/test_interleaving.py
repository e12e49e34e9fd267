"""Arms that share a slate, without any I/O."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.document_store import Version
from headwater_core.experiments import Experiment
from headwater_server.experiment_book import ExperimentBook
from headwater_server.interleaving import interleave
from headwater_server.strategy import Candidate

SLATES = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 12), unique=True, max_size=10), min_size=1)


def slate(*ids: str) -> list[Candidate]:
    return [Candidate(item_id, 10.0 - place, ("tower",)) for place, item_id in enumerate(ids)]


def shown(slate: list[Candidate]) -> list[tuple[str, str]]:
    return [(each.item_id, each.arm) for each in slate]


def test_each_place_has_the_best_that_its_arm_has_left() -> None:
    """An item that two arms propose is there once, and of the arm that put it there."""
    slates = {"a": slate("x", "y", "z"), "b": slate("x", "w", "v")}
    assert shown(interleave(slates, ["a", "b", "a", "b"])) == [("x", "a"), ("w", "b"), ("y", "a"), ("v", "b")]
    assert shown(interleave(slates, ["b", "a", "a"])) == [("x", "b"), ("y", "a"), ("z", "a")]


def test_the_place_of_an_arm_with_nothing_left_is_filled_and_counts_for_nobody() -> None:
    """No place stays empty while an arm has items, and none is credited that was not drawn."""
    slates = {"a": slate("x"), "b": slate("x", "w")}
    assert shown(interleave(slates, ["a", "a", "b"])) == [("x", "a"), ("w", "")]


@given(SLATES, st.data())
def test_a_slate_is_as_long_as_it_can_be_and_repeats_nothing(
    proposed: dict[str, list[int]], data: st.DataObject
) -> None:
    """Whatever is proposed and whoever's turn it is: an arm's items keep their order, and scores fall."""
    turns = data.draw(st.lists(st.sampled_from(sorted(proposed)), max_size=15))
    slates = {arm: slate(*map(str, items)) for arm, items in proposed.items()}
    placed = interleave(slates, turns)
    ids = [each.item_id for each in placed]
    assert len(ids) == len(set(ids)) == min(len(turns), len({item for items in proposed.values() for item in items}))
    assert [each.score for each in placed] == sorted((each.score for each in placed), reverse=True)
    for each, turn in zip(placed, turns, strict=False):
        assert each.arm in {turn, ""}
    for arm, items in proposed.items():
        own = [each.item_id for each in placed if each.arm == arm]
        assert own == [str(item) for item in items if str(item) in own]


def test_places_go_to_arms_by_their_shares_and_the_propensity_is_told() -> None:
    """Within the bounds, as many draws as a slate has places."""
    arms = [{"name": "a", "max_share": 0.2}, {"name": "b"}]
    experiment = Experiment.from_dict({"arms": arms, "allocation": "interleaved", "rewards": {"click": 1.0}})
    book = ExperimentBook(random.Random(3))
    book.replace([Version("mix", 1, experiment, 0)])
    drawn: list[str] = []
    for _ in range(400):
        assigned = book.assign("", 0, "home", {}, 10)
        assert assigned is not None
        assert (assigned.assignment.arm, assigned.assignment.propensity) == ("", None)
        assert assigned.shares == pytest.approx({"a": 0.2, "b": 0.8})
        drawn += [arm.name for arm in assigned.turns]
    assert len(drawn) == 4_000
    assert abs(drawn.count("a") / len(drawn) - 0.2) < 0.03
