"""JSON that may come from anywhere."""

from __future__ import annotations

import json
from typing import Any


def parse_json(content: bytes | str) -> Any:
    """What the JSON says.

    Raises:
        ValueError: it is none, is not UTF-8, or lies deeper than Python reads.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("lies too deep") from error
