"""The command `headwater-updater`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

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


def test_status_of_an_empty_installation(database_url: str) -> None:
    """`status` works before anything else did, as a table and as JSON."""
    table = CliRunner().invoke(main, ["status", "--database-url", database_url])
    assert table.exit_code == 0
    assert "no updater is running" in table.output
    answer = CliRunner().invoke(main, ["status", "--json", "--database-url", database_url])
    assert json.loads(answer.stdout) == {
        "offset": 0,
        "head": 0,
        "lag": 0,
        "generation": None,
        "publish_time_us": None,
        "item_count": None,
        "metrics": {},
        "rejections": {},
        "leader": None,
    }


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [("HEADWATER_BATCH_EVENTS", "many", "batch_events"), ("HEADWATER_TENANT", "no/slash", "tenant")],
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
