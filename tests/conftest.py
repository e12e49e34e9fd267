"""What tests of every kind share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(scope="session")
def until() -> Until:
    """Lets the event loop's other tasks work until a condition holds; fails when it does not come to hold."""

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - whatever is waited for sets no event of its own
                await asyncio.sleep(0.001)

    return until
