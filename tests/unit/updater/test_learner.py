"""The learner: it finds what is there, nothing where nothing is, and goes on exactly after a restart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headwater_core import item_features
from headwater_core.errors import ArtifactError
from headwater_core.events import BUILT_IN_EVENT_TYPES, HistoryEvent
from headwater_core.histories import collate, fit_vocabulary
from headwater_core.towers import TowerConfig, save_state
from headwater_updater.examples import Example
from headwater_updater.full_training import Progress
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig, target_weights, users_repeat
from headwater_updater.ranking import Request

N_ITEMS = 40
F = 6
TOWER = TowerConfig(dimension=32, n_layers=1, n_interests=2, history_length=10, dropout=0.1, text_dimension=F)
History = list[HistoryEvent]


def clicks(items: list[int], first_second: int = 0) -> History:
    return [HistoryEvent(s + 1, s * 1_000_000, "click", f"i{i}") for s, i in enumerate(items, start=first_second)]


def planted(n_users: int, length: int = 14, *, shuffled: bool = False, seed: int = 0) -> list[History]:
    """Walks along one fixed permutation of the items: each item is always followed by the same one.

    Shuffled, every walk holds the same items in random order.
    """
    rng = np.random.default_rng(seed)
    follower = np.random.default_rng(99).permutation(N_ITEMS)
    histories = []
    for _ in range(n_users):
        walk = [int(rng.integers(N_ITEMS))]
        while len(walk) < length:
            walk.append(int(follower[walk[-1]]))
        histories.append(clicks(rng.permutation(walk).tolist() if shuffled else walk))
    return histories


def learner_for(histories: list[History], seed: int = 0, n_items: int = N_ITEMS, **settings: object) -> Learner:
    config = LearnerConfig(
        fit_vocabulary(TOWER, histories),
        {"click": 1.0},
        exclude_seen=False,
        batch_tokens=256,
        learning_rate=1e-2,
        head_targets=32,
    )
    learner = Learner.create(replace(config, **settings), seed)  # type: ignore[arg-type]
    learner.add_items([f"i{i}" for i in range(n_items)], np.zeros((n_items, learner.config.tower.feature_dimension)))
    return learner


def hr_at_1(learner: Learner, histories: list[History]) -> float:
    scored = learner.score([Example(history, 1) for history in histories])
    return float(np.mean([target.rank == 1 for target in scored]))


def test_a_planted_pattern_is_found() -> None:
    """Where each item is always followed by the same one, the next item of unseen users is foreseen nearly always."""
    training = planted(150)
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=10))
    assert hr_at_1(learner, planted(100, seed=1)) > 0.95


def test_a_pattern_in_the_time_of_asking_is_found() -> None:
    """Where the next item depends on how long it takes, towers that read it foresee it; untold, they name both
    items that it may be."""
    rng = np.random.default_rng(0)

    def walk() -> History:
        items, hours = [int(rng.integers(N_ITEMS))], [0]
        for is_late in rng.random(13) < 0.5:
            items.append((items[-1] + (7 if is_late else 1)) % N_ITEMS)
            hours.append(hours[-1] + (500 if is_late else 1))
        return [
            HistoryEvent(n, hour * 3_600_000_000, "click", f"i{item}")
            for n, (item, hour) in enumerate(zip(items, hours, strict=True))
        ]

    training, asked = ([walk() for _ in range(n)] for n in (150, 100))
    learner = learner_for(training, tower=replace(fit_vocabulary(TOWER, training), reads_query_time=True))
    learner.fit(training, Budget(epochs=10))
    assert hr_at_1(learner, asked) > 0.9
    untold = [Request(learner.tokens(each[:-1]), learner.row(each[-1].item_id)) for each in asked]
    ranks = learner.ranks(untold, np.arange(1, N_ITEMS + 1))
    assert float(np.mean(ranks == 1)) < 0.75
    assert float(np.mean(ranks <= 2)) > 0.85


def test_nothing_is_found_where_nothing_is() -> None:
    """With the order shuffled away, the next item is foreseen no better than by chance."""
    # Items drawn independently, so that not even which items a walk holds gives the next one away.
    rng = np.random.default_rng(3)
    training, held_out = (
        [clicks(rng.integers(0, N_ITEMS, 14).tolist()) for _ in range(n_users)] for n_users in (150, 400)
    )
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=8))
    chance = 1 / N_ITEMS
    three_deviations = 3 * (chance * (1 - chance) / len(held_out)) ** 0.5
    assert hr_at_1(learner, held_out) < chance + three_deviations


def test_shuffling_takes_the_pattern_away() -> None:
    """The planted walks in random order are foreseen far worse than in their own."""
    training = planted(150, shuffled=True)
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=8))
    assert hr_at_1(learner, planted(100, shuffled=True, seed=1)) < 0.3


def test_sampled_softmax_finds_the_pattern_too() -> None:
    """With more candidates than the full softmax is for, shared sampled negatives do."""
    training = planted(150)
    learner = learner_for(training, full_softmax_limit=10, n_negatives=16)
    learner.fit(training, Budget(epochs=12))
    assert hr_at_1(learner, planted(100, seed=1)) > 0.9


def test_targets_in_long_histories_are_all_learned() -> None:
    """A pattern that only the early events of long histories show is learned: no event is too old."""
    rng = np.random.default_rng(0)
    follower = np.random.default_rng(99).permutation(20)
    training = []
    for _ in range(60):
        walk = [int(rng.integers(20))]
        while len(walk) < 12:
            walk.append(int(follower[walk[-1]]))
        training.append(clicks(walk + rng.integers(20, 40, 20).tolist()))
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=8))
    assert hr_at_1(learner, [history[:12] for history in training]) > 0.9


def test_text_alone_places_a_new_item() -> None:
    """An item that nobody has touched is foreseen where its text says it belongs."""
    rng = np.random.default_rng(0)
    kinds = np.arange(N_ITEMS) % 4  # a user stays with one kind of item
    features = np.eye(F)[kinds] + rng.normal(0, 0.02, (N_ITEMS, F))
    histories = [clicks(rng.choice(np.flatnonzero(kinds == u % 4)[:9], 9).tolist()) for u in range(160)]
    learner = learner_for(histories)
    learner.add_items([f"i{i}" for i in range(N_ITEMS)], features)
    learner.fit(histories, Budget(epochs=8))
    learner.add_items(["new0", "new1"], np.eye(F)[:2])
    fan = clicks([0, 4, 8, 12])
    ask = [Example([*fan, HistoryEvent(99, 10**9, "click", name)], 1) for name in ("new0", "new1")]
    fitting, foreign = learner.score(ask)
    assert fitting.is_new_item
    assert 0 < fitting.rank <= 12 < foreign.rank


def test_a_vector_alone_places_a_new_item() -> None:
    """Beside items with text, one that has only the caller's vector is foreseen where items with like vectors are."""
    rng = np.random.default_rng(0)
    kinds = np.arange(N_ITEMS) % 4  # a user stays with one kind of item
    texts = rng.normal(0, F**-0.5, (N_ITEMS, F)).astype(np.float16)  # they say nothing of the kind
    vectors = [100.0 * (np.eye(4)[kind] + rng.normal(0, 0.02, 4)).astype(np.float32) for kind in kinds]
    histories = [clicks(rng.choice(np.flatnonzero(kinds == u % 4)[:9], 9).tolist()) for u in range(160)]
    learner = learner_for(histories, tower=fit_vocabulary(replace(TOWER, vector_dimension=4), histories), n_items=0)
    learner.add_items([f"i{i}" for i in range(N_ITEMS)], item_features.join(texts, vectors, 4))
    learner.fit(histories, Budget(epochs=8))
    learner.add_items(["new0", "new1"], item_features.join(np.zeros((2, F), np.float16), np.eye(4)[:2].tolist(), 4))
    fan = clicks([0, 4, 8, 12])
    ask = [Example([*fan, HistoryEvent(99, 10**9, "click", name)], 1) for name in ("new0", "new1")]
    fitting, foreign = learner.score(ask)
    assert fitting.is_new_item
    assert 0 < fitting.rank <= 12 < foreign.rank
    assert learner.item_features.shape == (N_ITEMS + 3, F + 4)
    resumed = Learner.load_state(learner.state())
    assert resumed.state() == learner.state()
    assert resumed.score(ask) == [fitting, foreign]


def test_a_new_pattern_is_learned_by_steps() -> None:
    """Incremental steps on new events move a new item to where its users are; only touched vectors change."""
    training = planted(150)
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=8))
    learner.add_items(["new"], np.zeros((1, F)))
    before, shared = learner.item_vectors(), save_state(learner.item_tower.shared)
    asked = Example([*clicks([7]), HistoryEvent(9, 10**9, "click", "new")], 1)
    assert learner.score([asked])[0].rank > 10
    touched: set[int] = set()
    for _ in range(60):
        result = learner.step([asked], [Example(history, 5) for history in training[:8]])
        touched |= set(result.touched_rows.tolist())
    assert learner.score([asked])[0].rank <= 3
    assert hr_at_1(learner, planted(100, seed=1)) > 0.9  # what was known is not forgotten
    assert save_state(learner.item_tower.shared) == shared
    moved = np.flatnonzero((learner.item_vectors() != before).any(1)) + 1
    assert set(moved.tolist()) <= touched
    assert learner.row("new") in moved


def test_a_step_touches_a_bounded_number_of_replayed_items() -> None:
    """Beside the new targets at most `touched_replay_rows` items move, so a delta stays small."""
    training = planted(30)
    learner = learner_for(training, touched_replay_rows=3)
    learner.fit(training, Budget(epochs=1))
    result = learner.step([Example(clicks([1, 2]), 1)], [Example(history, 9) for history in training])
    assert learner.row("i2") in result.touched_rows
    assert len(result.touched_rows) == 4


def test_a_step_on_nothing_does_nothing() -> None:
    """Without a target (a first event, a type that is no target, an unknown item) nothing moves."""
    training = planted(10)
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=1))
    weights = save_state(learner.user_tower), learner.item_vectors().tobytes()
    for example in (
        Example(clicks([1]), 1),
        Example([*clicks([1]), HistoryEvent(2, 10**9, "hide", "i2")], 1),
        Example([*clicks([1]), HistoryEvent(2, 10**9, "click", "unheard of")], 1),
    ):
        result = learner.step([example])
        assert np.isnan(result.loss)
    assert (save_state(learner.user_tower), learner.item_vectors().tobytes()) == weights


def test_an_event_type_that_training_never_met_counts() -> None:
    """Events of a type that was only registered are read like any others, and learned as targets."""
    training = planted(150)
    tower = fit_vocabulary(TOWER, training, ["like"])
    learner = learner_for(training, tower=tower, target_weights={"click": 1.0, "like": 2.0})
    learner.fit(training, Budget(epochs=10))
    liked = [[event._replace(event_type="like") for event in history] for history in planted(100, seed=1)]
    assert hr_at_1(learner, liked) > 0.8
    assert learner.row("i3") in learner.step([Example([*clicks([1]), *clicks([3], 1)], 1)]).touched_rows
    assert (
        learner.row("i3") in learner.step([Example([*clicks([1]), liked[0][1]._replace(item_id="i3")], 1)]).touched_rows
    )


def test_scoring_predicts_from_before_the_timestamp_block() -> None:
    """Events that share a time are scored from what came before all of them, and scoring learns nothing."""
    training = planted(150)
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=8))
    walk = planted(1, seed=5)[0][:8]
    basket = [*walk[:6], walk[6], walk[7]._replace(event_time_us=walk[6].event_time_us)]
    before = learner.state()
    in_time, in_basket = learner.score([Example(walk, 1)])[0], learner.score([Example(basket, 2)])[1]
    assert in_time.rank == 1
    assert in_basket.rank > 1
    assert learner.state() == before


def test_interests_are_those_from_before_what_is_new() -> None:
    """As the user tower reads the history; who has none yet asks for nothing."""
    events = clicks([1, 2, 3])
    learner = learner_for([events])
    interests = learner.interests([Example(events, 1), Example(events[:1], 1)])
    tensors = collate([learner.tokens(events[:2])], learner.config.tower)
    with torch.inference_mode():
        expected = learner.user_tower(tensors, learner.table()[tensors.item_rows])[0]  # (K, d)
    np.testing.assert_allclose(interests, expected.numpy(), rtol=1e-5)
    assert learner.interests([]).shape == (0, learner.config.tower.dimension)


def test_scoring_says_what_is_new() -> None:
    """Unknown items are misses; first events are ranked by popularity; both are marked."""
    training = [clicks([0, 1, 2, 0, 3]), clicks([0, 4, 0])]
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=1))
    unknown, first = learner.score([Example([HistoryEvent(5, 1, "click", "unheard of")], 1), Example(clicks([0]), 1)])
    assert (unknown.rank, unknown.is_new_item, unknown.is_new_user, unknown.position) == (0, True, True, 5)
    assert (first.rank, first.is_new_item, first.is_new_user) == (1, False, True)


def test_seen_items_are_left_out_where_users_do_not_repeat() -> None:
    """With exclude_seen a repeated item is a miss, and seen items make room for others."""
    training = planted(50)
    learner = learner_for(training, exclude_seen=True)
    learner.fit(training, Budget(epochs=2))
    again, other = learner.score([Example(clicks([1, 2, 1]), 1), Example(clicks([1, 2, 3]), 1)])
    assert again.rank == 0
    assert 0 < other.rank <= N_ITEMS - 2


def test_a_seed_fixes_the_result() -> None:
    """The same seed gives the same weights to the last bit, whatever else draws random numbers; another does not."""
    training = planted(40)
    states = []
    for seed in (0, 0, 1):
        torch.rand(3)
        learner = learner_for(training, seed)
        learner.fit(training, Budget(epochs=2))
        states.append(learner.state())
    assert states[0] == states[1] != states[2]


def test_the_global_random_state_is_left_alone() -> None:
    """Training draws from the learner's own random state."""
    training = planted(20)
    learner = learner_for(training)
    before = torch.random.get_rng_state()
    learner.fit(training, Budget(epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_resumed_learner_continues_bit_for_bit() -> None:
    """After saving and loading, further items, steps and scores are exactly those of one that never stopped."""
    training = planted(40)
    learner = learner_for(training)
    learner.fit(training, Budget(epochs=2))
    learner.step([Example(planted(1, seed=7)[0], 2)])
    learner.watermark = 123
    resumed = Learner.load_state(learner.state())
    assert resumed.watermark == 123
    assert resumed.item_ids == learner.item_ids
    assert resumed.config == learner.config
    new, replay = [Example(planted(1, seed=8)[0], 3)], [Example(h, 4) for h in training[:5]]
    for each in (learner, resumed):
        each.add_items(["été", "new"], np.ones((2, F)))
        each.step(new, replay, n_steps=3)
        each.step([Example([*clicks([1]), HistoryEvent(9, 10**9, "click", "été")], 1)])
    assert learner.state() == resumed.state()


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_checkpoint_is_refused(damage: str) -> None:
    """A file that is no whole checkpoint raises ArtifactError."""
    content = learner_for(planted(2)).state()
    damaged = {"cut": content[:-9], "garbage": b"\x08" + bytes(20), "empty": b""}[damage]
    with pytest.raises(ArtifactError):
        Learner.load_state(damaged)


def test_progress_is_reported_to_the_end() -> None:
    """The callback sees the fraction grow to 1 and, at the end, a validation figure."""
    training = planted(40)
    seen: list[Progress] = []
    result = learner_for(training).fit(training, Budget(epochs=3), seen.append)
    fractions = [progress.elapsed_fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert seen[0].validation_ndcg_at_10 is None
    assert max(p.validation_ndcg_at_10 or 0.0 for p in seen) == result.towers_validation_ndcg_at_10
    assert result.validation_ndcg_at_10 >= result.towers_validation_ndcg_at_10  # co-visits join only where they help


def test_training_stops_when_the_clock_says_so() -> None:
    """A budget in seconds ends training whatever the number of epochs, and gives a usable learner."""
    training = planted(40)
    learner = learner_for(training)
    result = learner.fit(training, Budget(seconds=0.2))
    assert result.epochs >= 1
    assert np.isfinite(learner.item_vectors()).all()


@pytest.mark.parametrize("histories", [[], [[]], [clicks([1])], [clicks([1]), clicks([2])]])
def test_training_on_next_to_nothing_works(histories: list[History]) -> None:
    """No history, or none with two events, leaves an untrained learner that still answers."""
    learner = learner_for(histories)
    learner.fit(histories, Budget(epochs=2))
    assert np.isfinite(learner.item_vectors()).all()


def test_a_budget_must_end() -> None:
    """Neither seconds nor epochs would train for ever."""
    with pytest.raises(ValueError, match="budget"):
        Budget()


def test_what_speaks_against_an_item_is_no_target() -> None:
    """Of the built-in types those that are targets and not negative are learned, by their weights."""
    weights = target_weights(BUILT_IN_EVENT_TYPES)
    assert weights["purchase"] == 5.0
    assert not {"hide", "dislike", "cancel", "search", "impression"} & set(weights)


def test_habits_are_told_from_accidents() -> None:
    """Users who come back to items now and then are a habit; ratings, never given twice, are not."""
    assert users_repeat([clicks([1, 2, 1]), clicks([3, 4])], {"click"})
    assert not users_repeat([clicks([1, 2, 3])], {"click"})
    assert not users_repeat([clicks([1, 1, 1])], {"purchase"})
    assert not users_repeat([], {"click"})


def test_a_removed_item_is_no_context_target_or_candidate() -> None:
    """Serving drops events on items that are gone; so does learning, and what was learned comes back with the item."""
    histories = planted(20)
    learner = learner_for(histories)
    learner.fit(histories, Budget(epochs=1))
    rows, vector = learner.row("i3"), learner.item_vectors(np.array([learner.row("i3")]))
    probe = Example(clicks([1, 3, 2, 5]), 1)
    without = Example([event for event in probe.events if event.item_id != "i3"], 1)
    learner.remove_items(["i3", "never-heard-of"])
    assert (learner.row("i3"), learner.knows("i3"), learner.knows("never-heard-of")) == (0, True, False)
    assert learner.score([probe]) == learner.score([without])
    worst = max(learner.score([Example(clicks([1, i]), 1)])[0].rank for i in range(N_ITEMS))
    assert worst <= N_ITEMS - 1
    missed = learner.score([Example(clicks([1, 3]), 1)])
    assert [target.rank for target in missed] == [0]
    counts = learner.counts.copy()
    result = learner.step([Example(clicks([1, 3, 2, 3]), 4)])
    assert rows not in result.touched_rows
    assert learner.counts[rows] == counts[rows]
    np.testing.assert_array_equal(learner.item_vectors(np.array([rows])), vector)
    loaded = Learner.load_state(learner.state())
    assert loaded.row("i3") == 0
    assert loaded.state() == learner.state()
    loaded.add_items(["i3", "new"], np.zeros((2, F)))
    assert (loaded.row("i3"), loaded.row("new")) == (rows, N_ITEMS + 1)


def test_a_removed_item_does_not_count_as_popular() -> None:
    """Where nothing is known of a user the rank is by popularity, among the items there are."""
    histories = planted(20)
    learner = learner_for(histories)
    learner.fit(histories, Budget(epochs=1))
    by_count = np.argsort(-learner.counts[1:], kind="stable")
    first, second = (f"i{index}" for index in by_count[:2])
    newcomer = [HistoryEvent(1, 0, "click", second)]
    before = learner.score([Example(newcomer, 1)])[0].rank
    learner.remove_items([first])
    assert learner.score([Example(newcomer, 1)])[0].rank == before - 1


def test_training_that_gets_no_better_settles_and_ends_early() -> None:
    """Most of a budget far too long is left unused; where patience is longer than the budget, all of it is used."""
    training = planted(40, shuffled=True)
    seen: list[Progress] = []
    learner_for(training, patience=2).fit(training, Budget(epochs=60), seen.append)
    used = seen[-1].elapsed_fraction
    assert used < 0.5
    best = max(range(len(seen)), key=lambda index: seen[index].validation_ndcg_at_10 or 0.0)
    assert seen[-1].elapsed_fraction > seen[best].elapsed_fraction
    seen.clear()
    learner_for(training, patience=9).fit(training, Budget(epochs=6), seen.append)
    assert seen[-1].elapsed_fraction == 1.0
