"""Whether dislikes are heard: what users will dislike moves down, what they will like does not.

`python benchmarks/strategy/dislikes.py --folder F --out dislikes.json` takes the demo's MovieLens ratings (4 and above:
a like; 2 and below: a dislike; between: a rating), trains on each user's first four fifths and asks a real server for
the first 2,000 items of everybody who disliked something before and likes and dislikes something after: by a strategy
that lowers what is like disliked items, by one that does not (`dislikes` 0), and by that one for a history without its
dislikes. Of the held-out events it tells how often a liked item stands above a disliked one (AUC), how many dislikes
are in the first 10 and 20, and the likes' NDCG@10; each against the strategy that does not listen, with a bootstrap
interval over users.

The strength was chosen on every other user (`chosen`); the others were looked at only in the end (`unseen`).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from installations import QUIET, installation_class, wait_until_serving

from headwater.v1 import event_pb2
from headwater_client import Client

MOVIELENS = Path(__file__).resolve().parents[2] / "examples" / "movielens"
LIKE, DISLIKE, RATING = "like", "dislike", "rating"
PAGE, DEPTH = 500, 2_000
TRAINED_SHARE = 0.8
HISTORY = 200
METRICS = ("auc", "dislikes_at_10", "dislikes_at_20", "likes_ndcg_at_10")
_RESAMPLES = 10_000


class Told(NamedTuple):
    """A rating, told as an event."""

    item_id: str
    time_s: int
    event_type: str
    value: str


def main() -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description="Whether dislikes are heard")
    parser.add_argument("--folder", type=Path, required=True, help="for the installation; made anew if it is empty")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    before, after = divided(read(MOVIELENS / "events.csv.gz"))
    environment = {
        **QUIET,
        "HEADWATER_BOOTSTRAP_EPOCHS": str(arguments.epochs),
    }
    folder: Path = arguments.folder.resolve()
    is_new = not (folder / "artifacts").exists()
    with installation_class()(folder, environment) as installation:
        installation.start_server()
        if is_new:
            write(folder / "train.csv", before)
            installation.run("headwater", "import-items", str(MOVIELENS / "items.csv.gz"))
            installation.run("headwater", "import-events", str(folder / "train.csv"))
            installation.run("headwater-updater", "bootstrap")
        with Client(installation.address) as client:
            wait_until_serving(client)
            found = measure(client, before, after)
    report = summary(found)
    show(report)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def read(path: Path) -> dict[str, list[Told]]:
    """Each user's ratings, told as likes, dislikes and ratings, in their order."""
    told: defaultdict[str, list[Told]] = defaultdict(list)
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            stars = float(row["value"])
            event_type = LIKE if stars >= 4 else DISLIKE if stars <= 2 else RATING
            value = row["value"] if event_type == RATING else ""
            told[row["user_id"]].append(Told(row["item_id"], int(row["timestamp"]), event_type, value))
    return {user: sorted(events, key=lambda event: event.time_s) for user, events in told.items()}


def divided(told: dict[str, list[Told]]) -> tuple[dict[str, list[Told]], dict[str, list[Told]]]:
    """Each user's first part, and the rest."""
    cut = {user: int(TRAINED_SHARE * len(events)) for user, events in told.items()}
    return (
        {user: events[: cut[user]] for user, events in told.items()},
        {user: events[cut[user] :] for user, events in told.items()},
    )


def write(path: Path, told: dict[str, list[Told]]) -> None:
    """Write events as `import-events` reads them."""
    rows = sorted(((user, *event) for user, events in told.items() for event in events), key=lambda row: row[2])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user_id", "item_id", "timestamp", "event_type", "value"))
        writer.writerows(rows)


def measure(client: Client, before: dict[str, list[Told]], after: dict[str, list[Told]]) -> dict[str, np.ndarray]:
    """For each arm, what it gave each user: (users, metrics)."""
    sources = [{"name": name} for name in ("tower", "co_visit", "repeat", "popular")]
    client.put_strategy("deaf", {"sources": sources, "dislikes": 0.0})
    client.put_strategy("hears", {"sources": sources})
    found: dict[str, list[list[float]]] = {"deaf": [], "hears": [], "dropped": []}
    for user, events in before.items():
        liked = {event.item_id for event in after[user] if event.event_type == LIKE}
        disliked = {event.item_id for event in after[user] if event.event_type == DISLIKE}
        if not liked or not disliked or all(event.event_type != DISLIKE for event in events):
            continue
        kept = [_inline(event) for event in events if event.event_type != DISLIKE][-HISTORY:]
        asked: dict[str, dict[str, Any]] = {
            "deaf": {"user_id": user, "strategy": "deaf"},
            "hears": {"user_id": user, "strategy": "hears"},
            "dropped": {
                "strategy": "deaf",
                "recent_events": kept,
                "exclude_item_ids": [event.item_id for event in events],
            },
        }
        for name, request in asked.items():
            found[name].append(metrics(_ranks(client, request), liked, disliked))
    return {name: np.array(rows) for name, rows in found.items()}


def metrics(ranks: dict[str, int], liked: set[str], disliked: set[str]) -> list[float]:
    """In the order of METRICS. Args: ranks: from 1, of the items that were answered."""
    up = np.array([ranks.get(item_id, DEPTH + 1) for item_id in liked])
    down = np.array([ranks.get(item_id, DEPTH + 1) for item_id in disliked])
    above = (up[:, None] < down).mean() + 0.5 * (up[:, None] == down).mean()
    ideal = (1 / np.log2(np.arange(2, 2 + min(10, len(up))))).sum()
    ndcg = (1 / np.log2(up[up <= 10] + 1)).sum() / ideal
    return [float(above), float((down <= 10).sum()), float((down <= 20).sum()), float(ndcg)]


def summary(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means, and what changes against `deaf` with 95 % intervals, for both halves of the users and all."""
    n = len(found["deaf"])
    halves = {"chosen": np.arange(n) % 2 == 0, "unseen": np.arange(n) % 2 == 1, "all": np.ones(n, np.bool_)}
    rng = np.random.default_rng(0)
    report: dict[str, Any] = {}
    for half, users in halves.items():
        report[half] = {"users": int(users.sum())}
        drawn = rng.integers(0, users.sum(), (_RESAMPLES, users.sum()))
        for name, rows in found.items():
            changes = rows[users] - found["deaf"][users]  # (n, metrics)
            low, high = np.quantile(changes[drawn].mean(1), (0.025, 0.975), axis=0)
            report[half][name] = {
                metric: {"mean": rows[users][:, at].mean(), "change": [changes[:, at].mean(), low[at], high[at]]}
                for at, metric in enumerate(METRICS)
            }
    return report


def show(report: dict[str, Any]) -> None:
    """The report as tables."""
    for half, arms in report.items():
        sys.stdout.write(f"\n{half}: {arms['users']} users\n\n| | {' | '.join(METRICS)} |\n| --- |{' --- |' * 4}\n")
        for name in ("deaf", "dropped", "hears"):
            cells = []
            for metric in METRICS:
                mean, (change, low, high) = arms[name][metric]["mean"], arms[name][metric]["change"]
                cells.append(f"{mean:.4f}" + (f" ({change:+.4f}: {low:+.4f} to {high:+.4f})" if name != "deaf" else ""))
            sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")


def _ranks(client: Client, request: dict[str, Any]) -> dict[str, int]:
    """The first DEPTH items, page by page: item → place, from 1."""
    ranks: dict[str, int] = {}
    page_token = ""
    while len(ranks) < DEPTH:
        answer = client.recommend(**request, page_size=PAGE, page_token=page_token, timeout_s=30)
        for item in answer.items:
            ranks[item.item_id] = len(ranks) + 1
        page_token = answer.next_page_token
        if not page_token:
            break
    return ranks


def _inline(told: Told) -> event_pb2.Event:
    event = event_pb2.Event(event_type=told.event_type, item_id=told.item_id)
    event.event_time.FromSeconds(told.time_s)
    if told.value:
        event.value = float(told.value)
    return event


if __name__ == "__main__":
    sys.exit(main())
