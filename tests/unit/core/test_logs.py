"""Logs are structured and name no person."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from headwater_core.events import Subject, SubjectKind
from headwater_core.logs import LogIds, configure_logs, logged_request_id


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


def told(capsys: pytest.CaptureFixture[str], **event: Any) -> dict[str, Any]:
    """What a line says."""
    structlog.get_logger("x").info("told", **event)
    line: dict[str, Any] = json.loads(capsys.readouterr().err)
    return line


def test_by_default_ids_are_hashed_and_queries_withheld(capsys: pytest.CaptureFixture[str]) -> None:
    """One who looks for a user finds all its lines, whatever the key; nobody reads who it is."""
    configure_logs()
    line = told(
        capsys, user_id="alice", query="secret wish", subject=Subject(SubjectKind.USER, "alice"), visitor_id="bob"
    )
    assert "alice" not in str(line)
    assert "secret wish" not in str(line)
    assert line["user_id"] == line["subject"] == told(capsys, user_id="alice")["user_id"]
    assert len({line["user_id"], line["visitor_id"], told(capsys, visitor_id="alice")["visitor_id"]}) == 3


def test_hashes_need_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Else ids could be tried one after the other: without a key in the settings, each run has its own."""
    hashes = []
    for key in (None, None, "k" * 16, "k" * 16, "l" * 16):
        configure_logs(ids_key=key)
        hashes.append(told(capsys, user_id="7")["user_id"])
    assert hashes[2] == hashes[3]
    assert len(set(hashes)) == 4
    assert f"#{hashlib.sha256(b'user:7').hexdigest()[:16]}" not in hashes


def test_ids_can_be_clear_or_withheld(capsys: pytest.CaptureFixture[str]) -> None:
    """A subject that is none is not told at all, nor a query, whatever is asked for."""
    configure_logs(ids=LogIds.CLEAR)
    line = told(capsys, user_id="alice", query="secret wish", subject=("visitor", "bob"))
    assert (line["user_id"], line["subject"], line["query"]) == ("alice", "bob", "(withheld)")
    configure_logs(ids=LogIds.WITHHELD)
    line = told(capsys, session_id="s", subject="carol")
    assert (line["session_id"], line["subject"]) == ("(withheld)", "(withheld)")


def test_a_line_has_the_request_id_of_its_call(capsys: pytest.CaptureFixture[str]) -> None:
    """And none outside of calls."""
    configure_logs()
    assert "request_id" not in told(capsys)
    token = logged_request_id.set("web-17")
    assert told(capsys)["request_id"] == "web-17"
    logged_request_id.reset(token)


def test_metadata_that_grpc_cannot_read_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """gRPC itself would log it, with a traceback: a token that somebody sent, or a name."""
    configure_logs()
    grpcs = logging.getLogger("grpc._cython.cygrpc")
    grpcs.error("Invalid encoding on %s", b"Bearer s3cr3t\xff")
    assert capsys.readouterr().err == ""
    grpcs.error("what else it has to say")
    assert "what else it has to say" in capsys.readouterr().err
