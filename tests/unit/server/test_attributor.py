"""The attributor reads what is ready, and does not look again and again at what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from headwater_core.database import Database
from headwater_core.events import Event
from headwater_core.feedback_log import FeedbackLog
from headwater_core.outcomes import OFFSET, OutcomeLog
from headwater_server.attributor import Attributor
from headwater_server.experiment_book import ExperimentBook
from headwater_server.metrics import ServerMetrics

SECOND_US = 1_000_000
NOW_US = 1_700_000_000 * SECOND_US


async def test_a_step_ends_where_events_must_wait(tmp_path: Path) -> None:
    """Full looks are followed by another; one that finds fewer events is the last, whatever came meanwhile."""
    database = Database(f"sqlite:///{tmp_path / 'log.db'}")
    database.migrate()
    log = FeedbackLog(database)
    looks = 0

    def write(count: int, received_time_us: int) -> None:
        first = log.head()
        events = [Event(f"e{first + n}", "click", user_id="ada", item_id="i") for n in range(count)]
        log.append(events, received_time_us)

    async def run(call: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return call(*arguments)

    write(1_500, NOW_US - 10 * SECOND_US)
    write(100, NOW_US)  # just now: their slates may still be on their way
    metrics = ServerMetrics()
    attributor = Attributor(OutcomeLog(database), ExperimentBook(), run, metrics, lambda: NOW_US, 3_600 * SECOND_US)
    await attributor.step()
    assert looks == 2
    assert database.counters("default")[OFFSET] == 1_500
    await attributor.step()
    assert metrics.registry.get_sample_value("headwater_attribution_lag_events") == 100
