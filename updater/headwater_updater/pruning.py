"""What the database may forget: old ids, impressions and, where it is wanted, events; what nothing names any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import structlog

from headwater_core.feature_pruning import FeaturePruning
from headwater_core.log_pruning import LogPruning
from headwater_updater.resources import Resources
from headwater_updater.settings import UpdaterSettings

CHUNK_ROWS = 5_000
"""Rows of a table that one transaction deletes, so that events never wait for long."""
_INTERVAL_US = 3_600 * 1_000_000
_DAY_US = 86_400 * 1_000_000

_log = structlog.get_logger(__name__)


class _Task(NamedTuple):
    rows: str
    retention_us: int
    prune: Callable[[int, int], int]


class Pruner:
    """Forgets what is past its time, hourly and in chunks; daily what no item needs. For the updater that leads."""

    def __init__(self, resources: Resources, settings: UpdaterSettings) -> None:
        """Forget from these resources what the settings do not want to be kept."""
        self._tasks = [
            _Task("event_ids", settings.event_id_retention_days * _DAY_US, resources.log.prune_event_ids),
            _Task("impressions", settings.impression_retention_days * _DAY_US, resources.impressions.prune),
            _Task("outcomes", settings.impression_retention_days * _DAY_US, resources.outcomes.prune),
            _Task("label_history", 0, lambda _, limit: resources.registry.prune_history(limit)),
        ]
        if settings.event_retention_days is not None:
            pruning = LogPruning(resources.database, settings.tenant)
            retention_us = settings.event_retention_days * _DAY_US
            self._tasks.append(
                _Task(
                    "events",
                    retention_us,
                    lambda before_us, limit: pruning.prune(before_us, limit, before_us + retention_us),
                )
            )
        self._due_us = dict.fromkeys((task.rows for task in self._tasks), 0)
        self._features = FeaturePruning(resources.database, settings.tenant)
        self._features_due_us = 0

    def step(self, now_us: int) -> None:
        """Delete a chunk of each table that is due; one that had more than a chunk is due again at once.

        Raises:
            DatabaseUnavailableError: when the database cannot be reached.
        """
        for task in self._tasks:
            if now_us < self._due_us[task.rows]:
                continue
            gone = task.prune(now_us - task.retention_us, CHUNK_ROWS)
            if gone < CHUNK_ROWS:
                self._due_us[task.rows] = now_us + _INTERVAL_US
            self._tell(task.rows, gone)
        if now_us >= self._features_due_us:
            features = self._features.step(CHUNK_ROWS)
            if features.is_last:
                self._features_due_us = now_us + _DAY_US
            self._tell("text_features", features.gone)

    def _tell(self, rows: str, gone: int) -> None:
        if gone:
            _log.info("pruned", rows=rows, count=gone)
