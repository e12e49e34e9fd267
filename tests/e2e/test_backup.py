"""A backup as docs/runbook.md tells, made while everything runs, and what is restored from it, on both databases."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from local_postgresql import program

from headwater_client import Client, event
from tests.e2e.conftest import DEADLINE_S, ENVIRONMENT, planted_world, positions, wait_for, wait_until_serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


class Sqlite:
    """A file in the installation's folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "headwater.db"
        self.url = f"sqlite:///{self._file}"

    def back_up(self, folder: Path) -> None:
        with closing(sqlite3.connect(self._file)) as database:
            database.execute("VACUUM INTO ?", (str(folder / "headwater.db"),))

    def restore(self, folder: Path) -> None:
        for file in self._file.parent.glob("headwater.db*"):
            file.unlink()
        shutil.copy(folder / "headwater.db", self._file)


class Postgresql:
    """A database, which is gone when it is restored."""

    def __init__(self, url: str, administrator: str) -> None:
        self.url, self._administrator = url, administrator

    def back_up(self, folder: Path) -> None:
        subprocess.run(
            [program("pg_dump"), "--format=custom", f"--file={folder / 'headwater.dump'}", self.url], check=True
        )

    def restore(self, folder: Path) -> None:
        name = psycopg.conninfo.conninfo_to_dict(self.url)["dbname"]
        with psycopg.connect(self._administrator, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            connection.execute(f"CREATE DATABASE {name}".encode())
        subprocess.run(
            [program("pg_restore"), "--no-owner", f"--dbname={self.url}", folder / "headwater.dump"], check=True
        )


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Sqlite | Postgresql:
    """The database of an installation in `tmp_path / "installation"`."""
    if request.param == "sqlite":
        return Sqlite(tmp_path / "installation")
    return Postgresql(request.getfixturevalue("postgresql_url"), request.getfixturevalue("postgresql"))


def test_what_was_acknowledged_before_a_backup_is_there_after_a_restore(
    database: Sqlite | Postgresql, installation_class: Any, tmp_path: Path
) -> None:
    """The label `backup` keeps a generation while its files are copied, and the database, copied last, knows whatever
    that generation learned. Where the updater had gone on meanwhile, `stable` is pointed back by hand."""
    folder, backup = tmp_path / "installation", tmp_path / "backup"
    environment = {"HEADWATER_DATABASE_URL": database.url}
    with planted_world(folder, installation_class, **environment) as world:
        world.installation.start_updater()
        world.like(20)
        pinned = world.client.recommend(user_id="user-1").generation
        world.installation.run("headwater", "set-label", "backup", str(pinned))
        shutil.copytree(world.store.parent, backup / "artifacts", ignore=shutil.ignore_patterns("tmp"))

        def has_gone_on() -> bool:
            world.like(1)
            return world.client.recommend(user_id="user-1").generation > pinned + 3

        world.wait_for(has_gone_on, "generations after that")
        written = positions(world.client)
        database.back_up(backup)
        world.like(5)  # too late
    shutil.rmtree(folder / "artifacts")
    shutil.copytree(backup / "artifacts", folder / "artifacts")
    database.restore(backup)

    with installation_class(folder, {**ENVIRONMENT, **environment}) as restored:
        restored.start_server()
        with Client(restored.address, timeout_s=DEADLINE_S) as client:
            assert positions(client) == written
            missing = next(each for each in client.list_generations().generations if "stable" in each.labels)
            assert missing.number > pinned
            assert "is missing" in missing.failure
            restored.run("headwater", "set-label", "stable", str(pinned))
            wait_until_serving(client)
            assert client.recommend(user_id="user-1").generation == pinned

            restored.start_updater()
            client.write(event("like", user_id="user-1", item_id="love-1")).raise_for_refused()
            head = positions(client)[-1]
            wait_for(lambda: client.recommend(user_id="user-1").watermark >= head, "all of it to be learned and served")
            newest = client.recommend(user_id="user-1").generation
            assert newest > missing.number  # numbers go on from what the database knows
