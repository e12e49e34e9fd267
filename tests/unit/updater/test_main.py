"""The command `headwater-updater`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from headwater_core.database import Database
from headwater_core.events import Event
from headwater_core.feedback_log import FeedbackLog, Rejection
from headwater_updater.main import main


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command sets up its process's logs; this process goes on without them."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'headwater.db'}"


def migrated(database_url: str) -> Database:
    database = Database(database_url)
    database.migrate()
    return database


def test_status_of_an_empty_installation(database_url: str) -> None:
    """`status` works before anything was written, as a table and as JSON."""
    migrated(database_url).close()
    table = CliRunner().invoke(main, ["status", "--database-url", database_url])
    assert table.exit_code == 0
    assert "no updater is running" in table.output
    answer = CliRunner().invoke(main, ["status", "--json", "--database-url", database_url])
    assert json.loads(answer.stdout) == {
        "offset": 0,
        "head": 0,
        "lag": 0,
        "generation": None,
        "canary": None,
        "publish_time_us": None,
        "item_count": None,
        "items_waiting": 0,
        "metrics": {},
        "rejections": {},
        "leader": None,
    }


@pytest.mark.parametrize("command", [["status"], ["rejected"], ["ope", "--policy", "logged"]])
def test_who_asks_migrates_nothing(command: list[str], database_url: str, tmp_path: Path) -> None:
    """In the wrong folder no database is made; one that an older release works with stays as it is."""
    answer = CliRunner().invoke(main, [*command, "--database-url", database_url])
    assert (answer.exit_code, answer.output.count("\n")) == (1, 1)
    assert f"there is no database {tmp_path / 'headwater.db'}" in answer.output
    assert not list(tmp_path.iterdir())
    database = migrated(database_url)
    database.migrate_down("0004")
    answer = CliRunner().invoke(main, [*command, "--database-url", database_url])
    assert (answer.exit_code, answer.output.count("\n")) == (1, 1)
    assert "the schema is of an older release" in answer.output
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "0004"
    database.close()


def test_rejected_events_can_be_asked_for(database_url: str) -> None:
    """By rule and from a position on, with what they said; an erased one by its reason alone."""
    database = migrated(database_url)
    log = FeedbackLog(database)
    log.append([Event(f"e{n}", "click", "ada", item_id=f"i{n}") for n in range(3)], 1_000_000)
    log.reject([Rejection(1, "robot", "too fast"), Rejection(2, "gate", "worse"), Rejection(3, "robot", "still")])
    log.delete_events(["e2"])
    database.close()

    def ask(*arguments: str) -> list[dict[str, object]]:
        answer = CliRunner().invoke(main, ["rejected", "--json", "--database-url", database_url, *arguments])
        assert answer.exit_code == 0, answer.output
        return [json.loads(line) for line in answer.stdout.splitlines()]

    assert [each["position"] for each in ask()] == [1, 2, 3]
    first, last = ask("--rule", "robot")
    assert first == {"position": 1, "rule": "robot", "reason": "too fast", "event_id": "e0", "event": "click i0"}
    assert (last["event"], last["event_id"]) == ("erased", None)
    assert [each["position"] for each in ask("--after", "1", "--limit", "1")] == [2]
    assert "too fast" in CliRunner().invoke(main, ["rejected", "--database-url", database_url]).output


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("HEADWATER_BATCH_EVENTS", "many", "batch_events"),
        ("HEADWATER_TENANT", "no/slash", "tenant"),
        ("HEADWATER_CLEAN_WITHOUT", '["unknown_type"]', "clean_without"),
        ("HEADWATER_CLEAN_WITHOUT", '["robots"]', "clean_without"),
        ("HEADWATER_CLEAN_WITHOUT", "burst", "clean_without"),
    ],
)
def test_wrong_settings_are_one_line(
    monkeypatch: pytest.MonkeyPatch, database_url: str, variable: str, value: str, named: str
) -> None:
    """A setting that cannot work ends the command with its name, not with a traceback."""
    monkeypatch.setenv(variable, value)
    answer = CliRunner().invoke(main, ["status", "--database-url", database_url])
    assert answer.exit_code == 1
    assert named in answer.output
    assert len(answer.output.strip().splitlines()) == 1


def test_an_unknown_database_is_one_line() -> None:
    """So does a database that is not supported."""
    answer = CliRunner().invoke(main, ["status", "--database-url", "mysql://x/y"])
    assert answer.exit_code == 1
    assert "mysql is not supported" in answer.output


@pytest.mark.parametrize("command", ["run", "bootstrap", "status"])
def test_every_command_explains_itself(command: str) -> None:
    """`--help` of every command says what it does."""
    answer = CliRunner().invoke(main, [command, "--help"])
    assert answer.exit_code == 0
    assert "Usage" in answer.output
