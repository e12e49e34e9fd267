"""How long each stage of a `Recommend` takes, as the server tells it (`server-timing`), one call at a time.

`python benchmarks/stages.py --folder F` takes an installation made by `serving.py`: users unchanged, users with one
event just before, and new users. Medians in µs; "call" is what the client waited.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import uuid
from collections import defaultdict
from pathlib import Path

import grpc
import serving
from installations import QUIET, installation_class, wait_until_serving

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import event_service_pb2_grpc as events_grpc
from headwater.v1 import recommendation_service_pb2 as pb
from headwater.v1 import recommendation_service_pb2_grpc as pb_grpc
from headwater_client import Client

_CALLS, _USERS = 400, 64
_CASES = ("user unchanged", "one event before", "a new user each time")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The stages of a call")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    with installation_class()(arguments.folder.resolve(), QUIET) as installation:
        installation.start_server()
        with Client(installation.address) as client:
            wait_until_serving(client)
            for user in range(_USERS):
                client.recommend(user_id=f"load-{user}")
        time.sleep(10.0)  # the text encoder loads
        taken = {case: _taken(case, installation.address) for case in _CASES}
    stages = list(taken[_CASES[1]])
    sys.stdout.write("| " + " | ".join(["", *stages]) + " |\n| --- " + "| ---: " * len(stages) + "|\n")
    for case, of_case in taken.items():
        medians = (f"{statistics.median(of_case[stage]):.0f}" if stage in of_case else "" for stage in stages)
        sys.stdout.write("| " + " | ".join([case, *medians]) + " |\n")
    return 0


def _taken(case: str, address: str) -> dict[str, list[float]]:
    items = serving.item_ids()
    taken: defaultdict[str, list[float]] = defaultdict(list)
    with grpc.insecure_channel(address) as channel:
        events = events_grpc.EventServiceStub(channel)
        recommend = pb_grpc.RecommendationServiceStub(channel).Recommend
        for number in range(_CALLS):
            user_id = f"load-{number % _USERS}"
            if case == _CASES[1]:
                viewed = event_pb2.Event(
                    event_id=uuid.uuid4().hex, event_type="view", user_id=user_id, item_id=items[number]
                )
                events.WriteEvents(events_pb.WriteEventsRequest(events=[viewed]))
            elif case == _CASES[2]:
                user_id = uuid.uuid4().hex
            request = pb.RecommendRequest(user_id=user_id, page_size=10)
            began_s = time.perf_counter()
            _, call = recommend.with_call(request, metadata=(("headwater-timing", "1"),))
            took_us = 1e6 * (time.perf_counter() - began_s)
            for entry in str(dict(call.trailing_metadata())["server-timing"]).split(", "):
                stage, _, took_ms = entry.partition(";dur=")
                taken[stage].append(1000 * float(took_ms))
            taken["call"].append(took_us)
    return dict(taken)


if __name__ == "__main__":
    sys.exit(main())
