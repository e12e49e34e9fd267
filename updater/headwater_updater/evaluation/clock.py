"""A wall-clock budget and where it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Counts from when it is made.

    Attributes:
        budget_s: what the whole command may take.
        stages_s: what its stages took, by name.
    """

    def __init__(self, budget_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        """Args: budget_s: from now on; now_s: a clock that only goes forward."""
        self.budget_s = budget_s
        self.stages_s: dict[str, float] = {}
        self._now_s = now_s
        self._started_s = now_s()

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return self._now_s() - self._started_s

    @property
    def left_s(self) -> float:
        """Until the budget is used up; never below 0."""
        return max(self.budget_s - self.elapsed_s, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note what the block takes."""
        started_s = self._now_s()
        try:
            yield
        finally:
            self.stages_s[name] = self.stages_s.get(name, 0.0) + self._now_s() - started_s
