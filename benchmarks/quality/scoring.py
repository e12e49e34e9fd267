"""One scorer for all: predictions are checked, then measured by the product's own metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from division import Division

from headwater_updater.evaluation.metrics import Interval, bootstrap_interval, user_metrics
from headwater_updater.evaluation.ranked_lists import LIST_LENGTH

METRICS = ("hr_at_10", "ndcg_at_10")
_BOOTSTRAP_SEED = 0


def read_lists(path: Path, division: Division) -> list[list[str]]:
    """A method's lists, one for each user who is asked, in their order.

    Raises:
        ValueError: the file is about other users, or a list holds what it may not.
    """
    with path.open(encoding="utf-8") as lines:
        lists: dict[str, list[str]] = {}
        for line in lines:
            found = json.loads(line)
            lists[found["user_id"]] = found["items"]
    asked = [user.user_id for user in division.asked]
    if set(lists) != set(asked):
        raise ValueError(f"{path}: {len(set(lists) ^ set(asked))} users are not those of the split")
    candidates = set(division.candidates)
    for user in division.asked:
        items = lists[user.user_id]
        seen = set() if division.allow_repeats else {event.item_id for event in user.history}
        if len(items) > LIST_LENGTH or len(set(items)) < len(items) or not candidates.issuperset(items):
            raise ValueError(f"{path}: user {user.user_id!r} has items twice, too many, or such as nobody learned")
        if seen.intersection(items):
            raise ValueError(f"{path}: user {user.user_id!r} is shown items of their history")
    return [lists[user_id] for user_id in asked]


def mean_over_seeds(runs: Sequence[Path], division: Division) -> dict[str, np.ndarray]:
    """By metric, each user's mean over the runs. (U,) float64."""
    targets = [user.targets["last"] for user in division.asked]
    found = [user_metrics(read_lists(path, division), targets) for path in runs]
    return {name: np.mean([each[name] for each in found], axis=0) for name in METRICS}


def measured(values: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Each metric's mean over users with its 95 % bootstrap interval."""
    return {name: bootstrap_interval(values[name], _BOOTSTRAP_SEED)._asdict() for name in METRICS}


def paired(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """The mean of the users' differences with its 95 % bootstrap interval: the same users are drawn for both."""
    return bootstrap_interval(ours - theirs, _BOOTSTRAP_SEED)


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, best NDCG@10 last."""
    lines = [
        "| method | HR@10 | 95 % | NDCG@10 | 95 % | seeds | CPU s | wall s |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, row in sorted(rows.items(), key=lambda each: each[1]["ndcg_at_10"]["mean"]):
        cells = [name]
        for metric in METRICS:
            found = row[metric]
            cells += [f"{found['mean']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}"]
        cells += [str(len(row["seeds"])), f"{row['cpu_s']:.1f}", f"{row['wall_s']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
