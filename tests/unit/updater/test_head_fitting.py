"""The heads' last lesson: calibration of what was learned too surely."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headwater_core.events import HistoryEvent
from headwater_core.histories import collate, fit_vocabulary
from headwater_core.towers import TowerConfig, save_state
from headwater_updater.examples import Window, windows
from headwater_updater.head_fitting import fit_heads, platt
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig

N_ITEMS = 12


def rated(n_users: int, seed: int) -> list[list[HistoryEvent]]:
    """Ratings by what an item is, not by whom."""
    rng = np.random.default_rng(seed)
    return [
        [
            HistoryEvent(k + 1, k * 1_000_000, "rating", f"i{item}", float(item % 3))
            for k, item in enumerate(rng.permutation(N_ITEMS)[:8].tolist())
        ]
        for _ in range(n_users)
    ]


@pytest.fixture(scope="module")
def trained() -> bytes:
    histories = rated(120, 0)
    tower = fit_vocabulary(TowerConfig(dimension=8, n_heads=1, n_layers=1, text_dimension=2, dropout=0.0), histories)
    learner = Learner.create(LearnerConfig(tower, {"rating": 1.0}, batch_tokens=256), seed=0)
    learner.add_items([f"i{i}" for i in range(N_ITEMS)], np.zeros((N_ITEMS, 2)))
    learner.fit(histories, Budget(epochs=2))
    return learner.state()


@pytest.fixture
def learner(trained: bytes) -> Learner:
    return Learner.load_state(trained)


def cut(learner: Learner, histories: list[list[HistoryEvent]]) -> list[Window]:
    sequences = [learner.tokens(events) for events in histories]
    return [window for s in sequences for window in windows(s, learner.target_weights(s, 0), 8)]


def value_error(learner: Learner, histories: list[list[HistoryEvent]]) -> float:
    sequence = [learner.tokens(events) for events in histories]
    rows = torch.tensor([s.item_rows[-1] for s in sequence])
    learner.heads.eval()
    with torch.no_grad():
        interests = torch.zeros(len(rows), 1, learner.config.tower.dimension)
        _, values = learner.heads.of_best_interest(interests, learner.vectors(rows).unsqueeze(1))
    truth = torch.tensor([float(s.value[-1]) for s in sequence])
    return float((values[:, 0] - truth).square().mean())


def evidence(logits: np.ndarray, bonuses: np.ndarray) -> np.ndarray:
    return np.stack([logits, np.zeros_like(logits), bonuses, np.ones_like(logits)], axis=1)


def test_platt_finds_scale_and_shift() -> None:
    """Logits that are twice too sure and shifted are put right."""
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 1.5, 50_000)
    happened = rng.uniform(0, 1, len(true)) < 1 / (1 + np.exp(-true))
    scale, _, bonus, shift = platt(evidence(2 * true + 1, np.zeros_like(true)), happened)
    assert scale == pytest.approx(0.5, abs=0.03)
    assert bonus == pytest.approx(0.0)
    assert shift == pytest.approx(-0.5, abs=0.05)


def test_platt_hears_what_the_logits_do_not_know() -> None:
    """What co-visits say of an event counts as much as it is worth."""
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(-1, 1, (2, 50_000))
    happened = rng.uniform(0, 1, len(known)) < 1 / (1 + np.exp(-known - 0.7 * unknown))
    scale, _, bonus, _ = platt(evidence(known, unknown), happened)
    assert scale == pytest.approx(1.0, abs=0.05)
    assert bonus == pytest.approx(0.7, abs=0.05)


def test_little_evidence_changes_little() -> None:
    """One event on one pair leaves the logits nearly as they were."""
    scale, _, bonus, shift = platt(evidence(np.array([0.0]), np.array([0.0])), np.array([True]))
    assert scale == pytest.approx(1.0)
    assert bonus == pytest.approx(0.0)
    assert shift == pytest.approx(0.4, abs=0.2)


def test_spoilt_heads_recover(learner: Learner) -> None:
    """From the towers alone the heads learn what values items have; the towers stay as they are."""
    torch.manual_seed(0)
    for parameter in learner.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    towers, error = save_state(learner.user_tower), value_error(learner, rated(50, 2))
    fit_heads(learner, cut(learner, rated(120, 0)), cut(learner, rated(40, 1)))
    assert value_error(learner, rated(50, 2)) < error
    assert save_state(learner.user_tower) == towers


def test_probabilities_add_up_to_what_happens(learner: Learner) -> None:
    """Over the stated exposure, the mean probability is the share of pairs with an event: one in a hundred."""
    with torch.no_grad():
        learner.heads.type_logits.bias.add_(3.0)
    held = rated(200, 1)
    fit_heads(learner, cut(learner, rated(120, 0)), cut(learner, held))
    learner.heads.eval()
    rng = np.random.default_rng(3)
    with torch.no_grad():
        sequences = [learner.tokens(events[:-1]) for events in held]
        rows = torch.from_numpy(rng.integers(1, N_ITEMS + 1, (len(held), 100)))
        vectors = learner.vectors(torch.arange(N_ITEMS + 1))
        histories = torch.stack([vectors[torch.from_numpy(s.item_rows)] for s in sequences])
        interests = learner.user_tower(collate(sequences, learner.config.tower), histories)
        logits, _ = learner.heads.of_best_interest(interests, vectors[rows])
        scores = (interests @ vectors[rows].transpose(1, 2)).squeeze(1)
        bonuses = [learner.bonuses(s, learner.blend).of(r) for s, r in zip(sequences, rows.numpy(), strict=True)]
        said = learner.heads.probabilities(logits, scores, torch.from_numpy(np.stack(bonuses)))
    assert float(said[..., 1].mean()) == pytest.approx(0.01, abs=0.003)


def test_without_held_out_targets_nothing_is_done(learner: Learner) -> None:
    """There is nothing to judge by."""
    before = save_state(learner.heads)
    fit_heads(learner, cut(learner, rated(20, 0)), [])
    assert save_state(learner.heads) == before
