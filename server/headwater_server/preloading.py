"""What the workers of one machine share: the catalogue and the served base, read once, before they are forked.

Memory that a process has when it forks is the child's too, and one copy of it serves all for as long as nobody writes
to it. Files are mapped: the page cache has one copy of them anyhow. What is shared here is what Python makes of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import structlog

from headwater_core.artifact_store import ArtifactStore
from headwater_core.catalogue import Catalogue
from headwater_core.database import Database
from headwater_core.errors import ArtifactError, DatabaseUnavailableError
from headwater_core.generation import LoadedGeneration, Shards
from headwater_core.registry import STABLE, GenerationRegistry
from headwater_server.catalogue_tail import READ_LIMIT
from headwater_server.catalogue_view import CatalogueView
from headwater_server.settings import ServerSettings

_PAUSE_S = 0.5
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Preloaded:
    """Read before the workers began; each goes on from here by itself."""

    view: CatalogueView = field(default_factory=CatalogueView)
    shards: Shards = field(default_factory=dict)


def preload(settings: ServerSettings) -> Preloaded:
    """Read the catalogue and the base of the serving generation. Leaves no thread and no connection behind.

    A database that is away is waited for.
    """
    preloaded = Preloaded()
    number = None
    is_away = False
    while True:
        try:
            number = _read(settings, preloaded.view)
            break
        except DatabaseUnavailableError as error:
            if not is_away:
                log.warning("database_awaited", reason=str(error))
            is_away = True
            time.sleep(_PAUSE_S)
    store = ArtifactStore(settings.store_url, settings.tenant, settings.store_cache_dir)
    # A remote store's client has threads of its own, which no fork survives: there each worker loads for itself.
    if number is not None and store.is_local:
        try:
            LoadedGeneration.load(store, number, preloaded.shards)
        except (ArtifactError, OSError) as error:  # the workers will meet it too, and say so
            log.warning("generation_not_preloaded", generation=number, reason=str(error))
    store.close()
    log.info("preloaded", items=len(preloaded.view.items), shards=len(preloaded.shards))
    return preloaded


def _read(settings: ServerSettings, view: CatalogueView) -> int | None:
    """Bring the view up to date; the generation that is served, if there is one."""
    database = Database(settings.database_url)
    try:
        database.migrate()
        catalogue = Catalogue(database, settings.tenant)
        while changes := catalogue.changes_after(view.revision, READ_LIMIT):
            for change in changes:
                view.apply(change)
        return GenerationRegistry(database, settings.tenant).labels().get(STABLE)
    finally:
        database.close()
