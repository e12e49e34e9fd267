"""Acknowledged means kept: whatever is killed under a stream of writes, every event is in the log, and once.

`HEADWATER_TEST_FAULTS=200 pytest tests/faults/test_acknowledged.py -s` kills that often.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest
from local_postgresql import Cluster
from proc import children, has_ended

from tests.faults.conftest import FAULTS, TIMEOUT_S, Install, Report, until
from tests.faults.writers import Ledger, writers

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(TIMEOUT_S)]


def wait_for_a_random_moment(chance: random.Random, ledger: Ledger, after_s: float) -> None:
    """Somewhere in a stream that runs: between, in and behind commits. Args: after_s: of the fault before."""
    ledger.wait_for_acknowledgement(after_s)
    time.sleep(chance.uniform(0.0, 1.0))


def tell(report: Report, ledger: Ledger, database_url: str, recoveries_s: Sequence[float], **figures: Any) -> None:
    """Audit, and write the figures down."""
    longest, middle = max(recoveries_s), sorted(recoveries_s)[len(recoveries_s) // 2]
    found = ledger.audit(database_url)
    report(**figures, **found, recovery_median_s=round(middle, 2), recovery_longest_s=round(longest, 2))


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_killed_server_keeps_what_it_acknowledged(database_url: str, install: Install, report: Report) -> None:
    """kill -9 at random moments; it is started again, and the clients write what they were not told of again."""
    installation = install(database_url)
    installation.start_server()
    chance, recoveries_s, killed_s = random.Random(9), list[float](), 0.0
    with writers(installation.address) as ledger:
        for _ in range(FAULTS):
            wait_for_a_random_moment(chance, ledger, killed_s)
            installation.kill("server")
            killed_s = time.monotonic()
            installation.start_server()
            recoveries_s.append(ledger.wait_for_acknowledgement(time.monotonic()))
    tell(report, ledger, database_url, recoveries_s, kills=FAULTS)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_killed_workers_keep_what_they_acknowledged(database_url: str, install: Install, report: Report) -> None:
    """Workers are killed at random and replaced; when their parent is killed they end, and another server begins."""
    installation = install(database_url, HEADWATER_WORKERS="2", HEADWATER_DRAIN_S="1")
    installation.start_server()
    chance, recoveries_s, killed_s = random.Random(10), list[float](), 0.0
    with writers(installation.address) as ledger:
        for _ in range(FAULTS):
            wait_for_a_random_moment(chance, ledger, killed_s)
            until(lambda: children(installation.processes["server"].pid), "a worker to kill")
            os.kill(chance.choice(children(installation.processes["server"].pid)), signal.SIGKILL)
            killed_s = time.monotonic()
            recoveries_s.append(ledger.wait_for_acknowledgement(killed_s))
        wait_for_a_random_moment(chance, ledger, killed_s)
        left = children(installation.processes["server"].pid)
        installation.kill("server")
        until(lambda: all(has_ended(pid) for pid in left), "the workers' end")
        installation.start_server()
        recoveries_s.append(ledger.wait_for_acknowledgement(time.monotonic()))
    tell(report, ledger, database_url, recoveries_s, kills=FAULTS, parents_killed=1)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_killed_database_keeps_what_was_acknowledged(
    how: str, cluster: Cluster, install: Install, report: Report
) -> None:
    """PostgreSQL is killed, or shut down at once, and comes back: the server goes on without a restart."""
    database_url = cluster.create()
    installation = install(database_url)
    installation.start_server()
    server = installation.processes["server"]
    chance, recoveries_s, broken_s = random.Random(11), list[float](), 0.0
    with writers(installation.address) as ledger:
        for _ in range(FAULTS):
            wait_for_a_random_moment(chance, ledger, broken_s)
            getattr(cluster, how)()
            time.sleep(chance.uniform(0.0, 1.0))
            cluster.start()
            broken_s = time.monotonic()
            recoveries_s.append(ledger.wait_for_acknowledgement(broken_s))
    assert server.poll() is None
    tell(report, ledger, database_url, recoveries_s, outages=FAULTS)
