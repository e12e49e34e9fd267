"""Text features of what people search for: kept in memory only, and never behind the items' texts.

Queries are personal: they are not written to the shared features, so erasing a user leaves nothing of them there, and a
search needs no database to be understood.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from headwater_core.text import Encoder

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
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
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
        with self._turn:
            try:
                missing = [query for query in dict.fromkeys(queries) if query not in self._kept]
                if missing:
                    self._kept.update(zip(missing, self._loaded().encode(missing), strict=True))
                found = np.stack([self._kept[query] for query in queries]).astype(np.float32)
            except Exception:
                if not self.is_failing:
                    log.exception("queries_not_encoded")
                self.is_failing = True
                raise
            self.is_failing = False
            for query in queries:
                self._kept.move_to_end(query)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            return found

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._load_encoder()
        return self._encoder
