"""Who is let in while the server is busy: so many calls at once, and none whose time would be up before its answer.

A call comes here when its request has been received; calls whose requests are on their way are bounded by `ports`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from headwater_server.errors import OverloadedError

MAX_STREAMS = 1000
"""Streams open at once: they mostly wait, so they take no places from calls, but each costs memory."""
_MEMORY = 0.9
"""What a method's usual time keeps at each call."""
_HALF_LIFE_S = 1.0
"""After so long without an answer a method's usual time counts half: whoever was slow once is tried again."""
_LONGEST_HINT_MS = 10_000


class Admission:
    """Counts calls in flight, over all methods, and knows how long each method has taken of late.

    What a method has taken of late includes the wait behind others, so it is the best guess at what the next call of it
    will take (Little's law: as long as the server answers as many as come, what is in flight and how long it takes rise
    and fall together).
    """

    def __init__(self, max_in_flight: int, retry_after_ms: int, now_s: Callable[[], float] = time.perf_counter) -> None:
        """Let everybody in at first.

        Args:
            max_in_flight: calls answered at once.
            retry_after_ms: the least hint given to refused ones; more where calls take longer than that.
            now_s: a steady clock, seconds.
        """
        self._max_in_flight = max_in_flight
        self.retry_after_ms = retry_after_ms
        self._now_s = now_s
        self._usual: dict[str, tuple[float, float]] = {}
        """By method: seconds, and when that was noted."""
        self.in_flight = 0
        self.streams = 0
        """Open now."""

    def enter(self, method: str, left_s: float | None) -> None:
        """Take a place, to be given back with `leave`.

        Args:
            method: of the call.
            left_s: until the caller gives up; None: it waits for ever.

        Raises:
            OverloadedError: there is no place, or the answer would come too late.
        """
        if self.in_flight:  # an idle server tries, whatever it remembers
            if self.in_flight >= self._max_in_flight:
                raise OverloadedError(f"{self._max_in_flight} calls are being answered already", self._hint_ms(method))
            if left_s is not None and left_s < (usual_s := self._usual_s(method)):
                reason = f"the deadline is in {1000 * left_s:.0f} ms and answers take {1000 * usual_s:.0f} ms now"
                raise OverloadedError(reason, self._hint_ms(method))
        self.in_flight += 1

    def leave(self, method: str, took_s: float | None) -> None:
        """Give a place back. Args: took_s: how long an answer took; None: there was none to learn from."""
        self.in_flight -= 1
        if took_s is not None:
            usual_s = self._usual[method][0] if method in self._usual else took_s
            self._usual[method] = _MEMORY * usual_s + (1 - _MEMORY) * took_s, self._now_s()

    def open_stream(self) -> None:
        """Take a place among the streams, to be given back with `close_stream`.

        Raises:
            OverloadedError: there is none.
        """
        if self.streams >= MAX_STREAMS:
            raise OverloadedError(f"{MAX_STREAMS} streams are open already", self.retry_after_ms)
        self.streams += 1

    def close_stream(self) -> None:
        """Give a place among the streams back."""
        self.streams -= 1

    def _usual_s(self, method: str) -> float:
        usual_s, noted_s = self._usual.get(method, (0.0, 0.0))
        return usual_s * math.pow(0.5, (self._now_s() - noted_s) / _HALF_LIFE_S)

    def _hint_ms(self, method: str) -> int:
        return max(self.retry_after_ms, min(_LONGEST_HINT_MS, round(1000 * self._usual_s(method))))
