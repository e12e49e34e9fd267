"""Text features in memory: encoded once, before training, for as long as there is time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from headwater_core.text import Encoder
from headwater_updater.evaluation.csv_rows import OnShare

_CHUNK = 128


class TextTable:
    """Features of texts. A text that was not encoded in time reads as none.

    Attributes:
        dimension: length of a text's features.
    """

    def __init__(self, dimension: int) -> None:
        """Args: dimension: of the encoder; 1 where there is no text at all, so that no work is done on zeros."""
        self.dimension = dimension
        self._features: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        """How many texts have been encoded."""
        return len(self._features)

    def fill(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        is_time_left: Callable[[], bool],
        on_share: OnShare | None = None,
    ) -> None:
        """Encode different, non-empty texts, the most important first, until the time is up."""
        for start in range(0, len(texts), _CHUNK):
            if not is_time_left():
                return
            part = texts[start : start + _CHUNK]
            self._features.update(zip(part, encoder.encode(part), strict=True))
            if on_share is not None:
                on_share(len(self) / len(texts))

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) texts → (n, dimension) float16; all 0 for an empty or unknown text."""
        found = np.zeros((len(texts), self.dimension), np.float16)
        for index, text in enumerate(texts):
            known = self._features.get(text)
            if known is not None:
                found[index] = known
        return found
