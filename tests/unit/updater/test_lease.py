"""Leading: one at a time, for as long as the lease is renewed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_core.database import Database
from headwater_core.errors import LeaseLostError
from headwater_core.registry import GenerationRegistry, Lease
from headwater_updater.lease import LEASE_NAME, Leadership, holder_name, now_us


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[GenerationRegistry]:
    database = Database(f"sqlite:///{tmp_path / 'lease.db'}")
    database.migrate()
    yield GenerationRegistry(database)
    database.close()


def test_one_leads_and_the_next_follows(registry: GenerationRegistry) -> None:
    """While one leads nobody else can; when it ends the lease is free at once."""
    leadership = Leadership.acquire(registry, "one", 60.0)
    assert leadership is not None
    with leadership:
        leadership.check()
        assert Leadership.acquire(registry, "two", 60.0) is None
    assert Leadership.acquire(registry, "two", 60.0) is not None


def test_a_lease_taken_by_another_is_noticed_and_not_released(registry: GenerationRegistry) -> None:
    """Who lost the lease is told at the next check, and leaves the new holder's lease alone."""
    renewed = threading.Event()

    class Watched(GenerationRegistry):
        def renew(self, lease: Lease, ttl_s: float, now_us: int) -> None:
            try:
                registry.renew(lease, ttl_s, now_us)
            finally:
                renewed.set()

    lease = registry.acquire_lease(LEASE_NAME, "slow", 0.01, now_us() - 1_000_000)
    assert lease is not None
    assert registry.acquire_lease(LEASE_NAME, "quick", 60.0, now_us()) is not None
    watched = Watched.__new__(Watched)
    with Leadership(watched, lease, ttl_s=0.02) as leadership:
        assert renewed.wait(30)
        leadership._thread.join(30)
        with pytest.raises(LeaseLostError):
            leadership.check()
    assert registry.acquire_lease(LEASE_NAME, "third", 60.0, now_us()) is None


def test_holders_have_names_of_their_own() -> None:
    """Two processes, or one started again, are never taken for each other."""
    assert holder_name() != holder_name()
