"""The form of the opaque tokens that callers carry for us.

A token is base64url(crc32 of the rest, then kind and JSON, deflated). It is guarded against damage, not against
forgery: nothing in it grants anything.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

from headwater_core.errors import InvalidFieldError

MAX_TOKEN_CHARS = 4 * 1024 * 1024
"""A page token carries up to 5,000 served ids of 256 bytes."""
_MAX_PAYLOAD_BYTES = 8 * 1024 * 1024


def seal(kind: str, payload: list[Any]) -> str:
    """The token of one kind (a letter) that carries these values."""
    content = zlib.compress((kind + json.dumps(payload, ensure_ascii=False, separators=(",", ":"))).encode(), 1)
    return base64.urlsafe_b64encode(zlib.crc32(content).to_bytes(4, "big") + content).decode().rstrip("=")


def open_sealed(kind: str, text: str, field: str, shape: tuple[type, ...]) -> list[Any]:
    """The values that a token carries, of the types that `shape` names.

    Raises:
        InvalidFieldError: it is malformed, or of another kind.
    """
    malformed = InvalidFieldError(field, "is malformed")
    if len(text) > MAX_TOKEN_CHARS:
        raise malformed
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if len(raw) < 5 or zlib.crc32(raw[4:]).to_bytes(4, "big") != raw[:4]:
            raise malformed
        content = zlib.decompressobj().decompress(raw[4:], _MAX_PAYLOAD_BYTES).decode()
        payload = json.loads(content[1:]) if content[:1] == kind else None
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise malformed from error
    if not isinstance(payload, list) or [type(part) for part in payload] != list(shape):
        raise malformed
    return payload
