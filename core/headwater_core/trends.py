"""What is popular of late: event weights that fade as further events come in, by row.

The fading runs with the log, not with the clock: after `half_life` further targets an old one counts half. So
imported years and a quiet night change nothing by themselves, and a busy site has a shorter memory in hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headwater_core.co_visits import Indices, Successors
from headwater_core.errors import ArtifactError
from headwater_core.json_reading import parse_json

HALF_LIVES = (100, 1_000, 10_000)
"""In targets; which of them counts is chosen with the blend."""
TRENDING = 1_000
"""How many items a trend names, at most."""
_MAX_TREND_BYTES = 4 * 1024 * 1024
_RESCALE_AT = 1e100
_WEIGHTLESS = 1e-3
"""What has faded to less than this share of one event is no trend."""

_HEAVIEST = float(np.finfo(np.float32).max)

NO_TREND = Successors(np.empty(0, np.int64), np.empty(0, np.float32))


class TrendTable:
    """Faded weights of every row, one column for each half-life; row 0 is no item.

    Attributes:
        weights: (n + 1, len(HALF_LIVES)) float64, in units of one event that just happened once divided by `scale`.
        scale: (len(HALF_LIVES),) float64; growing it fades all at once.
    """

    def __init__(self) -> None:
        """A table without items."""
        self.weights = np.zeros((1, len(HALF_LIVES)))
        self.scale = np.ones(len(HALF_LIVES))
        self._growth = 2.0 ** (1.0 / np.array(HALF_LIVES))

    def grow(self, n: int) -> None:
        """Append n items that nothing happened to yet."""
        self.weights = np.concatenate([self.weights, np.zeros((n, len(HALF_LIVES)))])

    def add(self, rows: Indices) -> bool:
        """Count one event on each of these rows, in the order in which they happened.

        Returns:
            Whether the numbers of all rows are others now, though they mean the same.
        """
        rescaled = False
        for start in range(0, len(rows), HALF_LIVES[0]):
            part = rows[start : start + HALF_LIVES[0]]
            scales = self.scale * self._growth ** np.arange(1, len(part) + 1)[:, None]  # (p, H)
            np.add.at(self.weights, part, scales)
            self.scale = scales[-1]
            if self.scale.max() > _RESCALE_AT:
                self.weights /= self.scale
                self.scale = np.ones(len(HALF_LIVES))
                rescaled = True
        return rescaled

    def faded(self, half_life: int) -> npt.NDArray[np.float64]:
        """(n + 1,), each row's events, faded until now. Args: half_life: one of HALF_LIVES."""
        column = HALF_LIVES.index(half_life)
        weights: npt.NDArray[np.float64] = self.weights[:, column] / self.scale[column]
        return weights

    def trend(self, half_life: int, present: npt.NDArray[np.bool_] | None = None) -> Successors:
        """The items with the highest weights, as votes: different rows, ascending, and their weights.

        Args:
            half_life: one of HALF_LIVES.
            present: (n + 1,), which rows can be candidates; None: all.
        """
        weights = self.faded(half_life)
        if present is not None:
            weights = np.where(present, weights, 0.0)
        rows = np.flatnonzero(weights > _WEIGHTLESS)
        if len(rows) > TRENDING:
            rows = np.sort(rows[np.argsort(-weights[rows], kind="stable")[:TRENDING]])
        return Successors(rows, weights[rows].astype(np.float32))


def save_trend(item_ids: Sequence[str], weights: Sequence[float]) -> bytes:
    """A trend as a file of a generation."""
    return json.dumps({"item_ids": list(item_ids), "weights": list(weights)}, separators=(",", ":")).encode()


def load_trend(path: Path, row: Callable[[str], int | None]) -> Successors:
    """The trend that `save_trend` wrote, by row; items without one are left out.

    Raises:
        ArtifactError: when the file is no trend.
    """
    try:
        if path.stat().st_size > _MAX_TREND_BYTES:
            raise ValueError(f"is over {_MAX_TREND_BYTES} bytes")
        content = parse_json(path.read_bytes())
        item_ids, weights = content["item_ids"], [float(weight) for weight in content["weights"]]
        if len(item_ids) != len(weights) or len(set(item_ids)) != len(item_ids) or len(item_ids) > TRENDING:
            raise ValueError("item_ids and weights do not belong together")
        if not all(isinstance(item_id, str) for item_id in item_ids):
            raise ValueError("item_ids holds what is no id")
        if not all(0 < weight <= _HEAVIEST for weight in weights):
            raise ValueError("weights holds what is no weight")
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtifactError("load", str(path), f"{type(error).__name__}: {error}") from error
    found = sorted(
        (at, weight) for item_id, weight in zip(item_ids, weights, strict=True) if (at := row(item_id)) is not None
    )
    rows = np.fromiter((at for at, _ in found), np.int64, len(found))
    return Successors(rows, np.fromiter((weight for _, weight in found), np.float32, len(found)))
