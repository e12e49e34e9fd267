"""What several workers on one port cost and how soon one knows what another was told.

`python benchmarks/workers.py --folder F --workers 1,2,4` takes an installation made by `serving.py` or `synthetic.py`
and starts a server of each number of workers in turn. Printed is, after the same load (users unchanged, 64 callers over
two dozen connections; the server may use every core, also the load's),

    MiB         the proportional set of all processes, the parent's too: what several share counts once
    CPU ms      of all processes, a call
    start s     from the process's start until every worker serves
    seen by     how long after an event was acknowledged through one worker another's answer to the same user has
                changed, median and 99 in 100; the asking itself is in it
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import serving
from http2_load import run
from installations import QUIET, installation_class, wait_until_serving
from proc import children, memory_mib, process_cpu_s

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import event_service_pb2_grpc as events_grpc
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import recommendation_service_pb2_grpc as pb_grpc
from headwater_client import Client

_CONNECTIONS, _CALLERS = 24, 64
_SIGHTINGS = 200
_SETTLE_S = 10.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Several workers")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", default="1,2,4", help="how many, separated by commas")
    parser.add_argument("--seconds", type=float, default=8.0, help="of the load")
    parser.add_argument("--one-core", action="store_true", help="keep the server on one core, the load on another")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    rows = [_row(arguments, workers, cores) for workers in map(int, arguments.workers.split(","))]
    first = rows[0]
    write: Callable[[str], object] = sys.stdout.write
    write("| workers | MiB | to the first | calls/s | CPU ms | to the first | start s | seen after, ms | p99 |\n")
    write("| ---: " * 9 + "|\n")
    for row in rows:
        write(
            f"| {row['workers']} | {row['memory_mib']:.0f} | {row['memory_mib'] / first['memory_mib']:.2f} "
            f"| {row['calls_per_s']:.0f} | {row['cpu_ms']:.3f} | {row['cpu_ms'] / first['cpu_ms']:.2f} "
            f"| {row['start_s']:.1f} | {row['seen_p50_ms']:.1f} | {row['seen_p99_ms']:.1f} |\n"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _row(arguments: argparse.Namespace, workers: int, cores: list[int]) -> dict[str, Any]:
    environment = {**QUIET, "HEADWATER_WORKERS": str(workers)}
    with installation_class()(arguments.folder.resolve(), environment) as installation:
        os.sched_setaffinity(0, cores[:1] if arguments.one_core else cores)
        began_s = time.perf_counter()
        installation.start_server()
        with Client(installation.address, connections=_CONNECTIONS) as client:
            for _ in range(_CONNECTIONS):
                wait_until_serving(client)
        start_s = time.perf_counter() - began_s
        os.sched_setaffinity(0, cores[1:] or cores)
        time.sleep(_SETTLE_S)  # the text encoders load
        address = serving.address_of(installation.address)
        callers = [itertools.repeat(serving.recommend(user_id=f"load-{number}")) for number in range(_CALLERS)]
        run([address] * _CONNECTIONS, callers, 2.0)  # users into memory, of every worker
        pids = _tree(installation.processes["server"].pid)
        cpu_s = sum(map(process_cpu_s, pids))
        [tally] = run([address] * _CONNECTIONS, callers, arguments.seconds).values()
        cpu_s = sum(map(process_cpu_s, pids)) - cpu_s
        seen_ms = _sightings(installation.address)
        return {
            "workers": workers,
            "memory_mib": sum(map(memory_mib, pids)),
            "calls_per_s": len(tally.latencies_s) / arguments.seconds,
            "cpu_ms": 1000 * cpu_s / len(tally.latencies_s),
            "errors": tally.errors,
            "start_s": start_s,
            "seen_p50_ms": statistics.median(seen_ms),
            "seen_p99_ms": float(np.quantile(seen_ms, 0.99)),
        }


def _tree(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *children(pid)]


def _sightings(address: str) -> list[float]:
    """How long it took, ms, until every connection's answer left out what was liked through the first."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(address, options=options) for _ in range(_CONNECTIONS)]
    events = events_grpc.EventServiceStub(channels[0])
    stubs = [pb_grpc.RecommendationServiceStub(channel) for channel in channels]
    request = pb.RecommendRequest(user_id="load-0", page_size=10)
    found: list[float] = []
    for number in range(_SIGHTINGS):
        item_id = stubs[0].Recommend(request).results[0].item_id
        stub = stubs[number % len(stubs)]
        liked = event_pb2.Event(event_id=uuid.uuid4().hex, event_type="like", user_id="load-0", item_id=item_id)
        [result] = events.WriteEvents(events_pb.WriteEventsRequest(events=[liked])).results
        assert result.outcome == event_pb2.EVENT_OUTCOME_ACCEPTED, result
        began_s = time.perf_counter()
        while any(result.item_id == item_id for result in stub.Recommend(request).results):
            pass
        found.append(1000 * (time.perf_counter() - began_s))
    for channel in channels:
        channel.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
