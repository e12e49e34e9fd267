"""Joins events to what was shown, again and again, and lets experiments learn from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from headwater_core.outcomes import Attributed, OutcomeLog
from headwater_server.experiment_book import ExperimentBook
from headwater_server.metrics import ServerMetrics, place_label

_GRACE_US = 1_000_000
"""How long events wait: impressions are written up to a fraction of a second behind their answers."""
_EVENTS_AT_ONCE = 1000


class Attributor:
    """One server's share of the attribution."""

    def __init__(
        self,
        outcomes: OutcomeLog,
        book: ExperimentBook,
        run_in_database: Callable[..., Awaitable[Any]],
        metrics: ServerMetrics,
        now_us: Callable[[], int],
        window_us: int,
    ) -> None:
        """Args: as `OutcomeLog.attribute`; book: the running experiments; metrics: where outcomes are counted."""
        self._outcomes = outcomes
        self._book = book
        self._run_in_database = run_in_database
        self._metrics = metrics
        self._now_us = now_us
        self._window_us = window_us

    async def step(self) -> None:
        """Join everything that is ready.

        Raises:
            DatabaseUnavailableError: the database cannot be reached; the next step goes on where this one was.
        """
        found: Attributed | None
        while (found := await self._run_in_database(self._attribute)) is not None:
            self._count(found)
            if found.n_events < _EVENTS_AT_ONCE:  # whatever comes after them is not ready
                return

    def _attribute(self) -> Attributed | None:
        self._metrics.attribution_lag.set(self._outcomes.lag())
        return self._outcomes.attribute(
            self._book.experiments,
            self._now_us(),
            window_us=self._window_us,
            grace_us=_GRACE_US,
            limit=_EVENTS_AT_ONCE,
        )

    def _count(self, found: Attributed) -> None:
        for reason, count in found.unmatched.items():
            self._metrics.unmatched.labels(reason).inc(count)
        for each in found.outcomes:
            strategy = each.strategy.partition("/")[0]
            for source in each.sources or ("",):
                self._metrics.outcomes.labels(each.event_type, strategy, source, place_label(each.place)).inc()
            if each.reward:
                self._metrics.rewards.labels(each.experiment, each.arm).inc(each.reward)
