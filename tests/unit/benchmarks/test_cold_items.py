"""Cold items: what is held out, how scores are measured, what nearest-text and servers' slates make of them."""

from __future__ import annotations

import cold_items
import numpy as np
import pytest

from headwater_core.events import HistoryEvent
from headwater_core.histories import fit_vocabulary
from headwater_core.towers import TowerConfig
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig


def history(*items: str) -> list[HistoryEvent]:
    return [HistoryEvent(i + 1, i * 1_000_000, "click", item_id) for i, item_id in enumerate(items)]


def test_only_items_with_enough_events_turn_cold() -> None:
    """And the seed decides which."""
    histories = {f"u{i}": history(*(f"i{j}" for j in range(10)), f"rare{i}") for i in range(5)}
    cold = cold_items.choose_cold(histories, 0, share=0.5)
    assert len(cold) == 5
    assert not any(item_id.startswith("rare") for item_id in cold)
    assert cold == cold_items.choose_cold(histories, 0, share=0.5)


def test_cold_items_leave_the_histories_and_are_asked_for_where_they_were_met() -> None:
    """Training ends before the block that is asked for, and knows no cold item."""
    histories = {"met": history("a", "x", "b", "x", "c"), "never": history("a", "b")}
    training, cases = cold_items.divide(histories, {"x"}, lambda _: True)
    assert [[event.item_id for event in events] for events in training] == [["a", "b"], ["a", "b"]]
    assert [(case.user_id, [event.item_id for event in case.history], case.targets) for case in cases] == [
        ("met", ["a", "b"], ("x",))
    ]


def test_who_knows_nothing_else_is_not_asked() -> None:
    """A cold item that came first has no history before it."""
    training, cases = cold_items.divide({"u": history("x", "a")}, {"x"}, lambda _: True)
    assert not cases
    assert [event.item_id for event in training[0]] == ["a"]


def test_ties_count_as_in_random_order() -> None:
    """Of 100 equal scores each is among the first 10 with a chance of a tenth."""
    found = cold_items.measure(np.zeros((1, 100)), [[3]])
    assert found.hr_at_10[0] == pytest.approx(0.1)
    assert found.hr_at_50[0] == pytest.approx(0.5)
    assert found.ndcg_at_10[0] == pytest.approx((1 / np.log2(np.arange(2, 12))).sum() / 100)


def test_a_best_score_has_all_the_gain() -> None:
    """What is left out stands nowhere."""
    found = cold_items.measure(np.array([[0.5, 0.9, -np.inf]]), [[1]])
    assert [float(values[0]) for values in found] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("join", ["mean", "max"])
@pytest.mark.parametrize("centred", [False, True])
def test_nearest_text_finds_its_like(join: str, centred: bool) -> None:
    """The item whose text is most like the last ones' leads; one without a text has no score."""
    features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.0, 0.0]])
    options = {"last": 2, "decay": 0.9, "centred": centred, "join": join}
    scores = cold_items.text_scores(features, [[0]], options)
    assert scores[0].argsort()[::-1][:2].tolist() == [0, 1]
    assert scores[0, 3] == 0.0


@pytest.fixture(scope="module")
def learner() -> Learner:
    """Users walk along a ring of items."""
    histories = [history(*(f"i{(start + step) % 20}" for step in range(8))) for start in range(20)]
    tower = fit_vocabulary(TowerConfig(dimension=8, n_heads=1, n_layers=1, text_dimension=2), histories)
    learner = Learner.create(LearnerConfig(tower, {"click": 1.0}), seed=0)
    features = np.stack([[np.cos(k * np.pi / 10), np.sin(k * np.pi / 10)] for k in range(20)])
    learner.add_items([f"i{k}" for k in range(20)] + ["cold"], np.concatenate([features, features[:1]]))
    learner.fit(histories, Budget(epochs=1))
    return learner


def test_slates_are_the_servers(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cold item has a place of those kept for new items; what was seen has none."""
    monkeypatch.setattr(cold_items, "_FITTING_SHARE", 1.0)
    monkeypatch.setattr(cold_items, "_SLATE", 3)
    ids = learner.item_ids
    is_cold = np.array([item_id == "cold" for item_id in ids])
    seen = np.zeros((1, len(ids)), bool)
    seen[0, :3] = True
    server = cold_items.Server(learner, ids, is_cold)
    ranks = -server.scores([history("i0", "i1", "i2")], seen, (3, 3))[0]
    assert sorted(ranks[np.isfinite(ranks)].tolist()) == [0.0, 1.0, 2.0]
    assert np.isinf(ranks[:3]).all()
    assert ranks[20] == 2.0


def test_what_comes_next_of_the_learned_items_is_asked_for_apart() -> None:
    """The first block from that of the cold item on that holds a new one."""
    events = {"u": history("a", "b", "x", "a", "c", "d")}
    (case,) = cold_items.divide(events, {"x"}, lambda _: True).cases
    assert case.learned_targets == ("c",)
