"""Joins calls that arrive together into one batch.

One owner task takes what has gathered while the batch before was computed: no caller waits for company, and under load
batches form by themselves. Callers who left are skipped. (The shape of text-embeddings-inference's queue.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Runs `compute` on batches of what `submit` was called with."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_cost: int,
        cost: Callable[[Item], int] = lambda _: 1,
        quiet_turns: int = 0,
    ) -> None:
        """Make an idle batcher.

        Args:
            compute: from a batch to as many results, in order; its exception goes to every caller of the batch.
            max_cost: a batch's costs add up to at most this (a single item may cost more).
            cost: what one item costs, for example its tokens.
            quiet_turns: a batch is begun once nobody has come in for so many turns of the event loop. Calls that have
                arrived but not got here yet still join it; a lone caller waits some microseconds.
        """
        self._compute = compute
        self._max_cost = max_cost
        self._cost = cost
        self._quiet_turns = quiet_turns
        self._waiting: dict[asyncio.Future[Result], Item] = {}
        self.waiting_cost = 0
        """Of what waits to be computed; callers who left do not count."""
        self._arrived = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the owner task on the running loop."""
        self._owner = asyncio.create_task(self._run(), name="micro-batcher")

    async def stop(self) -> None:
        """End the owner task; callers still waiting are cancelled."""
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
        for future in list(self._waiting):
            future.cancel()
            self._leave(future)

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """The result for one item, computed with whatever else is waiting; cancel it and it is not computed."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[future] = item
        self.waiting_cost += self._cost(item)
        future.add_done_callback(self._leave)
        self._arrived.set()
        return future

    def _leave(self, future: asyncio.Future[Result]) -> None:
        """Let it wait no more, if it does."""
        if future in self._waiting:
            self.waiting_cost -= self._cost(self._waiting.pop(future))

    async def _gather(self) -> None:
        n_quiet = 0
        while n_quiet < self._quiet_turns:
            n_waiting = len(self._waiting)
            await asyncio.sleep(0)
            n_quiet = n_quiet + 1 if len(self._waiting) == n_waiting else 0

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        total = 0
        for future, item in list(self._waiting.items()):
            if not future.cancelled():
                total += self._cost(item)
                if batch and total > self._max_cost:
                    break
                batch.append((item, future))
            self._leave(future)
        return batch

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._gather()
            while batch := self._take():
                try:
                    results = await self._compute([item for item, _ in batch])
                except asyncio.CancelledError:
                    for _, future in batch:
                        future.cancel()
                    raise
                except Exception as error:  # noqa: BLE001 - handed to every caller of the batch
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, future), result in zip(batch, results, strict=True):
                        if not future.done():
                            future.set_result(result)
                await self._gather()
