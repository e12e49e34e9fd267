"""The attribution token: it goes out with an answer, comes back with the events, and joins both."""

from __future__ import annotations

from headwater_core.errors import InvalidFieldError
from headwater_core.sealing import open_sealed, seal


def attribution_token(tenant: str, slate_id: str) -> str:
    """The token that joins later events to a slate's impression."""
    return seal("a", [tenant, slate_id])


def attributed_slate(text: str, tenant: str) -> str:
    """The slate that a token names.

    Raises:
        InvalidFieldError: it is malformed, or another tenant's.
    """
    owner, slate_id = open_sealed("a", text, "attribution_token", (str, str))
    if owner != tenant:
        raise InvalidFieldError("attribution_token", "is not a token of this tenant")
    return str(slate_id)
