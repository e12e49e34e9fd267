"""Names that operators give: short and plain, for they are part of commands, metrics and impressions."""

from __future__ import annotations

import re

from headwater_core.errors import InvalidFieldError

MAX_NAME_CHARS = 64
NAME_PATTERN = r"^[a-z0-9_-]{1,64}$"
_NAME = re.compile(r"[a-z0-9_-]{1,64}")


def check_name(name: str, field: str = "name") -> None:
    """Refuse what cannot be a name.

    Raises:
        InvalidFieldError: naming the field.
    """
    if not _NAME.fullmatch(name):
        raise InvalidFieldError(field, f"must be 1 to {MAX_NAME_CHARS} characters of a-z, 0-9, _ and -")
