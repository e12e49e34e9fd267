"""User vectors: kept while history and generation stay, else computed in micro-batches off the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from headwater_core.events import HistoryEvent
from headwater_core.shards import Vectors
from headwater_server.metrics import ServerMetrics
from headwater_server.micro_batcher import MicroBatcher
from headwater_server.serving_generation import ServingGeneration
from headwater_server.user_states import KeptInterests, UserState

_KEPT_GENERATIONS = 2


class _Ask(NamedTuple):
    generation: ServingGeneration
    history: Sequence[HistoryEvent]

    def tokens(self) -> int:
        """How many events the user tower reads at most."""
        return max(1, min(len(self.history), self.generation.config.history_length))


class UserEmbedder:
    """Answers with a history's interests in a generation."""

    def __init__(
        self,
        run_in_compute: Callable[..., Awaitable[list[Vectors]]],
        metrics: ServerMetrics,
        *,
        batch_tokens: int,
    ) -> None:
        """Make an embedder; `start` it before use.

        Args:
            run_in_compute: runs a blocking computation off the event loop.
            metrics: where histories and cache hits are counted.
            batch_tokens: events of one batch, at most.
        """
        self._run_in_compute = run_in_compute
        self._metrics = metrics
        self._batcher: MicroBatcher[_Ask, Vectors] = MicroBatcher(
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
        interests = await self.of_history(generation, history)
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
        return await self._batcher.submit(_Ask(generation, history))

    async def _compute(self, asks: Sequence[_Ask]) -> list[Vectors]:
        return await self._run_in_compute(self._embed, asks)

    def _embed(self, asks: Sequence[_Ask]) -> list[Vectors]:
        self._metrics.embedded.inc(len(asks))
        by_generation: dict[int, list[int]] = {}
        for index, ask in enumerate(asks):
            by_generation.setdefault(ask.generation.number, []).append(index)
        results: dict[int, Vectors] = {}
        for indices in by_generation.values():
            interests = asks[indices[0]].generation.embed([asks[index].history for index in indices])
            results.update(zip(indices, interests, strict=True))
        return [results[index] for index in range(len(asks))]
