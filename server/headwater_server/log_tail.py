"""Follows the feedback log: every event reaches this server's state once, in log order, whoever wrote it.

Positions are gapless per tenant, so events that this server committed itself are applied at once when they are the next
ones; otherwise, and for events of other servers, the log is read from where this server stands.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Awaitable, Callable, Sequence

import structlog

from headwater_core.errors import DatabaseUnavailableError
from headwater_core.events import LoggedEvent
from headwater_core.feedback_log import FeedbackLog
from headwater_core.log_writing import AppendOutcome
from headwater_server.group_committer import Committed

READ_LIMIT = 5000
_APPLIED_AT_ONCE = 250
log = structlog.get_logger(__name__)


class LogTail:
    """A reader that stands at a position and moves on."""

    def __init__(
        self,
        feedback_log: FeedbackLog,
        run_in_database: Callable[..., Awaitable[list[LoggedEvent]]],
        apply: Callable[[LoggedEvent], None],
    ) -> None:
        """Make a tail that has read nothing.

        Args:
            feedback_log: the log to follow.
            run_in_database: runs a blocking call off the event loop.
            apply: called once per event, in log order, on the event loop.
        """
        self._log = feedback_log
        self._run_in_database = run_in_database
        self._apply = apply
        self.turn = asyncio.Lock()
        """Nothing is applied while somebody else holds it."""
        self.position = 0
        """Everything up to here is applied."""

    async def committed(self, commit: Committed) -> None:
        """Apply what this server just wrote, with whatever other servers wrote before it."""
        accepted = [
            LoggedEvent(
                result.position,
                commit.received_time_us,
                event if event.event_time_us is not None else event._replace(event_time_us=commit.received_time_us),
            )
            for event, result in zip(commit.events, commit.results, strict=True)
            if result.outcome is AppendOutcome.ACCEPTED
        ]
        newest = max((result.position for result in commit.results), default=0)
        async with self.turn:
            if accepted and accepted[0].position == self.position + 1:
                await self._move(accepted)
            if newest <= self.position:
                return
        # Other servers wrote in between, or wrote the originals of duplicates: those count as acknowledged here too.
        try:
            await self.catch_up()
        except DatabaseUnavailableError:
            # The events are committed and must be acknowledged; the poll applies them when the database is back.
            log.warning("log_tail_behind", position=self.position, committed=newest)

    async def catch_up(self) -> int:
        """Read and apply everything committed by now; returns how many events that were.

        Raises:
            DatabaseUnavailableError: what was read before is applied.
        """
        applied = 0
        async with self.turn:
            while True:
                batch = await self._run_in_database(self._log.read_after, self.position, READ_LIMIT)
                await self._move(batch)
                applied += len(batch)
                if len(batch) < READ_LIMIT:
                    return applied

    async def _move(self, batch: Sequence[LoggedEvent]) -> None:
        for number, logged in enumerate(batch, start=1):
            self._apply(logged)
            self.position = logged.position
            if number % _APPLIED_AT_ONCE == 0:
                await asyncio.sleep(0)  # requests are answered between the parts of a large batch


class Backlog:
    """When events arrived, coarsely: how long the oldest unlearned one has waited."""

    def __init__(self, resolution_us: int = 100_000, capacity: int = 20_000) -> None:
        """Make an empty backlog. Args: resolution_us: arrivals closer together share one entry; capacity: entries."""
        self._resolution_us = resolution_us
        self._capacity = capacity
        self._positions: list[int] = []
        self._times_us: list[int] = []
        self._head = 0

    def add(self, position: int, received_time_us: int) -> None:
        """Note an event's arrival."""
        self._head = position
        first = position
        # The log is in the order of arrival: before this one arrived whatever a clock that was ahead says came later.
        while self._times_us and self._times_us[-1] > received_time_us:
            first = self._positions.pop()
            self._times_us.pop()
        if self._times_us and received_time_us - self._times_us[-1] < self._resolution_us:
            return
        self._positions.append(first)
        self._times_us.append(received_time_us)
        if len(self._positions) > self._capacity:
            del self._positions[: self._capacity // 2]
            del self._times_us[: self._capacity // 2]

    def staleness_us(self, watermark: int, now_us: int) -> int:
        """How long the oldest event after the watermark has waited, microseconds; 0 when there is none."""
        if self._head <= watermark or not self._positions:
            return 0
        entry = max(0, bisect.bisect_right(self._positions, watermark + 1) - 1)
        return max(0, now_us - self._times_us[entry])
