"""SASRec with full softmax by RecTools, chosen and stopped on validation. Runs without Headwater; see README.md."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from split_folder import Lists
from trials import Options, read_task, solve

WIDTH = 64
BLOCKS = 2
HEADS = 2
MAX_BATCH = 128
STEPS_PER_EPOCH = 50
"""Small sets get smaller batches until an epoch has so many steps; else their budget is spent on a few."""
PATIENCE = 10
"""Epochs without a better NDCG@10 on validation."""
FIRST_SHARE = 1 / 3
GRID = (
    {"lr": 1e-3, "dropout_rate": 0.2, "session_max_len": 100},
    {"lr": 1e-3, "dropout_rate": 0.5, "session_max_len": 50},
    {"lr": 1e-3, "dropout_rate": 0.3, "session_max_len": 200},
    {"lr": 3e-4, "dropout_rate": 0.2, "session_max_len": 100},
)


class _Deadline(Callback):  # type: ignore[misc]  # Lightning is not there where types are checked
    """Ends training inside an epoch when the time is up. RecTools copies its trainers, so the time is the class's."""

    time_s = float("inf")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Called after each step."""
        if time.monotonic() > self.time_s:
            trainer.should_stop = True


class Sasrec:
    """One model that trains on one data set, an epoch at a time."""

    def __init__(self, events: pd.DataFrame, options: Options, seed: int, *, allow_repeats: bool) -> None:
        """Args: events: to learn; options: of GRID; seed: of weights and batches; allow_repeats: in lists."""
        seed_everything(seed)
        self._events = dataset(events)
        self._filter_viewed = not allow_repeats
        self._model = SASRecModel(
            n_blocks=BLOCKS,
            n_heads=HEADS,
            n_factors=WIDTH,
            loss="softmax",
            batch_size=_batch(events["user_id"].nunique()),
            get_trainer_func=_trainer,
            **options,
        )

    def train_epoch(self, deadline_s: float) -> None:
        """One pass over the training sessions, or less where the time is up before."""
        _Deadline.time_s = deadline_s
        self._model.fit_partial(self._events, min_epochs=0, max_epochs=1)

    def recommend(self, events: pd.DataFrame, users: Iterable[str], length: int) -> Lists:
        """Lists for the users, made from the events; users without an event that the model knows have none."""
        known = events[events["item_id"].isin(self._events.item_id_map.external_ids)]
        known = known[known["user_id"].isin(set(users))]
        asked = known["user_id"].unique()
        found = self._model.recommend(users=asked, dataset=dataset(known), k=length, filter_viewed=self._filter_viewed)
        found = found.sort_values([Columns.User, Columns.Rank], kind="stable")
        return {user: items.tolist() for user, items in found.groupby(Columns.User)[Columns.Item]}

    def state(self) -> dict[str, Any]:
        """The weights."""
        state: dict[str, Any] = self._model.lightning_model.state_dict()
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Take other weights."""
        self._model.lightning_model.load_state_dict(state)


def dataset(events: pd.DataFrame) -> Dataset:
    """The events as RecTools takes them; a user's events are a second apart, so that none are tied."""
    return Dataset.construct(
        pd.DataFrame(
            {
                Columns.User: events["user_id"],
                Columns.Item: events["item_id"],
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(events["position"], unit="s"),
            }
        )
    )


def main() -> int:
    """Choose options within the budget and write the lists of the best."""
    task = read_task("SASRec with full softmax", ["sasrec"])

    def make(events: pd.DataFrame, options: Options) -> Sasrec:
        return Sasrec(events, options, task.seed, allow_repeats=task.split.allow_repeats)

    solve(task, make, GRID, PATIENCE, FIRST_SHARE)
    return 0


def _batch(n_users: int) -> int:
    return min(MAX_BATCH, max(8, n_users // STEPS_PER_EPOCH))


def _trainer() -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=[_Deadline()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


if __name__ == "__main__":
    # Lightning speaks of devices and workers each epoch; nothing here to act on.
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    sys.exit(main())
