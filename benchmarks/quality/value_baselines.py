"""What expected values are compared with: the mean of user and item, and a biased matrix factorisation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.splits import IsTarget, last_target_block

_SHRINKAGES = (1.0, 2.0, 5.0, 10.0, 20.0)
_N_FACTORS = (4, 16, 64)
_WEIGHT_DECAYS = (0.01, 0.03, 0.1, 0.3)
_LEARNING_RATE = 0.01
_BATCH = 512
_MAX_EPOCHS = 60
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Ratings:
    """Values of one event type, (n,) each; users and items are numbered, the last number standing for any other."""

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    is_validation: np.ndarray
    """Whether the value is in the user's last block."""
    user_number: Mapping[str, int]
    item_number: Mapping[str, int]

    @classmethod
    def of(cls, histories: Mapping[str, Sequence[HistoryEvent]], event_type: str, is_target: IsTarget) -> Ratings:
        """Those in the histories."""
        user_number: dict[str, int] = {}
        item_number: dict[str, int] = {}
        rows = []
        for user_id, events in histories.items():
            start, stop = last_target_block(events, is_target)
            for index, event in enumerate(events):
                if event.value is not None and event.event_type == event_type:
                    user = user_number.setdefault(user_id, len(user_number))
                    item = item_number.setdefault(event.item_id, len(item_number))
                    rows.append((user, item, event.value, start <= index < stop and start > 0))
        users, items, values, is_validation = map(np.array, zip(*rows, strict=True))
        return cls(users, items, values, is_validation.astype(bool), user_number, item_number)

    def numbers(self, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """The pairs' users and items."""
        users = [self.user_number.get(user_id, len(self.user_number)) for user_id, _ in pairs]
        items = [self.item_number.get(item_id, len(self.item_number)) for _, item_id in pairs]
        return np.array(users, np.int64), np.array(items, np.int64)


def user_item_mean(ratings: Ratings, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Global mean + item's offset + user's offset, each shrunk towards 0; how much is chosen on validation."""
    known = ~ratings.is_validation
    asked = ratings.users[~known], ratings.items[~known]
    truth = ratings.values[~known]

    def error(shrinkages: tuple[float, float]) -> float:
        return float(np.square(_offsets(ratings, known, shrinkages, *asked) - truth).mean())

    best = min(itertools.product(_SHRINKAGES, _SHRINKAGES), key=error)
    return _offsets(ratings, np.ones_like(known), best, *ratings.numbers(pairs))


def _offsets(
    ratings: Ratings, known: np.ndarray, shrinkages: tuple[float, float], users: np.ndarray, items: np.ndarray
) -> np.ndarray:
    by_user, by_item, values = ratings.users[known], ratings.items[known], ratings.values[known]
    mean = values.mean()
    of_user = np.zeros(len(ratings.user_number) + 1)
    of_item = np.zeros(len(ratings.item_number) + 1)
    for _ in range(10):  # each offset given the other, until both stand still
        of_item = _shrunk(by_item, values - mean - of_user[by_user], len(of_item), shrinkages[0])
        of_user = _shrunk(by_user, values - mean - of_item[by_item], len(of_user), shrinkages[1])
    predicted: np.ndarray = mean + of_user[users] + of_item[items]
    return predicted


def _shrunk(group: np.ndarray, residuals: np.ndarray, n: int, shrinkage: float) -> np.ndarray:
    total, count = np.bincount(group, residuals, n), np.bincount(group, minlength=n)
    return total / (count + shrinkage)


class _Factors(nn.Module):
    """Global mean + offsets + inner product (Koren, Bell and Volinsky 2009)."""

    def __init__(self, n_users: int, n_items: int, n_factors: int, mean: float) -> None:
        super().__init__()
        self.mean = mean
        self.users, self.items = (nn.Embedding(n + 1, n_factors + 1) for n in (n_users, n_items))
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.05)
            nn.init.zeros_(table.weight[:, 0])
            nn.init.zeros_(table.weight[-1])

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions (b,), and the sum of squares of what made them (b,)."""
        user, item = self.users(users), self.items(items)
        predicted = self.mean + user[:, 0] + item[:, 0] + (user[:, 1:] * item[:, 1:]).sum(1)
        return predicted, user.square().sum(1) + item.square().sum(1)


def matrix_factorisation(ratings: Ratings, pairs: Sequence[tuple[str, str]], seed: int) -> np.ndarray:
    """Stochastic gradient descent; factors, decay and epochs chosen on validation, then learned from everything."""
    known = ~ratings.is_validation
    choices = [
        (_descend(ratings, known, n, decay, seed, _MAX_EPOCHS), n, decay)
        for n, decay in itertools.product(_N_FACTORS, _WEIGHT_DECAYS)
    ]
    (_, epochs, _), n_factors, decay = min(choices, key=lambda choice: choice[0][0])
    _, _, model = _descend(ratings, np.ones_like(known), n_factors, decay, seed, epochs)
    with torch.inference_mode():
        predicted: np.ndarray = model(*map(torch.from_numpy, ratings.numbers(pairs)))[0].numpy()
    return predicted


def _descend(
    ratings: Ratings, known: np.ndarray, n_factors: int, decay: float, seed: int, epochs: int
) -> tuple[float, int, _Factors]:
    """The best validation error, after how many epochs it was, and the factors after the last."""
    torch.manual_seed(seed)
    values = torch.from_numpy(ratings.values).float()
    users, items = torch.from_numpy(ratings.users), torch.from_numpy(ratings.items)
    model = _Factors(len(ratings.user_number), len(ratings.item_number), n_factors, float(ratings.values[known].mean()))
    optimizer = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
    learned, asked = torch.from_numpy(np.flatnonzero(known)), torch.from_numpy(np.flatnonzero(~known))
    best, best_epoch = float("inf"), 0
    for epoch in range(1, epochs + 1):
        for part in torch.split(learned[torch.randperm(len(learned))], _BATCH):
            predicted, squares = model(users[part], items[part])
            optimizer.zero_grad()
            ((predicted - values[part]).square() + decay * squares).mean().backward()
            optimizer.step()
        if len(asked):
            with torch.inference_mode():
                error = float((model(users[asked], items[asked])[0] - values[asked]).square().mean())
            if error < best:
                best, best_epoch = error, epoch
            elif epoch - best_epoch >= _PATIENCE:
                break
    return best, best_epoch, model
