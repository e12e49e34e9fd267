"""User vectors: kept while history and generation stay, else computed in micro-batches off the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from headwater_core.events import HistoryEvent
from headwater_core.shards import Vectors
from headwater_server.metrics import ServerMetrics
from headwater_server.micro_batcher import MicroBatcher
from headwater_server.reading_memory import Memory, ReadingMemory
from headwater_server.serving_generation import Reading, ServingGeneration
from headwater_server.user_states import KeptInterests, UserState

_KEPT_GENERATIONS = 2


class _Ask(NamedTuple):
    generation: ServingGeneration
    history: Sequence[HistoryEvent]
    reading: Reading | None = None
    """Where the history is one that can be read on."""

    def tokens(self) -> int:
        """How many events the user tower reads at most."""
        read = self.reading.n_read if self.reading is not None else 0
        return max(1, min(len(self.history) - read, self.generation.config.history_length))


class _Answer(NamedTuple):
    interests: Vectors
    keys_values: Tensor | None = None
    """Of a reading: what to remember."""


class UserEmbedder:
    """Answers with a history's interests in a generation."""

    def __init__(
        self,
        run_in_compute: Callable[..., Awaitable[list[_Answer]]],
        metrics: ServerMetrics,
        *,
        batch_tokens: int,
        memory_bytes: int,
    ) -> None:
        """Make an embedder; `start` it before use.

        Args:
            run_in_compute: runs a blocking computation off the event loop.
            metrics: where histories and cache hits are counted.
            batch_tokens: events of one batch, at most.
            memory_bytes: how much may be remembered of what was read, so that histories are read on.
        """
        self._run_in_compute = run_in_compute
        self._metrics = metrics
        self._memory = ReadingMemory(memory_bytes)
        self._batcher: MicroBatcher[_Ask, _Answer] = MicroBatcher(
            self._compute, max_cost=batch_tokens, cost=_Ask.tokens
        )

    def start(self) -> None:
        """Start taking histories."""
        self._batcher.start()

    async def stop(self) -> None:
        """Stop; whoever still waits is cancelled."""
        await self._batcher.stop()

    async def of_state(self, generation: ServingGeneration, state: UserState) -> Vectors:
        """The interests (K, d) of a user state; (0, d) without a readable event."""
        kept = state.vectors.get(generation.number)
        if (
            kept is not None
            and kept.history_version == state.version
            and kept.items_version in (None, generation.items.version)
        ):
            self._metrics.embedding_cache_hits.inc()
            return kept.interests
        history, history_version, items = tuple(state.history), state.version, generation.items
        # An item that the generation itself does not know may be placed, or placed anew, at any moment.
        is_settled = all(items.knows(event.item_id) for event in history if event.item_id)
        interests = await self._of_stored(generation, state, history, is_settled=is_settled)
        state.vectors.pop(generation.number, None)  # what is written last is the last to go, whatever its number
        state.vectors[generation.number] = KeptInterests(
            history_version, None if is_settled else items.version, interests
        )
        while len(state.vectors) > _KEPT_GENERATIONS:
            del state.vectors[next(iter(state.vectors))]
        return interests

    async def of_history(self, generation: ServingGeneration, history: Sequence[HistoryEvent]) -> Vectors:
        """The interests (K, d) of any history, oldest event first; (0, d) without a readable event."""
        # The whole history: events on items without a vector go first, and only then it is cut to its last ones.
        return (await self._batcher.submit(_Ask(generation, history))).interests

    async def _of_stored(
        self, generation: ServingGeneration, state: UserState, history: Sequence[HistoryEvent], *, is_settled: bool
    ) -> Vectors:
        """As `of_history`, of a state's; where all of it can be read, only what was not read before."""
        is_readable = is_settled and all(event.item_id or event.query for event in history)
        if not is_readable or not 0 < len(history) <= generation.config.history_length:
            return await self.of_history(generation, history)
        memory = self._memory.of(state, generation.number)
        reading = Reading(history)
        if memory is not None and memory.begins(history):
            self._metrics.read_on.inc()
            reading = Reading(history, memory.n_read, memory.keys_values)
        interests, keys_values = await self._batcher.submit(_Ask(generation, history, reading))
        assert keys_values is not None
        self._memory.put(state, generation.number, Memory.of(history, keys_values))
        return interests

    async def _compute(self, asks: Sequence[_Ask]) -> list[_Answer]:
        return await self._run_in_compute(self._embed, asks)

    def _embed(self, asks: Sequence[_Ask]) -> list[_Answer]:
        self._metrics.embedded.inc(len(asks))
        alike: dict[tuple[int, bool], list[int]] = {}
        for index, ask in enumerate(asks):
            alike.setdefault((ask.generation.number, ask.reading is not None), []).append(index)
        answers: dict[int, _Answer] = {}
        for indices in alike.values():
            generation = asks[indices[0]].generation
            readings = [ask.reading for ask in (asks[index] for index in indices) if ask.reading is not None]
            if readings:
                found = [_Answer(*each) for each in generation.read_on(readings)]
            else:
                found = [_Answer(each) for each in generation.embed([asks[index].history for index in indices])]
            answers.update(zip(indices, found, strict=True))
        return [answers[index] for index in range(len(asks))]
