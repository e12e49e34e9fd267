"""Opaque tokens that callers carry for us: consistency, page and attribution tokens.

A token is base64url(crc32 of the rest, then kind and JSON, deflated). It is guarded against damage, not against
forgery: nothing in it grants anything.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from typing import Any

from headwater_core.errors import InvalidFieldError

MAX_TOKEN_CHARS = 4 * 1024 * 1024
"""A page token carries up to 5,000 served ids of 256 bytes."""
_MAX_PAYLOAD_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ConsistencyToken:
    """Says: the answer must have seen the log up to this position."""

    tenant: str
    position: int

    def seal(self) -> str:
        """The token as text."""
        return _seal("c", [self.tenant, self.position])

    @classmethod
    def open(cls, text: str, field: str, tenant: str) -> ConsistencyToken:
        """Read a token back.

        Raises:
            InvalidFieldError: it is malformed, or another tenant's.
        """
        owner, position = _open("c", text, field, (str, int))
        if owner != tenant or position < 0:
            raise InvalidFieldError(field, "is not a token of this tenant")
        return cls(owner, position)


@dataclass(frozen=True, slots=True)
class PageToken:
    """Says: go on after these items, from this generation while it is loaded."""

    tenant: str
    generation: int
    served_item_ids: tuple[str, ...]

    def seal(self) -> str:
        """The token as text."""
        return _seal("p", [self.tenant, self.generation, list(self.served_item_ids)])

    @classmethod
    def open(cls, text: str, field: str, tenant: str) -> PageToken:
        """Read a token back.

        Raises:
            InvalidFieldError: it is malformed, or another tenant's.
        """
        owner, generation, served = _open("p", text, field, (str, int, list))
        if owner != tenant or not all(isinstance(item_id, str) for item_id in served):
            raise InvalidFieldError(field, "is not a token of this tenant")
        return cls(owner, generation, tuple(served))


@dataclass(frozen=True, slots=True)
class ListToken:
    """Says: go on after this key of a listing."""

    after: str

    def seal(self) -> str:
        """The token as text."""
        return _seal("l", [self.after])

    @classmethod
    def open(cls, text: str, field: str) -> ListToken:
        """Read a token back.

        Raises:
            InvalidFieldError: it is malformed.
        """
        (after,) = _open("l", text, field, (str,))
        return cls(after)

    @classmethod
    def open_number(cls, text: str, field: str) -> int:
        """Read back a token whose key is a number.

        Raises:
            InvalidFieldError: it is malformed.
        """
        after = cls.open(text, field).after
        if not after.isascii() or not after.isdigit() or len(after) > 18:
            raise InvalidFieldError(field, "is malformed")
        return int(after)


def attribution_token(tenant: str, slate_id: str) -> str:
    """The token that joins later events to a slate's impression."""
    return _seal("a", [tenant, slate_id])


def _seal(kind: str, payload: list[Any]) -> str:
    content = zlib.compress((kind + json.dumps(payload, ensure_ascii=False, separators=(",", ":"))).encode(), 1)
    return base64.urlsafe_b64encode(zlib.crc32(content).to_bytes(4, "big") + content).decode().rstrip("=")


def _open(kind: str, text: str, field: str, shape: tuple[type, ...]) -> list[Any]:
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
