"""Follows the catalogue: every change reaches this server's view and fresh shards, whoever made it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from headwater_core.catalogue import Catalogue, ItemChange
from headwater_server.catalogue_view import CatalogueView

READ_LIMIT = 2000


class CatalogueTail:
    """A reader that stands at a revision and moves on."""

    def __init__(
        self,
        catalogue: Catalogue,
        view: CatalogueView,
        run_in_database: Callable[..., Awaitable[Sequence[ItemChange]]],
        on_changes: Callable[[Sequence[ItemChange]], Awaitable[None]],
    ) -> None:
        """Make a tail that has read nothing.

        Args:
            catalogue: what to follow.
            view: what every change is applied to, on the event loop.
            run_in_database: runs a blocking call off the event loop.
            on_changes: called after every reading, empty ones included.
        """
        self._catalogue = catalogue
        self._view = view
        self._run_in_database = run_in_database
        self._on_changes = on_changes
        self.turn = asyncio.Lock()
        """Nothing is applied while somebody else holds it."""

    async def catch_up(self) -> None:
        """Read and apply everything committed by now.

        Raises:
            DatabaseUnavailableError: what was read before is applied.
        """
        async with self.turn:
            while True:
                changes = await self._run_in_database(self._catalogue.changes_after, self._view.revision, READ_LIMIT)
                for change in changes:
                    self._view.apply(change)
                await self._on_changes(changes)
                if len(changes) < READ_LIMIT:
                    return
