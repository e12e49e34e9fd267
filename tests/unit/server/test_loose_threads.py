"""Threads that nobody waits for in vain."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError

import pytest
import structlog

from headwater_server import loose_threads
from headwater_server.loose_threads import LooseThreads


def test_calls_run_one_after_the_other() -> None:
    """Results and errors reach those who asked; after the end nobody may ask."""
    thread = LooseThreads("loose")
    ran: list[int] = []
    futures = [thread.submit(ran.append, number) for number in range(5)]
    failing = thread.submit(int, "no number")
    assert [future.result(20) for future in futures] == [None] * 5
    with pytest.raises(ValueError, match="no number"):
        failing.result(20)
    thread.shutdown()
    assert ran == list(range(5))
    with pytest.raises(RuntimeError):
        thread.submit(ran.append, 5)


def test_as_many_calls_run_at_once_as_there_are_threads() -> None:
    """And all threads end when they are told to."""
    threads, together = LooseThreads("loose", 3), threading.Barrier(3)
    futures = [threads.submit(together.wait, 20) for _ in range(3)]
    assert {future.result(20) for future in futures} == {0, 1, 2}
    with structlog.testing.capture_logs() as logs:
        threads.shutdown()
    assert logs == []


def test_a_call_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """shutdown returns without it, and what waited behind it is cancelled."""
    monkeypatch.setattr(loose_threads, "_END_S", 0.01)
    thread, gate, begun = LooseThreads("loose"), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        gate.wait(60)

    hanging = thread.submit(hang)
    waiting = thread.submit(int)
    assert begun.wait(20)
    thread.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(20)
    assert not hanging.done()
    gate.set()
    hanging.result(20)


def test_nothing_of_a_call_lives_on_in_the_thread() -> None:
    """What a call gave is gone with whoever asked for it, though no other call follows."""

    class Result:
        """What a call gives; it can be watched."""

    thread = LooseThreads("loose")
    gone = threading.Event()

    def give() -> Result:
        result = Result()
        weakref.finalize(result, gone.set)
        return result

    thread.submit(give).result(20)
    assert gone.wait(20)
    thread.shutdown()


def test_a_process_ends_while_a_call_hangs() -> None:
    """A pool's thread would hold it for ever."""
    program = """
import threading
from headwater_server.loose_threads import LooseThreads
begun = threading.Event()
LooseThreads("loose").submit(lambda: (begun.set(), threading.Event().wait()))
begun.wait()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
