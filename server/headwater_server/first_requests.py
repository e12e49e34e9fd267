"""The requests of calls that need no token: waited for a short time, and never many at once.

gRPC receives a unary call's request before it calls anybody, for as long as that takes, up to the largest message:
whoever sends half of it and stops would hold a place of the port, and the memory, for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from headwater_core.errors import InvalidFieldError
from headwater_server.errors import OverloadedError

MOST = 32
"""Requests waited for at once; one that is whole is there at once."""
LIMIT_S = 5.0


class FirstRequests:
    """Waits for them."""

    def __init__(self, most: int = MOST, limit_s: float = LIMIT_S) -> None:
        """Wait for none yet. Args: most: at once; limit_s: for each."""
        self._most = most
        self._limit_s = limit_s
        self._waits: dict[asyncio.Timeout, None] = {}
        """In the order in which they began."""

    async def first(self, requests: AsyncIterator[Any]) -> Any:
        """The request of a call; when too many are waited for, the one that is awaited longest is given up.

        Raises:
            OverloadedError: it has not come, in time or while there was room.
            InvalidFieldError: the call ended without one.
        """
        wait = asyncio.timeout(self._limit_s)
        try:
            async with wait:
                self._waits[wait] = None
                if len(self._waits) > self._most:
                    longest = next(iter(self._waits))
                    del self._waits[longest]
                    longest.reschedule(0.0)
                return await anext(requests)
        except TimeoutError as error:
            raise OverloadedError("the request did not come", round(1000 * self._limit_s)) from error
        except StopAsyncIteration as error:
            raise InvalidFieldError("request", "the call has none") from error
        finally:
            self._waits.pop(wait, None)
