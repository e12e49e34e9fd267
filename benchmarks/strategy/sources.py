"""What each source is worth as it is served, alone and merged, event by event.

`python benchmarks/strategy/sources.py --events E.csv.gz --items I.csv.gz --folder F --out sources.json` trains on the
first four fifths of a set's events, starts a real server and a real updater on a copy of that, and goes through the
rest in the order of time over gRPC. What shares a moment (a user's basket) is one block: before any event of that
moment is written, the server is asked for a slate of ten by each strategy, for a random sample of the blocks and for
those of users with at most two events behind them. Then all of it is written, whoever was asked for or not, and the
updater learns it.
An item is upserted right after its first event: nothing is known of it before, so its first event is a miss for all.
`--repeats`: a user's seen items stay candidates.

Of each block: the mean NDCG@10 of its targets (each by itself, as `headwater-updater evaluate` has it), whether any was
hit, and how unlike the slate's items are, in pairs: by categories (1 - Jaccard) and by text (1 - cosine of the BERT
features). Differences are paired and their 95 % intervals from a bootstrap over users. With `--lists` every slate is
written, too, with its scores, for fitting something else to them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import itertools
import json
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from installations import QUIET, installation_class, wait_until_serving

from headwater_client import Client, RecommendRequest, RpcError, event, item
from headwater_core.catalogue import Item
from headwater_core.text import TextEncoder
from headwater_server.strategy_book import built_in_strategy

TOP = 10
COLUMNS = ("user_id", "item_id", "timestamp", "event_type", "value")
NEVER_TARGETS = frozenset({"cancel", "dislike", "hide"})
NEWCOMER = 2
"""Users with so many events behind them, at most, are reported apart."""
SINGLES = ("tower", "co_visit", "popular", "category", "text", "fresh")
DIVERSITIES = (0.1, 0.3, 0.5, 0.7)
_BUDGET_MS = 10_000
_RESAMPLES = 2_000
_BATCH = 500
_ATTEMPTS = 10


class Block(NamedTuple):
    """What one user did at one moment."""

    user_id: str
    rows: Sequence[dict[str, str]]

    @property
    def targets(self) -> list[str]:
        """The items that were to be foreseen."""
        return list(dict.fromkeys(row["item_id"] for row in self.rows if row["event_type"] not in NEVER_TARGETS))


class Answered(NamedTuple):
    """A block, and what was answered before it was written."""

    user_id: str
    is_sampled: bool
    n_before: int
    targets: list[str]
    slates: dict[str, list[tuple[str, float]]]


def main() -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description="What sources are worth as served")
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for the installation; trained if it is empty")
    parser.add_argument("--repeats", action="store_true", help="what a user has had may come again")
    parser.add_argument("--users-share", type=float, default=1.0, help="so many of the users, by a hash of their id")
    parser.add_argument("--warm-up", type=float, default=0.8, help="the part of the events that is trained on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--asks", type=int, default=2_000, help="blocks in the sample")
    parser.add_argument("--newcomer-asks", type=int, default=500, help="blocks of users with 0 to 2 events, at most")
    parser.add_argument("--depth", type=int, default=TOP, help="how much of each source's list to ask for")
    parser.add_argument("--diversities", type=float, nargs="*", default=DIVERSITIES)
    parser.add_argument("--lists", type=Path, help="where to write the slates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    events = read_events(arguments.events, arguments.users_share)
    items = {row["item_id"]: row for row in read(arguments.items)}
    cut = int(arguments.warm_up * len(events))
    while cut < len(events) and events[cut]["timestamp"] == events[cut - 1]["timestamp"]:
        cut += 1
    environment = {
        **QUIET,
        "HEADWATER_BOOTSTRAP_EPOCHS": str(arguments.epochs),
    }
    known = {row["item_id"] for row in events[:cut]}
    trained, streamed = (arguments.folder.resolve() / name for name in ("trained", "streamed"))
    if not (trained / "artifacts").exists():
        with installation_class()(trained, environment) as installation:
            installation.start_server()
            write(trained / "train.csv", COLUMNS, events[:cut])
            header = list(next(iter(items.values())))
            write(trained / "items.csv", header, [row for item_id, row in items.items() if item_id in known])
            installation.run("headwater", "import-items", str(trained / "items.csv"))
            installation.run("headwater", "import-events", str(trained / "train.csv"))
            installation.run("headwater-updater", "bootstrap")
    shutil.rmtree(streamed, ignore_errors=True)
    shutil.copytree(trained, streamed)
    with installation_class()(streamed, environment) as installation:
        installation.start_server()
        installation.start_updater()
        with Client(installation.address) as client:
            wait_until_serving(client)
            strategies = put_strategies(
                client, repeats=arguments.repeats, depth=arguments.depth, diversities=arguments.diversities
            )
            answered = []
            lists = arguments.lists.open("w") if arguments.lists else contextlib.nullcontext()
            with lists as file:
                for each in answers(client, strategies, events[:cut], events[cut:], items, known, arguments):
                    answered.append(each)
                    if file is not None:
                        file.write(json.dumps(each._asdict()) + "\n")
                        file.flush()
    report = summary(answered, list(strategies), Unlikeness(items, answered))
    show(report)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def read(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a gzip'd CSV file."""
    with gzip.open(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


def read_events(path: Path, users_share: float) -> list[dict[str, str]]:
    """The events of a share of the users, oldest first; what shares a moment is together by user."""
    chosen = (row for row in read(path) if zlib.crc32(row["user_id"].encode()) < users_share * 2**32)
    return sorted(
        ({column: row.get(column, "") for column in COLUMNS} for row in chosen),
        key=lambda row: (int(row["timestamp"]), row["user_id"]),
    )


def write(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Write what an import reads."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def put_strategies(
    client: Client, *, repeats: bool, depth: int, diversities: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """What is asked for, by the name it has in the report: arguments of `recommend`."""
    singles = (*SINGLES, "repeat") if repeats else SINGLES
    documents = {name: {"sources": [{"name": name}], "ranking": "ranks", "budget_ms": _BUDGET_MS} for name in singles}
    documents["fused"] = {"sources": [{"name": name} for name in singles], "ranking": "ranks", "budget_ms": _BUDGET_MS}
    blend = [{"name": name} for name in ("tower", "co_visit", "repeat", "popular")]
    documents["blend"] = {"sources": blend, "budget_ms": _BUDGET_MS}
    documents["default"] = {**built_in_strategy(10, 3).to_dict(), "budget_ms": _BUDGET_MS}
    for name, document in documents.items():
        client.put_strategy(name, document)
    asked: dict[str, dict[str, Any]] = {name: {"strategy": name, "page_size": depth} for name in (*singles, "blend")}
    asked |= {name: {"strategy": name, "page_size": TOP} for name in ("fused", "default")}
    for diversity in diversities:
        asked[f"default, diversity {diversity}"] = {**asked["default"], "diversity": diversity}
    return asked


def answers(
    client: Client,
    strategies: dict[str, dict[str, Any]],
    warm_up: Sequence[dict[str, str]],
    stream: Sequence[dict[str, str]],
    items: dict[str, dict[str, str]],
    known: set[str],
    arguments: argparse.Namespace,
) -> Iterator[Answered]:
    """Go through the stream: ask, then write."""
    by_user = itertools.groupby(stream, key=lambda row: (row["timestamp"], row["user_id"]))
    blocks = [Block(user_id, list(rows)) for (_, user_id), rows in by_user]
    with_targets = [number for number, block in enumerate(blocks) if block.targets]
    n_before = Counter(row["user_id"] for row in warm_up)
    before = dict(n_before)
    of_newcomers = []
    for number, block in enumerate(blocks):
        if block.targets and before.get(block.user_id, 0) <= NEWCOMER:
            of_newcomers.append(number)
        before[block.user_id] = before.get(block.user_id, 0) + len(block.rows)
    rng = np.random.default_rng(arguments.seed)
    sampled = _drawn(rng, with_targets, arguments.asks)
    asked_for = sampled | _drawn(rng, of_newcomers, arguments.newcomer_asks)
    pending: list[dict[str, str]] = []
    token = ""
    numbered = enumerate(blocks)
    for _, moment in itertools.groupby(numbered, key=lambda each: each[1].rows[0]["timestamp"]):
        together = list(moment)
        if any(number in asked_for for number, _ in together):
            token = _write(client, pending, items, known) or token
            pending = []
        for number, block in together:
            if number in asked_for:
                slates = ask(client, strategies, block.user_id, token, exclude_seen=not arguments.repeats)
                yield Answered(block.user_id, number in sampled, n_before[block.user_id], block.targets, slates)
        for _, block in together:
            n_before[block.user_id] += len(block.rows)
            pending += block.rows


def ask(
    client: Client, strategies: dict[str, dict[str, Any]], user_id: str, token: str, *, exclude_seen: bool
) -> dict[str, list[tuple[str, float]]]:
    """A slate by each strategy, in one call.

    Raises:
        RuntimeError: one of them failed, or was degraded again and again, which would not be the strategy's fault.
    """
    requests = [
        RecommendRequest(user_id=user_id, exclude_seen=exclude_seen, min_consistency_token=token, **request)
        for request in strategies.values()
    ]
    for _ in range(_ATTEMPTS):
        found = client.batch_recommend(requests, timeout_s=60)
        if not any(isinstance(answer, RpcError) or answer.degraded for answer in found):
            break
    slates = {}
    for name, answer in zip(strategies, found, strict=True):
        if isinstance(answer, RpcError) or answer.degraded:
            raise RuntimeError(f"{name}: {answer}")
        slates[name] = [(each.item_id, each.score) for each in answer]
    return slates


def _drawn(rng: np.random.Generator, numbers: Sequence[int], n: int) -> set[int]:
    return set(rng.choice(numbers, min(n, len(numbers)), replace=False).tolist()) if numbers else set()


def _write(client: Client, rows: Sequence[dict[str, str]], items: dict[str, dict[str, str]], known: set[str]) -> str:
    """Write events, then what they tell of new items; gives a consistency token."""
    token = ""
    for start in range(0, len(rows), _BATCH):
        written = client.write(
            *(
                event(
                    row["event_type"],
                    user_id=row["user_id"],
                    item_id=row["item_id"],
                    value=float(row["value"]) if row["value"] else None,
                    event_time=datetime.fromtimestamp(int(row["timestamp"]), UTC),
                )
                for row in rows[start : start + _BATCH]
            ),
            backfill=True,
            timeout_s=60,
        )
        token = written.raise_for_refused().consistency_token
    new = [item_id for item_id in dict.fromkeys(row["item_id"] for row in rows) if item_id not in known]
    known.update(new)
    described = [items[item_id] for item_id in new if item_id in items]
    for start in range(0, len(described), _BATCH):
        client.upsert_items(
            [
                item(row["item_id"], title=row.get("title", ""), categories=_categories(row))
                for row in described[start : start + _BATCH]
            ],
            timeout_s=60,
        )
    return token


def _categories(row: dict[str, str]) -> list[str]:
    return [name for name in row.get("categories", "").split("|") if name]


class Unlikeness:
    """How unlike the items of a slate are, over its pairs: intra-list diversity."""

    def __init__(self, items: dict[str, dict[str, str]], answered: Sequence[Answered]) -> None:
        """Args: items: their rows; answered: whose slates will be asked about."""
        shown = {item_id for each in answered for slate in each.slates.values() for item_id, _ in slate[:TOP]}
        rows = [items[item_id] for item_id in sorted(shown) if item_id in items]
        self._categories = {row["item_id"]: frozenset(_categories(row)) for row in rows}
        texts = [
            Item(row["item_id"], title=row.get("title", ""), categories=tuple(_categories(row))).text() for row in rows
        ]
        self._row_of = {row["item_id"]: number for number, row in enumerate(rows)}
        self._features = TextEncoder().encode(texts).astype(np.float32)

    def of(self, slate: Sequence[str]) -> tuple[float, float]:
        """By categories and by text; NaN where fewer than two items have any."""
        sets = [self._categories[item_id] for item_id in slate if self._categories.get(item_id)]
        pairs = [1 - len(one & other) / len(one | other) for one, other in itertools.combinations(sets, 2)]
        rows = self._features[[self._row_of[item_id] for item_id in slate if item_id in self._row_of]]
        cosines = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
        return (
            float(np.mean(pairs)) if pairs else np.nan,
            float(1 - cosines.mean()) if len(cosines) else np.nan,
        )


def scored(slate: Sequence[str], targets: Sequence[str]) -> tuple[float, float]:
    """NDCG@10, the mean over the targets, each by itself; whether any is there."""
    rank_of = {item_id: rank for rank, item_id in enumerate(slate[:TOP], start=1)}
    gains = [1 / np.log2(rank_of[target] + 1) if target in rank_of else 0.0 for target in targets]
    return float(np.mean(gains)), float(any(gains))


def summary(answered: Sequence[Answered], names: Sequence[str], unlikeness: Unlikeness) -> dict[str, Any]:
    """Of the sample and of newcomers: each strategy's figures, and differences with 95 % intervals over users."""
    report: dict[str, Any] = {}
    parts = {
        "sample": [each for each in answered if each.is_sampled],
        f"users with 0 to {NEWCOMER} events": [each for each in answered if each.n_before <= NEWCOMER],
    }
    for part, blocks in parts.items():
        if not blocks:
            continue
        figures: dict[str, Any] = {}
        gains: dict[str, np.ndarray] = {}
        users = np.array([each.user_id for each in blocks])
        for name in names:
            rows = [
                (*scored(shown, each.targets), *unlikeness.of(shown))
                for each in blocks
                for shown in [[item_id for item_id, _ in each.slates[name][:TOP]]]
            ]
            columns = np.array(rows).reshape(-1, 4)  # (n, 4)
            gains[name] = columns[:, 0]
            means = [float(np.nanmean(column)) if (~np.isnan(column)).any() else None for column in columns.T]
            figures[name] = dict(zip(("ndcg", "hit", "ild_categories", "ild_text"), means, strict=True))
        singles = [name for name in names if name in {*SINGLES, "repeat"}]
        best = max(singles, key=lambda name: figures[name]["ndcg"])
        pairs = [(merged, other) for merged in ("default", "fused", "blend") for other in (best, "popular")]
        pairs += [(name, "default") for name in names if "diversity" in name]
        report[part] = {
            "asks": len(blocks),
            "users": len(set(users.tolist())),
            "strategies": figures,
            "differences": {
                f"{one} - {other}": difference(gains[one] - gains[other], users) for one, other in dict.fromkeys(pairs)
            },
        }
    return report


def difference(values: np.ndarray, users: np.ndarray) -> list[float]:
    """A mean over blocks, with the bounds of its 95 % interval from a bootstrap over users."""
    _, user_of = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(user_of, values), np.bincount(user_of)
    drawn = np.random.default_rng(0).integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return [float(values.mean()), *np.quantile(means, (0.025, 0.975)).tolist()]


def show(report: dict[str, Any]) -> None:
    """The report as tables."""
    for part, found in report.items():
        sys.stdout.write(f"\n{part}: {found['asks']} asks, {found['users']} users\n\n")
        sys.stdout.write("| | NDCG@10 | hit@10 | ILD, categories | ILD, text |\n| --- | ---: | ---: | ---: | ---: |\n")
        for name, figures in found["strategies"].items():
            cells = ["" if value is None else f"{value:.4f}" for value in figures.values()]
            sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
        sys.stdout.write("\n")
        for name, (mean, low, high) in found["differences"].items():
            sys.stdout.write(f"{name}: {mean:+.4f} ({low:+.4f} to {high:+.4f})\n")


if __name__ == "__main__":
    sys.exit(main())
