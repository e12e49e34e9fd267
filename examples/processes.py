"""Headwater's processes, started as an operator would start them: commands, environment variables, log files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

COMMANDS = Path(sys.executable).parent


class Installation:
    """One folder with a database, an artifact store and log files, and the processes that work on it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Nothing is started yet. Args: folder: for everything; environment: more HEADWATER_… variables."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "HEADWATER_DATABASE_URL": f"sqlite:///{folder / 'headwater.db'}",
            "HEADWATER_STORE_URL": str(folder / "artifacts"),
            **environment,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        """Those running, by name: server, updater."""
        self.addresses: dict[str, str] = {}
        """Of the servers, by name, once started; one that is started again keeps its own."""

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Of the server; empty before its first start."""
        return self.addresses.get("server", "")

    def start_server(self, name: str = "server") -> None:
        """Start a server and wait until it listens; it may have no generation yet. Args: name: its own, if several."""
        address = self.addresses.get(name)
        self._start(name, ["headwater-server", *(["--port", address.rpartition(":")[2]] if address else [])])
        self.addresses[name] = f"127.0.0.1:{self._wait_for(name, 'server_started')['port']}"

    def start_updater(self, name: str = "updater") -> None:
        """Start an updater and wait until it goes on from the published generation. Args: name: its own, if several."""
        self._start(name, ["headwater-updater", "run"])
        self._wait_for(name, "resumed")

    def run(self, *command: str) -> None:
        """Run a command to its end, its output shown.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        environment = {**self._environment, "HEADWATER_ADDRESS": self.address}
        subprocess.run([COMMANDS / command[0], *command[1:]], env=environment, check=True)

    def wait(self) -> None:
        """Wait until a process ends or Ctrl-C is pressed."""
        while all(process.poll() is None for process in self.processes.values()):
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop every process gracefully, the last started first."""
        while self.processes:
            _, process = self.processes.popitem()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)

    def stop_updater(self, name: str = "updater") -> None:
        """Stop an updater gracefully: it publishes what it has learned."""
        self.stop_one(name)

    def stop_one(self, name: str) -> None:
        """Stop a process gracefully."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(timeout=60)

    def log_of(self, name: str) -> Path:
        """A process's log file."""
        return self.folder / f"{name}.log"

    def _start(self, name: str, command: Sequence[str]) -> None:
        with self.log_of(name).open("wb") as output:
            self.processes[name] = subprocess.Popen(
                [COMMANDS / command[0], *command[1:]],
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches this script alone, which then stops them in order
            )

    def _wait_for(self, name: str, event: str, timeout_s: float = 120.0) -> dict[str, object]:
        """The log line that tells of an event."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for line in self.log_of(name).read_text().splitlines():
                if f'"{event}"' in line:
                    return dict(json.loads(line))
            if self.processes[name].poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"{name} did not start; see {self.log_of(name)}")
