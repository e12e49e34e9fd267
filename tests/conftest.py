"""What tests of every kind share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

# Before torch is imported: models of a few rows gain nothing from a second thread, and where something else runs on the
# machine, threads that wait for each other make minutes of seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(scope="session")
def until() -> Until:
    """Lets the event loop's other tasks work until a condition holds; fails when it does not come to hold."""

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - whatever is waited for sets no event of its own
                await asyncio.sleep(0.001)

    return until
