"""Leading: at most one updater learns and publishes at a time; it renews its lease beside its work."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from headwater_core.errors import DatabaseUnavailableError, LeaseLostError
from headwater_core.registry import GenerationRegistry, Lease

LEASE_NAME = "updater"

_log = structlog.get_logger(__name__)


def now_us() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def holder_name() -> str:
    """Who this process is, as operators see it; different for every process."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Leadership:
    """A held lease, renewed by a thread until the block ends; then released."""

    def __init__(self, registry: GenerationRegistry, lease: Lease, ttl_s: float) -> None:
        """Lead under a lease that was just acquired for ttl_s."""
        self._registry = registry
        self._ttl_s = ttl_s
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.lease = lease

    @classmethod
    def acquire(
        cls, registry: GenerationRegistry, holder: str, ttl_s: float, clock: Callable[[], int] = now_us
    ) -> Leadership | None:
        """Try to lead; None when another updater does."""
        lease = registry.acquire_lease(LEASE_NAME, holder, ttl_s, clock())
        return None if lease is None else cls(registry, lease, ttl_s)

    def check(self) -> None:
        """Go on only while leading.

        Raises:
            LeaseLostError: when the lease was lost or could not be renewed in time.
        """
        if self._lost.is_set():
            raise LeaseLostError("another updater leads, or the lease ran out")

    def __enter__(self) -> Self:
        """Start renewing."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop renewing and let the next updater lead at once."""
        self._ended.set()
        self._thread.join()
        if self._lost.is_set():
            return
        try:
            self._registry.release(self.lease)
        except (LeaseLostError, DatabaseUnavailableError) as problem:
            _log.info("lease_not_released", reason=str(problem))

    def _renew(self) -> None:
        renewed_s = time.monotonic()
        while not self._ended.wait(self._ttl_s / 4):
            try:
                self._registry.renew(self.lease, self._ttl_s, now_us())
            except LeaseLostError:
                self._lost.set()
                return
            except DatabaseUnavailableError as error:
                _log.warning("lease_not_renewed", reason=str(error))
                if time.monotonic() - renewed_s > self._ttl_s:
                    self._lost.set()
                    return
            else:
                renewed_s = time.monotonic()
