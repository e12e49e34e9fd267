"""What the fake's answers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from headwater_client.testing._state import FakeState

Answers: TypeAlias = dict[str, Callable[[FakeState, Any], Any]]
"""What answers a method, by the method's path."""


class Refusal(Exception):  # noqa: N818 (it is an answer, not a fault)
    """The answer to a request that the fake does not accept."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def invalid(message: str) -> Refusal:
    """An INVALID_ARGUMENT; the message is `field: reason`."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


def page_size(size: int, default: int, limit: int) -> int:
    """The size asked for, or the default for 0."""
    if not 0 <= size <= limit:
        raise invalid(f"page_size: is {size}; must be 0 to {limit}")
    return size or default


def offset_of(page_token: str) -> int:
    """Where the page starts."""
    if not page_token:
        return 0
    if not page_token.isdecimal():
        raise invalid("page_token: is malformed")
    return int(page_token)


def page_of(rows: list[Any], size: int, page_token: str) -> tuple[list[Any], str]:
    """The rows of one page, and the token of the next."""
    start = offset_of(page_token)
    end = start + page_size(size, 100, 1000)
    return rows[start:end], str(end) if end < len(rows) else ""


def check_token(state: FakeState, token: str) -> None:
    """Refuse a consistency token that this server never gave."""
    position = token.removeprefix("fake-")
    if token and (position == token or not position.isdecimal() or int(position) > state.head):
        raise invalid("min_consistency_token: is not a token of this server")
