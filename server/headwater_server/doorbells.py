"""How the workers of one machine tell each other that something was written, without a look at the database first."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

_READ_BYTES = 4096


class Doorbell:
    """One worker's: rings at all others, and hears when one of them rings."""

    def __init__(self, own: socket.socket, others: Sequence[socket.socket]) -> None:
        """Take part.

        Args:
            own: where the others' rings arrive.
            others: each rings at one of the others.
        """
        self._own, self._others = own, others
        for each in (own, *others):
            each.setblocking(False)

    def ring(self) -> None:
        """Tell the others; never waits."""
        for other in self._others:
            with contextlib.suppress(BlockingIOError):  # it has rings enough to hear
                other.send(b"\0")

    def listen(self, heard: Callable[[], object]) -> None:
        """Call `heard` on the running loop whenever others rang, once for all that rang meanwhile."""

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                while self._own.recv(_READ_BYTES):
                    pass
            heard()

        asyncio.get_running_loop().add_reader(self._own, read)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._own)


def doorbells(count: int) -> list[Doorbell]:
    """As many as there are workers; they must be made before the workers' processes."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
    return [
        Doorbell(own, [bell for other, (_, bell) in enumerate(pairs) if other != number])
        for number, (own, _) in enumerate(pairs)
    ]
