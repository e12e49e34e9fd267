"""The artifact store's disk fills up while the updater publishes: the old generation stays, and all comes back."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from headwater_core import artifact_store
from headwater_core.errors import ArtifactError
from headwater_updater.metrics import UpdaterMetrics
from tests.faults.conftest import Report, fill, has_disks, until
from tests.integration.updater_world import N_ITEMS, make_world, running

Fault = Callable[[], Callable[[], None]]
"""Lets it happen; gives what mends it."""


@pytest.fixture(params=["full by error", *(["full disk"] if has_disks() else [])])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the store is: on a small disk of its own, or beside the rest."""
    if request.param == "full disk":
        disk: Path = request.getfixturevalue("small_disk")
        return disk
    return tmp_path / "store"


@pytest.fixture
def fault(request: pytest.FixtureRequest, folder: Path) -> Fault:
    """The same, whether or not somebody may mount a disk: no byte goes in."""
    if folder.name == "disk":

        def fill_disk() -> Callable[[], None]:
            fill(folder / "filler")
            return (folder / "filler").unlink

        return fill_disk

    def refuse_files() -> Callable[[], None]:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch = pytest.MonkeyPatch()
        patch.setattr(artifact_store, "_write_durably", refuse)
        request.addfinalizer(patch.undo)
        return patch.undo

    return refuse_files


def test_a_full_store_leaves_the_old_generation_and_is_published_to_again(
    tmp_path: Path, folder: Path, fault: Fault, report: Report
) -> None:
    """The reason is logged and counted, what is stored stays whole, and the next generation has all that came since."""
    world = make_world(
        tmp_path, store_url=str(folder), publish_interval_s=0.0, poll_interval_s=0.01, updater_lease_ttl_s=5.0
    )
    world.items(*range(N_ITEMS))
    world.events(200)
    world.bootstrap()
    old, metrics = world.stable, UpdaterMetrics()

    def failures() -> float:
        kind = {"kind": ArtifactError.__name__}
        return metrics.registry.get_sample_value("headwater_updater_failures_total", kind) or 0.0

    with capture_logs() as logs, running(world, metrics):
        mend = fault()
        world.events(5)
        until(lambda: failures() >= 3, "three generations that could not be stored")
        assert world.stable == old
        assert world.loaded().number == old
        tried = failures()
        mend()
        recovery_s = until(lambda: world.manifest.watermark == 205, "a generation of all events")
    reasons = [each["reason"] for each in logs if each["event"] == "trying_again"]
    assert all("No space left on device" in reason for reason in reasons)
    assert world.loaded().number == world.stable
    world.events(5)
    world.round()
    assert world.manifest.watermark == 210
    world.resources.close()
    report(refused=int(tried), recovery_s=round(recovery_s, 2))
