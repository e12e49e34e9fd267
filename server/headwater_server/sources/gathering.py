"""Asks the sources of one request, within a time budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from headwater_server.item_space import Found
from headwater_server.metrics import ServerMetrics
from headwater_server.sources.candidate_source import Asked, CandidateSource

_INLINE_S = 0.002
"""What usually takes no longer runs on the event loop: handing it over would cost two threads as much."""
_MEMORY = 0.8
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Gathered:
    """What the sources proposed."""

    proposals: dict[str, list[Found]] = field(default_factory=dict)
    """By source, in the order in which they were asked for."""
    left_out: list[str] = field(default_factory=list)
    """Sources that failed or were too slow."""


class Gathering:
    """The sources of one server, and how long each usually takes."""

    def __init__(
        self,
        sources: Iterable[CandidateSource],
        run_in_compute: Callable[..., Awaitable[Any]],
        metrics: ServerMetrics,
    ) -> None:
        """Args: sources: of different names; run_in_compute: runs a blocking computation off the event loop."""
        self._sources: Mapping[str, CandidateSource] = {source.name: source for source in sources}
        self._run_in_compute = run_in_compute
        self._metrics = metrics
        self._usual_s: dict[str, float] = {}
        self._overdue: dict[str, asyncio.Future[Any]] = {}
        """Calls that nobody waits for any more: their source is not asked again before they have ended."""

    async def ask(self, names: Iterable[str], asked: Asked, k: int, budget_s: float) -> Gathered:
        """Ask these sources for k items each; what fails, or is not there when the time is up, is left out."""
        gathered = Gathered()
        until = time.perf_counter() + budget_s
        running: dict[str, asyncio.Future[list[Found]]] = {}
        here: list[CandidateSource] = []
        for name in names:
            source = self._sources[name]
            gathered.proposals[name] = []
            if name in self._overdue and not self._overdue[name].done():
                self._leave_out(gathered, name, "overdue")
            elif source.on_loop or self._usual_s.get(name, _INLINE_S) < _INLINE_S:
                here.append(source)
            else:
                running[name] = asyncio.ensure_future(self._run_in_compute(self._timed, source, asked, k))
        for source in here:
            if time.perf_counter() > until:
                self._leave_out(gathered, source.name, "slow")
                continue
            try:
                gathered.proposals[source.name] = self._timed(source, asked, k)
            except Exception:  # whatever it is, the other sources answer
                log.exception("source_failed", source=source.name)
                self._leave_out(gathered, source.name, "failed")
        if running:
            await asyncio.wait(running.values(), timeout=max(0.0, until - time.perf_counter()))
        for name, call in running.items():
            if not call.done():
                self._overdue[name] = call
                call.add_done_callback(_tell_nobody)
                self._leave_out(gathered, name, "slow")
            elif (error := call.exception()) is not None:
                log.error("source_failed", source=name, exc_info=error)
                self._leave_out(gathered, name, "failed")
            else:
                gathered.proposals[name] = call.result()
        return gathered

    def _timed(self, source: CandidateSource, asked: Asked, k: int) -> list[Found]:
        began = time.perf_counter()
        try:
            return source.propose(asked, k)
        finally:
            took_s = time.perf_counter() - began
            usual_s = self._usual_s.get(source.name, took_s)
            self._usual_s[source.name] = _MEMORY * usual_s + (1 - _MEMORY) * took_s
            self._metrics.source_seconds.labels(source.name).observe(took_s)

    def _leave_out(self, gathered: Gathered, name: str, why: str) -> None:
        gathered.left_out.append(name)
        self._metrics.sources_left_out.labels(name, why).inc()


def _tell_nobody(call: asyncio.Future[Any]) -> None:
    """Take what an overdue call ended with, so that asyncio does not complain that nobody did."""
    if not call.cancelled() and (error := call.exception()) is not None:
        log.error("source_failed", exc_info=error)
