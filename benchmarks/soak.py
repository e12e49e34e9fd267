"""An hour of what production does to an installation: mixed traffic, swaps, killed workers, a database that restarts.

`python benchmarks/soak.py --minutes 60 --out soak.json` (`make soak` runs it beside the long forms of the tests that
break things) starts PostgreSQL, a server of several workers and an updater on MovieLens, measures how many calls a
second of the mix of `soak_traffic.py` would keep every core busy, and then sends `--load` of that, at random moments,
through the SDK with its defaults. Every `--fault-every` seconds a worker is killed (-9), or PostgreSQL is, which comes
back `--away` seconds later. Nothing else is restarted. Slates, further pages, similar items, found items and scores are
judged by `soak_checker.py`: hidden and deleted items, what the user met, what was excluded or on a page before, other
categories, the same twice, too few. At the end the log is read: every acknowledged event once, none that was not sent,
and all of it learned and served.

While the database is away, and in the two seconds after, whatever needs it may be refused with UNAVAILABLE; reads may
not. When a worker is killed, deletions may fail, which the SDK does not repeat. Calls that are refused because too many
wait, or are too late (RESOURCE_EXHAUSTED, CANCELLED, DEADLINE_EXCEEDED), are counted apart: they say that the machine
had less to give than when its capacity was measured. Any other failure counts, and so does a worker that ended without
being killed, or an error in the server's log. Memory (proportional set) and open files are sampled of the worker that
is never killed, of the parent and of the updater; slopes are of the second half, after all that may be remembered is.
Of the updater also how many events it is behind, and at the end its own counters and what it logged.

Exit status 1: something was lost, wrong or failed; with `--bounds` also when calls were refused outside faults or
answers degraded there, when p99 there, a recovery, a slope or the open files are over their bounds, or when there is
too little to judge them by.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from installations import QUIET, installation_class, wait_until_serving
from local_postgresql import Cluster, local_postgresql
from proc import busy_and_all_s, children, memory_mib
from prometheus_client.parser import text_string_to_metric_families
from soak_checker import GRACE_S, Checker, Ledger
from soak_report import BUSY, DATABASE, WORKER, Behind, Fault, Findings, Samples, quantiles_ms, show
from soak_traffic import WINDOW_S, Seen, Tally, Traffic

from headwater_client import AsyncClient, Client, event, item
from headwater_core.database import Database
from headwater_core.feedback_log import FeedbackLog

MOVIELENS = Path(__file__).resolve().parents[1] / "examples" / "movielens"
_ERRORS = frozenset({"error", "critical"})
_CALLERS = 8
"""So many ask again at once: enough to keep every core busy."""
_PREFIX = "headwater_updater_"
_SAMPLE_S = 5.0
_PATIENCE_S = 120.0
_CHUNK = 1000


def main() -> int:
    """Run, report, judge."""
    parser = argparse.ArgumentParser(description="A soak: traffic, swaps and faults, and nothing lost")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--load", type=float, default=0.7, help="of the capacity that is measured first")
    parser.add_argument("--capacity-seconds", type=float, default=60.0)
    parser.add_argument("--fault-every", type=float, default=60.0, help="seconds from one fault to the next")
    parser.add_argument("--away", type=float, default=3.0, help="seconds before a killed database is started again")
    parser.add_argument("--workers", type=int, default=3, help="so many that all but one can use every core")
    parser.add_argument("--connections", type=int, default=32, help="of the client")
    parser.add_argument("--connection-age", type=float, default=30.0, help="seconds until they find another worker")
    parser.add_argument("--users", type=int, default=400, help="of them, whose traffic it is")
    parser.add_argument("--ratings-of", type=int, default=610, help="of so many MovieLens users the first training is")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--grace", type=float, default=GRACE_S, help="seconds until all workers know what one was told")
    parser.add_argument("--bounds", action="store_true", help="judge speed, memory and open files too")
    parser.add_argument("--p99-ms", type=float, default=500.0, help="outside faults, over the whole run")
    parser.add_argument("--recovery", type=float, default=5.0, help="seconds after what was killed is there again")
    parser.add_argument("--mib-per-minute", type=float, default=1.0)
    parser.add_argument("--more-files", type=int, default=10, help="in the end than in the beginning")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # PostgreSQL is started from beside gRPC's threads
    environment = {
        **QUIET,
        "HEADWATER_UPDATER_METRICS_PORT": "0",
        "HEADWATER_WORKERS": str(arguments.workers),
        "HEADWATER_BOOTSTRAP_EPOCHS": str(arguments.epochs),
        "HEADWATER_MAX_CONNECTION_AGE_S": str(arguments.connection_age),
    }
    with tempfile.TemporaryDirectory(prefix="headwater-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        with local_postgresql(folder) as postgresql:
            url = environment["HEADWATER_DATABASE_URL"] = postgresql.create()
            with installation_class()(folder / "installation", environment) as installation:
                found = asyncio.run(Soak(arguments, installation, postgresql, url).run())
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    return 1 if found["verdict"] else 0


class Soak:
    """One run."""

    def __init__(
        self, arguments: argparse.Namespace, installation: Any, postgresql: Cluster, database_url: str
    ) -> None:
        """Nothing is started yet but the database."""
        self._arguments = arguments
        self._database_url = database_url
        self._installation = installation
        self._postgresql = postgresql
        self._faults: list[Fault] = []
        self._samples: dict[str, Samples] = {}
        self._behind = Behind()
        self._updater: dict[str, float] = {}
        """Its metrics, as they were read last."""
        self._updater_port = 0
        self._ledger = Ledger()
        self._troubles: list[str] = []
        """What kept the run itself from its end."""

    async def run(self) -> dict[str, Any]:
        """Start, measure capacity, soak, settle, compare; what was found."""
        arguments, installation = self._arguments, self._installation
        categories, rated = await asyncio.to_thread(self._prepare)
        server = installation.processes["server"].pid
        self._first_worker = children(server)[0] if arguments.workers > 1 else server
        checker = Checker(categories, arguments.grace)
        for user_id, item_ids in rated.items():
            for item_id in item_ids:
                checker.meet(user_id, item_id, float("-inf"))
        async with AsyncClient(installation.address, connections=arguments.connections) as client:
            traffic = Traffic(client, checker, self._ledger, rated, arguments.users)
            capacity = await self._capacity(traffic)
            warm, traffic.seen = traffic.seen, Seen()
            self._began_s = time.monotonic()
            calm, ended = asyncio.Event(), asyncio.Event()
            pacing = asyncio.create_task(traffic.pace(arguments.load * capacity, ended))
            sampling = asyncio.create_task(self._sample(traffic.seen, ended))
            breaking = asyncio.create_task(self._break_things(calm, checker, traffic))
            tasks = {pacing, sampling, breaking}
            await asyncio.wait(tasks, timeout=60 * arguments.minutes, return_when=asyncio.FIRST_EXCEPTION)
            calm.set()
            await asyncio.wait({breaking})
            ended.set()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            self._troubles += [f"{type(each).__name__}: {each}" for each in done if isinstance(each, Exception)]
            wait_s = await self._settle(client)
        traffic.seen.wrong += warm.wrong
        traffic.seen.n_wrong += warm.n_wrong
        traffic.seen.failures += [each for each in warm.failures if each.status not in BUSY]
        events = self._ledger.compare(await asyncio.to_thread(self._logged))
        return Findings(
            arguments=arguments,
            seen=traffic.seen,
            events=events,
            faults=self._faults,
            samples=self._samples,
            behind=self._behind,
            updater=self._updater,
            updater_said=Counter(line["event"] for line in self._logged_by("updater")),
            errors=[line for line in self._logged_by("server") if line["level"] in _ERRORS],
            troubles=self._troubles,
            began_s=self._began_s,
            capacity_per_s=capacity,
            learned_s=wait_s,
        ).found()

    async def _capacity(self, traffic: Traffic) -> float:
        """How many calls a second would keep all cores busy: so many times what half of the most that callers get does.

        What they get who ask again at once is no measure: they leave the updater little, it publishes seldom, and what
        was computed of histories is of use for long.
        """
        seconds = self._arguments.capacity_seconds
        await traffic.saturate(_CALLERS, seconds / 2)  # histories into memory
        rate = await traffic.saturate(_CALLERS, seconds / 2) / 2
        ended = asyncio.Event()
        pacing = asyncio.create_task(traffic.pace(rate, ended))
        await asyncio.sleep(seconds / 2)
        before = busy_and_all_s()
        await asyncio.sleep(seconds)
        busy_s, all_s = np.subtract(busy_and_all_s(), before)
        ended.set()
        await pacing
        return float(rate * all_s / busy_s)

    def _prepare(self) -> tuple[dict[str, frozenset[str]], dict[str, list[str]]]:
        """Import, train, start everything; the items' categories, and what each user rated."""
        installation = self._installation
        installation.start_server()
        ratings = list(_ratings(self._arguments.ratings_of))
        rated: dict[str, list[str]] = {}
        for row in ratings:
            rated.setdefault(row["user_id"], []).append(row["item_id"])
        known = {row["item_id"] for row in ratings}
        with gzip.open(MOVIELENS / "items.csv.gz", "rt") as file:
            films = [row for row in csv.DictReader(file) if row["item_id"] in known]
        with Client(installation.address) as client:
            for start in range(0, len(films), _CHUNK):
                client.upsert_items(
                    [
                        item(row["item_id"], title=row["title"], categories=row["categories"].split("|"))
                        for row in films[start : start + _CHUNK]
                    ],
                    defer_features=True,
                )
            for start in range(0, len(ratings), _CHUNK):
                batch = [
                    event(
                        "rating",
                        user_id=row["user_id"],
                        item_id=row["item_id"],
                        value=float(row["value"]),
                        event_time=datetime.fromtimestamp(int(row["timestamp"]), UTC),
                    )
                    for row in ratings[start : start + _CHUNK]
                ]
                self._ledger.sent.update(each.event_id for each in batch)
                client.write(*batch, backfill=True).raise_for_refused()
                self._ledger.acknowledged.update(each.event_id for each in batch)
            installation.run("headwater-updater", "bootstrap")
            wait_until_serving(client)
        installation.start_updater()
        started = next(line for line in self._logged_by("updater") if line["event"] == "started")
        self._updater_port = started["metrics_port"]
        return {row["item_id"]: frozenset(row["categories"].split("|")) for row in films}, rated

    async def _break_things(self, calm: asyncio.Event, checker: Checker, traffic: Traffic) -> None:
        """A fault in turn, each after a pause, until there is to be calm."""
        kinds = (WORKER, DATABASE) if self._arguments.workers > 1 else (DATABASE,)
        number = 0
        while not await _is_set_within(calm, self._arguments.fault_every):
            kind = kinds[number % len(kinds)]
            number += 1
            fault = Fault(kind, time.monotonic())
            self._faults.append(fault)
            if kind == WORKER:
                await self._kill_worker(fault)
            else:
                checker.away(fault.began_s)
                await self._kill_database(fault, traffic.seen)
                checker.back(fault.ended_s)

    async def _kill_worker(self, fault: Fault) -> None:
        """kill -9 of the youngest worker; the parent starts another."""
        parent = self._installation.processes["server"].pid
        before = children(parent)
        started = self._count_started()
        os.kill(before[-1], signal.SIGKILL)
        await _until(lambda: len(children(parent)) == len(before) and before[-1] not in children(parent))
        fault.ended_s = time.monotonic()
        await _until(lambda: self._count_started() > started)
        fault.recovered_s = time.monotonic()

    async def _kill_database(self, fault: Fault, seen: Seen) -> None:
        """kill -9 of PostgreSQL, which comes back after a while."""
        await asyncio.to_thread(self._postgresql.kill)
        await asyncio.sleep(self._arguments.away)
        await asyncio.to_thread(self._postgresql.start)
        fault.ended_s = time.monotonic()
        await _until(lambda: bool(seen.acknowledged_at_s) and seen.acknowledged_at_s[-1] > fault.ended_s)
        fault.recovered_s = next(at_s for at_s in seen.acknowledged_at_s if at_s > fault.ended_s)

    def _count_started(self) -> int:
        return str(self._installation.log_of("server").read_text()).count('"server_started"')

    def _say(self, seen: Seen) -> None:
        """What the last whole window was like, for whoever watches."""
        number = int(time.monotonic() / WINDOW_S) - 1
        tally = seen.windows.get(number, Tally())
        told = {
            "at_s": round(number * WINDOW_S - self._began_s),
            "calls": len(tally.latencies_s),
            **quantiles_ms(tally.latencies_s),
            "failed": len(seen.failures),
            "wrong": seen.n_wrong,
        }
        print(json.dumps(told), file=sys.stderr)

    async def _sample(self, seen: Seen, ended: asyncio.Event) -> None:
        server, updater = (self._installation.processes[name].pid for name in ("server", "updater"))
        watched = {"parent": server, "first worker": self._first_worker, "updater": updater}
        while not await _is_set_within(ended, _SAMPLE_S):
            self._say(seen)
            for name, process in watched.items():
                samples = self._samples.setdefault(name, Samples())
                mib, files = await asyncio.to_thread(_footprint, process)
                samples.at_s.append(round(time.monotonic() - self._began_s, 1))
                samples.mib.append(mib)
                samples.files.append(files)
            self._updater = now = await asyncio.to_thread(self._updater_metrics)
            self._behind.at_s.append(round(time.monotonic() - self._began_s, 1))
            self._behind.events.append(int(now["log_head"] - now["watermark"]))

    async def _settle(self, client: AsyncClient) -> float:
        """Wait until all that was written is learned and served; how long that took."""
        began_s = time.monotonic()
        head = await asyncio.to_thread(self._head)
        while (await client.recommend(user_id="nobody", page_size=1)).watermark < head:
            if time.monotonic() > began_s + _PATIENCE_S:
                self._troubles.append(f"position {head} is not served {_PATIENCE_S} s after the last event")
                break
            await asyncio.sleep(0.2)
        return time.monotonic() - began_s

    def _head(self) -> int:
        with closing(Database(self._database_url)) as database:
            return FeedbackLog(database).head()

    def _logged(self) -> list[str]:
        """The ids of all events in the log."""
        with closing(Database(self._database_url)) as database:
            log, position = FeedbackLog(database), 0
            ids: list[str] = []
            while batch := log.read_after(position, 10 * _CHUNK):
                ids += [logged.event.event_id for logged in batch]
                position = batch[-1].position
            return ids

    def _updater_metrics(self) -> dict[str, float]:
        """What the updater tells Prometheus, without labels and prefix."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._updater_port}/metrics", timeout=_PATIENCE_S) as page:
            families = text_string_to_metric_families(page.read().decode())
        found: Counter[str] = Counter()
        for sample in (sample for family in families for sample in family.samples):
            if sample.name.startswith(_PREFIX) and not sample.name.endswith(("_bucket", "_created")):
                found[sample.name.removeprefix(_PREFIX)] += sample.value  # type: ignore[assignment]
        return dict(found)

    def _logged_by(self, name: str) -> list[dict[str, Any]]:
        """The lines of a process's log."""
        lines = self._installation.log_of(name).read_text().split("\n")
        return [json.loads(line) for line in lines if line.startswith("{")]


def _ratings(users: int) -> Iterator[Mapping[str, str]]:
    """The ratings of the first so many users, in the file's order."""
    taken: set[str] = set()
    with gzip.open(MOVIELENS / "events.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            if row["user_id"] in taken or len(taken) < users:
                taken.add(row["user_id"])
                yield row


async def _is_set_within(sign: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await sign.wait()
    except TimeoutError:
        return False
    return True


async def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError("what was killed did not come back")
        await asyncio.sleep(0.02)


def _footprint(process: int) -> tuple[float, int]:
    """The proportional set in MiB, and how many files are open."""
    return round(memory_mib(process), 1), len(list(Path(f"/proc/{process}/fd").iterdir()))


if __name__ == "__main__":
    sys.exit(main())
