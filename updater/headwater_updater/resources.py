"""Everything the updater reads from and writes to, opened once."""

from __future__ import annotations

from dataclasses import dataclass

from headwater_core.artifact_store import ArtifactStore
from headwater_core.catalogue import Catalogue
from headwater_core.database import Database
from headwater_core.event_types import EventTypes
from headwater_core.features import FeatureStore
from headwater_core.feedback_log import FeedbackLog
from headwater_core.impressions import ImpressionLog
from headwater_core.outcomes import OutcomeLog
from headwater_core.registry import GenerationRegistry
from headwater_core.settings import CoreSettings
from headwater_core.text import CachedTextEncoder, Encoder, FeatureMemory, TextEncoder


@dataclass(frozen=True, slots=True)
class Resources:
    """One tenant's log, catalogue, generations and texts."""

    database: Database
    log: FeedbackLog
    event_types: EventTypes
    catalogue: Catalogue
    impressions: ImpressionLog
    outcomes: OutcomeLog
    registry: GenerationRegistry
    store: ArtifactStore
    text: CachedTextEncoder
    """For the texts of items; their features are stored."""
    queries: CachedTextEncoder
    """For what people searched for; its features stay in memory, so that erasing the event erases it all."""

    @classmethod
    def open(cls, settings: CoreSettings, encoder: Encoder | None = None) -> Resources:
        """Open what the settings name, the database's schema brought up to date.

        Args:
            settings: where everything is.
            encoder: what reads texts; None: the one that the settings name.

        Raises:
            DatabaseUnavailableError: when the database cannot be reached.
            ConfigurationError: when a URL or the text encoder cannot work, or the schema is a newer release's.
        """
        database = Database(
            settings.database_url, pool_size=settings.database_pool_size, application="headwater-updater"
        )
        database.migrate()
        tenant = settings.tenant
        reader = encoder or TextEncoder(settings.text_encoder_path)
        return cls(
            database,
            FeedbackLog(database, tenant),
            EventTypes(database, tenant),
            Catalogue(database, tenant),
            ImpressionLog(database, tenant),
            OutcomeLog(database, tenant),
            GenerationRegistry(database, tenant),
            ArtifactStore(settings.store_url, tenant, settings.store_cache_dir),
            CachedTextEncoder(reader, FeatureStore(database, tenant)),
            CachedTextEncoder(reader, FeatureMemory()),
        )

    def close(self) -> None:
        """Let go of the database and of the store's temporary files."""
        self.store.close()
        self.database.close()
