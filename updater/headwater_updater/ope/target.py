"""The policy to be evaluated: with which probability it shows what the log shows, and what else it would show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headwater_core.errors import InvalidFieldError
from headwater_core.events import check_id
from headwater_updater.evaluation.csv_rows import DataFileError, read_rows
from headwater_updater.ope.cells import to_place, to_probability
from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.predictions import Predictions

LOGGED = "logged"
UNIFORM = "uniform"
COLUMN = "column"
_SUM_TOLERANCE = 1e-3


class Distribution(NamedTuple):
    """What a policy shows, for each of N rows of a log with A items."""

    table: np.ndarray
    """(K, A) float64: probabilities of the log's items; what is missing to 1 goes to items that the log never shows."""
    rows: np.ndarray
    """(N,) int64: which of the K is a row's."""


@dataclass(frozen=True, slots=True)
class Target:
    """A policy, as far as a log of N rows lets it be known."""

    name: str
    propensities: np.ndarray
    """(N,) float64: with which probability it shows the row's item in the row's place."""
    distribution: Distribution | None = None
    """All that it would show; None when only the propensities are known."""
    predictions: Predictions | None = None
    """Of a reward model of the caller's, for this policy; None when there are none."""


def logged(log: BanditLog) -> Target:
    """The policy that served."""
    return Target(LOGGED, log.propensities)


def uniform(log: BanditLog, candidates: Sequence[str] | None = None) -> Target:
    """Every item with the same probability in every place.

    Args:
        log: what was shown.
        candidates: the items; None: those that the log holds, in any place.
    """
    among = np.isin(log.item_ids, candidates) if candidates is not None else np.ones(len(log.item_ids), bool)
    n_candidates = len(log.item_ids) if candidates is None else len(candidates)
    return _of_table(UNIFORM, log, Distribution(among[None] / n_candidates, np.zeros(len(log), np.int64)))


def from_column(log: BanditLog) -> Target:
    """The policy whose propensities, and predictions if any, the log holds beside its own.

    Raises:
        InvalidFieldError: it holds none.
    """
    if log.target_propensities is None:
        raise InvalidFieldError("policy", "the log has no column target_propensity")
    return Target(COLUMN, log.target_propensities, predictions=log.predictions)


def from_file(path: Path, log: BanditLog) -> Target:
    """The policy that a CSV file states: `item_id,target_propensity` and, where places differ, `position`.

    An item that the file does not name is not shown. In each place probabilities add up to 1, within 0.001.

    Raises:
        DataFileError: the file cannot be used, or says nothing of a place that the log holds.
    """
    rows = read_rows(path, ("item_id", "target_propensity"), _entry, max_bad_rows=0)
    by_place: dict[int | None, dict[str, float]] = {}
    for position, item_id, probability in rows.values:
        place = by_place.setdefault(position, {})
        if item_id in place:
            raise DataFileError(path, f"names item {item_id!r} twice{_in(position)}")
        place[item_id] = probability
    for position, place in by_place.items():
        if abs(sum(place.values()) - 1) > _SUM_TOLERANCE:
            raise DataFileError(path, f"probabilities add up to {sum(place.values()):.6g}{_in(position)}, not to 1")
    places: list[int | None] = list(np.unique(log.positions).tolist()) if "position" in rows.columns else [None]
    missing = [str(position) for position in places if position not in by_place]
    if missing:
        raise DataFileError(path, f"says nothing of position {', '.join(missing)}, which the log holds")
    table = np.array([[by_place[position].get(item_id, 0.0) for item_id in log.item_ids] for position in places])
    row = np.searchsorted(np.unique(log.positions), log.positions) if len(places) > 1 else np.zeros(len(log), np.int64)
    return _of_table(path.name, log, Distribution(table, row))


def _of_table(name: str, log: BanditLog, distribution: Distribution) -> Target:
    return Target(name, distribution.table[distribution.rows, log.items], distribution)


def _in(position: int | None) -> str:
    return "" if position is None else f" in position {position}"


def _entry(_line: int, fields: Mapping[str, str]) -> tuple[int | None, str, float]:
    """Raises: ValueError or InvalidFieldError when a cell cannot be used."""
    check_id("item_id", fields["item_id"], required=True)
    return (
        to_place("position", fields["position"]) if "position" in fields else None,
        fields["item_id"],
        to_probability("target_propensity", fields["target_propensity"]),
    )
