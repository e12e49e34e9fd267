"""The prequential protocol: what drifts is followed, what is spoilt shows, what leaks is caught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from headwater_core.events import BUILT_IN_EVENT_TYPES, HistoryEvent
from headwater_updater.evaluation import prequential_report
from headwater_updater.evaluation.prequential_run import LIVE, ONLINE, Outcome, Plan, run
from headwater_updater.evaluation.splits import Histories
from headwater_updater.evaluation.streams import timeline
from headwater_updater.evaluation.training import configuration
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget
from headwater_updater.settings import UpdaterSettings

N_USERS, N_STEPS, N_ITEMS = 50, 40, 32


def drifting() -> Histories:
    """Users walk around a ring of items, first by steps of one, and from the stream's beginning by steps of seven."""
    rng = np.random.default_rng(0)
    found: Histories = {}
    at = rng.integers(0, N_ITEMS, N_USERS)
    position = 0
    for step in range(N_STEPS):
        for user in range(N_USERS):
            position += 1
            event = HistoryEvent(position, (step * N_USERS + user) * 1_000_000, "click", f"i{at[user]}")
            found.setdefault(f"u{user}", []).append(event)
            at[user] = (at[user] + (1 if step < 0.8 * N_STEPS else 7)) % N_ITEMS
    return found


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    histories = drifting()
    settings = UpdaterSettings(dimension=16, n_layers=1, history_length=20)

    def train(_: str, known: Mapping[str, Sequence[HistoryEvent]]) -> Learner:
        training = list(known.values())
        config = configuration(
            training, BUILT_IN_EVENT_TYPES, settings, text_dimension=1, vector_dimension=0, allow_repeats=True
        )
        learner = Learner.create(config, 0)
        item_ids = list(dict.fromkeys(event.item_id for events in training for event in events))
        learner.add_items(item_ids, features(item_ids))
        learner.fit(training, Budget(epochs=3))
        return learner

    def features(item_ids: Sequence[str]) -> np.ndarray:
        return np.zeros((len(item_ids), 1), np.float16)

    plan = Plan(timeline(histories), lambda _: True, True, train, features, settings, 10_000, 0)
    return run(plan, lambda _stage, _share: None)


def test_online_learning_follows_the_drift(outcome: Outcome) -> None:
    """Clearly better than frozen weights with a live history; frozen histories are no better than those."""
    found = prequential_report.report(outcome, 0)
    more = found["online_minus"][LIVE]["hr_at_10"]
    assert more["by_time_95"][0] > 0
    assert more["by_user_95"][0] > 0
    assert found["arms"][ONLINE]["targets"] == N_USERS * N_STEPS // 5
    assert set(found["arms"]) >= {"popular", "recent-popular", "item-kNN", "last-item co-visitation", "own items"}
    assert len(prequential_report.summary(found)) == len(found["arms"])


def test_the_controls_fail_as_they_must(outcome: Outcome) -> None:
    """What learns other items' events gains nothing, what learns late gains less, and a leak does not pass."""
    found = prequential_report.report(outcome, 0)
    gain = found["online_minus"][LIVE]["hr_at_10"]["mean"]
    controls = found["controls"]
    assert controls["items_permuted"]["minus_frozen"]["hr_at_10"]["mean"] < 0.2 * gain
    assert controls["learned_late"]["online_minus_it"]["hr_at_10"]["mean"] > 0
    assert controls["shuffled_in_time"]["targets"] == controls["learned_late"]["targets"]
    assert controls["future_leak"]["caught"]
    assert controls["future_leak"]["hr_at_10"] >= controls["future_leak"]["hr_at_10_without"]


def test_held_out_users_tell_of_forgetting(outcome: Outcome) -> None:
    """Their targets before the stream were learned by nobody."""
    forgetting = outcome.facts["forgetting"]
    assert forgetting["targets"] > 0
    assert forgetting["hr_at_10"]["before"] > 0.5
