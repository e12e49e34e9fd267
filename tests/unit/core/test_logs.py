"""Logs are structured and name no person."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from headwater_core.logs import configure_logs


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_is_a_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Name, level, time and values; the standard library's records too."""
    configure_logs("info", "json")
    structlog.get_logger("x").info("published", generation=7)
    logging.getLogger("y").warning("of a library: %s", 3)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["generation"]) == ("published", "info", 7)
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"]) == ("of a library: 3", "warning")


def test_levels_are_respected(capsys: pytest.CaptureFixture[str]) -> None:
    """What is below the level is not written."""
    configure_logs("warning", "console")
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud")
    text = capsys.readouterr().err
    assert "loud" in text
    assert "quiet" not in text


def test_personal_data_is_withheld(capsys: pytest.CaptureFixture[str]) -> None:
    """A user's id or query handed to a log by mistake does not reach it."""
    configure_logs()
    structlog.get_logger("x").info("oops", user_id="alice", query="secret wish", subject=("user", "alice"))
    text = capsys.readouterr().err
    assert "alice" not in text
    assert "secret wish" not in text
    assert "(withheld)" in text
