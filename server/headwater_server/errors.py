"""Errors of the server itself; core's are in headwater_core.errors."""

from __future__ import annotations

from headwater_core.errors import HeadwaterError

_MAX_SHOWN = 64


def shown(text: str) -> str:
    """What a caller sent, as a refusal repeats it: quoted, at most its first 64 characters."""
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")


class NotReadyError(HeadwaterError):
    """What the call needs is not there yet or not loaded: no generation, an unknown label. FAILED_PRECONDITION."""


class NotBuiltError(HeadwaterError):
    """The contract has it, this version does not do it yet. UNIMPLEMENTED."""


class UnknownCallerError(HeadwaterError):
    """No token, or one that nobody has. UNAUTHENTICATED."""


class ForbiddenError(HeadwaterError):
    """The caller is known and may not do this, or not on this port. PERMISSION_DENIED."""


class LeavingError(HeadwaterError):
    """This server is about to end; another, or this one later, goes on. UNAVAILABLE, with a hint when to try again."""


class LoadingError(NotReadyError):
    """What answers is published and not here yet; it comes, or another server has it. UNAVAILABLE, with a hint."""


class OverloadedError(HeadwaterError):
    """Too many calls at once. RESOURCE_EXHAUSTED, with a hint when to try again."""

    def __init__(self, reason: str, retry_after_ms: int) -> None:
        """Args: reason: what is exhausted; retry_after_ms: when to try again."""
        super().__init__(reason)
        self.retry_after_ms = retry_after_ms
