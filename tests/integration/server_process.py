"""A server in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from proc import children

from headwater_server.settings import ServerSettings

PATIENCE_S = 120


def until(condition: Callable[[], bool]) -> None:
    """Wait for it.

    Raises:
        AssertionError: it did not come.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.01)


class ServerProcess:
    """A `headwater-server`, and what its log says."""

    def __init__(self, settings: ServerSettings, log: Path, workers: int = 1, **environment: str) -> None:
        """Start it. Args: log: where it writes; environment: further variables."""
        self._log = log
        self._workers = workers
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headwater_server.main", "--workers", str(workers)],
                env={
                    **os.environ,
                    "HEADWATER_DATABASE_URL": settings.database_url,
                    "HEADWATER_STORE_URL": settings.store_url,
                    "HEADWATER_TEXT_ENCODER_PATH": str(settings.text_encoder_path),
                    "HEADWATER_PORT": "0",
                    "HEADWATER_METRICS_PORT": "0",
                    "HEADWATER_DRAIN_DELAY_S": "0",
                    "PYTHONFAULTHANDLER": "1",
                    **environment,
                },
                stdout=output,
                stderr=output,
            )

    def end(self) -> int:
        """Tell it to end, unless it has; its exit status.

        Raises:
            AssertionError: it does not end; with where its threads are.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            for process in (*self.pids(), self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGABRT)
            self.process.wait(PATIENCE_S)
            raise AssertionError(f"it does not end:\n{self.log}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def log(self) -> str:
        """All of it."""
        return self._log.read_text()

    def said(self, what: str) -> list[dict[str, Any]]:
        """The log's lines of an event."""
        lines = [line for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if line["event"] == what]

    @property
    def address(self) -> str:
        """Host and port, once all have started."""
        until(lambda: len(self.said("server_started")) >= self._workers)
        return f"127.0.0.1:{self.said('server_started')[0]['port']}"

    def calls(self) -> list[int]:
        """How many calls each worker has answered."""
        return [_calls(int(started["metrics_port"])) for started in self.said("server_started")]

    def pids(self) -> list[int]:
        """The workers' processes."""
        return children(self.process.pid)


def _calls(metrics_port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    return round(sum(float(line.split()[-1]) for line in lines if line.startswith("headwater_calls_total{")))
