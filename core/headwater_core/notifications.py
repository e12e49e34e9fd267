"""Tells other processes at once that something was written, by PostgreSQL's LISTEN and NOTIFY.

Nothing rests on it: who hears nothing looks by itself now and then. A connection of its own, outside the pool, listens
and speaks, for a NOTIFY inside the transaction that wrote would make all commits of the cluster wait for each other
(ADR 24). Each process also speaks to itself: who hears that knows that notifications come through.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Any

import psycopg
import structlog

from headwater_core.database import Database

APART_S = 0.02
"""Neither does a process speak more often than this, nor is it woken more often: what comes meanwhile is one."""
_CHANNEL = "headwater"
_ECHO_INTERVAL_S = 5.0
_DEAF_AFTER_S = 15.0
"""Who has not even heard itself for so long hears nobody."""
_END_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_SETTINGS = (
    # A notification need not outlive a crash: its commit does not wait for the disk.
    "SET synchronous_commit = off; SET statement_timeout = '5s'"
)
_log = structlog.get_logger(__name__)


class Topic(StrEnum):
    """What was written."""

    WRITES = "writes"
    """Something that is numbered: events, items, documents, erasures."""
    LABELS = "labels"
    """A label moved."""


class Notifications:
    """One process's part: says what it wrote and hears what others did. On SQLite it is silent and deaf."""

    def __init__(self, database: Database, tenant: str = "default", sender: str | None = None) -> None:
        """Neither speak nor listen yet.

        Args:
            database: where all meet.
            tenant: of whom to hear.
            sender: who speaks; processes of one sender tell each other of writes in another way, and do not hear each
                other's here. None: this process alone.
        """
        self._database = database
        self._tenant = tenant
        self._sender = sender or uuid.uuid4().hex
        self._echo_channel = f"{_CHANNEL}_{uuid.uuid4().hex}"
        self._to_say, self._heard = Gathered(), Gathered()
        self._tell: Callable[[Collection[Topic]], object] = lambda _: None
        self._proved_s = float("-inf")
        self._closing = threading.Event()
        self._bell: tuple[socket.socket, socket.socket] | None = None
        """Where the thread hears that there is something to say, and where it is told."""

    @property
    def is_listening(self) -> bool:
        """Whether notifications were seen to come through of late."""
        return time.monotonic() - self._proved_s < _DEAF_AFTER_S

    def start(self, heard: Callable[[Collection[Topic]], object]) -> None:
        """Listen and speak from now on.

        Args:
            heard: told what others wrote, on a thread of this object's, and everything whenever something may have been
                missed; must not block.
        """
        if not self._database.is_sqlite:
            self._tell = heard
            self._bell = socket.socketpair()
            for end in self._bell:
                end.setblocking(False)
            self._thread = threading.Thread(target=self._run, args=self._bell[:1], name="notifications", daemon=True)
            self._thread.start()

    def announce(self, topic: Topic) -> None:
        """Say that something was written and committed; never waits. What cannot be said is said later."""
        bell = self._bell  # another thread may close it meanwhile
        if bell is not None:
            self._to_say.add(topic)
            self._ring(bell[1])

    def close(self) -> None:
        """Fall silent; what was announced last may be lost."""
        self._closing.set()
        if self._bell is not None:
            bell, self._bell = self._bell, None
            self._ring(bell[1])
            self._thread.join(_END_S)
            if self._thread.is_alive():  # the database hangs; a process ends without the thread
                _log.warning("notifications_left_behind")
            else:
                for end in bell:
                    end.close()
        self._proved_s = float("-inf")

    def _ring(self, ringer: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):  # it has rings enough to hear
            ringer.send(b"\0")

    def _run(self, bell: socket.socket) -> None:
        pause_s, is_lost = _FIRST_PAUSE_S, False
        while not self._closing.is_set():
            try:
                with self._database.connect_apart() as connection:
                    self._serve(connection, bell)
            except Exception as error:  # noqa: BLE001 - a thread that ended would leave the process deaf
                if self._proved_s > float("-inf") or not is_lost:
                    _log.warning("notifications_lost", reason=str(error))
                if self._proved_s > float("-inf"):
                    pause_s = _FIRST_PAUSE_S
                is_lost, self._proved_s = True, float("-inf")
                self._wake(list(Topic))  # from now on it looks for itself again
            self._closing.wait(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    def _serve(self, connection: psycopg.Connection[Any], bell: socket.socket) -> None:
        """Listen and speak until told to close.

        Raises:
            psycopg.Error: the connection is lost, or nothing comes through it.
        """
        connection.execute(_SETTINGS)
        connection.execute(f"LISTEN {_CHANNEL}; LISTEN {self._echo_channel}")
        connected_s = time.monotonic()
        echo_due_s = connected_s
        self._heard.add(*Topic)  # what was said before
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(bell, selectors.EVENT_READ)
            while not self._closing.is_set():
                now_s = time.monotonic()
                deaf_s = max(connected_s, self._proved_s) + _DEAF_AFTER_S
                if now_s > deaf_s:
                    raise psycopg.OperationalError("notifications do not come through")
                if now_s >= echo_due_s:
                    self._say(connection, self._echo_channel, "")
                    echo_due_s = now_s + _ECHO_INTERVAL_S
                self._say_all(connection, self._to_say.take(now_s))
                for notification in connection.notifies(timeout=0):
                    self._take(notification)
                if heard := self._heard.take(now_s):
                    self._wake(heard)
                due_s = min(deaf_s, echo_due_s, self._to_say.due_s, self._heard.due_s)
                selector.select(max(0.0, due_s - time.monotonic()))
                with contextlib.suppress(BlockingIOError):
                    bell.recv(4096)

    def _say_all(self, connection: psycopg.Connection[Any], topics: Collection[Topic]) -> None:
        try:
            for topic in topics:
                self._say(connection, _CHANNEL, f"{topic} {self._tenant} {self._sender}")
        except psycopg.Error:
            self._to_say.add(*topics)  # on the next connection
            raise

    def _say(self, connection: psycopg.Connection[Any], channel: str, payload: str) -> None:
        connection.execute("SELECT pg_notify(%s, %s)", (channel, payload))

    def _take(self, notification: psycopg.Notify) -> None:
        if notification.channel == self._echo_channel:
            if self._proved_s == float("-inf"):
                _log.info("listening")
            self._proved_s = time.monotonic()
            return
        topic, _, rest = notification.payload.partition(" ")
        tenant, _, sender = rest.partition(" ")
        if tenant == self._tenant and (sender != self._sender or topic != Topic.WRITES):
            with contextlib.suppress(ValueError):  # a newer release's
                self._heard.add(Topic(topic))

    def _wake(self, topics: Collection[Topic]) -> None:
        if not self._closing.is_set():
            self._tell(topics)


class Gathered:
    """Topics on their way: given on at once after a quiet time, else together with those that follow."""

    def __init__(self) -> None:
        self._topics: set[Topic] = set()
        self._next_s = float("-inf")
        self._lock = threading.Lock()

    def add(self, *topics: Topic) -> None:
        """Have these given on, too; may be called on any thread."""
        with self._lock:
            self._topics.update(topics)

    @property
    def due_s(self) -> float:
        """When there will be something to give on, on the clock of `take`; infinity: nothing waits."""
        with self._lock:
            return self._next_s if self._topics else float("inf")

    def take(self, now_s: float) -> frozenset[Topic]:
        """What waits, if it is time; empty otherwise."""
        with self._lock:
            if not self._topics or now_s < self._next_s:
                return frozenset()
            taken = frozenset(self._topics)
            self._topics.clear()
            self._next_s = now_s + APART_S
            return taken
