"""Calls that arrive together are computed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from headwater_server.micro_batcher import MicroBatcher

DEADLINE_S = 20
Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Doubler:
    """Doubles numbers, in batches that wait until they are let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def compute(self, batch: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(batch))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [2 * number for number in batch]


@pytest.fixture
async def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
async def start(doubler: Doubler) -> AsyncIterator[Callable[..., MicroBatcher[int, int]]]:
    batchers: list[MicroBatcher[int, int]] = []

    def start(
        max_cost: int = 100, cost: Callable[[int], int] = lambda _: 1, quiet_turns: int = 0
    ) -> MicroBatcher[int, int]:
        batchers.append(MicroBatcher(doubler.compute, max_cost=max_cost, cost=cost, quiet_turns=quiet_turns))
        batchers[-1].start()
        return batchers[-1]

    yield start
    for batcher in batchers:
        await asyncio.wait_for(batcher.stop(), DEADLINE_S)


async def test_what_gathers_during_a_batch_is_the_next_batch(
    doubler: Doubler, start: Callable[..., MicroBatcher[int, int]], until: Until
) -> None:
    """The first caller waits for nobody; those who come meanwhile share a batch, each with its own result."""
    batcher = start()
    first = batcher.submit(1)
    await until(lambda: len(doubler.batches) == 1)
    others = [batcher.submit(number) for number in range(2, 6)]
    await asyncio.sleep(0)
    doubler.gate.set()
    results = await asyncio.wait_for(asyncio.gather(first, *others), DEADLINE_S)
    assert results == [2, 4, 6, 8, 10]
    assert doubler.batches == [[1], [2, 3, 4, 5]]


async def test_those_at_the_door_come_in(doubler: Doubler, start: Callable[..., MicroBatcher[int, int]]) -> None:
    """A batch is begun when nobody came for some turns of the loop, not before."""
    doubler.gate.set()
    batcher = start(quiet_turns=3)

    async def come(number: int, turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await batcher.submit(number)

    coming = [come(number, turns) for number, turns in ((1, 0), (2, 2), (3, 4), (4, 40))]
    assert await asyncio.wait_for(asyncio.gather(*coming), DEADLINE_S) == [2, 4, 6, 8]
    assert doubler.batches == [[1, 2, 3], [4]]


async def test_costs_bound_a_batch(doubler: Doubler, start: Callable[..., MicroBatcher[int, int]]) -> None:
    """In the order of arrival; what costs more than the bound is a batch of its own."""
    doubler.gate.set()
    batcher = start(max_cost=10, cost=lambda number: number)
    results = await asyncio.wait_for(
        asyncio.gather(*(batcher.submit(number) for number in (4, 6, 1, 99, 5, 5, 1))), DEADLINE_S
    )
    assert results == [8, 12, 2, 198, 10, 10, 2]
    assert doubler.batches == [[4, 6], [1], [99], [5, 5], [1]]


async def test_callers_who_left_are_skipped(
    doubler: Doubler, start: Callable[..., MicroBatcher[int, int]], until: Until
) -> None:
    """Nothing is computed for them, and nobody else is disturbed; leaving during the batch is harmless too."""
    batcher = start()
    first = batcher.submit(1)
    await until(lambda: len(doubler.batches) == 1)
    leaver, stayer = batcher.submit(2), batcher.submit(3)
    await asyncio.sleep(0)
    leaver.cancel()
    first.cancel()
    await asyncio.sleep(0)
    doubler.gate.set()
    assert await asyncio.wait_for(stayer, DEADLINE_S) == 6
    assert doubler.batches == [[1], [3]]
    assert leaver.cancelled()
    assert first.cancelled()


async def test_an_error_goes_to_every_caller_of_the_batch(
    doubler: Doubler, start: Callable[..., MicroBatcher[int, int]]
) -> None:
    """And the next batch is computed as if nothing had been."""
    batcher = start()
    doubler.error = ValueError("broken")
    doubler.gate.set()
    results = await asyncio.wait_for(
        asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True), DEADLINE_S
    )
    assert [str(result) for result in results] == ["broken", "broken"]
    doubler.error = None
    assert await asyncio.wait_for(batcher.submit(3), DEADLINE_S) == 6


async def test_stopping_cancels_whoever_waits(
    doubler: Doubler, start: Callable[..., MicroBatcher[int, int]], until: Until
) -> None:
    """Those in the batch under way and those behind it: nobody waits for ever."""
    batcher = start()
    inside = batcher.submit(1)
    await until(lambda: len(doubler.batches) == 1)
    behind = batcher.submit(2)
    await asyncio.sleep(0)
    await asyncio.wait_for(batcher.stop(), DEADLINE_S)
    for waiter in (inside, behind):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiter, DEADLINE_S)
