"""Structured logs: one JSON object (or one readable line) per event, on standard error.

Subjects' ids and queries are never logged: a log line names positions, counts, items and generations.
"""

from __future__ import annotations

import logging
import sys

import structlog

_PERSONAL_KEYS = frozenset({"user_id", "visitor_id", "session_id", "subject", "query"})


def _without_personal_data(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for key in _PERSONAL_KEYS & event.keys():
        event[key] = "(withheld)"
    return event


def configure_logs(level: str = "info", format: str = "json") -> None:  # noqa: A002 - named as the setting is
    """Write structlog's and the standard library's records the same way, from `level` up, to standard error.

    Args:
        level: debug, info, warning or error.
        format: json or console.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_personal_data,
    ]
    ending: list[structlog.typing.Processor]
    if format == "json":
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        ending = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # A line and its end in one piece: several workers write to one file.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
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
