"""Opaque tokens that callers carry for the server: consistency, page and list tokens."""

from __future__ import annotations

from dataclasses import dataclass

from headwater_core.errors import InvalidFieldError
from headwater_core.manifest import MAX_INT64
from headwater_core.sealing import open_sealed, seal

MAX_SERVED = 5000
"""After so many items the pages of a slate end."""
_MAX_PAGE_BYTES = 3 * 512 * 1024
"""Of a page token, unpacked: so many ids of 256 bytes, and some that JSON writes longer."""


@dataclass(frozen=True, slots=True)
class ConsistencyToken:
    """Says: the answer must have seen the log up to this position."""

    tenant: str
    position: int

    def seal(self) -> str:
        """The token as text."""
        return seal("c", [self.tenant, self.position])

    @classmethod
    def open(cls, text: str, field: str, tenant: str) -> ConsistencyToken:
        """Read a token back.

        Raises:
            InvalidFieldError: it is malformed, or another tenant's.
        """
        owner, position = open_sealed("c", text, field, (str, int))
        if owner != tenant or not 0 <= position <= MAX_INT64:
            raise InvalidFieldError(field, "is not a token of this tenant")
        return cls(owner, position)


@dataclass(frozen=True, slots=True)
class PageToken:
    """Says: go on after these items, from this generation while it is loaded, by this strategy while it is there."""

    tenant: str
    generation: int
    strategy: str
    served_item_ids: tuple[str, ...]

    def seal(self) -> str:
        """The token as text; empty where more was served than a token may carry: the pages end there."""
        if len(self.served_item_ids) > MAX_SERVED:
            return ""
        return seal("p", [self.tenant, self.generation, self.strategy, list(self.served_item_ids)], _MAX_PAGE_BYTES)

    @classmethod
    def open(cls, text: str, field: str, tenant: str) -> PageToken:
        """Read a token back.

        Raises:
            InvalidFieldError: it is malformed, or another tenant's.
        """
        owner, generation, strategy, served = open_sealed(
            "p", text, field, (str, int, str, list), max_bytes=_MAX_PAGE_BYTES, max_values=MAX_SERVED + 64
        )
        if len(served) > MAX_SERVED:
            raise InvalidFieldError(field, f"carries {len(served)} served items; the limit is {MAX_SERVED}")
        if owner != tenant or not all(isinstance(item_id, str) for item_id in served):
            raise InvalidFieldError(field, "is not a token of this tenant")
        return cls(owner, generation, strategy, tuple(served))


@dataclass(frozen=True, slots=True)
class ListToken:
    """Says: go on after this key of a listing."""

    after: str

    def seal(self) -> str:
        """The token as text."""
        return seal("l", [self.after])

    @classmethod
    def open(cls, text: str, field: str) -> ListToken:
        """Read a token back.

        Raises:
            InvalidFieldError: it is malformed.
        """
        (after,) = open_sealed("l", text, field, (str,))
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
