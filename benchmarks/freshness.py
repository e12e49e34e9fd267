"""How fresh answers are: the three loops end to end, through the public API, on real processes.

`python benchmarks/freshness.py --folder /tmp/freshness --minutes 3 --out freshness.json` starts two servers and an
updater on one SQLite database, trains on the demo's MovieLens ratings, and then, while `--rate` events a second are
written and `Recommend` is called all the time, measures

    state      from an acknowledged event to the first answer without the item it was on, where it was written and on
               the other server (no consistency token is sent)
    catalogue  from the acknowledgement of UpsertItems (16 items) to the first answer with one of them, on both servers
    weights    from an acknowledged event to the first answer whose watermark covers it, on both servers

and counts the calls that failed, the generations that came to serve, and how the first server's memory moved. Absolute
times are the machine's; the promises are 0.1 s, 1 s and 10 s at the 95th percentile. Held-out users' events give no
gradients; the watermark passes them as it passes the others. With `--minutes 10` it is the test of many swaps; with
`--new-items 0 --readers 150` besides, catalogue and histories stop growing within some minutes, and so should memory.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from installations import QUIET, installation_class, wait_until_serving

from headwater_client import Client, HeadwaterError, event, item

MOVIELENS = Path(__file__).resolve().parents[1] / "examples" / "movielens"
_SAMPLE_S = 10.0
WORDS = ("river", "night", "robot", "garden", "winter", "detective", "island", "dancer", "war", "dream", "circus")


class Run:
    """What is measured, by loop and server, and what failed."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.seconds: dict[str, list[float]] = {}
        self.failures: list[str] = []
        self.generations: set[int] = set()
        self.calls = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def note(self, loop: str, seconds: float) -> None:
        """Add a sample."""
        with self.lock:
            self.seconds.setdefault(loop, []).append(seconds)

    def call(self, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A call's answer; None when it failed, which is counted."""
        with self.lock:
            self.calls += 1
        try:
            return make(*arguments, **options)
        except HeadwaterError as error:
            with self.lock:
                self.failures.append(f"{type(error).__name__}: {error}")
            return None


def main() -> int:
    """Start, measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description="Freshness of the three loops")
    parser.add_argument("--folder", type=Path, required=True, help="for the installation; made anew if it is empty")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=100.0, help="events a second")
    parser.add_argument("--readers", type=int, default=5000, help="how many users the events are of")
    parser.add_argument("--new-items", type=float, default=5.0, help="items a second that come in; 0: none")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    environment = {
        **QUIET,
        "HEADWATER_BOOTSTRAP_EPOCHS": "5",
    }
    make_installation = installation_class()
    with (
        make_installation(arguments.folder.resolve(), environment) as first,
        make_installation(arguments.folder.resolve(), environment) as second,
    ):
        first.start_server()
        if not (arguments.folder / "artifacts").exists():
            first.run("headwater", "import-items", str(MOVIELENS / "items.csv.gz"))
            first.run("headwater", "import-events", str(MOVIELENS / "events.csv.gz"))
            first.run("headwater-updater", "bootstrap")
        second.start_server()
        first.start_updater()
        addresses = [first.address, second.address]
        for address in addresses:
            with Client(address) as client:
                wait_until_serving(client)
        run = Run()
        loops = [
            threading.Thread(target=loop, args=(run, addresses, *more), daemon=True)
            for loop, *more in (
                (_write_events, arguments.rate, arguments.readers),
                (_watch_weights, 0),
                (_watch_weights, 1),
                (_measure_state,),
                (_measure_catalogue, arguments.new_items),
                (_recommend_all_the_time,),
            )
        ]
        for loop in loops:
            loop.start()
        memory_mib = []
        until = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < until:
            time.sleep(min(_SAMPLE_S, max(0.0, until - time.monotonic())))
            memory_mib.append(round(_memory_mib(first.processes["server"].pid), 1))
        run.ended.set()
        for loop in loops:
            loop.join(timeout=30)
    found = {
        "minutes": arguments.minutes,
        "events_per_second": arguments.rate,
        "loops_s": {name: _quantiles(values) for name, values in sorted(run.seconds.items())},
        "calls": run.calls,
        "failed_calls": len(run.failures),
        "failures": sorted(set(run.failures))[:10],
        "generations": len(run.generations),
        "server_memory_mib": memory_mib,
        "server_memory_mib_per_minute": _slope_per_minute(memory_mib[len(memory_mib) // 2 :]),
    }
    for name, quantiles in found["loops_s"].items():
        sys.stdout.write(f"{name:<28}" + "  ".join(f"{key} {value:8.3f}" for key, value in quantiles.items()) + "\n")
    sys.stdout.write(f"{run.calls} calls, {len(run.failures)} failed; {len(run.generations)} generations\n")
    slope = found["server_memory_mib_per_minute"]
    sys.stdout.write(f"memory {memory_mib[0]} to {memory_mib[-1]} MiB, {slope} a minute in the second half\n")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if run.failures else 0


_pending: list[deque[tuple[int, float]]] = [deque(), deque()]
"""For each server, positions whose events were acknowledged, and when."""


def _write_events(run: Run, addresses: Sequence[str], rate: float, n_readers: int) -> None:
    """So many events a second, ten at a time, of users who each repeat what a real one did, in order."""
    chance = random.Random(1)
    real = _histories()
    readers = [iter(itertools.cycle(real[number % len(real)])) for number in range(n_readers)]
    began, written = time.monotonic(), 0
    with Client(addresses[0]) as client:
        while not run.ended.is_set():
            time.sleep(max(0.0, began + written / rate - time.monotonic()))
            batch = [
                event("like", user_id=f"reader-{reader}", item_id=next(readers[reader]))
                for reader in (chance.randrange(n_readers) for _ in range(10))
            ]
            written += len(batch)
            is_marked = written % 100 == 0
            if is_marked:  # by somebody who did nothing else, so that the position is easily found
                batch[-1] = event("like", user_id=f"marker-{written}", item_id=batch[-1].item_id)
            if run.call(_write, client, *batch) is None:
                continue
            if is_marked:
                stored = run.call(_position_of, client, batch[-1].user_id)
                if stored:
                    for pending in _pending:
                        pending.append((stored, time.monotonic()))


def _histories() -> list[list[str]]:
    """The items of each MovieLens user, in the order in which they rated them."""
    found: dict[str, list[tuple[int, str]]] = {}
    with gzip.open(MOVIELENS / "events.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["user_id"], []).append((int(row["timestamp"]), row["item_id"]))
    return [[item_id for _, item_id in sorted(theirs)] for theirs in found.values()]


def _write(client: Client, *events: Any) -> bool:
    client.write(*events).raise_for_refused()
    return True


def _position_of(client: Client, user_id: str) -> int:
    return max(int(stored.log_position) for stored in client.list_events(user_id=user_id).events)


def _watch_weights(run: Run, addresses: Sequence[str], server: int) -> None:
    """From acknowledgement to the watermark of an answer."""
    pending = _pending[server]
    with Client(addresses[server]) as client:
        while not run.ended.is_set():
            answer = run.call(client.recommend, user_id="watcher", page_size=1)
            now = time.monotonic()
            while answer is not None and pending and pending[0][0] <= answer.watermark:
                run.note(f"weights, server {server + 1}", now - pending.popleft()[1])
            if answer is not None:
                run.generations.add(answer.generation)
            time.sleep(0.05)


def _measure_state(run: Run, addresses: Sequence[str]) -> None:
    """From acknowledgement to an answer without the item, on both servers at once."""
    with Client(addresses[0]) as here, Client(addresses[1]) as there:
        number = 0
        while not run.ended.is_set():
            number += 1
            user = f"mover-{number % 50}"
            slates = [run.call(client.recommend, user_id=user) for client in (here, there)]
            if any(slate is None for slate in slates):
                continue
            both = {each.item_id for each in slates[0]} & {each.item_id for each in slates[1]}
            if not both:
                continue
            liked = sorted(both)[0]
            written = run.call(_write, here, event("like", user_id=user, item_id=liked))
            acknowledged = time.monotonic()
            for name, client in (("where written", here), ("other server", there)):
                while written is not None and not run.ended.is_set():
                    answer = run.call(client.recommend, user_id=user)
                    if answer is not None and liked not in {each.item_id for each in answer}:
                        run.note(f"state, {name}", time.monotonic() - acknowledged)
                        break
            time.sleep(0.2)


def _measure_catalogue(run: Run, addresses: Sequence[str], rate: float) -> None:
    """Sixteen items a call, so many a second: from acknowledgement to an answer that holds one of them."""
    if not rate:
        return
    chance = random.Random(2)
    with Client(addresses[0]) as here, Client(addresses[1]) as there:
        number = 0
        while not run.ended.is_set():
            number += 1
            began, category = time.monotonic(), f"batch-{number}"
            batch = [
                item(f"new-{number}-{k}", title=" ".join(chance.sample(WORDS, 3)), categories=[category])
                for k in range(16)
            ]
            written = run.call(here.upsert_items, batch)
            acknowledged = time.monotonic()
            run.note("catalogue, the call itself", acknowledged - began)
            for name, client in (("where written", here), ("other server", there)):
                while written is not None and not run.ended.is_set():
                    answer = run.call(client.recommend, user_id="1", categories=[category])
                    if answer is not None and any(each.item_id.startswith("new-") for each in answer):
                        run.note(f"catalogue, {name}", time.monotonic() - acknowledged)
                        break
                    time.sleep(0.005)
            time.sleep(max(0.0, began + 16 / rate - time.monotonic()))


def _recommend_all_the_time(run: Run, addresses: Sequence[str]) -> None:
    """Load: calls of all users in turn, on both servers."""
    with Client(addresses[0]) as here, Client(addresses[1]) as there:
        number = 0
        while not run.ended.is_set():
            number += 1
            client = (here, there)[number % 2]
            run.call(client.recommend, user_id=str(number % 600 + 1))
            time.sleep(0.01)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    found = np.quantile(values, (0.5, 0.95, 0.99))
    return {"n": len(values)} | {name: round(float(v), 4) for name, v in zip(("p50", "p95", "p99"), found, strict=True)}


def _slope_per_minute(samples: Sequence[float]) -> float:
    """Of a line through samples that are _SAMPLE_S apart."""
    if len(samples) < 2:
        return 0.0
    return round(float(np.polyfit(np.arange(len(samples)), samples, 1)[0]) * 60 / _SAMPLE_S, 3)


def _memory_mib(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    sys.exit(main())
