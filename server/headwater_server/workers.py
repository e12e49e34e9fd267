"""Several processes on one port: forked from one that has read what they share, replaced when they die.

SO_REUSEPORT lets each listen for itself; the kernel gives every new connection to one of them. The parent answers
nothing: it starts workers, waits for their ends and passes signals on, so it has neither threads nor a gRPC library at
work, and may fork at any time (a library of threads that is forked while it works hangs).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import structlog

from headwater_core.errors import ConfigurationError
from headwater_core.verified_files import VerifiedFiles
from headwater_server.doorbells import doorbells
from headwater_server.fellows import Fellows
from headwater_server.preloading import Preloaded
from headwater_server.settings import ServerSettings

GIVE_UP = 1
"""A worker that ends so cannot work at all: neither could one in its place."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_LIVED_LONG_S = 30.0
"""A worker that lived so long had begun well: the next is started at once."""
log = structlog.get_logger(__name__)

Work = Callable[[ServerSettings, Fellows, int], int]
"""Runs one worker to its end: its settings, its part, a file that ends with the parent. Gives the exit status."""
_METRICS_PORTS_APART = 10


class Workers:
    """The processes of one server."""

    def __init__(self, settings: ServerSettings, preloaded: Preloaded, work: Work) -> None:
        """Start nothing yet. Args: settings: of the server as a whole; work: what each process does."""
        self._preloaded = preloaded
        self._settings = settings
        self._work = work
        self._bells = doorbells(settings.workers)
        self._sender = uuid.uuid4().hex
        self._number_of: dict[int, int] = {}
        """By process id."""
        self._began_s = [0.0] * settings.workers
        self._pause_s = [_FIRST_PAUSE_S] * settings.workers
        self._is_ending = False
        """Whether a signal came, or a worker found that it cannot work."""
        self._life, self._life_end = os.pipe()

    def run(self) -> int:
        """Start the workers and keep them until SIGTERM or SIGINT; the exit status.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        gc.collect()
        gc.freeze()  # a collection would write into every object that the workers are to share
        with (
            _reserved(self._settings.host, self._settings.port) as held,
            _reserved_admin(self._settings) as held_admin,
            tempfile.TemporaryDirectory(prefix="headwater-workers-") as folder,
        ):
            port = held.getsockname()[1]
            cache_dir = self._settings.store_cache_dir or Path(folder)
            admin_port = held_admin.getsockname()[1] if held_admin is not None else None
            changes = {"port": port, "admin_port": admin_port, "store_cache_dir": cache_dir}
            self._settings = self._settings.model_copy(update=changes)
            self._verified = VerifiedFiles(Path(folder))
            for signal_number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signal_number, self._end)
            for number in range(self._settings.workers):
                self._start(number)
            log.info("workers_started", port=port, workers=self._settings.workers)
            status = 0
            while self._number_of:
                pid, ended = os.wait()
                status = max(status, self._ended(pid, os.waitstatus_to_exitcode(ended)))
        log.info("workers_ended", status=status)
        return status

    def _ended(self, pid: int, status: int) -> int:
        """One worker has ended: put another in its place, or end them all. What that says about the whole."""
        number = self._number_of.pop(pid, None)
        if number is None or self._is_ending:
            return 0
        if status == GIVE_UP and not self._any_works():
            self._end()
            return GIVE_UP
        lived_s = time.monotonic() - self._began_s[number]
        pause_s = self._pause_s[number] = (
            _FIRST_PAUSE_S if lived_s > _LIVED_LONG_S else min(_LONGEST_PAUSE_S, 2 * self._pause_s[number])
        )
        log.error("worker_died", worker=number, pid=pid, status=status, lived_s=round(lived_s, 1), next_in_s=pause_s)
        time.sleep(pause_s)
        self._start(number)
        return 0

    def _any_works(self) -> bool:
        """Whether a worker has lived long: what one in another's place cannot work with (a file that is being written,
        say) has not ended that one, and may be mended."""
        now_s = time.monotonic()
        return any(now_s - self._began_s[number] > _LIVED_LONG_S for number in self._number_of.values())

    def _start(self, number: int) -> None:
        """Start a worker, unless all are to end."""
        self._began_s[number] = time.monotonic()
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # none may arrive in a worker that is half made
        if self._is_ending:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            return
        pid = os.fork()
        if not pid:
            for signal_number in signals:
                signal.signal(signal_number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            self._become(number)
        self._number_of[pid] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _become(self, number: int) -> NoReturn:
        """Be a worker, to the end of this process."""
        os.close(self._life_end)
        port = self._settings.metrics_port
        port = port + _METRICS_PORTS_APART * number if port else port
        settings = self._settings.model_copy(update={"metrics_port": port})
        status = GIVE_UP
        try:
            fellows = Fellows(number, self._bells[number], self._preloaded, self._verified, self._sender)
            status = self._work(settings, fellows, self._life)
        except BaseException:
            log.exception("worker_failed", worker=number)
            status = GIVE_UP + 1
        finally:
            os._exit(status)  # nothing of the parent's must run in a worker's name

    def _end(self, signal_number: int = signal.SIGTERM, *_: object) -> None:
        self._is_ending = True
        for pid in self._number_of:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)


def _reserved_admin(settings: ServerSettings) -> contextlib.AbstractContextManager[socket.socket | None]:
    if settings.admin_port is None:
        return contextlib.nullcontext()
    return _reserved(settings.host, settings.admin_port)


def _reserved(host: str, port: int) -> socket.socket:
    """Holds a port that the workers may share and nobody else takes, until it is closed.

    Raises:
        ConfigurationError: the address is taken or cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:  # without SO_REUSEPORT: whoever else listens is noticed
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
    return held
