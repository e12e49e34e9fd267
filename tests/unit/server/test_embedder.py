"""User vectors are kept for the generations asked for last, and rest on the whole history that is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch

from headwater_core.events import HistoryEvent
from headwater_core.shards import Vectors
from headwater_server.embedder import UserEmbedder
from headwater_server.metrics import ServerMetrics
from headwater_server.reading_memory import Memory, ReadingMemory
from headwater_server.serving_generation import Reading, ServingGeneration
from headwater_server.user_states import UserState


class Generation:
    """Answers with its own number, and notes the histories it was given."""

    class config:  # noqa: N801 - stands for an attribute
        history_length = 2

    class items:  # noqa: N801 - stands for an attribute
        version = 0

        @staticmethod
        def knows(_: str) -> bool:
            return True

    def __init__(self, number: int) -> None:
        self.number = number
        self.embedded: list[Sequence[HistoryEvent]] = []
        self.read: list[Reading] = []

    def embed(self, histories: Sequence[Sequence[HistoryEvent]]) -> list[Vectors]:
        self.embedded += histories
        return [np.full((1, 1), self.number, dtype=np.float32) for _ in histories]

    def read_on(self, readings: Sequence[Reading]) -> list[tuple[Vectors, torch.Tensor]]:
        self.read += readings
        interests = np.full((1, 1), self.number, dtype=np.float32)
        return [(interests, torch.full((len(reading.history),), 1.0)) for reading in readings]

    @property
    def serving(self) -> ServingGeneration:
        return cast(ServingGeneration, self)


async def run(call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


@pytest.fixture
async def embedder() -> AsyncIterator[UserEmbedder]:
    embedder = UserEmbedder(run, ServerMetrics(), batch_tokens=100, memory_bytes=10_000)
    embedder.start()
    yield embedder
    await embedder.stop()


def history(length: int) -> list[HistoryEvent]:
    return [HistoryEvent(number, number, "click", f"item-{number}") for number in range(1, length + 1)]


async def test_an_older_generation_keeps_its_vectors_too(embedder: UserEmbedder) -> None:
    """After a rollback, or beside a newer canary: what was asked for last stays, whatever its number."""
    state = UserState(history=history(1), version=1)
    generations = [Generation(number) for number in (3, 2, 1)]
    for generation in generations:
        for _ in range(2):
            assert (await embedder.of_state(generation.serving, state)).item() == generation.number
        assert len(generation.read) == 1
    assert list(state.vectors) == [2, 1]


async def test_a_generation_gets_the_whole_history(embedder: UserEmbedder) -> None:
    """It leaves out what it cannot read before it takes its last events."""
    generation = Generation(1)
    await embedder.of_state(generation.serving, UserState(history=history(5), version=5))
    assert [event.position for event in generation.embedded[0]] == [1, 2, 3, 4, 5]


async def test_only_what_is_new_is_read(embedder: UserEmbedder) -> None:
    """Where events came at the history's end; else all of it."""
    generation = Generation(1)
    state = UserState(history=history(1), version=1)

    async def counts(*events: HistoryEvent) -> list[int]:
        state.history[:] = events
        state.version += 1
        await embedder.of_state(generation.serving, state)
        return [reading.n_read for reading in generation.read]

    first, second, third = history(3)
    assert await counts(first) == [0]
    assert await counts(first, third) == [0, 1]
    assert await counts(second, third) == [0, 1, 0]  # an event fell off
    assert await counts(second) == [0, 1, 0, 0]  # or was erased
    other = UserState(history=[second, third], version=9)
    await embedder.of_state(generation.serving, other)
    assert generation.read[-1].n_read == 0
    await embedder.of_state(Generation(2).serving, state)
    assert await counts(second, third) == [0, 1, 0, 0, 0, 1]


async def test_what_is_remembered_is_bounded() -> None:
    """The state that was not asked for the longest is forgotten first, and so is one that is gone."""
    embedder = UserEmbedder(run, ServerMetrics(), batch_tokens=100, memory_bytes=3 * 4)
    embedder.start()
    generation = Generation(1)
    states = [UserState(history=history(1), version=1) for _ in range(3)]
    for state in states:
        await embedder.of_state(generation.serving, state)
    for state in states:
        state.history, state.version = history(2), 2
    await embedder.of_state(generation.serving, states[2])
    await embedder.of_state(generation.serving, states[0])
    await embedder.of_state(generation.serving, states[1])
    assert [reading.n_read for reading in generation.read[3:]] == [1, 0, 0]
    await embedder.stop()


async def test_nothing_is_remembered_of_a_state_that_is_gone() -> None:
    """Nor does it take the place of others."""
    memory = ReadingMemory(100)
    states = [UserState(history=history(1), version=1) for _ in range(2)]
    for state in states:
        memory.put(state, 1, Memory.of(state.history, torch.zeros(10)))
    assert [memory.of(state, 1) is not None for state in states] == [True, True]
    del state, states[0]
    newer = UserState(history=history(1), version=1)
    memory.put(newer, 1, Memory.of(newer.history, torch.zeros(15)))
    assert memory.of(states[0], 1) is not None
