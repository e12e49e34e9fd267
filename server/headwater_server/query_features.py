"""Text features of what people search for: kept in memory only, and never behind the items' texts.

Queries are personal: they are not written to the shared features, so erasing a user leaves nothing of them there, and a
search needs no database to be understood. Nor are they kept in clear: erasing reaches no memory that knows no users.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from headwater_core.text import Encoder, text_hash

CAPACITY = 20_000
"""Queries kept; some 20 MB."""
log = structlog.get_logger(__name__)


class QueryFeatures:
    """Encodes queries on the thread that asks, with an encoder of its own; safe for several threads."""

    def __init__(self, load_encoder: Callable[[], Encoder], *, capacity: int = CAPACITY) -> None:
        """Nothing is loaded yet.

        Args:
            load_encoder: gives the encoder, which nobody else uses; called with the first query, again after failures.
            capacity: how many queries are kept, those used last.
        """
        self._load_encoder = load_encoder
        self._capacity = capacity
        self._encoder: Encoder | None = None
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()  # by text_hash
        self._turn = threading.Lock()
        self.is_failing = False
        """Whether the last query could not be encoded: histories are then read without what was searched for."""

    def load(self) -> None:
        """Load the encoder now rather than with the first query."""
        with self._turn:
            self._loaded()

    def __call__(self, queries: Sequence[str]) -> np.ndarray:
        """The queries' features (n, F) float32.

        Raises:
            Exception: whatever the encoder raises; `is_failing` is set then.
        """
        keys = [text_hash(query) for query in queries]
        with self._turn:
            try:
                missing = {key: query for key, query in zip(keys, queries, strict=True) if key not in self._kept}
                if missing:
                    self._kept.update(zip(missing, self._loaded().encode(list(missing.values())), strict=True))
                found = np.stack([self._kept[key] for key in keys]).astype(np.float32)
            except Exception:
                if not self.is_failing:
                    log.exception("queries_not_encoded")
                self.is_failing = True
                raise
            self.is_failing = False
            for key in keys:
                self._kept.move_to_end(key)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            return found

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._load_encoder()
        return self._encoder
