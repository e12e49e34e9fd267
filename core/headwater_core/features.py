"""Text features, computed once for each text and encoder and kept where every replica finds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from headwater_core.database import Database, chunks, insert
from headwater_core.repeating import repeated
from headwater_core.schema import text_features


class FeatureStore:
    """The text features of one tenant's items, by encoder and hash of the text."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant

    def get(self, encoder: str, hashes: Collection[bytes]) -> dict[bytes, NDArray[np.float16]]:
        """The features that are stored.

        Args:
            encoder: "<sha256 of the weights>/<pooling>".
            hashes: sha256 of the texts, 32 bytes each.

        Returns:
            Features (F,) float16 by hash, read-only; hashes that are not stored are left out.
        """
        found: dict[bytes, NDArray[np.float16]] = {}
        with self._database.read() as connection:
            for chunk in chunks(dict.fromkeys(hashes)):
                statement = select(text_features.c.text_hash, text_features.c.features).where(
                    text_features.c.tenant == self._tenant,
                    text_features.c.encoder == encoder,
                    text_features.c.text_hash.in_(chunk),
                )
                for text_hash, features in connection.execute(statement):
                    found[text_hash] = np.frombuffer(features, "<f2")
        return found

    @repeated
    def put(self, encoder: str, features: Mapping[bytes, NDArray[np.float16]]) -> None:
        """Store features (F,) by hash of the text, as float16; what is stored already stays."""
        # Commits of a thousand, so that a bulk of features never keeps events waiting for long.
        for chunk in chunks(features.items()):
            rows = [
                {
                    "tenant": self._tenant,
                    "encoder": encoder,
                    "text_hash": text_hash,
                    "features": np.asarray(values, "<f2").tobytes(),
                }
                for text_hash, values in chunk
            ]
            with self._database.write() as connection:
                connection.execute(insert(connection, text_features).on_conflict_do_nothing(), rows)
