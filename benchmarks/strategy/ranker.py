"""What the learned ranker is worth, where who likes what is known.

`python benchmarks/strategy/ranker.py --folder F --out ranker.json` trains on the demo's MovieLens ratings, starts a
server and an updater, and lets the simulator's users (`simulator.py`: tastes over genres, places looked at ever less)
ask for slates of ten by a strategy that ranks by what is learned. At first nothing is, and ranks are fused. When the
updater has published a ranker, every user is asked about once more, by each strategy; since the simulator made the
likes up, what each slate is worth is known:

    ndcg@10     the discounted attraction of its films beside that of the ten best that the user has not met
    clicks      expected on it, places looked at as they are

`reordered` puts what held-out users were shown before into the order of a ranker that was fitted with the places' part
and of one that was fitted without: what the position tower is worth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from installations import QUIET, installation_class, wait_until_serving
from simulator import MOVIELENS, World, real_films

from headwater_client import Client, event
from headwater_core.database import Database
from headwater_core.impressions import ImpressionLog
from headwater_core.outcomes import OutcomeLog
from headwater_updater.ranker_fitting import Shown, divided, fit
from headwater_updater.ranker_learning import table

SOURCES = [{"name": name} for name in ("tower", "co_visit", "popular", "category", "fresh")]
STRATEGIES: dict[str, dict[str, Any]] = {
    "blend": {"sources": SOURCES, "ranking": "blend"},
    "ranks": {"sources": SOURCES, "ranking": "ranks"},
    "learned": {"sources": SOURCES, "ranking": "learned"},
}
SLATE, N_USERS, KNOWN_FOR = 10, 300, 10
LOOKS = 0.85 ** np.arange(SLATE)
_DISCOUNT = 1.0 / np.log2(np.arange(2, SLATE + 2))
_PATIENCE_S = 300.0
_RESAMPLES = 10_000


def main() -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description="What the learned ranker is worth")
    parser.add_argument("--folder", type=Path, required=True, help="for the installation; must be empty")
    parser.add_argument("--visits", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    environment = {
        **QUIET,
        "HEADWATER_BOOTSTRAP_EPOCHS": "5",
        "HEADWATER_RANKER_INTERVAL_S": "5",
        "HEADWATER_RANKER_WAIT_S": "0",
        # Not before all visits are over: their slates are to be those of one ranking.
        "HEADWATER_RANKER_MIN_ACTIONS": "10",
    }
    world = World(arguments.seed, real_films(), N_USERS)
    with installation_class()(arguments.folder.resolve(), environment) as installation:
        installation.start_server()
        installation.run("headwater", "import-items", str(MOVIELENS / "items.csv.gz"))
        installation.run("headwater", "import-events", str(MOVIELENS / "events.csv.gz"))
        installation.run("headwater-updater", "bootstrap")
        with Client(installation.address) as client:
            wait_until_serving(client)
            for name, strategy in STRATEGIES.items():
                client.put_strategy(name, strategy)
            met = visit(client, world, arguments.visits)
            before = worth(client, world, met)
            installation.start_updater()
            until_learned(client)
            after = worth(client, world, met)
    found = {
        "before": summary(before),
        "after": summary(after),
        "reordered": reordered(Database(f"sqlite:///{arguments.folder / 'headwater.db'}"), world),
    }
    show(found)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def visit(client: Client, world: World, n_visits: int) -> dict[int, set[str]]:
    """Let users come, look and click; what each has met."""
    met: dict[int, set[str]] = {}
    for user in range(N_USERS):
        known = [world.watched(user) for _ in range(KNOWN_FOR)]
        client.write(*(event("view", user_id=f"visitor-{user}", item_id=film) for film in known))
        met[user] = set(known)
    for _ in range(n_visits):
        user = int(world.rng.integers(N_USERS))
        answer = client.recommend(user_id=f"visitor-{user}", page_size=SLATE, strategy="learned")
        clicked = [
            film
            for looked, film in zip(LOOKS, answer.item_ids, strict=False)
            if world.rng.random() < looked * world.attraction(user, film)
        ]
        met[user].update(clicked)
        if clicked:
            token = answer.attribution_token
            events = [
                event("click", user_id=f"visitor-{user}", item_id=film, attribution_token=token) for film in clicked
            ]
            client.write(*events).raise_for_refused()
    return met


def until_learned(client: Client) -> None:
    """Wait until what serves has a ranker.

    Raises:
        RuntimeError: none was learned.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while client.recommend(user_id="visitor-0", strategy="learned").notices:
        if time.monotonic() > deadline_s:
            raise RuntimeError("no ranker was learned")
        time.sleep(1.0)


def worth(client: Client, world: World, met: dict[int, set[str]]) -> dict[str, np.ndarray]:
    """By strategy, what each user's slate is worth: (users, 2)."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STRATEGIES}
    for user in range(N_USERS):
        attraction = {film: world.attraction(user, film) for film in world.ids if film not in met[user]}
        ideal = float((np.sort(list(attraction.values()))[::-1][:SLATE] * _DISCOUNT).sum())
        for name in STRATEGIES:
            slate = client.recommend(user_id=f"visitor-{user}", page_size=SLATE, strategy=name).item_ids
            likes = np.array([attraction.get(film, 0.0) for film in slate])
            found[name].append(
                (float((likes * _DISCOUNT[: len(likes)]).sum()) / ideal, float((likes * LOOKS[: len(likes)]).sum()))
            )
    return {name: np.array(rows) for name, rows in found.items()}


def summary(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means, and how much `learned` gains on each, with 95 % intervals over users."""
    drawn = np.random.default_rng(0).integers(0, N_USERS, (_RESAMPLES, N_USERS))
    told: dict[str, Any] = {}
    for name, rows in found.items():
        gains = found["learned"] - rows
        low, high = np.quantile(gains[drawn].mean(1), (0.025, 0.975), axis=0)
        told[name] = {
            metric: {"mean": rows[:, at].mean(), "learned_gains": [gains[:, at].mean(), low[at], high[at]]}
            for at, metric in enumerate(("ndcg_at_10", "clicks"))
        }
    return told


def reordered(database: Database, world: World) -> dict[str, float]:
    """The mean NDCG of what held-out users were shown, by true attraction, in several orders."""
    slates = [each for each in ImpressionLog(database).with_features(2**62, 100_000) if each.subject is not None]
    acted = {(each.slate_id, each.item_id): 1.0 for each in OutcomeLog(database).between(0, 2**62)}
    shown = table(slates, acted)
    learned_from, judges = divided(shown)
    users = [int(slate.subject.id.removeprefix("visitor-")) for slate in slates if slate.subject is not None]
    likes = np.array(
        [
            world.attraction(user, each.item_id)
            for user, slate in zip(users, slates, strict=True)
            for each in slate.items
        ]
    )
    likes = likes[np.isin(shown.user, judges.user)]
    with_places = fit(learned_from).ranker.scores(judges.features)
    without = fit(learned_from._replace(place=np.ones_like(learned_from.place))).ranker.scores(judges.features)
    return {
        "as shown": _ndcg(judges, -judges.place, likes),
        "by a ranker without the position tower": _ndcg(judges, without, likes),
        "by the ranker": _ndcg(judges, with_places, likes),
    }


def show(found: dict[str, Any]) -> None:
    """The report as tables."""
    for when in ("before", "after"):
        sys.stdout.write(f"\n{when} a ranker is learned\n\n| | ndcg@10 | clicks |\n| --- | --- | --- |\n")
        for name, metrics in found[when].items():
            cells = []
            for metric in metrics.values():
                gain, low, high = metric["learned_gains"]
                told = "" if name == "learned" else f" (learned {gain:+.3f}: {low:+.3f} to {high:+.3f})"
                cells.append(f"{metric['mean']:.3f}{told}")
            sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
    sys.stdout.write("\n| what held-out users were shown | ndcg |\n| --- | --- |\n")
    for name, value in found["reordered"].items():
        sys.stdout.write(f"| {name} | {value:.4f} |\n")


def _ndcg(shown: Shown, scores: Sequence[float] | np.ndarray, likes: np.ndarray) -> float:
    found = []
    for slate in np.unique(shown.slate):
        rows = np.flatnonzero(shown.slate == slate)
        order = rows[np.argsort(-np.asarray(scores)[rows], kind="stable")]
        discount = _DISCOUNT[: len(rows)]
        found.append((likes[order] * discount).sum() / (np.sort(likes[rows])[::-1] * discount).sum())
    return float(np.mean(found))


if __name__ == "__main__":
    sys.exit(main())
