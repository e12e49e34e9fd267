"""Logs what was shown, without holding any answer back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from headwater_core.errors import DatabaseUnavailableError
from headwater_core.feedback_log import subject_hash
from headwater_core.impressions import Impression, ImpressionLog
from headwater_server.metrics import ServerMetrics

_BATCH = 500
_LONGEST_PAUSE_S = 4.0
"""Between two tries while the database is away."""
log = structlog.get_logger(__name__)


class ImpressionWriter:
    """A bounded queue with one writer behind it; over the bound the oldest impressions are dropped, and counted."""

    def __init__(
        self,
        impression_log: ImpressionLog,
        run_in_database: Callable[..., Awaitable[None]],
        metrics: ServerMetrics,
        *,
        interval_s: float = 0.2,
        capacity: int = 10_000,
    ) -> None:
        """Make an idle writer.

        Args:
            impression_log: where impressions go.
            run_in_database: runs a blocking call off the event loop.
            metrics: where they are counted.
            interval_s: how often the queue is written; while the database is away, less and less often.
            capacity: how many may wait.
        """
        self._log = impression_log
        self._run_in_database = run_in_database
        self._metrics = metrics
        self._interval_s = interval_s
        self._capacity = capacity
        self._waiting: deque[Impression] = deque()
        self._is_away = False
        """Whether the last try found no database."""
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start writing."""
        self._task = asyncio.create_task(self._run(), name="impression-writer")

    async def stop(self) -> None:
        """Write what waits, then end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    def add(self, impression: Impression) -> None:
        """Take an impression; never waits."""
        if len(self._waiting) >= self._capacity:
            self._waiting.popleft()
            self._metrics.impressions.labels("dropped").inc()
        self._waiting.append(impression)

    def forget(self, erased: bytes) -> None:
        """Drop the waiting impressions of the subject with this `subject_hash`."""
        self._waiting = deque(
            shown for shown in self._waiting if shown.subject is None or subject_hash(shown.subject) != erased
        )

    async def flush(self) -> None:
        """Write everything that waits now, a batch under way included; what cannot be written waits on."""
        async with self._turn:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                try:
                    await self._run_in_database(self._log.append, batch)
                except asyncio.CancelledError:
                    self._waiting.extendleft(reversed(batch))  # perhaps written; a slate written again stays as it is
                    raise
                except DatabaseUnavailableError:
                    self._waiting.extendleft(reversed(batch))
                    self._tell(is_away=True)
                    return
                except Exception:  # a batch that cannot be written must not stop the ones after it
                    self._metrics.impressions.labels("failed").inc(len(batch))
                    log.exception("impressions_failed", count=len(batch))
                else:
                    self._metrics.impressions.labels("logged").inc(len(batch))
                    self._tell(is_away=False)

    def _tell(self, *, is_away: bool) -> None:
        """Once when the database goes, once when it is back."""
        if is_away and not self._is_away:
            log.warning("impressions_wait", count=len(self._waiting))
        elif self._is_away and not is_away:
            log.info("impressions_written_again", waiting=len(self._waiting))
        self._is_away = is_away

    async def _run(self) -> None:
        pause_s = self._interval_s
        while True:
            await asyncio.sleep(pause_s)
            await self.flush()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if self._is_away else self._interval_s
