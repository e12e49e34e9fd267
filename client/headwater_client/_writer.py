"""Writes events in batches from a thread of its own."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from headwater.v1.event_pb2 import Event
from headwater_client._calls import events
from headwater_client._client import Client
from headwater_client._writer_state import NO_MORE_TIME, WriteFailure, WriterConfig, WriterState
from headwater_client.errors import ClientClosedError, RpcError

_logger = logging.getLogger("headwater_client")


class _Telling(threading.local):
    """Whether this thread is in on_failure."""

    now = False


class EventWriter:
    """Collects events and writes them in batches; safe to share between threads.

    Failed calls are tried again with the same event ids, so nothing is written twice. What cannot be written is told
    to `on_failure`, kept in `failures` and logged. Close it, or use it in a `with`: what still waits is written
    then; where the process ends without that, it is given up, and where the process is killed, it is lost.

    It belongs to the process that made it: in a fork of that one (a preloading web server's workers, multiprocessing)
    `write`, `flush` and `failures` raise ClientClosedError and `close` does nothing. Make client and writer in each.
    """

    def __init__(
        self,
        client: Client,
        config: WriterConfig | None = None,
        *,
        on_failure: Callable[[WriteFailure], None] | None = None,
    ) -> None:
        """Starts the thread.

        Args:
            client: who makes the calls; it stays the caller's to close, after the writer.
            config: sizes, waits, and what to do when the queue is full.
            on_failure: called with every event that could not be written: in the writer's thread, or in that of
                `write` where the event was dropped, or of `close` where its time was over. It may write again, but
                neither wait for room nor flush: the writer's thread would wait for itself.
        """
        # A fork has no thread of the writer's, and its locks stay as they were. A thread of its own would not do: gRPC
        # does not promise that a connection which was used before works there, and a call that hangs tells nobody.
        self._process_id = os.getpid()
        self._client = client
        self._on_failure = on_failure
        self._state = WriterState(config or WriterConfig())
        self._changed = threading.Condition()
        self._telling = _Telling()
        self._flush_to = 0
        self._close_by_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="headwater-event-writer", daemon=True)
        self._thread.start()
        atexit.register(self._end_with_process)

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
        self._check_process()
        with self._changed:
            return list(self._state.failures)

    def write(self, event: Event) -> bool:
        """Take an event in, and say whether it was taken: False when it was dropped because the queue is full.

        In `on_failure` it never waits for room, and of an event that is dropped there it is not called again.

        Raises:
            ClientClosedError: the writer is closed, or was made in another process.
        """
        self._check_process()
        with self._changed:
            self._check_open()
            dropped = None
            while self._state.full and dropped is None:
                if warning := self._state.full_warning(time.monotonic()):
                    _logger.warning(warning)
                if self._state.config.when_full == "drop" or self._is_own_thread():
                    dropped = self._state.drop(event)
                else:
                    self._changed.wait()
                    self._check_open()
            if dropped is None:
                self._state.add(event, time.monotonic())
                self._changed.notify_all()
        if dropped is not None and not self._telling.now:  # else telling and writing again would never end
            self._report([dropped])
        return dropped is None

    def flush(self, timeout_s: float | None = None) -> None:
        """Send what waits, now, and return when the fate of every event written so far is known.

        Raises:
            TimeoutError: it is not, after timeout_s.
            ClientClosedError: the writer was made in another process.
            RuntimeError: it was called in `on_failure`, in the writer's thread.
        """
        self._check_process()
        if self._is_own_thread():
            raise RuntimeError("the event writer's thread would wait for itself: do not flush in on_failure")
        with self._changed:
            upto = self._flush_to = self._state.taken
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._state.settled >= upto, timeout_s):
                raise TimeoutError(f"{upto - self._state.settled} events are still waiting after {timeout_s} s")

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what waits, for at most timeout_s, then give up what is left. Closing twice is harmless.

        A call that is under way at the limit is not waited for: its events count as failed, whatever comes of it.
        """
        if self._is_elsewhere():  # what waits is its owner's to write
            return
        with self._changed:
            if self._close_by_s is None:
                self._close_by_s = time.monotonic() + timeout_s
            left_s = max(0.0, self._close_by_s - time.monotonic())
            self._changed.notify_all()
        self._thread.join(left_s)
        if self._thread.is_alive():  # in a call that was sent with a longer deadline, or in a slow on_failure
            self._end(NO_MORE_TIME)
        atexit.unregister(self._end_with_process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_elsewhere(self) -> bool:
        """Whether this is a fork of the process that made the writer: there `_changed` may be held for ever."""
        return os.getpid() != self._process_id

    def _check_process(self) -> None:
        if self._is_elsewhere():
            raise ClientClosedError("the event writer was made in another process: make one in each")

    def _check_open(self) -> None:
        if self._close_by_s is not None:
            raise ClientClosedError("the event writer is closed")

    def _is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._send(batch)
        finally:
            self._end("the event writer was not closed before its thread ended")

    def _end_with_process(self) -> None:
        if not self._is_elsewhere():
            self._end("the event writer was not closed before the process ended")

    def _end(self, reason: str) -> None:
        """Give up what is left: nobody would write it any more."""
        with self._changed:
            if self._close_by_s is None:
                self._close_by_s = time.monotonic()
            failures = self._state.give_up_all(ClientClosedError(reason))
            self._changed.notify_all()
        self._tell(failures)

    def _next_batch(self) -> list[Event]:
        """Wait for a batch to be due; empty when the writer is closed and nothing waits."""
        with self._changed:
            while True:
                closing = self._close_by_s is not None
                flushing = closing or self._flush_to > self._state.settled
                ready_in_s = self._state.ready_in_s(time.monotonic(), flushing=flushing)
                if ready_in_s == 0 or (ready_in_s is None and closing):
                    return self._state.take_batch()
                self._changed.wait(ready_in_s)

    def _send(self, batch: list[Event]) -> None:
        give_up_at_s = time.monotonic() + self._state.config.give_up_after_s
        attempt = 0
        while True:
            attempt += 1
            try:
                call = events.write(*batch, timeout_s=self._call_timeout_s())
                result = self._client._make(call, is_patient=False)
            except RpcError as error:
                if self._wait_to_retry(error, attempt, give_up_at_s):
                    continue
                self._settle(batch, error)
            except Exception as error:
                # a token hook's own error, say: it costs this batch, never the thread
                _logger.exception("writing %d events failed", len(batch))
                self._settle(batch, error)
            else:
                with self._changed:
                    failures = self._state.settle(batch, result)
                    self._changed.notify_all()
                self._report(failures)
            return

    def _call_timeout_s(self) -> float | None:
        if self._close_by_s is None:
            return None
        return max(0.1, self._close_by_s - time.monotonic())

    def _wait_to_retry(self, error: RpcError, attempt: int, give_up_at_s: float) -> bool:
        """Wait as long as the next try must wait, and say whether there is to be one."""
        waited_from_s = time.monotonic()
        with self._changed:
            while True:
                now_s = time.monotonic()
                until_s = give_up_at_s if self._close_by_s is None else min(give_up_at_s, self._close_by_s)
                delay_s = self._state.retry_delay_s(error, attempt, until_s - waited_from_s)
                if delay_s is None:
                    return False
                if waited_from_s + delay_s <= now_s:
                    return True
                self._changed.wait(waited_from_s + delay_s - now_s)  # woken early by close(), which moves until_s

    def _settle(self, batch: list[Event], error: Exception) -> None:
        with self._changed:
            failures = self._state.give_up(batch, error)
            self._changed.notify_all()
        self._tell(failures)

    def _tell(self, failures: Sequence[WriteFailure]) -> None:
        if failures:
            _logger.warning(self._state.failure_warning(failures))
        self._report(failures)

    def _report(self, failures: Sequence[WriteFailure]) -> None:
        if self._on_failure is None:
            return
        for failure in failures:
            self._telling.now = True
            try:
                self._on_failure(failure)
            except Exception:
                _logger.exception("on_failure raised for event %s", failure.event.event_id)
            finally:
                self._telling.now = False
