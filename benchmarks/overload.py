"""What a server does past its capacity: calls come evenly, 0.5, 1, 2 and 5 times as many as it can answer.

`python benchmarks/overload.py --folder F` takes an installation that `serving.py --folder F` has made. Capacity is what
64 callers get who ask again as soon as they are answered; it is measured first, and the rates are shares of it. Server
on one core, load on another, eight connections. With `--timeout-ms` every call carries that deadline: an answer that
comes later counts as late.

Throughput past capacity should stay at its peak, refusals should be quick and say when to come again, and what is
answered should be answered in time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import serving
from http2_load import Call, Tally, run
from installations import QUIET, installation_class, wait_until_serving

from headwater_client import Client

_CALLERS = 4_000
"""Enough that one is free whenever a call is due."""
_CONNECTIONS = 8
_CAPACITY_CALLERS = 64


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Headwater past its capacity")
    parser.add_argument("--folder", type=Path, required=True, help="an installation made by serving.py")
    parser.add_argument("--cases", default="user unchanged,a new user", help="those whose names begin so")
    parser.add_argument("--loads", default="0.5,1,2,5", help="times the capacity")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--timeout-ms", type=int, default=0, help="the deadline of every call; 0: none")
    parser.add_argument("--environment", action="append", default=[], help="NAME=VALUE for the server")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    environment = {**QUIET, **dict(each.split("=", 1) for each in arguments.environment)}
    wanted = tuple(arguments.cases.split(","))
    cases = [case for case in serving.CASES if case.name.startswith(wanted) and not case.with_updater]
    rows: list[dict[str, Any]] = []
    with installation_class()(arguments.folder.resolve(), environment) as installation:
        os.sched_setaffinity(0, cores[:1])  # what is started now stays there
        installation.start_server()
        os.sched_setaffinity(0, cores[1:] or cores)
        with Client(installation.address) as client:
            wait_until_serving(client)
            client.recommend(user_id="load-0")
        time.sleep(10.0)  # the text encoder loads, and with it a core is busy
        address, items = serving.address_of(installation.address), serving.item_ids()
        for case in cases:
            callers = [case.caller(number, items) for number in range(_CAPACITY_CALLERS)]
            run([address] * _CONNECTIONS, callers, 2.0)  # users into memory
            peak = _rate(run([address] * _CONNECTIONS, callers, arguments.seconds), arguments.seconds)
            for load in map(float, arguments.loads.split(",")):
                callers = [
                    _with_deadline(case.caller(number % _CAPACITY_CALLERS, items), arguments.timeout_ms)
                    for number in range(_CALLERS)
                ]
                found = run([address] * _CONNECTIONS, callers, arguments.seconds, rate=load * peak)
                rows.append({"case": case.name, "load": load, "peak": peak, **_figures(found, arguments)})
    _show(rows)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _with_deadline(calls: Iterator[Call], timeout_ms: int) -> Iterator[Call]:
    return (call._replace(timeout_ms=timeout_ms) for call in calls)


def _rate(tallies: dict[str, Tally], seconds: float) -> float:
    return sum(len(tally.latencies_s) for tally in tallies.values()) / seconds


def _figures(tallies: dict[str, Tally], arguments: argparse.Namespace) -> dict[str, Any]:
    [tally] = tallies.values()
    answered = [took_s for took_s in tally.latencies_s if took_s * 1000 <= (arguments.timeout_ms or float("inf"))]
    of_refused = Tally(tally.refused_s)
    return {
        "answered_per_s": len(answered) / arguments.seconds,
        "late_per_s": (len(tally.latencies_s) - len(answered)) / arguments.seconds,
        "refused_per_s": len(tally.refused_s) / arguments.seconds,
        **{f"p{share}_ms": 1000 * tally.percentile_s(share / 100) for share in (50, 99)},
        **{f"refused_p{share}_ms": 1000 * of_refused.percentile_s(share / 100) for share in (50, 99)},
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
    }


def _show(rows: Sequence[dict[str, Any]]) -> None:
    sys.stdout.write(
        "| case | load | answered/s | of peak | p50 ms | p99 ms | late/s | refused/s | p99 ms | statuses |\n"
    )
    sys.stdout.write("| --- " + "| ---: " * 9 + "|\n")
    for row in rows:
        sys.stdout.write(
            f"| {row['case']} | {row['load']:g} | {row['answered_per_s']:.0f} "
            f"| {row['answered_per_s'] / row['peak']:.2f} | {row['p50_ms']:.0f} | {row['p99_ms']:.0f} "
            f"| {row['late_per_s']:.0f} | {row['refused_per_s']:.0f} | {row['refused_p99_ms']:.0f} "
            f"| {row['statuses']} |\n"
        )


if __name__ == "__main__":
    sys.exit(main())
