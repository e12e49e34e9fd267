"""Choosing among options by training: every model of the baselines' environment goes the same way."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from split_folder import LIST_LENGTH, Lists, SplitFolder, read_split

TAIL_SHARE = 0.05
"""Of the budget, kept for making the lists."""
_CUT = 10

Options = Mapping[str, Any]


class Model(Protocol):
    """Something that learns events an epoch at a time and lists items for users."""

    def train_epoch(self, deadline_s: float) -> None:
        """One pass over what it was made with, or less where the monotonic clock passes the deadline before."""
        ...

    def recommend(self, events: pd.DataFrame, users: Iterable[str], length: int) -> Lists:
        """Lists made from the events; users of whom the model knows nothing have none."""
        ...

    def state(self) -> dict[str, Any]:
        """The weights, by name."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Take other weights."""
        ...


Make = Callable[[pd.DataFrame, Options], Model]
"""A model that is to learn these events with these options."""


@dataclass(slots=True)
class Trial:
    """One choice of options; the weights of its best epoch are kept."""

    options: Options
    model: Model
    value: Callable[[Model], float]
    """NDCG@10 on validation."""
    patience: int
    """Epochs without a better value, after which it has ended."""
    best_value: float = -1.0
    best_epoch: int = 0
    best_state: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether it no longer improves."""
        return self.epochs - self.best_epoch >= self.patience

    def run(self, deadline_s: float) -> None:
        """Train on until the deadline or the trial's end."""
        while not self.has_ended and time.monotonic() < deadline_s:
            self.model.train_epoch(deadline_s)
            self.epochs += 1
            value = self.value(self.model)
            if value > self.best_value:
                self.best_value, self.best_epoch = value, self.epochs
                self.best_state = {name: tensor.clone() for name, tensor in self.model.state().items()}


def best_trial(trials: Sequence[Trial], end_s: float, first_share: float) -> Trial:
    """Give each trial a turn, then go on with the best that still improves, until the time is up.

    Args:
        trials: options to choose among.
        end_s: when the time is up, on the monotonic clock.
        first_share: of the time from now, for all first turns together.
    """
    start_s = time.monotonic()
    for number, trial in enumerate(trials, start=1):
        trial.run(start_s + (end_s - start_s) * first_share * number / len(trials))
    while time.monotonic() < end_s and (going := [trial for trial in trials if not trial.has_ended]):
        max(going, key=lambda trial: trial.best_value).run(end_s)
    return max(trials, key=lambda trial: trial.best_value)


@dataclass(frozen=True, slots=True)
class Task:
    """What the command line says."""

    model: str
    split: SplitFolder
    seed: int
    end_s: float
    """When the model must be ready, on the monotonic clock."""
    out: Path
    choices: Path

    def finish(self, found: Lists, best: Trial, facts: Mapping[str, Any]) -> None:
        """Write the lists and what was chosen; the lists are there whole or not at all."""
        part = self.out.with_name(self.out.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            for user_id, items in zip(self.split.asked, self.split.complete(found), strict=True):
                file.write(json.dumps({"user_id": user_id, "items": items}, ensure_ascii=False) + "\n")
        chosen = {"options": best.options, "validation_ndcg_at_10": best.best_value, "best_epoch": best.best_epoch}
        self.choices.write_text(json.dumps({**chosen, **facts}, indent=2) + "\n", "utf-8")
        part.replace(self.out)


def solve(task: Task, make: Make, grid: Sequence[Options], patience: int, first_share: float) -> None:
    """Choose options within the budget and write the lists of the best.

    Where validation events are to be learned, options are chosen in half of the time; then a new model learns all
    events with the best, for as many epochs as were best or the time allows.
    """
    split = task.split

    def value(model: Model) -> float:
        return split.validation_ndcg_at_10(model.recommend(split.learned, split.validation, _CUT))

    now_s = time.monotonic()
    trials = [Trial(options, make(split.learned, options), value, patience) for options in grid]
    best = best_trial(trials, (now_s + task.end_s) / 2 if split.learn_validation else task.end_s, first_share)
    model = best.model
    facts: dict[str, Any] = {"epochs_of_trials": [trial.epochs for trial in trials]}
    if split.learn_validation:
        model, epochs = make(split.training, best.options), 0
        while epochs < best.best_epoch and time.monotonic() < task.end_s:
            model.train_epoch(task.end_s)
            epochs += 1
        facts["refit_epochs"] = epochs
    else:
        model.load(best.best_state)
    task.finish(model.recommend(split.known, split.asked, LIST_LENGTH), best, facts)


def read_task(description: str, models: Sequence[str]) -> Task:
    """Read the command line and the split; the budget runs from here on, so that it does not pay for imports."""
    start_s = time.monotonic()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=models, required=True)
    parser.add_argument("--split", type=Path, required=True, help="folder that compare.py has written")
    parser.add_argument("--out", type=Path, required=True, help="predictions to write")
    parser.add_argument("--choices", type=Path, required=True, help="file for the options chosen, as JSON")
    parser.add_argument("--budget-minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    end_s = start_s + arguments.budget_minutes * 60 * (1 - TAIL_SHARE)
    split = read_split(arguments.split)
    return Task(arguments.model, split, arguments.seed, end_s, arguments.out, arguments.choices)
