"""Keeps the text space as the catalogue is: every item found by its newest text, as soon as its features are stored."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from headwater_core.catalogue import ItemChange
from headwater_server.catalogue_view import CatalogueView
from headwater_server.fresh import Features
from headwater_server.text_space import TextSpace

_READ_AT_ONCE = 2_000
_RETRY_S = 1.0
_MAX_RETRY_S = 30.0


class PlacedTexts(NamedTuple):
    """What one keeper has placed."""

    encoder: str
    """Its id."""
    revision: int
    """The catalogue's: later changes are not in it."""
    space: TextSpace
    waiting: tuple[str, ...]
    """Items whose features were not stored."""


class TextKeeper:
    """Owns the text space. Its methods are for the event loop; they take turns."""

    def __init__(
        self,
        view: CatalogueView,
        stored_features: Callable[[str, Sequence[bytes]], Awaitable[Features]],
        run_in_compute: Callable[..., Awaitable[TextSpace]],
        preloaded: PlacedTexts | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            view: the catalogue.
            stored_features: a text encoder's id and text hashes → the features of those texts that are stored.
            run_in_compute: runs a blocking computation off the event loop.
            preloaded: what another keeper of the same catalogue had placed.
        """
        self._preloaded = preloaded
        self._view = view
        self._stored_features = stored_features
        self._run_in_compute = run_in_compute
        self._turn = asyncio.Lock()
        self._encoder = ""
        self._empty: TextSpace | None = None
        self._waiting: dict[str, None] = {}
        self._pause_s = _RETRY_S
        self._retry_at = 0.0
        self.space: TextSpace | None = None
        """None until the encoder is known and what is stored is read."""

    async def start(self, encoder: str, dimension: int) -> None:
        """Place every item whose features are stored. Args: encoder: its id; dimension: of its features.

        Raises:
            DatabaseUnavailableError: `retry` will.
        """
        async with self._turn:
            self._encoder, self._empty = encoder, TextSpace(dimension)
            before, self._preloaded = self._preloaded, None
            if before is None or before.encoder != encoder or before.revision < self._view.gone_after:
                await self._fill(self._empty)
            else:
                self._waiting = dict.fromkeys(before.waiting)
                self.space = await self._placed(before.space, self._view.changed_after(before.revision))

    def placed(self) -> PlacedTexts | None:
        """All that is placed, for a keeper that goes on from here."""
        if self.space is None:
            return None
        return PlacedTexts(self._encoder, self._view.revision, self.space, tuple(self._waiting))

    @property
    def awaits_features(self) -> bool:
        """Whether an item waits for its text features."""
        return bool(self._waiting)

    def hurry(self) -> None:
        """Features were stored: it is time to look again."""
        self._pause_s, self._retry_at = _RETRY_S, 0.0

    async def take(self, changes: Iterable[ItemChange]) -> None:
        """Take in changes of the catalogue, which the view has already.

        Raises:
            DatabaseUnavailableError: they wait.
        """
        async with self._turn:
            changed = dict.fromkeys(change.item_id for change in changes)
            if self.space is not None and changed:
                self._waiting.update(changed)
                self.hurry()
                self.space = await self._placed(self.space, list(changed))

    async def place(self, item_ids: Iterable[str]) -> None:
        """Place items whose features were just stored.

        Raises:
            DatabaseUnavailableError: they go on waiting.
        """
        async with self._turn:
            if self.space is not None:
                waiting = [item_id for item_id in item_ids if item_id in self._waiting]
                self.space = await self._placed(self.space, waiting)

    async def retry(self) -> None:
        """Look for features that others have stored meanwhile; where none come, less and less often.

        Raises:
            DatabaseUnavailableError: later again.
        """
        async with self._turn:
            if self.space is None:
                if self._empty is not None:
                    await self._fill(self._empty)
            elif self._waiting and time.monotonic() >= self._retry_at:
                before = len(self._waiting)
                self.space = await self._placed(self.space, list(itertools.islice(self._waiting, _READ_AT_ONCE)))
                self._pause_s = _RETRY_S if len(self._waiting) < before else min(2 * self._pause_s, _MAX_RETRY_S)
                self._retry_at = time.monotonic() + self._pause_s

    async def _fill(self, empty: TextSpace) -> None:
        self.space = await self._placed(empty, list(self._view.items))

    async def _placed(self, space: TextSpace, item_ids: Sequence[str]) -> TextSpace:
        """The space with these items as they are now: those without features have no place, and wait for them."""
        items = self._view.items
        for start in range(0, len(item_ids), _READ_AT_ONCE):
            some = item_ids[start : start + _READ_AT_ONCE]
            hashes = {each: items[each].text_hash() for each in some if each in items and items[each].text()}
            stored = await self._stored_features(self._encoder, list(hashes.values())) if hashes else {}
            ready: list[str] = []
            for item_id in some:
                self._waiting.pop(item_id, None)
                text_hash = hashes.get(item_id)
                # While the features were read the text may have changed: then its change is about to be taken in.
                if text_hash in stored and item_id in items and items[item_id].text_hash() == text_hash:
                    ready.append(item_id)
                elif text_hash is not None:
                    self._waiting[item_id] = None  # behind those that have not been looked for lately
            space = space.without(some)
            if ready:
                space = space.with_texts(ready, np.stack([stored[hashes[item_id]] for item_id in ready]))
            if space.is_full:
                space = await self._run_in_compute(space.rebuilt)
        return space
