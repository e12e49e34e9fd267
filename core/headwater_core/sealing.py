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

MAX_BYTES = 4096
"""Unpacked. The largest of the small tokens goes on after an item id of 256 bytes; JSON writes a byte as up to six."""


def seal(kind: str, payload: list[Any], max_bytes: int = MAX_BYTES) -> str:
    """The token of one kind (a letter) that carries these values; empty where it would unpack to more than that.

    Commas inside texts are written as \\u002c: whoever opens it counts its values by its commas.
    """
    # JSON has no control characters of its own: one stands in for the comma between values.
    values = json.dumps(payload, ensure_ascii=False, separators=("\x1f", ":"))
    content = (kind + values.replace(",", "\\u002c").replace("\x1f", ",")).encode()
    if len(content) > max_bytes:
        return ""
    packed = zlib.compress(content, 1)
    return base64.urlsafe_b64encode(zlib.crc32(packed).to_bytes(4, "big") + packed).decode().rstrip("=")


def open_sealed(
    kind: str, text: str, field: str, shape: tuple[type, ...], *, max_bytes: int = MAX_BYTES, max_values: int = 64
) -> list[Any]:
    """The values that a token carries, of the types that `shape` names.

    Anybody can make a token that unpacks to a thousand times its length, in values that take many times that as
    objects: so it is unpacked up to a limit, and nothing is made of it before its values are counted.

    Args:
        kind: the letter of `seal`.
        text: the token.
        field: what an error names.
        shape: the types of the values, in order.
        max_bytes: it may unpack to; the token itself may have twice as many characters.
        max_values: it may hold, those of its lists among them.

    Raises:
        InvalidFieldError: it is malformed, or of another kind.
    """
    malformed = InvalidFieldError(field, "is malformed")
    if len(text) > 2 * max_bytes:
        raise malformed
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if len(raw) < 5 or zlib.crc32(raw[4:]).to_bytes(4, "big") != raw[:4]:
            raise malformed
        content = zlib.decompressobj().decompress(raw[4:], max_bytes + 1)
        if len(content) > max_bytes or content.count(b",") > max_values:
            raise malformed
        payload = json.loads(content[1:].decode()) if content[:1] == kind.encode() else None
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise malformed from error
    if not isinstance(payload, list) or [type(part) for part in payload] != list(shape):
        raise malformed
    return payload
