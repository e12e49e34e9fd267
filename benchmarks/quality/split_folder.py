"""What scripts of the baselines' environment share: they read a split folder and never import Headwater."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

LIST_LENGTH = 100
MAX_VALIDATION_USERS = 2_000
_CUT = 10

Lists = Mapping[str, Sequence[str]]
"""Ranked items by user."""


@dataclass(frozen=True, slots=True)
class SplitFolder:
    """The files that compare.py leaves. Events are those that count as targets, each user's in their order."""

    learned: pd.DataFrame
    """Columns user_id, item_id, position: what options are chosen with."""
    known: pd.DataFrame
    """The same and, after it, validation events: what lists are made from."""
    seen: dict[str, set[str]]
    asked: list[str]
    popular: list[str]
    """Candidates by their number of training events."""
    validation: dict[str, set[str]]
    """The items asked for, by user, of up to 2,000 users; never those of the test."""
    allow_repeats: bool
    learn_validation: bool

    @property
    def training(self) -> pd.DataFrame:
        """What the final model may learn."""
        return self.known if self.learn_validation else self.learned

    def complete(self, found: Lists) -> list[list[str]]:
        """A list for each user who is asked: unseen items alone, and popular ones where too few were found."""
        lists = []
        candidates = set(self.popular)
        for user_id in self.asked:
            seen = set() if self.allow_repeats else self.seen[user_id]
            items = dict.fromkeys([*found.get(user_id, ()), *self.popular[: LIST_LENGTH + len(seen)]])
            lists.append([item for item in items if item not in seen and item in candidates][:LIST_LENGTH])
        return lists

    def validation_ndcg_at_10(self, found: Lists) -> float:
        """Mean over users of the mean over their targets; lists hold unseen items only unless repeats are allowed."""
        gains = []
        for user_id, targets in self.validation.items():
            items = found.get(user_id, ())[:_CUT]
            hits = [1 / np.log2(place + 2) for place, item in enumerate(items) if item in targets]
            gains.append(sum(hits) / len(targets))
        return float(np.mean(gains)) if gains else 0.0


def read_split(folder: Path) -> SplitFolder:
    """Read train.csv.gz and options.json, and of targets.jsonl nothing but who is asked."""
    options = json.loads((folder / "options.json").read_text("utf-8"))
    events = pd.read_csv(folder / "train.csv.gz", dtype={"user_id": str, "item_id": str}, keep_default_na=False)
    seen = {user: set(items) for user, items in events.groupby("user_id")["item_id"]}
    events = events[events["is_target"] == 1]
    events = events.assign(position=events.groupby("user_id").cumcount())
    learned = events[events["is_validation"] == 0]
    held = events[(events["is_validation"] == 1) & events["user_id"].isin(learned["user_id"].unique())]
    # The validation block alone: what follows it holds no target.
    asked_for = {user: set(items) for user, items in held.groupby("user_id")["item_id"]}
    if len(asked_for) > MAX_VALIDATION_USERS:
        chosen = np.random.default_rng(0).choice(sorted(asked_for), MAX_VALIDATION_USERS, replace=False)
        asked_for = {user: asked_for[user] for user in chosen.tolist()}
    training = events if options["learn_validation"] else learned
    lines = (folder / "targets.jsonl").read_text("utf-8").splitlines()
    columns = ["user_id", "item_id", "position"]
    return SplitFolder(
        learned=learned[columns],
        known=events[columns],
        seen=seen,
        asked=[json.loads(line)["user_id"] for line in lines],
        popular=training["item_id"].value_counts().index.tolist(),
        validation=asked_for,
        allow_repeats=options["allow_repeats"],
        learn_validation=options["learn_validation"],
    )
