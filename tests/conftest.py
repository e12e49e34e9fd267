"""What tests of every kind share."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings as hypothesis_settings

# Before torch is imported: models of a few rows gain nothing from a second thread, and where something else runs on the
# machine, threads that wait for each other make minutes of seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_ROOT = Path(__file__).resolve().parents[1]
# The benchmarks' modules are scripts beside each other, not packages.
for _folder in ("", "quality", "strategy"):
    sys.path.insert(0, str(_ROOT / "benchmarks" / _folder))
hypothesis_settings.register_profile("headwater", deadline=None)  # no test depends on how fast the machine is
hypothesis_settings.load_profile("headwater")
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(scope="session")
def until() -> Until:
    """Lets the event loop's other tasks work until a condition holds; fails when it does not come to hold."""

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - whatever is waited for sets no event of its own
                await asyncio.sleep(0.001)

    return until


@pytest.fixture(scope="session")
def installation_class() -> Any:
    """examples/processes.py's Installation; examples/ is no package."""
    from installations import installation_class

    return installation_class()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the session."""
    from local_postgresql import local_postgresql

    # Not under pytest's own folders: PostgreSQL drops root's rights and must still reach its files, and the path of its
    # socket must stay short.
    with tempfile.TemporaryDirectory(prefix="headwater-") as folder, local_postgresql(Path(folder)) as server:
        server.execute("ALTER SYSTEM SET fsync = off")  # nothing here outlives the server
        server.execute("SELECT pg_reload_conf()")
        yield server.uri


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """The URL of a PostgreSQL database of the test's own, empty."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgresql.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
