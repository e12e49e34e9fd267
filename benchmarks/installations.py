"""The examples' Installation for benchmarks, which run as scripts beside it: neither folder is a package."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

from headwater_client import Client, HealthStatus

QUIET = {"HEADWATER_PORT": "0", "HEADWATER_METRICS_PORT": "", "HEADWATER_UPDATER_METRICS_PORT": ""}
"""A free port, and none for metrics."""
_PATIENCE_S = 120
PROCESSES = Path(__file__).resolve().parents[1] / "examples" / "processes.py"


def installation_class() -> Any:
    """The class that starts real servers and updaters on a folder."""
    spec = importlib.util.spec_from_file_location("examples_processes", PROCESSES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Installation


def wait_until_serving(client: Client) -> None:
    """Wait until a server has a generation in service.

    Raises:
        RuntimeError: it took too long.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while client.health() is not HealthStatus.SERVING:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"no generation in service after {_PATIENCE_S} s")
        time.sleep(0.1)
