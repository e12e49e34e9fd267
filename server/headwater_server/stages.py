"""How long each stage of a call took: as metrics always, and in the answer's trailers where the caller asks for it.

Of a call that does several things at once (`BatchRecommend`) the times of each stage add up, and may exceed the call's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType

ADMISSION = "admission"
"""Room, tenant, and the request's fields."""
HISTORY = "history"
EMBEDDING = "embedding"
RETRIEVAL = "retrieval"
"""All sources that a strategy asks."""
FILTERS = "filters"
STRATEGY = "strategy"
"""What is done with what the sources proposed."""
SERIALISATION = "serialisation"
"""The answer's messages and their bytes."""

Stages = dict[str, float]
"""Seconds by stage, in the order in which they came."""

_stages: ContextVar[Stages | None] = ContextVar("stages", default=None)


def begin() -> Stages:
    """Note what this call, and whatever it starts, takes from here on."""
    stages: Stages = {}
    _stages.set(stages)
    return stages


class timed:  # noqa: N801 - reads as what it does: `with timed(HISTORY):`
    """Adds what the block takes to a stage of the call that it belongs to, if it belongs to one."""

    __slots__ = ("_began", "_stage")

    def __init__(self, stage: str) -> None:
        """Args: stage: which one."""
        self._stage = stage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        stages = _stages.get()
        if stages is not None:
            stages[self._stage] = stages.get(self._stage, 0.0) + time.perf_counter() - self._began


def server_timing(stages: Mapping[str, float]) -> str:
    """The stages as the Server-Timing header has them (W3C): milliseconds."""
    return ", ".join(f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in stages.items())
