"""What the workers of one machine share: catalogue, texts and the served base, read once, before they are forked.

Memory that a process has when it forks is the child's too, and one copy of it serves all for as long as nobody writes
to it. Files are mapped: the page cache has one copy of them anyhow. What is shared here is what Python makes of them.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
import torch

from headwater_core.artifact_store import ArtifactStore
from headwater_core.catalogue import Catalogue
from headwater_core.database import Database
from headwater_core.errors import ArtifactError, ConfigurationError, DatabaseUnavailableError
from headwater_core.features import FeatureStore
from headwater_core.generation import Shards, load_shards
from headwater_core.registry import STABLE, GenerationRegistry
from headwater_core.text import TextEncoder
from headwater_server.catalogue_tail import READ_LIMIT
from headwater_server.catalogue_view import CatalogueView
from headwater_server.settings import ServerSettings
from headwater_server.text_keeper import PlacedTexts, TextKeeper

_PAUSE_S = 0.5
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Preloaded:
    """Read before the workers began; each goes on from here by itself."""

    view: CatalogueView = field(default_factory=CatalogueView)
    shards: Shards = field(default_factory=dict)
    """The base of the serving generation."""
    texts: PlacedTexts | None = None
    encoders: Sequence[TextEncoder] = ()
    """Loaded ones, for whoever comes first."""


def preload(settings: ServerSettings) -> Preloaded:
    """Read all that. Leaves no thread and no connection behind; a database that is away is waited for.

    Raises:
        ConfigurationError: the database is a newer release's, or none.
    """
    torch.set_num_threads(1)  # no fork survives threads at work
    encoders = _encoders(settings)
    view = CatalogueView()
    is_away = False
    while True:
        try:
            number, texts = _read(settings, view, encoders[0] if encoders else None)
            break
        except DatabaseUnavailableError as error:
            if not is_away:
                log.warning("database_awaited", reason=str(error))
            is_away = True
            time.sleep(_PAUSE_S)
    shards = _shards(settings, number) if number is not None else {}
    log.info("preloaded", items=len(view.items), shards=len(shards))
    return Preloaded(view, shards, texts, encoders)


def _encoders(settings: ServerSettings) -> list[TextEncoder]:
    """One for items and one for queries: each is for one thread."""
    try:
        return [TextEncoder(settings.text_encoder_path) for _ in range(2)]
    except (ConfigurationError, ArtifactError) as error:  # the workers answer all the same, and say so
        log.warning("text_encoder_not_preloaded", reason=str(error))
        return []


def _read(
    settings: ServerSettings, view: CatalogueView, encoder: TextEncoder | None
) -> tuple[int | None, PlacedTexts | None]:
    """Bring the view up to date; the generation that is served, if there is one, and the texts, placed."""
    database = Database(settings.database_url)
    try:
        database.migrate()
        catalogue = Catalogue(database, settings.tenant)
        while changes := catalogue.changes_after(view.revision, READ_LIMIT):
            for change in changes:
                view.apply(change)
        number = GenerationRegistry(database, settings.tenant).labels().get(STABLE)
        if encoder is None:
            return number, None
        return number, asyncio.run(_placed(view, FeatureStore(database, settings.tenant), encoder))
    finally:
        database.close()


async def _placed(view: CatalogueView, features: FeatureStore, encoder: TextEncoder) -> PlacedTexts | None:
    async def here(call: Callable[..., Any], *arguments: Any) -> Any:
        return call(*arguments)

    keeper = TextKeeper(view, functools.partial(here, features.get), here)
    await keeper.start(encoder.id, encoder.dimension)
    return keeper.placed()


def _shards(settings: ServerSettings, number: int) -> Shards:
    """The base of a generation."""
    shards: Shards = {}
    store = ArtifactStore(settings.store_url, settings.tenant, settings.store_cache_dir)
    if store.is_local:  # a remote store's client has threads of its own: there each worker loads for itself
        try:
            load_shards(store, store.read_manifest(number), shards)
        except (ArtifactError, OSError) as error:  # the workers will meet it too, and say so
            log.warning("generation_not_preloaded", generation=number, reason=str(error))
    store.close()
    return shards
