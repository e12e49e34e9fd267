"""The id that a call goes by, in this process's logs and in the server's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar

from headwater_client._uuid7 import uuid7

REQUEST_ID_KEY = "headwater-request-id"
_FORM = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_given: ContextVar[str | None] = ContextVar("headwater_request_id", default=None)


@contextlib.contextmanager
def request_id(value: str) -> Iterator[None]:
    """Lets every call made inside go by this id, for example that of the web request being answered.

    Belongs to the thread or the task that enters it, and to tasks started inside.

    Args:
        value: 1 to 128 of `A-Z a-z 0-9 . _ : / + = @ -`.

    Raises:
        ValueError: it is not.
    """
    if not _FORM.fullmatch(value):
        raise ValueError("a request id is 1 to 128 of A-Z a-z 0-9 . _ : / + = @ -")
    token = _given.set(value)
    try:
        yield
    finally:
        _given.reset(token)


def current_request_id() -> str:
    """The id of a call made now: the one that was given, else a new one."""
    return _given.get() or str(uuid7())
