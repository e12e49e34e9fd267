"""Headwater beside a bare gRPC echo: calls a second, latency and CPU of each kind of call, in one run on one machine.

`python benchmarks/serving.py --folder F --out serving.json` trains on the demo's MovieLens ratings (9,742 films), gives
2,000 users histories of 50 events, starts a server and an echo server (`echo_server.py`: the same messages, no work)
on one core and calls them from another (`http2_load.py`). Each case is measured right after an echo of as many callers,
and compared with that one alone: the machine's mood is in both.

The ratio to echo in calls/s, and in the server's CPU per call, is what our work costs; times are the machine's. A
caller asks again as soon as it is answered, unless a share of capacity is given (`--paced`): then calls come evenly,
and latency counts from when each was due. `--compare OLD.json` shows what moved. Needs Linux (/proc) and two cores.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from http2_load import Call, run
from installations import QUIET, installation_class, wait_until_serving
from proc import memory_mib, process_cpu_s

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import recommendation_service_pb2_grpc as pb_grpc
from headwater_client import Client, event

MOVIELENS = Path(__file__).resolve().parents[1] / "examples" / "movielens"
USERS, HISTORY = 2_000, 50
_SHARE = 64
"""Callers that have users of their own."""
_ECHO_S = 2.0
_RECOMMENDATION = "/headwater.v1.RecommendationService/"
_EVENTS = "/headwater.v1.EventService/"
_RARE = "Film-Noir"
"""A genre of one film in a hundred."""
_random = random.Random(0)
_numbers = itertools.count()

Caller = Callable[[int, Sequence[str]], Iterator[Call]]


class Case(NamedTuple):
    """A kind of call."""

    name: str
    caller: Caller
    """From a caller's number and the catalogue: an endless row of its calls."""
    with_updater: bool = False


def main() -> int:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description="Headwater beside a bare echo")
    parser.add_argument("--folder", type=Path, required=True, help="for the installation; made anew if it is empty")
    parser.add_argument("--cases", default="", help="those whose names begin so, separated by commas; all by default")
    parser.add_argument("--callers", default="1,64", help="callers in flight, separated by commas")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds between start and load; 100 at 10⁶ items")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is measured; the median by ratio counts")
    parser.add_argument(
        "--paced", type=float, help="a share of the case's own capacity to call at, beside the capacity"
    )
    parser.add_argument("--environment", action="append", default=[], help="NAME=VALUE for the server")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, help="an earlier --out")
    arguments = parser.parse_args()
    environment = {
        **QUIET,
        "HEADWATER_BOOTSTRAP_EPOCHS": "5",
        "HEADWATER_PUBLISH_INTERVAL_S": "5",
        **dict(each.split("=", 1) for each in arguments.environment),
    }
    wanted = tuple(arguments.cases.split(",")) if arguments.cases else ("",)
    cases = [case for case in CASES if case.name.startswith(wanted)]
    cores = sorted(os.sched_getaffinity(0))
    with installation_class()(arguments.folder.resolve(), environment) as installation:
        _prepare(installation, arguments.folder)
        os.sched_setaffinity(0, cores[:1])  # what is started now stays there
        installation.start_server()
        echo = _start_echo(installation)
        os.sched_setaffinity(0, cores[1:] or cores)
        try:
            bench = _Bench(installation, echo, arguments)
            rows = [row for case in cases for row in bench.measure(case)]
        finally:
            echo.terminate()
            echo.wait()
    old = (
        {tuple(row[key] for key in _KEY): row for row in json.loads(arguments.compare.read_text())}
        if arguments.compare
        else {}
    )
    _show(rows, old)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


_KEY = ("case", "callers", "paced")


class _Bench:
    """What is running, and how it is measured."""

    def __init__(self, installation: Any, echo: subprocess.Popen[str], arguments: argparse.Namespace) -> None:
        self._installation = installation
        self._arguments = arguments
        self._server_pid = installation.processes["server"].pid
        self._server = address_of(installation.address)
        assert echo.stdout is not None
        self._echo_pid, self._echo = echo.pid, ("127.0.0.1", int(echo.stdout.readline()))
        with Client(installation.address) as client:
            wait_until_serving(client)
            self._items = item_ids()
            client.recommend(user_id="load-0")
        time.sleep(arguments.settle)  # the text encoder and the texts' features load, and with it a core is busy

    def measure(self, case: Case) -> Iterator[dict[str, Any]]:
        """One row for each number of callers."""
        if case.with_updater:
            self._installation.start_updater()
        for n in map(int, self._arguments.callers.split(",")):
            rows = [self._row(case, n, None) for _ in range(self._arguments.rounds)]
            row = sorted(rows, key=lambda row: row["to_echo"])[len(rows) // 2]
            yield row
            if self._arguments.paced:
                yield self._row(case, n, self._arguments.paced * row["calls_per_s"])
        if case.with_updater:
            self._installation.stop_updater()

    def _row(self, case: Case, n: int, rate: float | None) -> dict[str, Any]:
        echo = self._figures(self._echo, self._echo_pid, [_echo(number) for number in range(n)], _ECHO_S)
        # More than the users: when one answer is late the next call is due all the same.
        callers = [case.caller(number % n, self._items) for number in range(n if rate is None else 8 * n)]
        run([self._server], callers[:n], 1.0)  # users into memory
        found = self._figures(self._server, self._server_pid, callers, self._arguments.seconds, rate)
        return {
            "case": case.name,
            "callers": n,
            "paced": None if rate is None else self._arguments.paced,
            **found,
            "echo_calls_per_s": echo["calls_per_s"],
            "to_echo": found["calls_per_s"] / echo["calls_per_s"],
            "cpu_to_echo": found["cpu_ms"] / echo["cpu_ms"],
            "memory_mib": memory_mib(self._server_pid),
        }

    def _figures(
        self,
        address: tuple[str, int],
        pid: int,
        callers: Sequence[Iterator[Call]],
        seconds: float,
        rate: float | None = None,
    ) -> dict[str, Any]:
        cpu_s, began_s = process_cpu_s(pid), time.perf_counter()
        [tally] = run([address], callers, seconds, rate=rate).values()
        took_s, cpu_s = time.perf_counter() - began_s, process_cpu_s(pid) - cpu_s
        calls = len(tally.latencies_s)
        return {
            "calls_per_s": calls / took_s,
            **{f"p{share}_ms": 1000 * tally.percentile_s(share / 100) for share in (50, 95, 99)},
            "cpu_ms": 1000 * cpu_s / calls,
            "errors": tally.errors,
        }


def recommend(**fields: Any) -> Call:
    return _call("Recommend", pb.RecommendRequest(page_size=10, **fields))


def _call(method: str, request: Message, service: str = _RECOMMENDATION) -> Call:
    return Call(service + method, request.SerializeToString(), "case")


def _echo(number: int) -> Iterator[Call]:
    return itertools.repeat(recommend(user_id=f"load-{number}"))


def _unchanged(number: int, _: Sequence[str]) -> Iterator[Call]:
    return itertools.repeat(recommend(user_id=f"load-{number}"))


def _one_event_before(number: int, items: Sequence[str]) -> Iterator[Call]:
    for user in _users(number):
        yield _call("WriteEvents", events_pb.WriteEventsRequest(events=[_view(user, items)]), _EVENTS)
        yield recommend(user_id=f"load-{user}")


def _users(number: int) -> Iterator[int]:
    """A caller's own users, in turn: each one's history stays about as long as it is."""
    return itertools.cycle(range(number % _SHARE, USERS, _SHARE))


def _stranger(number: int, _: Sequence[str]) -> Iterator[Call]:
    while True:
        yield recommend(user_id=f"stranger-{next(_numbers)}")


def _filtered(number: int, _: Sequence[str]) -> Iterator[Call]:
    return itertools.repeat(recommend(user_id=f"load-{number}", filter=pb.ItemFilter(categories=[_RARE])))


def _batch(number: int, _: Sequence[str]) -> Iterator[Call]:
    users = itertools.cycle(range(USERS))
    while True:
        asked = [pb.RecommendRequest(page_size=10, user_id=f"load-{next(users)}") for _ in range(32)]
        yield _call("BatchRecommend", pb.BatchRecommendRequest(requests=asked))


def _similar(number: int, items: Sequence[str]) -> Iterator[Call]:
    while True:
        yield _call("SimilarItems", pb.SimilarItemsRequest(page_size=10, item_id=_random.choice(items)))


def _score(number: int, items: Sequence[str]) -> Iterator[Call]:
    while True:
        asked = _random.sample(items, 100)
        yield _call("ScoreItems", pb.ScoreItemsRequest(user_id=f"load-{number}", item_ids=asked))


def _writes(n_events: int) -> Caller:
    def caller(number: int, items: Sequence[str]) -> Iterator[Call]:
        for user in _users(number):
            events = [_view(user, items) for _ in range(n_events)]
            yield _call("WriteEvents", events_pb.WriteEventsRequest(events=events), _EVENTS)

    return caller


CASES = (
    Case("user unchanged", _unchanged),
    Case("user unchanged, a generation every 5 s", _unchanged, with_updater=True),
    Case("one event before each request", _one_event_before),
    Case("a new user each time", _stranger),
    Case("filter that keeps 1 %", _filtered),
    Case("batch of 32", _batch),
    Case("SimilarItems", _similar),
    Case("ScoreItems of 100", _score),
    Case("write 1 event", _writes(1)),
    Case("write 10 events", _writes(10)),
    Case("write 100 events", _writes(100)),
)


def _view(number: int, items: Sequence[str]) -> event_pb2.Event:
    return event(
        "view", user_id=f"load-{number}", item_id=_random.choice(items), event_id=f"load-{os.getpid()}-{next(_numbers)}"
    )


def _prepare(installation: Any, folder: Path) -> None:
    """Train, and give the users of the load their histories."""
    if (folder / "artifacts").exists():
        return
    installation.start_server()
    installation.run("headwater", "import-items", str(MOVIELENS / "items.csv.gz"))
    installation.run("headwater", "import-events", str(MOVIELENS / "events.csv.gz"))
    installation.run("headwater-updater", "bootstrap")
    items = item_ids()
    with Client(installation.address) as client:
        for user in range(USERS):
            client.write(*(_view(user, items) for _ in range(HISTORY))).raise_for_refused()
    installation.stop()


def _start_echo(installation: Any) -> subprocess.Popen[str]:
    """An echo that answers what this server would."""
    with Client(installation.address) as client:
        wait_until_serving(client)
    with grpc.insecure_channel(installation.address) as channel:
        stub = pb_grpc.RecommendationServiceStub(channel)
        response = stub.Recommend(pb.RecommendRequest(user_id="load-0", page_size=10))
    path = installation.folder / "echo.bin"
    path.write_bytes(response.SerializeToString())
    script = Path(__file__).with_name("echo_server.py")
    return subprocess.Popen([sys.executable, script, path], stdout=subprocess.PIPE, text=True)


def item_ids() -> list[str]:
    with gzip.open(MOVIELENS / "items.csv.gz", "rt") as file:
        return [row["item_id"] for row in csv.DictReader(file)]


def address_of(text: str) -> tuple[str, int]:
    """Host and port of `host:port`."""
    host, port = text.rsplit(":", 1)
    return host, int(port)


def _show(rows: Sequence[dict[str, Any]], old: dict[tuple[Any, ...], dict[str, Any]]) -> None:
    write: Callable[[str], object] = sys.stdout.write
    write("| case | callers | calls/s | p50 ms | p95 ms | p99 ms | CPU ms | to echo | CPU to echo | MiB | errors |\n")
    write("| --- " + "| ---: " * 10 + "|\n")
    for row in rows:
        before = old.get(tuple(row[key] for key in _KEY))
        moved = f" ({before['to_echo']:.2f})" if before else ""
        name = row["case"] + (f", at {row['paced']:g} of it" if row["paced"] else "")
        times = " | ".join(f"{row[f'p{share}_ms']:.1f}" for share in (50, 95, 99))
        write(
            f"| {name} | {row['callers']} | {row['calls_per_s']:.0f} | {times} | {row['cpu_ms']:.2f} "
            f"| {row['to_echo']:.2f}{moved} | {row['cpu_to_echo']:.1f} | {row['memory_mib']:.0f} | {row['errors']} |\n"
        )


if __name__ == "__main__":
    sys.exit(main())
