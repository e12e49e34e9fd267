"""Gives items that came after a generation their place in it, by their text and the caller's vector."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from headwater_core import item_features
from headwater_core.catalogue import Item, ItemChange
from headwater_core.newcomers import Heritage
from headwater_core.shards import Vectors
from headwater_server.catalogue_view import CatalogueView
from headwater_server.serving_generation import ServingGeneration

PATIENCE_S = 30.0
"""How long the text features of a changed item are waited for; then the next generation brings the item."""
MAX_WAITING = 1000
"""For how many items at once, the newest; bulk imports come with the next generation."""
_RETRY_S = 0.2
Features = Mapping[bytes, npt.NDArray[np.float16]]


class FreshPlacer:
    """Places new items in every loaded generation: at once, or with a text as soon as its features are stored."""

    def __init__(
        self,
        view: CatalogueView,
        stored_features: Callable[[str, Sequence[bytes]], Awaitable[Features]],
        run_in_compute: Callable[..., Awaitable[tuple[Vectors, Heritage]]],
    ) -> None:
        """Nothing waits yet.

        Args:
            view: the catalogue.
            stored_features: a text encoder's id and text hashes → the features of those texts that are stored.
            run_in_compute: runs a blocking computation off the event loop.
        """
        self._view = view
        self._stored_features = stored_features
        self._run_in_compute = run_in_compute
        self._waiting: dict[str, float] = {}
        self._retry_at = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether an item waits for its text features and it is time to look again."""
        return bool(self._waiting) and time.monotonic() >= self._retry_at

    @property
    def awaits_features(self) -> bool:
        """Whether an item waits for its text features."""
        return bool(self._waiting)

    def hurry(self) -> None:
        """Features were stored: it is time to look again."""
        self._retry_at = 0.0

    async def take(self, changes: Iterable[ItemChange], generations: Sequence[ServingGeneration]) -> None:
        """Take in changes of the catalogue."""
        changes = list(changes)
        for generation in generations:
            generation.items = generation.items.without_fresh(change.item_id for change in changes)
        until = time.monotonic() + PATIENCE_S
        self._waiting.update((change.item_id, until) for change in changes if change.item is not None)
        await self.place_waiting(generations)

    async def place(self, item_ids: Iterable[str], generations: Sequence[ServingGeneration]) -> None:
        """Place items whose features were just stored, however long that took and whatever else waits."""
        items = [item for item_id in item_ids if (item := self._view.items.get(item_id)) is not None]
        for generation in generations:
            for item_id in await self._place(generation, items):
                self._waiting.pop(item_id, None)

    async def place_waiting(self, generations: Sequence[ServingGeneration]) -> None:
        """Place the items whose features have come; drop those that waited too long."""
        now = time.monotonic()
        self._retry_at = now + _RETRY_S
        still = [(item_id, until) for item_id, until in self._waiting.items() if until > now]
        self._waiting = dict(still[-MAX_WAITING:])
        await self.place(list(self._waiting), generations)

    async def fill(self, generation: ServingGeneration) -> None:
        """Place everything that is newer than a generation that is about to serve."""
        revision = generation.manifest.catalogue_revision
        await self._place(generation, self._view.newer(revision))

    async def _place(self, generation: ServingGeneration, items: Iterable[Item]) -> list[str]:
        """Place what can be placed; returns the ids that need nothing more."""
        config = generation.config
        done: list[str] = []
        new: list[Item] = []
        for item in items:
            has_features = item.text() or item_features.fits(item.embedding, config.vector_dimension)
            if has_features and not generation.items.knows(item.item_id):
                new.append(item)
            else:
                done.append(item.item_id)
        if not new:
            return done
        hashes = {item.item_id: item.text_hash() for item in new if item.text()}
        stored = await self._stored_features(generation.manifest.text_encoder, list(hashes.values())) if hashes else {}
        ready = [item for item in new if item.item_id not in hashes or hashes[item.item_id] in stored]
        if ready:
            text_features = np.zeros((len(ready), config.text_dimension), np.float16)
            for row, item in zip(text_features, ready, strict=True):
                if item.item_id in hashes:
                    row[:] = stored[hashes[item.item_id]]
            joined = item_features.join(text_features, [item.embedding for item in ready], config.vector_dimension)
            vectors, heritage = await self._run_in_compute(generation.place, joined)
            generation.items = generation.items.with_fresh([item.item_id for item in ready], vectors, heritage)
        return done + [item.item_id for item in ready]
