"""The two protocols on cases made by hand. A history is written as item@second, cancelled items as -item@second."""

from __future__ import annotations

import pytest

from headwater_core.errors import InvalidFieldError
from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.splits import AskedUser, Histories, global_time, k_core, leave_one_out


def events(written: str) -> list[HistoryEvent]:
    found = []
    for position, each in enumerate(written.split(), start=1):
        item_id, second = each.split("@")
        event_type = "cancel" if item_id.startswith("-") else "click"
        found.append(HistoryEvent(position, int(second) * 1_000_000, event_type, item_id.lstrip("-")))
    return found


def shown(history: list[HistoryEvent]) -> str:
    sign = {"click": "", "cancel": "-"}
    return " ".join(f"{sign[e.event_type]}{e.item_id}@{e.event_time_us // 1_000_000}" for e in history)


def data(**histories: str) -> Histories:
    return {user_id: events(written) for user_id, written in histories.items()}


def is_target(event: HistoryEvent) -> bool:
    return bool(event.item_id) and event.event_type == "click"


def asked(users: list[AskedUser], name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {user.user_id: (shown(list(user.history)), user.targets[name]) for user in users}


def test_the_last_event_is_the_test_and_the_one_before_validation() -> None:
    """The history holds the validation event; training does too, for `fit` to hold out; it makes no candidate."""
    split = leave_one_out(data(u="a@1 b@2 c@3 d@4"), is_target)
    assert asked(split.test, "last") == {"u": ("a@1 b@2 c@3", ("d",))}
    assert [shown(history) for history in split.training] == ["a@1 b@2 c@3"]
    assert split.candidates == ["a", "b"]
    assert split.facts["validation_users"] == 1


def test_the_query_is_at_the_time_of_the_first_target_block() -> None:
    """Under both protocols; events that are no target ask for nothing."""
    histories = data(u="a@1 b@2 c@3 -b@4 d@5 e@5", v="a@1 b@2 -a@4 c@6 d@7")
    for split in (leave_one_out(histories, is_target), global_time(histories, is_target, 0.5)):
        assert [user.query_time_us for user in split.test] == [
            5_000_000,
            7_000_000 if split.target_sets == ("last",) else 6_000_000,
        ]


def test_learned_validation_events_make_candidates() -> None:
    """With `learn_validation` everything before the test is training."""
    split = leave_one_out(data(u="a@1 b@2 c@3 d@4"), is_target, learn_validation=True)
    assert split.candidates == ["a", "b", "c"]


def test_a_validation_block_that_cannot_be_held_out_is_not_learned() -> None:
    """Where one block comes before it, it is left out of training, but not of the history."""
    split = leave_one_out(data(u="a@1 b@2 c@3"), is_target)
    assert asked(split.test, "last") == {"u": ("a@1 b@2", ("c",))}
    assert [shown(history) for history in split.training] == ["a@1"]
    learned = leave_one_out(data(u="a@1 b@2 c@3"), is_target, learn_validation=True)
    assert [shown(history) for history in learned.training] == ["a@1 b@2"]


def test_a_tied_last_block_is_the_test_as_a_whole() -> None:
    """Each of its different items is a target, and no history includes any of its events."""
    split = leave_one_out(data(u="a@1 b@2 b@2 c@3 d@3 c@3 e@3"), is_target)
    assert asked(split.test, "last") == {"u": ("a@1 b@2 b@2", ("c", "d", "e"))}
    assert [shown(history) for history in split.training] == ["a@1"]


def test_only_targets_are_asked_for() -> None:
    """The last block with a target is the test: a cancel in it is none, and what comes after it is left out."""
    split = leave_one_out(data(u="a@1 b@2 c@3 d@4 -c@4 -d@5"), is_target)
    assert asked(split.test, "last") == {"u": ("a@1 b@2 c@3", ("d",))}
    split = leave_one_out(data(u="a@1 b@2 c@3 -b@4 d@5"), is_target)
    assert asked(split.test, "last") == {"u": ("a@1 b@2 c@3 -b@4", ("d",))}
    assert [shown(history) for history in split.training] == ["a@1 b@2 c@3"]


def test_short_users_are_dropped_and_one_basket_is_training() -> None:
    """Fewer than three events: neither asked nor learned. One block only: learned, there is no history to ask with."""
    split = leave_one_out(data(short="a@1 b@2", basket="c@1 d@1 e@1", u="a@1 b@2 c@3 d@4"), is_target)
    assert list(asked(split.test, "last")) == ["u"]
    assert [shown(history) for history in split.training] == ["c@1 d@1 e@1", "a@1 b@2 c@3"]
    assert split.facts == {"dropped_users": 1, "users_without_history": 1, "validation_users": 1}


def test_min_core_is_applied_until_nothing_changes() -> None:
    """Taking out a rare item can make its user rare, and so on."""
    histories = data(u="a@1 b@2", v="a@1 b@2", w="b@1 rare@2", x="a@1 a@2")
    assert {user_id: shown(history) for user_id, history in k_core(histories, 2).items()} == {
        "u": "a@1 b@2",
        "v": "a@1 b@2",
        "x": "a@1 a@2",
    }
    with pytest.raises(InvalidFieldError, match="min_core: 5 leaves 0 users"):
        k_core(histories, 5)


def test_global_time_cuts_all_users_at_once() -> None:
    """The last fifth is asked for; users without a target in it are only learned from, new ones are asked and counted.

    Of ten events the cut is the ninth one's time, and everything at that time comes after it.
    """
    histories = data(old="a@1 b@2 c@3 d@9 e@9 f@10", gone="a@1 b@2 c@3", new="-d@9 c@11")
    split = global_time(histories, is_target, test_share=0.2)
    assert split.facts == {"cut_time_us": 9_000_000, "new_users": 1}
    assert asked(split.test, "first") == {"old": ("a@1 b@2 c@3", ("d", "e")), "new": ("", ("c",))}
    assert asked(split.test, "all")["old"] == ("a@1 b@2 c@3", ("d", "e", "f"))
    assert [shown(history) for history in split.training] == ["a@1 b@2 c@3", "a@1 b@2 c@3"]
    assert split.candidates == ["a", "b", "c"]


def test_global_time_needs_different_times() -> None:
    """Where all events share one time, nothing comes before a cut."""
    with pytest.raises(InvalidFieldError, match="no event before its cut"):
        global_time(data(u="a@1 b@1", v="a@1 b@1"), is_target)
