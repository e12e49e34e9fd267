"""How faithful reasons are: by how much an item's score falls when the event that a method names is removed.

`python benchmarks/reasons.py --folder /tmp/reasons` trains on the demo's MovieLens ratings, in that folder, unless it
holds a trained installation already; `--events E.csv.gz --items I.csv.gz` takes any other set, in a folder of its own.
For `--users` users drawn from the log it makes the ten best items, as a server does, and lets each method name one of
the user's latest events (of those that a server looks at) for each item. Printed is, for each method,

    fall       by how much the score is lower without the named event, mean
    ratio      that to the mean fall without each of those events, which is what naming one at random gives; with a 95 %
               interval of a bootstrap over users
    of ten     that to the mean fall without each of the newest ten: chance, were it to know that the newest count most
    most       how often the method names the event that lowers the score most
    wrong way  how often the score rises, or stays, without the named event
    ms         what it takes for one user's ten items, median; the machine's, so it is the relations that count
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from installations import installation_class
from torch import Tensor
from torch.nn import functional

from headwater_core.artifact_store import ArtifactStore
from headwater_core.database import Database
from headwater_core.events import HistoryEvent, Subject, history_event
from headwater_core.feedback_log import FeedbackLog
from headwater_core.generation import LoadedGeneration
from headwater_core.histories import HistoryTensors, collate, kept_length, tokens
from headwater_core.newcomers import unit_vectors
from headwater_core.text import TextEncoder
from headwater_core.towers import TowerConfig, UserTower, load_state
from headwater_server.explanations import removal
from headwater_server.serving_generation import ServingGeneration

MOVIELENS = Path(__file__).resolve().parents[1] / "examples" / "movielens"
SLATE = 10
MIN_EVENTS = 5
NEWEST, SHORTLIST = 20, 8
RESAMPLES = 2000
Matrix = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


class Case(NamedTuple):
    """One user and the ten items to explain."""

    history: list[HistoryEvent]
    places: list[int]
    """The m events that can be named."""
    rows: list[int]
    """The n items."""
    item_vectors: Matrix
    """(m, d), of the events' items; 0 of searches."""


class Model:
    """A generation, and its user tower taken apart."""

    def __init__(self, loaded: LoadedGeneration, text_features: Callable[[Sequence[str]], Any]) -> None:
        """Load it."""
        self.generation = ServingGeneration(loaded, text_features)
        self.items = self.generation.items
        self.tower = UserTower(TowerConfig.from_dict(loaded.manifest.tower_config)).eval()
        load_state(self.tower, loaded.user_tower)
        self._text_features = text_features

    def case(self, history: list[HistoryEvent], *, include_seen: bool) -> Case | None:
        """The user's ten best items; None for one with too few events."""
        items, seen = self.items, set() if include_seen else {event.item_id for event in history}
        if len(removal.examined(items, history, ())) < MIN_EVENTS:
            return None
        gains = self.generation.gains(items, history)
        interests = self.generation.embed([history])[0]
        found = items.retrieve(interests, SLATE, lambda item_id: item_id not in seen, bonuses=gains)
        rows = [row for each in found if (row := items.row(each.item_id)) is not None]
        places = removal.examined(items, history, [each.item_id for each in found])
        known = [items.row(history[at].item_id) for at in places]
        vectors = np.stack([np.zeros(items.dimension) if row is None else items.vectors([row])[0] for row in known])
        return Case(history, places, rows, vectors.astype(np.float32))

    def read(self, case: Case) -> tuple[HistoryTensors, Tensor, Places]:
        """The history as a batch of one, its item vectors (1, T, d), and the token of each event, (m,); -1: none."""
        config = self.tower.config
        sequence = tokens(case.history, config, lambda item_id: _from_one(self.items.row(item_id)))
        batch = collate([sequence], config, self._text_features)
        rows = batch.item_rows.numpy()
        vectors = np.zeros((*rows.shape, self.items.dimension), np.float32)
        vectors[rows > 0] = self.items.vectors(rows[rows > 0] - 1)
        readable = removal.readable(self.items, case.history)
        at = np.searchsorted(readable, case.places) - (len(readable) - rows.shape[1])
        return batch, torch.from_numpy(vectors), np.maximum(at, -1)


def main() -> int:
    """Train if need be, measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description="Fidelity of reasons")
    parser.add_argument("--folder", type=Path, required=True, help="for the installation; made anew if it is empty")
    parser.add_argument("--events", type=Path, default=MOVIELENS / "events.csv.gz", help="to train on, if need be")
    parser.add_argument("--items", type=Path, default=MOVIELENS / "items.csv.gz")
    parser.add_argument("--include-seen", action="store_true", help="explain items of the history, too")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="for JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder.resolve()
    if not (folder / "artifacts").exists():
        _train(folder, arguments.events, arguments.items)
    store = ArtifactStore(str(folder / "artifacts"))
    model = Model(LoadedGeneration.load(store, store.list_generations()[0]), TextEncoder().encode)
    log = FeedbackLog(Database(f"sqlite:///{folder / 'headwater.db'}"))
    cases = _cases(model, log, arguments.users, arguments.seed, include_seen=arguments.include_seen)
    methods: dict[str, Callable[[Case], Matrix]] = {
        "the newest event": lambda case: np.tile(np.arange(len(case.places))[:, None], len(case.rows)),
        "nearest item vector": lambda case: _cosines(model, case),
        "attention rollout": lambda case: _attention(model, case),
        "gradient x input": lambda case: _gradients(model, case),
        "gradient x input + bonuses": lambda case: _gradients(model, case) + _bonus_falls(model, case),
        f"removal of its {SHORTLIST} best": lambda case: _shortlisted(model, case, SHORTLIST),
        f"removal of the newest {NEWEST}": lambda case: _removals(model, case, case.places[-NEWEST:]),
        "removal of each": lambda case: _removals(model, case, case.places),
    }
    rows = _measured(model, cases, methods, arguments.seed)
    events = [len(case.places) for case in cases]
    sys.stdout.write(f"{len(cases)} users, {np.mean(events):.1f} events each on average\n\n")
    sys.stdout.write("| method | fall | ratio (95 %) | of ten | most | wrong way | ms |\n" + "| --- " * 7 + "|\n")
    for row in rows:
        sys.stdout.write(
            f"| {row['method']} | {row['fall']:.3f} | {row['ratio']:.1f} ({row['low']:.1f} to {row['high']:.1f}) "
            f"| {row['of_ten']:.1f} | {row['most']:.0%} | {row['wrong_way']:.0%} | {row['ms']:.1f} |\n"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return 0


def _train(folder: Path, events: Path, items: Path) -> None:
    environment = {"HEADWATER_PORT": "0", "HEADWATER_METRICS_PORT": "", "HEADWATER_BOOTSTRAP_THREADS": "1"}
    with installation_class()(folder, environment) as installation:
        installation.start_server()
        installation.run("headwater", "import-items", str(items))
        installation.run("headwater", "import-events", str(events))
        installation.run("headwater-updater", "bootstrap")


def _cases(model: Model, log: FeedbackLog, n_users: int, seed: int, *, include_seen: bool) -> list[Case]:
    """Of users drawn from the log, each once; those with too few events are passed over."""
    subjects = sorted(_subjects(log))
    limit = kept_length(model.tower.config)
    drawn = (subjects[at] for at in np.random.default_rng(seed).permutation(len(subjects)))
    histories = ([history_event(each) for each in log.history(subject, limit)] for subject in drawn)
    found = (model.case(history, include_seen=include_seen) for history in histories)
    return list(itertools.islice((case for case in found if case is not None), n_users))


def _subjects(log: FeedbackLog) -> set[Subject]:
    found: set[Subject] = set()
    position = 0
    while batch := log.read_after(position, 10_000):
        found.update(log.resolve(logged.event.subject) for logged in batch)
        position = batch[-1].position
    return found


def _measured(
    model: Model, cases: Sequence[Case], methods: Mapping[str, Callable[[Case], Matrix]], seed: int
) -> list[dict[str, Any]]:
    """A row for each method, and one for chance."""
    truth = [_removals(model, case, case.places) for case in cases]  # (m, n) each
    chance = np.array([falls.mean() for falls in truth])  # (users,)
    of_ten = np.mean([falls[-10:].mean() for falls in truth])
    picks = np.random.default_rng(seed).integers(0, len(cases), (RESAMPLES, len(cases)))
    rows: list[dict[str, Any]] = []
    for name, method in methods.items():
        named: list[Matrix] = []
        seconds: list[float] = []
        for case, falls in zip(cases, truth, strict=True):
            began = time.perf_counter()
            says = method(case)
            seconds.append(time.perf_counter() - began)
            named.append(np.take_along_axis(falls, says.argmax(0)[None], 0)[0])  # (n,)
        mean = np.array([each.mean() for each in named])
        best = [each >= falls.max(0) - 1e-6 for each, falls in zip(named, truth, strict=True)]
        ratios = mean[picks].mean(1) / chance[picks].mean(1)
        rows.append(
            {
                "method": name,
                "fall": float(mean.mean()),
                "ratio": float(mean.mean() / chance.mean()),
                "low": float(np.quantile(ratios, 0.025)),
                "high": float(np.quantile(ratios, 0.975)),
                "of_ten": float(mean.mean() / of_ten),
                "most": float(np.concatenate(best).mean()),
                "wrong_way": float((np.concatenate(named) <= 0).mean()),
                "ms": 1000 * float(np.median(seconds)),
            }
        )
    random = {"fall": float(chance.mean()), "ratio": 1.0, "low": 1.0, "high": 1.0, "ms": 0.0}
    random["of_ten"] = float(chance.mean() / of_ten)
    shares = {
        "most": float(np.mean([1 / len(falls) for falls in truth])),
        "wrong_way": float(np.mean([(falls <= 0).mean() for falls in truth])),
    }
    return [{"method": "a random event", **random, **shares}, *rows]


def _removals(model: Model, case: Case, places: Sequence[int]) -> Matrix:
    """The falls without these events, (m, n); the others have none."""
    found = np.zeros((len(case.places), len(case.rows)), np.float32)
    at = [case.places.index(place) for place in places]
    found[at] = removal.falls(model.generation, model.items, case.history, places, case.rows, {})
    return found


def _shortlisted(model: Model, case: Case, n: int) -> Matrix:
    """Gradients and bonuses choose events for each item; the fall without each decides."""
    says = _gradients(model, case) + _bonus_falls(model, case)
    chosen = sorted(set(np.argsort(-says, axis=0)[:n].ravel().tolist()))
    return _removals(model, case, [case.places[at] for at in chosen])


def _cosines(model: Model, case: Case) -> Matrix:
    """The cosines of the items' vectors with those of the events' items, (m, n)."""
    return unit_vectors(case.item_vectors) @ unit_vectors(model.items.vectors(case.rows)).T


def _bonus_falls(model: Model, case: Case) -> Matrix:
    """By how much each item's bonus falls without each event, (m, n)."""
    rows = np.asarray(case.rows, np.int64)

    def bonuses(events: Sequence[HistoryEvent]) -> Matrix:
        return model.items.inherited(model.generation.bonuses(events)).of(rows)

    whole = bonuses(case.history)
    return np.stack([whole - bonuses([*case.history[:at], *case.history[at + 1 :]]) for at in case.places])


def _gradients(model: Model, case: Case) -> Matrix:
    """Gradient × input: of each item's score, in the direction of each event's item vector, (m, n)."""
    batch, vectors, at = model.read(case)
    vectors.requires_grad_()
    scores = _scores(model, case, model.tower(batch, vectors)[0])
    found = np.zeros((len(case.places), len(case.rows)), np.float32)
    for column, score in enumerate(scores):
        (gradient,) = torch.autograd.grad(score, vectors, retain_graph=True)
        products = (gradient * vectors).sum(-1)[0].detach().numpy()  # (T,)
        found[:, column] = np.where(at < 0, 0.0, products[at])
    return found


@torch.inference_mode()
def _attention(model: Model, case: Case) -> Matrix:
    """How much of each event reaches the interest that suits each item, by attention rollout, (m, n).

    Abnar & Zuidema (ACL 2020): heads averaged, half of each layer's weight on what it adds to.
    """
    batch, vectors, at = model.read(case)
    with _recorded() as weights:
        interests = model.tower(batch, vectors)[0]  # (K, d)
    best = (model.items.vectors(case.rows) @ interests.numpy().T).argmax(1)  # (n,)
    *layers, last = weights  # (1, H, T, T) each, and (1, K·H, 1, T)
    rollout = torch.eye(layers[0].shape[-1])
    for layer in layers:
        rollout = (0.5 * torch.eye(len(rollout)) + 0.5 * layer[0].mean(0)) @ rollout
    reads = last[0, :, 0].view(len(interests), -1, len(rollout)).mean(1)  # (K, T)
    reached = (0.5 * reads @ rollout + 0.5 * rollout[-1]).numpy()  # (K, T)
    return np.where(at[:, None] < 0, np.float32(0), reached[best].T[at])


@contextmanager
def _recorded() -> Iterator[list[Tensor]]:
    """The attention weights of everything computed inside, in order."""
    weights: list[Tensor] = []
    plain = functional.scaled_dot_product_attention

    def recording(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if options.get("is_causal"):
            mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        weights.append((logits if mask is None else logits.masked_fill(~mask, -torch.inf)).softmax(-1))
        return plain(query, key, value, mask)

    functional.scaled_dot_product_attention = recording  # type: ignore[assignment]
    try:
        yield weights
    finally:
        functional.scaled_dot_product_attention = plain


def _scores(model: Model, case: Case, interests: Tensor) -> Tensor:
    """The towers' scores of the items, (n,)."""
    return (torch.from_numpy(model.items.vectors(case.rows)) @ interests.T).amax(-1)


def _from_one(row: int | None) -> int:
    return 0 if row is None else row + 1


if __name__ == "__main__":
    sys.exit(main())
