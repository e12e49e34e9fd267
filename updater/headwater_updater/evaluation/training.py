"""Trains the product's learner on histories, within what is left of a wall-clock budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from headwater_core import item_features
from headwater_core.events import EventType, HistoryEvent
from headwater_core.histories import fit_vocabulary
from headwater_core.item_features import Vector
from headwater_core.text import Encoder
from headwater_core.towers import TowerConfig
from headwater_updater.evaluation.clock import Clock
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.progress import OnProgress, training_note
from headwater_updater.evaluation.ranked_lists import ranked_lists
from headwater_updater.evaluation.texts import TextTable
from headwater_updater.full_training import FitResult
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig, negative_types, target_weights
from headwater_updater.settings import UpdaterSettings

_ENCODING_SHARE = 1 / 3
"""Of the budget, what encoding texts may take: without time to train, texts help nobody."""
_MARGIN_SHARE, _MARGIN_S, _MAX_MARGIN_SHARE = 0.02, 6.0, 0.1
"""What is kept back for starting Python (before the clock can run) and the unforeseen: a share of the budget, at least
so many seconds, at most another share."""
_RANKING_MARGIN = 1.5
"""How much slower than measured ranking may become."""
_BONUS_S, _BONUSES_PER_HELD_OUT = 0.002, 4
"""What a user's co-visit bonuses take, which cannot be measured before there are any; choosing the blend makes them
several times for each user it chooses by."""
_MIN_TRAINING_SHARE = 0.05
_SAMPLE_USERS = 64
_VALIDATION_SHARE = 0.05
"""Of the training time, what one validation over all users may take; where it takes more, fewer are validated on."""


class Task(NamedTuple):
    """What is to be learned, and for whom lists will be made."""

    training: Sequence[Sequence[HistoryEvent]]
    asked: Sequence[Sequence[HistoryEvent]]
    """Histories of the users whose lists will be made."""
    candidates: Sequence[str]
    item_texts: Mapping[str, str]
    item_vectors: Mapping[str, Vector]
    """Of the items that have one; all of one length."""
    event_types: Mapping[str, EventType]
    allow_repeats: bool
    learn_validation: bool
    """Whether the validation blocks are learned, too, once the best weights are chosen by them."""
    query_times_us: Sequence[int] | None = None
    """When each of `asked` is asked, for towers that read it; None for those of the product, which do not."""


class Trained(NamedTuple):
    """A learner, and how it came about."""

    learner: Learner
    result: FitResult
    n_texts: int
    """Different texts of items and queries …"""
    n_texts_encoded: int
    """… and how many of them there was time to encode."""
    training_budget_s: float
    max_validation_users: int


def train(
    task: Task,
    settings: UpdaterSettings,
    seed: int,
    clock: Clock,
    make_encoder: Callable[[], Encoder],
    report: OnProgress,
) -> Trained:
    """Encode texts, measure how fast lists are made, then train for as long as the rest of the budget allows.

    Args:
        task: what to learn.
        settings: the towers' sizes, as bootstrap takes them.
        seed: of everything random. Where training ends is up to the clock, so equal seeds give like results, not
            equal ones.
        clock: runs since the command started.
        make_encoder: called if there is any text.
        report: told how far it is.
    """
    with clock.stage("encoding"):
        texts, n_texts = _encode(task, clock, make_encoder, report)
    vector_dimension = max((len(vector) for vector in task.item_vectors.values()), default=0)
    config = configuration(
        task.training,
        task.event_types,
        settings,
        text_dimension=texts.dimension,
        vector_dimension=vector_dimension,
        allow_repeats=task.allow_repeats,
        reads_query_time=task.query_times_us is not None,
    )
    learner = Learner.create(config, seed, texts.features)
    # What is only in the users' histories has no training event: it is read by its features, and never recommended.
    everything = chain(task.candidates, (e.item_id for events in (*task.training, *task.asked) for e in events))
    item_ids = [item_id for item_id in dict.fromkeys(everything) if item_id]
    text_features = texts.features([task.item_texts.get(item_id, "") for item_id in item_ids])
    vectors = [task.item_vectors.get(item_id) for item_id in item_ids]
    learner.add_items(item_ids, item_features.join(text_features, vectors, vector_dimension))
    with clock.stage("measuring"):
        user_s = _seconds_for_a_list(learner, task, clock) + _BONUS_S
    # Validating is about as dear as ranking; learning the held-out targets, at most twice that.
    margin_s = min(max(_MARGIN_SHARE * clock.budget_s, _MARGIN_S), _MAX_MARGIN_SHARE * clock.budget_s)
    ranking_s = _RANKING_MARGIN * user_s * len(task.asked)
    floor_s = _MIN_TRAINING_SHARE * clock.budget_s
    available_s = max(clock.left_s - margin_s - ranking_s, floor_s)
    if not task.learn_validation:
        # Every user's validation block is kept from training, as the protocol wants, where that can be paid for.
        affordable = int(_VALIDATION_SHARE * available_s / max(user_s, 1e-9))
        n_users = min(len(task.training), max(affordable, learner.config.max_validation_users))
        learner.config = replace(learner.config, max_validation_users=max(n_users, 1))
    n_held = min(len(task.training), learner.config.max_validation_users)
    validation_s = ((3 if task.learn_validation else 1) * user_s + _BONUSES_PER_HELD_OUT * _BONUS_S) * n_held
    budget_s = max(available_s - validation_s, floor_s)
    with clock.stage("training"):
        result = learner.fit(
            task.training,
            Budget(seconds=budget_s),
            lambda progress: report("training", progress.elapsed_fraction, training_note(progress)),
            learn_held_out=task.learn_validation,
        )
    return Trained(learner, result, n_texts, len(texts), budget_s, learner.config.max_validation_users)


def configuration(
    training: Sequence[Sequence[HistoryEvent]],
    event_types: Mapping[str, EventType],
    settings: UpdaterSettings,
    *,
    text_dimension: int,
    vector_dimension: int,
    allow_repeats: bool,
    reads_query_time: bool = False,
) -> LearnerConfig:
    """As bootstrap configures a learner; only `exclude_seen` and `reads_query_time` are as the lists will be made."""
    tower = TowerConfig(
        dimension=settings.dimension,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        n_interests=settings.n_interests,
        history_length=settings.history_length,
        text_dimension=text_dimension,
        vector_dimension=vector_dimension,
        reads_query_time=reads_query_time,
    )
    return LearnerConfig(
        fit_vocabulary(tower, training, event_types, negative_types(event_types)),
        target_weights(event_types),
        exclude_seen=not allow_repeats,
    )


def _encode(task: Task, clock: Clock, make_encoder: Callable[[], Encoder], report: OnProgress) -> tuple[TextTable, int]:
    """The texts that the learner may meet, the most frequent first, and how many they are."""
    used: Counter[str] = Counter()
    for event in chain.from_iterable((*task.training, *task.asked)):
        used[task.item_texts.get(event.item_id, "")] += 1
        used[event.query] += 1
    wanted = [text for text, _ in used.most_common() if text.strip()]
    if not wanted:
        return TextTable(1), 0
    until_s = clock.elapsed_s + _ENCODING_SHARE * clock.left_s
    report("encoding texts", 0.0, "")
    encoder = make_encoder()
    texts = TextTable(encoder.dimension)
    texts.fill(encoder, wanted, lambda: clock.elapsed_s < until_s, lambda share: report("encoding texts", share, ""))
    return texts, len(wanted)


def _seconds_for_a_list(learner: Learner, task: Task, clock: Clock) -> float:
    """What one user's list takes, measured on a few; untrained towers are as fast as trained ones."""
    step = max(1, len(task.asked) // _SAMPLE_USERS)
    sample = task.asked[::step][:_SAMPLE_USERS]
    scorer = LearnerScorer(learner, task.candidates)
    ranked_lists(scorer, sample[:4], allow_repeats=task.allow_repeats)  # the first call pays for setting up
    started_s = clock.elapsed_s
    ranked_lists(scorer, sample, allow_repeats=task.allow_repeats)
    return (clock.elapsed_s - started_s) / max(len(sample), 1)
