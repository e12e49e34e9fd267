"""Joins writers that arrive together into one commit.

A commit costs the same for one event as for a thousand, so while one runs, the next gathers. The events are applied to
this server's own state before anybody is told that they are written: an acknowledged event is in the next answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from headwater_core.errors import DatabaseUnavailableError
from headwater_core.events import Event
from headwater_core.feedback_log import FeedbackLog
from headwater_core.log_writing import AppendResult
from headwater_server.micro_batcher import MicroBatcher

MAX_EVENTS_PER_COMMIT = 1000
MAX_EVENTS_WAITING = 10 * MAX_EVENTS_PER_COMMIT
"""A database that answers writes so many in about a second. One that does not must not let what its callers send again
and again gather here: they are better told at once."""
_QUIET_TURNS = 5
"""A commit costs as much as several calls: those that are at the door are worth waiting for."""


class Committed(NamedTuple):
    """What one commit wrote."""

    events: Sequence[Event]
    results: Sequence[AppendResult]
    received_time_us: int


class GroupCommitter:
    """Appends events to the log, many callers to a commit."""

    def __init__(
        self,
        log: FeedbackLog,
        run_in_database: Callable[..., Awaitable[list[AppendResult]]],
        on_commit: Callable[[Committed], Awaitable[None]],
        now_us: Callable[[], int],
    ) -> None:
        """Make a committer; `start` it before use.

        Args:
            log: where the events go.
            run_in_database: runs a blocking call off the event loop.
            on_commit: applies what was written to this server's state.
            now_us: the clock, microseconds since 1970 UTC.
        """
        self._log = log
        self._run_in_database = run_in_database
        self._on_commit = on_commit
        self._now_us = now_us
        self._batcher: MicroBatcher[Sequence[Event], list[AppendResult]] = MicroBatcher(
            self._commit, max_cost=MAX_EVENTS_PER_COMMIT, cost=len, quiet_turns=_QUIET_TURNS
        )

    def start(self) -> None:
        """Start taking events."""
        self._batcher.start()

    async def stop(self) -> None:
        """Stop; whoever still waits is cancelled."""
        await self._batcher.stop()

    @property
    def waiting_events(self) -> int:
        """How many events wait for their commit to begin."""
        return self._batcher.waiting_cost

    async def append(self, events: Sequence[Event]) -> list[AppendResult]:
        """Write events and apply them; results in the order of the events.

        What a caller who leaves has sent is written if its commit has begun, else dropped: nobody was told of it.

        Raises:
            DatabaseUnavailableError: nothing from here on was written; the same events may be sent again. Also when
                more than `MAX_EVENTS_WAITING` would wait.
        """
        results: list[AppendResult] = []
        for start in range(0, len(events), MAX_EVENTS_PER_COMMIT):
            part = events[start : start + MAX_EVENTS_PER_COMMIT]
            if self.waiting_events + len(part) > MAX_EVENTS_WAITING:
                raise DatabaseUnavailableError(f"{self.waiting_events} events wait for the database already")
            results += await self._batcher.submit(part)
        return results

    async def _commit(self, batches: Sequence[Sequence[Event]]) -> list[list[AppendResult]]:
        events = [event for batch in batches for event in batch]
        received_time_us = self._now_us()
        results = await self._run_in_database(self._log.append, events, received_time_us)
        await self._on_commit(Committed(events, results, received_time_us))
        split = iter(results)
        return [[next(split) for _ in batch] for batch in batches]
