"""Requests that do not come are not waited for as long as strangers like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headwater_core.errors import InvalidFieldError
from headwater_server.errors import OverloadedError
from headwater_server.first_requests import FirstRequests


async def requests(*given: str, then: asyncio.Event | None = None) -> AsyncIterator[str]:
    for each in given:
        yield each
    if then is not None:
        await then.wait()
        yield "late"


async def test_a_request_that_is_there_is_given() -> None:
    """However many there are, one after the other."""
    first = FirstRequests(most=1)
    assert [await first.first(requests(name)) for name in "abc"] == ["a", "b", "c"]


async def test_a_call_without_a_request_is_refused() -> None:
    """It ended without one."""
    with pytest.raises(InvalidFieldError, match="has none"):
        await FirstRequests().first(requests())


async def test_one_that_does_not_come_is_given_up() -> None:
    """After the time that there is for it."""
    with pytest.raises(OverloadedError, match="did not come"):
        await FirstRequests(limit_s=0.01).first(requests(then=asyncio.Event()))


async def test_when_too_many_do_not_come_the_oldest_is_given_up() -> None:
    """Whoever sends a whole request is answered all the same, and what comes late is taken."""
    first = FirstRequests(most=3, limit_s=3600)
    comes = asyncio.Event()
    waiting = [asyncio.create_task(first.first(requests(then=comes))) for _ in range(5)]
    given_up = await asyncio.wait_for(asyncio.gather(*waiting[:2], return_exceptions=True), 60)
    assert [type(each) for each in given_up] == [OverloadedError, OverloadedError]
    assert not any(each.done() for each in waiting[2:])
    assert await first.first(requests("whole")) == "whole"
    comes.set()
    assert await asyncio.gather(*waiting[3:]) == ["late", "late"]
    with pytest.raises(OverloadedError):
        await waiting[2]
