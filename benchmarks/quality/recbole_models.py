"""LightGCN, NeuMF and Mult-VAE by RecBole, stopped on validation. Runs without Headwater; see README.md."""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import LightGCN, MultiVAE, NeuMF
from recbole.utils import init_seed
from scipy.sparse import dok_matrix
from split_folder import Lists
from trials import Options, read_task, solve

MODELS = {"lightgcn": LightGCN, "neumf": NeuMF, "multvae": MultiVAE}
GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "lightgcn": tuple(
        {"learning_rate": rate, "n_layers": layers, "reg_weight": 1e-4, "train_batch_size": 2048}
        for rate, layers in ((1e-3, 2), (5e-3, 2), (1e-3, 3))
    ),
    "neumf": tuple(
        {"learning_rate": rate, "dropout_prob": dropout, "train_batch_size": 2048}
        for rate, dropout in ((1e-3, 0.1), (5e-4, 0.3))
    ),
    "multvae": tuple(
        {"learning_rate": rate, "dropout_prob": dropout, "anneal_cap": 0.2, "train_batch_size": batch}
        for rate, dropout, batch in ((1e-3, 0.5, 128), (1e-3, 0.7, 128), (5e-4, 0.5, 32))
    ),
}
WIDTH = 64
PATIENCE = 15
"""Epochs without a better NDCG@10 on validation."""
FIRST_SHARE = 1 / 2
_NAME = "split"
_SCORED_PAIRS = 30_000
"""Of NeuMF at once: few enough for their layers to stay in the cache."""
_USERS_AT_ONCE = 512


class RecBoleModel:
    """One model that trains on one data set, an epoch at a time."""

    def __init__(self, model: str, events: pd.DataFrame, options: Options, seed: int, *, allow_repeats: bool) -> None:
        """Args: model: of MODELS; events: to learn; options: RecBole's; seed: of all; allow_repeats: in lists."""
        init_seed(seed, reproducibility=True)
        self._allow_repeats = allow_repeats
        with tempfile.TemporaryDirectory() as folder:
            users, user_ids = pd.factorize(events["user_id"])
            items, item_ids = pd.factorize(events["item_id"])
            _write_atomic(Path(folder) / _NAME, users, items)
            self._config = _config(MODELS[model], Path(folder), options, seed)
            self._dataset: Dataset = create_dataset(self._config)
        self._batches, _, _ = data_preparation(self._config, self._dataset)
        self._model = MODELS[model](self._config, self._batches.dataset)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=options["learning_rate"])
        rows: dict[str, dict[str, int]] = self._dataset.field2token_id  # by number as text; 0 is padding
        self._users = {user_id: rows["user_id"][str(number)] for number, user_id in enumerate(user_ids)}
        self._items = {item_id: rows["item_id"][str(number)] for number, item_id in enumerate(item_ids)}
        self._item_ids = {row: item_id for item_id, row in self._items.items()}

    def train_epoch(self, deadline_s: float) -> None:
        """One pass over the training events, or less where the time is up before."""
        self._model.train()
        for batch in self._batches:
            self._optimizer.zero_grad()
            loss = self._model.calculate_loss(batch)
            loss.backward()
            self._optimizer.step()
            if time.monotonic() > deadline_s:
                break

    @torch.no_grad()
    def recommend(self, events: pd.DataFrame, users: Iterable[str], length: int) -> Lists:
        """Lists for the users, made from the events; users that the model does not know have none.

        Mult-VAE encodes the very events; the others have one vector for each user, learned from training alone.
        """
        self._model.eval()
        known = events[events["user_id"].isin(self._users) & events["item_id"].isin(self._items)]
        places = known.groupby("user_id")["item_id"].agg(lambda items: [self._items[item] for item in items]).to_dict()
        asked = [user for user in users if user in self._users]
        found: dict[str, list[str]] = {}
        for start in range(0, len(asked), _USERS_AT_ONCE):
            part = asked[start : start + _USERS_AT_ONCE]
            scores = self._scores(part, [places.get(user, []) for user in part])  # (B, N + 1), item 0 is padding
            scores[:, 0] = -torch.inf
            if not self._allow_repeats:
                for row, user in enumerate(part):
                    scores[row, places.get(user, [])] = -torch.inf
            best = scores.topk(min(length, scores.shape[1] - 1), dim=1)
            for user, values, items in zip(part, best.values.tolist(), best.indices.tolist(), strict=True):
                found[user] = [
                    self._item_ids[item] for value, item in zip(values, items, strict=True) if value > -np.inf
                ]
        return found

    def state(self) -> dict[str, Any]:
        """The weights."""
        state: dict[str, Any] = self._model.state_dict()
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Take other weights."""
        self._model.load_state_dict(state)
        if isinstance(self._model, LightGCN):
            self._model.restore_user_e = self._model.restore_item_e = None

    def _scores(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
        """(B, N + 1)."""
        scores: torch.Tensor
        n_items = len(self._items) + 1
        ids = torch.tensor([self._users[user] for user in users])  # (B,)
        if isinstance(self._model, MultiVAE):
            met = torch.zeros(len(users), n_items)
            for row, history in enumerate(histories):
                met[row, history] = 1.0
            scores = self._model(met)[0]
            return scores
        if isinstance(self._model, LightGCN):
            if self._model.training or self._model.restore_user_e is None:
                self._model.restore_user_e, self._model.restore_item_e = self._model.forward()
            scores = self._model.full_sort_predict(Interaction({"user_id": ids})).view(len(users), n_items)
            return scores
        step = max(1, _SCORED_PAIRS // n_items)
        every = torch.arange(n_items)
        rows = [
            self._model.predict(
                Interaction({"user_id": part.repeat_interleave(n_items), "item_id": every.repeat(len(part))})
            ).view(len(part), n_items)
            for part in torch.split(ids, step)
        ]
        return torch.cat(rows)


def main() -> int:
    """Choose options within the budget and write the lists of the best."""
    task = read_task("LightGCN, NeuMF, Mult-VAE", list(MODELS))
    del sys.argv[1:]  # RecBole would read them as its own

    def make(events: pd.DataFrame, options: Options) -> RecBoleModel:
        return RecBoleModel(task.model, events, options, task.seed, allow_repeats=task.split.allow_repeats)

    solve(task, make, GRIDS[task.model], PATIENCE, FIRST_SHARE)
    return 0


def _restore_dok_update() -> None:
    """RecBole 1.2.1 fills its graph by a method that SciPy took away in 1.13."""

    def update(matrix: dok_matrix, entries: Mapping[tuple[int, int], float]) -> None:
        matrix._dict.update(entries)

    dok_matrix._update = update


def _config(model: type, folder: Path, options: Options, seed: int) -> Config:
    """All events are training: the split is made already, and RecBole's own evaluation is not used."""
    sampled = {"distribution": "uniform", "sample_num": 4 if model is NeuMF else 1}
    settings = {
        "data_path": str(folder),
        "load_col": {"inter": ["user_id", "item_id"]},
        "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": None, "mode": "full"},
        "train_neg_sample_args": None if model is MultiVAE else sampled,
        "seed": seed,
        "use_gpu": False,
        "embedding_size": WIDTH,
        **options,
    }
    return Config(model=model.__name__, dataset=_NAME, config_dict=settings)


def _write_atomic(folder: Path, users: np.ndarray, items: np.ndarray) -> None:
    """The events in RecBole's form; numbers for ids, so that none is mistaken for a missing value."""
    folder.mkdir()
    rows = pd.DataFrame({"user_id:token": users, "item_id:token": items})
    rows.to_csv(folder / f"{_NAME}.inter", sep="\t", index=False)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # RecBole's use of pandas and torch; nothing here to act on
    _restore_dok_update()
    sys.exit(main())
