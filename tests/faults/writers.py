"""Clients that write on and on, whatever happens to the server, and an account of what they were promised."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc

from headwater.v1 import event_service_pb2 as pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    Event,
    EventWriter,
    ResourceExhaustedError,
    UnavailableError,
    WriterConfig,
    event,
)
from headwater_core.database import Database
from headwater_core.feedback_log import FeedbackLog

PATIENCE_S = 120.0
_PAUSE_S = 0.03
_IN_PASSING = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)
_PAGE = 5_000


class Ledger:
    """What was sent and what was acknowledged; for many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.acknowledged_s = 0.0
        """When anything was last, on time.monotonic's clock."""
        self.calls = 0
        self.failed_calls: list[str] = []
        """The reasons of the SDK's calls that failed in passing and were made again by the caller."""
        self.broken: list[str] = []
        """What no client should ever meet."""

    def send(self, events: Sequence[Event]) -> None:
        with self._changed:
            self.sent.update(each.event_id for each in events)

    def acknowledge(self, event_ids: Sequence[str]) -> None:
        if event_ids:
            with self._changed:
                self.acknowledged.update(event_ids)
                self.acknowledged_s = time.monotonic()
                self._changed.notify_all()

    def call(self, failure: Exception | None = None) -> None:
        with self._changed:
            self.calls += 1
            if failure is not None:
                self.failed_calls.append(str(failure))

    def note(self, problem: str) -> None:
        with self._changed:
            self.broken.append(problem)
            self._changed.notify_all()

    def wait_for_acknowledgement(self, after_s: float) -> float:
        """Wait for one after a moment; how long after it it came."""
        with self._changed:
            came = self._changed.wait_for(lambda: self.acknowledged_s > after_s or self.broken, PATIENCE_S)
        assert not self.broken, self.broken
        assert came, f"nothing was acknowledged in {PATIENCE_S} s"
        return self.acknowledged_s - after_s

    def audit(self, database_url: str) -> dict[str, int]:
        """Compare with the log: all that was acknowledged once, all that was sent once, nothing else.

        Call it when the writers have ended: they go on until all that they sent is acknowledged.
        """
        database = Database(database_url)
        log, positions, found = FeedbackLog(database), list[int](), list[str]()
        while batch := log.read_after(positions[-1] if positions else 0, _PAGE):
            positions += [each.position for each in batch]
            found += [each.event.event_id for each in batch]
        database.close()
        assert not self.broken, self.broken
        assert positions == list(range(1, len(positions) + 1))
        assert len(found) == len(set(found)), "an event is in the log twice"
        assert not self.acknowledged - set(found), "an acknowledged event is lost"
        assert not set(found) - self.sent, "an event is in the log that nobody sent"
        assert self.acknowledged == self.sent
        return {
            "sent": len(self.sent),
            "acknowledged": len(self.acknowledged),
            "found": len(found),
            "calls": self.calls,
            "calls_failed": len(self.failed_calls),
        }


@contextmanager
def writers(address: str | Sequence[str]) -> Iterator[Ledger]:
    """Write with every kind of client; at the end each goes on until what it has sent is acknowledged.

    Args:
        address: of the servers.
    """
    ledger, ending = Ledger(), threading.Event()
    kinds: list[Callable[[str | Sequence[str], Ledger, threading.Event], None]] = [
        _write_blocking,
        _write_blocking,
        _write_awaiting,
        _write_batching,
        _write_streaming,
    ]

    def run(kind: Callable[[str | Sequence[str], Ledger, threading.Event], None]) -> None:
        try:
            kind(address, ledger, ending)
        except Exception as error:  # noqa: BLE001 - whatever ends a writer is what the test is about
            ledger.note(f"{kind.__name__}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(kind,), daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    try:
        yield ledger
    finally:
        ending.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "a writer does not end"


_numbers = itertools.count()


def _batch(size: int) -> list[Event]:
    users = (f"user-{next(_numbers) % 50}" for _ in range(size))
    return [event("like", user_id=user, item_id=f"item-{next(_numbers) % 100}") for user in users]


def _sizes() -> Iterator[int]:
    return itertools.cycle((1, 3, 1, 7))


def _write_blocking(address: str | Sequence[str], ledger: Ledger, ending: threading.Event) -> None:
    with Client(address) as client:
        for size in _sizes():
            batch = _batch(size)
            ledger.send(batch)
            while True:
                try:
                    client.write(*batch).raise_for_refused()
                except _IN_PASSING as error:
                    ledger.call(error)
                else:
                    break
            ledger.call()
            ledger.acknowledge([each.event_id for each in batch])
            if ending.wait(_PAUSE_S):
                return


def _write_awaiting(address: str | Sequence[str], ledger: Ledger, ending: threading.Event) -> None:
    async def write(client: AsyncClient) -> None:
        for size in _sizes():
            batch = _batch(size)
            ledger.send(batch)
            while True:
                try:
                    (await client.write(*batch)).raise_for_refused()
                except _IN_PASSING as error:
                    ledger.call(error)
                else:
                    break
            ledger.call()
            ledger.acknowledge([each.event_id for each in batch])
            await asyncio.sleep(_PAUSE_S)
            if ending.is_set():
                return

    async def write_at_once() -> None:
        async with AsyncClient(address) as client, asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(write(client))

    asyncio.run(write_at_once())


def _write_batching(address: str | Sequence[str], ledger: Ledger, ending: threading.Event) -> None:
    taken: list[str] = []
    told = 0
    with Client(address) as client:
        writer = EventWriter(client, WriterConfig(max_batch=20, max_wait_ms=5, max_backoff_s=0.5))
        while not ending.wait(_PAUSE_S / 2):
            [one] = _batch(1)
            ledger.send([one])
            writer.write(one)
            taken.append(one.event_id)
            written = writer.written  # they are written in the order in which they were taken
            ledger.acknowledge(taken[told:written])
            told = written
        writer.close(PATIENCE_S)
    if writer.failed or writer.dropped:
        ledger.note(f"the event writer lost something: {writer.failures[:3]}")
    ledger.acknowledge(taken[told : writer.written])


def _write_streaming(address: str | Sequence[str], ledger: Ledger, ending: threading.Event) -> None:
    target = address if isinstance(address, str) else f"ipv4:{','.join(address)}"
    sizes, batch = _sizes(), list[Event]()
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000)]
    with grpc.insecure_channel(target, options=options) as channel:
        while batch or not ending.is_set():
            asked, sequence = _Requests(), 0
            stream = EventServiceStub(channel).StreamEvents(asked, timeout=PATIENCE_S)
            try:
                while batch or not ending.wait(_PAUSE_S):
                    if not batch:
                        batch = _batch(next(sizes))
                        ledger.send(batch)
                    sequence += 1
                    asked.put(pb.StreamEventsRequest(sequence=sequence, events=batch))
                    answer = next(stream)
                    assert (answer.sequence, answer.committed) == (sequence, len(batch)), answer
                    ledger.acknowledge([each.event_id for each in batch])
                    batch = []
            except grpc.RpcError as error:
                if error.code() not in {
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    grpc.StatusCode.CANCELLED,
                }:
                    raise
                time.sleep(0.1)
            finally:
                asked.end()
                stream.cancel()


class _Requests:
    """What a stream sends, as it comes."""

    def __init__(self) -> None:
        self._waiting: list[pb.StreamEventsRequest] = []
        self._changed = threading.Condition()
        self._is_over = False

    def put(self, request: pb.StreamEventsRequest) -> None:
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def __iter__(self) -> _Requests:
        return self

    def __next__(self) -> pb.StreamEventsRequest:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            if self._is_over:
                raise StopIteration
            return self._waiting.pop(0)
