"""What each part of the model is worth: the product's learner, with one thing changed at a time.

`python benchmarks/quality/ablation.py --events E.csv.gz --items I.csv.gz --min-core 5 --epochs 6 --out rows.jsonl`

All rows train for the same number of epochs on the same leave-one-out split and are measured on its test targets, the
validation events unlearned: as served, by the towers alone and by the co-visits alone. `--rows` chooses rows by name;
a row that `--out` already holds is not run again. `--table` prints what is there and runs nothing.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from fitting import Data, markdown, parse, read, train
from torch import Tensor, nn

from headwater_core.co_visits import Blend
from headwater_core.events import HistoryEvent
from headwater_core.towers import EncoderBlock, TowerConfig
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.metrics import user_metrics
from headwater_updater.evaluation.ranked_lists import Scorer, ranked_lists
from headwater_updater.evaluation.splits import Split, leave_one_out

ROWS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "seen items in the softmax": {"softmax_without_seen": False},
    "ids start at random": {"co_visitation_scale": 0.0},
    "no text": {"text_dimension": 1},
    "no id dropout": {"id_dropout": 0.0},
    "sampled softmax, 512 negatives": {"full_softmax_limit": 1, "n_negatives": 512},
    "two interests": {"n_interests": 2},
    "one encoder layer": {"n_layers": 1},
    "dimension 128": {"dimension": 128},
    "history 200": {"history_length": 200},
    "history 50": {"history_length": 50},
    "dropout 0.2": {"dropout": 0.2},
    "dropout 0.4": {"dropout": 0.4},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "learning rate 8e-3": {"learning_rate": 8e-3},
    "batches of 4,096 tokens": {"batch_tokens": 4096},
    "LiGR gates": {"gates": True},
    "next item only": {"value_loss_weight": 0.0, "type_loss_weight": 0.0},
}
"""By name, what differs: fields of the towers' and the learner's configurations, and `gates`."""
_TOWER_FIELDS = {field.name for field in fields(TowerConfig)}


class GatedBlock(EncoderBlock):
    """An encoder block whose branches are gated by what goes into the layer (LiGR, Borisyuk et al. 2024)."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        self.attention_gate = nn.Linear(config.dimension, config.dimension)
        self.feed_forward_gate = nn.Linear(config.dimension, config.dimension)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """(B, T, d) → (B, T, d)."""
        x = x + self.dropout(self.attended(x, cosine, sine) * self.attention_gate(x).sigmoid())
        mixed: Tensor = self.feed_forward(self.feed_forward_norm(x)) * self.feed_forward_gate(x).sigmoid()
        joined: Tensor = x + self.dropout(mixed)
        return joined


def main() -> int:
    """Train each row and print what it reached."""
    options: list[tuple[str, dict[str, Any]]] = [
        ("--rows", {"default": ";".join(ROWS), "help": "names from the table, separated by semicolons"}),
        ("--seeds", {"default": "0", "help": "separated by commas"}),
        ("--table", {"action": "store_true", "help": "print what --out holds"}),
    ]
    arguments = parse("What each part of the model is worth", options)
    if arguments.out is None:
        raise SystemExit("--out is needed: rows are added to it")
    done = _done(arguments.out)
    if not arguments.table:
        data = read(arguments)
        split = leave_one_out(data.histories, data.events.is_target)
        for name in arguments.rows.split(";"):
            for seed in map(int, arguments.seeds.split(",")):
                if not any(row["row"] == name and row["seed"] == seed for row in done):
                    arguments.seed = seed
                    done.append({"row": name, "seed": seed, **_measured(ROWS[name], data, split, arguments)})
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(done[-1]) + "\n")
    columns = ("NDCG@10", "HR@10", "towers alone", "co-visits alone", "CPU s")
    keys = ("ndcg_at_10", "hr_at_10", "towers_ndcg_at_10", "co_visits_ndcg_at_10", "cpu_s")
    means = {
        name: [float(np.mean([row[key] for row in done if row["row"] == name])) for key in keys]
        for name in dict.fromkeys(row["row"] for row in done)
    }
    sys.stdout.write(markdown(("", *columns), [(name, *row[:-1], f"{row[-1]:.0f}") for name, row in means.items()]))
    if arguments.plot:
        _draw(arguments.plot, done)
    return 0


def _draw(path: Path, done: Sequence[dict[str, Any]]) -> None:
    """A dot for each seed of a row, a line for their mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["row"] for row in done))
    values = {name: [row["ndcg_at_10"] for row in done if row["row"] == name] for name in names}
    figure, axis = pyplot.subplots(figsize=(6.4, 0.6 + 0.28 * len(names)), layout="constrained")
    axis.scatter([v for n in names for v in values[n]], [n for n in names for _ in values[n]], s=14, color="#99aacc")
    axis.scatter([float(np.mean(values[name])) for name in names], names, marker="|", s=120, color="#225588")
    axis.invert_yaxis()
    axis.grid(axis="y", color="#eeeeee")
    axis.set(xlabel="NDCG@10 as served")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _done(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _measured(change: dict[str, Any], data: Data, split: Split, arguments: Namespace) -> dict[str, float]:
    tower = {name: value for name, value in change.items() if name in _TOWER_FIELDS}
    learning = {name: value for name, value in change.items() if name not in {*_TOWER_FIELDS, "gates"}}
    if tower.get("text_dimension") == 1:
        data = Data(data.histories, data.events, {}, tower.pop("text_dimension"))
    started_s = time.process_time()
    learning = {"max_validation_users": len(split.training), **learning}
    with patch("headwater_core.towers.EncoderBlock", GatedBlock if change.get("gates") else EncoderBlock):
        learner = train(data, split.training, arguments, tower, learning)
    found = {"cpu_s": round(time.process_time() - started_s, 1)}
    served = LearnerScorer(learner, split.candidates)
    scorers: dict[str, Scorer] = {"": served, "towers_": _Part(served, is_towers=True), "co_visits_": _Part(served)}
    for prefix, scorer in scorers.items():
        lists = ranked_lists(scorer, [user.history for user in split.test], allow_repeats=arguments.allow_repeats)
        for name, values in user_metrics(lists, [user.targets["last"] for user in split.test]).items():
            found[prefix + name] = round(float(np.mean(values)), 4)
    return found


class _Part:
    """The towers' scores alone, or what co-visits add to them."""

    def __init__(self, served: LearnerScorer, *, is_towers: bool = False) -> None:
        self.item_ids = served.item_ids
        self._served, self._is_towers = served, is_towers

    def score_batch(
        self, histories: Sequence[Sequence[HistoryEvent]], query_times_us: Sequence[int] | None = None
    ) -> np.ndarray:
        """(B,) histories → (B, N)."""
        learner = self._served.learner
        blend, learner.blend = learner.blend, Blend()
        towers = self._served.score_batch(histories, query_times_us)
        learner.blend = blend
        return towers if self._is_towers else self._served.score_batch(histories, query_times_us) - towers


if __name__ == "__main__":
    sys.exit(main())
