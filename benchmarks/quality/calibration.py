"""Whether the joint heads mean what they say: probabilities of event types and expected values, on held-out events.

`python benchmarks/quality/calibration.py --events E.csv.gz --min-core 5` keeps each user's last block from training
(the block before it is validation) and scores its events as `ScoreItems` does. Probabilities are relative to the stated
reference exposure: each held-out event's item stands among 99 items drawn by popularity, on which nothing happened.
Values are compared with the mean of user and item and with a biased matrix factorisation, both tuned on validation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fitting import Data, markdown, parse, read, report, train
from value_baselines import Ratings, matrix_factorisation, user_item_mean

from headwater_core.events import HistoryEvent
from headwater_core.histories import collate
from headwater_updater.evaluation.metrics import bootstrap_interval
from headwater_updater.evaluation.splits import Split, last_target_block, leave_one_out
from headwater_updater.learner import Learner

N_BINS = (10, 15)
MAX_EVENTS = 5_000
"""Of more held-out events a random sample is scored."""
_BATCH = 64


class Held(NamedTuple):
    """A held-out event and what came before its block."""

    user_id: str
    history: Sequence[HistoryEvent]
    event: HistoryEvent


class Reliability(NamedTuple):
    """Bins of equal mass: what was said, what came true, how many pairs; (b,) each."""

    predicted: np.ndarray
    observed: np.ndarray
    pairs: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.pairs))


def reliability(probabilities: np.ndarray, happened: np.ndarray, n_bins: int) -> Reliability:
    """Pairs (n,) in order of their probability, cut into bins of equal size."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), n_bins)
    means = [(probabilities[part].mean(), happened[part].mean(), len(part)) for part in parts if len(part)]
    return Reliability(*np.array(means).T)


def log_loss(probabilities: np.ndarray, happened: np.ndarray) -> float:
    """The mean of -log of the probability given to what came true."""
    clipped = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    return float(-np.where(happened, np.log(clipped), np.log1p(-clipped)).mean())


def held_out(data: Data, split: Split) -> list[Held]:
    """The events of the users' test blocks that are targets, on items that were learned."""
    candidates = set(split.candidates)
    found = []
    for user in split.test:
        start, stop = last_target_block(data.histories[user.user_id], data.events.is_target)
        block = data.histories[user.user_id][start:stop]
        wanted = [event for event in block if data.events.is_target(event) and event.item_id in candidates]
        found += [Held(user.user_id, user.history, event) for event in wanted]
    return found


def sample(held: Sequence[Held], seed: int, n: int = MAX_EVENTS) -> list[Held]:
    """At most n of them, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(held))[:n]
    return [held[index] for index in sorted(chosen.tolist())]


def references(learner: Learner, held: Sequence[Held], exposure: int, seed: int) -> np.ndarray:
    """(P, R) rows drawn by popularity, none of them the event's own item."""
    rng = np.random.default_rng(seed)
    share = learner.counts / learner.counts.sum()
    drawn = rng.choice(len(share), (len(held), exposure), p=share)
    own = np.array([learner.row(each.event.item_id) for each in held])[:, None]
    while (same := drawn == own).any():
        drawn[same] = rng.choice(len(share), int(same.sum()), p=share)
    return drawn


@torch.inference_mode()
def head_scores(
    learner: Learner, histories: Sequence[Sequence[HistoryEvent]], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `ScoreItems` scores items (P, R) after histories (P,): probabilities (P, R, types) and values (P, R)."""
    learner.user_tower.eval()
    learner.heads.eval()
    found_types, found_values = [], []
    for start in range(0, len(histories), _BATCH):
        part = [learner.tokens(events) for events in histories[start : start + _BATCH]]
        tensors = collate(part, learner.config.tower, learner.text_features)
        interests = learner.user_tower(tensors, learner.vectors(tensors.item_rows))  # (b, K, d)
        rows_of_part = rows[start : start + _BATCH]
        items = learner.vectors(torch.from_numpy(rows_of_part))  # (b, R, d)
        best = torch.einsum("bkd,brd->brk", interests, items).argmax(-1, keepdim=True)
        users = interests.gather(1, best.expand(-1, -1, interests.shape[-1]))
        logits, values = learner.heads(users, items)
        bonuses = [
            learner.bonuses(sequence, learner.blend).of(theirs)
            for sequence, theirs in zip(part, rows_of_part, strict=True)
        ]
        said = learner.heads.probabilities(logits, (users * items).sum(-1), torch.from_numpy(np.stack(bonuses)))
        found_types.append(said.numpy()[..., 1:])  # the first column is the unknown type's
        found_values.append(values.numpy())
    return np.concatenate(found_types), np.concatenate(found_values)


def probability_figures(
    learner: Learner, held: Sequence[Held], seed: int
) -> dict[str, tuple[dict[str, float], Reliability]]:
    """By event type that held-out events have: log-loss, the base rate's, ECE, and the bins of the diagram."""
    exposure = learner.config.reference_exposure
    own = np.array([[learner.row(each.event.item_id)] for each in held])
    rows = np.concatenate([own, references(learner, held, exposure, seed)], axis=1)
    probabilities, _ = head_scores(learner, [each.history for each in held], rows)
    found = {}
    for index, name in enumerate(learner.config.tower.event_types):
        happened = np.zeros(rows.shape, bool)
        happened[:, 0] = [each.event.event_type == name for each in held]
        if not happened.any():
            continue
        said, true = probabilities[..., index].ravel(), happened.ravel()
        base = log_loss(np.full(len(true), true.mean()), true)
        bins = {n: reliability(said, true, n) for n in N_BINS}
        figures = {
            "pairs": len(true),
            "events": int(true.sum()),
            "base_rate": float(true.mean()),
            "mean_probability": float(said.mean()),
            "log_loss": log_loss(said, true),
            "base_log_loss": base,
            "log_loss_gain": 1 - log_loss(said, true) / base,
            **{f"ece_{n}": bins[n].error for n in N_BINS},
        }
        found[name] = figures, bins[max(N_BINS)]
    return found


def value_figures(learner: Learner, data: Data, split: Split, held: Sequence[Held], seed: int) -> dict[str, np.ndarray]:
    """By method, the squared error of each held-out value, in the values' own unit; nothing where none is told."""
    tower = learner.config.tower
    if not tower.value_type:
        return {}
    at = tower.event_types.index(tower.value_type)
    rated = [each for each in held if each.event.event_type == tower.value_type and each.event.value is not None]
    truth = np.array([each.event.value for each in rated])
    rows = np.array([[learner.row(each.event.item_id)] for each in rated])
    _, values = head_scores(learner, [each.history for each in rated], rows)
    predictions = {"headwater": values[:, 0] * tower.value_std[at] + tower.value_mean[at]}
    # What the learner reads is what the others learn: everything before the test blocks.
    asked = {user.user_id: user.history for user in split.test}
    learned = {user_id: asked.get(user_id, events) for user_id, events in data.histories.items()}
    ratings = Ratings.of(learned, tower.value_type, data.events.is_target)
    pairs = [(each.user_id, each.event.item_id) for each in rated]
    predictions["user-item mean"] = user_item_mean(ratings, pairs)
    predictions["biased matrix factorisation"] = matrix_factorisation(ratings, pairs, seed)
    predictions["mean"] = np.full(len(truth), ratings.values.mean())
    return {name: (predicted - truth) ** 2 for name, predicted in predictions.items()}


def main() -> int:
    """Print a table of the probabilities and one of the values."""
    arguments = parse(str(__doc__).splitlines()[0])
    data = read(arguments)
    split = leave_one_out(data.histories, data.events.is_target, learn_validation=True)
    learner = train(data, split.training, arguments, learn_held_out=True)
    held = sample(held_out(data, split), arguments.seed)
    found = probability_figures(learner, held, arguments.seed)
    names = ("events", "base_log_loss", "log_loss", "log_loss_gain", "mean_probability", *(f"ece_{n}" for n in N_BINS))
    print(markdown(("type", *names), [(name, *(each[0][key] for key in names)) for name, each in found.items()]))
    errors = value_figures(learner, data, split, held, arguments.seed)
    values = {name: _root(squared, errors["headwater"]) for name, squared in errors.items()}
    if values:
        rows = [(name, each["rmse"], f"{each['low']:+.4f} to {each['high']:+.4f}") for name, each in values.items()]
        print(f"\n{markdown(('value', 'RMSE', 'squared error minus headwater, 95 %'), rows)}")
    shown = {name: figures for name, (figures, _) in found.items()}
    report(arguments, {"epochs": arguments.epochs, "seed": arguments.seed, "probabilities": shown, "values": values})
    if arguments.plot:
        _draw(arguments.plot, {name: bins for name, (_, bins) in found.items()})
    return 0


def _root(squared: np.ndarray, ours: np.ndarray) -> dict[str, float]:
    difference = bootstrap_interval(squared - ours, 0)
    return {"rmse": float(np.sqrt(squared.mean())), "low": difference.low, "high": difference.high}


def _draw(path: Path, diagrams: Mapping[str, Reliability]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(diagrams), figsize=(4.2 * len(diagrams), 4), layout="constrained", squeeze=False
    )
    for axis, (name, bins) in zip(axes[0], diagrams.items(), strict=True):
        low = max(min(*bins.predicted, *bins.observed[bins.observed > 0]) / 2, 1e-5)
        axis.plot([low, 1], [low, 1], color="#999999", linewidth=1)
        axis.plot(bins.predicted, np.maximum(bins.observed, low), marker="o", color="#4477aa")
        axis.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1))
        axis.set(xlabel="probability given", ylabel="share that happened", title=f"{name}: ECE {bins.error:.4f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
