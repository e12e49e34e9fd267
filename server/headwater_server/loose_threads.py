"""Threads for work that may never end: a file system or a database that hangs must not hold up the process's end."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import structlog

_END_S = 5.0
log = structlog.get_logger(__name__)


class LooseThreads(Executor):
    """Begins calls one after the other; a process ends without them, while it waits for the threads of a pool."""

    def __init__(self, name: str, count: int = 1) -> None:
        """Starts the threads. Args: name: theirs, in logs and debuggers; count: how many calls may run at once."""
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._is_over = False
        self._threads = [threading.Thread(target=self._work, name=f"{name}_{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call when those before it have begun and a thread is free.

        Raises:
            RuntimeError: after shutdown.
        """
        if self._is_over:
            raise RuntimeError("the threads have been shut down")
        future: Future[Any] = Future()
        self._waiting.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End after what waits, or without it; a call that does not return is left behind."""
        self._is_over = True
        with contextlib.suppress(queue.Empty):  # the threads take from it, too
            while cancel_futures:
                if (waiting := self._waiting.get_nowait()) is not None:
                    waiting[0].cancel()
        for _ in self._threads:
            self._waiting.put(None)
        if wait:
            deadline_s = time.monotonic() + _END_S
            for thread in self._threads:
                thread.join(max(0.0, deadline_s - time.monotonic()))
            if left_behind := sum(thread.is_alive() for thread in self._threads):
                log.warning("calls_left_behind", threads=self._name, count=left_behind)

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            future, call = waiting
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                future.set_exception(error)
            del future, call, waiting  # nothing of it must live on while the next is waited for
