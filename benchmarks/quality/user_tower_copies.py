"""Smaller and faster copies of the user tower: what each costs in ranking, and what it saves in bytes and time.

`python benchmarks/quality/user_tower_copies.py --events E.csv.gz --items I.csv.gz --min-core 5` trains once, ranks for
the test blocks of leave-one-out with each copy of the tower, and times them beside each other in one process: each
round embeds with every copy in turn, so that whatever else the machine does falls on all of them alike. A tower of one
layer is trained in its own right, with the same data and epochs: what a distilled one would have to beat.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from fitting import markdown, parse, read, report, train
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the name every reader of PyTorch code expects

from headwater_core.histories import HistoryTensors, collate
from headwater_core.towers import UserTower
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.metrics import bootstrap_interval, user_metrics
from headwater_updater.evaluation.ranked_lists import ranked_lists
from headwater_updater.evaluation.splits import Split, leave_one_out
from headwater_updater.learner import Learner

PRUNED_SHARE = 0.5
BATCHES = (1, 32)
_ROUNDS = 60


class Copy(NamedTuple):
    """One way of serving the tower."""

    tower: nn.Module
    """Called as a `UserTower`."""
    size_bytes: int
    """Of its weights, as they would be stored."""


class InBfloat16(nn.Module):
    """Weights, activations and products in bfloat16; the interests come back in float32."""

    def __init__(self, tower: UserTower) -> None:
        super().__init__()
        self.tower = copy.deepcopy(tower).to(torch.bfloat16)

    def forward(self, tensors: HistoryTensors, item_vectors: Tensor) -> Tensor:
        """As `UserTower.forward`."""
        features = tensors.query_features
        tensors = tensors._replace(
            value=tensors.value.bfloat16(), query_features=None if features is None else features.bfloat16()
        )
        interests: Tensor = self.tower(tensors, item_vectors.bfloat16())
        return interests.float()


class Int8Weights(nn.Module):
    """A linear layer whose weights are stored as int8 with a scale for each output, and multiplied as float32."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return F.linear(x, self.weight.float() * self.scale)


def copies(tower: UserTower) -> dict[str, Copy]:
    """By name, each copy of a trained tower; float32 is the tower itself."""
    tower = copy.deepcopy(tower).eval()
    linear_bytes = sum(4 * layer.weight.numel() for layer in _linears(tower))
    other_bytes = sum(4 * parameter.numel() for parameter in tower.parameters()) - linear_bytes
    scale_bytes = sum(4 * layer.weight.shape[0] for layer in _linears(tower))
    int8_bytes = linear_bytes // 4 + scale_bytes + other_bytes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is about to move its quantisation elsewhere
        dynamic = torch.ao.quantization.quantize_dynamic(tower, {nn.Linear}, torch.qint8)  # type: ignore[no-untyped-call]
    # Pruned weights are stored as the values that are left and one bit for each place.
    pruned_bytes = int(linear_bytes * (1 - PRUNED_SHARE)) + linear_bytes // 32 + other_bytes
    return {
        "float32": Copy(tower, linear_bytes + other_bytes),
        "bfloat16": Copy(InBfloat16(tower), (linear_bytes + other_bytes) // 2),
        "int8, dynamic": Copy(dynamic, int8_bytes),
        "int8, weights only": Copy(_replaced(tower, Int8Weights), int8_bytes),
        "half of the weights pruned": Copy(pruned(tower, PRUNED_SHARE), pruned_bytes),
    }


def pruned(tower: UserTower, share: float) -> UserTower:
    """A copy without the smallest weights of each linear layer."""
    found = copy.deepcopy(tower)
    with torch.no_grad():
        for layer in _linears(found):
            size = layer.weight.abs().flatten()
            bar = size.kthvalue(max(1, round(share * len(size)))).values
            layer.weight.mul_(layer.weight.abs() > bar)
    return found


def ranking(learner: Learner, tower: nn.Module, split: Split, *, allow_repeats: bool) -> np.ndarray:
    """Each test user's NDCG@10 when this tower makes their interests. (U,)."""
    own = learner.user_tower
    learner.user_tower = cast(UserTower, tower)
    try:
        scorer = LearnerScorer(learner, split.candidates)
        lists = ranked_lists(scorer, [user.history for user in split.test], allow_repeats=allow_repeats)
    finally:
        learner.user_tower = own
    return user_metrics(lists, [user.targets["last"] for user in split.test])["ndcg_at_10"]


@torch.inference_mode()
def times_ms(learner: Learner, towers: Sequence[nn.Module], split: Split, n: int, rounds: int = _ROUNDS) -> list[float]:
    """For each tower the median time to embed n users' histories; collating them is not part of it."""
    sequences = [sequence for user in split.test if len(sequence := learner.tokens(user.history))]
    found: list[list[float]] = [[] for _ in towers]
    for index in range(rounds + 1):
        part = [sequences[(index * n + place) % len(sequences)] for place in range(n)]
        tensors = collate(part, learner.config.tower, learner.text_features)
        vectors = learner.vectors(tensors.item_rows)
        for tower, times in zip(towers, found, strict=True):
            started_s = time.perf_counter()
            tower(tensors, vectors)
            times.append((time.perf_counter() - started_s) * 1000)
    return [float(np.median(times[1:])) for times in found]  # the first round warms up


def main() -> int:
    """Print a line for each copy."""
    arguments = parse(str(__doc__).splitlines()[0])
    data = read(arguments)
    split = leave_one_out(data.histories, data.events.is_target)
    learner = train(data, split.training, arguments)
    small = train(data, split.training, arguments, {"n_layers": 1})
    found = copies(learner.user_tower)
    owners = dict.fromkeys(found, learner)
    found["one layer, trained anew"] = copies(small.user_tower)["float32"]
    owners["one layer, trained anew"] = small
    gains = {
        name: ranking(owners[name], each.tower, split, allow_repeats=arguments.allow_repeats)
        for name, each in found.items()
    }
    # All towers read the same vectors while they are timed: what they hold makes no difference to the time.
    times = {n: times_ms(learner, [each.tower for each in found.values()], split, n) for n in BATCHES}
    rows = []
    for index, (name, each) in enumerate(found.items()):
        difference = bootstrap_interval(gains[name] - gains["float32"], arguments.seed)
        row: dict[str, Any] = {
            "bytes": each.size_bytes,
            "ndcg_at_10": float(gains[name].mean()),
            "difference": difference._asdict(),
            **{f"ms_of_{n}": times[n][index] for n in BATCHES},
            **{f"ratio_of_{n}": times[n][index] / times[n][0] for n in BATCHES},
        }
        rows.append((name, row))
    print(_table(rows))
    report(arguments, {"epochs": arguments.epochs, "seed": arguments.seed, "copies": dict(rows)})
    if arguments.plot:
        _draw(arguments.plot, dict(rows))
    return 0


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _replaced(tower: UserTower, make: Callable[[nn.Linear], nn.Module]) -> UserTower:
    """A copy with every linear layer replaced by what `make` makes of it."""
    found = copy.deepcopy(tower)
    for module in list(found.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, make(child))
    return found


def _table(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    columns = ["copy", "kB", "NDCG@10", "minus float32, 95 %"]
    columns += [heading for n in BATCHES for heading in (f"ms of {n}", "ratio")]
    lines: list[list[str | float]] = []
    for name, row in rows:
        between = row["difference"]
        cells = [name, f"{row['bytes'] / 1000:.0f}", f"{row['ndcg_at_10']:.4f}"]
        cells += [f"{between['mean']:+.4f} ({between['low']:+.4f} to {between['high']:+.4f})"]
        cells += [cell for n in BATCHES for cell in (f"{row[f'ms_of_{n}']:.2f}", f"{row[f'ratio_of_{n}']:.2f}")]
        lines.append([*cells])
    return markdown(columns, lines)


def _draw(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, row in rows.items():
        axis.scatter(row["bytes"] / 1000, row["ndcg_at_10"], color="#4477aa")
        axis.annotate(name, (row["bytes"] / 1000, row["ndcg_at_10"]), xytext=(4, 4), textcoords="offset points")
    axis.set(xlabel="kB of weights", ylabel="NDCG@10", xlim=(0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
