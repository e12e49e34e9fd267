"""Headwater's writes beside a bare bulk insert: events a second, latency and CPU, in one run on one machine.

`python benchmarks/writes.py --out writes.json` starts a server on an empty database, on one core, and writes to it from
another: 1,000 events a request over one and over four StreamEvents, and single events with 64 callers of WriteEvents.
Before each, a bare bulk insert of like rows (`bulk_insert.py`) runs on the server's core, into a database that grows as
fast; the ratio to it is what checking, numbering, finding duplicates, applying and answering cost. Every event that
was acknowledged is counted in the log afterwards, and so are the commits: events of one commit share their time of
receipt. SQLite runs with synchronous=FULL, PostgreSQL with fsync: a commit is on disk when it returns. Both are asked,
and what the disk itself needs to keep a block is measured.

With `--postgresql` a real PostgreSQL is started (from the package that the tests use), on the load's core, for the
server's database and the bulk insert's alike. Its own CPU is not counted. Needs Linux (/proc) and two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from http2_load import Call, run
from installations import QUIET, installation_class
from local_postgresql import local_postgresql
from proc import process_cpu_s
from serving import address_of
from sqlalchemy import func, select
from write_load import BATCH, run_streams, write_event

from headwater.v1 import event_service_pb2 as pb
from headwater_core.database import Database
from headwater_core.feedback_log import FeedbackLog
from headwater_core.outcomes import OFFSET
from headwater_core.schema import events

_TENANT = "default"
_WINDOW = 4
_CALLERS = 64
_SETTLE_S = 8.0
"""The text encoder loads meanwhile."""


class Written(NamedTuple):
    """What one measurement wrote."""

    events: int
    latencies_s: Sequence[float]
    """One for each request."""
    errors: int


Load = Callable[[str, float], Written]


def _streams(count: int) -> Load:
    def load(address: str, seconds: float) -> Written:
        answered = run_streams(address, count, _WINDOW, seconds)
        return Written(answered.events, answered.latencies_s, 0)

    return load


def _singles(address: str, seconds: float) -> Written:
    def calls() -> Iterator[Call]:
        while True:
            body = pb.WriteEventsRequest(events=[write_event()]).SerializeToString()
            yield Call("/headwater.v1.EventService/WriteEvents", body, "single")

    [tally] = run([address_of(address)], [calls() for _ in range(_CALLERS)], seconds).values()
    return Written(tally.statuses[0], tally.latencies_s, tally.errors)


CASES: dict[str, Load] = {
    f"{BATCH} events a request, 1 stream": _streams(1),
    f"{BATCH} events a request, 4 streams": _streams(4),
    f"1 event a call, {_CALLERS} callers": _singles,
}


def main() -> int:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description="Headwater's writes beside a bare bulk insert")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; the median by ratio counts")
    parser.add_argument("--postgresql", action="store_true", help="on PostgreSQL instead of SQLite")
    parser.add_argument("--cases", default="", help="those whose names contain this; all by default")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_cores = cores[:1], cores[1:] or cores
    os.sched_setaffinity(0, load_cores)
    with tempfile.TemporaryDirectory(prefix="headwater-") as folder, _databases(arguments, Path(folder)) as urls:
        environment = {**QUIET, "HEADWATER_DATABASE_URL": urls[0]}
        with installation_class()(Path(folder) / "installation", environment) as installation:
            os.sched_setaffinity(0, server_core)  # what is started now stays there
            installation.start_server()
            os.sched_setaffinity(0, load_cores)
            time.sleep(_SETTLE_S)
            bench = _Bench(installation, urls, server_core)
            bench.check_durable()
            sync_ms = _sync_ms(Path(folder))
            names = [name for name in CASES if arguments.cases in name]
            rows = [bench.measure(name, arguments.seconds, arguments.rounds) for name in names]
    _show(rows, sync_ms)
    if arguments.out:
        arguments.out.write_text(json.dumps({"sync_ms": sync_ms, "rows": rows}, indent=1) + "\n")
    return 0


class _Bench:
    """What is running, and how it is measured."""

    def __init__(self, installation: Any, urls: tuple[str, str], server_core: Sequence[int]) -> None:
        self._address = installation.address
        self._pid = installation.processes["server"].pid
        self._database = Database(urls[0])
        self._log = FeedbackLog(self._database, _TENANT)
        self._bulk_url = urls[1]
        self._server_core = server_core

    def check_durable(self) -> None:
        """Make sure that a commit is on disk when it returns.

        Raises:
            RuntimeError: it is not.
        """
        asked = (
            {"PRAGMA synchronous": 2}
            if self._database.is_sqlite
            else {"SHOW fsync": "on", "SHOW synchronous_commit": "on"}
        )
        with self._database.read() as connection:
            for question, wanted in asked.items():
                if (found := connection.exec_driver_sql(question).scalar()) != wanted:
                    raise RuntimeError(f"{question} says {found}, not {wanted}: commits are not durable")

    def measure(self, name: str, seconds: float, rounds: int) -> dict[str, Any]:
        """The median row, by ratio."""
        CASES[name](self._address, 1.0)
        rows = [self._row(name, seconds) for _ in range(rounds)]
        return sorted(rows, key=lambda row: row["to_bulk"])[len(rows) // 2]

    def _row(self, name: str, seconds: float) -> dict[str, Any]:
        self._wait_until_idle()
        bulk = self._bulk(seconds)
        head = self._log.head()
        cpu_before_s, began_s = process_cpu_s(self._pid), time.perf_counter()
        written = CASES[name](self._address, seconds)
        took_s = time.perf_counter() - began_s
        used_s = process_cpu_s(self._pid) - cpu_before_s
        logged, commits = self._logged_after(head)
        if logged != written.events:
            raise RuntimeError(f"{written.events} events were acknowledged, and {logged} are in the log")
        return {
            "case": name,
            "database": "sqlite" if self._database.is_sqlite else "postgresql",
            "events_per_s": written.events / took_s,
            "calls_per_s": len(written.latencies_s) / took_s,
            **{f"p{share}_ms": 1000 * float(np.quantile(written.latencies_s, share / 100)) for share in (50, 99)},
            "cpu_us": 1e6 * used_s / written.events,
            "commits_per_s": commits / took_s,
            "bulk_events_per_s": bulk["events"] / bulk["seconds"],
            "bulk_cpu_us": 1e6 * bulk["cpu_s"] / bulk["events"],
            "to_bulk": written.events / took_s / (bulk["events"] / bulk["seconds"]),
            "errors": written.errors,
        }

    def _wait_until_idle(self) -> None:
        """Until the server has joined all events to what was shown."""
        while True:
            counted = self._database.counters(_TENANT)
            if counted.get(OFFSET, 0) == counted.get("log_position", 0):
                return
            time.sleep(0.2)

    def _bulk(self, seconds: float) -> dict[str, float]:
        script = Path(__file__).with_name("bulk_insert.py")
        command = [sys.executable, str(script), self._bulk_url, "--seconds", str(seconds)]
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._server_core)
        try:
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        finally:
            os.sched_setaffinity(0, before)
        return dict(json.loads(done.stdout))

    def _logged_after(self, position: int) -> tuple[int, int]:
        """How many events are in the log after a position, and how many commits wrote them."""
        statement = select(func.count(), func.count(events.c.received_time_us.distinct())).where(
            events.c.tenant == _TENANT, events.c.position > position
        )
        with self._database.read() as connection:
            n_events, n_commits = connection.execute(statement).one()
            return n_events, n_commits


@contextmanager
def _databases(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str]]:
    """The URLs of the server's database and of the bulk insert's."""
    if not arguments.postgresql:
        yield f"sqlite:///{folder / 'headwater.db'}", f"sqlite:///{folder / 'bulk.db'}"
        return
    with local_postgresql(folder) as server:
        yield server.create(), server.create()


def _sync_ms(folder: Path) -> float:
    """How long the disk takes to keep one block, the median of a hundred."""
    times_s = []
    with (folder / "sync").open("wb") as file:
        for _ in range(100):
            began_s = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            times_s.append(time.perf_counter() - began_s)
    return 1000 * float(np.median(times_s))


def _show(rows: Sequence[dict[str, Any]], sync_ms: float) -> None:
    write: Callable[[str], object] = sys.stdout.write
    write("| case | database | events/s | calls/s | p50 ms | p99 ms | CPU µs an event | commits/s ")
    write("| bulk insert, events/s | ratio | errors |\n")
    write("| --- | --- " + "| ---: " * 9 + "|\n")
    for row in rows:
        write(
            f"| {row['case']} | {row['database']} | {row['events_per_s']:.0f} | {row['calls_per_s']:.0f} "
            f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['cpu_us']:.0f} | {row['commits_per_s']:.0f} "
            f"| {row['bulk_events_per_s']:.0f} | {row['to_bulk']:.2f} | {row['errors']} |\n"
        )
    write(f"\nEvery commit is on disk before it is acknowledged; the disk keeps a block in {sync_ms:.2f} ms.\n")


if __name__ == "__main__":
    sys.exit(main())
