"""Lists made of scores, and the towers as a scorer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from headwater_core.events import HistoryEvent
from headwater_core.towers import TowerConfig
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.ranked_lists import best_places, ranked_lists
from headwater_updater.evaluation.texts import TextTable
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig


def history(*item_ids: str) -> list[HistoryEvent]:
    return [HistoryEvent(n, n * 1_000_000, "click", item_id) for n, item_id in enumerate(item_ids, start=1)]


class ByLength:
    """Scores item n of a, b, c, d as its place times the length of the history; an empty one likes all the same."""

    item_ids = ("a", "b", "c", "d")

    def score_batch(
        self, histories: Sequence[Sequence[HistoryEvent]], query_times_us: Sequence[int] | None = None
    ) -> np.ndarray:
        """Asked at an odd time, it likes them the other way round."""
        signs = [-1 if time_us % 2 else 1 for time_us in query_times_us or [0] * len(histories)]
        scores = [
            [sign * len(events) * place for place in range(4)] for sign, events in zip(signs, histories, strict=True)
        ]
        return np.array(scores, np.float32)


def test_lists_are_in_the_order_asked_for_without_what_was_seen() -> None:
    """Items that are no candidates do no harm in a history; equal scores stay in the candidates' order."""
    asked = [history("d", "x"), [], history("a")]
    found = ranked_lists(ByLength(), asked, allow_repeats=False, length=3)
    assert found == [["c", "b", "a"], ["a", "b", "c"], ["d", "c", "b"]]
    assert ranked_lists(ByLength(), asked, allow_repeats=True, length=2)[0] == ["d", "c"]


def test_each_is_asked_at_their_own_time() -> None:
    """However users are ordered into batches."""
    asked = [history("a", "b"), history("a"), [*history("d", "x", "x")]]
    found = ranked_lists(ByLength(), asked, allow_repeats=True, length=2, query_times_us=[1, 2, 3])
    assert found == [["a", "b"], ["d", "c"], ["a", "b"]]


def test_a_user_who_saw_everything_has_an_empty_list() -> None:
    """Nothing is left to recommend."""
    assert ranked_lists(ByLength(), [history("a", "b", "c", "d")], allow_repeats=False) == [[]]


@pytest.mark.parametrize("length", [1, 7, 40, 60])
def test_the_best_places_are_those_of_a_full_sort(length: int) -> None:
    """Ties included, −inf left out."""
    scores = np.random.default_rng(length).integers(0, 8, 50).astype(np.float32)
    scores[::5] = -np.inf
    expected = [place for place in np.argsort(-scores, kind="stable") if scores[place] > -np.inf][:length]
    assert best_places(scores, length).tolist() == expected


@pytest.fixture(scope="module")
def learner() -> Learner:
    config = LearnerConfig(
        TowerConfig(
            dimension=8, n_layers=1, text_dimension=1, event_types=("click",), value_mean=(0.0,), value_std=(1.0,)
        ),
        {"click": 1.0},
    )
    learner = Learner.create(config, 0)
    learner.add_items(["a", "b", "c", "d"], np.zeros((4, 1), np.float16))
    learner.fit([history("a", "b", "c"), history("b", "c", "a"), history("b", "a")], Budget(epochs=2))
    return learner


def test_batching_does_not_change_the_learners_scores(learner: Learner) -> None:
    """Neither padding nor neighbours leak into a user's scores, and the candidates' order is the columns'."""
    histories = [history("a"), history("a", "b", "c"), history("c", "b")]
    together = LearnerScorer(learner, ["a", "b", "c"]).score_batch(histories)
    alone = [LearnerScorer(learner, ["c", "a", "b"]).score_batch([each])[0] for each in histories]
    assert np.allclose(together[:, [2, 0, 1]], np.stack(alone), atol=1e-5)


def test_who_is_not_known_gets_what_is_popular(learner: Learner) -> None:
    """Histories that are empty, or hold nothing the learner knows."""
    lists = ranked_lists(LearnerScorer(learner, learner.item_ids), [[], history("x")], allow_repeats=True)
    popular = sorted(learner.item_ids, key=lambda item_id: -learner.counts[learner.row(item_id)])
    assert lists == [popular, popular]


class Lengths:
    """Encodes a text as its length."""

    id = "lengths"
    dimension = 2

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), 1] for text in texts], np.float16)


def test_texts_are_encoded_while_there_is_time() -> None:
    """What was not reached reads as no text."""
    texts = [f"text {n}" for n in range(300)]
    table = TextTable(2)
    answers = iter([True, True, False])
    table.fill(Lengths(), texts, lambda: next(answers))
    assert len(table) == 256
    assert table.features([texts[0], texts[299], ""]).tolist() == [[6, 1], [0, 0], [0, 0]]
