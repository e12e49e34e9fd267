"""What both event writers keep and decide: what waits, what goes together, what failed. No I/O, no clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import grpc

from headwater.v1.event_pb2 import Event
from headwater_client._results import WriteResult
from headwater_client.errors import (
    ConfigurationError,
    DeadlineExceededError,
    ResourceExhaustedError,
    RpcError,
    UnavailableError,
)

MAX_BATCH_BYTES = 8 * 1024 * 1024
MAX_KEPT_FAILURES = 1_000
WARN_EVERY_S = 10.0
NO_MORE_TIME = "the event writer was closed and had no more time"
_TRANSIENT = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """How an event writer collects events and what it does in bad times."""

    max_batch: int = 500
    """The most events of one call, at most 10,000."""
    max_wait_ms: float = 100.0
    """How long an event waits for others before it is sent."""
    max_queue: int = 10_000
    """The most events that wait or are under way."""
    when_full: Literal["block", "drop"] = "block"
    """At max_queue: `block` makes write() wait for room, `drop` drops the new event and counts it in `dropped`. An
    `EventWriter` drops what its own `on_failure` writes then, whatever is said here."""
    give_up_after_s: float = 600.0
    """How long a batch is tried again while the server is unavailable, busy or slow; then its events have failed.
    Meanwhile max_queue is what holds."""
    initial_backoff_s: float = 0.1
    """The wait before the writer's first retry of a batch, on top of the client's own quick retries; then it doubles.
    A server's own hint goes before it."""
    max_backoff_s: float = 5.0
    """No wait between retries is longer than this."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= 10_000:
            raise ConfigurationError(f"max_batch is {self.max_batch}; must be 1 to 10,000")
        if self.max_queue < self.max_batch:
            raise ConfigurationError(f"max_queue is {self.max_queue}, below max_batch {self.max_batch}")
        if self.max_wait_ms < 0 or self.give_up_after_s < 0:
            raise ConfigurationError("max_wait_ms and give_up_after_s must not be below 0")
        if not 0 < self.initial_backoff_s <= self.max_backoff_s:
            raise ConfigurationError("initial_backoff_s must be above 0 and at most max_backoff_s")
        if self.when_full not in ("block", "drop"):
            raise ConfigurationError(f"when_full is {self.when_full!r}; must be 'block' or 'drop'")


@dataclass(frozen=True, slots=True)
class WriteFailure:
    """An event that a writer could not write."""

    event: Event
    """The event, with its id: writing it again later is safe."""
    field: str
    """The field at fault; empty when the call failed as a whole."""
    reason: str
    """What went wrong, for a person to read."""
    status: grpc.StatusCode
    """INVALID_ARGUMENT or ALREADY_EXISTS for an event that was refused, RESOURCE_EXHAUSTED for one that found the queue
    full, else the status of the last try; UNKNOWN where it had none, as of a client or a writer that has ended."""


class WriterState:
    """The queue and the counts of an event writer; events leave in the order they came. Not safe in threads."""

    def __init__(self, config: WriterConfig) -> None:
        self.config = config
        self.written = 0
        """Events that are committed (duplicates included)."""
        self.dropped = 0
        """Events that were not taken because the queue was full."""
        self.failed = 0
        """Events that were refused or given up."""
        self.failures: deque[WriteFailure] = deque(maxlen=MAX_KEPT_FAILURES)
        """The newest failures, of dropped events too."""
        self.taken = 0
        """Events taken in, ever."""
        self._warned_s = -math.inf
        self._queue: deque[tuple[Event, float]] = deque()
        self._under_way: Sequence[Event] = ()

    @property
    def settled(self) -> int:
        """Events whose fate is known, ever; they settle in the order they were taken in."""
        return self.written + self.failed

    @property
    def full(self) -> bool:
        """Whether there is no room for another event."""
        return self.taken - self.settled >= self.config.max_queue

    def full_warning(self, now_s: float) -> str:
        """What to log of a full queue; empty when that was said a moment ago."""
        if now_s - self._warned_s < WARN_EVERY_S:
            return ""
        self._warned_s = now_s
        if self.config.when_full == "drop":
            return f"all {self.config.max_queue} places are taken: new events are dropped, {self.dropped} before this"
        return f"all {self.config.max_queue} places are taken: write() waits until some of them are written"

    def failure_warning(self, failures: Sequence[WriteFailure]) -> str:
        """What to log of events that were given up."""
        return f"{len(failures)} events are not written, {self.failed} in all: {failures[0].reason}"

    def drop(self, event: Event) -> WriteFailure:
        """Count an event that is not taken in, and give it."""
        self.dropped += 1
        reason = f"all {self.config.max_queue} places are taken; {self.dropped} events are dropped by now"
        failure = WriteFailure(event, "", reason, grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.failures.append(failure)
        return failure

    def add(self, event: Event, now_s: float) -> None:
        """Take an event in; the caller has looked at `full`."""
        self.taken += 1
        self._queue.append((event, now_s))

    def ready_in_s(self, now_s: float, *, flushing: bool) -> float | None:
        """In how many seconds a batch is due: 0 for now, None while nothing waits."""
        if not self._queue:
            return None
        if flushing or len(self._queue) >= self.config.max_batch:
            return 0.0
        return max(0.0, self._queue[0][1] + self.config.max_wait_ms / 1000 - now_s)

    def take_batch(self) -> list[Event]:
        """The oldest events that go together in one call: at least one, within max_batch and the message limit."""
        batch: list[Event] = []
        size_bytes = 0
        while self._queue and len(batch) < self.config.max_batch:
            size_bytes += self._queue[0][0].ByteSize()
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            batch.append(self._queue.popleft()[0])
        self._under_way = batch
        return batch

    def settle(self, batch: Sequence[Event], result: WriteResult) -> list[WriteFailure]:
        """Count an answered batch; gives the events that were refused."""
        if not self._came_back(batch):
            return []
        failures = [WriteFailure(batch[r.index], r.field, r.reason, r.status) for r in result.refused]
        self.written += len(batch) - len(failures)
        return self._fail(failures)

    def give_up(self, batch: Sequence[Event], error: Exception) -> list[WriteFailure]:
        """Count a batch that will not be written; gives its events."""
        return self._fail_all(batch, error) if self._came_back(batch) else []

    def give_up_all(self, error: Exception) -> list[WriteFailure]:
        """Count what is under way or waits as what will not be written; gives its events."""
        left = [*self._under_way, *(event for event, _ in self._queue)]
        self._under_way = ()
        self._queue.clear()
        return self._fail_all(left, error)

    def retry_delay_s(self, error: Exception, attempt: int, left_s: float) -> float | None:
        """How long to wait before the next try of a batch, None to give it up.

        Args:
            error: what the last try ended with.
            attempt: how many tries there were, from 1.
            left_s: how much time there is for more.
        """
        if not isinstance(error, _TRANSIENT) or error.is_final:
            return None
        delay_s = min(self.config.initial_backoff_s * 2.0 ** min(attempt - 1, 30), self.config.max_backoff_s)
        if error.retry_after_s is not None:
            delay_s = error.retry_after_s
        return delay_s if delay_s < left_s else None

    def _came_back(self, batch: Sequence[Event]) -> bool:
        """Whether the fate of a batch is news: not where it was given up before its answer came."""
        is_news = batch is self._under_way
        self._under_way = ()
        return is_news

    def _fail_all(self, events: Sequence[Event], error: Exception) -> list[WriteFailure]:
        status = error.status if isinstance(error, RpcError) else grpc.StatusCode.UNKNOWN
        return self._fail([WriteFailure(event, "", str(error), status) for event in events])

    def _fail(self, failures: list[WriteFailure]) -> list[WriteFailure]:
        self.failed += len(failures)
        self.failures.extend(failures)
        return failures
