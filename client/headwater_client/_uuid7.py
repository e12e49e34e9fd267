"""UUIDs of version 7 (RFC 9562): sorted by the time they were made. Python's own come with 3.14."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from uuid import UUID

_COUNTER_BITS = 42


def make_uuid7(time_ms: int, counter: int, tail: int) -> UUID:
    """The UUIDv7 of its parts.

    Args:
        time_ms: milliseconds since 1970 UTC, 48 bits.
        counter: orders the ids of one millisecond, 42 bits.
        tail: random, 32 bits.
    """
    high, low = counter >> 30, counter & ((1 << 30) - 1)  # the counter lies around the variant bits: 12 + 30
    value = (time_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low << 32 | tail & 0xFFFFFFFF
    return UUID(int=value)


class Uuid7Source:
    """Makes UUIDv7s, each greater than the one before; safe in threads."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        """Args: clock_ms: milliseconds since 1970 UTC; it may stand still or be set back."""
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._last_ms = 0
        self._counter = 0

    def __call__(self) -> UUID:
        random = int.from_bytes(os.urandom(10))
        with self._lock:
            now_ms = self._clock_ms()
            if now_ms > self._last_ms:
                # the counter's top bit starts at 0, so that a millisecond has room for at least 2**41 ids
                self._last_ms, self._counter = now_ms, random >> 32 & ((1 << (_COUNTER_BITS - 1)) - 1)
            else:
                self._counter += 1
                if self._counter >> _COUNTER_BITS:
                    self._last_ms, self._counter = self._last_ms + 1, 0
            return make_uuid7(self._last_ms, self._counter, random)


_process_source = Uuid7Source(lambda: time.time_ns() // 1_000_000)


def uuid7() -> UUID:
    """A new UUIDv7, greater than every one this process made before; safe in threads."""
    return _process_source()
