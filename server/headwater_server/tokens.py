"""Opaque tokens that callers carry for the server: consistency, page and list tokens."""

from __future__ import annotations

from dataclasses import dataclass

from headwater_core.errors import InvalidFieldError
from headwater_core.sealing import open_sealed, seal


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
        return seal("p", [self.tenant, self.generation, list(self.served_item_ids)])

    @classmethod
    def open(cls, text: str, field: str, tenant: str) -> PageToken:
        """Read a token back.

        Raises:
            InvalidFieldError: it is malformed, or another tenant's.
        """
        owner, generation, served = open_sealed("p", text, field, (str, int, list))
        if owner != tenant or not all(isinstance(item_id, str) for item_id in served):
            raise InvalidFieldError(field, "is not a token of this tenant")
        return cls(owner, generation, tuple(served))


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
