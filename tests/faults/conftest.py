"""Real processes to break, and where what they outlived is written down.

Every fault is tried once. `HEADWATER_TEST_FAULTS=200 pytest tests/faults -s` tries each that often;
`HEADWATER_TEST_REPORT=FILE` keeps the figures, a line of JSON for each test.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_postgresql import Cluster

from headwater_server.settings import ServerSettings
from tests.integration.conftest import Publish, prepare
from tests.integration.conftest import connect as connect
from tests.integration.conftest import empty_settings as empty_settings
from tests.integration.conftest import history_limit_s as history_limit_s
from tests.integration.conftest import make_installation as make_installation
from tests.integration.conftest import open_channel as open_channel
from tests.integration.conftest import publish as publish
from tests.integration.conftest import settings as settings
from tests.integration.conftest import start_server as start_server
from tests.integration.conftest import text_encoder_path as text_encoder_path

FAULTS = int(os.environ.get("HEADWATER_TEST_FAULTS", "1"))
TIMEOUT_S = 300 + 40 * FAULTS
_DISK_MIB = 24
_REPORT = os.environ.get("HEADWATER_TEST_REPORT", "")

Report = Callable[..., None]
Install = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these break things on purpose."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Writes down what a test saw."""

    def report(**figures: Any) -> None:
        line = json.dumps({"test": request.node.name, **figures})
        print(f"\n{line}")
        if _REPORT:
            with Path(_REPORT).open("a") as file:
                file.write(line + "\n")

    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server of these tests' own."""
    # Not under pytest's own folders: PostgreSQL drops root's rights and must still reach its files, and the path of its
    # socket must stay short.
    with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
        cluster = Cluster(Path(folder))
        yield cluster
        cluster.close()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of the test's own. Parametrized: sqlite or postgresql."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/headwater.db"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.create()


@pytest.fixture
def install(tmp_path: Path, installation_class: Any, text_encoder_path: Path) -> Iterator[Install]:
    """Makes installations of real processes over a database; whatever runs still is stopped at the end."""
    made: list[Any] = []

    def install(database_url: str, **environment: str) -> Any:
        defaults = {
            "HEADWATER_DATABASE_URL": database_url,
            "HEADWATER_TEXT_ENCODER_PATH": str(text_encoder_path),
            "HEADWATER_PORT": "0",
            "HEADWATER_METRICS_PORT": "",
            "HEADWATER_UPDATER_METRICS_PORT": "",
        }
        made.append(installation_class(tmp_path / "installation", {**defaults, **environment}))
        return made[-1]

    yield install
    for installation in made:
        installation.stop()


@pytest.fixture
def postgresql_settings(cluster: Cluster, empty_settings: ServerSettings, publish: Publish) -> ServerSettings:
    """An installation with 60 items and generation 1, its database in PostgreSQL."""
    settings = empty_settings.model_copy(update={"database_url": cluster.create()})
    prepare(settings, publish)
    return settings


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of the test's own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount(folder).check_returncode()
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True)


@functools.cache
def has_disks() -> bool:
    """Whether a file system may be mounted here; where none may, the same errors are made otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        may = not _mount(Path(folder)).returncode
        if may:
            subprocess.run(["umount", "--lazy", folder], check=True)
    return may


def pytest_report_header() -> str:
    """What stands in for real disks is said, not left to be found out."""
    return (
        "faults: on real disks"
        if has_disks()
        else "faults: nobody may mount a disk here; its errors are made otherwise"
    )


def fill(file: Path) -> None:
    """Write until nothing more goes in."""
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 4096)


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> float:
    """Wait until it holds; how long that took, in seconds."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > timeout_s:
            pytest.fail(f"not in {timeout_s:.0f} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began_s
