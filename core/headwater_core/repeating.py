"""Transactions that PostgreSQL gave up for another's sake are tried again, whole."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog

from headwater_core.errors import TransactionConflictError

TRIES = 5
PATIENCE_S = 15.0
"""A try that fails later than this after the first began is the last: a lock's time-out is long enough."""
_FIRST_PAUSE_S = 0.01
_log = structlog.get_logger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def repeated(write: Callable[_P, _T]) -> Callable[_P, _T]:
    """For methods that write: tried again while a deadlock, a serialisation failure or a long lock undoes them.

    What such a method does besides its transaction must bear repeating. After the last try the conflict goes to the
    caller, for whom it is a DatabaseUnavailableError: coming again later may help.
    """

    @functools.wraps(write)
    def trying(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        began_s, n_failed = time.monotonic(), 0
        while True:
            try:
                return write(*args, **kwargs)
            except TransactionConflictError as error:
                n_failed += 1
                if n_failed == TRIES or time.monotonic() - began_s > PATIENCE_S:
                    raise
                _log.info("transaction_repeated", write=write.__qualname__, reason=str(error), tries=n_failed)
                # Each waits for another time: who met once must not meet again.
                time.sleep(random.uniform(0.5, 1.5) * _FIRST_PAUSE_S * 2**n_failed)

    return trying
