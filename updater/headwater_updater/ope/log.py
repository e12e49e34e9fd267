"""The log of a policy: what it showed, with which probability, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from headwater_core.errors import InvalidFieldError
from headwater_updater.ope.predictions import Predictions

ROW = "row"
"""What is drawn in resampling when nothing says which rows belong together."""


class ShownRow(NamedTuple):
    """One shown item."""

    item_id: str
    position: int
    """Its place in the answer, from 1."""
    reward: float
    propensity: float
    """With which probability the policy that served shows the item in that place; above 0, at most 1."""
    cluster: str = ""
    """Rows that share it may depend on each other; "": the row stands alone."""
    context: tuple[str, ...] = ()
    """What was known before the choice, a cell for each context column."""
    target_propensity: float | None = None
    """The same probability under the policy to be evaluated, where the log says it."""
    predicted_reward: float | None = None
    """What a reward model of the caller's expects of this row."""
    predicted_value: float | None = None
    """What that model expects of the policy to be evaluated: its mean over what the policy would show here."""


@dataclass(frozen=True, slots=True)
class BanditLog:
    """The same as arrays, one entry for each of N rows."""

    item_ids: tuple[str, ...]
    """The items that the log holds, each once."""
    items: np.ndarray
    """(N,) int64, places in item_ids."""
    positions: np.ndarray
    """(N,) int64, from 1."""
    rewards: np.ndarray
    """(N,) float64."""
    propensities: np.ndarray
    """(N,) float64, above 0, at most 1."""
    clusters: np.ndarray
    """(N,) int64, from 0: which rows belong together."""
    clustered_by: str
    """What makes rows belong together."""
    context: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By column, (N,) str."""
    target_propensities: np.ndarray | None = None
    """(N,) float64; None when the log does not say them."""
    predictions: Predictions | None = None
    """Of a reward model of the caller's, for the policy of target_propensities; None when there are none."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from and what was left out, for the report."""

    def __len__(self) -> int:
        """How many rows."""
        return len(self.items)

    def at(self, positions: Collection[int]) -> BanditLog:
        """The rows in these places alone.

        Raises:
            InvalidFieldError: there are none.
        """
        kept = np.isin(self.positions, list(positions))
        if not kept.any():
            known = ", ".join(map(str, np.unique(self.positions)[:20].tolist()))
            raise InvalidFieldError("position", f"the log holds nothing there; its places: {known}")
        arrays = {
            each.name: value[kept] for each in fields(self) if isinstance(value := getattr(self, each.name), np.ndarray)
        }
        arrays["clusters"] = np.unique(arrays["clusters"], return_inverse=True)[1]
        predictions = None if self.predictions is None else Predictions(*(part[kept] for part in self.predictions))
        context = {name: cells[kept] for name, cells in self.context.items()}
        return replace(self, **arrays, context=context, predictions=predictions)  # type: ignore[arg-type]


def bandit_log(
    rows: Sequence[ShownRow],
    clustered_by: str = ROW,
    context: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> BanditLog:
    """The rows as arrays.

    Args:
        rows: at least one.
        clustered_by: what their `cluster` is.
        context: the names of their context cells.
        facts: for the report.
    """
    item_ids, items = np.unique([row.item_id for row in rows], return_inverse=True)
    alone = (f"\x00{place}" for place in range(len(rows)))
    clusters = np.unique([row.cluster or next(alone) for row in rows], return_inverse=True)[1]
    targets = predictions = None
    if rows[0].target_propensity is not None:
        targets = np.array([row.target_propensity for row in rows], np.float64)
    if rows[0].predicted_reward is not None and rows[0].predicted_value is not None:
        predictions = Predictions(
            np.array([row.predicted_reward for row in rows], np.float64),
            np.array([row.predicted_value for row in rows], np.float64),
            np.zeros(len(rows)),
        )
    return BanditLog(
        item_ids=tuple(item_ids.tolist()),
        items=items,
        positions=np.array([row.position for row in rows], np.int64),
        rewards=np.array([row.reward for row in rows], np.float64),
        propensities=np.array([row.propensity for row in rows], np.float64),
        clusters=clusters,
        clustered_by=clustered_by,
        context={name: np.array([row.context[place] for row in rows]) for place, name in enumerate(context)},
        target_propensities=targets,
        predictions=predictions,
        facts=facts or {},
    )
