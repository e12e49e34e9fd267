"""What users turned away from: it casts no vote for anything, and what is like it counts for less.

The latest event on an item says how a user stands to it: who dislikes what they once liked dislikes it, and who likes
it again does not. The same functions serve, validate and evaluate.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def voters(items: Sequence[Hashable], against: Sequence[bool]) -> list[int]:
    """The places of the events that speak for their items: those on items that the user does not dislike now.

    Args:
        items: of the history's events, the last event first.
        against: whether each event speaks against its item.
    """
    latest: dict[Hashable, bool] = {}
    for item, is_against in zip(items, against, strict=True):
        latest.setdefault(item, is_against)
    return [at for at, item in enumerate(items) if not (latest[item] or against[at])]
