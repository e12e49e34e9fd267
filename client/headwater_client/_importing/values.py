"""What a cell of an imported row means. Pure functions; each says in a ValueError why a value cannot be used."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

_MAX_UNIX_S = 99_999_999_999  # the year 5138; in milliseconds that is March 1973, so nothing real is taken for another


def text(fields: Mapping[str, Any], name: str) -> str:
    """A cell as text; empty when there is none.

    Raises:
        ValueError: it is a list or an object.
    """
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, list | dict):
        raise ValueError(f"{name}: must be a single value")
    return value if isinstance(value, str) else json.dumps(value)


def number(fields: Mapping[str, Any], name: str) -> float | None:
    """A cell as a number; None when it is empty.

    Raises:
        ValueError: it is not a number.
    """
    shown = text(fields, name).strip()
    if not shown:
        return None
    try:
        return float(shown)
    except ValueError:
        raise ValueError(f"{name}: {shown[:40]!r} is not a number") from None


def moment(fields: Mapping[str, Any], name: str) -> Timestamp | None:
    """A cell as a time: Unix seconds, or ISO 8601 (UTC when it names no zone); None when it is empty.

    Raises:
        ValueError: it is neither.
    """
    shown = text(fields, name).strip()
    if not shown:
        return None
    result = Timestamp()
    try:
        seconds = float(shown)
    except ValueError:
        try:
            time = datetime.fromisoformat(shown)
        except ValueError:
            raise ValueError(f"{name}: {shown[:40]!r} is neither Unix seconds nor ISO 8601") from None
        result.FromDatetime(time if time.tzinfo else time.replace(tzinfo=UTC))
        return result
    if not abs(seconds) <= _MAX_UNIX_S:
        raise ValueError(f"{name}: {shown[:40]} is too far off for Unix seconds; is it milliseconds?")
    result.FromMicroseconds(round(seconds * 1_000_000))
    return result


def attributes(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, str]:
    """Everything that is no known column, and what an `attributes` object holds; empty cells are left out.

    Raises:
        ValueError: `attributes` is there and no object.
    """
    given = fields.get("attributes")
    if not (given is None or given == "" or isinstance(given, dict)):
        raise ValueError("attributes: must be an object")
    rest = {key: value for key, value in fields.items() if key and key not in known and key != "attributes"}
    rest.update(given or {})
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        for key, value in rest.items()
        if value is not None and value != ""
    }
