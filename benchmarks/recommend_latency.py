"""One caller's Recommend beside a bare gRPC echo, in one run on one machine.

`python benchmarks/recommend_latency.py FOLDER`, FOLDER being an installation's, for example `.demo` after `make demo`.
What counts is the ratio: absolute times are the machine's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from installations import installation_class

from headwater.v1 import recommendation_service_pb2 as pb
from headwater_client import Client

METHOD = "/headwater.v1.RecommendationService/Recommend"
OPTIONS = [("grpc.so_reuseport", 0)]


def main() -> int:
    """Print a line of JSON per case."""
    parser = argparse.ArgumentParser(description="Recommend beside a bare echo")
    parser.add_argument("folder", type=Path, help="an installation with a published generation")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--warm-up-s", type=float, default=15.0, help="time for the server to load its text encoder")
    arguments = parser.parse_args()
    environment = {"HEADWATER_PORT": "0", "HEADWATER_METRICS_PORT": ""}
    with installation_class()(arguments.folder.resolve(), environment) as installation:
        installation.start_server()
        time.sleep(arguments.warm_up_s)
        with Client(installation.address) as client:
            answer = client.recommend(user_id="1")
            echo = _echo_times(len(answer), arguments.calls)
            cases = {
                "bare echo": echo,
                "Recommend, users not in memory": _times(client, arguments.calls),
                "Recommend, the same users again": _times(client, arguments.calls),
            }
    for name, times_ms in cases.items():
        p50, p99 = statistics.median(times_ms), statistics.quantiles(times_ms, n=100)[98]
        ratio = p50 / statistics.median(echo)
        sys.stdout.write(
            json.dumps({"case": name, "p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "to_echo": round(ratio, 1)})
            + "\n"
        )
    return 0


def _times(client: Client, calls: int) -> list[float]:
    def call(number: int) -> None:
        client.recommend(user_id=str(number + 1))

    return _measured(call, calls)


def _echo_times(items: int, calls: int) -> list[float]:
    """A server that answers with a ready message of the same size, in a process of its own."""
    response = pb.RecommendResponse(
        results=[
            pb.RecommendedItem(item_id=f"item-{n}", score=1.0, rank=n + 1, sources=["tower"]) for n in range(items)
        ],
        attribution_token="x" * 64,
    )
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_echo, args=(response.SerializeToString(), theirs), daemon=True)
    process.start()
    with grpc.insecure_channel(f"127.0.0.1:{ours.recv()}") as channel:
        ask = channel.unary_unary(
            METHOD,
            request_serializer=pb.RecommendRequest.SerializeToString,
            response_deserializer=pb.RecommendResponse.FromString,
        )
        times = _measured(lambda number: ask(pb.RecommendRequest(user_id=str(number))), calls)
    process.terminate()
    process.join()
    return times


def _serve_echo(content: bytes, pipe: Any) -> None:
    response = pb.RecommendResponse.FromString(content)
    handler = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: response,
        request_deserializer=pb.RecommendRequest.FromString,
        response_serializer=pb.RecommendResponse.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), options=OPTIONS)
    service, method = METHOD[1:].split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


def _measured(call: Callable[[int], object], calls: int) -> list[float]:
    """Milliseconds of each call."""
    times_ms = []
    for number in range(calls):
        began = time.perf_counter()
        call(number)
        times_ms.append((time.perf_counter() - began) * 1000)
    return times_ms


if __name__ == "__main__":
    sys.exit(main())
