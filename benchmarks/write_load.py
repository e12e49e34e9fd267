"""Events to write, and streams that write them with a bounded number of requests under way."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as pb
from headwater_client import event

BATCH = 1_000
"""Events in a streamed request, and in a commit of the bulk insert."""
_USERS, _ITEMS = 2_000, 10_000
_STREAM = "/headwater.v1.EventService/StreamEvents"
_random = random.Random()


class Answered(NamedTuple):
    """What came of streams."""

    events: int
    """That the server said are committed."""
    latencies_s: list[float]
    """Of each request, from when it was handed to gRPC to its answer."""


def write_event() -> event_pb2.Event:
    """A view of a random film by a random user, in a visit."""
    user = _random.randrange(_USERS)
    item_id = f"item-{_random.randrange(_ITEMS)}"
    return event("view", user_id=f"user-{user}", item_id=item_id, session_id=f"visit-{user}-{_random.randrange(50)}")


def write_batch() -> list[event_pb2.Event]:
    """As many as go into one streamed request."""
    return [write_event() for _ in range(BATCH)]


def run_streams(address: str, n_streams: int, window: int, seconds: float) -> Answered:
    """Write over streams for some time; what is under way then is waited for.

    Args:
        address: the server's.
        n_streams: open at once, each on a connection of its own.
        window: requests of one stream that may wait for their answers at once.
        seconds: how long new requests are sent.
    """
    with ThreadPoolExecutor(n_streams) as threads:
        running = [threads.submit(_stream, address, window, seconds) for _ in range(n_streams)]
        parts = [each.result() for each in running]
    return Answered(sum(part.events for part in parts), [each for part in parts for each in part.latencies_s])


def _stream(address: str, window: int, seconds: float) -> Answered:
    free = threading.Semaphore(window)
    sent_s: list[float] = []
    until_s = time.perf_counter() + seconds

    def requests() -> Iterator[bytes]:
        while True:
            body = pb.StreamEventsRequest(sequence=len(sent_s), events=write_batch()).SerializeToString()
            free.acquire()
            if time.perf_counter() >= until_s:
                return
            sent_s.append(time.perf_counter())
            yield body

    committed, latencies_s = 0, []
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        stream: Any = channel.stream_stream(_STREAM, response_deserializer=pb.StreamEventsResponse.FromString)
        for response in stream(requests()):
            free.release()
            latencies_s.append(time.perf_counter() - sent_s[response.sequence])
            committed += response.committed
    return Answered(committed, latencies_s)
