"""Structured logs: one JSON object (or one readable line) per event, on standard error.

Ids of subjects are told hashed, unless a setting says otherwise, and queries never: a log line names positions, counts,
items and generations.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import sys
from contextvars import ContextVar
from enum import StrEnum

import structlog

from headwater_core.log_output import standard_error

logged_request_id: ContextVar[str | None] = ContextVar("logged_request_id", default=None)
"""Of the call that is being answered: each line that is written meanwhile has it."""
_KINDS = {"user_id": "user", "visitor_id": "visitor", "session_id": "session"}
"""What an id under a key is the id of: a user has one hash, whatever the key."""
_SUBJECT = "subject"
_QUERY = "query"
_WITHHELD = "(withheld)"
_HASH_CHARS = 16
_GRPC, _NO_TEXT = "grpc._cython.cygrpc", "Invalid encoding on"


class LogIds(StrEnum):
    """How ids of users, visitors and sessions are logged."""

    HASHED = "hashed"
    CLEAR = "clear"
    WITHHELD = "withheld"


class _Ids:
    """Says ids of people as the setting has it."""

    def __init__(self, way: LogIds, key: bytes) -> None:
        self._way = way
        self._key = key

    def __call__(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        for key, kind in _KINDS.items():
            if key in event:
                event[key] = self._told(kind, event[key])
        if _SUBJECT in event:
            subject = event[_SUBJECT]
            is_pair = isinstance(subject, tuple) and len(subject) == 2
            event[_SUBJECT] = self._told(*subject) if is_pair else _WITHHELD
        if _QUERY in event:
            event[_QUERY] = _WITHHELD
        return event

    def _told(self, kind: object, value: object) -> object:
        if self._way is LogIds.CLEAR:
            return value
        if self._way is LogIds.WITHHELD:
            return _WITHHELD
        # With a key: whoever has the log, and no key, cannot try ids one after the other.
        digest = hmac.digest(self._key, f"{kind}:{value}".encode(), hashlib.sha256)
        return f"#{digest.hex()[:_HASH_CHARS]}"


def _with_request_id(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    request_id = logged_request_id.get()
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event


def _without_metadata(record: logging.LogRecord) -> bool:
    """gRPC repeats metadata that is no UTF-8, whatever it holds, with a traceback, for each call that brings some."""
    return not (record.name == _GRPC and str(record.msg).startswith(_NO_TEXT))


def configure_logs(
    level: str = "info",
    format: str = "json",  # noqa: A002 - named as the setting is
    ids: LogIds = LogIds.HASHED,
    ids_key: str | None = None,
) -> None:
    """Write structlog's and the standard library's records the same way, from `level` up, to standard error.

    Args:
        level: debug, info, warning or error.
        format: json or console.
        ids: how ids of people are told.
        ids_key: what hashes are made with; None: a new one for this process and those forked from it.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_request_id,
        _Ids(ids, ids_key.encode() if ids_key is not None else secrets.token_bytes(32)),
    ]
    ending: list[structlog.typing.Processor]
    if format == "json":
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        ending = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # rich's shows local variables, ids and all
            )
        ]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # A line and its end in one piece: several workers write to one file.
        logger_factory=lambda *_: structlog.WriteLogger(standard_error),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_without_metadata)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # What libraries have to say below a warning is not about this installation.
    root.setLevel(max(threshold, logging.WARNING))
