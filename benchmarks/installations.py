"""The examples' Installation for benchmarks, which run as scripts beside it: neither folder is a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

PROCESSES = Path(__file__).resolve().parents[1] / "examples" / "processes.py"


def installation_class() -> Any:
    """The class that starts real servers and updaters on a folder."""
    spec = importlib.util.spec_from_file_location("examples_processes", PROCESSES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Installation
