"""Python's collector of cycles, kept from stopping the server.

A full collection looks at every object that there is, while nothing else runs: 0.3 s with the histories of two
thousand users, more with more. Python starts one whenever what is alive has grown by a quarter: just when many users
come. Nearly all that a server drops is freed without it, and young cycles by the quick collections of the young. So
full ones are made by the clock alone, seldom enough to cost next to nothing.
"""

from __future__ import annotations

import asyncio
import gc
import time

_YOUNG, _MIDDLE = 2_000, 10
_NEVER = 1_000_000_000
_REST_S = 600.0
_REST_PER_COST = 10_000
"""After a full collection comes a rest of at least so many times as long as it took."""


def take_over() -> None:
    """Collect by the clock from here on; what is alive now, the imported modules above all, is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)


async def collect_seldom() -> None:
    """Make the full collections, without end."""
    rest_s = _REST_S
    while True:
        await asyncio.sleep(rest_s)
        began_s = time.perf_counter()
        gc.collect()
        rest_s = max(_REST_S, _REST_PER_COST * (time.perf_counter() - began_s))
