"""Writes events in batches from a task of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from headwater.v1.event_pb2 import Event
from headwater_client._async_client import AsyncClient
from headwater_client._calls import events
from headwater_client._writer_state import NO_MORE_TIME, WriteFailure, WriterConfig, WriterState
from headwater_client.errors import ClientClosedError, RpcError

_logger = logging.getLogger("headwater_client")


class AsyncEventWriter:
    """Collects events and writes them in batches; for one event loop. `EventWriter`'s methods, awaited.

    Failed calls are tried again with the same event ids, so nothing is written twice. What cannot be written is told
    to `on_failure`, kept in `failures` and logged. Close it, or use it in an `async with`: what still waits is written
    then; where the event loop ends without that, it is given up.
    """

    def __init__(
        self,
        client: AsyncClient,
        config: WriterConfig | None = None,
        *,
        on_failure: Callable[[WriteFailure], None] | None = None,
    ) -> None:
        """The first write starts the task.

        Args:
            client: who makes the calls; it stays the caller's to close, after the writer.
            config: sizes, waits, and what to do when the queue is full.
            on_failure: called in the event loop with every event that could not be written. It is not awaited; a
                task that it starts may write again and flush.
        """
        self._client = client
        self._on_failure = on_failure
        self._state = WriterState(config or WriterConfig())
        self._changed = asyncio.Event()
        self._flush_to = 0
        self._close_by_s: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def written(self) -> int:
        """How many events are committed."""
        return self._state.written

    @property
    def dropped(self) -> int:
        """How many events were dropped because the queue was full; each is told to `on_failure`, too."""
        return self._state.dropped

    @property
    def failed(self) -> int:
        """How many events could not be written."""
        return self._state.failed

    @property
    def failures(self) -> list[WriteFailure]:
        """The newest events that could not be written, at most 1,000."""
        return list(self._state.failures)

    async def write(self, event: Event) -> bool:
        """Take an event in, and say whether it was taken: False when it was dropped because the queue is full.

        Raises:
            ClientClosedError: the writer is closed.
        """
        self._check_open()
        while self._state.full:
            if warning := self._state.full_warning(time.monotonic()):
                _logger.warning(warning)
            if self._state.config.when_full == "drop":
                self._report([self._state.drop(event)])
                return False
            await self._changed.wait()
            self._check_open()
        self._state.add(event, time.monotonic())
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="headwater-event-writer")
            self._task.add_done_callback(self._end)  # it is called even where the task is cancelled before it begins
        self._notify()
        return True

    async def flush(self, timeout_s: float | None = None) -> None:
        """Send what waits, now, and return when the fate of every event written so far is known.

        Raises:
            TimeoutError: it is not, after timeout_s.
        """
        upto = self._flush_to = self._state.taken
        self._notify()
        try:
            async with asyncio.timeout(timeout_s):
                while self._state.settled < upto:
                    await self._changed.wait()
        except TimeoutError:
            waiting = upto - self._state.settled
            raise TimeoutError(f"{waiting} events are still waiting after {timeout_s} s") from None

    async def close(self, timeout_s: float = 30.0) -> None:
        """Write what waits, for at most timeout_s, then give up what is left. Closing twice is harmless.

        A call that is under way at the limit is cancelled: its events count as failed, whatever comes of it.
        The writer goes on where the caller is cancelled meanwhile (`asyncio.wait_for`): closing again waits for it.
        """
        if self._close_by_s is None:
            self._close_by_s = time.monotonic() + timeout_s
        self._notify()
        if self._task is None:
            return
        left_s = max(0.0, self._close_by_s - time.monotonic())
        await asyncio.wait([self._task], timeout=left_s)  # wait_for() would pass the caller's cancellation on to it
        if not self._task.done():
            self._give_up(self._state.give_up_all(ClientClosedError(NO_MORE_TIME)))
            self._task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _check_open(self) -> None:
        if self._close_by_s is not None:
            raise ClientClosedError("the event writer is closed")

    def _notify(self) -> None:
        """Wake everyone who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        while batch := await self._next_batch():
            await self._send(batch)

    def _end(self, _: asyncio.Task[None]) -> None:
        """Give up what is left, where the task was cancelled: nobody would write it any more."""
        if self._close_by_s is None:
            self._close_by_s = time.monotonic()
        error = ClientClosedError("the event writer was not closed before its task ended")
        self._give_up(self._state.give_up_all(error))

    async def _next_batch(self) -> list[Event]:
        """Wait for a batch to be due; empty when the writer is closed and nothing waits."""
        while True:
            closing = self._close_by_s is not None
            flushing = closing or self._flush_to > self._state.settled
            ready_in_s = self._state.ready_in_s(time.monotonic(), flushing=flushing)
            if ready_in_s == 0 or (ready_in_s is None and closing):
                return self._state.take_batch()
            await self._wait(ready_in_s)

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait for a change, for at most timeout_s."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _send(self, batch: list[Event]) -> None:
        give_up_at_s = time.monotonic() + self._state.config.give_up_after_s
        attempt = 0
        while True:
            attempt += 1
            try:
                call = events.write(*batch, timeout_s=self._call_timeout_s())
                result = await self._client._make(call, is_patient=False)
            except RpcError as error:
                if await self._wait_to_retry(error, attempt, give_up_at_s):
                    continue
                self._give_up(self._state.give_up(batch, error))
            except Exception as error:
                # a token hook's own error, say: it costs this batch, never the task
                _logger.exception("writing %d events failed", len(batch))
                self._give_up(self._state.give_up(batch, error))
            else:
                failures = self._state.settle(batch, result)
                self._notify()
                self._report(failures)
            return

    def _call_timeout_s(self) -> float | None:
        if self._close_by_s is None:
            return None
        return max(0.1, self._close_by_s - time.monotonic())

    async def _wait_to_retry(self, error: RpcError, attempt: int, give_up_at_s: float) -> bool:
        """Wait as long as the next try must wait, and say whether there is to be one."""
        waited_from_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            until_s = give_up_at_s if self._close_by_s is None else min(give_up_at_s, self._close_by_s)
            delay_s = self._state.retry_delay_s(error, attempt, until_s - waited_from_s)
            if delay_s is None:
                return False
            if waited_from_s + delay_s <= now_s:
                return True
            await self._wait(waited_from_s + delay_s - now_s)  # woken early by close(), which moves until_s

    def _give_up(self, failures: Sequence[WriteFailure]) -> None:
        self._notify()
        if failures:
            _logger.warning(self._state.failure_warning(failures))
        self._report(failures)

    def _report(self, failures: Sequence[WriteFailure]) -> None:
        if self._on_failure is None:
            return
        for failure in failures:
            try:
                self._on_failure(failure)
            except Exception:
                _logger.exception("on_failure raised for event %s", failure.event.event_id)
