"""PostgreSQL is killed under an updater that leads: it learns on at its return, not when its own lease has run out."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_postgresql import Cluster

from headwater_core.errors import DatabaseUnavailableError
from headwater_updater.metrics import UpdaterMetrics
from tests.faults.conftest import FAULTS, TIMEOUT_S, Report, until
from tests.integration.updater_world import N_ITEMS, make_world, running

pytestmark = [pytest.mark.timeout(TIMEOUT_S)]


def test_a_killed_database_is_learned_from_at_its_return(tmp_path: Path, cluster: Cluster, report: Report) -> None:
    """The lease that nobody could release is valid for an hour; what is written then is published all the same."""
    url = cluster.create()
    world = make_world(tmp_path, database_url=url, publish_interval_s=0.0, updater_lease_ttl_s=3600.0)
    world.items(*range(N_ITEMS))
    world.events(200)
    world.bootstrap()
    metrics, recoveries_s = UpdaterMetrics(), list[float]()

    def failures() -> float:
        kind = {"kind": DatabaseUnavailableError.__name__}
        return metrics.registry.get_sample_value("headwater_updater_failures_total", kind) or 0.0

    def leads() -> bool:
        return metrics.registry.get_sample_value("headwater_updater_leading") == 1.0

    with running(world, metrics):
        for number in range(FAULTS):
            until(leads, "a leader")
            failed = failures()
            (cluster.kill if number % 2 else cluster.stop)()
            until(lambda failed=failed: failures() >= failed + 3, "three looks at a database that is gone")  # type: ignore[misc]
            cluster.start()
            world.events(5)
            recoveries_s.append(until(lambda: world.manifest.watermark == world.written, "a generation of all events"))
    world.resources.close()
    report(outages=FAULTS, recovery_longest_s=round(max(recoveries_s), 2))
