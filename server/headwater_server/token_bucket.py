"""So many a second, with a little saved up for bursts."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Fills at a rate up to what comes in a second (at least one), and is emptied one by one."""

    def __init__(self, per_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        """Full at first. Args: per_s: how many a second; now_s: a steady clock, seconds."""
        self._per_s = per_s
        self._holds = max(1.0, per_s)
        self._now_s = now_s
        self._left = self._holds
        self._looked_s = now_s()

    def take(self) -> float:
        """Take one. 0: it was there; else none is taken, and one will be there in so many seconds."""
        now_s = self._now_s()
        left = min(self._holds, self._left + (now_s - self._looked_s) * self._per_s)
        self._looked_s = now_s
        if left < 1.0:
            self._left = left
            return (1.0 - left) / self._per_s
        self._left = left - 1.0
        return 0.0
